"""Writes the tables of measured figures into README.md, docs/*.md and results/README.md.

    python results/make_tables.py        # prints which of them changed

It also writes results/summary.json and the figures in results/when/.

A table stands between the lines `<!-- begin NAME -->` and `<!-- end NAME -->`. Whatever is between
them is overwritten: the table and a note under it are made anew from the JSON files in this folder.
TABLES, below, lists the names. A test holds that running this script changes nothing.
"""

import json
import re
import statistics
import sys
from collections.abc import Callable, Iterable
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from eval_math import paper_table  # noqa: E402
from results.evidence import (  # noqa: E402
    SUMMARY,
    curves_of,
    evidence_table,
    headline_table,
    read_json,
    seed_flags,
    summary,
)
from results.predicted import plot_predicted, predicted_table  # noqa: E402
from results.when import SERIES, plot, when_table  # noqa: E402
from run.errors import BadInput, run_script  # noqa: E402
from run.folder import read_lines, write_whole  # noqa: E402
from run.markdown import markdown_table  # noqa: E402
from run_ablations import column, differences, equal_budget, point_at, score_name, with_interval  # noqa: E402

RESULTS = ROOT / "results"
PUZZLES = ("arithmetic", "countdown", "sudoku4", "maze")


# --- The demo ---


def demo_table() -> str:
    """The model before and after the demo, from its first and its last evaluation."""
    evaluations = read_lines(RESULTS / "demo" / "evaluations.jsonl")
    first = evaluations[0]
    last = evaluations[-1]
    header = [
        "",
        "greedy pass@1 [%]",
        "sampled pass@1 (avg@2) [%]",
        "pass@2 [%]",
        "mean length, sampled [tokens]",
    ]
    rows = []
    for label, evaluation in (
        ("tiny base", first),
        (f"after {last['update']} updates of TreeRPO", last),
    ):
        (scores,) = evaluation["evaluation"].values()
        rates = [_rate(scores[name]) for name in ("pass@1", "avg@2", "pass@2")]
        rows.append([label, *rates, f"{scores['sampled_length']:.1f}"])
    note = (
        f"`python train_treerpo.py`: {scores['n']} unseen problems, one seed (0); "
        "mean ± standard error over problems."
    )
    return _with_note(markdown_table(header, rows), note)


def puzzles_table() -> str:
    """Each puzzle's tiny base before and after TreeRPO, from the first and the last evaluation."""
    header = ["task", "updates", "greedy pass@1 [%]", "sampled pass@1 [%]", "mean length [tokens]"]
    rows = []
    for path in (RESULTS / "puzzles" / f"{name}.jsonl" for name in PUZZLES):
        evaluations = read_lines(path)
        for evaluation in (evaluations[0], evaluations[-1]):
            ((benchmark, scores),) = evaluation["evaluation"].items()
            sampled = next(name for name in scores if name.startswith("avg@"))
            rates = [_rate(scores[name]) for name in ("pass@1", sampled)]
            length = f"{scores['sampled_length']:.1f}"
            rows.append([benchmark, str(evaluation["update"]), *rates, length])
    note = (
        "`python train_treerpo.py --dataset_name countdown`, and so for the others: "
        "unseen problems, one seed (0); mean ± standard error over problems."
    )
    return _with_note(markdown_table(header, rows), note)


def _rate(score: dict[str, float]) -> str:
    """A mean and its standard error in percent."""
    return f"{100 * score['mean']:.1f} ± {100 * score['standard_error']:.1f}"


# --- The sweeps ---

SWEEPS = (
    "tuned",
    "leaves",
    "main",
    "sparse",
    "noise",
    "gemma3",
    "fidelity",
    "credit",
    "loss",
    "shape",
    "steps",
    "grid",
    "tune",
    "arithmetic",
    "maze",
    "maze-tune",
    "countdown",
    "countdown-tune",
    "countdown-tune-2",
    "chain",
    "chain-fresh",
    "chain-tune",
    "horizon-4",
    "horizon-8",
    "horizon-8-tune",
    "horizon-16",
    "skills-1",
    "skills-4",
    "sudoku4",
    "sudoku4-tune",
    "spell-backward",
    "spell-backward-tune",
    "exam",
    "exam-tune",
)
# Their runs had other work beside them, so that their seconds say nothing.
SWEEPS_WITHOUT_SECONDS = (
    *("fidelity", "shape", "tune", "arithmetic", "maze", "maze-tune"),
    *("countdown", "countdown-tune", "countdown-tune-2", "chain", "chain-fresh", "chain-tune"),
    *("horizon-4", "horizon-8", "horizon-8-tune", "horizon-16", "skills-1", "skills-4"),
    *("sudoku4", "sudoku4-tune", "spell-backward", "spell-backward-tune", "exam", "exam-tune"),
)


