"""Whether two answers are equal: by spelling and structure first, by value with sympy where nothing
simpler decides.

An answer is parsed once into a kind (parse.py): a list, a tuple, an inequality, an equation or one
value. Two kinds are compared by the function for them, which compares their parts in turn, down to
single values. Plain numbers, words, choices and units are settled here, in microseconds. Only what
is left, expressions and equations that are spelled differently, is compared by value (value.py)."""

import re
from fractions import Fraction

from answers.latex import MAX_ANSWER, clean
from answers.parse import (
    LETTER,
    RELATION,
    Answer,
    Collection,
    Entries,
    Equation,
    Kind,
    Quantity,
    Region,
    bracketed,
    is_constant,
    parse,
    read_number,
    read_quantity,
    states_a_result,
    values_by_name,
)
from answers.units import PERCENT, same_unit
from answers.value import BadGold, same_value

__all__ = ["MAX_ANSWER", "BadGold", "Undecided", "equal"]


class Undecided(Exception):
    """Only a comparison by value can tell: this pair needs a worker."""


def equal(answer: str | None, gold: str, by_value: bool) -> bool:
    """Whether an extracted answer equals the gold answer, both as written.

    Args:
        by_value: compare with sympy where nothing simpler decides; may hang on hostile input.

    Raises:
        Undecided: not `by_value`, and only a value can decide. BadGold: no grammar reads the gold
            answer.
    """
    if answer is None or len(answer) > MAX_ANSWER:
        return answer is not None and answer.strip() == gold.strip()
    return _equal(clean(answer), clean(gold), by_value)


def _same_by_value(answer: str, gold: str, by_value: bool) -> bool:
    if not by_value:
        raise Undecided
    return same_value(answer, gold)


def _key(text: str) -> str:
    """What is left of a cleaned answer when spaces and needless braces don't count; a space between
    digits does."""
    return re.sub(r"\{(\w)\}", r"\1", re.sub(r"(?<!\d) | (?!\d)", "", text))


def _equal(answer_text: str, gold_text: str, by_value: bool) -> bool:
    """Whether two cleaned answers, or parts of them, are equal."""
    if _key(answer_text) == _key(gold_text):
        return True
    answer = parse(answer_text)
    gold = parse(gold_text)
    # A remark (k \in \mathbb{Z}) or a name (x \in (1, 2)) may be left out, but two must agree.
    if answer.remark and gold.remark and answer.remark != gold.remark:
        return False
    if _is_other_name(answer.name, gold.name):
        return False
    # Several choices: "A, C" and "AC". A single one is a single value.
    if answer.letters and gold.letters:
        return answer.letters == gold.letters
    if _is_denied(answer.text, gold.text):
        return False
    return _compare_kinds(answer, gold, by_value)


def _is_other_name(name: str, gold: str) -> bool:
    r"""Whether both are names of variables (x \in) or both of values (v =), and differ."""
    same_kind = name[-1:] == gold[-1:] != ""
    return same_kind and name != gold


def _is_denied(answer: str, gold: str) -> bool:
    r"""A guess ("5? 6?"), or a negation that only one of them has: \neq 3 is not 3."""
    is_guess = "?" in answer and "?" not in gold
    return is_guess or answer.count("\\ne") != gold.count("\\ne")


def _compare_kinds(answer: Answer, gold: Answer, by_value: bool) -> bool:
    """The comparison for these two kinds. Lists come first, since their members are of any kind."""
    kinds = (answer.kind, gold.kind)
    for has_kind, compare in _COMPARISONS:
        if any(isinstance(kind, has_kind) for kind in kinds):
            return compare(answer, gold, by_value)
    return _same_single(answer.text, gold.text, by_value)


def _all_equal(answers: list[str], golds: list[str], by_value: bool) -> bool:
    """Whether two lists hold equal values in the same order."""
    return len(answers) == len(golds) and all(
        _equal(answer, gold, by_value) for answer, gold in zip(answers, golds)
    )


# --- Lists and sets ---


