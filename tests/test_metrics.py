"""What is logged about a hand-made tree, and the warnings."""

import logging

import pytest
import torch

from advantage import sibling_advantages, step_rewards
from metrics import Watch, summarise, tree_statistics
from tree import Tree


def test_statistics_of_a_tree_by_hand():
    # root -> 1 (ended, 2 tokens), 2 (3 tokens) -> 3 (1 token, right), 4 (4 tokens, ended, wrong)
    tokens = [[], [5, 0], [5, 6, 7], [8], [9, 9, 9, 0]]
    tree = Tree(
        [3],
        [-1, 0, 0, 2, 2],
        [0, 1, 1, 2, 2],
        tokens,
        [[-1.0] * len(t) for t in tokens],
        [0, 1, 0, 0, 1],
    )
    leaf_rewards = torch.tensor([torch.nan, 0.0, torch.nan, 1.0, 0.0])
    rewards = step_rewards(tree.parent, leaf_rewards)
    row = summarise([tree_statistics(tree, rewards, sibling_advantages(rewards, tree.parent))])
    assert row["reward"] == 0.25 and row["leaf_pass_rate"] == pytest.approx(1 / 3)
    assert row["completion_length"] == pytest.approx((2 + 4 + 7) / 3) and row[
        "unfinished_share"
    ] == pytest.approx(1 / 3)
    assert row["step_reward_depth_1"] == 0.25 and row["step_reward_depth_2"] == 0.5
    assert row["group_std_depth_1"] == 0.25 and row["group_std_depth_2"] == 0.5
    assert (row["kept_groups_share"], row["entropy"], row["leaves"], row["sampled_tokens"]) == (
        1.0,
        1.0,
        3,
        10,
    )


def test_warnings_come_once_and_in_time(caplog):
    watch = Watch(pruned_limit=3)
    with caplog.at_level(logging.WARNING):
        for trained in (0, 0, 9, 0, 0):  # never three in a row
            watch.look_at({"trained_tokens": trained, "logprob_difference_mean": 0.01})
        assert not caplog.records
        for _ in range(4):
            watch.look_at({"trained_tokens": 0, "logprob_difference_mean": 0.2})
    said = [record.getMessage() for record in caplog.records]
    assert (
        len(said) == 2
        and any("no group with signal" in s for s in said)
        and any("differ by 0.200" in s for s in said)
    )
