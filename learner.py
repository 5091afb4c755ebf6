"""Phase 4 of an update: trees and advantages -> optimizer steps.

A batch of trees is split into minibatches by whole trees. Each minibatch is packed, its gradients
are added up over packs and processes, and one optimizer step is made on it.
"""

import math
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from packing import Pack, pack, split_trees
from policy import policy_loss, token_logprobs, token_logprobs_and_entropies
from run.errors import BadInput
from run.memory import MemoryLimit
from run.processes import launched_with_fsdp
from tree import Tree

# What `add_gradients` adds up over trained tokens: the loss, clipped tokens, |difference| to the
# sampling policy, KL to the initial policy, entropy.
SUMS = ("loss", "clipped", "difference", "kl", "entropy")


@dataclass
class Learner:
    """The policy that is trained, and what trains it."""

    model: torch.nn.Module
    tokenizer: object
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    accelerator: Accelerator
    flags: object  # those of train_treerpo.py
    # The initial policy, frozen, where all weights are trained and beta is set. Under an adapter
    # the initial policy is the model without it.
    reference: torch.nn.Module | None = None
    pack_limit: MemoryLimit = field(init=False)

    def __post_init__(self) -> None:
        self.pack_limit = MemoryLimit("max_pack_tokens", self.flags.max_pack_tokens)

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        """What is trained."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    @property
    def sampling(self) -> tuple[float, float, int]:
        """Temperature, top_p and top_k, by which the loss speaks of the policy that sampled."""
        return self.flags.temperature, self.flags.top_p, self.flags.top_k


@dataclass
class UpdateResult:
    """What an update did.

    A figure is None where there is none: nothing was trained, or beta is 0.
    """

    trained_tokens: int  # over all processes
    learning_rate: float
    loss: float | None = None  # of the last pass, as all that follows
    clip_share: float | None = None  # of trained tokens
    kl: float | None = None  # to the initial policy, mean per trained token
    entropy_trained: float | None = None  # nats, mean per trained token
    grad_norm: float | None = None  # before clipping, mean over optimizer steps
    # |difference| of log-probabilities between sampling and training, before the first step.
    logprob_difference_mean: float | None = None
    logprob_difference_max: float | None = None
    packs: int = 0  # on this process
    bad_update: bool = False  # a gradient was not finite: the update was skipped from there on


def update_policy(
    learner: Learner, trees: list[Tree], advantages: list[Tensor], update: int = 0
) -> UpdateResult:
    """Phase 4: `num_iterations` passes over the trees, each of `num_minibatches` optimizer steps.

    Every process adds up the gradients of its own packs, whose losses are divided by counts over
    all processes; one reduction adds the processes'. So one process and many make the same update
    from the same trees. Ratios are to the policy that sampled the trees in every step. A process
    that runs out of memory continues with half of max_pack_tokens.

    Args:
        advantages: [nodes] of each tree.
        update: its number, by which the split into minibatches is drawn.
    """
    minibatches = make_minibatches(learner, trees, advantages, update)
    result = UpdateResult(
        trained_tokens=sum(minibatch.tokens for minibatch in minibatches),
        learning_rate=learner.scheduler.get_last_lr()[0],
    )
    if minibatches:  # otherwise every group was pruned: there is nothing to learn
        learner.model.train()
        for _ in range(learner.flags.num_iterations):
            if not make_pass(learner, minibatches, result):
                result = UpdateResult(result.trained_tokens, result.learning_rate, bad_update=True)
                break
    learner.scheduler.step()
    return result


def make_pass(learner: Learner, minibatches: list["Minibatch"], result: UpdateResult) -> bool:
    """One pass over the minibatches, with one optimizer step for each; writes to `result`.

    Returns:
        False where a gradient was not finite; no step was made on it or after it.
    """
    totals = torch.zeros(len(SUMS), dtype=torch.double)
    norms = []
    for minibatch in minibatches:
        sums, largest_difference = gradients_of(learner, minibatch)
        norm = reduce_gradients(learner)
        if not norm.isfinite():  # of the sum over processes: all of them skip what follows
            return False
        learner.optimizer.step()
        norms.append(float(norm))
        sums = learner.accelerator.reduce(sums, "sum").cpu()
        totals += sums
        if result.logprob_difference_mean is None:  # before any step: sampling against training
            largest = learner.accelerator.gather(largest_difference[None]).max().item()
            result.logprob_difference_mean = (
                sums[SUMS.index("difference")].item() / minibatch.tokens
            )
            result.logprob_difference_max = largest

    total = dict(zip(SUMS, totals.tolist(), strict=True))
    tokens = result.trained_tokens
    result.loss = total["loss"] / len(minibatches)
    result.clip_share = total["clipped"] / tokens
    result.kl = total["kl"] / tokens if learner.flags.beta else None
    result.entropy_trained = total["entropy"] / tokens if learner.flags.entropy_coef else None
    result.grad_norm = sum(norms) / len(norms)
    result.packs = sum(len(minibatch.packs) for minibatch in minibatches)
    return True


@dataclass
class Minibatch:
    """The part of a batch of trees that one optimizer step is made on."""

    trees: list[Tree]  # of this process
    advantages: list[Tensor]  # [nodes] of each tree
    tokens: int  # trained tokens, over all processes
    steps: int  # trained steps, over all processes
    # Made when first needed, and anew when memory runs out:
    packs: list[Pack] = field(default_factory=list)
    reference_logprobs: list[Tensor | None] = field(default_factory=list)  # [trained tokens] each
    pack_tokens: int | None = None  # the size that the packs were made for


def trained_counts(tree: Tree, advantages: Tensor) -> tuple[int, int]:
    """The tokens and the steps of a tree that are trained: those of nodes with an advantage."""
    trained_nodes = advantages.nonzero().flatten().tolist()
    return sum(len(tree.tokens[node]) for node in trained_nodes), len(trained_nodes)


def make_minibatches(
    learner: Learner, trees: list[Tree], advantages: list[Tensor], update: int
) -> list[Minibatch]:
    """Splits the trees of all processes into `num_minibatches` parts, drawn by seed and update.

    Every process draws the same split, and keeps its own trees of each part. Parts in which nothing
    is trained are left out.
    """
    flags = learner.flags
    own_counts = [trained_counts(*pair) for pair in zip(trees, advantages, strict=True)]
    counts = gather_object(own_counts)  # of all trees, in the order of processes
    tokens_of_trees = [tokens for tokens, _ in counts]
    parts = split_trees(tokens_of_trees, flags.num_minibatches, [flags.seed, update])
    first = learner.accelerator.process_index * len(trees)  # of this process's trees
    minibatches = []
    for part in parts:
        own = [index - first for index in part if first <= index < first + len(trees)]
        minibatch = Minibatch(
            trees=[trees[index] for index in own],
            advantages=[advantages[index] for index in own],
            tokens=sum(counts[index][0] for index in part),
            steps=sum(counts[index][1] for index in part),
        )
        if minibatch.tokens:
            minibatches.append(minibatch)
    return minibatches


def gradients_of(learner: Learner, minibatch: Minibatch) -> tuple[Tensor, Tensor]:
    """Leaves the gradients of a minibatch in the parameters; returns what `add_gradients` does."""

    def attempt(max_pack_tokens: int) -> tuple[Tensor, Tensor]:
        learner.optimizer.zero_grad()
        try:
            if minibatch.pack_tokens != max_pack_tokens:
                make_packs(learner, minibatch, max_pack_tokens)
            return add_gradients(learner, minibatch)
        except torch.OutOfMemoryError as error:
            if launched_with_fsdp():  # the others would wait for this process for ever
                reason = "out of memory; lower it"
                raise BadInput(f"--max_pack_tokens {max_pack_tokens}: {reason}") from error
            raise

    return learner.pack_limit.run(attempt)


def make_packs(learner: Learner, minibatch: Minibatch, max_pack_tokens: int) -> None:
    """Fills in the packs of a minibatch, and the log-probabilities under the initial policy."""
    device = learner.accelerator.device
    try:
        packs = pack(minibatch.trees, minibatch.advantages, max_pack_tokens)
    except ValueError as error:  # --max_pack_tokens was large enough until memory ran out
        advice = "lower --step_tokens, or --gradient_checkpointing true"
        raise BadInput(f"out of memory: {error}; {advice}") from error
    if launched_with_fsdp():  # whose layers are gathered by all processes or none
        most = learner.accelerator.gather(torch.tensor([len(packs)], device=device)).max()
        packs += [Pack.idle()] * (int(most) - len(packs))
    packs = [each.to(device) for each in packs]
    minibatch.reference_logprobs = [initial_logprobs(learner, each) for each in packs]
    minibatch.packs = packs
    minibatch.pack_tokens = max_pack_tokens


@torch.no_grad()
def initial_logprobs(learner: Learner, pack: Pack) -> Tensor | None:
    """The log-probabilities of a pack under the initial policy, [trained tokens]; else None."""
    if not learner.flags.beta:
        return None
    if learner.reference is not None:
        return token_logprobs(learner.reference, pack, *learner.sampling)
    with learner.model.disable_adapter():
        return token_logprobs(learner.model, pack, *learner.sampling)


def add_gradients(learner: Learner, minibatch: Minibatch) -> tuple[Tensor, Tensor]:
    """Forward and backward of every pack of this process.

    Returns:
        The sums of SUMS over trained tokens, [sums], and the largest |difference|, [].
    """
    flags, device = learner.flags, learner.accelerator.device
    sums = torch.zeros(len(SUMS), device=device, dtype=torch.double)
    largest_difference = torch.zeros((), device=device)
    normalizer = loss_normalizer(flags, minibatch)
    for each, initial in zip(minibatch.packs, minibatch.reference_logprobs, strict=True):
        logprobs, entropies = forward(learner, each)  # [trained tokens] each
        loss = policy_loss(
            logprobs,
            each.old_logprobs,
            each.advantages,
            epsilon=flags.epsilon,
            epsilon_high=flags.epsilon_high,
            beta=flags.beta,
            ref_logprobs=initial,
            loss_type=flags.loss_type,
            steps=each.steps,
            normalizer=normalizer,
            entropy_coef=flags.entropy_coef,
            entropies=entropies,
            trained_tokens=minibatch.tokens,
        )
        loss.backward()
        with torch.no_grad():
            difference = logprobs - each.old_logprobs
            kl_gap = torch.zeros_like(logprobs) if initial is None else initial - logprobs
            kl = (kl_gap.exp() - kl_gap - 1).sum()
            entropy = torch.zeros_like(kl) if entropies is None else entropies.sum()
            clipped = is_clipped(difference, each.advantages, flags).sum()
            sums += torch.stack([loss, clipped, difference.abs().sum(), kl, entropy]).double()
            largest_difference = torch.cat([largest_difference[None], difference.abs()]).max()
    return sums, largest_difference


def forward(learner: Learner, pack: Pack) -> tuple[Tensor, Tensor | None]:
    """Log-probabilities of a pack, and entropies where they get a bonus: [trained tokens] each."""
    with learner.accelerator.autocast():
        if learner.flags.entropy_coef:
            return token_logprobs_and_entropies(learner.model, pack, *learner.sampling)
        return token_logprobs(learner.model, pack, *learner.sampling), None


def is_clipped(difference: Tensor, advantages: Tensor, flags) -> Tensor:
    """Whether each token's ratio is clipped, so that it has no gradient, [trained tokens].

    Args:
        difference: log-probability minus that of the sampling policy, [trained tokens].
    """
    high = flags.epsilon if flags.epsilon_high is None else flags.epsilon_high
    ratio = difference.exp()
    return torch.where(advantages > 0, ratio > 1 + high, ratio < 1 - flags.epsilon)


def loss_normalizer(flags, minibatch: Minibatch) -> float:
    """What sums over a minibatch, of all processes, are divided by."""
    nodes_of_full_tree = sum(math.prod(flags.branching[: d + 1]) for d in range(flags.depth))
    tokens_of_full_tree = nodes_of_full_tree * flags.step_tokens
    constant = flags.prompts_per_update * tokens_of_full_tree / flags.num_minibatches
    return {"dapo": minibatch.tokens, "grpo": minibatch.steps, "dr_grpo": constant}[flags.loss_type]


def reduce_gradients(learner: Learner) -> Tensor:
    """Adds up the gradients of all processes and clips them; returns their norm before that, []."""
    parameters = learner.parameters
    if learner.accelerator.num_processes > 1:
        for parameter in parameters:
            # A process whose groups were all pruned has no gradient to add.
            own = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            parameter.grad = learner.accelerator.reduce(own, "sum")
    limit = learner.flags.max_grad_norm or math.inf
    return torch.nn.utils.clip_grad_norm_(parameters, limit)
