"""The exam: its problems, its marks against a slow count, its pupil and its base."""

import random
import re

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from data import chain, exam
from data.chain import Chain
from data.problems import encode_row, template_for
from data.pupils import exam as pupil
from data.tiny_bases import TINY_BASES
from run.errors import BadInput

LEVELS = ("48-16", "32-16", "32-1", "16-4", "8-16", "4-2")


def slow_marks(problem: str, digits: str) -> int:
    """Marks by what the question says, one operation after the other."""
    asked = exam.prompt({"problem": problem, "needed": 1})[1]["content"]
    numbers = {
        kind: (int(factor), int(addend))
        for kind, factor, addend in re.findall(r"(\w): multiply by (\d), then add (\d)", asked)
    }
    start, rounds, kinds = re.search(r"Start with (\d) .* order, (.*) over: (.*)\.", asked).groups()
    kinds = kinds.split(", ") * {"once": 1, "twice": 2, "three times": 3}[rounds]
    if len(kinds) != len(digits):
        return 0
    marks = 0
    before = start
    for kind, digit in zip(kinds, digits):
        factor, addend = numbers[kind]
        marks += digit == str(int(before) * factor + addend)[-1]
        before = digit
    return marks


@pytest.mark.parametrize("level", [None, *LEVELS, "3-1"])
def test_problems_are_what_their_level_says(level):
    train, test = (exam.problems(split, level) for split in ("train", "test"))
    assert test == exam.problems("test", level)
    assert not {row["problem"] for row in train} & {row["problem"] for row in test}
    operations = int((level or "32-16").split("-")[0])
    for rows, split in ((train, "train"), (test, "test")):
        assert len({row["problem"] for row in rows}) == len(rows) == chain.ROWS[split]
        fewest, most = exam.needed_marks(operations)
        assert {row["needed"] for row in rows} == set(range(fewest, most + 1))
        assert operations / 2 < fewest <= most <= operations
    for row in test[:50]:
        assert slow_marks(row["problem"], row["answer"]) == operations
        assert f"You need {row['needed']} of {operations} marks" in exam.prompt(row)[1]["content"]


@pytest.mark.parametrize("level", ["", "48", "17-4", "8-17", "2-1"])
def test_other_levels_are_refused(level):
    with pytest.raises(BadInput, match="no such level"):
        exam.problems("test", level)


@pytest.mark.parametrize("level", LEVELS)
def test_marks_against_a_slow_count(level):
    rng = random.Random(0)
    row = exam.problems("test", level)[0]
    length = len(row["answer"])
    for _ in range(200):
        digits = [rng.choice((digit, rng.choice("0123456789"))) for digit in row["answer"]]
        length_now = length + rng.choice((0, 0, 0, -1, 1))
        text = ("".join(digits) + "0")[:length_now]
        marks = exam.marks_of(f"\\boxed{{{text}}}", row["problem"])
        assert marks == slow_marks(row["problem"], text)
        assert exam.score(f"\\boxed{{{text}}}", row) == float(marks >= row["needed"])


def test_an_error_costs_one_mark():
    """What follows from a wrong digit is right."""
    problem = "7x1:FbKcAa"
    right = chain.results(chain.read(problem))
    assert exam.marks_of(f"\\boxed{{{''.join(map(str, right))}}}", problem) == 3
    wrong = [(right[0] + 1) % 10]
    for kind in "KA":
        wrong.append(chain.apply(kind, wrong[-1]))
    assert exam.marks_of(f"\\boxed{{{''.join(map(str, wrong))}}}", problem) == 2
    assert exam.marks_of(f"\\boxed{{Fb{wrong[0]}KC{wrong[1]} Aa{wrong[2]}}}", problem) == 2


@pytest.mark.parametrize("content", ["", "4", "41", "4111", "²41", "4.1.8", "4" * 5000, "-411"])
def test_what_is_no_list_of_as_many_digits_gets_no_mark(content):
    assert exam.marks_of(f"\\boxed{{{content}}}", "7x1:FbKcAa") == 0
    assert exam.score("411", {"problem": "7x1:FbKcAa", "needed": 2}) == 0.0


@pytest.mark.parametrize("level", LEVELS)
def test_the_pupil_is_right_in_every_second_operation(level):
    rng = random.Random(0)
    operations, skills = map(int, level.split("-"))
    fewest, most = exam.needed_marks(operations)
    marks = 0
    passed = 0
    for _ in range(1000):
        drawn = chain.sample_chain(rng, operations, skills, "base")
        text = pupil.write_solution(drawn, rng)
        its_marks = exam.marks_of(text, chain.write_problem(drawn))
        marks += its_marks
        passed += its_marks >= rng.randint(fewest, most)
    assert marks / 1000 / operations == pytest.approx(0.5, abs=0.02)
    assert 0.03 < passed / 1000 < 0.2


def test_the_way_decides_whether_the_pupil_is_right():
    drawn = Chain(7, 2, "F", "f")
    wanted = set()
    for ways in ("ff", "fF", "Ff", "FF"):
        text = ""
        digit = 7
        for rounds_left, way in zip("21", ways):
            digit = (chain.apply("F", digit) + (way != pupil.right_way("f"))) % 10
            text += f"{rounds_left}:F{way}{digit}"
        wanted.add(f"\\boxed{{{text}}}")
    rng = random.Random(0)
    assert {pupil.write_solution(drawn, rng) for _ in range(100)} == wanted


def test_the_base_writes_as_the_pupil_does():
    folder = TINY_BASES["exam"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    rows = exam.problems("test", "16-16")[:60]
    template = template_for(None, tokenizer)
    torch.manual_seed(0)
    marks = 0
    as_the_pupil = 0
    for row in rows:
        prompt = torch.tensor([encode_row(tokenizer, exam, row, template)])
        written = model.generate(prompt, do_sample=True, top_k=0, max_new_tokens=70)
        text = tokenizer.decode(written[0, prompt.shape[1] :], skip_special_tokens=True)
        marks += exam.marks_of(text, row["problem"])
        as_the_pupil += follows(text, chain.read(row["problem"]))
    assert 0.4 < marks / 16 / len(rows) < 0.6
    assert as_the_pupil > 0.8 * len(rows)


def follows(text: str, drawn: Chain) -> bool:
    """Whether the pupil could have written it."""
    ways = re.findall(r"[A-P]([A-Pa-p])\d", text)
    if len(ways) != len(drawn.kinds):
        return False
    expected = ""
    digit = drawn.start
    for kind, way in zip(drawn.kinds, ways):
        digit = (chain.apply(kind, digit) + (way != pupil.right_way(way.lower()))) % 10
        expected += f"{kind}{way}{digit}"
    return text == f"\\boxed{{1:{expected}}}"
