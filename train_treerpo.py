"""Trains a reasoner by TreeRPO (Tree Relative Policy Optimization, arXiv 2506.05183).

    python train_treerpo.py                       # recipes/demo.yaml: the tiny base learns arithmetic
    python train_treerpo.py --config recipes/paper-qwen2.5-math-1.5b.yaml
    accelerate launch --num_processes 8 train_treerpo.py --config recipes/paper-qwen2.5-math-7b.yaml

Each update goes through four phases:

1. sample  From each prompt, grow a tree of steps: continue every unfinished node N times, to depth D.
2. grade   Verify the answer of every leaf: 1 if right, 0 if not. Nothing else is scored.
3. credit  A parent's reward is the mean of its children's. A step's advantage is relative to its siblings:
           A = (R - mu) / (mu (1 - mu)), with mu their mean. Groups whose rewards are (nearly) alike
           are pruned.
4. update  Clipped policy-gradient steps on all kept steps of the trees, each token of a tree forwarded once.

GRPO is a tree of depth 1: --depth 1 --scale_rewards group. The rest is the same code.
"""

import copy
import importlib.util
import logging
import math
import shutil
import sys
import time
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from data.problems import completion_text, encode_prompt, load_problems, short_name, template_for
from run.errors import BadInput, run
from run.flags import ModelAndDataFlags, check_least, check_shared, flag, parse_flags

logger = logging.getLogger(__name__)

# Names in the modules below, which are imported when the flags are known to be good.
ADVANTAGES = ("treerpo", "path_share", "outcome", "tree_grpo", "treerl")
SCALES = ("variance", "deviation", "group", "none")
LOSS_TYPES = ("dapo", "grpo", "dr_grpo")
# The schedules of transformers that need no settings of their own and no score of a validation set.
SCHEDULES = (
    "constant",
    "constant_with_warmup",
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "inverse_sqrt",
)
# Values of flags that once were, and what to write instead.
RETIRED_VALUES = {
    (
        "scale_rewards",
        "bernoulli",
    ): "bernoulli is called deviation now; the paper's scale is variance, its square",
    ("advantage", "grpo"): "GRPO is the tree of depth 1: write --depth 1 --scale_rewards group; "
    "its credit on trees of any depth is --advantage outcome",
}


