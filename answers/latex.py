r"""One spelling for what Unicode, HTML and LaTeX spell in many ways: `clean("½")` is "\frac{1}{2}".

Every rule has a comment with an example. Rules run in order, each over the whole text, and each
takes linear time."""

import html
import re
import unicodedata
from functools import lru_cache

MAX_ANSWER = (
    300  # characters; a longer answer is right only if it equals the gold answer letter for letter
)

# --- Characters ---

_SYMBOLS = {
    "−": "-",
    "–": "-",
    "‒": "-",
    "‐": "-",
    "‑": "-",
    "×": r"\times ",
    "✕": r"\times ",
    "·": r"\cdot ",
    "⋅": r"\cdot ",
    "∙": r"\cdot ",
    "•": r"\cdot ",
    "∗": "*",
    "÷": "/",
    "⁄": "/",
    "∕": "/",
    "∞": r"\infty ",
    "≤": r"\le ",
    "≥": r"\ge ",
    "≦": r"\le ",
    "≧": r"\ge ",
    "⩽": r"\le ",
    "⩾": r"\ge ",
    "≠": r"\ne ",
    "°": r"^\circ ",
    "º": r"^\circ ",
    "˚": r"^\circ ",
    "∪": r"\cup ",
    "∩": r"\cap ",
    "±": r"\pm ",
    "∈": r"\in ",
    "∉": r"\notin ",
    "′": "'",
    "’": "'",
    "ʹ": "'",
    "∅": r"\emptyset ",
    "⌀": r"\emptyset ",
    "ℝ": r"\R ",
    "ℤ": r"\mathbb{Z} ",
    "ℕ": r"\mathbb{N} ",
    "ℚ": r"\mathbb{Q} ",
    "ℂ": r"\mathbb{C} ",
    "≈": r"\approx ",
    "∨": r"\vee ",
    "∧": r"\wedge ",
    "∖": r"\setminus ",
    "∶": ":",
    "∣": "|",
    "∥": r"\|",
    "∠": r"\angle ",
    "△": r"\triangle ",
    "∆": r"\Delta ",
    "⌊": r"\lfloor ",
    "⌋": r"\rfloor ",
    "⌈": r"\lceil ",
    "⌉": r"\rceil ",
    "⟨": r"\langle ",
    "⟩": r"\rangle ",
    "〈": r"\langle ",
    "〉": r"\rangle ",
    "∀": r"\forall ",
    "∑": r"\sum ",
    "∏": r"\prod ",
    "∫": r"\int ",
    "∂": r"\partial ",
    "⇒": r"\Rightarrow ",
    "→": r"\to ",
    "∴": r"\therefore ",
    "≡": r"\equiv ",
    "…": r"\ldots ",
    "⋯": r"\ldots ",
    "，": ",",
    "、": ", ",
    "。": ".",
    "ᵀ": "^{T}",
    "ℓ": "l",
    "￥": "¥",
    "％": "%",
    "“": "",
    "”": "",
}
_GREEK = {
    chr(code): f"\\{unicodedata.name(chr(code)).split()[-1].lower().replace('lamda', 'lambda')} "
    for code in range(0x3B1, 0x3CA)
    if code not in (0x3BF, 0x3C2)  # omicron, final sigma
}
_GREEK |= {letter.upper(): f"\\{_GREEK[letter][1:].capitalize()}" for letter in "γδθλξπσφψω"}
_TABLE = str.maketrans(
    _SYMBOLS
    | _GREEK
    | dict.fromkeys("\u200b\u200c\u200d\u200e\u200f\u2060\u2061\u2062\ufeff\xad", "")
)
_ROOTS = {"√": r"\sqrt", "∛": r"\sqrt[3]", "∜": r"\sqrt[4]"}
_SUPERSCRIPT = "[\u2070\u00b9\u00b2\u00b3\u2074-\u207b\u207f\u2071]"


def _root(match: re.Match) -> str:
    """√20x is \\sqrt{20}x; ³√27 is a cube root; √(...) waits for the rule for brackets."""
    index = unicodedata.normalize("NFKC", match[1] or "")
    command = f"\\sqrt[{index}]" if index else _ROOTS[match[2]]
    return command + (f"{{{match[3]}}}" if match[3] else "")


def _ascii(text: str) -> str:
    """Unicode characters as LaTeX."""
    text = re.sub(
        rf"((?<![\w)}}\]]){_SUPERSCRIPT}+)?([√∛∜])\s*(\d+(?:\.\d+)?|[a-zA-Zα-ω](?![a-zA-Z])|(?=[({{\\]))?",
        _root,
        text,
    )
    text = re.sub(
        r"(?:\d[\u0304\u0305])+", lambda m: rf"\overline{{{re.sub('[^0-9]', '', m[0])}}}", text
    )  # 0.3̅
    text = re.sub(r"(\d)\u0307", r"\\dot{\1}", text)  # 0.3̇
    text = re.sub(f"{_SUPERSCRIPT}+", r"^{\g<0>}", text)
    text = re.sub("[\u2080-\u208e\u2090-\u209c\u1d62-\u1d65\u2c7c]+", r"_{\g<0>}", text)
    text = re.sub("[①-⑳]", r" \g<0> ", text)  # ①③ is not 13
    text = re.sub(
        "[¼-¾⅐-⅞]",
        lambda m: r"\frac{{{}}}{{{}}}".format(*unicodedata.normalize("NFKC", m[0]).split("⁄")),
        text,
    )
    text = unicodedata.normalize("NFKC", text.translate(_TABLE)).translate(_TABLE)
    return text


