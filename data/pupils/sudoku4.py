"""The careless pupil of the small sudoku.

He fills one cell per line: `G3` puts a 3 into cell G. `G?` says that several digits fit there, and
he turns to another cell. He goes wrong in four ways: he looks along the row only, and not along the
column and around the box; he takes any cell, and not one that is settled; where several digits fit,
he guesses; and he boxes a grid before it is full. He sees problems of the split "base" only, which
shares none with the others.
"""

import random

from data import sudoku4
from data.pupils.common import Document, Phase

# How often he takes a cell that is settled, if there is one.
SETTLED_FIRST = 0.4
# How often he looks along the row only.
ROW_ONLY = 0.25
# How often he turns to another cell where several digits fit. Otherwise he guesses.
TURNS_AWAY = 0.4
# Per line: he writes it twice; he thinks that he is done.
RESTATED = 0.05
STOPS_EARLY = 0.01
MOST_LINES = 20
EMPTY_CELLS = (6, 8, 9, 10, 10, 10)

PHASES = (Phase(updates=1500, rate=0.02, drills=0.0),)
ROWS = 16
LENGTH = 128
SIZE = {
    "hidden_size": 96,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
}
SHARPENED = 1.0

ROWS_OF_CELLS = tuple(
    tuple(range(cell // sudoku4.SIZE * sudoku4.SIZE, cell // sudoku4.SIZE * sudoku4.SIZE + 4))
    for cell in sudoku4.CELLS
)


def write(rng: random.Random, drills: float) -> Document:
    """A solution, right, wrong or wordy."""
    clues = sudoku4.sample_clues(rng, rng.choice(EMPTY_CELLS), "base")
    return Document(sudoku4.as_problem(clues), write_solution(clues, rng), is_whole=True)


def write_solution(clues: str, rng: random.Random) -> str:
    """A completion as the pupil writes it."""
    cells = list(clues)
    lines = []
    while sudoku4.EMPTY in cells and len(lines) < MOST_LINES:
        if rng.random() < STOPS_EARLY:
            break
        cell = _choose_cell(cells, rng)
        digit = _choose_digit(cells, cell, rng)
        line = sudoku4.NAMES[cell] + (digit or "?")
        lines.append(line)
        if digit:
            cells[cell] = digit
        if rng.random() < RESTATED:
            lines.append(line)

    # What is still empty gets a digit that the row lacks.
    for cell in sudoku4.CELLS:
        if cells[cell] == sudoku4.EMPTY:
            cells[cell] = rng.choice(_missing(cells, ROWS_OF_CELLS[cell]))
    return "\n".join([*lines, boxed(cells)])


def boxed(cells: list[str]) -> str:
    r"""The full grid with the names of its cells.

    >>> boxed(list("1324241331424231"))
    '\\boxed{A1B3C2D4 E2F4G1H3 I3J1K4L2 M4N2O3P1}'
    """
    named = [name + digit for name, digit in zip(sudoku4.NAMES, cells)]
    rows = (
        "".join(named[start : start + sudoku4.SIZE]) for start in sudoku4.CELLS[:: sudoku4.SIZE]
    )
    return f"\\boxed{{{' '.join(rows)}}}"


def _missing(cells: list[str], places: tuple[int, ...]) -> list[str]:
    """The digits that are not in these places; all, if none is missing."""
    seen = {cells[place] for place in places}
    return [digit for digit in sudoku4.DIGITS if digit not in seen] or list(sudoku4.DIGITS)


def _choose_cell(cells: list[str], rng: random.Random) -> int:
    """The empty cell that he turns to."""
    empty = [cell for cell in sudoku4.CELLS if cells[cell] == sudoku4.EMPTY]
    if rng.random() < SETTLED_FIRST:
        settled = [cell for cell in empty if len(_missing(cells, sudoku4.PEERS[cell])) == 1]
        return rng.choice(settled or empty)
    return rng.choice(empty)


def _choose_digit(cells: list[str], cell: int, rng: random.Random) -> str | None:
    """The digit that he puts into the cell; None if he turns to another one."""
    row_only = rng.random() < ROW_ONLY
    digits = _missing(cells, ROWS_OF_CELLS[cell] if row_only else sudoku4.PEERS[cell])
    if len(digits) > 1 and rng.random() < TURNS_AWAY:
        return None
    return rng.choice(digits)
