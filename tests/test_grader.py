"""reward.Grader: its workers and the fork server that they come from, their limits, and what
becomes of them."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from multiprocessing.connection import Pipe
from pathlib import Path

import psutil
import pytest
from conftest import grading_servers, grading_workers

import reward
from reward import Grader
from run.errors import BadInput

HOSTILE_SCORE = """
import sys, time

def score(completion, row):
    what, _, amount = completion.strip().partition("^")
    if what == "time":
        time.sleep(float(amount))
    elif what == "memory":
        bytearray(int(amount) << 20)
    elif what == "exit":
        sys.exit(int(amount))
    elif what == "raise":
        raise ValueError("no such move")
    elif what == "return":
        return eval(amount)
    elif what == "row":
        return row[amount]
    return 1.0
"""


@pytest.fixture
def hostile_score(monkeypatch, tmp_path):
    """The name of a score that does what a completion asks for: it takes time (time^seconds) or
    memory (memory^megabytes), ends its process (exit^code), raises (raise), or returns anything."""
    (tmp_path / "hostile_task.py").write_text(HOSTILE_SCORE)
    monkeypatch.syspath_prepend(tmp_path)
    return "hostile_task:score"


def grades(grader: Grader, *completions: str) -> list[float]:
    return grader.grade_batch(list(completions), [{}] * len(completions))


def test_limits_are_kept_and_counted_and_cost_only_their_pair(hostile_score):
    with Grader(timeout=1.0, memory_mb=300, score=hostile_score) as grader:
        # Six pairs of 0.5 s on two workers take longer than the limit in all: the clock starts with
        # the grading.
        assert grades(grader, *(f"time^0.5{i}" for i in range(6))) == [1.0] * 6
        hostile = ("time^30", "memory^50", "memory^2000", "time^0")
        assert grades(grader, *hostile) == [0.0, 1.0, 0.0, 1.0]
        assert (grader.stats["timeouts"], grader.stats["kills"]) == (1, 1)
        start = time.monotonic()
        assert grades(grader, "exit^1", "time^0.1") == [0.0, 1.0]
        # It is tried again, since its worker may have been killed from outside, but not for ever.
        assert time.monotonic() - start < 10
        assert grader.stats["kills"] >= 4


def test_a_replaced_worker_comes_from_the_same_fork_server(hostile_score):
    with Grader(timeout=0.5, memory_mb=300, score=hostile_score) as grader:
        assert grades(grader, "time^0.1", "time^0.2") == [1.0, 1.0]
        (server,) = grading_servers()
        first_workers = server.children()
        assert len(first_workers) == 2
        hostile = ("time^30", "time^31", "memory^2000", "exit^1", "time^0")
        assert grades(grader, *hostile) == [0.0, 0.0, 0.0, 0.0, 1.0]
        assert grading_servers() == [server]
        # The killed ones are not even zombies.
        assert soon(lambda: len(server.children()) == 2)
        assert not set(first_workers) & set(server.children())
        assert server.num_threads() == 1
        # A session of its own, so that Ctrl-C does not reach it.
        assert os.getsid(server.pid) == server.pid
        assert {os.getsid(worker.pid) for worker in server.children()} == {server.pid}


# --- Scores of other tasks ---


def test_a_score_gets_the_completion_and_the_row(hostile_score):
    rows = [{"a": 0.25, "b": True}, {"a": 0, "b": 1}, {"a": 0.25, "b": True}]
    with Grader(1, score=hostile_score) as grader:
        assert grader.grade_batch(["row^a", "row^b", "row^b"], rows) == [0.25, 1.0, 1.0]
        assert grader.grade_batch(["row^a"] * 3, rows) == [0.25, 0.0, 0.25]
        assert (grader.stats["pairs"], grader.stats["settled"]) == (5, 0)
        # Whatever a model may write arrives as it is.
        text = "\ud800 \x00 \U0001d7d8 é"
        assert grader.grade_batch([f"row^{text}"], [{text: 0.5}]) == [0.5]
        assert not grader.stats["failed"]


@pytest.mark.parametrize(
    "completion, reason",
    [
        ("raise", "ValueError: no such move"),
        ("row^missing", "KeyError: 'missing'"),
        ("return^2", "returned 2, which is no number from 0 to 1"),
        ("return^-0.001", "returned -0.001"),
        ("return^float('nan')", "returned nan"),
        ("return^None", "returned None"),
        ("return^'1'", "returned '1'"),
        ("return^[1.0]", "returned [1.0]"),
        ("return^'x' * 10**7", "returned 'xxx"),
    ],
)
def test_a_score_that_fails_is_counted_and_said_once(hostile_score, caplog, completion, reason):
    with Grader(1, score=hostile_score) as grader:
        assert grades(grader, completion, "fine", completion + " ") == [0.0, 1.0, 0.0]
        assert dict(grader.stats) == {"pairs": 3, "settled": 0, "failed": 2}
    (record,) = caplog.records
    assert f"hostile_task:score: {reason}" in record.getMessage()
    assert len(record.getMessage()) < 400


def test_mathematics_may_be_given_rows_and_keeps_its_fast_path():
    rows = [{"id": "a", "problem": "?", "answer": "4"}] * 2
    completions = [r"\boxed{4}", r"\boxed{5}"]
    with Grader(1) as grader:
        assert grader.grade_batch(completions, rows) == [1.0, 0.0]
        assert grader.grade_batch(completions, ["4", "4"]) == [1.0, 0.0]
        assert grader.stats["settled"] == grader.stats["pairs"] == 4


def test_answers_to_another_task_are_equal_if_spelled_alike(hostile_score):
    with Grader(1, score=hostile_score) as grader:
        assert grader.same_value("x+1 ", "x+1") is True
        assert grader.same_value("x+1", "1+x") is False
    with Grader(1) as grader:
        assert grader.same_value("x+1", "1+x") is True


@pytest.mark.parametrize(
    "score, cause",
    [
        ("no_such_module:score", "No module named 'no_such_module'"),
        ("hostile_task:no_such_score", "has no attribute 'no_such_score'"),
    ],
)
def test_a_score_that_cannot_be_imported_is_an_error(hostile_score, score, cause):
    with Grader(score=score) as grader, pytest.raises(RuntimeError, match=cause):
        grades(grader, "fine")


def test_a_score_may_be_in_a_file_of_the_users_own(tmp_path):
    """It finds the modules beside it, and hides none that is called as it is."""
    (tmp_path / "helper.py").write_text("POINTS = 0.75\n")
    (tmp_path / "data.py").write_text(
        "import dataclasses, helper\n"
        "from data.arithmetic import problems\n"
        "@dataclasses.dataclass\n"
        "class Points:\n    value: float = helper.POINTS\n"
        "def score(completion, row):\n    return Points().value * (completion == row['answer'])\n"
    )
    with Grader(1, score=f"{tmp_path}/data.py:score") as grader:
        assert grader.grade_batch(["4", "5"], [{"answer": "4"}] * 2) == [0.75, 0.0]
        assert not grader.stats["failed"]


# --- No network and no side effects ---

# What a completion asks for is run, as no score should, in a folder with a file "there".
LOOSE_SCORE = """
import asyncio, ctypes, io, json, os, pathlib, shutil, signal, socket, subprocess, tempfile
import threading, urllib.request

