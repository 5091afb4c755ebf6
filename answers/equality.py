"""Whether two answers are equal: by spelling and structure first, by value with sympy where nothing
simpler decides.

Lists, tuples, intervals, equations and units are taken apart, down to leaves. Plain numbers and
words are settled by exact arithmetic, in microseconds; other leaves are read by math-verify's LaTeX
grammar and compared by it. Nothing is evaluated as code: math-verify's `parse` is not used, since
for plain expressions it is an eval."""

import re
from fractions import Fraction

from answers.commands import balanced
from answers.latex import MAX_ANSWER, clean
from answers.units import flat, is_bare_unit, read_noun, read_unit, same_unit

_DECIMAL = r"(?:\d{1,40}(?:\.\d{0,40})?|\.\d{1,40})"
_NUMBER = re.compile(
    rf"([-+]?) ?(?:\( ?(?P<whole>\d{{1,40}}) ?\+)?(?:\\frac\{{(?P<a>-?{_DECIMAL})\}}\{{(?P<b>-?{_DECIMAL})\}}"
    rf"|(?P<p>{_DECIMAL}) ?/ ?(?P<q>{_DECIMAL})"
    rf"|(?P<m>{_DECIMAL})(?: ?(?:\\times|\\cdot) ?10 ?\^ ?\{{?(?P<e>[-+]?\d{{1,3}})\}}?)?)(?(whole)\))"
)


def _key(text: str) -> str:
    """What is left of a cleaned answer when spaces and needless braces don't count; a space between
    digits does."""
    return re.sub(r"\{(\w)\}", r"\1", re.sub(r"(?<!\d) | (?!\d)", "", text))


def _number(text: str) -> Fraction | None:
    """A plain number, fraction or mixed number. The pattern bounds its digits, so no exponent can
    eat memory."""
    match = _NUMBER.fullmatch(text)
    if not match or (bottom := Fraction(match["b"] or match["q"] or 1)) == 0:
        return None
    value = (
        Fraction(match["a"] or match["p"] or match["m"])
        / bottom
        * Fraction(10) ** int(match["e"] or 0)
    )
    value += int(match["whole"] or 0)
    return -value if match[1] == "-" else value


_SCALES = {
    "dozen": 12,
    "hundred": 100,
    "thousand": 1000,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
}
_CURRENCY_FIRST = re.compile(
    r"([-+]?) ?\\text\{ ?(dollar|euro|GBP|yen|rupee|USD|EUR) ?\} ?([-+]?.+)"
)
# Where a unit may begin: \text{m}, \frac{\text{m}}{\text{s}}, \Omega, ^\circ C, or a word.
_UNIT_START = re.compile(
    r"\\text ?\{|\\frac\{ ?(?:\\text|[a-zA-Z])|\\Omega(?![a-z])|\\mu(?![a-z])|\\AA(?![a-z])|[μµΩÅ]|\^ ?\\circ"
    r"|(?<![a-zA-Z\\])[a-zA-Z]"
)
_PLAIN_VALUE = re.compile(r"[-+]?\d[\d.,/:]*|.*(?:\}|\\pi|\^\d+)(?= )")


def _split_unit(text: str, letters: bool = False) -> tuple[str, str]:
    r"""Value and unit, which has one name for all its spellings. A lone letter (5 m) is a unit only
    if `letters`.

    >>> _split_unit(r"5 \text{ square cm}")[1] == _split_unit("5 cm^2")[1], _split_unit("5 m"), _split_unit("3 million")
    (True, ('5 m', ''), ('3000000', ''))
    """
    if money := _CURRENCY_FIRST.fullmatch(text):  # dollars stand in front
        text = f"{money[1]}{money[3]} \\text{{ {money[2]} }}"
    if text.endswith("%"):
        return text[:-1].strip(), "%"
    trigonometric = re.search(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-z])", text)
    for start in _UNIT_START.finditer(text):
        value, tail = text[: start.start()].strip(), text[start.start() :]
        if (
            not re.search(r"[\w)}!|]$", value)
            or not balanced(value)
            or (start[0][0] == "^" and trigonometric)
        ):
            continue
        number = _number(value)
        bare = "\\text" not in tail and start[0][0] not in "\\^"
        if bare and not (
            number is not None
            or (_PLAIN_VALUE.match(text) and re.search(r"(?:\}|\\pi|\^\d+)$", value))
        ):
            continue
        first, _, rest = flat(tail).partition(" ")
        if number is not None and (scale := _SCALES.get(first.lower().removesuffix("s"))):
            value, tail = str(number * scale), rest
            number = number * scale
            if not tail:
                return value, ""
        spaced = letters and text[: start.start()].endswith((" ", "}", ")"))
        if (unit := read_unit(tail)) and (not bare or is_bare_unit(tail, spaced)):
            return value, unit
        if (not bare or number is not None) and (noun := read_noun(tail, number)) is not None:
            return value, noun
    return text, ""