class Comparison(NamedTuple):
    """A sweep with an arm of TreeRPO and an arm of GRPO, and what each of them is."""

    sweep: str
    tree_arm: str
    tree: str
    grpo_arm: str
    grpo: str


COMPARISONS = (
    Comparison(
        "tuned",
        "4-2",
        "4-2 tree, 16 prompts per update: the best tree of a grid",
        "grpo-5",
        "5 completions, 16 prompts per update: GRPO's best in the grid",
    ),
    Comparison("leaves", "4-2", "4-2 tree: 8 leaves per prompt", "8", "8 completions per prompt"),
    Comparison(
        "main",
        "treerpo",
        "6-2-2 tree, 32 prompts per update",
        "grpo-10",
        "10 completions, which cost about what the tree costs",
    ),
    Comparison(
        "gemma3",
        "treerpo",
        "4-4 tree, Gemma 3 270M on small SVAMP problems",
        "grpo-8",
        "8 completions, same model and problems",
    ),
)


def results_table() -> str:
    """TreeRPO and GRPO at equal sampled tokens: two rows per comparison."""
    header = ["arm", "what differs", "sampled pass@1 [%]", "over GRPO [points]", "seeds"]
    rows = []
    budgets = []
    for sweep, tree_arm, tree, grpo_arm, grpo in COMPARISONS:
        curves = curves_of(sweep)
        budget = equal_budget(curves, "sampled_tokens")
        budgets.append(f"{sweep} {budget:,.0f}")
        points = _points_at(curves, "sampled_tokens", budget)
        tree_points = points[tree_arm]
        grpo_points = points[grpo_arm]
        score = _score_of(points)
        gain = _difference(score, tree_points, grpo_points)
        tree_cells = [_mean(score, tree_points), gain, _seeds(tree_points)]
        grpo_cells = [_mean(score, grpo_points), "-", _seeds(grpo_points)]
        rows.append([f"{sweep}: TreeRPO", tree, *tree_cells])
        rows.append([f"{sweep}: GRPO", grpo, *grpo_cells])
    note = (
        f"At equal sampled tokens within each sweep ({'; '.join(budgets)}). Mean ± 95 % interval "
        "over seeds; differences are taken seed by seed. Commands: `python run_ablations.py "
        "recipes/ablations/NAME.yaml --seeds 5`, for gemma3 `--seeds 1`; all arms are in "
        "results/ablations/NAME/table.md."
    )
    return _with_note(markdown_table(header, rows), note)


def sweep_table(sweep: str) -> str:
    """One sweep, one row per arm: scores at equal sampled tokens, the difference to the first arm
    there and at equal seconds, and what the arm has and has spent after its last update."""
    curves = curves_of(sweep)
    first_arm = next(iter(curves))
    at_end = {arm: [points and points[-1] for points in runs] for arm, runs in curves.items()}
    score = _score_of(at_end)

    tokens = equal_budget(curves, "sampled_tokens")
    at_tokens = _points_at(curves, "sampled_tokens", tokens)
    header = [
        "arm",
        f"at {tokens:,.0f} sampled tokens: sampled pass@1 [%]",
        "over the first arm [points]",
        "greedy pass@1 [%]",
    ]
    rows = []
    for arm, points in at_tokens.items():
        gain = _difference(score, points, at_tokens[first_arm])
        rows.append([arm, _mean(score, points), gain, _mean("pass@1", points)])

    if sweep not in SWEEPS_WITHOUT_SECONDS:
        seconds = equal_budget(curves, "seconds")
        at_seconds = _points_at(curves, "seconds", seconds)
        header.append(f"at {seconds:,.0f} s: over the first arm [points]")
        for row, points in zip(rows, at_seconds.values()):
            row.append(_difference(score, points, at_seconds[first_arm]))

    header += [
        "after the last update: sampled pass@1 [%]",
        "length [tokens]",
        "sampled tokens",
        "trained tokens",
        "seeds",
    ]
    for row, points in zip(rows, at_end.values()):
        keys = (score, "sampled_length", "sampled_tokens", "trained_tokens")
        row += [*(_mean(key, points) for key in keys), _seeds(points)]

    before = [points and points[0] for points in curves[first_arm]]
    seeds = max(map(len, curves.values()))
    spread = (
        "mean ± 95 % interval over seeds, differences taken seed by seed"
        if seeds > 1
        else "one seed, so without intervals"
    )
    note = (
        f"`python run_ablations.py recipes/ablations/{sweep}.yaml {seed_flags(sweep)}`: {spread}. "
        f"Before training: sampled pass@1 {_mean(score, before)}, greedy {_mean('pass@1', before)}."
    )
    return _with_note(markdown_table(header, rows), note)


