"""Where problems come from: `--dataset_name` -> rows of {"id", "problem", "answer"}, and rows ->
prompts.

A name is one of: the built-in `arithmetic`; a key of SOURCES, read from the Hub, or from
DIR/NAME.jsonl under `--data_dir DIR`; a .jsonl, .json, .csv, .tsv or .parquet file; any other Hub
id. A slice may follow: `svamp[:700]`. docs/data.md says what is read, what is skipped with a
warning and what is refused."""

import logging
import math
import os
import re
import zlib
from collections import defaultdict
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from data import arithmetic
from data.tables import (
    FILE_KINDS,
    OTHER_KINDS,
    BadInput,
    Number,
    count_rows,
    decode_json,
    first_line,
    read_file,
    report,
    rows_of,
)

logger = logging.getLogger(__name__)

PROBLEM_COLUMNS = ("problem", "question", "prompt")
ANSWER_COLUMNS = ("answer", "final_answer", "ground_truth", "reward_model", "solution")
# The system prompt of Qwen2.5-Math's evaluation; it goes with a chat template.
SYSTEM_PROMPT = "Please reason step by step, and put your final answer within \\boxed{}."
PROMPT_TEMPLATE = "Problem: {problem}\nSolution:"  # for models without a chat template
# Worked examples for base models (--num_shots), each a problem and its solution.
SHOTS = (
    (
        "Tom has 3 apples and buys 4 more. How many apples has he now?",
        "He has 3 + 4 = 7 apples. \\boxed{7}",
    ),
    (
        "Ann had 12 pens and lost 5. How many pens are left?",
        "There are 12 - 5 = 7 pens left. \\boxed{7}",
    ),
    ("A box holds 6 eggs. How many eggs are in 4 boxes?", "There are 4 * 6 = 24 eggs. \\boxed{24}"),
    ("What is the value of $x$ if $2x + 1 = 9$?", "Then $2x = 8$, so $x = 4$. \\boxed{4}"),
)


class Source(NamedTuple):
    """A data set on the Hub: its id, configuration, split for training and for testing, columns."""

    hub_id: str
    config: str | None = None
    train: str | None = None
    test: str | None = None
    problem: str | None = None
    answer: str | None = None


SOURCES = {
    "math": Source(
        "DigitalLearningGmbH/MATH-lighteval", None, "train", "test", "problem", "solution"
    ),
    "gsm8k": Source("openai/gsm8k", "main", "train", "test", "question", "answer"),
    "svamp": Source("ChilleD/SVAMP", None, "train", "test", "question_concat", "Answer"),
    "math500": Source("HuggingFaceH4/MATH-500", test="test"),
    "aime24": Source("HuggingFaceH4/aime_2024", test="train", answer="answer"),
    "aime25": Source("math-ai/aime25", test="test"),
    "amc": Source("AI-MO/aimo-validation-amc", test="train"),
    "amc23": Source("math-ai/amc23", test="test"),
    "minerva": Source("math-ai/minervamath", test="test"),
    "olympiadbench": Source("math-ai/olympiadbench", test="test", answer="final_answer"),
}


def load_problems(
    name: str,
    split: str = "train",
    data_dir: str | None = None,
    problem_column: str | None = None,
    answer_column: str | None = None,
) -> list[dict[str, str]]:
    """The problems of `name` as rows {"id", "problem", "answer"}; rows that can't be used are named
    and left out.

    Args:
        split: "train" or "test". Under `data_dir`, "train" reads DIR/train_NAME.jsonl where that
            exists.

    Raises:
        BadInput: no such data set, file or column, a file that can't be read, a bad slice, or no
            usable row.
    """
    flag = "--dataset_name" if split == "train" else "--benchmarks"
    whole_name = name
    name, chosen = _split_slice(name, flag)
    skipped: dict[str, list[int]] = {}
    if name == "arithmetic":
        rows = arithmetic.problems(split)
    else:
        source = SOURCES.get(name, Source(name, None, split, split))
        local = [
            Path(data_dir or ".", f"{prefix}{name}.jsonl")
            for prefix in ("train_", "")[split == "test" :]
        ]
        if data_dir and (name in SOURCES or os.path.isfile(local[-1])):
            table = read_file(next((path for path in local if os.path.isfile(path)), local[-1]))
            source = Source(name)
        elif Path(name).suffix.lower() in (*FILE_KINDS, *OTHER_KINDS) or os.path.isfile(name):
            table = read_file(Path(name))
        else:
            table = _read_hub(name, source, split, flag)
        rows, skipped = _normalise(name, table, source, problem_column, answer_column)
    if not rows:
        reasons = "; ".join(
            f"{count_rows(numbers)} {reason}" for reason, numbers in skipped.items()
        )
        raise BadInput(f"{flag} {name}: no problems in it ({reasons or 'it is empty'})")
    if any(abs(bound) > len(rows) for bound in (chosen.start or 0, chosen.stop or 0)):
        logger.warning(
            "%s %s: the slice reaches beyond the %d problems that there are",
            flag,
            whole_name,
            len(rows),
        )
    if not rows[chosen]:
        raise BadInput(f"{flag} {whole_name}: no problems in this slice of {len(rows)} problems")
    return rows[chosen]


