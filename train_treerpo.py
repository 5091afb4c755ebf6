"""Trains a reasoner by TreeRPO (Tree Relative Policy Optimization, arXiv 2506.05183).

    python train_treerpo.py                   # recipes/demo.yaml: a tiny base learns to be brief
    python train_treerpo.py --config recipes/paper-qwen2.5-math-1.5b.yaml
    accelerate launch --num_processes 8 train_treerpo.py --config recipes/paper-qwen2.5-math-7b.yaml

Each update goes through four phases:

1. sample  From each prompt, grow a tree of steps: continue every unfinished node N times, to depth
           D.
2. score   Verify the answer of every leaf: 1 if right, 0 if not. Nothing else is scored.
           --reward_funcs FILE.py:function scores by a function of your own.
3. credit  A parent's reward is the mean of its children's. A step's advantage is relative to its
           siblings: A = (R - mu) / (mu (1 - mu)), with mu their mean. Groups whose rewards are
           (nearly) alike are pruned.
4. update  Clipped policy-gradient steps on all kept steps of the trees, each token of a tree
           forwarded once.

GRPO is a tree of depth 1: --depth 1 --scale_rewards group. The rest is the same code.
"""

import copy
import importlib.util
import logging
import math
import shlex
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

from data.problems import (
    answer_of,
    benchmark_for,
    completion_text,
    encode_row,
    load_problems,
    score_of,
    short_name,
    task_of,
    template_for,
    tiny_base_of,
)
from reward_functions import BOUNDED_SCALES, TASK, check_names
from run.errors import BadInput, run_script
from run.flags import (
    MAX_GRADER_TIMEOUT,
    ROOT,
    ModelAndDataFlags,
    check_least,
    check_shared,
    flag,
    parse_flags,
    recipe_of,
)

logger = logging.getLogger(__name__)

# The recipes of the built-in tasks, for command lines that name neither a recipe nor a model.
# Without a data set it is the embedded default; data sets that are no built-in task have
# arithmetic's.
DEMOS = {
    "": "recipes/demo.yaml",
    "*": "recipes/arithmetic.yaml",
    "arithmetic": "recipes/arithmetic.yaml",
    "countdown": "recipes/countdown.yaml",
    "sudoku4": "recipes/sudoku4.yaml",
    "maze": "recipes/maze.yaml",
    "chain": "recipes/demo.yaml",
    "exam": "recipes/exam.yaml",
    "reasoning_gym:spell_backward": "recipes/spell-backward.yaml",
}
# Names in the modules below, which are imported when the flags are known to be good.
# Each estimator of advantages, and the scale that its source gives it:
DEFAULT_SCALES = {
    "treerpo": "variance",
    "path_share": "none",
    "outcome": "group",
    "tree_grpo": "group",
    "treerl": "none",
}
ADVANTAGES = tuple(DEFAULT_SCALES)
SCALES = ("variance", "deviation", "group", "none")
LOSS_TYPES = ("dapo", "grpo", "dr_grpo")
# Where so many fresh prompts in a row have no signal, the data or the tree is the trouble.
MOST_REFILLS = 100
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
# Values of flags that once were or that TRL has, and what to write instead.
RETIRED_VALUES = {
    ("scale_rewards", "bernoulli"): "bernoulli is called deviation now; the paper's scale is "
    "variance, its square",
    ("scale_rewards", "batch"): "there is no scale over a batch here; group is TRL's default",
    ("scale_rewards", "true"): "write group, which is what true means in TRL",
    ("scale_rewards", "false"): "write none, which is what false means in TRL",
    ("advantage", "grpo"): "GRPO is the tree of depth 1: write --depth 1 --scale_rewards group; "
    "its credit on trees of any depth is --advantage outcome",
}