def _points_at(curves: dict, key: str, budget: float) -> dict[str, list[dict | None]]:
    """The point of every run's curve where `key` reaches the budget; a failed run stays None."""
    return {
        arm: [points and point_at(points, key, budget) for points in runs]
        for arm, runs in curves.items()
    }


def _score_of(points_of: dict[str, list[dict | None]]) -> str:
    """The score by which a sweep's arms are compared."""
    return score_name(next(point for points in points_of.values() for point in points if point))


def _mean(key: str, points: list[dict | None]) -> str:
    return with_interval(column(key, [point for point in points if point]))


def _difference(score: str, points: list[dict | None], others: list[dict | None]) -> str:
    """The difference between two arms; - for an arm and itself, or where they share no seed."""
    gains = differences(score, points, others)
    if points is others or not gains:
        return "-"
    return with_interval(gains, "+")


def _seeds(points: list[dict | None]) -> str:
    return str(sum(point is not None for point in points))


# --- Trials that were left out ---

# Name in the files of results/trials -> what it is.
TRIALS = {
    "shrunk": "a group's mean, shrunk to the other groups of its depth",
    "rho": "widths of both depths by the measured rho",
    "refill": "prompts without signal replaced twice",
    "again": "6 paths first, then 2 more children where a path failed",
}


def trials_table() -> str:
    """What was tried beside the paper's credit and budget, over TreeRPO at equal tokens."""
    tasks = [path.stem for path in sorted((RESULTS / "trials").glob("*.json"))]
    header = ["trial", *(f"{task}: over TreeRPO [points]" for task in tasks)]
    rows = [[what] for what in TRIALS.values()]
    budgets = []
    seeds = []
    for task in tasks:
        curves = read_json(RESULTS / "trials" / f"{task}.json")
        budget = equal_budget(curves, "sampled_tokens")
        budgets.append(f"{task} {budget:,.0f}")
        points = _points_at(curves, "sampled_tokens", budget)
        first_arm = next(iter(points))
        seeds.append(f"{task} {_seeds(points[first_arm])}")
        score = _score_of(points)
        for row, trial in zip(rows, TRIALS, strict=True):
            cell = "not run"
            if trial in points:
                cell = _difference(score, points[trial], points[first_arm])
            row.append(cell)
    note = (
        f"At equal sampled tokens ({'; '.join(budgets)}): sampled pass@1, mean ± 95 % interval "
        f"over seeds ({'; '.join(seeds)}), differences taken seed by seed. The code of the first, "
        "second and fourth trial was not kept."
    )
    return _with_note(markdown_table(header, rows), note)


# --- A real model ---

LAST_UPDATES = 10


