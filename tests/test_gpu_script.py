"""benchmarks/gpu.sh with something else in Python's place: what its parts call, and a run that is
cut off; one real part. tests/faults/test_gpu_parts.py runs all of them."""

import ast
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import psutil
import pytest
from conftest import ROOT

SCRIPT = ROOT / "benchmarks" / "gpu.sh"
# What each part writes at its smallest, and a key of it.
PARTS = {
    "tests": ("device-tests.json", "tests"),
    "sampling": ("sampling-1-small-tiny.json", "figures"),
    "training": ("training-small-tiny.json", "figures"),
    "update": ("update-small-tiny.json", "phases"),
    "memory": ("memory-small-tiny.json", "rows"),
    "model": ("real-model-smollm2-svamp.json", "GRPO"),
    "gsm8k": ("real-model-smollm2-gsm8k.json", "GRPO"),
}


def command(output, *words: str) -> list[str]:
    return ["bash", str(SCRIPT), "--output_dir", str(output), *words]


def environment(python=sys.executable) -> dict[str, str]:
    return {**os.environ, "PYTHON": str(python)}


def run(output, *words: str, python=sys.executable) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(output, *words), env=environment(python), capture_output=True, text=True
    )


def finished(output) -> list[dict]:
    """The commands that ended, as parts.jsonl has them."""
    path = output / "parts.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


# --- A run ---


def stand_in(path, body: str):
    """Writes a shell script that stands for Python; returns its path."""
    path.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def test_a_real_part_writes_its_figures(tmp_path):
    done = run(tmp_path, "--small", "memory")
    assert done.returncode == 0, done.stdout + done.stderr
    file, key = PARTS["memory"]
    record = json.loads((tmp_path / file).read_text(encoding="utf-8"))
    assert record[key] and record["machine"] and record["torch"]
    assert [row["exit"] for row in finished(tmp_path)] == ["0"]