def _split(text: str, separator: str) -> list[str]:
    """Splits at a separator (a pattern) outside of all brackets; empty parts are dropped."""
    parts, level, start = [], 0, 0
    for match in re.finditer(rf"(?P<open>[(\[{{])|(?P<close>[)\]}}])|{separator}", text):
        if match["open"] or match["close"]:
            level += 1 if match["open"] else -1
        elif level <= 0:
            parts.append(text[start : match.start()])
            start = match.end()
    return [part.strip() for part in [*parts, text[start:]] if part.strip()]


def _bracketed(text: str) -> tuple[str, str, str] | None:
    """Opening bracket, inside and closing bracket, where one pair spans the whole text."""
    match = re.fullmatch(r"(\\\{|[(\[])(.*?)(\\\}|[)\]])", text, re.DOTALL)
    level = 0
    for bracket in re.finditer(r"[(\[{)\]}]", match[2] if match else ""):
        level += 1 if bracket[0] in "([{" else -1
        if level < 0:  # the first one closes before the end: (1,2) \cup (3,4)
            return None
    return match.groups() if match else None


_RELATION = re.compile(r"\\le(?![a-z])|\\ge(?![a-z])|<|>")
_GREEK = (
    r"\\(?:alpha|beta|gamma|delta|epsilon|zeta|eta|theta|iota|kappa|lambda|mu|nu|xi|rho|sigma|tau|upsilon|phi|chi"
    r"|psi|omega"
    r"|Gamma|Delta|Theta|Lambda|Xi|Sigma|Upsilon|Phi|Psi|Omega|ell)(?![a-zA-Z])"
)
_LETTER = re.compile(rf"(?<![\\a-zA-Z])[a-zA-Z]|{_GREEK}")
_VARIABLE = (
    r"(?!\\pi|\\infty)(?:\\?[a-zA-Z]+|\\(?:bar|hat|tilde|dot|overline)\{\\?\w+\})'*"
    r"(?:_(?:\{[^{}]*\}|\w))?(?:\^\{-1\}|\^\{?T\}?)?(?:\([a-z]\))?"
)
# x \in (1, 2), x = \{1, 2\}, A = \begin{pmatrix}, (x, y) = (1, 2)
_NAME = re.compile(
    rf"^(?:{_VARIABLE} ?(?:\\in(?![a-z])|=) ?(?=[(\[]|\\{{|\S{{0,40}}? ?\\begin|\\R|\\mathbb)"
    r"|[A-Z]\^\{?\d\}? ?= ?(?=\S{0,40}? ?\\begin)"
    r"|\([a-z](?:, ?[a-z])+\) ?(?:=|\\in(?![a-z])) ?)"
)
_POINT = re.compile(r"([A-Z]'*(?:_\{?\d\}?)?) ?=? ?(?=\([^()]*[,;][^()]*\)$)")  # P(2, 3)
_MEMBERS = r", ?(?:or|and) |;|,|(?<![a-z])or(?![a-z])|(?<![a-z])and(?![a-z])|\\cup(?![a-z])"


def _region(text: str) -> tuple[str, str]:
    """Variable and interval of an inequality, `x \\ge 5` as ("x", "[5,\\infty)"). Anything else: ""
    and the text."""
    parts, signs = [part.strip() for part in _RELATION.split(text)], _RELATION.findall(text)
    names = [bool(re.fullmatch(_VARIABLE, part)) for part in parts]
    if not signs or len(signs) > 2 or sum(names) != 1 or (len(signs) == 2 and not names[1]):
        return "", text
    if len({sign in (">", "\\ge") for sign in signs}) == 2:  # 1 < x > 2
        return "", text
    if signs[0] in (">", "\\ge"):  # read from right to left, every sign is < or \le
        parts, signs, names = (
            parts[::-1],
            [{">": "<", "\\ge": "\\le"}[sign] for sign in signs[::-1]],
            names[::-1],
        )
    low = "(-\\infty" if names[0] else ("(" if signs[0] == "<" else "[") + parts[0]
    high = "\\infty)" if names[-1] else parts[-1] + (")" if signs[-1] == "<" else "]")
    return parts[names.index(True)], f"{low},{high}"


def _choices(text: str) -> list[str]:
    r"""The letters of "A, C, D", "ACD", "\text{A and C}" or "(A), (C)" in alphabetical order; else
    none."""
    text = re.sub(r"\\text\{([^{}]*)\}", r" \1 ", text)
    letters = re.sub(r"\band\b|[\s,;/&(){}.]|\\[{}&]", "", text)
    together = re.fullmatch("[A-J]{2,10}", text.strip())
    if not re.fullmatch("[A-J]{2,10}", letters) or len(set(letters)) < len(letters):
        return []
    return [] if together and sorted(letters) != list(letters) else sorted(letters)


