"""The mazes: rows, splits, the score against a slow one, forms of answers, and the pupil."""

import functools
import itertools
import json
import random
import time

import pytest
import torch
from conftest import ROOT, TINY_BASE
from transformers import AutoModelForCausalLM, AutoTokenizer

from data import maze
from data.problems import encode_prompt, load_problems
from data.prompts import encode_row
from data.pupils import maze as pupil
from data.tiny_bases import PROMPT_TEMPLATE, TINY_BASES
from run.errors import BadInput
from train_treerpo import read_flags
from tree_sampler import TreeSampler

LEVELS = ["4", "5", "6", "7", "8"]
ROW = {"problem": "c>i 6: abc #e# ghi", "answer": "LDDR", "grid": ["..S", "#.#", "..G"]}
ROW["budget"] = 6


def boxed(moves: str) -> str:
    return f"\\boxed{{{moves}}}"


@functools.cache
def rows_of(split: str, level: str) -> list[dict]:
    return maze.problems(split, level)


def read_problem(problem: str) -> tuple[list[str], str]:
    """The drawing in a maze's line of text, and the budget."""
    start, goal, budget, *lines = problem.replace(">", " ").replace(":", "").split()
    names = "".join(lines)
    known = maze.NAMES[: len(names)]
    assert all(name in ("#", right) for name, right in zip(names, known, strict=True))
    assert start in names and goal in names
    letters = {"#": "#", start: "S", goal: "G"}
    drawing = [[letters.get(name, ".") for name in line] for line in lines]
    return ["".join(line) for line in drawing], budget


def slow_score(moves: str, row: dict) -> float:
    """By rows and columns, straight from the drawing and the rules."""
    drawing = [list(line) for line in row["grid"]]
    places = {drawing[r][c]: (r, c) for r in range(len(drawing)) for c in range(len(drawing))}
    r, c = places["S"]
    for move in moves:
        new_r = r + (move == "D") - (move == "U")
        new_c = c + (move == "R") - (move == "L")
        is_inside = 0 <= new_r < len(drawing) and 0 <= new_c < len(drawing)
        if is_inside and drawing[new_r][new_c] != "#":
            r, c = new_r, new_c
    return float(0 < len(moves) <= row["budget"] and (r, c) == places["G"])


def slow_forms(row: dict) -> set[tuple]:
    """All drawings that are the same maze but for turns, reflections and direction."""
    forms = set()
    swap = str.maketrans("SG", "GS")
    for lines in (row["grid"], [line.translate(swap) for line in row["grid"]]):
        drawing = [tuple(line) for line in lines]
        for _ in range(4):
            drawing = list(zip(*drawing[::-1], strict=True))
            forms |= {tuple(drawing), tuple(drawing[::-1])}
    return forms


# --- Rows ---


@pytest.mark.parametrize("level", LEVELS)
def test_rows_of_a_level(level):
    rows = rows_of("test", level)
    assert len(rows) == 1000 and rows == load_problems(f"maze:{level}", "test")
    assert json.loads(json.dumps(rows)) == rows
    assert len({row["id"] for row in rows}) == len({row["problem"] for row in rows}) == 1000
    side = int(level)
    for row in rows[:200]:
        assert len(row["grid"]) == side and {len(line) for line in row["grid"]} == {side}
        assert "".join(row["grid"]).count("S") == "".join(row["grid"]).count("G") == 1
        # The drawing and the line of names are the same maze.
        assert read_problem(row["problem"]) == (row["grid"], str(row["budget"]))


def test_stored_answers_are_shortest_and_no_maze_is_trivial():
    for row in rows_of("test", "4")[:20]:
        shortest = len(row["answer"])
        assert row["budget"] == shortest + 2
        assert maze.score(boxed(row["answer"]), row) == slow_score(row["answer"], row) == 1.0
        assert shortest >= 4
        # No shorter text of moves leads to the goal: all of them are tried, up to 6 moves.
        for length in range(1, min(shortest, 7)):
            for moves in itertools.product("UDLR", repeat=length):
                assert slow_score("".join(moves), row) == 0.0
        # The way is longer than it would be without walls.
        open_grid = [line.replace("#", ".") for line in row["grid"]]
        open_maze = maze.read(open_grid)
        assert len(maze.shortest_way(open_maze)) < shortest


def test_the_default_level_is_4():
    assert maze.problems("test") == rows_of("test", "4")


@pytest.mark.parametrize("level", ["", "3", "9", "04", "4.0", "x", "4:5", " 4"])
def test_a_level_that_is_none(level):
    with pytest.raises(BadInput, match="4 to 8"):
        load_problems(f"maze:{level}", "test")


@pytest.mark.parametrize("level", ["4", "6", "8"])
def test_splits_share_no_maze(level):
    assert len(rows_of("train", level)) == 4000
    # The least of the sixteen forms of each row.
    train = {min(slow_forms(row)) for row in rows_of("train", level)}
    test = {min(slow_forms(row)) for row in rows_of("test", level)}
    assert train.isdisjoint(test)


