"""The countdown task against slow, obvious versions of itself, and its careless pupil."""

import functools
import itertools
import json
import random
import re
import time
from fractions import Fraction

import pytest
import torch
from conftest import ROOT
from transformers import AutoModelForCausalLM, AutoTokenizer

import train_treerpo
from data import countdown
from data.countdown import answer, score
from data.problems import load_problems, task_of
from data.pupils import countdown as pupil
from data.tiny_bases import TINY_BASES
from run.errors import BadInput

# Drawn once.
problems = functools.cache(countdown.problems)
ROW = {"numbers": [5, 3, 7], "target": 22}


def boxed(expression: str) -> str:
    return f"so \\boxed{{{expression}}}."


def slow_value(expression: str) -> Fraction | None:
    """The value by Python's own precedence, for digits, + - * / and parentheses."""
    if "**" in expression or "//" in expression:
        return None
    with_products = re.sub(r"(?<=[0-9)])\(", "*(", expression)
    exact = re.sub(r"[0-9]+", r"Fraction('\g<0>')", with_products)
    try:
        value = eval(exact, {"Fraction": Fraction})
    except (SyntaxError, TypeError, ZeroDivisionError):
        return None
    return value if isinstance(value, Fraction) else None


def slow_score(expression: str, row: dict) -> float:
    numbers = [int(number) for number in re.findall("[0-9]+", expression)]
    is_right = slow_value(expression) == row["target"] and sorted(numbers) == sorted(row["numbers"])
    return float(is_right)


# --- The score ---


def test_every_expression_of_three_numbers_is_scored_by_its_value():
    shapes = ("{}{}{}{}{}", "({}{}{}){}{}", "{}{}({}{}{})")
    rights = 0
    for numbers in itertools.permutations((2, 5, 10)):
        for operators in itertools.product("+-*/", repeat=2):
            for shape in shapes:
                a, b, c = numbers
                text = shape.format(a, operators[0], b, operators[1], c)
                row = {"numbers": [2, 5, 10], "target": 20}
                assert score(boxed(text), row) == slow_score(text, row), text
                rights += slow_score(text, row) == 1.0
                # The canonical form keeps the value and the numbers, and is its own.
                canonical = answer(boxed(text))
                value = slow_value(text)
                if value is None:
                    assert canonical is None
                    continue
                assert slow_value(canonical) == value
                assert len(canonical) <= len(text) and answer(boxed(canonical)) == canonical
    assert rights > 5


def test_random_changes_are_judged_as_the_slow_version_judges_them():
    rng = random.Random(0)
    rows = problems("test", "4")
    verdicts = []
    for _ in range(3000):
        row = rng.choice(rows)
        characters = list(row["answer"])
        for _ in range(rng.randint(0, 3)):
            where = rng.randrange(len(characters) + 1)
            # Replaced, put in, or taken out.
            new = rng.choice(["", rng.choice("0123456789"), rng.choice("+-*/()")])
            characters[where : where + rng.randint(0, 1)] = new
        text = "".join(characters)
        verdicts.append(slow_score(text, row))
        assert score(boxed(text), row) == verdicts[-1], text
    assert 0.2 < sum(verdicts) / len(verdicts) < 0.9


