"""The built-in task: multi-step arithmetic with mixed precedence, solved one operation a line.

A problem is an expression such as `7-2+3*4-5`. A solution rewrites it line by line, one operation at a time, and ends
with the boxed value. Two strategies look alike and differ in their value: reducing a multiplication first (right), and
reducing the leftmost operation first (wrong where a `+` or `-` stands before a `*`). Every number that either strategy
can meet lies in 0..99, so a small model can know all its facts and still choose badly: the room that RL has.
"""

import hashlib
import random
import re

OPERATORS = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}
PROMPT_TEMPLATE = "\n{problem}\n"  # a line like any other: the base finds its place by the line break before it
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
    states, seen = [expression], set()
    while states:
        state = states.pop()
        if "--" in state or state.startswith("-") or any(int(n) > LARGEST for n in re.findall(r"\d+", state)):
            return False
        if state not in seen and operators(state):
            seen.add(state)
            states += [reduce_at(state, 0), reduce_at(state, correct_index(state))]
    return True


def split_of(problem: str) -> str:
    """The one split a problem may stand in, by a hash of its text, so that base, train and test never overlap."""
    return ("base", "base", "train", "test")[hashlib.sha256(problem.encode()).digest()[0] % 4]


def sample_problem(rng: random.Random, terms: int, split: str) -> str:
    """A random expression of `terms` digits 2..9; in the splits "train" and "test" it holds two traps or more: places
    where a `+` or `-` must wait for the `*` behind it, as in `2+3*4`."""
    while True:
        digits = [str(rng.randint(2, 9)) for _ in range(terms)]
        signs = [rng.choice("+-*") for _ in range(terms - 1)]
        expression = digits[0] + "".join(s + d for s, d in zip(signs, digits[1:]))
        traps = len(re.findall(r"[-+]\d\*", expression))
        if split_of(expression) == split and (traps >= 2 or split == "base") and stays_in_range(expression):
            return expression


def problems(split: str, count: int, terms: tuple[int, int] = (5, 7), seed: int = 0) -> list[dict[str, str]]:
    """`count` different problems of `split` ("train" or "test") as rows with `id`, `problem` and `answer`."""
    rng = random.Random(f"{split}-{seed}")
    expressions: dict[str, None] = {}  # a dict keeps its order
    while len(expressions) < count:
        expressions[sample_problem(rng, rng.randint(*terms), split)] = None
    return [{"id": f"arithmetic/{split}/{i}", "problem": e, "answer": solve(e)} for i, e in enumerate(expressions)]
