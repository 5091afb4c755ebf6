"""A sweep as a user runs it: arms and seeds, a failed arm, a second call that repeats nothing."""

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
from run.intervals import T_95, interval


def point(update=2, tokens=80, **scores):
    """One evaluation of a curve."""
    return {
        "update": update,
        "sampled_tokens": tokens,
        "trained_tokens": tokens // 2,
        "seconds": 1.0 * update,
        "n": 3,
        "pass@1": 0.5,
        "greedy_length": 9.0,
        "greedy_unfinished": 0.0,
        **scores,
    }


def sampled(score, **others):
    """A curve of one evaluation with this sampled pass@1."""
    return [point(sampled_length=9.0, **{"avg@2": score}, **others)]


def last_point(points):
    return points[-1]


# --- Figures ---


def test_interval_against_the_definition():
    values = [1.0, 2.0, 4.0, 5.0, 8.0]
    mean, half_width = interval(values)
    standard_error = statistics.stdev(values) / math.sqrt(5)
    assert mean == 4.0
    assert half_width == pytest.approx(2.776 * standard_error, rel=2e-3)
    assert math.isnan(interval([3.0])[1])


@pytest.mark.parametrize("degrees", T_95)
def test_students_t_against_its_integral(degrees):
    """Within T_95, Student's density must hold 95 %: the area by a sum of thin strips."""

    def density(x):
        scale = math.gamma((degrees + 1) / 2) / math.gamma(degrees / 2)
        return scale / math.sqrt(degrees * math.pi) * (1 + x * x / degrees) ** (-(degrees + 1) / 2)

    strips = 20_000
    width = T_95[degrees] / strips
    area = 2 * width * sum(density((i + 0.5) * width) for i in range(strips))
    assert area == pytest.approx(0.95, abs=5e-4)


def test_many_seeds_have_the_widest_t_that_is_known():
    values = [0.0, 1.0] * 10
    standard_error = statistics.stdev(values) / math.sqrt(20)
    assert interval(values)[1] == pytest.approx(2.26 * standard_error)


def test_points_at_equal_tokens_lie_between_evaluations():
    points = [
        {"sampled_tokens": 0, "avg@2": 0.2, "update": 0},
        {"sampled_tokens": 100, "avg@2": 0.4, "update": 5},
        {"sampled_tokens": 300, "avg@2": 0.8, "update": 10},
    ]
    middle = run_ablations.point_at(points, "sampled_tokens", 200)
    assert middle == {"sampled_tokens": 200, "avg@2": pytest.approx(0.6), "update": 7.5}
    assert run_ablations.point_at(points, "sampled_tokens", 300) == points[2]
    assert run_ablations.point_at(points, "sampled_tokens", 0) == points[0]


def test_budgets_that_no_evaluation_reaches():
    single = [point(4, 100)]
    assert run_ablations.point_at(single, "sampled_tokens", 50) == single[0]
    assert run_ablations.point_at(single, "sampled_tokens", 500) == single[0]
    # Nothing was sampled, so that all budgets are equal.
    flat = [point(0, 0), point(1, 0), point(2, 0)]
    assert run_ablations.point_at(flat, "sampled_tokens", 0) == flat[0]
    curves = {"late": [[point(9, 900)]], "early": [[point(0, 0), point(1, 10)]]}
    assert run_ablations.equal_budget(curves, "sampled_tokens") is None
    text = run_ablations.report("s.yaml", curves)
    assert "At equal sampled tokens: the evaluations of all runs have no number in common." in text


def test_differences_are_taken_seed_by_seed():
    curves = {"a": [sampled(0.2), sampled(0.6)], "b": [sampled(0.3), sampled(0.7)]}
    rows = run_ablations.table(curves, last_point).splitlines()
    assert rows[2].endswith("| +0.0 ± 0.0 |")
    assert rows[3].endswith("| +10.0 ± 0.0 |")


