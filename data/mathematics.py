"""The task of mathematics: every named data set, file or Hub id, with an answer that a verifier can
check.

A task is four functions in a module: `problems`, `prompt`, `score` and `answer`. docs/data.md says
what each must do.
"""

# Not called math.py: `python data/SCRIPT.py` puts this folder first on sys.path, where a math.py
# would take the place of Python's own math in every import.

import os
from pathlib import Path
from typing import NamedTuple

from answers.choices import given_answer
from answers.equality import BadGold, equal
from answers.extract import extract_answer
from data.rows import usable_rows
from data.tables import FILE_KINDS, OTHER_KINDS, count_rows, read_file, rows_of
from run.errors import BadInput
from run.reading import DEFAULT_READING, Reading

# The system prompt of Qwen2.5-Math's evaluation; it goes with a chat template.
SYSTEM_PROMPT = "Please reason step by step, and put your final answer within \\boxed{}."
# For models without a chat template.
PROMPT_TEMPLATE = "Problem: {problem}\nSolution:"
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


class UnknownName(BadInput):
    """Neither a known name nor a file, and not on the Hub."""


# --- The task ---


def problems(
    split: str,
    name: str = "math",
    data_dir: str | None = None,
    problem_column: str | None = None,
    answer_column: str | None = None,
    reading: Reading = DEFAULT_READING,
    needs_answer: bool = True,
) -> list[dict]:
    """The problems of a data set as rows: id, problem, answer, and its other columns as they are.

    Args:
        split: "train" or "test".
        name: a key of SOURCES, a file, or any other Hub id.
        data_dir: the folder DIR where a key of SOURCES is read from NAME.jsonl instead of from the
            Hub; "train" reads train_NAME.jsonl where that exists.
        problem_column: left out, it is known or found by its name; so is answer_column.
        reading: configuration and split of a Hub id or folder; a known name has its own.
        needs_answer: if False, the answer of a row may be None.

    Raises:
        UnknownName: no such data set.
        BadInput: a file that can't be read, no such column, configuration or split, or no usable
            row.
    """
    table, source = _find_table(name, split, data_dir, reading)
    columns = (problem_column or source.problem, answer_column or source.answer)
    rows, skipped = usable_rows(name, table, *columns, needs_answer)
    if not rows:
        reasons = [f"{count_rows(numbers)} {reason}" for reason, numbers in skipped.items()]
        why = "; ".join(reasons) or "it is empty"
        raise BadInput(f"{_flag_of(split)} {name}: no problems in it ({why})")
    return rows


def prompt(row: dict) -> list[dict[str, str]]:
    """The chat messages that ask a model for the answer: the row's conversation where it has one.
    A system message of its own takes the place of the suite's. A model without a chat template
    gets PROMPT_TEMPLATE instead."""
    messages = row.get("messages") or [{"role": "user", "content": row["problem"]}]
    if messages[0]["role"] == "system":
        return messages
    return [{"role": "system", "content": SYSTEM_PROMPT}, *messages]


def score(completion: str, row: dict) -> float:
    r"""1.0 if the completion's answer equals the gold answer, else 0.0; so too if the gold answer
    can't be read. Of multiple choice, the gold answer is a letter, and the text of its choice is
    right too.

    >>> score(r"Half of them: \boxed{\frac{8}{2}}", {"answer": "4"})
    1.0
    >>> score(r"A dog: \boxed{dog}", {"answer": "B", "choices": {"A": "cat", "B": "dog"}})
    1.0
    """
    given = given_answer(completion, row.get("choices"))
    try:
        return float(equal(given, row["answer"], by_value=True))
    except BadGold:
        return 0.0


def answer(completion: str) -> str | None:
    """The answer that the completion commits to, or None."""
    return extract_answer(completion)


# --- Where a data set is ---


def has_test_split(name: str, data_dir: str | None = None) -> bool:
    """Whether a data set has other problems to be tested on than to be trained on: a known set that
    has a test split, or under `data_dir` a file for training beside it; and an id of the Hub, as
    far as can be told without asking. A file has none."""
    if data_dir and (name in SOURCES or os.path.isfile(Path(data_dir, f"{name}.jsonl"))):
        return os.path.isfile(Path(data_dir, f"train_{name}.jsonl"))
    if name in SOURCES:
        return SOURCES[name].test is not None
    return not _is_file(name)


