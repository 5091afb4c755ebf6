"""Grades completions: a completion and the gold answer in, 1.0 or 0.0 out.

    with Grader(workers=2, timeout=2.0) as grader:
        rewards = grader.grade_batch(completions, answers)

1. `extract_answer` finds the answer in the text: the last \\boxed{}, or else "#### x" or "the
   answer is x".
2. `answers.equality.equal` settles equal strings, numbers, words and lists of them here: about nine
   pairs in ten.
3. Any other pair goes to a worker, a process with a limit on its time and its memory.

That is mathematics. A task of another kind brings its own score, a function of a completion and its
row: Grader(score="module:function"). All its pairs go to the workers.
"""

import gc
import importlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe
from numbers import Real
from queue import SimpleQueue
from typing import NamedTuple

import psutil

from answers.choices import chosen
from answers.equality import MAX_ANSWER, BadGold, Undecided, equal
from answers.extract import extract_answer

__all__ = ["MATHEMATICS", "Grader", "check_platform", "extract_answer", "grade", "same_answer"]

logger = logging.getLogger(__name__)

# The score of mathematics, for which the Grader has a shorter way.
MATHEMATICS = "data.mathematics:score"


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


def same_answer(left: str, right: str) -> bool | None:
    r"""Whether two answers of a model are equal, in either order, as far as that can be told at
    once: None where only a comparison by value can tell. Neither is a gold answer, so a long one
    counts as its spelling alone.

    >>> same_answer("0.5", r"\frac12"), same_answer("1,000", "1001"), same_answer("x+1", "1+x")
    (True, False, None)
    """
    if max(len(left), len(right)) > MAX_ANSWER:
        return left.strip() == right.strip()
    # Which one is taken for the gold answer can matter.
    undecided = False
    for pair in ((left, right), (right, left)):
        try:
            if equal(*pair, by_value=False):
                return True
        except Undecided:
            undecided = True
    return None if undecided else False


def check_platform() -> None:
    """Raises BadInput on a system without fork, which the workers are made by: on Windows."""
    if not hasattr(os, "fork"):
        # Imported here, since it would slow down the start of the fork server.
        from run.errors import BadInput

        raise BadInput(
            "grading needs fork, which this system does not have; "
            "on Windows, run this in WSL (Windows Subsystem for Linux)"
        )


# --- Questions and replies: what passes between a Grader and its workers ---


class _Question(NamedTuple):
    """What a worker decides. Of mathematics, whether an answer equals a gold answer; of another
    task, the score of a completion, with its row as JSON."""

    text: str | None
    reference: str


class _Reply(NamedTuple):
    """What became of a question. One that was not graded counts as wrong.

    Kinds: graded; unparsable (the gold answer); failed (the score raised an error, or returned no
    number from 0 to 1); timeouts; kills (the memory limit); died (the worker, perhaps killed from
    outside)."""

    kind: str
    grade: float = 0.0
    reason: str = ""


# --- The fork server and the workers ---

# Imports and first calls are slow, up to half a second for an unusual answer: the fork server pays
# for them once.
_WARM_UP = (
    (r"\frac{\sqrt{2}}{-2x}", r"\frac{-1}{\sqrt{2}x}"),
    (r"x^2+2x+1=0", r"(x+1)^2=0"),
    (r"\sin(\pi/7)+2^{10}\cdot 3!", r"|1.5i|-\log_2 5"),
)
# The fork server's answer to a request: it has the pipe.
_RECEIVED = b"r"


def _serve(control_fd: int, timeout: float, memory_mb: int, score: str) -> None:
    """The fork server's life: import all that grading needs, then fork one worker for each request
    of its Grader.

    A request is the process id of the worker to kill (0: none), and the new worker's end of a
    pipe."""
    control = socket.socket(fileno=control_fd)
    # Ignored, and inherited so, it would make `waitpid` fail.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    judge = _judge_by(score)
    # A worker's garbage collection leaves the objects that all workers share alone.
    gc.freeze()

    workers: set[int] = set()
    while True:
        # The Grader may close its end, or die, at any point: in the middle of a request, too.
        try:
            request, pipes, _, _ = socket.recv_fds(control, 32, 1)
            if not request:
                break
            control.send(_RECEIVED)
        except OSError:
            break

        # The worker that ran over a limit, if that is why another is asked for.
        ended = int(request)
        if ended in workers:
            os.kill(ended, signal.SIGKILL)

        # The child works until it is killed, and never comes back into this loop.
        worker = os.fork()
        if worker == 0:
            try:
                control.close()
                _work(Connection(pipes[0]), judge, timeout, memory_mb)
            finally:
                os._exit(1)
        os.close(pipes[0])

        # Reap the one that was killed, and others that have died meanwhile: no process id is kept
        # that the system may give to another process.
        still_running = {worker}
        for pid in workers:
            if os.waitpid(pid, 0 if pid == ended else os.WNOHANG) == (0, 0):
                still_running.add(pid)
        workers = still_running

    for worker in workers:
        os.kill(worker, signal.SIGKILL)
        os.waitpid(worker, 0)