def _same_in_any_order(answers: list[str], golds: list[str], by_value: bool) -> bool:
    if len(answers) != len(golds):
        return False
    unmatched = list(answers)
    for gold in golds:
        at = next((i for i, one in enumerate(unmatched) if _equal(one, gold, by_value)), None)
        if at is None:
            return False
        del unmatched[at]
    return True


def _compare_collections(answer: Answer, gold: Answer, by_value: bool) -> bool:
    """Where at least one of the two is a list or a set."""
    if isinstance(answer.kind, Entries) or isinstance(gold.kind, Entries):
        by_name = _tuple_by_name(answer.kind, gold.kind)
        if by_name:
            return _all_equal(*by_name, by_value)
    if not isinstance(gold.kind, Collection):
        return _is_one_value(answer, gold, by_value)
    if ("\\cap" in answer.text) != ("\\cap" in gold.text):
        return False
    if not isinstance(answer.kind, Collection):
        return _same_in_any_order([answer.text], gold.kind.values, by_value)
    return _same_lists(answer, gold, by_value)


def _same_lists(answer: Answer, gold: Answer, by_value: bool) -> bool:
    """Two lists. The name that all members have (x = 1, x = 2) may be left out in one of them."""
    said, expected = answer.kind, gold.kind
    if said.name and expected.name:
        same_name = said.name == expected.name
        return same_name and _same_in_any_order(said.values, expected.values, by_value)
    if said.name and "=" not in gold.text:
        return _same_in_any_order(said.values, expected.members, by_value)
    if expected.name and "=" not in answer.text:
        return _same_in_any_order(said.members, expected.values, by_value)
    return _same_in_any_order(said.members, expected.members, by_value)


def _is_one_value(answer: Answer, gold: Answer, by_value: bool) -> bool:
    """A list for a gold answer with one value: "1/2 or 0.5", or x \\in \\{5\\}."""
    members = answer.kind.members
    if len(members) == 1:
        members = answer.kind.values
    once = len(members) == 1 or " or " in answer.text
    return once and all(_equal(member, gold.text, by_value) for member in members)


def _tuple_by_name(answer: Kind, gold: Kind) -> tuple[list[str], list[str]] | None:
    """The values of a tuple and of "x = 1, y = 2" in one order; None where the list has no names,
    or others than the tuple."""
    entries, listed = (answer, gold) if isinstance(answer, Entries) else (gold, answer)
    values = values_by_name(listed.members)
    if len(values) != len(entries.cells):
        return None
    cells = entries.cells
    if entries.names:  # (x, y) = (1, 2)
        cells = values_by_name([f"{n} = {cell}" for n, cell in zip(entries.names, cells)])
        if _names_of(listed) != sorted(entries.names):
            return None
    return (cells, values) if entries is answer else (values, cells)


def _names_of(listed: Collection) -> list[str]:
    return sorted(member.partition("=")[0].strip() for member in listed.members)


# --- Inequalities ---


def _compare_regions(answer: Answer, gold: Answer, by_value: bool) -> bool:
    """Where at least one of the two is an inequality; the other may be an interval."""
    if isinstance(answer.kind, Region) and isinstance(gold.kind, Region):
        if answer.kind.variable != gold.kind.variable:
            return False
        return _equal(answer.kind.interval, gold.kind.interval, by_value)
    if RELATION.search(answer.text) and RELATION.search(gold.text):  # 2x > 6
        return _same_by_value(answer.text, gold.text, by_value)
    if isinstance(answer.kind, Region):
        if _is_other_name(answer.kind.variable + r"\in", gold.name):
            return False
        return _equal(answer.kind.interval, gold.text, by_value)
    if _is_other_name(answer.name, gold.kind.variable + r"\in"):
        return False
    is_interval = isinstance(answer.kind, Entries)
    return is_interval and _equal(answer.text, gold.kind.interval, by_value)


# --- Tuples, intervals and matrices ---


