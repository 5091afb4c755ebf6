"""Flags from the command line and YAML: what is taken as it stands, and what gets one line."""

import dataclasses
import importlib.util
import re
import subprocess
import sys
from typing import get_args, get_type_hints

import pytest
import yaml
from conftest import ROOT, TINY_BASE
from test_scripts import refused, words

import eval_math
import train_treerpo
from advantage import ESTIMATORS, SCALES, default_scale
from policy import LOSS_TYPES
from run.trl import TRL_NAMES, trl_advice


def parsed(*argv: str) -> train_treerpo.Flags:
    """The flags of a command line; without a recipe, the defaults and not the demo's."""
    recipe = [] if "--config" in argv else ["--model_name_or_path", str(TINY_BASE)]
    return train_treerpo.read_flags([*recipe, *argv])


def recipe(folder, text: str, name: str = "mine.yaml") -> list[str]:
    (folder / name).write_text(text, encoding="utf-8")
    return ["--config", str(folder / name)]


# --- Values that are taken as they stand ---


def test_a_value_may_begin_with_a_dash(tmp_path):
    for text in ("---", "- ", "-1", "--no-such-flag", "==="):
        assert (
            parsed(*recipe(tmp_path, yaml.safe_dump({"step_delimiter": text}))).step_delimiter
            == text
        )
        assert parsed(f"--step_delimiter={text}").step_delimiter == text


def test_null_is_none_where_a_flag_can_be_none(tmp_path):
    argv = recipe(tmp_path, "save_total_limit: null\nepsilon_high: ~\nprompt_template:\n")
    flags = parsed(*argv)
    assert (flags.save_total_limit, flags.epsilon_high, flags.prompt_template) == (None, None, None)
    assert parsed(*argv, "--save_total_limit", "3").save_total_limit == 3  # the command line wins
    assert parsed().save_total_limit == 2


def test_a_runs_own_config_is_a_recipe(tmp_path):
    flags = parsed("--branching", "4,2", "--learning_rate", "0.5")
    settings = {**vars(flags), "versions": {"torch": "2.13.0"}}
    assert vars(parsed(*recipe(tmp_path, yaml.safe_dump(settings)))) == vars(flags)


@pytest.mark.parametrize("argv", [["8,4,2"], ["8", "4", "2"], ["8,", "4,", "2"], ["8,4", "2"]])
def test_widths_by_comma_or_space(argv):
    assert parsed("--branching", *argv).branching == [8, 4, 2]
    assert parsed("--branching=8,4,2", "--step_delimiter", "1,2").step_delimiter == "1,2"


def test_depth_follows_the_widths():
    assert parsed("--branching", "4,2").depth == 2 and parsed("--branching", "4").branching == [
        4,
        4,
        4,
    ]
    assert parsed("--branching", "4", "--depth", "2").branching == [4, 4]
    assert parsed("--branching", "4,2", "--depth", "2").branching == [4, 2]


def test_the_scale_left_out_is_that_of_the_estimator():
    for name in ESTIMATORS:
        assert parsed("--advantage", name).scale_rewards == default_scale(name)
        assert (
            parsed("--advantage", name, "--scale_rewards", "deviation").scale_rewards == "deviation"
        )


@pytest.mark.parametrize("name", train_treerpo.SCHEDULES)
def test_every_schedule_runs(name):
    import torch
    from transformers import get_scheduler

    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    schedule = get_scheduler(parsed("--lr_scheduler_type", name).lr_scheduler_type, optimizer, 2, 6)
    rates = []
    for _ in range(6):
        optimizer.step()
        schedule.step()
        rates.append(schedule.get_last_lr()[0])
    assert max(rates) > 0.5


# --- What gets one line ---

