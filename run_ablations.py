"""Runs a grid of arms and seeds and compares them: python run_ablations.py recipes/ablations/main.yaml --seeds 5

The YAML names a base recipe (`extends`), flags that all arms share (`common`) and each arm's own (`arms`). A finished
run is not run again and a killed one resumes from its checkpoint, so the same command continues a sweep. A failed arm
is named and does not stop the others. Writes table.md, results.json and curves.png into results/ablations/NAME.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml
from tqdm import tqdm

from checkpoint import checkpoints
from cli import ROOT, run
from data.problems import BadInput
from plot_results import plot_arms, read_lines

T_95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)  # Student's t, two-sided, for 1 to 9 degrees of freedom


def interval(values: list[float]) -> tuple[float, float]:
    """Mean over seeds and half the width of its 95 % interval (NaN for one seed)."""
    if len(values) < 2:
        return statistics.fmean(values), float("nan")
    t = T_95[min(len(values) - 2, len(T_95) - 1)]
    return statistics.fmean(values), t * statistics.stdev(values) / len(values) ** 0.5


def run_arm(folder: Path, base: Path, flags: dict, threads: int) -> str | None:
    """Trains one arm and seed in its own process; returns why it failed, or None."""
    if (folder / "adapter").exists():
        return None
    folder.mkdir(parents=True, exist_ok=True)
    words = []
    for key, value in flags.items():
        words += [f"--{key}", *(value if isinstance(value, list) else [value])]
    resume = ["--resume_from_checkpoint"] if checkpoints(folder) else []
    if not resume:
        (folder / "config.yaml").unlink(missing_ok=True)  # a run that died before its first checkpoint starts anew
    command = [sys.executable, ROOT / "train_treerpo.py", "--config", base, *words, "--output_dir", folder, *resume]
    with (folder / "log.txt").open("a") as log:
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        done = subprocess.run(list(map(str, command)), stdout=log, stderr=log, env=environment, check=False)
    if done.returncode:
        return (folder / "log.txt").read_text().strip().splitlines()[-1][:300]
    return None


def curve(folder: Path) -> list[dict]:
    """A run's evaluations: update, tokens sampled and trained and seconds until then, and the scores."""
    points, totals = [], {"sampled_tokens": 0, "trained_tokens": 0, "seconds": 0.0}
    for row in read_lines(folder / "metrics.jsonl"):
        if "evaluation" in row:
            (scores,) = list(row["evaluation"].values())[:1]
            flat = {key: value["mean"] if isinstance(value, dict) else value for key, value in scores.items()}
            points.append({"update": row["update"], **totals, **flat})
        else:
            totals = {key: totals[key] + row[key] for key in ("sampled_tokens", "trained_tokens")} | {
                "seconds": totals["seconds"] + sum(row[f"seconds_{phase}"] for phase in ("sample", "grade", "update"))
            }
    return points


def at_tokens(points: list[dict], budget: float) -> dict:
    """The point of a curve at `budget` sampled tokens, linear between the evaluations on either side."""
    after = next(i for i, p in enumerate(points) if p["sampled_tokens"] >= budget)
    if after == 0:
        return points[0]
    low, high = points[after - 1], points[after]
    share = (budget - low["sampled_tokens"]) / (high["sampled_tokens"] - low["sampled_tokens"])
    return {key: low[key] + share * (high[key] - low[key]) for key in low}


def table(curves: dict[str, list[list[dict]]], choose) -> str:
    """Markdown: an arm a row, mean and 95 % interval over seeds of the point that `choose` takes from each curve."""
    first = next(iter(curves.values()))[0][-1]
    columns = [key for key in first if key not in ("n", "update", "seconds", "sampled_tokens", "trained_tokens")]
    columns += ["update", "sampled_tokens", "trained_tokens", "seconds"]
    lines = ["| arm | seeds | " + " | ".join(columns) + " |", "|" + "---|" * (len(columns) + 2)]
    for arm, runs in curves.items():
        cells = []
        for key in columns:
            mean, half = interval([choose(points)[key] for points in runs])
            share = "@" in key or key.endswith("unfinished")
            digits = 0 if mean >= 1000 else 1
            numbers = f"{mean:,.{digits}f} ± {half:,.{digits}f}"
            cells.append(f"{100 * mean:.1f} ± {100 * half:.1f} %" if share else numbers)
        lines.append(f"| {arm} | {len(runs)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path, help="a YAML file under recipes/ablations")
    parser.add_argument("--seeds", type=int, default=5, help="seeds 0, 1, ... of every arm")
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 1) // 2), help="runs at once")
    args = parser.parse_args()
    try:
        sweep = yaml.safe_load(args.sweep.read_text())
        arms, base = sweep["arms"], args.sweep.parent / sweep["extends"]
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise BadInput(f"{args.sweep}: not a sweep with `extends` and `arms` ({error})") from error
    output = Path("results/ablations") / args.sweep.stem
    grid = [(arm, seed) for seed in range(args.seeds) for arm in arms]
    threads = max(1, (os.cpu_count() or 1) // args.jobs)

    def one(place: tuple[str, int]) -> str | None:
        arm, seed = place
        flags = {**(sweep.get("common") or {}), **(arms[arm] or {}), "seed": seed}
        return run_arm(output / f"{arm}-seed{seed}", base, flags, threads)

    with ThreadPoolExecutor(args.jobs) as pool:
        failures = dict(zip(grid, tqdm(pool.map(one, grid), total=len(grid), desc=args.sweep.stem, unit="run")))
    for (arm, seed), reason in failures.items():
        if reason:
            print(f"failed: {arm}, seed {seed}: {reason}", file=sys.stderr)
    curves = {
        arm: [curve(output / f"{arm}-seed{s}") for a, s in grid if a == arm and not failures[a, s]] for arm in arms
    }
    curves = {arm: points for arm, points in curves.items() if points}
    if not curves:
        raise BadInput(f"{args.sweep}: every run failed; see {output}/*/log.txt")
    budget = min(points[-1]["sampled_tokens"] for runs in curves.values() for points in runs)
    text = "\n\n".join([
        f"Mean and 95 % interval over seeds. Command: `python run_ablations.py {args.sweep} --seeds {args.seeds}`",
        "At the last update:", table(curves, lambda points: points[-1]),
        f"At equal sampled tokens ({budget:,}), linear between evaluations:",
        table(curves, lambda points: at_tokens(points, budget)),
    ])  # fmt: skip
    (output / "table.md").write_text(text + "\n")
    (output / "results.json").write_text(json.dumps(curves, indent=1) + "\n")
    print(f"{text}\n\nwritten to {output}/table.md, results.json and {plot_arms(curves, output / 'curves.png')}")


if __name__ == "__main__":
    run(main)
