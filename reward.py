"""Extract and verify answers: a completion and a gold answer in, 1.0 or 0.0 out.

    with Grader(workers=2, timeout=2.0) as grader:
        rewards = grader.grade_batch(completions, answers)

1. `extract_answer` finds the answer in the text: the last \\boxed{}, or else "#### x" or "the answer is x".
2. `equality.equal` settles equal strings, numbers, words and lists of them here: about nine pairs in ten.
3. Any other pair goes to a worker, a bare Python process with a limit on its time and its memory.
"""

import json
import os
import re
import resource
import signal
import subprocess
import sys
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import wait
from queue import SimpleQueue

from equality import MAX_ANSWER, BadGold, Undecided, clean, equal

# --- Extraction ---

_THOUGHT = re.compile(r"<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)", re.IGNORECASE | re.DOTALL)
_BOX = re.compile(r"\\{1,2}(?:boxed|fbox)(?![a-zA-Z])\s*(\{)?|\\.|[{}]", re.DOTALL)
_BARE_BOX = re.compile(r"[-+]?[\d.][^\s$]*|\\[a-zA-Z][^\s$]*")
_NEGATED = re.compile(r"(?i)(?:\bnot|n't|rather than|instead of|\\neq?|≠|!=)(?:\s+(?:be|equal(?:\s+to)?))?[\s$*:(]*$")
# Words between two boxes: of an offer ("1 or 2"), or of a correction ("wait, it is 2").
_OFFER = re.compile(r"\b(?:or|alternatively|maybe|possibly|perhaps|might|could)\b", re.IGNORECASE)
_AMEND = re.compile(
    r"(?i)wait|\bno\b|actually|rather|correct|instead|mistake|sorry|check|hmm|oops|should|equiv|simpl|same|hence|thus|so\b"
)
_GLUE = re.compile(r"\\(?:text|q?quad|mbox|mathrm)(?![a-zA-Z])|\b(?:and|also|both|either)\b|\b[a-zA-Z]\s*=|\\?[\W_]")
_SAID = re.compile(
    r"(?i)####(?P<hash>)|\banswers?(?:\s+to\s[^.\n]{1,80}?)?[\s*]*(?:\b(?:is|are|would be)\b|:|=)[\s*:]*(?P<no>not\b)?"
)
_ALSO = re.compile(r"[\s$]*[,(]?\s*or (?:maybe |possibly |perhaps )?\$?(-?\d[\d./]*)")  # \boxed{5} or 6
_MATH_SPAN = re.compile(r"\s*(?:\$\$(.+?)\$\$|\\\[(.+?)\\\])", re.DOTALL)
_REMARK = re.compile(r"(?:\.(?=\s+[A-Z$\\]|\s*$)|[,;]?\s+\(?(?:because|since|which|so|as|not|I)\b).*")


def _boxes(text: str) -> tuple[list[tuple[int, int, str]], bool]:
    """The innermost boxes as (start, end, content), and whether the last one is never closed. One pass: linear time."""
    boxes, stack, last_open = [], [], -1
    for token in _BOX.finditer(text) if "\\boxed" in text or "\\fbox" in text else ():
        if token[1] or token[0] == "{":
            stack.append((token.start(), token.end()) if token[1] else None)
            last_open = token.start() if token[1] else last_open
        elif token[0] == "}":
            if stack and (opened := stack.pop()) and not (boxes and boxes[-1][0] > opened[0]):
                boxes.append((opened[0], token.end(), text[opened[1] : token.start()]))
        elif token[0].lstrip("\\")[:4] in ("boxe", "fbox") and (bare := _BARE_BOX.match(text, token.end())):
            boxes.append((token.start(), bare.end(), bare[0].rstrip(".,;")))
    return boxes, last_open > (boxes[-1][0] if boxes else -1)


def _offered_together(between: str) -> bool:
    """Whether two boxes with this text between them are alternatives, and not a box and its correction."""
    if len(between) > 100 or _AMEND.search(between):
        return False
    return bool(_OFFER.search(between)) or not _GLUE.sub("", between)


def extract_answer(completion: str) -> str | None:
    r"""The answer that a completion commits to, as LaTeX, or None.

    >>> extract_answer(r"So \boxed{4}. Wait, I forgot one: \boxed{5}."), extract_answer(r"<think>\boxed{3}")
    ('5', None)
    >>> extract_answer(r"\boxed{1} or \boxed{2}")  # one answer with two alternatives: right only for such a gold
    '1 \\text{ or } 2'
    """
    # A stray </think> ends a block that the prompt opened; an open <think> never ends.
    text = re.split(r"</think(?:ing)?>", _THOUGHT.sub("\n", completion), flags=re.IGNORECASE)[-1]
    boxes, unclosed = _boxes(text)
    if boxes or unclosed:
        kept = [box for box in boxes if not _NEGATED.search(text[max(0, box[0] - 40) : box[0]])]
        if unclosed or not kept:
            return None
        group = [kept.pop()]
        while kept and _offered_together(text[kept[-1][1] : group[0][0]]):
            group.insert(0, kept.pop())
        contents = [box[2].strip() for box in group]
        if also := _ALSO.match(text, group[-1][1]):
            contents.append(also[1])
        distinct = dict.fromkeys(contents)  # the same box twice is one answer
        return r" \text{ or } ".join(distinct) if all(map(clean, distinct)) else None
    said = [m for m in _SAID.finditer(text) if m["no"] is None]
    if not said:
        return None
    rest = text[said[-1].end() :][: 2 * MAX_ANSWER]
    if span := _MATH_SPAN.match(rest):
        return (span[1] or span[2]).strip()
    line = rest.lstrip(" \t*:" if said[-1]["hash"] is not None else " \t\r\n*:").split("\n")[0]
    line = _REMARK.sub("", line, count=1) if said[-1]["hash"] is None else line
    return line.strip(" \t\r*`").rstrip(".") or None