@dataclass
class Flags(ModelAndDataFlags):
    """The flags of train_treerpo.py; names and meanings are TRL's where TRL has them."""

    # Adapter and data
    use_peft: bool = flag(True, "train a LoRA adapter; false trains all weights")
    lora_r: int = flag(16, "rank of the adapter")
    lora_alpha: int = flag(32, "scale of the adapter, over its rank")
    lora_dropout: float = flag(0.0, "dropout in the adapter while training")
    lora_target_modules: list[str] = flag(["all-linear"], "modules that get an adapter")
    dataset_name: str = flag(
        "arithmetic", "name, Hub id or file; a slice may follow, e.g. svamp[:700]"
    )
    max_prompt_length: int = flag(512, "longer prompts are skipped, in tokens")
    # The tree
    branching: list[int] = flag(
        [8], "children of an unfinished node, N; or one width a depth, e.g. 8 4 2; 1 goes on"
    )
    depth: int | None = flag(
        None, "steps from the prompt to a leaf, D; default 3, or as many as branching has widths"
    )
    step_tokens: int = flag(384, "most new tokens in a step, L_step")
    step_delimiter: str | None = flag(
        None, "text that ends a step early; \\n stands for a line break"
    )
    top_k: int = flag(0, "crop of sampling, and of the loss; 0 is off")
    # Credit
    advantage: Literal[ADVANTAGES] = flag(
        "treerpo", "by siblings: treerpo, path_share, treerl; or by whole paths: outcome, tree_grpo"
    )
    scale_rewards: Literal[SCALES] | None = flag(
        None,
        "divisor of advantages: variance mu (1 - mu), its root deviation, the group's own, none; "
        "default: that of the estimator's source, variance for treerpo",
    )
    prune_threshold: float = flag(
        0.0, "groups are left out whose max - min of rewards is at most this; the paper: 0.1"
    )
    grade_noise: float = flag(
        0.0, "share of grades turned round at random, to study a verifier that errs"
    )
    # Update
    max_steps: int = flag(100, "updates")
    prompts_per_update: int = flag(16, "prompts in an update, over all processes")
    num_iterations: int = flag(1, "passes over each batch of trees")
    num_minibatches: int = flag(
        1, "optimizer steps in a pass, each on a part of the trees; the paper: 2"
    )
    learning_rate: float = flag(1e-5, "peak learning rate")
    lr_scheduler_type: Literal[SCHEDULES] = flag(
        "constant_with_warmup", "the schedule, as in transformers"
    )
    warmup_steps: int = flag(
        5, "updates until the peak; Adam's first updates are full-size whatever the gradient"
    )
    weight_decay: float = flag(0.0, "of AdamW")
    max_grad_norm: float = flag(1.0, "gradients are clipped to this norm; 0 is off")
    max_bad_updates: int = flag(
        5, "updates in a row whose gradient is not finite, after which the run stops"
    )
    loss_type: Literal[LOSS_TYPES] = flag(
        "dapo", "mean over tokens (dapo), over steps (grpo), or by a constant"
    )
    epsilon: float = flag(0.2, "clip range of the probability ratio")
    epsilon_high: float | None = flag(None, "upper clip range; default: epsilon")
    beta: float = flag(0.0, "weight of the KL term to the initial policy; the paper: 0.001")
    entropy_coef: float = flag(
        0.0, "weight of a bonus on the policy's mean entropy; the paper: 0.001"
    )
    max_pack_tokens: int = flag(
        4096, "tokens in one training sequence; lower it when training runs out of memory"
    )
    gradient_checkpointing: bool = flag(False, "less memory, about a third more time")
    # Run
    dry_run: bool = flag(False, "print what one update will cost, and stop")
    output_dir: str | None = flag(None, "folder of the run; default results/NAME-TIME")
    resume_from_checkpoint: str | None = flag(
        None, "a checkpoint; alone: the newest one", nargs="?", const="newest"
    )
    logging_steps: int = flag(
        1, "updates between trees kept in trees.jsonl and lines to the tracker; 0: none"
    )
    save_steps: int = flag(50, "updates between checkpoints; 0 for none")
    save_total_limit: int | None = flag(2, "checkpoints to keep")
    report_to: Literal["none", "tensorboard", "wandb"] = flag(
        "none", "tracker, beside metrics.jsonl"
    )
    # Evaluation, by eval_math.py's own code
    eval_steps: int = flag(
        0, "updates between evaluations, also before the first and after the last; 0 for none"
    )
    benchmarks: list[str] = flag(["arithmetic[:500]"], "what to evaluate on")
    num_samples: int = flag(
        4, "sampled completions a problem in evaluations, beside the greedy one"
    )
    max_new_tokens: int | None = flag(
        None, "longest completion in evaluations; default depth * step_tokens"
    )


def read_flags(argv: list[str]) -> Flags:
    """The flags of a command line, checked as far as that needs no model and no processes."""
    flags = parse_flags(Flags, argv, __doc__, "recipes/demo.yaml", RETIRED_VALUES)
    check_values(flags)
    return flags


def check_flags(flags: Flags, processes: int) -> None:
    """`check_values`, and what depends on the number of processes. Raises BadInput."""
    check_values(flags)
    if flags.prompts_per_update % processes:
        raise BadInput(
            f"--prompts_per_update {flags.prompts_per_update}: must be a multiple of the {processes} processes"
        )
    if FSDP and not flags.use_peft:
        raise BadInput(
            "--use_peft false: FSDP spreads frozen weights; train an adapter, or launch without FSDP"
        )