def _split_slice(name: str, flag: str) -> tuple[str, slice]:
    """A name and the slice after it. A file of that very name, such as set[1].csv, is no slice."""
    if not name.endswith("]") or "[" not in name or os.path.exists(name):
        return name, slice(None)
    base, _, inside = name[:-1].rpartition("[")
    try:
        bounds = [int(bound) if bound.strip() else None for bound in inside.split(":")]
        if len(bounds) not in (2, 3) or bounds[2:] == [0]:
            raise ValueError
    except ValueError:
        wanted = (
            "must be [start:stop] or [start:stop:step] in rows, such as [:700], [-200:] or [5:6]"
        )
        raise BadInput(f"{flag} {name}: the slice [{inside}] {wanted}") from None
    return base, slice(*bounds)


def file_name(name: str) -> str:
    """A file's name for a data set: the set's own where that is safe, else with a checksum, so that
    two slices of a set, or files of one name in two folders, never share a file.

    >>> file_name("math500"), file_name("gsm8k[:4]"), file_name("gsm8k[4:]")
    ('math500', 'gsm8k_4-8b7eb652', 'gsm8k_4-1f63b6d6')
    """
    safe = short_name(name)
    return safe if safe == name else f"{safe}-{zlib.crc32(os.fsencode(name)):08x}"


def short_name(name: str) -> str:
    """The last part of a data set's name or path, with characters that are safe in a file's name.

    >>> short_name("my data/tiny set.jsonl[:4]")
    'tiny_set.jsonl_4'
    """
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", Path(name).name).strip("_.")[:100] or "data"


# --- Tables and rows ---


def _read_hub(name: str, source: Source, split: str, flag: str) -> dict[int, dict]:
    wanted = source.train if split == "train" else source.test
    if wanted is None:
        raise BadInput(
            f"{flag} {name}: a benchmark without a {split} split; choose another data set"
        )
    import datasets

    try:
        return rows_of(datasets.load_dataset(source.hub_id, source.config, split=wanted))
    except (
        Exception
    ) as error:  # no network, no such id, a gated or a broken repository: all end here
        reason = _innermost(error)
        if "available configs" in reason:
            reason = reason.split(" Example of usage")[0]
            advice = "none can be chosen here, so save the one to use as a .jsonl file"
            raise BadInput(
                f"{flag} {name}: has several configurations ({reason}); {advice}"
            ) from error
        if os.path.isdir(name) or not isinstance(
            error, (OSError, datasets.exceptions.DatasetNotFoundError)
        ):
            raise BadInput(f"{flag} {name}: can't be loaded ({reason})") from error
        known = ", ".join(["arithmetic", *SOURCES])
        raise BadInput(f"{flag} {name}: not found ({reason}). Known names: {known}") from error


def _innermost(error: BaseException) -> str:
    """What an error says; of one that datasets raises for any failure, what the error that it came
    from says."""
    import datasets

    reasons = [error]
    while isinstance(error, datasets.exceptions.DatasetGenerationError) and (
        error.__cause__ or error.__context__
    ):
        error = error.__cause__ or error.__context__
        reasons.append(error)
    said = next(
        (text for one in reversed(reasons) if (text := " ".join(str(one).split()))),
        type(error).__name__,
    )
    return said[:300]


class _Unusable(Exception):
    """A row can't be used; the message, after "rows", says why."""


