"""What a run logs of its trees: the figures of an update, a tree for the viewer, and warnings."""

import logging
import math
import statistics
from collections import Counter, defaultdict

import torch

from advantage import ROUNDING, group_statistics, is_leaf, sums_below
from tree import Tree

logger = logging.getLogger(__name__)

# The names in `sums_over_leaves` begin so.
LEAF_SUMS = ("leaf_count", "leaf_squares", "leaf_pairs_", "leaf_products_")


def tree_statistics(
    tree: Tree, rewards: torch.Tensor, advantages: torch.Tensor
) -> dict[str, list[float]]:
    """What one tree adds to an update's metrics: lists that `summarise` turns into means.

    Args:
        rewards: step rewards [nodes]; NaN where there is none, which counts nowhere.
        advantages: [nodes].
    """
    parents = tree.parent.tolist()
    depths = tree.depth.tolist()
    children = Counter(parents)  # of each node that has any: how many
    _, _, group_deviation = group_statistics(rewards, tree.parent)  # [nodes]
    trained_parents = set(tree.parent[advantages != 0].tolist())

    values = defaultdict(list)
    values["reward"].append(rewards[0].item())
    leaf_rewards = rewards[tree.leaves()]  # [leaves]
    kinds = set(leaf_rewards[~leaf_rewards.isnan()].tolist())
    values["all_right_share"].append(float(kinds == {1.0}))
    values["all_wrong_share"].append(float(kinds == {0.0}))
    # The mean surprise of sampled tokens is an unbiased estimate of the policy's entropy.
    values["entropy"] += (-torch.cat(tree.logprobs)).tolist()
    length = [0] * len(parents)  # tokens from the prompt's end through the node
    for node in range(1, len(parents)):
        length[node] = length[parents[node]] + len(tree.tokens[node])
        values[f"step_reward_depth_{depths[node]}"].append(rewards[node].item())
    for node in range(len(parents)):
        if not children[node]:  # a leaf
            values["leaf_pass_rate"].append(rewards[node].item())
            values["completion_length"].append(length[node])
            values["unfinished_share"].append(1.0 - float(tree.finished[node]))
        elif children[node] > 1:  # an only child is no group
            values["kept_groups_share"].append(float(node in trained_parents))
            values[f"group_std_depth_{depths[node] + 1}"].append(group_deviation[node].item())
    for name, total in sums_over_leaves(tree, rewards).items():
        values[name].append(total)
    return values


def sums_over_leaves(tree: Tree, rewards: torch.Tensor) -> dict[str, float]:
    """What `leaf_correlations` needs of one tree: over its leaves their number and the sum of their
    squared rewards; over ordered pairs of leaves, by the depth of the node below which their paths
    part, the number of pairs and the sum of their products.

    Args:
        rewards: step rewards [nodes]; a leaf without one (NaN) is left out.
    """
    inner = ~is_leaf(tree.parent)  # [nodes]
    scored = ~inner & ~rewards.isnan()  # [nodes], the leaves with a reward
    # Of each node: the number of leaves and the sum of their rewards, at it or below it.
    counts = sums_below(scored.double(), tree.parent)
    totals = sums_below(torch.where(scored, rewards, 0.0).double(), tree.parent)
    # All pairs of leaves below a node, less those below one child of it.
    pairs = counts**2 - _over_children(counts**2, tree.parent)
    products = totals**2 - _over_children(totals**2, tree.parent)
    sums = {}
    for depth in tree.depth[inner].unique().tolist():
        parting = inner & (tree.depth == depth)  # [nodes]
        sums[f"leaf_pairs_depth_{depth}"] = pairs[parting].sum().item()
        sums[f"leaf_products_depth_{depth}"] = products[parting].sum().item()
    sums["leaf_count"] = counts[0].item()
    sums["leaf_squares"] = rewards[scored].double().square().sum().item()
    return sums


def _over_children(values: torch.Tensor, parent: torch.Tensor) -> torch.Tensor:
    """The sum of `values` [nodes] over each node's children, [nodes]."""
    return torch.zeros_like(values).index_add(0, parent[1:], values[1:])