def score(completion, row):
    exec(completion)
    return 1.0
"""


@pytest.fixture
def loose_grader(tmp_path, monkeypatch):
    (tmp_path / "loose.py").write_text(LOOSE_SCORE)
    (tmp_path / "there").write_text("7")
    monkeypatch.chdir(tmp_path)
    with Grader(1, timeout=10.0, score="loose.py:score") as grader:
        yield grader


def test_a_score_has_no_side_effects(loose_grader, tmp_path, caplog):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        port = server.getsockname()[1]
        attempts = [
            f"socket.create_connection(('127.0.0.1', {port}))",
            f"socket.socket().connect(('127.0.0.1', {port}))",
            f"socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {port}))",
            f"urllib.request.urlopen('http://127.0.0.1:{port}')",
            "socket.getaddrinfo('example.org', 80)",
            "socket.create_server(('127.0.0.1', 0))",
            "subprocess.run(['touch', 'made'])",
            "subprocess.run('touch made', shell=True)",
            "os.system('touch made')",
            "os.popen('touch made')",
            "os.posix_spawn('/bin/touch', ['touch', 'made'], {})",
            "os.spawnlp(os.P_WAIT, 'touch', 'touch', 'made')",
            "os.execlp('touch', 'touch', 'made')",
            "os.fork()",
            "os.forkpty()",
            "open('made', 'w')",
            "open('there', 'a')",
            "open('there', 'r+')",
            "open('made', 'xb')",
            "io.open('made', 'w')",
            "os.open('made', os.O_CREAT | os.O_RDWR)",
            "os.open('there', os.O_RDONLY | os.O_TRUNC)",
            "pathlib.Path('made').write_text('1')",
            "pathlib.Path('made').touch()",
            "tempfile.TemporaryFile()",
            "os.mkdir('made')",
            "os.remove('there')",
            "os.unlink('there')",
            "os.rename('there', 'made')",
            "os.replace('there', 'made')",
            "shutil.move('there', 'made')",
            "shutil.copy('there', 'made')",
            "os.rmdir('.')",
            "shutil.rmtree('.')",
            "os.symlink('there', 'made')",
            "os.link('there', 'made')",
            "os.truncate('there', 0)",
            "os.chmod('there', 0)",
            "os.utime('there', (1, 1))",
            "ctypes.CDLL('libc.so.6')",
            "ctypes.CDLL(None)",
            "ctypes.pythonapi.Py_Initialize()",
            f"os.kill({os.getpid()}, 0)",
            "os.kill(os.getppid(), signal.SIGKILL)",
            "os.killpg(0, signal.SIGKILL)",
            "threading.Thread(target=os.fork).start() or os.mkdir('made')",
            'eval(\'__import__("os").system("touch made")\')',
        ]
        before = sorted(path.name for path in tmp_path.iterdir() if path.name != "__pycache__")
        for attempt in attempts:
            assert grades(loose_grader, attempt) == [0.0], attempt
        assert loose_grader.stats == {"pairs": len(attempts), "settled": 0, "failed": len(attempts)}
        with pytest.raises(BlockingIOError):
            server.accept()
    after = sorted(path.name for path in tmp_path.iterdir() if path.name != "__pycache__")
    assert after == before and (tmp_path / "there").read_text() == "7"
    (record,) = caplog.records
    assert "PermissionError: a score may not" in record.getMessage()


def test_a_score_may_do_all_else(loose_grader):
    harmless = [
        "assert open('there').read() == '7'",
        "assert pathlib.Path('there').read_bytes() == b'7'",
        "assert 'there' in os.listdir('.')",
        "import wave, fractions, decimal",  # late imports
        "open(os.devnull, 'w').write('x')",
        "os.kill(os.getpid(), 0)",
        "threading.Thread(target=len, args=('x',)).start()",
        "asyncio.run(asyncio.sleep(0))",
        "import sympy; assert sympy.sqrt(8) ** 2 == 8",
        "print('loud')",
        "eval('1 + 1')",
    ]
    for code in harmless:
        assert grades(loose_grader, code) == [1.0], code
    assert not loose_grader.stats["failed"]


def test_a_score_is_in_a_network_of_its_own(loose_grader, namespaces):
    """Where namespaces are permitted: even what the audit hook does not see finds no network."""
    interfaces = "assert [name for _, name in socket.if_nameindex()] == ['lo']"
    assert grades(loose_grader, interfaces) == [1.0]
    (worker,) = grading_workers()
    networks = [os.readlink(f"/proc/{pid}/ns/net") for pid in (worker.pid, os.getpid())]
    assert networks[0] != networks[1]


@pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc")
def test_where_namespaces_are_not_permitted_a_score_still_runs(tmp_path, monkeypatch):
    """As in many containers, and on macOS, which has no unshare."""
    (tmp_path / "loose.py").write_text(
        "import ctypes\nfrom run import workers\nworkers.CLONE_NEWUSER = -1\n" + LOOSE_SCORE
    )
    monkeypatch.chdir(tmp_path)
    with Grader(1, score="loose.py:score") as grader:
        assert grades(grader, "1", "os.mkdir('made')") == [1.0, 0.0]
        (worker,) = grading_workers()
        assert os.readlink(f"/proc/{worker.pid}/ns/net") == os.readlink("/proc/self/ns/net")


# --- Other systems ---


def test_a_system_without_fork_is_refused_in_one_line(tmp_path):
    """As on Windows, which has neither os.fork nor the module resource."""
    code = (
        "import os, sys\n"
        "import psutil, run.errors\n"  # which import it here, but not there
        "del os.fork\n"
        "sys.modules['resource'] = None\n"
        "import reward\n"
        "reward.Grader()\n"
    )
    command = [sys.executable, "-c", code]
    root = Path(reward.__file__).parent
    done = subprocess.run(command, cwd=root, capture_output=True, encoding="utf-8", timeout=60)
    last_line = done.stderr.splitlines()[-1]
    assert last_line.startswith("run.errors.BadInput: grading needs fork") and "WSL" in last_line


def test_without_fork_no_grader_starts(monkeypatch):
    monkeypatch.delattr(os, "fork")
    with pytest.raises(BadInput, match="WSL"):
        Grader()


WITHOUT_LIMIT = """
import resource, sys

