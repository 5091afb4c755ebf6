"""Runs a grid of arms and seeds and compares them: python run_ablations.py
recipes/ablations/main.yaml --seeds 5

The YAML names a base recipe (`extends`) and each arm's own flags (`arms`). Every arm's flags are
checked before the first run. Runs lie in results/ablations/runs by a digest of their flags: arms
that sweeps share are run once, a finished run (it has adapter/ or model/) is not run again, and a
killed one resumes from its checkpoint, so that the same command continues a sweep. A failed arm is
named and does not stop the others. Any other flag, such as --model_name_or_path FOLDER, goes to
every run. Writes table.md, results.json and curves.png into results/ablations/NAME. docs/runs.md
says more."""

import argparse
import hashlib
import json
import os
import shlex
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml
from tqdm import tqdm

import train_treerpo
from plot_results import plot_arms, score_names
from run.errors import BadInput, first_line, refuse, run
from run.flags import ROOT, flag_words, repeated_key, yaml_settings
from run.folder import checkpoints, read_lines
from run.intervals import interval

RUNS = Path("results/ablations/runs")
# Flags that the sweep itself gives to each run.
OWN_FLAGS = ("config", "extends", "output_dir", "seed", "resume_from_checkpoint", "dry_run")


# --- What to run ---


def read_sweep(path: Path) -> tuple[Path, dict[str, dict]]:
    """The base recipe of a sweep, and each arm's own flags.

    Raises:
        BadInput: it can't be read, or is not a mapping with `extends` and `arms`, or an arm has no
            name or no flags that a sweep can give.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if key := repeated_key(yaml.compose(text)):
            raise ValueError(f"{key} stands in it twice; keep one")
        sweep = yaml.safe_load(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise BadInput(
            f"{path}: not a sweep that can be read ({' '.join(str(error).split())[:300]})"
        ) from error
    if not isinstance(sweep, dict) or not {"extends", "arms"} <= sweep.keys():
        raise BadInput(f"{path}: not a sweep with `extends: RECIPE.yaml` and `arms:`")
    if unknown := [str(key) for key in sweep if key not in ("extends", "arms")]:
        raise BadInput(
            f"{path}: unknown key {unknown[0]}; a sweep has `extends` and `arms`, and flags stand in an arm"
        )
    if not isinstance(sweep["extends"], str):
        raise BadInput(
            f"{path}: extends {sweep['extends']}: must name a recipe, such as ../sweep.yaml"
        )
    arms = sweep["arms"]
    if not isinstance(arms, dict) or not arms:
        raise BadInput(
            f"{path}: arms must be names, each with its flags, such as `wide: {{branching: 8}}`"
        )
    named = {}
    for name, flags in arms.items():
        label = str(name)
        if name is None or isinstance(name, bool):
            raise BadInput(
                f"{path}: arm {label.lower()}: YAML reads this name as no text; write it in quotes"
            )
        if not label.strip() or not label.isprintable() or label.startswith("_"):
            raise BadInput(
                f"{path}: arm {label!r}: a name must be printable text on one line that begins with no _"
            )
        if label in named:
            raise BadInput(f"{path}: arm {label}: two arms have this name")
        flags = {} if flags is None else flags
        if not isinstance(flags, dict) or not all(isinstance(key, str) for key in flags):
            raise BadInput(
                f"{path}: arm {label}: must hold flags and values, such as {{branching: 8}}, or nothing"
            )
        named[label] = {key.replace("-", "_"): value for key, value in flags.items()}
        if empty := [key for key, value in named[label].items() if value is None]:
            raise BadInput(
                f"{path}: arm {label}: {empty[0]} has no value; null can stand in a recipe, not in an arm"
            )
        if own := [key for key in OWN_FLAGS if key in named[label]]:
            raise BadInput(
                f"{path}: arm {label}: {own[0]} is set by the sweep for every run; leave it out"
            )
    return path.parent / sweep["extends"], named


def shared_flags(words: list[str]) -> dict:
    """The flags for every run: `--flag value`, `--flag=value`, or `--flag value value`.

    Raises:
        BadInput: a value without a flag, a flag without a value, or one that the sweep itself
            gives.
    """
    shared: dict[str, list[str]] = {}
    for word in words:
        if word.startswith("--"):
            name, equals, value = word.removeprefix("--").partition("=")
            shared[name := name.replace("-", "_")] = [value] if equals else []
        elif shared:
            shared[name].append(word)
        else:
            raise BadInput(f"{word}: flags for every run are written --flag value")
    for name, values in shared.items():
        if not values:
            raise BadInput(f"--{name}: flags for every run are written --flag value")
        if name in OWN_FLAGS:
            raise BadInput(
                f"--{name}: is set by the sweep for every run; leave it out (--seeds says how many)"
            )
    return {name: values[0] if len(values) == 1 else values for name, values in shared.items()}


def check_arms(sweep: Path, base: Path, arms: dict[str, dict]) -> None:
    """Checks every arm's flags as its run will, and that their evaluations can be compared, before
    the first run: a mistyped flag in the last arm must not show after hours.

    Raises:
        BadInput: the base recipe or an arm has flags that no run takes, or evaluates on nothing or
            on something else.
    """
    try:
        yaml_settings(str(base))
    except BadInput as error:
        raise BadInput(
            f"{sweep}: extends {base}: {str(error).removeprefix(f'--config {base}: ')}"
        ) from error
    alike = {}
    for arm, own in arms.items():
        words = flag_words({"config": base, **own, "seed": 0, "output_dir": RUNS})
        try:
            flags = train_treerpo.read_flags(words)
            if flags.dry_run or flags.resume_from_checkpoint:
                raise BadInput(
                    "dry_run and resume_from_checkpoint have no place in a sweep's recipe"
                )
            if not flags.eval_steps or not flags.benchmarks:
                raise BadInput(
                    "a sweep compares evaluations, and eval_steps is 0 or benchmarks is empty: set "
                    "eval_steps, for example to 10"
                )
        except BadInput as error:
            raise BadInput(f"{sweep}: arm {arm}: {error}") from error
        alike[arm] = {
            "the first of benchmarks": flags.benchmarks[0],
            "num_samples": flags.num_samples,
        }
    first, wanted = next(iter(alike.items()))
    for arm, found in alike.items():
        for name, value in found.items():
            if value != wanted[name]:
                raise BadInput(
                    f"{sweep}: arm {arm}: {name} is {value}, but {wanted[name]} in arm {first}: their "
                    "scores can't be compared"
                )


# --- Running ---


def run_folder(base: Path, flags: dict) -> Path:
    settings = json.dumps({**yaml_settings(str(base)), **flags}, sort_keys=True, default=str)
    return RUNS / f"{hashlib.sha256(settings.encode()).hexdigest()[:10]}-seed{flags['seed']}"


def is_finished(folder: Path) -> bool:
    """Whether a run has left its result, which the trainer writes last: an adapter, or all
    weights."""
    return (folder / "adapter").exists() or (folder / "model").exists()


def run_arm(base: Path, flags: dict, threads: int) -> str | None:
    """Trains one arm and seed in its own process; returns why it failed, or None."""
    folder = run_folder(base, flags)
    if is_finished(folder):
        return None
    folder.mkdir(parents=True, exist_ok=True)
    resume = ["--resume_from_checkpoint"] if checkpoints(folder) else []
    if not resume:
        (folder / "config.yaml").unlink(
            missing_ok=True
        )  # a run that died before its first checkpoint starts anew
    words = flag_words({"config": base, **flags, "output_dir": folder})
    command = [sys.executable, ROOT / "train_treerpo.py", *words, *resume]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONIOENCODING": "utf-8"}
    log_file = folder / "log.txt"
    with log_file.open("ab") as log:
        start = log.tell()
        done = subprocess.run(
            list(map(str, command)), stdout=log, stderr=log, env=environment, check=False
        )
    if not done.returncode:
        return None
    lines = log_file.read_bytes()[start:].decode("utf-8", errors="replace").strip().splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors or lines or ["it ended without a word"])[-1][
        :300
    ] + f" (exit code {done.returncode})"


def curve(folder: Path) -> list[dict]:
    """A run's evaluations on its first benchmark: update, tokens sampled and trained and seconds
    until then, and the scores.

    Raises:
        BadInput: there are none.
    """
    points, totals = [], Counter(sampled_tokens=0, trained_tokens=0, seconds=0.0)
    for row in read_lines(folder / "metrics.jsonl"):
        if row.get("evaluation"):
            scores = next(iter(row["evaluation"].values()))
            flat = {
                key: value["mean"] if isinstance(value, dict) else value
                for key, value in scores.items()
            }
            points.append({"update": row["update"], **totals, **flat})
        elif "evaluation" not in row:
            seconds = sum(row[f"seconds_{phase}"] for phase in ("sample", "grade", "update"))
            totals.update(
                {key: row[key] for key in ("sampled_tokens", "trained_tokens")}, seconds=seconds
            )
    if not points:
        raise BadInput(
            f"{folder}: its metrics.jsonl holds no evaluation; delete the folder to run it again"
        )
    return points


# --- Comparing ---


def point_at(points: list[dict], key: str, budget: float) -> dict:
    """The point of a curve where `key` reaches `budget`, linear between the evaluations on either
    side; the first or the last evaluation where the budget lies outside of them."""
    after = next((i for i, p in enumerate(points) if p[key] >= budget), len(points) - 1)
    low, high = points[max(0, after - 1)], points[after]
    if after == 0 or high[key] <= budget:
        return high
    share = (budget - low[key]) / (high[key] - low[key])
    return {name: low[name] + share * (high[name] - low[name]) for name in low if name in high}


def cell(values: list[float], sign: str = "") -> str:
    """Mean and 95 % interval over seeds; of one seed there is no interval."""
    mean, half = interval(values)
    digits = 0 if mean >= 1000 else 1
    return f"{mean:{sign},.{digits}f}" + (f" ± {half:,.{digits}f}" if len(values) > 1 else "")


def table(curves: dict[str, list[list[dict] | None]], choose) -> str:
    """Markdown: an arm a row, mean and 95 % interval over seeds of the point that `choose` takes
    from each curve, and of the differences to the first arm's, seed by seed. A failed run is None,
    and takes no part."""
    chosen = {arm: [points and choose(points) for points in runs] for arm, runs in curves.items()}
    every = [point for points in chosen.values() for point in points if point]
    totals = ("update", "sampled_tokens", "trained_tokens", "seconds")
    shared = [key for key in every[0] if all(key in point for point in every)]
    columns = [key for key in shared if key not in ("n", *totals)] + list(totals)
    names = score_names(dict.fromkeys(columns))
    score = (
        names.get("sampled") or names["greedy"]
    )  # evaluations without samples have greedy scores alone
    lines = ["| arm | seeds | " + " | ".join([*columns, f"{score} over the first arm"]) + " |"]
    lines.append("|" + "---|" * (len(columns) + 3))
    first = next(iter(chosen.values()))
    for arm, points in chosen.items():
        cells, there = [], [point for point in points if point]
        for key in columns:
            share = "@" in key or key.endswith("unfinished")
            cells.append(
                cell([100 * point[key] if share else point[key] for point in there]) + " %" * share
            )
        pairs = [(mine, other) for mine, other in zip(points, first) if mine and other]
        cells.append(
            cell([100 * (mine[score] - other[score]) for mine, other in pairs], "+")
            if pairs
            else "-"
        )
        name = arm.replace("|", "\\|")
        lines.append(f"| {name} | {len(there)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def report(sweep: str, curves: dict[str, list[list[dict] | None]], more: str = "") -> str:
    """The tables of a sweep: at the last update, and at as many sampled tokens and seconds as every
    run reached.

    Args:
        more: further words of the command, each after a space.
    """
    seeds = max(map(len, curves.values()))
    parts = [
        f"Mean and 95 % interval over seeds. Command: `python run_ablations.py {sweep} --seeds {seeds}{more}`"
    ]
    parts += ["At the last update:", table(curves, lambda points: points[-1])]
    every = [points for runs in curves.values() for points in runs if points]
    for key in ("sampled_tokens", "seconds"):
        name, budget = key.replace("_", " "), min(points[-1][key] for points in every)
        if any(points[0][key] > budget for points in every):
            parts.append(
                f"At equal {name}: there is no number of them that the evaluations of every run span."
            )
            continue
        parts.append(f"At equal {name} ({budget:,.0f}), linear between evaluations:")
        parts.append(
            table(curves, lambda points, key=key, budget=budget: point_at(points, key, budget))
        )
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("sweep", type=Path, help="a YAML file under recipes/ablations")
    parser.add_argument("--seeds", type=int, default=5, help="seeds 0, 1, ... of every arm")
    parser.add_argument(
        "--jobs", type=int, default=max(1, (os.cpu_count() or 1) // 2), help="runs at once"
    )
    parser.error = refuse
    args, words = parser.parse_known_args()
    for name in ("seeds", "jobs"):
        if getattr(args, name) < 1:
            raise BadInput(f"--{name} {getattr(args, name)}: must be at least 1")
    shared = shared_flags(words)
    base, arms = read_sweep(args.sweep)
    arms = {arm: {**own, **shared} for arm, own in arms.items()}
    check_arms(args.sweep, base, arms)

    folders = {
        (arm, seed): run_folder(base, {**arms[arm], "seed": seed})
        for seed in range(args.seeds)
        for arm in arms
    }
    runs = {
        folder: {**arms[arm], "seed": seed} for (arm, seed), folder in folders.items()
    }  # what arms share, once
    threads = max(1, (os.cpu_count() or 1) // args.jobs)

    def train(flags: dict) -> str | None:
        try:
            return run_arm(base, flags, threads)
        except OSError as error:  # a full disk
            return f"{error.filename or 'its process'}: {error.strerror}"

    with ThreadPoolExecutor(args.jobs) as pool:
        done = pool.map(train, runs.values())
        failures = dict(zip(runs, tqdm(done, total=len(runs), desc=args.sweep.stem, unit="run")))

    curves: dict[str, list[list[dict] | None]] = {
        arm: [] for arm in arms
    }  # of each seed; None: the run failed
    for (arm, seed), folder in folders.items():
        points, reason = None, failures[folder]
        if not reason:
            try:
                points = curve(folder)
            except (BadInput, KeyError) as error:
                reason = f"metrics.jsonl can't be read: {first_line(error)}"
        if reason:
            print(f"failed: {arm}, seed {seed}: {reason}; see {folder}/log.txt", file=sys.stderr)
        curves[arm].append(points)
    curves = {arm: runs for arm, runs in curves.items() if any(runs)}
    if not curves:
        raise BadInput(f"{args.sweep}: every run failed; see {RUNS}/*/log.txt")

    output = RUNS.parent / args.sweep.stem
    output.mkdir(parents=True, exist_ok=True)
    text = report(str(args.sweep), curves, "".join(f" {shlex.quote(word)}" for word in words))
    (output / "table.md").write_text(text, encoding="utf-8")
    (output / "results.json").write_text(json.dumps(curves, indent=1) + "\n", encoding="utf-8")
    print(
        f"{text}\nwritten to {output}/table.md, results.json and {plot_arms(curves, output / 'curves.png')}"
    )


if __name__ == "__main__":
    run(main)
