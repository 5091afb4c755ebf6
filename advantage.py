"""Leaf rewards -> step rewards -> advantages: the credit assignment of TreeRPO.

The paper is arXiv 2506.05183; this is its section 3. Pure tensor functions over one tree: nodes
stand in topological order (parent before child), and node 0 is the prompt, with parent -1. A group
is the children of one parent.

A leaf may have no score (NaN): no reward function gave it one. It is left out, as if it had not
been sampled: of its group's statistics, and of the mean that is its parent's reward. A node without
any scored leaf below it has no reward either. The advantage of a node without a reward is 0.
"""

import inspect
import math

import torch
from torch import Tensor

SCALES = ("variance", "deviation", "group", "none")
# Means of equal rewards can differ in their last bits: a range below this share of the largest
# reward is rounding, not signal.
ROUNDING = 1e-6


def step_rewards(parent: Tensor, leaf_rewards: Tensor) -> Tensor:
    """The reward of every node: a leaf keeps its own, an inner node gets its children's plain mean.

    The mean is a Monte-Carlo estimate of the expected reward at that step, so no step reward model
    is needed (TreeRPO, section 3.1: bottom-up reward computation). It is over the children that
    have a reward; where none has, the node has none (NaN).

    Args:
        parent: LongTensor [nodes], parent[0] == -1 and parent[i] < i.
        leaf_rewards: Tensor [nodes], read at leaves only; NaN is a leaf without a score.

    Returns:
        Tensor [nodes] of floating-point rewards.

    Raises:
        ValueError: the nodes are not in topological order.

    >>> step_rewards(torch.tensor([-1, 0, 0, 1, 1]), torch.tensor([0.0, 0.0, 1.0, 1.0, 0.0]))
    tensor([0.7500, 0.5000, 1.0000, 1.0000, 0.0000])
    >>> step_rewards(torch.tensor([-1, 0, 0]), torch.tensor([0.0, torch.nan, 1.0]))
    tensor([1., nan, 1.])
    """
    parents = parent.tolist()
    rewards = leaf_rewards.tolist()
    ordered = all(0 <= above < node for node, above in enumerate(parents) if node)
    if parents[0] != -1 or not ordered:
        raise ValueError(
            "parent must hold -1 for node 0 and a smaller index than its own for every other node"
        )
    inner = set(parents)
    scored_children = [0] * len(parents)  # of each node: how many
    total = [0.0] * len(parents)  # of each node: the sum of their rewards
    # Children come after their parent. Backwards, a node's children are final before it is.
    for node in range(len(parents) - 1, -1, -1):
        if node in inner:
            count = scored_children[node]
            rewards[node] = total[node] / count if count else math.nan
        if node and not math.isnan(rewards[node]):
            total[parents[node]] += rewards[node]
            scored_children[parents[node]] += 1
    dtype = leaf_rewards.dtype if leaf_rewards.is_floating_point() else torch.float32
    return torch.tensor(rewards, dtype=dtype, device=leaf_rewards.device)