_ENTITY = re.compile(r"&(?:#\d{1,6}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z]{2,8}\d{0,2});")
_TAG = re.compile(
    r"<(b|i|em|strong|u|span|p|div|code|font|mark|small|big|sup|sub)(?:\s[^<>]*)?>([^<>]*)</\1\s*>|<br\s*/?>()",
    re.IGNORECASE,
)


def _tag(match: re.Match) -> str:
    shift = {"sup": "^", "sub": "_"}.get((match[1] or "").lower(), "")
    return f"{shift}{{{match[2]}}}" if shift else match[2] or " "


def _without_html(text: str) -> str:
    """x &lt; 5 is x < 5, and x<sup>2</sup> is x^{2}."""
    for _ in range(2):  # &amp;lt;
        text = _ENTITY.sub(lambda m: html.unescape(m[0]), text)
    return _TAG.sub(_tag, _TAG.sub(_tag, text)) if "<" in text else text


# --- Commands and their arguments ---

# Fonts and sizes change nothing; what they wrap stays. \text and its like stay as \text, since they
# may hold a unit.
_FONTS = (
    "boldsymbol|bm|pmb|mathbf|mathit|mathnormal|mathcal|mathscr|underline|uline|underbar|ensuremath|vec"
    "|overrightarrow|mathord"
    "|mathop|mathstrut|fbox|boxed|framebox|smash|mathclap|uwave|uuline|bold|hl|mathfrak"
)
_SWITCHES = (
    "tiny|scriptsize|footnotesize|small|normalsize|large|Large|LARGE|huge|Huge|bfseries|itshape|mdseries|upshape"
    "|sffamily|rmfamily"
    "|bf|it|sf|tt|sc|sl|displaystyle|textstyle|scriptstyle|scriptscriptstyle|left|right|middle|mathopen|mathclose"
    "|mathbin|mathrel"
    "|limits|nolimits|nonumber|notag|strut|null|hfill|noindent|centering|relax|allowbreak|nobreak|protect|boldmath"
    "|[bB]igg?[lrm]?"
)
_TEXT = "mbox|hbox|text(?:bf|it|rm|normal|sf|tt|sc|sl|up|md)|emph|mathrm|mathsf|mathtt|rm|operatorname|texttt"
_FUNCTIONS = (
    "arcsinh|arccosh|arctanh|arcsin|arccos|arctan|arccot|arcsec|arccsc|sinh|cosh|tanh|coth|sin|cos|tan|cot|csc"
    "|ln|log|exp|gcd|lcm"
)
# Arguments of these commands may be one character or one command: \frac\pi2, \sqrt2, \binom52.
_ARGUMENTS = {
    "frac": 2,
    "sqrt": 1,
    "binom": 2,
    "dot": 1,
    "bar": 1,
    "overline": 1,
    "hat": 1,
    "tilde": 1,
    "text": 1,
}
_GROUP_START = re.compile(r"\s*(?:(\{)|(\()|\\[a-zA-Z]+|\\.|[^\s{}\\])")


def _group_end(text: str, start: int) -> int:
    """The position after the bracket that closes the one at start, or -1."""
    level, pairs = 0, {"{": "}", "(": ")", "[": "]"}
    opening, closing = text[start], pairs[text[start]]
    position = start
    while position < len(text):
        if text[position] == "\\":
            position += 1
        elif text[position] == opening:
            level += 1
        elif text[position] == closing:
            level -= 1
            if level == 0:
                return position + 1
        position += 1
    return -1


def _argument(text: str, start: int, command: str) -> tuple[str, int] | None:
    """The argument that starts here, without its braces, and where it ends."""
    match = _GROUP_START.match(text, start)
    if not match:
        return None
    if match[1] or (match[2] and command == "sqrt"):  # sqrt(2) is meant as a root of 2
        end = _group_end(text, match.end() - 1)
        return (text[match.end() : end - 1], end) if end > 0 else None
    end = match.end()
    name = re.fullmatch(r"\s*\\([a-zA-Z]+)", match[0])
    if name and name[1] in _ARGUMENTS:  # \frac\sqrt3{2}: inner commands have braces already
        if (
            name[1] == "sqrt"
            and text[end : end + 1] == "["
            and (after := _group_end(text, end)) > 0
        ):
            end = after
        for _ in range(_ARGUMENTS[name[1]]):
            if text[end : end + 1] != "{" or (end := _group_end(text, end)) < 0:
                return None
    return text[start:end].strip(), end


