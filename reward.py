"""Extract and verify answers: a completion and a gold answer in, 1.0 or 0.0 out.

    with Grader(workers=2, timeout=2.0) as grader:
        rewards = grader.grade_batch(completions, answers)

1. `extract_answer` finds the answer in the text: the last \\boxed{}, or else "#### x" or "the answer is x".
2. Equal strings, numbers and words are settled here, by exact arithmetic: about nine pairs in ten.
3. The rest goes to worker processes with a limit on time and memory. They take lists, intervals and units apart, and
   compare what is left by math-verify's LaTeX grammar and sympy.

Model output is never evaluated: math-verify's extraction of plain expressions, which is sympy's eval, is not used.
"""

import logging
import multiprocessing
import re
import resource
import sys
import threading
import types
from collections import Counter
from fractions import Fraction

from pebble import ProcessExpired, ProcessPool

MAX_ANSWER = 300  # characters; a longer answer is right only if it equals the gold answer letter for letter

# --- Extraction ---

_THINK = re.compile(r"</?think(?:ing)?>", re.IGNORECASE)
_BOX = re.compile(r"\\{1,2}(?:boxed|fbox)(?![a-zA-Z])\s*(\{)?|\\.|[{}]", re.DOTALL)
_BARE_BOX = re.compile(r"[-+]?[\d.][^\s$]*|\\[a-zA-Z][^\s$]*")
_NEGATED = re.compile(r"(?:\bnot|n't|\\neq?|≠|!=)(?:\s+(?:be|equal(?:\s+to)?))?[\s$*:(]*$", re.IGNORECASE)
# Words between two boxes: of an offer ("1 or 2"), or of a correction ("wait, it is 2").
_OFFER = re.compile(r"\b(?:or|alternatively|maybe|possibly|perhaps|might|could)\b", re.IGNORECASE)
_AMEND = re.compile(
    r"wait|\bno\b|actually|rather|correct|instead|mistake|sorry|check|hmm|oops|should|equiv|simpl|same|hence|thus|so\b"
    r"|therefore",
    re.IGNORECASE,
)
_GLUE = re.compile(
    r"\\(?:text|quad|qquad|mbox|mathrm)(?![a-zA-Z])|\b(?:and|also|both|either)\b|\b[a-zA-Z]\s*=|\\?[\W_]"
)
_SAID = re.compile(
    r"####(?P<hash>)|\banswers?(?:\s+to\s[^.\n]{1,80}?)?[\s*]*(?:\b(?:is|are|would be)\b|:|=)[\s*:]*(?P<no>not\b)?",
    re.IGNORECASE,
)
_MATH_SPAN = re.compile(r"\s*(?:\$\$(.+?)\$\$|\\\[(.+?)\\\])", re.DOTALL)
_REMARK = re.compile(r"\.(?=\s|$)|[,;]?\s+\(?(?:because|since|which|so|as)\b.*")


def _outside_thinking(text: str) -> str:
    """Drops thinking blocks. A stray </think> ends a block that the prompt opened; an open <think> never ends."""
    kept, start, inside = [], 0, False
    for tag in _THINK.finditer(text):
        if not inside:
            kept.append(text[start : tag.start()])
        if tag[0][1] == "/" and not inside:
            kept.clear()
        inside, start = tag[0][1] != "/", tag.end()
    return "\n".join(kept if inside else [*kept, text[start:]])


def _boxes(text: str) -> tuple[list[tuple[int, int, str]], bool]:
    """The innermost boxes as (start, end, content), and whether the last one is never closed. One pass: linear time."""
    boxes, stack, last_open = [], [], -1
    for token in _BOX.finditer(text) if "\\boxed" in text or "\\fbox" in text else ():
        if token[1] or token[0] == "{":
            stack.append((token.start(), token.end()) if token[1] else None)
            last_open = token.start() if token[1] else last_open
        elif token[0] == "}":
            if stack and (opened := stack.pop()) and not (boxes and boxes[-1][0] > opened[0]):
                boxes.append((opened[0], token.end(), text[opened[1] : token.start()]))
        elif token[0].lstrip("\\")[:4] in ("boxe", "fbox") and (bare := _BARE_BOX.match(text, token.end())):
            boxes.append((token.start(), bare.end(), bare[0].rstrip(".,;")))
    return boxes, last_open > (boxes[-1][0] if boxes else -1)


