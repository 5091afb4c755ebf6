r"""One spelling for what Unicode, HTML and LaTeX spell in many ways: `clean("½")` is "\frac{1}{2}".

The spelling changes, the value does not. `clean` runs in this order, since each part relies on the
ones before it:

1. HTML and Unicode become LaTeX (characters.py).
2. `FIRST_REWRITES`: money, layout, spaces, thousands, and one name for each command. They see text
   as it was written, with braces missing.
3. Fonts, siunitx and environments are taken off, and every argument gets its braces (commands.py).
4. `LAST_REWRITES`: numbers, words, labels and sets. They may rely on braces: \frac{a}{b}.
5. Open brackets (]0,1[) and commas in thousands.

A rewrite is a regular expression with a name and an example, and the tests run every example. Each
takes linear time. Rewrites run in order, each over the whole text.
"""

import re
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from answers.characters import without_html, without_unicode
from answers.commands import (
    balanced,
    flat_environments,
    with_braces,
    without_fonts,
    without_groups,
    without_siunitx,
)

# Characters. A longer answer is right only if it equals the gold answer letter for letter.
MAX_ANSWER = 300


class Rewrite(NamedTuple):
    """One rule: what the pattern matches is replaced, wherever it is found."""

    name: str
    pattern: re.Pattern
    replacement: str | Callable[[re.Match], str]
    before: str  # an example,
    after: str  # and what the rule makes of it

    def __call__(self, text: str) -> str:
        return self.pattern.sub(self.replacement, text)


def _rule(
    name: str, pattern: str, replacement: str | Callable[[re.Match], str], before: str, after: str
) -> Rewrite:
    return Rewrite(name, re.compile(pattern), replacement, before, after)


# --- First rewrites: text as it was written ---

_MONEY_SIGNS = {"€": "euro", "£": "GBP", "¥": "yen", "₹": "rupee"}


def _money_after(match: re.Match) -> str:
    return rf"\text{{ {_MONEY_SIGNS[match[1]]}}}"


def _joined(match: re.Match) -> str:
    """A number without what separates its thousands."""
    return re.sub(r"[ '_.]", "", match[0])


# Before the rule for math mode, which takes every $ that is left.
_MONEY = (
    _rule("dollar command", r"\\textdollar(?![a-z])", r"\\$", r"\textdollar 5", r"\$ 5"),
    _rule("pound command", r"\\(?:pounds|textsterling)(?![a-z])", "£", r"\pounds 5", "£ 5"),
    _rule("euro command", r"\\(?:euro|texteuro)(?![a-z])", "€", r"\euro 5", "€ 5"),
    _rule("yen command", r"\\yen(?![a-z])", "¥", r"\yen 5", "¥ 5"),
    _rule(
        "money as text",
        r"\\text(?:bf|rm)?\s*\{\s*(\\?[$€£¥₹])\s*([\d.,]*)\s*\}",
        r"\1\2",
        r"\text{\$45}",
        r"\$45",
    ),
    _rule(
        "country before a dollar",
        r"\b(?:US|AU|CA|NZ|HK|[AC])\s?\\?\$(?=\s?\d)",
        r"\\$",
        r"US\$45",
        r"\$45",
    ),
    _rule("euro first", r"€(?=\s?-?[\d.])", r"\\text{euro} ", "€45", r"\text{euro} 45"),
    _rule("pound first", r"£(?=\s?-?[\d.])", r"\\text{GBP} ", "£45", r"\text{GBP} 45"),
    _rule("yen first", r"¥(?=\s?-?[\d.])", r"\\text{yen} ", "¥45", r"\text{yen} 45"),
    _rule(
        "rupee first",
        r"₹(?=\s?-?[\d.])|\b(?:Rs\.?|INR)\s?(?=\d)",
        r"\\text{rupee} ",
        "Rs. 500",
        r"\text{rupee} 500",
    ),
    _rule(
        "currency code first",
        r"(?:\b(USD|EUR|GBP)|\\text\s*\{\s*(USD|EUR|GBP)\s*\})\s?(?=\d)",
        r"\\text{\1\2} ",
        "USD 45",
        r"\text{USD} 45",
    ),
    _rule(
        "money sign last",
        r"(?<=[\d.}])\s?(?:\\text\s*\{\s*)?([€£¥₹])(?:\s*\})?",
        _money_after,
        "45€",
        r"45\text{ euro}",
    ),
    _rule("cents", r"(?<=\d)\s?\\?¢", r"\\text{ cents}", "45¢", r"45\text{ cents}"),
    _rule(
        "dollars",
        r"\\\$|(?<=[\d\s])\$(?=\d)|^\$(?=[\d.,]+$)",
        r"\\text{dollar} ",
        r"\$18.90",
        r"\text{dollar} 18.90",
    ),
)

