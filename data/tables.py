"""Files and data sets -> tables: a dict from a row's number to the row, itself a dict from column
to value.

Text files are read as text: no cell is taken for a number, a date or a missing value.
"""

import csv
import io
import json
import logging
import os
import re
from pathlib import Path

from run.errors import BadInput, first_line

logger = logging.getLogger(__name__)

FILE_KINDS = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
# Kinds that are refused by name. Any other ending is no file's, so it may be part of a Hub id.
OTHER_KINDS = (
    ".gz",
    ".bz2",
    ".xz",
    ".zst",
    ".zip",
    ".tar",
    ".txt",
    ".xlsx",
    ".xls",
    ".arrow",
    ".feather",
    ".yaml",
)
# How files begin that are not what their name says, and what to do with them.
FOREIGN_STARTS = {
    b"\x1f\x8b": "it is compressed (gzip); unpack it",
    b"PK\x03\x04": "it is compressed (zip); unpack it",
    b"\x28\xb5\x2f\xfd": "it is compressed (zstd); unpack it",
    b"BZh": "it is compressed (bzip2); unpack it",
    b"\xfd7zXZ": "it is compressed (xz); unpack it",
    b"PAR1": "it is a parquet file; end its name with .parquet",
    b"version https://git-lfs": "it is a Git LFS pointer and not the data; fetch that with: "
    "git lfs pull",
}


# --- Messages about rows ---


def report(where: object, numbers: list[int], what: str, done: str = "skipped ") -> None:
    """Warns in one line of what happened to rows, with the first five of their numbers."""
    if not numbers:
        return
    shown = ", ".join(map(str, numbers[:5]))
    if len(numbers) > 5:
        shown += ", ..."
    logger.warning("%s: %s%s %s (rows %s)", where, done, count_rows(numbers), what, shown)


def count_rows(numbers: list[int]) -> str:
    """How many rows these are, in words.

    >>> count_rows([7]), count_rows([7, 9])
    ('1 row', '2 rows')
    """
    return "1 row" if len(numbers) == 1 else f"{len(numbers)} rows"


# --- Files ---


def read_file(path: Path) -> dict[int, dict]:
    """The rows of a file by their numbers from 1: of a .jsonl its lines, else the rows in order.

    Raises:
        BadInput: no such file, a kind that is not read, or a file that can't be read.
    """
    kind = path.suffix.lower()
    raw = _read_bytes(path, kind)
    if kind == ".parquet":
        return _read_parquet(path, raw)

    # Unicode by its byte order mark. Bytes of another encoding become lone surrogates, which name
    # their rows later.
    try:
        text = raw.decode(json.detect_encoding(raw), "surrogateescape")
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: its encoding is broken ({error}); save it as UTF-8") from error

    if kind == ".jsonl":
        return _read_json_lines(path, text)
    if kind == ".json":
        return _read_json(path, text)
    if kind == ".tsv":
        return _read_csv(path, text, delimiters="\t")
    return _read_csv(path, text, delimiters=",;\t")


def _read_bytes(path: Path, kind: str) -> bytes:
    """The content of a file of one of FILE_KINDS, once its name and its start are known to fit."""
    if not os.path.isfile(path):
        advice = "--dataset_name takes a name, a Hub id or a file; --data_dir its folder"
        raise BadInput(f"{path}: no such file ({advice})")
    if kind not in FILE_KINDS:
        unread = f"{kind} files" if kind else "files without an ending"
        known = ", ".join(FILE_KINDS)
        raise BadInput(f"{path}: {unread} are not read; unpack or convert it to one of {known}")
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path}: can't be read ({error.strerror})") from error
    for start, advice in FOREIGN_STARTS.items():
        is_as_named = kind == ".parquet" and start == b"PAR1"
        if raw.startswith(start) and not is_as_named:
            raise BadInput(f"{path}: can't be read as {kind}: {advice}")
    return raw


class Number(str):
    """A number of a JSON file as it is written there: 5.0 stays 5.0, and no integer is too
    large."""


_JSON = json.JSONDecoder(
    parse_int=Number,
    parse_float=Number,
    parse_constant={"NaN": None, "Infinity": r"\infty", "-Infinity": r"-\infty"}.get,
)


def decode_json(text: str):
    """The JSON value of a text, or None."""
    try:
        return _JSON.decode(text)
    except (ValueError, RecursionError):
        return None


def _is_table(value) -> bool:
    return isinstance(value, list) and all(isinstance(row, dict) for row in value)


