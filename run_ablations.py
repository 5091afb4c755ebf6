"""Trains every arm of a sweep with every seed, and compares the arms.

    python run_ablations.py recipes/ablations/main.yaml --seeds 5
    python run_ablations.py recipes/ablations/horizon-*.yaml --seeds 5    # one sweep after another
    python run_ablations.py recipes/ablations/chain-fresh.yaml --seeds 10 --first_seed 5

Arms that were chosen on some seeds are best compared on others, which `--first_seed` gives.

The sweep is a YAML file: a base recipe (`extends`) and the flags of each arm (`arms`). Any other
flag on the command line, such as --model_name_or_path FOLDER, goes to every run.

- The flags of all arms are checked before the first run.
- Runs lie in results/ablations/runs, named by a digest of their flags: a run that several arms or
  sweeps share is made once.
- The same command continues a sweep. A finished run (it has adapter/ or model/) is not made again;
  a killed one resumes from its checkpoint.
- A failed run is named and does not stop the others.

Writes table.md, results.json and curves.png into results/ablations/NAME. docs/runs.md says more.
"""

import argparse
import hashlib
import json
import os
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import yaml
from tqdm import tqdm

import train_treerpo
from plot_results import plot_arms, score_names
from run.errors import BadInput, first_line, refuse, run_script
from run.flags import ROOT, flag_words, repeated_key, yaml_settings
from run.folder import checkpoints, read_lines
from run.intervals import interval
from run.markdown import markdown_table

RUNS = Path("results/ablations/runs")
CORES = os.cpu_count() or 1
# Flags that the sweep itself gives to each run.
OWN_FLAGS = ("config", "extends", "output_dir", "seed", "resume_from_checkpoint", "dry_run")

# A run's evaluations, one point each: `curve` says what is in a point.
Curve = list[dict]
# Of each arm the curves of all seeds, in order; None where a run failed.
Curves = dict[str, list[Curve | None]]


# --- What to run ---


def read_sweep(path: Path) -> tuple[Path, dict[str, dict]]:
    """The base recipe of a sweep, and each arm's own flags.

    Raises:
        BadInput: it can't be read, or is not a mapping with `extends` and `arms`, or an arm has no
            name or no flags that a sweep can give.
    """
    sweep = _sweep_yaml(path)
    base = sweep["extends"]
    if not isinstance(base, str):
        raise BadInput(f"{path}: extends {base}: must name a recipe, such as ../sweep.yaml")
    arms = sweep["arms"]
    if not isinstance(arms, dict) or not arms:
        raise BadInput(
            f"{path}: arms must be names, each with its flags, such as `wide: {{branching: 8}}`"
        )
    flags_of: dict[str, dict] = {}
    for key, flags in arms.items():
        name = _arm_name(path, key)
        if name in flags_of:
            raise BadInput(f"{path}: arm {name}: two arms have this name")
        flags_of[name] = _arm_flags(f"{path}: arm {name}", flags)
    return path.parent / base, flags_of


def _sweep_yaml(path: Path) -> dict:
    """The sweep's file as a mapping with the keys `extends` and `arms` and no other."""
    try:
        text = path.read_text(encoding="utf-8")
        if key := repeated_key(yaml.compose(text)):
            raise ValueError(f"{key} stands in it twice; keep one")
        sweep = yaml.safe_load(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:300]
        raise BadInput(f"{path}: not a sweep that can be read ({reason})") from error
    if not isinstance(sweep, dict) or not {"extends", "arms"} <= sweep.keys():
        raise BadInput(f"{path}: not a sweep with `extends: RECIPE.yaml` and `arms:`")
    unknown = [key for key in sweep if key not in ("extends", "arms")]
    if unknown:
        raise BadInput(
            f"{path}: unknown key {unknown[0]}; a sweep has `extends` and `arms`, and flags stand "
            "in an arm"
        )
    return sweep


def _arm_name(path: Path, key) -> str:
    """An arm's name as text. YAML reads some names as numbers, which is fine, and others as truth
    values or as nothing, which loses their spelling."""
    name = str(key)
    if key is None or isinstance(key, bool):
        raise BadInput(
            f"{path}: arm {name.lower()}: YAML reads this name as no text; write it in quotes"
        )
    # matplotlib leaves labels that begin with _ out of a legend.
    if not name.strip() or not name.isprintable() or name.startswith("_"):
        raise BadInput(
            f"{path}: arm {name!r}: a name must be printable text on one line that begins with no _"
        )
    return name


