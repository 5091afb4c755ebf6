"""Step rewards and advantages on hand-worked trees, and against slow versions written from the
definitions."""

import itertools
import math

import numpy as np
import pytest
import torch

from advantage import (
    ESTIMATORS,
    SCALES,
    default_scale,
    group_range,
    group_statistics,
    leaf_advantages,
    path_share_advantages,
    sibling_advantages,
    step_rewards,
    tree_grpo_advantages,
    treerl_advantages,
    with_only_children,
)

NAN = math.nan
# root 0 -> 1, 2, 3; 1 -> 4, 5; 4 -> 6, 7. Leaves: 2, 3, 5, 6, 7.
PARENT = torch.tensor([-1, 0, 0, 0, 1, 1, 4, 4])
LEAVES = torch.tensor([NAN, NAN, 0.0, 1.0, NAN, 0.0, 1.0, 1.0])
REWARDS = [0.5, 0.5, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0]


def test_step_rewards_by_hand():
    rewards = step_rewards(PARENT, LEAVES)
    assert rewards.tolist() == REWARDS and rewards.dtype == torch.float32
    assert step_rewards(torch.tensor([-1]), torch.tensor([1.0])).tolist() == [1.0]
    # The mean is over children, not over leaves: a leaf that ended early counts as much as a wide
    # subtree.
    assert (
        step_rewards(torch.tensor([-1, 0, 0, 1, 1]), torch.tensor([NAN, NAN, 1.0, 0.0, 0.0]))[0]
        == 0.5
    )


def test_sibling_advantages_by_hand():
    rewards = torch.tensor(REWARDS, dtype=torch.double)
    # group of the root: {0.5, 0, 1}, mu 0.5; of 1: {1, 0}, mu 0.5; of 4: {1, 1}, no range, pruned
    variance = [0, 0, -2, 2, 2, -2, 0, 0]
    assert sibling_advantages(rewards, PARENT).tolist() == pytest.approx(variance)
    deviation = [0, 0, -1, 1, 1, -1, 0, 0]
    assert sibling_advantages(rewards, PARENT, "deviation").tolist() == pytest.approx(deviation)
    spread = math.sqrt(0.5 / 3)
    group = [0, 0, -0.5 / spread, 0.5 / spread, 1, -1, 0, 0]
    assert sibling_advantages(rewards, PARENT, "group").tolist() == pytest.approx(group)
    assert sibling_advantages(rewards, PARENT, "none").tolist() == pytest.approx(
        [0, 0, -0.5, 0.5, 0.5, -0.5, 0, 0]
    )


@pytest.mark.parametrize("right, size", [(1, 8), (4, 8), (7, 8), (1, 3), (2, 3), (1, 2)])
def test_the_papers_scale_of_zero_one_rewards(right, size):
    """Equation 4: +1 / mu for a right sibling, -1 / (1 - mu) for a wrong one."""
    rewards = torch.tensor(
        [right / size] + [1.0] * right + [0.0] * (size - right), dtype=torch.double
    )
    advantages = sibling_advantages(rewards, torch.tensor([-1] + [0] * size))
    mu = right / size
    assert advantages[1 : right + 1].tolist() == pytest.approx([1 / mu] * right)
    assert advantages[right + 1 :].tolist() == pytest.approx([-1 / (1 - mu)] * (size - right))
    if (right, size) == (1, 8):
        assert advantages[1] == pytest.approx(8)
    if mu == 0.5:
        assert advantages.abs()[1:].tolist() == pytest.approx([2] * size)


# Figure 2 of the paper: N = 3, D = 4. Each node with its children; a leaf is its reward.
FIGURE_2 = [
    [[[0, 0, 1], 0, 0], 0, 0],  # 0.037 = (0.111 + 0 + 0) / 3, 0.111 = (0.333 + 0 + 0) / 3
    [0, [[0, 0, 0], [0, 0, 0], 1], 1],  # 0.444 = (0 + 0.333 + 1) / 3
    [1, 1, [0, [0, 1, 1], 1]],  # 0.852 = (1 + 1 + 0.556) / 3, 0.556 = (0 + 0.667 + 1) / 3
]


def flattened(children, parent=-1, parents=None, rewards=None):
    """Parents and leaf rewards of a tree of nested lists, in depth-first order."""
    parents, rewards = ([], []) if parents is None else (parents, rewards)
    node = len(parents)
    parents.append(parent)
    rewards.append(NAN if isinstance(children, list) else float(children))
    for child in children if isinstance(children, list) else ():
        flattened(child, node, parents, rewards)
    return parents, rewards


