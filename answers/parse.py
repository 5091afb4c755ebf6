r"""What kind of answer a cleaned text is: a list, a tuple, an inequality, an equation or one value.

`parse` reads a text once; equality.py compares what it returns, kind by kind:

    Collection  1, 2     \{1, 2\}     x = 1 or x = 2     (0, 1) \cup (2, 3)     2 \pm 1
    Entries     (1, 2)   [0, 1)       a vector, a matrix     P(1, 2)     (x, y) = (1, 2)
    Region      x \ge 5  -1 < x < 2
    Equation    y = 2x   x = 5        2 + 3 = 5
    Single      5        5 \text{ cm} 50\%     1011_2     B     \text{even}     x^2 + 1

The parts of an answer stay texts, which are parsed in turn when they are compared."""

import re
from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from answers.commands import balanced
from answers.units import PERCENT, Noun, Unit, flat, is_bare_unit, read_noun, read_unit


class Collection(NamedTuple):
    """Values in any order."""

    members: list[str]  # "x = 1", "x = 2"
    name: str  # "x", if all members have this one name, or the first alone
    values: list[str]  # "1", "2": the members without that name


class Entries(NamedTuple):
    """Values in a fixed order: a tuple, an interval, a vector or a matrix."""

    shape: str  # "()" or "[)", or "2 rows"
    cells: list[str]
    label: str = ""  # P of P(1, 2)
    names: tuple[str, ...] = ()  # x and y of (x, y) = (1, 2)


class Region(NamedTuple):
    """An inequality of one variable, as the interval that it describes."""

    variable: str
    interval: str  # "[5,\infty)"


class Equation(NamedTuple):
    sides: list[str]  # two or more


class Single(NamedTuple):
    """One value, with or without a unit; `read_quantity` takes the unit off."""


Kind = Collection | Entries | Region | Equation | Single


class Answer(NamedTuple):
    text: str  # without its remark
    remark: str  # what is said on a parameter: "Z" for k \in \mathbb{Z}
    letters: tuple[str, ...]  # A and C of "A, C" or "AC", where it may be a choice of several
    name: str  # "v=" or "x\in" of v = (1, 2), x \in (1, 2); an equation keeps its as a side
    kind: Kind


# --- Splitting ---


def split(text: str, separator: str) -> list[str]:
    """The parts between separators (a pattern) outside of all brackets; empty parts are dropped."""
    parts = []
    level = 0
    start = 0
    for match in re.finditer(rf"(?P<open>[(\[{{])|(?P<close>[)\]}}])|{separator}", text):
        if match["open"]:
            level += 1
        elif match["close"]:
            level -= 1
        elif level <= 0:
            parts.append(text[start : match.start()])
            start = match.end()
    parts.append(text[start:])
    return [part.strip() for part in parts if part.strip()]


class Bracketed(NamedTuple):
    opening: str
    inside: str
    closing: str


def bracketed(text: str) -> Bracketed | None:
    """Brackets and inside, where one pair spans the whole text."""
    match = re.fullmatch(r"(\\\{|[(\[])(.*?)(\\\}|[)\]])", text, re.DOTALL)
    if not match:
        return None
    level = 0
    for bracket in re.finditer(r"[(\[{)\]}]", match[2]):
        level += 1 if bracket[0] in "([{" else -1
        if level < 0:  # the first one closes before the end: (1,2) \cup (3,4)
            return None
    return Bracketed(*match.groups())


# --- Numbers ---

_DECIMAL = r"(?:\d{1,40}(?:\.\d{0,40})?|\.\d{1,40})"
_NUMBER = re.compile(
    rf"""(?x) (?P<sign>[-+]?)\ ?
    (?:\(\ ?(?P<whole>\d{{1,40}})\ ?\+)?                                  # of a mixed number
    (?: \\frac\{{(?P<top>-?{_DECIMAL})\}}\{{(?P<bottom>-?{_DECIMAL})\}}
      | (?P<dividend>{_DECIMAL})\ ?/\ ?(?P<divisor>{_DECIMAL})
      | (?P<decimal>{_DECIMAL})
        (?:\ ?(?:\\times|\\cdot)\ ?10\ ?\^\ ?\{{?(?P<exponent>[-+]?\d{{1,3}})\}}?)?
    )
    (?(whole)\))
    """
)


