"""Processes that answer questions under limits on their time and memory, and are killed over them.

    with Workers("reward:judge_of", "data.arithmetic:score", timeout=2.0) as workers:
        replies = workers.ask(["a completion", {"answer": "4"}])

What answers is the judge, code that may hang, die or take all memory. The workers are forks of one
process per `Workers`, the fork server, in which the judge is imported already: a replacement takes
milliseconds. The server starts by exec, never as a bare fork, since this process may hold CUDA and
threads. It has one thread, and a session of its own, so that Ctrl-C does not reach it. Each worker
has a pipe of its own: killing it leaves no lock held, as a pool's shared queue would. Only the
server, their parent, kills workers; when its owner is gone, even by SIGKILL, it kills them all and
ends. A worker or server that is killed from outside is replaced, and its question is asked again.

The forkserver of `multiprocessing` is not used: it imports the main module, and so torch, in every
child; it is one for the whole process, whoever else may use it; and its children do not ignore
Ctrl-C.
"""

import ctypes
import gc
import importlib
import importlib.util
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from queue import SimpleQueue
from types import ModuleType
from typing import NamedTuple

import psutil

logger = logging.getLogger(__name__)

# A judge: the question's parts in, a JSON value out.
Judge = Callable[..., object]
LONGEST_REPLY = 2**24  # bytes


class Failed(Exception):
    """What a judge raises where its answer is no answer; the message says why."""


class Reply(NamedTuple):
    """What became of a question.

    Kinds: answered; failed (the judge raised an error); timeouts; kills (the memory limit); died
    (the worker, perhaps killed from outside)."""

    kind: str
    value: object = None  # of an answer, a JSON value
    reason: str = ""  # of a failure


# --- Code by its name ---


def load_file(path: str) -> ModuleType:
    """The module in a Python file, loaded once.

    It is called by its path, so that rewards.py or data.py hides no module that is called so. It
    may import the modules beside it, after all others.

    Raises:
        whatever the import raises.
    """
    name = os.path.abspath(path)
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, name)
        module = importlib.util.module_from_spec(spec)
        sys.path.append(os.path.dirname(name))
        # Dataclasses look their module up while it is being imported.
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


def load_function(name: str) -> Callable:
    """The function of a name, "module:function" or "FILE.py:function".

    Raises:
        whatever the import raises, or AttributeError.
    """
    source, _, function = name.rpartition(":")
    is_file = source.endswith(".py")
    module = load_file(source) if is_file else importlib.import_module(source)
    return getattr(module, function)


# --- What an isolated worker may not do ---

CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000
# Audit events (https://docs.python.org/3/library/audit_events.html) of what reaches out of the
# process.
REFUSED_EVENTS = frozenset(
    (
        *("socket.bind", "socket.connect", "socket.sendto", "socket.sendmsg"),
        *("socket.getaddrinfo", "socket.gethostbyaddr", "socket.gethostbyname"),
        *("subprocess.Popen", "pty.spawn", "os.startfile", "os.posix_spawn", "os.spawn"),
        *("os.system", "os.exec", "os.fork", "os.forkpty"),
        *("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink"),
        *("os.truncate", "os.chmod", "os.chown", "os.chflags", "os.utime"),
        *("os.setxattr", "os.removexattr"),
        *("ctypes.dlopen", "ctypes.dlsym", "ctypes.dlsym/handle", "ctypes.call_function"),
    )
)
# Refused unless they are about this process itself.
SIGNAL_EVENTS = frozenset(("os.kill", "os.killpg", "signal.pthread_kill"))
WRITING_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def leave_network() -> bool:
    """Moves this process, which must have one thread, to a network namespace without any network.

    False where the system does not allow it.
    """
    try:
        unshare = ctypes.CDLL(None).unshare
    except (AttributeError, OSError, TypeError):  # not Linux
        return False
    return unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0


def refuse_side_effects(event: str, arguments: tuple) -> None:
    """An audit hook: raises PermissionError for what would reach out of this process."""
    if event == "open":
        path, mode, flags = arguments
        writes = flags & WRITING_FLAGS or (mode and not set("wax+").isdisjoint(mode))
        if writes and path != os.devnull:
            raise PermissionError(f"a score may not write files: {path!r:.100}")
    elif event in REFUSED_EVENTS:
        raise PermissionError(f"a score may not reach out of its process: {event}")
    elif event in SIGNAL_EVENTS and not (event == "os.kill" and arguments[0] == os.getpid()):
        raise PermissionError(f"a score may not send signals: {event}")


