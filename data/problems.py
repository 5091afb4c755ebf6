"""A data set's name -> its task and its rows. `--dataset_name` and `--benchmarks` take such names.

A name is one of: a built-in task, such as `arithmetic`, with a level of difficulty after a colon
where it has levels, such as `countdown:5`; a Python file that is a task; a known data set of
mathematics, read from the Hub, or from DIR/NAME.jsonl under `--data_dir DIR`; a .jsonl, .json,
.csv, .tsv or .parquet file; any other Hub id. A slice may follow: `svamp[:700]`. docs/data.md says
what is read, what is skipped with a warning and what is refused, docs/tasks.md how to add a task.
"""

import difflib
import functools
import json
import logging
import os
import re
import sys
import zlib
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from data import arithmetic, chain, countdown, exam, mathematics, maze, reasoning_gym, sudoku4
from data.mathematics import SHOTS, SOURCES, SYSTEM_PROMPT
from data.prompts import completion_text, encode_prompt, encode_row
from data.rows import SHOWN_COLUMNS
from data.tiny_bases import TINY_BASES
from run.errors import BadInput, first_line
from run.reading import DEFAULT_READING, Reading
from run.workers import load_file

__all__ = [
    "SHOTS",
    "SHOWN_COLUMNS",
    "SOURCES",
    "SYSTEM_PROMPT",
    "BadInput",
    "answer_of",
    "benchmark_for",
    "completion_text",
    "encode_prompt",
    "encode_row",
    "file_name",
    "load_problems",
    "score_of",
    "short_name",
    "split_name",
    "task_of",
    "template_for",
    "tiny_base_of",
]

logger = logging.getLogger(__name__)

# Tasks that have problems of their own. Any other name is a data set of mathematics.
TASKS: dict[str, ModuleType] = {
    "arithmetic": arithmetic,
    "countdown": countdown,
    "sudoku4": sudoku4,
    "maze": maze,
    "chain": chain,
    "exam": exam,
    "reasoning_gym": reasoning_gym,
}


# What a task is made of.
TASK_FUNCTIONS = ("problems", "prompt", "score", "answer")


# --- Names ---


class SetName(NamedTuple):
    """What the name of a data set consists of."""

    base: str  # of a task, a file or a data set
    level: str | None  # the text after the colon
    rows: slice


def split_name(name: str, flag: str = "--dataset_name") -> SetName:
    """The parts of a name. A file of that very name, such as set[1].csv, has no slice.

    Args:
        flag: for messages.

    Raises:
        BadInput: what is in brackets is no slice.

    >>> split_name("countdown:5[:700]")
    SetName(base='countdown', level='5', rows=slice(None, 700, None))
    >>> split_name("c:/set.csv").base
    'c:/set.csv'
    """
    rows = slice(None)
    if name.endswith("]") and "[" in name and not os.path.exists(name):
        name, _, inside = name[:-1].rpartition("[")
        rows = _read_slice(inside, f"{flag} {name}[{inside}]")
    base, colon, level = name.partition(":")
    is_task = base in TASKS or base.endswith(".py")
    if colon and is_task:
        return SetName(base, level, rows)
    return SetName(name, None, rows)


def _read_slice(inside: str, where: str) -> slice:
    """The slice that is written in brackets."""
    # Two bounds or three, each a number or empty; a step of 0 is none.
    try:
        bounds = [int(bound) if bound.strip() else None for bound in inside.split(":")]
        if len(bounds) not in (2, 3) or bounds[2:] == [0]:
            raise ValueError
    except ValueError:
        examples = "[:700], [-200:] or [5:6]"
        advice = f"must be [start:stop] or [start:stop:step] in rows, such as {examples}"
        raise BadInput(f"{where}: the slice [{inside}] {advice}") from None
    return slice(*bounds)


def task_of(name: str) -> ModuleType:
    """The task of a data set: a module with `problems`, `prompt`, `score` and `answer`.

    Raises:
        BadInput: a Python file that is no task.

    >>> task_of("arithmetic[:5]").__name__, task_of("gsm8k").__name__
    ('data.arithmetic', 'data.mathematics')
    """
    base = split_name(name).base
    if base.endswith(".py"):
        return _task_of_file(os.path.abspath(base))
    return TASKS.get(base, mathematics)