def read_number(text: str) -> Fraction | None:
    r"""A plain number, fraction or mixed number. The pattern bounds its digits, so no exponent can
    eat memory.

    >>> read_number(r"-\frac{1}{2}"), read_number("(1+\\frac{3}{4})"), read_number("2x")
    (Fraction(-1, 2), Fraction(7, 4), None)
    """
    match = _NUMBER.fullmatch(text)
    if not match:
        return None
    bottom = Fraction(match["bottom"] or match["divisor"] or 1)
    if bottom == 0:
        return None
    top = Fraction(match["top"] or match["dividend"] or match["decimal"])
    power = Fraction(10) ** int(match["exponent"] or 0)
    value = top / bottom * power + int(match["whole"] or 0)
    return -value if match["sign"] == "-" else value


# --- Units ---

_SCALES = {
    "dozen": 12,
    "hundred": 100,
    "thousand": 1000,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
}
_MONEY_FIRST = re.compile(r"([-+]?) ?\\text\{ ?(dollar|euro|GBP|yen|rupee|USD|EUR) ?\} ?([-+]?.+)")
# Where a unit may begin: \text{m}, \frac{\text{m}}{\text{s}}, \Omega, ^\circ C, or a word.
_UNIT_START = re.compile(
    r"\\text ?\{|\\frac\{ ?(?:\\text|[a-zA-Z])|\\Omega(?![a-z])|\\mu(?![a-z])|\\AA(?![a-z])|[μµΩÅ]"
    r"|\^ ?\\circ|(?<![a-zA-Z\\])[a-zA-Z]"
)
_TRIGONOMETRIC = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-z])")
# Before letters without \text a value must be plain: a number, or an end such as \sqrt{2} or 2\pi.
_PLAIN_START = re.compile(r"[-+]?\d[\d.,/:]*|.*(?:\}|\\pi|\^\d+)(?= )")
_PLAIN_END = re.compile(r"(?:\}|\\pi|\^\d+)$")


_LONGEST_UNIT = 250  # characters, so that a long text takes no longer to read


class Quantity(NamedTuple):
    value: str
    unit: Unit | Noun | None


def read_quantity(text: str, letters: bool = False) -> Quantity:
    r"""Value and unit. A lone letter (5 m) is a unit only if `letters`.

    >>> read_quantity(r"5 \text{ square cm}") == read_quantity("5 cm^2")
    True
    >>> read_quantity("5 m"), read_quantity("3 million")
    (Quantity(value='5 m', unit=None), Quantity(value='3000000', unit=None))
    """
    if money := _MONEY_FIRST.fullmatch(text):
        sign, currency, amount = money.groups()
        text = f"{sign}{amount} \\text{{ {currency} }}"
    if text.endswith("%"):
        return Quantity(text[:-1].strip(), PERCENT)
    for start in _UNIT_START.finditer(text, max(0, len(text) - _LONGEST_UNIT)):
        value = text[: start.start()].strip()
        ends_a_value = re.search(r"[\w)}!|]$", value) and balanced(value)
        is_angle = start[0][0] == "^" and _TRIGONOMETRIC.search(text)  # \sin 30^\circ
        if ends_a_value and not is_angle:
            quantity = _with_unit(text, start.start(), letters)
            if quantity:
                return quantity
    return Quantity(text, None)


def _with_unit(text: str, start: int, letters: bool) -> Quantity | None:
    """A quantity, where all of the text from `start` on is a unit or a noun."""
    value = text[:start].strip()
    tail = text[start:]
    number = read_number(value)
    is_bare = "\\text" not in tail and tail[0] not in "\\^"  # letters that may be variables
    if is_bare and number is None and not (_PLAIN_START.match(text) and _PLAIN_END.search(value)):
        return None

    first_word, _, other_words = flat(tail).partition(" ")
    scale = _SCALES.get(first_word.lower().removesuffix("s"))
    if number is not None and scale:  # 3 million people
        number *= scale
        value = str(number)
        tail = other_words
        if not tail:
            return Quantity(value, None)

    unit = read_unit(tail)
    single_letters = letters and text[:start].endswith((" ", "}", ")"))
    if unit and (not is_bare or is_bare_unit(tail, single_letters)):
        return Quantity(value, unit)
    if not is_bare or number is not None:
        noun = read_noun(tail, number)
        if noun:
            return Quantity(value, noun if noun.words else None)
    return None