_SIZES_AND_STYLES = (
    "tiny|scriptsize|footnotesize|small|normalsize|large|Large|LARGE|huge|Huge|bfseries|itshape|mdseries"
    "|upshape|sffamily|rmfamily|bf|it|sf|tt|sc|sl|displaystyle|textstyle|scriptstyle|scriptscriptstyle"
    "|left|right|middle|mathopen|mathclose|mathbin|mathrel|limits|nolimits|nonumber|notag|strut|null|hfill"
    "|noindent|centering|relax|allowbreak|nobreak|protect|boldmath|[bB]igg?[lrm]?"
)

_LAYOUT = (
    # Before the brackets of math mode, \[ and \].
    _rule(
        "distance at a row's end",
        r"\\\\\s*\[\s*-?[\d.]+\s*(?:pt|em|ex|mm|cm|in)\s*\]",
        r"\\\\ ",
        r"1 \\[4pt] 2",
        r"1 \\  2",
    ),
    _rule("new line", r"\\newline(?![a-z])", r"\\\\ ", r"1 \newline 2", r"1 \\  2"),
    _rule(
        "box with options",
        r"\\bbox\s*\[[^\[\]]*\]|\\enclose\s*\{(?:circle|box|roundedbox)\}",
        "",
        r"\bbox[red]{31}",
        "{31}",
    ),
    _rule(
        "brace with a label",
        r"\\(?:under|over)brace\s*\{([^{}]*)\}\s*[_^]\s*\{(?:[^{}]|\{[^{}]*\})*\}",
        r"\1",
        r"\underbrace{7}_{\text{sum}}",
        "7",
    ),
    _rule("math mode", r"\$|(?<!\\)\\[()\[\]](?!\])", "", r"$5$, \(6\)", "5, 6"),
    _rule(
        "start of a small matrix",
        r"\\begin\s*\{smallmatrix\}",
        r"\\begin{matrix}",
        r"\begin{smallmatrix} 1",
        r"\begin{matrix} 1",
    ),
    _rule(
        "end of a small matrix",
        r"\\end\s*\{smallmatrix\}",
        r"\\end{matrix}",
        r"1 \end{smallmatrix}",
        r"1 \end{matrix}",
    ),
    _rule(
        "matrix with a star",
        r"\\(begin|end)\s*\{([pbvBV]?matrix)\*\}(?:\s*\[[lcr]\])?",
        r"\\\1{\2}",
        r"\begin{pmatrix*}[r] 1",
        r"\begin{pmatrix} 1",
    ),
    _rule(
        "lines and distances",
        r"\\hline|\\[hv]space\*?\s*\{[^{}]*\}|\\[hm]?skip\s*-?[\d.]+\s*(?:pt|em|ex|mu|cm)"
        r"|\\kern\s*-?[\d.]+\s*(?:pt|em|ex|mu)",
        "",
        r"\hspace{1cm}31",
        "31",
    ),
    _rule("label and tag", r"\\(?:label|tag\*?)\s*\{[^{}]*\}", "", r"31\tag{1}", "31"),
    _rule(
        "coloured frame",
        r"\\fcolorbox\s*\{[^{}]*\}\s*\{[^{}]*\}",
        "",
        r"\fcolorbox{red}{white}{31}",
        "{31}",
    ),
    _rule(
        "colour",
        r"\\(?:text)?color(?:box)?\s*(?:\[[^\[\]]*\])?\s*\{[^{}]*\}",
        "",
        r"\textcolor{blue}{31}",
        "{31}",
    ),
    _rule(
        "sizes and styles",
        rf"\\(?:{_SIZES_AND_STYLES})(?![a-zA-Z])\.?",
        " ",
        r"\left(31\right)",
        " (31 )",
    ),
)

# Thousands before \quad becomes a space, since a quad separates two numbers.
_SPACES_AND_THOUSANDS = (
    _rule(
        "space in thousands",
        r"(?<=\d)(?:,?\\!\s*|\\, ?|\\ |\{,\})(?=\d{3}(?!\d))",
        "",
        r"32,\!348",
        "32348",
    ),
    _rule(
        "invisible",
        r"\\!|\\phantom\s*(?:\{[^{}]*\}|.)|\\[hv]phantom\s*\{[^{}]*\}",
        "",
        r"\phantom{-}1",
        "1",
    ),
    _rule("spaces", r"(?<!\\)\\[,;: ]|~", " ", r"5\,\text{ m}", r"5 \text{ m}"),
    _rule(
        "thousands with spaces",
        r"(?<![\d.,/^_])(?<![\d^_]\{)(?<!\d )(\d{1,3}(?: \d{3})+)(?!\d|,\d| ?[/\d]|\.\d{1,3} \d)",
        _joined,
        "12 345",
        "12345",
    ),
    _rule(
        "thousands with apostrophes",
        r"(?<![\d.,'])\d{1,3}(?:'\d{3})+(?![\d'])",
        _joined,
        "1'000",
        "1000",
    ),
    _rule(
        "thousands with underscores",
        r"(?<![\w.])\d{1,3}(?:_\d{3}){2,}(?!\w)|(?<![\w.])\d{1,3}_000(?!\w)",
        _joined,
        "1_000_000",
        "1000000",
    ),
    # One dot may be a decimal point: 10.000.
    _rule(
        "thousands with dots",
        r"(?<![\d.,])\d{1,3}(?:\.\d{3}){2,}(?![\d.,])",
        _joined,
        "1.000.000",
        "1000000",
    ),
    _rule("wide spaces", r"\\q?quad(?![a-z])|\s", " ", "1,\\quad\t2", "1,  2"),
)

