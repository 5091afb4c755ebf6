r"""LaTeX with nested braces, where a regular expression alone does not do: the arguments of
commands, fonts, groups, and environments."""

import re

# --- Brackets ---


def group_end(text: str, start: int) -> int:
    """The position after the bracket that closes the one at start, or -1."""
    opening = text[start]
    closing = {"{": "}", "(": ")", "[": "]"}[opening]
    level = 0
    position = start
    while position < len(text):
        if text[position] == "\\":  # an escaped bracket is none
            position += 1
        elif text[position] == opening:
            level += 1
        elif text[position] == closing:
            level -= 1
            if level == 0:
                return position + 1
        position += 1
    return -1


def balanced(text: str) -> bool:
    """Whether every bracket of the text, ( or {, is closed in it."""
    level = 0
    for character in re.sub(r"\\.", "", text):
        level += (character in "({") - (character in ")}")
        if level < 0:
            return False
    return level == 0


# --- Arguments ---

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
_WITH_ARGUMENTS = re.compile(r"\\(frac|sqrt|binom|dot|bar|overline|hat|tilde)(?![a-zA-Z])")
_ARGUMENT_START = re.compile(r"\s*(?:(\{)|(\()|\\[a-zA-Z]+|\\.|[^\s{}\\])")
_ROOT_INDEX = re.compile(r"\s*(\[[^\[\]]*\])")  # \sqrt[3]
_MOST_COMMANDS = 60  # in one answer; what follows is left as it is


def _command_end(text: str, name: str, end: int) -> int:
    r"""Where a command's own arguments end, which have braces already: \frac\sqrt3{2}. -1 if some
    are missing."""
    if name == "sqrt" and text[end : end + 1] == "[":
        index_end = group_end(text, end)
        end = index_end if index_end > 0 else end
    for _ in range(_ARGUMENTS[name]):
        if text[end : end + 1] != "{":
            return -1
        end = group_end(text, end)
        if end < 0:
            return -1
    return end


def _argument(text: str, start: int, command: str) -> tuple[str, int] | None:
    """The argument that starts here, without its braces, and where it ends."""
    match = _ARGUMENT_START.match(text, start)
    if not match:
        return None
    in_parentheses = match[2] and command == "sqrt"  # sqrt(2) is meant as a root of 2
    if match[1] or in_parentheses:
        end = group_end(text, match.end() - 1)
        return (text[match.end() : end - 1], end) if end > 0 else None
    end = match.end()
    name = match[0].strip().removeprefix("\\")
    if match[0].strip() != name and name in _ARGUMENTS:
        end = _command_end(text, name, end)
        if end < 0:
            return None
    return text[start:end].strip(), end


def with_braces(text: str) -> str:
    r"""Braces around every argument. The last command comes first, so that inner ones are done.

    >>> with_braces(r"\frac\pi2"), with_braces(r"\sqrt[3]2")
    ('\\frac{\\pi}{2}', '\\sqrt[3]{2}')
    """
    for command in reversed(list(_WITH_ARGUMENTS.finditer(text))[-_MOST_COMMANDS:]):
        rewritten = command[0]
        position = command.end()
        index = _ROOT_INDEX.match(text, position)
        if command[1] == "sqrt" and index:
            rewritten += index[1]
            position = index.end()
        missing = _ARGUMENTS[command[1]]
        while missing and (argument := _argument(text, position, command[1])):
            rewritten += f"{{{argument[0]}}}"
            position = argument[1]
            missing -= 1
        if not missing:
            text = text[: command.start()] + rewritten + text[position:]
    return text


# Fonts change nothing; what they wrap stays. \text and its like stay as \text, since they may hold
# a unit.
_FONT = re.compile(
    r"\\(?:boldsymbol|bm|pmb|mathbf|mathit|mathnormal|mathcal|mathscr|mathfrak|bold|hl|vec|overrightarrow"
    r"|underline|uline|underbar|uwave|uuline|ensuremath|mathord|mathop|mathstrut|mathclap|smash"
    r"|fbox|boxed|framebox)(?![a-zA-Z])"
)


def without_fonts(text: str) -> str:
    r"""What fonts and frames wrap; braces stay where they hold an exponent, an index or an argument
    together.

    >>> without_fonts(r"\bm{a^2}"), without_fonts(r"2^\mathbf{10}")
    ('a^2', '2^{10}')
    """
    for font in reversed(list(_FONT.finditer(text))[-_MOST_COMMANDS:]):
        argument = _argument(text, font.end(), "")
        before = text[: font.start()].rstrip()
        if not argument:
            text = text[: font.start()] + " " + text[font.end() :]
            continue
        content, end = argument
        if re.search(r"(?:[\^_]|\\[a-zA-Z]+)$", before):
            text = f"{before}{{{content}}}{text[end:]}"
        else:
            space = " " if re.search(r"\\[a-zA-Z]+$", content) else ""
            text = text[: font.start()] + content + space + text[end:]
    return text