def _compare_entries(answer: Answer, gold: Answer, by_value: bool) -> bool:
    """Where at least one of the two is a tuple, an interval or a matrix."""
    said, expected = answer.kind, gold.kind
    if isinstance(said, Entries) and isinstance(expected, Entries):
        if said.label and expected.label and said.label != expected.label:
            return False
        if said.names and expected.names:
            return _same_named_entries(said, expected, by_value)
        return said.shape == expected.shape and _all_equal(said.cells, expected.cells, by_value)
    is_named = isinstance(said, Equation) or isinstance(expected, Equation)  # Range = [0, 1)
    entries, text = (said, answer.text) if isinstance(said, Entries) else (expected, gold.text)
    may_be_number = entries.label and "=" not in text  # C(6, 2)
    return bool(is_named or may_be_number) and _compare_equations(answer, gold, by_value)


def _same_named_entries(said: Entries, expected: Entries, by_value: bool) -> bool:
    """(x, y) = (1, 2) is (y, x) = (2, 1)."""
    cells = dict(zip(said.names, said.cells))
    if said.shape != expected.shape or sorted(cells) != sorted(expected.names):
        return False
    return _all_equal([cells[name] for name in expected.names], expected.cells, by_value)


# --- Equations ---

_VALUE_NAME = re.compile(r"[a-zA-Z]+\([^a-z]*\)")  # f(2)


def _compare_equations(answer: Answer, gold: Answer, by_value: bool) -> bool:
    """Where at least one of the two may be an equation."""
    sides = answer.kind.sides if isinstance(answer.kind, Equation) else []
    gold_sides = gold.kind.sides if isinstance(gold.kind, Equation) else []
    if not gold_sides:
        if not sides:
            return _same_single(answer.text, gold.text, by_value)
        return _results_are(sides, gold.text, by_value)

    # A gold answer "Area = 5" or "0.5 = 50\%" is a value; "2x = 5" is an equation.
    is_value = all(map(is_constant, gold_sides))
    if not sides:
        is_value = is_value or states_a_result(gold_sides[0])
        return is_value and _equal(answer.text, gold_sides[-1], by_value)
    if is_value:
        return _results_are(sides, gold_sides[-1], by_value)

    # Two equations: with one name, of two names, or to be compared by their solutions.
    if _key(sides[0]) == _key(gold_sides[0]):
        return all(_equal(side, gold_sides[-1], by_value) for side in _results(sides))
    if _is_name(sides[0]) and _is_name(gold_sides[0]) and is_constant(gold_sides[-1]):
        return False  # y = 5 is not x = 5
    return _same_by_value(" = ".join(sides), " = ".join(gold_sides), by_value)


def _is_name(side: str) -> bool:
    """Whether a side is one letter, or a function at one place."""
    return bool(LETTER.fullmatch(side) or _VALUE_NAME.fullmatch(side))


def _results(sides: list[str]) -> list[str]:
    """The sides that state the result: the last one, and every constant before it, so that 2 = 5 is
    neither."""
    return [*filter(is_constant, sides[:-1]), sides[-1]]


def _results_are(sides: list[str], gold: str, by_value: bool) -> bool:
    """Whether an equation states the gold answer: x = 5, 2 + 3 = 5, 5 = x."""
    if len(sides) == 2 and LETTER.fullmatch(sides[1]) and not LETTER.search(sides[0]):
        sides = sides[::-1]
    if not states_a_result(sides[0]) and not is_constant(sides[0]):
        return False
    return all(_equal(side, gold, by_value) for side in _results(sides))


# --- Single values ---

_TEXT = re.compile(r"\\text\{ ?([^{}]*?) ?\}")
_UPRIGHT_LETTER = re.compile(r"\\text\{ ?(\w) ?\}")
_OPTION = re.compile(r"^(?:\\text\{)? ?\([A-J]\) ?\}? ?(?=[-\d\\])")  # (B) 12
_WORDS_AFTER = re.compile(r"[^_^{]\\text\{[ (]*[a-z]{2}")  # words that are no unit
_BASE_OR_RATIO = re.compile(r"\d ?(?:_|:)")
_FORMULA = re.compile(r"[\d\\+*/^=<>_|]|^-|\b\w-|-\w\b")
_LONG_WORD = re.compile(r"(?<![\\a-zA-Z{_])[a-zA-Z]{4,}|^[A-Z]{2,}$")


