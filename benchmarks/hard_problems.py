"""The built-in task's sparse side: training problems that the tiny base solves less than once in twenty.

    python benchmarks/hard_problems.py      # rewrites data/arithmetic_hard.jsonl, some minutes on 2 cores

Each problem is sampled 40 times; it is kept where at most one completion is right.
"""

import json

from common import ROOT, arguments, load

from data import arithmetic
from data.problems import load_problems
from reward import Grader
from tree_sampler import TreeSampler

args = arguments(__doc__, samples=40, most_right=1, problems=1600)
tokenizer, model = load(args.model)
sampler = TreeSampler(model, tokenizer, args.samples, 1, 72, max_rows=640)
problems = load_problems("arithmetic", "train")[: args.problems]
kept, right = [], 0.0
with Grader() as grader:
    for start in range(0, len(problems), 200):
        rows = problems[start : start + 200]
        prompts = [tokenizer.encode(arithmetic.PROMPT_TEMPLATE.replace("{problem}", row["problem"])) for row in rows]
        for row, tree in zip(rows, sampler.sample(prompts, list(range(start, start + len(rows))))):
            texts = [tokenizer.decode(tree.completion_ids(leaf), skip_special_tokens=True) for leaf in tree.leaves()]
            found = sum(grader.grade_batch(texts, [row["answer"]] * len(texts)))
            right += found
            if found <= args.most_right:
                kept.append(row)
        print(f"{start + len(rows)} of {len(problems)}: {len(kept)} kept", flush=True)
print(f"pass@1 of all {right / len(problems) / args.samples:.3f}")
(ROOT / "data" / "arithmetic_hard.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
