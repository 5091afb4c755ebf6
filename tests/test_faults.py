"""Long runs meet signals, kills, full disks and bad numbers: nothing may be lost, hung or silently wrong.

`make faults` runs the same with more tries (KILLS, WORKER_KILLS, HOSTILE) and prints what was tried and survived.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch
from conftest import ROOT, grading_workers
from test_scripts import adapter, read, refused, untimed, words

import train_treerpo
from reward import Grader

KILLS = int(os.environ.get("KILLS", 1))
WORKER_KILLS = int(os.environ.get("WORKER_KILLS", 6))
HOSTILE = int(os.environ.get("HOSTILE", 600))
FLAGS = dict(max_steps=6, save_steps=1, eval_steps=3, num_samples=1)
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "2", "HF_HUB_OFFLINE": "1"}
SURVIVED: dict[str, list[int]] = {}


def survived(fault: str) -> None:
    SURVIVED.setdefault(fault, []).append(1)


@pytest.fixture(scope="module", autouse=True)
def summary():
    yield
    print("\n| fault | survived |\n|---|---|")
    for fault, times in SURVIVED.items():
        print(f"| {fault} | {len(times)} |")


def start(output, *more):
    command = [sys.executable, "train_treerpo.py", *words(output, **FLAGS), "--benchmarks", "arithmetic[:6]", *more]
    pipes = dict(stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    return subprocess.Popen(list(map(str, command)), cwd=ROOT, env=ENVIRONMENT, **pipes)


def assert_same_run(output, whole):
    expected, found = adapter(whole), adapter(output)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert untimed(read(output / "metrics.jsonl")) == untimed(read(whole / "metrics.jsonl"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    output = tmp_path_factory.mktemp("faults") / "whole"
    began = time.monotonic()
    run = start(output)
    assert run.wait() == 0, run.stderr.read()[-2000:]
    return output, time.monotonic() - began


def wait_for_updates(output, count, run):
    path = output / "metrics.jsonl"
    while not (path.exists() and path.read_text().count('"reward"') >= count):
        assert run.poll() is None, run.stderr.read()[-2000:]
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT][: 1 if KILLS < 3 else 2])
def test_a_signal_saves_and_says_how_to_go_on(number, whole, tmp_path):
    output = tmp_path / "run"
    run = start(output, "--save_steps", 0)
    wait_for_updates(output, 2, run)
    run.send_signal(number)
    _, printed = run.communicate(timeout=60)
    assert run.returncode == 128 + number and "stopping after this update" in printed and "Traceback" not in printed
    assert f"--output_dir {output} --resume_from_checkpoint" in printed
    assert len(list((output / "checkpoints").iterdir())) == 1
    run = start(output, "--save_steps", 0, "--resume_from_checkpoint")
    assert run.wait() == 0, run.stderr.read()[-2000:]
    assert_same_run(output, whole[0])
    survived(f"signal {number.name}")


def test_kills_at_random_moments_lose_nothing(whole, tmp_path):
    """SIGKILL anywhere: start-up, sampling, saving, evaluating. Each attempt goes on from the newest checkpoint."""
    rng, output, kills = random.Random(0), tmp_path / "run", 0
    attempt = 0
    while kills < KILLS:
        attempt += 1
        output = tmp_path / f"run{attempt}"
        while True:
            resume = ["--resume_from_checkpoint"] if list(output.glob("checkpoints/step-*[0-9]")) else []
            if not resume and output.exists():
                (output / "config.yaml").unlink(missing_ok=True)
                (output / "metrics.jsonl").unlink(missing_ok=True)
            run = start(output, *resume)
            try:
                run.wait(timeout=rng.uniform(0.4, 1.0) * whole[1] if kills < KILLS else None)
                break
            except subprocess.TimeoutExpired:
                run.kill()
                run.wait()
                kills += 1
        assert run.returncode == 0, run.stderr.read()[-2000:]
        assert_same_run(output, whole[0])
    for _ in range(kills):
        survived("SIGKILL of training at a random moment, resumed to the same adapter")


def test_worker_kills_lose_no_grade():
    numbers = range(2, 2 + 120 * WORKER_KILLS)
    texts, golds = [rf"\boxed{{\sqrt{{{n * n * 3}}}}}" for n in numbers], [rf"{n}\sqrt{{3}}" for n in numbers]
    rng, killed = random.Random(0), 0
    with Grader(timeout=20.0) as grader:
        pending = grader.submit(texts, golds)
        while killed < WORKER_KILLS and not pending.done():
            time.sleep(rng.uniform(0.1, 0.5))
            if workers := grading_workers():
                rng.choice(workers).kill()
                killed += 1
        assert all(pending.result()) and killed
    for _ in range(killed):
        survived("SIGKILL of a grading worker, no grade lost")


LATEX = r"""\boxed{ \frac{ \sqrt{ } { ( ) [ ] \{ \} ^ _ + - * / = < > \le \cup , ; | ! ' $ \text{ \pm \sum \int \infty
\begin{pmatrix} \end{pmatrix} & \\ \overline{ % \% 0 1 9 99999 1e9 1e999999 x y \pi ^{9^9} !! \neq <think> </think> ####
__import__('os').system('touch INJECTED') eval(1) \left( \right) \ln \sin answer is or"""
PIECES = [*LATEX.split(), "the answer is ", "\u0664", "\u200b", "\ud800", "\U0001d7d8", "\x00", "½", "²", "∞", "\n"]


def test_hostile_completions(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = random.Random(1)
    golds = [r"\frac{\pi}{7}", "12", r"(1,2)", r"x\ge 5", r"\text{Evelyn}", r"\begin{pmatrix}1\\2\end{pmatrix}"]
    texts = []
    for _ in range(HOSTILE):
        body = "".join(rng.choices(PIECES, k=rng.choice((3, 10, 40)))) * rng.choice((1, 1, 1, 20))
        texts.append(rng.choice((body, rf"\boxed{{{body}}}", f"#### {body}")))
    memory = psutil.Process().memory_info().rss
    with Grader(workers=2, timeout=1.0) as grader:
        for first in range(0, len(texts), 500):
            grader.grade_batch(texts[first : first + 500], rng.choices(golds, k=len(texts[first : first + 500])))
        assert grader.grade_batch([r"\boxed{\sqrt{18}}", r"\boxed{4}"], [r"3\sqrt{2}", "5"]) == [1.0, 0.0]
        print(dict(grader.stats))
    assert psutil.Process().memory_info().rss - memory < 200 * 2**20
    assert list(tmp_path.iterdir()) == []
    for _ in texts:
        survived("hostile completion graded, no crash, no hang, nothing run")


def test_gradients_that_are_not_finite_are_skipped_and_then_stop_the_run(tmp_path, monkeypatch, capsys, caplog):
    loss, calls = train_treerpo.policy_loss, []

    def sometimes_nan(*args):
        calls.append(1)
        return loss(*args) * (float("nan") if len(calls) in bad else 1.0)

    monkeypatch.setattr(train_treerpo, "policy_loss", sometimes_nan)
    changes = dict(max_steps=3, branching=4, prompts_per_step=8, save_steps=0, max_pack_tokens=2048, learning_rate=1e-3)
    bad = {1}
    sys.argv = ["train_treerpo.py", *words(tmp_path / "one", **changes)]
    train_treerpo.main()
    rows = read(tmp_path / "one" / "metrics.jsonl")
    skipped = [row["update"] for row in rows if row.get("bad_update")]
    assert len(skipped) == 1 and all(torch.isfinite(v).all() for v in adapter(tmp_path / "one").values())
    assert (tmp_path / "one" / f"bad_update-{skipped[0]}-0.pt").exists() and "its gradient is not finite" in caplog.text
    bad = set(range(1, 1000))
    argv = [*words(tmp_path / "all", **changes, max_bad_updates=2)]
    assert "2 gradients in a row were not finite" in refused(train_treerpo.main, argv, capsys)
    survived("gradient that is not finite")


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path, monkeypatch, capsys):
    """The second checkpoint can't be written, as on a full disk: the first one stays and the run resumes from it."""
    save, count = torch.save, []

    def full(state, path):
        count.append(path)
        if len(count) > 2:
            raise OSError(28, "No space left on device")
        save(state, path)

    monkeypatch.setattr(torch, "save", full)
    argv = words(tmp_path, max_steps=2, save_steps=1)
    said = refused(train_treerpo.main, argv, capsys)
    assert "step-000002: can't be written" in said and "No space left on device" in said
    assert [path.name for path in (tmp_path / "checkpoints").glob("step-*[0-9]")] == ["step-000001"]
    monkeypatch.setattr(torch, "save", save)
    sys.argv = ["train_treerpo.py", *argv, "--resume_from_checkpoint"]
    train_treerpo.main()
    assert [row["update"] for row in read(tmp_path / "metrics.jsonl") if "reward" in row] == [1, 2]
    survived("full disk while saving")


def test_a_damaged_checkpoint_is_refused_by_name(whole, tmp_path, capsys):
    import shutil

    for name in ("optimizer.pt", "adapter_model.safetensors", "trainer_state.json", "rng.pt"):
        output = tmp_path / name
        shutil.copytree(whole[0], output)
        newest = output / "checkpoints" / "step-000006"
        content = (newest / name).read_bytes()
        (newest / name).write_bytes(content[: len(content) // 2])
        argv = [*words(output, **FLAGS), "--benchmarks", "arithmetic[:6]", "--resume_from_checkpoint", newest]
        assert "step-000006: not a complete checkpoint" in refused(train_treerpo.main, argv, capsys)
        survived("truncated checkpoint file, refused by name")


def test_metrics_are_plain_json(whole):
    for line in (whole[0] / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)