def check_values(flags: Flags) -> None:
    """Raises BadInput for values that no run can have; also fills in what other flags decide:
    branching, depth, max_new_tokens and scale_rewards."""
    check_shared(flags)
    check_least(
        flags,
        branching=1,
        depth=1,
        step_tokens=1,
        top_k=0,
        max_prompt_length=1,
        prompts_per_update=1,
        max_steps=1,
        max_bad_updates=1,
        num_iterations=1,
        num_minibatches=1,
        warmup_steps=0,
        beta=0,
        entropy_coef=0,
        epsilon=0,
        epsilon_high=0,
        prune_threshold=0,
        grade_noise=0,
        lora_r=1,
        lora_alpha=1,
        lora_dropout=0,
        logging_steps=0,
        save_steps=0,
        eval_steps=0,
        save_total_limit=1,
        weight_decay=0,
        max_grad_norm=0,
    )
    widths = " ".join(map(str, flags.branching))
    if len(flags.branching) > 1 and flags.depth not in (None, len(flags.branching)):
        advice = f"--branching {widths} has {len(flags.branching)} widths; leave --depth out, or give one width for each"
        raise BadInput(f"--depth {flags.depth}: {advice}")
    flags.depth = flags.depth or (len(flags.branching) if len(flags.branching) > 1 else 3)
    flags.branching = flags.branching if len(flags.branching) > 1 else flags.branching * flags.depth
    flags.max_new_tokens = flags.max_new_tokens or flags.depth * flags.step_tokens
    for name in ("temperature", "learning_rate"):
        if not getattr(flags, name) > 0:
            raise BadInput(f"--{name} {getattr(flags, name)}: must be above 0")
    if flags.grade_noise > 1:
        raise BadInput(f"--grade_noise {flags.grade_noise}: a share of grades, so at most 1")
    if flags.lora_dropout >= 1:
        raise BadInput(f"--lora_dropout {flags.lora_dropout}: must be below 1")
    if flags.prune_threshold >= 1:
        raise BadInput(
            f"--prune_threshold {flags.prune_threshold}: no group has rewards so far apart; must be below 1"
        )
    check_tracker(flags.report_to)
    if flags.branching[0] < 2:
        raise BadInput(
            "--branching 1: steps without siblings have no advantage; the first depth needs at least 2"
        )
    if flags.num_minibatches > flags.prompts_per_update:
        prompts = f"--prompts_per_update {flags.prompts_per_update}"
        raise BadInput(
            f"--num_minibatches {flags.num_minibatches}: more parts than trees; at most {prompts}"
        )
    longest = flags.max_prompt_length + flags.depth * flags.step_tokens
    if flags.max_pack_tokens < longest:
        path = f"a path can take max_prompt_length + depth * step_tokens = {longest} tokens"
        raise BadInput(
            f"--max_pack_tokens {flags.max_pack_tokens}: {path}; raise it, or lower one of these"
        )
    if flags.scale_rewards is None:
        from advantage import default_scale  # needs torch, so after all that can be refused

        flags.scale_rewards = default_scale(flags.advantage)


def check_tracker(name: str) -> None:
    """Raises BadInput for a tracker that is not installed; accelerate would say nothing and track
    nothing."""
    packages = {"tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",)}.get(name, ())
    if packages and not any(importlib.util.find_spec(package) for package in packages):
        raise BadInput(
            f"--report_to {name}: it is not installed; pip install {name}, or leave the flag out"
        )


if (
    __name__ == "__main__"
):  # a mistyped flag is answered here, before the imports below, which take seconds
    run(lambda: read_flags(sys.argv[1:]))

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.tracking import filter_trackers
from accelerate.utils import gather_object, set_seed
from peft import LoraConfig, get_peft_model
from tqdm import tqdm
from transformers import get_scheduler

import budget
import eval_math
import plot_results
from advantage import ESTIMATORS, default_scale, step_rewards, with_only_children
from generate import settle_rope
from metrics import Watch, summarise, tree_record, tree_statistics
from packing import Pack, pack, split_trees
from policy import (
    check_model,
    check_sampler,
    checkpoint_layers,
    policy_loss,
    token_logprobs,
    token_logprobs_and_entropies,
)
from reward import Grader
from run.checkpoint import (
    StopSignal,
    load_checkpoint,
    random_states,
    save_checkpoint,
    set_aside_later,
)
from run.folder import append_line, cut_back, open_run, read_lines, write_config
from run.models import load_model
from run.processes import FSDP, device_dtype, launched_processes, shard, whole_weights
from tree import Tree
from tree_sampler import TreeSampler

# --- The four phases ---


@contextmanager
def timed(seconds: dict[str, float], phase: str):
    """Writes the seconds that a phase took to `seconds`."""
    start = time.perf_counter()
    yield
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    seconds[f"seconds_{phase}"] = time.perf_counter() - start


def sample_and_grade(
    sampler: TreeSampler,
    prompts: list[list[int]],
    seeds: list[int],
    answers: list[str],
    grader: Grader,
    to_text,
    seconds: dict[str, float],
    noise: float = 0.0,
) -> tuple[list[Tree], list[torch.Tensor]]:
    """Phases 1 and 2: a tree a prompt, and its leaf rewards [nodes]: 1 or 0 at leaves, NaN
    elsewhere.

    A tree is graded while others still grow; `seconds` gets the time of sampling and what grading
    took beyond it."""
    trees: dict[int, Tree] = {}
    grades: dict[int, tuple[list[int], Future]] = {}  # of a tree's leaves
    with timed(seconds, "sample"):
        for i, tree in sampler.stream(prompts, seeds):
            leaves = tree.leaves()
            texts = [to_text(tree.text_ids(leaf)) for leaf in leaves]
            trees[i], grades[i] = tree, (leaves, grader.submit(texts, [answers[i]] * len(texts)))
    with timed(seconds, "grade"):
        rewards = [torch.full((len(trees[i].parent),), torch.nan) for i in range(len(prompts))]
        for i, values in enumerate(rewards):
            leaves, graded = grades[i]
            found = torch.tensor(graded.result())  # [leaves]
            turned = torch.from_numpy(np.random.default_rng(seeds[i]).random(len(found)) < noise)
            values[leaves] = torch.where(turned, 1 - found, found)
    return [trees[i] for i in range(len(prompts))], rewards