# --- Names and variables ---

_GREEK = (
    r"\\(?:alpha|beta|gamma|delta|epsilon|zeta|eta|theta|iota|kappa|lambda|mu|nu|xi|rho|sigma|tau|upsilon"
    r"|phi|chi|psi|omega|Gamma|Delta|Theta|Lambda|Xi|Sigma|Upsilon|Phi|Psi|Omega|ell)(?![a-zA-Z])"
)
LETTER = re.compile(rf"(?<![\\a-zA-Z])[a-zA-Z]|{_GREEK}")
_VARIABLE = (
    r"(?!\\pi|\\infty)(?:\\?[a-zA-Z]+|\\(?:bar|hat|tilde|dot|overline)\{\\?\w+\})'*"
    r"(?:_(?:\{[^{}]*\}|\w))?(?:\^\{-1\}|\^\{?T\}?)?(?:\([a-z]\))?"
)
# x \in (1, 2), x = \{1, 2\}, A = \begin{pmatrix}, (x, y) \in ...
_STRUCTURE_NAME = re.compile(
    rf"(?:{_VARIABLE} ?(?:\\in(?![a-z])|=) ?(?=[(\[]|\\{{|\S{{0,40}}? ?\\begin|\\R|\\mathbb)"
    r"|[A-Z]\^\{?\d\}? ?= ?(?=\S{0,40}? ?\\begin)"
    r"|\([a-z](?:, ?[a-z])+\) ?(?:=|\\in(?![a-z])) ?)"
)
_POINT = re.compile(r"([A-Z]'*(?:_\{?\d\}?)?) ?=? ?(?=\([^()]*[,;][^()]*\)$)")  # P(2, 3)
_GREEK_ORDER = re.findall(
    "[a-z]+", "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu"
)
_NAMED = re.compile(r"\\?([a-zA-Z]|(?<=\\)[a-z]+)((?:_\{?\d+\}?)?) ?= ?([^=]+)")


def values_by_name(parts: list[str]) -> list[str]:
    """The values of "x = 1", "y = 2" in the order of their names; none where a part has no name of
    its own.

    >>> values_by_name(["y = 2", "x = 1"])
    ['1', '2']
    """
    named = {}
    for part in parts:
        if match := _NAMED.fullmatch(part):
            name, index, value = match.groups()
            rank = _GREEK_ORDER.index(name) if name in _GREEK_ORDER else len(_GREEK_ORDER)
            named[rank, name, int(re.sub(r"\D", "", index) or 0)] = value.strip()
    return [named[name] for name in sorted(named)] if len(named) == len(parts) else []


def states_a_result(side: str) -> bool:
    """Whether "side = 5" states a result (x, f(2), m + n, Area) and is not an equation to be solved
    (2x, x^2)."""
    bare = re.sub(r"\\text\{[^{}]*\}|\([^()]*\)|_\{[^{}]*\}|\|[^|]*\|", "", side)
    bare = re.sub(r"\^\{?-1\}?|\\(?:sigma|chi) ?\^ ?\{?2\}?", "x", bare)  # f^{-1}(x), \sigma^2
    if len(set(LETTER.findall(bare))) > 1:
        return True
    return not re.search(r"[-+*/^<>!]|\\(?:frac|sqrt|cdot|times|d?dot)|^\d", bare)


# --- Choices ---


def _choice_letters(text: str) -> tuple[str, ...]:
    r"""The letters of "A, C, D", "ACD", "\text{A and C}" or "(A), (C)" in alphabetical order; else
    none. "CA" as one word is none, since it may be an order."""
    text = re.sub(r"\\text\{([^{}]*)\}", r" \1 ", text)
    letters = re.sub(r"\band\b|[\s,;/&(){}.]|\\[{}&]", "", text)
    if not re.fullmatch("[A-J]{2,10}", letters) or len(set(letters)) < len(letters):
        return ()
    in_order = tuple(sorted(letters))
    is_one_word = re.fullmatch("[A-J]{2,10}", text.strip())
    return () if is_one_word and in_order != tuple(letters) else in_order


# --- Inequalities ---