_FUNCTIONS = (
    "arcsinh|arccosh|arctanh|arcsin|arccos|arctan|arccot|arcsec|arccsc|sinh|cosh|tanh|coth|sin|cos|tan|cot"
    "|csc|ln|log|exp|gcd|lcm"
)
_TEXT = (
    "mbox|hbox|text(?:bf|it|rm|normal|sf|tt|sc|sl|up|md)|emph|mathrm|mathsf|mathtt|rm|operatorname"
    "|texttt"
)

_COMMAND_NAMES = (
    _rule("fractions", r"\\(?:[dtcsx]|nice|flat)frac(?![a-z])", r"\\frac", r"\dfrac12", r"\frac12"),
    _rule("binomials", r"\\[dt]binom(?![a-z])", r"\\binom", r"\dbinom63", r"\binom63"),
    _rule(
        "over",
        r"\{([^{}]*)\\over(?![a-z])([^{}]*)\}",
        r"\\frac{\1}{\2}",
        r"{1\over2}",
        r"\frac{1}{2}",
    ),
    _rule(
        "choose in braces",
        r"\{([^{}]*)\\choose(?![a-z])([^{}]*)\}",
        r"\\binom{\1}{\2}",
        r"{6\choose3}",
        r"\binom{6}{3}",
    ),
    _rule(
        "choose", r"^(\w+) ?\\choose (\w+)$", r"\\binom{\1}{\2}", r"6 \choose 3", r"\binom{6}{3}"
    ),
    _rule(
        "combinations",
        r"(?:\{ ?\})?[\^_]\{?(\d+)\}? ?(?:\\text ?\{)?C\}?_\{?(\d+)\}?",
        r"\\binom{\1}{\2}",
        "{}^6C_3",
        r"\binom{6}{3}",
    ),
    _rule(
        "operators that LaTeX has",
        rf"\\operatorname\*? ?\{{ ?({_FUNCTIONS}|sec|max|min) ?\}}",
        r"\\\1 ",
        r"\operatorname{arctan} 1",
        r"\arctan  1",
    ),
    # Before the national names of functions, which follow.
    _rule(
        "operators with national names",
        r"\\operatorname\*? ?\{ ?"
        r"(lg|tg|ctg|cotg|cosec|arctg|arcctg|sh|ch|th|arsinh|arcosh|artanh) ?\}",
        r"\\\1 ",
        r"\operatorname{tg} x",
        r"\tg  x",
    ),
    _rule("lg", r"\\lg(?![a-z])", r"\\log_{10}", r"\lg 1000", r"\log_{10} 1000"),
    _rule("tg", r"\\(arc)?tg(?![a-z])", r"\\\1tan", r"\arctg x", r"\arctan x"),
    _rule("ctg", r"\\(arc)?(?:ctg|cotg)(?![a-z])", r"\\\1cot", r"\ctg x", r"\cot x"),
    _rule("cosec", r"\\cosec(?![a-z])", r"\\csc", r"\cosec x", r"\csc x"),
    _rule("sh", r"\\sh(?![a-z])", r"\\sinh", r"\sh x", r"\sinh x"),
    _rule("ch", r"\\ch(?![a-z])", r"\\cosh", r"\ch x", r"\cosh x"),
    _rule("th", r"\\th(?![a-z])", r"\\tanh", r"\th x", r"\tanh x"),
    _rule("arsinh", r"\\ar(sinh|cosh|tanh)(?![a-z])", r"\\arc\1", r"\arsinh x", r"\arcsinh x"),
    _rule(
        "variants of Greek letters",
        r"\\var(epsilon|phi|theta|rho|sigma|kappa)(?![a-z])",
        r"\\\1",
        r"\varphi",
        r"\phi",
    ),
    _rule("letters without a dot", r"\\([ij])math(?![a-z])", r"\1", r"\hat\imath", r"\hati"),
    _rule(
        "rm in a group", r"\{ ?\\rm(?![a-z]) ?([^{}]*)\}", r"\\text{\1}", r"{\rm cm}", r"\text{cm}"
    ),
    _rule("text", rf"\\(?:{_TEXT})\*? ?\{{", r"\\text{", r"\mathrm{cm}", r"\text{cm}"),
    _rule(
        "functions as text",
        rf"\\text ?\{{ ?({_FUNCTIONS}|tg|ctg|lg) ?\}}",
        r"\\\1 ",
        r"\text{sin} x",
        r"\sin  x",
    ),
    _rule(
        "text without braces",
        rf"\\(?:{_TEXT}|text) ([a-zA-Z])(?![a-zA-Z])",
        r"\\text{\1}",
        r"2\mathrm i",
        r"2\text{i}",
    ),
    _rule("rm", r"\\rm(?![a-z])", " ", r"5\rm cm", "5  cm"),
    _rule(
        "space before an argument",
        r"(\\[a-zA-Z]+|[\^_\]}]) +\{",
        r"\1{",
        r"\frac {1} {2}",
        r"\frac{1}{2}",
    ),
)

