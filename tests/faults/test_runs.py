"""Training runs meet signals, kills, full disks and bad numbers: nothing may be lost, hung or
silently wrong.

`make faults` runs the same with more tries (KILLS) and prints what was tried and survived.
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
from conftest import ROOT, fault
from test_scripts import (
    SMALL,
    TWO_PROCESSES,
    adapter,
    assert_same_but_for_rounding,
    assert_same_tensors,
    read,
    refused,
    script,
    untimed,
    words,
)

import learner
import train_treerpo
from data import arithmetic

KILLS = int(os.environ.get("KILLS", 1))
FLAGS = dict(max_steps=6, save_steps=1, eval_steps=3, num_samples=1)


def start(output, *more):
    command = [
        sys.executable,
        "train_treerpo.py",
        *words(output, **FLAGS),
        "--benchmarks",
        "arithmetic[:6]",
        *more,
    ]
    pipes = dict(stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    return subprocess.Popen(list(map(str, command)), cwd=ROOT, **pipes)


def assert_same_run(output, whole):
    assert_same_tensors(adapter(output), adapter(whole))
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
        assert (
            run.returncode == 128 + number
            and "stopping after this update" in printed
            and "Traceback" not in printed
        )
        assert f"--output_dir {output} --resume_from_checkpoint" in printed
        assert len(list((output / "checkpoints").iterdir())) == 1
        run = start(output, "--save_steps", 0, "--resume_from_checkpoint")
        assert run.wait() == 0, run.stderr.read()[-2000:]
        assert_same_run(output, whole[0])


def test_kills_at_random_moments_lose_nothing(whole, tmp_path):
    """SIGKILL anywhere: start-up, sampling, saving, evaluating. Each attempt continues from the
    newest checkpoint."""
    rng, kills, attempt, typical = random.Random(0), 0, 0, whole[1]
    while kills < KILLS:
        attempt += 1
        output, before = tmp_path / f"run{attempt}", kills
        while True:
            resume = (
                ["--resume_from_checkpoint"] if list(output.glob("checkpoints/step-*[0-9]")) else []
            )
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
        with fault(
            "SIGKILL at a random moment of a run: resumed to the same adapter", kills - before
        ):
            assert run.returncode == 0, run.stderr.read()[-2000:]
            assert_same_run(output, whole[0])


@pytest.mark.skipif(KILLS < 3, reason="a part of `make faults`")
def test_ten_updates_of_two_processes(tmp_path):
    """Half of the problems can't be solved, so that ranks have unlike numbers of packs, and at
    times none at all."""
    rows = arithmetic.problems("train")[:4]
    rows = [
        {**row, "answer": "no number" if i % 2 else row["answer"]} for i, row in enumerate(rows)
    ]
    (tmp_path / "half.jsonl").write_text("\n".join(map(json.dumps, rows)))
    changes = dict(max_steps=10, save_steps=0, branching=8, dataset_name=tmp_path / "half.jsonl")
    orders = [
        train_treerpo.prompt_order(4, first, first + 4, SMALL["seed"]) for first in range(0, 40, 4)
    ]
    assert any(
        order[0] % 2 == order[1] % 2 for order in orders
    )  # then one rank's groups are all pruned
    with fault("two processes for ten updates: the same adapter to 1e-6"):
        flags = ["--prompt_template", "\n{problem}\n"]
        script(sys.executable, "train_treerpo.py", *words(tmp_path / "one", **changes), *flags)
        script(*TWO_PROCESSES, *words(tmp_path / "two", **changes), *flags)
        assert_same_but_for_rounding(tmp_path / "two", tmp_path / "one")


def launch_two(output, **changes):
    """A run of two processes that continues until something ends it, once it has made an update."""
    command = list(
        map(
            str,
            [*TWO_PROCESSES, *words(output, **FLAGS | dict(max_steps=500, eval_steps=0) | changes)],
        )
    )
    launch = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    wait_for_updates(output, 1, launch)
    return launch


def ranks_of(launch):
    family = psutil.Process(launch.pid).children(recursive=True)
    ranks = [p for p in family if "RANK" in p.environ() and "train_treerpo.py" in p.cmdline()]
    assert len(ranks) == 2
    return sorted(ranks, key=lambda p: p.environ()["RANK"])


@pytest.mark.skipif(KILLS < 3, reason="a part of `make faults`")
@pytest.mark.parametrize("rank", [None, 0, 1])
def test_a_signal_to_the_launcher_or_to_one_rank_saves(rank, tmp_path):
    with fault(
        "SIGTERM to accelerate launch, or to one rank: all stop after the update, which is saved"
    ):
        launch = launch_two(tmp_path, save_steps=0)
        (launch if rank is None else ranks_of(launch)[rank]).terminate()
        _, printed = launch.communicate(timeout=60)
        update = read(tmp_path / "metrics.jsonl")[-1]["update"]
        assert f"update {update} is saved; continue by the same command" in printed
        assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [
            f"step-{update:06d}"
        ]


def test_a_dead_rank_ends_the_others(tmp_path):
    with fault("SIGKILL of one rank: the others end within a minute, the rank is named"):
        launch = launch_two(tmp_path / "run")
        ranks = ranks_of(launch)
        ranks[1].kill()
        _, printed = launch.communicate(timeout=60)
        assert launch.returncode != 0 and "rank      : 1" in printed and "Signal 9" in printed
        assert not any(p.is_running() for p in ranks)


def test_gradients_that_are_not_finite_are_skipped_and_then_stop_the_run(
    tmp_path, monkeypatch, capsys, caplog
):
    loss, calls = learner.policy_loss, []

    def sometimes_nan(*args, **kwargs):
        calls.append(1)
        return loss(*args, **kwargs) * (float("nan") if len(calls) in bad else 1.0)

    monkeypatch.setattr(learner, "policy_loss", sometimes_nan)
    changes = dict(
        max_steps=3,
        branching=4,
        prompts_per_update=8,
        save_steps=0,
        max_pack_tokens=2048,
        learning_rate=1e-3,
    )
    bad = {1}
    with fault("gradient that is not finite: skipped, kept, and a stop after several"):
        sys.argv = ["train_treerpo.py", *words(tmp_path / "one", **changes)]
        train_treerpo.main()
        rows = read(tmp_path / "one" / "metrics.jsonl")
        skipped = [row["update"] for row in rows if row.get("bad_update")]
        assert len(skipped) == 1 and all(
            torch.isfinite(v).all() for v in adapter(tmp_path / "one").values()
        )
        assert (
            tmp_path / "one" / f"bad_update-{skipped[0]}-0.pt"
        ).exists() and "is not finite" in caplog.text
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
    """On a disk of its own: the third checkpoint finds no room, a resume no right to write, and
    then all is well."""
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
        assert re.search(
            "step-00000[0-9]: can't be written .*; the checkpoints before it are kept", printed
        )
        assert "step-000001\n" in printed or "step-000002\n" in printed
        assert (
            "read-only: 2" in printed
            and "Read-only file system" in printed
            and "roomy: 0" in printed
        )
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
            argv = [
                *words(output, **FLAGS),
                "--benchmarks",
                "arithmetic[:6]",
                "--resume_from_checkpoint",
                newest,
            ]
            with fault(
                "truncated or tampered checkpoint: refused by name, the one before is offered"
            ):
                said = refused(train_treerpo.main, argv, capsys)
                assert "step-000006: not a complete checkpoint" in said and said.endswith(
                    "step-000005"
                )


def test_metrics_are_plain_json(whole):
    for line in (whole[0] / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)
