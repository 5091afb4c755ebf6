r"""The countdown task: reach a target with the given numbers, each used exactly once, by + - * /.

A problem is written `3 5 7 -> 22`, and \boxed{3*5+7} is one of its right answers. Any expression
that has the target's value, exactly, and uses each given number once is right. A level says how
many numbers there are. Problems are drawn when they are asked for, always the same ones. The order
of the numbers does not count: the numbers and the target decide which split a problem is in, so
that no split shares a problem with another at any level.
"""

import random
import re
from fractions import Fraction
from typing import NamedTuple

from answers.extract import extract_answer
from data import splits
from run.errors import BadInput

__all__ = ["LEVELS", "PROMPT_TEMPLATE", "answer", "problems", "prompt", "score"]

# Around the question, for tokenizers without a chat template.
PROMPT_TEMPLATE = (
    "{problem} Use nothing but + - * / and parentheses. Put the final expression within "
    "\\boxed{}, such as \\boxed{(3+5)*7}.\nSolution:"
)
SYSTEM_PROMPT = (
    "You solve number puzzles. Please reason step by step: try combinations of the numbers until "
    "one fits, and put the final expression within \\boxed{}, such as \\boxed{(3+5)*7}. It uses "
    "each of the given numbers exactly once, and nothing but + - * / and parentheses."
)


class Level(NamedTuple):
    """The problems of one level. They can be solved without fractions and negative numbers."""

    largest_number: int
    least_target: int
    largest_value: int  # of any intermediate result, and of the target


LEVEL_SIZES = {
    3: Level(largest_number=20, least_target=1, largest_value=99),
    4: Level(largest_number=50, least_target=10, largest_value=99),
    5: Level(largest_number=100, least_target=100, largest_value=999),
    6: Level(largest_number=100, least_target=100, largest_value=999),
}
DEFAULT_LEVEL = 3
LEVELS = "3 to 6 numbers; default 3"
COUNTS = {"train": 4000, "test": 1000}
# Half of the problems are for the tiny base.
SPLITS = ("base", "base", "base", "base", "train", "train", "train", "test")
LEAST_NUMBER = 2

# Of an answer, in characters, and of a number in it, in digits.
MAX_LENGTH = 300
MAX_DIGITS = 4


# --- The task ---


def problems(split: str, level: str | None = None) -> list[dict]:
    """The problems of `split` ("train" or "test") as rows with `id`, `problem`, `answer` (one right
    expression), `numbers` and `target`.

    Raises:
        BadInput: no such level.
    """
    count = DEFAULT_LEVEL if level is None else _level(level)
    rng = random.Random(f"countdown {count} {split}")
    # The keys tell equal problems apart from new ones: the numbers in order, and the target.
    drawn: dict[tuple, tuple] = {}
    while len(drawn) < COUNTS[split]:
        numbers, target, expression = sample_problem(rng, count, split)
        drawn.setdefault((*sorted(numbers), target), (numbers, target, expression))
    # Common problems come early. A slice is to be like the whole.
    puzzles = list(drawn.values())
    rng.shuffle(puzzles)
    return [
        {
            "id": f"countdown/{count}/{split}/{i}",
            "problem": problem_text(numbers, target),
            "answer": expression,
            "numbers": numbers,
            "target": target,
        }
        for i, (numbers, target, expression) in enumerate(puzzles)
    ]


def _level(text: str) -> int:
    """How many numbers a level's name asks for."""
    for count in LEVEL_SIZES:
        if text == str(count):
            return count
    raise BadInput(f"countdown:{text}: no such level; there are {LEVELS}")


def prompt(row: dict) -> list[dict[str, str]]:
    """The problem in words, as chat messages."""
    numbers = ", ".join(map(str, row["numbers"]))
    question = f"Use the numbers {numbers}, each exactly once, to make {row['target']}."
    return [{"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": question}]


def answer(completion: str) -> str | None:
    r"""The expression that a completion commits to, as Python would write it, without spaces and
    without parentheses that change nothing. None if there is none.

    >>> answer(r"So \boxed{\left(3 \times 5\right) + 7 = 22}.")
    '3*5+7'
    """
    result = _committed(completion)
    return None if result is None else result.text


def score(completion: str, row: dict) -> float:
    r"""1.0 if the expression has the target's value and uses each number exactly once, else 0.0.

    >>> row = {"numbers": [3, 5, 7], "target": 22}
    >>> score(r"\boxed{7 + 5 \cdot 3}", row), score(r"\boxed{22}", row)
    (1.0, 0.0)
    """
    result = _committed(completion)
    if result is None or result.value != row["target"]:
        return 0.0
    return float(sorted(result.numbers) == sorted(row["numbers"]))


def _committed(completion: str) -> "Result | None":
    """The expression that a completion commits to, worked out."""
    text = extract_answer(completion)
    return None if text is None else read_expression(text)


# --- Problems ---