def test_a_failed_seed_takes_no_part_and_shifts_no_other(tmp_path):
    """Differences are between runs of the same seed, also where an arm lacks one."""
    whole = [sampled(0.1), sampled(0.2), sampled(0.6)]
    part = [None, sampled(0.2), sampled(0.2)]
    rows = run_ablations.table({"whole": whole, "part": part}, last_point).splitlines()
    assert "| part | 2 |" in rows[3]
    # Of the differences 0.0 and -40.0.
    assert "| -20.0 ± " in rows[3]
    no_seed_in_common = {"whole": [None, whole[1]], "part": [whole[0], None]}
    rows = run_ablations.table(no_seed_in_common, last_point).splitlines()
    assert rows[3].endswith("| - |")
    plot = run_ablations.plot_arms({"whole": whole, "part": part}, tmp_path / "curves.png")
    assert plot.exists()


def test_headings_give_the_unit_of_their_cells():
    """Rates are in percent, everything else as it was written."""
    curve = sampled(0.25, sampled_unfinished=0.125)
    header, _, row = run_ablations.table({"a": [curve]}, last_point).splitlines()
    cells = dict(zip(header.split(" | "), row.split(" | ")))
    assert cells["sampled pass@1 (avg@2) [%]"] == "25.0"
    assert cells["greedy pass@1 [%]"] == "50.0"
    assert cells["sampled, cut off [%]"] == "12.5"
    assert cells["sampled length [tokens]"] == "9.0"
    assert cells["sampled tokens"] == "80.0"
    assert "n" not in cells


def test_greedy_scores_are_compared_where_there_are_no_samples(tmp_path):
    curves = {
        "a|b": [[point(0, 0), point(2, 80)]],
        "$x_1$": [[point(0, 0), point(2, 90, **{"pass@1": 0.75})]],
    }
    text = run_ablations.report("s.yaml", curves, " --lora_r 4")
    assert "greedy pass@1 over the first arm" in text
    assert "--seeds 1 --lora_r 4`" in text
    assert text.count("| a\\|b | 1 | 50.0 |") == 3
    assert "| +25.0 |" in text
    plot = run_ablations.plot_arms(curves, tmp_path / "curves.png")
    assert plot.stat().st_size > 10_000


# --- Whole sweeps ---


def write_yaml(path: Path, content: dict) -> None:
    path.write_text(yaml.safe_dump(content, sort_keys=False))