def _with_braces(text: str) -> str:
    r"""Braces around every argument: \frac\pi2 is \frac{\pi}{2}, and \sqrt[3]2 is \sqrt[3]{2}. Last
    command first."""
    commands = list(
        re.finditer(r"\\(frac|sqrt|binom|dot|bar|overline|hat|tilde)(?![a-zA-Z])", text)
    )
    for command in reversed(commands[-60:]):
        position, arguments = command.end(), []
        index = re.match(r"\s*(\[[^\[\]]*\])", text[position:]) if command[1] == "sqrt" else None
        position += index.end() if index else 0
        for _ in range(_ARGUMENTS[command[1]]):
            found = _argument(text, position, command[1])
            if not found:
                break
            arguments.append(f"{{{found[0]}}}")
            position = found[1]
        if len(arguments) == _ARGUMENTS[command[1]]:
            new = command[0] + (index[1] if index else "") + "".join(arguments)
            text = text[: command.start()] + new + text[position:]
    return text


def _without_fonts(text: str) -> str:
    r"""\bm{a^2} is a^2; braces stay where they hold an exponent, an index or an argument
    together."""
    commands = list(re.finditer(rf"\\(?:{_FONTS})(?![a-zA-Z])", text))
    for command in reversed(commands[-60:]):
        found = _argument(text, command.end(), "")
        before = text[: command.start()].rstrip()
        if not found:
            text = text[: command.start()] + " " + text[command.end() :]
        elif re.search(r"(?:[\^_]|\\[a-zA-Z]+)$", before):
            text = f"{before}{{{found[0]}}}{text[found[1] :]}"
        else:
            after = " " if re.search(r"\\[a-zA-Z]+$", found[0]) else ""
            text = text[: command.start()] + found[0] + after + text[found[1] :]
    return text


def _siunitx(text: str) -> str:
    r"""\SI{8}{\centi\meter} is 8 \text{ centimeter}; \num{8} is 8; \ang{90} is 90^\circ."""
    braces = r"\{((?:[^{}]|\{[^{}]*\})*)\}"

    def unit(body: str) -> str:
        body = re.sub(r"\\per(?![a-z])", "/", body)
        body = re.sub(r"\\(?:squared)(?![a-z])", "^2 ", re.sub(r"\\cubed(?![a-z])", "^3 ", body))
        body = re.sub(r"\\tothe\{(-?\d)\}", r"^\1 ", body)
        body = re.sub(
            r"\\(kilo|mega|giga|tera|hecto|deci|centi|milli|micro|nano|pico|femto)\s*\\",
            r" \1",
            body,
        )
        body = re.sub(
            r"\\percent(?![a-z])", "%", re.sub(r"\\degreeCelsius|\\celsius", " celsius ", body)
        )
        return re.sub(r"\\([a-z]{3,})", r" \1 ", body).replace("~", " ")

    option = r"\s*(?:\[[^\[\]]*\])?\s*"
    text = re.sub(
        rf"\\(?:SI|qty){option}{braces}\s*{braces}",
        lambda m: rf"{m[1]} \text{{ {unit(m[2])} }}",
        text,
    )
    text = re.sub(rf"\\(?:si|unit){option}{braces}", lambda m: rf" \text{{ {unit(m[1])} }}", text)
    return re.sub(
        rf"\\num{option}{braces}", r"\1", re.sub(rf"\\ang{option}{braces}", r"\1^\\circ ", text)
    )


_MATRIX = re.compile(r"\\begin ?\{([pbBvV]?matrix)\}(?:(?!\\begin).)*?\\end ?\{\1\}", re.DOTALL)
_ENVIRONMENT = re.compile(
    r"\\begin ?\{(aligned|align|alignat|alignedat|gathered|gather|equation|split|cases|dcases|rcases|array|math"
    r"|displaymath|center"
    r"|multline|eqnarray|flushleft|document|tabular)\*?\}(?: ?\[[tbc]\])?(?: ?\{[lcr"
    r"|@{} \d]*\})?((?:(?!\\begin).)*?)\\end ?\{\1\*?\}",
    re.DOTALL,
)


def _rows(match: re.Match) -> str:
    r"""\begin{aligned} x &= 1 \\ y &= 2 \end{aligned} is "x = 1, y = 2"; tables and piecewise
    functions stay."""
    rows = [
        row.strip().rstrip(" ,;.")
        for row in re.split(r"\\\\(?:\s*\[[^\[\]]*\])?|\\cr(?![a-z])", match[2])
    ]
    rows = [row for row in rows if row]
    columns = max((row.count("&") for row in rows), default=0)
    if match[1] == "array" and (
        columns or (len(rows) > 1 and not all(re.search(r"[=<>]|\\[lg]e", row) for row in rows))
    ):
        return match[0]
    if (
        match[1] in ("cases", "dcases", "rcases")
        and columns
        and not all(re.search(r"&\s*=|=\s*&", row) for row in rows)
    ):
        return match[0]
    text = ""
    for row in rows:
        row = row.replace("&", " ").strip()
        text += (
            row
            if not text
            else (" " if re.match(r"=|\\(?:le|ge|approx|iff|[rR]ightarrow)|[<>+-]", row) else ", ")
            + row
        )
    return f" {text} "


