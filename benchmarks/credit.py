"""How much does step credit buy? Measured at a fixed policy, before anything is trained.

    python benchmarks/credit.py --task maze --length 60 --trees 4-2 2-2-2 --groups 4 6   # minutes

--length is that of the longest completion, which the steps of a tree share. With --step_delimiter
they end there, and --step_tokens is the most that one may have.

1. Efficiency: the certain progress that one sampled token buys, whatever the learning rate,

       (u . E g)^2 / tr Var(g) / tokens

   with g the policy gradient of one prompt, over prompts and samples, and u the direction of the
   true gradient, from an unbiased estimate on other draws. A ratio of two arms predicts how many
   times as many tokens the slower one needs where noise limits training.
2. The effective rank of decisions: how many different skills a path takes. It is 1 over the mean
   squared cosine between the gradients of two decisions' log-probabilities. A decision is a token
   of which the policy was not sure. It is 1 where all decisions move the same parameters alike.
   It keeps the gradients of all `decisions`: memory for as many copies of the model.
3. rho: the correlation of leaves that share steps, and the leaves that a tree is worth
   (metrics.py).
4. The error of a step reward: the mean of the node's children against a fresh estimate from
   `fresh` continuations of the same step, whose own variance is taken off; root mean square.
"""

import math
import statistics
from collections import defaultdict
from typing import NamedTuple

import torch
from common import arguments, device, load, settings_of, write_results
from tqdm import tqdm

from advantage import ESTIMATORS, step_rewards, with_only_children
from data.problems import (
    completion_text,
    encode_row,
    load_problems,
    score_of,
    task_of,
    template_for,
    tiny_base_of,
)
from metrics import leaf_correlations, sums_over_leaves, token_count
from packing import pack
from policy import token_logprobs
from reward import Grader
from run.errors import BadInput, run_script
from tree import Tree
from tree_sampler import TreeSampler

# A sampled token is a decision where its probability was below this.
UNSURE = 0.9


class Sampled(NamedTuple):
    """A tree, and its step rewards [nodes]."""

    tree: Tree
    rewards: torch.Tensor


class Arm(NamedTuple):
    """A way to make advantages of a tree."""

    shape: str
    estimator: str
    scale: str
    prune_threshold: float


def arms_of(trees: list[str], groups: list[int]) -> dict[str, Arm]:
    """The arms that are compared: on each tree the paper's credit and others, and GRPO."""
    arms = {}
    for shape in trees:
        arms[f"treerpo {shape}"] = Arm(shape, "treerpo", "variance", 0.1)
        arms[f"outcome {shape}"] = Arm(shape, "outcome", "group", 0.0)
        arms[f"path_share {shape}"] = Arm(shape, "path_share", "none", 0.0)
    for group in groups:
        arms[f"grpo {group}"] = Arm(str(group), "treerpo", "group", 0.0)
    return arms