def _normalise(
    name: str, table: dict[int, dict], source: Source, problem: str | None, answer: str | None
) -> tuple[list[dict], dict[str, list[int]]]:
    """The usable rows of a table, and the numbers of those left out by reason."""
    columns = sorted({str(column) for row in table.values() for column in row})

    def choose(flag: str, given: str | None, candidates: tuple[str, ...]) -> str:
        column = given or next((c for c in candidates if c in columns), None)
        if table and column not in columns:
            wanted = given or "|".join(candidates)
            raise BadInput(f"{name}: no column {wanted} (it has: {', '.join(columns)}); set {flag}")
        return column

    problem = choose("--problem_column", problem or source.problem, PROBLEM_COLUMNS)
    answer = choose("--answer_column", answer or source.answer, ANSWER_COLUMNS)
    rows, skipped = [], defaultdict(list)
    ids, seen, renamed, solutions, systems = set(), set(), [], [], []
    for number, row in table.items():
        try:
            prompt = _conversation(row.get(problem))
            question, gold = _problem_text(prompt), _gold(_answer_text(row.get(answer)))
            if not _is_unicode(question + gold):
                raise _Unusable("not in UTF-8 or not Unicode; save the file as UTF-8")
            own_id = _answer_text(row.get("id")) or f"{name}/{number - 1}"
            if (own_id, question, gold) in seen:
                raise _Unusable("equal to an earlier row with the same id")
        except _Unusable as reason:
            skipped[str(reason)].append(number)
            continue
        seen.add((own_id, question, gold))
        if own_id in ids:  # another problem, so its id gets its row's number
            own_id = f"{own_id}#{number}"
            renamed.append(number)
        ids.add(own_id)
        if _is_prose(gold):
            solutions.append(number)
        if isinstance(prompt, list) and len(prompt) > 1:
            systems.append(number)
        rows.append({"id": own_id, "problem": question, "answer": gold})
    for reason, numbers in skipped.items():
        report(name, numbers, reason)
    report(name, renamed, "with the id of an earlier row: #ROW is added to it", "")
    report(name, systems, "with a system message, which is left out", "")
    advice = "with a text instead of an answer, which hardly any completion will equal; is --answer_column right?"
    report(name, solutions, advice, "")
    return rows, skipped


def _conversation(value):
    """A problem's cell, with a conversation that was saved as text turned back into a list of
    messages."""
    if isinstance(value, str) and re.match(r"\s*\[\s*\{\s*['\"](?:role|content)['\"]", value):
        return decode_json(value) or []  # Python's own form, with single quotes, is not read
    return value


def _problem_text(value) -> str:
    """The problem in a cell: its text, or that of a conversation's one user turn; its system turn
    is left out."""
    if isinstance(value, list):
        turns = [
            turn
            for turn in value
            if not (isinstance(turn, dict) and turn.get("role") in ("system", "developer"))
        ]
        if len(turns) != 1 or not isinstance(turns[0], dict) or turns[0].get("role") != "user":
            raise _Unusable("whose prompt is not one user message (and a system message at most)")
        value = turns[0].get("content")
        parts = value if isinstance(value, list) else []
        if not all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in parts):
            raise _Unusable("whose prompt holds more than text")
        value = "".join(part["text"] for part in parts) if parts else value
    if not isinstance(value, str) or isinstance(value, Number) or not value.strip():
        raise _Unusable("without a problem or an answer")
    return value.strip()


def _answer_text(value) -> str:
    """The answer in a cell as text; "" where there is none, or none that can be read."""
    if isinstance(
        value, dict
    ):  # verl's reward_model; of other objects it is not known what to take
        return _answer_text(value.get("ground_truth"))
    if isinstance(value, list):
        parts = [
            f"[{_answer_text(one)}]" if isinstance(one, list) else _answer_text(one)
            for one in value
        ]
        if len(parts) == 1 and not isinstance(value[0], list):
            return parts[0]
        return ", ".join(parts) if all(parts) else ""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, float) and math.isinf(value):
        return r"\infty" if value > 0 else r"-\infty"
    if isinstance(value, datetime):
        return str(value).removesuffix(" 00:00:00")  # a date
    text = "" if value is None else str(value)
    text = (
        text.replace("\b", r"\b").replace("\f", r"\f").strip()
    )  # "\boxed", "\frac" in JSON with one backslash
    return "" if text.lower() == "nan" else text