FIRST_REWRITES = (*_MONEY, *_LAYOUT, *_SPACES_AND_THOUSANDS, *_COMMAND_NAMES)


# --- Last rewrites: every argument has braces ---

_NUMBER_WORDS = (
    "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
)
_NUMERALS = {word: str(number) for number, word in enumerate(_NUMBER_WORDS.split(), 2)}
_NUMERAL = "|".join(_NUMERALS)


def _base_in_words(match: re.Match) -> str:
    return f"_{{{_NUMERALS[match[2]]}}}"


def _base_after(match: re.Match) -> str:
    return f"_{{{_NUMERALS.get(match[1], match[1])}}}"


def _hexadecimal(match: re.Match) -> str:
    return f"{match[1].upper()}_{{16}}"


# Before "text without letters", which would take a base that is written as text for a number.
_BASES = (
    _rule(
        "base in words",
        rf"(_\{{? ?)(?:\\text\{{ ?)?(?:base ?)?({_NUMERAL})(?: ?\}})?( ?\}})?(?![a-zA-Z])",
        _base_in_words,
        r"2120_{\text{three}}",
        "2120_{3}",
    ),
    _rule(
        "base as text or in brackets",
        r"_\{? ?(?:\\text\{ ?base ?\}|\\text\{ ?base ?(?=\d)|base ?|\()(\d+)[ })]*",
        r"_{\1}",
        r"2120_{\text{base }3}",
        "2120_{3}",
    ),
    _rule(
        "base after the digits",
        r"(?<=[\dA-F)]) ?(?:\\text\{|\()*[ (]*(?:in )?base[- ]?(?:\} ?)?"
        rf"(\d+|(?:{_NUMERAL})(?![a-z]))[ )}}]*$",
        _base_after,
        r"2120 \text{ (base 3)}",
        "2120_{3}",
    ),
    _rule("digits as text", r"\\text\{ ?([0-9A-F]+) ?\}(?=_)", r"\1", r"\text{A5}_{11}", "A5_{11}"),
    _rule("binary", r"^0b([01]+)$", r"\1_{2}", "0b101", "101_{2}"),
    _rule("hexadecimal", r"^0x([0-9a-fA-F]+)$", _hexadecimal, "0x1f", "1F_{16}"),
    _rule("octal", r"^0o([0-7]+)$", r"\1_{8}", "0o17", "17_{8}"),
)

_TEXT_THAT_IS_MATHEMATICS = (
    _rule("text without letters", r"\\text\{ ?([^a-zA-Z{}\\]*) ?\}", r" \1 ", r"6\text{!}", "6 ! "),
    _rule(
        "number in a text",
        r"\\text\{ ?([^{}a-zA-Z]*\d)([a-zA-Z ]*)\}",
        r" \1\\text{\2}",
        r"\text{7 cm}",
        r" 7\text{ cm}",
    ),
    # No unit has these letters: 5\text{m} stays.
    _rule("upright variable", r"\\text\{ ?([a-fi-kn-rt-z]) ?\}", r" \1 ", r"7\text{i}", "7 i "),
)

