"""A table -> rows that can be trained on: which column is which, what a cell says, the gold answer.

Every row keeps its other columns as plain values, so that a score can read them. Rows that can't be
used are named and left out.
"""

import math
import re
from collections import defaultdict
from datetime import datetime

from answers.extract import extract_answer
from data.choices import gold_letter, read_choices, with_choices
from data.messages import Unusable, read_conversation, read_messages
from data.tables import Number, report
from run.errors import BadInput

PROBLEM_COLUMNS = ("problem", "question", "prompt", "messages")
ANSWER_COLUMNS = (
    "answer",
    "final_answer",
    "ground_truth",
    "reward_model",
    "solution",
    "answerKey",  # of multiple choice
)
# The columns of a row that trees.jsonl and eval/*.jsonl show. Others may be large.
SHOWN_COLUMNS = ("id", "problem", "answer")

# What is said about rows that are used all the same.
_RENAMED = "with the id of an earlier row: #ROW is added to it"
_SYSTEM = r"with a system message that does not ask for \boxed{}; it takes the place of the suite's"
_PROSE = (
    "with a text instead of an answer, which hardly any completion will equal; "
    "is --answer_column right?"
)
_NO_CHOICE = (
    "whose answer is none of their choices, which are left out (a number counts them from 0)"
)
_REMARKS = (_RENAMED, _SYSTEM, _PROSE, _NO_CHOICE)


def usable_rows(
    name: str,
    table: dict[int, dict],
    problem_column: str | None,
    answer_column: str | None,
    needs_answer: bool = True,
) -> tuple[list[dict], dict[str, list[int]]]:
    """The usable rows of a table, and the numbers of those left out by reason.

    Args:
        name: of the data set, for ids and messages.
        problem_column: where the problem is; None looks for one of PROBLEM_COLUMNS.
        answer_column: where the answer is; None looks for one of ANSWER_COLUMNS.
        needs_answer: if False, a row without an answer that can be read is used with the answer
            None, and the column may be missing unless it is named.

    Raises:
        BadInput: there is no such column.
    """
    problem_column = _find_column(
        name, table, "--problem_column", problem_column or PROBLEM_COLUMNS
    )
    is_wanted = needs_answer or answer_column is not None
    answer_column = _find_column(
        name, table, "--answer_column", answer_column or ANSWER_COLUMNS, is_wanted
    )

    rows: list[dict] = []
    # The numbers of rows, by what is to be said about them.
    skipped: dict[str, list[int]] = defaultdict(list)
    remarks: dict[str, list[int]] = defaultdict(list)
    ids: set[str] = set()
    seen: set[tuple[str, str, str | None]] = set()
    for number, cells in table.items():
        # Leave out what can't be used, and what is in the table twice.
        try:
            row, about_row = _read_row(cells, problem_column, answer_column, needs_answer)
            row["id"] = row["id"] or f"{name}/{number - 1}"
            content = (row["id"], row["problem"], row["answer"])
            if content in seen:
                raise Unusable("equal to an earlier row with the same id")
        except Unusable as reason:
            skipped[str(reason)].append(number)
            continue
        seen.add(content)

        # Another problem under an id that is taken: its id gets its row's number.
        if row["id"] in ids:
            row["id"] = f"{row['id']}#{number}"
            remarks[_RENAMED].append(number)
        ids.add(row["id"])

        # These rows are used, and named.
        for remark in about_row:
            remarks[remark].append(number)
        rows.append(row)

    # One warning for each reason.
    for reason, numbers in skipped.items():
        report(name, numbers, reason)
    for remark in _REMARKS:
        report(name, remarks[remark], remark, done="")
    return rows, skipped


def _find_column(
    name: str,
    table: dict[int, dict],
    flag: str,
    candidates: str | tuple[str, ...],
    is_wanted: bool = True,
) -> str:
    """The first of the candidates that is a column of the table; a text is the only candidate. One
    that is not wanted may be missing."""
    if isinstance(candidates, str):
        candidates = (candidates,)
    # Rows of a .jsonl file may differ in their columns.
    columns = sorted({str(column) for row in table.values() for column in row})
    for candidate in candidates:
        if candidate in columns or not table:
            return candidate
    if not is_wanted:
        return candidates[0]
    wanted = "|".join(candidates)
    raise BadInput(f"{name}: no column {wanted} (it has: {', '.join(columns)}); set {flag}")


