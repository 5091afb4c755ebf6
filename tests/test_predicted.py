"""Predictions beside what was observed: each from the files that hold it, and their correlation."""

import json
import statistics

import pytest
from conftest import ROOT

from results import predicted, when
from results.evidence import DOMAINS, curves_of
from results.predicted import Prediction


def test_each_prediction_is_that_of_its_tasks_measurement():
    made = predicted.predictions()
    sweeps = {domain.task: domain.sweep for domain in DOMAINS.values()}
    for series in when.SERIES.values():
        for value, sweep in series.sweeps.items():
            sweeps.setdefault(series.task.format(value), sweep)
    assert len(made) >= 3 and len({each.task for each in made}) == len(made)
    for each in made:
        path = ROOT / "results" / "benchmarks" / f"credit-{each.task.replace(':', '-')}.json"
        measured = json.loads(path.read_text())["efficiency"]
        ratios = {
            round(mine["efficiency_per_million_tokens"] / other["efficiency_per_million_tokens"], 9)
            for tree, mine in measured.items()
            for group, other in measured.items()
            if tree.startswith("treerpo") and group.startswith("grpo")
        }
        assert round(each.ratio, 9) in ratios
        assert each.gains == when.compare(curves_of(sweeps[each.task])).gains


def slow_ranks(values: list[float]) -> list[float]:
    return [1 + sum(other < value for other in values) for value in values]


def test_the_correlation_is_that_of_ranks():
    made = [
        Prediction("a", 0.5, [-3.0, -1.0]),
        Prediction("b", 1.5, [8.0, 2.0]),
        Prediction("c", 0.9, [9.0, 21.0]),
        Prediction("d", 1.1, [0.0, 1.0]),
    ]
    x = slow_ranks([each.ratio for each in made])
    y = slow_ranks([statistics.fmean(each.gains) for each in made])
    squares = sum((first - second) ** 2 for first, second in zip(x, y))
    n = len(made)
    assert predicted.correlation(made) == pytest.approx(1 - 6 * squares / (n * (n * n - 1)))
    assert predicted.correlation([made[0], made[1]]) == pytest.approx(1.0)


def test_a_figure_and_a_table_have_every_prediction(tmp_path):
    assert predicted.plot_predicted(tmp_path).read_bytes().startswith(b"\x89PNG")
    table = predicted.predicted_table()
    for each in predicted.predictions():
        assert f"| {each.task} | {each.ratio:.2f} x |" in table
