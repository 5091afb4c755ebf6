"""The tasks of reasoning-gym: rows, splits, and scores that survive the way to a worker."""

import importlib.util
import json
import re

import pytest
from test_scripts import train

from data import problems, reasoning_gym
from data.problems import load_problems, score_of, task_of
from reward import Grader
from run.errors import BadInput
from run.reading import Reading

pytest.importorskip("reasoning_gym")
from reasoning_gym import create_dataset
from reasoning_gym.factory import DATASETS

NAMES = sorted(DATASETS.keys() - reasoning_gym.REFUSED.keys())
# These have no answer of their own: any that passes their check is right.
WITHOUT_ANSWER = {"boxnet", "graph_color", "propositional_logic", "rubiks_cube", "rush_hour"}


def own_credit(dataset, given: str, item: dict) -> float:
    """The credit that a task gives to an answer; none where there is none, or where it fails."""
    try:
        return min(max(float(dataset.score_answer(given, item)), 0.0), 1.0) if given else 0.0
    except Exception:
        return 0.0


CODE = (
    "[open('CANARY', 'w')]",
    "open('CANARY', 'w')",
    "__import__('pathlib').Path('CANARY').touch()",
    "sin(open('CANARY', 'w'))",
    "{1: open('CANARY', 'w')}",
)


@pytest.mark.parametrize("name", NAMES)
def test_a_score_survives_the_way_to_a_worker(name, tmp_path, monkeypatch):
    """A row goes there as JSON. Right and wrong answers get the credit of the task's own score; and
    no answer is run."""
    count = 1 if name in reasoning_gym.SLOW else 3
    dataset = create_dataset(name, seed=7, size=count)
    items = [dataset[i] for i in range(count)]
    rows = [reasoning_gym.row_of(name, f"test/{i}", item) for i, item in enumerate(items)]
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    golds = [str(item["answer"]) for item in items]
    for item, row, gold in zip(items, rows, golds):
        for given in (gold, gold[:-1], golds[0], "0 1"):
            own = own_credit(dataset, given, item)
            completion = f"so <answer>{given}</answer>"
            credit = reasoning_gym.score(completion, {**row, "partial_credit": True})
            # A text that is no arithmetic never reaches a parser, which gives it a little credit.
            assert credit == own or (name in reasoning_gym.PARSING and credit == 0 and own < 0.1)
            assert reasoning_gym.score(completion, row) == float(own >= 1)
        is_right = reasoning_gym.score(f"<answer>{gold}</answer>", row)
        assert is_right == (name not in WITHOUT_ANSWER)
        assert reasoning_gym.score("It is " + gold, row) == 0
        monkeypatch.chdir(tmp_path)
        for code in CODE:
            assert reasoning_gym.score(f"<answer>{code}</answer>", row) == 0
        assert not (tmp_path / "CANARY").exists()
        if re.sub(r"[{}\\]", "", gold) == gold:
            assert reasoning_gym.score(rf"\boxed{{{gold}}}", row) == is_right


def test_a_task_without_an_answer_takes_any_that_is_right():
    item = create_dataset("graph_color", seed=7, size=1)[0]
    row = reasoning_gym.row_of("graph_color", "test/0", item)
    colors = row["metadata"]["possible_answer"]
    assert row["answer"] is None and reasoning_gym.score(rf"\boxed{{{json.dumps(colors)}}}", row)
    colors[next(iter(colors))] = 99
    assert not reasoning_gym.score(rf"\boxed{{{json.dumps(colors)}}}", row)


ANSWERS = [
    (r"\boxed{1} then \boxed{2}", "2"),
    ("<answer>\n1 2\n3 4\n</answer>", "1 2\n3 4"),
    ("\\boxed{1 2\n3 4}", "1 2\n3 4"),
    (r"<answer>1</answer> or rather \boxed{2}", "2"),
    (r"\boxed{1}, so <answer>[\"a\"]</answer>", r"[\"a\"]"),
    (r"\boxed{{'a': {1}}}", "{'a': {1}}"),
    (r"\boxed{\{1\}}", r"\{1\}"),
    (r"\boxed{\text{blue bird}}", "blue bird"),
    (r"\boxed{\text{a} + \text{b}}", r"\text{a} + \text{b}"),
    ("\\boxed{#####\n#   #}", "#####\n#   #"),
    (r"<think>\boxed{1}</think>", None),
    (r"\boxed{1} and \boxed{2", None),
    ("<answer>1", None),
    ("the answer is 1", None),
]


