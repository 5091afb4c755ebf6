"""Pairs per second: Grader with one and two workers against math-verify in a plain loop, on answers
to real problems.

    python benchmarks/grading.py DIR          # DIR holds math500.jsonl and train_math.jsonl
    python benchmarks/grading.py --hostile    # a batch of 140 hostile completions, of which 28 hang

Each rival runs in a fresh process, since math-verify remembers what it parsed. Half of the answers
are right. With --prompts 16 the pairs are those of an ordinary batch: as many problems, each with
as many completions, of which the wrong ones give the answers to other problems.

The hostile batch has two workers and a limit of 1 s, so that 14 s are spent waiting for those that
hang. Reported are the seconds from the start of the Grader to the last grade, and what a hanging
pair costs beyond its limit: to kill the worker and have another.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

from common import RESULTS, ROOT, report

from reward import Grader

# Name of a rival -> the word for it on the command line of its process.
RIVALS = {"2 workers": "2", "1 worker": "1", "math-verify": "math-verify"}

# Each would run for more than 10 s.
HANGING = [
    # towers of powers
    "9^{9^{9^{9}}}",
    "2^{3^{10^{10}}}",
    "10^{10^{10}}+1",
    r"\frac{1}{9^{9^{9}}}",
    "e^{e^{e^{79}}}",
    r"\sin(10^{10^{8}})",
    "2^{2^{40}}-2^{2^{39}}",
    # factorials
    "(10^{9})!",
    "(9^{9})!",
    "((8!)!)!",
    r"\frac{(10^8)!}{(10^8-1)!}",
    r"\binom{10^9}{5\cdot 10^8}",
    r"\sqrt{(10^8)!}",
    "x" + "!" * 100,
    # expansions
    "(x+y+z)^{400}",
    "(1+x+x^2+x^3)^{900}",
    "(x+1)^{3000}(x-1)^{3000}",
    "((x+1)^{90}+1)^{90}",
    "(a+b+c+d+f+g)^{40}",
    r"\prod_{n=1}^{3000}(x+n)",
    r"\sum_{n=1}^{10^{12}} \sin(n^n)",
    # nesting
    "(" * 60 + "x" + ")" * 60,
    r"\cos(" * 40 + "x" + ")" * 40,
    "x_{" * 40 + "1" + "}" * 40,
    "(x" * 30 + ")!" * 30,
    "(x+" * 40 + "1" + ")^3" * 40,
    r"\ln(1+" * 30 + "x" + ")" * 30,
    r"\frac{x}{1+" * 18 + "x" + "}" * 18,
]
CHEAP = [
    "3!!!!!",
    "3^{3}^{3}^{3}",
    "1.5^{1000000}",
    "0.1^{9999999}",
    "2^{100000}",
    "20000!",
    "x^{99999999}",
    "2^{x^{2^{x}}}",
    "9" * 99 + "^{2}",
    r"\sin(10^{100})",
    r"\frac{1}{0}",
    "0^{-1}",
    r"\log_{0} 5",
    r"\sin^{-1}(2)",
    r"\lim_{x\to 0} \frac{\sin x}{x}",
    r"\int\int\int x",
    r"\frac{\frac{\frac{1}{2}}{3}}{x}",
    r"\undefined{x}+1",
    "1" + "+1" * 70,
    "x" + "+x" * 60,
    "9" * 290 + ".5x",
    "x+",
    "+*/",
    "x^",
    r"\sqrt",
    "((x)",
    "__import__('os')+1",
    r"\text{rm} -rf",
]
GOLDS = [r"\frac{\pi}{7}", r"3\sqrt{2}", "x^2+1", r"\frac{x}{y}"]


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data_dir", type=Path, nargs="?")
    parser.add_argument("--hostile", action="store_true", help="the hostile batch; needs no data")
    parser.add_argument(
        "--pairs", type=int, default=2048, help="at most; the hostile batch has 140"
    )
    parser.add_argument(
        "--prompts",
        type=int,
        default=0,
        help="problems that the pairs are spread over; 0: one each",
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rival", help="for the processes that this script starts")
    parser.add_argument("--output_dir", default=RESULTS, type=Path, help="where the JSON file goes")
    parser.add_argument("--label", default="", help="put into the JSON file's name")
    args = parser.parse_args()
    if bool(args.data_dir) == args.hostile:
        parser.error("either DIR or --hostile")
    return args


# --- The hostile batch ---


def hostile_pairs(most: int) -> tuple[list[str], list[tuple[str, str]]]:
    """The answers that hang, and the first `most` pairs of the batch; one in five of them hangs."""
    hanging = HANGING[: most // 5]
    pairs = [(text, GOLDS[i % len(GOLDS)]) for i, text in enumerate(hanging)]
    cheap = [(text, gold) for text in CHEAP for gold in GOLDS]
    pairs += cheap[: most - len(hanging)]
    random.Random(0).shuffle(pairs)
    return hanging, pairs


def seconds_beyond_limit(hanging: list[str]) -> list[float]:
    """What each hanging answer costs beyond its limit."""
    beyond = []
    with Grader(workers=1, timeout=1.0) as grader:
        # The worker is up.
        grader.grade_batch([r"\boxed{\sqrt{8}}"], [r"2\sqrt{2}"])
        for text in hanging:
            start = time.perf_counter()
            grader.grade_batch([rf"\boxed{{{text}}}"], GOLDS[:1])
            beyond.append(time.perf_counter() - start - grader.timeout)
    return beyond


def measure_hostile(args: argparse.Namespace) -> None:
    hanging, pairs = hostile_pairs(args.pairs)
    texts = [rf"So it is \boxed{{{text}}}." for text, _ in pairs]
    golds = [gold for _, gold in pairs]
    seconds = []
    counts = []
    for _ in range(args.repeats):
        start = time.perf_counter()
        with Grader(workers=2, timeout=1.0) as grader:
            grader.grade_batch(texts, golds)
            seconds.append(time.perf_counter() - start)
            counts.append(dict(grader.stats))
    beyond = seconds_beyond_limit(hanging)

    timeouts = [count["timeouts"] for count in counts]
    print(f"{len(pairs)} pairs, of which {len(hanging)} hang; time-outs: {timeouts}")
    median = statistics.median(beyond)
    print(f"beyond the limit of a pair: median {median:.3f} s, longest {max(beyond):.3f} s")
    more = {"hanging": len(hanging), "counts": counts, "seconds beyond the limit of a pair": beyond}
    # It names the file of the results.
    args.model = "hostile"
    report("grading", args, {"2 workers": seconds}, "2 workers", more)


# --- Answers to real problems ---


def real_pairs(args: argparse.Namespace) -> tuple[list[str], list[str]]:
    """Completions, of which half are right, and their gold answers."""
    golds = []
    for name in ("math500", "train_math"):
        lines = (args.data_dir / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        golds += [json.loads(line)["answer"] for line in lines]
    rng = random.Random(0)
    problems = args.prompts or args.pairs
    picked = rng.choices(golds, k=problems) * (args.pairs // problems)
    texts = []
    for gold in picked:
        answer = gold if rng.random() < 0.5 else rng.choice(golds)
        texts.append(f"So the answer is $\\boxed{{{answer}}}$.")
    return texts, picked


def time_rival(args: argparse.Namespace) -> float:
    """The seconds of one rival, in this process."""
    texts, golds = real_pairs(args)
    if args.rival == "math-verify":
        from math_verify import parse, verify

        start = time.perf_counter()
        for text, gold in zip(texts, golds):
            verify(parse(f"\\boxed{{{gold}}}"), parse(text))
        return time.perf_counter() - start

    with Grader(workers=int(args.rival)) as grader:
        # All workers are up.
        grader.grade_batch(
            [r"\boxed{\sqrt{8}}", r"\boxed{\sqrt{18}}"], [r"2\sqrt{2}", r"3\sqrt{2}"]
        )
        start = time.perf_counter()
        grader.grade_batch(texts, golds)
        return time.perf_counter() - start


def measure_rivals(args: argparse.Namespace) -> None:
    script = ROOT / "benchmarks" / "grading.py"
    sizes = ["--pairs", str(args.pairs), "--prompts", str(args.prompts)]
    seconds: dict[str, list[float]] = {name: [] for name in RIVALS}
    for _ in range(args.repeats):
        for name, rival in RIVALS.items():
            command = [sys.executable, script, args.data_dir, "--rival", rival, *sizes]
            done = subprocess.run(command, capture_output=True, encoding="utf-8", check=True)
            seconds[name].append(float(done.stdout))
    # It names the file of the results.
    args.model = f"math-{args.prompts}-prompts" if args.prompts else "math"
    report("grading", args, seconds, "2 workers")


def main() -> None:
    args = read_arguments()
    if args.hostile:
        measure_hostile(args)
    elif args.rival:
        print(time_rival(args))
    else:
        measure_rivals(args)


if __name__ == "__main__":
    main()