def isolate() -> None:
    """Takes the network from this process, and side effects as far as Python can be watched.

    Code that is written to get around it can, for example through a C extension.
    """
    leave_network()
    # Modules that are imported late leave no __pycache__.
    sys.dont_write_bytecode = True
    sys.addaudithook(refuse_side_effects)


# --- The fork server and the workers ---


@dataclass(frozen=True)
class Settings:
    """What a fork server is started with."""

    make_judge: str  # a name for load_function
    arguments: list  # of make_judge; JSON values
    timeout: float  # seconds
    memory_mb: int
    isolated: bool


# The fork server's answer to a request: it has the pipe.
_RECEIVED = b"r"


def _serve(control_fd: int, settings: Settings) -> None:
    """The fork server's life: make the judge, then fork one worker for each request of its owner.

    A request is the process id of the worker to kill (0: none), and the new worker's end of a
    pipe."""
    control = socket.socket(fileno=control_fd)
    # Ignored, and inherited so, it would make `waitpid` fail.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    judge = load_function(settings.make_judge)(*settings.arguments)
    # A worker's garbage collection leaves the objects that all workers share alone.
    gc.freeze()

    workers: set[int] = set()
    while True:
        # The owner may close its end, or die, at any point: in the middle of a request, too.
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
                _work(Connection(pipes[0]), judge, settings)
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


def _work(pipe: Connection, judge: Judge, settings: Settings) -> None:
    """A worker's life: settle its limits, introduce itself, then reply to each question."""
    # What a judge prints, or an error says, goes nowhere.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    is_limited = _limit_memory(settings.memory_mb)
    if settings.isolated:
        isolate()
    pipe.send_bytes(json.dumps([os.getpid(), is_limited]).encode())
    # After a reply that memory ran out, what is left of it is not trusted: the worker ends.
    reply = None
    while reply is None or reply.kind != "kills":
        # EOFError, which ends the worker, once the owner is gone.
        question = json.loads(pipe.recv_bytes())
        # Ends the worker in case that the owner and the server are both gone.
        signal.setitimer(signal.ITIMER_REAL, 2 * settings.timeout + 5)
        try:
            reply = Reply("answered", judge(*question))
        except MemoryError:
            reply = Reply("kills")
        except Failed as error:
            reply = Reply("failed", reason=str(error)[:200])
        except Exception as error:
            reply = Reply("failed", reason=f"{type(error).__name__}: {error}"[:200])
        signal.setitimer(signal.ITIMER_REAL, 0)
        pipe.send_bytes(json.dumps(reply).encode())


def _limit_memory(memory_mb: int) -> bool:
    """Lets this process have `memory_mb` more memory than it has now. False if the system allows no
    such limit, as macOS may not."""
    # Imported here, since Windows does not have it.
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


# --- Their owner ---


class _Server(NamedTuple):
    process: subprocess.Popen
    control: socket.socket


class _Worker(NamedTuple):
    pid: int
    pipe: Connection