RELATION = re.compile(r"\\le(?![a-z])|\\ge(?![a-z])|<|>")
_TURNED = {">": "<", "\\ge": "\\le"}


def _region(text: str) -> Region | None:
    r"""An inequality as an interval: `x \ge 5` as ("x", "[5,\infty)")."""
    parts = [part.strip() for part in RELATION.split(text)]
    signs = RELATION.findall(text)
    is_variable = [bool(re.fullmatch(_VARIABLE, part)) for part in parts]
    if not 1 <= len(signs) <= 2 or sum(is_variable) != 1:
        return None
    if len(signs) == 2 and not is_variable[1]:  # the variable is between two bounds
        return None
    if len({sign in _TURNED for sign in signs}) == 2:  # 1 < x > 2
        return None
    if signs[0] in _TURNED:  # from right to left, so that every sign is < or \le
        parts.reverse()
        is_variable.reverse()
        signs = [_TURNED[sign] for sign in reversed(signs)]

    low = r"(-\infty"
    if not is_variable[0]:
        low = ("(" if signs[0] == "<" else "[") + parts[0]
    high = r"\infty)"
    if not is_variable[-1]:
        high = parts[-1] + (")" if signs[-1] == "<" else "]")
    return Region(parts[is_variable.index(True)], f"{low},{high}")


def _intersection(text: str) -> Region | None:
    r"""x > 2 \wedge x < 7 as the region 2 < x < 7. "x < -1 and x > 1" is left as two regions."""
    parts = re.split(r"\\wedge(?![a-z])|(?<![a-z])and(?![a-z])", text)
    if len(parts) != 2:
        return None
    halves = [_region(part.strip()) for part in parts]
    if None in halves or halves[0].variable != halves[1].variable:
        return None
    intervals = [read_entries(half.interval) for half in halves]
    lower = next((i for i in intervals if i and i.cells[1] == r"\infty"), None)
    upper = next((i for i in intervals if i and i.cells[0] == r"-\infty"), None)
    if not lower or not upper or lower is upper:
        return None
    low = read_number(lower.cells[0])
    high = read_number(upper.cells[1])
    is_empty = low is not None and high is not None and low >= high
    if is_empty and "\\wedge" not in text:
        return None
    interval = f"{lower.shape[0]}{lower.cells[0]},{upper.cells[1]}{upper.shape[1]}"
    return Region(halves[0].variable, interval)


# --- Collections ---

_SEPARATOR = r", ?(?:or|and) |;|,|(?<![a-z])or(?![a-z])|(?<![a-z])and(?![a-z])|\\cup(?![a-z])"
_MOST_MEMBERS = 200


def _members(text: str) -> tuple[list[str], bool]:
    r"""The values of "1 or 2", "A \cup B", "\pm 2", "1, 2" and "\{1, 2\}", and whether they are in
    braces."""
    inside = bracketed(text)
    in_braces = bool(inside and inside.opening == "\\{")
    members = []
    for part in split(inside.inside if in_braces else text, _SEPARATOR):
        if "\\pm" in part and part[0] not in "([":
            members += [part.replace("\\pm", sign) for sign in "+-"]
        else:
            members.append(part)
    members = [re.sub(r"^\+ ?", "", member).strip() for member in members]
    return _without_dots(members), in_braces


def _without_dots(members: list[str]) -> list[str]:
    r"""1, 2, \ldots, 5 is 1, 2, 3, 4, 5 where the numbers before the dots have one step."""
    if members.count("\\ldots") != 1:
        return members
    at = members.index("\\ldots")
    shown = [*members[:at], members[-1]]
    if at < 2 or at != len(members) - 2:
        return members
    if not all(re.fullmatch(r"-?\d{1,9}", member) for member in shown):
        return members
    numbers = [int(member) for member in shown]
    first, last = numbers[0], numbers[-1]
    step = numbers[1] - first
    if step == 0 or (last - first) % step:
        return members
    count = (last - first) // step + 1
    steady = numbers[:-1] == [first + i * step for i in range(at)]
    if not at < count <= _MOST_MEMBERS or not steady:
        return members
    return [str(first + i * step) for i in range(count)]