def _flat_environments(text: str) -> str:
    r"""\begin{array}{c} 5 \end{array} is 5; matrices stay as they are, also inside of another
    environment."""
    if "\\begin" not in text:
        return text
    matrices: list[str] = []

    def put_aside(match: re.Match) -> str:
        matrices.append(match[0])
        return f"\x00{len(matrices) - 1}\x00"

    text = _MATRIX.sub(put_aside, text.replace("\x00", ""))
    for _ in range(3):
        text = _ENVIRONMENT.sub(_rows, text)
    return re.sub("\x00(\\d+)\x00", lambda m: matrices[int(m[1])], text)


def _without_groups(text: str) -> str:
    r"""{31} is 31: braces go where they are no argument, exponent or index of anything."""
    position = 0
    while (position := text.find("{", position)) >= 0:
        end = _group_end(text, position)
        argument = re.search(
            r"(?:\\[a-zA-Z]*\*?|[\^_}\]])\s*$", text[max(0, position - 40) : position]
        )
        if end < 0:
            return text
        if (
            argument
            or re.match(r"\s*[\^_]", text[end : end + 5])
            or not text[position + 1 : end - 1].strip()
        ):
            position += 1
        else:
            text = text[:position] + text[position + 1 : end - 1] + text[end:]
    return text


# --- Rewrites ---

_NUMERALS = {
    word: str(number)
    for number, word in enumerate(
        (
            "two",
            "three",
            "four",
            "five",
            "six",
            "seven",
            "eight",
            "nine",
            "ten",
            "eleven",
            "twelve",
            "thirteen",
            "fourteen",
            "fifteen",
            "sixteen",
        ),
        2,
    )
}
_BASE = "|".join(_NUMERALS)


def _recurring(match: re.Match) -> str:
    r"""0.1\overline{6} is (0+\frac{15}{90})."""
    whole, fixed, cycle = match[1] or "0", match[2], match[3]
    return rf"({whole}+\frac{{{int(fixed + cycle) - int(fixed or 0)}}}{{{'9' * len(cycle)}{'0' * len(fixed)}}})"


def _open_brackets(text: str) -> str:
    """]0,1[ is (0,1), and [0,1[ is [0,1)."""
    brackets = [match.start() for match in re.finditer(r"[\[\]]", text)]
    characters, done = list(text), -1
    for left, right in zip(brackets, brackets[1:]):
        parts = re.split("[,;]", text[left + 1 : right])
        if (
            left <= done
            or len(parts) != 2
            or not all(map(str.strip, parts))
            or not balanced(text[left + 1 : right])
        ):
            continue
        done = right
        if text[left] == "]":
            characters[left] = "("
        if text[right] == "[":
            characters[right] = ")"
    return "".join(characters)


def balanced(text: str) -> bool:
    """Whether every bracket of the text, ( or {, is closed in it."""
    level = 0
    for character in re.sub(r"\\.", "", text):
        level += (character in "({") - (character in ")}")
        if level < 0:
            return False
    return level == 0


def _complement(match: re.Match) -> str:
    """What an interval leaves of the real numbers."""
    left, right = ")" if match[1] == "[" else "]", "(" if match[4] == "]" else "["
    return rf"(-\infty,{match[2]}{left}\cup {right}{match[3]},\infty)"


_MONEY = {"€": "euro", "£": "GBP", "¥": "yen", "₹": "rupee"}
_AXIS = re.compile(
    r"\\(?:mathbf|boldsymbol|bm|vec|mathrm|textbf|overrightarrow|hat)\s*\{?\s*"
    r"(?:\\(?:hat|vec|mathbf|boldsymbol|bm|mathrm)\s*\{?\s*)?(?:([ijk])(?![a-zA-Z])|\\([ij])math)\s*(?:\}\s*)?(?:\})?"
)


def _unit_vectors(text: str) -> str:
    r"""2\mathbf{i}+3\mathbf{j} is 2\hat{i}+3\hat{j}; a lone \mathbf{i} is a letter."""
    axes = {axis[1] or axis[2] for axis in _AXIS.finditer(text)}
    if len(axes) < 2 and not (axes and "\\hat" in text):
        return text

    def axis(match: re.Match) -> str:
        surplus = match[0].count("}") - match[0].count("{")  # braces of a group around it
        return "{" * -surplus + f"\\hat{{{match[1] or match[2]}}}" + "}" * surplus

    return _AXIS.sub(axis, text)


