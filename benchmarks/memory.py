"""Peak memory of sampling and training as a tree of depth 3 widens from 64 to 4,096 leaves.

    python benchmarks/memory.py --model 50m

max_rows and max_pack_tokens are fixed, and the smallest tree fills both. Each size runs in a fresh
process. On a GPU the peak is that of torch's allocator; on the CPU it is the process's largest
resident set.
"""

import json
import resource
import subprocess
import sys
from pathlib import Path

import torch
from common import arguments, device, label_of, load, settings_of, write_results

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


def measure_tree(leaves: int) -> dict:
    """MiB at the start, after sampling a tree with so many leaves and after training on it."""
    tokenizer, model = load(args.model)
    prompt = torch.randint(5, model.config.vocab_size, (args.prompt,)).tolist()
    sampler = TreeSampler(
        model, tokenizer, WIDTHS[leaves], step_tokens=args.step_tokens, max_rows=args.max_rows
    )
    sampler.engine.stop_at([])  # so that no path ends early
    start = peak()
    (tree,) = sampler.sample([prompt], [0])
    sampled = peak()
    model.train()
    packs = pack([tree], [torch.ones(len(tree.parent))], args.max_pack_tokens)
    for part in packs:
        token_logprobs(model, part.to(device())).sum().backward()
    return {
        "leaves": len(tree.leaves()),
        "packs": len(packs),
        "start": start,
        "sampling": sampled,
        "training": peak(),
    }


def measure_in_a_process(leaves: int) -> dict:
    """`measure_tree` in a fresh process, with the same flags."""
    names = ("model", "step_tokens", "prompt", "max_rows", "max_pack_tokens")
    flags = [f"--{name}={getattr(args, name)}" for name in names]
    command = [sys.executable, __file__, *flags, f"--leaves={leaves}"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=True)
    return json.loads(done.stdout.splitlines()[-1])


if args.leaves:
    print(json.dumps(measure_tree(args.leaves)))
else:
    rows = []
    for leaves in args.sizes:
        rows.append(measure_in_a_process(leaves))
        figures = "  ".join(f"{name} {value:,.0f}" for name, value in rows[-1].items())
        print(figures, "MiB", flush=True)
    name = f"memory{label_of(args)}-{Path(args.model).name}"
    write_results(args.output_dir, name, {"settings": settings_of(args), "rows": rows})
