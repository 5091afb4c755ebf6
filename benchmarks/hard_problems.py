"""The built-in task's sparse side: training problems that the tiny base solves less than once in
twenty.

    python benchmarks/hard_problems.py      # rewrites data/arithmetic_hard.jsonl, some minutes on 2 cores

Each problem is sampled 40 times; it is kept where at most one completion is right.
"""

import json
from pathlib import Path

from common import ROOT, arguments, load
from tqdm import trange

from data.arithmetic import PROMPT_TEMPLATE
from data.problems import completion_text, encode_prompt, load_problems
from reward import Grader
from train_treerpo import Batch, sample, score
from tree_sampler import TreeSampler

args = arguments(
    __doc__,
    samples=40,
    most_right=1,
    problems=1600,
    output_file=str(ROOT / "data" / "arithmetic_hard.jsonl"),
)
tokenizer, model = load(args.model)
sampler = TreeSampler(model, tokenizer, args.samples, 1, 72, max_rows=640)
problems = load_problems("arithmetic", "train")[: args.problems]
right: list[float] = []  # completions of each problem
with Grader() as grader:
    for start in trange(0, len(problems), 200, desc="sample"):
        rows = problems[start : start + 200]
        batch = Batch(
            problems=rows,
            prompts=[encode_prompt(tokenizer, row["problem"], PROMPT_TEMPLATE) for row in rows],
            seeds=list(range(start, start + len(rows))),
        )
        trees, grades = sample(sampler, batch, grader, lambda ids: completion_text(tokenizer, ids))
        rewards = score(trees, grades, batch.seeds)
        right += [values.nansum().item() for values in rewards]
kept = [row for row, count in zip(problems, right) if count <= args.most_right]
print(
    f"{len(kept)} of {len(problems)} kept; pass@1 of all {sum(right) / len(problems) / args.samples:.3f}"
)
Path(args.output_file).write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
