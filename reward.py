"""Extract and verify answers: a completion and a gold answer in, 1.0 or 0.0 out.

    with Grader(workers=2, timeout=2.0) as grader:
        rewards = grader.grade_batch(completions, answers)

1. `extract_answer` finds the answer in the text: the last \\boxed{}, or else "#### x" or "the answer is x".
2. `_equal` takes answer and gold apart: lists, tuples, regions of the real line, equations, units, down to leaves. Leaves
   that are plain numbers or words are settled by exact arithmetic, here, in microseconds: most pairs end there.
3. Any other pair goes to a worker, a bare Python process with a limit on its time and its memory. It reads the leaves
   with math-verify's LaTeX grammar and compares their values.

Model output is never evaluated as code: math-verify's `parse` is avoided, since for plain expressions it falls back to eval.
"""

import json
import math
import os
import re
import resource
import select
import signal
import subprocess
import sys
import threading
import unicodedata
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from functools import lru_cache
from queue import SimpleQueue

MAX_ANSWER = 400  # characters; a longer answer is right only if it is the gold answer letter for letter

# --- 1. Extraction ----------------------------------------------------------------------------------------------------

_THINK = re.compile(r"</?think(?:ing)?>", re.I)
_BOX = re.compile(r"\\{1,2}(?:boxed|fbox)(?![a-zA-Z])\s*(\{)?|\\.|[{}]", re.S)
_BARE_BOX = re.compile(r"[-+]?[\d.][^\s$]*|\\[a-zA-Z][^\s$]*")
_NEGATED = re.compile(r"(?:\bnot|n't|\\neq?|\u2260|!=)(?:\s+(?:be|equal(?:\s+to)?))?[\s$*:(]*$", re.I)
_OFFER = re.compile(r"\b(?:or|alternatively|maybe|possibly|perhaps|might|could)\b", re.I)
_AMEND = re.compile(
    r"wait|\bno\b|actually|rather|correct|instead|mistake|sorry|check|hmm|oops|should|hence|thus|therefore", re.I
)
_GLUE = re.compile(
    r"\\(?:text|q?quad|mbox|mathrm)(?![a-zA-Z])|\b(?:and|also|both|either)\b|\b[a-zA-Z](?:_\w)?\s*=|\\?[\W_]"
)
_ALSO = re.compile(r"[\s$]*[,(]?\s*or\s+(?:maybe\s+|possibly\s+|perhaps\s+)?\$?(-?\d[\d./]*)")
_SAID = re.compile(
    r"(?P<hash>####)|\banswers?(?:\s+to\s[^.\n]{1,80}?)?[\s*]{0,9}(?:\b(?:is|are|would be)\b|[:=])[\s*:]*(?P<no>not\b)?",
    re.I,
)
_DISPLAY = re.compile(r"\s*(?:\$\$(.+?)\$\$|\\\[(.+?)\\\])", re.S)
_FILLER = re.compile(r"(?:therefore|thus|simply|just|then|equal to|given by)\b[\s,:]*", re.I)
_REMARK = re.compile(r"(?:\.(?=\s|$)|[,;]?\s+\(?(?:because|since|which|so|as|not)\b).*")


def _outside_thinking(text: str) -> str:
    """Drop thinking blocks. A stray </think> ends a block that the prompt opened; an open <think> never ends."""
    kept, start, inside = [], 0, False
    for tag in _THINK.finditer(text):
        if not inside:
            kept.append(text[start : tag.start()])
        if tag[0][1] == "/" and not inside:
            kept.clear()
        inside, start = tag[0][1] != "/", tag.end()
    return "\n".join(kept if inside else [*kept, text[start:]])


def _boxes(text: str) -> tuple[list[tuple[int, int, str]], bool]:
    """The innermost boxes as (start, end, content), and whether the box opened last is still open. One pass: linear."""
    boxes, stack, last = [], [], -1
    for token in _BOX.finditer(text) if "\\boxed" in text or "\\fbox" in text else ():
        if token[1] or token[0] == "{":
            stack.append((token.start(), token.end()) if token[1] else None)
            last = token.start() if token[1] else last
        elif token[0] == "}":
            if stack and (opened := stack.pop()) and not (boxes and boxes[-1][0] > opened[0]):
                boxes.append((opened[0], token.end(), text[opened[1] : token.start()]))
        elif len(token[0]) > 2 and (bare := _BARE_BOX.match(text, token.end())):  # \boxed 5
            boxes.append((token.start(), bare.end(), bare[0].rstrip(".,;")))
    return boxes, last > (boxes[-1][0] if boxes else -1)


def _side_by_side(between: str) -> bool:
    """Whether the boxes around this text are alternatives or parts of one list, rather than one replacing the other."""
    if len(between) > 100 or _AMEND.search(between):
        return False
    return not _GLUE.sub("", between) or bool(_OFFER.search(re.split(r"[.;]\s", between)[-1]))


def extract_answer(completion: str) -> str | None:
    r"""The answer that a completion commits to, as LaTeX, or None.

    >>> extract_answer(r"So \boxed{4}. Wait, I forgot one: \boxed{5}.")
    '5'
    >>> extract_answer(r"\boxed{1} or \boxed{2}")  # one answer that names two values: right only for a gold of two
    '1 \\text{ or } 2'
    >>> extract_answer("Adding up, the final answer is $12$ cm.")
    '$12$ cm'
    >>> extract_answer(r"<think>It must be \boxed{3}") is None
    True
    """
    text = _outside_thinking(completion)
    boxes, unclosed = _boxes(text)
    if boxes or unclosed:
        kept = [box for box in boxes if not _NEGATED.search(text[max(0, box[0] - 40) : box[0]])]
        if unclosed or not kept:
            return None  # cut off, or nothing but "not \boxed{3}"
        group = [kept.pop()]
        while kept and _side_by_side(text[kept[-1][1] : group[0][0]]):
            group.insert(0, kept.pop())
        contents = [box[2].strip() for box in group]
        if also := _ALSO.match(text, group[-1][1]):
            contents.append(also[1])
        if not all(_key(_clean(content)) for content in contents):
            return None
        return r" \text{ or } ".join(dict.fromkeys(contents))  # the same box twice is one answer
    said = [match for match in _SAID.finditer(text) if match["no"] is None]
    if not said:
        return None
    rest = text[said[-1].end() :][: 2 * MAX_ANSWER]
    if display := _DISPLAY.match(rest):
        return (display[1] or display[2]).strip()
    line = rest.strip(" \t").split("\n")[0]
    if not said[-1]["hash"]:
        line = _REMARK.sub("", _FILLER.sub("", line, count=1), count=1)
    return line.strip(" \t\r*`").rstrip(".") or None


