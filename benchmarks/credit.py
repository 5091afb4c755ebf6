"""The mechanism that the paper claims and does not measure: how noisy are step rewards and the
policy gradient?

    python benchmarks/credit.py      # the tiny base on the built-in task, several minutes on 2 cores

1. The error of a step reward, by depth: the mean of the node's children against a fresh estimate
from `fresh`
   continuations of the same step (root mean square over nodes, less the fresh estimate's own
   variance).
2. The variance of the policy gradient at a fixed policy, over `draws` fresh batches of the same
problems, at about
   equal sampled tokens: E|g - mean g|^2 / |mean g|^2, which does not depend on the scale of
   advantages.
"""

import math
import statistics
from collections import defaultdict

import torch
from common import arguments, device, load, settings_of, write_results

from advantage import ESTIMATORS, step_rewards, with_only_children
from data.arithmetic import PROMPT_TEMPLATE
from data.problems import encode_prompt, load_problems
from packing import pack
from policy import policy_loss, token_logprobs
from reward import Grader
from tree_sampler import TreeSampler

args = arguments(__doc__, problems=24, draws=16, fresh=256, step_tokens=24, shape=[6, 2, 2])
tokenizer, model = load(args.model)
problems = load_problems("arithmetic", "train")[: args.problems]
prompts = [encode_prompt(tokenizer, row["problem"], PROMPT_TEMPLATE) for row in problems]


def rewards_of(
    trees: list, answers: list[str], grader: Grader, prefixes: list[list[int]] | None = None
) -> list:
    """Step rewards [nodes] of every tree; `prefixes` are completion tokens that already stand in
    its prompt."""
    found = []
    for i, (tree, answer) in enumerate(zip(trees, answers)):
        leaves, before = tree.leaves(), prefixes[i] if prefixes else []
        texts = [
            tokenizer.decode(before + tree.completion_ids(leaf), skip_special_tokens=True)
            for leaf in leaves
        ]
        values = torch.full((len(tree.parent),), torch.nan)
        values[leaves] = torch.tensor(grader.grade_batch(texts, [answer] * len(leaves)))
        found.append(step_rewards(tree.parent, values))
    return found


def step_reward_errors(grader: Grader) -> dict:
    sampler = TreeSampler(
        model, tokenizer, args.shape, len(args.shape), args.step_tokens, max_rows=512
    )
    trees = sampler.sample(prompts, list(range(len(prompts))))
    squares, noise = defaultdict(list), defaultdict(list)
    for tree, rewards, row in zip(
        trees, rewards_of(trees, [row["answer"] for row in problems], grader), problems
    ):
        inner = sorted(set(tree.parent.tolist()) - {-1})
        for node in [
            0,
            *inner[1:3],
            *inner[-2:],
        ]:  # the prompt, the first steps, the last inner steps
            depth, path = int(tree.depth[node]), tree.completion_ids(node)
            rest = TreeSampler(
                model,
                tokenizer,
                args.fresh,
                1,
                args.step_tokens * (len(args.shape) - depth),
                max_rows=512,
            )
            (fresh,) = rest.sample([tree.prompt_ids + path], [10**6 + node])
            (value,) = rewards_of([fresh], [row["answer"]], grader, [path])
            mean = value[0].item()
            squares[depth].append((rewards[node].item() - mean) ** 2)
            noise[depth].append(mean * (1 - mean) / args.fresh)
    return {
        depth: {
            "nodes": len(values),
            "rms_error": math.sqrt(
                max(statistics.fmean(values) - statistics.fmean(noise[depth]), 0.0)
            ),
            "children": args.shape[depth],
        }
        for depth, values in sorted(squares.items())
    }


def gradient(trees: list, advantages: list[torch.Tensor]) -> torch.Tensor:
    model.zero_grad()
    packs = [one.to(device()) for one in pack(trees, advantages, 2048)]
    count = sum(len(one.targets) for one in packs)
    for one in packs:
        policy_loss(
            token_logprobs(model, one), one.old_logprobs, one.advantages, normalizer=count
        ).backward()
    # Where no group has signal nothing was trained, and the gradient is 0.
    return torch.cat(
        [
            (p.grad if p.grad is not None else torch.zeros_like(p)).flatten().double()
            for p in model.parameters()
        ]
    )


