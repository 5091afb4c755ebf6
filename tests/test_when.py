"""The sweeps over horizons and skills: their figures against the definition, and their recipes."""

import statistics

import pytest
import yaml
from conftest import ROOT

from data import chain
from results import when
from results.evidence import arm_of, curves_of

SWEEPS = [(name, sweep) for name in when.SERIES for sweep in when.SERIES[name].sweeps.values()]


def at(points: list[dict], tokens: float, key: str) -> float:
    """A figure of a curve at so many sampled tokens, linear between evaluations."""
    for low, high in zip(points, points[1:]):
        if low["sampled_tokens"] <= tokens <= high["sampled_tokens"]:
            width = high["sampled_tokens"] - low["sampled_tokens"]
            share = (tokens - low["sampled_tokens"]) / width
            return (1 - share) * low[key] + share * high[key]
    raise AssertionError("no two evaluations around it")


@pytest.mark.parametrize("name, sweep", SWEEPS)
def test_arms_are_compared_where_grpo_is_half_way(name, sweep):
    curves = curves_of(sweep)
    grpo = curves[arm_of(curves, "grpo")]
    trees = curves[arm_of(curves, "treerpo")]
    score = next(key for key in grpo[0][-1] if key.startswith("avg@"))
    compared = when.compare(curves)
    mean = statistics.fmean(at(points, compared.tokens, score) for points in grpo)
    most = min(points[-1]["sampled_tokens"] for runs in curves.values() for points in runs)
    assert mean == pytest.approx(0.5, abs=0.005) or (compared.tokens == most and mean < 0.5)
    gains = [
        100 * (at(mine, compared.tokens, score) - at(other, compared.tokens, score))
        for mine, other in zip(trees, grpo)
    ]
    assert compared.gains == pytest.approx(gains)
    # The saving, of seeds that come half-way on both sides: either curve is half-way at its tokens.
    both = [
        (mine, other)
        for mine, other in zip(trees, grpo)
        if when.tokens_to(mine, score) and when.tokens_to(other, score)
    ]
    for (mine, other), saving in zip(both, compared.savings, strict=True):
        tokens = when.tokens_to(other, score)
        assert at(other, tokens, score) == pytest.approx(0.5)
        assert at(mine, tokens / saving, score) == pytest.approx(0.5)


# What follows from the length of a chain.
FOLLOWS = ("step_tokens", "step_delimiter", "dataset_name", "benchmarks")


@pytest.mark.parametrize("name", when.SERIES)
def test_a_series_varies_one_thing(name):
    """All of its sweeps train with the same flags, but for the chains and what follows from their
    length."""
    same = set()
    for value, sweep in when.SERIES[name].sweeps.items():
        path = ROOT / "recipes" / "ablations" / f"{sweep}.yaml"
        arms = yaml.safe_load(path.read_text())["arms"]
        for method in ("treerpo", "grpo"):
            flags = arms[arm_of(arms, method)]
            same.add(repr((method, {key: flags[key] for key in flags if key not in FOLLOWS})))

            chains = flags.get("dataset_name", "chain:32-16")
            assert chains == when.SERIES[name].task.format(value)
            operations, _ = chain.read_level(chains.removeprefix("chain:"))
            # Whoever works as much out as the largest budget allows is not cut off.
            widths = flags["branching"] if isinstance(flags["branching"], list) else [0]
            longest = chain.budget_of(operations, chain.most_workings(operations))
            assert longest <= len(widths) * flags["step_tokens"]
    assert len(same) == 2


@pytest.mark.parametrize("name", when.SERIES)
def test_a_figure_and_a_table_have_every_value(name, tmp_path):
    path = when.plot(name, tmp_path)
    assert path.read_bytes().startswith(b"\x89PNG")
    rows = when.when_table(name).splitlines()
    for value in when.SERIES[name].sweeps:
        assert any(row.startswith(f"| {value} |") for row in rows)


def test_the_tokens_to_half_way():
    curve = [{"sampled_tokens": 10 * i, "s": score} for i, score in enumerate((0.1, 0.4, 0.6, 0.9))]
    assert when.tokens_to(curve, "s") == pytest.approx(15)
    assert when.tokens_to(curve[:2], "s") is None
    assert when.half_way([curve], "s", 30) == pytest.approx(15, abs=0.05)
    assert when.half_way([curve[:2]], "s", 10) == 10