@dataclass(frozen=True)
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
        [8],
        "children of an unfinished node, N; or one width per depth, e.g. 8 4 2; 1 only continues",
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
        0.0, "share of grades flipped at random, to study a verifier that errs"
    )
    reward_funcs: list[str] = flag(
        [TASK],
        "what scores completions in training: FILE.py:function with TRL's signature, one or "
        "several; task is the task's own score, by which evaluations score in any case",
    )
    reward_weights: list[float] | None = flag(
        None, "one weight per reward function, for their sum; default: 1 each"
    )
    reward_timeout: float = flag(
        60.0, "seconds for a call of a reward function, with all completions of one prompt"
    )
    refill_zero_signal: int = flag(
        0, "most times that a prompt whose tree has no signal is replaced by a fresh one; 0 is off"
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
        5,
        "the run stops after so many updates in a row whose gradient is not finite, or in which "
        "a reward function failed",
    )
    loss_type: Literal[LOSS_TYPES] = flag(
        "dapo", "mean over tokens (dapo), over steps (grpo), or by a constant (dr_grpo)"
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
    benchmarks: list[str] | None = flag(
        None, "what to evaluate on; default: the test split of dataset_name, or that itself"
    )
    num_samples: int = flag(
        4, "sampled completions per problem in evaluations, beside the greedy one"
    )
    max_new_tokens: int | None = flag(
        None, "longest completion in evaluations; default depth * step_tokens"
    )


def read_flags(argv: list[str]) -> Flags:
    """The flags of a command line, with defaults filled in; checked as far as that needs no model.

    Raises:
        BadInput: names the flag, and what to do.
    """
    flags = parse_flags(Flags, argv, __doc__, DEMOS, RETIRED_VALUES)
    check_shared(flags)
    check_bounds(flags)
    flags = fill_in_defaults(flags)
    check_contradictions(flags)
    return flags


def check_bounds(flags: Flags) -> None:
    """Raises BadInput for a value that is out of range by itself."""
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
        refill_zero_signal=0,
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
    for name in ("temperature", "learning_rate"):
        value = getattr(flags, name)
        if not value > 0:
            raise BadInput(f"--{name} {value}: must be above 0")
    if flags.grade_noise > 1:
        raise BadInput(f"--grade_noise {flags.grade_noise}: a share of grades, so at most 1")
    if flags.refill_zero_signal > MOST_REFILLS:
        limit = f"at most {MOST_REFILLS}"
        raise BadInput(f"--refill_zero_signal {flags.refill_zero_signal}: must be {limit}")
    if flags.lora_dropout >= 1:
        raise BadInput(f"--lora_dropout {flags.lora_dropout}: must be below 1")
    if not 0 < flags.reward_timeout <= MAX_GRADER_TIMEOUT:
        limits = f"must be above 0 and at most {MAX_GRADER_TIMEOUT} seconds"
        raise BadInput(f"--reward_timeout {flags.reward_timeout}: {limits}")
    check_tracker(flags.report_to)


def check_tracker(name: str) -> None:
    """Raises BadInput for a tracker that is not installed.

    accelerate would say nothing, and track nothing.
    """
    packages = {"tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",)}.get(name, ())
    if packages and not any(importlib.util.find_spec(package) for package in packages):
        advice = f"pip install {name}, or leave the flag out"
        raise BadInput(f"--report_to {name}: it is not installed; {advice}")


def fill_in_defaults(flags: Flags) -> Flags:
    """The flags with those filled in that others decide.

    branching becomes one width per depth; model_name_or_path, depth, benchmarks, max_new_tokens and
    scale_rewards get values.

    Raises:
        BadInput: branching and depth contradict each other.
    """
    widths = list(flags.branching)
    if len(widths) == 1:
        widths *= flags.depth or 3
    elif flags.depth not in (None, len(widths)):
        written = " ".join(map(str, widths))
        advice = "leave --depth out, or give one width for each"
        raise BadInput(
            f"--depth {flags.depth}: --branching {written} has {len(widths)} widths; {advice}"
        )
    return replace(
        flags,
        model_name_or_path=flags.model_name_or_path or tiny_base_of(flags.dataset_name),
        branching=widths,
        depth=len(widths),
        benchmarks=flags.benchmarks or [benchmark_for(flags.dataset_name, flags.data_dir)],
        max_new_tokens=flags.max_new_tokens or len(widths) * flags.step_tokens,
        scale_rewards=flags.scale_rewards or DEFAULT_SCALES[flags.advantage],
    )


def check_contradictions(flags: Flags) -> None:
    """Raises BadInput for values that don't go together."""
    if flags.branching[0] < 2:
        reason = "steps without siblings have no advantage; the first depth needs at least 2"
        raise BadInput(f"--branching 1: {reason}")
    if flags.num_minibatches > flags.prompts_per_update:
        limit = f"at most --prompts_per_update {flags.prompts_per_update}"
        raise BadInput(f"--num_minibatches {flags.num_minibatches}: more parts than trees; {limit}")
    check_rewards(flags)
    longest_path = flags.max_prompt_length + flags.depth * flags.step_tokens
    if flags.max_pack_tokens < longest_path:
        need = f"a path can take max_prompt_length + depth * step_tokens = {longest_path} tokens"
        advice = "raise it, or lower one of these"
        raise BadInput(f"--max_pack_tokens {flags.max_pack_tokens}: {need}; {advice}")


