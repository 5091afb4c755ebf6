"""What the instrument predicted before training, beside what training gave.

results/make_tables.py makes the table and the figure.
"""

import statistics
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure

from results.evidence import DOMAINS, arm_of, curves_of, predicted_ratio
from results.when import FIGURES, SERIES, compare, save_figure
from run.intervals import interval
from run.markdown import markdown_table
from run_ablations import with_interval


class Prediction(NamedTuple):
    """Of one task: what was predicted, and what was observed."""

    task: str
    ratio: float  # progress per sampled token, TreeRPO's over GRPO's
    gains: list[float]  # TreeRPO over GRPO where GRPO is half-way [points], per seed


def predictions() -> list[Prediction]:
    """Of every domain and every chain of a series whose arms the instrument has measured."""
    curves_of_task = {domain.task: curves_of(domain.sweep) for domain in DOMAINS.values()}
    for series in SERIES.values():
        for value, sweep in series.sweeps.items():
            # The default chains are a domain.
            if sweep not in DOMAINS:
                curves_of_task[series.task.format(value)] = curves_of(sweep)
    made = []
    for task, curves in curves_of_task.items():
        ratio = predicted_ratio(task, *(arm_of(curves, method) for method in ("treerpo", "grpo")))
        if ratio is not None:
            made.append(Prediction(task, ratio, compare(curves).gains))
    return made


def correlation(made: list[Prediction]) -> float:
    """Spearman's rank correlation of the predicted ratios and the mean gains."""
    ratios = [prediction.ratio for prediction in made]
    observed = [statistics.fmean(prediction.gains) for prediction in made]
    return statistics.correlation(ranks(ratios), ranks(observed))


def ranks(values: list[float]) -> list[int]:
    """The place of each value in their order.

    >>> ranks([0.5, 1.5, 0.9])
    [0, 2, 1]
    """
    in_order = sorted(values)
    return [in_order.index(value) for value in values]


def predicted_table() -> str:
    """One row per task, the largest prediction first."""
    made = sorted(predictions(), key=lambda prediction: -prediction.ratio)
    header = ["task", "predicted: progress per token over GRPO's", "TreeRPO over GRPO [points]"]
    rows = [[each.task, f"{each.ratio:.2f} x", with_interval(each.gains, "+")] for each in made]
    note = (
        f"Spearman's rank correlation over {len(made)} tasks: {correlation(made):+.2f}. Predicted: "
        "one measurement, before training. Points of sampled pass@1 where GRPO's mean reaches 50 "
        "%, or at the end of a sweep in which it does not: mean ± 95 % interval over seeds."
    )
    return f"{markdown_table(header, rows)}\n\n{note}"


def plot_predicted(folder: Path = FIGURES) -> Path:
    """The observed gain against the predicted ratio, one point per task."""
    figure = Figure(figsize=(6.4, 3.4), layout="constrained")
    ax = figure.subplots()
    ax.axhline(0, color="grey", linewidth=0.8)
    ax.axvline(1, color="grey", linewidth=0.8)
    # Seven markers and ten colours: each task has a pair of its own.
    for number, prediction in enumerate(predictions()):
        mean, half_width = interval(prediction.gains)
        ax.errorbar(
            prediction.ratio,
            mean,
            half_width,
            marker="os^DvPX"[number % 7],
            capsize=3,
            label=prediction.task,
        )
    ax.set(xlabel="predicted: progress per token over GRPO's", ylabel="TreeRPO over GRPO [points]")
    figure.legend(loc="outside right upper", fontsize=8)
    return save_figure(figure, folder / "predicted.png")