_FIRST_RULES = (  # before braces are added around arguments
    (r"\\textdollar(?![a-z])", r"\\$"),
    (r"\\(?:pounds|textsterling)(?![a-z])", "£"),
    (r"\\(?:euro|texteuro)(?![a-z])", "€"),
    (r"\\yen(?![a-z])", "¥"),
    (r"\\text(?:bf|rm)?\s*\{\s*(\\?[$€£¥₹])\s*([\d.,]*)\s*\}", r"\1\2"),  # \text{\$45}
    (r"\b(?:US|AU|CA|NZ|HK|[AC])\s?\\?\$(?=\s?\d)", r"\\$"),  # US\$45
    (r"€(?=\s?-?[\d.])", r"\\text{euro} "),
    (r"£(?=\s?-?[\d.])", r"\\text{GBP} "),
    (r"¥(?=\s?-?[\d.])", r"\\text{yen} "),  # €45
    (r"₹(?=\s?-?[\d.])|\b(?:Rs\.?|INR)\s?(?=\d)", r"\\text{rupee} "),  # Rs. 500
    (r"(?:\b(USD|EUR|GBP)|\\text\s*\{\s*(USD|EUR|GBP)\s*\})\s?(?=\d)", r"\\text{\1\2} "),  # USD 45
    (
        r"(?<=[\d.}])\s?(?:\\text\s*\{\s*)?([€£¥₹])(?:\s*\})?",
        lambda m: f"\\text{{ {_MONEY[m[1]]}}}",
    ),  # 45€
    (r"(?<=\d)\s?\\?¢", r"\\text{ cents}"),  # 45€
    (r"\\\$|(?<=[\d\s])\$(?=\d)|^\$(?=[\d.,]+$)", r"\\text{dollar} "),  # \$18.90
    (
        r"\\\\\s*\[\s*-?[\d.]+\s*(?:pt|em|ex|mm|cm|in)\s*\]",
        r"\\\\ ",
    ),  # a row's end with a distance: \\[4pt]
    (r"\\newline(?![a-z])", r"\\\\ "),
    (r"\\bbox\s*\[[^\[\]]*\]|\\enclose\s*\{(?:circle|box|roundedbox)\}", ""),
    (
        r"\\(?:under|over)brace\s*\{([^{}]*)\}\s*[_^]\s*\{(?:[^{}]|\{[^{}]*\})*\}",
        r"\1",
    ),  # \underbrace{7}_{\text{sum}}
    (r"\$|(?<!\\)\\[()\[\]](?!\])", ""),  # $5$, \(5\)
    (r"\\begin\s*\{smallmatrix\}", r"\\begin{matrix}"),
    (r"\\end\s*\{smallmatrix\}", r"\\end{matrix}"),
    (r"\\(begin|end)\s*\{([pbvBV]?matrix)\*\}(?:\s*\[[lcr]\])?", r"\\\1{\2}"),
    (
        r"\\hline|\\[hv]space\*?\s*\{[^{}]*\}|\\[hm]?skip\s*-?[\d.]+\s*(?:pt|em|ex|mu|cm)|\\kern\s*-?[\d.]+\s*(?:pt"
        r"|em|ex|mu)",
        "",
    ),
    (r"\\(?:label|tag\*?)\s*\{[^{}]*\}", ""),
    (r"\\fcolorbox\s*\{[^{}]*\}\s*\{[^{}]*\}", ""),
    (r"\\(?:text)?color(?:box)?\s*(?:\[[^\[\]]*\])?\s*\{[^{}]*\}", ""),  # \textcolor{blue}{31}
    (rf"\\(?:{_SWITCHES})(?![a-zA-Z])\.?", " "),  # {\Large 31}, \left(
    (r"(?<=\d)(?:,?\\!\s*|\\, ?|\\ |\{,\})(?=\d{3}(?!\d))", ""),  # 1\,000, 32,\!348
    (r"\\!|\\phantom\s*(?:\{[^{}]*\}|.)|\\[hv]phantom\s*\{[^{}]*\}", ""),
    (r"(?<!\\)\\[,;: ]|~", " "),  # spaces; \quad only after thousands
    # 12 345
    (
        r"(?<![\d.,/^_])(?<![\d^_]\{)(?<!\d )(\d{1,3}(?: \d{3})+)(?!\d|,\d| ?[/\d]"
        r"|\.\d{1,3} \d)",
        lambda m: m[0].replace(" ", ""),
    ),
    (r"(?<![\d.,'])\d{1,3}(?:'\d{3})+(?![\d'])", lambda m: m[0].replace("'", "")),  # 1'000
    # 1_000_000
    (
        r"(?<![\w.])\d{1,3}(?:_\d{3}){2,}(?!\w)|(?<![\w.])\d{1,3}_000(?!\w)",
        lambda m: m[0].replace("_", ""),
    ),
    (r"(?<![\d.,])\d{1,3}(?:\.\d{3}){2,}(?![\d.,])", lambda m: m[0].replace(".", "")),  # 1.000.000
    (r"\\q?quad(?![a-z])|\s", " "),
    (r"\\(?:[dtcsx]|nice|flat)frac(?![a-z])", r"\\frac"),
    (r"\\[dt]binom(?![a-z])", r"\\binom"),
    (r"\{([^{}]*)\\over(?![a-z])([^{}]*)\}", r"\\frac{\1}{\2}"),
    (r"\{([^{}]*)\\choose(?![a-z])([^{}]*)\}", r"\\binom{\1}{\2}"),
    (r"^(\w+) ?\\choose (\w+)$", r"\\binom{\1}{\2}"),  # 5 \choose 2
    (r"(?:\{ ?\})?[\^_]\{?(\d+)\}? ?(?:\\text ?\{)?C\}?_\{?(\d+)\}?", r"\\binom{\1}{\2}"),  # ^5C_2
    (rf"\\operatorname\*? ?\{{ ?({_FUNCTIONS}|sec|max|min) ?\}}", r"\\\1 "),
    (
        r"\\operatorname\*? ?\{ ?(lg|tg|ctg|cotg|cosec|arctg|arcctg|sh|ch|th|arsinh|arcosh|artanh) ?\}",
        r"\\\1 ",
    ),
    (r"\\lg(?![a-z])", r"\\log_{10}"),
    (r"\\(arc)?tg(?![a-z])", r"\\\1tan"),
    (r"\\(arc)?(?:ctg|cotg)(?![a-z])", r"\\\1cot"),
    (r"\\cosec(?![a-z])", r"\\csc"),
    (r"\\sh(?![a-z])", r"\\sinh"),
    (r"\\ch(?![a-z])", r"\\cosh"),
    (r"\\th(?![a-z])", r"\\tanh"),
    (r"\\ar(sinh|cosh|tanh)(?![a-z])", r"\\arc\1"),
    (r"\\var(epsilon|phi|theta|rho|sigma|kappa)(?![a-z])", r"\\\1"),
    (r"\\([ij])math(?![a-z])", r"\1"),
    (r"\{ ?\\rm(?![a-z]) ?([^{}]*)\}", r"\\text{\1}"),  # {\rm cm}
    (rf"\\(?:{_TEXT})\*? ?\{{", r"\\text{"),
    (rf"\\text ?\{{ ?({_FUNCTIONS}|tg|ctg|lg) ?\}}", r"\\\1 "),  # \mathrm{sin} x
    (rf"\\(?:{_TEXT}|text) ([a-zA-Z])(?![a-zA-Z])", r"\\text{\1}"),  # \mathrm i
    (r"\\rm(?![a-z])", " "),
    (r"(\\[a-zA-Z]+|[\^_\]}]) +\{", r"\1{"),  # \frac {1} {2}
)
_NAMED_SETS = r"\\mathbb ?\{? ?([RZNQC]) ?\}?"
_VALUE_WORDS = (
    "not|never|no|wrong|incorrect|except|minus|negative|opposite|guess|maybe|half|twice|double|less|more|between"
    "|over|under|reciprocal|inverse|negation"
)
_RULES = (
    (
        rf"(_\{{? ?)(?:\\text\{{ ?)?(?:base ?)?({_BASE})(?: ?\}})?( ?\}})?(?![a-zA-Z])",
        lambda m: f"_{{{_NUMERALS[m[2]]}}}",
    ),  # 2120_{\text{three}}
    (
        r"_\{? ?(?:\\text\{ ?base ?\}|\\text\{ ?base ?(?=\d)|base ?|\()(\d+)[ })]*",
        r"_{\1}",
    ),  # 2120_{\text{base }3}
    (
        rf"(?<=[\dA-F)]) ?(?:\\text\{{|\()*[ (]*(?:in )?base[- ]?(?:\}} ?)?(\d+|(?:{_BASE})(?![a-z]))[ )}}]*$",
        lambda m: f"_{{{_NUMERALS.get(m[1], m[1])}}}",
    ),  # 2120 \text{ (base 3)}
    (r"\\text\{ ?([0-9A-F]+) ?\}(?=_)", r"\1"),  # \text{A5}_{11}
    (r"^0b([01]+)$", r"\1_{2}"),
    (r"^0x([0-9a-fA-F]+)$", lambda m: f"{m[1].upper()}_{{16}}"),
    (r"^0o([0-7]+)$", r"\1_{8}"),
    (r"\\text\{ ?([^a-zA-Z{}\\]*) ?\}", r" \1 "),  # 6\text{!}
    (r"\\text\{ ?([^{}a-zA-Z]*\d)([a-zA-Z ]*)\}", r" \1\\text{\2}"),  # \text{7 cm}
    (r"\\text\{ ?([a-fi-kn-rt-z]) ?\}", r" \1 "),  # 7\mathrm{i}: no unit has this letter
    (r"\\leq(?:slant)?(?![a-z])|<=|=<|\\leqq", r"\\le "),
    (r"\\geq(?:slant)?(?![a-z])|>=|\\geqq", r"\\ge "),
    (r"\\neq(?![a-z])|!=|\\not ?=", r"\\ne "),
    (r"\\lt(?![a-z])", "<"),
    (r"\\gt(?![a-z])", ">"),
    (r"\\%|\\text\{ ?(?:\\?%|per ?cent) ?\}|(?<=\d) ?percent\b", "%"),
    (r"\\text\{ ?\^ ?\{? ?\\circ ?\}? ?([CFK]?) ?\}", r"^\\circ \1"),  # \text{°C}
    (
        r"\^ ?\{? ?\\circ ?\}?|\\(?:degree|textdegree|deg)(?![a-z])|(?<=\d) ?\^ ?\{? ?(?:\\text\{ ?)?o(?![a-z])[ }]*"
        r"|\\text\{ ?deg(?:rees?)?\.? ?\}|(?<=\d) ?deg(?:rees?)?$",
        r"^\\circ ",
    ),
    (r"\^\{? ?\^\\circ ?\}?", r"^\\circ "),  # ^\degree
    (r"(?<=\d)\{ ?\}(?=\^)", ""),  # 90{}^\circ
    # 7 a.m.
    (
        r"(?<=\d) ?(?:\\text\{ ?)?([apAP])\. ?[mM](?![a-z])\.?(?: ?\})?",
        lambda m: rf" \text{{ {m[1].lower()}m}}",
    ),
    (r"\\(?:lbrace|rbrace)", lambda m: "\\{" if m[0][1] == "l" else "\\}"),
    (r"\\langle", "("),
    (r"\\rangle", ")"),
    (r"^< ?([^<>]*,[^<>]*) ?>$", r"(\1)"),  # <1, 2>
    (r"\\(?:infin|inf)(?![a-z])|\\text\{ ?infinity ?\}|\binfinity\b", r"\\infty"),
    (r"(?<=[\w)])\*\*(?=[\w(-])", "^"),
    (r"\+ ?\\infty", r"\\infty"),
    (r"\\mathbb ?\{?R\}?", r"\\R"),
    (
        r"(?<![\\a-zA-Z])(?:np\.|math\.)?(pi|arcsin|arccos|arctan|sin|cos|tan|cot|sinh|cosh|tanh|csc|ln"
        r"|log)(?![a-zA-Z])",
        r"\\\1 ",
    ),
    (r"(?<![\\a-zA-Z])lg(?![a-zA-Z])", r"\\log_{10}"),
    (r"(?<![\\a-zA-Z])(sec|exp|gcd|lcm|max|min) ?(?=\()", r"\\\1 "),
    (r"(?<=[\d)}]) {0,3}(?:\\text\{ ?)?[xX](?: ?\})? {0,3}(?=10 ?\^)", r"\\times "),  # 2.5 x 10^4
    (r"(?<=\d)(?<!\b0)(?: ?[xX] ?(?=\d)|\\text\{ ?[xX] ?\}(?=\d))", r"\\times "),  # 3 x 4
    (r"\^ ?(-\d+)", r"^{\1}"),
    (r"\^ ?\( ?(-?\d+) ?\)", r"^{\1}"),  # 2^-3
    (r"(\d(?:\.\d+)?)\s*[eE]\s*([-+]?\d+)(?!\.?\d)", r"\1\\times 10^{\2}"),
    (r"\\(?:[lcd]?dots[cbmio]?|hdots)(?![a-z])|\.{3,}", r"\\ldots "),
    (r"(\.\d{0,6}?)(\d{1,6}?)\2{2,6} ?\\ldots ?", r"\1\\overline{\2}"),  # 0.333...
    (r"\\(?:bar|widehat|dot)\{(\d+)\}", r"\\overline{\1}"),  # 0.\dot{3}
    (r"\\overline\{(\d)\}(\d*)\\overline\{(\d)\}", r"\\overline{\1\2\3}"),  # 0.\dot{1}4285\dot{7}
    (r"(?<=[.\d])\{(\\overline\{\d+\})\}", r"\1"),
    (r"(?<![\w.])(\d+\.\d*)\((\d+)\)(?![\w(^.])", r"\1\\overline{\2}"),  # 0.2(3)
    (r"(\d*)\.(\d{0,20})\\overline\{(\d{1,20})\}", _recurring),
    (r"^(\d+)-(\d+/\d+)(?= ?(?:[a-zA-Z]{2}|\\text))", r"\1 \2"),  # 2-1/4 inches
    (
        r"(?<![\d.}^_/])(\d+) ?(?:\\frac\{(\d+)\}\{(\d+)\}"
        r"|(?<= )(?:and )?(\d+) ?/ ?(\d+))(?![\d.]*[!^])",
        r"(\1+\\frac{\2\4}{\3\5})",
    ),
    (r"\\text\{[ ,]*(and|or)[ ,]*\}", r" \1 "),
    (r"\\(?:lor|vee)(?![a-z])", " or "),
    (r"\\land(?![a-z])", r"\\wedge"),
    (r"([\^_])(\\(?:frac\{[^{}]*\}|sqrt)\{[^{}]*\})", r"\1{\2}"),  # x^\frac12
    (r" +", " "),
    (r"^[ ,;`:]+|[ ,;`\\]*(?<!\.)\.?[ ,;`\\]*$", ""),
    (r"^\\text\{([^{}]*)\}$|^\*\*(.*)\*\*$|^__(.*)__$|^\*([^*]*)\*$", r"\1\2\3\4"),
    # = 7
    (
        r"^(?:(?:=|:|\\(?:Rightarrow|implies|therefore|to|rightarrow|[lL]ongrightarrow|iff|simeq)(?![a-z])) ?)+",
        "",
    ),
    # \text{Area: } 7
    (
        rf"^\\text\{{ ?(?![^{{}}]*\b(?i:{_VALUE_WORDS})\b)[A-Za-z][A-Za-z ,'()-]*?(?:(?::|=|\b(?:is|are|be"
        rf"|equals))[: ]*\}}|\}} ?:) ?",
        "",
    ),
    (
        r"^(?:\\text\{)?(?i: ?(?:(?:so|thus|hence|therefore),? )?(?:the |my |our )?(?:final |correct "
        r"|required )?(?:answer|ans|result|solution|value)\b\.?"
        r" ?(?:is|are|=|:)*)[: }=]*(?=[^ }])",
        "",
    ),
    (
        r"^(?:\\text\{)?(?i: ?(?:so|thus|hence|therefore|about|approximately|approx\.?|exactly|simply"
        r"|is)\b),?[ }]*(?=[-\d\\a-z])",
        "",
    ),
    (
        rf"^(?!.*\b(?i:{_VALUE_WORDS})\b)[A-Z][a-z]{{2,}}(?: [a-zA-Z]+)*(?: ?: ?| is )(?=[-\d\\(.])",
        "",
    ),  # Area: 7
    (r"^\\text\{([^{}]*)\}$", r"\1"),
    (r"^(?:\\text\{)? ?(?i:option|choice)[ }]*(?=\(?[A-J]\b)", ""),
    (r"^\\approx(?![a-z]) ?", ""),
    (
        r"^\\text\{ ?(?i:(?:the )?(?:points?|vertex|cent(?:er|re)|vector|coordinates|interval|set|domain"
        r"|range)) ?\} ?(?=[(\[]|\\\{)",
        "",
    ),
    (
        r"(?:\\text\{ ?|\( ?|(?<=\d) )(?i:or so|or thereabouts|\(?approx(?:imately|\.)?\)?"
        r"|\(?exact(?:ly)?\)?)[ )}]*$",
        "",
    ),
    (r"(?i:\b(?:no (?:real )?solutions?|empty set)\b)|\\varnothing|\\\{ ?\\\}", r"\\emptyset"),
    (r"\\overline ?\{([A-Z]{2})\}|\\(?:(?:measured|m)?angle|triangle) ?(?=[A-Z])", r"\1"),
    (r"^\|([a-z])\| ?(<|\\le(?![a-z])) ?([\d.]+|\\frac\{\d+\}\{\d+\})$", r"-\3 \2 \1 \2 \3"),
    (r"^\|([a-z])\| ?(>|\\ge(?![a-z])) ?([\d.]+|\\frac\{\d+\}\{\d+\})$", r"\1 \2 \3 or -\3 \2 \1"),
    (r"(?<!for )(?i:\ball real numbers\b)|^\( ?-\\infty ?, ?\\infty ?\)$", r"\\R"),
    (r"^\\\{ ?(?!.*\\\})", ""),  # \left\{ of a system of equations
    (
        r"^\\\{ ?[a-z](?: ?\\in ?\\R)? ?(?:\\mid|:|\|) ?(.*)\\\}$",
        r"\1",
    ),  # then x \ne 3, or R without 3
    (r"^\\R ?[\^_]\{? ?(?:\+|> ?0) ?\}?$", r"(0,\\infty)"),
    (r"^\\R ?_\{? ?\\ge ?0 ?\}?$", r"[0,\\infty)"),
    # \R \setminus [2,7]
    (
        r"^(?:\\R ?\\(?:setminus|backslash)"
        r"|[a-z] ?\\notin) ?([(\[])([^,;()\[\]]+)[,;]([^,;()\[\]]+)([)\]])$",
        _complement,
    ),
    (
        r"^(?:[a-z] ?\\ne|\\R ?\\(?:setminus|backslash) ?\\\{) ?([^,{}<>=]+?) ?(?:\\\})?$",
        r"(-\\infty,\1)\\cup (\1,\\infty)",
    ),
)
_FIRST = [(re.compile(pattern), replacement) for pattern, replacement in _FIRST_RULES]
_REWRITES = [(re.compile(pattern), replacement) for pattern, replacement in _RULES]
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")