def check_rewards(flags: Flags) -> None:
    """Raises BadInput for reward functions that can't be there or don't go with other flags."""
    check_names(flags.reward_funcs)
    weights = flags.reward_weights
    if weights is not None:
        written = " ".join(map(str, weights))
        if not all(map(math.isfinite, weights)):
            raise BadInput(f"--reward_weights {written}: must be finite numbers")
        if len(weights) != len(flags.reward_funcs):
            need = f"must be one for each of the {len(flags.reward_funcs)} --reward_funcs"
            raise BadInput(f"--reward_weights {written}: {need}")
    is_tasks_own = flags.reward_funcs == [TASK] and weights is None
    if flags.grade_noise and not is_tasks_own:
        reason = "flips the grades of a task's own score; leave it out, or --reward_funcs"
        raise BadInput(f"--grade_noise {flags.grade_noise}: {reason}")
    is_bounded = is_tasks_own or flags.scale_rewards in BOUNDED_SCALES
    if flags.prune_threshold >= 1 and is_bounded:
        reason = "no group has rewards so far apart; must be below 1"
        raise BadInput(f"--prune_threshold {flags.prune_threshold}: {reason}")


def check_processes(flags: Flags, processes: int) -> None:
    """Raises BadInput for flags that don't go with the processes that were launched."""
    if flags.prompts_per_update % processes:
        need = f"must be a multiple of the {processes} processes"
        raise BadInput(f"--prompts_per_update {flags.prompts_per_update}: {need}")
    if launched_with_fsdp() and not flags.use_peft:
        advice = "train an adapter, or launch without FSDP"
        raise BadInput(f"--use_peft false: FSDP spreads frozen weights; {advice}")


if __name__ == "__main__":
    # A mistyped flag is answered here, before the imports below, which take seconds.
    run_script(lambda: read_flags(sys.argv[1:]))

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, set_seed
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import get_scheduler

import budget
import eval_math
import plot_results
from advantage import ESTIMATORS, step_rewards, with_only_children
from generate import settle_rope
from learner import Learner, UpdateResult, update_policy
from metrics import Watch, sampling_counts, summarise, token_count, tree_record, tree_statistics
from policy import check_model, check_sampler, checkpoint_layers
from reward import Grader, check_platform
from reward_functions import Rewards, reward_figures
from run.checkpoint import load_checkpoint, random_states, save_checkpoint, set_aside_later
from run.folder import cut_back, open_run, read_lines, write_config
from run.models import load_model
from run.processes import device_dtype, launched_processes, launched_with_fsdp, shard, whole_weights
from run.session import Session
from tree import Tree
from tree_sampler import TreeSampler

# --- The phases of an update; the fourth is learner.py's `update_policy` ---


class Batch(NamedTuple):
    """The prompts of one update on this process."""

    problems: list[dict]  # rows with id, problem and answer
    prompts: list[list[int]]  # token ids
    seeds: list[int]  # one per tree

    def at(self, slots: list[int]) -> "Batch":
        """The part of the batch that stands at these places of it."""
        return Batch(*([values[slot] for slot in slots] for values in self))


class Rollout(NamedTuple):
    """What phases 1 to 3 make of one prompt."""

    problem: dict  # a row with id, problem and answer
    tree: Tree
    rewards: Tensor  # of the steps, [nodes]
    advantages: Tensor  # [nodes]

    @property
    def has_signal(self) -> bool:
        """Whether any group was kept: otherwise nothing can be learned from the tree."""
        return bool(self.advantages.any())


def sample(
    sampler: TreeSampler, batch: Batch, rewards: Rewards, to_text: Callable[[list[int]], str]
) -> tuple[list[Tree], list[Future]]:
    """Phase 1: one tree per prompt, and the grades of its leaves, which are still being made.

    A tree's leaves are sent to be scored as soon as it is whole, while other trees still grow.

    Args:
        to_text: turns the token ids of a completion into text.
    """
    trees: dict[int, Tree] = {}
    grades: dict[int, Future] = {}
    for index, tree in sampler.stream(batch.prompts, batch.seeds):
        completions = [to_text(tree.text_ids(leaf)) for leaf in tree.leaves()]
        trees[index] = tree
        grades[index] = rewards.submit(batch.problems[index], tree, completions)
    in_order = range(len(batch.prompts))
    return [trees[index] for index in in_order], [grades[index] for index in in_order]


