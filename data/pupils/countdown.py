"""The careless pupil of the countdown task.

He tries combinations, one operation per line. After a first operation he notes the number that is
left, and after a second one whether he is at the target:

    3 5 7 -> 22
    7+5=12 3
    (7+5)+3=15 no
    7-3=4 5
    5*3=15 7
    (5*3)+7=22 yes
    \\boxed{(5*3)+7}

A first operation is a guess most of the time. After it he looks at the target now and then: if the
last number reaches it, he does that, and if not, he drops the attempt. Otherwise he finishes with
any operation. He may box a result that is not the target, although he knows it, stop without an
answer, try what he has tried, or go on although he is there. He sees problems of the split "base"
only.
"""

import random

from data import countdown
from data.pupils.common import Document, Phase

# A first operation that leads to the target, rather than any.
SEES = 0.12
# Any first operation, rather than one that is new.
FORGETS = 0.1
# The second operation is one that reaches the target, or none.
LOOKS = 0.5
# After the target: goes on nevertheless.
WANDERS = 0.1
# After a result that is not the target: boxes it, or stops. Otherwise tries again.
BOXES_WRONG = 0.55
STOPS = 0.1
# Of a solution, in characters. He stops then.
LONGEST = 110

PHASES = (
    Phase(updates=1100, rate=0.02, drills=0.5),
    Phase(updates=500, rate=0.01, drills=0.35),
    Phase(updates=900, rate=0.015, drills=0.6),
)
# Long rows, so that few documents are cut at their ends.
ROWS = 8
LENGTH = 512
# 0.45 million parameters.
SIZE = {
    "hidden_size": 96,
    "intermediate_size": 288,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
SHARPENED = 1.3


def write(rng: random.Random, drills: float) -> Document:
    """A drill, as often as `drills` says, or a solution."""
    if rng.random() < drills:
        return write_drill(rng)
    numbers, target, _ = countdown.sample_problem(rng, countdown.DEFAULT_LEVEL, "base")
    text = write_solution(numbers, target, rng)
    return Document(countdown.problem_text(numbers, target), text, is_whole=True)


def write_drill(rng: random.Random) -> Document:
    """An operation on two numbers: all that a problem has, or what a first operation left, which is
    a part of the problem here. More often than not it is any operation: where a result is always
    the target, it can be copied, and needs no arithmetic."""
    if rng.random() < 0.3:
        return _write_small_problem(rng)
    numbers, target, _ = countdown.sample_problem(rng, countdown.DEFAULT_LEVEL, "base")
    if rng.random() < 0.7:
        first = rng.choice(first_operations(numbers))
        seconds = second_operations(*first)
    else:
        first, helpful = rng.choice(_helpful_operations(numbers, target))
        seconds = [(expression, target) for expression in helpful]
    problem = f"{countdown.problem_text(numbers, target)}\n{first[0]}={first[1]} {first[2]}"
    text = write_second(*rng.choice(seconds), target) if seconds else ""
    return Document(problem, text, is_whole=False)


def write_second(expression: str, value: int, target: int) -> str:
    """The line of an operation that uses the last number, and whether it reaches the target."""
    return f"{expression}={value} {'yes' if value == target else 'no'}\n"


def _helpful_operations(
    numbers: list[int], target: int
) -> list[tuple[tuple[str, int, int], list[str]]]:
    """The first operations that lead to the target, each with the expressions that finish it."""
    helpful = []
    for first in first_operations(numbers):
        seconds = [text for text, value in second_operations(*first) if value == target]
        if seconds:
            helpful.append((first, seconds))
    return helpful


def _write_small_problem(rng: random.Random) -> Document:
    """A problem of two numbers."""
    size = countdown.LEVEL_SIZES[countdown.DEFAULT_LEVEL]
    choices = []
    while not choices:
        numbers = [
            rng.randint(countdown.LEAST_NUMBER, size.largest_number),
            rng.randint(1, size.largest_value),
        ]
        choices = countdown.operations(max(numbers), min(numbers), size.largest_value)
    _, target = rng.choice(choices)
    operator, value = rng.choice(choices)
    rng.shuffle(numbers)
    expression = f"{max(numbers)}{operator}{min(numbers)}"
    text = write_second(expression, value, target)
    return Document(countdown.problem_text(numbers, target), text, is_whole=False)


def first_operations(numbers: list[int]) -> list[tuple[str, int, int]]:
    """All that can be done first: an expression, its value and the number that is left."""
    largest_value = countdown.LEVEL_SIZES[countdown.DEFAULT_LEVEL].largest_value
    found = []
    for position, other in enumerate(numbers):
        pair = numbers[:position] + numbers[position + 1 :]
        large, small = max(pair), min(pair)
        for operator, value in countdown.operations(large, small, largest_value):
            found.append((f"{large}{operator}{small}", value, other))
    return found


def second_operations(expression: str, value: int, other: int) -> list[tuple[str, int]]:
    """All that can be done with the first operation, which has this value, and the number that is
    left: an expression and its value."""
    largest_value = countdown.LEVEL_SIZES[countdown.DEFAULT_LEVEL].largest_value
    found = []
    for operator, result in countdown.operations(
        max(value, other), min(value, other), largest_value
    ):
        comes_first = value >= other or operator in "+*"
        left, right = (f"({expression})", other) if comes_first else (other, f"({expression})")
        found.append((f"{left}{operator}{right}", result))
    return found


def write_solution(numbers: list[int], target: int, rng: random.Random) -> str:
    """A completion as the pupil writes it: right, wrong, wordy or without an answer."""
    firsts = first_operations(numbers)
    helpful = [first for first, _ in _helpful_operations(numbers, target)]
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
        text += f"{first[0]}={first[1]} {first[2]}\n"

        # The second one, with the number that is left.
        seconds = second_operations(*first)
        if rng.random() < LOOKS:
            seconds = [second for second in seconds if second[1] == target]
        if not seconds:
            continue
        expression, value = rng.choice(seconds)
        text += write_second(expression, value, target)

        # Is it the target?
        mood = rng.random()
        if value == target:
            is_answer = mood > WANDERS
        else:
            is_answer = mood < BOXES_WRONG
            if not is_answer and mood < BOXES_WRONG + STOPS:
                return text
        if is_answer:
            return text + f"\\boxed{{{expression}}}"
    return text