def _read_row(
    cells: dict, problem_column: str, answer_column: str, needs_answer: bool
) -> tuple[dict, list[str]]:
    """A row with its id ("" where it has none), problem and gold answer, its conversation or its
    choices where it has any, and its other columns; and what is to be said about it."""
    messages = _read_problem(cells.get(problem_column))
    if len(messages) > 1 and cells.get("tools"):
        raise Unusable("whose prompt has tools")
    answer = _read_answer(cells.get(answer_column), needs_answer)
    remarks = []
    choices = read_choices(cells)
    if choices and answer is not None:
        # The answer of multiple choice is a letter.
        is_number = isinstance(cells[answer_column], (int, Number))
        letter = gold_letter(answer, is_number, choices)
        if letter is None:
            choices = None
            remarks.append(_NO_CHOICE)
        answer = letter or answer
    if choices:
        # The question shows what the letters stand for.
        question = with_choices(messages[-1]["content"], choices)
        messages[-1] = {"role": "user", "content": question}

    remarks += _remarks_on(messages, answer)
    texts = [message["content"] for message in messages]
    if not _is_unicode("".join([*texts, answer or ""])):
        raise Unusable("not in UTF-8 or not Unicode; save the file as UTF-8")
    row_id = _as_unicode(_answer_text(cells.get("id")))
    row = {"id": row_id, "problem": messages[-1]["content"], "answer": answer}
    if len(messages) > 1:
        row["messages"] = messages
    if choices:
        row["choices"] = {key: _as_unicode(text) for key, text in choices.by_letter.items()}
    # The other columns. Those that are read above stay as they were read, and these two names are
    # for what was read alone.
    for column, value in cells.items():
        if column not in ("messages", "choices"):
            row.setdefault(_as_unicode(str(column)), plain_value(value))
    return row, remarks


def _read_answer(value, needs_answer: bool) -> str | None:
    """The gold answer in an answer's cell; None where there is none and none is needed."""
    try:
        return gold_answer(_answer_text(value))
    except Unusable:
        if needs_answer:
            raise
        return None


def _remarks_on(messages: list[dict[str, str]], answer: str | None) -> list[str]:
    """What is to be said about a row that is used all the same."""
    remarks = []
    first = messages[0]
    if first["role"] == "system" and "boxed" not in first["content"]:
        remarks.append(_SYSTEM)
    if answer is not None and is_prose(answer):
        remarks.append(_PROSE)
    return remarks


# --- Cells ---


def plain_value(value, depth: int = 0):
    """A cell as what JSON and every process can hold: text, numbers, True, False, None, lists and
    dicts of these.

    Numbers of JSON files become numbers again. Dates and other objects become their text. NaN is
    None, and so are bytes that are no text (images, sounds) and what lies deeper than 50 levels.

    >>> plain_value({"year": Number("1999"), "tags": [b"new", None], "score": float("nan")})
    {'year': 1999, 'tags': ['new', None], 'score': None}
    """
    if depth > 50:
        return None
    if value is None or isinstance(value, (bool, int)):
        return value
    # Number is text too, so it comes before the text at the end.
    if isinstance(value, Number):
        return _plain_number(value)
    if isinstance(value, float):
        return _plain_float(value)
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return None
    if isinstance(value, dict):
        return {_as_unicode(str(key)): plain_value(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_value(item, depth + 1) for item in value]
    return _as_unicode(str(value))


def _plain_number(text: Number) -> int | float | str:
    """A number as it is written in a JSON file; one that Python can't hold stays text."""
    try:
        return int(text)
    except ValueError:
        number = _float_or_infinity(text)
    return number if math.isfinite(number) else str(text)


def _float_or_infinity(text: str) -> float:
    """The value of a number's text. An integer of thousands of digits counts as infinite."""
    return math.inf if text.lstrip("-").isdigit() else float(text)


def _plain_float(value: float) -> float | str | None:
    if math.isnan(value):
        return None
    if math.isinf(value):
        return _infinity(value)
    return value


def _infinity(value: float) -> str:
    return r"\infty" if value > 0 else r"-\infty"


def _is_unicode(text: str) -> bool:
    """Whether a text holds no lone surrogate, which no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _as_unicode(text: str) -> str:
    """The text with "?" for each lone surrogate."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _read_problem(value) -> list[dict[str, str]]:
    """The messages of a problem's cell; a text is one message of the user's."""
    messages = read_messages(value)
    if messages or isinstance(value, list):
        return read_conversation(messages)
    if not isinstance(value, str) or isinstance(value, Number) or not value.strip():
        raise Unusable("without a problem or an answer")
    return [{"role": "user", "content": value.strip()}]


def _answer_text(value) -> str:
    """The answer in a cell as text; "" where there is none, or none that can be read."""
    if isinstance(value, dict):
        # The reward_model column of verl. Of other objects it is not known what to take.
        return _answer_text(value.get("ground_truth"))
    if isinstance(value, list):
        return _joined_answers(value)
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, float) and math.isinf(value):
        return _infinity(value)
    if isinstance(value, datetime):
        # A time of midnight stands for a date.
        return str(value).removesuffix(" 00:00:00")
    text = "" if value is None else str(value)
    # "\boxed" and "\frac" in JSON with one backslash where there should be two.
    text = text.replace("\b", r"\b").replace("\f", r"\f").strip()
    return "" if text.lower() == "nan" else text


