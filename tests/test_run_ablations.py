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
    middle = run_ablations.point_at(points, "sampled_tokens", 200)
    assert middle == {"sampled_tokens": 200, "avg@2": pytest.approx(0.6), "update": 7.5}
    assert [run_ablations.point_at(points, "sampled_tokens", t) for t in (300, 0)] == [points[2], points[0]]


def test_differences_are_taken_seed_by_seed():
    def point(score):
        return {"update": 1, "sampled_tokens": 10, "trained_tokens": 5, "seconds": 1.0, "avg@2": score}

    curves = {"a": [[point(0.2)], [point(0.6)]], "b": [[point(0.3)], [point(0.7)]]}
    rows = run_ablations.table(curves, lambda points: points[-1]).splitlines()
    assert rows[2].endswith("| +0.0 ± 0.0 |") and rows[3].endswith("| +10.0 ± 0.0 |")


def test_a_sweep(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    settings = {**SMALL, "max_steps": 2, "save_steps": 1, "eval_steps": 1, "benchmarks": ["arithmetic[:4]"]}
    (tmp_path / "base.yaml").write_text(yaml.safe_dump({**settings, "num_samples": 2}))
    tree = {"branching": [3, 2]}
    arms = {"tree": tree, "flat": {"branching": 4, "depth": 1}, "broken": {"learning_rate": -1}, "same tree": tree}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump({"extends": "base.yaml", "arms": arms}, sort_keys=False))
    monkeypatch.setattr(sys, "argv", ["run_ablations.py", "small.yaml", "--seeds", "1", "--lora_r", "4"])
    run_ablations.main()
    printed = capsys.readouterr()
    assert "failed: broken, seed 0: error: --learning_rate -1.0: must be above 0" in printed.err
    folder, runs = tmp_path / "results" / "ablations" / "small", tmp_path / "results" / "ablations" / "runs"
    table = (folder / "table.md").read_text()
    assert "| tree | 1 |" in table and "| same tree | 1 |" in table and "| flat | 1 |" in table
    assert "| broken |" not in table and len(list(runs.glob("*/adapter"))) == 2  # what arms share is run once
    assert (folder / "curves.png").stat().st_size > 10_000
    base = tmp_path / "base.yaml"
    folder_of_tree = run_ablations.run_folder(base, {**tree, "lora_r": "4", "seed": 0})
    rows = read(folder_of_tree / "metrics.jsonl")
    assert yaml.safe_load((folder_of_tree / "config.yaml").read_text())["lora_r"] == 4
    points = yaml.safe_load((folder / "results.json").read_text())["tree"][0]
    assert [p["update"] for p in points] == [0, 1, 2]
    assert points[-1]["sampled_tokens"] == sum(row["sampled_tokens"] for row in rows if "reward" in row)
    before = {path: path.stat().st_mtime for path in runs.glob("*/metrics.jsonl")}
    flat = run_ablations.run_folder(base, {**arms["flat"], "lora_r": "4", "seed": 0})
    (flat / "adapter").rename(flat / "gone")  # as if killed after its last checkpoint
    run_ablations.main()
    changed = [path.parent.name for path, time in before.items() if path.stat().st_mtime != time]
    assert changed == [flat.name] and (flat / "adapter").exists()
    assert (folder / "table.md").read_text().count("| flat | 1 |") == 3


def test_bad_sweeps(tmp_path, capsys):
    assert "not a sweep" in refused(run_ablations.main, [tmp_path / "none.yaml"], capsys)
    assert "written --flag value" in refused(run_ablations.main, [tmp_path / "none.yaml", "--lora_r"], capsys)
    (tmp_path / "list.yaml").write_text("- 1\n")
    assert "not a sweep" in refused(run_ablations.main, [tmp_path / "list.yaml"], capsys)


def test_the_sweeps_of_the_suite_name_flags_that_exist():
    import cli
    import train_treerpo

    for path in (ROOT / "recipes" / "ablations").glob("*.yaml"):
        sweep = yaml.safe_load(path.read_text())
        known = cli.parse_flags(train_treerpo.Flags, ["--config", str(path.parent / sweep["extends"])], "")
        assert all(set(flags) <= set(vars(known)) for flags in sweep["arms"].values())


def test_a_run_is_named_by_what_its_recipe_extends_too(tmp_path):
    (tmp_path / "base.yaml").write_text("max_steps: 2\n")
    (tmp_path / "arm.yaml").write_text("extends: base.yaml\n")
    before = run_ablations.run_folder(tmp_path / "arm.yaml", {"seed": 0})
    (tmp_path / "base.yaml").write_text("max_steps: 3\n")
    assert run_ablations.run_folder(tmp_path / "arm.yaml", {"seed": 0}) != before