def _trimmed(text: str) -> str:
    """Without spaces and a period at the ends: many rules look at the first or last character."""
    return re.sub(r"(?<!\.)\.$", "", text.strip())


@lru_cache(maxsize=4096)
def clean(text: str) -> str:
    """One spelling for what Unicode, HTML and LaTeX spell in many ways; the value stays as it
    is."""
    text = text[: 4 * MAX_ANSWER]
    if re.fullmatch(r"-?\d{1,15}(?:[./]\d{1,15})?", text, re.ASCII):
        return text
    text = _without_html(text)
    if not text.isascii():
        text = _ascii(text)
    text = _unit_vectors(_trimmed(text))
    for pattern, replacement in _FIRST:
        text = pattern.sub(replacement, text)
    if "\\" in text:
        text = _flat_environments(_siunitx(_without_fonts(text)))
        text = _with_braces(text)
    if "{" in text:
        text = _without_groups(text)
    text = re.sub(r"(?<!\\)sqrt ?\(", r"\\sqrt(", text)
    if "sqrt(" in text:
        text = _with_braces(text)
    text = _trimmed(text)
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    text = _open_brackets(text.strip())
    if not re.search(r"[(\[]|\\\{", text):  # in a tuple a comma separates
        text = _THOUSANDS.sub(lambda m: m[0].replace(",", ""), text)
    return text