def _members(text: str) -> tuple[list[str], bool]:
    """The values of "1 or 2", "A \\cup B", "\\pm 2", "1, 2" and "\\{1, 2\\}", and whether they are
    written as a set."""
    inside = _bracketed(text)
    braces = bool(inside and inside[0] == "\\{")
    members = []
    for part in _split(inside[1] if braces else text, _MEMBERS):
        members += (
            [part.replace("\\pm", sign) for sign in "+-"]
            if "\\pm" in part and part[0] not in "(["
            else [part]
        )
    return _without_dots([re.sub(r"^\+ ?", "", part).strip() for part in members]), braces


def _without_dots(members: list[str]) -> list[str]:
    r"""1, 2, \ldots, 5 is 1, 2, 3, 4, 5 where the numbers before the dots have one step."""
    if (
        members.count("\\ldots") != 1
        or (at := members.index("\\ldots")) < 2
        or at != len(members) - 2
    ):
        return members
    numbers = [
        int(part) if re.fullmatch(r"-?\d{1,9}", part) else None
        for part in [*members[:at], members[-1]]
    ]
    if None in numbers or not (step := numbers[1] - numbers[0]):
        return members
    count, rest = divmod(numbers[-1] - numbers[0], step)
    if rest or not at <= count < 200 or numbers[:-1] != [numbers[0] + i * step for i in range(at)]:
        return members
    return [str(numbers[0] + i * step) for i in range(count + 1)]


_MATRIX = re.compile(
    r"(?P<scalar>.*?)(?: ?\\(?:cdot|times))? ?[(\[]?\s*\\begin\{(?P<kind>[pbB]?matrix|array)\}(?:\{[clr"
    r"| ]*\})?(?P<body>.*)"
    r"\\end\{(?P=kind)\}\s*[)\]]?(?P<transposed> ?\^ ?\{?(?:\\top|\\text\{ ?T ?\}|T)\}?)?(?: ?/ ?(?P<divisor>\d+))?"
)


def _matrix(text: str) -> list[list[str]] | None:
    """The rows of a matrix, each cell times the factor in front; also of [[1,2],[3,4]]."""
    if match := _MATRIX.fullmatch(text):
        lines = re.split(r"\\\\(?:\s*\[[^\[\]]*\])?|\\cr(?![a-z])", match["body"])
        rows = [[cell.strip() for cell in row.split("&")] for row in lines if row.strip()]
        if rows and len(rows) == len(rows[0]) == 1:
            rows = [_split(rows[0][0], ",")]  # commas instead of &
        scalar, divisor = match["scalar"].strip(), match["divisor"]
        if not balanced(scalar) or re.search(
            r"[=,<>&]|\\(?:in|begin)(?![a-z])|[-+*/^_]$", scalar.removeprefix("-") or "1"
        ):
            return None
        if scalar == "-":
            scalar = "(-1)"
        if scalar:
            rows = [[f"({scalar})({cell})" for cell in row] for row in rows]
        if divisor:
            rows = [[f"\\frac{{{cell}}}{{{divisor}}}" for cell in row] for row in rows]
        if match["transposed"] and len({len(row) for row in rows}) == 1:
            rows = [list(column) for column in zip(*rows)]
        return rows or None
    inside = _bracketed(text)
    if (
        inside
        and inside[0] == "["
        and ";" in inside[1]
        and "," not in inside[1]
        and " " in inside[1].strip()
    ):
        rows = [row.split() for row in inside[1].split(";")]  # [1 2; 3 4]
        return (
            rows
            if inside[2] == "]" and len({len(row) for row in rows}) == 1 < len(rows[0])
            else None
        )
    if inside and inside[0] == "[" and re.fullmatch(r" ?\[.*\] ?", inside[1]):
        parts = [_bracketed(part) for part in _split(inside[1], ",")]
        if all(part and part[0] + part[2] == "[]" for part in parts):
            return [_split(part[1], ",") for part in parts]
    return None


def _vector(text: str) -> list[str] | None:
    r"""The components of 2\hat{i}+3\hat{j}: 2 and 3, and 0 for \hat{k} where it is left out of
    three."""
    if "\\hat{" not in text:
        return None
    components: dict[str, str] = {}
    position = 0
    for term in re.finditer(r"\\hat\{([ijk])\}", text):
        coefficient = text[position : term.start()].replace("\\cdot", "").strip()
        position = term.end()
        if coefficient in ("", "+", "-"):
            coefficient += "1"
        if (
            term[1] in components
            or not balanced(coefficient)
            or (components and coefficient[0] not in "+-")
        ):
            return None
        components[term[1]] = coefficient.lstrip("+ ")
    if text[position:].strip():
        return None
    return [components.get(axis, "0") for axis in ("ijk" if "k" in components else "ij")]


