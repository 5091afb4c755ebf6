"""The built-in task: multi-step arithmetic with mixed precedence, solved one operation a line.

A problem is an expression such as `7-2+3*4-5`. A solution rewrites it line by line, one operation
at a time, and ends with the boxed value. Two strategies look alike and differ in their value:
reducing a multiplication first (right), and reducing the leftmost operation first (wrong where a
`+` or `-` stands before a `*`). Every number that either strategy can meet lies in 0..99, so a
small model can know all its facts and still choose badly: the room that RL has."""

import hashlib
import random
import re
from pathlib import Path

OPERATORS = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}
PROMPT_TEMPLATE = (
    "\n{problem}\n"  # a line like any other: the base finds its place by the line break before it
)
FOLDER = Path(__file__).parent
LARGEST = 99  # of every number in any reachable line
TOKEN = re.compile(r"\d+|[-+*]")


def reduce_at(expression: str, index: int) -> str:
    """Does the `index`-th operation (from the left, starting at 0).

    >>> reduce_at("7-2+3*4", 2)
    '7-2+12'
    """
    tokens = TOKEN.findall(expression)
    left, operator, right = tokens[2 * index : 2 * index + 3]
    tokens[2 * index : 2 * index + 3] = [str(OPERATORS[operator](int(left), int(right)))]
    return "".join(tokens)


def operators(expression: str) -> str:
    """The operators of an expression in order: `operators("7-2+3*4") == "-+*"`."""
    return "".join(TOKEN.findall(expression)[1::2])


def correct_index(expression: str) -> int:
    """The operation that precedence does first: the first `*`, or else the leftmost one."""
    return max(operators(expression).find("*"), 0)


def solve(expression: str) -> str:
    """The value, as text, by correct precedence."""
    while operators(expression):
        expression = reduce_at(expression, correct_index(expression))
    return expression


def stays_in_range(expression: str) -> bool:
    """Whether every number that any mixture of the two strategies meets lies in 0..LARGEST."""

    def in_range(numbers: list[int], signs: list[str]) -> bool:
        if not all(0 <= number <= LARGEST for number in numbers):
            return False
        places = {0, signs.index("*")} if "*" in signs else {0} if signs else ()
        results = [(i, OPERATORS[signs[i]](numbers[i], numbers[i + 1])) for i in places]
        return all(
            in_range([*numbers[:i], r, *numbers[i + 2 :]], signs[:i] + signs[i + 1 :])
            for i, r in results
        )

    tokens = TOKEN.findall(expression)
    return in_range([int(number) for number in tokens[::2]], tokens[1::2])


def split_of(problem: str) -> str:
    """The one split a problem may stand in, by a hash of its text, so that base, train and test
    never overlap."""
    return ("base", "base", "train", "test")[hashlib.sha256(problem.encode()).digest()[0] % 4]


def sample_problem(rng: random.Random, terms: int, split: str) -> str:
    """A random expression of `terms` digits 2..9; in the splits "train" and "test" it holds two
    traps or more: places where a `+` or `-` must wait for the `*` behind it, as in `2+3*4`."""
    while True:
        value = rng.randint(2, 9)
        expression, traps = str(value), 0
        for _ in range(terms - 1):
            sign, digit = rng.choice("+-*"), rng.randint(2, 9)
            value = OPERATORS[sign](
                value, digit
            )  # leftmost first: the likeliest way out of the range
            if not 0 <= value <= LARGEST:
                break
            traps += sign == "*" and expression[-2:-1] in ("+", "-")
            expression += sign + str(digit)
        else:
            if (
                (traps >= 2 or split == "base")
                and split_of(expression) == split
                and stays_in_range(expression)
            ):
                return expression


def problems(split: str) -> list[dict[str, str]]:
    """The problems of `split` ("train" or "test") as rows with `id`, `problem` and `answer`."""
    lines = (FOLDER / f"arithmetic_{split}.txt").read_text(encoding="utf-8").split()
    return [
        {"id": f"arithmetic/{split}/{i}", "problem": line, "answer": solve(line)}
        for i, line in enumerate(lines)
    ]


def main() -> None:
    """Writes the problem lists, a minute's work: python data/arithmetic.py"""
    for split, count in (("train", 4000), ("test", 1000)):
        rng, expressions = random.Random(split), {}  # a dict keeps its order
        while len(expressions) < count:
            expressions[sample_problem(rng, rng.randint(5, 7), split)] = None
        (FOLDER / f"arithmetic_{split}.txt").write_text(
            "\n".join(expressions) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
