"""Small sudoku: fill a 4 x 4 grid so that every row, column and 2 x 2 box holds 1 to 4.

A problem is a grid with empty cells, row by row, such as `.2.1 .34. 3..4 24..`; it has exactly one
solution. Its level is the number of empty cells. Problems are made up anew each time, and are the
same ones every time.

There are only 288 full grids, so a problem is its clues: which cells are given, and how. Problems
that differ in the names of the digits alone count as one, and lie in the same split. Every full
grid is the solution of problems in each split.
"""

import functools
import itertools
import random
import re
from collections.abc import Iterable

from answers.extract import extract_answer
from data import splits
from run.errors import BadInput

__all__ = ["LEVELS", "PROMPT_TEMPLATE", "answer", "problems", "prompt", "score"]

FEWEST_EMPTY = 4
# With fewer than 4 clues no grid has only one solution.
MOST_EMPTY = 12
DEFAULT_EMPTY = 8
LEVELS = f"{FEWEST_EMPTY} to {MOST_EMPTY} empty cells; default {DEFAULT_EMPTY}"
COUNTS = {"train": 4000, "test": 1000}

SYSTEM_PROMPT = (
    "Solve the 4 x 4 sudoku: fill the empty cells, so that every row, every column and every 2 x 2 "
    "box in a corner holds each of the digits 1, 2, 3 and 4 once. Reason step by step. Put the "
    "whole grid within \\boxed{}, as four rows of four digits with spaces between the rows."
)
# For models without a chat template.
PROMPT_TEMPLATE = (
    "Sudoku with 4 x 4 cells. Every row, every column and every 2 x 2 box in a corner holds 1, 2, "
    "3 and 4. A dot is an empty cell.\nThe four rows: {problem}\n"
    "Solution, with the four full rows in \\boxed{} at the end:\n"
)

DIGITS = "1234"
SIZE = 4
CELLS = range(SIZE * SIZE)
EMPTY = "."


# --- The task ---


def problems(split: str, level: str | None = None) -> list[dict[str, str]]:
    """The problems of `split` ("train" or "test") as rows with `id`, `problem` and `answer`.

    Args:
        level: how many cells are empty, as text; see LEVELS.

    Raises:
        BadInput: there is no such level.
    """
    empty = _empty_cells(level, split)
    rng = random.Random(f"sudoku4 {empty} {split}")
    # The keys of a dict: distinct, and in the order in which they came.
    clues: dict[str, None] = {}
    while len(clues) < COUNTS[split]:
        clues[sample_clues(rng, empty, split)] = None
    return [
        {
            "id": f"sudoku4/{empty}/{split}/{number}",
            "problem": in_rows(cells),
            "answer": in_rows(solutions(cells)[0]),
        }
        for number, cells in enumerate(clues)
    ]


def prompt(row: dict) -> list[dict[str, str]]:
    """The chat messages that ask a model for the grid."""
    grid = "\n".join(" ".join(cells) for cells in row["problem"].split())
    return [
        {"role": "system", "content": SYSTEM_PROMPT},
        {"role": "user", "content": f"A dot is an empty cell:\n\n{grid}"},
    ]


def score(completion: str, row: dict) -> float:
    r"""1.0 if the completion's grid is full, keeps the clues and breaks no rule, else 0.0.

    >>> row = {"problem": "1..4 .4.. ..4. 4..1"}
    >>> score(r"So \boxed{1324 2413 3142 4231}", row), score(r"\boxed{1324 2413 3142 4213}", row)
    (1.0, 0.0)
    """
    cells = _grid_in(completion)
    if cells is None:
        return 0.0
    clues = "".join(row["problem"].split())
    keeps_clues = all(clue in (EMPTY, cell) for clue, cell in zip(clues, cells))
    return float(keeps_clues and is_solved(cells))


def answer(completion: str) -> str | None:
    r"""The grid that the completion commits to, right or wrong; None if it has no 16 digits 1 to 4.

    >>> answer(r"\boxed{\begin{array}{cc|cc} 1&3&2&4\\2&4&1&3\\3&1&4&2\\4&2&3&1\end{array}}")
    '1324 2413 3142 4231'
    """
    cells = _grid_in(completion)
    return None if cells is None else in_rows(cells)


# --- Grids: a text of 16 characters, row by row, each a digit or EMPTY ---