def _work(
    pipe: Connection, judge: Callable[[_Question], _Reply], timeout: float, memory_mb: int
) -> None:
    """A worker's life: limit the memory, introduce itself, then reply to each question."""
    # What a score prints, or an error says, goes nowhere.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    is_limited = _limit_memory(memory_mb)
    pipe.send_bytes(json.dumps([os.getpid(), is_limited]).encode())
    # After a reply that memory ran out, what is left of it is not trusted: the worker ends.
    reply = None
    while reply is None or reply.kind != "kills":
        # EOFError, which ends the worker, once the Grader is gone.
        question = _Question(*json.loads(pipe.recv_bytes()))
        # Ends the worker in case that the Grader and the server are both gone.
        signal.setitimer(signal.ITIMER_REAL, 2 * timeout + 5)
        try:
            reply = judge(question)
        except MemoryError:
            reply = _Reply("kills")
        except Exception as error:
            reply = _Reply("failed", reason=f"{type(error).__name__}: {error}"[:200])
        signal.setitimer(signal.ITIMER_REAL, 0)
        pipe.send_bytes(json.dumps(reply).encode())


def _limit_memory(memory_mb: int) -> bool:
    """Lets this process have `memory_mb` more memory than it has now. False if the system allows no
    such limit, as macOS may not."""
    # Imported here, since Windows, which check_platform names, does not have it.
    import resource

    # Address space, since resident memory can't be limited. A limit that is there already, such as
    # that of `ulimit -v`, stays where it is lower.
    limit = psutil.Process().memory_info().vms + (memory_mb << 20)
    _, hard_limit = resource.getrlimit(resource.RLIMIT_AS)
    if hard_limit != resource.RLIM_INFINITY:
        limit = min(limit, hard_limit)
    try:
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    except (ValueError, OSError):
        return False
    return True


def _judge_by(score: str) -> Callable[[_Question], _Reply]:
    """How a worker replies to a question under this score. Everything is imported and warm."""
    if score == MATHEMATICS:
        for pair in _WARM_UP:
            equal(*pair, by_value=True)
        return _compare
    module, _, function = score.partition(":")
    loaded = importlib.import_module(module)
    score_function = getattr(loaded, function)
    # What the score imports late is imported before the workers are forked.
    if hasattr(loaded, "warm_up"):
        loaded.warm_up()
    return lambda question: _score(score_function, question)


def _compare(question: _Question) -> _Reply:
    try:
        is_right = equal(question.text, question.reference, by_value=True)
    except BadGold:
        return _Reply("unparsable")
    return _Reply("graded", float(is_right))


def _score(score_function: Callable[[str, dict], float], question: _Question) -> _Reply:
    value = score_function(question.text, json.loads(question.reference))
    # NaN is in no range.
    if isinstance(value, Real) and 0 <= value <= 1:
        return _Reply("graded", float(value))
    return _Reply("failed", reason=f"returned {value!r:.100}, which is no number from 0 to 1")