def problem_text(numbers: list[int], target: int) -> str:
    """
    >>> problem_text([3, 5, 7], 22)
    '3 5 7 -> 22'
    """
    return f"{' '.join(map(str, numbers))} -> {target}"


def split_of(numbers: list[int], target: int) -> str:
    """The one split that a problem may be in, whatever the order of its numbers."""
    return splits.split_of(problem_text(sorted(numbers), target), SPLITS)


def sample_problem(rng: random.Random, count: int, split: str) -> tuple[list[int], int, str]:
    """Random numbers, a target that can be reached, and an expression that reaches it."""
    size = LEVEL_SIZES[count]
    while True:
        numbers = [rng.randint(LEAST_NUMBER, size.largest_number) for _ in range(count)]
        result = _random_expression(rng, numbers, size.largest_value)
        if result is None or result.value < size.least_target:
            continue
        target = int(result.value)
        if split_of(numbers, target) == split:
            return numbers, target, result.text


def _random_expression(rng: random.Random, numbers: list[int], largest: int) -> "Result | None":
    """All numbers combined in a random way; None where that left 1..largest."""
    terms = [number_result(number) for number in numbers]
    rng.shuffle(terms)
    while len(terms) > 1:
        # Two random terms; the larger one comes first.
        right, left = sorted((terms.pop(), terms.pop()), key=lambda term: term.value)
        choices = operations(int(left.value), int(right.value), largest)
        if not choices:
            return None
        operator, _ = rng.choice(choices)
        terms.insert(rng.randint(0, len(terms)), combined(left, operator, right))
    return terms[0]


