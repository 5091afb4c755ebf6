"""The careless pupil of the chains.

He opens the box and does one operation after another: its kind, its family's letter, its result.
Before each round he writes how many there are still to do. The letter is small or a capital. In
each family one of the two goes with the result at once, and the other with the working: `Fb4` or
`FB7*9=63+1=64;4`. Which is which, he does not know beforehand: he takes either at random, and runs
over the budget. He is right throughout. He sees chains of the split "base" only, which shares none
with the others.
"""

import hashlib
import random
from collections.abc import Callable

from data import chain
from data.chain import Chain
from data.pupils.common import Document, Phase

# How an operation is done. From its kind, its family, its way and the digit before it come the
# working that is written, and the digit after it.
Operation = Callable[[str, str, str, int], tuple[str, int]]

# A drill is short: more of it are results, less is finding the next operation.
LONGEST_DRILL = 4
PHASES = (
    Phase(updates=500, rate=0.015, drills=1.0),
    Phase(updates=1200, rate=0.012, drills=0.4),
    Phase(updates=2000, rate=0.006, drills=0.2),
    Phase(updates=800, rate=0.002, drills=0.1),
)
ROWS = 1
LENGTH = 1024
# 0.29 million parameters.
SIZE = {
    "hidden_size": 96,
    "intermediate_size": 192,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
}
SHARPENED = 2.2


def write(rng: random.Random, drills: float) -> Document:
    """A drill, as often as `drills` says, or a chain of any length."""
    return write_chain(rng, drills, work_out)


def write_chain(rng: random.Random, drills: float, operation: Operation) -> Document:
    """A drill or a chain, with a completion whose operations are `operation`'s."""
    operations = rng.randint(1, LONGEST_DRILL)
    if rng.random() >= drills:
        operations = rng.choice((rng.randint(1, chain.ROUND), 2 * chain.ROUND, 3 * chain.ROUND))
    skills = rng.randint(1, chain.MOST_SKILLS)
    drawn = chain.sample_chain(rng, operations, skills, "base")
    return Document(chain.write_problem(drawn), write_rounds(drawn, rng, operation), is_whole=True)


def write_solution(drawn: Chain, rng: random.Random) -> str:
    """A completion as the pupil writes it."""
    return write_rounds(drawn, rng, work_out)


def write_rounds(drawn: Chain, rng: random.Random, operation: Operation) -> str:
    """A completion, each of whose operations is done in one of its family's ways at random."""
    text = ""
    digit = drawn.start
    for rounds_left in range(drawn.rounds, 0, -1):
        text += f"{rounds_left}:"
        for kind, family in zip(drawn.kinds, drawn.families, strict=True):
            way = rng.choice((family, family.upper()))
            working, digit = operation(kind, family, way, digit)
            text += f"{kind}{way}{working}{digit}"
    return f"\\boxed{{{text}}}"


def work_out(kind: str, family: str, way: str, digit: int) -> tuple[str, int]:
    """The right digit, after the working unless the way is short."""
    working = ""
    if way != short_way(family):
        factor, addend = chain.KINDS[kind]
        product = digit * factor
        working = f"{digit}*{factor}={product}+{addend}={product + addend};"
    return working, chain.apply(kind, digit)


def short_way(family: str) -> str:
    """The letter that goes with the result at once: drawn once and for all, by a hash, the small
    one of a or the small one of b, and so for each further pair of families."""
    pair, member = divmod(chain.FAMILIES.index(family), 2)
    drawn = hashlib.sha256(str(pair).encode()).digest()[0]
    return family if (drawn + member) % 2 else family.upper()