# --- The Grader ---


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
    `stats`: pairs (distinct ones of a batch), settled (without a worker), timeouts, kills,
    unparsable (gold answers that can't be read) and failed (a score that raised an error, or
    returned no number from 0 to 1).

    The workers are forks of one process per Grader, the fork server, in which everything is
    imported already: a replacement takes milliseconds. The server starts by exec, never as a bare
    fork, since this process may hold CUDA and threads. It has one thread, and a session of its own,
    so that Ctrl-C does not reach it. Each worker has a pipe of its own: killing it leaves no lock
    held, as a pool's shared queue would. Only the server, their parent, kills workers; when its
    Grader is gone, even by SIGKILL, it kills them all and ends. A worker or server that is killed
    from outside is replaced, and the pairs at hand are tried again.

    The forkserver of `multiprocessing` is not used: it imports the main module, and so torch, in
    every child; it is one for the whole process, whoever else may use it; and its children do not
    ignore Ctrl-C.

    Args:
        score: a task's score as "module:function", a function of a completion and its row. It is
            given by its name since the workers don't come from this process.

    Raises:
        BadInput: a system without fork.
        ValueError: fewer than one worker or 1 MB, a `timeout` not above 0 or longer than a day, or
            a score that is not "module:function".
    """

    def __init__(
        self,
        workers: int = 2,
        timeout: float = 2.0,
        memory_mb: int = 1024,
        score: str = MATHEMATICS,
    ) -> None:
        check_platform()
        if workers < 1 or memory_mb < 1:
            given = f"{workers} and {memory_mb}"
            raise ValueError(f"a Grader needs at least 1 worker and 1 MB of memory, not {given}")
        # NaN is refused too.
        if not 0 < timeout <= 86400:
            bounds = "above 0 and at most 86400 seconds"
            raise ValueError(f"a Grader's timeout must be {bounds}, not {timeout}")
        module, _, function = score.partition(":")
        if not module or not function.isidentifier():
            example = "such as data.mathematics:score"
            raise ValueError(f"a Grader's score must be module:function, {example}, not {score}")
        self.workers = workers
        self.timeout = timeout
        self.memory_mb = memory_mb
        self.score = score
        self.stats: Counter[str] = Counter()
        self.warned: set[str] = set()

    @property
    def is_of_mathematics(self) -> bool:
        """Whether it grades by mathematics' own score."""
        return self.score == MATHEMATICS

    def __enter__(self) -> "Grader":
        # Workers that have nothing to do; None stands for one that is still to be started.
        self.idle: SimpleQueue[_Worker | None] = SimpleQueue()
        for _ in range(self.workers):
            self.idle.put(None)
        self.threads = ThreadPoolExecutor(self.workers)
        self.background = ThreadPoolExecutor(1)
        # Held while one thread asks the server for a worker, or replaces the server.
        self.server_lock = threading.RLock()
        # It imports while this process continues.
        self.server = self._start_server()
        return self

    def __exit__(self, *exception) -> None:
        self.background.shutdown(cancel_futures=True)
        self.threads.shutdown(cancel_futures=True)
        while not self.idle.empty():
            worker = self.idle.get()
            if worker is not None:
                worker.pipe.close()
        self._end(self.server)

    # Grading

    def grade_batch(self, completions: list[str], answers: list[str | dict]) -> list[float]:
        """The grade of each completion, in order. Of mathematics: 1.0 if its answer is the gold
        answer beside it, else 0.0. Of another task: its score.

        Args:
            answers: gold answers, or the rows that hold them; another task's score needs the rows.
        """
        # Each distinct question once; what can be told here is.
        questions = [self._question(*pair) for pair in zip(completions, answers, strict=True)]
        grades: dict[_Question, float] = {}
        undecided = []
        for question in dict.fromkeys(questions):
            settled = self._settle(question)
            if settled is None:
                undecided.append(question)
            else:
                grades[question] = settled
        self.stats.update(pairs=len(grades) + len(undecided), settled=len(grades))

        # The others go to the workers, as many at a time as there are workers.
        for question, replies in zip(undecided, self.threads.map(self._ask, undecided)):
            grades[question] = replies[-1].grade
            for reply in replies:
                self._count(reply)
        return [grades[question] for question in questions]

    def submit(self, completions: list[str], answers: list[str | dict]) -> "Future[list[float]]":
        """`grade_batch` in the background, one batch after another."""
        return self.background.submit(self.grade_batch, completions, answers)

    def same_value(self, left: str, right: str) -> bool | None:
        """Whether a worker finds two answers equal; None if it ran over a limit. Answers to another
        task than mathematics are equal if they are spelled alike."""
        is_long = max(len(left), len(right)) > MAX_ANSWER
        if is_long or not self.is_of_mathematics:
            return left.strip() == right.strip()
        reply = self._ask(_Question(left, right))[-1]
        if reply.kind in ("graded", "unparsable"):
            return reply.grade == 1.0
        return None

    def _question(self, completion: str, answer: str | dict) -> _Question:
        if self.is_of_mathematics:
            given = extract_answer(completion)
            if not isinstance(answer, dict):
                return _Question(given, answer)
            if answer.get("choices"):
                given = chosen(given, answer["choices"])
            return _Question(given, answer["answer"])
        return _Question(completion, json.dumps(answer))

    def _settle(self, question: _Question) -> float | None:
        """The grade, where it can be told without a worker."""
        if not self.is_of_mathematics:
            return None
        try:
            return float(equal(question.text, question.reference, by_value=False))
        except Undecided:
            return None

    def _count(self, reply: _Reply) -> None:
        if reply.kind == "graded":
            return
        # Whether the system or a limit ended the worker can't be told.
        kind = "kills" if reply.kind == "died" else reply.kind
        self.stats[kind] += 1
        if reply.kind == "failed":
            consequence = "the completion gets 0, and is counted as failed"
            self._warn_once("failed", f"{self.score}: {reply.reason}; {consequence}")

    def _warn_once(self, kind: str, message: str) -> None:
        if kind not in self.warned:
            self.warned.add(kind)
            logger.warning("grading: %s", message)

    # Workers

    def _ask(self, question: _Question) -> list[_Reply]:
        """The replies to a question; the last one counts.

        A worker that dies may have been killed from outside: so that it loses no grade, the
        question is asked again, twice at least, and until its tries have taken as long as a
        time-out."""
        replies: list[_Reply] = []
        spent = 0.0
        worker = self.idle.get()
        try:
            worker = worker or self._start()
            while self._asks_again(replies, spent):
                start = time.monotonic()
                reply = self._reply_of(worker, question)
                spent += time.monotonic() - start
                replies.append(reply)
                # The worker is lost. Its place is filled before the next question.
                if reply.kind in ("timeouts", "kills", "died"):
                    ended = worker
                    worker = None
                    ended.pipe.close()
                    worker = self._start(ended.pid)
        finally:
            self.idle.put(worker)
        return replies

    def _asks_again(self, replies: list[_Reply], spent: float) -> bool:
        if not replies:
            return True
        return replies[-1].kind == "died" and (len(replies) < 3 or spent < self.timeout)

    def _reply_of(self, worker: _Worker, question: _Question) -> _Reply:
        try:
            worker.pipe.send_bytes(json.dumps(question).encode())
            if not worker.pipe.poll(self.timeout):
                return _Reply("timeouts")
            return _Reply(*json.loads(worker.pipe.recv_bytes(8192)))
        except (EOFError, OSError):
            return _Reply("died")

    def _start(self, ended: int = 0) -> _Worker:
        """A worker that is ready, instead of the one with process id `ended`, which is killed."""
        give_up = time.monotonic() + 300
        while time.monotonic() < give_up:
            # Ask the server; a server that does not answer is replaced.
            pipe, theirs = Pipe()
            with theirs, self.server_lock:
                server = self.server
                try:
                    self._request_worker(server, ended, theirs)
                except OSError:
                    self._restart(server)
                    continue

            # Wait for the worker to introduce itself.
            try:
                # The server's imports are not on a question's clock.
                if pipe.poll(120):
                    pid, is_limited = json.loads(pipe.recv_bytes(64))
                    if not is_limited:
                        missing = f"this system sets no memory limit of {self.memory_mb} MB"
                        self._warn_once("memory", f"{missing}; time is limited all the same")
                    return _Worker(pid, pipe)
                self._restart(server)
            except (EOFError, OSError):
                # The worker died before it was ready.
                time.sleep(0.1)
            pipe.close()
        raise RuntimeError("grading workers die as they start: none was ready within 300 s")

    # The fork server

    def _request_worker(self, server: _Server, ended: int, theirs: Connection) -> None:
        """Has the server kill one worker and fork another, which gets this end of a pipe.

        Raises:
            OSError: the server is dead, or does not answer.
        """
        socket.send_fds(server.control, [str(ended).encode()], [theirs.fileno()])
        # Until the server has it, macOS may close what is closed here.
        if server.control.recv(1) != _RECEIVED:
            raise ConnectionError("the fork server has ended")

    def _start_server(self) -> _Server:
        # What can be imported here can be imported there.
        import_paths = json.dumps([os.path.abspath(path) for path in sys.path])
        ours, theirs = socket.socketpair()
        with theirs:
            limits = [str(theirs.fileno()), str(self.timeout), str(self.memory_mb)]
            process = subprocess.Popen(
                [sys.executable, os.path.abspath(__file__), *limits, self.score, import_paths],
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
        ours.settimeout(120)
        return _Server(process, ours)

    def _restart(self, dead: _Server) -> None:
        """A new server in place of a dead one, unless another thread has seen to it."""
        with self.server_lock:
            if self.server is dead:
                failure = self._end(dead)
                self.server = self._start_server()
                if failure:
                    raise RuntimeError(f"grading workers die as they start: {failure}")

    def _end(self, server: _Server) -> str:
        """Ends a server and its workers. Returns why it had failed; "" if it had not, or was
        killed."""
        # Errors: it is dead already, or busy.
        with suppress(OSError):
            # Now it kills and reaps its workers, and exits; then recv returns.
            server.control.shutdown(socket.SHUT_WR)
            server.control.settimeout(5)
            server.control.recv(1)
        # It closes its end a little before it exits, and its exit code says whether it failed.
        with suppress(subprocess.TimeoutExpired):
            server.process.wait(1)
        server.control.close()
        # What is left of its session. macOS refuses to signal a session of none but zombies.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(server.process.pid, signal.SIGKILL)
        errors = server.process.communicate()[1].decode(errors="replace").strip()
        exit_code = server.process.returncode
        if exit_code <= 0:
            return ""
        return errors.splitlines()[-1] if errors else f"exit code {exit_code}"


def _serve_as_asked(words: list[str]) -> None:
    """The fork server, from the words that `Grader._start_server` starts it with."""
    control_fd, timeout, memory_mb, score, import_paths = words
    sys.path += [path for path in json.loads(import_paths) if path not in sys.path]
    _serve(int(control_fd), float(timeout), int(memory_mb), score)


if __name__ == "__main__":
    _serve_as_asked(sys.argv[1:])