def test_figure_2_of_the_paper():
    parents, leaf_rewards = flattened(FIGURE_2)
    parent = torch.tensor(parents)
    rewards = step_rewards(parent, torch.tensor(leaf_rewards, dtype=torch.double))
    first = [node for node, above in enumerate(parents) if above == 0]
    assert rewards[first].tolist() == pytest.approx([0.037, 0.444, 0.852], abs=5e-4)
    inner = {round(rewards[i].item(), 3) for i in set(parents) - {-1, 0}}
    assert {0.111, 0.333, 0.556, 0.667} <= inner
    # The group under the root: mu = 4/9, sigma = mu (1 - mu) = 20/81.
    advantages = sibling_advantages(rewards, parent, prune_threshold=0.1)[first].tolist()
    assert advantages == pytest.approx([(r - 4 / 9) * 81 / 20 for r in (1 / 27, 4 / 9, 23 / 27)])


def test_pruning_is_by_range():
    """Equations 1 and 2: a group is kept if and only if max R - min R > tau."""
    rewards = torch.tensor(REWARDS, dtype=torch.double)  # the ranges are 1, 1 and 0
    assert sibling_advantages(rewards, PARENT, prune_threshold=0.999).count_nonzero() == 4
    assert not sibling_advantages(rewards, PARENT, prune_threshold=1.0).any()
    # One of eight off by 0.2: the standard deviation is 0.066, the range 0.2.
    odd, parent = torch.tensor([0.525, *[0.5] * 7, 0.7]), torch.tensor([-1] + [0] * 8)
    for scale in SCALES:
        assert sibling_advantages(odd, parent, scale, prune_threshold=0.1)[1:].all()
        assert not sibling_advantages(odd, parent, scale, prune_threshold=0.2).any()
        assert not sibling_advantages(odd, parent, scale, prune_threshold=0.3).any()


def test_range_of_groups():
    assert group_range(torch.tensor(REWARDS), PARENT).tolist() == [1, 1, 0, 0, 0, 0, 0, 0]
    negative = group_range(torch.tensor([0.0, -3.0, -1.0, -2.0]), torch.tensor([-1, 0, 0, 0]))
    assert negative.tolist() == [2, 0, 0, 0]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("seed", range(3))
def test_every_group_sums_to_zero(scale, seed):
    parent, leaves = random_case(seed)
    rewards = step_rewards(torch.tensor(parent), torch.tensor(leaves, dtype=torch.double))
    advantages = sibling_advantages(rewards, torch.tensor(parent), scale, 0.1)
    sums = torch.zeros(40, dtype=torch.double).index_add_(
        0, torch.tensor(parent[1:]), advantages[1:]
    )
    assert sums.abs().max() < 1e-9 and advantages.abs().max() > 0.1


def test_small_spreads_are_not_blown_up():
    """Section 3.3: [.49, .51] is not [0, 1], though the group's own deviation makes them alike."""
    small, parent = torch.tensor([0.5, 0.49, 0.51]), torch.tensor([-1, 0, 0])
    whole = torch.tensor([0.5, 0.0, 1.0])
    for scale, expected in (
        ("group", 1.0),
        ("variance", 0.04),
        ("deviation", 0.02),
        ("none", 0.01),
    ):
        assert sibling_advantages(small, parent, scale).tolist() == pytest.approx(
            [0, -expected, expected], abs=1e-4
        )
    assert sibling_advantages(whole, parent, "group").tolist() == pytest.approx([0, -1, 1])
    assert sibling_advantages(whole, parent, "variance").tolist() == pytest.approx([0, -2, 2])


def random_case(seed):
    rng = np.random.default_rng(seed)
    parent = [-1] + [int(rng.integers(max(0, i - 6), i)) for i in range(1, 40)]
    leaves = [float(rng.integers(0, 2)) if i not in parent else NAN for i in range(40)]
    return parent, leaves


