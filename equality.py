"""Whether two answers are equal: by spelling and structure first, by value with sympy where nothing simpler decides.

Lists, tuples, intervals, equations and units are taken apart, down to leaves. Plain numbers and words are settled by
exact arithmetic, in microseconds; other leaves are read by math-verify's LaTeX grammar and compared by it.
Nothing is evaluated as code: math-verify's `parse` is not used, since for plain expressions it is an eval.
"""

import re
import unicodedata
from fractions import Fraction

MAX_ANSWER = 300  # characters; a longer answer is right only if it equals the gold answer letter for letter

_SYMBOLS = str.maketrans({
    "−": "-", "–": "-", "×": r"\times ", "·": r"\cdot ", "÷": "/", "⁄": "/", "π": r"\pi ", "∞": r"\infty ",
    "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "√": r"\sqrt ", "°": r"^\circ ", "∪": r"\cup ", "±": r"\pm ",
    "∈": r"\in ", "′": "'", "∅": r"\emptyset ", "ℝ": r"\R ", "≈": r"\approx ", "\u200b": "", "\ufeff": "",
})  # fmt: skip
_REWRITES = [(re.compile(pattern), replacement) for pattern, replacement in (
    (r"\\\$|(?<=[\d\s])\$(?=\d)|^\$(?=[\d.,]+$)", r"\\text{dollar} "),
    (r"\$|\\[()\[\]](?!\])|\\(?:displaystyle|textstyle|left|right|[bB]igg?[lr]?)(?![a-zA-Z])\.?", ""),
    (r"(?<=\d)(?:,?\\!\s*|\\[, ]|\{,\})(?=\d{3})", ""), (r"^([-+]?\d{1,3}) (\d{3})$", r"\1\2"),  # thousands
    (r"\\!|\\phantom\s*(?:\{[^{}]*\}|.)", ""), (r"(?<!\\)\\[,;: ]|~|\\q?quad(?![a-z])|\s", " "),
    (r"\\[dtc]frac", r"\\frac"),
    (r"\\(?:mbox|hbox|text(?:bf|it|rm|normal)|math(?:rm|bf|sf)|rm|operatorname)\s*\{", r"\\text{"),
    (r"\\frac\s*(\w)\s*(\w)", r"\\frac{\1}{\2}"), (r"\\frac\s*(\w)\s*\{", r"\\frac{\1}{"),
    (r"(\\frac\{[^{}]*\})\s*(\w)", r"\1{\2}"), (r"\\?sqrt\s*\(([^()]*)\)|\\sqrt\s*(\w)", r"\\sqrt{\1\2}"),
    (r"\\leq(?:slant)?|<=", r"\\le"), (r"\\geq(?:slant)?|>=", r"\\ge"), (r"\\neq(?![a-z])|!=|\\not\s*=", r"\\ne"),
    (r"\\lt(?![a-z])", "<"), (r"\\gt(?![a-z])", ">"), (r"\\%|\\text\{ ?(?:\\?%|percent) ?\}|(?<=\d) ?percent\b", "%"),
    (r"\^ ?\{? ?\\circ ?\}?|\\degree(?![a-z])|\\text\{ ?degrees? ?\}|(?<=\d) degrees?$", r"^\\circ "),
    (r"\\(?:lbrace|rbrace)", lambda m: "\\{" if m[0][1] == "l" else "\\}"), (r"\\langle", "("), (r"\\rangle", ")"),
    (r"\\(?:infin|inf)(?![a-z])|\\text\{ ?infinity ?\}|\binfinity\b", r"\\infty"), (r"(?<=[\w)])\*\*(?=[\w(-])", "^"),
    (r"\+ ?\\infty", r"\\infty"), (r"\\mathbb ?\{?R\}?", r"\\R"),
    (r"(?<![\\a-zA-Z])(?:np\.|math\.)?(pi|arcsin|arccos|arctan|sin|cos|tan|cot|ln|log)(?![a-zA-Z])", r"\\\1 "),
    (r"(\d(?:\.\d+)?)\s*[eE]\s*([-+]?\d+)(?!\.?\d)", r"\1\\times 10^{\2}"),
    (r"(\.\d{0,6}?)(\d{1,6}?)\2{2,6} ?(?:\\[lc]?dots|\.{3})", r"\1\\overline{\2}"),
    (r"(\d*)\.(\d{0,20})\\(?:overline|bar|dot)\{(\d{1,20})\}", lambda m: r"({}+\frac{{{}}}{{{}{}}})".format(
        m[1] or 0, int(m[2] + m[3]) - int(m[2] or 0), "9" * len(m[3]), "0" * len(m[2]))),
    (r"(?<![\d.}^_/])(\d+) ?(?:\\frac\{(\d+)\}\{(\d+)\}|(?<= )(\d+) ?/ ?(\d+))", r"(\1+\\frac{\2\4}{\3\5})"),  # mixed
    (r"\\text\{[ ,]*(and|or)[ ,]*\}", r" \1 "), (r"\\lor(?![a-z])", " or "), (r" +", " "),
    (r"^[ ,;`]+|[ ,;`\\]*(?<!\.)\.?[ ,;`\\]*$", ""), (r"^\\text\{([^{}]*)\}$|^\*\*(.*)\*\*$", r"\1\2"),
    (r"(?i:^\\text\{ ?(?:the )?answer is:? ?\}) ?|^\\approx(?![a-z]) ?", ""),
    (r"(?i:\b(?:no (?:real )?solutions?|empty set)\b)|\\varnothing|\\\{ ?\\\}", r"\\emptyset"),
    (r"\\overline ?\{([A-Z]{2})\}|\\(?:angle|triangle) ?(?=[A-Z])", r"\1"),
    (r"^\|([a-z])\| ?(<|\\le(?![a-z])) ?([\d.]+|\\frac\{\d+\}\{\d+\})$", r"-\3 \2 \1 \2 \3"),
    (r"(?i:\ball real numbers\b)|^\( ?-\\infty ?, ?\\infty ?\)$", r"\\R"),
    (r"^\\\{ ?[a-z](?: ?\\in ?\\R)? ?(?:\\mid|:|\|) ?(.*)\\\}$", r"\1"),  # then x \ne 3, or R without 3
    (r"^(?:[a-z] ?\\ne|\\R ?\\(?:setminus|backslash) ?\\\{) ?([^,{}<>=]+?) ?(?:\\\})?$",
     r"(-\\infty,\1)\\cup (\1,\\infty)"),
)]  # fmt: skip
_DECIMAL = r"(?:\d{1,40}(?:\.\d{0,40})?|\.\d{1,40})"
_NUMBER = re.compile(
    rf"([-+]?) ?(?:\( ?(?P<whole>\d{{1,40}}) ?\+)?(?:\\frac\{{(?P<a>-?{_DECIMAL})\}}\{{(?P<b>-?{_DECIMAL})\}}"
    rf"|(?P<p>{_DECIMAL}) ?/ ?(?P<q>{_DECIMAL})"
    rf"|(?P<m>{_DECIMAL})(?: ?(?:\\times|\\cdot) ?10 ?\^ ?\{{?(?P<e>[-+]?\d{{1,3}})\}}?)?)(?(whole)\))"
)
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")


