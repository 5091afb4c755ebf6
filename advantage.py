"""Leaf rewards -> step rewards -> advantages: the credit assignment of TreeRPO (arXiv 2506.05183,
section 3).

Pure tensor functions over one tree. Nodes stand in topological order (parent before child); node 0
is the prompt, with parent -1. A group is the children of one parent."""

import inspect

import torch
from torch import Tensor

SCALES = ("variance", "deviation", "group", "none")
# Means of equal rewards can differ in their last bits; a range below this is rounding, not signal.
ROUNDING = 1e-6


def step_rewards(parent: Tensor, leaf_rewards: Tensor) -> Tensor:
    """The reward of every node: a leaf keeps its own, an inner node gets the plain mean of its
    children's.

    The mean is a Monte-Carlo estimate of the expected reward at that step, so no step reward model
    is needed (TreeRPO, section 3.1: bottom-up reward computation).

    Args:
        parent: LongTensor [nodes], parent[0] == -1 and parent[i] < i.
        leaf_rewards: Tensor [nodes], read at leaves only; NaN elsewhere is fine.

    Returns:
        Tensor [nodes] of floating-point rewards.

    Raises:
        ValueError: the nodes are not in topological order, or a leaf has no reward (NaN).

    >>> step_rewards(torch.tensor([-1, 0, 0, 1, 1]), torch.tensor([0.0, 0.0, 1.0, 1.0, 0.0]))
    tensor([0.7500, 0.5000, 1.0000, 1.0000, 0.0000])
    """
    parents, rewards = parent.tolist(), leaf_rewards.tolist()
    if parents[0] != -1 or any(not 0 <= p < i for i, p in enumerate(parents) if i):
        raise ValueError(
            "parent must hold -1 for node 0 and a smaller index than its own for every other node"
        )
    count, total = [0] * len(parents), [0.0] * len(parents)
    for node in range(
        len(parents) - 1, -1, -1
    ):  # children come after their parent, so their rewards are final
        if count[node]:
            rewards[node] = total[node] / count[node]
        elif rewards[node] != rewards[node]:
            raise ValueError(f"leaf {node} has no reward (NaN)")
        if node:
            total[parents[node]] += rewards[node]
            count[parents[node]] += 1
    dtype = leaf_rewards.dtype if leaf_rewards.is_floating_point() else torch.float32
    return torch.tensor(rewards, dtype=dtype, device=leaf_rewards.device)


