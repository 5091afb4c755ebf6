"""Runs a grid of arms and seeds and compares them: python run_ablations.py recipes/ablations/main.yaml --seeds 5

The YAML names a base recipe (`extends`) and each arm's own flags (`arms`). Runs lie in results/ablations/runs by a
digest of their flags: arms that sweeps share are run once, a finished run is not run again, and a killed one resumes
from its checkpoint, so that the same command continues a sweep. A failed arm is named and does not stop the others.
Any other flag, such as --model_name_or_path FOLDER, goes to every run.
Writes table.md, results.json and curves.png into results/ablations/NAME.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml
from tqdm import tqdm

from checkpoint import checkpoints
from cli import ROOT, flag_words, run, yaml_settings
from data.problems import BadInput
from plot_results import interval, plot_arms, read_lines

RUNS = Path("results/ablations/runs")


def run_folder(base: Path, flags: dict) -> Path:
    settings = json.dumps({**yaml_settings(str(base)), **flags}, sort_keys=True)
    return RUNS / f"{hashlib.sha256(settings.encode()).hexdigest()[:10]}-seed{flags['seed']}"


def run_arm(base: Path, flags: dict, threads: int) -> str | None:
    """Trains one arm and seed in its own process; returns why it failed, or None."""
    folder = run_folder(base, flags)
    if (folder / "adapter").exists():
        return None
    folder.mkdir(parents=True, exist_ok=True)
    resume = ["--resume_from_checkpoint"] if checkpoints(folder) else []
    if not resume:
        (folder / "config.yaml").unlink(missing_ok=True)  # a run that died before its first checkpoint starts anew
    words = flag_words({"config": base, **flags, "output_dir": folder})
    command = [sys.executable, ROOT / "train_treerpo.py", *words, *resume]
    with (folder / "log.txt").open("a") as log:
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        done = subprocess.run(list(map(str, command)), stdout=log, stderr=log, env=environment, check=False)
    return (folder / "log.txt").read_text().strip().splitlines()[-1][:300] if done.returncode else None


def curve(folder: Path) -> list[dict]:
    """A run's evaluations: update, tokens sampled and trained and seconds until then, and the scores."""
    points, totals = [], Counter(sampled_tokens=0, trained_tokens=0, seconds=0.0)
    for row in read_lines(folder / "metrics.jsonl"):
        if "evaluation" in row:
            (scores,) = list(row["evaluation"].values())[:1]
            flat = {key: value["mean"] if isinstance(value, dict) else value for key, value in scores.items()}
            points.append({"update": row["update"], **totals, **flat})
        else:
            seconds = sum(row[f"seconds_{phase}"] for phase in ("sample", "grade", "update"))
            totals.update({key: row[key] for key in ("sampled_tokens", "trained_tokens")}, seconds=seconds)
    return points


def point_at(points: list[dict], key: str, budget: float) -> dict:
    """The point of a curve where `key` reaches `budget`, linear between the evaluations on either side."""
    after = next(i for i, p in enumerate(points) if p[key] >= budget)
    if after == 0:
        return points[0]
    low, high = points[after - 1], points[after]
    share = (budget - low[key]) / (high[key] - low[key])
    return {name: low[name] + share * (high[name] - low[name]) for name in low}


def cell(values: list[float], sign: str = "") -> str:
    """Mean and 95 % interval over seeds; of one seed there is no interval."""
    mean, half = interval(values)
    digits = 0 if mean >= 1000 else 1
    return f"{mean:{sign},.{digits}f}" + (f" ± {half:,.{digits}f}" if len(values) > 1 else "")


def table(curves: dict[str, list[list[dict]]], choose) -> str:
    """Markdown: an arm a row, mean and 95 % interval over seeds of the point that `choose` takes from each curve, and
    of the differences to the first arm's, seed by seed."""
    first = [choose(points) for points in next(iter(curves.values()))]
    totals = ("update", "sampled_tokens", "trained_tokens", "seconds")
    columns = [key for key in first[0] if key not in ("n", *totals)] + list(totals)
    score = next(key for key in columns if key.startswith("avg@"))
    lines = ["| arm | seeds | " + " | ".join([*columns, f"{score} over the first arm"]) + " |"]
    lines.append("|" + "---|" * (len(columns) + 3))
    for arm, runs in curves.items():
        chosen, cells = [choose(points) for points in runs], []
        for key in columns:
            share = "@" in key or key.endswith("unfinished")
            cells.append(cell([100 * point[key] if share else point[key] for point in chosen]) + " %" * share)
        cells.append(cell([100 * (mine[score] - other[score]) for mine, other in zip(chosen, first)], "+"))
        lines.append(f"| {arm} | {len(runs)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def report(sweep: str, curves: dict[str, list[list[dict]]]) -> str:
    """The tables of a sweep: at the last update, and at as many sampled tokens and seconds as every run reached."""
    seeds = max(map(len, curves.values()))
    parts = [f"Mean and 95 % interval over seeds. Command: `python run_ablations.py {sweep} --seeds {seeds}`"]
    parts += ["At the last update:", table(curves, lambda points: points[-1])]
    for key in ("sampled_tokens", "seconds"):
        budget = min(points[-1][key] for runs in curves.values() for points in runs)
        parts.append(f"At equal {key.replace('_', ' ')} ({budget:,.0f}), linear between evaluations:")
        parts.append(table(curves, lambda points, key=key, budget=budget: point_at(points, key, budget)))
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path, help="a YAML file under recipes/ablations")
    parser.add_argument("--seeds", type=int, default=5, help="seeds 0, 1, ... of every arm")
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 1) // 2), help="runs at once")
    args, shared = parser.parse_known_args()
    if len(shared) % 2 or not all(word.startswith("--") for word in shared[::2]):
        raise BadInput(f"{' '.join(shared)}: flags for every run are written --flag value")
    shared = {word.removeprefix("--"): value for word, value in zip(shared[::2], shared[1::2])}
    try:
        sweep = yaml.safe_load(args.sweep.read_text())
        arms, base = sweep["arms"], args.sweep.parent / sweep["extends"]
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise BadInput(f"{args.sweep}: not a sweep with `extends` and `arms` ({error})") from error
    output = RUNS.parent / args.sweep.stem
    grid = [(arm, seed) for seed in range(args.seeds) for arm in arms]
    flags = {(arm, seed): {**(arms[arm] or {}), **shared, "seed": seed} for arm, seed in grid}
    threads = max(1, (os.cpu_count() or 1) // args.jobs)
    with ThreadPoolExecutor(args.jobs) as pool:
        runs = pool.map(lambda place: run_arm(base, flags[place], threads), grid)
        failures = dict(zip(grid, tqdm(runs, total=len(grid), desc=args.sweep.stem, unit="run")))
    curves = {arm: [] for arm in arms}
    for (arm, seed), reason in failures.items():
        if reason:
            print(f"failed: {arm}, seed {seed}: {reason}", file=sys.stderr)
        else:
            curves[arm].append(curve(run_folder(base, flags[arm, seed])))
    curves = {arm: points for arm, points in curves.items() if points}
    if not curves:
        raise BadInput(f"{args.sweep}: every run failed; see {RUNS}/*/log.txt")
    text = report(str(args.sweep), curves)
    output.mkdir(parents=True, exist_ok=True)
    (output / "table.md").write_text(text)
    (output / "results.json").write_text(json.dumps(curves, indent=1) + "\n")
    print(f"{text}\nwritten to {output}/table.md, results.json and {plot_arms(curves, output / 'curves.png')}")


if __name__ == "__main__":
    run(main)