# --- 2. Comparison by structure ---------------------------------------------------------------------------------------

_GROUP = r"\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\}"  # braces, nested up to three deep
_TOKEN = r"(\d|[a-zA-Z]|\\(?:pi|theta|alpha|beta)(?![a-zA-Z]))"
_UNICODE = str.maketrans(
    dict(
        zip(
            "\u2212\u2013\u00d7\u00b7\u22c5\u00f7\u2044\u03c0\u221e\u2264\u2265\u2260\u222a\u00b0\u00b1\u2208\u2205\u211d\u2248\u03b8\u2032",
            r"-|-|\times |\cdot |\cdot |/|/|\pi |\infty |\le |\ge |\ne |\cup |^\circ |\pm |\in |\emptyset |\mathbb{R}|\approx |\theta |'".split(
                "|"
            ),
        )
    )
)
_FUNCTIONS = r"sqrt|arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|log|ln|exp|pi|theta|alpha|beta|infty"
_REWRITES = [
    (re.compile(pattern), new)
    for pattern, new in (
        (r"(?<!\\)\$", " "),
        (r"\\(?:left|right)\s*\.|\\(?:left|right|[bB]igg?)[lrm]?(?![a-zA-Z])", ""),
        (r"(?<=\d)(?:\{,\}|,\\!\s*|\\[,!;: ]\s?|~)(?=\d{3}(?!\d))", ""),  # 1{,}234 1,\!234 1\,234
        (r"\\!|\\(?:displaystyle|textstyle|limits|nolimits)(?![a-zA-Z])|\\phantom\s*(?:\{[^{}]*\}|.)", ""),
        (r"(?<!\\)\\[()\[\],;:> ]|~|\\q?quad(?![a-zA-Z])|\s+", " "),
        (r"\{\\(?:rm|bf|it)\s+([^{}]*)\}", r"\\text{\1}"),
        (
            r"\\(?:text(?:bf|it|rm|normal|up|tt|sf)?|mbox|hbox|emph|math(?:rm|bf|it|sf)|boldsymbol|bm|operatorname\*?)\s*\{",
            r"\\text{",
        ),
        (r"\\[dtc]frac", r"\\frac"),
        (r"<=|\\leq?(?:slant)?(?![a-zA-Z])", r"\\le "),
        (r">=|\\geq?(?:slant)?(?![a-zA-Z])", r"\\ge "),
        (r"!=|\\neq?(?![a-zA-Z])|\\not\s*=", r"\\ne "),
        (r"\\lt(?![a-zA-Z])", "<"),
        (r"\\gt(?![a-zA-Z])", ">"),
        (r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![a-zA-Z]))|\\(?:text)?degree(?![a-zA-Z])", r"^\\circ "),
        (r"\\%|\\text\{\s*(?:\\?%|percent)\s*\}|(?<=\d)\s*percent(?:age)?\b", "%"),
        (r"\\text\{[\s,]*or[\s,]*\}|\\lor(?![a-zA-Z])|\\vee(?![a-zA-Z])", " or "),
        (r"\\text\{[\s,]*and[\s,]*\}", " and "),
        (
            r"\\varnothing|\\\{\s*\\\}|(?i:\b(?:there (?:is|are) )?no (?:real )?solutions?\b|\bempty(?: set)?\b)",
            r"\\emptyset ",
        ),
        (r"(?i:\ball real(?: number)?s?\b)", r"\\mathbb{R}"),
        (r"\\lbrace", r"\\{"),
        (r"\\rbrace", r"\\}"),
        (r"\\langle|\\lparen", "("),
        (r"\\rangle|\\rparen", ")"),
        (r"\\[lr]vert(?![a-zA-Z])", "|"),
        (r"(?<![\\a-zA-Z])inf(?:inity)?(?![a-zA-Z])", r"\\infty "),
        (r"\+\s*\\infty", r"\\infty"),
        (r"(?<=[\w)}])\*\*(?=[\w({-])", "^"),
        (rf"(?<![\\a-zA-Z])(?:np\.|math\.)?({_FUNCTIONS})(?![a-zA-Z])", r"\\\1 "),
        (r"\\sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
        (rf"\\sqrt\s*(\[[^\]]*\])?\s*{_TOKEN}", r"\\sqrt\1{\2}"),
        (r"\^\s*\(([^()]*)\)|\^\s*([+-]\s*\w+)", r"^{\1\2}"),
        (rf"\\frac\s*{_TOKEN}", r"\\frac{\1}"),
        (rf"(\\frac\s*{_GROUP})\s*{_TOKEN}", r"\1{\2}"),
    )
]
_PREFIX = re.compile(
    r"(?:\\text\{)?\s*(?:the\s+)?(?:(?:final|correct)\s+)?answer\s*(?:is|:|=)[\s:]*\}?|\\approx(?![a-zA-Z])", re.I
)


