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

LEVELS = ("16-16", "16-1", "16-4", "4-16", "8-16", "12-16")


def slow_answer(problem: str) -> str:
    """The digit after each operation, by the numbers that the question gives for each kind."""
    asked = chain.prompt({"problem": problem, "budget": 0})[1]["content"]
    numbers = {
        kind: (int(factor), int(addend))
        for kind, factor, addend in re.findall(r"(\w): multiply by (\d), then add (\d)", asked)
    }
    digits = re.search(r"Start with (\d)", asked)[1]
    for kind in re.findall(r"[a-z]([A-Z])", problem):
        factor, addend = numbers[kind]
        digits += str(int(digits[-1]) * factor + addend)[-1]
    return digits[1:]


def test_the_kinds_are_different_permutations_of_the_digits():
    maps = {kind: tuple(chain.apply(kind, digit) for digit in range(10)) for kind in chain.KINDS}
    assert all(sorted(images) == list(range(10)) for images in maps.values())
    assert len(set(maps.values())) == len(maps) == chain.MOST_KINDS
    assert tuple(range(10)) not in maps.values()


@pytest.mark.parametrize("level", [None, *LEVELS])
@pytest.mark.parametrize("split", ["train", "test"])
def test_problems_are_what_their_level_says(split, level):
    rows = chain.problems(split, level)
    assert rows == chain.problems(split, level)
    operations, kinds = map(int, (level or "16-16").split("-"))
    assert len({row["problem"] for row in rows}) == len(rows) >= 40
    for row in rows[:50]:
        drawn = chain.read(row["problem"])
        assert len(drawn.names) == len(set(drawn.names)) == len(drawn.kinds) == operations
        counts = [drawn.kinds.count(kind) for kind in list(chain.KINDS)[:kinds]]
        assert sum(counts) == operations and max(counts) - min(counts) <= 1
        assert row["answer"] == slow_answer(row["problem"])
        assert chain.write_problem(drawn) == row["problem"]


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
    "level", ["", "16", "17-4", "1-1", "16-0", "16-17", "016-4", "a-b", "6-2-1"]
)
def test_other_levels_are_refused(level):
    with pytest.raises(BadInput, match=re.escape(f"chain:{level}: no such level")):
        chain.problems("test", level)


def test_the_score_wants_all_digits_within_the_budget():
    row = {"problem": "7:cFaB", "answer": "48", "budget": 30}
    right = r"\boxed{cF@4aB#4*7+0=8}"
    assert chain.score(right, row) == 1.0
    assert chain.score(right + " " * 30, row) == 1.0
    assert chain.score("." * (30 - len(right)) + right, row) == 1.0
    assert chain.score("." * (31 - len(right)) + right, row) == 0.0
    for form in (r"\boxed{48}", r"\boxed{4, 8}", r"\boxed{4 8}", r"\boxed{cF@4 aB@8}"):
        assert chain.score(form, row) == 1.0
    for form in (r"\boxed{8}", r"\boxed{84}", r"\boxed{488}", r"\boxed{cF@4aB#4*7+0=}", "cF@4aB@8"):
        assert chain.score(form, row) == 0.0


@pytest.mark.parametrize(
    "content", ["", "²", "4.8", "48x", "-4", "{4}", "4" * 5000 + "x", "cF@" * 900]
)
def test_what_is_no_list_of_digits_is_no_answer(content):
    assert chain.answer(f"\\boxed{{{content}}}") is None


@pytest.mark.parametrize("level", LEVELS)
def test_the_pupil_is_right_and_mostly_too_long(level):
    rng = random.Random(0)
    operations, kinds = map(int, level.split("-"))
    budget = chain.budget_of(operations)
    texts = []
    for _ in range(1000):
        drawn = chain.sample_chain(rng, operations, list(chain.KINDS)[:kinds], "base")
        text = pupil.write_solution(drawn, rng)
        assert chain.answer(text) == "".join(map(str, chain.results(drawn)))
        texts.append(text)
    share = sum(len(text) <= budget for text in texts) / len(texts)
    assert 0.03 < share < 0.25


def test_the_pupil_works_out_what_his_method_does_not_give_at_once():
    drawn = Chain(7, "cd", "FF")
    digits = [7, *chain.results(drawn)]
    wanted = set()
    for first in "@#":
        for second in "@#":
            text = ""
            for name, method, digit, after in zip("cd", first + second, digits, digits[1:]):
                working = "" if pupil.short_method("F") == method else f"{digit}*9+1="
                text += f"{name}F{method}{working}{after}"
            wanted.add(f"\\boxed{{{text}}}")
    rng = random.Random(0)
    assert {pupil.write_solution(drawn, rng) for _ in range(100)} == wanted


def test_either_method_is_short_for_half_of_the_kinds():
    short = [pupil.short_method(kind) for kind in chain.KINDS]
    assert short.count("@") == short.count("#") == chain.MOST_KINDS / 2
    assert short[:4].count("@") == 2


def test_the_base_writes_as_the_pupil_does():
    folder = TINY_BASES["chain"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    rows = chain.problems("test", "12-16")[:60]
    template = template_for(None, tokenizer)
    torch.manual_seed(0)
    right = 0
    brief = 0
    for row in rows:
        prompt = torch.tensor([encode_row(tokenizer, chain, row, template)])
        written = model.generate(prompt, do_sample=True, top_k=0, max_new_tokens=140)
        text = tokenizer.decode(written[0, prompt.shape[1] :], skip_special_tokens=True)
        right += chain.answer(text) == row["answer"]
        brief += len(text) <= row["budget"]
    assert right > 0.8 * len(rows)
    assert 0 < brief < 0.4 * len(rows)