def _peers(cell: int) -> tuple[int, ...]:
    """The cells that must differ from this one: those of its row, its column and its box."""
    row, column = divmod(cell, SIZE)
    return tuple(
        other
        for other in CELLS
        if other != cell
        and (
            other // SIZE == row
            or other % SIZE == column
            or (other // SIZE // 2, other % SIZE // 2) == (row // 2, column // 2)
        )
    )


PEERS = tuple(_peers(cell) for cell in CELLS)


def in_rows(cells: str) -> str:
    """A grid with spaces between its rows.

    >>> in_rows("1324241331424231")
    '1324 2413 3142 4231'
    """
    return " ".join(cells[start : start + SIZE] for start in CELLS[::SIZE])


def is_solved(cells: str) -> bool:
    """Whether a full grid breaks no rule."""
    return all(cells[cell] != cells[peer] for cell in CELLS for peer in PEERS[cell])


@functools.cache
def full_grids() -> tuple[str, ...]:
    """All 288 full grids that break no rule."""
    grids = [""]
    for cell in CELLS:
        before = [peer for peer in PEERS[cell] if peer < cell]
        grids = [
            grid + digit
            for grid in grids
            for digit in DIGITS
            if all(grid[peer] != digit for peer in before)
        ]
    return tuple(grids)


@functools.cache
def _grids_with() -> dict[tuple[int, str], int]:
    """For each cell and digit, the full grids that have it there: the bit of each is set."""
    grids = dict.fromkeys(itertools.product(CELLS, DIGITS), 0)
    for number, grid in enumerate(full_grids()):
        for clue in enumerate(grid):
            grids[clue] |= 1 << number
    return grids


def _agreeing(clues: Iterable[tuple[int, str]]) -> int:
    """The full grids that agree with the clues, each a cell and its digit: the bit of each is
    set."""
    grids_with = _grids_with()
    agreeing = (1 << len(full_grids())) - 1
    for clue in clues:
        agreeing &= grids_with[clue]
    return agreeing


def solutions(clues: str) -> list[str]:
    """The full grids that agree with the clues.

    >>> solutions(".2.1.34.3..424..")
    ['4231134231242413']
    """
    agreeing = _agreeing((cell, clue) for cell, clue in enumerate(clues) if clue != EMPTY)
    return [grid for number, grid in enumerate(full_grids()) if agreeing >> number & 1]


# --- Problems ---


def canonical(clues: str) -> str:
    """The clues with their digits renamed: 1 is the first one that appears, 2 the next new one.

    >>> canonical("..43.4....3.3..4")
    '..12.1....2.2..1'
    """
    names = {EMPTY: EMPTY}
    for clue in clues:
        if clue not in names:
            names[clue] = str(len(names))
    return "".join(names[clue] for clue in clues)


def split_of(clues: str) -> str:
    """The one split that a problem may be in, whatever the names of its digits."""
    return splits.split_of(canonical(clues))


def sample_clues(rng: random.Random, empty: int, split: str) -> str:
    """A random grid of this split with `empty` empty cells and one solution."""
    while True:
        grid = rng.choice(full_grids())
        given = rng.sample(CELLS, len(CELLS) - empty)
        if _agreeing((cell, grid[cell]) for cell in given).bit_count() > 1:
            continue
        clues = "".join(digit if cell in given else EMPTY for cell, digit in enumerate(grid))
        if split_of(clues) == split:
            return clues


def _empty_cells(level: str | None, split: str) -> int:
    """The level as a number."""
    if level is None:
        return DEFAULT_EMPTY
    known = {str(number): number for number in range(FEWEST_EMPTY, MOST_EMPTY + 1)}
    if level not in known:
        flag = "--dataset_name" if split == "train" else "--benchmarks"
        raise BadInput(f"{flag} sudoku4:{level}: no such level; there are {LEVELS}")
    return known[level]


# --- Answers ---

# No grid that is drawn with care is longer.
LONGEST = 1000
# What LaTeX writes around digits, where digits of its own may hide: {|c|c|}, {*{4}{c}}, \\[4pt],
# \cline{1-4}. All repeats are bounded.
_LATEX = re.compile(
    r"""(?x)
      \\begin\s?\{(?:array|tabular)\} (?:\[[a-z]\])? \{ (?:[^{}] | \{[^{}]{0,20}\}){0,80} \}
    | \\(?:begin|end)\s?\{[a-zA-Z]{1,20}\*?\}
    | \\cline\s?\{[^{}]{0,20}\}
    | \\\\\s?\[[^\[\]]{0,20}\]
    | \\(?:hline|quad|qquad|left|right|displaystyle|large|Large|newline|n
        |text(?:tt|bf|rm|normal)?|math(?:tt|bf|rm|sf)?|mid|vert|Vert)(?![a-zA-Z])
    """
)
# Digits, and what may stand between them: blanks, punctuation, brackets, and the characters that
# draw boxes.
_ONLY_A_GRID = re.compile(r"[1-4\s,;:!/|&\\()\[\]{}$\"'`~*_+=\u2013\u2014\u2500-\u257f-]*")
_SEPARATORS = re.compile(r"[^1-4]+")


def _grid_in(completion: str) -> str | None:
    """The 16 digits of the completion's answer; None if it is no such grid."""
    text = extract_answer(completion)
    if text is None or len(text) > LONGEST:
        return None
    text = _LATEX.sub(" ", text).strip().rstrip(".")
    if not _ONLY_A_GRID.fullmatch(text):
        return None
    cells = _SEPARATORS.sub("", text)
    return cells if len(cells) == len(CELLS) else None