def test_the_pupil_sees_no_maze_of_a_split():
    rows = rows_of("train", "4") + rows_of("test", "4")
    known = {min(slow_forms(row)) for row in rows}
    rng = random.Random(0)
    for _ in range(500):
        grid, _ = read_problem(pupil.write(rng, 0.5).problem)
        assert min(slow_forms({"grid": grid})) not in known


def test_a_canonical_form_is_that_of_all_sixteen_drawings():
    for row in rows_of("test", "5")[:20]:
        drawings = [["".join(line) for line in form] for form in slow_forms(row)]
        assert len({maze.canonical_form(maze.read(drawing)) for drawing in drawings}) == 1


# --- The score ---


def test_the_score_is_that_of_a_slow_one():
    rng = random.Random(0)
    seen = {0.0: 0, 1.0: 0}
    for row in rows_of("test", "4")[:100] + rows_of("test", "7")[:50]:
        for _ in range(40):
            # A right answer with a few moves changed, left out or put in.
            moves = list(row["answer"])
            for _ in range(rng.randint(0, 3)):
                place = rng.randrange(len(moves) + 1)
                moves[place : place + rng.randint(0, 2)] = rng.choices("UDLR", k=rng.randint(0, 2))
            text = "".join(moves)
            expected = slow_score(text, row)
            assert maze.score(boxed(text), row) == expected, (row["grid"], text)
            seen[expected] += 1
    assert min(seen.values()) > 500


@pytest.mark.parametrize(
    "moves, right",
    [
        ("LDDR", True),
        ("LDDUDR", True),  # there and back, within the budget
        ("RULDDR", True),  # twice against the border, then the way
        ("LLDRDR", False),  # L, then D, are lost on the wall; R leads back
        ("LDDRLR", True),  # past the goal, and back
        ("LDDRLRLR", False),  # ends on the goal, but 8 moves
        ("LDDRL", False),  # past the goal
        ("LDD", False),  # stops early
        ("DDDD", False),  # through the wall
    ],
)
def test_a_walk(moves, right):
    assert maze.score(boxed(moves), ROW) == float(right) == slow_score(moves, ROW)


@pytest.mark.parametrize(
    "text",
    [
        r"\boxed{LDDR}",
        r"We go left, then down twice, then right: $\boxed{LDDR}$.",
        r"\boxed{L D D R}",
        r"\boxed{L, D, D, R}",
        r"\boxed{L,D,D,R.}",
        r"\boxed{lddr}",
        r"\boxed{\text{LDDR}}",
        r"\boxed{\texttt{L D D R}}",
        r"\boxed{\text{L, D, D, R}}",
        r"\boxed{\text{L}\ \text{D}\,\text{D}\quad\text{R}}",
        r"\boxed{\mathrm{LDDR}}",
        r"\boxed{[L, D, D, R]}",
        r"\boxed{\left[ L, D, D, R \right]}",
        r"\boxed{['L', 'D', 'D', 'R']}",
        r"\boxed{(L, D, D, R)}",
        r"\boxed{\{L, D, D, R\}}",
        r"\boxed{L-D-D-R}",
        r"\boxed{LD DR}",
        r"\boxed{left, down, down, right}",
        r"\boxed{Left Down Down Right}",
        r"\boxed{\text{left, then down, down, and right}}",
        r"\boxed{L → D → D → R}",
        r"\boxed{L -> D -> D -> R}",
        r"\boxed{L \rightarrow D \to D \to R}",
        r"\boxed{\text{Left} \rightarrow \text{Down} \rightarrow \text{Down} \rightarrow Right}",
        r"\boxed{←↓↓→}",
        r"\boxed{← ↓ ↓ →}",
        r"\boxed{⬅️⬇️⬇️➡️}",
        r"\boxed{\leftarrow\downarrow\downarrow\rightarrow}",
        r"\boxed{\leftarrow, \downarrow, \downarrow, \rightarrow}",
        "\\boxed{\nL(b)\nD(e)\nD(h)\nR(i)\n}",
        r"\boxed{L (0,1), D (1,1), D (2,1), R (2, 2)}",
        r"\boxed{DDDD} is blocked. Wait, that fails. \boxed{LDDR}",
        r"<think>\boxed{DD}</think> \boxed{LDDR}",
        "The answer is LDDR.",
        "The answer is: left, down, down, right",
        "#### LDDR",
        "**Final answer:** LDDR",
        "The answer is ←↓↓→.",
    ],
)
def test_forms_in_which_models_write_moves(text):
    assert maze.answer(text) == "LDDR" and maze.score(text, ROW) == 1.0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "LDDR",
        r"\boxed{}",
        r"\boxed{LDDR",
        r"<think>\boxed{LDDR}",
        r"\boxed{LDDR or DDDD}",
        r"\boxed{LDDR} or \boxed{DDDD}",
        r"\boxed{L}, \boxed{D}, \boxed{D}, \boxed{R}",
        r"\boxed{L2DR}",
        r"\boxed{L 2D R}",
        r"\boxed{L(b)(b)D}",
        r"\boxed{L ↓ ↓ R}",  # letters and arrows: which are the moves?
        r"\boxed{LDXDR}",
        r"\boxed{left, left-down, around, right!}",
        r"\boxed{4}",
        r"\boxed{__import__('os')}",
        "\\boxed{\ud800}",
        r"\boxed{ＬＤＤＲ}",
        r"\boxed{" * 500,
        r"\boxed{\rightarrow" + "{" * 5000 + "}" * 5001,
    ],
)
def test_texts_that_hold_no_moves(text):
    assert maze.answer(text) is None and maze.score(text, ROW) == 0.0