def real_model_table() -> str:
    """SmolLM2-135M-Instruct on SVAMP: its base, and each arm after its last update."""
    measured = read_json(RESULTS / "real" / "smollm2-svamp.json")
    header = [
        "",
        "learning rate",
        "updates",
        "sampled tokens",
        "greedy pass@1 [%]",
        f"reward, last {LAST_UPDATES} updates [%]",
        "tokens per completion",
        "entropy [nats]",
    ]
    base = measured["base"]
    rows = [
        ["base", "-", "0", "0", _rate(base["pass@1"]), "-", f"{base['greedy_length']:.1f}", "-"]
    ]
    for arm in measured["arms"]:
        updates = arm["updates"]
        last = updates[-LAST_UPDATES:]
        rows.append(
            [
                arm["arm"],
                f"{arm['learning_rate']:.0e}".replace("e-0", "e-"),
                str(len(updates)),
                f"{sum(row['sampled_tokens'] for row in updates):,}",
                _rate(arm["greedy"]["pass@1"]),
                f"{100 * statistics.mean(row['reward'] for row in last):.1f}",
                f"{arm['greedy']['greedy_length']:.1f}",
                f"{statistics.mean(row['entropy'] for row in last):.2f}",
            ]
        )
    note = (
        f"{base['n']} test problems, decoded greedily; mean ± standard error over problems. One "
        "seed (0), float32, 1 CPU core an arm. `python train_treerpo.py --config "
        "recipes/smollm2-svamp.yaml --data_dir DIR --max_rows 128 --max_pack_tokens 2048`, GRPO by "
        "smollm2-svamp-grpo.yaml, with --learning_rate and --max_steps as above; then "
        '`python eval_math.py --adapter RUN/adapter --data_dir DIR --benchmarks "svamp[700:]" '
        "--max_new_tokens 28`."
    )
    return _with_note(markdown_table(header, rows), note)


# --- What others published ---


def published_table() -> str:
    """The paper's figures and CATPO's, as published, beside what was run here: nothing yet."""
    # Without evaluations of ours, the paper's table holds the published rows alone.
    published, _ = paper_table([])
    tables = []
    for table in published.strip().split("\n\n"):
        header, rule, *rows = table.split("\n")
        lines = [f"{header} here |", f"{rule} --- |", *(f"{row} not run |" for row in rows)]
        tables.append("\n".join(lines))
    note = "As their authors published them; - is a figure that they did not publish."
    return _with_note("\n\n".join(tables), note)


# --- Speed and memory ---


class Measurement(NamedTuple):
    """A file in results/benchmarks, what it measured, and the flags of the command."""

    file: str
    what: str
    flags: str


