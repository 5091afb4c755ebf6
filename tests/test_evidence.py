"""results/summary.json is what the sweeps gave, and the evidence's figures follow from it."""

import json
import statistics

import pytest
from conftest import ROOT

from results import evidence

SUMMARY = json.loads((ROOT / "results" / "summary.json").read_text())


def test_the_summary_is_that_of_the_sweeps():
    assert evidence.summary() == SUMMARY


@pytest.mark.parametrize("name", SUMMARY)
def test_a_domain_has_arms_budgets_and_seeds(name):
    arms = SUMMARY[name]
    assert {arm.split()[0] for arm in arms} == {"treerpo", "outcome", "grpo"}
    seeds = {
        len(values)
        for budgets in arms.values()
        for figures in budgets.values()
        for values in figures.values()
    }
    assert len(seeds) == 1 and seeds.pop() >= 5
    for budgets in arms.values():
        assert budgets.keys() == {"equal_tokens", "equal_seconds", "equal_updates"}
        for figures in budgets.values():
            assert figures.keys() == {"pass@1", "greedy", "length", "unfinished"}
            assert all(0 <= share <= 1 for share in figures["pass@1"] + figures["greedy"])


@pytest.mark.parametrize("name", SUMMARY)
def test_gains_and_lengths_against_the_definition(name):
    """At as many sampled tokens as every run of the sweep reached, linear between evaluations."""
    domain = evidence.DOMAINS[name]
    path = ROOT / "results" / "ablations" / domain.sweep / "results.json"
    curves = json.loads(path.read_text())
    budget = min(points[-1]["sampled_tokens"] for runs in curves.values() for points in runs)

    def at_budget(points: list[dict], key: str) -> float:
        for low, high in zip(points, points[1:]):
            if low["sampled_tokens"] <= budget <= high["sampled_tokens"]:
                width = high["sampled_tokens"] - low["sampled_tokens"]
                share = (budget - low["sampled_tokens"]) / width
                return (1 - share) * low[key] + share * high[key]
        raise AssertionError("no two evaluations around the budget")

    score = next(key for key in next(iter(curves.values()))[0][-1] if key.startswith("avg@"))

    def best(method):
        """Of several arms of a method, the runs of the one with the highest mean."""
        arms = [curves[arm] for arm in curves if arm.startswith(method)]
        return max(arms, key=lambda runs: sum(at_budget(points, score) for points in runs))

    gains = []
    shortening = []
    for tree, flat in zip(best("treerpo"), best("grpo")):
        gains.append(100 * (at_budget(tree, score) - at_budget(flat, score)))
        lengths = [at_budget(points, "sampled_length") for points in (tree, flat)]
        shortening.append(100 * (1 - lengths[0] / lengths[1]))
    arms = SUMMARY[name]
    assert evidence.gains(arms, "equal_tokens") == pytest.approx(gains, abs=0.01)
    assert evidence.shortening(arms) == pytest.approx(shortening, abs=0.01)
    t = {5: 2.78, 10: 2.26}[len(gains)]
    half_width = t * statistics.stdev(gains) / len(gains) ** 0.5
    row = next(
        line for line in evidence.evidence_table().splitlines() if line.startswith(f"| {name}")
    )
    assert f"{statistics.fmean(gains):+.1f} ± {half_width:.1f}" in row


@pytest.mark.parametrize("name", SUMMARY)
def test_so_many_seeds_show_a_lead_and_no_fewer(name):
    gains = evidence.gains(SUMMARY[name], "equal_tokens")
    seeds = evidence.seeds_to_show(2.9, gains)

    def half_width(seeds: int) -> float:
        return 1.96 * statistics.stdev(gains) / seeds**0.5

    assert half_width(seeds) <= 2.9 < half_width(seeds - 1)
    row = next(
        line for line in evidence.evidence_table().splitlines() if line.startswith(f"| {name}")
    )
    assert row.endswith(f"| {len(gains)} | {seeds} |")


def test_predictions_are_ratios_of_the_instruments_figures():
    measured = json.loads((ROOT / "results" / "benchmarks" / "credit-maze.json").read_text())
    figures = {
        name: row["efficiency_per_million_tokens"] for name, row in measured["efficiency"].items()
    }
    expected = figures["treerpo 4-2"] / figures["grpo 4"]
    # The learning rate of an arm does not matter.
    ratio = evidence.predicted_ratio("maze", "treerpo 4-2", "grpo 4, 1e-3")
    assert ratio == pytest.approx(expected)
    assert evidence.predicted_ratio("maze", "treerpo 9-9", "grpo 4") is None
    assert evidence.predicted_ratio("no such task", "treerpo 4-2", "grpo 4") is None


def test_fresh_seeds_come_after_those_that_chose_the_arms():
    """And the commands under the tables name them."""
    assert evidence.FRESH_SEEDS
    for sweep, first in evidence.FRESH_SEEDS.items():
        (domain,) = [each for each in evidence.DOMAINS.values() if each.sweep == sweep]
        tuned = [runs for name in domain.tuned_by for runs in evidence.curves_of(name).values()]
        assert max(map(len, tuned)) == first
        assert f"--first_seed {first}`, NAME: {sweep}" in evidence.headline_table()
        assert f"--first_seed {first}`, NAME: {sweep}" in evidence.evidence_table()