def group_statistics(rewards: Tensor, parent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of the group that each node heads as parent: size, mean and population standard deviation,
    each [nodes].

    A leaf heads no group: its size is 0 and its statistics are 0.
    """
    rewards = rewards.double()
    siblings, group = rewards[1:], parent[1:]  # node 0 has no siblings
    size = torch.zeros_like(rewards).index_add_(0, group, torch.ones_like(siblings))
    mean = torch.zeros_like(rewards).index_add_(0, group, siblings) / size.clamp(min=1)
    variance = torch.zeros_like(rewards).index_add_(
        0, group, (siblings - mean[group]) ** 2
    ) / size.clamp(min=1)
    return size, mean, variance.sqrt()


def group_range(rewards: Tensor, parent: Tensor) -> Tensor:
    """Of the group that each node heads as parent: max R - min R, [nodes]. A leaf heads no group
    and gets 0."""
    rewards = rewards.double()
    siblings, group = rewards[1:], parent[1:]
    largest = torch.zeros_like(rewards).scatter_reduce_(
        0, group, siblings, "amax", include_self=False
    )
    smallest = torch.zeros_like(rewards).scatter_reduce_(
        0, group, siblings, "amin", include_self=False
    )
    return largest - smallest


def sibling_advantages(
    rewards: Tensor, parent: Tensor, scale: str = "variance", prune_threshold: float = 0.0
) -> Tensor:
    """The advantage of every step relative to its siblings (TreeRPO, section 3.3, equation 4):

        A = (R - mu) / sigma,  mu = the mean reward of the group

    sigma depends on `scale`:
        "variance": mu (1 - mu), as in equation 4 and the paper's code; no square root. For 0/1
        rewards a right step
            gets +1 / mu and a wrong one -1 / (1 - mu). The paper's code adds 1e-6 to sigma; a kept
            group never divides by 0, so this one does not.
        "deviation": sqrt(mu (1 - mu)), the standard deviation that 0/1 rewards with this mean would
        have. "group": the population standard deviation of the group (GRPO, arXiv 2402.03300,
        equation 3). It blows small
            spreads up: [0.49, 0.51] gets what [0, 1] gets, which is why the paper does not use it
            (section 3.3).
        "none": 1 (Dr. GRPO, arXiv 2503.20783).

    A group is kept if and only if max R - min R > `prune_threshold`, tau (equations 1 and 2); a
    pruned group's advantages are 0. The root's advantage is 0. In every kept group the advantages
    sum to 0.

    Args:
        rewards: Tensor [nodes], from `step_rewards`.
        parent: LongTensor [nodes].

    Returns:
        Tensor [nodes], of the dtype of `rewards`.

    Raises:
        ValueError: an unknown scale, or "variance" or "deviation" with rewards outside [0, 1].

    One right step among eight siblings:

    >>> sibling_advantages(torch.tensor([0.125, 1, 0, 0, 0, 0, 0, 0, 0]), torch.tensor([-1] + [0] * 8))[1:4]
    tensor([ 8.0000, -1.1429, -1.1429])
    """
    if scale not in SCALES:
        raise ValueError(f"scale must be one of {', '.join(SCALES)}, not {scale!r}")
    _, mean, deviation = group_statistics(
        rewards, parent
    )  # [nodes] each, by the parent of the group
    if scale in ("variance", "deviation") and not bool(((rewards >= 0) & (rewards <= 1)).all()):
        raise ValueError(f'scale "{scale}" needs rewards in [0, 1]')
    variance = (mean * (1 - mean)).clamp(min=0)
    sigma = {
        "variance": variance,
        "deviation": variance.sqrt(),
        "group": deviation,
        "none": torch.ones_like(mean),
    }
    group = parent[1:]  # the parent of each node but the root
    kept = group_range(rewards, parent)[group] > prune_threshold + ROUNDING
    advantages = torch.zeros_like(mean)
    advantages[1:] = torch.where(kept, (rewards[1:] - mean[group]) / sigma[scale][group], 0.0)
    return advantages.to(rewards.dtype)


def _among_leaves(
    rewards: Tensor, parent: Tensor, group: Tensor, scale: str, prune_threshold: float
) -> Tensor:
    """Leaves get `sibling_advantages` among the leaves of the same `group` [nodes]; an inner node's
    tokens stand in every path through it, and get the mean of these paths' advantages."""
    size, _, _ = group_statistics(rewards, parent)
    leaves = (size == 0).nonzero().squeeze(1)  # [leaves]
    heads, index = group[leaves].unique(return_inverse=True)
    # A tree of depth two: the root, a node a group, and the leaves under theirs.
    flat_parent = torch.cat([parent[:1], torch.zeros_like(heads), 1 + index])
    flat_rewards = torch.cat([rewards[:1].expand(1 + len(heads)), rewards[leaves]])
    flat = sibling_advantages(flat_rewards, flat_parent, scale, prune_threshold)[1 + len(heads) :]
    total = torch.zeros_like(rewards, dtype=torch.double).index_copy_(0, leaves, flat.double())
    advantages = (_sums_below(total, parent) / _sums_below((size == 0).double(), parent)).to(
        rewards.dtype
    )
    advantages[0] = 0.0
    return advantages


def _sums_below(values: Tensor, parent: Tensor) -> Tensor:
    """The sum of `values` [nodes] over each node and all below it."""
    sums = values.clone()
    for node in range(len(parent) - 1, 0, -1):  # children before parents
        sums[parent[node]] += sums[node]
    return sums


def leaf_advantages(
    rewards: Tensor, parent: Tensor, scale: str = "group", prune_threshold: float = 0.0
) -> Tensor:
    """Outcome-level GRPO over all leaves of a tree, whatever its shape: the leaves are one group;
    an inner node gets the mean over the paths through it. At depth 1 this is GRPO and equals
    `sibling_advantages`.

    Args, Returns, Raises: as `sibling_advantages`.
    """
    return _among_leaves(rewards, parent, torch.zeros_like(parent), scale, prune_threshold)


def tree_grpo_advantages(
    rewards: Tensor, parent: Tensor, scale: str = "group", prune_threshold: float = 0.0
) -> Tensor:
    """Tree-GRPO (arXiv 2509.21240): a leaf's advantage within its own tree plus that among the
    leaves of all trees of the prompt, as the code of AMAP-ML/Tree-GRPO adds them. Its prompt has
    several trees; here they are the subtrees under the root's children.

    Args, Returns, Raises: as `sibling_advantages`.
    """
    top = torch.arange(len(parent))  # the root's child above each node
    for node in range(1, len(parent)):
        top[node] = node if parent[node] == 0 else top[parent[node]]
    within = _among_leaves(rewards, parent, top, scale, prune_threshold)
    return within + leaf_advantages(rewards, parent, scale, prune_threshold)


def treerl_advantages(
    rewards: Tensor, parent: Tensor, scale: str = "none", prune_threshold: float = 0.0
) -> Tensor:
    """TreeRL (arXiv 2506.11902, section 3.3): a step's reward over the root's (global) plus that
    over its parent's (local), divided by the square root of the leaves below the step, in whose
    paths it is counted again and again.

        A = (r - r(root) + r - r(parent)) / sqrt(leaves)

    The local term is scaled and pruned as in `sibling_advantages`; the global one has no group, and
    is neither.

    Args, Returns, Raises: as `sibling_advantages`.
    """
    local = sibling_advantages(rewards, parent, scale, prune_threshold)
    size, _, _ = group_statistics(rewards, parent)
    leaves = _sums_below((size == 0).to(rewards.dtype), parent)
    gain = rewards - rewards[0]
    return (torch.where(gain.abs() > ROUNDING, gain, 0.0) + local) / leaves.sqrt()


def path_share_advantages(
    rewards: Tensor, parent: Tensor, scale: str = "none", prune_threshold: float = 0.0
) -> Tensor:
    """An unbiased policy gradient from a tree, with its default scale "none": a full tree has far
    more nodes at its last depth, so that a plain sum over nodes trains late steps many times harder
    than early ones.

        A = N / (N - 1) (r - mu) times the product of 1 / N over the node's group and the groups
        above it

    that is, the reward above that of the other siblings (the leave-one-out baseline of RLOO, arXiv
    2402.14740), times the share of sampled paths that pass through the node, where no path ends
    early.

    Args, Returns, Raises: as `sibling_advantages`.
    """
    advantages = sibling_advantages(rewards, parent, scale, prune_threshold)
    size, _, _ = group_statistics(rewards, parent)
    share = torch.ones_like(size)
    for node in range(1, len(parent)):
        share[node] = share[parent[node]] / size[parent[node]]
    siblings = size[parent[1:]]
    advantages[1:] *= (share[1:] * siblings / (siblings - 1).clamp(min=1)).to(advantages.dtype)
    return advantages


def with_only_children(advantages: Tensor, parent: Tensor) -> Tensor:
    """A step of width 1 has no siblings: it is its parent's going on, and gets its parent's
    advantage, [nodes]. Without that, what follows a tree's last branch would never be trained, and
    drift."""
    advantages, alone = (
        advantages.clone(),
        torch.bincount(parent[1:], minlength=len(parent)) == 1,
    )  # by parent
    only = (parent > 0) & alone[parent]  # the root's -1 counts from the end, and is not above 0
    for node in (
        only.nonzero().flatten().tolist()
    ):  # parents before children, so that a chain hands it down
        advantages[node] = advantages[parent[node]]
    return advantages


# --advantage: each with the scale that its source gives it as its default. The child's minus the
# parent's reward (SPO, arXiv 2505.23564; VinePPO, 2410.01679) is "treerpo" with scale "none", as a
# parent's reward is its children's mean. "outcome" is GRPO's credit, of whole paths, on the trees
# as they are; GRPO itself is the tree of depth 1.
ESTIMATORS = {
    "treerpo": sibling_advantages,
    "path_share": path_share_advantages,
    "outcome": leaf_advantages,
    "tree_grpo": tree_grpo_advantages,
    "treerl": treerl_advantages,
}


def default_scale(estimator: str) -> str:
    """The scale that an estimator of `ESTIMATORS` has unless told otherwise.

    >>> {name: default_scale(name) for name in ESTIMATORS}
    {'treerpo': 'variance', 'path_share': 'none', 'outcome': 'group', 'tree_grpo': 'group', 'treerl': 'none'}
    """
    return inspect.signature(ESTIMATORS[estimator]).parameters["scale"].default