def test_what_was_finished_stays_when_a_run_is_cut_off(tmp_path):
    """By a signal to the script alone, which ends the command at hand and what that has started."""
    hangs_in_training = """
case "$1" in
    *training.py) sleep 600 & echo $! > "$5/started"; wait ;;
    *) echo '{"figures": 1}' > "$5/$(basename "$1").json" ;;
esac"""
    python = stand_in(tmp_path / "python", hangs_in_training)
    output = tmp_path / "out"
    tar = tmp_path / "out.tgz"
    process = subprocess.Popen(
        command(output, "--small", "--tar", str(tar), "sampling", "training"),
        env=environment(python),
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    started = output / "started"
    while not (started.exists() and started.read_text().strip()):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    children = psutil.Process(process.pid).children(recursive=True)
    assert int(started.read_text()) in {child.pid for child in children}
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 143
    assert not psutil.wait_procs(children, timeout=30)[1]
    assert json.loads((output / "sampling.py.json").read_text())["figures"]
    assert [row["command"] for row in finished(output)] == ["sampling-small"]
    with tarfile.open(tar) as packed:
        names = {Path(name).name for name in packed.getnames()}
    assert names >= {"sampling.py.json", "sampling-small.log", "parts.jsonl"}
    assert not Path(f"{tar}.part").exists()


def test_what_is_taken_home_leaves_out_the_runs(tmp_path):
    python = stand_in(tmp_path / "python", "exit 0")
    output, tar = tmp_path / "out", tmp_path / "out.tgz"
    (output / "runs").mkdir(parents=True)
    (output / "runs" / "model.safetensors").write_bytes(b"large")
    run(output, "--small", "--tar", str(tar), "memory", python=python)
    with tarfile.open(tar) as packed:
        assert sorted(packed.getnames()) == [".", "./memory-small.log", "./parts.jsonl"]


# --- What is called at which size ---


@pytest.fixture
def recorder(tmp_path):
    """Stands for Python: takes down its words, and fails for one of the scripts."""
    log = tmp_path / "calls"
    body = f'printf "%s\\t" "$@" >> {log}\necho >> {log}\ncase "$1" in *training.py) exit 3 ;; esac'
    path = stand_in(tmp_path / "python", body)

    def calls() -> list[list[str]]:
        return [line.rstrip("\t").split("\t") for line in log.read_text().splitlines()]

    return path, calls


def flags_of(script: str) -> set[str]:
    """The names of the flags that a benchmark defines."""
    names = {"model", "repeats", "output_dir", "label"}
    tree = ast.parse((ROOT / script).read_text(encoding="utf-8"))
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        if getattr(call.func, "id", "") == "arguments":
            names |= {keyword.arg for keyword in call.keywords}
        if getattr(call.func, "attr", "") == "add_argument":
            names |= {word.value.lstrip("-") for word in call.args}
    return names


SCRIPTS = ["device_tests", "sampling", "training", "update", "memory", "real_model"]


@pytest.mark.parametrize("size", ["small", "full"])
def test_scripts_are_called_with_flags_that_they_have(size, recorder, tmp_path):
    python, calls = recorder
    words = ["--gguf", "a.gguf b.gguf", "--data", "DIR"] if size == "full" else ["--small"]
    done = run(tmp_path / "out", *words, python=python)
    scripts = [Path(call[0]).stem for call in calls()]
    made_first = ["gguf_checkpoint"] if "gguf_checkpoint" in scripts else []
    assert list(dict.fromkeys(scripts)) == [*SCRIPTS[:-1], *made_first, SCRIPTS[-1]]
    # Where no checkpoint is there, it is made.
    has_model = (ROOT / "results" / "smollm2" / "model" / "config.json").exists()
    assert bool(made_first) == (size == "full" and not has_model)
    outputs = set()
    for script, *words in calls():
        flags = {word.lstrip("-") for word in words if word.startswith("--")}
        assert flags <= flags_of(script), script
        label = words[words.index("--label") + 1] if "--label" in words else ""
        outputs.add((script, label))
    assert len(outputs) == len(calls())  # no JSON file is written over
    # One that fails stops no other, and is said.
    assert done.returncode == 1
    assert {row["exit"] for row in finished(tmp_path / "out")} == {"0", "3"}
    assert len(finished(tmp_path / "out")) == len(calls())


def test_no_command_starts_after_the_deadline(recorder, tmp_path):
    python, _ = recorder
    done = run(tmp_path / "out", "--seconds", "0", "sampling", python=python)
    assert done.stdout.count("no time left") == 2
    assert {row["exit"] for row in finished(tmp_path / "out")} == {"skipped"}


def test_wheels_are_installed_before_anything_runs(tmp_path):
    """And without network: a folder that lacks them is an error."""
    (tmp_path / "wheels").mkdir()
    done = run(tmp_path / "out", "--wheels", str(tmp_path / "wheels"), "--small", "tests")
    assert done.returncode == 1 and not finished(tmp_path / "out")


@pytest.mark.parametrize("words", [["--large"], ["everything"]])
def test_unknown_words_are_refused(words, tmp_path):
    done = run(tmp_path, *words)
    assert done.returncode == 2 and words[0].lstrip("-") in done.stderr


# --- The floors ---


def test_the_sizes_of_qwen(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from common import qwen2_config
    from roofline import Arithmetic, Card, tree_seconds
    from transformers import AutoTokenizer

    config = qwen2_config("1.5b", AutoTokenizer.from_pretrained(ROOT / "data" / "tiny_base"))
    arithmetic = Arithmetic.of(config)
    assert arithmetic.weights == pytest.approx(1.54e9, rel=0.01)
    assert arithmetic.key_values * 2 == 28_672  # bytes per token
    # Of a card that computes in no time: one row of 9 tokens reads weights and keys 4 times.
    card = Card(flops=1e30, bandwidth=1.0)
    read = sum(
        2 * (arithmetic.weights + (9 + turn) * arithmetic.key_values) for turn in (1, 2, 3, 4)
    )
    assert arithmetic.step_seconds(1, 9, 4, card) == pytest.approx(read)
    # A tree of two depths in slices: the weights are read once for each slice.
    weights, keys = 2 * arithmetic.weights, 2 * arithmetic.key_values
    expected = 3 * (weights + 2 * (10 + 2) * keys) + 3 * (2 * weights + 4 * (13 + 2) * keys)
    sampled = tree_seconds(arithmetic, card, 1, 10, [2, 2], 3, max_rows=2)
    assert sampled == pytest.approx(expected)
    # Of one whose memory is free: two operations for each weight, and attention's.
    card = Card(flops=1.0, bandwidth=1e30)
    assert arithmetic.step_seconds(1, 9, 1, card) == pytest.approx(
        2 * arithmetic.weights + 4 * 28 * 1536 * 10
    )
