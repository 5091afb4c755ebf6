"""The chains: their problems, their verifier against a slow one, their pupil and their base."""

import random
import re

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from data import chain
from data.chain import Chain
from data.problems import encode_row, template_for
from data.pupils import chain as pupil
from data.tiny_bases import TINY_BASES
from run.errors import BadInput

LEVELS = ("48-16", "48-1", "32-16", "16-16", "16-4", "4-16")
FEWEST = "3-1"


def slow_answer(problem: str) -> str:
    """The digit after each operation, by what the question says."""
    asked = chain.prompt({"problem": problem, "budget": 0})[1]["content"]
    numbers = {
        kind: (int(factor), int(addend))
        for kind, factor, addend in re.findall(r"(\w): multiply by (\d), then add (\d)", asked)
    }
    sentence = re.search(r"Start with (\d) .* order, (.*) over: (.*)\.", asked)
    digits, rounds, kinds = sentence.groups()
    for kind in kinds.split(", ") * {"once": 1, "twice": 2, "three times": 3}[rounds]:
        factor, addend = numbers[kind]
        digits += str(int(digits[-1]) * factor + addend)[-1]
    return digits[1:]


def test_the_kinds_are_different_permutations_of_the_digits():
    maps = {kind: tuple(chain.apply(kind, digit) for digit in range(10)) for kind in chain.KINDS}
    assert all(sorted(images) == list(range(10)) for images in maps.values())
    assert len(set(maps.values())) == len(maps) == chain.ROUND
    assert tuple(range(10)) not in maps.values()


@pytest.mark.parametrize("level", [None, *LEVELS, FEWEST])
@pytest.mark.parametrize("split", ["train", "test"])
def test_problems_are_what_their_level_says(split, level):
    rows = chain.problems(split, level)
    assert rows == chain.problems(split, level)
    operations, skills = map(int, (level or "32-16").split("-"))
    assert len({row["problem"] for row in rows}) == len(rows) == chain.ROWS[split]
    # A budget has room for all results, and for the working of up to a little less than half.
    budgets = {row["budget"] for row in rows}
    assert budgets == {
        chain.budget_of(operations, workings) for workings in range(max(1, operations // 2 - 1))
    }
    kinds_of: dict[str, set[str]] = {}
    for row in rows[:200]:
        drawn = chain.read(row["problem"])
        assert len(set(drawn.kinds)) == len(drawn.kinds) == len(drawn.families)
        assert len(drawn.kinds) * drawn.rounds == operations
        for kind, family in zip(drawn.kinds, drawn.families):
            kinds_of.setdefault(family, set()).add(kind)
        assert row["answer"] == slow_answer(row["problem"])
        assert chain.write_problem(drawn) == row["problem"]
    # Families have equally many kinds.
    assert [len(kinds) for kinds in kinds_of.values()] == [chain.ROUND // skills] * skills


@pytest.mark.parametrize("level", [None, *LEVELS])
def test_splits_share_no_problem(level):
    train, test = (
        {row["problem"] for row in chain.problems(split, level)} for split in ("train", "test")
    )
    assert not train & test
    rng = random.Random(0)
    written = {pupil.write(rng, 0.3).problem for _ in range(500)}
    assert not written & (train | test)


@pytest.mark.parametrize(
    "level", ["", "48", "17-4", "2-1", "48-0", "48-17", "048-4", "a-b", "6-2-1"]
)
def test_other_levels_are_refused(level):
    with pytest.raises(BadInput, match=re.escape(f"chain:{level}: no such level")):
        chain.problems("test", level)


def test_the_score_wants_all_digits_within_the_budget():
    row = {"problem": "7x1:FbKc", "answer": "41", "budget": 40}
    right = r"\boxed{1:Fb4KC4*7=28+3=31;1}"
    assert chain.score(right, row) == 1.0
    assert chain.score(right + " " * 40, row) == 1.0
    assert chain.score("." * (40 - len(right)) + right, row) == 1.0
    assert chain.score("." * (41 - len(right)) + right, row) == 0.0
    for form in (r"\boxed{41}", r"\boxed{4, 1}", r"\boxed{4 1}", r"\boxed{Fb4 KC1}"):
        assert chain.score(form, row) == 1.0
    for form in (
        r"\boxed{1}",
        r"\boxed{14}",
        r"\boxed{411}",
        r"\boxed{Fb4KC4*7=28+3=31;}",
        "Fb4KC1",
    ):
        assert chain.score(form, row) == 0.0


@pytest.mark.parametrize(
    "content", ["", "²", "4.8", "48x", "-4", "{4}", "4" * 5000 + "x", "Fb" * 900]
)
def test_what_is_no_list_of_digits_is_no_answer(content):
    assert chain.answer(f"\\boxed{{{content}}}") is None


@pytest.mark.parametrize("level", LEVELS)
def test_the_pupil_is_right_and_mostly_too_long(level):
    rng = random.Random(0)
    operations, skills = map(int, level.split("-"))
    most = chain.most_workings(operations)
    keeps = 0
    for _ in range(1000):
        drawn = chain.sample_chain(rng, operations, skills, "base")
        text = pupil.write_solution(drawn, rng)
        assert chain.answer(text) == "".join(map(str, chain.results(drawn)))
        keeps += len(text) <= chain.budget_of(operations, rng.randint(0, most))
    assert 0.02 < keeps / 1000 < 0.15


def test_a_budget_has_room_for_just_so_many_workings():
    rng = random.Random(0)
    for operations in (4, 16, 48):
        drawn = chain.sample_chain(rng, operations, 16, "base")
        text = pupil.write_solution(drawn, rng)
        workings = text.count(";")
        headers = 2 * drawn.rounds
        length_of_all = 3 * operations + headers + len("\\boxed{}")
        assert chain.budget_of(operations, workings) == length_of_all + 12 * workings
        assert length_of_all + 10 * workings <= len(text) <= length_of_all + 12 * workings


def test_the_pupil_works_out_what_his_way_does_not_give_at_once():
    drawn = Chain(7, 2, "F", "f")
    digits = [7, *chain.results(drawn)]
    wanted = set()
    for ways in ("ff", "fF", "Ff", "FF"):
        text = ""
        for rounds_left, way, digit, after in zip("21", ways, digits, digits[1:]):
            product = 9 * digit
            working = "" if pupil.short_way("f") == way else f"{digit}*9={product}+1={product + 1};"
            text += f"{rounds_left}:F{way}{working}{after}"
        wanted.add(f"\\boxed{{{text}}}")
    rng = random.Random(0)
    assert {pupil.write_solution(drawn, rng) for _ in range(100)} == wanted


def test_either_way_is_short_for_half_of_the_families():
    are_small = [pupil.short_way(family).islower() for family in chain.FAMILIES]
    assert sum(are_small) == chain.MOST_SKILLS / 2
    assert sum(are_small[:4]) == 2


def test_the_base_writes_as_the_pupil_does():
    folder = TINY_BASES["chain"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    rows = chain.problems("test", "16-16")[:60]
    template = template_for(None, tokenizer)
    torch.manual_seed(0)
    right = 0
    brief = 0
    for row in rows:
        prompt = torch.tensor([encode_row(tokenizer, chain, row, template)])
        written = model.generate(prompt, do_sample=True, top_k=0, max_new_tokens=260)
        text = tokenizer.decode(written[0, prompt.shape[1] :], skip_special_tokens=True)
        right += chain.answer(text) == row["answer"]
        brief += len(text) <= row["budget"]
    assert right > 0.8 * len(rows)
    assert 0 < brief < 0.4 * len(rows)
