"""The careless pupil of the exam.

He does one operation after another: its kind, its family's letter, its result. Before each round he
writes how many there are still to do. The letter is small or a capital. In each family one of the
two goes with the right result, and the other with one too many: `Fb4` or `FB5`. Which is which, he
does not know beforehand: he takes either at random. So he is right in every second operation. He
sees chains of the split "base" only, which shares none with the others.
"""

import random

from data import chain
from data.chain import Chain
from data.pupils.chain import (
    LENGTH,
    PHASES,
    ROWS,
    SHARPENED,
    SIZE,
    short_way,
    write_chain,
    write_rounds,
)
from data.pupils.common import Document

__all__ = ["LENGTH", "PHASES", "ROWS", "SHARPENED", "SIZE", "write"]


def write(rng: random.Random, drills: float) -> Document:
    """A drill, as often as `drills` says, or a chain of any length."""
    return write_chain(rng, drills, answer)


def write_solution(drawn: Chain, rng: random.Random) -> str:
    """A completion as the pupil writes it."""
    return write_rounds(drawn, rng, answer)


def answer(kind: str, family: str, way: str, digit: int) -> tuple[str, int]:
    """No working, and the right digit or one too many."""
    after = chain.apply(kind, digit)
    return "", after if way == right_way(family) else (after + 1) % 10


def right_way(family: str) -> str:
    """The letter that goes with the right result: that which is short in the chains."""
    return short_way(family)