def credit(trees: list[Tree], leaf_rewards: list[torch.Tensor], flags: Flags) -> tuple[list, list]:
    """Phase 3: step rewards and advantages, a [nodes] each, of every tree."""
    rewards = [step_rewards(tree.parent, values) for tree, values in zip(trees, leaf_rewards)]
    estimator, scale = (
        ESTIMATORS[flags.advantage],
        flags.scale_rewards or default_scale(flags.advantage),
    )
    advantages = [
        estimator(values, tree.parent, scale, flags.prune_threshold)
        for tree, values in zip(trees, rewards)
    ]
    return rewards, [
        with_only_children(values, tree.parent) for tree, values in zip(trees, advantages)
    ]


@dataclass
class Minibatch:
    """The part of a batch of trees that one optimizer step is made on."""

    trees: list[Tree]  # of this process
    advantages: list[torch.Tensor]  # a [nodes] each
    tokens: int  # trained tokens, over all processes
    steps: int  # trained steps, over all processes
    packs: list[Pack] = field(default_factory=list)  # made when first needed
    references: list[torch.Tensor | None] = field(
        default_factory=list
    )  # a [trained tokens] each, where beta is set


def trained_counts(tree: Tree, advantages: torch.Tensor) -> tuple[int, int]:
    """The tokens and the steps of a tree that are trained: those of nodes with an advantage."""
    nodes = advantages.nonzero().flatten().tolist()
    return sum(len(tree.tokens[node]) for node in nodes), len(nodes)


def make_minibatches(
    trees: list[Tree],
    advantages: list[torch.Tensor],
    flags: Flags,
    accelerator: Accelerator,
    update: int,
) -> list[Minibatch]:
    """Splits the trees of all processes into `num_minibatches` parts, drawn by the seed and the
    update. Every process draws the same split, and keeps its own trees of each part. Parts in which
    nothing is trained are left out."""
    mine = [trained_counts(*one) for one in zip(trees, advantages)]
    counts = gather_object(mine)  # of all trees, in the order of processes
    parts = split_trees(
        [tokens for tokens, _ in counts], flags.num_minibatches, [flags.seed, update]
    )
    first = accelerator.process_index * len(trees)
    minibatches = []
    for part in parts:
        own = [place - first for place in part if first <= place < first + len(trees)]
        tokens, steps = (sum(counts[place][column] for place in part) for column in (0, 1))
        if tokens:
            minibatches.append(
                Minibatch([trees[i] for i in own], [advantages[i] for i in own], tokens, steps)
            )
    return minibatches


def make_packs(part: Minibatch, model, reference, flags: Flags, accelerator: Accelerator) -> None:
    """Fills in the packs of a minibatch, and the log-probabilities under the initial policy where
    beta is set."""
    try:
        packs = pack(part.trees, part.advantages, flags.max_pack_tokens)
    except ValueError as error:  # --max_pack_tokens was large enough until memory ran out
        raise BadInput(
            f"out of memory: {error}; lower --step_tokens, or --gradient_checkpointing true"
        ) from error
    if FSDP:  # whose layers are gathered by all processes or none
        most = accelerator.gather(torch.tensor([len(packs)], device=accelerator.device)).max()
        packs += [Pack.idle()] * (int(most) - len(packs))
    packs = [p.to(accelerator.device) for p in packs]
    references = [None] * len(packs)
    if flags.beta:
        sampling = (flags.temperature, flags.top_p, flags.top_k)
        initial = nullcontext() if reference is not None else model.disable_adapter()
        with torch.no_grad(), initial:
            references = [
                token_logprobs(model if reference is None else reference, p, *sampling)
                for p in packs
            ]
    part.packs, part.references = packs, references


