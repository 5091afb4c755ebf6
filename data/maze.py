r"""The mazes: moves on a small grid with walls, from S to G, within a budget.

    from data.maze import problems
    problems("test", "5")     # 5 by 5 cells

A maze is a square of cells, some of them walls. A solution is a text of moves: U (up), D (down),
L (left) and R (right). A move into a wall, or out of the grid, leaves you where you are and counts
like any other. The budget is the shortest way and SPARE moves more, so that a mistake or two can
be made good. The last move must end on G.

The walls make every way from S to G longer than it would be without them, so a walk that heads
straight for G fails. Mazes that differ by a turn of the grid, by a reflection, or by S and G
swapped are one maze, and lie in one split.
"""

import functools
import itertools
import operator
import random
import re
import string
from collections.abc import Callable
from typing import NamedTuple

from answers.extract import extract_answer
from data import splits
from run.errors import BadInput

__all__ = ["LEVELS", "PROMPT_TEMPLATE", "answer", "problems", "prompt", "score"]

LEVELS = "4 to 8, the side of the grid; default 4"
SIDES = (4, 5, 6, 7, 8)
DEFAULT_SIDE = 4
ROWS = {"train": 4000, "test": 1000}
# Moves beyond the shortest way.
SPARE = 2
# Of the cells, the share that are walls lies between these.
FEWEST_WALLS = 0.25
MOST_WALLS = 0.45

WALL = "#"
FREE = "."
# (rows down, columns right) of each move.
MOVES = {"U": (-1, 0), "D": (1, 0), "L": (0, -1), "R": (0, 1)}
# Every cell has a name of one character, row by row; 64 of them are enough for 8 by 8.
NAMES = string.ascii_lowercase + string.ascii_uppercase + string.digits + "@&"

SYSTEM_PROMPT = (
    "You find ways through small mazes. Think step by step, then put your moves within \\boxed{}, "
    "one letter for each move: U (up), D (down), L (left) or R (right). For example: \\boxed{RRD}"
)
QUESTION = """\
Find a way from S to G in this maze. # is a wall, . a free cell.

{drawing}

Each move goes to the next cell up (U), down (D), left (L) or right (R). A move into a wall or out \
of the grid leaves you where you are, and counts. Use at most {budget} moves. You must stand on G \
after the last one."""
# For a tokenizer without a chat template.
PROMPT_TEMPLATE = "{problem}\n\nPut the moves within \\boxed{}, for example \\boxed{RRD}.\n"


# --- The task ---


def problems(split: str, level: str | None = None) -> list[dict]:
    """The mazes of `split` ("train" or "test"): 4,000 or 1,000 rows.

    A row holds `id`; `problem`, the maze in one line; `answer`, the moves of one shortest way;
    `grid`, its lines with S and G; and `budget`, the most moves that are allowed.

    Args:
        level: the side of the grid; 4 where it is None.

    Raises:
        BadInput: no such level.
    """
    side = side_of(level)
    rng = random.Random(f"maze/{split}/{side}")
    # By their text: no row comes twice.
    rows: dict[str, dict] = {}
    while len(rows) < ROWS[split]:
        maze = sample_maze(rng, side, split)
        way = shortest_way(maze)
        budget = len(way) + SPARE
        problem = write_problem(maze, budget)
        if problem not in rows:
            rows[problem] = {
                "id": f"maze/{side}/{split}/{len(rows)}",
                "problem": problem,
                "answer": way,
                "grid": draw(maze),
                "budget": budget,
            }
    return list(rows.values())


def side_of(level: str | None) -> int:
    """The side of the grid that a level names."""
    if level is None:
        return DEFAULT_SIDE
    if level not in map(str, SIDES):
        raise BadInput(f"maze:{level}: no such level; there are {LEVELS}")
    return int(level)


def prompt(row: dict) -> list[dict[str, str]]:
    """The chat messages that ask for the moves."""
    question = QUESTION.format(drawing="\n".join(row["grid"]), budget=row["budget"])
    return [{"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": question}]


def score(completion: str, row: dict) -> float:
    """1.0 where the boxed moves lead from S to G within the budget, else 0.0. Any such way is
    right, not the shortest alone."""
    moves = answer(completion)
    if moves is None or len(moves) > row["budget"]:
        return 0.0
    maze = read(row["grid"])
    return float(walk(maze, moves)[-1] == maze.goal)


# --- Answers ---