SAMPLING = (
    Measurement(
        "sampling-4-350m",
        "350M random Qwen2, 4 prompts",
        "--model 350m --skip continuous,reprefill,floor",
    ),
    Measurement(
        "sampling-1-350m",
        "350M random Qwen2, 1 prompt",
        "--model 350m --prompts 1 --skip continuous",
    ),
    Measurement(
        "sampling-1-50m", "50M random Qwen2, 1 prompt", "--model 50m --prompts 1 --skip continuous"
    ),
    Measurement(
        "sampling-1-gemma3-270m",
        "Gemma 3 270M, 1 prompt",
        "--model gemma3-270m --prompts 1 --skip continuous",
    ),
    Measurement("sampling-16-tiny", "tiny base, 16 prompts", "--prompts 16 --skip continuous"),
    Measurement("sampling-4-tiny", "tiny base, 4 prompts", ""),
)
TRAINING = (
    Measurement("training-350m", "LoRA adapter, 350M", "--model 350m --max_pack_tokens 2048"),
    Measurement("training-50m", "LoRA adapter, 50M", "--model 50m"),
    Measurement(
        "training-gemma3-270m",
        "LoRA adapter, Gemma 3 270M, 16 tokens per step",
        "--model gemma3-270m --max_pack_tokens 2048 --step_tokens 16",
    ),
    Measurement("training-tiny", "all weights, tiny base", "--lora_r 0"),
)
UPDATE = (Measurement("update-50m", "50M, 64 completions of 96 tokens", "--model 50m"),)
GRADING = (
    Measurement("grading-math", "2,048 pairs, one per problem, half of them wrong", "DIR"),
    Measurement(
        "grading-math-16-prompts",
        "16 problems, 128 completions each, half of them wrong",
        "DIR --prompts 16",
    ),
    Measurement(
        "grading-hostile",
        "140 hostile completions, of which 28 hang, with a limit of 1 s",
        "--hostile",
    ),
)
MEMORY = (Measurement("memory-tiny", "tiny base", "--model tiny"),)
PROFILES = (
    Measurement(
        "profile-sampling-1-350m",
        "sampling, 350M",
        "--model 350m --prompts 1 --step_tokens 8 --skip continuous --profile",
    ),
    Measurement(
        "profile-sampling-1-gemma3-270m",
        "sampling, Gemma 3 270M",
        "--model gemma3-270m --prompts 1 --step_tokens 8 --profile",
    ),
    Measurement(
        "profile-training-350m", "training, 350M", "--model 350m --max_pack_tokens 2048 --profile"
    ),
)
# The draws of most of these measurements.
DRAWS = "--problems 32 --draws 6 --direction_draws 6"
CREDIT = (
    Measurement(
        "credit-arithmetic",
        "arithmetic",
        f"--length 72 --trees 4-2 6-2-2 --groups 4 5 6 {DRAWS} --fresh 48",
    ),
    Measurement(
        "credit-countdown",
        "countdown",
        f"--task countdown --length 160 --trees 4-4-1-1 4-2-1-1 --groups 8 16 {DRAWS} --fresh 48",
    ),
    Measurement(
        "credit-sudoku4",
        "sudoku4",
        f"--task sudoku4 --length 120 --trees 4-2-2 4-2 --groups 4 6 {DRAWS} --fresh 48",
    ),
    Measurement(
        "credit-maze",
        "maze",
        "--task maze --length 60 --trees 4-2 2-2-2 --groups 4 6 "
        "--problems 32 --draws 8 --direction_draws 8",
    ),
    Measurement(
        "credit-reasoning_gym-spell_backward",
        "spell_backward",
        "--task reasoning_gym:spell_backward --length 48 --trees 4-2-1-1 --groups 4 8 "
        "--problems 32 --draws 8 --direction_draws 8 --fresh 48",
    ),
    Measurement(
        "credit-exam",
        "exam",
        f"--task exam --length 108 --trees 2-2-2 2-2-2-2 --groups 4 8 {DRAWS} --fresh 48",
    ),
    Measurement(
        "credit-chain",
        "chain",
        "--task chain --length 280 --step_delimiter 1: --step_tokens 190 --trees 4-4 8-2 "
        f"3-3 --groups 4 8 {DRAWS}",
    ),
    Measurement(
        "credit-chain-4-16",
        "chain:4-16",
        f"--task chain:4-16 --length 24 --trees 4-4 --groups 8 {DRAWS} --fresh 48",
    ),
    Measurement(
        "credit-chain-8-16",
        "chain:8-16",
        f"--task chain:8-16 --length 60 --trees 4-4 --groups 8 {DRAWS} --fresh 48",
    ),
    Measurement(
        "credit-chain-16-16",
        "chain:16-16",
        f"--task chain:16-16 --length 132 --trees 4-4 --groups 8 {DRAWS} --fresh 48",
    ),
    *(
        Measurement(
            f"credit-chain-32-{skills}",
            f"chain:32-{skills}",
            f"--task chain:32-{skills} --length 280 --step_delimiter 1: --step_tokens 190 "
            "--trees 4-4 --groups 8 --problems 32 --draws 4 --direction_draws 4 --fresh 48",
        )
        for skills in (1, 4)
    ),
)


def command_of(measurement: Measurement) -> str:
    """The command that measured it.

    >>> command_of(TRAINING[1]), command_of(SAMPLING[5])
    ('python benchmarks/training.py --model 50m', 'python benchmarks/sampling.py')
    """
    script = measurement.file.removeprefix("profile-").split("-")[0]
    return f"python benchmarks/{script}.py {measurement.flags}".strip()


def sampling_table() -> str:
    rivals = {
        "flat": "flat `generate`",
        "reprefill": "re-prefilling every branch",
        "floor": "bare forward passes",
        "continuous": "continuous batching",
    }
    return ratio_table(SAMPLING, "tree", rivals)


def training_table() -> str:
    rivals = {
        "step rows": "one row per step",
        "path rows": "one row per path",
        "floor": "as many tokens in one causal row",
    }
    return ratio_table(TRAINING, "packed", rivals)


def update_table() -> str:
    return ratio_table(UPDATE, "TreeRPO", {"TRL GRPOTrainer": "TRL GRPOTrainer"})


def grading_table() -> str:
    rivals = {"1 worker": "the same with 1 worker", "math-verify": "math-verify in a loop"}
    table = ratio_table(GRADING, "2 workers", rivals)
    hostile = _benchmark("grading-hostile")
    # Two workers wait for the pairs that hang, each up to the limit of 1 s.
    waited = hostile["hanging"] / 2
    beyond = statistics.median(hostile["seconds beyond the limit of a pair"])
    return (
        f"{table} Of the hostile batch's seconds {waited:.0f} are the limit, and a time-out costs "
        f"{1000 * beyond:.0f} ms beyond it (median)."
    )


