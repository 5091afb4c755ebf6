"""The careless pupil of the mazes.

He opens the box and walks: a move on each line, with the cell that it leads to, which is always
right. A careful move goes to a free cell where he has not been, of these to one nearest to the
goal, and from a dead end back the way he came. Such a walk finds most goals within the budget. He
is careful throughout in drills, where the budget is a question mark. Elsewhere he is careful at
some moves only. At the others he heads straight for the goal through the walls, turns back, repeats
himself, or tries any direction. He may give up too early, or walk on past the goal, and he does not
count his moves. He sees mazes of the split "base" only, which shares none with the others.
"""

import random

from data import maze
from data.maze import Maze
from data.pupils.common import Document, Phase

# Of the moves in one text, the careful ones are a share between these.
LEAST_CARE = 0.25
MOST_CARE = 0.55
# How often he has each habit at the others. "any" is any of the four directions.
HABITS = {"straight on": 0.7, "back": 0.1, "the same again": 0.08, "any": 0.12}
GIVES_UP = 0.03
WALKS_ON = 0.1
LONGEST_WALK = 13
PHASES = (
    Phase(updates=1500, rate=0.02, drills=0.5),
    Phase(updates=400, rate=0.006, drills=0.3),
    Phase(updates=700, rate=0.02, drills=0.4),
    Phase(updates=500, rate=0.01, drills=0.4),
)
ROWS = 16
LENGTH = 128
# 0.42 million parameters.
SIZE = {
    "hidden_size": 96,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
SHARPENED = 1.2


def write(rng: random.Random, drills: float) -> Document:
    """A drill, as often as `drills` says, or a walk of mixed care."""
    drawn = maze.sample_maze(rng, maze.DEFAULT_SIDE, "base")
    if rng.random() < drills:
        problem = maze.write_problem(drawn, "?")
        return Document(problem, write_careful_walk(drawn, rng), is_whole=True)
    budget = len(maze.shortest_way(drawn)) + maze.SPARE
    problem = maze.write_problem(drawn, budget)
    return Document(problem, write_walk(drawn, rng), is_whole=True)


def write_careful_walk(drawn: Maze, rng: random.Random) -> str:
    """A walk of careful moves alone. It ends at the goal."""
    moves = []
    cells = [drawn.start]
    while cells[-1] != drawn.goal:
        moves.append(careful_move(drawn, cells, rng))
        cells.append(maze.step(drawn, cells[-1], moves[-1]))
    return write_moves(drawn, moves)


def write_walk(drawn: Maze, rng: random.Random) -> str:
    """A completion as the pupil writes it."""
    care = rng.uniform(LEAST_CARE, MOST_CARE)
    moves: list[str] = []
    cells = [drawn.start]
    while len(moves) < LONGEST_WALK:
        stops = 1 - WALKS_ON if cells[-1] == drawn.goal else GIVES_UP
        if moves and rng.random() < stops:
            break
        if rng.random() < care:
            move = careful_move(drawn, cells, rng)
        else:
            move = careless_move(drawn, cells, moves, rng)
        moves.append(move)
        cells.append(maze.step(drawn, cells[-1], move))
    return write_moves(drawn, moves)


def careful_move(drawn: Maze, cells: list[int], rng: random.Random) -> str:
    """To a new free cell, the nearest to the goal as if there were no walls; or back."""
    here = cells[-1]
    free = {
        move: beyond
        for move, beyond in maze.neighbours(drawn.side)[here].items()
        if drawn.cells[beyond] != maze.WALL
    }
    left = {
        move: maze.straight_distance(drawn.side, beyond, drawn.goal)
        for move, beyond in free.items()
        if beyond not in cells
    }
    if left:
        nearest = min(left.values())
        return rng.choice([move for move in left if left[move] == nearest])

    # A dead end: back to the cell from which he first came here.
    first = cells.index(here)
    if first > 0:
        return next(move for move, beyond in free.items() if beyond == cells[first - 1])
    return rng.choice(list(free))


def careless_move(drawn: Maze, cells: list[int], moves: list[str], rng: random.Random) -> str:
    """A move of one of the careless habits, given the cells and the moves so far."""
    (habit,) = rng.choices(list(HABITS), list(HABITS.values()))
    reached = maze.neighbours(drawn.side)[cells[-1]]
    if habit == "straight on":
        # Nearer to the goal, as if there were no walls.
        here = maze.straight_distance(drawn.side, cells[-1], drawn.goal)
        nearer = [
            move
            for move, beyond in reached.items()
            if maze.straight_distance(drawn.side, beyond, drawn.goal) < here
        ]
        if nearer:
            return rng.choice(nearer)
    if habit == "back" and len(cells) > 1 and cells[-2] != cells[-1]:
        return next(move for move, beyond in reached.items() if beyond == cells[-2])
    if habit == "the same again" and moves:
        return moves[-1]
    return rng.choice("UDLR")


def write_moves(drawn: Maze, moves: list[str]) -> str:
    """The moves in a box, each on a line with the cell that it leads to."""
    cells = maze.walk(drawn, "".join(moves))[1:]
    lines = [f"{move}({maze.NAMES[cell]})\n" for move, cell in zip(moves, cells, strict=True)]
    return "\\boxed{\n" + "".join(lines) + "}"
