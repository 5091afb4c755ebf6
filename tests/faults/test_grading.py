"""Grading meets killed processes and hostile completions: no grade lost, nothing run, memory
bounded.

`make faults` runs the same with more tries (WORKER_KILLS, HOSTILE).
"""

import os
import random
import time
from contextlib import suppress

import psutil
import pytest
from conftest import fault, grading_servers, grading_workers

from reward import Grader

WORKER_KILLS = int(os.environ.get("WORKER_KILLS", 6))
HOSTILE = int(os.environ.get("HOSTILE", 600))


def one_worker(rng: random.Random) -> list[psutil.Process]:
    workers = grading_workers()
    return [rng.choice(workers)] if workers else []


def server_and_workers(rng: random.Random) -> list[psutil.Process]:
    """The fork server, and one or both of its workers: a server is missed once a worker is to be
    replaced."""
    workers = grading_workers()
    if not workers:
        return []
    return grading_servers() + rng.sample(workers, rng.randint(1, len(workers)))


@pytest.mark.parametrize(
    "what, victims, kills, pause",
    [
        ("a grading worker", one_worker, WORKER_KILLS, 0.5),
        # It has to import before the next kill.
        ("the fork server of grading workers", server_and_workers, max(2, WORKER_KILLS // 10), 3.0),
    ],
)
def test_kills_lose_no_grade(what, victims, kills, pause):
    rng = random.Random(0)
    killed = 0
    first = 2
    with fault(f"SIGKILL of {what}: no grade lost", kills), Grader(timeout=20.0) as grader:
        while killed < kills:
            numbers = range(first, first + 500)
            first += 500
            texts = [rf"\boxed{{\sqrt{{{n * n * 3}}}}}" for n in numbers]
            pending = grader.submit(texts, [rf"{n}\sqrt{{3}}" for n in numbers])
            while killed < kills and not pending.done():
                time.sleep(rng.uniform(0.05, pause))
                processes = victims(rng)
                for process in processes:
                    # It may have been replaced meanwhile.
                    with suppress(psutil.NoSuchProcess):
                        process.kill()
                killed += bool(processes)
            assert all(pending.result())


LATEX = r"""
\boxed{ \frac{ \sqrt{ } { ( ) [ ] \{ \} ^ _ + - * / = < > \le \cup , ; | ! ' $ \text{ \pm \sum \int
\infty \begin{pmatrix} \end{pmatrix} & \\ \overline{ % \% 0 1 9 99999 1e9 1e999999 x y \pi ^{9^9} !!
\neq <think> </think> #### __import__('os').system('touch INJECTED') eval(1) \left( \right) \ln \sin
answer is or
"""
PIECES = [
    *LATEX.split(),
    "the answer is ",
    "\u0664",
    "\u200b",
    "\ud800",
    "\U0001d7d8",
    "\x00",
    "½",
    "²",
    "∞",
    "\n",
]


def test_hostile_completions(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = random.Random(1)
    golds = [
        r"\frac{\pi}{7}",
        "12",
        r"(1,2)",
        r"x\ge 5",
        r"\text{Evelyn}",
        r"\begin{pmatrix}1\\2\end{pmatrix}",
    ]
    texts = []
    for _ in range(HOSTILE):
        body = "".join(rng.choices(PIECES, k=rng.choice((3, 10, 40)))) * rng.choice((1, 1, 1, 20))
        texts.append(rng.choice((body, rf"\boxed{{{body}}}", f"#### {body}")))
    memory = psutil.Process().memory_info().rss
    name = "hostile completion: graded in time, nothing run, memory flat"
    with fault(name, HOSTILE), Grader(workers=2, timeout=1.0) as grader:
        for first in range(0, len(texts), 500):
            batch = texts[first : first + 500]
            grader.grade_batch(batch, rng.choices(golds, k=len(batch)))
        # It still grades.
        ordinary = [r"\boxed{\sqrt{18}}", r"\boxed{4}"]
        assert grader.grade_batch(ordinary, [r"3\sqrt{2}", "5"]) == [1.0, 0.0]
        print(dict(grader.stats))
        assert psutil.Process().memory_info().rss - memory < 200 * 2**20
        assert list(tmp_path.iterdir()) == []