def _entries(text: str) -> tuple[str, list[str]] | None:
    """Brackets and entries of a tuple, interval or matrix; a vector is a tuple, written as a row or
    as a column."""
    if rows := _matrix(text):
        cells = [cell for row in rows for cell in row]
        return "()" if len(cells) in (len(rows), len(rows[0])) else f"{len(rows)} rows", cells
    if vector := _vector(text):
        return "()", vector
    text = re.sub(r"(?<=[)\]]) ?\^ ?\{?(?:\\top|T)\}?$", "", text)  # (1, 2)^T
    inside = _bracketed(text)
    cells = _split(inside[1], "[,;]") if inside and inside[0] != "\\{" else []
    return (inside[0] + inside[2], cells) if len(cells) > 1 else None


def _by_name(parts: list[str]) -> list[str]:
    """The values of "x = 1", "y = 2" in the order of their names; none where a part has no name of
    its own."""
    order = [
        "alpha",
        "beta",
        "gamma",
        "delta",
        "epsilon",
        "zeta",
        "eta",
        "theta",
        "iota",
        "kappa",
        "lambda",
        "mu",
        "nu",
    ]
    named = {}
    for part in parts:
        if match := re.fullmatch(r"\\?([a-zA-Z]|(?<=\\)[a-z]+)((?:_\{?\d+\}?)?) ?= ?([^=]+)", part):
            rank = order.index(match[1]) if match[1] in order else len(order)
            named[rank, match[1], int(re.sub(r"\D", "", match[2]) or 0)] = match[3].strip()
    return [named[name] for name in sorted(named)] if len(named) == len(parts) else []


_DOMAIN = re.compile(
    r"[,;:( ]\s*\(?\s*(?P<intro>where |with |\\forall ?|for (?:all |any |every |each |some |arbitrary )?|any |and |"
    r"as )?(?P<kind>(?:(?:an?|the|all|any|every|some|arbitrary|fixed|real|complex|rational|positive|negative"
    r"|non-?negative|"
    r"non-?zero|natural|whole|integer|integers|constants?|numbers?|reals?|values? of|parameters?) )*)"
    r"(?P<names>(?:\\?[a-zA-Z]+(?:_\{?\w\}?)?)(?:(?:, ?| and )\\?[a-zA-Z](?:_\{?\w\}?)?)*) ?"
    r"(?P<what>\\in ?(?P<set>\\mathbb ?\{? ?[ZNQC] ?\}?|\\R)(?P<part>[\^_]?\{?(?:[-+*0-9>]|\\ge ?)*\}?)|"
    r"(?:is|are|being|=) (?:an?|any|arbitrary|some|all)? ?(?:(?:arbitrary|real|complex|rational|positive|non-?negative|"
    r"nonzero|natural|fixed|whole) )*(?:integers?|constants?|numbers?|reals?|parameters?|real|arbitrary)|"
    r"integers?|constants?|arbitrary|= ?-?\d+(?:, ?-?\d+)*, ?\\ldots|"
    r"(?:\\ne|>|<|\\ge|\\le)(?![a-z]) ?-?[\w.]+|)\s*\)?\.?$"
)


def _meet(text: str) -> str:
    r"""x > 2 \\wedge x < 7 as 2 < x < 7. "x < -1 and x > 1" is left as two regions."""
    halves = [
        _region(part.strip()) for part in re.split(r"\\wedge(?![a-z])|(?<![a-z])and(?![a-z])", text)
    ]
    if len(halves) != 2 or not halves[0][0] or halves[0][0] != halves[1][0]:
        return text
    ends = [_entries(region) for _, region in halves]
    lower = next((end for end in ends if end and end[1][1] == r"\infty"), None)
    upper = next((end for end in ends if end and end[1][0] == r"-\infty"), None)
    if not lower or not upper or lower is upper:
        return text
    low, high = _number(lower[1][0]), _number(upper[1][1])
    if low is not None and high is not None and low >= high and "\\wedge" not in text:
        return text
    return f"{lower[0][0]}{lower[1][0]},{upper[1][1]}{upper[0][1]}"


def _with_coordinates(text: str, names: bool) -> str:
    """(x, y) = (1, 2), also as columns, as x = 1, y = 2, or without the names as (1, 2)."""
    sides = _split(text, "=") if text[:1] in "([\\" else []
    left, right = (_entries(sides[0]), _entries(sides[1])) if len(sides) == 2 else (None, None)
    if (
        not (left and right)
        or len(left[1]) != len(right[1])
        or not all(map(_LETTER.fullmatch, left[1]))
    ):
        return text
    return (
        ", ".join(f"{name} = {value}" for name, value in zip(left[1], right[1]))
        if names
        else sides[1]
    )