# Characters that draw a move, as the LaTeX command of the same arrow. The second row is emoji,
# which may be followed by a mark that asks for colour.
ARROWS = str.maketrans(
    {"↑": r"\uparrow ", "↓": r"\downarrow ", "←": r"\leftarrow ", "→": r"\rightarrow "}
    | {"⬆": r"\uparrow ", "⬇": r"\downarrow ", "⬅": r"\leftarrow ", "➡": r"\rightarrow "}
    | {"\ufe0f": ""}
)
ARROW_COMMANDS = {"\\uparrow": "U", "\\downarrow": "D", "\\leftarrow": "L", "\\rightarrow": "R"}
ARROW_COMMANDS |= {"\\to": "R", "->": "R"}
WORDS = {"up": "U", "down": "D", "left": "L", "right": "R"}
# What may stand between moves, or around them.
CONNECTIVES = {"then", "and"}
STYLES = {r"\text", r"\mathrm", r"\mathbf", r"\mathtt", r"\mathit", r"\mathsf", r"\displaystyle"}
STYLES |= {r"\textbf", r"\textit", r"\texttt", r"\textsf", r"\textrm", r"\operatorname"}
STYLES |= {r"\quad", r"\qquad", r"\left", r"\right"}
# A word, a command or an arrow, and after it perhaps the cell that is reached: (b) or (1, 2). Or
# one character, or one LaTeX space, between moves.
TOKEN = re.compile(
    r"""(?x)
    (?P<word> \\?[A-Za-z]+ | -> ) (?: \s*\( (?: [^\s()] | \d\s*,\s*\d ) \) )?
    | [\s,;.:|/~$*`'"(){}\[\]–-]
    | \\[\\,;:!\ {}]
    """
)
# Longer than any way through the largest maze, in the wordiest form.
LONGEST_ANSWER = 2000


def answer(completion: str) -> str | None:
    r"""The moves that a completion commits to, as letters; None if there are none, or if something
    else stands between them.

    >>> answer(r"\boxed{\text{right, right, down}}"), answer("The answer is →→↓.")
    ('RRD', 'RRD')

    A move may be followed by the cell that it leads to:

    >>> answer("\\boxed{\nR(b)\nD(f)\n}")
    'RD'
    """
    content = extract_answer(completion.translate(ARROWS))
    if content is None or len(content) > LONGEST_ANSWER:
        return None
    words = _words(content)
    if words is None:
        return None

    # In R → R → D the arrows stand between moves; in → → ↓ they are the moves.
    arrows = [word for word in words if word in ARROW_COMMANDS]
    letters = [word for word in words if word not in ARROW_COMMANDS]
    if letters and not {ARROW_COMMANDS[arrow] for arrow in arrows} <= {"R"}:
        return None
    if not letters:
        return "".join(ARROW_COMMANDS[arrow] for arrow in arrows) or None

    # Each of the others is a move in words, or moves in letters.
    moves = "".join(WORDS.get(word.lower(), word.upper()) for word in letters)
    return moves if set(moves) <= set(MOVES) else None


def _words(content: str) -> list[str] | None:
    """The words and arrows of an answer; None if it holds anything that is not part of a list of
    moves."""
    words = []
    position = 0
    while position < len(content):
        token = TOKEN.match(content, position)
        if token is None:
            return None
        word = token["word"]
        is_glue = word is None or word in STYLES or word.lower() in CONNECTIVES
        if not is_glue:
            words.append(word)
        position = token.end()
    return words


# --- Mazes ---


class Maze(NamedTuple):
    """Cells are numbered row by row."""

    side: int
    cells: str  # one character each: WALL or FREE
    start: int
    goal: int


def read(grid: list[str]) -> Maze:
    """The maze that these lines draw."""
    text = "".join(grid)
    cells = text.replace("S", FREE).replace("G", FREE)
    return Maze(len(grid), cells, text.index("S"), text.index("G"))


def draw(maze: Maze) -> list[str]:
    """The lines of the grid, with S and G.

    >>> draw(Maze(3, "...#.#...", 2, 8))
    ['..S', '#.#', '..G']
    """
    text = _text(maze)
    return [text[i : i + maze.side] for i in range(0, len(text), maze.side)]


def _text(maze: Maze) -> str:
    """All cells in one text, with S and G."""
    cells = list(maze.cells)
    cells[maze.start] = "S"
    cells[maze.goal] = "G"
    return "".join(cells)


def write_problem(maze: Maze, budget: int | str) -> str:
    """The maze in one line: start, goal, budget, and the grid, where every free cell has a name.

    >>> write_problem(Maze(3, "...#.#...", 2, 8), 6)
    'c>i 6: abc #e# ghi'
    """
    side = maze.side
    names = [WALL if cell == WALL else name for cell, name in zip(maze.cells, NAMES, strict=False)]
    lines = ["".join(names[i : i + side]) for i in range(0, len(names), side)]
    return f"{NAMES[maze.start]}>{NAMES[maze.goal]} {budget}: {' '.join(lines)}"