@pytest.mark.parametrize(
    "completion",
    [
        r"\boxed{3*5+7}",
        r"\boxed{ 7 + (5 * 3) }",
        r"\boxed{((3)*(5))+(7)}",
        r"**Answer:** $\boxed{\left( 3 \times 5 \right) + 7}$",
        r"\[ \boxed{3 \cdot 5 + 7 = 22} \]",
        r"\boxed{3 \times 5 + 7 = 15 + 7 = 22}",
        r"\boxed{22 = 3×5 + 7}",
        r"\boxed{$3 · 5 + 7$}",
        r"\boxed{\text{(3 x 5) + 7}}",
        r"\boxed{(3)(5) + 7}",
        r"\boxed{7-(-3)*5}",
        r"\boxed{3*+5+7}",
        r"\boxed{7 − (−3)·5.}",
        r"\boxed{[3*5]+7}",
        r"\boxed{3*{5}+7}",
        r"\boxed{\displaystyle 3 \, \ast \, 5 + 7}",
        r"First 3*7=21, which is too little. \boxed{3*7+5}. Wait, that is 26: \boxed{3*5+7}",
        "<think>3*7+5 is \\boxed{3*7+5}</think>\nUse \\boxed{3*5+7}",
        r"The answer is $(3 \times 5) + 7$.",
        "The answer is (3 * 5) + 7 = 22.",
        "#### 3*5+7",
    ],
)
def test_right_in_the_forms_that_language_models_write(completion):
    assert score(completion, ROW) == 1.0
    plain = answer(completion)
    assert re.fullmatch(r"[-+*/()0-9]+", plain) and slow_score(plain, ROW) == 1.0


def test_fractions_and_signs_of_division():
    row = {"numbers": [6, 4, 5], "target": 2}
    for text in (
        r"\frac{6+4}{5}",
        r"\dfrac {6 + 4} {5}",
        r"(6+4) \div 5",
        "(6 + 4) ÷ 5",
        r"\frac{(6+4)}{5} = 2",
        r"\frac{\left(6+4\right)}{{5}}",
    ):
        assert answer(boxed(text)) == "(6+4)/5" and score(boxed(text), row) == 1.0, text
    # Through a fraction that is not whole: 8 / (3 - 8/3) = 24.
    row = {"numbers": [3, 3, 8, 8], "target": 24}
    for text in (r"\frac{8}{3-\frac{8}{3}}", "8/(3-8/3)"):
        assert score(boxed(text), row) == 1.0, text
    assert score(boxed("8/(2.6666667-8/3)"), row) == 0.0


@pytest.mark.parametrize(
    "completion",
    [
        "",
        r"\boxed{}",
        r"\boxed{22}",
        "3*5+7",
        r"\boxed{3*5+7",
        r"\boxed{3*5}+7",
        r"\boxed{3*5+7} or \boxed{3*7+5}",
        r"\boxed{3*5=15}, \boxed{15+7=22}",
        r"<think>\boxed{3*5+7}</think>",
        r"\boxed{3*5+7 = 23}",
        r"\boxed{3*5+7=}",
        r"\boxed{3*5+7+0}",
        r"\boxed{5*3+7*1}",
        r"\boxed{15+7}",
        r"\boxed{3*5+5+7-5}",
        r"\boxed{3 5+7}",
        r"\boxed{35-7-6}",
        r"\boxed{3*5+7!}",
        r"\boxed{3**5+7}",
        r"\boxed{3*5//1+7}",
        r"\boxed{7+3\frac{5}{1}}",
        r"\boxed{\frac{3}5+7}",
        r"\boxed{3*5+7 \text{ or } 3*7+5}",
        r"\boxed{3*5)+(7}",
        r"\boxed{(3*5+7}",
        r"\boxed{3*5+7)}",
        r"\boxed{3*5+}",
        r"\boxed{()3*5+7}",
        r"\boxed{٣*5+7}",
        r"\boxed{3²+5+7}",
        r"\boxed{3.0*5+7}",
        r"\boxed{3*5+7/(5-5)}",
    ],
)
def test_wrong_or_unfinished(completion):
    assert score(completion, ROW) == 0.0


def test_equal_answers_are_spelled_alike():
    for text in ("(3*5)+7", "((3 * 5) + 7)", r"3 \times 5 + 7 = 22", "(3)(5)+7", "(3*5+7)"):
        assert answer(boxed(text)) == "3*5+7"
    for text in ("7-(5-3)", "8/(4*2)", "8/(4/2)", "(7-5)*3", "3-(-5)"):
        assert answer(boxed(text)) == text
    assert answer(boxed("7+(5-3)")) == "7+5-3" and answer(boxed("8*(4/2)")) == "8*4/2"
    assert answer("no idea") is None and answer(boxed("three")) is None