@pytest.mark.parametrize(("completion", "expected"), ANSWERS)
def test_an_answer_is_taken_as_it_is_written(completion, expected):
    assert reasoning_gym.answer(completion) == expected


def test_partial_credit_is_asked_for():
    item = {"question": "?", "answer": "12", "metadata": {}}
    row = reasoning_gym.row_of("basic_arithmetic", "test/0", item)
    part = r"\boxed{12 apples}"
    assert reasoning_gym.score(part, row) == 0
    assert reasoning_gym.score(part, {**row, "partial_credit": True}) == pytest.approx(2 / 9)
    (row,) = load_problems("reasoning_gym:gcd[:1]", "test", reading=Reading(partial_credit=True))
    assert row["partial_credit"] is True
    with pytest.raises(BadInput, match="--partial_credit: arithmetic gives none; the tasks of rea"):
        load_problems("arithmetic", reading=Reading(partial_credit=True))


def test_rows_are_the_same_each_time():
    # These problems depend on the order of a set.
    first, second = (load_problems("reasoning_gym:isomorphic_strings", "test") for _ in range(2))
    assert len(first) == 200 and first == second


def test_splits_share_no_question(monkeypatch):
    monkeypatch.setattr(reasoning_gym, "WANTED_ROWS", {"train": 200, "test": 60})
    # A task that has few questions.
    train, test = (reasoning_gym.generate("tower_of_hanoi", split) for split in ("train", "test"))
    texts = [{row["problem"] for row in rows} for rows in (train, test)]
    assert len(texts[0]) == len(train) > 40 and len(texts[1]) == len(test) > 10
    assert not texts[0] & texts[1]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("", "reasoning_gym needs the name of one of reasoning-gym's tasks, such as"),
        ("sudokoo", "reasoning-gym has no such task; did you mean sudoku, sokoban, mini_sudoku"),
        ("zzz?", "reasoning-gym has no such task; there are ab, acre, "),
        ("codeio", "can't be used, since it runs code"),
        ("composite", "can't be used, since it is a mixture"),
        ("game_of_life_halting", "can't be used, since its check takes any text for right"),
    ],
)
def test_tasks_that_cannot_be_used_say_why(name, says):
    with pytest.raises(BadInput, match=says.replace("?", r"\?")):
        load_problems(f"reasoning_gym:{name}" if name else "reasoning_gym")


def test_a_generator_that_fails_says_why(monkeypatch):
    monkeypatch.setattr(reasoning_gym, "_check_name", lambda level: level)
    with pytest.raises(BadInput, match=r"reasoning_gym:nope: its generator failed \(ValueError: "):
        load_problems("reasoning_gym:nope")


def test_without_the_package_one_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match="is not installed; pip install reasoning-gym"):
        load_problems("reasoning_gym:gcd")


def test_a_grader_scores_it_in_workers():
    assert task_of("reasoning_gym:gcd") is problems.TASKS["reasoning_gym"]
    rows = load_problems("reasoning_gym:gcd[:3]", "test")
    completions = [rf"\boxed{{{row['answer']}}}" for row in rows]
    with Grader(1, score=score_of(reasoning_gym)) as grader:
        assert grader.grade_batch([*completions, r"\boxed{x}"], [*rows, rows[0]]) == [1, 1, 1, 0]
        assert not {"failed", "timeouts"} & grader.stats.keys()


def test_two_updates(tmp_path):
    flags = {"dataset_name": "reasoning_gym:gcd[:20]", "benchmarks": "reasoning_gym:gcd[:3]"}
    lengths = {"max_prompt_length": 300, "max_pack_tokens": 400, "max_steps": 2}
    rows = train(tmp_path, **flags, **lengths, prompts_per_update=4, eval_steps=2)
    updates = [row for row in rows if "reward" in row]
    assert len(updates) == 2 and "failed" not in updates[-1]["grader"]
