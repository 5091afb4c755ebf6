"""Pairs a second: Grader with one and two workers against math-verify in a plain loop, on answers to real problems.

    python benchmarks/grading.py DIR      # DIR holds math500.jsonl and train_math.jsonl

Each rival runs in a fresh process, since math-verify remembers what it parsed. Half of the answers are right. With
--prompts 16 the pairs are those of an ordinary batch: as many problems, each with as many completions, of which the
wrong ones give the answers to other problems.
"""

import argparse
import json
import random
import subprocess
import sys
import time
from pathlib import Path

from common import RESULTS, ROOT, report

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("data_dir", type=Path)
parser.add_argument("--pairs", type=int, default=2048)
parser.add_argument("--prompts", type=int, default=0, help="problems that the pairs are spread over; 0: one each")
parser.add_argument("--repeats", type=int, default=5)
parser.add_argument("--rival", help="for the processes that this script starts")
parser.add_argument("--output_dir", default=RESULTS, type=Path, help="where the JSON file goes")
args = parser.parse_args()
args.model = f"math-{args.prompts}-prompts" if args.prompts else "math"

golds = [
    json.loads(line)["answer"]
    for name in ("math500", "train_math")
    for line in (args.data_dir / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
]
rng = random.Random(0)
problems = args.prompts or args.pairs
picked = rng.choices(golds, k=problems) * (args.pairs // problems)
texts = [f"So the answer is $\\boxed{{{gold if rng.random() < 0.5 else rng.choice(golds)}}}$." for gold in picked]
if args.rival == "math-verify":
    from math_verify import parse, verify

    start = time.perf_counter()
    for text, gold in zip(texts, picked):
        verify(parse(f"\\boxed{{{gold}}}"), parse(text))
    print(time.perf_counter() - start)
elif args.rival:
    from reward import Grader

    with Grader(workers=int(args.rival)) as grader:
        grader.grade_batch([r"\boxed{\sqrt{8}}", r"\boxed{\sqrt{18}}"], [r"2\sqrt{2}", r"3\sqrt{2}"])  # workers are up
        start = time.perf_counter()
        grader.grade_batch(texts, picked)
        print(time.perf_counter() - start)
else:
    seconds: dict[str, list[float]] = {}
    for _ in range(args.repeats):
        for name, rival in (("2 workers", "2"), ("1 worker", "1"), ("math-verify", "math-verify")):
            command = [sys.executable, ROOT / "benchmarks" / "grading.py", args.data_dir, "--rival", rival]
            sizes = ["--pairs", str(args.pairs), "--prompts", str(args.prompts)]
            done = subprocess.run([*command, *sizes], capture_output=True, encoding="utf-8", check=True)
            seconds.setdefault(name, []).append(float(done.stdout))
    report("grading", args, seconds, "2 workers")
