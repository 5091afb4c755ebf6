"""reward.Grader: its workers and the fork server that they come from, their limits, and what
becomes of them."""

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from conftest import grading_servers, grading_workers

import reward
from reward import Grader

STAND_IN = """
import sys, time, reward
from answers import equality
def same(answer, gold, by_value):
    if not by_value:
        raise equality.Undecided
    what, _, amount = answer.partition("^")
    if what not in "tmd":
        return False  # the calls that warm the server up
    do = {"t": time.sleep, "m": lambda size: bytearray(int(size) << 20), "d": sys.exit}[what]
    do(float(amount))
    return True
equality._same_by_value = same
reward._serve(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
"""


@pytest.fixture
def stand_in(monkeypatch):
    """Workers in which comparing takes time (t^seconds) or memory (m^megabytes) or ends the process
    (d^exitcode)."""
    real = subprocess.Popen

    def start(command, **options):
        return real([command[0], "-c", STAND_IN, *command[2:]], **options)

    monkeypatch.setattr(reward.subprocess, "Popen", start)
    monkeypatch.setenv("PYTHONPATH", str(Path(reward.__file__).parent))


def test_limits_are_kept_and_counted_and_cost_only_their_pair(stand_in):
    def grades(grader, *texts):
        return grader.grade_batch([rf"\boxed{{{text}}}" for text in texts], ["x"] * len(texts))

    with Grader(timeout=1.0, memory_mb=300) as grader:
        # Six pairs of 0.5 s on two workers take longer than the limit in all: the clock starts with
        # the grading.
        assert grades(grader, *(f"t^0.5{i}" for i in range(6))) == [1.0] * 6
        assert grades(grader, "t^30", "m^50", "m^2000", "t^0") == [0.0, 1.0, 0.0, 1.0]
        assert (grader.stats["timeouts"], grader.stats["kills"]) == (1, 1)
        start = time.monotonic()
        assert grades(grader, "d^1", "t^0.1") == [0.0, 1.0]
        # It is tried again, since its worker may have been killed from outside, but not for ever.
        assert time.monotonic() - start < 10
        assert grader.stats["kills"] >= 4


def test_a_replaced_worker_comes_from_the_same_fork_server(stand_in):
    with Grader(timeout=0.5, memory_mb=300) as grader:
        assert grader.grade_batch([r"\boxed{t^0.1}", r"\boxed{t^0.2}"], ["x", "x"]) == [1.0, 1.0]
        (server,), first = grading_children(), grading_children(workers=True)
        assert len(first) == 2
        hostile = [
            r"\boxed{t^30}",
            r"\boxed{t^31}",
            r"\boxed{m^2000}",
            r"\boxed{d^1}",
            r"\boxed{t^0}",
        ]
        assert grader.grade_batch(hostile, ["x"] * 5) == [0.0, 0.0, 0.0, 0.0, 1.0]
        assert grading_children() == [server]
        assert soon(lambda: len(server.children()) == 2)  # the killed ones are not even zombies
        assert not set(first) & set(server.children())
        assert server.num_threads() == 1
        assert os.getsid(server.pid) == server.pid  # so that Ctrl-C does not reach it
        assert {os.getsid(worker.pid) for worker in server.children()} == {server.pid}


def grading_children(workers: bool = False) -> list[psutil.Process]:
    """Stand-ins of `grading_servers` and `grading_workers`, which run no reward.py."""
    servers = psutil.Process().children()
    return [worker for server in servers for worker in server.children()] if workers else servers


SQUARES = [rf"\boxed{{\sqrt{{{n * n * 3}}}}}" for n in range(2, 400)]
ROOTS = [rf"{n}\sqrt{{3}}" for n in range(2, 400)]


def test_a_worker_killed_from_outside_loses_nothing():
    done = threading.Event()
    with Grader(timeout=20.0) as grader:
        assert grader.grade_batch(SQUARES[:1], ROOTS[:1]) == [1.0]

        def kill():
            for _ in range(10):
                time.sleep(0.1)
                for worker in grading_workers()[:1]:
                    worker.kill()
                if done.is_set():
                    break

        killer = threading.Thread(target=kill)
        killer.start()
        grades = grader.grade_batch(SQUARES, ROOTS)
        done.set()
        killer.join()
        assert all(grades)
        for worker in grading_workers():  # all of them, while idle
            worker.kill()
        assert all(grader.grade_batch(SQUARES[:8], ROOTS[:8]))
        assert grader.stats["kills"] >= 2


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_fork_server_killed_from_outside_is_replaced_and_loses_nothing(number):
    with Grader(timeout=20.0) as grader:
        grader.grade_batch(SQUARES[:2], ROOTS[:2])
        (server,), workers = grading_servers(), grading_workers()
        pending = grader.submit(SQUARES, ROOTS)
        time.sleep(0.3)
        server.send_signal(number)
        assert all(pending.result())
        for worker in workers:  # these live on until they need a replacement
            worker.kill()
        assert all(grader.grade_batch(SQUARES[:50], ROOTS[:50]))
        (another,) = grading_servers()
        assert another != server
        for process in [another, *grading_workers()]:  # all at once
            process.kill()
        assert all(grader.grade_batch(SQUARES[50:100], ROOTS[50:100]))
        last = grading_servers() + grading_workers()
    assert len(last) >= 2
    assert not any(process.is_running() for process in [server, another, *workers, *last])


