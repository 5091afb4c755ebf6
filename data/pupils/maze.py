"""The careless pupil of the mazes.

He opens the box and walks: a move on each line, with the cell that it leads to. He knows the maze:
the cell is always right, and in a drill, where the budget is a question mark, each move is along a
shortest way. Elsewhere he is careful at some of his moves only. At the others he tries any
direction, heads straight for the goal through the walls, turns back, or repeats himself. He may
give up too early, or walk on past the goal, and he does not count his moves. He sees mazes of the
split "base" only, which shares none with the others.
"""

import random

from data import maze
from data.maze import Maze
from data.pupils.common import Document, Phase

# Of the moves in one text, the careful ones are a share between these.
LEAST_CARE = 0.15
MOST_CARE = 0.45
# How often he has each habit at the others. "any" is any of the four directions.
HABITS = {"straight on": 0.7, "back": 0.1, "the same again": 0.08, "any": 0.12}
GIVES_UP = 0.03
WALKS_ON = 0.1
LONGEST_WALK = 13
PHASES = (Phase(updates=1100, rate=0.02, drills=0.6), Phase(updates=400, rate=0.008, drills=0.4))
ROWS = 32
LENGTH = 128
# 0.42 million parameters.
SIZE = {
    "hidden_size": 96,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
SHARPENED = 1.1


def write(rng: random.Random, drills: float) -> Document:
    """A drill, as often as `drills` says, or a walk."""
    if rng.random() < drills:
        return write_drill(rng)
    drawn = maze.sample_maze(rng, maze.DEFAULT_SIDE, "base")
    to_goal = maze.distances(drawn, drawn.goal)
    problem = maze.write_problem(drawn, to_goal[drawn.start] + maze.SPARE)
    return Document(problem, write_walk(drawn, to_goal, rng), is_whole=True)


def write_drill(rng: random.Random) -> Document:
    """A shortest way, between any two cells of a maze."""
    drawn = maze.sample_maze(rng, maze.DEFAULT_SIDE, "base")
    while True:
        start, goal = rng.sample(range(len(drawn.cells)), 2)
        drill = drawn._replace(start=start, goal=goal)
        to_goal = maze.distances(drill, goal)
        is_possible = drill.cells[goal] != maze.WALL and to_goal[start] > 0
        if is_possible and maze.split_of(drill) == "base":
            break

    moves = []
    cell = start
    while cell != goal:
        moves.append(rng.choice(maze.good_moves(drill, cell, to_goal)))
        cell = maze.step(drill, cell, moves[-1])
    return Document(maze.write_problem(drill, "?"), write_moves(drill, moves), is_whole=True)


def write_walk(drawn: Maze, to_goal: list[int], rng: random.Random) -> str:
    """A completion as the pupil writes it, given the distances to the goal."""
    care = rng.uniform(LEAST_CARE, MOST_CARE)
    moves: list[str] = []
    cells = [drawn.start]
    while len(moves) < LONGEST_WALK:
        stops = 1 - WALKS_ON if cells[-1] == drawn.goal else GIVES_UP
        if moves and rng.random() < stops:
            break
        is_careful = rng.random() < care and cells[-1] != drawn.goal
        if is_careful:
            move = rng.choice(maze.good_moves(drawn, cells[-1], to_goal))
        else:
            move = careless_move(drawn, cells, moves, rng)
        moves.append(move)
        cells.append(maze.step(drawn, cells[-1], move))
    return write_moves(drawn, moves)


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