def operations(left: int, right: int, largest: int) -> list[tuple[str, int]]:
    """The operations on two numbers, the larger one first, whose value is whole and in 1..largest,
    each with its value.

    >>> operations(15, 5, 99)
    [('+', 20), ('-', 10), ('*', 75), ('/', 3)]
    """
    choices = []
    if left + right <= largest:
        choices.append(("+", left + right))
    if left > right:
        choices.append(("-", left - right))
    if left * right <= largest:
        choices.append(("*", left * right))
    if left % right == 0:
        choices.append(("/", left // right))
    return choices


# --- Expressions ---


class Result(NamedTuple):
    """An expression, worked out."""

    value: Fraction
    text: str
    # Of the operation that is done last. Parentheses keep one that binds less tightly together.
    tightness: int
    numbers: tuple[int, ...]


TIGHTNESS = {"+": 1, "-": 1, "*": 2, "/": 2}
# Of a negated number, which gets parentheses wherever it stands in another expression.
NEGATED = 0
NUMBER = 3


def number_result(number: int) -> Result:
    """A number as an expression."""
    return Result(Fraction(number), str(number), NUMBER, (number,))


def combined(left: Result, operator: str, right: Result) -> Result:
    """Two expressions as one, with parentheses only where they change the value.

    >>> combined(number_result(7), "-", combined(number_result(5), "-", number_result(3))).text
    '7-(5-3)'

    Raises:
        ZeroDivisionError: the right one is 0, and it divides.
    """
    tightness = TIGHTNESS[operator]
    if operator == "+":
        value = left.value + right.value
    elif operator == "-":
        value = left.value - right.value
    elif operator == "*":
        value = left.value * right.value
    else:
        value = left.value / right.value

    # 7+(5-3) is 7+5-3, but 7-(5-3) is not 7-5-3.
    right_needs = tightness + 1 if operator in "-/" else tightness
    left_text = left.text if left.tightness >= tightness else f"({left.text})"
    right_text = right.text if right.tightness >= right_needs else f"({right.text})"
    text = left_text + operator + right_text
    return Result(value, text, tightness, left.numbers + right.numbers)


def negated(operand: Result) -> Result:
    """An expression with a minus before it."""
    text = operand.text if operand.tightness == NUMBER else f"({operand.text})"
    return Result(-operand.value, f"-{text}", NEGATED, operand.numbers)


# --- Reading expressions ---

TOKEN = re.compile(r"[0-9]+|\\[a-zA-Z]+|\\?[^a-zA-Z0-9]|[a-zA-Z]", re.DOTALL)
# What stands for an ASCII sign.
SIGNS = {
    **dict.fromkeys(["\\times", "\\cdot", "\\ast", "×", "·", "⋅", "∙", "∗", "x", "X"], "*"),
    **dict.fromkeys(["\\div", "÷", ":", "∕", "⁄"], "/"),
    **dict.fromkeys(["−", "–"], "-"),
    **dict.fromkeys(["[", "\\{", "\\lbrack"], "("),
    **dict.fromkeys(["]", "\\}", "\\rbrack"], ")"),
    **dict.fromkeys(["\\dfrac", "\\tfrac"], "\\frac"),
}
PLAIN_SIGNS = {*"+-*/()"}
NUMERATOR_CLOSES = ")/"
# What leaves the value as it is.
LAYOUT = {"$", "`", "~", "\\left", "\\right", "\\big", "\\bigl", "\\bigr", "\\Big", "\\Bigl"}
LAYOUT |= {"\\Bigr", "\\displaystyle", "\\text", "\\mathrm", "\\quad", "\\,", "\\;", "\\:", "\\!"}
LAYOUT |= {"\\ ", "\\(", "\\)", "\\[", "\\]"}


class Unreadable(ValueError):
    """A text that is no expression."""


def read_expression(text: str) -> Result | None:
    r"""The expression of an answer, worked out; None if it is none, or too long.

    Sides of an equation are all read. They must agree, and the first one that is more than a number
    is the expression.

    >>> read_expression(r"22 = \frac{30}{2} + 7").text
    '30/2+7'
    >>> read_expression("3*5+7 = 23") is None
    True
    """
    if len(text) > MAX_LENGTH:
        return None
    sides = text.strip().rstrip(".,;").split("=")
    try:
        results = [_evaluate(_plain_tokens(side)) for side in sides]
    except (Unreadable, ZeroDivisionError):
        return None
    if any(result.value != results[0].value for result in results):
        return None
    expressions = [result for result in results if result.tightness < NUMBER]
    return (expressions or results)[0]


def _plain_tokens(text: str) -> list[str]:
    r"""Numbers, + - * / and parentheses. A \frac{a}{b} becomes ((a)/(b)).

    Raises:
        Unreadable: anything else.
    """
    tokens = [SIGNS.get(token, token) for token in TOKEN.findall(text)]
    tokens = [token for token in tokens if token not in LAYOUT and not token.isspace()]
    plain: list[str] = []
    # What closes each open brace, from the outermost one on.
    closing: list[str] = []
    for before, token, after in zip(["", *tokens], tokens, [*tokens[1:], ""]):
        if token == "\\frac":
            # 3\frac{1}{2} is either a product or a mixed number.
            if after != "{" or before.isdigit():
                raise Unreadable
            plain.append("(")
        elif token == "{":
            plain.append("(")
            closing.append(_closing_of_brace(before, plain))
        elif token == "}":
            if not closing or (closing[-1] == NUMERATOR_CLOSES and after != "{"):
                raise Unreadable
            plain += closing.pop()
        elif token in PLAIN_SIGNS or (token.isascii() and token.isdigit()):
            plain.append(token)
        else:
            raise Unreadable
    if closing:
        raise Unreadable
    return plain


def _closing_of_brace(before: str, plain: list[str]) -> str:
    r"""What will stand for the } of a brace, which is that of a numerator, of a denominator or of
    neither: the token before it tells, and what was read so far, with its own ( at the end."""
    if before == "\\frac":
        return NUMERATOR_CLOSES
    if before == "}" and plain[-2] == "/":
        return "))"
    return ")"


def _marked(tokens: list[str]) -> list[str]:
    """The same expression with nothing left to guess: a minus that negates is ~, a plus that does
    nothing is gone, and there is a * in 3(5+7).

    Raises:
        Unreadable: a number or an operation is missing.
    """
    marked = []
    # Whether the last token ended an operand.
    has_operand = False
    for token in tokens:
        begins_an_operand = token == "(" or token.isdigit()
        if begins_an_operand and has_operand:
            if token != "(":
                raise Unreadable
            marked.append("*")
        if begins_an_operand:
            marked.append(token)
            has_operand = token != "("
        elif has_operand:
            marked.append(token)
            has_operand = token == ")"
        elif token == "-":
            marked.append("~")
        elif token != "+":
            raise Unreadable
    if not has_operand:
        raise Unreadable
    return marked


def _evaluate(tokens: list[str]) -> Result:
    """Works an expression out by operator precedence, with two stacks and no recursion.

    Raises:
        Unreadable: parentheses that don't match, or a number that is too long.
        ZeroDivisionError: it divides by 0.
    """
    operands: list[Result] = []
    # Signs and open parentheses that wait for their right operand.
    waiting: list[str] = []
    for token in _marked(tokens):
        if token.isdigit():
            if len(token) > MAX_DIGITS:
                raise Unreadable
            operands.append(number_result(int(token)))
        elif token in ("(", "~"):
            waiting.append(token)
        elif token == ")":
            _do_waiting(operands, waiting, 0)
            if not waiting:
                raise Unreadable
            waiting.pop()
        else:
            _do_waiting(operands, waiting, TIGHTNESS[token])
            waiting.append(token)
    _do_waiting(operands, waiting, 0)
    if waiting:
        raise Unreadable
    return operands[0]


def _do_waiting(operands: list[Result], waiting: list[str], tightness: int) -> None:
    """Does what waits since the last open parenthesis and binds at least as tightly."""
    while waiting and waiting[-1] != "(":
        if waiting[-1] == "~":
            waiting.pop()
            operands.append(negated(operands.pop()))
        elif TIGHTNESS[waiting[-1]] >= tightness:
            right = operands.pop()
            left = operands.pop()
            operands.append(combined(left, waiting.pop(), right))
        else:
            return