def grade(completion: str, answer: str) -> bool:
    r"""Whether a completion's answer equals the gold answer. In this process, so hostile input may hang it.

    >>> grade(r"so \boxed{2^{10}}", "1024"), grade(r"so \boxed{5 \text{ m}}", r"5 \text{ cm}")
    (True, False)
    """
    try:
        return equal(extract_answer(completion), answer, by_value=True)
    except BadGold:
        return False


def same_answer(one: str, other: str) -> bool | None:
    r"""Whether two answers of a model are equal, in either order, as far as that can be told at once: None where only a
    comparison by value can tell. Neither is a gold answer, so a long one counts as its spelling alone.

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


def _serve(timeout: float, memory_mb: int) -> None:
    """A worker's life: import, limit the memory, say "ready", then answer one line of JSON with one word each."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # nothing that a library prints can pass for a reply
    equal(r"\frac{2}{\sqrt{2}}+x", r"x+\sqrt{2}", by_value=True)  # imports and first calls are slow: pay here
    with open("/proc/self/statm") as statm:
        used = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (memory_mb << 20),) * 2)
    replies.write("ready\n")
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_REAL, 2 * timeout + 5)  # dies by itself if the parent is gone
        try:
            reply = "right" if equal(*json.loads(line), by_value=True) else "wrong"
        except BadGold:
            reply = "unparsable"
        except MemoryError:
            reply = "kills"
        signal.setitimer(signal.ITIMER_REAL, 0)
        replies.write(reply + "\n")
        if reply == "kills":
            return


class Grader:
    """Grades batches with `workers` processes, each pair in at most `timeout` seconds and `memory_mb` of memory.

    A worker over a limit is killed and replaced; its pair counts as wrong and is counted in `stats`: pairs (distinct
    ones of a batch), settled (without a worker), timeouts, kills, and unparsable (gold answers that can't be read).
    """

    def __init__(self, workers: int = 2, timeout: float = 2.0, memory_mb: int = 1024) -> None:
        self.workers, self.timeout, self.memory_mb = workers, timeout, memory_mb
        self.stats: Counter[str] = Counter()

    def __enter__(self) -> "Grader":
        self.idle: SimpleQueue[Future[subprocess.Popen]] = SimpleQueue()  # workers, or their start-up
        self.threads, self.background = ThreadPoolExecutor(self.workers), ThreadPoolExecutor(1)
        for _ in range(self.workers):
            self.idle.put(self.threads.submit(self._start))
        return self

    def __exit__(self, *exception) -> None:
        self.background.shutdown(cancel_futures=True)
        self.threads.shutdown(cancel_futures=True)
        while not self.idle.empty():
            if not (started := self.idle.get()).cancelled() and not started.exception():
                self._kill(started.result())

    def _start(self) -> subprocess.Popen:
        """A worker that is ready, on pipes of its own: killing it leaves no lock held, as a pool's shared queue would.
        By exec, never a bare fork, as the parent may hold CUDA and threads; in its own session, deaf to Ctrl-C."""
        command = [sys.executable, os.path.abspath(__file__), str(self.timeout), str(self.memory_mb)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        for _ in range(10):  # it may be killed from outside
            worker = subprocess.Popen(command, start_new_session=True, bufsize=0, **pipes)
            if self._reply(worker, seconds=120) == "ready":  # start-up is not on a pair's clock
                return worker
            self._kill(worker)
        raise RuntimeError("grading workers die as they start; does `python -c 'import math_verify'` work?")

    def _kill(self, worker: subprocess.Popen) -> None:
        worker.kill()
        worker.communicate()  # waits, and closes the pipes

    def _reply(self, worker: subprocess.Popen, seconds: float) -> str:
        if not wait([worker.stdout], seconds):
            return "timeouts"
        return worker.stdout.readline().decode().strip() or "died"

    def _ask(self, pair: tuple[str, str]) -> list[str]:
        """Replies: right, wrong, unparsable, timeouts, kills (the memory limit), or died."""
        started, replies = self.idle.get(), []
        try:
            worker = started.result()
            # A worker that dies may have been killed from outside: the pair is tried again, so that it loses no grade.
            while not replies or (replies[-1] == "died" and len(replies) < 3):
                try:
                    worker.stdin.write((json.dumps(pair) + "\n").encode())
                    replies.append(self._reply(worker, self.timeout))
                except BrokenPipeError:
                    replies.append("died")
                if replies[-1] in ("timeouts", "kills", "died"):
                    self._kill(worker)
                    worker, started = self._start(), Future()
                    started.set_result(worker)
        finally:
            self.idle.put(started)
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
        pairs = [(extract_answer(text), gold) for text, gold in zip(completions, answers, strict=True)]
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
            self.stats.update({"died": "kills"}.get(r, r) for r in replies if r not in ("right", "wrong"))
        return [rewards[pair] for pair in pairs]


if __name__ == "__main__":
    _serve(float(sys.argv[1]), int(sys.argv[2]))