def refuse(*limits):
    raise ValueError("current limit exceeds maximum limit")

resource.setrlimit = refuse
from run import workers
workers._serve_as_asked(sys.argv[1:])
"""


def test_a_system_without_memory_limits_is_said_once(monkeypatch, caplog):
    """As on macOS, where RLIMIT_AS may not be settable."""
    real = subprocess.Popen

    def start(command, **options):
        return real([command[0], "-c", WITHOUT_LIMIT, *command[2:]], **options)

    monkeypatch.setattr(subprocess, "Popen", start)
    monkeypatch.setenv("PYTHONPATH", str(Path(reward.__file__).parent))
    with Grader() as grader:
        assert grader.grade_batch(SQUARES[:20], ROOTS[:20]) == [1.0] * 20
    (record,) = caplog.records
    assert "sets no memory limit of 1024 MB" in record.getMessage()


# --- Kills from outside ---

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
        all_right = all(grader.grade_batch(SQUARES, ROOTS))
        done.set()
        killer.join()
        assert all_right
        # All of them, while idle.
        for worker in grading_workers():
            worker.kill()
        assert all(grader.grade_batch(SQUARES[:8], ROOTS[:8]))
        assert grader.stats["kills"] >= 2


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_fork_server_killed_from_outside_is_replaced_and_loses_nothing(number):
    with Grader(timeout=20.0) as grader:
        grader.grade_batch(SQUARES[:2], ROOTS[:2])
        (server,) = grading_servers()
        workers = grading_workers()
        pending = grader.submit(SQUARES, ROOTS)
        time.sleep(0.3)
        server.send_signal(number)
        assert all(pending.result())
        # These live on until they need a replacement.
        for worker in workers:
            worker.kill()
        assert all(grader.grade_batch(SQUARES[:50], ROOTS[:50]))
        (another,) = grading_servers()
        assert another != server
        # All at once.
        for process in [another, *grading_workers()]:
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
    grades_of_thread = {}
    with Grader() as grader:

        def work(i):
            completions = [rf"\boxed{{\sqrt{{{i * i * 2}}}}}", r"\boxed{\pi}"]
            grades_of_thread[i] = grader.grade_batch(completions, [rf"{i}\sqrt{{2}}", "e"])

        threads = [threading.Thread(target=work, args=(i,)) for i in range(2, 10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert grades_of_thread == {i: [1.0, 0.0] for i in range(2, 10)}


def test_workers_that_cannot_start_are_an_error_and_not_wrong_grades(monkeypatch):
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with Grader() as grader, pytest.raises(RuntimeError, match="die as they start: exit code 1"):
        grader.grade_batch([r"\boxed{\sqrt{18}}"], [r"3\sqrt{2}"])


def test_an_import_that_fails_in_the_workers_is_named(monkeypatch, tmp_path):
    (tmp_path / "math_verify.py").write_text("import no_such_grammar\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with Grader() as grader, pytest.raises(RuntimeError, match="No module named 'no_such_grammar'"):
        grader.grade_batch([r"\boxed{\sqrt{18}}"], [r"3\sqrt{2}"])


@pytest.mark.parametrize(
    "settings",
    [
        {"timeout": 0},
        {"timeout": -1.0},
        {"timeout": float("nan")},
        {"timeout": float("inf")},
        {"workers": 0},
        {"workers": -2},
        {"memory_mb": 0},
        {"score": "data.arithmetic"},
        {"score": "data/arithmetic.py:"},
        {"score": ":score"},
        {"score": "score"},
    ],
)
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(ValueError, match=r"at least 1|above 0|module:function"):
        Grader(**settings)


def test_no_process_outlives_the_grader():
    with Grader() as grader:
        grader.grade_batch(SQUARES[:2], ROOTS[:2])
        running = grading_servers() + grading_workers()
        assert len(running) == 3
    assert not any(process.is_running() for process in running)
    with Grader():
        # It is still importing.
        assert soon(lambda: len(grading_servers()) == 1)
        running = grading_servers()
    assert not running[0].is_running()


def test_no_process_outlives_a_killed_trainer(tmp_path):
    script = tmp_path / "main.py"
    script.write_text(
        "import reward\n"
        "with reward.Grader(timeout=1000.0) as grader:\n"
        "    grader.grade_batch([r'\\boxed{\\sqrt{18}}'], [r'3\\sqrt{2}'])\n"
        "    print('up', flush=True)\n"
        "    hostile = [r'\\boxed{9^{9^{9^{9}}}}', r'\\boxed{(10^{9})!}']\n"
        "    grader.grade_batch(hostile, ['x+1', 'x+1'])\n"
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


def test_a_fork_server_whose_grader_died_in_a_request_ends_its_workers():
    """The Grader asks for a worker and is gone before it hears that the server has the request."""
    grader = Grader()
    grader.__enter__()
    try:
        grader.grade_batch(SQUARES[:1], ROOTS[:1])
        workers = grading_workers()
        _ours, theirs = Pipe()
        process, control = grader.pool.server
        socket.send_fds(control, [b"0"], [theirs.fileno()])
        control.close()
        assert process.wait(20) == 0
        assert workers and soon(lambda: not any(map(lives, workers)))
    finally:
        grader.__exit__()


def soon(condition) -> bool:
    """Whether a condition holds within 20 s."""
    end = time.monotonic() + 20
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


def lives(process: psutil.Process) -> bool:
    """Whether it runs; a zombie is left to be reaped by the system's init."""
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def test_import_needs_neither_torch_nor_sympy_and_workers_ignore_the_main_script(tmp_path):
    # Without a main guard.
    script = tmp_path / "main.py"
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
    resource = pytest.importorskip("resource")

    def limit_memory():
        resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))

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
        preexec_fn=limit_memory,
    )
    assert run.stdout == "[1.0]\n", run.stderr