def _arm_flags(where: str, flags) -> dict:
    """An arm's flags, with underscores in their names.

    Args:
        where: the sweep and the arm, for the message.
    """
    if flags is None:
        return {}
    if not isinstance(flags, dict) or not all(isinstance(key, str) for key in flags):
        raise BadInput(f"{where}: must hold flags and values, such as {{branching: 8}}, or nothing")
    flags = {key.replace("-", "_"): value for key, value in flags.items()}
    for key, value in flags.items():
        if value is None:
            raise BadInput(
                f"{where}: {key} has no value; null can stand in a recipe, not in an arm"
            )
        if key in OWN_FLAGS:
            raise BadInput(f"{where}: {key} is set by the sweep for every run; leave it out")
    return flags


def shared_flags(words: list[str]) -> dict:
    """The flags for every run: `--flag value`, `--flag=value`, or `--flag value value`.

    >>> shared_flags(["--lora-r", "4", "--branching", "4", "2"])
    {'lora_r': '4', 'branching': ['4', '2']}

    Raises:
        BadInput: a value without a flag, a flag without a value, or one that the sweep itself
            gives.
    """
    values_of: dict[str, list[str]] = {}
    name = ""
    for word in words:
        # A value without a flag before it can't be placed; others belong to the last flag.
        if word.startswith("--"):
            name, equals, value = word.removeprefix("--").partition("=")
            name = name.replace("-", "_")
            values_of[name] = [value] if equals else []
        elif name:
            values_of[name].append(word)
        else:
            raise BadInput(f"{word}: flags for every run are written --flag value")
    for name, values in values_of.items():
        if not values:
            raise BadInput(f"--{name}: flags for every run are written --flag value")
        if name in OWN_FLAGS:
            raise BadInput(
                f"--{name}: is set by the sweep for every run; leave it out (--seeds says how many)"
            )
    return {name: values[0] if len(values) == 1 else values for name, values in values_of.items()}


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
        reason = str(error).removeprefix(f"--config {base}: ")
        raise BadInput(f"{sweep}: extends {base}: {reason}") from error

    # Scores can be compared where these are the same in every arm as in the first.
    first_arm = next(iter(arms))
    first_values: dict = {}
    for arm, own in arms.items():
        try:
            flags = _checked_flags(base, own)
        except BadInput as error:
            raise BadInput(f"{sweep}: arm {arm}: {error}") from error
        values = {"the first of benchmarks": flags.benchmarks[0], "num_samples": flags.num_samples}
        first_values = first_values or values
        for name, value in values.items():
            if value != first_values[name]:
                raise BadInput(
                    f"{sweep}: arm {arm}: {name} is {value}, but {first_values[name]} in arm "
                    f"{first_arm}: their scores can't be compared"
                )


def _checked_flags(base: Path, own: dict) -> train_treerpo.Flags:
    """The flags of an arm's run, checked as the trainer checks them and as a sweep must."""
    words = flag_words({"config": base, **own, "seed": 0, "output_dir": RUNS})
    flags = train_treerpo.read_flags(words)
    if flags.dry_run or flags.resume_from_checkpoint:
        raise BadInput("dry_run and resume_from_checkpoint have no place in a sweep's recipe")
    if not flags.eval_steps or not flags.benchmarks:
        raise BadInput(
            "a sweep compares evaluations, and eval_steps is 0 or benchmarks is empty: set "
            "eval_steps, for example to 10"
        )
    return flags


# --- Running ---


def run_folder(base: Path, flags: dict) -> Path:
    """The folder of one run, named by a digest of all its flags, those of the recipe included."""
    settings = json.dumps({**yaml_settings(str(base)), **flags}, sort_keys=True, default=str)
    digest = hashlib.sha256(settings.encode()).hexdigest()[:10]
    return RUNS / f"{digest}-seed{flags['seed']}"


def is_finished(folder: Path) -> bool:
    """Whether a run has left its result, which the trainer writes last: an adapter, or all
    weights."""
    return (folder / "adapter").exists() or (folder / "model").exists()