_SIGNS = (
    _rule("at most", r"\\leq(?:slant)?(?![a-z])|<=|=<|\\leqq", r"\\le ", r"x \leq 5", r"x \le  5"),
    _rule("at least", r"\\geq(?:slant)?(?![a-z])|>=|\\geqq", r"\\ge ", "x >= 5", r"x \ge  5"),
    _rule("not equal", r"\\neq(?![a-z])|!=|\\not ?=", r"\\ne ", r"x \neq 5", r"x \ne  5"),
    _rule("less", r"\\lt(?![a-z])", "<", r"x \lt 5", "x < 5"),
    _rule("greater", r"\\gt(?![a-z])", ">", r"x \gt 5", "x > 5"),
    _rule(
        "percent",
        r"\\%|\\text\{ ?(?:\\?%|per ?cent) ?\}|(?<=\d) ?percent\b",
        "%",
        "50 percent",
        "50%",
    ),
    _rule(
        "temperature as text",
        r"\\text\{ ?\^ ?\{? ?\\circ ?\}? ?([CFK]?) ?\}",
        r"^\\circ \1",
        r"20\text{^\circ C}",
        r"20^\circ C",
    ),
    _rule(
        "degrees",
        r"\^ ?\{? ?\\circ ?\}?|\\(?:degree|textdegree|deg)(?![a-z])"
        r"|(?<=\d) ?\^ ?\{? ?(?:\\text\{ ?)?o(?![a-z])[ }]*"
        r"|\\text\{ ?deg(?:rees?)?\.? ?\}|(?<=\d) ?deg(?:rees?)?$",
        r"^\\circ ",
        r"45^{\circ}",
        r"45^\circ ",
    ),
    _rule("degree as exponent", r"\^\{? ?\^\\circ ?\}?", r"^\\circ ", r"45^^\circ", r"45^\circ "),
    _rule("empty base", r"(?<=\d)\{ ?\}(?=\^)", "", r"45{}^\circ", r"45^\circ"),
    _rule(
        "time of day",
        r"(?<=\d) ?(?:\\text\{ ?)?([apAP])\. ?[mM](?![a-z])\.?(?: ?\})?",
        lambda match: rf" \text{{ {match[1].lower()}m}}",
        "7 a.m.",
        r"7 \text{ am}",
    ),
)

_BRACKETS_AND_INFINITY = (
    _rule("opening brace", r"\\lbrace", r"\\{", r"\lbrace 1", r"\{ 1"),
    _rule("closing brace", r"\\rbrace", r"\\}", r"1\rbrace", r"1\}"),
    _rule("opening angle", r"\\langle", "(", r"\langle 1", "( 1"),
    _rule("closing angle", r"\\rangle", ")", r"1\rangle", "1)"),
    _rule("angles of a vector", r"^< ?([^<>]*,[^<>]*) ?>$", r"(\1)", "<1, 2>", "(1, 2)"),
    _rule(
        "infinity",
        r"\\(?:infin|inf)(?![a-z])|\\text\{ ?infinity ?\}|\binfinity\b",
        r"\\infty",
        "(0, infinity)",
        r"(0, \infty)",
    ),
    _rule("power of a program", r"(?<=[\w)])\*\*(?=[\w(-])", "^", "2**10", "2^10"),
    _rule("plus infinity", r"\+ ?\\infty", r"\\infty", r"(0, +\infty)", r"(0, \infty)"),
    _rule("real numbers", r"\\mathbb ?\{?R\}?", r"\\R", r"\mathbb{R}", r"\R"),
)

_FUNCTIONS_AND_POWERS = (
    _rule(
        "function without a backslash",
        r"(?<![\\a-zA-Z])(?:np\.|math\.)?"
        r"(pi|arcsin|arccos|arctan|sin|cos|tan|cot|sinh|cosh|tanh|csc|ln|log)(?![a-zA-Z])",
        r"\\\1 ",
        "2 pi",
        r"2 \pi ",
    ),
    _rule(
        "lg without a backslash",
        r"(?<![\\a-zA-Z])lg(?![a-zA-Z])",
        r"\\log_{10}",
        "lg 2",
        r"\log_{10} 2",
    ),
    # "sec" and "min" are units unless a bracket follows.
    _rule(
        "function before a bracket",
        r"(?<![\\a-zA-Z])(sec|exp|gcd|lcm|max|min) ?(?=\()",
        r"\\\1 ",
        "gcd(4, 6)",
        r"\gcd (4, 6)",
    ),
    _rule(
        "x before a power of ten",
        r"(?<=[\d)}]) {0,3}(?:\\text\{ ?)?[xX](?: ?\})? {0,3}(?=10 ?\^)",
        r"\\times ",
        "2.5 x 10^4",
        r"2.5\times 10^4",
    ),
    _rule(
        "x between numbers",
        r"(?<=\d)(?<!\b0)(?: ?[xX] ?(?=\d)|\\text\{ ?[xX] ?\}(?=\d))",
        r"\\times ",
        "3 x 4",
        r"3\times 4",
    ),
    _rule("negative exponent", r"\^ ?(-\d+)", r"^{\1}", "2^-3", "2^{-3}"),
    _rule("exponent in brackets", r"\^ ?\( ?(-?\d+) ?\)", r"^{\1}", "2^(-3)", "2^{-3}"),
    _rule(
        "scientific notation",
        r"(\d(?:\.\d+)?)\s*[eE]\s*([-+]?\d+)(?!\.?\d)",
        r"\1\\times 10^{\2}",
        "4.5e33",
        r"4.5\times 10^{33}",
    ),
)


def _recurring(match: re.Match) -> str:
    r"""0.1\overline{6} is (0+\frac{15}{90})."""
    whole, fixed, cycle = match[1] or "0", match[2], match[3]
    top = int(fixed + cycle) - int(fixed or 0)
    bottom = "9" * len(cycle) + "0" * len(fixed)
    return rf"({whole}+\frac{{{top}}}{{{bottom}}})"


