"""The estimators by hand, and one evaluation from end to end."""

import itertools
import random
import statistics

import pytest
from accelerate import Accelerator

from data.arithmetic import LARGEST, OPERATORS
from data.problems import load_problems
from eval_math import Flags, evaluate, format_table, majority, mean_and_error, pass_at_k, summarise
from reward import Grader


@pytest.mark.parametrize("n, correct, k", [(5, 2, 1), (5, 2, 3), (5, 0, 2), (5, 5, 2), (6, 1, 6)])
def test_pass_at_k_equals_trying_every_subset(n, correct, k):
    draws = list(itertools.combinations([1] * correct + [0] * (n - correct), k))
    assert pass_at_k(n, correct, k) == pytest.approx(statistics.fmean(any(d) for d in draws))


def test_majority():
    assert majority(["1", "2", "2"], [1.0, 0.0, 0.0]) == 0.0
    assert majority(["1", "2"], [1.0, 0.0]) == 0.5  # a tie
    assert majority([None, None, "2"], [0.0, 0.0, 1.0]) == 1.0
    assert majority([None], [0.0]) == 0.0


def test_summary_by_hand():
    def row(index, greedy, grade, extracted, length):
        return {
            "index": index,
            "greedy": greedy,
            "grade": grade,
            "extracted": extracted,
            "length": length,
            "finished": True,
        }

    rows = [row(0, True, 1.0, "1", 10), row(1, True, 0.0, "9", 20)]
    rows += [
        row(0, False, 1.0, "1", 10),
        row(0, False, 0.0, "2", 20),
        row(1, False, 0.0, "3", 30),
        row(1, False, 0.0, "3", 40),
    ]
    scores = summarise(rows)
    assert scores["n"] == 2 and scores["pass@1"] == {"mean": 0.5, "standard_error": 0.5}
    assert scores["avg@2"]["mean"] == 0.25 and scores["pass@2"]["mean"] == 0.5 and scores["maj@2"]["mean"] == 0.25
    assert scores["greedy_length"] == 15 and scores["sampled_length"] == 25 and scores["sampled_unfinished"] == 0
    assert "50.0 ± 50.0" in format_table({"x": scores})


def test_standard_error():
    values = [1.0, 0.0, 0.0, 1.0]
    assert mean_and_error(values)["standard_error"] == pytest.approx(statistics.stdev(values) / 2)
    assert mean_and_error([1.0]) == {"mean": 1.0, "standard_error": 0.0}


def test_the_tiny_base_is_what_the_default_needs(tiny_base, tokenizer, tmp_path):
    """Room that reinforcement can win: pass@1 of 15 to 35 %, pass@16 of at least 80 %, on unseen problems."""
    flags = Flags(num_samples=16, max_new_tokens=96, max_rows=600)
    rng, facts = random.Random(1), []
    while len(facts) < 1000:
        a, b, operator = rng.randint(2, LARGEST), rng.randint(2, 9), rng.choice("+-*")
        value = OPERATORS[operator](a, b)
        if 0 <= value <= LARGEST:
            facts.append({"id": "fact", "problem": f"{a}{operator}{b}", "answer": str(value)})
    problems = load_problems("arithmetic[:150]", "test")
    with Grader() as grader:
        shared = (grader, Accelerator())
        scores = evaluate(tiny_base, tokenizer, "arithmetic", problems, *shared, flags, tmp_path)
        flags.num_samples = 1
        single = evaluate(tiny_base, tokenizer, "arithmetic[facts]", facts, *shared, flags, tmp_path)
    rows = (tmp_path / "eval" / "arithmetic.jsonl").read_text().splitlines()
    assert len(rows) == 150 * 17 and scores["n"] == 150
    assert 0.15 <= scores["avg@16"]["mean"] <= 0.35 and scores["pass@16"]["mean"] >= 0.8
    assert scores["sampled_unfinished"] < 0.05
    # Single operations are facts: right at least 99 % of the time, as sampled.
    assert single["avg@1"]["mean"] >= 0.99 and single["pass@1"]["mean"] >= 0.99