def walk(maze: Maze, moves: str) -> list[int]:
    """The cells on which the moves stand, from the start on. A move against a wall or the border
    stays where it is.

    >>> walk(Maze(3, "...#.#...", 2, 8), "RLD")
    [2, 2, 1, 4]
    """
    cells = [maze.start]
    for move in moves:
        cells.append(step(maze, cells[-1], move))
    return cells


def step(maze: Maze, cell: int, move: str) -> int:
    """The cell after one move."""
    beyond = neighbours(maze.side)[cell].get(move, cell)
    return cell if maze.cells[beyond] == WALL else beyond


@functools.cache
def neighbours(side: int) -> list[dict[str, int]]:
    """For each cell of an empty grid: move -> the cell that it leads to. A move out of the grid is
    left out."""
    cells = []
    for cell in range(side * side):
        row, column = divmod(cell, side)
        reached = {}
        for move, (down, right) in MOVES.items():
            if 0 <= row + down < side and 0 <= column + right < side:
                reached[move] = cell + down * side + right
        cells.append(reached)
    return cells


def distances(maze: Maze, target: int) -> list[int]:
    """The moves of the shortest way from each cell to the target; -1 where there is none. Breadth
    first."""
    moves = [-1] * len(maze.cells)
    moves[target] = 0
    # Cells in the order in which they are reached; it grows while it is read.
    queue = [target]
    for cell in queue:
        for beyond in neighbours(maze.side)[cell].values():
            if moves[beyond] < 0 and maze.cells[beyond] != WALL:
                moves[beyond] = moves[cell] + 1
                queue.append(beyond)
    return moves


def shortest_way(maze: Maze) -> str:
    """The moves of a shortest way; of several, the one that prefers U, then D, L and R.

    >>> shortest_way(Maze(3, "...#.#...", 2, 8))
    'LDDR'
    """
    to_goal = distances(maze, maze.goal)
    moves = []
    cell = maze.start
    while cell != maze.goal:
        move = good_moves(maze, cell, to_goal)[0]
        moves.append(move)
        cell = step(maze, cell, move)
    return "".join(moves)


def good_moves(maze: Maze, cell: int, to_goal: list[int]) -> list[str]:
    """The moves from a cell that begin a shortest way, given the distances to the goal."""
    reached = neighbours(maze.side)[cell]
    return [move for move, beyond in reached.items() if to_goal[beyond] == to_goal[cell] - 1]


# --- Drawing lots ---


def sample_maze(rng: random.Random, side: int, split: str) -> Maze:
    """A random maze of a split.

    Its shortest way has as many moves as the grid has rows, or more, and is longer than it would be
    without walls.
    """
    size = side * side
    while True:
        walls = rng.randint(round(FEWEST_WALLS * size), round(MOST_WALLS * size))
        cells = [WALL] * walls + [FREE] * (size - walls)
        rng.shuffle(cells)
        start = rng.choice([cell for cell in range(size) if cells[cell] == FREE])
        maze = Maze(side, "".join(cells), start, start)

        # The goal is any cell that is hard enough to reach.
        from_start = distances(maze, start)
        goals = [
            cell
            for cell in range(size)
            if from_start[cell] >= side and from_start[cell] > straight_distance(side, start, cell)
        ]
        if not goals:
            continue
        maze = maze._replace(goal=rng.choice(goals))
        if split_of(maze) == split:
            return maze


def straight_distance(side: int, one: int, other: int) -> int:
    """The moves from one cell to another if there were no walls."""
    row, column = divmod(one, side)
    other_row, other_column = divmod(other, side)
    return abs(row - other_row) + abs(column - other_column)


def canonical_form(maze: Maze) -> str:
    """One text for all mazes that are the same but for turns, reflections, and the direction of the
    way: the least of the sixteen drawings."""
    there = _text(maze)
    back = _text(maze._replace(start=maze.goal, goal=maze.start))
    views = _views(maze.side)
    return min("".join(view(drawing)) for drawing in (there, back) for view in views)


@functools.cache
def _views(side: int) -> list[Callable[[str], tuple[str, ...]]]:
    """The eight symmetries of the square. Each takes a drawing's cells in another order."""
    rows = [list(range(i, i + side)) for i in range(0, side * side, side)]
    views = []
    for _ in range(4):
        # A quarter turn, and its reflection.
        rows = [list(column) for column in zip(*rows[::-1], strict=True)]
        for drawing in (rows, rows[::-1]):
            views.append(operator.itemgetter(*itertools.chain.from_iterable(drawing)))
    return views


def split_of(maze: Maze) -> str:
    """The one split that a maze may be in, by its canonical form."""
    return splits.split_of(canonical_form(maze))