def _one_name(text: str) -> tuple[str, list[str]]:
    r"""Name and values of "x \in \{1, 2\}", "x = 1, x = 2" and "n = 2, 3, 4"; else "" and
    nothing."""
    if match := re.fullmatch(rf"({_VARIABLE}) ?(?:=|\\in(?![a-z])) ?(\\\{{.*\\\}})", text):
        inside = bracketed(match[2])
        return (match[1], _members(match[2])[0]) if inside else ("", [])
    parts = [
        re.fullmatch(r"(?:(\\?[a-zA-Z]+)(?:_\{?\w+\}?)? ?= ?)?([^=<>]+)", part)
        for part in split(text, _SEPARATOR)
    ]
    names = {part[1] for part in parts if part and part[1]}
    if len(parts) < 2 or None in parts or len(names) != 1 or not parts[0][1]:
        return "", []
    values = ", ".join(part[2].strip() for part in parts)
    return names.pop(), _members(values)[0]


def _collection(text: str) -> Collection | None:
    name, values = _one_name(text)
    members, in_braces = _members(text)
    if name:
        return Collection(members, name, values)
    if len(members) > 1 or in_braces:
        return Collection(members, "", members)
    return None


# --- Tuples, intervals, vectors and matrices ---

_MATRIX = re.compile(
    r"""(?x) (?P<scalar>.*?) (?:\ ?\\(?:cdot|times))?\ ?
    [(\[]?\s* \\begin\{(?P<kind>[pbB]?matrix|array)\}(?:\{[clr|\ ]*\})?
    (?P<body>.*)
    \\end\{(?P=kind)\}\s*[)\]]?
    (?P<transposed>\ ?\^\ ?\{?(?:\\top|\\text\{\ ?T\ ?\}|T)\}?)?
    (?:\ ?/\ ?(?P<divisor>\d+))?
    """
)
_NO_FACTOR = re.compile(r"[=,<>&]|\\(?:in|begin)(?![a-z])|[-+*/^_]$")


def _matrix(text: str) -> list[list[str]] | None:
    """The rows of a matrix, each cell times the factor in front; also of [[1,2],[3,4]]."""
    if match := _MATRIX.fullmatch(text):
        return _latex_matrix(match)
    inside = bracketed(text)
    if not inside or inside.opening != "[":
        return None
    content = inside.inside
    if ";" in content and "," not in content and " " in content.strip():  # [1 2; 3 4]
        rows = [row.split() for row in content.split(";")]
        is_square = len({len(row) for row in rows}) == 1 < len(rows[0])
        return rows if inside.closing == "]" and is_square else None
    if re.fullmatch(r" ?\[.*\] ?", content):
        rows = [bracketed(part) for part in split(content, ",")]
        if all(row and row.opening + row.closing == "[]" for row in rows):
            return [split(row.inside, ",") for row in rows]
    return None


def _latex_matrix(match: re.Match) -> list[list[str]] | None:
    lines = re.split(r"\\\\(?:\s*\[[^\[\]]*\])?|\\cr(?![a-z])", match["body"])
    rows = [[cell.strip() for cell in line.split("&")] for line in lines if line.strip()]
    if len(rows) == 1 and len(rows[0]) == 1:
        rows = [split(rows[0][0], ",")]  # commas instead of &
    factor = match["scalar"].strip()
    if not balanced(factor) or _NO_FACTOR.search(factor.removeprefix("-") or "1"):
        return None
    if factor:
        factor = "-1" if factor == "-" else factor
        rows = [[f"({factor})({cell})" for cell in row] for row in rows]
    if divisor := match["divisor"]:
        rows = [[f"\\frac{{{cell}}}{{{divisor}}}" for cell in row] for row in rows]
    if match["transposed"] and len({len(row) for row in rows}) == 1:
        rows = [list(column) for column in zip(*rows)]
    return rows or None


def _vector(text: str) -> list[str] | None:
    r"""The components of 2\hat{i}+3\hat{j}: 2 and 3, and 0 for \hat{k} where it is left out of
    three."""
    components: dict[str, str] = {}
    position = 0
    for term in re.finditer(r"\\hat\{([ijk])\}", text):
        axis = term[1]
        coefficient = text[position : term.start()].replace("\\cdot", "").strip()
        position = term.end()
        if coefficient in ("", "+", "-"):
            coefficient += "1"
        lacks_sign = components and coefficient[0] not in "+-"
        if axis in components or not balanced(coefficient) or lacks_sign:
            return None
        components[axis] = coefficient.lstrip("+ ")
    if not components or text[position:].strip():
        return None
    return [components.get(axis, "0") for axis in ("ijk" if "k" in components else "ij")]