def score(
    trees: list[Tree], grades: list[Future], seeds: list[int], noise: float = 0.0
) -> list[Tensor]:
    """Phase 2: the leaf rewards of each tree, [nodes]: 1 or 0 at leaves, or what the reward
    functions gave; NaN elsewhere, and at leaves to which none gave a score.

    Args:
        grades: of each tree's leaves, from `sample`.
        seeds: one per tree, by which grades are flipped.
        noise: the share of grades to flip.
    """
    leaf_rewards = []
    for tree, grade, seed in zip(trees, grades, seeds, strict=True):
        rewards = torch.full((len(tree.parent),), torch.nan)  # [nodes]
        graded = torch.tensor(grade.result())  # [leaves]
        is_flipped = torch.from_numpy(np.random.default_rng(seed).random(len(graded)) < noise)
        rewards[tree.leaves()] = torch.where(is_flipped, 1 - graded, graded)
        leaf_rewards.append(rewards)
    return leaf_rewards


def credit(
    trees: list[Tree], leaf_rewards: list[Tensor], flags: Flags
) -> tuple[list[Tensor], list[Tensor]]:
    """Phase 3: the step rewards and the advantages of each tree, [nodes] each."""
    estimator = ESTIMATORS[flags.advantage]
    scale = flags.scale_rewards or DEFAULT_SCALES[flags.advantage]
    all_rewards, all_advantages = [], []
    for tree, rewards_of_leaves in zip(trees, leaf_rewards, strict=True):
        rewards = step_rewards(tree.parent, rewards_of_leaves)
        advantages = estimator(rewards, tree.parent, scale, flags.prune_threshold)
        all_rewards.append(rewards)
        all_advantages.append(with_only_children(advantages, tree.parent))
    return all_rewards, all_advantages


# --- Setting up a run ---