class Instrument:
    """A task and a policy, which is not trained.

    Args:
        args: the command line, of `main`.
    """

    def __init__(self, args, grader: Grader) -> None:
        self.args = args
        self.grader = grader
        self.task = task_of(args.task)
        own_base = args.model == "tiny"
        self.tokenizer, self.model = load(tiny_base_of(args.task) if own_base else args.model)
        self.problems = load_problems(args.task, "train")[: args.problems]
        template = template_for(None, self.tokenizer)
        self.prompts = [
            encode_row(self.tokenizer, self.task, row, template) for row in self.problems
        ]
        self.parameters = dict(self.model.named_parameters())

    def sampler(self, shape: str) -> TreeSampler:
        """Grows trees of a shape. Their steps share the longest completion's tokens evenly, or end
        at --step_delimiter. A flat group's completions are one step."""
        widths = [int(width) for width in shape.split("-")]
        steps = len(widths)
        step_tokens = math.ceil(self.args.length / steps)
        delimiter = None
        if steps > 1 and self.args.step_delimiter:
            step_tokens = self.args.step_tokens or self.args.length
            delimiter = self.args.step_delimiter
        return TreeSampler(
            self.model,
            self.tokenizer,
            widths,
            steps,
            step_tokens,
            max_rows=512,
            step_delimiter=delimiter,
        )

    def sample(self, shape: str, draw: int) -> list[Sampled]:
        """A tree for each problem."""
        seeds = [10_000 * draw + i for i in range(len(self.prompts))]
        trees = self.sampler(shape).sample(self.prompts, seeds)
        return [
            Sampled(tree, self.rewards_of(tree, row))
            for tree, row in zip(trees, self.problems, strict=True)
        ]

    def rewards_of(self, tree: Tree, row: dict, prefix: list[int] | None = None) -> torch.Tensor:
        """Step rewards [nodes] of a tree.

        Args:
            prefix: tokens of the completion that already stand in the tree's prompt.
        """
        leaves = tree.leaves()
        texts = [
            completion_text(self.tokenizer, (prefix or []) + tree.text_ids(leaf)) for leaf in leaves
        ]
        leaf_rewards = torch.full((len(tree.parent),), torch.nan)  # [nodes]
        grades = self.grader.grade_batch(texts, [row] * len(leaves))
        leaf_rewards[leaves] = torch.tensor(grades, dtype=torch.float)
        return step_rewards(tree.parent, leaf_rewards)

    def gradient(self, tree: Tree, weights: torch.Tensor) -> torch.Tensor | None:
        """The gradient [parameters] of the sum of log-probabilities, each times the weight of its
        node; None where all weights are 0.

        Args:
            weights: [nodes].
        """
        (packed,) = pack([tree], [weights], 1 << 20) or [None]
        if packed is None:
            return None
        packed = packed.to(device())
        total = (token_logprobs(self.model, packed) * packed.advantages).sum()
        return self.flat_gradient(total)

    def flat_gradient(self, value: torch.Tensor, keep: bool = False) -> torch.Tensor:
        """The gradient [parameters] of a number [], over all parameters in one row.

        Args:
            keep: more gradients of the same forward pass will be asked for.
        """
        gradients = torch.autograd.grad(value, self.parameters.values(), retain_graph=keep)
        return torch.cat([gradient.flatten() for gradient in gradients])

    def columns_of_parts(self) -> dict[str, list[slice]]:
        """For each part of the model the columns of a gradient that belong to it."""
        columns = defaultdict(list)
        start = 0
        for name, parameter in self.parameters.items():
            stop = start + parameter.numel()
            columns[part_of(name)].append(slice(start, stop))
            start = stop
        return columns


def part_of(name: str) -> str:
    """The part of a model that a parameter belongs to.

    >>> part_of("model.layers.2.mlp.up_proj.weight"), part_of("model.embed_tokens.weight")
    ('layer 2 mlp', 'other')
    """
    words = name.split(".")
    if "layers" not in words:
        return "other"
    layer = words[words.index("layers") + 1]
    return f"layer {layer} {'attention' if 'self_attn' in words else 'mlp'}"


# --- 1. Efficiency ---


class Moments:
    """Adds up the gradients of prompts, so that none of them need be kept."""

    def __init__(self, direction: torch.Tensor) -> None:
        self.direction = direction  # [parameters], of length 1
        self.along: list[float] = []  # of each gradient: its part along the direction
        self.total = torch.zeros_like(direction)
        self.squares = 0.0
        self.tokens: list[int] = []

    def add(self, gradient: torch.Tensor | None, tokens: int) -> None:
        """Adds a prompt's gradient [parameters], None for 0, and the tokens that it cost."""
        self.tokens.append(tokens)
        if gradient is None:
            self.along.append(0.0)
            return
        self.along.append((gradient @ self.direction).item())
        self.total += gradient
        self.squares += gradient.square().sum().item()

    def efficiency(self) -> float:
        """(u . E g)^2 / tr Var(g) / tokens, without bias in its numerator and its denominator."""
        count = len(self.along)
        mean = statistics.fmean(self.along)
        signal = mean**2 - statistics.variance(self.along) / count
        variance = (self.squares - self.total.square().sum().item() / count) / (count - 1)
        return max(signal, 0.0) / variance / statistics.fmean(self.tokens) if variance else 0.0