def _is_file(name: str) -> bool:
    """Whether a name means a file. One with the ending of a file is never looked up on the Hub."""
    has_file_ending = Path(name).suffix.lower() in (*FILE_KINDS, *OTHER_KINDS)
    return has_file_ending or os.path.isfile(name)


def _flag_of(split: str) -> str:
    """The flag by which a data set of this split is named, for messages."""
    return "--dataset_name" if split == "train" else "--benchmarks"


def _find_table(
    name: str, split: str, data_dir: str | None, reading: Reading
) -> tuple[dict[int, dict], Source]:
    """The table of a data set, and what is known of its columns."""
    # A file for `data_dir` has the columns of any file, whatever the Hub's set of this name has.
    unknown_columns = Source(name)
    if name in SOURCES or _is_file(name):
        refuse_choice(name, split, reading)
    # 1. In the folder of known data sets.
    if data_dir:
        path = Path(data_dir, f"{name}.jsonl")
        path_for_training = Path(data_dir, f"train_{name}.jsonl")
        if name in SOURCES or os.path.isfile(path):
            if split == "train" and os.path.isfile(path_for_training):
                path = path_for_training
            return read_file(path), unknown_columns

    # 2. A file.
    if _is_file(name):
        return read_file(Path(name)), unknown_columns

    # 3. On the Hub: a known set, or an id, with the usual splits unless others are given.
    usual = Source(
        name,
        reading.dataset_config,
        reading.dataset_train_split or "train",
        reading.dataset_test_split or "test",
    )
    source = SOURCES.get(name, usual)
    return _read_hub(name, source, split), source


def refuse_choice(name: str, split: str, reading: Reading) -> None:
    """Raises BadInput if a configuration or a split is chosen for training on what has none to
    choose from: a task, a file or a known name. Benchmarks go without: the choice may be for one
    of them alone."""
    hub_id = f"; its Hub id {SOURCES[name].hub_id} has" if name in SOURCES else ""
    given = {
        "dataset_config": (reading.dataset_config, "configurations"),
        "dataset_train_split": (reading.dataset_train_split, "splits"),
    }
    for flag, (value, what) in given.items():
        if value and split == "train":
            raise BadInput(f"--{flag} {value}: {name} has no {what} to choose from{hub_id}")


def _read_hub(name: str, source: Source, split: str) -> dict[int, dict]:
    """The table of a data set on the Hub, or in a folder that `datasets` can read."""
    flag = _flag_of(split)
    hub_split = source.train if split == "train" else source.test
    if hub_split is None:
        advice = "choose another data set"
        raise BadInput(f"{flag} {name}: a benchmark without a {split} split; {advice}")
    import datasets

    try:
        return rows_of(datasets.load_dataset(source.hub_id, source.config, split=hub_split))
    except Exception as error:
        # No network, no such id, a gated or a broken repository: all end here.
        raise _refusal(name, flag, error) from error


def _refusal(name: str, flag: str, error: Exception) -> BadInput:
    """What to say of a data set that can't be loaded."""
    import datasets

    reason = _innermost(error)
    if "available configs" in reason:
        reason = reason.split(" Example of usage")[0]
        advice = "set --dataset_config"
        return BadInput(f"{flag} {name}: has several configurations ({reason}); {advice}")
    if reason.startswith("BuilderConfig"):
        return BadInput(f"{flag} {name}: --dataset_config: {reason}")
    if reason.startswith("Unknown split"):
        split_flag = "--dataset_train_split" if flag == "--dataset_name" else "--dataset_test_split"
        return BadInput(f"{flag} {name}: {reason} Set {split_flag}")

    # Whether it is there and broken, or not there at all.
    may_be_missing = isinstance(error, (OSError, datasets.exceptions.DatasetNotFoundError))
    if os.path.isdir(name) or not may_be_missing:
        return BadInput(f"{flag} {name}: can't be loaded ({reason})")
    return UnknownName(f"{flag} {name}: not found ({reason})")


def _innermost(error: BaseException) -> str:
    """What an error says; of one that `datasets` raises for any failure, what its cause says."""
    import datasets

    errors = [error]
    while isinstance(error, datasets.exceptions.DatasetGenerationError):
        cause = error.__cause__ or error.__context__
        if cause is None:
            break
        error = cause
        errors.append(error)

    # The last one that says anything.
    for error in reversed(errors):
        text = " ".join(str(error).split())
        if text:
            return text[:300]
    return type(errors[-1]).__name__
