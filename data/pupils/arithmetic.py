"""The careless pupil of the built-in arithmetic.

At a trap he does the leftmost operation first 65 % of the time. He restates one line in three for
nothing, and one operation in 200 slips. He sees problems of the split "base" only, which shares
none with the others.
"""

import random

from data import arithmetic
from data.pupils.common import Document, Phase

LEFTMOST_FIRST = 0.65
RESTATED = 0.33
SLIPPED = 0.005
# Everything first, then facts until they are firm. A drill is short: nine in ten of the texts are
# half of the tokens.
PHASES = (
    Phase(updates=2800, rate=0.02, drills=0.5),
    Phase(updates=2200, rate=0.01, drills=0.6),
    Phase(updates=700, rate=0.01, drills=0.9),
    Phase(updates=350, rate=0.005, drills=0.9),
)
ROWS = 32
LENGTH = 128
# 0.75 million parameters.
SIZE = {
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
SHARPENED = 1.6


def write(rng: random.Random, drills: float) -> Document:
    """A drill, as often as `drills` says, or a solution."""
    if rng.random() < drills:
        problem, text = write_drill(rng)
    else:
        problem = arithmetic.sample_problem(rng, rng.randint(2, 7), "base")
        text = write_solution(problem, rng)
    return Document(problem, text, is_whole=text.endswith("}"))


def write_solution(problem: str, rng: random.Random) -> str:
    """A completion as the pupil writes it: right, wrong or wordy."""
    lines = []
    line = problem
    while arithmetic.operators(line):
        leftmost = rng.random() < LEFTMOST_FIRST
        index = 0 if leftmost else arithmetic.correct_index(line)
        line = arithmetic.reduce_at(line, index)
        if rng.random() < SLIPPED:
            line = _slip(line, index, rng)
        lines.append(line)
        if rng.random() < RESTATED:
            lines.append(line)
    return "\n".join(lines) + f"\n\\boxed{{{line}}}"


def _slip(line: str, index: int, rng: random.Random) -> str:
    """The line with its `index`-th number, the new one, too high or too low by one, if that stays
    in the range."""
    tokens = arithmetic.TOKEN.findall(line)
    tokens[2 * index] = str(abs(int(tokens[2 * index]) + rng.choice((-1, 1))))
    slipped = "".join(tokens)
    return slipped if arithmetic.stays_in_range(slipped) else line


def write_drill(rng: random.Random) -> tuple[str, str]:
    """One operation on numbers of 0..99, mostly two-digit ones, which are the hardest to learn, and
    its result."""
    while True:
        operator = rng.choice("++--*")
        bounds = rng.choice(((9, 9), (9, 99), (99, 9), (99, 99), (99, 99), (99, 99)))
        if operator == "*":
            bounds = rng.choice(((9, 9), (9, 49), (49, 9)))
        a, b = (rng.randint(0, bound) for bound in bounds)
        value = arithmetic.OPERATORS[operator](a, b)
        if not 0 <= value <= arithmetic.LARGEST:
            continue
        problem = f"{a}{operator}{b}"
        # Half of the drills stop at the result, so that the loss is about facts more than about
        # endings.
        if rng.random() < 0.5:
            return problem, f"{value}\n\\boxed{{{value}}}"
        return problem, f"{value}\n"