def test_a_sweep(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    base = tmp_path / "base.yaml"
    settings = {
        **SMALL,
        "max_steps": 2,
        "save_steps": 1,
        "eval_steps": 1,
        "benchmarks": ["arithmetic[:4]"],
        "num_samples": 2,
    }
    write_yaml(base, settings)
    tree = {"branching": [3, 2]}
    arms = {
        "tree": tree,
        "flat": {"branching": 4, "depth": 1},
        "broken": {"dataset_name": "none.jsonl"},
        "same tree": tree,
    }
    write_yaml(tmp_path / "small.yaml", {"extends": "base.yaml", "arms": arms})
    argv = ["run_ablations.py", "small.yaml", "--seeds", "1", "--lora_r", "4"]
    monkeypatch.setattr(sys, "argv", argv)
    run_ablations.main()

    # A failed arm is named, and left out of the tables.
    printed = capsys.readouterr().err
    assert "failed: broken, seed 0: error: " in printed
    assert "none.jsonl: no such file" in printed
    folder = tmp_path / "results" / "ablations" / "small"
    table = (folder / "table.md").read_text()
    for arm in ("tree", "same tree", "flat"):
        assert f"| {arm} | 1 |" in table
    assert "| broken |" not in table
    assert (folder / "curves.png").stat().st_size > 10_000

    # What arms share is run once, with the flags after the command.
    runs = tmp_path / "results" / "ablations" / "runs"
    assert len(list(runs.glob("*/adapter"))) == 2
    tree_run = run_ablations.run_folder(base, {**tree, "lora_r": "4", "seed": 0})
    assert yaml.safe_load((tree_run / "config.yaml").read_text())["lora_r"] == 4

    # A point holds the tokens of all updates until then.
    points = json.loads((folder / "results.json").read_text())["tree"][0]
    assert [each["update"] for each in points] == [0, 1, 2]
    updates = [row for row in read(tree_run / "metrics.jsonl") if "reward" in row]
    assert points[-1]["sampled_tokens"] == sum(row["sampled_tokens"] for row in updates)

    # The same command continues the one run that was not finished, as if killed after its last
    # checkpoint.
    times = {path: path.stat().st_mtime for path in runs.glob("*/metrics.jsonl")}
    flat_run = run_ablations.run_folder(base, {**arms["flat"], "lora_r": "4", "seed": 0})
    (flat_run / "adapter").rename(flat_run / "gone")
    run_ablations.main()
    changed = [path.parent.name for path, time in times.items() if path.stat().st_mtime != time]
    assert changed == [flat_run.name]
    assert (flat_run / "adapter").exists()
    assert (folder / "table.md").read_text().count("| flat | 1 |") == 3


def test_runs_that_arms_share_and_runs_of_all_weights_are_made_once(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    started = []

    def train(command, **_):
        outputs = [word for word in command if word.startswith("--output_dir=")]
        (folder,) = [Path(word.partition("=")[2]) for word in outputs]
        started.append(folder)
        scores = {"n": 1, "pass@1": {"mean": 0.5}, "greedy_length": 1}
        rows = [{"update": update, "evaluation": {"x": scores}} for update in (0, 1)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / ("model" if "--use_peft=False" in command else "adapter")).mkdir()
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(run_ablations.subprocess, "run", train)
    write_yaml(tmp_path / "base.yaml", {"max_steps": 1, "eval_steps": 1, "num_samples": 0})
    arms = {"all weights": {"use_peft": False}, "adapter": {}, "adapter/again": None}
    write_yaml(tmp_path / "grid.yaml", {"extends": "base.yaml", "arms": arms})
    argv = ["run_ablations.py", "grid.yaml", "--seeds", "2", "--jobs", "3"]
    monkeypatch.setattr(sys, "argv", argv)
    for _ in range(2):
        run_ablations.main()
        assert len(started) == len(set(started)) == 4
    assert capsys.readouterr().out.count("| adapter/again | 2 |") == 6

    # Of seeds 1 and 2 the first is there.
    monkeypatch.setattr(sys, "argv", [*argv, "--first_seed", "1"])
    run_ablations.main()
    seeds = sorted(folder.name[-5:] for folder in started)
    assert seeds == ["seed0", "seed0", "seed1", "seed1", "seed2", "seed2"]
    assert "grid.yaml --seeds 2 --first_seed 1`" in capsys.readouterr().out


def test_several_sweeps_are_all_checked_before_the_first_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    made = []
    monkeypatch.setattr(run_ablations, "run_sweep", lambda *args: made.append(args[2]))
    write_yaml(tmp_path / "base.yaml", {"max_steps": 1, "eval_steps": 1, "num_samples": 0})
    for name, arms in (("one", {"a": {}}), ("two", {"b": {}}), ("bad", {"c": {"max_step": 2}})):
        write_yaml(tmp_path / f"{name}.yaml", {"extends": "base.yaml", "arms": arms})
    monkeypatch.setattr(sys, "argv", ["run_ablations.py", "one.yaml", "two.yaml", "--seeds", "2"])
    run_ablations.main()
    assert made == [Path("one.yaml"), Path("two.yaml")]
    assert "bad.yaml: arm c" in refused(run_ablations.main, ["one.yaml", "bad.yaml"], capsys)
    assert len(made) == 2


@pytest.mark.parametrize(
    "said, code, reason",
    [
        # As after SIGKILL.
        (b"", -9, "it ended without a word (exit code -9)"),
        # A library's last words come after the error.
        (b"error: the reason\nleaked semaphores \xe9\n", 2, "error: the reason (exit code 2)"),
        (b"first\nTypeError: 3 is no text\n", 1, "TypeError: 3 is no text (exit code 1)"),
        (b"error: " + b"x" * 1000, 2, "error: " + "x" * 293 + " (exit code 2)"),
    ],
)
def test_why_a_run_failed(said, code, reason, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.yaml").write_text("max_steps: 1\n")

    def fail(command, stdout, **_):
        stdout.write(said)
        stdout.flush()
        return SimpleNamespace(returncode=code)

    monkeypatch.setattr(run_ablations.subprocess, "run", fail)
    assert run_ablations.run_arm(Path("base.yaml"), {"seed": 0}, 1) == reason


def test_only_the_last_try_says_why_a_run_failed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.yaml").write_text("max_steps: 1\n")
    said = iter((b"error: the first try\n", b"killed\n"))

    def fail(command, stdout, **_):
        stdout.write(next(said))
        stdout.flush()
        return SimpleNamespace(returncode=1)

    monkeypatch.setattr(run_ablations.subprocess, "run", fail)
    reasons = [run_ablations.run_arm(Path("base.yaml"), {"seed": 0}, 1) for _ in range(2)]
    assert reasons == ["error: the first try (exit code 1)", "killed (exit code 1)"]


def test_the_sweeps_of_the_suite_can_be_run():
    sweeps = sorted((ROOT / "recipes" / "ablations").glob("*.yaml"))
    assert len(sweeps) > 10
    for path in sweeps:
        run_ablations.check_arms(path, *run_ablations.read_sweep(path))


def test_a_run_is_named_by_what_its_recipe_extends_too(tmp_path):
    (tmp_path / "base.yaml").write_text("max_steps: 2\n")
    (tmp_path / "arm.yaml").write_text("extends: base.yaml\n")
    before = run_ablations.run_folder(tmp_path / "arm.yaml", {"seed": 0})
    (tmp_path / "base.yaml").write_text("max_steps: 3\n")
    assert run_ablations.run_folder(tmp_path / "arm.yaml", {"seed": 0}) != before


# --- Bad input ---


def test_bad_commands(tmp_path, capsys):
    missing = tmp_path / "none.yaml"
    assert "not a sweep" in refused(run_ablations.main, [missing], capsys)
    says = refused(run_ablations.main, [missing, "--lora_r"], capsys)
    assert "written --flag value" in says
    (tmp_path / "base.yaml").write_text("max_steps: 1\neval_steps: 1\n")
    sweep = tmp_path / "list.yaml"
    sweep.write_text("extends: base.yaml\narms: {a: {}}\n")
    for argv, says in (
        (["--seeds", "0"], "--seeds 0: must be at least 1"),
        (["--first_seed", "-1"], "--first_seed -1: must be at least 0"),
        (["--jobs", "0"], "--jobs 0: must be at least 1"),
        (["--seeds", "two"], "--seeds"),
        (["--seed", "3"], "--seed: is set by the sweep"),
        (["--output_dir=x"], "--output_dir: is set by the sweep"),
        (["stray"], "stray: not a sweep that can be read"),
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
    # No run is reached.
    monkeypatch.setattr(run_ablations, "run_arm", None)
    (tmp_path / "base.yaml").write_text("max_steps: 1\neval_steps: 1\n")
    (tmp_path / "bad.yaml").write_text(text + "\n")
    assert says in refused(run_ablations.main, ["bad.yaml"], capsys)


def test_seconds_of_the_processor_are_added_where_every_update_has_them(tmp_path):
    """Runs of older versions recorded those by the clock only."""
    phases = {"seconds_sample": 2.0, "seconds_grade": 1.0, "seconds_update": 4.0}
    update = {"sampled_tokens": 10, "trained_tokens": 5, **phases}
    scores = {"task[:3]": {"n": 3, "pass@1": {"mean": 0.5}}}
    for name, more in (("new", {"seconds_processor": 3.0}), ("old", {})):
        folder = tmp_path / name
        folder.mkdir()
        rows = [{"update": 0, "evaluation": scores}]
        for number in (1, 2):
            rows.append({"update": number, **update, **more})
            rows.append({"update": number, "evaluation": scores})
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "metrics.jsonl").write_text(lines)
    new, old = (run_ablations.curve(tmp_path / name) for name in ("new", "old"))
    assert [point["processor_seconds"] for point in new] == [0.0, 3.0, 6.0]
    assert [point["seconds"] for point in new] == [0.0, 7.0, 14.0]
    assert not any("processor_seconds" in point for point in old)
    # Columns are what all runs have.
    both = run_ablations.table({"a": [new], "b": [old]}, last_point)
    assert "processor seconds" in run_ablations.table({"a": [new]}, last_point)
    assert "processor seconds" not in both
