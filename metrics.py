"""What a run logs: the figures of an update, a tree for the viewer, and warnings about figures that
tell of trouble."""

import logging
import statistics
from collections import defaultdict

import torch

from advantage import group_statistics
from tree import Tree

logger = logging.getLogger(__name__)


def tree_statistics(
    tree: Tree, rewards: torch.Tensor, advantages: torch.Tensor
) -> dict[str, list[float]]:
    """What one tree adds to an update's metrics: lists that `summarise` turns into means."""
    size, _, deviation = group_statistics(rewards, tree.parent)
    kept = set(tree.parent[advantages != 0].tolist())
    # The mean surprise of sampled tokens is an unbiased estimate of the policy's entropy.
    found = defaultdict(
        list, reward=[rewards[0].item()], entropy=(-torch.cat(tree.logprobs)).tolist()
    )
    length = [0] * len(tree.parent)
    for node, (parent, depth) in enumerate(zip(tree.parent.tolist(), tree.depth.tolist())):
        if node:
            length[node] = length[parent] + len(tree.tokens[node])
            found[f"step_reward_depth_{depth}"].append(rewards[node].item())
        if not size[node]:
            found["leaf_pass_rate"].append(rewards[node].item())
            found["completion_length"].append(length[node])
            found["unfinished_share"].append(1.0 - float(tree.finished[node]))
        elif size[node] > 1:  # an only child is no group
            found["kept_groups_share"].append(float(node in kept))
            found[f"group_std_depth_{depth + 1}"].append(deviation[node].item())
    return found


def summarise(statistics_of_trees: list[dict]) -> dict[str, float]:
    """The means over all trees of an update, with their counts of leaves and sampled tokens."""
    names = sorted({name for one in statistics_of_trees for name in one})
    merged = {
        name: [value for one in statistics_of_trees for value in one.get(name, ())]
        for name in names
    }
    means = {name: statistics.fmean(values) for name, values in merged.items()}
    return {
        **means,
        "leaves": len(merged["leaf_pass_rate"]),
        "sampled_tokens": len(merged["entropy"]),
    }


def tree_record(update: int, problem: dict, tree: Tree, rewards, advantages, tokenizer) -> dict:
    """One line of trees.jsonl: everything the viewer shows, in plain JSON."""
    nodes = zip(
        tree.parent.tolist(),
        tree.tokens,
        tree.finished.tolist(),
        rewards.tolist(),
        advantages.tolist(),
    )
    keys = ("parent", "text", "tokens", "finished", "reward", "advantage")
    rows = [dict(zip(keys, (p, tokenizer.decode(t), len(t), f, r, a))) for p, t, f, r, a in nodes]
    return {"update": update, **problem, "nodes": rows}


class Watch:
    """Warns, once each, when figures of the updates tell of trouble."""

    def __init__(self, gap_limit: float = 0.05, pruned_limit: int = 10):
        self.gap_limit, self.pruned_limit, self.pruned, self.said = (
            gap_limit,
            pruned_limit,
            0,
            set(),
        )

    def look_at(self, row: dict) -> None:
        self.pruned = self.pruned + 1 if row["trained_tokens"] == 0 else 0
        if self.pruned >= self.pruned_limit:
            advice = "easier or harder problems, a larger --branching or a lower --prune_threshold would help"
            self._warn(
                "pruned", f"{self.pruned} updates in a row had no group with signal: {advice}"
            )
        if (gap := row.get("logprob_difference_mean") or 0.0) > self.gap_limit:
            self._warn(
                "gap",
                f"sampling and training log-probabilities differ by {gap:.3f} a token on average; their "
                "policies are not the same one (see --attn_implementation, --bf16)",
            )

    def _warn(self, kind: str, text: str) -> None:
        if kind not in self.said:
            logger.warning(text)
            self.said.add(kind)