def leaf_correlations(sums: dict[str, float]) -> dict[str, float | None]:
    """How alike leaves are that share their first steps, and what a tree's leaves are worth.

        rho_depth_d       the correlation of the rewards of two leaves that share d steps, within
                          prompts: 0 where these steps decide nothing, 1 where they decide all. The
                          intraclass correlation, from means of products, so without bias in its
                          numerator and its denominator
        effective_leaves  how many leaves without shared steps would estimate the prompt's expected
                          reward as well: n^2 / (n + the sum of rho over ordered pairs)

    A figure is None where all rewards are alike, or where there are no pairs.

    Args:
        sums: `sums_over_leaves`, as means over trees.
    """
    pairs = {}
    products = {}
    for name, value in sums.items():
        if name.startswith("leaf_pairs_depth_") and value:
            depth = int(name.rpartition("_")[2])
            pairs[depth] = value
            products[depth] = sums[f"leaf_products_depth_{depth}"] / value
    names = {depth: f"rho_depth_{depth}" for depth in sorted(pairs) if depth}
    nothing = {**dict.fromkeys(names.values()), "effective_leaves": None}
    if 0 not in pairs:
        return nothing
    variance = sums["leaf_squares"] / sums["leaf_count"] - products[0]
    if variance <= ROUNDING:
        return nothing
    rho = {depth: (products[depth] - products[0]) / variance for depth in names}
    shared = sum(pairs[depth] * rho[depth] for depth in rho)
    leaves = sums["leaf_count"]
    # Few leaves may correlate negatively by chance; then each counts as one.
    effective_leaves = leaves**2 / (leaves + max(shared, 0.0))
    return {**{names[depth]: rho[depth] for depth in rho}, "effective_leaves": effective_leaves}


def summarise(statistics_of_trees: list[dict[str, list[float]]]) -> dict[str, float | None]:
    """The means over an update's first trees, with their number of leaves.

    A mean is None where no tree has a value. The sums over leaves become `leaf_correlations`.
    """
    merged = defaultdict(list)
    for values_of_tree in statistics_of_trees:
        for name, values in values_of_tree.items():
            merged[name] += values
    # Sums per tree: one that lacks a depth has no pairs there.
    trees = len(statistics_of_trees)
    sums = {name: sum(merged[name]) / trees for name in merged if name.startswith(LEAF_SUMS)}
    means = {}
    for name in sorted(merged.keys() - sums.keys()):
        numbers = [value for value in merged[name] if not math.isnan(value)]
        means[name] = statistics.fmean(numbers) if numbers else None
    return {**means, **leaf_correlations(sums), "leaves": len(merged["completion_length"])}


def token_count(tree: Tree) -> int:
    """The sampled tokens of a tree: each once, however many leaves share it."""
    return sum(map(len, tree.tokens))


def sampling_counts(trained: list[int], replaced: list[int]) -> dict[str, int]:
    """What an update sampled: what it trained on, and what was replaced for lack of signal.

    Args:
        trained, replaced: the tokens of each such tree.
    """
    return {
        "sampled_tokens": sum(trained) + sum(replaced),
        "replaced_trees": len(replaced),
        "replaced_tokens": sum(replaced),
    }


def tree_record(
    update: int,
    problem: dict,
    tree: Tree,
    rewards: torch.Tensor,
    advantages: torch.Tensor,
    tokenizer,
    extracted: dict[int, str | None],
) -> dict:
    """One line of trees.jsonl: everything the viewer shows, in plain JSON.

    Args:
        problem: with id, problem and answer.
        rewards: step rewards [nodes].
        advantages: [nodes].
        extracted: by leaf, what its completion answers.
    """
    nodes = tree.to_json(tokenizer.decode, reward=rewards, advantage=advantages)
    for leaf, answer in extracted.items():
        nodes[leaf]["extracted"] = answer
    named = {name: problem[name] for name in ("id", "problem", "answer")}
    return {"update": update, **named, "nodes": nodes}


class Watch:
    """Warns, once each, when figures of the updates tell of trouble.

    Args:
        gap_limit: mean difference of log-probabilities between sampling and training.
        pruned_limit: updates in a row in which every group was pruned.
    """

    def __init__(self, gap_limit: float = 0.05, pruned_limit: int = 10) -> None:
        self.gap_limit = gap_limit
        self.pruned_limit = pruned_limit
        self.pruned_updates = 0  # in a row
        self.warned_of: set[str] = set()

    def look_at(self, row: dict) -> None:
        """Looks at the metrics of one update."""
        self.pruned_updates = self.pruned_updates + 1 if row["trained_tokens"] == 0 else 0
        if self.pruned_updates >= self.pruned_limit:
            self._warn(
                "pruned",
                f"{self.pruned_updates} updates in a row had no group with signal: easier or "
                "harder problems, a larger --branching or a lower --prune_threshold would help",
            )
        gap = row["logprob_difference_mean"] or 0.0  # None where nothing was trained
        if gap > self.gap_limit:
            self._warn(
                "gap",
                f"sampling and training log-probabilities differ by {gap:.3f} per token on "
                "average; their policies are not the same one (see --attn_implementation, --bf16)",
            )

    def _warn(self, kind: str, text: str) -> None:
        if kind not in self.warned_of:
            self.warned_of.add(kind)
            logger.warning(text)
