"""reward.py: gold answers of the real problem sets, and hostile text."""

import json
import random
import re
import time

import pytest
from conftest import REAL_DATA

from reward import Grader


@pytest.fixture(scope="module")
def grader():
    with Grader(timeout=20.0) as grader:
        yield grader


def respelled(gold: str) -> list[str]:
    """Other spellings of a gold answer with the same value."""
    math = gold.strip().removeprefix("$").removesuffix("$")
    if "$" in math:  # several formulas
        return [gold]
    spellings = [
        gold,
        f"${math}$",
        rf"\displaystyle {math}",
        rf"\bm{{{math}}}",
        rf"\textcolor{{blue}}{{{math}}}",
    ]
    spellings += [
        rf"{{\Large {math}}}",
        rf"\text{{Answer: }} {math}",
        rf"\begin{{aligned}} {math} \end{{aligned}}",
    ]
    spellings += [
        math.replace("<", "&lt;").replace(">", "&gt;"),
        math.replace("-", "−").replace(r"\pi", "π"),
    ]
    spellings += [
        math.replace(r"\frac", r"\dfrac"),
        math.replace(r"\\", r"\\[4pt]").replace("pmatrix", "bmatrix"),
    ]
    if re.fullmatch(r"\d+", math):
        spellings += [
            rf"\theta = {math}",
            rf"{math} \text{{ m s}}^{{-1}}",
            rf"{math} \text{{ apples}}",
            f"{math} x 10^0",
        ]
        spellings += [
            f"{int(math):,}".replace(",", " "),
            rf"\num{{{math}}}",
            f"€{math}",
            rf"\$ {math}",
        ]
    return spellings


def changed(gold: str) -> list[str]:
    """Answers close to a gold answer that are wrong."""
    math = gold.strip().removeprefix("$").removesuffix("$")
    if not re.fullmatch(r"\d+", math):
        numbers = list(re.finditer(r"\d+", math))
        return [f"{math[: n.start()]}{int(n[0]) + 1}{math[n.end() :]}" for n in numbers] + [
            rf"{math} \text{{ or }} 987654"
        ]
    words = (
        "ninths",
        "factorial",
        "or five",
        "squared",
        "(or 7)",
        "halves",
        "minus one",
        "choose two",
        "point five",
        "or 7",
    )
    answers = [rf"{math} \text{{ {word}}}" for word in words] + [
        f"{math} squared",
        rf"\text{{Not: }} {math}",
        f"{math}.(3)",
    ]
    answers += [
        rf"{math}\mathrm{{x}}",
        rf"{math}\hat{{i}}+{math}\hat{{j}}",
        f"{math}, 987654",
        f"{math}+10^{{-40}}",
    ]
    return answers + [
        f"{int(math) + 1}",
        rf"{math}_{{3}}",
        rf"{math}\text{{n}}" if math != "0" else "1",
    ]


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="the real problem sets are not here")
def test_gold_answers_equal_themselves_and_not_each_other(grader):
    rows = [
        json.loads(line)
        for file in REAL_DATA.glob("*.jsonl")
        for line in file.open(encoding="utf-8")
    ]
    golds = sorted({str(row["answer"]) for row in rows})
    rng = random.Random(0)
    assert all(grader.grade_batch([rf"\boxed{{{gold}}}" for gold in golds], golds))
    sample = rng.sample(golds, 80)
    pairs = [(spelling, gold) for gold in sample for spelling in respelled(gold)]
    grades = grader.grade_batch(
        [rf"\boxed{{{spelling}}}" for spelling, _ in pairs], [gold for _, gold in pairs]
    )
    assert [pair for pair, right in zip(pairs, grades) if not right] == []
    pairs = [(answer, gold) for gold in sample for answer in changed(gold)]
    pairs += [tuple(rng.sample(golds, 2)) for _ in range(300)]
    grades = grader.grade_batch(
        [rf"\boxed{{{answer}}}" for answer, _ in pairs], [gold for _, gold in pairs]
    )
    assert [pair for pair, right in zip(pairs, grades) if right] == []


HOSTILE = [
    r"\boxed{9^{9^{9^{9}}}}",
    r"\boxed{(10^{9})!}",
    r"\boxed{\sum_{n=1}^{10^{12}} \sin(n^n)}",
    r"\boxed{__import__('os').system('touch INJECTED')}",
    r"The answer is __import__('os').system('touch INJECTED')",
    r"\boxed{eval(open('INJECTED', 'w'))}",
    r"\boxed{\text{$(touch INJECTED)}}",
    "\\boxed{" * 50_000,
    "{" * 1_000_000,
    "\\boxed{" + "{" * 1_000_000,
    r"\boxed{" + "(" * 5_000 + ")" * 5_000 + "}",
    r"\boxed{" + "(" * 190 + "x" + ")" * 190 + "}",
    r"\boxed{" + "{" * 190 + "x" + "}" * 190 + "}",
    r"\boxed{" + r"\frac{1" * 50 + "}" * 50 + "}",
    r"\boxed{" + "1+" * 100_000 + "1}",
    r"\boxed{" + "9" * 100_000 + "}",
    r"\boxed{" + "9" * 390 + "}",
    r"\boxed{1e999999999}",
    r"\boxed{10^{999999999}}",
    r"\boxed{0.1e-999999999}",
    r"\boxed{\frac{1}{0}}",
    r"\boxed{0^{-1}}",
    "\\boxed{\x00\ud800}",
    "\\boxed{\u0664\u0662\u20dd}",
    "<think>" * 200_000,
    "the answer is " * 70_000,
    "#" * 1_000_000,
    "\\" * 1_000_000,
    "answer" + " " * 1_000_000,
    "answer to" + " " * 1_000_000,
    "\\fbox" * 50_000,
    "\\boxed5" * 50_000,
    r"\boxed{" + "°½" * 149 + "}",
    r"\boxed{" + "1 m " * 74 + "}",
    r"\boxed{" + ",".join(["1"] * 199) + "}",
    r"\boxed{" + r"\pm " * 90 + "}",
    r"\boxed{\begin{matrix} & & \\ }",
]


def test_hostile_completions_neither_hang_nor_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    start = time.monotonic()
    with Grader(timeout=1.0) as grader:
        for gold in (r"\frac{\pi}{7}", "1,2"):
            assert not any(grader.grade_batch(HOSTILE, [gold] * len(HOSTILE)))
        assert grader.stats["timeouts"] > 0
        assert grader.grade_batch([r"\boxed{\sqrt{18}}", r"\boxed{4}"], [r"3\sqrt{2}", "5"]) == [
            1.0,
            0.0,
        ]
    assert time.monotonic() - start < 40
    assert list(tmp_path.iterdir()) == []