@pytest.mark.parametrize("seed", range(5))
def test_against_slow_versions(seed):
    parent, leaves = random_case(seed)
    children = [[i for i in range(40) if parent[i] == node] for node in range(40)]

    def reward(node):
        if not children[node]:
            return leaves[node]
        return np.mean([reward(child) for child in children[node]])

    rewards = step_rewards(torch.tensor(parent), torch.tensor(leaves, dtype=torch.double))
    assert rewards.tolist() == pytest.approx([reward(i) for i in range(40)])
    for scale in SCALES:
        for threshold in (0.0, 0.4):
            expected = [0.0]
            for node in range(1, 40):
                group = [reward(child) for child in children[parent[node]]]
                mu = np.mean(group)
                if max(group) - min(group) <= threshold + 1e-9:
                    expected.append(0.0)
                    continue
                variance = mu * (1 - mu)
                sigmas = {
                    "variance": variance,
                    "deviation": math.sqrt(variance),
                    "group": np.std(group),
                    "none": 1.0,
                }
                expected.append((reward(node) - mu) / sigmas[scale])
            advantages = sibling_advantages(rewards, torch.tensor(parent), scale, threshold)
            assert advantages.tolist() == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(5))
def test_leaf_advantages_against_a_slow_version(seed):
    parent, leaves = random_case(seed)
    ends = [i for i in range(40) if i not in parent]
    values = [leaves[i] for i in ends]
    expected = []
    for node in range(40):
        through = [e for e in ends if node in ancestry(parent, e)]
        mean = np.mean([leaves[e] for e in through])
        expected.append((mean - np.mean(values)) / np.std(values) if node else 0.0)
    rewards = step_rewards(torch.tensor(parent), torch.tensor(leaves, dtype=torch.double))
    assert leaf_advantages(rewards, torch.tensor(parent)).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(3))
def test_tree_grpo_against_a_slow_version(seed):
    parent, leaves = random_case(seed)
    ends = [i for i in range(40) if i not in parent]

    def among(end, others):
        values = [leaves[e] for e in others]
        return (leaves[end] - np.mean(values)) / np.std(values) if np.std(values) > 1e-9 else 0.0

    def both(end):
        tree = [e for e in ends if ancestry(parent, e)[-2] == ancestry(parent, end)[-2]]
        return among(end, tree) + among(end, ends)

    expected = [
        np.mean([both(e) for e in ends if node in ancestry(parent, e)]) for node in range(1, 40)
    ]
    rewards = step_rewards(torch.tensor(parent), torch.tensor(leaves, dtype=torch.double))
    assert tree_grpo_advantages(rewards, torch.tensor(parent)).tolist() == pytest.approx(
        [0.0, *expected]
    )


def test_treerl_by_hand():
    # over the root 0, -.5, .5, .5, -.5, .5, .5; over the parent 0, -.5, .5, .5, -.5, 0, 0; leaves
    # 3, 1, 1, 2, 1, 1, 1
    advantages = treerl_advantages(torch.tensor(REWARDS), PARENT)
    assert advantages.tolist() == pytest.approx([0, 0, -1, 1, 1 / math.sqrt(2), -1, 0.5, 0.5])


def ancestry(parent, node):
    return [node, *ancestry(parent, parent[node])] if node > 0 else [0]


def test_depth_one_with_group_scale_is_grpo():
    rewards = np.array([1.0, 0, 0, 1, 0, 0, 0, 0])
    grpo = (rewards - rewards.mean()) / rewards.std()
    parent = torch.tensor([-1] + [0] * 8)
    steps = step_rewards(parent, torch.tensor([NAN, *rewards]))
    for estimate in (sibling_advantages(steps, parent, "group"), leaf_advantages(steps, parent)):
        assert estimate.tolist() == pytest.approx([0.0, *grpo])


def test_group_statistics():
    size, mean, deviation = group_statistics(torch.tensor(REWARDS), PARENT)
    assert size.tolist() == [3, 2, 0, 0, 2, 0, 0, 0]
    assert mean.tolist() == pytest.approx([0.5, 0.5, 0, 0, 1, 0, 0, 0])
    assert deviation.tolist() == pytest.approx([math.sqrt(0.5 / 3), 0.5, 0, 0, 0, 0, 0, 0])


def test_rounding_is_not_signal():
    third = torch.tensor([0.0, 1 / 3, (0.1 + 0.2 + 0.7) / 3])
    assert not sibling_advantages(third.double(), torch.tensor([-1, 0, 0]), "group").any()
    # Nor are the last bits of large rewards.
    large = torch.tensor([0.0, 3e6, 3e6 + 0.25])
    assert not sibling_advantages(large, torch.tensor([-1, 0, 0]), "group").any()
    small = torch.tensor([0.0, 0.0, 0.25])
    assert sibling_advantages(small, torch.tensor([-1, 0, 0]), "group")[1:].all()


# --- Leaves without a score ---