def run_arm(base: Path, flags: dict, threads: int) -> str | None:
    """Trains one arm with one seed in its own process; returns why it failed, or None."""
    folder = run_folder(base, flags)
    if is_finished(folder):
        return None
    folder.mkdir(parents=True, exist_ok=True)
    words = flag_words({"config": base, **flags, "output_dir": folder})
    if checkpoints(folder):
        words.append("--resume_from_checkpoint")
    else:
        # A run that died before its first checkpoint starts anew: without this file the trainer
        # takes the folder for an empty one.
        (folder / "config.yaml").unlink(missing_ok=True)

    # Runs side by side share the cores; whatever they print goes to a file.
    command = [sys.executable, str(ROOT / "train_treerpo.py"), *words]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONIOENCODING": "utf-8"}
    log_file = folder / "log.txt"
    with log_file.open("ab") as log:
        start = log.tell()
        done = subprocess.run(command, stdout=log, stderr=log, env=environment, check=False)
    if done.returncode == 0:
        return None
    reason = last_error(log_file.read_bytes()[start:])
    return f"{reason} (exit code {done.returncode})"


def last_error(log: bytes) -> str:
    """What a failed run said last: the error that it named, else its last line."""
    lines = log.decode("utf-8", errors="replace").strip().splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    said = errors or lines or ["it ended without a word"]
    return said[-1][:300]


def curve(folder: Path) -> Curve:
    """A run's evaluations on its first benchmark, one point each: the update, the tokens sampled
    and trained and the seconds until then, by the clock and of the processor, and the scores.

    Raises:
        BadInput: there are none.
    """
    points = []
    totals = Counter(sampled_tokens=0, trained_tokens=0, seconds=0.0, processor_seconds=0.0)
    for row in read_lines(folder / "metrics.jsonl"):
        # A line is an update's or an evaluation's; an evaluation on nothing has no scores.
        if row.get("evaluation"):
            scores = next(iter(row["evaluation"].values()))
            means = {
                key: value["mean"] if isinstance(value, dict) else value
                for key, value in scores.items()
            }
            points.append({"update": row["update"], **totals, **means})
        elif "evaluation" not in row:
            phases = ("sample", "grade", "update")
            totals["sampled_tokens"] += row["sampled_tokens"]
            totals["trained_tokens"] += row["trained_tokens"]
            totals["seconds"] += sum(row[f"seconds_{phase}"] for phase in phases)
            totals["processor_seconds"] += row.get("seconds_processor", 0.0)
    if not points:
        raise BadInput(
            f"{folder}: its metrics.jsonl holds no evaluation; delete the folder to run it again"
        )
    if not totals["processor_seconds"]:
        # A run of an older version, which did not record it.
        for point in points:
            del point["processor_seconds"]
    return points


# --- Comparing ---


def point_at(points: Curve, key: str, budget: float) -> dict:
    """The point of a curve where `key` reaches `budget`, linear between the evaluations on either
    side; the first or the last evaluation where the budget lies outside of them.

    >>> point_at([{"seconds": 0, "avg@2": 0.2}, {"seconds": 10, "avg@2": 0.6}], "seconds", 5)
    {'seconds': 5.0, 'avg@2': 0.4}
    """
    # The first evaluation at or after the budget, and the one before it.
    reached = [i for i, point in enumerate(points) if point[key] >= budget]
    after = reached[0] if reached else len(points) - 1
    low = points[max(0, after - 1)]
    high = points[after]
    if after == 0 or high[key] <= budget:
        return high
    fraction = (budget - low[key]) / (high[key] - low[key])
    return {name: low[name] + fraction * (high[name] - low[name]) for name in low if name in high}


def equal_budget(curves: Curves, key: str) -> float | None:
    """The most of `key` (sampled tokens or seconds) that every run reached, or None where some
    run's first evaluation came only after it."""
    runs = [points for seeds in curves.values() for points in seeds if points]
    budget = min(points[-1][key] for points in runs)
    if any(points[0][key] > budget for points in runs):
        return None
    return budget


def with_interval(values: list[float], sign: str = "") -> str:
    """Mean and 95 % interval over seeds as text; of one seed there is no interval. A mean that
    rounds to 0 has no minus.

    >>> with_interval([80.0, 82.0, 84.0]), with_interval([1.25], sign="+"), with_interval([-0.01])
    ('82.0 ± 5.0', '+1.2', '0.0')
    """
    mean, half_width = interval(values)
    digits = 0 if mean >= 1000 else 1
    text = f"{mean:{sign}z,.{digits}f}"
    if len(values) > 1:
        text += f" ± {half_width:,.{digits}f}"
    return text


def score_name(point: dict) -> str:
    """The score by which arms are compared: the sampled pass@1 (avg@k), or the greedy one where an
    evaluation draws no samples."""
    names = score_names(point)
    return names.get("sampled") or names["greedy"]


