"""TreeRPO against GRPO, by domain: what the sweeps of results/ablations gave, in one place.

results/make_tables.py writes `summary()` to results/summary.json, and makes its tables from it.
"""

import json
import math
import statistics
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import NamedTuple

from run.errors import BadInput
from run.markdown import markdown_table
from run_ablations import Curves, equal_budget, point_at, score_name, with_interval

RESULTS = Path(__file__).resolve().parent
SUMMARY = RESULTS / "summary.json"
# What may be equal when arms are compared, and what a curve's points call it. The seconds are the
# processor's, since other work ran beside the runs.
BUDGETS = {
    "equal_tokens": "sampled_tokens",
    "equal_seconds": "processor_seconds",
    "equal_updates": "update",
}


class Domain(NamedTuple):
    """A task, the sweep that compares both sides at their best, and the grids that tuned them. The
    names of the sweep's arms begin with treerpo, outcome or grpo."""

    task: str
    sweep: str
    tuned_by: tuple[str, ...]


DOMAINS = {
    "arithmetic": Domain("arithmetic", "arithmetic", ("tune",)),
    "maze": Domain("maze", "maze", ("maze-tune",)),
    "countdown": Domain("countdown", "countdown", ("countdown-tune", "countdown-tune-2")),
    "sudoku4": Domain("sudoku4", "sudoku4", ("sudoku4-tune",)),
    "spell_backward": Domain(
        "reasoning_gym:spell_backward", "spell-backward", ("spell-backward-tune",)
    ),
    "exam": Domain("exam", "exam", ("exam-tune",)),
    "chain": Domain("chain", "chain-fresh", ("chain-tune", "chain")),
}
# Sweeps on seeds that did not choose their arms, and the first of these seeds.
FRESH_SEEDS = {"chain-fresh": 5}

# TreeRPO over GRPO in the paper, over its four benchmarks [points].
PAPERS_LEAD = 2.9

# Of one arm at one budget: the figures, each with one value per seed.
Figures = dict[str, list[float]]
# Of one domain: arm -> budget -> figures.
Arms = dict[str, dict[str, Figures]]


# --- results/summary.json ---


def summary() -> dict[str, Arms]:
    """For each domain the arms' scores, greedy scores, lengths and unfinished shares, at equal
    sampled tokens, seconds and updates, one value per seed. Rates are shares, not percentages.

    Seeds stand in the same order in all arms; one that failed in any arm is left out of all.
    """
    return {name: arms_of(domain.sweep) for name, domain in DOMAINS.items()}


def arms_of(sweep: str) -> Arms:
    """The figures of each arm of a sweep, at each budget."""
    curves = curves_of(sweep)
    seeds = [
        seed
        for seed, runs in enumerate(zip(*curves.values(), strict=True))
        if all(points is not None for points in runs)
    ]
    first_run = next(iter(curves.values()))[seeds[0]]
    columns = {
        "pass@1": score_name(first_run[-1]),
        "greedy": "pass@1",
        "length": "sampled_length",
        "unfinished": "sampled_unfinished",
    }
    arms: Arms = {}
    for arm, runs in curves.items():
        arms[arm] = {}
        for budget, key in BUDGETS.items():
            at = equal_budget(curves, key)
            points = [point_at(runs[seed], key, at) for seed in seeds]
            arms[arm][budget] = {
                name: [round(point[column], 5) for point in points]
                for name, column in columns.items()
            }
    return arms


@cache
def curves_of(sweep: str) -> Curves:
    """The curves of every arm and seed, as run_ablations.py wrote them."""
    return read_json(RESULTS / "ablations" / sweep / "results.json")


def read_json(path: Path) -> dict:
    """A JSON file of the results.

    Raises:
        BadInput: it can't be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: can't be read ({error})") from error


def seed_flags(sweep: str) -> str:
    """The flags of run_ablations.py that say with which seeds a sweep was run.

    >>> seed_flags("maze"), seed_flags("chain-fresh")
    ('--seeds 5', '--seeds 10 --first_seed 5')
    """
    seeds = max(map(len, curves_of(sweep).values()))
    first = FRESH_SEEDS.get(sweep)
    return f"--seeds {seeds} --first_seed {first}" if first else f"--seeds {seeds}"


def commands() -> str:
    """The commands of all domains' sweeps."""
    names = defaultdict(list)
    for domain in DOMAINS.values():
        names[seed_flags(domain.sweep)].append(domain.sweep)
    return "; ".join(
        f"`python run_ablations.py recipes/ablations/NAME.yaml {flags}`, NAME: {', '.join(sweeps)}"
        for flags, sweeps in names.items()
    )


# --- Comparing arms ---


def arm_of(arms: dict, method: str) -> str:
    """The first arm of a method: treerpo, outcome or grpo.

    >>> arm_of({"treerpo 4-2": ..., "grpo 4": ...}, "grpo")
    'grpo 4'
    """
    return next(arm for arm in arms if arm.startswith(method))


def best_arm(arms: Arms, method: str) -> str:
    """The arm of a method that has the highest mean sampled pass@1 at equal sampled tokens; of
    outcome credit, the one on the same trees as TreeRPO's."""
    if method == "outcome":
        return best_arm(arms, "treerpo").replace("treerpo", "outcome")
    candidates = [arm for arm in arms if arm.startswith(method)]
    return max(candidates, key=lambda arm: statistics.fmean(arms[arm]["equal_tokens"]["pass@1"]))