class Workers:
    """`count` workers, each of which takes at most `timeout` seconds and `memory_mb` of memory for
    a question. It is thread-safe.

    Args:
        make_judge: names a function, "module:function" or "FILE.py:function", that is called once
            in the fork server and returns the judge. It is given by its name since the workers
            don't come from this process.
        arguments: of that function; JSON values.
        isolated: whether the workers have no network and no side effects (`isolate`).
        retry_seconds: a worker that dies may have been killed from outside. So that this loses no
            answer, its question is asked again, twice at least, and until its tries have taken this
            long. None: as long as a time-out.

    Raises:
        ValueError: fewer than one worker or 1 MB, or a `timeout` not above 0 or longer than a day.
    """

    def __init__(
        self,
        make_judge: str,
        *arguments,
        count: int = 2,
        timeout: float = 2.0,
        memory_mb: int = 1024,
        isolated: bool = True,
        retry_seconds: float | None = None,
    ) -> None:
        if count < 1 or memory_mb < 1:
            given = f"{count} and {memory_mb}"
            raise ValueError(f"there must be at least 1 worker and 1 MB of memory, not {given}")
        # NaN is refused too.
        if not 0 < timeout <= 86400:
            bounds = "above 0 and at most 86400 seconds"
            raise ValueError(f"the timeout of workers must be {bounds}, not {timeout}")
        self.settings = Settings(make_judge, list(arguments), timeout, memory_mb, isolated)
        self.count = count
        self.retry_seconds = timeout if retry_seconds is None else retry_seconds
        self.is_closing = False
        self.has_warned = False

    def __enter__(self) -> "Workers":
        # Workers that have nothing to do; None stands for one that is still to be started.
        self.idle: SimpleQueue[_Worker | None] = SimpleQueue()
        for _ in range(self.count):
            self.idle.put(None)
        self.threads = ThreadPoolExecutor(self.count)
        # Held while one thread asks the server for a worker, or replaces the server.
        self.server_lock = threading.RLock()
        # It imports while this process continues.
        self.server = self._start_server()
        return self

    def __exit__(self, *exception) -> None:
        # A question that is still being answered is given up.
        with self.server_lock:
            self.is_closing = True
            self._end(self.server)
        self.threads.shutdown(cancel_futures=True)
        while not self.idle.empty():
            worker = self.idle.get()
            if worker is not None:
                worker.pipe.close()

    # Questions

    def check(self) -> None:
        """Waits until a worker is ready.

        Raises:
            RuntimeError: the judge can't be made; says why.
        """
        worker = self.idle.get()
        try:
            worker = worker or self._start()
        finally:
            self.idle.put(worker)

    def ask_all(self, questions: Iterable[Sequence]) -> Iterator[list[Reply]]:
        """`ask` for each question, as many at a time as there are workers; in order."""
        return self.threads.map(self.ask, questions)

    def ask(self, question: Sequence) -> list[Reply]:
        """The replies to a question; the last one counts, and there are several if workers died.

        Args:
            question: the judge's arguments; JSON values.
        """
        replies: list[Reply] = []
        spent = 0.0
        message = json.dumps(question).encode()
        worker = self.idle.get()
        try:
            worker = worker or self._start()
            while self._asks_again(replies, spent):
                start = time.monotonic()
                reply = self._reply_of(worker, message)
                spent += time.monotonic() - start
                replies.append(reply)
                # The worker is lost. Its place is filled before the next question.
                if reply.kind in ("timeouts", "kills", "died"):
                    ended = worker
                    worker = None
                    ended.pipe.close()
                    if not self.is_closing:
                        worker = self._start(ended.pid)
        finally:
            self.idle.put(worker)
        return replies

    def _asks_again(self, replies: list[Reply], spent: float) -> bool:
        if not replies:
            return True
        is_worth_it = len(replies) < 3 or spent < self.retry_seconds
        return replies[-1].kind == "died" and is_worth_it and not self.is_closing

    def _reply_of(self, worker: _Worker, message: bytes) -> Reply:
        try:
            worker.pipe.send_bytes(message)
            if not worker.pipe.poll(self.settings.timeout):
                return Reply("timeouts")
            return Reply(*json.loads(worker.pipe.recv_bytes(LONGEST_REPLY)))
        except (EOFError, OSError):
            return Reply("died")

    # Workers

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
                        self._warn_of_memory()
                    return _Worker(pid, pipe)
                self._restart(server)
            except (EOFError, OSError):
                # The worker died before it was ready.
                time.sleep(0.1)
            pipe.close()
        raise RuntimeError("workers die as they start: none was ready within 300 s")

    def _warn_of_memory(self) -> None:
        if not self.has_warned:
            self.has_warned = True
            logger.warning(
                "grading: this system sets no memory limit of %d MB; time is limited all the same",
                self.settings.memory_mb,
            )

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
        settings = json.dumps(vars(self.settings))
        ours, theirs = socket.socketpair()
        with theirs:
            words = [str(theirs.fileno()), settings, import_paths]
            process = subprocess.Popen(
                [sys.executable, os.path.abspath(__file__), *words],
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
        ours.settimeout(120)
        return _Server(process, ours)

    def _restart(self, dead: _Server) -> None:
        """A new server in place of a dead one, unless another thread has seen to it.

        Raises:
            RuntimeError: it died by an error of its own.
        """
        with self.server_lock:
            if self.is_closing:
                raise RuntimeError("the workers are closed")
            if self.server is dead:
                # An exit that was not asked for: by sys.exit while it imported the judge.
                with suppress(subprocess.TimeoutExpired):
                    dead.process.wait(1)
                has_left = dead.process.returncode == 0
                failure = self._end(dead) or ("exit code 0" if has_left else "")
                self.server = self._start_server()
                if failure:
                    raise RuntimeError(f"workers die as they start: {failure}")

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
    """The fork server, from the words that `Workers._start_server` starts it with."""
    control_fd, settings, import_paths = words
    sys.path += [path for path in json.loads(import_paths) if path not in sys.path]
    _serve(int(control_fd), Settings(**json.loads(settings)))


if __name__ == "__main__":
    # Python puts the folder of this file first, where trl.py would hide the package.
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    # Judges import this module by its name, and raise its Failed.
    from run import workers

    workers._serve_as_asked(sys.argv[1:])