# Every spelling becomes \overline, and \overline a fraction.
_RECURRING_DECIMALS = (
    _rule(
        "dots",
        r"\\(?:[lcd]?dots[cbmio]?|hdots)(?![a-z])|\.{3,}",
        r"\\ldots ",
        "1, 2, ...",
        r"1, 2, \ldots ",
    ),
    _rule(
        "digits that repeat",
        r"(\.\d{0,6}?)(\d{1,6}?)\2{2,6} ?\\ldots ?",
        r"\1\\overline{\2}",
        r"0.333\ldots",
        r"0.\overline{3}",
    ),
    _rule(
        "bar or dot over digits",
        r"\\(?:bar|widehat|dot)\{(\d+)\}",
        r"\\overline{\1}",
        r"0.\dot{3}",
        r"0.\overline{3}",
    ),
    _rule(
        "dots at both ends of a cycle",
        r"\\overline\{(\d)\}(\d*)\\overline\{(\d)\}",
        r"\\overline{\1\2\3}",
        r"0.\overline{1}4285\overline{7}",
        r"0.\overline{142857}",
    ),
    _rule(
        "cycle in braces",
        r"(?<=[.\d])\{(\\overline\{\d+\})\}",
        r"\1",
        r"0.{\overline{3}}",
        r"0.\overline{3}",
    ),
    _rule(
        "cycle in brackets",
        r"(?<![\w.])(\d+\.\d*)\((\d+)\)(?![\w(^.])",
        r"\1\\overline{\2}",
        "0.2(3)",
        r"0.2\overline{3}",
    ),
    _rule(
        "recurring decimal",
        r"(\d*)\.(\d{0,20})\\overline\{(\d{1,20})\}",
        _recurring,
        r"0.1\overline{6}",
        r"(0+\frac{15}{90})",
    ),
)

_MIXED_NUMBERS_AND_WORDS = (
    _rule(
        "mixed number with a dash",
        r"^(\d+)-(\d+/\d+)(?= ?(?:[a-zA-Z]{2}|\\text))",
        r"\1 \2",
        "2-1/4 inches",
        "2 1/4 inches",
    ),
    _rule(
        "mixed number",
        r"(?<![\d.}^_/])(\d+) ?"
        r"(?:\\frac\{(\d+)\}\{(\d+)\}|(?<= )(?:and )?(\d+) ?/ ?(\d+))(?![\d.]*[!^])",
        r"(\1+\\frac{\2\4}{\3\5})",
        r"1\frac{4}{5}",
        r"(1+\frac{4}{5})",
    ),
    _rule("and, or", r"\\text\{[ ,]*(and|or)[ ,]*\}", r" \1 ", r"1\text{ or }2", "1 or 2"),
    _rule("or as a sign", r"\\(?:lor|vee)(?![a-z])", " or ", r"1 \lor 2", "1  or  2"),
    _rule("and as a sign", r"\\land(?![a-z])", r"\\wedge", r"x>1 \land x<2", r"x>1 \wedge x<2"),
    _rule(
        "command as exponent",
        r"([\^_])(\\(?:frac\{[^{}]*\}|sqrt)\{[^{}]*\})",
        r"\1{\2}",
        r"x^\frac{1}{2}",
        r"x^{\frac{1}{2}}",
    ),
    _rule("several spaces", r" +", " ", "1  or  2", "1 or 2"),
)

# A label with one of these words changes what follows it: "Not: 9".
_VALUE_WORDS = (
    "not|never|no|wrong|incorrect|except|minus|negative|opposite|guess|maybe|half|twice|double|less|more"
    "|between|over|under|reciprocal|inverse|negation"
)

