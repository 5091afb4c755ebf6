"""The small sudoku: its problems, its verifier against a slow one, its pupil and its base."""

import functools
import itertools
import random
import re
from collections import Counter

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from data import sudoku4
from data.problems import encode_row, template_for
from data.pupils import sudoku4 as pupil
from data.tiny_bases import TINY_BASES
from run.errors import BadInput

SOLVED = "1324 2413 3142 4231"
ROW = {"problem": "1..4 .4.. ..4. 4..1", "answer": SOLVED}


@functools.cache
def rows_of(split: str, level: str | None = None) -> list[dict]:
    return sudoku4.problems(split, level)


# --- Slow, obvious versions ---


def units() -> list[list[tuple[int, int]]]:
    """The rows, the columns and the boxes, each as its four places."""
    rows = [[(row, column) for column in range(4)] for row in range(4)]
    columns = [[(row, column) for row in range(4)] for column in range(4)]
    boxes = [
        [(top + down, left + right) for down in (0, 1) for right in (0, 1)]
        for top in (0, 2)
        for left in (0, 2)
    ]
    return rows + columns + boxes


def slow_score(grid: str, clues: str) -> float:
    """The score of a grid in the form `1324 2413 3142 4231`, straight from the rules."""
    lines = grid.split()
    if [len(line) for line in lines] != [4, 4, 4, 4]:
        return 0.0
    for unit in units():
        if sorted(lines[row][column] for row, column in unit) != ["1", "2", "3", "4"]:
            return 0.0
    return float(all(clue in (".", cell) for clue, cell in zip(clues, grid)))


def slow_solutions(clues: str) -> list[str]:
    """The full grids that agree with the clues, by trying all digits in all empty cells."""
    place = clues.find(".")
    if place < 0:
        return [clues] if slow_score(clues, clues) else []
    filled = (clues[:place] + digit + clues[place + 1 :] for digit in "1234")
    return [grid for attempt in filled for grid in slow_solutions(attempt)]


def boxed(grid: str) -> str:
    return f"\\boxed{{{grid}}}"


# --- Grids and problems ---


def test_the_full_grids_are_those_of_the_rules():
    lines = ["".join(line) for line in itertools.permutations("1234")]
    # Only rows that go together two by two make a grid.
    pairs = [
        f"{above} {below}"
        for above in lines
        for below in lines
        if not set(above[:2]) & set(below[:2])
    ]
    grids = [f"{top} {bottom}" for top in pairs for bottom in pairs]
    right = {grid.replace(" ", "") for grid in grids if slow_score(grid, "." * 19)}
    assert set(sudoku4.full_grids()) == right
    assert len(sudoku4.full_grids()) == 288


@pytest.mark.parametrize("level", [None, "4"])
def test_every_problem_has_one_solution_its_answer(level):
    empty = int(level or 8)
    for split, count in (("train", 4000), ("test", 1000)):
        rows = rows_of(split, level)
        assert len(rows) == len({row["problem"] for row in rows}) == count
        assert len({row["id"] for row in rows}) == count
        for row in rows:
            assert row["problem"].count(".") == empty
            assert sudoku4.score(boxed(row["answer"]), row) == 1.0
            assert sudoku4.answer(boxed(row["answer"])) == row["answer"]
        for row in rows[:3]:
            # Trial and error gets no more than 5 empty cells.
            clues = list(row["problem"])
            places = [place for place, clue in enumerate(clues) if clue == "."]
            for place in places[5:]:
                clues[place] = row["answer"][place]
            assert slow_solutions("".join(clues)) == [row["answer"]]


def test_the_hardest_level_has_four_clues():
    rng = random.Random(0)
    for _ in range(20):
        clues = sudoku4.sample_clues(rng, 12, "test")
        assert clues.count(".") == 12 and len(sudoku4.solutions(clues)) == 1


def test_the_solutions_are_those_of_trial_and_error():
    rng = random.Random(0)
    for _ in range(40):
        clues = list(rng.choice(sudoku4.full_grids()))
        for cell in rng.sample(range(16), 5):
            clues[cell] = "."
        clues = "".join(clues)
        found = [sudoku4.in_rows(grid) for grid in sudoku4.solutions(clues)]
        assert sorted(found) == sorted(slow_solutions(sudoku4.in_rows(clues)))