def _task_of_file(path: str) -> ModuleType:
    """The task in a Python file. Its module's name is its path, by which a worker finds it too."""
    if not os.path.isfile(path):
        raise BadInput(f"{path}: there is no such file")
    try:
        task = load_file(path)
    except Exception as error:
        # It is a program of the user's, which may raise anything.
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise BadInput(f"{path}: can't be imported ({reason})") from error
    for function in TASK_FUNCTIONS:
        if not callable(getattr(task, function, None)):
            # Once it is mended, it is read anew.
            del sys.modules[path]
            wanted = ", ".join(TASK_FUNCTIONS)
            raise BadInput(f"{path}: has no function {function}; a task has {wanted}")
    return task


def score_of(task: ModuleType) -> str:
    """The task's score as a Grader takes it. Tasks that share a score have one name for it.

    >>> score_of(arithmetic)
    'data.mathematics:score'
    """
    return f"{task.score.__module__}:{task.score.__qualname__}"


# Tasks whose `answer` has raised an error.
_WARNED_TASKS: set[str] = set()


def answer_of(task: ModuleType, completion: str) -> str | None:
    """What a completion answers, as a text, to be shown and counted in a vote. None where it
    answers nothing, or the task can't say: its `answer` may meet any text."""
    try:
        answer = task.answer(completion)
    except Exception as error:
        if task.__name__ not in _WARNED_TASKS:
            _WARNED_TASKS.add(task.__name__)
            reason = f"{type(error).__name__}: {first_line(error)}"
            message = "%s: answer raised %s; such completions count as without an answer"
            logger.warning(message, task.__name__, reason)
        return None
    return None if answer is None else str(answer)


def tiny_base_of(name: str) -> str:
    """The folder of the tiny base that goes with a data set: the task's own, or arithmetic's.

    >>> Path(tiny_base_of("maze[:20]")).name, Path(tiny_base_of("gsm8k")).name
    ('tiny_maze', 'tiny_base')
    """
    data_set = split_name(name)
    # Of reasoning-gym's tasks, one has a base.
    for task in (data_set.base, f"{data_set.base}:{data_set.level}"):
        if task in TINY_BASES:
            return str(TINY_BASES[task])
    return str(TINY_BASES["arithmetic"])


# The most problems of a task's test split that evaluations take by default.
DEFAULT_TEST_PROBLEMS = 500


def benchmark_for(name: str, data_dir: str | None = None) -> str:
    """What training on a data set is evaluated on where nothing else is asked for: its test split,
    at the same level, of a task at most 500 problems. Where there is no test split, which is so for
    a file, it is what is trained on.

    >>> benchmark_for("arithmetic[:2000]"), benchmark_for("svamp"), benchmark_for("my.csv[:90]")
    ('arithmetic[:500]', 'svamp', 'my.csv[:90]')
    """
    base, level, _ = split_name(name)
    task = task_of(name)
    if task is mathematics:
        return base if mathematics.has_test_split(base, data_dir) else name
    test_split = base if level is None else f"{base}:{level}"
    is_long = _test_size(test_split) > DEFAULT_TEST_PROBLEMS
    return f"{test_split}[:{DEFAULT_TEST_PROBLEMS}]" if is_long else test_split


@functools.cache
def _test_size(name: str) -> int:
    """How many problems a task's test split has; 0 where they can't be loaded, which is said where
    they are."""
    try:
        return len(load_problems(name, "test"))
    except BadInput:
        return 0


# --- Rows ---


