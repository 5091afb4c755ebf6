"""Sampling one prompt's tree against the ways to sample as many leaves without one.

    python benchmarks/sampling.py --model 350m --repeats 3

tree        by the engine that a run would take here: of fixed shape on a GPU, generate on a CPU
other       the same tree by the other engine
flat        `generate` with num_return_sequences: as many completions as leaves, each as long as the
            longest path
reprefill   the same tree, with every branch prefilled from the start
continuous  transformers' own continuous batching of the flat completions
floor       bare forward passes of the tree's rows and tokens over a forked cache: no sampling, no
            bookkeeping

The JSON also has tokens per second and, on a GPU, the share of the time in kernels. Where the
card's figures are known it has the floor by memory traffic and FLOPs (roofline.py).
"""

import statistics
import sys

import torch
from common import arguments, device, kernel_share, load, made_with, measure, profiled, report
from roofline import Arithmetic, card_of, flat_seconds, tree_seconds, tree_tokens
from transformers import DynamicCache, GenerationConfig

from fixed_shape import FixedShapeEngine
from generate import Engine
from tree_sampler import TreeSampler

args = arguments(
    __doc__,
    branching=4,
    depth=3,
    step_tokens=32,
    prompt=64,
    prompts=4,
    max_rows=0,  # all leaves at once
    skip="",
    profile=True,
)
skip = args.skip.split(",")
tokenizer, model = load(args.model)
generator = torch.Generator().manual_seed(0)
shape = (args.prompts, args.prompt)
ids = torch.randint(5, model.config.vocab_size, shape, generator=generator).to(device())
prompts = ids.tolist()
leaves = args.branching**args.depth  # of each tree
longest = args.depth * args.step_tokens  # tokens of each path
max_rows = args.max_rows or args.prompts * leaves


def sampler_with(engine_class: type[Engine] | None) -> TreeSampler:
    """A sampler with an engine; None takes the one that a run would take."""
    sampler = TreeSampler(
        model, tokenizer, args.branching, args.depth, args.step_tokens, max_rows=max_rows
    )
    if engine_class:
        sampler.engine = engine_class(model, tokenizer, args.step_tokens)
    # No end token: every rival samples exactly as many tokens as its shape has.
    sampler.engine.stop_at([])
    return sampler


own_sampler = sampler_with(None)
is_fixed = isinstance(own_sampler.engine, FixedShapeEngine)
other_sampler = sampler_with(Engine if is_fixed else FixedShapeEngine)
# That of the model's own config would fill in what the rivals leave unset.
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
    grow_with(own_sampler)


def other() -> None:
    grow_with(other_sampler)


def grow_with(sampler: TreeSampler) -> None:
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

rivals = {"tree": tree, "other": other, "flat": flat, "reprefill": reprefill, "floor": floor}
for skipped in skip:
    rivals.pop(skipped, None)
seconds = measure(rivals, args.repeats)
not_run = {skipped: "skipped" for skipped in skip if skipped}
kernel_shares = {}

# --- Tokens, and the floor ---

widths = [args.branching] * args.depth
tokens_of_trees = args.prompts * tree_tokens(widths, args.step_tokens)
tokens_of_rows = args.prompts * leaves * longest
bytes_per_number = model.dtype.itemsize
arithmetic = Arithmetic.of(model.config.get_text_config(), bytes_per_number)
card = card_of(made_with()["machine"])
floors = {}
if card:
    tree_floor = tree_seconds(
        arithmetic, card, args.prompts, args.prompt, widths, args.step_tokens, max_rows
    )
    flat_floor = flat_seconds(arithmetic, card, args.prompts * leaves, args.prompt, longest)
    floors = {"tree": tree_floor, "other": tree_floor, "flat": flat_floor, "continuous": flat_floor}


def figures(rival: str, values: list[float]) -> dict:
    """Of one rival: its tokens, their rate, and its floor with the share of the time it is."""
    is_flat = rival in ("flat", "continuous")
    tokens = tokens_of_rows if is_flat else tokens_of_trees
    median = statistics.median(values)
    found = {"tokens": tokens, "tokens_per_second": tokens / median}
    if rival in floors:
        found |= {"floor_seconds": floors[rival], "floor_share": floors[rival] / median}
    if rival in kernel_shares:
        found["kernel_share"] = kernel_shares[rival]
    return found


def finish() -> None:
    """Prints and writes what has been measured so far."""
    found = {rival: figures(rival, values) for rival, values in seconds.items()}
    for rival, values in found.items():
        print(f"{rival:12} {'  '.join(f'{key} {value:,.3g}' for key, value in values.items())}")
    engine = type(own_sampler.engine).__name__
    more = {"engine": engine, "figures": found, "not_run": not_run}
    report(name, args, seconds, "tree", more)


finish()
if device().type == "cuda":  # a profile takes long: what was measured is written before it
    kernel_shares |= {
        rival: kernel_share(rivals[rival]) for rival in ("tree", "flat") if rival in rivals
    }
    finish()
if "continuous" not in skip:  # last, since it leaves threads behind
    try:
        seconds |= measure({"continuous": continuous}, args.repeats)
    except Exception as error:  # it needs kernels that not every device has
        not_run["continuous"] = f"{type(error).__name__}: {str(error)[:200]}"
        print(f"continuous batching: not run ({not_run['continuous']})")
    finish()