def add_gradients(
    model, part: Minibatch, flags: Flags, accelerator: Accelerator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Forward and backward of every pack of this process.

    Returns:
        Sums over trained tokens, [5]: the loss, clipped tokens, |difference| to the sampling
        policy, KL to the initial policy, entropy. And the largest difference, [].
    """
    sums = torch.zeros(5, device=accelerator.device, dtype=torch.double)
    largest = torch.zeros((), device=accelerator.device)
    high = 1 + (flags.epsilon if flags.epsilon_high is None else flags.epsilon_high)
    full_tree = (
        sum(math.prod(flags.branching[: d + 1]) for d in range(flags.depth)) * flags.step_tokens
    )
    constant = flags.prompts_per_update * full_tree / flags.num_minibatches
    normalizer = {"dapo": part.tokens, "grpo": part.steps, "dr_grpo": constant}[flags.loss_type]
    sampling = (flags.temperature, flags.top_p, flags.top_k)
    for p, reference in zip(part.packs, part.references):
        with accelerator.autocast():
            if flags.entropy_coef:
                logprobs, entropies = token_logprobs_and_entropies(
                    model, p, *sampling
                )  # [trained tokens] each
            else:
                logprobs, entropies = token_logprobs(model, p, *sampling), None
        loss = policy_loss(
            logprobs,
            p.old_logprobs,
            p.advantages,
            flags.epsilon,
            flags.epsilon_high,
            flags.beta,
            reference,
            flags.loss_type,
            p.steps,
            normalizer,
            flags.entropy_coef,
            entropies,
            part.tokens,
        )
        loss.backward()
        with torch.no_grad():
            difference = logprobs - p.old_logprobs
            clipped = torch.where(
                p.advantages > 0, difference.exp() > high, difference.exp() < 1 - flags.epsilon
            )
            gap = torch.zeros_like(logprobs) if reference is None else reference - logprobs
            kl = (gap.exp() - gap - 1).sum()
            spread = torch.zeros_like(kl) if entropies is None else entropies.sum()
            sums += torch.stack([loss, clipped.sum(), difference.abs().sum(), kl, spread]).double()
            largest = torch.cat([largest[None], difference.abs()]).max()
    return sums, largest


def update_policy(
    model,
    optimizer,
    trees,
    advantages,
    flags: Flags,
    accelerator: Accelerator,
    reference=None,
    update: int = 0,
) -> dict[str, float]:
    """Phase 4: `num_iterations` passes over the trees of all processes, each of `num_minibatches`
    optimizer steps.

    Every process adds up the gradients of its own packs, whose losses are divided by counts over
    all processes; one reduction adds the processes'. So one process and many make the same update
    from the same trees. Ratios are to the policy that sampled the trees in every step. A process
    that runs out of memory continues with half of `flags.max_pack_tokens`.

    Args:
        reference: the frozen initial policy, where all weights are trained and beta is set; under
            an adapter the initial policy is the model without it.
        update: the number of the update, by which the split into minibatches is drawn.
    """
    parts = make_minibatches(trees, advantages, flags, accelerator, update)
    tokens = sum(part.tokens for part in parts)
    if not tokens:
        return {
            "trained_tokens": 0
        }  # every group was pruned: there is nothing to learn from this batch
    model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]

    def gradients_of(part: Minibatch) -> tuple[torch.Tensor, torch.Tensor]:
        while True:
            optimizer.zero_grad()
            try:
                if not part.references:
                    make_packs(part, model, reference, flags, accelerator)
                return add_gradients(model, part, flags, accelerator)
            except torch.OutOfMemoryError as error:
                if FSDP:  # the others would wait for this process for ever
                    raise BadInput(
                        f"--max_pack_tokens {flags.max_pack_tokens}: out of memory; lower it"
                    ) from error
                flags.max_pack_tokens //= 2
                logger.warning(
                    "out of memory: going on with --max_pack_tokens %d", flags.max_pack_tokens
                )
            part.packs, part.references = [], []
            torch.cuda.empty_cache()

    sampling_gap = None
    for _ in range(flags.num_iterations):
        totals, norms = torch.zeros(5, dtype=torch.double), []
        for part in parts:
            sums, largest = gradients_of(part)
            if accelerator.num_processes > 1:
                for p in parameters:  # a process whose groups were all pruned has none to add
                    p.grad = accelerator.reduce(
                        torch.zeros_like(p) if p.grad is None else p.grad, "sum"
                    )
            norm = torch.nn.utils.clip_grad_norm_(parameters, flags.max_grad_norm or math.inf)
            if (
                not norm.isfinite()
            ):  # of the sum over processes: all of them skip it, and what follows it
                return {"trained_tokens": tokens, "bad_update": True}
            optimizer.step()
            norms.append(float(norm))
            sums = accelerator.reduce(sums, "sum").cpu()
            totals += sums
            if (
                sampling_gap is None
            ):  # before any step: what differs now is sampling against training
                largest = accelerator.gather(largest[None]).max().item()
                mean = sums[2].item() / part.tokens
                sampling_gap = {"logprob_difference_mean": mean, "logprob_difference_max": largest}
    loss, clipped, _, kl, entropies = totals.tolist()  # of the last pass
    return {
        "loss": loss / len(parts),
        "clip_share": clipped / tokens,
        "kl": kl / tokens if flags.beta else None,
        "entropy_trained": entropies / tokens if flags.entropy_coef else None,
        "grad_norm": sum(norms) / len(norms),
        **sampling_gap,
        "trained_tokens": tokens,
        "packs": sum(len(part.packs) for part in parts),
    }


# --- The run ---


def prompt_order(count: int, first: int, last: int, seed: int) -> list[int]:
    """Which problems stand at places first ... last - 1 of an endless sequence of reshuffled
    epochs."""
    orders = {
        e: np.random.default_rng([seed, e]).permutation(count)
        for e in {p // count for p in range(first, last)}
    }
    return [int(orders[place // count][place % count]) for place in range(first, last)]


def load_prompts(
    flags: Flags, tokenizer, template: str | None
) -> tuple[list[dict], list[list[int]]]:
    """The training problems whose prompts are short enough, and their prompts' token ids."""
    problems = load_problems(flags.dataset_name, "train", *flags.columns)
    prompts = [encode_prompt(tokenizer, p["problem"], template, flags.num_shots) for p in problems]
    kept = [i for i, ids in enumerate(prompts) if 0 < len(ids) <= flags.max_prompt_length]
    if len(kept) < len(prompts):
        number, limit = len(prompts) - len(kept), flags.max_prompt_length
        logger.warning(
            "%d prompts longer than max_prompt_length %d, or empty, were skipped", number, limit
        )
    if not kept:
        raise BadInput(f"--max_prompt_length {flags.max_prompt_length}: every prompt is longer")
    return [problems[i] for i in kept], [prompts[i] for i in kept]


def frozen_copy(model, dtype: torch.dtype):
    """The model as it is now, in `dtype` and never trained: the reference of the KL term where all
    weights train."""
    return copy.deepcopy(model).to(dtype).eval().requires_grad_(False)


def build(flags: Flags, tokenizer, model, accelerator: Accelerator):
    """The model with its adapter on the device, the sampler, the optimizer and the schedule, all
    checked."""
    try:
        if flags.use_peft:
            targets = flags.lora_target_modules
            lora = LoraConfig(
                r=flags.lora_r,
                lora_alpha=flags.lora_alpha,
                lora_dropout=flags.lora_dropout,
                target_modules=targets[0] if targets == ["all-linear"] else targets,
                task_type="CAUSAL_LM",
            )
            model = get_peft_model(model, lora)
        model.to(accelerator.device)
        if flags.gradient_checkpointing:
            checkpoint_layers(model)
        check_model(model)
        check_sampler(model, tokenizer, trains=True)
        delimiter = flags.step_delimiter and flags.step_delimiter.replace("\\n", "\n")
        sampler = TreeSampler(
            model,
            tokenizer,
            flags.branching,
            flags.depth,
            flags.step_tokens,
            flags.temperature,
            flags.top_p,
            flags.top_k,
            flags.max_rows,
            delimiter,
        )
        if FSDP:
            shard(model)
        trained = [p for p in model.parameters() if p.requires_grad]
        # With AdamW's usual eps of 1e-8 a gradient that is rounding noise becomes an update of full
        # size.
        optimizer = torch.optim.AdamW(
            trained, lr=flags.learning_rate, weight_decay=flags.weight_decay, eps=1e-6
        )
        scheduler = get_scheduler(
            flags.lr_scheduler_type, optimizer, flags.warmup_steps, flags.max_steps
        )
    except ValueError as error:  # a setting that peft, transformers or the sampler refuses
        raise BadInput(str(error).splitlines()[0]) from error
    return model, sampler, optimizer, scheduler


def main() -> None:
    flags = read_flags(sys.argv[1:])
    dtype = device_dtype(flags.bf16, launched_processes().device)
    # An adapter stays in float32 beside a bfloat16 base; where all weights train they are float32,
    # under autocast.
    accelerator = Accelerator(
        mixed_precision="bf16" if dtype == torch.bfloat16 and not flags.use_peft else "no"
    )
    check_flags(flags, accelerator.num_processes)
    set_seed(flags.seed)
    tokenizer, model = load_model(flags, dtype if flags.use_peft else torch.float32)
    template = template_for(flags.dataset_name, flags.prompt_template)
    problems, prompts = load_prompts(flags, tokenizer, template)
    benchmarks = {
        name: load_problems(name, "test", *flags.columns)
        for name in flags.benchmarks
        if flags.eval_steps
    }
    reference = (
        frozen_copy(model, dtype).to(accelerator.device)
        if flags.beta and not flags.use_peft
        else None
    )
    model, sampler, optimizer, scheduler = build(flags, tokenizer, model, accelerator)
    try:
        sampler.check_prompts(prompts)
    except ValueError as error:
        length = f"--depth {flags.depth} and --step_tokens {flags.step_tokens}"
        raise BadInput(
            f"--model_name_or_path {flags.model_name_or_path} with {length}: {error}"
        ) from error
    longest = max(map(len, prompts))
    if reference is not None:
        settle_rope(reference, longest + flags.depth * flags.step_tokens)
    if flags.eval_steps:
        eval_math.check_benchmarks(model, tokenizer, benchmarks, flags)
    if accelerator.is_main_process:
        print(
            budget.describe(
                flags, model, longest, accelerator.num_processes, accelerator.device, dtype
            )
        )
    if flags.dry_run:
        return
    output, checkpoint = open_run(
        flags, f"{Path(flags.model_name_or_path).name}-{short_name(flags.dataset_name)}"
    )
    rank = accelerator.process_index
    done = (
        load_checkpoint(checkpoint, model, optimizer, scheduler, flags, rank) if checkpoint else 0
    )
    metrics_file, trees_file = output / "metrics.jsonl", output / "trees.jsonl"
    accelerator.wait_for_everyone()  # nobody looks for another run's config.yaml once this one's is written
    if accelerator.is_main_process:
        write_config(output, flags)
        set_aside_later(output, done)
        cut_back(metrics_file, done)
        cut_back(trees_file, done)
    if flags.report_to != "none":
        accelerator.project_configuration.set_directories(str(output))
        accelerator.log_with = filter_trackers(flags.report_to, str(output))
        accelerator.init_trackers(
            "treerpo", {k: v for k, v in vars(flags).items() if isinstance(v, (int, float, str))}
        )

    def evaluate(update: int) -> None:
        """Scores the policy on every benchmark and writes a line of metrics and the completions."""
        with whole_weights(model), accelerator.autocast():
            scores = eval_math.evaluate(
                model, tokenizer, benchmarks, grader, accelerator, flags, output
            )
        if accelerator.is_main_process:
            append_line(metrics_file, {"update": update, "evaluation": scores})
            bar.write(f"update {update}\n{eval_math.format_table(scores)}")

    share = flags.prompts_per_update // accelerator.num_processes
    live = replace(flags)  # a copy, in which running out of memory may lower max_pack_tokens
    quiet = (
        {} if accelerator.is_main_process else {"disable": True}
    )  # left out, TQDM_DISABLE decides
    bar = tqdm(total=flags.max_steps, initial=done, unit="update", **quiet)
    bad_updates, watch = 0, Watch()
    with bar, Grader(flags.grader_workers, flags.grader_timeout) as grader, StopSignal() as stop:
        if flags.eval_steps and (done % flags.eval_steps == 0 or done == flags.max_steps):
            evaluate(done)
        for update in range(done + 1, flags.max_steps + 1):
            seconds: dict[str, float] = {}
            first = (update - 1) * flags.prompts_per_update + rank * share
            chosen = prompt_order(len(prompts), first, first + share, flags.seed)
            seeds = [
                flags.seed * 2**40 + place for place in range(first, first + share)
            ]  # whoever samples the tree
            with whole_weights(model), accelerator.autocast():
                trees, leaf_rewards = sample_and_grade(  # 1. and 2.
                    sampler,
                    [prompts[i] for i in chosen],
                    seeds,
                    [problems[i]["answer"] for i in chosen],
                    grader,
                    lambda ids: completion_text(tokenizer, ids, template, flags.num_shots),
                    seconds,
                    flags.grade_noise,
                )
            rewards, advantages = credit(trees, leaf_rewards, flags)  # 3.
            with timed(seconds, "update"):  # 4.
                learning_rate = scheduler.get_last_lr()[0]
                updated = update_policy(
                    model, optimizer, trees, advantages, live, accelerator, reference, update
                )
                scheduler.step()

            grown = gather_object(
                [tree_statistics(*one) for one in zip(trees, rewards, advantages)]
            )
            row = {
                "update": update,
                **summarise(grown),
                **updated,
                "learning_rate": learning_rate,
                **seconds,
            }
            logged = flags.logging_steps and update % flags.logging_steps == 0
            if logged:
                accelerator.log(
                    {name: value for name, value in row.items() if value is not None}, step=update
                )
            if accelerator.is_main_process:
                append_line(metrics_file, {**row, "grader": dict(grader.stats)})
                if logged:
                    kept = tree_record(
                        update, problems[chosen[0]], trees[0], rewards[0], advantages[0], tokenizer
                    )
                    append_line(trees_file, kept)
                watch.look_at(row)
                bar.set_postfix(
                    reward=f"{row['reward']:.3f}",
                    kept=f"{row['kept_groups_share']:.2f}",
                    length=f"{row['completion_length']:.0f}",
                )
            bar.update()
            bad_updates = bad_updates + 1 if "bad_update" in row else 0
            if bad_updates:  # kept for inspection
                torch.save(
                    [vars(tree) for tree in trees], output / f"bad_update-{update}-{rank}.pt"
                )
                logger.warning(
                    "update %d skipped: its gradient is not finite; its trees are in %s",
                    update,
                    output,
                )
            if bad_updates == flags.max_bad_updates:
                raise BadInput(
                    f"--max_bad_updates: {bad_updates} gradients in a row were not finite; look at {output}/"
                    f"bad_update-*.pt, or go on from a checkpoint with a lower --learning_rate"
                )
            last = update == flags.max_steps
            stopping = bool(
                accelerator.reduce(
                    torch.tensor(float(stop.asked), device=accelerator.device), "sum"
                )
            )
            if stopping or (
                flags.save_steps and (update % flags.save_steps == 0 or last)
            ):  # before evaluating
                states = gather_object([random_states()])
                if accelerator.is_main_process:
                    save_checkpoint(
                        output, update, model, tokenizer, optimizer, scheduler, flags, states
                    )
            if stopping:
                accelerator.wait_for_everyone()  # a launcher ends the others as soon as one leaves
                stop.leave(
                    f"update {update} is saved; go on by the same command with --output_dir {output} "
                    "--resume_from_checkpoint"
                )
            if flags.eval_steps and (update % flags.eval_steps == 0 or last):
                evaluate(update)
    accelerator.end_training()
    if accelerator.is_main_process:
        result = output / ("adapter" if flags.use_peft else "model")
        partial = result.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        model.save_pretrained(partial)
        if not flags.use_peft:  # an adapter is used with its base's
            tokenizer.save_pretrained(partial)
        shutil.rmtree(result, ignore_errors=True)
        partial.rename(result)  # whole or not at all: its name says that the run is finished
        print_summary(output, flags, grader)


def compare_evaluations(evaluations: list[dict]) -> None:
    """Prints for each benchmark its first and its last evaluation, and the gains in the scores that
    both of them have: a resumed run may have evaluated on other benchmarks, or with other samples,
    from some update on."""
    for name in dict.fromkeys(name for row in evaluations for name in row["evaluation"]):
        rows = [row for row in evaluations if name in row["evaluation"]]
        (first, before), (last, after) = (
            (row["update"], row["evaluation"][name]) for row in (rows[0], rows[-1])
        )
        if first == last:
            print(f"\nAt update {last} (there is no other evaluation on it to compare with):")
            print(eval_math.format_table({name: after}))
            continue
        print(
            f"\nBefore and after {last} updates:"
            if first == 0
            else f"\nAt update {first} and at update {last}:"
        )
        print(eval_math.format_table({f"{name} before": before, f"{name} after": after}))
        if before["n"] != after["n"]:
            print(f"these are not the same problems: {before['n']} before and {after['n']} after")
        shared = [key for key, value in before.items() if isinstance(value, dict) and key in after]
        gains = [f"{key} {100 * (after[key]['mean'] - before[key]['mean']):+.1f}" for key in shared]
        print("gain in points: " + ", ".join(gains))


def print_summary(output: Path, flags: Flags, grader: Grader) -> None:
    """What was gained, where everything lies and what to run next."""
    curve, viewer = plot_results.plot_run(output), plot_results.write_trees(output / "trees.jsonl")
    compare_evaluations(
        [row for row in read_lines(output / "metrics.jsonl") if "evaluation" in row]
    )
    print(f"\ngrading: {dict(grader.stats)}")
    print(f"{output}/ holds: {', '.join(sorted(path.name for path in output.iterdir()))}")
    base = f" --model_name_or_path {flags.model_name_or_path}" * (
        flags.model_name_or_path != Flags.model_name_or_path
    )
    trained = (
        f"{base} --adapter {output}/adapter"
        if flags.use_peft
        else f" --model_name_or_path {output}/model"
    )
    print(f"look at {curve} and {viewer}\nnext: python eval_math.py{trained} --num_samples 8")


if __name__ == "__main__":
    run(main)