def ratio_table(measurements: tuple[Measurement, ...], ours: str, rivals: dict[str, str]) -> str:
    """How many times as long as ours each rival takes, one row per measurement.

    Args:
        ours: the name of this suite's way in the JSON.
        rivals: the name of each rival in the JSON, and what the table calls it.
    """
    header = ["", f"{ours} [s]", *rivals.values(), "command"]
    rows = []
    rounds = set()
    machines = set()
    for measurement in measurements:
        measured = _benchmark(measurement.file)
        seconds = measured["rivals"][ours]["seconds"]
        ratios = [_ratio(measured["rivals"].get(rival)) for rival in rivals]
        time = f"{statistics.median(seconds):.3g}"
        rows.append([measurement.what, time, *ratios, f"`{command_of(measurement)}`"])
        rounds.add(len(seconds))
        machines.add(
            f"{measured['machine']}, {measured['threads']} threads, torch {measured['torch']}, "
            f"transformers {measured['transformers']}"
        )
    note = (
        f"Seconds: the median of {_either(rounds)} rounds. x: a rival's seconds over ours in the "
        f"same round, median (least to most). {_either(machines)}."
    )
    return _with_note(markdown_table(header, rows), note)


def _ratio(rival: dict | None) -> str:
    if rival is None:
        return "not run"
    least, most = rival["range"]
    return f"{rival['ratio']:.2f} x ({least:.2f} to {most:.2f})"


def memory_table() -> str:
    """Peak memory as a tree widens."""
    (measurement,) = MEMORY
    measured = _benchmark(measurement.file)
    header = ["leaves", "packs", "before [MiB]", "peak in sampling [MiB]", "peak in training [MiB]"]
    rows = []
    for row in measured["rows"]:
        peaks = [f"{row[phase]:.0f}" for phase in ("start", "sampling", "training")]
        rows.append([f"{row['leaves']:,}", str(row["packs"]), *peaks])
    settings = measured["settings"]
    note = (
        f"`{command_of(measurement)}`: depth 3, max_rows {settings['max_rows']}, max_pack_tokens "
        f"{settings['max_pack_tokens']}, 2 CPU cores; each size once, in a process of its own."
    )
    return _with_note(markdown_table(header, rows), note)


def profile_table() -> str:
    """Which operators take the time."""
    header = ["", "matrix products [%]", "attention [%]", "command"]
    rows = []
    for measurement in PROFILES:
        for rival, percent in _benchmark(measurement.file)["shares"].items():
            products = percent.get("aten::mm", 0.0) + percent.get("aten::addmm", 0.0)
            attention = sum(value for name, value in percent.items() if "attention" in name)
            cells = [f"{products:.1f}", f"{attention:.1f}", f"`{command_of(measurement)}`"]
            rows.append([f"{measurement.what}, {rival}", *cells])
    note = "Of the time of one run each, on 2 CPU cores; operators below the 8 largest count as 0."
    return _with_note(markdown_table(header, rows), note)


@cache
def _benchmark(name: str) -> dict:
    return read_json(RESULTS / "benchmarks" / f"{name}.json")


# --- The instrument ---


def instrument_table() -> str:
    """What the instrument measured before training, one row per task."""
    header = [
        "task",
        "pass rate [%]",
        "effective rank of decisions",
        "rho, one step shared",
        "step reward's error",
        "best GRPO",
        "trees: progress per sampled token over the best GRPO's",
    ]
    rows = []
    for measurement in CREDIT:
        measured = _benchmark(measurement.file)
        efficiency = {
            name: row["efficiency_per_million_tokens"]
            for name, row in measured["efficiency"].items()
        }
        groups = [name for name in efficiency if name.startswith("grpo")]
        best = max(groups, key=efficiency.get)
        trees = [
            f"{name} {efficiency[name] / efficiency[best]:.2f}"
            for name in efficiency
            if name.startswith(("treerpo", "outcome"))
        ]
        shapes = measured["leaves"]
        first_shape = next(iter(shapes))
        errors = measured["step_reward_errors"].values()
        rows.append(
            [
                measurement.what,
                f"{100 * shapes[best.removeprefix('grpo ')]['pass_rate']:.1f}",
                f"{measured['rank']['effective_rank']['whole model']:.1f}",
                f"{shapes[first_shape]['rho_depth_1']:.2f} ({first_shape})",
                " / ".join(f"{row['rms_error']:.2f}" for row in errors),
                best.removeprefix("grpo "),
                ", ".join(trees),
            ]
        )
    commands = "; ".join(f"`{command_of(measurement)}`" for measurement in CREDIT)
    note = (
        f"{commands}: each task's own tiny base, one seed. Error: root mean square, by depth from "
        "the prompt on, of the tree that is named beside rho."
    )
    return _with_note(markdown_table(header, rows), note)