def _joined_answers(values: list) -> str:
    """The answers of a list with commas between them; a single one is taken out of its list."""
    if len(values) == 1 and not isinstance(values[0], list):
        return _answer_text(values[0])
    parts = []
    for value in values:
        text = _answer_text(value)
        parts.append(f"[{text}]" if isinstance(value, list) else text)
    return ", ".join(parts) if all(parts) else ""


# --- Gold answers ---


def gold_answer(text: str) -> str:
    r"""The gold answer in an answer's text: what a worked solution boxes, says after GSM8K's "####"
    or as "the answer is", read as from a completion; a text that holds none of these is the answer
    itself.

    >>> gold_answer(r"so $x = \boxed 3 + 4i$."), gold_answer("She pays 2 * 600.\n#### 1,200")
    ('3 + 4i', '1200')
    >>> gold_answer("(1,2)")
    '(1,2)'
    """
    # Headings go; GSM8K's mark stays, since it stands in the last line.
    text = re.sub(r"(?m)^#{1,6} .*\n\s*", "", text)
    answer = extract_answer(_brace_boxes(text))

    # A text that marks no answer is the answer; one that marks an answer badly is unusable.
    if answer is None:
        if re.search(r"\\f?box(?:ed)?(?![a-zA-Z])|####", text):
            raise Unusable("whose answer can't be read from its box or after ####")
        answer = text
    answer = answer.strip()
    if not answer:
        raise Unusable("without a problem or an answer")

    # GSM8K writes thousands as 1,200.
    if "####" in text and re.fullmatch(r"[-+]?\$?\d{1,3}(?:,\d{3})+(?:\.\d+)?", answer):
        answer = answer.replace(",", "")
    return answer


def _brace_boxes(text: str) -> str:
    r"""The text with braces for boxes that have none: MATH also writes $\boxed 3 + 4i$, a box to
    the end of the formula."""
    # The formulas are at 2, 6, 10, ...: text, $, formula, $, text, $, formula, ...
    parts = re.split(r"(\$+)", text)
    for i in range(2, len(parts) - 1, 4):
        formula = re.sub(r"\\fbox(?![a-zA-Z])", r"\\boxed", parts[i])
        before, box, content = formula.rpartition("\\boxed")
        has_braces = re.match(r"\s*\{|[a-zA-Z]", content)
        if box and content.strip() and not has_braces:
            parts[i] = f"{before}\\boxed{{{content.strip().rstrip('.,;')}}}"
    return "".join(parts)


def is_prose(answer: str) -> bool:
    """Whether a gold answer is more text than answer, such as a worked solution in which no answer
    was found."""
    # LaTeX's own words are no prose.
    text = re.sub(r"\\(?:begin|end)\s*\{\w*\}|\\[a-zA-Z]+", "", answer)
    # Words are Latin; letters are those of any script, such as Chinese without spaces.
    words = re.findall(r"[a-zA-Z]{2,}", text)
    letters = re.sub(r"[\W\d_]", "", text)
    is_sentence = len(words) >= 2 and answer.endswith((".", "!", "?"))
    return len(words) >= 4 or len(letters) > 30 or is_sentence