def _gold(text: str) -> str:
    r"""The gold answer in an answer's text: what a worked solution boxes, says after GSM8K's "####"
    or as "the answer is", read as from a completion; a text that holds none of these is the answer
    itself.

    >>> _gold(r"so $x = \boxed 3 + 4i$."), _gold("She pays 2 * 600.\n#### 1,200"), _gold("(1,2)")
    ('3 + 4i', '1200', '(1,2)')
    """
    from reward import extract_answer

    text = re.sub(
        r"(?m)^#{1,6} .*\n\s*", "", text
    )  # headings; GSM8K's mark stands in the last line
    answer = extract_answer(_brace_boxes(text))
    if answer is None and re.search(r"\\f?box(?:ed)?(?![a-zA-Z])|####", text):
        raise _Unusable("whose answer can't be read from its box or after ####")
    answer = text if answer is None else answer
    if not answer.strip():
        raise _Unusable("without a problem or an answer")
    if "####" in text and re.fullmatch(
        r"[-+]?\$?\d{1,3}(?:,\d{3})+(?:\.\d+)?", answer
    ):  # thousands
        answer = answer.replace(",", "")
    return answer.strip()


def _brace_boxes(text: str) -> str:
    r"""MATH also writes $\boxed 3 + 4i$: a box without braces, to the end of the formula. Here it
    gets its braces."""
    parts = re.split(r"(\$+)", text)
    for i in range(2, len(parts) - 1, 4):  # the formulas: text, $, formula, $, text, ...
        before, box, content = re.sub(r"\\fbox(?![a-zA-Z])", r"\\boxed", parts[i]).rpartition(
            "\\boxed"
        )
        if box and content.strip() and not re.match(r"\s*\{|[a-zA-Z]", content):
            parts[i] = f"{before}\\boxed{{{content.strip().rstrip('.,;')}}}"
    return "".join(parts)


def _is_prose(gold: str) -> bool:
    """Whether a gold answer is more text than answer, such as a worked solution in which no answer
    was found."""
    text = re.sub(r"\\(?:begin|end)\s*\{\w*\}|\\[a-zA-Z]+", "", gold)  # without LaTeX's own words
    words, letters = re.findall(r"[a-zA-Z]{2,}", text), re.sub(r"[\W\d_]", "", text)
    return (
        len(words) >= 4 or len(letters) > 30 or (len(words) >= 2 and gold.endswith((".", "!", "?")))
    )


def _is_unicode(text: str) -> bool:
    """Whether a text holds no lone surrogate, which no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


# --- Prompts ---

PLACEHOLDER = (
    "THE TEXT GOES HERE"  # stands for a problem, or an answer, while a chat template is rendered
)


def template_for(name: str, template: str | None) -> str | None:
    r"""The prompt template that goes with a data set: the one given, in which \n stands for a line
    break unless it begins a LaTeX command such as \ne, or the built-in task's own."""
    if template and "{problem}" not in template:
        raise BadInput("--prompt_template: must hold {problem}, the place where the problem goes")
    if template and not _is_unicode(template):
        raise BadInput("--prompt_template: not valid Unicode")
    if template:
        return re.sub(r"\\n(?!(?:eq?|u|abla|ot|otin)\b)", "\n", template)
    return arithmetic.PROMPT_TEMPLATE if name.split("[")[0] == "arithmetic" else None


def encode_prompt(
    tokenizer, problem: str, template: str | None = None, num_shots: int = 0
) -> list[int]:
    """The token ids of the prompt for one problem.

    Without a template, a tokenizer's chat template is used, as in Qwen2.5-Math's evaluation; a
    template is plain text that holds {problem}. Shots are worked examples in the same form before
    it. What the tokenizer puts before a plain text stays; what it appends, such as an end token,
    goes. The text of a special token in a problem stays text.

    Raises:
        BadInput: a chat template that can't be used.
    """
    if tokenizer.chat_template and not template:
        text = _chat_text(tokenizer, problem, num_shots)
        if not _holds_special_token(tokenizer, problem):
            return tokenizer.encode(text, add_special_tokens=False)
        pieces = _chat_text(tokenizer, PLACEHOLDER, num_shots).split(PLACEHOLDER)
        return _encode_around(tokenizer, pieces, problem)
    template = template or PROMPT_TEMPLATE
    shots = "".join(
        template.replace("{problem}", q) + f" {solution}\n\n" for q, solution in SHOTS[:num_shots]
    )
    pieces = (shots + template).split("{problem}")
    if _holds_special_token(tokenizer, problem):
        ids = _encode_around(tokenizer, pieces, problem)
    else:
        ids = tokenizer.encode(problem.join(pieces), add_special_tokens=False)
    return _tokens_before(tokenizer, ids) + ids