# After the spaces, since labels stand at the start.
_LABELS = (
    _rule("punctuation at the ends", r"^[ ,;`:]+|[ ,;`\\]*(?<!\.)\.?[ ,;`\\]*$", "", "; 5 .", "5"),
    _rule(
        "all of it emphasised",
        r"^\\text\{([^{}]*)\}$|^\*\*(.*)\*\*$|^__(.*)__$|^\*([^*]*)\*$",
        r"\1\2\3\4",
        "**5**",
        "5",
    ),
    _rule(
        "sign of a conclusion",
        r"^(?:(?:=|:|\\(?:Rightarrow|implies|therefore|to|rightarrow|[lL]ongrightarrow|iff|simeq)(?![a-z]))"
        r" ?)+",
        "",
        r"\Rightarrow = 7",
        "7",
    ),
    _rule(
        "label as text",
        rf"^\\text\{{ ?(?![^{{}}]*\b(?i:{_VALUE_WORDS})\b)[A-Za-z][A-Za-z ,'()-]*?"
        r"(?:(?::|=|\b(?:is|are|be|equals))[: ]*\}|\} ?:) ?",
        "",
        r"\text{Area: } 7",
        "7",
    ),
    _rule(
        "the answer is",
        r"^(?:\\text\{)?(?i: ?(?:(?:so|thus|hence|therefore),? )?(?:the |my |our )?"
        r"(?:final |correct |required )?(?:answer|ans|result|solution|value)\b\.? ?(?:is|are|=|:)*)"
        r"[: }=]*(?=[^ }])",
        "",
        "The final answer is 7",
        "7",
    ),
    _rule(
        "word of a conclusion",
        r"^(?:\\text\{)?"
        r"(?i: ?(?:so|thus|hence|therefore|about|approximately|approx\.?|exactly|simply|is)\b)"
        r",?[ }]*(?=[-\d\\a-z])",
        "",
        "about 7",
        "7",
    ),
    _rule(
        "label in plain words",
        rf"^(?!.*\b(?i:{_VALUE_WORDS})\b)"
        r"[A-Z][a-z]{2,}(?: [a-zA-Z]+)*(?: ?: ?| is )(?=[-\d\\(.])",
        "",
        "Area: 7",
        "7",
    ),
    _rule("all of it text", r"^\\text\{([^{}]*)\}$", r"\1", r"\text{blue}", "blue"),
    _rule(
        "option",
        r"^(?:\\text\{)? ?(?i:option|choice)[ }]*(?=\(?[A-J]\b)",
        "",
        r"\text{Option }B",
        "B",
    ),
    _rule("approximately, first", r"^\\approx(?![a-z]) ?", "", r"\approx 8.24", "8.24"),
    _rule(
        "kind of a tuple or a set",
        r"^\\text\{ ?(?i:(?:the )?"
        r"(?:points?|vertex|cent(?:er|re)|vector|coordinates|interval|set|domain|range))"
        r" ?\} ?(?=[(\[]|\\\{)",
        "",
        r"\text{the point } (2,3)",
        "(2,3)",
    ),
    _rule(
        "approximately, last",
        r"(?:\\text\{ ?|\( ?|(?<=\d) )"
        r"(?i:or so|or thereabouts|\(?approx(?:imately|\.)?\)?|\(?exact(?:ly)?\)?)[ )}]*$",
        "",
        "15 or so",
        "15",
    ),
)


def _complement(match: re.Match) -> str:
    """What an interval leaves of the real numbers."""
    ends_before = ")" if match[1] == "[" else "]"
    begins_after = "(" if match[4] == "]" else "["
    return rf"(-\infty,{match[2]}{ends_before}\cup {begins_after}{match[3]},\infty)"


_SETS = (
    _rule(
        "empty set",
        r"(?i:\b(?:no (?:real )?solutions?|empty set)\b)|\\varnothing|\\\{ ?\\\}",
        r"\\emptyset",
        "no real solution",
        r"\emptyset",
    ),
    _rule(
        "lines and angles",
        r"\\overline ?\{([A-Z]{2})\}|\\(?:(?:measured|m)?angle|triangle) ?(?=[A-Z])",
        r"\1",
        r"\angle ABC",
        "ABC",
    ),
    _rule(
        "absolute value below a bound",
        r"^\|([a-z])\| ?(<|\\le(?![a-z])) ?([\d.]+|\\frac\{\d+\}\{\d+\})$",
        r"-\3 \2 \1 \2 \3",
        "|x| < 3",
        "-3 < x < 3",
    ),
    _rule(
        "absolute value above a bound",
        r"^\|([a-z])\| ?(>|\\ge(?![a-z])) ?([\d.]+|\\frac\{\d+\}\{\d+\})$",
        r"\1 \2 \3 or -\3 \2 \1",
        "|x| > 3",
        "x > 3 or -3 > x",
    ),
    _rule(
        "all real numbers",
        r"(?<!for )(?i:\ball real numbers\b)|^\( ?-\\infty ?, ?\\infty ?\)$",
        r"\\R",
        r"(-\infty, \infty)",
        r"\R",
    ),
    _rule("brace of a system", r"^\\\{ ?(?!.*\\\})", "", r"\{ x = 1, y = 2", "x = 1, y = 2"),
    _rule(
        "set of the numbers with",
        r"^\\\{ ?[a-z](?: ?\\in ?\\R)? ?(?:\\mid|:|\|) ?(.*)\\\}$",
        r"\1",
        r"\{x : x > 3\}",
        "x > 3",
    ),
    # The next ones read what "set of the numbers with" leaves: x \ne 3.
    _rule(
        "positive numbers",
        r"^\\R ?[\^_]\{? ?(?:\+|> ?0) ?\}?$",
        r"(0,\\infty)",
        r"\R^+",
        r"(0,\infty)",
    ),
    _rule(
        "numbers that are not negative",
        r"^\\R ?_\{? ?\\ge ?0 ?\}?$",
        r"[0,\\infty)",
        r"\R_{\ge 0}",
        r"[0,\infty)",
    ),
    _rule(
        "all numbers outside of an interval",
        r"^(?:\\R ?\\(?:setminus|backslash)|[a-z] ?\\notin) ?"
        r"([(\[])([^,;()\[\]]+)[,;]([^,;()\[\]]+)([)\]])$",
        _complement,
        r"\R \setminus [2,7]",
        r"(-\infty,2)\cup (7,\infty)",
    ),
    _rule(
        "all numbers but one",
        r"^(?:[a-z] ?\\ne|\\R ?\\(?:setminus|backslash) ?\\\{) ?([^,{}<>=]+?) ?(?:\\\})?$",
        r"(-\\infty,\1)\\cup (\1,\\infty)",
        r"x \ne 3",
        r"(-\infty,3)\cup (3,\infty)",
    ),
)

