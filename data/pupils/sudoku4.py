"""The careless pupil of the small sudoku.

He goes over the grid again and again. Each line is the grid after one more pass, in which he fills
what he takes for settled and leaves the rest open for the next pass; the last one is boxed. He goes
wrong in four ways: he looks along the row only, and not along the column and around the box; where
several digits fit, he guesses; he overlooks a cell that is settled; and he boxes too early, so that
he must guess what is still open. He sees problems of the split "base" only, which shares none with
the others.
"""

import random

from data import sudoku4
from data.pupils.common import Document, Phase

# How often, for an empty cell, he looks along the row only; guesses where several digits fit; and
# passes over a cell where only one fits.
ROW_ONLY = 0.2
GUESSES = 0.3
OVERLOOKS = 0.3
# How often he boxes the next pass, full or not.
BOXES_EARLY = 0.2
MOST_PASSES = 5
EMPTY_CELLS = (6, 8, 8, 10)

PHASES = (Phase(updates=1100, rate=0.02, drills=0.0),)
ROWS = 4
LENGTH = 512
SIZE = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
}
SHARPENED = 1.25

ROWS_OF_CELLS = tuple(
    tuple(range(cell - cell % sudoku4.SIZE, cell - cell % sudoku4.SIZE + sudoku4.SIZE))
    for cell in sudoku4.CELLS
)


def write(rng: random.Random, drills: float) -> Document:
    """A solution, right, wrong or wordy."""
    clues = sudoku4.sample_clues(rng, rng.choice(EMPTY_CELLS), "base")
    return Document(sudoku4.in_rows(clues), write_solution(clues, rng), is_whole=True)


def write_solution(clues: str, rng: random.Random) -> str:
    """A completion as the pupil writes it."""
    cells = list(clues)
    lines = []
    while sudoku4.EMPTY in cells and len(lines) < MOST_PASSES and rng.random() > BOXES_EARLY:
        _go_over(cells, rng)
        lines.append(sudoku4.in_rows("".join(cells)))
    _go_over(cells, rng, is_last=True)
    return "\n".join([*lines, f"\\boxed{{{sudoku4.in_rows(''.join(cells))}}}"])


def _go_over(cells: list[str], rng: random.Random, is_last: bool = False) -> None:
    """Fills empty cells. In the last pass he fills all of them."""
    for cell in sudoku4.CELLS:
        if cells[cell] != sudoku4.EMPTY:
            continue
        row_only = rng.random() < ROW_ONLY
        fitting = _missing(cells, ROWS_OF_CELLS[cell] if row_only else sudoku4.PEERS[cell])
        fills = rng.random() < (GUESSES if len(fitting) > 1 else 1 - OVERLOOKS)
        if fills or is_last:
            cells[cell] = rng.choice(fitting)


def _missing(cells: list[str], places: tuple[int, ...]) -> list[str]:
    """The digits that are not in these places; all, if none is missing."""
    seen = {cells[place] for place in places}
    return [digit for digit in sudoku4.DIGITS if digit not in seen] or list(sudoku4.DIGITS)
