"""One forward and backward over a tree whose every step is trained, packed against unpacked.

    python benchmarks/training.py --model 50m

packed     tree attention by segments, as the trainer does
dense      the same packs, attention over the whole pack under its mask
flex       the same packs, FlexAttention with a block mask: on a GPU alone, where it is compiled
step rows  one row per step, with its whole prefix before it
path rows  one row per leaf path, so that shared steps are trained more than once
floor      one causal row with as many tokens as the tree, and no tree mask

All make logits at trained positions only, in the same chunks, and train a LoRA adapter as the
trainer does (--lora_r 0: all weights, in float32 under autocast on a GPU). The JSON also has each
rival's peak memory on a GPU and, where the card's figures are known, the share of them that the
model's FLOPs are (MFU), without what gradient checkpointing computes again.
"""

import dataclasses
import statistics
import sys
from contextlib import nullcontext

import torch
from common import arguments, device, load, made_with, measure, peak_bytes, profiled, report
from peft import LoraConfig, get_peft_model
from roofline import Arithmetic, card_of, tree_context
from torch.nn.functional import cross_entropy

from generate import attention_implementation
from packing import Pack, pack
from policy import checkpoint_layers, head_values, token_logprobs
from tree import Tree

args = arguments(
    __doc__,
    branching=4,
    depth=3,
    step_tokens=32,
    prompt=64,
    max_pack_tokens=4096,
    lora_r=16,
    gradient_checkpointing=False,
    skip=["none"],
    profile=True,
)
on_gpu = device().type == "cuda"
all_weights = args.lora_r == 0
_, causal = load(args.model, torch.float32 if all_weights else None)
config = causal.config
lora = LoraConfig(r=args.lora_r, target_modules="all-linear", task_type="CAUSAL_LM")
model = causal if all_weights else get_peft_model(causal, lora)
if args.gradient_checkpointing:
    checkpoint_layers(model)
generator = torch.Generator().manual_seed(0)


def random_ids(count: int) -> torch.Tensor:
    return torch.randint(5, config.vocab_size, (count,), generator=generator)


# A full tree, breadth first.
steps = sum(args.branching**depth for depth in range(1, args.depth + 1))
parent = [-1]
depth = [0]
for node in range(steps):
    parent.append(node // args.branching)
    depth.append(depth[parent[-1]] + 1)
tokens = [torch.empty(0, dtype=torch.long), *(random_ids(args.step_tokens) for _ in range(steps))]
tree = Tree(
    prompt_ids=random_ids(args.prompt).tolist(),
    parent=parent,
    depth=depth,
    tokens=tokens,
    logprobs=[torch.zeros(len(ids)) for ids in tokens],
    finished=[False] * len(parent),
)
advantages = torch.randn(len(parent), generator=generator)


def row_logprobs(rows: torch.Tensor, trained: int) -> torch.Tensor:
    """Log-probabilities of the last `trained` tokens of each row, as token_logprobs makes them.

    Args:
        rows: LongTensor [rows, tokens].

    Returns:
        [rows * trained].
    """
    hidden = causal.get_decoder()(input_ids=rows, use_cache=False).last_hidden_state
    states = hidden[:, -trained - 1 : -1].flatten(0, 1)  # [rows * trained, hidden size]
    head = causal.get_output_embeddings()

    def chunk(states: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor]:
        return (-cross_entropy(head(states).float(), targets, reduction="none"),)

    return head_values(chunk, head, states, rows[:, -trained:].flatten())[0]


def train_rows(rows: list[list[int]], trained: int) -> None:
    """Rows of equal length, as many at once as max_pack_tokens holds."""
    batch = max(1, args.max_pack_tokens // len(rows[0]))
    for start in range(0, len(rows), batch):
        batch_rows = torch.tensor(rows[start : start + batch], device=device())  # [rows, tokens]
        row_logprobs(batch_rows, trained).sum().backward()


def packs() -> list[Pack]:
    return [part.to(device()) for part in pack([tree], [advantages], args.max_pack_tokens)]


def packed() -> None:
    for part in packs():
        token_logprobs(model, part).sum().backward()


def dense() -> None:
    for part in packs():
        ends = torch.tensor([0, len(part.input_ids)], device=device())
        whole = dataclasses.replace(part, cuts=ends)  # one segment
        token_logprobs(model, whole).sum().backward()


def flex() -> None:
    with attention_implementation(config, "flex_attention"):
        packed()


def step_rows() -> None:
    for level in range(1, args.depth + 1):
        nodes = [node for node in range(len(parent)) if depth[node] == level]
        rows = [tree.prompt_ids + tree.completion_ids(node) for node in nodes]
        train_rows(rows, args.step_tokens)


def path_rows() -> None:
    rows = [tree.prompt_ids + tree.completion_ids(leaf) for leaf in tree.leaves()]
    train_rows(rows, args.depth * args.step_tokens)


def floor() -> None:
    total = args.step_tokens * steps
    train_rows([random_ids(args.prompt + total).tolist()], total)


def under_autocast(rival):
    """A rival as the trainer computes: float32 weights under autocast on a GPU."""
    autocast = torch.autocast("cuda", torch.bfloat16) if on_gpu and all_weights else nullcontext()

    def run() -> None:
        with autocast:
            rival()
        model.zero_grad()

    return run


rivals = {
    "packed": packed,
    "dense": dense,
    "flex": flex,
    "step rows": step_rows,
    "path rows": path_rows,
    "floor": floor,
}
rivals = {name: under_autocast(run) for name, run in rivals.items()}
not_run = {}
for skipped in args.skip if on_gpu else [*args.skip, "flex"]:
    if rivals.pop(skipped.replace("_", " "), None):
        not_run[skipped] = "skipped" if on_gpu else "skipped on a CPU"

model.train()
print(f"{steps} steps of {args.step_tokens} tokens, prompt of {args.prompt}")
if args.profile:
    sys.exit(profiled("training", args, {name: rivals[name] for name in ("packed", "step rows")}))
seconds = measure(rivals, args.repeats)

# --- FLOPs and memory ---

tokens = steps * args.step_tokens
context = tree_context(args.prompt, [args.branching] * args.depth, args.step_tokens)
arithmetic = Arithmetic.of(config)
# Of each token of the tree once: what a rival computes twice is no work of the model's.
flops = arithmetic.training_flops(tokens, context, all_weights)
card = card_of(made_with()["machine"])
figures = {}
for name, values in seconds.items():
    median = statistics.median(values)
    found = {"tokens_per_second": tokens / median, "flops": flops}
    if card:
        found["mfu"] = flops / median / card.flops
    if peak := peak_bytes(rivals[name]):
        found["peak_bytes"] = peak
    figures[name] = found
    print(f"{name:12} {'  '.join(f'{key} {value:,.3g}' for key, value in found.items())}")
report("training", args, seconds, "packed", {"figures": figures, "not_run": not_run})
