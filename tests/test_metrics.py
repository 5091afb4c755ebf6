"""What is logged about a hand-made tree, and the warnings."""

import logging
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import random_tree

from advantage import sibling_advantages, step_rewards
from metrics import Watch, sampling_counts, summarise, token_count, tree_statistics
from run.session import Session
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
    assert (row["kept_groups_share"], row["entropy"], row["leaves"]) == (1.0, 1.0, 3)
    assert row["all_right_share"] == row["all_wrong_share"] == 0
    assert token_count(tree) == 10


def test_what_was_replaced_was_sampled_too():
    counts = {"sampled_tokens": 60, "replaced_trees": 2, "replaced_tokens": 30}
    assert sampling_counts(trained=[10, 20], replaced=[5, 25]) == counts
    nothing = {"sampled_tokens": 30, "replaced_trees": 0, "replaced_tokens": 0}
    assert sampling_counts(trained=[10, 20], replaced=[]) == nothing


NAN = math.nan


@pytest.mark.parametrize(
    "leaves, right, wrong",
    [
        ([1, 1, 1], 1, 0),
        ([0, 0, 0], 0, 1),
        ([0, 1, 1], 0, 0),
        ([0.5, 0.5, 0.5], 0, 0),
        ([0.9, 1, 1], 0, 0),
        ([NAN, 1, 1], 1, 0),
        ([NAN, NAN, 0], 0, 1),
        ([NAN, 0, 1], 0, 0),
        ([NAN, NAN, NAN], 0, 0),
    ],
)
def test_all_right_and_all_wrong(leaves, right, wrong):
    """Of the leaves that have a score; where none has one, the prompt is neither."""
    tokens = [[]] + [[5]] * 3
    tree = Tree([3], [-1, 0, 0, 0], [0, 1, 1, 1], tokens, tokens, [False] * 4)
    rewards = torch.tensor([sum(leaves) / 3, *leaves])
    row = summarise([tree_statistics(tree, rewards, torch.zeros(4))])
    assert (row["all_right_share"], row["all_wrong_share"], row["leaves"]) == (right, wrong, 3)


def test_means_leave_out_what_has_no_score():
    """Random trees, some of whose nodes have no reward, against sums over nodes."""
    rng = np.random.default_rng(0)
    trees = [random_tree(rng, 12) for _ in range(5)]
    all_rewards = []
    for _ in trees:
        rewards = rng.integers(0, 3, 12) / 2
        rewards[rng.random(12) < 0.4] = NAN
        all_rewards.append(torch.from_numpy(rewards))
    assert all_rewards[0][0].isnan() or any(rewards[0].isnan() for rewards in all_rewards)
    row = summarise(
        [tree_statistics(*pair, torch.zeros(12)) for pair in zip(trees, all_rewards, strict=True)]
    )
    nodes = [
        (depth, node in tree.leaves(), reward)
        for tree, rewards in zip(trees, all_rewards, strict=True)
        for node, (depth, reward) in enumerate(
            zip(tree.depth.tolist(), rewards.tolist(), strict=True)
        )
    ]

    def mean(wanted):
        values = [node[2] for node in nodes if wanted(node) and not math.isnan(node[2])]
        return pytest.approx(sum(values) / len(values))

    assert row["leaf_pass_rate"] == mean(lambda node: node[1])
    assert row["reward"] == mean(lambda node: node[0] == 0)
    assert row["step_reward_depth_2"] == mean(lambda node: node[0] == 2)
    assert row["leaves"] == sum(node[1] for node in nodes)


def test_an_update_without_any_score_has_no_figures_and_is_shown():
    tree = random_tree(np.random.default_rng(1), 6)
    row = summarise([tree_statistics(tree, torch.full((6,), NAN), torch.zeros(6))])
    for name in ("reward", "leaf_pass_rate", "step_reward_depth_1", "group_std_depth_1"):
        assert row[name] is None
    session = Session.__new__(Session)
    session.flags = SimpleNamespace(refill_zero_signal=3)
    shown = session._shown_figures({**row, **sampling_counts([8], [7, 7])})
    assert shown["replaced"] == "2" and "reward" not in shown
    session.flags = SimpleNamespace(refill_zero_signal=0)
    shown = session._shown_figures({**row, "reward": 0.25})
    assert shown["reward"] == "0.250" and "replaced" not in shown


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


def sampled_tree(rng, rates_of_steps: list[float]) -> tuple[Tree, torch.Tensor]:
    """A tree of shape 3-3 whose leaf is right with a rate that its first step drew, and its step
    rewards."""
    parent = [-1, 0, 0, 0]
    depth = [0, 1, 1, 1]
    leaf_rewards = [math.nan] * 4
    for step in (1, 2, 3):
        rate = rng.choice(rates_of_steps)
        for _ in range(3):
            parent.append(step)
            depth.append(2)
            leaf_rewards.append(float(rng.random() < rate))
    tokens = [[], *[[7]] * (len(parent) - 1)]
    logprobs = [[-1.0] * len(ids) for ids in tokens]
    tree = Tree([3], parent, depth, tokens, logprobs, [node > 3 for node in range(len(parent))])
    return tree, step_rewards(tree.parent, torch.tensor(leaf_rewards))


def correlation_figures(trees: list) -> dict:
    rows = [
        tree_statistics(tree, rewards, sibling_advantages(rewards, tree.parent))
        for tree, rewards in trees
    ]
    return summarise(rows)


@pytest.mark.parametrize("rates, rho", [([0.0, 1.0], 1.0), ([0.5], 0.0), ([0.25, 0.75], 0.25)])
def test_rho_is_the_correlation_of_leaves_that_share_a_step(rates, rho):
    rng = np.random.default_rng(0)
    row = correlation_figures([sampled_tree(rng, rates) for _ in range(1500)])
    assert row["rho_depth_1"] == pytest.approx(rho, abs=0.03)
    # 9 leaves, each with 2 others below its step: the variance of their mean is that of 9 / (1 +
    # 2 rho) leaves.
    assert row["effective_leaves"] == pytest.approx(9 / (1 + 2 * rho), rel=0.05)
    assert not any(name.startswith("leaf_pairs") for name in row)


def test_rho_by_the_definition():
    """Over all ordered pairs of leaves, by the depth at which their paths part."""
    rng = np.random.default_rng(1)
    trees = []
    for _ in range(20):
        tree = random_tree(rng, 12)
        leaf_rewards = torch.tensor(rng.integers(0, 2, len(tree.parent)).astype(float))
        # One leaf in ten has no score.
        leaf_rewards[torch.tensor(rng.random(len(tree.parent)) < 0.1)] = math.nan
        trees.append((tree, step_rewards(tree.parent, leaf_rewards)))
    products: dict[int, list[float]] = {}
    squares = []
    for tree, rewards in trees:
        for one in tree.leaves():
            squares.append(rewards[one].item() ** 2)
            for other in set(tree.leaves()) - {one}:
                shared = len(set(tree.path(one)) & set(tree.path(other)))
                product = (rewards[one] * rewards[other]).item()
                products.setdefault(shared, []).append(product)
    mean = {shared: np.nanmean(values) for shared, values in products.items()}
    variance = np.nanmean(squares) - mean[0]
    row = correlation_figures(trees)
    for shared in set(mean) - {0}:
        assert row[f"rho_depth_{shared}"] == pytest.approx((mean[shared] - mean[0]) / variance)


def test_without_different_rewards_there_is_no_correlation():
    rng = np.random.default_rng(0)
    row = correlation_figures([sampled_tree(rng, [1.0]) for _ in range(3)])
    assert row["rho_depth_1"] is None and row["effective_leaves"] is None
