"""A data set's name -> its task and its rows. `--dataset_name` and `--benchmarks` take such names.

A name is one of: a built-in task, such as `arithmetic`; a known data set of mathematics, read from
the Hub, or from DIR/NAME.jsonl under `--data_dir DIR`; a .jsonl, .json, .csv, .tsv or .parquet
file; any other Hub id. A slice may follow: `svamp[:700]`. docs/data.md says what is read, what is
skipped with a warning and what is refused.
"""

import logging
import os
import re
import zlib
from pathlib import Path
from types import ModuleType

from data import arithmetic, mathematics
from data.mathematics import SHOTS, SOURCES, SYSTEM_PROMPT
from data.prompts import completion_text, encode_prompt, encode_row
from data.rows import SHOWN_COLUMNS
from run.errors import BadInput

__all__ = [
    "SHOTS",
    "SHOWN_COLUMNS",
    "SOURCES",
    "SYSTEM_PROMPT",
    "BadInput",
    "completion_text",
    "encode_prompt",
    "encode_row",
    "file_name",
    "load_problems",
    "score_of",
    "short_name",
    "task_of",
    "template_for",
]

logger = logging.getLogger(__name__)

# Tasks that have problems of their own. Any other name is a data set of mathematics.
TASKS: dict[str, ModuleType] = {"arithmetic": arithmetic}


def task_of(name: str) -> ModuleType:
    """The task of a data set: a module with `problems`, `prompt`, `score` and `answer`.

    >>> task_of("arithmetic[:5]").__name__, task_of("gsm8k").__name__
    ('data.arithmetic', 'data.mathematics')
    """
    base = name.rpartition("[")[0] if name.endswith("]") else name
    return TASKS.get(base, mathematics)


def score_of(task: ModuleType) -> str:
    """The task's score as a Grader takes it. Tasks that share a score have one name for it.

    >>> score_of(arithmetic)
    'data.mathematics:score'
    """
    return f"{task.score.__module__}:{task.score.__qualname__}"


def load_problems(
    name: str,
    split: str = "train",
    data_dir: str | None = None,
    problem_column: str | None = None,
    answer_column: str | None = None,
) -> list[dict]:
    """The problems of `name` as rows: id, problem, answer, and whatever else its data set holds.
    Rows that can't be used are named and left out.

    Args:
        split: "train" or "test". Under `data_dir`, "train" reads DIR/train_NAME.jsonl where that
            exists.

    Raises:
        BadInput: no such data set, file or column, a file that can't be read, a bad slice, or no
            usable row.
    """
    # For messages: the flag by which the user named it.
    flag = "--dataset_name" if split == "train" else "--benchmarks"
    set_name, wanted = _split_slice(name, flag)
    task = task_of(set_name)
    if task is mathematics:
        try:
            rows = mathematics.problems(split, set_name, data_dir, problem_column, answer_column)
        except mathematics.UnknownName as error:
            known = ", ".join([*TASKS, *SOURCES])
            raise BadInput(f"{error}. Known names: {known}") from error
    else:
        rows = task.problems(split)

    # A slice means what it means in Python, but an empty one is no data set.
    bounds = (wanted.start or 0, wanted.stop or 0)
    if any(abs(bound) > len(rows) for bound in bounds):
        message = "%s %s: the slice reaches beyond the %d problems that there are"
        logger.warning(message, flag, name, len(rows))
    if not rows[wanted]:
        raise BadInput(f"{flag} {name}: no problems in this slice of {len(rows)} problems")
    return rows[wanted]


def _split_slice(name: str, flag: str) -> tuple[str, slice]:
    """A name and the slice after it. A file of that very name, such as set[1].csv, is no slice."""
    if not name.endswith("]") or "[" not in name or os.path.exists(name):
        return name, slice(None)
    base, _, inside = name[:-1].rpartition("[")
    # Two bounds or three, each a number or empty; a step of 0 is none.
    try:
        bounds = [int(bound) if bound.strip() else None for bound in inside.split(":")]
        if len(bounds) not in (2, 3) or bounds[2:] == [0]:
            raise ValueError
    except ValueError:
        examples = "[:700], [-200:] or [5:6]"
        advice = f"must be [start:stop] or [start:stop:step] in rows, such as {examples}"
        raise BadInput(f"{flag} {name}: the slice [{inside}] {advice}") from None
    return base, slice(*bounds)


def template_for(name: str, template: str | None) -> str | None:
    r"""The prompt template that goes with a data set: the one given, in which \n stands for a line
    break unless it begins a LaTeX command such as \ne, or the built-in task's own.

    Raises:
        BadInput: a template without {problem}, or one that is not Unicode.
    """
    if not template:
        return arithmetic.PROMPT_TEMPLATE if task_of(name) is arithmetic else None
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