def test_leaves_without_a_score_by_hand():
    # PARENT with leaf 5 unscored: node 1 has the mean of node 4 alone. Then leaf 2 as well.
    leaves = torch.tensor([NAN, NAN, 0.0, 1.0, NAN, NAN, 1.0, 0.0])
    rewards = step_rewards(PARENT, leaves)
    assert torch.equal(rewards.isnan(), torch.arange(8) == 5)
    assert rewards.nan_to_num(-1).tolist() == [0.5, 0.5, 0, 1, 0.5, -1, 1, 0]
    # Node 4 has no scored sibling left, so its group has no signal.
    assert sibling_advantages(rewards, PARENT).tolist() == pytest.approx([0, 0, -2, 2, 0, 0, 2, -2])
    leaves[2] = NAN
    rewards = step_rewards(PARENT, leaves)
    assert rewards[0] == 0.75
    expected = [0, -4 / 3, 0, 4 / 3, 0, 0, 2, -2]
    assert sibling_advantages(rewards, PARENT).tolist() == pytest.approx(expected)


def test_a_node_without_a_scored_leaf_has_no_reward():
    unscored = torch.tensor([NAN, NAN, 0.0, 1.0, NAN, NAN, NAN, NAN])
    rewards = step_rewards(PARENT, unscored)
    assert rewards.isnan().nonzero().flatten().tolist() == [1, 4, 5, 6, 7]
    assert rewards[0] == 0.5
    size, mean, deviation = group_statistics(rewards, PARENT)
    assert size.tolist() == [3, 2, 0, 0, 2, 0, 0, 0]
    assert mean[0] == deviation[0] == 0.5
    assert mean[[1, 4]].isnan().all() and deviation[[1, 4]].isnan().all()
    assert group_range(rewards, PARENT).tolist() == [1, 0, 0, 0, 0, 0, 0, 0]


def without_unscored(parent, rewards):
    """The tree as if what has no reward had not been sampled; and which nodes remain."""
    remaining = [node for node in range(len(parent)) if not math.isnan(rewards[node])]
    place = {node: index for index, node in enumerate(remaining)}
    return torch.tensor([place.get(parent[node], -1) for node in remaining]), remaining


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_leaf_without_a_score_is_as_if_it_had_not_been_sampled(name, seed):
    parent, leaves = random_case(seed)
    rng = np.random.default_rng([seed, 1])
    # Graded, so that no two scales are alike; and a share of them without a score.
    missing = (0.1, 0.3, 0.6, 0.9)[seed % 4]
    leaves = [NAN if rng.random() < missing else leaf * rng.random() for leaf in leaves]
    leaf_rewards = torch.tensor(leaves, dtype=torch.double)
    rewards = step_rewards(torch.tensor(parent), leaf_rewards)
    small_parent, remaining = without_unscored(parent, rewards.tolist())
    small_rewards = step_rewards(small_parent, leaf_rewards[remaining])
    torch.testing.assert_close(small_rewards, rewards[remaining])
    for scale in SCALES:
        for threshold in (0.0, 0.2):
            settings = scale, threshold
            advantages = ESTIMATORS[name](rewards, torch.tensor(parent), *settings)
            expected = torch.zeros(40, dtype=torch.double)
            expected[remaining] = ESTIMATORS[name](small_rewards, small_parent, *settings)
            torch.testing.assert_close(advantages, expected)
            assert not with_only_children(advantages, torch.tensor(parent))[rewards.isnan()].any()


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_tree_without_any_score_has_no_advantage(name, scale):
    rewards = step_rewards(PARENT, torch.full((8,), NAN))
    assert rewards.isnan().all()
    assert not ESTIMATORS[name](rewards, PARENT, scale).any()


@pytest.mark.parametrize("name", ESTIMATORS)
def test_rewards_of_any_size_have_advantages_without_a_bounded_scale(name):
    """With scale "none" they move and grow with the rewards, with "group" they do not change."""
    rewards = step_rewards(PARENT, LEAVES.double())
    for scale, factor in (("none", 50), ("group", 1)):
        if name == "treerl" and scale == "group":
            continue  # its global term has no scale
        expected = factor * ESTIMATORS[name](rewards, PARENT, scale)
        moved = ESTIMATORS[name](50 * rewards - 20, PARENT, scale)
        torch.testing.assert_close(moved, expected)


