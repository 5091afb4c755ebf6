"""One forward and backward over a tree whose every step is trained, packed against unpacked.

    python benchmarks/training.py --model 50m

step rows: a row a step, its whole prefix before it. path rows: a row a leaf path, so that shared
steps are trained more than once. floor: one causal row with as many tokens as the tree, no tree
mask. All make logits at trained positions only, in the same chunks, and train a LoRA adapter as the
trainer does (--lora_r 0: all weights)."""

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


parent, depth = [-1], [0]
for node in range(sum(args.branching ** (d + 1) for d in range(args.depth))):
    parent.append(node // args.branching)  # breadth first
    depth.append(depth[parent[-1]] + 1)
tokens = [torch.empty(0, dtype=torch.long), *(random_ids(args.step_tokens) for _ in parent[1:])]
tree = Tree(
    random_ids(args.prompt).tolist(),
    parent,
    depth,
    tokens,
    [torch.zeros(len(t)) for t in tokens],
    [False] * len(parent),
)
advantages = torch.randn(len(parent), generator=generator)


def row_logprobs(rows: torch.Tensor, trained: int) -> torch.Tensor:
    """Log-probabilities [rows, trained] of the last `trained` tokens of each row, as token_logprobs
    makes them."""
    hidden = causal.get_decoder()(input_ids=rows, use_cache=False).last_hidden_state[
        :, -trained - 1 : -1
    ]
    head = causal.get_output_embeddings()

    def chunk(states: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor]:
        return (-cross_entropy(head(states).float(), targets, reduction="none"),)

    return head_values(chunk, head, hidden.flatten(0, 1), rows[:, -trained:].flatten())[0]


def train_rows(rows: list[list[int]], trained: int) -> None:
    """Rows of equal length, as many at once as max_pack_tokens holds."""
    batch = max(1, args.max_pack_tokens // len(rows[0]))
    for start in range(0, len(rows), batch):
        row_logprobs(
            torch.tensor(rows[start : start + batch], device=device()), trained
        ).sum().backward()


def packed() -> None:
    for one in pack([tree], [advantages], args.max_pack_tokens):
        token_logprobs(model, one.to(device())).sum().backward()


def step_rows() -> None:
    for d in range(1, args.depth + 1):
        nodes = [node for node in range(len(parent)) if depth[node] == d]
        train_rows(
            [tree.prompt_ids + tree.completion_ids(node) for node in nodes], args.step_tokens
        )


def path_rows() -> None:
    rows = [tree.prompt_ids + tree.completion_ids(leaf) for leaf in tree.leaves()]
    train_rows(rows, args.depth * args.step_tokens)


def floor() -> None:
    total = args.step_tokens * (len(parent) - 1)
    train_rows([random_ids(args.prompt + total).tolist()], total)


model.train()
print(f"{len(parent) - 1} steps of {args.step_tokens} tokens, prompt of {args.prompt}")
rivals = {"packed": packed, "step rows": step_rows, "path rows": path_rows, "floor": floor}
if args.profile:
    sys.exit(profiled("training", args, {name: rivals[name] for name in ("packed", "step rows")}))
report("training", args, measure(rivals, args.repeats), "packed")