def test_problems_are_the_same_every_time():
    assert sudoku4.problems("train", "8") == rows_of("train")
    first = rows_of("test")[0]
    assert first["id"] == "sudoku4/8/test/0"
    assert first["problem"] == ".2.1 .34. 3..4 24.."


def test_splits_share_no_problem_under_any_names_of_the_digits():
    rng = random.Random(1)
    renamings = [str.maketrans("1234", "".join(names)) for names in itertools.permutations("1234")]
    # The levels share none anyway: their problems differ in the number of clues.
    for level in ("4", "8"):
        train = {row["problem"] for row in rows_of("train", level)}
        test = {row["problem"] for row in rows_of("test", level)}
        base = {sudoku4.in_rows(sudoku4.sample_clues(rng, int(level), "base")) for _ in range(100)}
        for names in renamings:
            renamed = {problem.translate(names) for problem in test}
            assert not train & renamed and not base & renamed
            assert not base & {problem.translate(names) for problem in train}


@pytest.mark.parametrize("level", ["", "3", "13", "08", "8.0", "-8", "all", "²"])
def test_other_levels_are_refused(level):
    with pytest.raises(BadInput, match=r"no such level; there are 4 to 12 empty cells; default 8"):
        sudoku4.problems("train", level)


def test_the_prompt_holds_the_grid_and_the_form_of_the_answer():
    system, user = sudoku4.prompt(ROW)
    assert "\\boxed{}" in system["content"]
    assert user["content"].endswith("1 . . 4\n. 4 . .\n. . 4 .\n4 . . 1")
    assert "\\boxed{}" in sudoku4.PROMPT_TEMPLATE and "{problem}" in sudoku4.PROMPT_TEMPLATE


# --- The verifier ---


def test_the_score_of_mutations_is_that_of_the_rules():
    rng = random.Random(2)
    rows = rows_of("test")[:300]
    scores = Counter()
    for row in rows:
        # Another problem's grid, and this one's with two cells exchanged or one changed.
        place, other = rng.sample([i for i in range(19) if row["answer"][i] != " "], 2)
        exchanged = list(row["answer"])
        exchanged[place], exchanged[other] = exchanged[other], exchanged[place]
        changed = list(row["answer"])
        changed[place] = rng.choice("1234")
        for grid in (rng.choice(rows)["answer"], "".join(exchanged), "".join(changed)):
            right = slow_score(grid, row["problem"])
            assert sudoku4.score(boxed(grid), row) == right
            scores[right] += 1
    assert scores[0.0] > 100 and scores[1.0] > 20


def test_any_solution_is_right_and_clues_must_be_kept():
    free = {"problem": "1... .... .... ...."}
    right = {
        grid for grid in sudoku4.full_grids() if sudoku4.score(boxed(sudoku4.in_rows(grid)), free)
    }
    assert right == {grid for grid in sudoku4.full_grids() if grid[0] == "1"}