def _offered_together(between: str) -> bool:
    """Whether two boxes with this text between them are alternatives, and not a box and its correction."""
    if len(between) > 100 or _AMEND.search(between):
        return False
    return bool(_OFFER.search(between)) or not _GLUE.sub("", between)


def extract_answer(completion: str) -> str | None:
    r"""The answer that a completion commits to, as LaTeX, or None.

    >>> extract_answer(r"So \boxed{4}. Wait, I forgot one: \boxed{5}.")
    '5'
    >>> extract_answer(r"\boxed{1} or \boxed{2}")   # one answer, with two alternatives: right only for such a gold
    '1 \\text{ or } 2'
    >>> extract_answer("Adding up, the final answer is $12$ cm.")
    '$12$ cm'
    >>> extract_answer(r"<think>\boxed{3}") is None
    True
    """
    text = _outside_thinking(completion)
    boxes, unclosed = _boxes(text)
    if boxes or unclosed:
        kept = [box for box in boxes if not _NEGATED.search(text[max(0, box[0] - 40) : box[0]])]
        if unclosed or not kept:
            return None
        group = [kept.pop()]
        while kept and _offered_together(text[kept[-1][1] : group[0][0]]):
            group.insert(0, kept.pop())
        contents = list(dict.fromkeys(box[2].strip() for box in group))  # the same box twice is one answer
        return r" \text{ or } ".join(contents) if all(map(_clean, contents)) else None
    said = [m for m in _SAID.finditer(text) if m["no"] is None]
    if not said:
        return None
    rest = text[said[-1].end() :][: 2 * MAX_ANSWER]
    if span := _MATH_SPAN.match(rest):
        return (span[1] or span[2]).strip()
    line = rest.lstrip(" \t*:" if said[-1]["hash"] is not None else " \t\r\n*:").split("\n")[0]
    line = _REMARK.sub("", line, count=1) if said[-1]["hash"] is None else line
    return line.strip(" \t\r*`").rstrip(".") or None


# --- Comparison without sympy ---