def scores(arms: Arms, method: str, budget: str = "equal_tokens") -> list[float]:
    """The sampled pass@1 of a method's best arm in percent, per seed."""
    return [100 * score for score in arms[best_arm(arms, method)][budget]["pass@1"]]


def gains(arms: Arms, budget: str, method: str = "treerpo") -> list[float]:
    """How many percentage points of sampled pass@1 a method is ahead of GRPO, per seed, each with
    its best arm."""
    pairs = zip(scores(arms, method, budget), scores(arms, "grpo", budget), strict=True)
    return [mine - grpo for mine, grpo in pairs]


def shortening(arms: Arms) -> list[float]:
    """By how many percent TreeRPO's completions are shorter than GRPO's at equal tokens, per
    seed."""
    mine, grpo = (
        arms[best_arm(arms, method)]["equal_tokens"]["length"] for method in ("treerpo", "grpo")
    )
    return [100 * (1 - one / other) for one, other in zip(mine, grpo, strict=True)]


def predicted_ratio(task: str, treerpo: str, grpo: str) -> float | None:
    """What the instrument predicted of a task: the progress that a sampled token buys in one arm
    over that in another. The arms' shapes count, which stand before a comma. None where they were
    not measured."""
    path = RESULTS / "benchmarks" / f"credit-{task.replace(':', '-')}.json"
    if not path.exists():
        return None
    measured = read_json(path)["efficiency"]
    shapes = [arm.partition(",")[0] for arm in (treerpo, grpo)]
    if not all(shape in measured for shape in shapes):
        return None
    ours, theirs = (measured[shape]["efficiency_per_million_tokens"] for shape in shapes)
    return ours / theirs


def tuning(domain: Domain) -> str:
    """The sweeps that tuned a domain's arms, with their seeds where there are several.

    >>> tuning(DOMAINS["maze"]), tuning(DOMAINS["chain"])
    ('maze-tune', 'chain-tune, chain (`--seeds 5`)')
    """
    names = []
    for sweep in domain.tuned_by:
        flags = seed_flags(sweep)
        names.append(sweep if flags == "--seeds 1" else f"{sweep} (`{flags}`)")
    return ", ".join(names)


def seeds_to_show(lead: float, differences: list[float]) -> int:
    """About how many seeds it takes until a lead is as large as half the width of its 95 %
    interval, 1.96 s / sqrt(n), with s the standard deviation of the differences seen so far.

    >>> seeds_to_show(2.0, [0.0, 10.0, 20.0])
    97
    """
    return math.ceil((1.96 * statistics.stdev(differences) / lead) ** 2)


# --- The tables ---


def headline_table() -> str:
    """One row per domain: TreeRPO over GRPO, in as few columns as say it."""
    header = [
        "domain",
        "GRPO: sampled pass@1 [%]",
        "TreeRPO at equal sampled tokens [points]",
        "at equal seconds",
        "shorter than GRPO's [%]",
    ]
    rows = [
        [
            domain,
            with_interval(scores(arms, "grpo")),
            with_interval(gains(arms, "equal_tokens"), "+"),
            with_interval(gains(arms, "equal_seconds"), "+"),
            with_interval(shortening(arms), "+"),
        ]
        for domain, arms in read_json(SUMMARY).items()
    ]
    note = (
        f"Mean ± 95 % interval over seeds, differences over tuned GRPO seed by seed: {commands()}."
    )
    return f"{markdown_table(header, rows)}\n\n{note}"


def evidence_table() -> str:
    """One row per domain: TreeRPO, and its trees under outcome credit, over GRPO."""
    header = [
        "domain",
        "arms",
        "GRPO: sampled pass@1 [%]",
        "TreeRPO at equal sampled tokens [points]",
        "its trees, outcome credit [points]",
        "TreeRPO at equal seconds",
        "at equal updates",
        "shorter than GRPO's [%]",
        "predicted",
        "seeds",
        "seeds to show 2.9 points",
    ]
    rows = []
    for domain, arms in read_json(SUMMARY).items():
        treerpo, grpo = (best_arm(arms, method) for method in ("treerpo", "grpo"))
        ratio = predicted_ratio(DOMAINS[domain].task, treerpo, grpo)
        leads = gains(arms, "equal_tokens")
        rows.append(
            [
                domain,
                f"{treerpo}; {grpo}",
                with_interval(scores(arms, "grpo")),
                with_interval(leads, "+"),
                with_interval(gains(arms, "equal_tokens", "outcome"), "+"),
                with_interval(gains(arms, "equal_seconds"), "+"),
                with_interval(gains(arms, "equal_updates"), "+"),
                with_interval(shortening(arms), "+"),
                "-" if ratio is None else f"{ratio:.2f} x",
                str(len(leads)),
                str(seeds_to_show(PAPERS_LEAD, leads)),
            ]
        )
    grids = "; ".join(f"{name}: {tuning(domain)}" for name, domain in DOMAINS.items())
    note = (
        "Mean ± 95 % interval over seeds, differences over GRPO taken seed by seed. Predicted: the "
        "instrument's ratio of progress per sampled token, before training. "
        "Seeds to show: about how many it would take until a lead of the paper's 2.9 points has an "
        f"interval that excludes 0. {commands()}. Tuned by these sweeps, with `--seeds 1` unless "
        f"another number is given: {grids}."
    )
    return f"{markdown_table(header, rows)}\n\n{note}"