def _read_json_lines(path: Path, text: str) -> dict[int, dict]:
    """One object on each line; or one array of objects, on one line or several."""
    if text.lstrip().startswith("["):
        whole = decode_json(text)
        if _is_table(whole):
            return dict(enumerate(whole, 1))

    # Empty lines count too, so that a number is that of the line in an editor.
    table = {}
    bad_lines = []
    for number, line in enumerate(re.split(r"\r\n|\n|\r", text), 1):
        if not line.strip() or line.strip() == "null":
            continue
        row = decode_json(line)
        if isinstance(row, dict):
            table[number] = row
        else:
            bad_lines.append(number)

    if bad_lines and not table:
        advice = "a .jsonl file holds one object on each line"
        raise BadInput(f"{path}: no line of it is a JSON object; {advice}")
    report(path, bad_lines, "not a JSON object")
    return table


def _read_json(path: Path, text: str) -> dict[int, dict]:
    """An array of objects, an object that holds such an array, or columns; or JSON lines under
    another name."""
    try:
        whole = _JSON.decode(text)
    except (ValueError, RecursionError) as error:
        lines = [decode_json(line) for line in text.splitlines() if line.strip()]
        if not lines or not _is_table(lines):
            raise BadInput(f"{path}: can't be read as json ({first_line(error)})") from error
        whole = lines
    if isinstance(whole, dict):
        whole = _rows_of_object(path, whole)
    if not _is_table(whole):
        example = '[{"problem": ..., "answer": ...}]'
        raise BadInput(f"{path}: holds no array of objects, such as {example}")
    return dict(enumerate(whole, 1))


def _rows_of_object(path: Path, whole: dict) -> list[dict]:
    """The rows of a JSON object: those of the one table in it, or of its columns, or it is one
    row itself."""
    # {"train": [{...}, ...]}: a table under a name, beside anything else.
    tables = {key: value for key, value in whole.items() if value and _is_table(value)}
    if len(tables) > 1:
        names = ", ".join(tables)
        raise BadInput(f"{path}: holds several tables ({names}); save the one to use as a file")

    # {"problem": [...], "answer": [...]}: columns of one length.
    columns = list(whole.values())
    are_lists = bool(columns) and all(isinstance(column, list) for column in columns)
    if are_lists and len({len(column) for column in columns}) == 1:
        return [dict(zip(whole, cells)) for cells in zip(*columns)]
    if tables:
        return next(iter(tables.values()))
    # {"problem": ..., "answer": ...}: one row.
    return [whole]


def _read_csv(path: Path, text: str, delimiters: str) -> dict[int, dict]:
    """The rows of a table of text, separated by whichever delimiter gives the header the most
    columns."""
    csv.field_size_limit(2**31 - 1)  # a long problem is no error
    text = text.lstrip("\r\n")

    # Which delimiter it is, by the header.
    first = next(iter(text.splitlines()), "")

    def columns_with(delimiter: str) -> int:
        return len(next(csv.reader([first], delimiter=delimiter), []))

    delimiter = max(delimiters, key=columns_with)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)

    table = {}
    bad_rows = []
    try:
        header = [name.strip() for name in next(lines, [])]
        for number, cells in enumerate(lines, 1):
            # A delimiter in a cell without quotes: it can't be told which cell is which.
            if any(cells[len(header) :]):
                bad_rows.append(number)
            elif cells:
                table[number] = dict(zip(header, cells))
    except csv.Error as error:
        advice = "a cell that holds quotes stands in quotes, and its own are doubled"
        raise BadInput(f"{path}: line {lines.line_num}: {error}; {advice}") from error

    if len(set(header)) < len(header):
        raise BadInput(f"{path}: two columns have the same name ({', '.join(header)})")
    report(path, bad_rows, "with more cells than the header")
    return table


def _read_parquet(path: Path, raw: bytes) -> dict[int, dict]:
    import datasets
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(pyarrow.BufferReader(raw))
        return rows_of(datasets.Dataset(table))
    except (pyarrow.ArrowException, OSError, ValueError, TypeError) as error:
        # A broken file, or one whose features are broken.
        raise BadInput(f"{path}: can't be read as parquet ({first_line(error)})") from error


# --- Data sets ---


def rows_of(dataset) -> dict[int, dict]:
    """The rows of a datasets.Dataset, with the names of class labels, and with 32-bit floats in
    their own precision."""
    features = dataset.features
    table = {}
    # to_list does not decode images.
    for number, row in enumerate(dataset.to_list(), 1):
        table[number] = {key: _own_form(value, features[key]) for key, value in row.items()}
    return table


def _own_form(value, feature):
    """A value as its data set shows it: a label by its name, 0.7 and not 0.699999988079071."""
    import datasets
    import numpy as np

    if value is None:
        return None
    if isinstance(feature, datasets.ClassLabel):
        # -1 stands for a label that is kept secret.
        return feature.int2str(value) if value >= 0 else None
    if isinstance(feature, (datasets.List, datasets.LargeList)):
        return [_own_form(item, feature.feature) for item in value]
    if isinstance(feature, datasets.Value) and feature.dtype in ("float16", "float32"):
        return float(str(np.dtype(feature.dtype).type(value)))
    return value