def gradient_noise(grader: Grader) -> dict:
    tree_sampler = TreeSampler(
        model, tokenizer, args.shape, len(args.shape), args.step_tokens, max_rows=512
    )
    trees = tree_sampler.sample(prompts, [10**7 + i for i in range(len(prompts))])
    sizes = [sum(map(len, tree.tokens)) for tree in trees]
    probe = TreeSampler(model, tokenizer, 8, 1, args.step_tokens * len(args.shape), max_rows=512)
    lengths = [
        len(t) for tree in probe.sample(prompts, list(range(len(prompts)))) for t in tree.tokens[1:]
    ]
    width = max(2, round(statistics.fmean(sizes) / statistics.fmean(lengths)))
    flat_sampler = TreeSampler(
        model, tokenizer, width, 1, args.step_tokens * len(args.shape), max_rows=512
    )
    arms = {
        "treerpo, variance": (tree_sampler, "treerpo", "variance"),
        "treerpo, deviation": (tree_sampler, "treerpo", "deviation"),
        "treerpo, none": (tree_sampler, "treerpo", "none"),
        "path_share, none": (tree_sampler, "path_share", "none"),
        "treerpo, group": (tree_sampler, "treerpo", "group"),
        "outcome on trees, none": (tree_sampler, "outcome", "none"),
        f"grpo, {width} flat, none": (flat_sampler, "treerpo", "none"),
        f"grpo, {width} flat, group": (flat_sampler, "treerpo", "group"),
    }
    gradients, tokens = defaultdict(list), defaultdict(list)
    for draw in range(args.draws):
        grown = {}
        for name, (sampler, estimator, scale) in arms.items():
            if id(sampler) not in grown:
                trees = sampler.sample(prompts, [draw * 1000 + i for i in range(len(prompts))])
                grown[id(sampler)] = (
                    trees,
                    rewards_of(trees, [row["answer"] for row in problems], grader),
                )
            trees, rewards = grown[id(sampler)]
            advantages = [
                ESTIMATORS[estimator](r, tree.parent, scale) for tree, r in zip(trees, rewards)
            ]
            advantages = [
                with_only_children(values, tree.parent) for tree, values in zip(trees, advantages)
            ]
            gradients[name].append(gradient(trees, advantages))
            tokens[name].append(sum(len(t) for tree in trees for t in tree.tokens))
        print(f"draw {draw + 1} of {args.draws}", flush=True)
    exact = torch.stack(gradients["path_share, none"]).mean(
        0
    )  # unbiased, so its mean estimates the true direction
    found = {}
    for name, values in gradients.items():
        stacked = torch.stack(values)
        mean = stacked.mean(0)
        spread = ((stacked - mean) ** 2).sum(1).sum().item() / (len(values) - 1)
        signal = (mean @ mean).item() - spread / len(
            values
        )  # of the true mean: the sample mean's own noise taken off
        direction = torch.nn.functional.cosine_similarity(mean, exact, dim=0).item()
        relative = spread / signal if signal > 0 else None  # None: the noise hides the mean
        found[name] = {"relative_variance": relative, "cosine_of_mean_to_path_share": direction}
        found[name]["sampled_tokens"] = statistics.fmean(tokens[name])
    return found


with Grader() as grader:
    errors, noise = step_reward_errors(grader), gradient_noise(grader)
for depth, row in errors.items():
    print(f"depth {depth}: rms error {row['rms_error']:.3f} of step rewards ({row['nodes']} nodes)")
for name, row in noise.items():
    cells = (f"{key} {'-' if value is None else f'{value:,.3f}'}" for key, value in row.items())
    print(f"{name:24} " + "  ".join(cells))
found = {"settings": settings_of(args), "step_reward_errors": errors, "gradient_noise": noise}
write_results(args.output_dir, "credit-" + "-".join(map(str, args.shape)), found)
