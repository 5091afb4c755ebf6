"""A sweep as a user runs it: arms and seeds, a failed arm, a second call that runs nothing
again."""

import json
import math
import statistics
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from conftest import ROOT
from test_scripts import SMALL, read, refused

import run_ablations


def test_interval_against_the_definition():
    values = [1.0, 2.0, 4.0, 5.0, 8.0]
    mean, half = run_ablations.interval(values)
    assert mean == 4.0 and half == pytest.approx(
        2.776 * statistics.stdev(values) / math.sqrt(5), rel=2e-3
    )
    assert math.isnan(run_ablations.interval([3.0])[1])


def test_points_at_equal_tokens_lie_between_evaluations():
    points = [
        {"sampled_tokens": t, "avg@2": a, "update": u}
        for t, a, u in ((0, 0.2, 0), (100, 0.4, 5), (300, 0.8, 10))
    ]
    middle = run_ablations.point_at(points, "sampled_tokens", 200)
    assert middle == {"sampled_tokens": 200, "avg@2": pytest.approx(0.6), "update": 7.5}
    assert [run_ablations.point_at(points, "sampled_tokens", t) for t in (300, 0)] == [
        points[2],
        points[0],
    ]


def test_differences_are_taken_seed_by_seed():
    def point(score):
        return {
            "update": 1,
            "sampled_tokens": 10,
            "trained_tokens": 5,
            "seconds": 1.0,
            "avg@2": score,
        }

    curves = {"a": [[point(0.2)], [point(0.6)]], "b": [[point(0.3)], [point(0.7)]]}
    rows = run_ablations.table(curves, lambda points: points[-1]).splitlines()
    assert rows[2].endswith("| +0.0 ± 0.0 |") and rows[3].endswith("| +10.0 ± 0.0 |")