RIGHT_FORMS = [
    r"\boxed{1324241331424231}",
    r"\boxed{1324 2413 3142 4231}",
    "\\boxed{\n1 3 2 4\n2 4 1 3\n3 1 4 2\n4 2 3 1\n}",
    r"\boxed{1324, 2413, 3142, 4231}",
    r"\boxed{1324/2413/3142/4231}",
    r"\boxed{1324|2413|3142|4231}",
    r"\boxed{1\,3\,2\,4 \\ 2\,4\,1\,3 \\ 3\,1\,4\,2 \\ 4\,2\,3\,1}",
    r"\boxed{1324 \quad 2413 \quad 3142 \quad 4231}",
    r"\boxed{\text{1324 2413 3142 4231}}",
    r"\boxed{\texttt{1324}\ \texttt{2413}\ \texttt{3142}\ \texttt{4231}}",
    r"\boxed{[[1,3,2,4],[2,4,1,3],[3,1,4,2],[4,2,3,1]]}",
    r'\boxed{["1324", "2413", "3142", "4231"]}',
    r"\boxed{\{1324; 2413; 3142; 4231\}}",
    r"\boxed{\begin{array}{cccc} 1&3&2&4 \\ 2&4&1&3 \\ 3&1&4&2 \\ 4&2&3&1 \end{array}}",
    r"\boxed{\begin{array}{|c|c||c|c|}\hline 1&3&2&4 \\[4pt] \hline 2&4&1&3 \\ \cline{1-4} "
    r"3&1&4&2 \\ 4&2&3&1 \\ \hline\end{array}}",
    r"\boxed{\begin{array}[t]{*{4}{c}} 1&3&2&4 \\ 2&4&1&3 \\ 3&1&4&2 \\ 4&2&3&1 \end{array}}",
    r"\boxed{\begin{tabular}{|c|c|c|c|} 1&3&2&4 \\ 2&4&1&3 \\ 3&1&4&2 \\ 4&2&3&1 \end{tabular}}",
    r"$$\boxed{\begin{bmatrix} 1 & 3 & 2 & 4 \\ 2 & 4 & 1 & 3 \\ 3 & 1 & 4 & 2 \\ 4 & 2 & 3 & 1"
    r" \end{bmatrix}}$$",
    r"\boxed{\left[\begin{matrix}1&3&2&4\\2&4&1&3\\3&1&4&2\\4&2&3&1\end{matrix}\right]}",
    r"\[\boxed{\begin{aligned}&1324\\&2413\\&3142\\&4231\end{aligned}}\]",
    "\\boxed{\n| 1 | 3 | 2 | 4 |\n|---|---|---|---|\n| 2 | 4 | 1 | 3 |\n| 3 | 1 | 4 | 2 |\n"
    "| 4 | 2 | 3 | 1 |\n}",
    "\\boxed{\n┌──┬──┐\n│13│24│\n│24│13│\n├──┼──┤\n│31│42│\n│42│31│\n└──┴──┘\n}",
    r"\boxed{1324 \mid 2413 \mid 3142 \mid 4231}",
    r"\boxed{1324 2413 3142 4231}. This keeps all clues.",
    "<think>Perhaps \\boxed{1111 2222 3333 4444}?</think>\nThe grid: \\boxed{1324 2413 3142 4231}",
    r"\boxed{1342 2413 3124 4231} Wait, column 3 is wrong. \boxed{1324 2413 3142 4231}",
    "The answer is 1324 2413 3142 4231.",
]
WRONG_FORMS = [
    "",
    "1324 2413 3142 4231",  # commits to nothing
    r"\boxed{}",
    r"\boxed{1324 2413 3142 4231",  # cut off
    r"\boxed{1324 2413 3142 423}",
    r"\boxed{1324 2413 3142 42311}",
    r"\boxed{1324 2413 3142 4235}",
    r"\boxed{1324 2413 3142 423x}",
    r"\boxed{1324 2413 3142 42.31}",
    r"\boxed{1324 2413 3142 4231 \text{ or } 1324 2413 3142 4213}",
    r"\boxed{1324 2413 3142 4231} or \boxed{1324 2413 3142 4213}",
    r"\boxed{1..4 .4.. ..4. 4..1}",
    r"\boxed{A1B3C2D4 E2F4G1H3 I3J1K4L2 M4N2O3P1}",
    r"\boxed{1: 1324, 2: 2413, 3: 3142, 4: 4231}",
    "\\boxed{１３２４ ２４１３ ３１４２ ４２３１}",
    "<think>\\boxed{1324 2413 3142 4231}",
    r"\boxed{1324 2413 3142 4231} Wait, no: \boxed{1324 2413 3142 4213}",
    # A full grid that breaks no rule, of other clues.
    r"\boxed{2314 1423 3241 4132}",
]


@pytest.mark.parametrize("completion", RIGHT_FORMS)
def test_a_right_grid_counts_in_any_layout(completion):
    assert sudoku4.score(completion, ROW) == 1.0
    assert sudoku4.answer(completion) == SOLVED


@pytest.mark.parametrize("completion", WRONG_FORMS)
def test_anything_else_is_wrong(completion):
    assert sudoku4.score(completion, ROW) == 0.0