# --- Faults ---


def faults_table() -> str:
    """What `make faults` tried, and what survived."""
    report = read_json(RESULTS / "faults.json")
    rows = [[row["fault"], f"{row['tried']:,}", f"{row['survived']:,}"] for row in report["rows"]]
    note = f"`{report['command']}`: {report['seconds']:,} seconds on {report['machine']}."
    return _with_note(markdown_table(["fault", "tried", "survived"], rows), note)


# --- All tables ---

TABLES: dict[str, Callable[[], str]] = {
    "headline": headline_table,
    "evidence": evidence_table,
    "demo": demo_table,
    "puzzles": puzzles_table,
    "results": results_table,
    "trials": trials_table,
    "real-model": real_model_table,
    "published": published_table,
    "sampling": sampling_table,
    "training": training_table,
    "update": update_table,
    "grading": grading_table,
    "memory": memory_table,
    "profile": profile_table,
    "instrument": instrument_table,
    "predicted": predicted_table,
    "faults": faults_table,
    **{name: partial(when_table, name) for name in SERIES},
    **{sweep: partial(sweep_table, sweep) for sweep in SWEEPS},
}


def _with_note(table: str, note: str) -> str:
    return f"{table}\n\n{note}"


def _either(values: Iterable) -> str:
    """All values of a set, which should hold one."""
    return " or ".join(sorted(map(str, values)))


# --- Writing them ---

MARKER = re.compile(r"<!--\s*(begin|end)\s+(.*?)\s*-->\s*")


def rewrite(text: str, document: str) -> str:
    """A document with every marked table made anew.

    Args:
        document: its name, for messages.

    Raises:
        BadInput: a marker names no table, or has no counterpart.
    """
    lines = []
    open_name = ""
    begin = ""
    for number, line in enumerate(text.split("\n"), 1):
        marker = MARKER.fullmatch(line)
        if not marker:
            # The old table, between its markers, is dropped.
            if not open_name:
                lines.append(line)
            continue
        kind, name = marker.groups()
        here = f"{document}, line {number}: <!-- {kind} {name} -->"
        if name not in TABLES:
            raise BadInput(f"{here}: there is no such table; there are {', '.join(TABLES)}")
        if kind == "begin":
            if open_name:
                raise BadInput(f"{begin}: has no <!-- end {open_name} --> before line {number}")
            open_name = name
            begin = here
            lines += [line, TABLES[name]()]
        else:
            if name != open_name:
                raise BadInput(f"{here}: has no <!-- begin {name} --> before it")
            open_name = ""
            lines.append(line)
    if open_name:
        raise BadInput(f"{begin}: has no <!-- end {open_name} --> after it")
    return "\n".join(lines)


def documents(root: Path) -> list[Path]:
    """The files in which tables may stand."""
    docs = sorted((root / "docs").glob("*.md"))
    return [root / "README.md", *docs, root / "results" / "README.md"]


def write_tables(root: Path) -> list[str]:
    """Makes every marked table anew; returns the names of the files that changed. With a bad marker
    in any file, none is written."""
    rewritten = {}
    for path in documents(root):
        old = path.read_text(encoding="utf-8")
        new = rewrite(old, str(path.relative_to(root)))
        if new != old:
            rewritten[path] = new
    for path, text in rewritten.items():
        write_whole(path, text)
    return [str(path.relative_to(root)) for path in rewritten]


def main() -> None:
    write_whole(SUMMARY, json.dumps(summary(), indent=1) + "\n")
    for name in SERIES:
        plot(name)
    plot_predicted()
    changed = write_tables(ROOT)
    print("changed: " + ", ".join(changed) if changed else "nothing changed")


if __name__ == "__main__":
    run_script(main)
