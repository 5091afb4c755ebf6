"""Extract and verify answers: a completion and a gold answer in, 1.0 or 0.0 out.

    with Grader(workers=2, timeout=2.0) as grader:
        rewards = grader.grade_batch(completions, answers)

1. `extract_answer` finds the answer in the text: the last \\boxed{}, or else "#### x" or "the
answer is x".
2. `answers.equality.equal` settles equal strings, numbers, words and lists of them here: about nine
pairs in ten.
3. Any other pair goes to a worker, a process with a limit on its time and its memory.
"""

import gc
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe
from queue import SimpleQueue
from typing import NamedTuple

from answers.equality import MAX_ANSWER, BadGold, Undecided, equal
from answers.extract import extract_answer

__all__ = ["Grader", "extract_answer", "grade", "same_answer"]


def grade(completion: str, answer: str) -> bool:
    r"""Whether a completion's answer equals the gold answer. In this process, so hostile input may
    hang it.

    >>> grade(r"so \boxed{2^{10}}", "1024"), grade(r"so \boxed{5 \text{ m}}", r"5 \text{ cm}")
    (True, False)
    """
    try:
        return equal(extract_answer(completion), answer, by_value=True)
    except BadGold:
        return False


def same_answer(one: str, other: str) -> bool | None:
    r"""Whether two answers of a model are equal, in either order, as far as that can be told at
    once: None where only a comparison by value can tell. Neither is a gold answer, so a long one
    counts as its spelling alone.

    >>> same_answer("0.5", r"\frac12"), same_answer("1,000", "1001"), same_answer("x+1", "1+x")
    (True, False, None)
    """
    if max(len(one), len(other)) > MAX_ANSWER:
        return one.strip() == other.strip()
    undecided = False
    for pair in ((one, other), (other, one)):
        try:
            if equal(*pair, by_value=False):
                return True
        except Undecided:
            undecided = True
    return None if undecided else False


# --- Workers ---

# Imports and first calls are slow, up to half a second for an unusual answer: the fork server pays
# for them once.
_WARM_UP = (
    (r"\frac{\sqrt{2}}{-2x}", r"\frac{-1}{\sqrt{2}x}"),
    (r"x^2+2x+1=0", r"(x+1)^2=0"),
    (r"\sin(\pi/7)+2^{10}\cdot 3!", r"|1.5i|-\log_2 5"),
)


def _serve(control_fd: int, timeout: float, memory_mb: int) -> None:
    """The fork server's life: import all that grading needs, then fork one worker for each request
    of its Grader.

    A request is a line with the process id of the worker to kill (0: none), and the new worker's
    end of a pipe."""
    control = socket.socket(fileno=control_fd)
    signal.signal(
        signal.SIGCHLD, signal.SIG_DFL
    )  # ignored, and inherited so, it would make `waitpid` fail
    for pair in _WARM_UP:
        equal(*pair, by_value=True)
    gc.freeze()  # a worker's garbage collection leaves the objects that all workers share alone
    workers: set[int] = set()
    while True:
        request, pipes, _, _ = socket.recv_fds(control, 32, 1)
        if not request:  # the Grader has closed its end, or is dead
            break
        if (ended := int(request)) in workers:
            os.kill(ended, signal.SIGKILL)
        worker = os.fork()
        if worker == 0:
            try:
                control.close()
                _work(Connection(pipes[0]), timeout, memory_mb)
            finally:
                os._exit(1)
        os.close(pipes[0])
        # Reap the one that was killed, and others that have died meanwhile. No process id that may
        # be reused is kept.
        workers = {
            pid for pid in workers if os.waitpid(pid, 0 if pid == ended else os.WNOHANG) == (0, 0)
        }
        workers.add(worker)
    for worker in workers:
        os.kill(worker, signal.SIGKILL)
        os.waitpid(worker, 0)