BAD = {
    # schedules that need a score or settings of their own
    "--lr_scheduler_type: invalid choice: 'reduce_lr_on_plateau'": [
        "--lr_scheduler_type",
        "reduce_lr_on_plateau",
    ],
    "--lr_scheduler_type: invalid choice: 'cosine_with_min_lr'": [
        "--lr_scheduler_type=cosine_with_min_lr"
    ],
    "--lr_scheduler_type: invalid choice: 'greedy'": ["--lr_scheduler_type", "greedy"],
    # numbers out of range
    "--max_grad_norm -0.5: must be at least 0": ["--max_grad_norm", "-0.5"],
    "--max_grad_norm nan": ["--max_grad_norm", "nan"],
    "--learning_rate inf: must be a finite number": ["--learning_rate", "inf"],
    "--weight_decay -1.0": ["--weight_decay", "-1"],
    "--epsilon_high -0.1": ["--epsilon_high", "-0.1"],
    "--lora_dropout 1.0": ["--lora_dropout", "1"],
    "--lora_alpha 0": ["--lora_alpha", "0"],
    "--grade_noise 1.5": ["--grade_noise", "1.5"],
    "--prune_threshold 1.0: no group has rewards so far apart": ["--prune_threshold", "1"],
    "--grader_timeout 0.0: must be above 0": ["--grader_timeout", "0"],
    "--grader_timeout -2.0: must be above 0": ["--grader_timeout=-2"],
    "--top_p 0.0": ["--top_p", "0"],
    "--top_p 1.5": ["--top_p", "1.5"],
    "--num_shots 5: there are 4 worked examples": ["--num_shots", "5"],
    "--seed 4294967297: must be below": ["--seed", str(2**32 + 1)],
    "--seed -1": ["--seed", "-1"],
    "--max_new_tokens 0: must be at least 1": ["--max_new_tokens", "0"],
    # contradictions
    "--depth 2: --branching 4 2 2 has 3 widths": ["--branching", "4,2,2", "--depth", "2"],
    "--depth 4: --branching 4 2 2 has 3 widths": ["--depth", "4", "--branching", "4", "2", "2"],
    # words that belong to no flag
    "3: a value that belongs to no flag": ["--max_steps", "2", "3"],
    "--step_delimiter: expected one argument; a value that begins with a dash is written": [
        "--step_delimiter",
        "--",
    ],
    "--config: expected one argument": ["--config"],
    "--branching: expected at least one argument": ["--branching"],
}


@pytest.mark.parametrize("says, argv", BAD.items(), ids=BAD)
def test_bad_values(says, argv, tmp_path, capsys):
    assert refused(
        train_treerpo.main, [*words(tmp_path / "run", depth=None), *argv], capsys
    ).startswith(f"error: {says}")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "text, says",
    [
        ("max_steps: null", "max_steps has no value; give one, or leave the key out"),
        ("lora_target_modules:", "lora_target_modules has no value"),
        ("max_steps: 3\nmax_steps: 4", "max_steps stands in it twice"),
        ("prompt_template: {a: 1}", "prompt_template must be a value or a list of values"),
        ("branching: [[8, 4]]", "branching must be a value or a list of values"),
        (
            "benchmarks: [arithmetic, ]\nlora_target_modules: [q_proj, null]",
            "lora_target_modules holds an empty value",
        ),
        ("benchmarks: [--x]", "benchmarks: a value in a list can't begin with a dash"),
        ("depth: [2, 3]", "3: a value that belongs to no flag"),
        ("extends: mine.yaml", "extends mine.yaml, which extends this file"),
        ("extends: [a.yaml, b.yaml]", "extends must name one file"),
        ("extends: none.yaml", "none.yaml: No such file"),
        ("a: [1", "line 1"),
        ("lr: 1", "unknown key lr"),
    ],
)
def test_bad_recipes(text, says, tmp_path, capsys):
    assert says in refused(
        train_treerpo.main, [*recipe(tmp_path, text), "--output_dir", tmp_path / "run"], capsys
    )
    assert not (tmp_path / "run").exists()


def test_a_loop_of_extends_is_refused(tmp_path, capsys):
    for i in range(3):
        recipe(tmp_path, f"extends: r{(i + 1) % 3}.yaml\n", f"r{i}.yaml")
    assert "a recipe can't extend itself" in refused(
        train_treerpo.main, ["--config", tmp_path / "r0.yaml"], capsys
    )


def test_a_tracker_that_is_not_installed_is_refused(tmp_path, capsys, monkeypatch):
    find_spec = importlib.util.find_spec
    for name in ("wandb", "tensorboard"):

        def without(package, name=name):
            return None if package.startswith(name) else find_spec(package)

        monkeypatch.setattr(importlib.util, "find_spec", without)
        says = f"--report_to {name}: it is not installed"
        assert says in refused(train_treerpo.main, words(tmp_path / "run", report_to=name), capsys)


@pytest.mark.parametrize(
    "says, argv",
    [
        (
            "--temperature 0 with --num_samples 4: every sample",
            ["--num_samples", "4", "--temperature", "0"],
        ),
        ("--temperature -1.0", ["--temperature=-1", "--num_samples", "2"]),
        ("--top_p 0.0", ["--top_p", "0"]),
        ("--top_p nan", ["--top_p", "nan"]),
        ("--grader_timeout 0.0", ["--grader_timeout", "0"]),
        ("--max_rows 0", ["--max_rows", "0"]),
        ("--grader_workers 0", ["--grader_workers", "0"]),
    ],
)
def test_bad_evaluations(says, argv, tmp_path, capsys):
    assert refused(eval_math.main, ["--output_dir", tmp_path, *argv], capsys).startswith(
        f"error: {says}"
    )