def test_the_answer_is_the_grid_right_or_wrong():
    assert sudoku4.answer(r"\boxed{1111 2222 3333 4444}") == "1111 2222 3333 4444"
    assert sudoku4.answer(r"\boxed{17}") is None
    assert sudoku4.answer("So.") is None


MEGABYTE = 1 << 20
HOSTILE = [
    "\ud800",
    "\x00" * MEGABYTE,
    "1" * MEGABYTE,
    boxed("1" * MEGABYTE),
    boxed("1 " * (MEGABYTE // 2)),
    "\\boxed{" * (MEGABYTE // 7),
    "{" * MEGABYTE + "\\boxed{1}",
    boxed("\\begin{array}{" * 60),
    boxed("\\begin{array}" + "{" * 900),
    boxed("\\begin{array}{" + "{c}" * 300),
    boxed("\\begin{array}{" + "c" * 900),
    boxed("\\\\[" * 300),
    boxed("\\cline{" * 120),
    boxed("\\" * 999),
    "the answer is " * (MEGABYTE // 14),
    boxed("__import__('os')"),
    boxed("9" * 999),
]


@pytest.mark.parametrize("completion", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_is_wrong_at_once(completion):
    assert sudoku4.score(completion, ROW) == 0.0


# --- The careless pupil ---


def test_the_pupil_is_right_now_and_then():
    rng = random.Random(3)
    rights = []
    for row in rows_of("test")[:100]:
        clues = row["problem"].replace(" ", "")
        texts = [pupil.write_solution(clues, rng) for _ in range(16)]
        rights.append([sudoku4.score(text, row) for text in texts])
    # The base, which learns from him, slips more often.
    assert 0.2 < sum(map(sum, rights)) / 1600 < 0.7
    assert sum(map(any, rights)) / 100 > 0.7


def test_the_pupil_writes_grids_that_keep_what_stands_there():
    rng = random.Random(4)
    for row in rows_of("train")[:100]:
        before = row["problem"]
        *lines, last = pupil.write_solution(before.replace(" ", ""), rng).split("\n")
        for line in [*lines, sudoku4.answer(last)]:
            assert re.fullmatch("[1-4.]{4}( [1-4.]{4}){3}", line)
            assert all(old in (".", new) for old, new in zip(before, line))
            before = line
        assert "." not in before and last == boxed(before)


def test_a_careful_pupil_is_always_right(monkeypatch):
    for habit in ("ROW_ONLY", "GUESSES", "OVERLOOKS", "BOXES_EARLY"):
        monkeypatch.setattr(pupil, habit, 0)
    rng = random.Random(5)
    for row in rows_of("train")[:100]:
        text = pupil.write_solution(row["problem"].replace(" ", ""), rng)
        assert sudoku4.score(text, row) == 1.0


def test_the_pupil_sees_problems_of_the_base_alone():
    rng = random.Random(6)
    for _ in range(100):
        document = pupil.write(rng, 0.0)
        assert sudoku4.split_of(document.problem.replace(" ", "")) == "base"
        assert document.is_whole and len(document.text) <= 6 * 20 + 8


# --- The tiny base ---


def test_the_base_is_right_now_and_then():
    tokenizer = AutoTokenizer.from_pretrained(TINY_BASES["sudoku4"])
    model = AutoModelForCausalLM.from_pretrained(TINY_BASES["sudoku4"])
    rows = rows_of("test")[:200]
    template = template_for(None, tokenizer)
    # All prompts have one length.
    prompts = torch.tensor([encode_row(tokenizer, sudoku4, row, template) for row in rows])
    torch.manual_seed(0)
    generated = model.generate(
        prompts,  # [rows, prompt tokens]
        attention_mask=torch.ones_like(prompts),
        do_sample=True,
        top_k=0,
        max_new_tokens=128,
    )
    texts = tokenizer.batch_decode(generated[:, prompts.shape[1] :], skip_special_tokens=True)
    scores = [sudoku4.score(text, row) for text, row in zip(texts, rows)]
    assert 0.1 < sum(scores) / len(scores) < 0.4
    # It writes as the pupil does.
    line = re.compile(r"[1-4.]{4}( [1-4.]{4}){3}|\\boxed\{.*")
    assert sum(bool(line.fullmatch(text.split("\n")[0])) for text in texts) > 190