def differences(score: str, points: list[dict | None], others: list[dict | None]) -> list[float]:
    """How many percentage points an arm's score is above another arm's, for each seed that both
    have.

    Args:
        points: of each seed, None for a failed run; `others` likewise.
    """
    pairs = [(mine, other) for mine, other in zip(points, others) if mine and other]
    return [100 * (mine[score] - other[score]) for mine, other in pairs]


def heading(key: str) -> str:
    """What a column is called.

    >>> heading("avg@2"), heading("greedy_length"), heading("sampled_tokens")
    ('sampled pass@1 (avg@2) [%]', 'greedy length [tokens]', 'sampled tokens')
    """
    if key == "pass@1":
        return "greedy pass@1 [%]"
    if key.startswith("avg@"):
        return f"sampled pass@1 ({key}) [%]"
    if "@" in key:
        return f"{key} [%]"
    if key.endswith("_unfinished"):
        return f"{key.removesuffix('_unfinished')}, cut off [%]"
    if key.endswith("_length"):
        return f"{key.removesuffix('_length')} length [tokens]"
    return key.replace("_", " ")


def column(key: str, points: list[dict]) -> list[float]:
    """One figure of several points, a rate in percent.

    >>> column("avg@2", [{"avg@2": 0.5}]), column("seconds", [{"seconds": 3.5}])
    ([50.0], [3.5])
    """
    is_rate = "@" in key or key.endswith("_unfinished")
    return [100 * point[key] if is_rate else point[key] for point in points]


def table(curves: Curves, choose: Callable[[Curve], dict]) -> str:
    """Markdown, one row per arm: mean and 95 % interval over seeds of the point that `choose` takes
    from each curve, and of the differences to the first arm's, seed by seed. Failed runs are left
    out."""
    points_of = {
        arm: [points and choose(points) for points in runs] for arm, runs in curves.items()
    }

    # Columns are what every point has: runs of an older version may hold fewer scores.
    all_points = [point for points in points_of.values() for point in points if point]
    common = [key for key in all_points[0] if all(key in point for point in all_points)]
    # Scores first, then what was spent on them.
    totals = ["update", "sampled_tokens", "trained_tokens", "seconds", "processor_seconds"]
    keys = [key for key in common if key not in ("n", *totals)]
    keys += [key for key in totals if key in common]

    score = score_name(dict.fromkeys(keys))
    first_arm = next(iter(points_of.values()))
    rows = []
    for arm, points in points_of.items():
        of_this_arm = [point for point in points if point]
        gains = differences(score, points, first_arm)
        rows.append(
            [
                arm,
                str(len(of_this_arm)),
                *(with_interval(column(key, of_this_arm)) for key in keys),
                with_interval(gains, "+") if gains else "-",
            ]
        )
    name = "sampled" if score.startswith("avg@") else "greedy"
    last_column = f"{name} pass@1 over the first arm [points]"
    return markdown_table(["arm", "seeds", *map(heading, keys), last_column], rows)


def report(sweep: str, curves: Curves, more: str = "") -> str:
    """The tables of a sweep: after the last update, and at as many sampled tokens and seconds as
    every run reached.

    Args:
        more: further words of the command, each after a space.
    """
    seeds = max(map(len, curves.values()))
    command = f"python run_ablations.py {sweep} --seeds {seeds}{more}"
    parts = [
        f"Mean and 95 % interval over seeds. Command: `{command}`",
        "After the last update:",
        table(curves, lambda points: points[-1]),
    ]
    for key in ("sampled_tokens", "seconds"):
        name = key.replace("_", " ")
        budget = equal_budget(curves, key)
        if budget is None:
            parts.append(f"At equal {name}: the evaluations of all runs have no number in common.")
            continue
        parts.append(f"At equal {name} ({budget:,.0f}), linear between evaluations:")
        parts.append(table(curves, partial(point_at, key=key, budget=budget)))
    return "\n\n".join(parts) + "\n"


# --- The command ---