def _qualified(text: str) -> tuple[str, str]:
    r"""The answer and what it says about a parameter: "k\pi, k \in \mathbb{Z}" is ("k\pi", "Z").

    An inequality or a set keeps it, since "x > 3, x \in \mathbb{Z}" is another set than x > 3."""
    if not re.search(
        r"\\(?:in|forall|ne|le|ge|ldots)(?![a-z])|\\text\{|\bfor\b|\bwhere\b|[<>]", text
    ):
        return text, ""
    line = re.sub(r"\\text ?\{([^{}]*)\}", r" \1 ", text)
    line = re.sub(r"\s+", " ", line).strip()
    for separator in re.finditer(r"[,;:( ]", line):
        if not (match := _DOMAIN.match(line, separator.start())):
            continue
        main = line[: match.start()].strip(" ,;(")
        names = re.findall(r"\\?[a-zA-Z]+(?:_\{?\w\}?)?", re.sub(r"\band\b", " ", match["names"]))
        intro, kind = match["intro"] or "", match["kind"]
        told = (
            match["what"]
            or "forall" in intro
            or re.match("for (?:all|any|every|each|some|arb)", intro)
            or "constant" in kind
        )
        told = told or (intro.startswith("for") and re.search("integer|number|real", kind))
        if (
            not main
            or not told
            or len(set(names)) < len(names)
            or not balanced(main)
            or any(len(n) > 1 and n[0] != "\\" and "_" not in n for n in names)
        ):
            continue
        if re.search(r"\\(?:in|le|ge|ne|cup|cap)(?![a-z])|[<>]|\\\{|^[\[(].*[\])]$", main):
            return text, ""
        used = all(
            re.search(rf"(?<![\\a-zA-Z]){re.escape(name)}", main) or name[0] == "\\"
            for name in names
        )
        if not used and not re.match("for (?:all|any|every|each)", intro):
            continue
        relation = (
            re.sub(r"\s", "", match["what"])
            if re.match(r"\\ne|[<>]|\\[gl]e", match["what"])
            else ""
        )
        integers = re.search("integer|natural|whole", kind + match["what"])
        number_set = re.sub(r"[^A-Z]", "", match["set"] or "") + (match["part"] or "") or (
            "Z" if integers else ""
        )
        return main, number_set or relation
    return text, ""


def _one_name(text: str) -> tuple[str, str]:
    r"""Name and values of "x \in \{1, 2\}", "x = 1, x = 2" and "n = 2, 3, 4"; else "" and the
    text."""
    if match := re.fullmatch(rf"({_VARIABLE}) ?(?:=|\\in(?![a-z])) ?(\\\{{.*\\\}})", text):
        inside = _bracketed(match[2])
        return (match[1], ", ".join(_split(inside[1], _MEMBERS))) if inside else ("", text)
    parts = [
        re.fullmatch(r"(?:(\\?[a-zA-Z]+)(?:_\{?\w+\}?)? ?= ?)?([^=<>]+)", part)
        for part in _split(text, _MEMBERS)
    ]
    names = {part[1] for part in parts if part and part[1]}
    if len(parts) < 2 or None in parts or len(names) != 1 or not parts[0][1]:
        return "", text
    return names.pop(), ", ".join(part[2].strip() for part in parts)


def _pair_off(left: list[str], right: list[str], by_value: bool) -> bool:
    """Whether the two lists hold equal values in any order."""
    left = list(left) if len(left) == len(right) else []
    for one in right:
        match = next((i for i, other in enumerate(left) if _equal(other, one, by_value)), None)
        if match is None:
            return False
        del left[match]
    return True


def _names(side: str) -> bool:
    """Whether "side = 5" states a result (x, f(2), m + n, Area) and is not an equation to be solved
    (2x, x^2)."""
    bare = re.sub(r"\\text\{[^{}]*\}|\([^()]*\)|_\{[^{}]*\}|\|[^|]*\|", "", side)
    bare = re.sub(r"\^\{?-1\}?|\\(?:sigma|chi) ?\^ ?\{?2\}?", "x", bare)  # f^{-1}(x), \sigma^2
    letters = _LETTER.findall(bare)
    return len(set(letters)) > 1 or not re.search(
        r"[-+*/^<>!]|\\(?:frac|sqrt|cdot|times|d?dot)|^\d", bare
    )