def true_direction(instrument: Instrument) -> torch.Tensor:
    """The direction of the policy gradient [parameters], from draws of their own: an unbiased
    estimate by whole completions."""
    args = instrument.args
    total = torch.zeros(sum(each.numel() for each in instrument.parameters.values()))
    for draw in tqdm(range(args.direction_draws), desc="direction", unit="draw"):
        for tree, rewards in instrument.sample(str(args.direction_group), 1000 + draw):
            advantages = ESTIMATORS["path_share"](rewards, tree.parent)
            gradient = instrument.gradient(tree, advantages)
            if gradient is not None:
                total += gradient
    return total / total.norm().clamp(min=1e-30)


def measure_efficiency(instrument: Instrument, arms: dict[str, Arm]) -> tuple[dict, dict]:
    """For each arm its efficiency and tokens per prompt; for each shape the figures of leaves that
    share steps."""
    direction = true_direction(instrument)
    moments = {name: Moments(direction) for name in arms}
    sums = defaultdict(lambda: defaultdict(float))
    trees_of = defaultdict(int)
    shapes = dict.fromkeys(arm.shape for arm in arms.values())
    for draw in tqdm(range(instrument.args.draws), desc="efficiency", unit="draw"):
        for shape in shapes:
            for tree, rewards in instrument.sample(shape, draw):
                tokens = token_count(tree)
                trees_of[shape] += 1
                for name, value in sums_over_leaves(tree, rewards).items():
                    sums[shape][name] += value
                for name, arm in arms.items():
                    if arm.shape != shape:
                        continue
                    advantages = advantages_of(arm, tree, rewards)
                    moments[name].add(instrument.gradient(tree, advantages), tokens)
    efficiencies = {
        name: {
            "efficiency_per_million_tokens": 1e6 * each.efficiency(),
            "tokens_per_prompt": statistics.fmean(each.tokens),
        }
        for name, each in moments.items()
    }
    leaves = {
        shape: {
            "pass_rate": sums[shape]["leaf_squares"] / sums[shape]["leaf_count"],
            **leaf_correlations(
                {name: value / trees_of[shape] for name, value in sums[shape].items()}
            ),
        }
        for shape in shapes
    }
    return efficiencies, leaves


def advantages_of(arm: Arm, tree: Tree, rewards: torch.Tensor) -> torch.Tensor:
    """Advantages [nodes] of a tree."""
    estimate = ESTIMATORS[arm.estimator]
    advantages = estimate(rewards, tree.parent, arm.scale, arm.prune_threshold)
    return with_only_children(advantages, tree.parent)


# --- 2. The effective rank of decisions ---


def decision_rank(instrument: Instrument) -> dict:
    """The effective rank of decisions, over the whole model and for each part of it."""
    gradients = []
    for tree, _ in instrument.sample("1", 5000):
        gradients += decision_gradients(instrument, tree)
        if len(gradients) >= instrument.args.decisions:
            break
    stacked = torch.stack(gradients[: instrument.args.decisions])  # [decisions, parameters]
    ranks = {"whole model": effective_rank(stacked)}
    for part, columns in instrument.columns_of_parts().items():
        ranks[part] = effective_rank(torch.cat([stacked[:, each] for each in columns], dim=1))
    return {"decisions": len(stacked), "effective_rank": ranks}