def load_problems(
    name: str,
    split: str = "train",
    data_dir: str | None = None,
    problem_column: str | None = None,
    answer_column: str | None = None,
    reading: Reading = DEFAULT_READING,
    needs_answer: bool = True,
) -> list[dict]:
    """The problems of `name` as rows: id, problem, answer, and whatever else its data set holds.
    Rows that can't be used are named and left out.

    Args:
        split: "train" or "test". Under `data_dir`, "train" reads DIR/train_NAME.jsonl where that
            exists.
        reading: configuration and split of a Hub id or folder, and partial credit.
        needs_answer: False where the score is none that compares with a gold answer: rows without
            one are used too, with the answer None.

    Raises:
        BadInput: no such data set, file or column, a file that can't be read, a bad slice, or no
            usable row.
    """
    # For messages: the flag by which the user named it.
    flag = "--dataset_name" if split == "train" else "--benchmarks"
    base, level, wanted = split_name(name, flag)
    task = task_of(name)
    if task is mathematics:
        try:
            columns = (problem_column, answer_column)
            rows = mathematics.problems(split, base, data_dir, *columns, reading, needs_answer)
        except mathematics.UnknownName as error:
            known = [*TASKS, *SOURCES]
            close = difflib.get_close_matches(base.partition(":")[0], known, 1)
            advice = ""
            if base in known:
                # The Hub could not give it.
                advice = f" --data_dir DIR reads it from DIR/{base}.jsonl."
            elif close:
                advice = f" Did you mean {close[0]}?"
            raise BadInput(f"{error}.{advice} Known names: {', '.join(known)}") from error
    else:
        mathematics.refuse_choice(base, split, reading)
        if level is not None and not hasattr(task, "LEVELS"):
            raise BadInput(f"{flag} {name}: {base} has no levels; leave :{level} out")
        rows = _rows_of_task(task, split, level)
    if reading.partial_credit and task is reasoning_gym:
        rows = [{**row, "partial_credit": True} for row in rows]
    elif reading.partial_credit and split == "train":
        raise BadInput(f"--partial_credit: {base} gives none; the tasks of reasoning_gym do")

    # A slice means what it means in Python, but an empty one is no data set.
    bounds = (wanted.start or 0, wanted.stop or 0)
    if any(abs(bound) > len(rows) for bound in bounds):
        message = "%s %s: the slice reaches beyond the %d problems that there are"
        logger.warning(message, flag, name, len(rows))
    if not rows:
        raise BadInput(f"{flag} {name}: has no {split} problems")
    if not rows[wanted]:
        raise BadInput(f"{flag} {name}: no problems in this slice of {len(rows)} problems")
    return rows[wanted]


def _rows_of_task(task: ModuleType, split: str, level: str | None) -> list[dict]:
    """The rows of a task with problems of its own; of a file of the user's, once they are checked.
    There, an id and an answer may be missing.

    Raises:
        BadInput: the file's task fails, or its rows can't be used.
    """
    arguments = (split,) if level is None else (split, level)
    path = task.__name__
    if not path.endswith(".py"):
        return task.problems(*arguments)
    call = f"problems({', '.join(map(repr, arguments))})"
    try:
        rows = task.problems(*arguments)
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from error
    except Exception as error:
        # It is a program of the user's, which may raise anything.
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise BadInput(f"{path}: {call} failed ({reason})") from error
    if not isinstance(rows, list):
        raise BadInput(f"{path}: {call} must return a list of rows, not {type(rows).__name__}")

    name = Path(path).stem
    usable = []
    for i, row in enumerate(rows):
        if not isinstance(row, dict) or not isinstance(row.get("problem"), str):
            reason = "must be a dict with a text under problem"
            raise BadInput(f"{path}: row {i} of {call} {reason}, not {row!r:.80}")
        row = {"id": f"{name}/{split}/{i}", "answer": None, **row}
        # Rows reach the workers as JSON.
        try:
            json.dumps(row)
        except (TypeError, ValueError) as error:
            advice = "a row holds text, numbers, True, False, None, lists and dicts of these"
            raise BadInput(f"{path}: row {i} of {call}: {first_line(error)}; {advice}") from error
        usable.append(row)
    return usable


def template_for(template: str | None, tokenizer) -> str | None:
    r"""The prompt template: the one given, in which \n stands for a line break unless it begins a
    LaTeX command such as \ne; or the one that a tokenizer without a chat template brings
    (`prompt_template` in its tokenizer_config.json), as those of the tiny bases do; or None, where
    the task asks by itself.

    Raises:
        BadInput: a template without {problem}, or one that is not Unicode.
    """
    if not template:
        own = tokenizer.init_kwargs.get("prompt_template")
        return None if tokenizer.chat_template else own
    if "{problem}" not in template:
        raise BadInput("--prompt_template: must hold {problem}, the place where the problem goes")
    try:
        template.encode()
    except UnicodeEncodeError:
        raise BadInput("--prompt_template: not valid Unicode") from None
    # Not \ne, \neq, \nu, \nabla, \not or \notin.
    return re.sub(r"\\n(?!(?:eq?|u|abla|ot|otin)\b)", "\n", template)


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