@pytest.mark.parametrize(
    "text",
    [
        boxed("R" * 10**6),
        boxed("R " * 500_000),
        boxed("R" + " " * 10**6),
        boxed("R(" * 500_000),
        boxed("\\rightarrow" * 90_000),
        boxed("→" * 10**6),
        "→" * 10**6,
        "\\boxed{" * 140_000,
        "\\boxed{R}" * 110_000,
        "\x00" * 10**6,
        "(" * 10**6,
    ],
    ids=range(11),
)
def test_a_megabyte_of_anything_is_wrong_and_quick(text):
    start = time.process_time()
    assert maze.score(text, ROW) == 0.0
    assert time.process_time() - start < 3


def test_equal_answers_are_spelled_alike():
    texts = (r"\boxed{\text{l, d}}", r"\boxed{←↓}", "\\boxed{\nL(b)\nD(e)\n}")
    assert {maze.answer(text) for text in texts} == {"LD"}


# --- Prompts ---


def test_a_chat_prompt_shows_the_maze_the_budget_and_the_form():
    system, user = maze.prompt(ROW)
    assert system["role"] == "system" and "\\boxed{" in system["content"]
    assert "\n..S\n#.#\n..G\n" in user["content"] and "at most 6 moves" in user["content"]


def test_a_tokenizer_without_chat_template_gets_everything_too():
    tokenizer = AutoTokenizer.from_pretrained(TINY_BASE)
    text = tokenizer.decode(encode_row(tokenizer, maze, ROW))
    assert "\n..S\n#.#\n..G\n" in text and "at most 6 moves" in text


# --- The pupil and his base ---


def test_the_pupils_texts():
    rng = random.Random(0)
    scores = []
    for _ in range(1000):
        document = pupil.write(rng, 0.0)
        assert document.is_whole and len(document.text) < 80
        moves = maze.answer(document.text)
        assert 1 <= len(moves) <= pupil.LONGEST_WALK
        grid, budget = read_problem(document.problem)
        drawn = maze.read(grid)
        scores.append(maze.score(document.text, {"grid": grid, "budget": int(budget)}))
        # The cells that he writes are those on which he stands.
        written = [line[2] for line in document.text.split("\n")[1:-1]]
        assert written == [maze.NAMES[cell] for cell in maze.walk(drawn, moves)[1:]]
    assert 0.1 < sum(scores) / len(scores) < 0.35


def test_drills_are_careful_walks():
    rng = random.Random(0)
    within_budget = 0
    for _ in range(300):
        document = pupil.write(rng, 1.0)
        grid, budget = read_problem(document.problem)
        assert budget == "?"
        drawn = maze.read(grid)
        moves = maze.answer(document.text)
        cells = maze.walk(drawn, moves)
        assert cells[-1] == drawn.goal and drawn.goal not in cells[:-1]
        # No move is lost on a wall.
        assert all(one != other for one, other in itertools.pairwise(cells))
        within_budget += len(moves) <= len(maze.shortest_way(drawn)) + maze.SPARE
    assert within_budget / 300 > 0.75


def test_the_tiny_base_is_careless_and_has_room():
    tokenizer = AutoTokenizer.from_pretrained(TINY_BASES["maze"])
    model = AutoModelForCausalLM.from_pretrained(TINY_BASES["maze"]).eval()
    rows = rows_of("test", "4")[:64]
    prompts = [encode_prompt(tokenizer, row["problem"], PROMPT_TEMPLATE) for row in rows]
    sampler = TreeSampler(model, tokenizer, branching=16, depth=1, step_tokens=72, max_rows=512)
    with torch.no_grad():
        trees = sampler.sample(prompts, seeds=list(range(64)))
    shares = []
    for row, tree in zip(rows, trees, strict=True):
        texts = [tokenizer.decode(tree.completion_ids(leaf)) for leaf in tree.leaves()]
        texts = [text.removesuffix(tokenizer.eos_token) for text in texts]
        shares.append(sum(maze.score(text, row) for text in texts) / len(texts))
    assert 0.1 < sum(shares) / 64 < 0.35
    assert sum(share > 0 for share in shares) / 64 >= 0.7


def test_the_recipe():
    flags = read_flags(["--config", str(ROOT / "recipes" / "maze.yaml")])
    assert flags.dataset_name == "maze" and flags.scale_rewards == "variance"
    # A walk of 11 moves fits: five tokens each, two before the first, and two after the last.
    assert len(flags.branching) * flags.step_tokens >= 59
