"""One forward and backward over a tree whose every step is trained, packed against unpacked.

    python benchmarks/training.py --model 50m

step rows  one row per step, with its whole prefix before it
path rows  one row per leaf path, so that shared steps are trained more than once
floor      one causal row with as many tokens as the tree, and no tree mask

All make logits at trained positions only, in the same chunks, and train a LoRA adapter as the
trainer does (--lora_r 0: all weights).
"""

import sys

import torch
from common import arguments, device, load, measure, profiled, report
from peft import LoraConfig, get_peft_model
from torch.nn.functional import cross_entropy

from packing import pack
from policy import head_values, token_logprobs
from tree import Tree

args = arguments(
    __doc__,
    branching=4,
    depth=3,
    step_tokens=32,
    prompt=64,
    max_pack_tokens=4096,
    lora_r=16,
    profile=True,
)
_, causal = load(args.model)
config = causal.config
lora = LoraConfig(r=args.lora_r, target_modules="all-linear", task_type="CAUSAL_LM")
model = get_peft_model(causal, lora) if args.lora_r else causal
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


def packed() -> None:
    for part in pack([tree], [advantages], args.max_pack_tokens):
        token_logprobs(model, part.to(device())).sum().backward()


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


model.train()
print(f"{steps} steps of {args.step_tokens} tokens, prompt of {args.prompt}")
if args.profile:
    sys.exit(profiled("training", args, {"packed": packed, "step rows": step_rows}))
rivals = {"packed": packed, "step rows": step_rows, "path rows": path_rows, "floor": floor}
report("training", args, measure(rivals, args.repeats), "packed")