def parse_arguments() -> tuple[argparse.Namespace, list[str]]:
    """The sweep's own flags, and the words that go to every run.

    Raises:
        BadInput: a word or a number that the sweep can't use.
    """
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "sweeps", type=Path, nargs="+", metavar="sweep", help="a YAML file under recipes/ablations"
    )
    parser.add_argument("--seeds", type=int, default=5, help="how many seeds every arm gets")
    parser.add_argument(
        "--first_seed", type=int, default=0, help="the first of them; the others follow it"
    )
    parser.add_argument(
        "--jobs", type=int, default=max(1, CORES // 2), help="runs at the same time"
    )
    parser.error = refuse
    args, words = parser.parse_known_args()
    for name, least in (("seeds", 1), ("first_seed", 0), ("jobs", 1)):
        value = getattr(args, name)
        if value < least:
            raise BadInput(f"--{name} {value}: must be at least {least}")
    return args, words


def train_all(base: Path, runs: dict[Path, dict], jobs: int, title: str) -> dict[Path, str | None]:
    """Makes every run that is not finished, `jobs` of them at a time; returns for each folder why
    its run failed, or None."""
    threads = max(1, CORES // jobs)

    def train(flags: dict) -> str | None:
        try:
            return run_arm(base, flags, threads)
        except OSError as error:  # a full disk
            return f"{error.filename or 'its process'}: {error.strerror}"

    with ThreadPoolExecutor(jobs) as pool:
        outcomes = pool.map(train, runs.values())
        # Shown at once: runs that were there before are counted before the first new one ends.
        progress = tqdm(outcomes, total=len(runs), desc=title, unit="run", mininterval=0)
        return dict(zip(runs, progress))


def read_curves(folders: dict[tuple[str, int], Path], failures: dict[Path, str | None]) -> Curves:
    """Each arm's curves, one per seed: None where the run failed, which is said on stderr. An arm
    whose every run failed is left out.

    Args:
        folders: of each arm and seed, seeds in order.
    """
    curves: Curves = {}
    for (arm, seed), folder in folders.items():
        points = None
        reason = failures[folder]
        if not reason:
            try:
                points = curve(folder)
            except (BadInput, KeyError) as error:
                reason = f"metrics.jsonl can't be read: {first_line(error)}"
        if reason:
            print(f"failed: {arm}, seed {seed}: {reason}; see {folder}/log.txt", file=sys.stderr)
        curves.setdefault(arm, []).append(points)
    return {arm: runs for arm, runs in curves.items() if any(runs)}


def run_sweep(
    args: argparse.Namespace, words: list[str], sweep: Path, base: Path, arms: dict[str, dict]
) -> None:
    """Trains and compares all arms of one sweep, and writes its folder.

    Args:
        words: of the command line, the flags for every run.
        base, arms: as `read_arms` gives them.

    Raises:
        BadInput: every run failed.
    """
    # Arms with the same flags have the same folder, and share its run.
    folders = {}
    runs = {}
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        for arm, flags in arms.items():
            folder = run_folder(base, {**flags, "seed": seed})
            folders[arm, seed] = folder
            runs[folder] = {**flags, "seed": seed}

    # An arm without a finished run is left out; a sweep without one is an error.
    failures = train_all(base, runs, args.jobs, sweep.stem)
    curves = read_curves(folders, failures)
    if not curves:
        raise BadInput(f"{sweep}: every run failed; see {RUNS}/*/log.txt")

    # The tables say with which command they were made, flags for every run included.
    first_seed = ["--first_seed", str(args.first_seed)] if args.first_seed else []
    more = "".join(f" {shlex.quote(word)}" for word in [*first_seed, *words])
    output = RUNS.parent / sweep.stem
    output.mkdir(parents=True, exist_ok=True)
    text = report(str(sweep), curves, more)
    (output / "table.md").write_text(text, encoding="utf-8")
    (output / "results.json").write_text(json.dumps(curves, indent=1) + "\n", encoding="utf-8")
    plot = plot_arms(curves, output / "curves.png")
    print(f"{text}\nwritten to {output}/table.md, results.json and {plot}")


def read_arms(sweep: Path, words: list[str]) -> tuple[Path, dict[str, dict]]:
    """The base recipe of a sweep, and each arm's flags with those for every run, all checked.

    Raises:
        BadInput: the sweep or a flag can't be used.
    """
    shared = shared_flags(words)
    base, arms = read_sweep(sweep)
    arms = {arm: {**own, **shared} for arm, own in arms.items()}
    check_arms(sweep, base, arms)
    return base, arms


def main() -> None:
    args, words = parse_arguments()
    # All of them first: a mistake in the last sweep must not show after hours.
    prepared = [(sweep, *read_arms(sweep, words)) for sweep in args.sweeps]
    for sweep, base, arms in prepared:
        run_sweep(args, words, sweep, base, arms)


if __name__ == "__main__":
    run_script(main)