def test_bad_trees_and_settings_are_refused():
    with pytest.raises(ValueError, match="smaller index"):
        step_rewards(torch.tensor([-1, 2, 0]), torch.tensor([0.0, 1.0, 1.0]))
    with pytest.raises(ValueError, match="scale"):
        sibling_advantages(torch.tensor([0.5, 0, 1]), torch.tensor([-1, 0, 0]), "std")
    for scale in ("variance", "deviation"):
        with pytest.raises(ValueError, match=r"\[0, 1\]"):
            sibling_advantages(torch.tensor([0.5, -1, 2]), torch.tensor([-1, 0, 0]), scale)


def test_each_estimator_has_the_scale_of_its_source():
    # Rewards between 0 and 1, so that no two scales are alike.
    rewards = step_rewards(PARENT, torch.tensor([NAN, NAN, 0.1, 0.9, NAN, 0.2, 0.8, 0.6]))
    sources = dict(
        treerpo="variance", path_share="none", outcome="group", tree_grpo="group", treerl="none"
    )
    assert sources.keys() == ESTIMATORS.keys()
    for name, source in sources.items():
        assert default_scale(name) == source
        for scale in SCALES:
            same = torch.allclose(
                ESTIMATORS[name](rewards, PARENT), ESTIMATORS[name](rewards, PARENT, scale)
            )
            assert same == (scale == source)


def test_only_children_continue_with_their_parents_advantage():
    # root 0 -> 1, 2; 1 -> 3 -> 4; 2 -> 5, 6. The nodes 3 and 4 have no siblings.
    parent = torch.tensor([-1, 0, 0, 1, 3, 2, 2])
    advantages = with_only_children(torch.tensor([0.0, 0.7, -0.7, 0.0, 0.0, 0.2, -0.2]), parent)
    assert advantages.tolist() == pytest.approx([0.0, 0.7, -0.7, 0.7, 0.7, 0.2, -0.2])
    # Where credit comes from leaves they have it already.
    rewards = step_rewards(parent, torch.tensor([NAN, NAN, NAN, NAN, 1.0, 0.0, 1.0]))
    assert with_only_children(leaf_advantages(rewards, parent), parent).equal(
        leaf_advantages(rewards, parent)
    )


@pytest.mark.parametrize("inherits", [True, False])
def test_only_children_make_a_narrow_tree_unbiased(inherits):
    def estimate(rewards, parent):
        advantages = path_share_advantages(rewards, parent)
        return with_only_children(advantages, parent) if inherits else advantages

    estimated, exact = expected_gradient(estimate, width=1)
    assert torch.allclose(estimated[0], exact[0])
    expected = exact[1] if inherits else torch.zeros(2, 2, dtype=torch.double)
    assert torch.allclose(estimated[1], expected)


def expected_gradient(estimator, width=2):
    """The gradient that an estimator gives on average, over every tree of two binary steps, two
    first ones with `width` children each, beside the exact gradient of the expected reward."""
    first = torch.tensor([0.3, -0.4], dtype=torch.double, requires_grad=True)
    second = torch.tensor([[0.1, 0.5], [-0.7, 0.2]], dtype=torch.double, requires_grad=True)
    reward = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    logp, logq = first.log_softmax(0), second.log_softmax(1)
    exact = (logp.exp()[:, None] * logq.exp() * reward).sum()
    surrogate, parent = 0.0, torch.tensor([-1, 0, 0, *[1] * width, *[2] * width])
    for a1, a2, *b in itertools.product((0, 1), repeat=2 + 2 * width):
        pairs = list(zip([a1] * width + [a2] * width, b))
        steps = [logp[a1], logp[a2], *(logq[pair] for pair in pairs)]
        leaves = [NAN] * 3 + [float(reward[pair]) for pair in pairs]
        advantages = estimator(
            step_rewards(parent, torch.tensor(leaves, dtype=torch.double)), parent
        )
        probability = sum(steps).exp().detach()
        surrogate = surrogate + probability * sum(
            a * step for a, step in zip(advantages[1:], steps)
        )
    return [
        torch.autograd.grad(value, (first, second), retain_graph=True)
        for value in (surrogate, exact)
    ]


def test_path_shares_give_an_unbiased_policy_gradient():
    estimated, exact = expected_gradient(path_share_advantages)
    assert all(torch.allclose(a, b) for a, b in zip(estimated, exact))
    assert exact[0].abs().max() > 0.01
    # Plain sibling advantages lack (N - 1) / N at each depth, and count N^d nodes at depth d: late
    # steps weigh double.
    estimated, exact = expected_gradient(
        lambda rewards, parent: sibling_advantages(rewards, parent, "none")
    )
    assert torch.allclose(estimated[0], exact[0]) and torch.allclose(estimated[1], 2 * exact[1])