@lru_cache(4096)
def _clean(text: str) -> str:
    r"""One spelling for each way to write the same LaTeX; the value and the structure stay.

    >>> _clean(r"$\left( \tfrac12,\; 1{,}000\text{ cm} \right)$.")
    '( \\frac{1}{2}, 1000\\text{ cm} )'
    """
    if not text.isascii():
        text = text.translate(_UNICODE)
        text = re.sub("\u221a\\s*(\\d+)", r"\\sqrt{\1}", text).replace("\u221a", r"\sqrt")
        text = re.sub(
            "[\u2070\u00b9\u00b2\u00b3\u2074-\u207b]+", lambda m: "^{" + unicodedata.normalize("NFKC", m[0]) + "}", text
        )
        text = re.sub(
            "[\u00bc-\u00be\u2150-\u215e]",
            lambda m: r"\frac{%s}{%s}" % tuple(unicodedata.normalize("NFKC", m[0]).split("\u2044")),
            text,
        )
        text = unicodedata.normalize("NFKC", text).translate(_UNICODE)
        text = "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in text)  # digits of other scripts
    text = "".join(c for c in text if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf", "Cs")).strip()
    if re.fullmatch(r"\$\s*-?[\d.,]+[^$]*|-\s*\$\s*[\d.,]+[^$]*", text):
        text = text.replace("$", r"\$")  # a lone $ before a number is money, not a formula
    for pattern, new in _REWRITES:
        text = pattern.sub(new, text)
    while True:
        before = text
        text = re.sub(r"(?<!\.)\.$|[,;:\\]+$", "", text.strip().strip("*`").strip())
        text = _PREFIX.sub("", text, count=1) if _PREFIX.match(text) else text
        if (whole := re.fullmatch(r"(?:\\text)?\{([^{}]*)\}", text)) and not text.startswith("\\{"):
            text = whole[1]
        if text == before:
            return text


def _key(text: str) -> str:
    """What is left of a cleaned answer when spaces and needless braces do not count."""
    return re.sub(r"\{(\w)\}", r"\1", re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", text))


_DECIMAL = r"(?:[1-9]\d{0,2}(?:,\d{3})+(?:\.\d*)?|\d+(?:\.\d*)?|\.\d+)"
_NUMBER = re.compile(
    rf"(?P<sign>[+-]?)(?:"
    rf"(?:(?P<whole>\d+)\s*)?\\frac\{{(?P<p>[+-]?{_DECIMAL})\}}\{{(?P<q>[+-]?{_DECIMAL})\}}|"
    rf"(?:(?P<whole2>\d+)\s+)?(?P<p2>{_DECIMAL})\s*/\s*(?P<q2>{_DECIMAL})|"
    rf"(?P<fixed>\d*\.\d*)\\(?:overline|bar|dot)\{{(?P<cycle>\d+)\}}|"
    rf"(?P<base>\d{{1,4}})\s*\^\s*(?:\{{\s*(?P<power>[+-]?\d{{1,3}})\s*\}}|(?P<power2>\d))|"
    rf"(?P<m>{_DECIMAL})(?:\s*(?:\\times|\\cdot|\*|x)\s*10\s*\^\s*\{{?\s*(?P<e>[+-]?\d{{1,4}})\s*\}}?|[eE](?P<e2>[+-]?\d{{1,4}}))?|"
    rf"(?P<inf>\\infty))"
)


@lru_cache(4096)
def _number(text: str) -> Fraction | float | None:
    r"""The exact value of a plain number, or None. Bounded: 1e999999999 is not plain, so it can't eat memory here.

    >>> [str(_number(s)) for s in ("1,234", r"\frac{1}{2}", r"-1 \frac{3}{4}", "4.5e3", r"0.\overline{3}", "12 13")]
    ['1234', '1/2', '-7/4', '4500', '1/3', 'None']
    """
    text = re.sub(r"(?<=\d) (?=\d{3}\b)", "", text) if re.fullmatch(r"[+-]?\d{1,3}(?: \d{3})+", text) else text.strip()
    match = _NUMBER.fullmatch(text.replace("- ", "-"))
    if not match:
        return None
    part = {name: value.replace(",", "") for name, value in match.groupdict().items() if value}
    if "inf" in part:
        value = math.inf
    elif "cycle" in part:
        fixed, places = part["fixed"], len(part["fixed"].split(".")[1])
        value = Fraction(fixed + "0") + Fraction(int(part["cycle"]), (10 ** len(part["cycle"]) - 1) * 10**places)
    elif "base" in part:
        power = int(part.get("power") or part["power2"])
        if part["base"].strip("0") == "" and power <= 0:
            return None
        value = Fraction(int(part["base"])) ** power
    elif "m" in part:
        value = Fraction(part["m"]) * Fraction(10) ** int(part.get("e") or part.get("e2") or 0)
    else:
        bottom = Fraction(part.get("q") or part["q2"])
        if not bottom:
            return None
        value = int(part.get("whole") or part.get("whole2") or 0) + Fraction(part.get("p") or part["p2"]) / bottom
    return -value if part.get("sign") == "-" else value


# Spellings of a unit; the first is its name. Words that are not here (apples, ways) are units too, each its own.
_UNITS = {
    spelling: group.split()[0]
    for group in (
        "cm centimeter centimetre|m meter metre|km kilometer kilometre|mm millimeter millimetre|inch in inches|ft foot feet|"
        "yd yard|mi mile|s sec second|min minute|h hr hour|day|week wk|month|yr year|g gram gm|kg kilogram|mg milligram|"
        "lb pound|oz ounce|l liter litre|ml milliliter millilitre|gal gallon|deg degree|dollar usd $ buck|cent \u00a2|"
        "euro \u20ac|\u00a3 gbp|rupee rs|unit|am|pm|n newton|j joule|w watt|pa pascal|hz hertz|v volt|k kelvin|rad radian|"
        "percent %|acre|ton tonne|mol mole|celsius c|fahrenheit f|erg|ev|au|pc parsec"
    ).split("|")
    for spelling in group.split()
}
_SCALES = {"dozen": 12, "hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_TAIL = re.compile(
    rf"(?P<body>.*[\d)}}a-z])\s*(?P<unit>\\text\s*\{{(?P<text>[^{{}}]*)\}}\s*(?P<power>\^\s*\{{?[23]\}}?)?)|"
    rf"(?P<number>[-+]?\d[\d.,/:]*|[^a-z]*\\frac{_GROUP}{_GROUP}|.*\\circ|.*%)\s*(?P<plain>[a-zA-Z][a-zA-Z./ ]*(?:\^\s*\{{?[23]\}}?)?)"
)


def _unit_name(text: str) -> str:
    """The unit's canonical name: "square inches" -> "inch^2", "km per hour" and "kph" -> "km / h", "ways." -> "way"."""
    text = re.sub(r"\bper\b", "/", text.lower().replace(".", "").replace("mph", "mile / hour").replace("kmh", "km / h"))
    words, square = [], ""
    for word in re.findall(r"[a-z]+|[\u00a2-\u20ac$%/]|\d", text.replace("kph", "km / h").replace("kmph", "km / h")):
        if word in ("square", "sq", "squared", "cubic", "cu", "cubed", "2", "3"):
            power = "^3" if word[0] == "c" or word == "3" else "^2"
            if words and word in ("squared", "cubed", "2", "3"):
                words[-1] += power
            else:
                square = power
        else:
            single = word[:-1] if word not in _UNITS and word.endswith("s") and len(word) > 3 else word
            words.append(_UNITS.get(word) or _UNITS.get(single) or single)
            words[-1] += square if word != "/" else ""
            square = "" if word != "/" else square
    known = [word for word in words if word == "/" or word.split("^")[0] in _UNITS.values()]
    return " ".join(known if any(word != "/" for word in known) else words[-1:])


@lru_cache(4096)
def _split_unit(text: str, letters: bool = False) -> tuple[str, str]:
    r"""Body and unit. A lone plain letter (5 m) is a unit only if `letters`; otherwise it is a variable.

    >>> _split_unit(r"5 \text{ square cm}"), _split_unit(r"\$18.90"), _split_unit("5 m"), _split_unit("3 million")
    (('5', 'cm^2'), ('18.90', 'dollar'), ('5 m', ''), ('3000000', ''))
    """
    if money := re.fullmatch(r"(-?)\s*(\\\$|[\u20ac\u00a3])\s*(-?.*)", text):
        return _split_unit(money[1] + money[3])[0], _unit_name(money[2])
    if text.endswith("%"):
        return text[:-1].strip(), "percent"
    if degrees := re.fullmatch(r"(.*?)\s*\^\\circ\s*(?:\\text\{)?\s*([CF]?)\}?", text):
        return degrees[1], _unit_name(degrees[2]) or "deg"
    tail = _TAIL.fullmatch(text)
    if not tail:
        return text, ""
    body, unit = (
        (tail["body"], tail["text"] + (tail["power"] or "")) if tail["unit"] else (tail["number"], tail["plain"])
    )
    scale = _SCALES.get(unit.split()[0].lower().rstrip("s")) if unit.split() else None
    if scale and (value := _number(body)) is not None:
        body, unit = str(value * scale), " ".join(unit.split()[1:])
    name = _unit_name(unit) if unit else ""
    if tail["plain"] and name:
        word = unit.split()[0]
        variable = len(word) == 1 and not (letters and text[len(body)] == " ")
        if variable or (len(word) < 3 and name.split("^")[0] not in _UNITS.values() and "/" not in name):
            return text, ""
    inner = _split_unit(body) if body.endswith(("\\circ", "%")) else (body, "")
    return inner[0].strip(), inner[1] or name


def _split_top(text: str, separators: str) -> list[str]:
    """Split at separators that stand outside all brackets; empty parts are dropped (as in "1, 2, and 3")."""
    parts, depth, start = [], 0, 0
    for token in re.finditer(rf"(?P<sep>{separators})|\\[a-zA-Z]+|\\?.", text):
        if token[0] in ("(", "[", "{", "\\{"):
            depth += 1
        elif token[0] in (")", "]", "}", "\\}"):
            depth = max(0, depth - 1)
        elif token["sep"] and not depth:
            parts.append(text[start : token.start()].strip())
            start = token.end()
    return [part for part in [*parts, text[start:].strip()] if part]


def _inside(text: str, opens: str, closes: str) -> str | None:
    """What the outermost brackets hold, if one pair spans the whole text."""
    left, right = re.match(opens, text), re.search(rf"(?:{closes})$", text)
    if not left or not right or left.end() > right.start():
        return None
    inner, depth = text[left.end() : right.start()], 0
    for token in re.finditer(r"\\[a-zA-Z]+|\\?.", inner):
        depth += (token[0] in ("(", "[", "{", "\\{")) - (token[0] in (")", "]", "}", "\\}"))
        if depth < 0:
            return None
    return inner.strip()


_LIST = r"[,;]|\bor\b|\band\b"
_VARIABLE = r"(?!\\pi|\\infty|e(?![a-zA-Z]))\\?[a-zA-Z]+(?:_\{?\w+\}?)?(?:\([a-z]\))?"
_RELATION = re.compile(r"(\\le(?![a-zA-Z])|\\ge(?![a-zA-Z])|\\ne(?![a-zA-Z])|[<>])")


def _region(text: str, pairs: bool = False) -> tuple[str, list[tuple[str, str, str, str]]] | None:
    r"""Variable and pieces of a set of real numbers, or None. A lone (a, b) or [a, b], maybe a point, only if `pairs`.

    >>> _region(r"x \ge 5"), _region(r"(0,1] \cup \{3\}"), _region("(1,2)")
    (('x', [('[', '5', '\\infty', ')')]), ('', [('(', '0', '1', ']'), ('[', '3', '3', ']')]), None)
    """
    if builder := re.fullmatch(rf"\\\{{\s*{_VARIABLE}\s*(?:\\in\s*\\mathbb\{{R\}}\s*)?(?:\\mid|:|\|)(.*)\\\}}", text):
        return _region(builder[1].strip())
    if member := re.match(rf"({_VARIABLE})\s*\\in(?![a-zA-Z])\s*", text):
        region = _region(text[member.end() :], True)
        return region and (member[1], region[1])
    if reals := re.fullmatch(r"\\mathbb\{R\}(?:\s*\\(?:setminus|backslash)\s*\\\{(.*)\\\})?", text):
        holes = sorted(_split_top(reals[1] or "", _LIST), key=lambda hole: _number(hole) or 0)
        edges = ["-\\infty", *holes, "\\infty"]
        return "", [("(", low, high, ")") for low, high in zip(edges, edges[1:])]
    for union in (r"\\cup(?![a-zA-Z])", r"\bor\b"):
        if len(parts := _split_top(text, union)) > 1:
            regions = []
            for part in parts:
                points = _inside(part, r"\\\{", r"\\\}") if "cup" in union else None
                pieces = [("[", point, point, "]") for point in _split_top(points or "", ",")]
                regions.append(("", pieces) if pieces else _region(part, "cup" in union))
            names = {region[0] for region in regions if region} - {""}
            known = all(regions) and len(names) < 2
            return ("".join(names), [piece for region in regions for piece in region[1]]) if known else None
    sides = [side.strip() for side in _RELATION.split(text)]
    signs = [sign.replace("\\le", "<=").replace("\\ge", ">=").replace("\\ne", "!=") for sign in sides[1::2]]
    if len(sides) in (3, 5):
        if len(sides) == 3 and re.fullmatch(_VARIABLE, sides[2]):
            sides, signs = sides[::-1], [signs[0].translate(str.maketrans("<>", "><"))]
        name, ends = (sides[0], sides[2:]) if len(sides) == 3 else (sides[2], [sides[0], sides[4]])
        if (name and not re.fullmatch(_VARIABLE, name)) or any(
            re.search(r"(?<![\\a-zA-Z])(?!e\b)[a-zA-Z]", end) for end in ends
        ):
            return None  # solving is sympy's
        if signs == ["!="]:
            return name, [("(", "-\\infty", ends[0], ")"), ("(", ends[0], "\\infty", ")")]
        if len(sides) == 5 and {sign[0] for sign in signs} == {">"}:
            signs, ends = [sign.replace(">", "<") for sign in signs[::-1]], ends[::-1]
        if len(sides) == 5 and {sign[0] for sign in signs} == {"<"}:
            return name, [("[" if signs[0] == "<=" else "(", *ends, "]" if signs[1] == "<=" else ")")]
        if len(sides) == 3 and signs[0][0] == "<":
            return name, [("(", "-\\infty", ends[0], "]" if signs[0] == "<=" else ")")]
        return (name, [("[" if signs[0] == ">=" else "(", ends[0], "\\infty", ")")]) if len(sides) == 3 else None
    inner = _inside(text, r"[(\[]", r"[)\]]")
    ends = _split_top(inner or "", ",")
    return (
        ("", [(text[0], *ends, text[-1])]) if len(ends) == 2 and (pairs or text[0] + text[-1] in ("(]", "[)")) else None
    )


def _merged(pieces: list[tuple[str, str, str, str]]) -> list[tuple] | None:
    """Pieces with plain numbers as ends, sorted and joined where they touch, so that equal sets compare equal."""
    spans = [(_number(low), opens == "(", _number(high), closes == ")") for opens, low, high, closes in pieces]
    if any(span[0] is None or span[2] is None for span in spans):
        return None
    merged: list[tuple] = []
    for low, left_open, high, right_open in sorted(spans):
        last = merged[-1] if merged else None
        if last and (low < last[2] or (low == last[2] and not (left_open and last[3]))):
            merged[-1] = (*last[:2], *max(last[2:], (high, right_open), key=lambda end: (end[0], not end[1])))
        else:
            merged.append((low, left_open, high, right_open))
    return merged


def _elements(text: str) -> list[str] | None:
    """The members of an unordered list or set ("1, 2", "3 or 5", "{1, 2}", "1 +- sqrt 2"), or None."""
    inner = _inside(text, r"\\\{", r"\\\}")
    if inner is None and _number(_split_unit(text)[0]) is not None:
        return None  # 1,234 is a number
    parts = _split_top(text if inner is None else inner, _LIST)
    members = []
    for part in parts:
        both = r"\\pm(?![a-zA-Z])" if "\\pm" in part and part[0] not in "([" else None
        flip = part.replace("\\mp", "\\pm") if both else part
        members += [re.sub(both, "+", part).replace("\\mp", "-"), re.sub(both, "-", flip)] if both else [part]
    return members if inner is not None or len(members) > 1 else None


def _tuple(text: str) -> tuple[str, list[str]] | None:
    """Brackets and entries of an ordered tuple or a matrix; a vector is a tuple, written as a row or as a column."""
    if matrix := re.fullmatch(r"[(\[]?\s*\\begin\{([pb]?matrix|array)\}(?:\{[clr|]*\})?(.*)\\end\{\1\}\s*[)\]]?", text):
        rows = [[cell.strip() for cell in row.split("&")] for row in matrix[2].split("\\\\") if row.strip()]
        entries = [cell for row in rows for cell in row]
        return (
            "()" if len(rows) == 1 or len(entries) == len(rows) else "x".join(str(len(row)) for row in rows)
        ), entries
    entries = _split_top(_inside(text, r"[(\[]", r"[)\]]") or "", "[,;]")
    return (text[0] + text[-1], entries) if len(entries) > 1 else None


def _matches(left: list, right: list, test: Callable) -> bool:
    """Whether the two lists pair off one to one, in any order."""
    left = list(left) if len(left) == len(right) else []
    for item in right:
        found = next((i for i, other in enumerate(left) if test(other, item)), None)
        if found is None:
            return False
        del left[found]
    return True


def _is_name(text: str) -> bool:
    """Whether "text = 5" states a result (x, f(2), m + n, Area) rather than an equation to be solved (2x, x^2)."""
    bare = re.sub(r"\\text\{[^{}]*\}|\([^()]*\)|_\{[^{}]*\}|\|[^|]*\|", "", text)
    if len(set(re.findall(r"(?<![\\a-zA-Z])[a-zA-Z]", bare))) > 1:
        return True
    return not re.search(r"[-+*/^<>!]|\\(?:frac|sqrt|cdot|times)|^\d", bare.strip())


def _equal(answer: str, gold: str, same: Callable[[str, str], bool]) -> bool:
    """Whether two cleaned answers are equal. `same` compares two expressions that are neither plain numbers nor words."""
    if _key(answer) == _key(gold):
        return True
    answer, gold = (
        re.sub(
            rf"^(?:{_VARIABLE}\s*(?:\\in(?![a-zA-Z])|=)\s*(?=\\\{{)|\([a-zA-Z](?:\s*,\s*[a-zA-Z])+\)\s*(?:=|\\in(?![a-zA-Z])))\s*",
            "",
            text,
        )
        for text in (answer, gold)
    )
    for_all = lambda left, right: all(_equal(x, y, same) for x, y in zip(left, right))  # noqa: E731
    a_region, g_region = _region(answer), _region(gold)
    if a_region or g_region:
        if not (a_region and g_region) and _RELATION.search(answer) and _RELATION.search(gold):
            return same(answer, gold)
        a_region, g_region = a_region or _region(answer, True), g_region or _region(gold, True)
        if not a_region or not g_region or (a_region[0] and g_region[0] and a_region[0] != g_region[0]):
            return False
        a_merged, g_merged = _merged(a_region[1]), _merged(g_region[1])
        if a_merged is not None and g_merged is not None:
            return a_merged == g_merged
        return _matches(a_region[1], g_region[1], lambda p, q: p[0] + p[3] == q[0] + q[3] and for_all(p[1:3], q[1:3]))
    members, g_members, entries = _elements(answer), _elements(gold), _tuple(gold)
    if g_members is not None:
        return _matches([answer] if members is None else members, g_members, lambda x, y: _equal(x, y, same))
    if members is not None:
        named = sorted(member.split("=") for member in members if re.match(r"\s*[a-zA-Z]\s*=", member))
        if entries and len({name[0] for name in named}) == len(members) == len(entries[1]):  # x = 1, y = 2 is (1, 2)
            return for_all([name[-1].strip() for name in named], entries[1])
        alternatives = len(members) == 1 or len(_split_top(answer, r"\bor\b")) == len(members)
        return alternatives and for_all(members, [gold] * len(members))  # "1/2 or 0.5" is no hedge
    a_entries = _tuple(answer)
    if entries or a_entries:
        if not entries or not a_entries or len(entries[1]) != len(a_entries[1]):
            return False
        alike = entries[0] == a_entries[0] or (len(entries[1]) > 2 and {entries[0], a_entries[0]} == {"()", "[]"})
        return alike and for_all(a_entries[1], entries[1])
    sides, g_sides = _split_top(answer, "="), _split_top(gold, "=")
    if len(sides) > 1 and len(g_sides) > 1:
        if _key(sides[0]) == _key(g_sides[0]):
            return _equal(sides[-1], g_sides[-1], same)
        return sorted(map(_key, sides)) == sorted(map(_key, g_sides)) or same(answer, gold)
    if len(g_sides) > 1:
        constant = not re.search(r"(?<![\\a-zA-Z])[a-zA-Z]", gold)
        return (constant or _is_name(g_sides[0])) and _equal(answer, g_sides[-1], same)
    if len(sides) > 1:
        constants = [side for side in sides[:-1] if not re.search(r"(?<!\\)\b[a-zA-Z]", side)]
        return (bool(constants) or _is_name(sides[0])) and for_all(
            [*constants, sides[-1]], [gold] * (len(constants) + 1)
        )
    return _equal_leaf(answer, gold, same)


def _bare(text: str) -> str:
    """Without the parentheses around the whole and without \\text{}."""
    text = re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", text).strip()
    return _inside(text, r"\(", r"\)") or text


def _equal_leaf(answer: str, gold: str, same: Callable[[str, str], bool]) -> bool:
    """Compare single values: units first, then numbers, clock times and ratios, bases and words; the rest by `same`."""
    if choice := re.fullmatch(r"\(?([A-J])\)?", _bare(gold)):
        if re.fullmatch(rf"{choice[1]}|\({choice[1]}\).*|{choice[1]}[).:].*", _bare(answer)):
            return True
    else:
        answer = re.sub(
            r"^\s*(?:\\text\s*\{)?\s*\([A-J]\)\s*\}?\s*(?=[-\d\\])", "", answer
        )  # "(B) 12" for a gold of 12
    (x, x_unit), (y, y_unit) = _split_unit(answer), _split_unit(gold)
    if x_unit and not y_unit:
        y, y_unit = _split_unit(gold, True)
    elif y_unit or _number(y) is not None:
        x, x_unit = _split_unit(answer, True)
    if x_unit and y_unit and x_unit != y_unit:
        return False
    a, g = _number(_bare(x)), _number(_bare(y))
    if a is not None and g is not None:
        if x_unit != y_unit and "percent" in (x_unit, y_unit):
            share, plain = (a, g) if x_unit else (g, a)
            return share == 100 * plain or (share == plain and abs(share) >= 1)  # 50% may be written 50; 0.5% not 0.5
        return a == g
    x, y = _bare(x), _bare(y)
    if _key(x).casefold() == _key(y).casefold() and (_key(x) == _key(y) or len(re.findall("[a-zA-Z]", x)) > 2):
        return True
    clock = r"\d{1,2}:[0-5]\d"
    if ":" in x or ":" in y:
        parts, g_parts = ([_number(part.strip()) for part in text.split(":")] for text in (x, y))
        if None in parts or None in g_parts or 0 in parts[1:] + g_parts[1:] and not re.fullmatch(clock, y):
            return False
        if re.fullmatch(clock, x) or re.fullmatch(clock, y):
            return parts == g_parts
        parts, g_parts = (part + [Fraction(1)] if len(part) == 1 else part for part in (parts, g_parts))
        return [part * g_parts[0] for part in parts] == [part * parts[0] for part in g_parts]
    based = [re.fullmatch(r"\(?(-?[\da-zA-Z.]+)\)?\s*(?:_|base\s*)\s*\{?\s*(\d+)\s*\}?", text) for text in (x, y)]
    if any(based) and not (based[0] and re.match("[a-z]", x)):  # 204_5: the base may be left out, but not be another
        return bool(based[1]) and (based[0][1:] == based[1][1:] if based[0] else x == based[1][1])
    words = [re.sub(r"[^a-z ]", "", re.sub(r"^(?:the|an?) |s\b", "", text.lower())).strip() for text in (x, y)]
    prose = [
        re.search(r"(?<![\\a-zA-Z])[a-zA-Z]{4,}", re.sub(r"_\{[^{}]*\}|\\[a-z]+\{[a-zA-Z]*\}", "", text))
        for text in (x, y)
    ]
    if any(prose) or any(re.fullmatch("[A-Z]{2,}", text) for text in (x, y)):
        return bool(words[0]) and words[0] == words[1] and not re.search(r"\d|\\", x + y)
    return "?" not in x and same(x, y)


# --- 3. Comparison by value (in a worker) -----------------------------------------------------------------------------


class _Undecided(Exception):
    """Raised in place of a comparison by value: this pair needs a worker."""


class _BadGold(ValueError):
    """The gold answer is not LaTeX that math-verify's grammar knows."""


def _undecided(answer: str, gold: str) -> bool:
    raise _Undecided


def _exact(match: re.Match) -> str:
    whole, _, places = match[0].partition(".")
    return rf"(\frac{{{int(whole + places)}}}{{{10 ** len(places)}}})"


@lru_cache(256)
def _parse(text: str):
    """A cleaned expression, equation or inequality as sympy's. Decimals become fractions, so 0.33 is never 1/3."""
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig, latex2sympy
    from sympy import Derivative, I, Symbol
    from sympy.core.function import AppliedUndef

    if re.search(r"\d\s+\d", text):
        raise ValueError("two numbers side by side")  # the grammar reads 3 4 as 7
    if re.search(r"\\(?:sin|cos|tan|cot|sec|csc)", text):
        text = re.sub(r"([\d.]+)\s*\^\\circ", r"{(\1\\pi/180)}", text)
    text = re.sub(r"(\d+(?:\.\d*)?|\.\d+)[eE]([+-]?\d+)", r"\1\\cdot 10^{\2}", text)
    text = re.sub(r"\d+\.\d*|\.\d+", _exact, text)
    text = re.sub(r"\\text\s*\{\s*(\w|[\d.,]+)\s*\}", r"\1", text)
    text = re.sub(r"([a-zA-Z])(?:'|\^\s*\{?\\prime\s*\}?)", r"\1_{p}", text)  # the grammar drops primes
    text = re.sub(r"((?<![\d_])\d+|\))\s*\(", r"\1\\cdot (", text)  # the grammar reads 2(3) as 2 + 3
    text = text.replace("%", r"\%").replace(r"\lg", r"\log")
    expression = latex2sympy(
        text, is_real=None, normalization_config=None, conversion_config=ConversionConfig(lowercase_symbols=False)
    )
    # A derivative or an unknown function is an opaque name: evaluating dv/dt would give 0.
    expression = expression.replace(lambda e: isinstance(e, Derivative | AppliedUndef), lambda e: Symbol(str(e)))
    return expression.subs(Symbol("i"), I)


def _same_number(a, g) -> bool:
    """Equal exactly if rational, else to 40 digits; with variables, at random points (Schwartz-Zippel, not simplify)."""
    import random

    from sympy import Abs, N, Rational

    a, g = a.doit(), g.doit()
    if a == g or (a.is_Rational and g.is_Rational):
        return a == g
    symbols = sorted(a.free_symbols | g.free_symbols, key=str)
    draw = random.Random(0)
    for trial in range(4 if symbols else 1):
        # Positive values: sqrt(4 r^2) is 2r to whoever wrote it. Negative ones only to tell |x| from x.
        sign = -1 if trial == 3 and (a.has(Abs) or g.has(Abs)) else 1
        point = {symbol: sign * Rational(draw.randint(2, 999), draw.randint(100, 300)) for symbol in symbols}
        x, y = (N(e.subs(point), 60) for e in (a, g))
        if not (x.is_Number or x.is_number) or not y.is_number:
            return False
        size = max(abs(x), abs(y))
        if not abs(x - y) <= max(size * Rational(1, 10**40), Rational(1, 10**55)):
            return False
    return True


def _same_by_value(answer: str, gold: str) -> bool:
    """Compare two expressions, equations or inequalities with sympy."""
    from math_verify import verify
    from sympy import Eq, Expr, solve

    try:
        g = _parse(gold)
    except MemoryError:
        raise
    except Exception as error:  # the grammar raises bare Exception
        raise _BadGold(gold) from error
    try:
        a = _parse(answer)
    except MemoryError:
        raise
    except Exception:  # not LaTeX that can be read: not an answer
        return False
    try:
        if isinstance(a, Expr) and isinstance(g, Expr):
            return _same_number(a, g)
        if isinstance(a, Eq) and isinstance(g, Eq):
            if a.free_symbols != g.free_symbols or not g.free_symbols:
                return False
            ratio = (a.lhs - a.rhs) / (g.lhs - g.rhs)  # one equation is a multiple of the other
            first = ratio.subs({symbol: index + 2 for index, symbol in enumerate(sorted(g.free_symbols, key=str))})
            if first.is_finite and not first.is_zero and _same_number(ratio, first):
                return True
            if not solve(g, *g.free_symbols):
                return False
        return type(a) is type(g) and verify(g, a, timeout_seconds=None)
    except (ArithmeticError, AttributeError, NotImplementedError, RecursionError, TypeError, ValueError):
        return False  # sympy can't compare them


def _decide(answer: str | None, gold: str, same: Callable[[str, str], bool]) -> bool:
    if answer is None or len(answer) > MAX_ANSWER:
        return answer is not None and answer.strip() == gold.strip()
    answer, gold = _clean(answer), _clean(gold)
    for mark in (r"\\approx(?![a-zA-Z])",):
        exact = _split_top(answer, mark)
        if len(exact) > 1:  # 22/7 = 3.14...: the exact side counts
            answer = exact[0] if not re.fullmatch(_VARIABLE, exact[0]) else exact[1]
    return _equal(answer, gold, same)


def grade(completion: str, answer: str) -> bool:
    r"""Whether the completion's answer is the gold `answer`. Runs in this process: hostile input may hang it.

    >>> grade(r"Hence \boxed{\frac{1}{2}}.", "0.5"), grade(r"\boxed{5 \text{ m}}", r"5\text{ cm}")
    (True, False)
    """
    try:
        return _decide(extract_answer(completion), answer, _same_by_value)
    except _BadGold:
        return False


# --- Workers ----------------------------------------------------------------------------------------------------------


def _serve(timeout: float, memory_mb: int) -> None:
    """A worker's life: import, limit the memory, say "ready", then answer one line of JSON with one word each."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # nothing that a library prints can pass for a reply
    _decide(
        r"\frac{2}{\sqrt{2}}+x", r"x+\sqrt{2}", _same_by_value
    )  # imports and first calls are slow; pay for them here
    with open("/proc/self/statm") as statm:
        used = int(statm.read().split()[0]) * resource.getpagesize()
    limit = max(memory_mb << 20, used + (64 << 20))
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    replies.write("ready\n")
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_REAL, 2 * timeout + 5)  # dies by itself if the parent is gone
        try:
            reply = "right" if _decide(*json.loads(line), _same_by_value) else "wrong"
        except _BadGold:
            reply = "bad gold"
        except MemoryError:
            reply = "memory"
        signal.setitimer(signal.ITIMER_REAL, 0)
        replies.write(reply + "\n")
        if reply == "memory":
            return


class _Worker:
    """One worker process. Plain pipes of its own: killing it can leave no shared lock held, unlike a pool's queue."""

    def __init__(self, timeout: float, memory_mb: int) -> None:
        command = [sys.executable, os.path.abspath(__file__), str(timeout), str(memory_mb)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        # exec, never a bare fork: the parent may hold CUDA, threads and tens of GB. An own session is deaf to Ctrl-C.
        self.process = subprocess.Popen(command, start_new_session=True, bufsize=0, **pipes)
        self.timeout, self.ready = timeout, False

    def _reply(self, seconds: float) -> str:
        """The next line; "timeout" if none came in time, "died" if the process ended."""
        if not select.select([self.process.stdout], [], [], seconds)[0]:
            return "timeout"
        return self.process.stdout.readline().decode().strip() or "died"

    def ask(self, answer: str, gold: str) -> str:
        if not self.ready and (reply := self._reply(120)) != "ready":  # start-up is not on the pair's clock
            return "died"
        self.ready = True
        try:
            self.process.stdin.write((json.dumps([answer, gold]) + "\n").encode())
        except BrokenPipeError:
            return "died"
        return self._reply(self.timeout)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


class Grader:
    """Grades batches with `workers` processes, each pair in at most `timeout` seconds and `memory_mb` of memory.

    `stats` counts: graded (pairs), plain (settled here), repeats (same answer and gold in a batch), timeouts, kills
    (workers that died or ran out of memory), bad_golds (gold answers that could not be read). Calls may overlap.

    >>> with Grader(workers=1) as grader:
    ...     grader.grade_batch([r"\\boxed{2^{10}}", r"\\boxed{\\sqrt{8}}", "no idea"], ["1024", r"2\\sqrt{2}", "7"])
    [1.0, 1.0, 0.0]
    """

    def __init__(self, workers: int = 2, timeout: float = 2.0, memory_mb: int = 1024) -> None:
        self.workers, self.timeout, self.memory_mb = workers, timeout, memory_mb
        self.stats = Counter(graded=0, plain=0, repeats=0, timeouts=0, kills=0, bad_golds=0)
        self._lock = threading.Lock()
        self._open = False

    def __enter__(self) -> "Grader":
        self._idle: SimpleQueue[_Worker] = SimpleQueue()
        self._live: set[_Worker] = set()
        self._open = True
        for _ in range(self.workers):
            self._idle.put(self._start())
        self._threads = ThreadPoolExecutor(self.workers)
        return self

    def __exit__(self, *_) -> None:
        with self._lock:
            self._open = False
            live, self._live = self._live, set()
        for worker in live:
            worker.kill()
        self._threads.shutdown(cancel_futures=True)

    def _start(self) -> _Worker:
        with self._lock:
            if not self._open:
                raise RuntimeError("the Grader is closed")
            worker = _Worker(self.timeout, self.memory_mb)
            self._live.add(worker)
            return worker

    def _count(self, **counts: int) -> None:
        with self._lock:
            self.stats.update(counts)

    def _ask(self, pair: tuple[str, str]) -> float:
        worker = self._idle.get()
        try:
            for _ in range(4):  # a worker killed from outside costs its pair a second try, not the grade
                reply = worker.ask(*pair)
                if reply in ("timeout", "died", "memory"):
                    self._count(**{"timeouts" if reply == "timeout" else "kills": 1})
                    with self._lock:
                        self._live.discard(worker)
                    worker.kill()
                    worker = self._start()
                if reply != "died":
                    break
        finally:
            self._idle.put(worker)
        self._count(bad_golds=reply == "bad gold")
        return float(reply == "right")

    def grade_batch(self, completions: list[str], answers: list[str]) -> list[float]:
        """1.0 for each completion whose answer is the gold answer beside it, else 0.0, in order."""
        if len(completions) != len(answers):
            raise ValueError(f"{len(completions)} completions, but {len(answers)} answers")
        pairs = [(extract_answer(completion), gold) for completion, gold in zip(completions, answers)]
        rewards: dict[tuple, float] = {}
        hard = []
        for pair in dict.fromkeys(pairs):
            try:
                rewards[pair] = float(_decide(*pair, _undecided))
            except _Undecided:
                hard.append(pair)
        self._count(graded=len(pairs), plain=len(rewards), repeats=len(pairs) - len(rewards) - len(hard))
        rewards.update(zip(hard, self._threads.map(self._ask, hard)))
        return [rewards[pair] for pair in pairs]


if __name__ == "__main__":
    _serve(float(sys.argv[1]), int(sys.argv[2]))