LAST_REWRITES = (
    *_BASES,
    *_TEXT_THAT_IS_MATHEMATICS,
    *_SIGNS,
    *_BRACKETS_AND_INFINITY,
    *_FUNCTIONS_AND_POWERS,
    *_RECURRING_DECIMALS,
    *_MIXED_NUMBERS_AND_WORDS,
    *_LABELS,
    *_SETS,
)


# --- What no single pattern can say ---

_AXIS = re.compile(
    r"\\(?:mathbf|boldsymbol|bm|vec|mathrm|textbf|overrightarrow|hat)\s*\{?\s*"
    r"(?:\\(?:hat|vec|mathbf|boldsymbol|bm|mathrm)\s*\{?\s*)?"
    r"(?:([ijk])(?![a-zA-Z])|\\([ij])math)\s*(?:\}\s*)?(?:\})?"
)


def _unit_vectors(text: str) -> str:
    r"""2\mathbf{i}+3\mathbf{j} is 2\hat{i}+3\hat{j}; a lone \mathbf{i} is a letter."""
    axes = {axis[1] or axis[2] for axis in _AXIS.finditer(text)}
    is_sum = len(axes) > 1 or (axes and "\\hat" in text)
    if not is_sum:
        return text

    def as_hat(axis: re.Match) -> str:
        # Braces of a group around it: \mathbf{\hat{i}+\hat{j}}
        surplus = axis[0].count("}") - axis[0].count("{")
        return "{" * -surplus + f"\\hat{{{axis[1] or axis[2]}}}" + "}" * surplus

    return _AXIS.sub(as_hat, text)


def _open_brackets(text: str) -> str:
    """]0,1[ is (0,1), and [0,1[ is [0,1)."""
    brackets = [match.start() for match in re.finditer(r"[\[\]]", text)]
    characters = list(text)
    last_end = -1
    for left, right in zip(brackets, brackets[1:]):
        inside = text[left + 1 : right]
        ends = re.split("[,;]", inside)
        is_interval = len(ends) == 2 and all(map(str.strip, ends)) and balanced(inside)
        if left <= last_end or not is_interval:
            continue
        last_end = right
        if text[left] == "]":
            characters[left] = "("
        if text[right] == "[":
            characters[right] = ")"
    return "".join(characters)


_THOUSANDS_WITH_COMMAS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")


def _without_commas(text: str) -> str:
    """1,234 is 1234; in a tuple or a set a comma separates."""
    if re.search(r"[(\[]|\\\{", text):
        return text
    return _THOUSANDS_WITH_COMMAS.sub(lambda number: number[0].replace(",", ""), text)


def _trimmed(text: str) -> str:
    """Without spaces and a period at the ends: many rules look at the first or last character."""
    return re.sub(r"(?<!\.)\.$", "", text.strip())


_PLAIN_NUMBER = re.compile(r"-?\d{1,15}(?:[./]\d{1,15})?", re.ASCII)


@lru_cache(maxsize=4096)
def clean(text: str) -> str:
    r"""One spelling for what Unicode, HTML and LaTeX spell in many ways; the value stays as it is.

    >>> clean(r"$\dfrac12$."), clean("]0, 1]"), clean("12,345 km")
    ('\\frac{1}{2}', '(0, 1]', '12345 km')
    """
    text = text[: 4 * MAX_ANSWER]
    if _PLAIN_NUMBER.fullmatch(text):  # most answers
        return text

    if "<" in text or "&" in text:
        text = without_html(text)
    if not text.isascii():
        text = without_unicode(text)

    text = _unit_vectors(_trimmed(text))
    for rewrite in FIRST_REWRITES:
        text = rewrite(text)

    if "\\" in text:
        text = with_braces(flat_environments(without_siunitx(without_fonts(text))))
    if "{" in text:
        text = without_groups(text)
    if "sqrt" in text:  # sqrt(2), without its backslash
        text = re.sub(r"(?<!\\)sqrt ?\(", r"\\sqrt(", text)
        text = with_braces(text) if "sqrt(" in text else text

    text = _trimmed(text)
    for rewrite in LAST_REWRITES:
        text = rewrite(text)
    return _without_commas(_open_brackets(text.strip()))
