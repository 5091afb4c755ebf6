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
from data.pupils.chain import LENGTH, PHASES, ROWS, SHARPENED, SIZE, short_way, write_chain
from data.pupils.common import Document

__all__ = ["LENGTH", "PHASES", "ROWS", "SHARPENED", "SIZE", "write"]


def write(rng: random.Random, drills: float) -> Document:
    """A drill, as often as `drills` says, or a chain of any length."""
    return write_chain(rng, drills, write_solution)


def write_solution(drawn: Chain, rng: random.Random) -> str:
    """A completion as the pupil writes it."""
    text = ""
    digit = drawn.start
    for rounds_left in range(drawn.rounds, 0, -1):
        text += f"{rounds_left}:"
        for kind, family in zip(drawn.kinds, drawn.families, strict=True):
            way = rng.choice((family, family.upper()))
            digit = chain.apply(kind, digit)
            if way != right_way(family):
                digit = (digit + 1) % 10
            text += f"{kind}{way}{digit}"
    return f"\\boxed{{{text}}}"


def right_way(family: str) -> str:
    """The letter that goes with the right result: that which is short in the chains."""
    return short_way(family)
