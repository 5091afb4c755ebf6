"""Step rewards and advantages on hand-worked trees, and against slow versions written from the definitions."""

import itertools
import math

import numpy as np
import pytest
import torch

from advantage import (
    SCALES,
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
    # The mean is over children, not over leaves: a leaf that ended early counts as much as a wide subtree.
    assert step_rewards(torch.tensor([-1, 0, 0, 1, 1]), torch.tensor([NAN, NAN, 1.0, 0.0, 0.0]))[0] == 0.5


def test_sibling_advantages_by_hand():
    rewards = torch.tensor(REWARDS, dtype=torch.double)
    # group of the root: {0.5, 0, 1}, mu 0.5; of 1: {1, 0}, mu 0.5; of 4: {1, 1}, no spread, pruned
    bernoulli = [0, 0, -1, 1, 1, -1, 0, 0]
    assert sibling_advantages(rewards, PARENT).tolist() == pytest.approx(bernoulli)
    deviation = math.sqrt(0.5 / 3)
    group = [0, 0, -0.5 / deviation, 0.5 / deviation, 1, -1, 0, 0]
    assert sibling_advantages(rewards, PARENT, "group").tolist() == pytest.approx(group)
    assert sibling_advantages(rewards, PARENT, "none").tolist() == pytest.approx([0, 0, -0.5, 0.5, 0.5, -0.5, 0, 0])
    # the deviations are 0.408, 0.5 and 0; a threshold prunes what is at most as large
    pruned = sibling_advantages(rewards, PARENT, prune_threshold=0.45).tolist()
    assert pruned == pytest.approx([0, 0, 0, 0, 1, -1, 0, 0])
    assert not sibling_advantages(rewards, PARENT, prune_threshold=0.5).any()


def test_small_spreads_are_not_blown_up():
    rewards, parent = torch.tensor([0.5, 0.49, 0.51]), torch.tensor([-1, 0, 0])
    assert sibling_advantages(rewards, parent, "group").tolist() == pytest.approx([0, -1, 1], abs=1e-4)
    assert sibling_advantages(rewards, parent, "bernoulli").tolist() == pytest.approx([0, -0.02, 0.02], abs=1e-4)


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
        return np.mean([reward(c) for c in children[node]]) if children[node] else leaves[node]

    rewards = step_rewards(torch.tensor(parent), torch.tensor(leaves, dtype=torch.double))
    assert rewards.tolist() == pytest.approx([reward(i) for i in range(40)])
    for scale in SCALES:
        for threshold in (0.0, 0.2):
            expected = [0.0]
            for node in range(1, 40):
                group = [reward(c) for c in children[parent[node]]]
                mu, sigma = np.mean(group), np.std(group)
                divisor = {"bernoulli": math.sqrt(max(mu * (1 - mu), 0)), "group": sigma, "none": 1.0}[scale]
                expected.append((reward(node) - mu) / divisor if sigma > threshold + 1e-9 else 0.0)
            found = sibling_advantages(rewards, torch.tensor(parent), scale, threshold)
            assert found.tolist() == pytest.approx(expected)


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

    expected = [np.mean([both(e) for e in ends if node in ancestry(parent, e)]) for node in range(1, 40)]
    rewards = step_rewards(torch.tensor(parent), torch.tensor(leaves, dtype=torch.double))
    assert tree_grpo_advantages(rewards, torch.tensor(parent)).tolist() == pytest.approx([0.0, *expected])


def test_treerl_by_hand():
    # over the root 0, -.5, .5, .5, -.5, .5, .5; over the parent 0, -.5, .5, .5, -.5, 0, 0; leaves 3, 1, 1, 2, 1, 1, 1
    found = treerl_advantages(torch.tensor(REWARDS), PARENT)
    assert found.tolist() == pytest.approx([0, 0, -1, 1, 1 / math.sqrt(2), -1, 0.5, 0.5])


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


def test_bad_trees_and_settings_are_refused():
    with pytest.raises(ValueError, match="leaf 2"):
        step_rewards(torch.tensor([-1, 0, 0]), torch.tensor([NAN, 1.0, NAN]))
    with pytest.raises(ValueError, match="smaller index"):
        step_rewards(torch.tensor([-1, 2, 0]), torch.tensor([0.0, 1.0, 1.0]))
    with pytest.raises(ValueError, match="scale"):
        sibling_advantages(torch.tensor([0.5, 0, 1]), torch.tensor([-1, 0, 0]), "std")
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        sibling_advantages(torch.tensor([0.5, -1, 2]), torch.tensor([-1, 0, 0]))


def test_only_children_go_on_with_their_parents_advantage():
    # root 0 -> 1, 2; 1 -> 3 -> 4; 2 -> 5, 6. The nodes 3 and 4 have no siblings.
    parent = torch.tensor([-1, 0, 0, 1, 3, 2, 2])
    found = with_only_children(torch.tensor([0.0, 0.7, -0.7, 0.0, 0.0, 0.2, -0.2]), parent)
    assert found.tolist() == pytest.approx([0.0, 0.7, -0.7, 0.7, 0.7, 0.2, -0.2])
    # Where credit comes from leaves they have it already.
    rewards = step_rewards(parent, torch.tensor([NAN, NAN, NAN, NAN, 1.0, 0.0, 1.0]))
    assert with_only_children(leaf_advantages(rewards, parent), parent).equal(leaf_advantages(rewards, parent))


@pytest.mark.parametrize("inherits", [True, False])
def test_only_children_make_a_narrow_tree_unbiased(inherits):
    def estimate(rewards, parent, scale):
        advantages = path_share_advantages(rewards, parent, scale)
        return with_only_children(advantages, parent) if inherits else advantages

    found, exact = expected_gradient(estimate, width=1)
    assert torch.allclose(found[0], exact[0])
    assert torch.allclose(found[1], exact[1] if inherits else torch.zeros(2, 2, dtype=torch.double))


def expected_gradient(estimator, width=2):
    """The gradient that an estimator gives on average, over every tree of two binary steps, two first ones with `width`
    children each, beside the exact gradient of the expected reward."""
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
        advantages = estimator(step_rewards(parent, torch.tensor(leaves, dtype=torch.double)), parent, "none")
        probability = sum(steps).exp().detach()
        surrogate = surrogate + probability * sum(a * step for a, step in zip(advantages[1:], steps))
    return [torch.autograd.grad(value, (first, second), retain_graph=True) for value in (surrogate, exact)]


def test_path_shares_give_an_unbiased_policy_gradient():
    found, exact = expected_gradient(path_share_advantages)
    assert all(torch.allclose(a, b) for a, b in zip(found, exact)) and exact[0].abs().max() > 0.01
    # Plain sibling advantages lack (N - 1) / N at each depth, and count N^d nodes at depth d: late steps weigh double.
    found, exact = expected_gradient(sibling_advantages)
    assert torch.allclose(found[0], exact[0]) and torch.allclose(found[1], 2 * exact[1])
