"""How noisy are step rewards, and the policy gradient made of them? The paper claims that the tree
helps here, and does not measure it.

    python benchmarks/credit.py      # the tiny base, built-in task; several minutes on 2 cores

1. The error of a step reward, by depth: the mean of the node's children against a fresh estimate
   from `fresh` continuations of the same step. It is a root mean square over nodes; the fresh
   estimate's own variance is taken off.
2. The variance of the policy gradient at a fixed policy, over `draws` fresh batches of the same
   problems, at about equal sampled tokens: E|g - mean g|^2 / |mean g|^2. It does not depend on the
   scale of advantages.
"""

import math
import statistics
from collections import defaultdict
from typing import NamedTuple

import torch
from common import arguments, device, load, settings_of, write_results

from advantage import ESTIMATORS, step_rewards, with_only_children
from data.arithmetic import PROMPT_TEMPLATE
from data.problems import encode_prompt, load_problems
from packing import pack
from policy import policy_loss, token_logprobs
from reward import Grader
from tree import Tree
from tree_sampler import TreeSampler

args = arguments(__doc__, problems=24, draws=16, fresh=256, step_tokens=24, shape=[6, 2, 2])
tokenizer, model = load(args.model)
problems = load_problems("arithmetic", "train")[: args.problems]
prompts = [encode_prompt(tokenizer, row["problem"], PROMPT_TEMPLATE) for row in problems]
answers = [row["answer"] for row in problems]
depth = len(args.shape)
longest = args.step_tokens * depth


def sampler_of(shape: list[int], step_tokens: int) -> TreeSampler:
    return TreeSampler(model, tokenizer, shape, len(shape), step_tokens, max_rows=512)


def rewards_of(tree: Tree, answer: str, grader: Grader, prefix: list[int] | None = None):
    """Step rewards [nodes] of a tree.

    Args:
        prefix: tokens of the completion that already stand in the tree's prompt.
    """
    leaves = tree.leaves()
    texts = [
        tokenizer.decode((prefix or []) + tree.completion_ids(leaf), skip_special_tokens=True)
        for leaf in leaves
    ]
    grades = grader.grade_batch(texts, [answer] * len(leaves))
    leaf_rewards = torch.full((len(tree.parent),), torch.nan)  # [nodes]
    leaf_rewards[leaves] = torch.tensor(grades)
    return step_rewards(tree.parent, leaf_rewards)


# --- 1. The error of a step reward ---


def step_reward_errors(grader: Grader) -> dict[int, dict]:
    """For each depth: the root mean square error of step rewards."""
    trees = sampler_of(args.shape, args.step_tokens).sample(prompts, list(range(len(prompts))))
    squares = defaultdict(list)
    fresh_variances = defaultdict(list)
    for tree, answer in zip(trees, answers):
        rewards = rewards_of(tree, answer, grader)
        inner = sorted(set(tree.parent.tolist()) - {-1})
        # The prompt, the first steps and the last inner steps.
        for node in [0, *inner[1:3], *inner[-2:]]:
            node_depth = int(tree.depth[node])
            fresh = fresh_estimate(tree, node, answer, grader)
            squares[node_depth].append((rewards[node].item() - fresh) ** 2)
            fresh_variances[node_depth].append(fresh * (1 - fresh) / args.fresh)
    errors = {}
    for node_depth, values in sorted(squares.items()):
        mean_square = statistics.fmean(values) - statistics.fmean(fresh_variances[node_depth])
        errors[node_depth] = {
            "nodes": len(values),
            "rms_error": math.sqrt(max(mean_square, 0.0)),
            "children": args.shape[node_depth],
        }
    return errors


def fresh_estimate(tree: Tree, node: int, answer: str, grader: Grader) -> float:
    """The expected reward at a node, from completions that start there and share nothing more."""
    path = tree.completion_ids(node)
    tokens_left = args.step_tokens * (depth - int(tree.depth[node]))
    sampler = sampler_of([args.fresh], tokens_left)
    (completions,) = sampler.sample([tree.prompt_ids + path], [10**6 + node])
    return rewards_of(completions, answer, grader, path)[0].item()


# --- 2. The variance of the policy gradient ---


class Arm(NamedTuple):
    """A way to sample and an estimator of advantages with its divisor."""

    sampler: TreeSampler
    estimator: str
    scale: str


def make_arms() -> dict[str, Arm]:
    """Estimators on trees, and GRPO with as many completions as cost what a tree costs."""
    trees = sampler_of(args.shape, args.step_tokens)
    width = equal_width(trees)
    flat = sampler_of([width], longest)
    return {
        "treerpo, variance": Arm(trees, "treerpo", "variance"),
        "treerpo, deviation": Arm(trees, "treerpo", "deviation"),
        "treerpo, none": Arm(trees, "treerpo", "none"),
        "path_share, none": Arm(trees, "path_share", "none"),
        "treerpo, group": Arm(trees, "treerpo", "group"),
        "outcome on trees, none": Arm(trees, "outcome", "none"),
        f"grpo, {width} flat, none": Arm(flat, "treerpo", "none"),
        f"grpo, {width} flat, group": Arm(flat, "treerpo", "group"),
    }


