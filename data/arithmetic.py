"""The built-in task: multi-step arithmetic with mixed precedence, solved one operation per line.

    python -m data.arithmetic     # writes the problem lists again, a minute's work

A problem is an expression such as `7-2+3*4-5`. A solution rewrites it line by line, one operation
at a time, and ends with the boxed value. Two strategies look alike and differ in their value:
reducing a multiplication first (right), and reducing the leftmost operation first (wrong where a
`+` or `-` stands before a `*`). Every number that either strategy can meet lies in 0..99, so a
small model can know all its facts and still choose badly: the room that RL has.
"""

import argparse
import random
import re
from pathlib import Path

# An answer is found and graded as in mathematics.
from data.mathematics import answer, score
from data.splits import split_of
from data.tiny_bases import PROMPT_TEMPLATE

__all__ = ["answer", "problems", "prompt", "score"]

OPERATORS = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}
FOLDER = Path(__file__).parent
# Of every number in any reachable line.
LARGEST = 99
TOKEN = re.compile(r"\d+|[-+*]")


# --- The task ---


def problems(split: str) -> list[dict[str, str]]:
    """The problems of `split` ("train" or "test") as rows with `id`, `problem` and `answer`."""
    lines = (FOLDER / f"arithmetic_{split}.txt").read_text(encoding="utf-8").split()
    return [
        {"id": f"arithmetic/{split}/{i}", "problem": line, "answer": solve(line)}
        for i, line in enumerate(lines)
    ]


def prompt(row: dict) -> str:
    """The text that a solution continues."""
    return PROMPT_TEMPLATE.replace("{problem}", row["problem"])


# --- Expressions ---


def reduce_at(expression: str, index: int) -> str:
    """Does the `index`-th operation (from the left, starting at 0).

    >>> reduce_at("7-2+3*4", 2)
    '7-2+12'
    """
    tokens = TOKEN.findall(expression)
    operation = slice(2 * index, 2 * index + 3)
    left, operator, right = tokens[operation]
    tokens[operation] = [str(OPERATORS[operator](int(left), int(right)))]
    return "".join(tokens)


def operators(expression: str) -> str:
    """The operators of an expression in order.

    >>> operators("7-2+3*4")
    '-+*'
    """
    return "".join(TOKEN.findall(expression)[1::2])


def correct_index(expression: str) -> int:
    """The operation that precedence does first: the first `*`, or else the leftmost one."""
    return max(operators(expression).find("*"), 0)


def solve(expression: str) -> str:
    """The value, as text, by correct precedence.

    >>> solve("7-2+3*4")
    '17'
    """
    while operators(expression):
        expression = reduce_at(expression, correct_index(expression))
    return expression


def stays_in_range(expression: str) -> bool:
    """Whether every number that any mixture of the two strategies meets lies in 0..LARGEST.

    >>> stays_in_range("9*9+9"), stays_in_range("2-3*4")  # precedence meets 12, and then -10
    (True, False)
    """
    tokens = TOKEN.findall(expression)
    numbers = [int(number) for number in tokens[::2]]
    return _in_range(numbers, tokens[1::2])


def _in_range(numbers: list[int], signs: list[str]) -> bool:
    """`stays_in_range` of the expression with these numbers and the signs between them."""
    if not all(0 <= number <= LARGEST for number in numbers):
        return False
    if not signs:
        return True

    # The operations that one of the strategies would do next.
    candidates = {0}
    if "*" in signs:
        candidates.add(signs.index("*"))
    for i in candidates:
        result = OPERATORS[signs[i]](numbers[i], numbers[i + 1])
        numbers_after = [*numbers[:i], result, *numbers[i + 2 :]]
        signs_after = signs[:i] + signs[i + 1 :]
        if not _in_range(numbers_after, signs_after):
            return False
    return True


# --- The problem lists ---


def sample_problem(rng: random.Random, terms: int, split: str) -> str:
    """A random expression of `terms` digits 2..9. In the splits "train" and "test" it holds two
    traps or more: a `+` or `-` that must wait for the `*` after it, as in `2+3*4`."""
    while True:
        expression, traps = _random_expression(rng, terms)
        if expression is None or split_of(expression) != split:
            continue
        is_hard_enough = traps >= 2 or split == "base"
        if is_hard_enough and stays_in_range(expression):
            return expression


def _random_expression(rng: random.Random, terms: int) -> tuple[str | None, int]:
    """A random expression and its traps; None once its value, leftmost operation first, leaves the
    range: the likeliest way out of it."""
    value = rng.randint(2, 9)
    expression = str(value)
    traps = 0
    for _ in range(terms - 1):
        sign = rng.choice("+-*")
        digit = rng.randint(2, 9)
        # The value by the leftmost operation first.
        value = OPERATORS[sign](value, digit)
        if not 0 <= value <= LARGEST:
            return None, 0
        # A trap: the digit before this `*` came after a `+` or `-`.
        traps += sign == "*" and expression[-2:-1] in ("+", "-")
        expression += sign + str(digit)
    return expression, traps


def main() -> None:
    """Writes the problem lists."""
    argparse.ArgumentParser(description="Writes the problem lists anew.").parse_args()
    for split, count in (("train", 4000), ("test", 1000)):
        rng = random.Random(split)
        # The keys of a dict: distinct, and in the order in which they came.
        expressions: dict[str, None] = {}
        while len(expressions) < count:
            expressions[sample_problem(rng, rng.randint(5, 7), split)] = None
        path = FOLDER / f"arithmetic_{split}.txt"
        path.write_text("\n".join(expressions) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