def test_a_distinct_pair_is_graded_once_and_order_is_kept():
    texts = [r"\boxed{\sqrt{18}}", r"\boxed{7}", "no answer", r"\boxed{\sqrt{18}}"] * 50
    with Grader() as grader:
        assert grader.grade_batch(texts, [r"3\sqrt{2}"] * 200) == [1.0, 0.0, 0.0, 1.0] * 50
        assert grader.stats["pairs"] == 3
        assert grader.grade_batch([], []) == []
        assert grader.grade_batch([r"\boxed{x^2}"], [r"\undefined{5"]) == [0.0]
        assert grader.stats["unparsable"] == 1
        with pytest.raises(ValueError):
            grader.grade_batch(["a"], [])


def test_overlapping_batches_from_several_threads():
    found = {}
    with Grader() as grader:

        def work(i):
            found[i] = grader.grade_batch(
                [rf"\boxed{{\sqrt{{{i * i * 2}}}}}", r"\boxed{\pi}"], [rf"{i}\sqrt{{2}}", "e"]
            )

        threads = [threading.Thread(target=work, args=(i,)) for i in range(2, 10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == {i: [1.0, 0.0] for i in range(2, 10)}


def test_workers_that_cannot_start_are_an_error_and_not_wrong_grades(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with Grader() as grader, pytest.raises(RuntimeError, match="die as they start: exit code 1"):
        grader.grade_batch([r"\boxed{\sqrt{18}}"], [r"3\sqrt{2}"])


def test_an_import_that_fails_in_the_workers_is_named(monkeypatch, tmp_path):
    (tmp_path / "math_verify.py").write_text("import no_such_grammar\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with Grader() as grader, pytest.raises(RuntimeError, match="No module named 'no_such_grammar'"):
        grader.grade_batch([r"\boxed{\sqrt{18}}"], [r"3\sqrt{2}"])


@pytest.mark.parametrize(
    "settings",
    [{"timeout": 0}, {"timeout": -1.0}, {"timeout": float("nan")}, {"timeout": float("inf")}]
    + [{"workers": 0}, {"workers": -2}, {"memory_mb": 0}],
)
def test_limits_that_make_no_sense_are_refused(settings):
    with pytest.raises(ValueError, match=r"at least 1|above 0"):
        Grader(**settings)


def test_no_process_outlives_the_grader():
    with Grader() as grader:
        grader.grade_batch(
            [r"\boxed{\sqrt{18}}", r"\boxed{\sqrt{8}}"], [r"3\sqrt{2}", r"2\sqrt{2}"]
        )
        running = grading_servers() + grading_workers()
        assert len(running) == 3
    assert not any(process.is_running() for process in running)
    with Grader():
        running = grading_servers()
        assert len(running) == 1  # still importing
    assert not running[0].is_running()


def test_no_process_outlives_a_killed_trainer(tmp_path):
    script = tmp_path / "main.py"
    script.write_text(
        "import reward\n"
        "with reward.Grader(timeout=1000.0) as grader:\n"
        "    grader.grade_batch([r'\\boxed{\\sqrt{18}}'], [r'3\\sqrt{2}'])\n"
        "    print('up', flush=True)\n"
        "    grader.grade_batch([r'\\boxed{9^{9^{9^{9}}}}', r'\\boxed{(10^{9})!}'], ['x+1', 'x+1'])\n"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(reward.__file__).parent)}
    trainer = subprocess.Popen([sys.executable, script], env=env, stdout=subprocess.PIPE, text=True)
    assert trainer.stdout.readline() == "up\n"
    time.sleep(0.5)
    left = psutil.Process(trainer.pid).children(recursive=True)
    assert len(left) == 3
    trainer.kill()
    trainer.communicate()
    assert soon(lambda: not any(map(lives, left)))


def soon(condition) -> bool:
    """Whether a condition holds within 20 s."""
    end = time.monotonic() + 20
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


def lives(process: psutil.Process) -> bool:
    return (
        process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    )  # to be reaped by the system's init


def test_import_needs_neither_torch_nor_sympy_and_workers_ignore_the_main_script(tmp_path):
    script = tmp_path / "main.py"  # no main guard
    script.write_text(
        "print('started')\nimport sys, reward\n"
        "assert not {'torch', 'sympy'} & set(sys.modules)\n"
        "with reward.Grader() as grader:\n"
        "    print(grader.grade_batch([r'\\boxed{\\sqrt{18}}'], [r'3\\sqrt{2}']))\n"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(reward.__file__).parent)}
    run = subprocess.run(
        [sys.executable, script], env=env, capture_output=True, text=True, timeout=60, check=True
    )
    assert run.stdout.split() == ["started", "[1.0]"]


def test_a_memory_limit_of_the_shell_is_kept():
    """`ulimit -v` forbids what memory_mb would allow: the lower of both holds."""
    code = (
        "import reward\nwith reward.Grader(memory_mb=10**6) as grader:\n"
        "    print(grader.grade_batch([r'\\boxed{\\sqrt{18}}'], [r'3\\sqrt{2}']))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=Path(reward.__file__).parent,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30)),
    )
    assert run.stdout == "[1.0]\n", run.stderr