def clean(text: str) -> str:
    """One spelling for what Unicode and LaTeX spell in many ways; the value stays as it is."""
    text = text[: 4 * MAX_ANSWER]
    if not text.isascii():
        text = re.sub("[\u2070\u00b9\u00b2\u00b3\u2074-\u207b]+", r"^{\g<0>}", text)  # superscripts
        text = re.sub("[\u00bc-\u00be\u2150-\u215e]", r" \g<0>", text).translate(_SYMBOLS)  # a half, in one character
        text = unicodedata.normalize("NFKC", text).translate(_SYMBOLS)
    text = text.strip()
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    text = text.strip()
    if not re.search(r"[(\[]|\\\{", text):  # in a tuple a comma separates
        text = _THOUSANDS.sub(lambda m: m[0].replace(",", ""), text)
    return text


def _key(text: str) -> str:
    """What is left of a cleaned answer when spaces and needless braces don't count; a space between digits does."""
    return re.sub(r"\{(\w)\}", r"\1", re.sub(r"(?<!\d) | (?!\d)", "", text))


def _number(text: str) -> Fraction | None:
    """A plain number, fraction or mixed number. The pattern bounds its digits, so no exponent can eat memory."""
    match = _NUMBER.fullmatch(text)
    if not match or (bottom := Fraction(match["b"] or match["q"] or 1)) == 0:
        return None
    value = Fraction(match["a"] or match["p"] or match["m"]) / bottom * Fraction(10) ** int(match["e"] or 0)
    value += int(match["whole"] or 0)
    return -value if match[1] == "-" else value


