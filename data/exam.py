r"""Chains of operations on one digit, marked as in an exam: many small skills, and room for errors.

    from data.exam import problems
    problems("test", "16-4")     # 16 operations, 4 skills

A problem is a chain, as data/chain.py has them, such as `7x1:FbKcAa`. Each operation gets a mark if
its digit follows from the digit that was written before it. So an error costs one mark, and what
comes after it can still be right (error carried forward). A completion passes with enough marks:
how many are enough differs from problem to problem, from a little more than half of them to three
quarters.

The tiny base has two ways to do the operations of a family, one of which is wrong, so that each
family is a skill of its own. The level is that of the chains: OPERATIONS-SKILLS.
"""

import itertools
import math
import random

from data.chain import (
    LEVELS,
    PROMPT_TEMPLATE,
    answer,
    apply,
    distinct_chains,
    in_words,
    read,
    read_level,
    results,
    write_problem,
)

__all__ = ["LEVELS", "PROMPT_TEMPLATE", "answer", "problems", "prompt", "score"]

SYSTEM_PROMPT = (
    "You follow chains of operations on one digit. Put the digit after each operation within "
    "\\boxed{}, in order, for example \\boxed{4 8 3}."
)
MARKS_IN_WORDS = (
    "An operation gets a mark if its digit follows from the digit before it in your answer. You "
    "need {needed} of {operations} marks."
)


def problems(split: str, level: str | None = None) -> list[dict]:
    """The chains of `split` ("train" or "test"): 4,000 or 1,000 rows.

    A row holds `id`; `problem`, such as `7x1:FbKcAa`; `answer`, the digit after each operation; and
    `needed`, the marks that a completion needs.

    Args:
        level: OPERATIONS-SKILLS; 32-16 where it is None.

    Raises:
        BadInput: no such level.
    """
    operations, skills = read_level(level)
    rng = random.Random(f"exam/{split}/{operations}/{skills}")
    return [
        {
            "id": f"exam/{operations}-{skills}/{split}/{number}",
            "problem": write_problem(chain),
            "answer": "".join(map(str, results(chain))),
            "needed": rng.randint(*needed_marks(operations)),
        }
        for number, chain in enumerate(distinct_chains(rng, operations, skills, split))
    ]


def needed_marks(operations: int) -> tuple[int, int]:
    """The fewest and the most marks that a problem may need. Someone who is right in every second
    operation, at random, has enough about once in ten times.

    >>> needed_marks(32), needed_marks(16), needed_marks(3)
    ((18, 24), (10, 12), (3, 3))
    """
    fewest = operations // 2 + 2
    return fewest, max(fewest, math.ceil(3 * operations / 4))


def prompt(row: dict) -> list[dict[str, str]]:
    """The chat messages that ask for the digits."""
    chain = read(row["problem"])
    operations = len(chain.kinds) * chain.rounds
    marks = MARKS_IN_WORDS.format(needed=row["needed"], operations=operations)
    question = in_words(chain) + marks
    return [{"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": question}]


def score(completion: str, row: dict) -> float:
    """1.0 where a completion has enough marks, else 0.0."""
    return float(marks_of(completion, row["problem"]) >= row["needed"])


def marks_of(completion: str, problem: str) -> int:
    """The operations whose digit follows from the one before it; 0 where there are more digits or
    fewer than operations.

    >>> marks_of(r"\\boxed{4 1}", "7x1:FbKc"), marks_of(r"\\boxed{5 8}", "7x1:FbKc")
    (2, 1)
    """
    chain = read(problem)
    kinds = chain.kinds * chain.rounds
    digits = [chain.start, *map(int, answer(completion) or "")]
    if len(digits) != len(kinds) + 1:
        return 0
    return sum(
        after == apply(kind, before)
        for kind, (before, after) in zip(kinds, itertools.pairwise(digits), strict=True)
    )