def without_groups(text: str) -> str:
    r"""Braces go where they are no argument, exponent or index of anything.

    >>> without_groups(r"{31}"), without_groups(r"2^{31}")
    ('31', '2^{31}')
    """
    position = 0
    while (position := text.find("{", position)) >= 0:
        end = group_end(text, position)
        if end < 0:
            return text
        before = text[max(0, position - 40) : position]
        is_argument = re.search(r"(?:\\[a-zA-Z]*\*?|[\^_}\]])\s*$", before)
        has_exponent = re.match(r"\s*[\^_]", text[end : end + 5])
        content = text[position + 1 : end - 1]
        if is_argument or has_exponent or not content.strip():
            position += 1
        else:
            text = text[:position] + content + text[end:]
    return text


# --- siunitx ---

_BRACED = r"\{((?:[^{}]|\{[^{}]*\})*)\}"
_OPTION = r"\s*(?:\[[^\[\]]*\])?\s*"
_QUANTITY = re.compile(rf"\\(?:SI|qty){_OPTION}{_BRACED}\s*{_BRACED}")
_UNIT = re.compile(rf"\\(?:si|unit){_OPTION}{_BRACED}")
_ANGLE = re.compile(rf"\\ang{_OPTION}{_BRACED}")
_NUMBER = re.compile(rf"\\num{_OPTION}{_BRACED}")
_UNIT_COMMANDS = (
    (re.compile(r"\\per(?![a-z])"), "/"),
    (re.compile(r"\\cubed(?![a-z])"), "^3 "),
    (re.compile(r"\\squared(?![a-z])"), "^2 "),
    (re.compile(r"\\tothe\{(-?\d)\}"), r"^\1 "),
    (
        re.compile(r"\\(kilo|mega|giga|tera|hecto|deci|centi|milli|micro|nano|pico|femto)\s*\\"),
        r" \1",
    ),
    (re.compile(r"\\degreeCelsius|\\celsius"), " celsius "),
    (re.compile(r"\\percent(?![a-z])"), "%"),
    (re.compile(r"\\([a-z]{3,})"), r" \1 "),
    (re.compile("~"), " "),
)


def _unit_words(body: str) -> str:
    r"""\centi\meter is "centimeter", and \meter\per\second is "meter / second"."""
    for pattern, replacement in _UNIT_COMMANDS:
        body = pattern.sub(replacement, body)
    return body


def without_siunitx(text: str) -> str:
    r"""The package's commands in plain LaTeX.

    >>> without_siunitx(r"\SI{8}{\centi\meter}"), without_siunitx(r"\ang{90}")
    ('8 \\text{  centimeter }', '90^\\circ ')
    """
    text = _QUANTITY.sub(lambda m: rf"{m[1]} \text{{ {_unit_words(m[2])} }}", text)
    text = _UNIT.sub(lambda m: rf" \text{{ {_unit_words(m[1])} }}", text)
    text = _ANGLE.sub(r"\1^\\circ ", text)
    return _NUMBER.sub(r"\1", text)


# --- Environments ---

_MATRIX = re.compile(r"\\begin ?\{([pbBvV]?matrix)\}(?:(?!\\begin).)*?\\end ?\{\1\}", re.DOTALL)
_ENVIRONMENT = re.compile(
    r"\\begin ?\{(aligned|align|alignat|alignedat|gathered|gather|equation|split|cases|dcases"
    r"|rcases|array|math|displaymath|center|multline|eqnarray|flushleft|document|tabular)\*?\}"
    r"(?: ?\[[tbc]\])?(?: ?\{[lcr|@{} \d]*\})?((?:(?!\\begin).)*?)\\end ?\{\1\*?\}",
    re.DOTALL,
)
_ROW_END = re.compile(r"\\\\(?:\s*\[[^\[\]]*\])?|\\cr(?![a-z])")
_GOES_ON = re.compile(r"=|\\(?:le|ge|approx|iff|[rR]ightarrow)|[<>+-]")  # a row of a calculation


def _is_table(kind: str, rows: list[str]) -> bool:
    """Whether the rows are a table, or a piecewise function, which stay as they are."""
    columns = max((row.count("&") for row in rows), default=0)
    if kind == "array":
        relations = all(re.search(r"[=<>]|\\[lg]e", row) for row in rows)
        return columns > 0 or (len(rows) > 1 and not relations)
    if kind in ("cases", "dcases", "rcases"):
        return columns > 0 and not all(re.search(r"&\s*=|=\s*&", row) for row in rows)
    return False


def _in_one_line(match: re.Match) -> str:
    r"""\begin{aligned} x &= 1 \\ y &= 2 \end{aligned} is "x = 1, y = 2"."""
    rows = [row.strip().rstrip(" ,;.") for row in _ROW_END.split(match[2])]
    rows = [row for row in rows if row]
    if _is_table(match[1], rows):
        return match[0]
    line = ""
    for row in rows:
        row = row.replace("&", " ").strip()
        if line:
            line += " " if _GOES_ON.match(row) else ", "
        line += row
    return f" {line} "


def flat_environments(text: str) -> str:
    r"""\begin{array}{c} 5 \end{array} is 5; matrices stay as they are, also inside of another
    environment."""
    if "\\begin" not in text:
        return text
    matrices: list[str] = []

    def put_aside(match: re.Match) -> str:
        matrices.append(match[0])
        return f"\x00{len(matrices) - 1}\x00"

    text = _MATRIX.sub(put_aside, text.replace("\x00", ""))
    for _ in range(3):  # environments in environments
        text = _ENVIRONMENT.sub(_in_one_line, text)
    return re.sub("\x00(\\d+)\x00", lambda number: matrices[int(number[1])], text)