def test_a_sweep(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    settings = {
        **SMALL,
        "max_steps": 2,
        "save_steps": 1,
        "eval_steps": 1,
        "benchmarks": ["arithmetic[:4]"],
    }
    (tmp_path / "base.yaml").write_text(yaml.safe_dump({**settings, "num_samples": 2}))
    tree = {"branching": [3, 2]}
    arms = {
        "tree": tree,
        "flat": {"branching": 4, "depth": 1},
        "broken": {"dataset_name": "none.jsonl"},
        "same tree": tree,
    }
    (tmp_path / "small.yaml").write_text(
        yaml.safe_dump({"extends": "base.yaml", "arms": arms}, sort_keys=False)
    )
    monkeypatch.setattr(
        sys, "argv", ["run_ablations.py", "small.yaml", "--seeds", "1", "--lora_r", "4"]
    )
    run_ablations.main()
    printed = capsys.readouterr()
    assert (
        "failed: broken, seed 0: error: " in printed.err
        and "none.jsonl: no such file" in printed.err
    )
    folder, runs = (
        tmp_path / "results" / "ablations" / "small",
        tmp_path / "results" / "ablations" / "runs",
    )
    table = (folder / "table.md").read_text()
    assert "| tree | 1 |" in table and "| same tree | 1 |" in table and "| flat | 1 |" in table
    assert (
        "| broken |" not in table and len(list(runs.glob("*/adapter"))) == 2
    )  # what arms share is run once
    assert (folder / "curves.png").stat().st_size > 10_000
    base = tmp_path / "base.yaml"
    folder_of_tree = run_ablations.run_folder(base, {**tree, "lora_r": "4", "seed": 0})
    rows = read(folder_of_tree / "metrics.jsonl")
    assert yaml.safe_load((folder_of_tree / "config.yaml").read_text())["lora_r"] == 4
    points = yaml.safe_load((folder / "results.json").read_text())["tree"][0]
    assert [p["update"] for p in points] == [0, 1, 2]
    assert points[-1]["sampled_tokens"] == sum(
        row["sampled_tokens"] for row in rows if "reward" in row
    )
    before = {path: path.stat().st_mtime for path in runs.glob("*/metrics.jsonl")}
    flat = run_ablations.run_folder(base, {**arms["flat"], "lora_r": "4", "seed": 0})
    (flat / "adapter").rename(flat / "gone")  # as if killed after its last checkpoint
    run_ablations.main()
    changed = [path.parent.name for path, time in before.items() if path.stat().st_mtime != time]
    assert changed == [flat.name] and (flat / "adapter").exists()
    assert (folder / "table.md").read_text().count("| flat | 1 |") == 3


def test_bad_sweeps(tmp_path, capsys):
    assert "not a sweep" in refused(run_ablations.main, [tmp_path / "none.yaml"], capsys)
    assert "written --flag value" in refused(
        run_ablations.main, [tmp_path / "none.yaml", "--lora_r"], capsys
    )
    (tmp_path / "base.yaml").write_text("max_steps: 1\neval_steps: 1\n")
    sweep = tmp_path / "list.yaml"
    sweep.write_text("extends: base.yaml\narms: {a: {}}\n")
    for argv, says in (
        (["--seeds", "0"], "--seeds 0: must be at least 1"),
        (["--jobs", "0"], "--jobs 0: must be at least 1"),
        (["--seeds", "two"], "--seeds"),
        (["--seed", "3"], "--seed: is set by the sweep"),
        (["--output_dir=x"], "--output_dir: is set by the sweep"),
        (["stray"], "stray: flags for every run are written --flag value"),
        (["--lora_rank", "4"], "did you mean"),
    ):
        assert says in refused(run_ablations.main, [sweep, *argv], capsys)


@pytest.mark.parametrize(
    "text, says",
    [
        ("- 1", "not a sweep with `extends"),
        ("", "not a sweep with `extends"),
        ("arms: {a: {}}", "not a sweep with `extends"),
        ("extends: base.yaml", "not a sweep with `extends"),
        ("extends: base.yaml\narms: {a: {", "not a sweep that can be read"),
        ("extends: base.yaml\narms: {a: {}}\nseeds: 3", "unknown key seeds"),
        ("extends: [base.yaml]\narms: {a: {}}", "must name a recipe"),
        ("extends: gone.yaml\narms: {a: {}}", "gone.yaml"),
        ("extends: base.yaml\narms:", "arms must be names"),
        ("extends: base.yaml\narms: {}", "arms must be names"),
        ("extends: base.yaml\narms: [a, b]", "arms must be names"),
        ("extends: base.yaml\narms: {wide: 8}", "arm wide: must hold flags"),
        ("extends: base.yaml\narms: {wide: [1, 2]}", "arm wide: must hold flags"),
        ("extends: base.yaml\narms: {wide: {1: 2}}", "arm wide: must hold flags"),
        ("extends: base.yaml\narms: {null: {}}", "arm none: YAML reads this name as no text"),
        ("extends: base.yaml\narms: {off: {}}", "arm false: YAML reads this name as no text"),
        ('extends: base.yaml\narms: {"a\\nb": {}}', "printable text on one line"),
        ("extends: base.yaml\narms: {_a: {}}", "begins with no _"),
        ("extends: base.yaml\narms:\n  a: {}\n  a: {depth: 1}", "a stands in it twice"),
        ("extends: base.yaml\narms: {a: {depth: 1, depth: 2}}", "depth stands in it twice"),
        ("extends: base.yaml\narms: {1.50: {}, '1.5': {}}", "two arms have this name"),
        ("extends: base.yaml\narms: {a: {}, b: {bramching: 4}}", "arm b: "),
        ("extends: base.yaml\narms: {a: {}, b: {learning_rate: -1}}", "arm b: "),
        ("extends: base.yaml\narms: {a: {}, b: {depth: deep}}", "arm b: "),
        ("extends: base.yaml\narms: {a: {epsilon_high: null}}", "arm a: epsilon_high has no value"),
        ("extends: base.yaml\narms: {a: {seed: 4}}", "arm a: seed is set by the sweep"),
        ("extends: base.yaml\narms: {a: {output-dir: x}}", "arm a: output_dir is set by the sweep"),
        ("extends: base.yaml\narms: {a: {extends: x.yaml}}", "arm a: extends is set by the sweep"),
        (
            "extends: base.yaml\narms: {a: {}, b: {eval_steps: 0}}",
            "arm b: a sweep compares evaluations",
        ),
        (
            "extends: base.yaml\narms: {a: {}, b: {num_samples: 2}}",
            "arm b: num_samples is 2, but 4 in arm a",
        ),
        (
            "extends: base.yaml\narms: {a: {}, b: {benchmarks: [svamp]}}",
            "arm b: the first of benchmarks is svamp",
        ),
    ],
)
def test_bad_sweeps_are_refused_before_the_first_run(text, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_ablations, "run_arm", None)  # no run is reached
    (tmp_path / "base.yaml").write_text("max_steps: 1\neval_steps: 1\n")
    (tmp_path / "bad.yaml").write_text(text + "\n")
    assert says in refused(run_ablations.main, ["bad.yaml"], capsys)


def point(update, tokens, **scores):
    totals = {
        "update": update,
        "sampled_tokens": tokens,
        "trained_tokens": tokens // 2,
        "seconds": 1.0 * update,
    }
    return {
        **totals,
        "n": 3,
        "pass@1": 0.5,
        "greedy_length": 9.0,
        "greedy_unfinished": 0.0,
        **scores,
    }


def test_greedy_scores_are_compared_where_there_are_no_samples(tmp_path):
    curves = {
        "a|b": [[point(0, 0), point(2, 80)]],
        "$x_1$": [[point(0, 0), point(2, 90, **{"pass@1": 0.75})]],
    }
    text = run_ablations.report("s.yaml", curves, " --lora_r 4")
    assert "pass@1 over the first arm" in text and "--seeds 1 --lora_r 4`" in text
    assert text.count("| a\\|b | 1 | 50.0 % |") == 3 and "| +25.0 |" in text
    assert run_ablations.plot_arms(curves, tmp_path / "curves.png").stat().st_size > 10_000


def test_a_failed_seed_takes_no_part_and_shifts_no_other(tmp_path):
    """Differences are between runs of the same seed, also where an arm lacks one."""

    def run(score):
        return [point(2, 80, sampled_length=9.0, **{"avg@2": score})]

    whole, part = [run(0.1), run(0.2), run(0.6)], [None, run(0.2), run(0.2)]
    rows = run_ablations.table(
        {"whole": whole, "part": part}, lambda points: points[-1]
    ).splitlines()
    assert "| part | 2 |" in rows[3] and "| -20.0 ± " in rows[3]  # of 0.0 and -40.0
    lone = {"whole": [None, whole[1]], "part": [whole[0], None]}
    assert run_ablations.table(lone, lambda points: points[-1]).splitlines()[3].endswith("| - |")
    assert run_ablations.plot_arms({"whole": whole, "part": part}, tmp_path / "curves.png").exists()


def test_budgets_that_no_evaluation_reaches():
    single = [point(4, 100)]
    assert run_ablations.point_at(single, "sampled_tokens", 50) == single[0]
    assert run_ablations.point_at(single, "sampled_tokens", 500) == single[0]
    flat = [point(0, 0), point(1, 0), point(2, 0)]  # nothing sampled: all budgets are equal
    assert run_ablations.point_at(flat, "sampled_tokens", 0) == flat[0]
    text = run_ablations.report(
        "s.yaml", {"late": [[point(9, 900)]], "early": [[point(0, 0), point(1, 10)]]}
    )
    assert "At equal sampled tokens: there is no number of them" in text


def test_runs_that_arms_share_and_runs_of_all_weights_are_made_once(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    started = []

    def train(command, **_):
        (folder,) = (
            Path(word.partition("=")[2]) for word in command if word.startswith("--output_dir=")
        )
        started.append(folder)
        scores = {"n": 1, "pass@1": {"mean": 0.5}, "greedy_length": 1}
        rows = [{"update": update, "evaluation": {"x": scores}} for update in (0, 1)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / ("model" if "--use_peft=False" in command else "adapter")).mkdir()
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(run_ablations.subprocess, "run", train)
    (tmp_path / "base.yaml").write_text("max_steps: 1\neval_steps: 1\nnum_samples: 0\n")
    arms = {"all weights": {"use_peft": False}, "adapter": {}, "adapter/again": None}
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump({"extends": "base.yaml", "arms": arms}))
    monkeypatch.setattr(
        sys, "argv", ["run_ablations.py", "grid.yaml", "--seeds", "2", "--jobs", "3"]
    )
    for _ in range(2):
        run_ablations.main()
        assert len(started) == len(set(started)) == 4
    assert capsys.readouterr().out.count("| adapter/again | 2 |") == 6


def test_why_a_run_failed(tmp_path, monkeypatch):
    """Also where it said nothing, as after SIGKILL, and where its last words are of a library."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.yaml").write_text("max_steps: 1\n")
    for seed, said, code, reason in (
        (0, b"", -9, "it ended without a word (exit code -9)"),
        (1, b"error: the reason\nleaked semaphores \xe9\n", 2, "error: the reason (exit code 2)"),
    ):

        def fail(command, stdout, said=said, code=code, **_):
            stdout.write(said)
            stdout.flush()
            return SimpleNamespace(returncode=code)

        monkeypatch.setattr(run_ablations.subprocess, "run", fail)
        assert run_ablations.run_arm(Path("base.yaml"), {"seed": seed}, 1) == reason


def test_the_sweeps_of_the_suite_name_flags_that_exist():
    import train_treerpo
    from run.flags import parse_flags

    for path in (ROOT / "recipes" / "ablations").glob("*.yaml"):
        sweep = yaml.safe_load(path.read_text())
        known = parse_flags(
            train_treerpo.Flags, ["--config", str(path.parent / sweep["extends"])], ""
        )
        assert all(set(flags) <= set(vars(known)) for flags in sweep["arms"].values())


def test_a_run_is_named_by_what_its_recipe_extends_too(tmp_path):
    (tmp_path / "base.yaml").write_text("max_steps: 2\n")
    (tmp_path / "arm.yaml").write_text("extends: base.yaml\n")
    before = run_ablations.run_folder(tmp_path / "arm.yaml", {"seed": 0})
    (tmp_path / "base.yaml").write_text("max_steps: 3\n")
    assert run_ablations.run_folder(tmp_path / "arm.yaml", {"seed": 0}) != before