def group_statistics(rewards: Tensor, parent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Size, mean and population standard deviation of the group that each node heads as parent.

    Mean and deviation are over the members that have a reward; NaN where none has. A leaf heads no
    group: its size is 0 and its statistics are 0.

    Returns:
        Three Tensors [nodes], in double precision.
    """
    rewards = rewards.double()
    siblings = rewards[1:]  # [nodes - 1]: node 0 has no siblings
    group = parent[1:]  # [nodes - 1], the parent that heads each node's group
    zeros = torch.zeros_like(rewards)  # [nodes]
    size = zeros.index_add(0, group, torch.ones_like(siblings))
    scored = zeros.index_add(0, group, (~siblings.isnan()).double())
    # 0 / 0 where no member of a group has a reward.
    divisor = torch.where(size > 0, scored, 1.0)
    mean = zeros.index_add(0, group, siblings.nan_to_num(0.0)) / divisor
    deviations = (siblings - mean[group]).nan_to_num(0.0)  # [nodes - 1]
    variance = zeros.index_add(0, group, deviations**2) / divisor
    return size, mean, variance.sqrt()


def group_range(rewards: Tensor, parent: Tensor) -> Tensor:
    """max R - min R of the group that each node heads as parent, [nodes].

    A leaf heads no group and gets 0, as does a group in which no member has a reward.
    """
    rewards = rewards.double()
    siblings = rewards[1:]  # [nodes - 1]
    group = parent[1:]  # [nodes - 1]
    lowest = torch.full_like(rewards, -torch.inf)  # [nodes]
    largest = lowest.scatter_reduce(0, group, siblings.nan_to_num(-torch.inf), "amax")
    smallest = -lowest.scatter_reduce(0, group, (-siblings).nan_to_num(-torch.inf), "amax")
    return torch.where(largest.isfinite(), largest - smallest, 0.0)


def sibling_advantages(
    rewards: Tensor, parent: Tensor, scale: str = "variance", prune_threshold: float = 0.0
) -> Tensor:
    """The advantage of every step relative to its siblings (TreeRPO, section 3.3, equation 4):

        A = (R - mu) / sigma,  mu = the mean reward of the group

    sigma depends on `scale`:

        "variance"   mu (1 - mu), as in equation 4 and the paper's code; no square root. For 0/1
                     rewards a right step gets +1 / mu and a wrong one -1 / (1 - mu). The paper's
                     code adds 1e-6 to sigma. A kept group never divides by 0, so this one does not.
        "deviation"  sqrt(mu (1 - mu)), the standard deviation that 0/1 rewards with this mean
                     would have.
        "group"      the population standard deviation of the group (GRPO, arXiv 2402.03300,
                     equation 3). It blows small spreads up: [0.49, 0.51] gets what [0, 1] gets,
                     which is why the paper does not use it (section 3.3).
        "none"       1 (Dr. GRPO, arXiv 2503.20783).

    A group is kept if and only if max R - min R > `prune_threshold`, tau (equations 1 and 2). The
    advantages of a pruned group are 0; those of a kept group sum to 0. The root's advantage is 0,
    and so is that of a node without a reward.

    Args:
        rewards: Tensor [nodes], from `step_rewards`; NaN is none.
        parent: LongTensor [nodes].

    Returns:
        Tensor [nodes], of the dtype of `rewards`.

    Raises:
        ValueError: an unknown scale, or "variance" or "deviation" with rewards outside [0, 1].

    One right step among eight siblings:

    >>> rewards = torch.tensor([0.125, 1, 0, 0, 0, 0, 0, 0, 0])
    >>> sibling_advantages(rewards, torch.tensor([-1] + [0] * 8))[1:4]
    tensor([ 8.0000, -1.1429, -1.1429])
    """
    if scale not in SCALES:
        raise ValueError(f"scale must be one of {', '.join(SCALES)}, not {scale!r}")
    has_reward = ~rewards.isnan()  # [nodes]
    is_bounded = (rewards >= 0) & (rewards <= 1)  # [nodes]
    if scale in ("variance", "deviation") and not bool((is_bounded | ~has_reward).all()):
        raise ValueError(f'scale "{scale}" needs rewards in [0, 1]')
    _, mean, deviation = group_statistics(rewards, parent)  # [nodes] each, by the group's parent
    variance = (mean * (1 - mean)).clamp(min=0)
    sigma = {
        "variance": variance,
        "deviation": variance.sqrt(),
        "group": deviation,
        "none": torch.ones_like(mean),
    }[scale]  # [nodes], by the group's parent
    group = parent[1:]  # [nodes - 1], the parent of each node but the root
    least_range = prune_threshold + _rounding(rewards)
    is_kept = group_range(rewards, parent)[group] > least_range  # [nodes - 1]
    scaled = (rewards[1:] - mean[group]) / sigma[group]  # [nodes - 1]
    advantages = torch.zeros_like(mean)  # [nodes]
    advantages[1:] = torch.where(is_kept & has_reward[1:], scaled, 0.0)
    return advantages.to(rewards.dtype)


def _rounding(rewards: Tensor) -> Tensor:
    """The largest difference of rewards that may be rounding, []; at least that of 0/1 rewards."""
    return ROUNDING * rewards.abs().nan_to_num(0.0).max().clamp(min=1)


def _among_leaves(
    rewards: Tensor, parent: Tensor, group: Tensor, scale: str, prune_threshold: float
) -> Tensor:
    """Leaves get `sibling_advantages` among the leaves of the same `group`.

    An inner node's tokens stand in every path through it. They get the mean of the advantages of
    those paths that have a score.

    Args:
        group: LongTensor [nodes], a name of each leaf's group.

    Returns:
        Tensor [nodes].
    """
    leaves = is_leaf(parent).nonzero().squeeze(1)  # [leaves]
    names, index = group[leaves].unique(return_inverse=True)  # [groups], [leaves]
    groups = len(names)
    # A tree of depth two: the root, one node per group, and the leaves below their group's.
    flat_parent = torch.cat([parent[:1], torch.zeros_like(names), 1 + index])
    flat_rewards = torch.cat([rewards[:1].expand(1 + groups), rewards[leaves]])
    flat = sibling_advantages(flat_rewards, flat_parent, scale, prune_threshold)
    total = torch.zeros_like(rewards, dtype=torch.double)  # [nodes]
    total.index_copy_(0, leaves, flat[1 + groups :].double())
    mean = sums_below(total, parent) / _scored_leaves(rewards, parent).clamp(min=1)  # [nodes]
    advantages = mean.to(rewards.dtype)
    advantages[0] = 0.0
    return advantages


def is_leaf(parent: Tensor) -> Tensor:
    """Whether a node has no children, [nodes]."""
    return torch.bincount(parent[1:], minlength=len(parent)) == 0


def sums_below(values: Tensor, parent: Tensor) -> Tensor:
    """The sum of `values` [nodes] over each node and all below it, [nodes]."""
    sums = values.tolist()
    parents = parent.tolist()
    for node in range(len(parents) - 1, 0, -1):  # children before parents
        sums[parents[node]] += sums[node]
    return torch.tensor(sums, dtype=values.dtype, device=values.device)


def _scored_leaves(rewards: Tensor, parent: Tensor) -> Tensor:
    """How many leaves with a reward are at each node or below it, [nodes], in double precision."""
    return sums_below((is_leaf(parent) & ~rewards.isnan()).double(), parent)


def leaf_advantages(
    rewards: Tensor, parent: Tensor, scale: str = "group", prune_threshold: float = 0.0
) -> Tensor:
    """Outcome-level GRPO over all leaves of a tree, whatever its shape.

    The leaves are one group; an inner node gets the mean over the paths through it. At depth 1 this
    is GRPO and equals `sibling_advantages`.

    Args, Returns, Raises: as `sibling_advantages`.
    """
    return _among_leaves(rewards, parent, torch.zeros_like(parent), scale, prune_threshold)


def tree_grpo_advantages(
    rewards: Tensor, parent: Tensor, scale: str = "group", prune_threshold: float = 0.0
) -> Tensor:
    """Tree-GRPO (arXiv 2509.21240): a leaf's advantage in its own tree plus that in all trees.

    The two are added as in the code of AMAP-ML/Tree-GRPO. There a prompt has several trees; here
    they are the subtrees under the root's children.

    Args, Returns, Raises: as `sibling_advantages`.
    """
    top = torch.arange(len(parent))  # [nodes], the root's child above each node
    for node in range(1, len(parent)):
        top[node] = node if parent[node] == 0 else top[parent[node]]
    within = _among_leaves(rewards, parent, top, scale, prune_threshold)
    return within + leaf_advantages(rewards, parent, scale, prune_threshold)


def treerl_advantages(
    rewards: Tensor, parent: Tensor, scale: str = "none", prune_threshold: float = 0.0
) -> Tensor:
    """TreeRL (arXiv 2506.11902, section 3.3): what a step gains over the root and over its parent.

        A = (r - r(root) + r - r(parent)) / sqrt(leaves)

    The leaves are those below the step: it is counted again in the path of each of them. The local
    term, over the parent, is scaled and pruned as in `sibling_advantages`. The global one, over the
    root, has no group, and is neither.

    Args, Returns, Raises: as `sibling_advantages`.
    """
    local = sibling_advantages(rewards, parent, scale, prune_threshold)
    leaves = _scored_leaves(rewards, parent).clamp(min=1).to(rewards.dtype)  # [nodes]
    gain = (rewards - rewards[0]).nan_to_num(0.0)
    gain = torch.where(gain.abs() > _rounding(rewards), gain, 0.0)
    return (gain + local) / leaves.sqrt()


def path_share_advantages(
    rewards: Tensor, parent: Tensor, scale: str = "none", prune_threshold: float = 0.0
) -> Tensor:
    """An unbiased policy gradient from a tree, with the default scale "none".

    A full tree has far more nodes at its last depth, so that a plain sum over nodes trains late
    steps many times harder than early ones. Here

        A = N / (N - 1) (r - mu) times the product of 1 / N over the node's group and those above it

    that is, the reward above that of the other siblings (the leave-one-out baseline of RLOO, arXiv
    2402.14740), times the share of sampled paths that pass through the node, where no path ends
    early.

    Args, Returns, Raises: as `sibling_advantages`.
    """
    advantages = sibling_advantages(rewards, parent, scale, prune_threshold)
    has_reward = (~rewards[1:].isnan()).double()  # [nodes - 1]
    scored_children = torch.zeros_like(rewards, dtype=torch.double)  # [nodes]
    scored_children.index_add_(0, parent[1:], has_reward).clamp_(min=1)
    path_share = torch.ones_like(scored_children)  # [nodes]
    for node in range(1, len(parent)):
        path_share[node] = path_share[parent[node]] / scored_children[parent[node]]
    siblings = scored_children[parent[1:]]  # [nodes - 1], N of each node's group
    leave_one_out = siblings / (siblings - 1).clamp(min=1)
    advantages[1:] *= (path_share[1:] * leave_one_out).to(advantages.dtype)
    return advantages


def with_only_children(advantages: Tensor, parent: Tensor) -> Tensor:
    """Gives a step without siblings its parent's advantage, [nodes].

    A step of width 1 merely continues its parent. Without this, what follows a tree's last branch
    would never be trained, and drift.
    """
    advantages = advantages.clone()
    children = torch.bincount(parent[1:], minlength=len(parent))  # [nodes], of each node
    # The root's -1 counts from the end here, but is not above 0.
    is_only = (parent > 0) & (children[parent] == 1)
    # Parents come before children, so that a chain hands the advantage down.
    for node in is_only.nonzero().flatten().tolist():
        advantages[node] = advantages[parent[node]]
    return advantages


# The values of --advantage. Each has the scale that its source gives it as its default.
#
#   treerpo     a step among its siblings. With scale "none" it is the child's reward minus the
#               parent's (SPO, arXiv 2505.23564; VinePPO, 2410.01679), as a parent's reward is its
#               children's mean
#   path_share  the same as an unbiased policy gradient
#   outcome     GRPO's credit, of whole paths, on the trees as they are; GRPO itself is the tree of
#               depth 1
#   tree_grpo   whole paths, among those of a subtree and among all
#   treerl      a step against the root and against its parent
ESTIMATORS = {
    "treerpo": sibling_advantages,
    "path_share": path_share_advantages,
    "outcome": leaf_advantages,
    "tree_grpo": tree_grpo_advantages,
    "treerl": treerl_advantages,
}


def default_scale(estimator: str) -> str:
    """The scale that an estimator of `ESTIMATORS` has unless told otherwise.

    >>> [(name, default_scale(name)) for name in ("treerpo", "path_share", "outcome")]
    [('treerpo', 'variance'), ('path_share', 'none'), ('outcome', 'group')]
    """
    return inspect.signature(ESTIMATORS[estimator]).parameters["scale"].default
