"""Sampling one prompt's tree against the ways to sample as many leaves without one.

    python benchmarks/sampling.py --model 350m --repeats 3

flat        `generate` with num_return_sequences: as many completions as leaves, each as long as the
            longest path
reprefill   the same tree, with every branch prefilled from the start
continuous  transformers' own continuous batching of the flat completions
floor       bare forward passes of the tree's rows and tokens over a forked cache: no sampling, no
            bookkeeping
"""

import sys

import torch
from common import arguments, device, load, measure, profiled, report
from transformers import DynamicCache, GenerationConfig

from tree_sampler import TreeSampler

args = arguments(
    __doc__, branching=4, depth=3, step_tokens=32, prompt=64, prompts=4, skip="", profile=True
)
skip = args.skip.split(",")
tokenizer, model = load(args.model)
generator = torch.Generator().manual_seed(0)
shape = (args.prompts, args.prompt)
ids = torch.randint(5, model.config.vocab_size, shape, generator=generator).to(device())
prompts = ids.tolist()
leaves = args.branching**args.depth  # of each tree
longest = args.depth * args.step_tokens  # tokens of each path
sampler = TreeSampler(
    model, tokenizer, args.branching, args.depth, args.step_tokens, max_rows=args.prompts * leaves
)
# No end token anywhere: every rival samples exactly as many tokens as its shape has. That of the
# model's own config would fill in what the rivals leave unset.
sampler.engine.stop_at([])
model.generation_config.eos_token_id = None


def settings(new_tokens: int, copies: int) -> GenerationConfig:
    """Plain sampling of so many tokens, and so many completions of each row."""
    return GenerationConfig(
        max_new_tokens=new_tokens,
        do_sample=True,
        top_k=0,
        top_p=1.0,
        temperature=1.0,
        num_return_sequences=copies,
        eos_token_id=None,
        pad_token_id=1,
    )


def tree() -> None:
    trees = sampler.sample(prompts, list(range(args.prompts)))
    assert all(len(grown.leaves()) == leaves for grown in trees)


@torch.no_grad()
def flat() -> None:
    mask = torch.ones_like(ids)
    model.generate(ids, attention_mask=mask, generation_config=settings(longest, leaves))


@torch.no_grad()
def reprefill() -> None:
    rows = ids
    step = settings(args.step_tokens, args.branching)
    for _ in range(args.depth):
        rows = model.generate(rows, attention_mask=torch.ones_like(rows), generation_config=step)


@torch.no_grad()
def floor() -> None:
    cache = DynamicCache(config=model.config)
    model(ids[:, :-1], past_key_values=cache, logits_to_keep=1)
    rows = ids[:, -1:]  # [rows, 1]
    for _ in range(args.depth):
        cache.batch_repeat_interleave(args.branching)
        rows = rows.repeat_interleave(args.branching, 0)
        for _ in range(args.step_tokens):
            model(rows, past_key_values=cache)


def continuous() -> None:
    inputs = [prompt for prompt in prompts for _ in range(leaves)]
    model.generate_batch(inputs, generation_config=settings(longest, 1), progress_bar=False)


print(f"{args.prompts} prompts of {args.prompt} tokens, {leaves} leaves each of {longest} tokens")
name = f"sampling-{args.prompts}"
if args.profile:
    sys.exit(profiled(name, args, {"tree": tree, "flat": flat}))

rivals = {"tree": tree, "flat": flat, "reprefill": reprefill, "floor": floor}
for skipped in skip:
    rivals.pop(skipped, None)
seconds = measure(rivals, args.repeats)
not_run = {skipped: "skipped" for skipped in skip if skipped}
if "continuous" not in skip:  # last, since it leaves threads behind
    try:
        seconds |= measure({"continuous": continuous}, args.repeats)
    except Exception as error:  # it needs kernels that not every device has
        not_run["continuous"] = f"{type(error).__name__}: {str(error)[:200]}"
        print(f"continuous batching: not run ({not_run['continuous']})")
report(name, args, seconds, "tree", {"not_run": not_run})