@pytest.mark.parametrize(
    "text",
    [
        "(" * 10**6,
        "9" * 10**6,
        "-" * 290 + "3",
        "(" * 149 + "3" + ")" * 149,
        "+".join(["9999"] * 59),
        "*".join(["9999"] * 59),
        "1/" * 149 + "7",
        "\\frac{" * 10**5,
        "\\frac{1}{" * 30 + "1" + "}" * 30,
        "{" * 10**6,
        "3=" * 149 + "3",
        "=" * 10**6,
        "\x00" * 10**6,
        "\ud800*5+7",
        "__import__('os').system('true')",
        "9**9**9**9",
    ],
    ids=lambda text: text[:8],
)
def test_hostile_text_is_wrong_at_once(text):
    # Seconds of this process: other ones don't count.
    started = time.process_time()
    for completion in (text, boxed(text), "\\boxed{" + text):
        assert score(completion, ROW) == 0.0
    assert time.process_time() - started < 5
    result = answer(boxed(text))
    assert result is None or len(result) < 2000


# --- Problems ---


@pytest.mark.parametrize("level", ["3", "4", "5", "6"])
def test_problems_of_every_level_can_be_solved(level):
    numbers_each = int(level)
    size = countdown.LEVEL_SIZES[numbers_each]
    for split, count in (("train", 4000), ("test", 1000)):
        rows = problems(split, level)
        assert len(rows) == len({row["id"] for row in rows}) == count
        assert json.loads(json.dumps(rows)) == rows
        for row in rows:
            assert len(row["numbers"]) == numbers_each
            assert all(2 <= number <= size.largest_number for number in row["numbers"])
            assert size.least_target <= row["target"] <= size.largest_value
            assert row["problem"] == f"{' '.join(map(str, row['numbers']))} -> {row['target']}"
        for row in rows[::20]:
            assert slow_score(row["answer"], row) == score(boxed(row["answer"]), row) == 1.0
            assert answer(boxed(row["answer"])) == row["answer"]


def test_splits_share_no_problem_in_any_order_of_its_numbers():
    seen = {"train": set(), "test": set(), "base": set()}
    for split in ("train", "test"):
        for level in "3456":
            rows = problems(split, level)
            keys = {(*sorted(row["numbers"]), row["target"]) for row in rows}
            assert len(keys) == len(rows)
            seen[split] |= keys
    rng = random.Random(0)
    for _ in range(2000):
        document = pupil.write(rng, drills=0)
        *numbers, target = map(int, re.findall("[0-9]+", document.problem))
        seen["base"].add((*sorted(numbers), target))
    assert not seen["train"] & seen["test"] and not seen["base"] & (seen["train"] | seen["test"])
    assert countdown.split_of([3, 5, 7], 22) == countdown.split_of([7, 3, 5], 22)


def test_the_level_is_in_the_name_and_problems_are_always_the_same():
    assert task_of("countdown") is task_of("countdown:5[:3]") is countdown
    assert load_problems("countdown:5[:3]", "test") == problems("test", "5")[:3]
    assert load_problems("countdown", "test") == problems("test", "3")
    first = {"id": "countdown/3/test/0", "problem": "13 18 11 -> 16", "answer": "18+11-13"}
    assert problems("test", "3")[0] == {**first, "numbers": [13, 18, 11], "target": 16}


@pytest.mark.parametrize("level", ["", "2", "7", "03", " 4", "٤", "hard", "4:5"])
def test_a_level_that_is_none_is_refused(level):
    with pytest.raises(BadInput) as error:
        load_problems(f"countdown:{level}", "test")
    assert f"countdown:{level}: no such level; there are 3 to 6 numbers" in str(error.value)


def test_the_prompt_says_what_counts():
    row = problems("test", "6")[0]
    system, user = countdown.prompt(row)
    assert "\\boxed{" in system["content"] and "exactly once" in system["content"]
    assert all(str(number) in user["content"] for number in [*row["numbers"], row["target"]])
    assert "{problem}" in countdown.PROMPT_TEMPLATE and "\\boxed{" in countdown.PROMPT_TEMPLATE