def _equal(answer: str, gold: str, by_value: bool) -> bool:
    """Whether two cleaned answers are equal. Without `by_value`, Undecided where only sympy can
    say."""
    if _key(answer) == _key(gold):
        return True
    (answer, condition), (gold, gold_condition) = _qualified(answer), _qualified(gold)
    if condition and gold_condition and condition != gold_condition:
        return False
    if (letters := _choices(gold)) and (chosen := _choices(answer)):
        return letters == chosen
    if re.search(r"[<>]|\\[lg]e(?![a-z])", answer):
        answer, gold = _meet(answer), _meet(gold)
    if "=" in answer or "=" in gold:
        named = "=" in answer and "=" in gold
        answer, gold = _with_coordinates(answer, named), _with_coordinates(gold, named)
    (point, gold_point) = _POINT.match(answer), _POINT.match(gold)
    if (point and (gold_point or gold[0] == "(")) or (gold_point and answer[:1] == "("):
        if point and gold_point and point[1] != gold_point[1]:
            return False
        answer, gold = _POINT.sub("", answer, count=1), _POINT.sub("", gold, count=1)
    if ("?" in answer and "?" not in gold) or answer.count("\\ne") != gold.count("\\ne"):
        return False  # "5? 6?" is a guess, and \neq 3 is not 3
    (name, values), (gold_name, gold_values) = _one_name(answer), _one_name(gold)
    if name and gold_name:
        return name == gold_name and _equal(values, gold_values, by_value)
    if (name and "=" not in gold) or (gold_name and "=" not in answer):
        return _equal(values, gold_values, by_value)
    if "=" not in gold or _NAME.match(gold):
        answer, gold = _NAME.sub("", answer), _NAME.sub("", gold)
    (wanted, gold_set), (pieces, answer_set) = _members(gold), _members(answer)
    entries, gold_entries = _entries(answer), _entries(gold)
    if entries and len(named := _by_name(wanted)) == len(entries[1]):  # x = 1, y = 2 is (1, 2)
        return all(_equal(a, n, by_value) for a, n in zip(entries[1], named))
    if len(wanted) > 1 or gold_set:
        return ("\\cap" in answer) == ("\\cap" in gold) and _pair_off(pieces, wanted, by_value)
    if len(pieces) > 1 or answer_set:
        if gold_entries and len(named := _by_name(pieces)) == len(gold_entries[1]):
            return all(_equal(n, g, by_value) for n, g in zip(named, gold_entries[1]))
        once = len(pieces) == 1 or " or " in answer  # "1/2 or 0.5" is one value
        return once and all(_equal(piece, gold, by_value) for piece in pieces)
    (variable, answer_region), (gold_variable, gold_region) = _region(answer), _region(gold)
    if (answer_region, gold_region) != (answer, gold):
        if not (variable and gold_variable) and _RELATION.search(answer) and _RELATION.search(gold):
            return _same_by_value(answer, gold, by_value)
        unlike = variable and gold_variable and variable != gold_variable
        return (
            not unlike
            and bool(_entries(answer_region))
            and _equal(answer_region, gold_region, by_value)
        )
    if entries or gold_entries:
        alike = (
            entries
            and gold_entries
            and entries[0] == gold_entries[0]
            and len(entries[1]) == len(gold_entries[1])
        )
        return bool(alike) and all(
            _equal(a, g, by_value) for a, g in zip(entries[1], gold_entries[1])
        )
    sides, gold_sides = _split(answer, "=|\\\\approx(?![a-z])"), _split(gold, "=")
    if len(sides) > 1 and len(gold_sides) > 1:
        if _key(sides[0]) == _key(gold_sides[0]):
            return _equal(sides[-1], gold_sides[-1], by_value)
        named = _LETTER.fullmatch(sides[0]) and _LETTER.fullmatch(gold_sides[0])
        return not (named and _number(gold_sides[1]) is not None) and _same_by_value(
            answer, gold, by_value
        )
    if len(gold_sides) > 1:
        return (_names(gold_sides[0]) or not re.search("[a-z]", gold)) and _equal(
            answer, gold_sides[-1], by_value
        )
    if len(sides) == 2 and _LETTER.fullmatch(sides[1]) and not _LETTER.search(sides[0]):
        sides.reverse()  # 60 = x
    if len(sides) > 1:
        constant = [
            side
            for side in sides
            if not _LETTER.search(re.sub(r"(?<=[\d}]) ?\\text\{[^{}]*\}$", "", side))
        ]
        shown = (
            sides[:1]
            if "\\approx" in answer and len(constant) == len(sides)
            else [*constant[:-1], sides[-1]]
        )
        return (_names(sides[0]) or sides[0] in constant) and all(
            _equal(side, gold, by_value) for side in shown
        )
    return _equal_leaf(answer, gold, by_value)