def test_no_clipping_is_not_a_step_of_length_zero(tmp_path):
    """--max_grad_norm 0 means what it means in transformers: the gradient as it is."""
    from test_scripts import adapter, train

    changes = dict(
        max_steps=2,
        save_steps=0,
        learning_rate=1e-3,
        warmup_steps=0,
        prompts_per_update=8,
        branching=4,
    )
    train(tmp_path / "off", **changes, max_grad_norm=0)
    train(tmp_path / "wide", **changes, max_grad_norm=1e9)
    off, wide = adapter(tmp_path / "off"), adapter(tmp_path / "wide")
    assert all(off[name].equal(wide[name]) for name in off)
    assert any(off[name].any() for name in off if "lora_B" in name)


def test_choices_are_those_of_the_code():
    hints = get_type_hints(train_treerpo.Flags)
    assert set(get_args(hints["advantage"])) == set(ESTIMATORS)
    assert set(get_args(get_args(hints["scale_rewards"])[0])) == set(SCALES)
    assert set(get_args(hints["loss_type"])) == set(LOSS_TYPES)


@pytest.mark.parametrize("script", ["train_treerpo.py", "eval_math.py"])
@pytest.mark.parametrize("argv", [["--help"], ["--brnching", "4"], ["--temperature", "-1"]])
def test_flags_are_answered_before_torch_is_imported(script, argv):
    """Which takes seconds, and whoever mistypes a flag waits for it."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", script, *argv],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    imported = {
        line.rpartition("|")[2].strip()
        for line in done.stderr.splitlines()
        if line.startswith("import time:")
    }
    assert done.returncode == (0 if argv == ["--help"] else 2)
    assert "transformers.hf_argparser" in imported and not imported & {
        "torch",
        "accelerate",
        "peft",
        "matplotlib",
    }


def test_every_recipe_is_valid():
    for path in sorted((ROOT / "recipes").glob("*.yaml")):
        parsed("--config", str(path))


# --- Coming from TRL ---


def test_every_flag_of_trl_is_known_or_has_advice():
    """Each flag of its GRPO script has the same name here, or a line that says what to write."""
    trl = pytest.importorskip("trl")
    own = {field.name for field in dataclasses.fields(train_treerpo.Flags)}
    script = pytest.importorskip("trl.scripts.grpo")
    configs = (trl.GRPOConfig, trl.ModelConfig, script.GRPOScriptArguments)
    names = {field.name for config in configs for field in dataclasses.fields(config)}
    assert len(names) > 200
    assert not [name for name in names - own if trl_advice(name) is None]
    assert not own & TRL_NAMES.keys()


def test_what_trl_advice_names_is_there():
    """A flag that the advice tells to write is one of this script."""
    own = {field.name for field in dataclasses.fields(train_treerpo.Flags)}
    elsewhere = {"config_file"}  # of accelerate launch
    for name, advice in TRL_NAMES.items():
        named = set(re.findall(r"--(\w+)", advice))
        assert named <= own | elsewhere, name


@pytest.mark.parametrize(
    "argv, says",
    [
        (
            ["--num_generations", "8"],
            "unknown flag --num_generations: write --branching N --depth 1",
        ),
        (["--num-generations=8"], "unknown flag --num-generations: write --branching N"),
        (["--use_vllm", "true"], "leave it out: paths are sampled by generate"),
        (["--vllm_mode", "server"], "TRL has it, and there is no counterpart here"),
        (["--prompts_per_step", "8"], "it is called --prompts_per_update now"),
        (["--scale_rewards", "true"], "--scale_rewards: write group"),
    ],
)
def test_flags_of_trl_get_advice(argv, says, tmp_path, capsys):
    assert says in refused(train_treerpo.main, [*words(tmp_path / "run"), *argv], capsys)


def test_keys_of_trl_in_a_recipe_get_advice(tmp_path, capsys):
    argv = recipe(tmp_path, "num_generations: 8")
    assert "unknown key num_generations: write --branching" in refused(
        train_treerpo.main, argv, capsys
    )


def test_the_demo_is_announced(monkeypatch, capsys):
    """A command line without a recipe has the demo's flags, which are not the defaults."""
    assert train_treerpo.read_flags([]) == train_treerpo.read_flags(
        ["--config", str(ROOT / "recipes" / "demo.yaml")]
    )
    train_treerpo.announce_demo(["--max_steps", "3"])
    assert "flags from recipes/demo.yaml" in capsys.readouterr().out
    train_treerpo.announce_demo(["--config", "recipes/demo.yaml"])
    train_treerpo.announce_demo(["--model_name_or_path", "somewhere"])
    assert not capsys.readouterr().out


def test_nothing_writes_into_flags():
    with pytest.raises(dataclasses.FrozenInstanceError):
        parsed().depth = 4