def read_entries(text: str) -> Entries | None:
    """A tuple, interval or matrix. A vector is a tuple, written as a row or as a column."""
    if rows := _matrix(text):
        cells = [cell for row in rows for cell in row]
        is_vector = len(cells) in (len(rows), len(rows[0]))
        return Entries("()" if is_vector else f"{len(rows)} rows", cells)
    if "\\hat{" in text and (components := _vector(text)):
        return Entries("()", components)
    text = re.sub(r"(?<=[)\]]) ?\^ ?\{?(?:\\top|T)\}?$", "", text)  # (1, 2)^T
    inside = bracketed(text)
    if not inside or inside.opening == "\\{":
        return None
    cells = split(inside.inside, "[,;]")
    return Entries(inside.opening + inside.closing, cells) if len(cells) > 1 else None


def _named_entries(text: str) -> Entries | None:
    """Entries with a label or names: P(1, 2), or (x, y) = (1, 2), also as columns."""
    if point := _POINT.match(text):
        entries = read_entries(text[point.end() :])
        return entries._replace(label=point[1]) if entries else None
    sides = split(text, "=") if text[:1] in ("(", "[", "\\") else []
    if len(sides) != 2:
        return None
    names = read_entries(sides[0])
    values = read_entries(sides[1])
    if not names or not values or len(names.cells) != len(values.cells):
        return None
    if not all(map(LETTER.fullmatch, names.cells)):
        return None
    return values._replace(names=tuple(names.cells))


# --- Equations ---


def is_constant(side: str) -> bool:
    r"""Whether a side of an equation has no variable: 3 + 1, \sqrt{2}, 5 \text{ cm}, \$5."""
    return not LETTER.search(read_quantity(side).value)


def _exact_sides(text: str) -> list[str]:
    r"""The sides of an equation. What follows \approx is left out where an exact value stands
    before it: x = \sqrt{2} \approx 1.41. But x \approx 1.41 has nothing better."""
    sides: list[str] = []
    for chain in split(text, r"\\approx(?![a-z])"):
        has_exact_value = len(sides) > 1 or (sides and is_constant(sides[0]))
        if has_exact_value:
            break
        sides += split(chain, "=")
    return sides


# --- Remarks ---

_NAME = r"\\?[a-zA-Z]+(?:_\{?\w\}?)?"
_REMARK = re.compile(
    rf"""(?x)
    [,;:(\ ]\s*\(?\s*
    (?P<intro> where\ | with\ | \\forall\ ?
      | for\ (?:all\ |any\ |every\ |each\ |some\ |arbitrary\ )?
      | any\ | and\ | as\ )?
    (?P<kind> (?: (?: an? | the | all | any | every | some | arbitrary | fixed | real | complex
      | rational | positive | negative | non-?negative | non-?zero | natural | whole | integers?
      | constants? | numbers? | reals? | values?\ of | parameters? )\ )* )
    (?P<names> (?:{_NAME}) (?: (?:,\ ?|\ and\ ) \\?[a-zA-Z](?:_\{{?\w\}}?)? )* )\ ?
    (?P<what>
        \\in\ ?(?P<set> \\mathbb\ ?\{{?\ ?[ZNQC]\ ?\}}? | \\R )
        (?P<part> [\^_]?\{{?(?:[-+*0-9>]|\\ge\ ?)*\}}? )
      | (?:is|are|being|=)\ (?:an?|any|arbitrary|some|all)?\ ?
        (?: (?: arbitrary | real | complex | rational | positive | non-?negative | nonzero
          | natural | fixed | whole )\ )*
        (?: integers? | constants? | numbers? | reals? | parameters? | real | arbitrary )
      | integers? | constants? | arbitrary
      | =\ ?-?\d+(?:,\ ?-?\d+)*,\ ?\\ldots
      | (?P<bound> (?:\\ne|>|<|\\ge|\\le)(?![a-z])\ ?-?[\w.]+ )
      |
    )
    \s*\)?\.?$
    """
)
_MAY_HAVE_REMARK = re.compile(
    r"\\(?:in|forall|ne|le|ge|ldots)(?![a-z])|\\text\{|\bfor\b|\bwhere\b|[<>]"
)
_FOR_ALL = re.compile(r"for (?:all|any|every|each)")
_SET_OR_INEQUALITY = re.compile(r"\\(?:in|le|ge|ne|cup|cap)(?![a-z])|[<>]|\\\{|^[\[(].*[\])]$")