# --- The pupil ---


def test_the_pupil_writes_right_lines_and_boxes_what_he_reached():
    rng = random.Random(0)
    for _ in range(500):
        document = pupil.write(rng, drills=0)
        *numbers, target = map(int, re.findall("[0-9]+", document.problem))
        *lines, last = document.text.split("\n")
        for line in lines:
            calculation, value, after = re.split("[= ]", line)
            assert slow_value(calculation) == int(value) and 1 <= int(value) <= 99
            # A first operation leaves one number. After a second one he says whether it fits.
            used = list(map(int, re.findall("[0-9]+", calculation)))
            if len(used) == 2:
                assert sorted([*used, int(after)]) == sorted(numbers)
            else:
                assert sorted(used) == sorted(numbers)
                assert after == ("yes" if int(value) == target else "no")
        if not last:
            # He stopped.
            continue
        result = countdown.read_expression(re.fullmatch(r"\\boxed\{(.*)\}", last)[1])
        assert result.value == int(value) and sorted(result.numbers) == sorted(numbers)


def test_a_drill_is_a_right_line_that_says_whether_it_fits():
    rng = random.Random(0)
    drills = fitting = 0
    for _ in range(500):
        document = pupil.write(rng, drills=1)
        puzzle = document.problem.split("\n")[0]
        *numbers, target = map(int, re.findall("[0-9]+", puzzle))
        assert not document.is_whole
        if not document.text:
            # Nothing can be done with what is left.
            continue
        calculation, value, mark = re.split("[= ]", document.text.rstrip("\n"))
        assert slow_value(calculation) == int(value)
        assert mark == ("yes" if int(value) == target else "no")
        drills += 1
        fitting += mark == "yes"
        assert sorted(map(int, re.findall("[0-9]+", calculation))) == sorted(numbers)
        assert len(numbers) == 2 or countdown.split_of(numbers, target) == "base"
    assert drills > 450 and 0.3 < fitting / drills < 0.6


def test_the_pupil_is_right_half_of_the_time():
    rng = random.Random(0)
    rows = problems("test", "3")[:200]
    scores = torch.zeros(len(rows), 16)
    for i, row in enumerate(rows):
        for k in range(16):
            scores[i, k] = score(pupil.write_solution(row["numbers"], row["target"], rng), row)
    assert 0.35 < scores.mean() < 0.65 and scores.amax(1).mean() > 0.9


# --- The tiny base ---


def test_the_tiny_base_is_right_now_and_then():
    """The share of the documented evaluation, on fewer problems."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(TINY_BASES["countdown"], padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(TINY_BASES["countdown"])
    rows = [row for row in problems("test", "3")[:40] for _ in range(8)]
    prompts = [f"\n{row['problem']}\n" for row in rows]
    batch = tokenizer(prompts, padding=True, return_tensors="pt")
    sampled = model.generate(**batch, max_new_tokens=96, do_sample=True, top_k=0)
    texts = tokenizer.batch_decode(sampled[:, batch.input_ids.size(1) :], skip_special_tokens=True)
    scores = torch.tensor([score(text, row) for text, row in zip(texts, rows)]).view(40, 8)
    assert 0.1 < scores.mean() < 0.35 and scores.amax(1).mean() > 0.5
    # Its lines are right: what it lacks is judgement.
    lines = [line for text in texts for line in text.split("\n")[:-1]]
    right = [re.fullmatch(r"([-+*/()0-9]+)=([0-9]+) ([0-9]+|yes|no)", line) for line in lines]
    shares = [bool(line) and slow_value(line[1]) == int(line[2]) for line in right]
    assert sum(shares) / len(shares) > 0.7


def test_the_recipe_is_for_the_tiny_base():
    flags = train_treerpo.read_flags(["--config", str(ROOT / "recipes" / "countdown.yaml")])
    assert flags.dataset_name == "countdown"
    assert flags.model_name_or_path == str(TINY_BASES["countdown"])
