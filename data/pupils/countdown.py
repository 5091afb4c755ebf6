"""The careless pupil of the countdown task.

He tries combinations, one operation per line, and boxes the one that he takes for right:

    3 5 7 -> 22
    7+5=12
    5*3=15
    15+7=22
    \\boxed{(5*3)+7}

A first operation is a guess most of the time. After it he looks at the target now and then: if the
last number reaches it, he does that, and if not, he drops the attempt. Otherwise he finishes with
any operation. He may box a result that is not the target, stop without an answer, try what he has
tried, or go on although he is there. He sees problems of the split "base" only.
"""

import random

from data import countdown
from data.pupils.common import Document, Phase

# A first operation that leads to the target, rather than any.
SEES = 0.05
# Any first operation, rather than one that is new.
FORGETS = 0.15
# The second operation is one that reaches the target, or none.
LOOKS = 0.25
# After the target: goes on nevertheless.
WANDERS = 0.2
# After a result that is not the target: boxes it, or stops. Otherwise tries again.
BOXES_WRONG = 0.5
STOPS = 0.1
# Of a solution, in characters. He stops then.
LONGEST = 90

PHASES = (Phase(updates=1000, rate=0.02, drills=0.4), Phase(updates=500, rate=0.01, drills=0.4))
ROWS = 32
LENGTH = 128
SIZE = {
    "hidden_size": 128,
    "intermediate_size": 320,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
SHARPENED = 1.2


def write(rng: random.Random, drills: float) -> Document:
    """A drill, as often as `drills` says, or a solution."""
    if rng.random() < drills:
        return write_drill(rng)
    numbers, target, _ = countdown.sample_problem(rng, countdown.DEFAULT_LEVEL, "base")
    text = write_solution(numbers, target, rng)
    return Document(countdown.problem_text(numbers, target), text, is_whole=True)


def write_drill(rng: random.Random) -> Document:
    """Two numbers only, and the operation that reaches the target."""
    size = countdown.LEVEL_SIZES[countdown.DEFAULT_LEVEL]
    choices = []
    while not choices:
        small = rng.randint(countdown.LEAST_NUMBER, size.largest_number)
        large = rng.randint(1, size.largest_value)
        choices = second_operations(small, large)
    line, _, value = rng.choice(choices)
    numbers = rng.sample((small, large), 2)
    return Document(countdown.problem_text(numbers, value), f"{line}\n", is_whole=False)


def first_operations(numbers: list[int]) -> list[tuple[str, str, int, int]]:
    """All that can be done first: a line, its expression, its value and the number that is left."""
    largest_value = countdown.LEVEL_SIZES[countdown.DEFAULT_LEVEL].largest_value
    found = []
    for position, other in enumerate(numbers):
        pair = numbers[:position] + numbers[position + 1 :]
        large, small = max(pair), min(pair)
        for operator, value in countdown.operations(large, small, largest_value):
            expression = f"{large}{operator}{small}"
            found.append((f"{expression}={value}", expression, value, other))
    return found


def second_operations(first: int, other: int) -> list[tuple[str, str, int]]:
    """All that can be done with the value of the first operation and the number that is left: a
    line, an expression in which {} stands for the first operation's, and the value."""
    largest_value = countdown.LEVEL_SIZES[countdown.DEFAULT_LEVEL].largest_value
    large, small = max(first, other), min(first, other)
    found = []
    for operator, value in countdown.operations(large, small, largest_value):
        shape = f"({{}}){operator}{other}" if first == large else f"{other}{operator}({{}})"
        found.append((f"{large}{operator}{small}={value}", shape, value))
    return found


def write_solution(numbers: list[int], target: int, rng: random.Random) -> str:
    """A completion as the pupil writes it: right, wrong, wordy or without an answer."""
    firsts = first_operations(numbers)
    helpful = [
        first
        for first in firsts
        if any(value == target for _, _, value in second_operations(first[2], first[3]))
    ]
    new = list(firsts)
    rng.shuffle(new)
    text = ""
    while len(text) < LONGEST:
        # The first operation.
        if rng.random() < SEES:
            first = rng.choice(helpful)
        elif rng.random() < FORGETS or not new:
            first = rng.choice(firsts)
        else:
            first = new[-1]
        if first in new:
            new.remove(first)
        line, expression, value, other = first
        text += f"{line}\n"

        # The second one.
        seconds = second_operations(value, other)
        if rng.random() < LOOKS:
            seconds = [second for second in seconds if second[2] == target]
        if not seconds:
            continue
        line, shape, value = rng.choice(seconds)
        text += f"{line}\n"

        # Is it the target?
        mood = rng.random()
        if value == target:
            is_answer = mood > WANDERS
        else:
            is_answer = mood < BOXES_WRONG
            if not is_answer and mood < BOXES_WRONG + STOPS:
                return text
        if is_answer:
            return text + f"\\boxed{{{shape.format(expression)}}}"
    return text