# Spellings of a unit; the first is its name. Words that are not here (apples, ways) are units too, each its own.
_UNITS = {name: names.split()[0] for names in (
    "dollar usd", "cent ¢", "m meter metre", "cm centimeter centimetre", "mm millimeter", "km kilometer kilometre",
    "inch in inches", "ft foot feet", "yd yard", "mi mile", "s sec second", "min minute", "h hr hour", "day", "week",
    "month", "yr year", "g gram", "kg kilogram", "mg", "lb pound", "oz ounce", "l liter litre", "ml milliliter", "unit",
    "mi/h mph", "rad radian", "am", "pm",
) for name in names.split()}  # fmt: skip
_SCALES = {"dozen": 12, "hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9}
_UNIT = re.compile(
    r"(?P<value>.*[\w)}])\s*\\text\{(?P<text>[^{}]*)\}(?P<power> ?\^ ?\{?[23]\}?)?"
    r"|(?P<plain>[-+]?\d[\d.,/:]*|.*(?:\}|\\pi|\^\d+)(?= )) ?(?P<word>[a-zA-Z][a-zA-Z./ ]*(?: ?\^ ?\{?[23]\}?)?)"
)


def _unit_name(text: str) -> str:
    """One name for a unit: "square inches" is "inch2", "km per hour" is "km/h", "ways." is "way"."""
    text = re.sub(r"[\^{}.]|\bof\b.*", "", re.sub(r" ?\bper\b ?", "/", text.lower())).strip()
    text = re.sub(r"\b(?:sq|square) (\w+)", r"\g<1>2", re.sub(r"\b(?:cu|cubic) (\w+)", r"\g<1>3", text))
    names = []
    for word, power in re.findall(r"([a-z¢]+|/)\s*([23]?)", text):
        single = word if word in _UNITS or len(word) < 3 else word.removesuffix("s")
        names.append(_UNITS.get(single, single) + power)
    return "".join(names)


def _split_unit(text: str, letters: bool = False) -> tuple[str, str]:
    r"""Value and unit. A lone letter (5 m) is a unit only if `letters`, and else a variable.

    >>> _split_unit(r"5 \text{ square cm}"), _split_unit("5 m"), _split_unit("3 million")
    (('5', 'cm2'), ('5 m', ''), ('3000000', ''))
    """
    text = re.sub(r"^(-?)\s*(\\text\{dollar\})\s*(.+)$", r"\1\3 \2", text)  # dollars stand in front
    if text.endswith("%"):
        return text[:-1].strip(), "%"
    if re.search(r"\^\\circ ?(?:\\text\{)? ?[CF]?\}?$", text) and not re.search(r"\\(?:sin|cos|tan|cot)", text):
        return text[: text.rindex("^")].strip(), "degree"
    if not (match := _UNIT.fullmatch(text)):
        return text, ""
    value = (match["value"] or match["plain"]).strip()
    unit = (match["text"] or match["word"] or "").strip() + (match["power"] or "")
    first, _, rest = unit.partition(" ")
    number = _number(value)
    if number is not None and (scale := _SCALES.get(first.lower().removesuffix("s"))):
        value, unit = str(number * scale), rest
    name = _unit_name(unit)
    if match["word"]:  # without \text, letters are variables unless they look like a unit
        length = len(re.match("[a-zA-Z]*", unit)[0])
        known = name.rstrip("23") in _UNITS.values() or "/" in name or (length > 2 and number is not None)
        if (not known and unit) or (length == 1 and not (letters and text[len(value) :].startswith(" "))):
            return text, ""
    return value, name


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
_VARIABLE = r"(?!\\pi|\\infty)\\?[a-zA-Z]+(?:_\{?\w+\}?)?(?:\([a-z]\))?"
# x \in (1, 2), x = \{1, 2\}, (x, y) = (1, 2)
_NAME = re.compile(
    rf"^(?:{_VARIABLE} ?(?:\\in(?![a-z])|=) ?(?=[(\[]|\\{{)|\([a-z](?:, ?[a-z])+\) ?(?:=|\\in(?![a-z])) ?)"
)
_MEMBERS = r", ?(?:or|and) |;|,|(?<![a-z])or(?![a-z])|(?<![a-z])and(?![a-z])|\\cup(?![a-z])"


def _region(text: str) -> tuple[str, str]:
    """Variable and interval of an inequality, `x \\ge 5` as ("x", "[5,\\infty)"). Anything else: "" and the text."""
    parts, signs = [part.strip() for part in _RELATION.split(text)], _RELATION.findall(text)
    names = [bool(re.fullmatch(_VARIABLE, part)) for part in parts]
    if not signs or len(signs) > 2 or sum(names) != 1 or (len(signs) == 2 and not names[1]):
        return "", text
    if len({sign in (">", "\\ge") for sign in signs}) == 2:  # 1 < x > 2
        return "", text
    if signs[0] in (">", "\\ge"):  # read from right to left, every sign is < or \le
        parts, signs, names = parts[::-1], [{">": "<", "\\ge": "\\le"}[sign] for sign in signs[::-1]], names[::-1]
    low = "(-\\infty" if names[0] else ("(" if signs[0] == "<" else "[") + parts[0]
    high = "\\infty)" if names[-1] else parts[-1] + (")" if signs[-1] == "<" else "]")
    return parts[names.index(True)], f"{low},{high}"


def _members(text: str) -> tuple[list[str], bool]:
    """The values of "1 or 2", "A \\cup B", "\\pm 2", "1, 2" and "\\{1, 2\\}", and whether they are written as a set."""
    inside = _bracketed(text)
    braces = bool(inside and inside[0] == "\\{")
    members = []
    for part in _split(inside[1] if braces else text, _MEMBERS):
        members += [part.replace("\\pm", sign) for sign in "+-"] if "\\pm" in part and part[0] not in "([" else [part]
    return [re.sub(r"^\+ ?", "", part).strip() for part in members], braces


def _entries(text: str) -> tuple[str, list[str]] | None:
    """Brackets and entries of a tuple, interval or matrix; a vector is a tuple, written as a row or as a column."""
    if matrix := re.fullmatch(r"[(\[]?\s*\\begin\{([pb]?matrix|array)\}(?:\{[clr|]*\})?(.*)\\end\{\1\}\s*[)\]]?", text):
        rows = [[cell.strip() for cell in row.split("&")] for row in matrix[2].split("\\\\") if row.strip()]
        cells = [cell for row in rows for cell in row]
        return ("()" if len(cells) in (len(rows), len(rows[0])) else f"{len(rows)} rows", cells) if cells else None
    inside = _bracketed(text)
    cells = _split(inside[1], "[,;]") if inside and inside[0] != "\\{" else []
    return (inside[0] + inside[2], cells) if len(cells) > 1 else None


def _by_name(parts: list[str]) -> list[str]:
    """The values of "x = 1", "y = 2" in the order of their names; none where a part has no name."""
    named = sorted(part.split("=") for part in parts if re.match(r"[a-zA-Z] ?=", part))
    return [part[-1].strip() for part in named] if len(named) == len(parts) else []


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
    """Whether "side = 5" states a result (x, f(2), m + n, Area) and is not an equation to be solved (2x, x^2)."""
    bare = re.sub(r"\\text\{[^{}]*\}|\([^()]*\)|_\{[^{}]*\}|\|[^|]*\|", "", side)
    letters = re.findall(r"(?<![\\a-zA-Z])[a-zA-Z]", bare)
    return len(set(letters)) > 1 or not re.search(r"[-+*/^<>!]|\\(?:frac|sqrt|cdot|times|d?dot)|^\d", bare)


def _equal(answer: str, gold: str, by_value: bool) -> bool:
    """Whether two cleaned answers are equal. Without `by_value`, Undecided where only sympy can say."""
    if _key(answer) == _key(gold):
        return True
    if ("?" in answer and "?" not in gold) or answer.count("\\ne") != gold.count("\\ne"):
        return False  # "5? 6?" is a guess, and \neq 3 is not 3
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
        return not unlike and bool(_entries(answer_region)) and _equal(answer_region, gold_region, by_value)
    if entries or gold_entries:
        alike = entries and gold_entries and entries[0] == gold_entries[0] and len(entries[1]) == len(gold_entries[1])
        return bool(alike) and all(_equal(a, g, by_value) for a, g in zip(entries[1], gold_entries[1]))
    sides, gold_sides = _split(answer, "=|\\\\approx(?![a-z])"), _split(gold, "=")
    if len(sides) > 1 and len(gold_sides) > 1:
        if _key(sides[0]) == _key(gold_sides[0]):
            return _equal(sides[-1], gold_sides[-1], by_value)
        named = re.fullmatch("[a-zA-Z]", sides[0]) and re.fullmatch("[a-zA-Z]", gold_sides[0])
        return not (named and _number(gold_sides[1]) is not None) and _same_by_value(answer, gold, by_value)
    if len(gold_sides) > 1:
        return (_names(gold_sides[0]) or not re.search("[a-z]", gold)) and _equal(answer, gold_sides[-1], by_value)
    if len(sides) > 1:
        constant = [side for side in sides if not re.search(r"(?<![\\a-zA-Z])[a-zA-Z]", side)]
        shown = sides[:1] if "\\approx" in answer and len(constant) == len(sides) else [*constant[:-1], sides[-1]]
        return (_names(sides[0]) or sides[0] in constant) and all(_equal(side, gold, by_value) for side in shown)
    return _equal_leaf(answer, gold, by_value)


def _equal_leaf(answer: str, gold: str, by_value: bool) -> bool:
    """Compares single values: choices, then units, then numbers and words; the rest by value."""

    def bare(text: str) -> str:
        text = re.sub(r"\\text\{ ?([^{}]*?) ?\}", r"\1", text)
        inside = _bracketed(text)
        return inside[1].strip() if inside and inside[0] == "(" and not _number(text) else text

    if choice := re.fullmatch(r"[A-J]", bare(gold)):
        return bool(re.match(rf"\(?{choice[0]}(?:[).:]|$)", re.sub(r"\\text\{ ?([^{}]*?) ?\}", r"\1", answer)))
    answer = re.sub(r"^(?:\\text\{)? ?\([A-J]\) ?\}? ?(?=[-\d\\])", "", answer)  # (B) 12
    (value, unit), (gold_value, gold_unit) = _split_unit(answer), _split_unit(gold)
    if unit and not gold_unit:
        gold_value, gold_unit = _split_unit(gold, letters=True)
    elif not unit:
        value, unit = _split_unit(answer, letters=bool(gold_unit) or _number(gold_value) is not None)
    if unit and gold_unit and unit != gold_unit:
        return False
    value, gold_value = bare(value), bare(gold_value)
    numbers = _number(value), _number(gold_value)
    if None not in numbers:
        if unit != gold_unit and "%" in (unit, gold_unit):  # 50% may be written 50 and 0.5, and 0.5% not 0.5
            share, plain = numbers if unit else numbers[::-1]
            return share == 100 * plain or (share == plain and abs(share) >= 1)
        return numbers[0] == numbers[1]
    if re.search(r"\d ?(?:_|:)", value + gold_value):  # bases, ratios and times are settled by their spelling
        value, gold_value = (re.sub(r"[\s{}()]", "", text) for text in (value, gold_value))
        return value == gold_value or value == gold_value.split("_")[0]
    words = [re.sub(r"^(?:an?|the) |s\b|[^a-z ]", "", text.lower()).strip() for text in (value, gold_value)]
    formula = re.search(r"[\d\\+*/^=<>_|]|^-|\b\w-|-\w\b", value + gold_value)
    alike = words[0] == words[1] and len(words[0]) > 1 and not formula
    if alike or any(re.search(r"(?<![\\a-zA-Z{_])[a-zA-Z]{4,}|^[A-Z]{2,}$", text) for text in (value, gold_value)):
        return alike
    return _same_by_value(value, gold_value, by_value)


# --- Comparison by value, in a worker ---


class Undecided(Exception):
    """Only a comparison by value can tell: this pair needs a worker."""


class BadGold(Exception):
    """The gold answer is not LaTeX that math-verify's grammar knows."""


_FOR_GRAMMAR = [(re.compile(pattern), replacement) for pattern, replacement in (
    (r"([\d.]+) ?\^\\circ", r"(\1\\pi/180)"), (r"\\text\{ ?(\w) ?\}", r"\1"), (r"(\\?[a-zA-Z]+)'", r"\1_{p}"),
    (r"((?<![\d_])\d+|\)) ?\(", r"\1\\cdot ("),  # the grammar reads 2(3) as 2 + 3
    (r"(?<![\\a-zA-Z])E(?= ?_)", r"\\Xi "),  # and knows no subscript of E
)]  # fmt: skip


def _parse(text: str):
    """A cleaned expression, equation or inequality as sympy's."""
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig, latex2sympy
    from sympy import Derivative, I, Symbol

    for pattern, replacement in _FOR_GRAMMAR:
        text = pattern.sub(replacement, text)
    if re.search(r"(?<![_\d])\d+ +\d|'|\*$", text):
        raise ValueError("not an expression")  # the grammar reads 3 4 as 7
    config = ConversionConfig(lowercase_symbols=False)
    expression = latex2sympy(text, is_real=None, normalization_config=None, conversion_config=config)

    def is_opaque(e) -> bool:  # evaluating dv/dt would give 0, and math-verify takes R for r
        return isinstance(e, Derivative) or (e.is_Symbol and e.name.isupper())

    return expression.replace(is_opaque, lambda e: Symbol(f"{e}_opaque")).subs(Symbol("i"), I)


def _same_by_value(answer: str, gold: str, by_value: bool) -> bool:
    """math-verify on two expressions. Its own time limits work on the main thread only; the worker's replace them."""
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
        return verify(parsed, _parse(answer), float_rounding=30, numeric_precision=50, timeout_seconds=None)
    except MemoryError:
        raise
    except Exception:  # not LaTeX that can be read: not an answer
        return False


def equal(answer: str | None, gold: str, by_value: bool) -> bool:
    """Whether an extracted answer equals the gold answer, both as written.

    Args:
        by_value: compare with sympy where nothing simpler decides; may hang on hostile input.

    Raises:
        Undecided: not `by_value`, and only a value can decide. BadGold: no grammar reads the gold answer.
    """
    if answer is None or len(answer) > MAX_ANSWER:
        return answer is not None and answer.strip() == gold.strip()
    return _equal(clean(answer), clean(gold), by_value)