def _equal_leaf(answer: str, gold: str, by_value: bool) -> bool:
    """Compares single values: choices, then units, then numbers and words; the rest by value."""

    def bare(text: str) -> str:
        text = re.sub(r"\\text\{ ?([^{}]*?) ?\}", r"\1", text)
        inside = _bracketed(text)
        return inside[1].strip() if inside and inside[0] == "(" and not _number(text) else text

    if choice := re.fullmatch(r"[A-J]", bare(gold)):
        return bool(
            re.match(
                rf"\(?{choice[0]}(?:[).:]|$)", re.sub(r"\\text\{ ?([^{}]*?) ?\}", r"\1", answer)
            )
        )
    answer = re.sub(r"^(?:\\text\{)? ?\([A-J]\) ?\}? ?(?=[-\d\\])", "", answer)  # (B) 12
    (value, unit), (gold_value, gold_unit) = _split_unit(answer), _split_unit(gold)
    if unit and not gold_unit:
        gold_value, gold_unit = _split_unit(gold, letters=True)
    elif not unit:
        value, unit = _split_unit(
            answer, letters=bool(gold_unit) or _number(gold_value) is not None
        )
    if _key(re.sub(r"\\text\{ ?(\w) ?\}", r"\1", answer)) == _key(
        re.sub(r"\\text\{ ?(\w) ?\}", r"\1", gold)
    ):
        return True  # 6\mathrm{m} and 6m
    if unit and gold_unit and not same_unit(unit, gold_unit):
        return False
    worded = re.search(
        r"[^_^{]\\text\{[ (]*[a-z]{2}", value
    )  # words after a value, which are no unit
    value, gold_value = bare(value), bare(gold_value)
    numbers = _number(value), _number(gold_value)
    if None not in numbers:
        if unit != gold_unit and "%" in (
            unit,
            gold_unit,
        ):  # 50% may be written 50 and 0.5, and 0.5% not 0.5
            share, plain = numbers if unit else numbers[::-1]
            return share == 100 * plain or (share == plain and abs(share) >= 1)
        return numbers[0] == numbers[1]
    if re.search(
        r"\d ?(?:_|:)", value + gold_value
    ):  # bases, ratios and times are settled by their spelling
        value, gold_value = (re.sub(r"[\s{}()]", "", text) for text in (value, gold_value))
        return value == gold_value or value == gold_value.split("_")[0]
    words = [
        re.sub(r"^(?:an?|the) |s\b|[^a-z ]", "", text.lower()).strip()
        for text in (value, gold_value)
    ]
    formula = re.search(r"[\d\\+*/^=<>_|]|^-|\b\w-|-\w\b", value + gold_value)
    alike = words[0] == words[1] and len(words[0]) > 1 and not formula
    if alike or any(
        re.search(r"(?<![\\a-zA-Z{_])[a-zA-Z]{4,}|^[A-Z]{2,}$", text)
        for text in (value, gold_value)
    ):
        return alike
    if worded and not re.search("[a-z]{2}", gold_value):
        return False  # 0 \text{ or 7} is not 0 times symbols
    return _same_by_value(value, gold_value, by_value)


# --- Comparison by value, in a worker ---


class Undecided(Exception):
    """Only a comparison by value can tell: this pair needs a worker."""


class BadGold(Exception):
    """The gold answer is not LaTeX that math-verify's grammar knows."""


_FOR_GRAMMAR = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"([\d.]+) ?\^\\circ", r"(\1\\pi/180)"),
        (r"\\text\{ ?(\w) ?\}", r"\1"),
        (r"(\\?[a-zA-Z]+)'", r"\1_{p}"),
        (r"(?<![\\a-zA-Z])C\((\d+), ?(\d+)\)", r"\\binom{\1}{\2}"),
        # \cos^3(x) stays; 2(3) is a product, which the grammar reads as 2 + 3
        (r"(\\[a-z]+ ?\^ ?(?:\d|\{[^{}]*\})) ?\(", r"\1("),
        (r"((?<![\d_^])\d+(?<!\^\d)|\)) ?\(", r"\1\\cdot ("),
        (r"(?<![\\a-zA-Z])E(?= ?_)", r"\\Xi "),  # and knows no subscript of E
        # \gamma is a variable, which the grammar takes for a function without an argument;
        # \Gamma(n) is that function
        (r"\\gamma(?![a-z])(?= ?_)", r"\\varsigma"),
        (r"\\gamma(?![a-z])", r"\\varsigma_{g}"),
        (r"\\Gamma(?![a-z])(?! ?_| ?\()", r"\\varsigma_{G}"),
    )
]