def _split_remark(text: str) -> tuple[str, str]:
    r"""The answer and what it says on a parameter: "k\pi, k \in \mathbb{Z}" is ("k\pi", "Z").

    An inequality or a set keeps it, since "x > 3, x \in \mathbb{Z}" is another set than x > 3."""
    if not _MAY_HAVE_REMARK.search(text):
        return text, ""
    line = re.sub(r"\\text ?\{([^{}]*)\}", r" \1 ", text)
    line = re.sub(r"\s+", " ", line).strip()
    for main, remark in _possible_remarks(line):
        if _SET_OR_INEQUALITY.search(main):
            return text, ""
        if _is_about(main, remark):
            return main, _domain(remark)
    return text, ""


def _possible_remarks(line: str) -> Iterator[tuple[str, re.Match]]:
    """Where a remark that says something on variables may begin, with what stands before it."""
    for separator in re.finditer(r"[,;:( ]", line):
        remark = _REMARK.match(line, separator.start())
        if not remark or not _says_something(remark):
            continue
        main = line[: remark.start()].strip(" ,;(")
        names = _remark_names(remark)
        are_variables = all(len(name) == 1 or name[0] == "\\" or "_" in name for name in names)
        if main and balanced(main) and are_variables and len(set(names)) == len(names):
            yield main, remark


def _remark_names(remark: re.Match) -> list[str]:
    return re.findall(_NAME, re.sub(r"\band\b", " ", remark["names"]))


def _says_something(remark: re.Match) -> bool:
    """More than a name alone: "k is an integer", "for all x", "constant c", "for integers k"."""
    intro = remark["intro"] or ""
    kind = remark["kind"]
    quantified = "forall" in intro or re.match("for (?:all|any|every|each|some|arb)", intro)
    typed = intro.startswith("for") and re.search("integer|number|real", kind)
    return bool(remark["what"] or quantified or "constant" in kind or typed)


def _is_about(main: str, remark: re.Match) -> bool:
    """Whether the names of a remark are variables of the answer, or it holds "for all" of them."""
    used = all(
        name[0] == "\\" or re.search(rf"(?<![\\a-zA-Z]){re.escape(name)}", main)
        for name in _remark_names(remark)
    )
    return used or bool(_FOR_ALL.match(remark["intro"] or ""))


def _domain(remark: re.Match) -> str:
    r"""What a remark says, in one spelling: "Z", "\R+", "\ne0", or "" for any number."""
    if remark["set"]:
        return re.sub(r"[^A-Z]", "", remark["set"]) + remark["part"]
    if re.search("integer|natural|whole", remark["kind"] + remark["what"]):
        return "Z"
    return re.sub(r"\s", "", remark["bound"] or "")


# --- All together ---


def _structure(text: str) -> Kind | None:
    """A collection, entries or a region; the order matters, since a list may hold tuples."""
    return (
        _intersection(text)
        or _named_entries(text)
        or _collection(text)
        or _region(text)
        or read_entries(text)
    )


@lru_cache(maxsize=4096)
def parse(text: str) -> Answer:
    """The kind of a cleaned answer, and its parts."""
    text, remark = _split_remark(text)
    letters = _choice_letters(text)
    name = ""
    kind = _structure(text)
    if kind is None and (named := _STRUCTURE_NAME.match(text)):  # x \in (1, 2)
        unnamed = text[named.end() :]
        kind = _structure(unnamed)
        if kind or "\\in" in named[0]:
            text = unnamed
            name = named[0].replace(" ", "")
    if kind is None:
        sides = _exact_sides(text)
        if len(sides) == 1 and "\\approx" in text:
            text = sides[0]
        kind = Equation(sides) if len(sides) > 1 else Single()
    return Answer(text, remark, letters, name, kind)
