"""Peak memory of sampling and training as a tree of depth 3 widens from 64 to 4,096 leaves, at
fixed max_rows and max_pack_tokens. The smallest tree fills both.

    python benchmarks/memory.py --model 50m

Each size runs in a fresh process. On a GPU the peak is that of torch's allocator, on the CPU what
the process's largest resident set exceeds that before the phase."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import torch
from common import arguments, device, load, settings_of, write_results

from packing import pack
from policy import token_logprobs
from tree_sampler import TreeSampler

args = arguments(
    __doc__,
    step_tokens=8,
    prompt=32,
    max_rows=64,
    max_pack_tokens=512,
    sizes=[64, 256, 1024, 4096],
    leaves=0,
)
WIDTHS = {64: [4, 4, 4], 256: [4, 8, 8], 1024: [8, 8, 16], 4096: [16, 16, 16]}


def peak() -> float:
    """MiB so far."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


if args.leaves:
    tokenizer, model = load(args.model)
    tokenizer.eos_token, model.generation_config.eos_token_id = (
        tokenizer.pad_token,
        None,
    )  # so that no path ends early
    prompts = torch.randint(5, model.config.vocab_size, (2, args.prompt)).tolist()
    sampler = TreeSampler(
        model, tokenizer, WIDTHS[args.leaves], 3, args.step_tokens, max_rows=args.max_rows
    )
    before = peak()
    (tree,) = sampler.sample(prompts[:1], [0])
    sampled = peak()
    model.train()
    packs = pack([tree], [torch.ones(len(tree.parent))], args.max_pack_tokens)
    for one in packs:
        token_logprobs(model, one.to(device())).sum().backward()
    found = {
        "leaves": len(tree.leaves()),
        "packs": len(packs),
        "start": before,
        "sampling": sampled,
    }
    print(json.dumps({**found, "training": peak()}))
else:
    rows = []
    handed_on = ("model", "step_tokens", "prompt", "max_rows", "max_pack_tokens")
    for leaves in args.sizes:
        flags = [f"--{name}={getattr(args, name)}" for name in handed_on]
        command = [sys.executable, __file__, *flags, f"--leaves={leaves}"]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", check=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(
            "  ".join(f"{name} {value:,.0f}" for name, value in rows[-1].items()), "MiB", flush=True
        )
    write_results(
        args.output_dir,
        f"memory-{Path(args.model).name}",
        {"settings": settings_of(args), "rows": rows},
    )