def _parse(text: str):
    """A cleaned expression, equation or inequality as sympy's."""
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig, latex2sympy
    from sympy import Derivative, I, Symbol, nan, zoo

    for pattern, replacement in _FOR_GRAMMAR:
        text = pattern.sub(replacement, text)
    if re.search(r"(?<![_^\d])\d+ +\d|'|\*$", text):
        raise ValueError("not an expression")  # the grammar reads 3 4 as 7
    config = ConversionConfig(lowercase_symbols=False)
    expression = latex2sympy(
        text, is_real=None, normalization_config=None, conversion_config=config
    )
    if expression.has(nan, zoo):
        raise ValueError("no value")  # with which anything may be equal: zoo - 1 is zoo - 2

    def is_opaque(e) -> bool:  # evaluating dv/dt would give 0, and math-verify takes R for r
        return isinstance(e, Derivative) or (e.is_Symbol and e.name.isupper())

    return expression.replace(is_opaque, lambda e: Symbol(f"{e}_opaque")).subs(Symbol("i"), I)


DIGITS = 1000  # compared by number: 2 - 2^{-2023} is not 2 - 2^{-2024}


def _has_roots(one, other) -> bool:
    r"""Whether both have roots or logarithms of variables, or one has |x| and one has roots.

    sympy keeps \sqrt{1/n} apart from 1/\sqrt{n}, since they differ where n < 0 in the complex
    plane."""
    from sympy import Abs, Expr, Pow, log

    def has(expression) -> bool:
        roots = [
            p
            for p in expression.atoms(Pow)
            if p.base.free_symbols and p.exp.is_Rational and not p.exp.is_Integer
        ]
        return bool(roots or any(p.free_symbols for p in expression.atoms(log)))

    if not (isinstance(one, Expr) and isinstance(other, Expr)):
        return False
    return (has(one) and has(other)) or (
        bool(one.atoms(Abs) or other.atoms(Abs)) and (has(one) or has(other))
    )


def _agree(one, other) -> bool | None:
    """Whether two expressions have equal values to 1,000 digits; with variables, at several points
    where both are real.

    Under roots and logarithms variables are taken to be positive, unless |x| shows that signs
    matter. None: can't say."""
    from sympy import (
        Abs,
        Derivative,
        Expr,
        Float,
        Integral,
        Limit,
        Product,
        Rational,
        Sum,
        UnevaluatedExpr,
    )
    from sympy.functions.combinatorial.factorials import CombinatorialFunction

    if not (isinstance(one, Expr) and isinstance(other, Expr)):
        return None
    if any(e.has(Integral, Sum, Product, Limit, Derivative, UnevaluatedExpr) for e in (one, other)):
        return None
    one, other = (e.xreplace({f: Rational(str(f)) for f in e.atoms(Float)}) for e in (one, other))
    symbols = sorted(one.free_symbols | other.free_symbols, key=str)
    if not symbols and one.is_Rational and other.is_Rational:
        return bool(one == other)
    signed = one.has(Abs) or other.has(Abs) or not _has_roots(one, other)
    special = symbols and any(e.atoms(CombinatorialFunction) for e in (one, other))
    digits = 100 if special else DIGITS  # (n - 1)! to 1,000 digits takes seconds
    agreed = 0
    for i in range(8 if symbols else 1):
        # Fractions that no one chooses: large and small, of both signs where signs matter.
        values = [
            Rational((7919 * (i + 3 * j + 1)) % 1009 + 1, 97 + (i * 389 + j * 61) % 211 * (i % 3))
            for j in range(len(symbols))
        ]
        values = [-v if signed and (i >> (j % 3)) & 1 else v for j, v in enumerate(values)]
        point = dict(zip(symbols, values))
        try:
            left, right = (e.subs(point).evalf(digits) for e in (one, other))
        except (ValueError, TypeError, ZeroDivisionError, AttributeError):
            return None
        if not (left.is_number and right.is_number and left.is_finite and right.is_finite):
            if symbols:
                continue
            return None
        if symbols and not (left.is_real and right.is_real):
            continue
        gap, scale = abs(left - right), max(abs(left), abs(right))
        if scale != 0 and gap > scale * Rational(1, 10 ** (digits - 50)):
            return False
        agreed += 1
    return True if agreed >= (3 if symbols else 1) else None


def _same_by_value(answer: str, gold: str, by_value: bool) -> bool:
    """math-verify on two expressions. Its own time limits work on the main thread only; the
    worker's replace them."""
    if not by_value:
        raise Undecided
    from math_verify import verify

    try:
        parsed = _parse(gold)
    except MemoryError:
        raise
    except Exception as error:  # the grammar raises bare Exception
        raise BadGold(gold) from error
    try:
        said = _parse(answer)
        if parsed == said:
            return True
        if verify(parsed, said, float_rounding=30, numeric_precision=50, timeout_seconds=None):
            return _agree(parsed, said) is not False
        return _has_roots(parsed, said) and _agree(parsed, said) is True
    except MemoryError:
        raise
    except Exception:  # not LaTeX that can be read: not an answer
        return False


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
