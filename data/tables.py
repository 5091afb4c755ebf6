"""Files and data sets -> tables: a dict from the row's number to the row, itself a dict from column
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
    b"version https://git-lfs": "it is a pointer of Git LFS and not the data; git lfs pull fetches those",
}


def report(where: object, numbers: list[int], what: str, done: str = "skipped ") -> None:
    """Warns in one line of what happened to rows, with the first five of their numbers."""
    if numbers:
        shown = ", ".join(map(str, numbers[:5])) + (", ..." if len(numbers) > 5 else "")
        logger.warning("%s: %s%s %s (rows %s)", where, done, count_rows(numbers), what, shown)


def count_rows(numbers: list[int]) -> str:
    return f"{len(numbers)} row" + "s" * (len(numbers) != 1)


def read_file(path: Path) -> dict[int, dict]:
    """The rows of a file by their numbers: lines of a .jsonl, else places of rows, from 1."""
    if not os.path.isfile(path):
        raise BadInput(
            f"{path}: no such file (--dataset_name takes a name, a Hub id or a file; --data_dir its folder)"
        )
    kind = path.suffix.lower()
    if kind not in FILE_KINDS:
        unread = f"{kind} files" if kind else "files without an ending"
        raise BadInput(
            f"{path}: {unread} are not read; unpack or convert it to one of {', '.join(FILE_KINDS)}"
        )
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path}: can't be read ({error.strerror})") from error
    for start, advice in FOREIGN_STARTS.items():
        if raw.startswith(start) and not (kind == ".parquet" and start == b"PAR1"):
            raise BadInput(f"{path}: can't be read as {kind}: {advice}")
    if kind == ".parquet":
        return _read_parquet(path, raw)
    try:
        # Unicode by its byte order mark. Bytes of another encoding become lone surrogates, which
        # name their rows later.
        text = raw.decode(json.detect_encoding(raw), "surrogateescape")
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: its encoding is broken ({error}); save it as UTF-8") from error
    if kind == ".jsonl":
        return _read_json_lines(path, text)
    return (
        _read_json(path, text)
        if kind == ".json"
        else _read_csv(path, text, "\t" if kind == ".tsv" else ",;\t")
    )


class Number(str):
    """A number of a JSON file as it is written there: 5.0 stays 5.0, and no integer is too
    large."""


_JSON = json.JSONDecoder(
    parse_int=Number,
    parse_float=Number,
    parse_constant={"NaN": None, "Infinity": r"\infty", "-Infinity": r"-\infty"}.get,
)


def _read_json_lines(path: Path, text: str) -> dict[int, dict]:
    if text.lstrip().startswith("[") and _is_table(whole := decode_json(text)):
        return dict(enumerate(whole, 1))
    table, bad = {}, []
    for number, line in enumerate(re.split(r"\r\n|\n|\r", text), 1):
        if line.strip() and line.strip() != "null":
            row = decode_json(line)
            if isinstance(row, dict):
                table[number] = row
            else:
                bad.append(number)
    if bad and not table:
        raise BadInput(
            f"{path}: no line of it is a JSON object; a .jsonl file holds one object on each line"
        )
    report(path, bad, "not a JSON object")
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
        tables = {key: value for key, value in whole.items() if value and _is_table(value)}
        if len(tables) > 1:
            raise BadInput(
                f"{path}: holds several tables ({', '.join(tables)}); save the one to use as its own file"
            )
        columns = list(whole.values())
        if columns and all(
            isinstance(column, list) and len(column) == len(columns[0]) for column in columns
        ):
            whole = [dict(zip(whole, cells)) for cells in zip(*columns)]
        else:
            whole = next(iter(tables.values()), [whole])
    if not _is_table(whole):
        raise BadInput(
            f'{path}: holds no array of objects, such as [{{"problem": ..., "answer": ...}}]'
        )
    return dict(enumerate(whole, 1))


def decode_json(text: str):
    """The JSON value of a text, or None."""
    try:
        return _JSON.decode(text)
    except (ValueError, RecursionError):
        return None


def _is_table(value) -> bool:
    return isinstance(value, list) and all(isinstance(row, dict) for row in value)


def _read_csv(path: Path, text: str, delimiters: str) -> dict[int, dict]:
    """The rows of a table as text: no cell is taken for a number, a date or a missing value."""
    csv.field_size_limit(2**31 - 1)  # a long problem is no error
    text = text.lstrip("\r\n")
    first = next(iter(text.splitlines()), "")
    delimiter = max(
        delimiters, key=lambda one: len(next(csv.reader([first], delimiter=one), []))
    )  # most columns
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    table, bad = {}, []
    try:
        header = [name.strip() for name in next(lines, [])]
        for number, cells in enumerate(lines, 1):
            if any(
                cells[len(header) :]
            ):  # a delimiter in a cell without quotes: which cell is which is not known
                bad.append(number)
            elif cells:
                table[number] = dict(zip(header, cells))
    except csv.Error as error:
        advice = "a cell that holds quotes stands in quotes, and its own are doubled"
        raise BadInput(f"{path}: line {lines.line_num}: {error}; {advice}") from error
    if len(set(header)) < len(header):
        raise BadInput(f"{path}: two columns have the same name ({', '.join(header)})")
    report(path, bad, "with more cells than the header")
    return table


def _read_parquet(path: Path, raw: bytes) -> dict[int, dict]:
    import datasets
    import pyarrow
    import pyarrow.parquet

    try:
        return rows_of(datasets.Dataset(pyarrow.parquet.read_table(pyarrow.BufferReader(raw))))
    except (
        pyarrow.ArrowException,
        OSError,
        ValueError,
        TypeError,
    ) as error:  # a broken file, or broken features
        raise BadInput(f"{path}: can't be read as parquet ({first_line(error)})") from error


def rows_of(dataset) -> dict[int, dict]:
    """The rows of a datasets.Dataset, with the names of class labels and 32-bit floats in their own
    precision."""
    import datasets
    import numpy as np

    def convert(value, feature):
        if value is None:
            return None
        if isinstance(feature, datasets.ClassLabel):
            return feature.int2str(value) if value >= 0 else None  # -1: a label that is kept secret
        if isinstance(feature, (datasets.List, datasets.LargeList)):
            return [convert(one, feature.feature) for one in value]
        if isinstance(feature, datasets.Value) and feature.dtype in ("float16", "float32"):
            return float(str(np.dtype(feature.dtype).type(value)))
        return value

    features = dataset.features
    rows = dataset.to_list()  # without decoding images
    return {
        i: {key: convert(value, features[key]) for key, value in row.items()}
        for i, row in enumerate(rows, 1)
    }