@dataclass
class Prompts:
    """The training problems: an endless sequence of reshuffled epochs, cut into updates."""

    problems: list[dict]  # rows with id, problem and answer
    ids: list[list[int]]  # the token ids of each problem's prompt
    flags: Flags

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt."""
        return max(map(len, self.ids))

    def batch(self, update: int, accelerator: Accelerator, attempt: int = 0) -> Batch:
        """What this process samples in an update. A tree's seed does not depend on the process.

        Args:
            attempt: 0 is the update's own prompts. Attempt k has what stands in their places where
                they are replaced for the k-th time: other prompts, and seeds that no tree has.
        """
        per_process = self.flags.prompts_per_update // accelerator.num_processes
        first = (update - 1) * self.flags.prompts_per_update
        first += accelerator.process_index * per_process
        positions = range(first, first + per_process)
        order = prompt_order(
            len(self.ids), positions.start, positions.stop, self.flags.seed, attempt
        )
        # A seed of the first attempt is below 2**72, since --seed is below 2**32.
        first_seed = attempt * 2**72 + self.flags.seed * 2**40
        return Batch(
            problems=[self.problems[index] for index in order],
            prompts=[self.ids[index] for index in order],
            seeds=[first_seed + position for position in positions],
        )


def prompt_order(count: int, first: int, last: int, seed: int, attempt: int = 0) -> list[int]:
    """Which of `count` problems stand at positions first ... last - 1 of the reshuffled epochs.

    Args:
        attempt: 0 is that order. Attempt k has in each place the problem that comes k places later
            in a second shuffle of the epoch. So `count` attempts go through all problems, and an
            epoch of each attempt has every problem once.
    """
    epochs = {position // count for position in range(first, last)}
    orders = {epoch: epoch_order(count, seed, epoch, attempt) for epoch in epochs}
    return [int(orders[position // count][position % count]) for position in range(first, last)]


def epoch_order(count: int, seed: int, epoch: int, attempt: int) -> np.ndarray:
    """The order of the problems in one epoch of an attempt (`prompt_order`), [count]."""
    order = np.random.default_rng([seed, epoch]).permutation(count)
    if attempt == 0:
        return order
    ring = np.random.default_rng([seed, epoch, 1]).permutation(count)
    place = np.argsort(ring)  # of each problem in the ring
    return ring[(place[order] + attempt) % count]


def load_prompts(flags: Flags, tokenizer, template: str | None) -> Prompts:
    """The training problems whose prompts are short enough.

    Raises:
        BadInput: none of them is.
    """
    needs_answer = TASK in flags.reward_funcs
    problems = load_problems(flags.dataset_name, "train", *flags.columns, needs_answer=needs_answer)
    task = task_of(flags.dataset_name)
    ids = [encode_row(tokenizer, task, row, template, flags.num_shots) for row in problems]
    limit = flags.max_prompt_length
    usable = [index for index, prompt in enumerate(ids) if 0 < len(prompt) <= limit]
    if not usable:
        raise BadInput(f"--max_prompt_length {limit}: every prompt is longer")
    if len(usable) < len(ids):
        skipped = len(ids) - len(usable)
        logger.warning(
            "%d prompts longer than max_prompt_length %d, or empty, were skipped", skipped, limit
        )
    return Prompts([problems[index] for index in usable], [ids[index] for index in usable], flags)


def frozen_copy(model, dtype: torch.dtype):
    """The model as it is now, in `dtype` and never trained.

    It is the reference of the KL term where all weights train.
    """
    return copy.deepcopy(model).to(dtype).eval().requires_grad_(False)


def make_learner(
    flags: Flags, accelerator: Accelerator, tokenizer, model, dtype: torch.dtype
) -> Learner:
    """The model with its adapter on the device, its optimizer and its schedule.

    Raises:
        BadInput: a setting that peft or transformers refuses, or a model that can't be trained.
    """
    # The initial policy, for the KL term. Under an adapter it is the model without it.
    keeps_reference = flags.beta and not flags.use_peft
    reference = frozen_copy(model, dtype).to(accelerator.device) if keeps_reference else None
    # What is trained: an adapter, or all weights.
    if flags.use_peft:
        targets = flags.lora_target_modules
        lora = LoraConfig(
            r=flags.lora_r,
            lora_alpha=flags.lora_alpha,
            lora_dropout=flags.lora_dropout,
            target_modules="all-linear" if targets == ["all-linear"] else targets,
            task_type="CAUSAL_LM",
        )
        model = get_peft_model(model, lora)
    model.to(accelerator.device)
    if flags.gradient_checkpointing:
        checkpoint_layers(model)
    # Packed trees and sampled steps must agree with plain forward passes.
    check_model(model)
    check_sampler(model, tokenizer, trains=True, use_cuda_graph=flags.use_cuda_graph)
    if launched_with_fsdp():
        shard(model)

    # With AdamW's usual eps of 1e-8 a gradient that is rounding noise becomes a full-size update.
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        trained, lr=flags.learning_rate, weight_decay=flags.weight_decay, eps=1e-6
    )
    scheduler = get_scheduler(
        flags.lr_scheduler_type, optimizer, flags.warmup_steps, flags.max_steps
    )
    return Learner(model, tokenizer, optimizer, scheduler, accelerator, flags, reference)


def make_sampler(flags: Flags, model, tokenizer) -> TreeSampler:
    """The sampler of the trees that the flags ask for."""
    delimiter = flags.step_delimiter
    return TreeSampler(
        model,
        tokenizer,
        branching=flags.branching,
        step_tokens=flags.step_tokens,
        temperature=flags.temperature,
        top_p=flags.top_p,
        top_k=flags.top_k,
        max_rows=flags.max_rows,
        step_delimiter=delimiter.replace("\\n", "\n") if delimiter else None,
        use_cuda_graph=flags.use_cuda_graph,
    )


@dataclass
class Training:
    """Everything that a run needs before its first update."""

    learner: Learner
    sampler: TreeSampler
    prompts: Prompts
    template: str | None  # of prompts
    benchmarks: list[eval_math.Benchmark]  # none where nothing is evaluated

    def to_text(self, ids: list[int]) -> str:
        """The text of a completion."""
        learner = self.learner
        return completion_text(learner.tokenizer, ids, self.template, learner.flags.num_shots)

    def answers(self, tree: Tree) -> dict[int, str | None]:
        """What each leaf of a tree answers."""
        task = task_of(self.learner.flags.dataset_name)
        texts = {leaf: self.to_text(tree.text_ids(leaf)) for leaf in tree.leaves()}
        return {leaf: answer_of(task, text) for leaf, text in texts.items()}


def set_up(flags: Flags) -> Training:
    """Starts the processes; loads and checks the data and the model.

    Raises:
        BadInput: whatever can't be used, by the flag that names it.
    """
    check_platform()
    # Processes and their dtype. An adapter stays in float32 beside a bfloat16 base; where all
    # weights train they are float32, under autocast.
    dtype = device_dtype(flags.bf16, launched_processes().device)
    autocasts = dtype == torch.bfloat16 and not flags.use_peft
    accelerator = Accelerator(mixed_precision="bf16" if autocasts else "no")
    check_processes(flags, accelerator.num_processes)
    set_seed(flags.seed)

    # Weights, then the problems to train and to evaluate on.
    tokenizer, model = load_model(flags, dtype if flags.use_peft else torch.float32)
    template = template_for(flags.prompt_template, tokenizer)
    prompts = load_prompts(flags, tokenizer, template)
    flags = settle_evaluations(flags, prompts.problems)
    test_problems = {}
    if flags.eval_steps:
        test_problems = {
            name: load_problems(name, "test", *flags.columns) for name in flags.benchmarks
        }
    # What trains and what samples, each checked against the model.
    try:
        learner = make_learner(flags, accelerator, tokenizer, model, dtype)
        sampler = make_sampler(flags, learner.model, tokenizer)
    except ValueError as error:  # a setting that peft, transformers or the sampler refuses
        raise BadInput(str(error).splitlines()[0]) from error
    check_lengths(sampler, prompts, learner.reference)
    benchmarks = eval_math.check_benchmarks(learner.model, tokenizer, test_problems, flags)
    # What it will cost, before anything runs.
    if accelerator.is_main_process:
        announce_shared_problems(prompts.problems, test_problems)
        processes, device = accelerator.num_processes, accelerator.device
        print(budget.describe(flags, learner.model, prompts.longest, processes, device, dtype))
    return Training(learner, sampler, prompts, template, benchmarks)


def settle_evaluations(flags: Flags, problems: list[dict]) -> Flags:
    """The flags without evaluations where these would be on the training data, for lack of other
    benchmarks, and it has no answers."""
    has_answers = any(row["answer"] is not None for row in problems)
    if not flags.eval_steps or has_answers or flags.benchmarks != [flags.dataset_name]:
        return flags
    message = (
        "%s has no answers, so there are no evaluations; --benchmarks names data that has some"
    )
    logger.warning(message, flags.dataset_name)
    return replace(flags, eval_steps=0)


def announce_shared_problems(problems: list[dict], test_problems: dict[str, list[dict]]) -> None:
    """Says how many problems of each benchmark are trained on, where any is: scores on these tell
    nothing of others."""
    # The answer belongs to it: a task may ask the same of different rows. It need not be a text.
    trained = {(row["problem"], str(row["answer"])) for row in problems}
    for name, rows in test_problems.items():
        shared = sum((row["problem"], str(row["answer"])) in trained for row in rows)
        if shared:
            print(
                f"evaluations on {name}: {shared} of its {len(rows)} problems are trained on; "
                "--benchmarks names others"
            )


def check_lengths(sampler: TreeSampler, prompts: Prompts, reference) -> None:
    """Checks that the model has positions for the longest path; settles rotary frequencies for it.

    Raises:
        BadInput: it has too few.
    """
    flags = prompts.flags
    try:
        sampler.check_prompts(prompts.ids)
    except ValueError as error:
        length = f"--depth {flags.depth} and --step_tokens {flags.step_tokens}"
        model = f"--model_name_or_path {flags.model_name_or_path}"
        raise BadInput(f"{model} with {length}: {error}") from error
    if reference is not None:
        settle_rope(reference, prompts.longest + flags.depth * flags.step_tokens)


def open_folder(training: Training) -> tuple[Path, int]:
    """The run's folder, and the updates that were made before, after a checkpoint is restored.

    Raises:
        BadInput: the folder or the checkpoint can't be used.
    """
    learner, flags = training.learner, training.learner.flags
    accelerator = learner.accelerator
    model_name = Path(flags.model_name_or_path).name
    output, checkpoint = open_run(flags, f"{model_name}-{short_name(flags.dataset_name)}")
    # Where a run is resumed, its last checkpoint says how far it came.
    done = 0
    if checkpoint:
        done = load_checkpoint(checkpoint, learner, flags, accelerator.process_index)
    # No process looks for another run's config.yaml once this one's is written.
    accelerator.wait_for_everyone()
    # Lines and checkpoints of later updates would be made twice.
    if accelerator.is_main_process:
        write_config(output, flags)
        set_aside_later(output, done)
        cut_back(output / "metrics.jsonl", done)
        cut_back(output / "trees.jsonl", done)
    return output, done


# --- The run ---


def open_session(training: Training, grader: Grader) -> Session:
    """What saves, evaluates, logs and stops around the updates."""
    learner, flags = training.learner, training.learner.flags
    accelerator = learner.accelerator
    output, done = open_folder(training)

    setting = eval_math.Setting(learner.model, learner.tokenizer, accelerator, flags, output)

    def save(update: int) -> None:
        states = gather_object([random_states()])
        if accelerator.is_main_process:
            save_checkpoint(output, update, learner, flags, states)

    def evaluate(update: int) -> tuple[dict, str]:
        with whole_weights(learner.model), accelerator.autocast():
            scores = dict(eval_math.evaluate_each(setting, training.benchmarks, grader))
        return scores, eval_math.format_table(scores)

    return Session(flags, accelerator, output, done, save, evaluate)


class Reporter:
    """Turns what an update gave into its line of metrics."""

    def __init__(self, training: Training, rewards: Rewards, session: Session) -> None:
        self.training = training
        self.rewards = rewards
        self.session = session
        self.watch = Watch()

    def report(
        self,
        update: int,
        first: list[Rollout],
        trained: list[Rollout],
        replaced: list[Rollout],
        result: UpdateResult,
    ) -> None:
        """Logs an update: means over the trees of all processes, its result, its seconds.

        Args:
            first: of the update's own prompts. They show the policy as it is; those that are chosen
                for their signal do not.
            trained, replaced: what `refill` made of them.
        """
        tokenizer = self.training.learner.tokenizer
        # The means and counts are over the trees of all processes.
        own_statistics = [
            tree_statistics(rollout.tree, rollout.rewards, rollout.advantages) for rollout in first
        ]
        reward_reports = gather_object([self.rewards.report])
        row = {
            "update": update,
            **summarise(gather_object(own_statistics)),
            **sampling_counts(
                trained=gather_object([token_count(rollout.tree) for rollout in trained]),
                replaced=gather_object([token_count(rollout.tree) for rollout in replaced]),
            ),
            **reward_figures(reward_reports),
            **vars(result),
            **self.session.seconds,
            "seconds_processor": self.session.processor_seconds(),
            "grader": self.rewards.counts,
        }
        # One tree of the update, for the viewer.
        record = None
        if self.session.keeps_tree(update):
            shown = trained[0]
            answers = self.training.answers(shown.tree)
            record = tree_record(update, *shown, tokenizer, answers)
        self.session.log(row, record)
        # Figures that tell of trouble.
        if self.session.is_main:
            self.watch.look_at(row)
        trees = [rollout.tree for rollout in trained]
        self.session.count_bad_update(update, result.bad_update, trees)
        failures = [failure for report in reward_reports for failure in report.failures]
        self.session.count_failed_rewards(update, failures)


def roll_out(training: Training, rewards: Rewards, session: Session, batch: Batch) -> list[Rollout]:
    """Phases 1 to 3: a tree for each prompt of a batch, with rewards and advantages."""
    flags = training.learner.flags
    # 1. Grow one tree per prompt. A tree is graded while others still grow.
    with training.learner.accelerator.autocast():
        trees, grades = sample(training.sampler, batch, rewards, training.to_text)
    # 2. Wait for the scores that are still missing: 1 or 0 for each leaf, or what functions gave.
    with session.timed("grade"):
        leaf_rewards = score(trees, grades, batch.seeds, flags.grade_noise)
    # 3. Mean of the children, bottom-up; then each step against its siblings.
    rewards_of_steps, advantages = credit(trees, leaf_rewards, flags)
    return list(map(Rollout, batch.problems, trees, rewards_of_steps, advantages))


def refill(
    training: Training, rewards: Rewards, session: Session, update: int, first: list[Rollout]
) -> tuple[list[Rollout], list[Rollout]]:
    """Phases 1 to 3 again, for fresh prompts in the place of those whose trees have no signal.

    A place gets up to --refill_zero_signal fresh prompts, until its tree has signal (dynamic
    sampling, DAPO, arXiv 2503.14476, section 3.2). Which prompts these are depends on the update
    and the place alone. So no process needs to know what another one replaced, nor a resumed run
    what was replaced before it. Processes may make different numbers of rounds: nothing here waits
    for another process.

    Returns:
        What to train, in the places of `first`, and what was replaced.
    """
    accelerator = training.learner.accelerator
    trained = list(first)
    replaced = []
    for attempt in range(1, training.learner.flags.refill_zero_signal + 1):
        slots = [slot for slot, rollout in enumerate(trained) if not rollout.has_signal]
        if not slots:
            break
        batch = training.prompts.batch(update, accelerator, attempt).at(slots)
        for slot, rollout in zip(slots, roll_out(training, rewards, session, batch), strict=True):
            replaced.append(trained[slot])
            trained[slot] = rollout
    return trained, replaced


def main() -> None:
    flags = read_flags(sys.argv[1:])
    announce_demo(sys.argv[1:])
    training = set_up(flags)
    if flags.dry_run:
        return
    learner = training.learner
    task_score = score_of(task_of(flags.dataset_name))
    with (
        Grader(flags.grader_workers, flags.grader_timeout, score=task_score) as grader,
        Rewards(flags, grader) as rewards,
        open_session(training, grader) as session,
    ):
        reporter = Reporter(training, rewards, session)
        for update in session.updates():
            rewards.begin(update)
            batch = training.prompts.batch(update, learner.accelerator)
            with session.timed("sample"), whole_weights(learner.model):
                # 1 to 3. From each prompt grow a tree, score its leaves, give credit to its steps.
                first = roll_out(training, rewards, session, batch)
                # The same for fresh prompts, where no step of a tree got credit.
                trained, replaced = refill(training, rewards, session, update, first)
            # 4. Clipped policy-gradient steps on the steps that have an advantage.
            with session.timed("update"):
                trees = [rollout.tree for rollout in trained]
                advantages = [rollout.advantages for rollout in trained]
                result = update_policy(learner, trees, advantages, update)
            reporter.report(update, first, trained, replaced, result)
    if learner.accelerator.is_main_process:
        save_result(session.output, learner)
        print_summary(session.output, flags, rewards.counts)


def announce_demo(argv: list[str]) -> None:
    """Says which recipe a command line without one has, since its flags are not the defaults."""
    recipe, _ = recipe_of(argv, DEMOS)
    is_demo = recipe != recipe_of(argv)[0]
    if is_demo and launched_processes().is_main_process:
        name = Path(recipe).relative_to(ROOT)
        print(f"flags from {name}; --config or --model_name_or_path choose others")


def save_result(output: Path, learner: Learner) -> None:
    """Writes adapter/, or model/ where all weights were trained.

    Whole or not at all: its name says that the run is finished.
    """
    result = output / ("adapter" if learner.flags.use_peft else "model")
    partial = result.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    learner.model.save_pretrained(partial)
    if not learner.flags.use_peft:  # an adapter is used with its base's tokenizer
        learner.tokenizer.save_pretrained(partial)
    shutil.rmtree(result, ignore_errors=True)
    partial.rename(result)


def print_summary(output: Path, flags: Flags, counts: dict[str, int]) -> None:
    """What was gained, where everything lies and what to run next."""
    curve = plot_results.plot_run(output)
    viewer = plot_results.write_trees(output / "trees.jsonl")
    rows = read_lines(output / "metrics.jsonl")
    compare_evaluations([row for row in rows if "evaluation" in row])
    contents = ", ".join(sorted(path.name for path in output.iterdir()))
    print(f"\ngrading: {counts}")
    print(f"{output}/ holds: {contents}")
    print(f"look at {curve} and {viewer}")
    print(f"next: python eval_math.py {model_words(output, flags)} --num_samples 8")


def model_words(output: Path, flags: Flags) -> str:
    """The words by which eval_math.py finds what was trained; the rest is in config.yaml there."""
    words = ["--adapter", f"{output}/adapter"]
    if not flags.use_peft:
        words = ["--model_name_or_path", f"{output}/model"]
    # The one flag that a run's folder must not decide.
    if flags.trust_remote_code:
        words += ["--trust_remote_code", "true"]
    return shlex.join(words)


def compare_evaluations(evaluations: list[dict]) -> None:
    """Prints the first and the last evaluation on each benchmark, and the gains.

    Gains are in the scores that both of them have: a resumed run may have evaluated on other
    benchmarks, or with other samples, from some update on.
    """
    names = dict.fromkeys(name for row in evaluations for name in row["evaluation"])
    for name in names:
        rows = [row for row in evaluations if name in row["evaluation"]]
        first_update, before = rows[0]["update"], rows[0]["evaluation"][name]
        last_update, after = rows[-1]["update"], rows[-1]["evaluation"][name]
        if first_update == last_update:
            print(
                f"\nAt update {last_update} (there is no other evaluation on it to compare with):"
            )
            print(eval_math.format_table({name: after}))
            continue
        if first_update == 0:
            print(f"\nBefore and after {last_update} updates:")
        else:
            print(f"\nAt update {first_update} and at update {last_update}:")
        print(eval_math.format_table({f"{name} before": before, f"{name} after": after}))
        if before["n"] != after["n"]:
            print(f"these are not the same problems: {before['n']} before and {after['n']} after")
        gains = []
        for key, value in before.items():
            if isinstance(value, dict) and key in after:
                gain = 100 * (after[key]["mean"] - value["mean"])
                gains.append(f"{key} {gain:+.1f}")
        print("gain in points: " + ", ".join(gains))


if __name__ == "__main__":
    run_script(main)
