"""The built-in task's sparse side: training problems that the tiny base solves less than once in
twenty.

    python benchmarks/hard_problems.py      # rewrites data/arithmetic_hard.jsonl,
                                            # some minutes on 2 cores

Each problem is sampled 40 times; it is kept where at most one completion is right.
"""

import json
from pathlib import Path

from common import ROOT, arguments, load
from tqdm import trange

from data import arithmetic
from data.problems import completion_text, encode_row, load_problems
from reward import Grader
from tree_sampler import TreeSampler

# Problems whose completions are sampled and graded together.
AT_ONCE = 200


def count_right(tokenizer, sampler: TreeSampler, problems: list[dict]) -> list[float]:
    """The right completions of each problem."""
    counts: list[float] = []
    with Grader() as grader:
        for start in trange(0, len(problems), AT_ONCE, desc="sample"):
            rows = problems[start : start + AT_ONCE]
            prompts = [encode_row(tokenizer, arithmetic, row) for row in rows]
            seeds = list(range(start, start + len(rows)))
            for row, tree in zip(rows, sampler.sample(prompts, seeds)):
                ids = [tree.text_ids(leaf) for leaf in tree.leaves()]
                texts = [completion_text(tokenizer, text_ids) for text_ids in ids]
                counts.append(sum(grader.grade_batch(texts, [row] * len(texts))))
    return counts


def main() -> None:
    args = arguments(
        __doc__,
        samples=40,
        most_right=1,
        problems=1600,
        output_file=str(ROOT / "data" / "arithmetic_hard.jsonl"),
    )
    tokenizer, model = load(args.model)
    sampler = TreeSampler(
        model, tokenizer, branching=args.samples, depth=1, step_tokens=72, max_rows=640
    )
    problems = load_problems("arithmetic", "train")[: args.problems]
    counts = count_right(tokenizer, sampler, problems)

    hard = [row for row, count in zip(problems, counts) if count <= args.most_right]
    pass_at_1 = sum(counts) / len(problems) / args.samples
    print(f"{len(hard)} of {len(problems)} kept; pass@1 of all {pass_at_1:.3f}")
    lines = "".join(json.dumps(row) + "\n" for row in hard)
    Path(args.output_file).write_text(lines, encoding="utf-8")


if __name__ == "__main__":
    main()
