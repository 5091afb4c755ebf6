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

import json
import logging
import os
import sys
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from numbers import Real

from answers.choices import given_answer
from answers.equality import MAX_ANSWER, BadGold, Undecided, equal
from answers.extract import extract_answer
from run.workers import Failed, Judge, Reply, Workers, load_function

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
        # Imported here, since it would slow down the start of the workers.
        from run.errors import BadInput

        raise BadInput(
            "grading needs fork, which this system does not have; "
            "on Windows, run this in WSL (Windows Subsystem for Linux)"
        )


# --- What decides in a worker ---

# Imports and first calls are slow, up to half a second for an unusual answer: they are made once,
# before the workers are forked.
_WARM_UP = (
    (r"\frac{\sqrt{2}}{-2x}", r"\frac{-1}{\sqrt{2}x}"),
    (r"x^2+2x+1=0", r"(x+1)^2=0"),
    (r"\sin(\pi/7)+2^{10}\cdot 3!", r"|1.5i|-\log_2 5"),
)


def judge_of(score: str) -> Judge:
    """What answers questions under this score: a text (a model's answer, or its completion) and a
    reference (a gold answer, or a row as JSON) in, the grade out."""
    if score == MATHEMATICS:
        for pair in _WARM_UP:
            equal(*pair, by_value=True)
        return _compare
    score_function = load_function(score)
    # What the score imports late is imported before the workers are forked.
    if warm_up := getattr(sys.modules[score_function.__module__], "warm_up", None):
        warm_up()

    def judge(completion: str, row: str) -> float:
        value = score_function(completion, json.loads(row))
        # NaN is in no range.
        if isinstance(value, Real) and 0 <= value <= 1:
            return float(value)
        raise Failed(f"returned {value!r:.100}, which is no number from 0 to 1")

    return judge


def _compare(answer: str | None, gold: str) -> float | None:
    """Whether an answer equals a gold answer; None if the latter can't be read."""
    try:
        return float(equal(answer, gold, by_value=True))
    except BadGold:
        return None


# --- The Grader ---

# What a worker decides. Of mathematics, an answer (None: there is none) and the gold answer; of
# another task, a completion and its row as JSON.
Question = tuple[str | None, str]


class Grader:
    """Grades batches with `workers` processes, each pair in at most `timeout` seconds and
    `memory_mb` of memory. run/workers.py says what the processes are.

    A worker over a limit is killed and replaced; its pair counts as wrong and is counted in
    `stats`: pairs (distinct ones of a batch), settled (without a worker), timeouts, kills,
    unparsable (gold answers that can't be read) and failed (a score that raised an error, or
    returned no number from 0 to 1).

    Args:
        score: a task's score, a function of a completion and its row, as "module:function" or
            "FILE.py:function". Its workers have no network and no side effects.

    Raises:
        BadInput: a system without fork.
        ValueError: fewer than one worker or 1 MB, a `timeout` not above 0 or longer than a day, or
            a score that names no function.
    """

    def __init__(
        self,
        workers: int = 2,
        timeout: float = 2.0,
        memory_mb: int = 1024,
        score: str = MATHEMATICS,
    ) -> None:
        check_platform()
        source, _, function = score.rpartition(":")
        if not source or not function.isidentifier():
            example = "such as data.mathematics:score"
            raise ValueError(f"a Grader's score must be module:function, {example}, not {score}")
        self.pool = Workers(
            "reward:judge_of", score, count=workers, timeout=timeout, memory_mb=memory_mb
        )
        self.workers = workers
        self.timeout = timeout
        self.memory_mb = memory_mb
        self.score = score
        self.stats: Counter[str] = Counter()
        self.has_warned = False

    @property
    def is_of_mathematics(self) -> bool:
        """Whether it grades by mathematics' own score."""
        return self.score == MATHEMATICS

    def __enter__(self) -> "Grader":
        self.pool.__enter__()
        self.background = ThreadPoolExecutor(1)
        return self

    def __exit__(self, *exception) -> None:
        self.background.shutdown(cancel_futures=True)
        self.pool.__exit__(*exception)

    def grade_batch(self, completions: list[str], answers: list[str | dict]) -> list[float]:
        """The grade of each completion, in order. Of mathematics: 1.0 if its answer is the gold
        answer beside it, else 0.0. Of another task: its score.

        Args:
            answers: gold answers, or the rows that hold them; another task's score needs the rows.
        """
        # Each distinct question once; what can be told here is.
        questions = [self._question(*pair) for pair in zip(completions, answers, strict=True)]
        grades: dict[Question, float] = {}
        undecided = []
        for question in dict.fromkeys(questions):
            settled = self._settle(question)
            if settled is None:
                undecided.append(question)
            else:
                grades[question] = settled
        self.stats.update(pairs=len(grades) + len(undecided), settled=len(grades))

        # The others go to the workers, as many at a time as there are workers.
        for question, replies in zip(undecided, self.pool.ask_all(undecided)):
            grades[question] = replies[-1].value or 0.0
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
        reply = self.pool.ask((left, right))[-1]
        return reply.value == 1.0 if reply.kind == "answered" else None

    def _question(self, completion: str, answer: str | dict) -> Question:
        if self.is_of_mathematics:
            if not isinstance(answer, dict):
                return extract_answer(completion), answer
            return given_answer(completion, answer.get("choices")), answer["answer"]
        return completion, json.dumps(answer)

    def _settle(self, question: Question) -> float | None:
        """The grade, where it can be told without a worker."""
        if not self.is_of_mathematics:
            return None
        try:
            return float(equal(*question, by_value=False))
        except Undecided:
            return None

    def _count(self, reply: Reply) -> None:
        if reply.kind == "answered":
            if reply.value is None:
                self.stats["unparsable"] += 1
            return
        # Whether the system or a limit ended the worker can't be told.
        kind = "kills" if reply.kind == "died" else reply.kind
        self.stats[kind] += 1
        if kind == "failed" and not self.has_warned:
            self.has_warned = True
            consequence = "the completion gets 0, and is counted as failed"
            logger.warning("grading: %s: %s; %s", self.score, reply.reason, consequence)
