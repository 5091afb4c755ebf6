"""When step credit pays: TreeRPO against GRPO as chains get longer, and as they take more skills.

results/make_tables.py makes the tables and the figures from the sweeps named here.
"""

from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure

from results.evidence import RESULTS, arm_of, curves_of
from run.intervals import interval
from run.markdown import markdown_table
from run_ablations import (
    Curve,
    Curves,
    differences,
    equal_budget,
    point_at,
    score_name,
    with_interval,
)

# Arms are compared where GRPO's mean sampled pass@1 reaches this: half-way, wherever that is.
HALF_WAY = 0.5
FIGURES = RESULTS / "when"


class Series(NamedTuple):
    """Sweeps that differ in one thing."""

    what: str
    # Its values, and the sweep of each.
    sweeps: dict[int, str]
    # The chains of a value.
    task: str


SERIES = {
    "horizon": Series(
        "operations of a chain, 16 skills",
        {4: "horizon-4", 8: "horizon-8", 16: "horizon-16", 32: "chain"},
        "chain:{}-16",
    ),
    "skills": Series(
        "skills of a chain, 32 operations",
        {1: "skills-1", 4: "skills-4", 16: "chain"},
        "chain:32-{}",
    ),
}


class Compared(NamedTuple):
    """TreeRPO and GRPO of one sweep, half-way: figures per seed."""

    tokens: float
    grpo: list[float]  # sampled pass@1 [%]
    gains: list[float]  # points
    savings: list[float]  # how many times as many tokens GRPO needs to come half-way
    shortening: list[float]  # by how many percent TreeRPO's completions are shorter


def compare(curves: Curves) -> Compared:
    """TreeRPO and GRPO where GRPO's mean comes half-way; at the last tokens that all runs reached
    where it does not.

    Args:
        curves: of each arm one curve per seed.
    """
    treerpo, grpo = (curves[arm_of(curves, method)] for method in ("treerpo", "grpo"))
    score = score_name(grpo[0][-1])
    tokens = half_way(grpo, score, equal_budget(curves, "sampled_tokens"))
    at_trees = [point_at(points, "sampled_tokens", tokens) for points in treerpo]
    at_grpo = [point_at(points, "sampled_tokens", tokens) for points in grpo]
    to_half_way = [
        (tokens_to(mine, score), tokens_to(other, score))
        for mine, other in zip(treerpo, grpo, strict=True)
    ]
    savings = [other / mine for mine, other in to_half_way if mine and other]
    shortening = [
        100 * (1 - mine["sampled_length"] / other["sampled_length"])
        for mine, other in zip(at_trees, at_grpo, strict=True)
    ]
    return Compared(
        tokens,
        [100 * point[score] for point in at_grpo],
        differences(score, at_trees, at_grpo),
        savings,
        shortening,
    )


def half_way(runs: list[Curve], score: str, most: float) -> float:
    """The sampled tokens at which the mean of several curves is half-way, `most` at most."""
    steps = 1000
    for step in range(steps + 1):
        tokens = most * step / steps
        points = [point_at(points, "sampled_tokens", tokens) for points in runs]
        if sum(point[score] for point in points) >= HALF_WAY * len(points):
            return tokens
    return most


def tokens_to(points: Curve, score: str) -> float | None:
    """The sampled tokens at which a curve is half-way for the first time, linear between two
    evaluations; None if it never is."""
    for low, high in zip(points, points[1:]):
        if low[score] < HALF_WAY <= high[score]:
            share = (HALF_WAY - low[score]) / (high[score] - low[score])
            return low["sampled_tokens"] + share * (high["sampled_tokens"] - low["sampled_tokens"])
    return None


def when_table(name: str) -> str:
    """One row per value of a series."""
    series = SERIES[name]
    header = [
        series.what,
        "sampled tokens",
        "GRPO: sampled pass@1 [%]",
        "TreeRPO over GRPO [points]",
        "GRPO's tokens to 50 % over TreeRPO's",
        "TreeRPO's completions shorter [%]",
        "seeds",
    ]
    rows = []
    for value, sweep in series.sweeps.items():
        compared = compare(curves_of(sweep))
        seeds = len(compared.gains)
        saving = "-"
        if len(compared.savings) == seeds:
            saving = "{:.2f} ± {:.2f}".format(*interval(compared.savings))
        rows.append(
            [
                f"{value}",
                f"{compared.tokens:,.0f}",
                with_interval(compared.grpo),
                with_interval(compared.gains, "+"),
                saving,
                with_interval(compared.shortening, "+"),
                str(seeds),
            ]
        )
    sweeps = ", ".join(series.sweeps.values())
    note = (
        "Where GRPO's mean reaches 50 %: mean ± 95 % interval over seeds, differences and ratios "
        "seed by seed. `python run_ablations.py recipes/ablations/NAME.yaml --seeds 5`, or as many "
        f"as stand in the row: {sweeps}."
    )
    return f"{markdown_table(header, rows)}\n\n{note}"


def plot(name: str, folder: Path = FIGURES) -> Path:
    """The lead of TreeRPO over GRPO against what a series varies, with 95 % intervals."""
    series = SERIES[name]
    values = list(series.sweeps)
    leads = [interval(compare(curves_of(sweep)).gains) for sweep in series.sweeps.values()]
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    ax = figure.subplots()
    means, half_widths = zip(*leads)
    ax.axhline(0, color="grey", linewidth=0.8)
    ax.errorbar(values, means, half_widths, marker="o", capsize=4)
    ax.set_xscale("log", base=2)
    ax.set_xticks(values, [str(value) for value in values])
    ax.minorticks_off()
    ax.set(xlabel=series.what, ylabel="TreeRPO over GRPO [points]")
    ax.set_title("sampled pass@1 where GRPO's reaches 50 %", fontsize=10)
    return save_figure(figure, folder / f"{name}.png")


def save_figure(figure: Figure, path: Path) -> Path:
    """Writes a figure, and the folder for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    return path