def equal_width(tree_sampler: TreeSampler) -> int:
    """How many whole completions have about as many tokens as a tree."""
    trees = tree_sampler.sample(prompts, [10**7 + i for i in range(len(prompts))])
    tree_sizes = [sum(map(len, tree.tokens)) for tree in trees]
    flat_trees = sampler_of([8], longest).sample(prompts, list(range(len(prompts))))
    lengths = [len(tokens) for tree in flat_trees for tokens in tree.tokens[1:]]
    return max(2, round(statistics.fmean(tree_sizes) / statistics.fmean(lengths)))


def gradient_noise(grader: Grader) -> dict[str, dict]:
    """For each arm: the variance of the gradient over its squared mean, the direction of the mean,
    and the sampled tokens of a batch."""
    arms = make_arms()
    gradients = defaultdict(list)
    sampled_tokens = defaultdict(list)
    for draw in range(args.draws):
        seeds = [1000 * draw + i for i in range(len(prompts))]
        # Arms of one sampler share its trees.
        batches: dict[int, tuple[list[Tree], list[torch.Tensor]]] = {}
        for name, arm in arms.items():
            key = id(arm.sampler)
            if key not in batches:
                trees = arm.sampler.sample(prompts, seeds)
                rewards = [rewards_of(*pair, grader) for pair in zip(trees, answers)]
                batches[key] = trees, rewards
            trees, rewards = batches[key]
            gradients[name].append(gradient(trees, advantages_of(arm, trees, rewards)))
            sampled_tokens[name].append(sum(len(ids) for tree in trees for ids in tree.tokens))
        print(f"draw {draw + 1} of {args.draws}", flush=True)

    # path_share is unbiased, so that its mean estimates the true direction.
    true_direction = torch.stack(gradients["path_share, none"]).mean(0)  # [parameters]
    return {
        name: {
            **summary(torch.stack(values), true_direction),
            "sampled_tokens": statistics.fmean(sampled_tokens[name]),
        }
        for name, values in gradients.items()
    }


def advantages_of(arm: Arm, trees: list[Tree], rewards: list[torch.Tensor]) -> list[torch.Tensor]:
    """Advantages [nodes] of each tree."""
    estimate = ESTIMATORS[arm.estimator]
    return [
        with_only_children(estimate(values, tree.parent, arm.scale), tree.parent)
        for tree, values in zip(trees, rewards)
    ]


def gradient(trees: list[Tree], advantages: list[torch.Tensor]) -> torch.Tensor:
    """The policy gradient [parameters] of one batch, normalised by its trained tokens."""
    model.zero_grad()
    packs = [trees_pack.to(device()) for trees_pack in pack(trees, advantages, 2048)]
    trained_tokens = sum(len(trees_pack.targets) for trees_pack in packs)
    for trees_pack in packs:
        logprobs = token_logprobs(model, trees_pack)
        loss = policy_loss(
            logprobs, trees_pack.old_logprobs, trees_pack.advantages, normalizer=trained_tokens
        )
        loss.backward()
    # Where no group has signal nothing was trained, and the gradient is 0.
    parts = [
        torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        for parameter in model.parameters()
    ]
    return torch.cat([part.flatten().double() for part in parts])


def summary(gradients: torch.Tensor, true_direction: torch.Tensor) -> dict[str, float | None]:
    """What `gradient_noise` reports of one arm's gradients [draws, parameters]."""
    draws = len(gradients)
    mean = gradients.mean(0)  # [parameters]
    variance = ((gradients - mean) ** 2).sum().item() / (draws - 1)
    # The squared length of the true mean: the sample mean's, less its own noise.
    signal = (mean @ mean).item() - variance / draws
    cosine = torch.nn.functional.cosine_similarity(mean, true_direction, dim=0).item()
    return {
        # None: the noise hides the mean.
        "relative_variance": variance / signal if signal > 0 else None,
        "cosine_of_mean_to_path_share": cosine,
    }


with Grader() as grader:
    errors = step_reward_errors(grader)
    noise = gradient_noise(grader)
for node_depth, row in errors.items():
    error = f"rms error {row['rms_error']:.3f} of step rewards"
    print(f"depth {node_depth}: {error} ({row['nodes']} nodes)")
for name, row in noise.items():
    cells = [f"{key} {'-' if value is None else f'{value:,.3f}'}" for key, value in row.items()]
    print(f"{name:24} " + "  ".join(cells))
results = {"settings": settings_of(args), "step_reward_errors": errors, "gradient_noise": noise}
write_results(args.output_dir, "credit-" + "-".join(map(str, args.shape)), results)
