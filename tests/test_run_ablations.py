"""A sweep as a user runs it: arms and seeds, a failed arm, a second call that runs nothing again."""

import math
import statistics
import sys

import pytest
import yaml
from conftest import ROOT
from test_scripts import SMALL, read, refused

import run_ablations


def test_interval_against_the_definition():
    values = [1.0, 2.0, 4.0, 5.0, 8.0]
    mean, half = run_ablations.interval(values)
    assert mean == 4.0 and half == pytest.approx(2.776 * statistics.stdev(values) / math.sqrt(5), rel=2e-3)
    assert math.isnan(run_ablations.interval([3.0])[1])


def test_points_at_equal_tokens_lie_between_evaluations():
    points = [
        {"sampled_tokens": t, "avg@2": a, "update": u} for t, a, u in ((0, 0.2, 0), (100, 0.4, 5), (300, 0.8, 10))
    ]
    assert run_ablations.at_tokens(points, 200) == {"sampled_tokens": 200, "avg@2": pytest.approx(0.6), "update": 7.5}
    assert run_ablations.at_tokens(points, 300) == points[2] and run_ablations.at_tokens(points, 0) == points[0]


def test_a_sweep(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.yaml").write_text(yaml.safe_dump({**SMALL, "max_steps": 2, "save_steps": 1}))
    sweep = {
        "extends": "base.yaml",
        "common": {"eval_steps": 1, "benchmarks": ["arithmetic[:4]"], "num_samples": 2},
        "arms": {"tree": {"branching": [3, 2]}, "flat": {"branching": 4, "depth": 1}, "broken": {"learning_rate": -1}},
    }
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(sweep))
    monkeypatch.setattr(sys, "argv", ["run_ablations.py", "small.yaml", "--seeds", "1"])
    run_ablations.main()
    printed = capsys.readouterr()
    assert "failed: broken, seed 0: error: --temperature and --learning_rate must be above 0" in printed.err
    folder = tmp_path / "results" / "ablations" / "small"
    table = (folder / "table.md").read_text()
    assert "| tree | 1 |" in table and "| flat | 1 |" in table and "| broken |" not in table
    assert (folder / "curves.png").stat().st_size > 10_000
    rows = [row for row in read(folder / "tree-seed0" / "metrics.jsonl") if "reward" in row]
    points = yaml.safe_load((folder / "results.json").read_text())["tree"][0]
    assert [p["update"] for p in points] == [0, 1, 2]
    assert points[-1]["sampled_tokens"] == sum(row["sampled_tokens"] for row in rows)
    before = {path: path.stat().st_mtime for path in folder.glob("*/metrics.jsonl")}
    (folder / "flat-seed0" / "adapter").rename(folder / "flat-seed0" / "gone")  # as if killed after its last checkpoint
    run_ablations.main()
    changed = [path.parent.name for path, time in before.items() if path.stat().st_mtime != time]
    assert changed == ["flat-seed0"] and (folder / "flat-seed0" / "adapter").exists()
    assert (folder / "table.md").read_text().count("| flat | 1 |") == 2


def test_bad_sweeps(tmp_path, capsys):
    assert "not a sweep" in refused(run_ablations.main, [tmp_path / "none.yaml"], capsys)
    (tmp_path / "list.yaml").write_text("- 1\n")
    assert "not a sweep" in refused(run_ablations.main, [tmp_path / "list.yaml"], capsys)


def test_the_sweeps_of_the_suite_name_flags_that_exist():
    import cli
    import train_treerpo

    for path in (ROOT / "recipes" / "ablations").glob("*.yaml"):
        sweep = yaml.safe_load(path.read_text())
        known = cli.parse_flags(train_treerpo.Flags, ["--config", str(path.parent / sweep["extends"])], "")
        for flags in [sweep["common"], *sweep["arms"].values()]:
            assert set(flags) <= set(vars(known))