def decision_gradients(instrument: Instrument, tree: Tree) -> list[torch.Tensor]:
    """The gradients [parameters] of the log-probabilities of some decisions in a completion, spread
    over its length."""
    (packed,) = pack([tree], [torch.tensor([0.0, 1.0])], 1 << 20)
    logprobs = token_logprobs(instrument.model, packed.to(device()))  # [tokens]
    unsure = (logprobs < math.log(UNSURE)).nonzero().flatten().tolist()
    spread = unsure[:: max(1, len(unsure) // instrument.args.decisions_per_path)]
    return [instrument.flat_gradient(logprobs[token], keep=True) for token in spread]


def effective_rank(gradients: torch.Tensor) -> float:
    """1 over the mean squared cosine of two different rows of `gradients` [rows, parameters].

    Rows that each point along one of r orthogonal directions, as often along any, give r.

    >>> effective_rank(torch.eye(4).repeat(50, 1)) > 3.9
    True
    """
    unit = torch.nn.functional.normalize(gradients, dim=1)
    squared_cosines = (unit @ unit.T).square()  # [rows, rows]
    rows = len(unit)
    mean = (squared_cosines.sum() - squared_cosines.diagonal().sum()) / (rows * (rows - 1))
    return 1 / max(mean.item(), 1e-12)


# --- 4. The error of step rewards ---


def step_reward_errors(instrument: Instrument, shape: str) -> dict[int, dict]:
    """For each depth: the root mean square error of step rewards."""
    squares = defaultdict(list)
    fresh_variances = defaultdict(list)
    for (tree, rewards), row in zip(instrument.sample(shape, 9000), instrument.problems):
        inner = sorted(set(tree.parent.tolist()) - {-1})
        # The prompt, the first steps and the last inner steps.
        for node in dict.fromkeys([0, *inner[1:2], *inner[-1:]]):
            depth = int(tree.depth[node])
            fresh = fresh_estimate(instrument, tree, node, row)
            squares[depth].append((rewards[node].item() - fresh) ** 2)
            fresh_variances[depth].append(fresh * (1 - fresh) / instrument.args.fresh)
    errors = {}
    for depth, values in sorted(squares.items()):
        mean_square = statistics.fmean(values) - statistics.fmean(fresh_variances[depth])
        errors[depth] = {"nodes": len(values), "rms_error": math.sqrt(max(mean_square, 0.0))}
    return errors


def fresh_estimate(instrument: Instrument, tree: Tree, node: int, row: dict) -> float:
    """The expected reward at a node, from completions that start there and share nothing more."""
    path = tree.completion_ids(node)
    args = instrument.args
    left = args.length - len(path)
    sampler = TreeSampler(
        instrument.model, instrument.tokenizer, [args.fresh], 1, max(1, left), max_rows=512
    )
    (completions,) = sampler.sample([tree.prompt_ids + path], [10**6 + node])
    return instrument.rewards_of(completions, row, path)[0].item()


# --- The report ---


def main() -> None:
    args = arguments(
        __doc__,
        task="arithmetic",
        trees=["6-2-2"],
        groups=[8, 16],
        length=72,
        step_delimiter="",
        step_tokens=0,
        problems=24,
        draws=12,
        direction_draws=4,
        direction_group=32,
        decisions=160,
        decisions_per_path=8,
        fresh=128,
    )
    if args.step_tokens and not args.step_delimiter:
        advice = "name one, or leave it out: without one, steps share --length"
        raise BadInput(f"--step_tokens {args.step_tokens} goes with --step_delimiter; {advice}")
    torch.manual_seed(0)
    with Grader(score=score_of(task_of(args.task))) as grader:
        instrument = Instrument(args, grader)
        efficiencies, leaves = measure_efficiency(instrument, arms_of(args.trees, args.groups))
        rank = decision_rank(instrument)
        errors = step_reward_errors(instrument, args.trees[0])
    best_group = max(
        row["efficiency_per_million_tokens"]
        for name, row in efficiencies.items()
        if name.startswith("grpo")
    )
    for name, row in efficiencies.items():
        efficiency = row["efficiency_per_million_tokens"]
        # The noise may hide the gradient.
        ratio = f"{efficiency / best_group:.2f}" if best_group else "-"
        print(f"{name:20} {efficiency:9.3f} per million tokens, {ratio:>6} x the best GRPO")
    print(f"effective rank of {rank['decisions']} decisions: {rank['effective_rank']}")
    for shape, row in leaves.items():
        print(f"leaves of {shape}: {row}")
    for depth, row in errors.items():
        print(f"depth {depth}: rms error {row['rms_error']:.3f} of step rewards")
    results = {
        "settings": settings_of(args),
        "efficiency": efficiencies,
        "leaves": leaves,
        "rank": rank,
        "step_reward_errors": errors,
    }
    write_results(args.output_dir, f"credit-{args.task.replace(':', '-')}", results)


if __name__ == "__main__":
    run_script(main)
