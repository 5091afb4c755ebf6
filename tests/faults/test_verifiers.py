"""Hostile completions meet every task's verifier: nothing is run, nothing hangs, the memory of the
workers stays flat, and every score is 0 or 1.

`make faults` runs the same with more completions (HOSTILE, over all verifiers).
"""

import os
import random
from collections.abc import Callable

import pytest
from conftest import fault, grading_workers

from data import problems, reasoning_gym
from data.problems import load_problems, score_of, task_of
from reward import MATHEMATICS, Grader

HOSTILE = int(os.environ.get("HOSTILE", 600))

# Tasks with a verifier of their own, a new one included as soon as it is in TASKS; mathematics; and
# tasks of reasoning-gym whose scorers evaluate or parse an answer, or compute with it.
OWN = [name for name in problems.TASKS if name != "reasoning_gym"]
GYM = (
    *("n_queens", "spiral_matrix", "string_insertion", "puzzle24", "simple_integration"),
    *("coin_flip", "rubiks_cube", "time_intervals"),
)
NAMES = [*OWN, "mathematics", "choices", *(f"reasoning_gym:{name}" for name in GYM)]
COUNT = max(10, HOSTILE // len(NAMES))

CHOICES = {"A": "4 cm", "B": "an ellipse", "C": r"\frac{1}{2}"}
CODE = [
    "open('CANARY', 'w')",
    "__import__('os').system('touch CANARY')",
    "[open('CANARY', 'w')]",
    '(lambda: exec(\'open("CANARY", "w")\'))()',
    "eval(\"open('CANARY', 'w').write('x')\")",
    "{x: open('CANARY', 'w') for x in (1,)}",
    "os.system('touch CANARY') or 24",
    "().__class__.__base__.__subclasses__()",
    "Symbol('x').subs(x, __import__('pathlib').Path('CANARY').touch())",
    "$(touch CANARY) `touch CANARY` ; touch CANARY",
    "while True: pass",
    "'x' * 10**10",
    "list(range(10**10))",
]
# Separated by spaces.
SYMBOLS = r"""
( ) [ ] { } \{ \} + - * / ** ^ , ; : . = != | & \\ " ' U D L R A B 1 2 3 4 R9 \frac{1}{0} \sqrt{
\text{ \left( \cdot \begin{array} \boxed{ #### <think> </think> <answer> </answer> -0 1/0 9**9**9
10**10**10 2^{9^{9^9}} 1e999999 1e-999 1_000 1,0 nan ½ ² ٤ 𝟘 ∞ 🧩
"""
OTHERS = ["\n", "\x00", "\ud800", "\u202e", "\u200b", " or ", "the answer is ", "2 + 2 = 5"]
LONG_NUMBERS = ["9" * 5000, "1" * 40, "0x" + "f" * 999, "9" * 400 + "!"]
PIECES = [*CODE, *SYMBOLS.split(), *OTHERS, *LONG_NUMBERS]


def mixed(rng: random.Random) -> str:
    pieces = rng.choices(PIECES, k=rng.choice((1, 4, 20, 80)))
    return rng.choice(("", " ")).join(pieces)


def nested(rng: random.Random) -> str:
    opened, closed = rng.choice(
        (("(", ")"), ("[", "]"), ("{", "}"), (r"\frac{", "}{2}"), ("-", ""))
    )
    depth = rng.choice((50, 300, 5000))
    return opened * depth + "1" + closed * rng.choice((depth, depth - 1, 0))


def very_long(rng: random.Random) -> str:
    piece = rng.choice(PIECES)
    return (piece * (10**6 // len(piece) + 1))[: 10**6]


def boxed(text: str, rng: random.Random) -> str:
    forms = (r"\boxed{TEXT}", "<answer>TEXT</answer>", "#### TEXT", r"\boxed{\text{TEXT}}", "TEXT")
    return rng.choice(forms).replace("TEXT", text)


def nearly_right(gold: str, rng: random.Random) -> str:
    """The right answer with something around it, in it or left out."""
    place = rng.randrange(len(gold) + 1)
    junk = rng.choice((rng.choice(PIECES), "", gold, f"\n{gold}", gold[::-1], " " * 3000))
    return gold[:place] + junk + gold[place + rng.choice((0, 0, 1)) :]


def hostile_completions(golds: list[str], rng: random.Random) -> list[str]:
    """One for each gold answer."""
    kinds: list[Callable[[random.Random], str]] = [mixed, mixed, mixed, nested]
    completions = []
    for gold in golds:
        draw = rng.random()
        if draw < 0.01:
            text = very_long(rng)
        elif draw < 0.4:
            text = nearly_right(gold, rng)
        else:
            text = rng.choice(kinds)(rng)
        completions.append(boxed(text, rng))
    return completions


def rows_of(name: str, monkeypatch) -> list[dict]:
    """Some rows of a verifier's task, each with an answer."""
    if name == "mathematics":
        golds = ("12", r"\frac{\pi}{7}", "(1,2)", r"x\ge 5", r"\text{Evelyn}")
        return [{"id": gold, "problem": "?", "answer": gold} for gold in golds]
    if name == "choices":
        return [
            {"id": "1", "problem": "?", "answer": letter, "choices": CHOICES} for letter in "AB"
        ]
    if not name.startswith("reasoning_gym:"):
        return load_problems(f"{name}[:20]", "test")
    pytest.importorskip("reasoning_gym")
    monkeypatch.setattr(reasoning_gym, "WANTED_ROWS", {"test": 4})
    monkeypatch.setattr(reasoning_gym, "WANTED_ROWS_OF_SLOW", {"test": 2})
    return reasoning_gym.generate(name.removeprefix("reasoning_gym:"), "test")


def memory_of_workers() -> int:
    """Of the largest one, in bytes."""
    return max((worker.memory_info().rss for worker in grading_workers()), default=0)


@pytest.mark.parametrize("name", NAMES)
def test_hostile_completions(name, tmp_path, monkeypatch):
    rows = rows_of(name, monkeypatch)
    rng = random.Random(name)
    monkeypatch.chdir(tmp_path)
    is_of_gym = name.startswith("reasoning_gym:")
    score = MATHEMATICS if name in ("mathematics", "choices") else score_of(task_of(name))
    # Mathematics and the scorers of reasoning-gym may take any time, so that the limit ends them. A
    # verifier of a puzzle may not: there, a long one is for busy machines alone.
    is_limited = is_of_gym or score == MATHEMATICS
    grader = Grader(workers=2, timeout=1.0 if is_limited else 20.0, score=score)
    with fault("hostile completion for a task's verifier: graded, nothing run", COUNT), grader:
        right = [rf"\boxed{{{row['answer']}}}" for row in rows]
        # Where a row has no answer, others are right than the one that is written here.
        expected = [float(row["answer"] is not None) for row in rows]
        assert grader.grade_batch(right, rows) == expected

        # Half of it settles the workers' memory.
        memory = 0
        for first in range(0, COUNT, 250):
            batch = rng.choices(rows, k=min(250, COUNT - first))
            golds = [str(row["answer"]) for row in batch]
            scores = grader.grade_batch(hostile_completions(golds, rng), batch)
            assert set(scores) <= {0.0, 1.0}
            if first < COUNT / 2:
                memory = memory_of_workers()
        print(name, dict(grader.stats), f"{memory_of_workers() / 2**20:.0f} MB")
        assert memory_of_workers() - memory < 100 * 2**20

        # Nor is there a text that such a verifier, or reasoning-gym's, fails on.
        assert not grader.stats["failed"]
        if not is_limited:
            assert not grader.stats["timeouts"] and not grader.stats["kills"]
        assert list(tmp_path.iterdir()) == []
        # It still grades.
        assert grader.grade_batch(right, rows) == expected
