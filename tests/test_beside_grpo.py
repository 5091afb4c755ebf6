"""What the demo prints at its end: its own scores beside those of the committed runs."""

import json
import statistics
import subprocess
import sys
from pathlib import Path

import yaml
from conftest import ROOT

from results import beside_grpo
from results.evidence import arm_of, arms_of, best_arm, curves_of
from run.flags import yaml_settings

# The demo's arm of the sweep, and GRPO's best.
TREERPO = arm_of(curves_of("chain"), "treerpo")
GRPO = best_arm(arms_of("chain"), "grpo")


def run_of(folder, tokens, **scores):
    """A run's folder, with one update and one evaluation."""
    phases = {f"seconds_{phase}": 1.0 for phase in ("sample", "grade", "update")}
    update = {"update": 1, "sampled_tokens": tokens, "trained_tokens": 1, **phases}
    evaluation = {name: {"mean": score} for name, score in scores.items()}
    evaluation["sampled_length"] = 99.0
    rows = [update, {"update": 1, "evaluation": {"chain[:80]": evaluation}}]
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_a_run_stands_beside_the_committed_ones_at_as_many_tokens(tmp_path):
    curves = curves_of("chain")
    # At an evaluation of the first run.
    tokens = curves[GRPO][0][2]["sampled_tokens"]
    score = next(name for name in curves[GRPO][0][2] if name.startswith("avg@"))
    folder = run_of(tmp_path / "run", tokens, **{"pass@1": 0.25, score: 0.5})
    mine, trees, flat = beside_grpo.beside_grpo(folder).splitlines()
    assert "sampled 50.0 %, greedy 25.0 %, 99.0 tokens long" in mine and f"{tokens:,}" in mine
    assert trees.startswith(TREERPO) and flat.startswith(GRPO)
    reached = []
    for points in curves[GRPO]:
        low, high = next(
            pair for pair in zip(points, points[1:]) if pair[1]["sampled_tokens"] >= tokens
        )
        width = high["sampled_tokens"] - low["sampled_tokens"]
        share = (tokens - low["sampled_tokens"]) / width
        reached.append(100 * ((1 - share) * low[score] + share * high[score]))
    assert f"sampled {statistics.fmean(reached):.1f} ±" in flat


def test_a_longer_run_is_compared_where_all_committed_runs_have_been(tmp_path):
    folder = run_of(tmp_path / "run", 10**9, **{"pass@1": 0.25, "avg@2": 0.5})
    least = min(
        points[-1]["sampled_tokens"]
        for arm in (TREERPO, GRPO)
        for points in curves_of("chain")[arm]
    )
    assert f"at {least:,} tokens, as committed" in beside_grpo.beside_grpo(folder)


def test_a_folder_without_evaluations_is_refused_in_one_line(tmp_path):
    command = [sys.executable, str(ROOT / "results" / "beside_grpo.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "metrics.jsonl" in done.stderr
    assert "Traceback" not in done.stderr


def arms_in(name: str) -> tuple[str, dict[str, dict]]:
    """What a sweep extends, and its arms without aliases."""
    sweep = yaml.safe_load((ROOT / "recipes" / "ablations" / f"{name}.yaml").read_text())
    return sweep["extends"], sweep["arms"]


def recipe(name: str) -> dict:
    """All flags of a recipe but those of saving and logging."""
    settings = yaml_settings(str(ROOT / "recipes" / name))
    return {key: settings[key] for key in settings if key not in ("save_steps", "logging_steps")}


def test_the_demo_and_its_grpo_are_arms_of_the_sweep():
    """So that the committed runs say what they reach."""
    extends, arms = arms_in("chain")
    shared = recipe(Path(extends).name)
    assert recipe("demo.yaml") == {**shared, **arms[TREERPO]}
    # A step of a flat completion ends nowhere.
    assert recipe("demo-grpo.yaml") == {**shared, **arms[GRPO], "step_delimiter": None}


def test_make_compare_trains_both_sides():
    makefile = (ROOT / "Makefile").read_text()
    assert "run_ablations.py recipes/ablations/compare.yaml --seeds 1" in makefile
    extends, arms = arms_in("chain")
    shown = (TREERPO, GRPO)
    assert arms_in("compare") == (extends, {name: arms[name] for name in shown})