_SYMBOLS = str.maketrans(
    {"−": "-", "–": "-", "×": r"\times ", "·": r"\cdot ", "÷": "/", "π": r"\pi ", "∞": r"\infty ", "≤": r"\le ",
     "≥": r"\ge ", "≠": r"\neq ", "√": r"\sqrt ", "°": r"^{\circ}", "∪": r"\cup ", "±": r"\pm ", "∈": r"\in ",
     "²": "^{2}", "³": "^{3}", "\u00a0": " ", "\u2009": " "}
    | {chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}  # full-width forms
)  # fmt: skip
_REWRITES = [(re.compile(pattern), replacement) for pattern, replacement in (
    (r"\\\$|(?<=[\d\s])\$(?=\d)|^\$(?=[\d.,]+$)", r" \\text{dollars} "),
    (r"\$|\\[()\[\]](?!\])|\\displaystyle|\\(?:left|right|[bB]igg?[lr]?)(?![a-zA-Z])\.?", ""),
    (r"(?<=\d)(?:\\,|\\!|\{,\}|\\ )(?=\d{3})", ""),  # thousands
    (r"\{,\}", ","), (r"(?<!\\)\\[,;:! ]|~|\\q?quad", " "), (r"\\[dtc]frac", r"\\frac"),
    (r"\\(?:mbox|textbf|textit|textrm|mathrm|mathbf|rm|operatorname|textnormal)\s*\{", r"\\text{"),
    (r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"), (r"\\frac\s*(\d)\s*\{", r"\\frac{\1}{"),
    (r"(\\frac\{[^{}]*\})\s*(\d)", r"\1{\2}"), (r"\\sqrt\s*(\w)", r"\\sqrt{\1}"),
    (r"\\leq(?:slant)?|<=", r"\\le"), (r"\\geq(?:slant)?|>=", r"\\ge"), (r"\\neq?(?![a-z])|!=|\\not\s*=", r"\\neq"),
    (r"\\lt(?![a-z])", "<"), (r"\\gt(?![a-z])", ">"), (r"\\%", "%"),
    (r"\^\s*\{?\s*\\circ\s*\}?|\\degree", r"\\text{degrees}"),
    (r"\\lbrace", r"\\{"), (r"\\rbrace", r"\\}"), (r"\\(?:infin|infty)(?![a-z])", r"\\infty"),
    (r"(\d(?:\.\d+)?)\s*[eE]\s*([-+]?\d+)(?!\.?\d)", r"\1\\times 10^{\2}"),
    (r"(?<![\d.])(-?\d*)\.(\d*)\\(?:overline|bar)\{(\d+)\}", lambda m: _repeating(m[1], m[2], m[3])),
    (r"(?<![\d}])(\d+)\s*\\frac\{(\d+)\}\{(\d+)\}", r"(\1+\\frac{\2}{\3})"),  # a mixed number
    (r"\\text\{\s*(and|or)\s*\}", r" \1 "), (r"\s+", " "),
)]  # fmt: skip
_NUMBER = re.compile(r"([-+]?)(\d{1,40}(?:\.\d{0,40})?|\.\d{1,40})(?: ?(?:\\times|\\cdot) ?10\^\{?([-+]?\d{1,3})\}?)?")
_FRACTION = re.compile(r"([-+]?)(?:\\frac\{(-?\d{1,40})\}\{(-?\d{1,40})\}|(\d{1,40}) ?/ ?(\d{1,40}))")
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")


def _repeating(whole: str, head: str, period: str) -> str:
    """0.1\\overline{6} as a fraction."""
    nines = int("9" * len(period[:20]) + "0" * len(head[:20]))
    value = int((head + period)[:40]) - int(head[:20] or 0)
    return f"{'-' if whole.startswith('-') else ''}({whole.lstrip('-') or 0}+\\frac{{{value}}}{{{nines}}})"


def _clean(text: str) -> str:
    """One spelling for what LaTeX spells in many ways; the value stays as it is."""
    text = text[: 4 * MAX_ANSWER].translate(_SYMBOLS).strip()
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    text = text.strip(" .,;*`\n")
    if not re.search(r"[(\[{]", text):  # in a tuple a comma separates
        text = _THOUSANDS.sub(lambda m: m[0].replace(",", ""), text)
    return text


def _number(text: str) -> Fraction | None:
    """A plain number or fraction of integers. The patterns bound its digits, so that no exponent can eat memory."""
    if match := _NUMBER.fullmatch(text):
        value = Fraction(match[2]) * Fraction(10) ** int(match[3] or 0)
        return -value if match[1] == "-" else value
    if match := _FRACTION.fullmatch(text):
        top, bottom = int(match[2] or match[4]), int(match[3] or match[5])
        return (Fraction(top, bottom) * (-1 if match[1] == "-" else 1)) if bottom else None
    return None


def _words(text: str) -> str | None:
    """The letters of an answer that is text ("\\text{Evelyn}", "no solution", "(B)"), or None."""
    bare = re.sub(r"\\text\{([^{}]*)\}", r"\1", text).strip(" .()\"'").lower()
    is_text = "\\text{" in text or re.fullmatch(r"\(?[A-Z]\)?|[a-z]{3,}(?: [a-z]+)*", text.strip(" .\"'"), re.I)
    return re.sub(r"[\s-]+", " ", bare) if is_text and re.fullmatch(r"[a-z][a-z' ,-]*", bare) else None


def _settle(answer: str, gold: str) -> bool | None:
    """The verdict on two cleaned answers where equal strings, numbers or words decide; None where they don't."""
    if re.sub(r"\s", "", answer) == re.sub(r"\s", "", gold):
        return True
    if len(answer) > MAX_ANSWER:
        return False
    numbers = _number(answer), _number(gold)
    if None not in numbers:
        return numbers[0] == numbers[1]
    words = _words(answer), _words(gold)
    return words[0] == words[1] if None not in words else None


# --- Comparison in a worker ---

# Units that may be written without \text{}, with their other names.
_UNITS = {
    name: names.split()[0]
    for names in (
        "dollar dollars usd", "cent cents ¢", "%  percent", "degree degrees deg", "meter m meters metre metres",
        "cm centimeter centimeters centimetre", "mm millimeter millimeters", "km kilometer kilometers", 
        "inch in inches", "foot ft feet", "yard yd yards", "mile mi miles", "second s sec seconds",
        "minute min minutes",
        "hour h hr hours",
        "day days", "week weeks", "month months", "year yr years", "gram g grams", "kg kilogram kilograms", "mg",
        "pound lb lbs pounds", "ounce oz ounces", "liter l liters litre litres", "ml", "mph", "unit units",
    ) for name in names.split()
}  # fmt: skip
_UNIT = re.compile(
    r"(?P<value>.*[\d})])\s*(?:\\text\{\s*(?P<text>[a-zA-Z./ %]+?)\s*\}|(?P<plain>%|[a-zA-Z]+(?: [a-zA-Z]+)*))"
    r"(?P<power>\s*\^\{?[-\d]+\}?)?"
)
_RELATION = re.compile(r"\\le(?![a-z])|\\ge(?![a-z])|<|>")


def _split_unit(text: str) -> tuple[str, str | None]:
    """Value and unit. A unit in front (dollars) is moved behind first."""
    text = re.sub(r"^(-?)\s*(\\text\{dollars\})\s*(.+)$", r"\1\3 \2", text)
    match = _UNIT.fullmatch(text)
    if not match:
        return text, None
    name = (match["text"] or match["plain"]).lower().strip(". ")
    square = re.match(r"(square|cubic|sq) ", name)
    name = name[square.end() :] if square else name
    if match["plain"] and (name not in _UNITS or re.fullmatch("[a-z]", name)):
        return text, None  # letters are variables unless they are a known unit
    power = re.sub(r"\D", "", match["power"] or "") or ({"c": "3"}.get(square[1][0], "2") if square else "")
    return match["value"].strip(), _UNITS.get(name, name) + power


def _split(text: str, separator: str) -> list[str]:
    """Splits at a separator (a pattern) outside of all brackets."""
    parts, level, start = [], 0, 0
    for match in re.finditer(rf"(?P<open>[(\[{{])|(?P<close>[)\]}}])|{separator}", text):
        if match["open"] or match["close"]:
            level += 1 if match["open"] else -1
        elif level <= 0:
            parts.append(text[start : match.start()])
            start = match.end()
    return [part.strip() for part in [*parts, text[start:]]]


def _bracketed(text: str) -> tuple[str, str, str] | None:
    """Opening bracket, inside and closing bracket, where one pair spans the whole text."""
    match = re.fullmatch(r"(\\\{|[(\[])(.*?)(\\\}|[)\]])", text, re.DOTALL)
    level = 0
    for bracket in re.finditer(r"[(\[{)\]}]", match[2] if match else ""):
        level += 1 if bracket[0] in "([{" else -1
        if level < 0:  # the first one closes before the end: (1,2) \cup (3,4)
            return None
    return match.groups() if match else None


def _region(text: str) -> str:
    """An inequality in one variable as an interval: `x \\ge 5` is `[5,\\infty)`. Anything else as it is."""
    parts, signs = [part.strip() for part in _RELATION.split(text)], _RELATION.findall(text)
    variable = [bool(re.fullmatch(r"[a-zA-Z]", part)) for part in parts]
    if not signs or len(signs) > 2 or not (variable[1] if len(signs) == 2 else variable[0] != variable[1]):
        return text
    if len({sign in (">", "\\ge") for sign in signs}) == 2:  # 1 < x > 2
        return text
    if signs[0] in (">", "\\ge"):  # read from right to left, every sign is < or \le
        parts, signs = parts[::-1], [{">": "<", "\\ge": "\\le"}[sign] for sign in signs[::-1]]
        variable = variable[::-1]
    low = "(-\\infty" if variable[0] else ("(" if signs[0] == "<" else "[") + parts[0]
    high = "\\infty)" if variable[-1] else parts[-1] + (")" if signs[-1] == "<" else "]")
    return f"{low},{high}"


def _alternatives(text: str) -> list[str]:
    """The members of "1 or 2", "A \\cup B", "\\pm 2", "1, 2" and "\\{1, 2\\}": values whose order does not matter."""
    text = re.sub(r"^[a-zA-Z](?:_\{?\w\}?)? ?(?:=|\\in(?![a-z])) ?", "", text)
    if (inside := _bracketed(text)) and inside[0] == "\\{":
        text = inside[1]
    parts = [p for p in _split(text, r",? or |\\cup(?![a-z])|,? and |,|;") if p]
    expanded = []
    for part in parts:
        part = _region(re.sub(r"^[a-zA-Z](?:_\{?\w\}?)? ?= ?", "", part))
        expanded += [part.replace("\\pm", sign, 1) for sign in "+-"] if part.count("\\pm") == 1 else [part]
    return [re.sub(r"^\+ ?", "", part).strip() for part in expanded]


def _equal(answer: str, gold: str) -> bool:
    """Whether two cleaned answers have the same value, by structure first and by sympy at the leaves."""
    verdict = _settle(answer, gold)
    if verdict is not None:
        return verdict
    if answer.count("\\neq") != gold.count("\\neq"):
        return False
    if re.search(r"\d_\{?\d", answer + " " + gold):  # a number in another base is settled by its spelling
        return re.sub(r"[\s{}]", "", answer) == re.sub(r"[\s{}]", "", gold)
    pieces, wanted = _alternatives(answer), _alternatives(gold)
    # A list and a tuple are not the same thing: only what is a set on both sides is compared without order.
    if len(pieces) != len(wanted):
        return False
    if len(pieces) > 1:
        for one in wanted:
            match = next((piece for piece in pieces if _equal(piece, one)), None)
            if match is None:
                return False
            pieces.remove(match)
        return True
    if pieces != [answer] or wanted != [gold]:
        named = [re.match(r"([a-zA-Z]) ?=", text) for text in (answer, gold)]
        if all(named) and named[0][1] != named[1][1]:  # x = 5 is not y = 5
            return False
        return bool(pieces) and _equal(pieces[0], wanted[0])
    a, g = _bracketed(answer), _bracketed(gold)
    if a and g and (len(parts := _split(g[1], ",")) > 1 or g[0] == "["):
        members = _split(a[1], ",")
        return (a[0], a[2]) == (g[0], g[2]) and len(members) == len(parts) and all(map(_equal, members, parts))
    if (a and "," in a[1]) or (g and "," in g[1]):
        return False
    (value, unit), (gold_value, gold_unit) = _split_unit(answer), _split_unit(gold)
    if unit or gold_unit:
        if unit and gold_unit and unit != gold_unit:
            return False
        if "%" in (unit, gold_unit) and unit != gold_unit:
            shares = [f"\\frac{{{v}}}{{100}}" if u else v for v, u in ((value, unit), (gold_value, gold_unit))]
            return _equal(value, gold_value) or _equal(*shares)
        return _equal(value, gold_value)
    if answer.count("=") == gold.count("=") + 1 and gold.count("=") == 0:  # "area = 5" names what it found
        return _equal(answer.split("=")[-1].strip(), gold)
    return _same_value(answer, gold)


def _same_value(answer: str, gold: str) -> bool:
    """math-verify on two expressions. Its own time limits work on the main thread only; the pool's replace them."""
    from math_verify import LatexExtractionConfig, parse, verify

    extraction = [LatexExtractionConfig(boxed_match_priority=-1)]
    parsed = [parse(f"${t}$", extraction, "no_fallback", parsing_timeout=None) for t in (gold, answer)]
    if not parsed[0]:
        raise ValueError(f"no grammar reads the gold answer {gold!r}")
    return bool(parsed[1]) and verify(*parsed, float_rounding=12, timeout_seconds=None)


def grade(completion: str, answer: str) -> bool:
    r"""Whether a completion's answer equals the gold answer. In this process, so hostile input may hang it.

    >>> grade(r"so \boxed{2^{10}}", "1024"), grade(r"so \boxed{5 \text{ m}}", r"5 \text{ cm}")
    (True, False)
    """
    extracted = extract_answer(completion)
    try:
        return extracted is not None and _equal(_clean(extracted), _clean(answer))
    except Exception:  # sympy and the grammar raise what they like on nonsense; a Grader counts these
        return False


# --- Workers ---


def _start_worker(memory_mb: int) -> None:
    """Imports the slow parts before any clock runs, then limits the memory beyond what they took."""
    import math_verify  # noqa: F401

    logging.disable(logging.ERROR)  # math-verify reports everything that it can't parse
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + memory_mb * 2**20,) * 2)
    sys.setrecursionlimit(2000)


class _Process(multiprocessing.context.ForkServerProcess):
    """A worker that is told nothing of the main script: it would import it, and torch with it."""

    _lock = threading.Lock()

    @staticmethod
    def _Popen(process):
        with _Process._lock:
            main, sys.modules["__main__"] = sys.modules["__main__"], types.ModuleType("__main__")
            try:
                return multiprocessing.context.ForkServerProcess._Popen(process)
            finally:
                sys.modules["__main__"] = main


class Grader:
    """Grades batches in worker processes, each pair within `timeout` seconds and `memory_mb` MB.

    A worker over a limit is killed and replaced; its pair counts as wrong and is counted in `stats`: pairs (distinct
    ones), settled (without a worker), timeouts, kills, and unparsable (pairs that no grammar could read, most often for
    their gold answer).
    """

    def __init__(self, workers: int = 2, timeout: float = 2.0, memory_mb: int = 1024):
        self.workers, self.timeout, self.memory_mb = workers, timeout, memory_mb
        self.stats: Counter[str] = Counter()

    def __enter__(self) -> "Grader":
        # A fork of this process would inherit its threads and its GPU; a fork of a server that holds only this module
        # is clean, and starts in milliseconds.
        context = multiprocessing.context.ForkServerContext()
        context.Process = _Process
        context.set_forkserver_preload(["reward", "math_verify"])
        self.pool = ProcessPool(self.workers, initializer=_start_worker, initargs=(self.memory_mb,), context=context)
        return self

    def __exit__(self, *exception) -> None:
        self.pool.stop()
        self.pool.join()

    def grade_batch(self, completions: list[str], answers: list[str]) -> list[float]:
        """1.0 for a right completion, else 0.0, in order. Each distinct pair is graded once."""
        pairs = [
            None if (extracted := extract_answer(c)) is None else (_clean(extracted), _clean(a))
            for c, a in zip(completions, answers, strict=True)
        ]
        verdicts = {pair: _settle(*pair) for pair in dict.fromkeys(pairs) if pair}
        self.stats["pairs"] += len(verdicts)
        open_pairs = [pair for pair, verdict in verdicts.items() if verdict is None]
        self.stats["settled"] += len(verdicts) - len(open_pairs)
        futures = [self.pool.schedule(_equal, args=pair, timeout=self.timeout) for pair in open_pairs]
        for pair, future in zip(open_pairs, futures):
            verdicts[pair] = self._result(future, pair)
        return [float(bool(pair and verdicts[pair])) for pair in pairs]

    def _result(self, future, pair: tuple[str, str], again: bool = True) -> bool:
        try:
            return future.result()
        except TimeoutError:
            self.stats["timeouts"] += 1
        except MemoryError:
            self.stats["kills"] += 1
        except ProcessExpired:
            self.stats["kills"] += 1
            if again:  # killed from outside, perhaps: once more costs little, and a lost grade would be a wrong one
                return self._result(self.pool.schedule(_equal, args=pair, timeout=self.timeout), pair, again=False)
        except Exception:  # sympy and the grammar raise what they like on nonsense, and it must not end a run
            self.stats["unparsable"] += 1
        return False