def _work(pipe: Connection, timeout: float, memory_mb: int) -> None:
    """A worker's life: limit the memory, send the own process id, then answer each pair with one
    word."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    with open("/proc/self/statm") as statm:
        used = int(statm.read().split()[0]) * resource.getpagesize()
    limit, hard = used + (memory_mb << 20), resource.getrlimit(resource.RLIMIT_AS)[1]
    limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    pipe.send_bytes(str(os.getpid()).encode())
    reply = ""
    while reply != "kills":
        pair = json.loads(
            pipe.recv_bytes()
        )  # EOFError, which ends the worker, once the Grader is gone
        signal.setitimer(
            signal.ITIMER_REAL, 2 * timeout + 5
        )  # in case that the Grader and the server are both gone
        try:
            reply = "right" if equal(*pair, by_value=True) else "wrong"
        except BadGold:
            reply = "unparsable"
        except MemoryError:
            reply = "kills"
        signal.setitimer(signal.ITIMER_REAL, 0)
        pipe.send_bytes(reply.encode())


class _Server(NamedTuple):
    process: subprocess.Popen
    control: socket.socket


class _Worker(NamedTuple):
    pid: int
    pipe: Connection


class Grader:
    """Grades batches with `workers` processes, each pair in at most `timeout` seconds and
    `memory_mb` of memory.

    A worker over a limit is killed and replaced; its pair counts as wrong and is counted in
    `stats`: pairs (distinct ones of a batch), settled (without a worker), timeouts, kills, and
    unparsable (gold answers that can't be read).

    The workers are forks of one process per Grader, the fork server, in which everything is
    imported already: a replacement takes milliseconds. The server starts by exec, never as a bare
    fork, since this process may hold CUDA and threads. It has one thread, and a session of its own,
    so that Ctrl-C does not reach it. Each worker has a pipe of its own: killing it leaves no lock
    held, as a pool's shared queue would. Only the server, their parent, kills workers; when its
    Grader is gone, even by SIGKILL, it kills them all and ends. A worker or server that is killed
    from outside is replaced, and the pairs at hand are tried again.

    The forkserver of `multiprocessing` is not used: it imports the main module, and so torch, in
    every child; it is one for the whole process, whoever else may use it; and its children are not
    deaf to Ctrl-C.

    Raises:
        ValueError: fewer than one worker or 1 MB, or a `timeout` not above 0 or longer than a day.
    """

    def __init__(self, workers: int = 2, timeout: float = 2.0, memory_mb: int = 1024) -> None:
        if workers < 1 or memory_mb < 1:
            raise ValueError(
                f"a Grader needs at least 1 worker and 1 MB of memory, not {workers} and {memory_mb}"
            )
        if not 0 < timeout <= 86400:  # NaN is refused too
            raise ValueError(
                f"a Grader's timeout must be above 0 and at most 86400 seconds, not {timeout}"
            )
        self.workers, self.timeout, self.memory_mb = workers, timeout, memory_mb
        self.stats: Counter[str] = Counter()

    def __enter__(self) -> "Grader":
        self.idle: SimpleQueue[_Worker | None] = SimpleQueue()  # None: still to be started
        for _ in range(self.workers):
            self.idle.put(None)
        self.threads, self.background = ThreadPoolExecutor(self.workers), ThreadPoolExecutor(1)
        self.restarting = threading.Lock()
        self.server = self._start_server()  # imports while this process goes on
        return self

    def __exit__(self, *exception) -> None:
        self.background.shutdown(cancel_futures=True)
        self.threads.shutdown(cancel_futures=True)
        while not self.idle.empty():
            if worker := self.idle.get():
                worker.pipe.close()
        self._end(self.server)

    def _start_server(self) -> _Server:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            settings = [str(theirs.fileno()), str(self.timeout), str(self.memory_mb)]
            process = subprocess.Popen(
                [sys.executable, os.path.abspath(__file__), *settings],
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
        return _Server(process, ours)

    def _end(self, server: _Server) -> str:
        """Ends a server and its workers. Returns why it had failed; "" if it had not, or was
        killed."""
        with suppress(OSError):  # it is dead already, or busy
            server.control.shutdown(socket.SHUT_WR)  # now it kills and reaps its workers, and exits
            server.control.settimeout(5)
            server.control.recv(1)  # returns when it has exited
        server.control.close()
        with suppress(ProcessLookupError):
            os.killpg(server.process.pid, signal.SIGKILL)  # what is left of its session
        errors = server.process.communicate()[1].decode(errors="replace").strip()
        code = server.process.returncode
        return (errors.splitlines() or [f"exit code {code}"])[-1] if code > 0 else ""

    def _restart(self, dead: _Server) -> None:
        """A new server in place of a dead one, unless another thread has seen to it."""
        with self.restarting:
            if self.server is dead:
                failure = self._end(dead)
                self.server = self._start_server()
                if failure:
                    raise RuntimeError(f"grading workers die as they start: {failure}")

    def _start(self, ended: int = 0) -> _Worker:
        """A worker that is ready, instead of the one with process id `ended`, which is killed."""
        give_up = time.monotonic() + 300
        while time.monotonic() < give_up:
            server = self.server
            pipe, theirs = Pipe()
            with theirs:
                try:
                    socket.send_fds(server.control, [str(ended).encode()], [theirs.fileno()])
                except OSError:
                    self._restart(server)
                    continue
            reply = self._reply(pipe, seconds=120)  # the server's imports are not on a pair's clock
            if reply.isdigit():
                return _Worker(int(reply), pipe)
            pipe.close()
            if reply == "timeouts":
                self._restart(server)
            time.sleep(0.1)
        raise RuntimeError("grading workers die as they start: none was ready within 300 s")

    def _reply(self, pipe: Connection, seconds: float) -> str:
        try:
            return pipe.recv_bytes(32).decode() if pipe.poll(seconds) else "timeouts"
        except (EOFError, OSError):
            return "died"

    def _ask(self, pair: tuple[str, str]) -> list[str]:
        """Replies: right, wrong, unparsable, timeouts, kills (the memory limit), or died."""
        worker, replies, spent = self.idle.get(), [], 0.0
        try:
            worker = worker or self._start()
            # A worker that dies may have been killed from outside: so that it loses no grade, the
            # pair is tried again, twice at least, and until its tries have taken as long as a
            # time-out.
            while not replies or (
                replies[-1] == "died" and (len(replies) < 3 or spent < self.timeout)
            ):
                start = time.monotonic()
                try:
                    worker.pipe.send_bytes(json.dumps(pair).encode())
                    replies.append(self._reply(worker.pipe, self.timeout))
                except OSError:
                    replies.append("died")
                spent += time.monotonic() - start
                if replies[-1] in ("timeouts", "kills", "died"):
                    ended, worker = worker, None
                    ended.pipe.close()
                    worker = self._start(ended.pid)
        finally:
            self.idle.put(worker)
        return replies

    def submit(self, completions: list[str], answers: list[str]) -> "Future[list[float]]":
        """`grade_batch` in the background, one batch after another."""
        return self.background.submit(self.grade_batch, completions, answers)

    def same_value(self, one: str, other: str) -> bool | None:
        """Whether a worker finds two answers equal; None if it ran over a limit."""
        if len(one) > MAX_ANSWER or len(other) > MAX_ANSWER:
            return one.strip() == other.strip()
        reply = self._ask((one, other))[-1]
        return reply == "right" if reply in ("right", "wrong", "unparsable") else None

    def grade_batch(self, completions: list[str], answers: list[str]) -> list[float]:
        """1.0 for each completion whose answer is the gold answer beside it, else 0.0, in order."""
        pairs = [
            (extract_answer(text), gold) for text, gold in zip(completions, answers, strict=True)
        ]
        rewards: dict[tuple, float] = {}
        hard = []
        for pair in dict.fromkeys(pairs):
            try:
                rewards[pair] = float(equal(*pair, by_value=False))
            except Undecided:
                hard.append(pair)
        self.stats.update(pairs=len(rewards) + len(hard), settled=len(rewards))
        for pair, replies in zip(hard, self.threads.map(self._ask, hard)):
            rewards[pair] = float(replies[-1] == "right")
            self.stats.update(
                {"died": "kills"}.get(r, r) for r in replies if r not in ("right", "wrong")
            )
        return [rewards[pair] for pair in pairs]


if __name__ == "__main__":
    _serve(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