def _same_single(answer: str, gold: str, by_value: bool) -> bool:
    """Compares single values: choices, then units, then numbers and words; the rest by value."""
    # A choice: B, (B), or "B) 12".
    if letter := re.fullmatch(r"[A-J]", _bare(gold)):
        return bool(re.match(rf"\(?{letter[0]}(?:[).:]|$)", _TEXT.sub(r"\1", answer)))
    answer = _OPTION.sub("", answer)

    # Units, which one of the two may leave out.
    said, expected = _quantities(answer, gold)
    if _key(_UPRIGHT_LETTER.sub(r"\1", answer)) == _key(_UPRIGHT_LETTER.sub(r"\1", gold)):
        return True  # 6\mathrm{m} and 6m
    if said.unit and expected.unit and not same_unit(said.unit, expected.unit):
        return False

    # What can be settled without sympy: numbers, bases, ratios and words.
    value = _bare(said.value)
    gold_value = _bare(expected.value)
    number = read_number(value)
    gold_number = read_number(gold_value)
    if number is not None and gold_number is not None:
        if said.unit == expected.unit or PERCENT not in (said.unit, expected.unit):
            return number == gold_number
        if said.unit:
            return _is_percentage(number, gold_number)
        return _is_percentage(gold_number, number)
    if _BASE_OR_RATIO.search(value + gold_value):
        return _same_spelling(value, gold_value)
    same_words = _same_words(value, gold_value)
    if same_words is not None:
        return same_words

    # Words after a value would be read as a product of their letters: 0 \text{ or 7} is not 0.
    if _WORDS_AFTER.search(said.value) and not re.search("[a-z]{2}", gold_value):
        return False
    return _same_by_value(value, gold_value, by_value)


def _bare(text: str) -> str:
    r"""Without \text, and without brackets around all of it: \text{(B)} is B."""
    text = _TEXT.sub(r"\1", text)
    inside = bracketed(text)
    if inside and inside.opening == "(" and not read_number(text):
        return inside.inside.strip()
    return text


def _quantities(answer: str, gold: str) -> tuple[Quantity, Quantity]:
    """Values and units. A letter that may be a variable (5 m) is a unit where the other side is a
    number or has a unit."""
    said = read_quantity(answer)
    expected = read_quantity(gold)
    if said.unit and not expected.unit:
        expected = read_quantity(gold, letters=True)
    elif not said.unit:
        is_number = read_number(expected.value) is not None
        said = read_quantity(answer, letters=bool(expected.unit) or is_number)
    return said, expected


def _is_percentage(percentage: Fraction, plain: Fraction) -> bool:
    r"""50\% may be written 50 and 0.5; but 0.5\% is not 0.5."""
    return percentage == 100 * plain or (percentage == plain and abs(percentage) >= 1)


def _same_spelling(value: str, gold: str) -> bool:
    """Bases, ratios and times, which are settled by their spelling. The base may be left out."""
    value, gold = (re.sub(r"[\s{}()]", "", text) for text in (value, gold))
    return value in (gold, gold.split("_")[0])


def _same_words(value: str, gold: str) -> bool | None:
    """Compares words without articles, case and the plural's s; None where they may be formulas."""
    words, gold_words = (
        re.sub(r"^(?:an?|the) |s\b|[^a-z ]", "", text.lower()).strip() for text in (value, gold)
    )
    is_formula = _FORMULA.search(value + gold)
    if words == gold_words and len(words) > 1 and not is_formula:
        return True
    if _LONG_WORD.search(value) or _LONG_WORD.search(gold):
        return False
    return None


# In this order: a list may hold tuples, and a tuple equations.
_COMPARISONS = (
    (Collection, _compare_collections),
    (Region, _compare_regions),
    (Entries, _compare_entries),
    (Equation, _compare_equations),
)
