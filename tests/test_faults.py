"""Long runs meet signals, kills, full disks and bad numbers: nothing may be lost, hung or silently wrong.

`make faults` runs the same with more tries (KILLS, WORKER_KILLS, HOSTILE) and prints what was tried and survived.
"""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch
from conftest import ROOT, fault, grading_workers
from test_scripts import TWO_PROCESSES, adapter, assert_same_but_for_rounding, read, refused, script, untimed, words

import train_treerpo
from reward import Grader

KILLS = int(os.environ.get("KILLS", 1))
WORKER_KILLS = int(os.environ.get("WORKER_KILLS", 6))
HOSTILE = int(os.environ.get("HOSTILE", 600))
FLAGS = dict(max_steps=6, save_steps=1, eval_steps=3, num_samples=1)


def start(output, *more):
    command = [sys.executable, "train_treerpo.py", *words(output, **FLAGS), "--benchmarks", "arithmetic[:6]", *more]
    pipes = dict(stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    return subprocess.Popen(list(map(str, command)), cwd=ROOT, **pipes)


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
    with fault(f"{number.name} in training: saved, resumed to the same adapter"):
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


def test_kills_at_random_moments_lose_nothing(whole, tmp_path):
    """SIGKILL anywhere: start-up, sampling, saving, evaluating. Each attempt goes on from the newest checkpoint."""
    rng, kills, attempt, typical = random.Random(0), 0, 0, whole[1]
    while kills < KILLS:
        attempt += 1
        output, before = tmp_path / f"run{attempt}", kills
        while True:
            resume = ["--resume_from_checkpoint"] if list(output.glob("checkpoints/step-*[0-9]")) else []
            if not resume and output.exists():
                (output / "config.yaml").unlink(missing_ok=True)
                (output / "metrics.jsonl").unlink(missing_ok=True)
            began = time.monotonic()
            run = start(output, *resume)
            try:
                run.wait(timeout=rng.uniform(0.2, 1.0) * typical if kills < KILLS else None)
                break
            except subprocess.TimeoutExpired:
                run.kill()
                run.wait()
                kills += 1
        typical = time.monotonic() - began  # a busy machine is not always as slow as at first
        with fault("SIGKILL at a random moment of a run: resumed to the same adapter", kills - before):
            assert run.returncode == 0, run.stderr.read()[-2000:]
            assert_same_run(output, whole[0])


@pytest.mark.skipif(KILLS < 3, reason="a part of `make faults`")
def test_ten_updates_of_two_processes(tmp_path):
    changes = dict(max_steps=10, save_steps=0, prompts_per_step=8)
    with fault("two processes for ten updates: the same adapter to 1e-6"):
        script(sys.executable, "train_treerpo.py", *words(tmp_path / "one", **changes))
        script(*TWO_PROCESSES, *words(tmp_path / "two", **changes))
        assert_same_but_for_rounding(tmp_path / "two", tmp_path / "one")


def test_a_dead_rank_ends_the_others(tmp_path):
    flags = [*words(tmp_path / "run", **FLAGS | dict(max_steps=500, eval_steps=0)), "--benchmarks", "arithmetic[:6]"]
    pipes = dict(stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    command = list(map(str, [*TWO_PROCESSES, *flags]))
    with fault("SIGKILL of one rank: the others end within a minute, the rank is named"):
        launch = subprocess.Popen(command, cwd=ROOT, **pipes)
        wait_for_updates(tmp_path / "run", 1, launch)
        family = psutil.Process(launch.pid).children(recursive=True)
        ranks = [p for p in family if "RANK" in p.environ() and "train_treerpo.py" in p.cmdline()]
        assert len(ranks) == 2
        next(p for p in ranks if p.environ()["RANK"] == "1").kill()
        _, printed = launch.communicate(timeout=60)
        assert launch.returncode != 0 and "rank      : 1" in printed and "Signal 9" in printed
        assert not any(p.is_running() for p in ranks)


def test_worker_kills_lose_no_grade():
    rng, killed, first = random.Random(0), 0, 2
    with fault("SIGKILL of a grading worker: no grade lost", WORKER_KILLS), Grader(timeout=20.0) as grader:
        while killed < WORKER_KILLS:
            numbers = range(first, first := first + 500)
            texts = [rf"\boxed{{\sqrt{{{n * n * 3}}}}}" for n in numbers]
            pending = grader.submit(texts, [rf"{n}\sqrt{{3}}" for n in numbers])
            while killed < WORKER_KILLS and not pending.done():
                time.sleep(rng.uniform(0.5, 2.0))  # a worker takes a second or two to start
                if workers := grading_workers():
                    rng.choice(workers).kill()
                    killed += 1
            assert all(pending.result())


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
    name = "hostile completion: graded in time, nothing run, memory flat"
    with fault(name, HOSTILE), Grader(workers=2, timeout=1.0) as grader:
        for first in range(0, len(texts), 500):
            grader.grade_batch(texts[first : first + 500], rng.choices(golds, k=len(texts[first : first + 500])))
        assert grader.grade_batch([r"\boxed{\sqrt{18}}", r"\boxed{4}"], [r"3\sqrt{2}", "5"]) == [1.0, 0.0]
        print(dict(grader.stats))
        assert psutil.Process().memory_info().rss - memory < 200 * 2**20
        assert list(tmp_path.iterdir()) == []


def test_gradients_that_are_not_finite_are_skipped_and_then_stop_the_run(tmp_path, monkeypatch, capsys, caplog):
    loss, calls = train_treerpo.policy_loss, []

    def sometimes_nan(*args):
        calls.append(1)
        return loss(*args) * (float("nan") if len(calls) in bad else 1.0)

    monkeypatch.setattr(train_treerpo, "policy_loss", sometimes_nan)
    changes = dict(max_steps=3, branching=4, prompts_per_step=8, save_steps=0, max_pack_tokens=2048, learning_rate=1e-3)
    bad = {1}
    with fault("gradient that is not finite: skipped, kept, and a stop after several"):
        sys.argv = ["train_treerpo.py", *words(tmp_path / "one", **changes)]
        train_treerpo.main()
        rows = read(tmp_path / "one" / "metrics.jsonl")
        skipped = [row["update"] for row in rows if row.get("bad_update")]
        assert len(skipped) == 1 and all(torch.isfinite(v).all() for v in adapter(tmp_path / "one").values())
        assert (tmp_path / "one" / f"bad_update-{skipped[0]}-0.pt").exists() and "is not finite" in caplog.text
        bad = set(range(1, 1000))
        argv = [*words(tmp_path / "all", **changes, max_bad_updates=2)]
        assert "2 gradients in a row were not finite" in refused(train_treerpo.main, argv, capsys)


DISKS = """
set -u
mount -t tmpfs -o size=$2 tmpfs $1
shift 2
"$@"; echo "full: $?"; ls $0/run/checkpoints
mount -o remount,size=64m,ro $0
"$@" --resume_from_checkpoint; echo "read-only: $?"
mount -o remount,rw $0
"$@" --resume_from_checkpoint; echo "roomy: $?"
cp -r $0/run/adapter $0/run/metrics.jsonl $COPY
"""


def test_a_full_disk_and_a_read_only_one(whole, tmp_path, namespaces):
    """On a disk of its own: the third checkpoint finds no room, a resume no right to write, and then all is well."""
    disk, copy = tmp_path / "disk", tmp_path / "copy"
    disk.mkdir()
    copy.mkdir()
    each = sum(path.stat().st_size for path in (whole[0] / "checkpoints" / "step-000006").iterdir())
    flags = [*words(disk / "run", **FLAGS), "--benchmarks", "arithmetic[:6]"]
    command = [
        *namespaces,
        "bash",
        "-c",
        DISKS,
        disk,
        disk,
        int(2.6 * each),
        sys.executable,
        "train_treerpo.py",
        *flags,
    ]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    with fault("full disk, then a read-only one: a clear line, resumed to the same adapter"):
        environment = {**os.environ, "COPY": str(copy)}
        printed = subprocess.run(list(map(str, command)), cwd=ROOT, env=environment, **pipes).stdout
        assert "Traceback" not in printed and "full: 2" in printed and " MiB were free" in printed
        assert re.search("step-00000[0-9]: can't be written .*; the checkpoints before it are kept", printed)
        assert "step-000001\n" in printed or "step-000002\n" in printed
        assert "read-only: 2" in printed and "Read-only file system" in printed and "roomy: 0" in printed
        assert_same_run(copy, whole[0])


def test_a_damaged_checkpoint_is_refused_by_name(whole, tmp_path, capsys):
    def truncated(content):
        return content[: len(content) // 2]

    def tampered(content):
        return content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]

    for name in ("optimizer.pt", "adapter_model.safetensors", "trainer_state.json", "rng.pt"):
        for damage in (truncated, tampered)[: 1 + (name == "adapter_model.safetensors")]:
            output = tmp_path / f"{name}-{damage.__name__}"
            shutil.copytree(whole[0], output)
            newest = output / "checkpoints" / "step-000006"
            (newest / name).write_bytes(damage((newest / name).read_bytes()))
            argv = [*words(output, **FLAGS), "--benchmarks", "arithmetic[:6]", "--resume_from_checkpoint", newest]
            with fault("truncated or tampered checkpoint: refused by name, the one before is offered"):
                said = refused(train_treerpo.main, argv, capsys)
                assert "step-000006: not a complete checkpoint" in said and said.endswith("step-000005")


def test_metrics_are_plain_json(whole):
    for line in (whole[0] / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)