def _holds_special_token(tokenizer, text: str) -> bool:
    """Whether a text that nobody checked would be read as special tokens, such as an end of
    turn."""
    as_text = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
    return tokenizer.encode(text, add_special_tokens=False) != as_text


def _encode_around(tokenizer, pieces: list[str], problem: str) -> list[int]:
    """The ids of the pieces with the problem between them; special tokens are read in the pieces
    alone."""
    as_text = tokenizer.encode(problem, add_special_tokens=False, split_special_tokens=True)
    ids = tokenizer.encode(pieces[0], add_special_tokens=False)
    for piece in pieces[1:]:
        ids += as_text + tokenizer.encode(piece, add_special_tokens=False)
    return ids


def _tokens_before(tokenizer, ids: list[int]) -> list[int]:
    """What the tokenizer puts before a text, often a token for the beginning, unless `ids` begin
    with it already."""
    text = tokenizer.encode("1", add_special_tokens=False)
    whole = tokenizer.encode("1")
    starts = [i for i in range(len(whole)) if whole[i : i + len(text)] == text]
    before = whole[: starts[0]] if starts else []
    return [] if ids[: len(before)] == before else before


def _chat_text(tokenizer, problem: str, num_shots: int) -> str:
    """The conversation up to the model's turn, as the tokenizer's chat template writes it.

    Templates differ: some have no system role, so that its text goes before the first problem; some
    read contents as lists of parts. The first form is taken whose every text appears in what the
    template writes."""
    if isinstance(tokenizer.chat_template, dict) and "default" not in tokenizer.chat_template:
        names = ", ".join(tokenizer.chat_template)
        raise BadInput(
            f"the tokenizer has several chat templates ({names}), none of them named default; "
            "give a plain --prompt_template, or name one default in its files"
        )
    user = [question for question, _ in SHOTS[:num_shots]] + [problem]
    replies = [solution for _, solution in SHOTS[:num_shots]]
    reason = "it leaves out the problem, the system message or the worked examples"
    for merged in (False, True):
        for as_parts in (False, True):
            texts = [f"{SYSTEM_PROMPT}\n\n{user[0]}", *user[1:]] if merged else user
            turns = [("system", SYSTEM_PROMPT)] * (not merged)
            for question, reply in zip(texts, [*replies, None]):
                turns += [("user", question)] + [("assistant", reply)] * (reply is not None)
            try:
                text = _render(tokenizer, turns, as_parts)
            except (
                Exception
            ) as error:  # a template is a program of its own, which may raise anything
                reason = first_line(error)
                continue
            if all(content.strip() in text for _, content in turns):
                return text
    raise BadInput(
        f"the tokenizer's chat template can't be used ({reason}); give a plain --prompt_template instead"
    )


def _render(tokenizer, turns: list[tuple[str, str]], as_parts: bool) -> str:
    """The turns as text, up to where the model's turn begins."""

    def messages(turns):
        return [
            {"role": role, "content": [{"type": "text", "text": content}] if as_parts else content}
            for role, content in turns
        ]

    text, closed = (
        tokenizer.apply_chat_template(messages(turns), tokenize=False, add_generation_prompt=asked)
        for asked in (True, False)
    )
    if (
        text == closed
    ):  # no words of its own that open the model's turn: what stands before an answer opens it
        try:
            turns = [*turns, ("assistant", PLACEHOLDER)]
            answered = (
                tokenizer.apply_chat_template(messages(turns), tokenize=False)
                .split(PLACEHOLDER)[0]
                .rstrip(" ")
            )
        except Exception:  # the template takes no answer
            answered = ""
        text = answered if answered.startswith(text) else text
    return text


def completion_text(
    tokenizer, ids: list[int], template: str | None = None, num_shots: int = 0
) -> str:
    """The text of a completion; after shots it ends where a base model goes on to invent a next
    problem.

    Tokens that begin, end or pad a text go. Other special tokens stay, since <think> may be one,
    but for a last one, with which a turn ended."""
    outside = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
    kept = [i for i in ids if i not in outside]
    last = tokenizer.decode(kept[-1:])
    special = last != tokenizer.decode(kept[-1:], skip_special_tokens=True)
    if special and "think" not in last.lower():
        kept.pop()
    text = tokenizer.decode(kept)
    if num_shots and (template or not tokenizer.chat_template):
        text = text.split("\n\n" + (template or PROMPT_TEMPLATE).split("{problem}")[0].strip())[0]
    return text
