"""The seam between tasks and everything else: the four functions, rows, prompts and scores."""

import datetime
import importlib
import json
import re
import shlex
import subprocess
import sys
from types import ModuleType

import pytest
import torch
from accelerate import Accelerator
from conftest import ROOT
from test_scripts import train

import eval_math
from data import arithmetic, mathematics, problems, prompts
from data.problems import (
    answer_of,
    encode_prompt,
    encode_row,
    load_problems,
    score_of,
    task_of,
    template_for,
)
from metrics import tree_record
from reward import MATHEMATICS, Grader
from run.errors import BadInput
from tree import Tree
from tree_viewer import shown_tree

# Those whose answers are numbers. A puzzle has a test file of its own.
TASKS = [arithmetic, mathematics]


def write_rows(path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


# --- The four functions ---


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.__name__)
def test_a_task_is_four_functions(task):
    row = {"id": "x/1", "problem": "7-2+3*4", "answer": "17"}
    prompt = task.prompt(row)
    text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
    assert "7-2+3*4" in text
    assert task.answer(r"so \boxed{17}") == "17" and task.answer("so") is None
    assert task.score(r"so \boxed{17}", row) == 1.0 and task.score(r"so \boxed{32}", row) == 0.0
    for hostile in ("", "\ud800", "\x00" * 1000, r"\boxed{" * 500, r"\boxed{__import__('os')}"):
        assert task.score(hostile, row) == 0.0
    assert task.score(r"\boxed{1}", {**row, "answer": r"\undefined{5"}) == 0.0


def test_problems_of_a_split(tmp_path, monkeypatch):
    for split, count in (("train", 4000), ("test", 1000)):
        rows = arithmetic.problems(split)
        assert len(rows) == count and rows == load_problems("arithmetic", split)
    write_rows(tmp_path / "math.jsonl", [{"problem": "1+1?", "answer": "2"}])
    rows = mathematics.problems("test", data_dir=str(tmp_path))
    assert rows == [{"id": "math/0", "problem": "1+1?", "answer": "2"}]


def test_names_of_tasks_and_scores():
    assert task_of("arithmetic") is task_of("arithmetic[:5]") is arithmetic
    for name in ("math", "gsm8k[5:]", "arithmetic.jsonl", "org/arithmetic", "arithmetic[1].csv"):
        assert task_of(name) is mathematics
    # Both go the Grader's short way.
    assert score_of(arithmetic) == score_of(mathematics) == MATHEMATICS


def test_no_module_of_data_hides_one_of_pythons():
    """`python data/SCRIPT.py` puts data/ first on sys.path."""
    names = {path.stem for path in (ROOT / "data").glob("*.py")} - {"__init__"}
    assert len(names) > 5 and not names & sys.stdlib_module_names


# --- Rows keep their columns ---


def test_rows_keep_their_columns_as_plain_values(tmp_path):
    cells = {
        "question": " 1+1 ",
        "answer": "#### 2",
        "level": 3,
        "weight": 2.50,
        "easy": True,
        "source": None,
        "tags": ["sum", {"depth": 1, "of": []}],
    }
    (row,) = load_problems(write_rows(tmp_path / "mine.jsonl", [{"id": 7, **cells}]))
    assert (row["id"], row["problem"], row["answer"]) == ("7", "1+1", "2")
    assert row["question"] == " 1+1 "
    for column in ("level", "weight", "easy", "source", "tags"):
        assert row[column] == cells[column] and type(row[column]) is type(cells[column])
    assert list(row)[:3] == ["id", "problem", "answer"]


@pytest.mark.parametrize(
    "cell, value",
    [
        ("1e999", "1e999"),
        ("-0", 0),
        ("7" * 5000, "7" * 5000),
        ("NaN", None),
        ("-Infinity", r"-\infty"),
        (r'"\ud800x"', "?x"),
        ('{"\\ud800": [1.5]}', {"?": [1.5]}),
        ("[" * 60 + "1" + "]" * 60, None),
        (json.dumps("é" * 10**6), "é" * 10**6),
    ],
    ids=lambda value: str(value)[:12],
)
def test_cells_that_are_no_json_or_no_unicode(tmp_path, cell, value):
    line = f'{{"problem": "a", "answer": "1", "cell": {cell}}}'
    (tmp_path / "mine.jsonl").write_text(line, encoding="utf-8")
    (row,) = load_problems(str(tmp_path / "mine.jsonl"))
    if value is None and cell.startswith("["):
        # Cut at a depth that everything can handle.
        depth = 0
        inner = row["cell"]
        while isinstance(inner, list):
            inner = inner[0]
            depth += 1
        assert (inner, depth) == (None, 51)
    else:
        assert row["cell"] == value
    assert json.loads(json.dumps(row, allow_nan=False).encode("utf-8")) == row


def test_columns_of_other_files_are_plain_too(tmp_path):
    import datasets

    day = datetime.datetime(2023, 5, 6, 7, 8)
    columns = {
        "problem": ["a", "b"],
        "answer": ["1", "2"],
        "day": [day, None],
        "text": [b"caf\xc3\xa9", b"\xff\xd8\xff"],
        "score": [float("nan"), float("inf")],
        "nested": [{"parts": [1, 2]}, {"parts": []}],
    }
    datasets.Dataset.from_dict(columns).to_parquet(tmp_path / "mine.parquet")
    first, second = load_problems(str(tmp_path / "mine.parquet"))
    assert first["day"] == "2023-05-06 07:08:00" and second["day"] is None
    assert (first["text"], second["text"]) == ("café", None)
    assert (first["score"], second["score"]) == (None, r"\infty")
    assert first["nested"] == {"parts": [1, 2]}
    (tmp_path / "mine.csv").write_text("problem,answer,level\na,1,007\n", encoding="utf-8")
    assert load_problems(str(tmp_path / "mine.csv"))[0]["level"] == "007"


def test_files_of_a_run_show_the_id_the_problem_and_the_answer_alone(
    tiny_base, tokenizer, tmp_path
):
    cells = {"problem": "2+3", "answer": "5", "image": "x" * 10**5}
    rows = load_problems(write_rows(tmp_path / "mine.jsonl", [cells]), "test")
    assert len(rows[0]["image"]) == 10**5
    flags = eval_math.Flags(max_new_tokens=4)
    with Grader(1) as grader:
        shared = (grader, Accelerator(), flags, tmp_path)
        eval_math.evaluate(tiny_base, tokenizer, {"mine": rows}, *shared)
    (written,) = map(json.loads, (tmp_path / "eval" / "mine.jsonl").read_text().splitlines())
    assert written["problem"] == "2+3" and written["answer"] == "5" and "image" not in written

    tree = Tree([3], [-1, 0, 0], [0, 1, 1], [[], [5], [6]], [[], [-1.0], [-1.0]], [0, 1, 1])
    values = torch.tensor([0.5, 1.0, 0.0])
    answers = {1: "5", 2: None}
    record = tree_record(1, rows[0], tree, values, values, tokenizer, answers)
    assert record["id"] == rows[0]["id"] and "image" not in record
    assert [node.get("extracted", "absent") for node in record["nodes"]] == ["absent", "5", None]


# --- Prompts ---


@pytest.mark.parametrize("name", ["arithmetic", "gsm8k"])
@pytest.mark.parametrize("template", [None, "Q: {problem}\\nA:"])
@pytest.mark.parametrize("chat", [None, "{% for m in messages %}[{{ m.content }}]{% endfor %}:"])
def test_a_row_is_encoded_as_its_problem(tokenizer, monkeypatch, name, template, chat):
    monkeypatch.setattr(tokenizer, "chat_template", chat)
    if chat and name == "arithmetic" and not template:
        pytest.skip("arithmetic asks by plain text, whatever the tokenizer")
    template = template_for(template, tokenizer)
    for problem in ("2+3*4", "a <end> in it"):
        row = {"problem": problem}
        ids = encode_row(tokenizer, task_of(name), row, template)
        assert ids == encode_prompt(tokenizer, problem, template)
    shots = encode_row(tokenizer, task_of(name), row, template, num_shots=2)
    assert shots == encode_prompt(tokenizer, problem, template, 2) and len(shots) > len(ids)


def test_arithmetics_own_prompt_is_its_template(tokenizer):
    row = {"problem": "2+3*4"}
    own = encode_row(tokenizer, arithmetic, row)
    assert tokenizer.decode(own) == arithmetic.prompt(row) == "\n2+3*4\n"
    assert own == encode_row(tokenizer, arithmetic, row, template_for(None, tokenizer))


def test_prompts_of_other_tasks(tokenizer, monkeypatch):
    task = ModuleType("task")
    # Text is text: a special token's name in it is no special token.
    task.prompt = lambda row: f"<end>Sort {row['items']}:"
    ids = encode_row(tokenizer, task, {"items": "b a"})
    assert 0 not in ids and tokenizer.decode(ids) == "<end>Sort b a:"

    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Sort <end> b a"},
    ]
    task.prompt = lambda row: messages
    plain = tokenizer.decode(encode_row(tokenizer, task, {}))
    assert plain == "Problem: Sort <end> b a\nSolution:"
    chat = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
    monkeypatch.setattr(tokenizer, "chat_template", chat)
    ids = encode_row(tokenizer, task, {})
    text = "<system>Be brief.<user>Sort <end> b a<assistant>"
    assert 0 not in ids and tokenizer.decode(ids) == text
    with pytest.raises(BadInput, match="--num_shots 2: its examples are of mathematics"):
        encode_row(tokenizer, task, {}, num_shots=2)
    # A template of the user's wins.
    assert tokenizer.decode(encode_row(tokenizer, task, {"problem": "b"}, "Q{problem}")) == "Qb"


def test_a_first_system_message_alone_is_merged():
    user = {"role": "user", "content": "1"}
    assert prompts._without_system_role([user]) == [user]
    merged = prompts._without_system_role([{"role": "system", "content": "0"}, user])
    assert merged == [{"role": "user", "content": "0\n\n1"}]


# --- A task of another kind, from end to end ---

OTHER_TASK = """
def problems(split):
    return [{"id": str(i), "problem": f"{i}+1", "answer": "-", "goal": i} for i in range(6)]

def prompt(row):
    return "\\n" + row["problem"] + "\\n"

def score(completion, row):
    return row["goal"] / 10

def answer(completion):
    return completion[:1]
"""


@pytest.fixture
def other_task(monkeypatch, tmp_path):
    """A registered task whose score is a tenth of its row's goal."""
    (tmp_path / "other_task.py").write_text(OTHER_TASK, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    task = importlib.import_module("other_task")
    monkeypatch.setitem(problems.TASKS, "other", task)
    yield task
    del sys.modules["other_task"]


def test_a_task_of_another_kind_is_evaluated_by_its_own_score(
    other_task, tiny_base, tokenizer, tmp_path
):
    assert score_of(other_task) == "other_task:score"
    rows = load_problems("other[2:4]", "test")
    assert [row["goal"] for row in rows] == [2, 3]
    flags = eval_math.Flags(num_samples=2, max_new_tokens=6)
    benchmarks = {"other[2:4]": rows, "arithmetic": load_problems("arithmetic[:1]", "test")}
    with Grader(1) as grader:
        shared = (grader, Accelerator(), flags, tmp_path)
        scores = eval_math.evaluate(tiny_base, tokenizer, benchmarks, *shared)
        assert grader.stats["pairs"] > 2 and not grader.stats["failed"]
    assert scores["other[2:4]"]["pass@1"]["mean"] == pytest.approx(0.25)
    assert scores["other[2:4]"]["avg@2"]["mean"] == pytest.approx(0.25)
    assert scores["arithmetic"]["pass@1"]["mean"] in (0.0, 1.0)
    path = tmp_path / "eval" / f"{problems.file_name('other[2:4]')}.jsonl"
    written = [json.loads(line) for line in path.read_text().splitlines()]
    assert all(row["extracted"] == row["completion"][:1] for row in written)


def test_votes_for_answers_of_another_task_are_by_number_or_spelling(other_task):
    numbers = ["1/2", "0.5", " 0.50 ", "7", "7"]
    expressions = ["6/2", "3", "9/3", "7", "7"]
    grades = [1.0, 1.0, 1.0, 0.0, 0.0]
    with Grader(1, score="other_task:score") as grader:
        assert eval_math.majority(numbers, grades, grader) == 1.0
        assert eval_math.majority(expressions, grades, grader) == 0.0
    with Grader(1) as grader:
        assert eval_math.majority(numbers, grades, grader) == 1.0
        assert eval_math.majority(expressions, grades, grader) == 1.0


def test_an_answer_that_fails_is_none_and_is_warned_of_once(other_task, monkeypatch, caplog):
    monkeypatch.setattr(other_task, "answer", lambda completion: completion[3])
    assert answer_of(other_task, "abcd") == "d"
    assert answer_of(other_task, "abc") is answer_of(other_task, "") is None
    assert caplog.text.count("answer raised IndexError") == 1
    # What is no text is shown as one.
    monkeypatch.setattr(other_task, "answer", lambda completion: [len(completion)])
    assert answer_of(other_task, "abc") == "[3]"


def test_a_task_of_another_kind_is_trained_by_its_own_score(other_task, tmp_path):
    rows = train(tmp_path, dataset_name="other", max_steps=2, prompts_per_update=6, eval_steps=0)
    # The mean of 0, 0.1, ... 0.5, whichever order they come in. All leaves of a tree are alike.
    rewards = [row["reward"] for row in rows if "reward" in row]
    assert rewards == pytest.approx([0.25, 0.25])
    # Its trees show what the task says that leaves answer: the first character.
    trees = map(json.loads, (tmp_path / "trees.jsonl").read_text().splitlines())
    for tree in map(shown_tree, trees):
        nodes = tree["nodes"]
        inner = {node["parent"] for node in nodes}
        for i, node in enumerate(nodes):
            if i not in inner:
                first = nodes[node["parent"]]["text"] or node["text"]
                assert node["extracted"] == first[:1]
    assert [row["trained_tokens"] for row in rows if "reward" in row] == [0, 0]
    assert rows[-1]["grader"]["pairs"] > 0 and "failed" not in rows[-1]["grader"]


# --- Names, levels and files ---


def test_parts_of_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "set[1].csv").write_text("")
    whole = slice(None)
    parts = {
        "arithmetic": ("arithmetic", None, whole),
        "arithmetic:3": ("arithmetic", "3", whole),
        "arithmetic:3[:7]": ("arithmetic", "3", slice(None, 7)),
        "dir/mine.py:hard[1:9:2]": ("dir/mine.py", "hard", slice(1, 9, 2)),
        # No task, so no level.
        "org/set:x": ("org/set:x", None, whole),
        "set[1].csv": ("set[1].csv", None, whole),
    }
    for name, expected in parts.items():
        assert problems.split_name(name) == expected
    with pytest.raises(BadInput, match="arithmetic:3: arithmetic has no levels"):
        load_problems("arithmetic:3")


MINIMAL_TASK = """
def problems(split, level=None):
    return [{"id": f"{split}/{level}", "problem": "say yes", "answer": "yes"}]

def prompt(row):
    return row["problem"]

def score(completion, row):
    return float("yes" in completion)

def answer(completion):
    return completion
LEVELS = "any"
"""


def test_a_python_file_is_a_task(tmp_path):
    path = tmp_path / "yes.py"
    path.write_text(MINIMAL_TASK)
    (row,) = load_problems(f"{path}:hard[:1]", "test")
    assert row["id"] == "test/hard"
    task = task_of(str(path))
    # The same module for every name that it has.
    assert task is task_of(f"{path}:easy") and score_of(task) == f"{path}:score"
    assert problems.tiny_base_of(str(path)).endswith("tiny_base")


def refusal_of(name: str) -> str:
    with pytest.raises(BadInput) as error:
        load_problems(name)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "there is no such file"),
        ("1/0", "can't be imported (ZeroDivisionError: division by zero)"),
        ("def f(:", "can't be imported (SyntaxError: invalid syntax (bad.py, line 1))"),
        ("import no_such", "can't be imported (ModuleNotFoundError: No module named 'no_such')"),
        ("def problems(split): ...", "has no function prompt; a task has problems, prompt, score"),
    ],
)
def test_a_python_file_that_is_no_task_is_refused(tmp_path, text, says):
    path = tmp_path / "bad.py"
    if text:
        path.write_text(text)
    # Mended, it is read anew.
    assert f"bad.py: {says}" in refusal_of(str(path))
    path.write_text(MINIMAL_TASK)
    assert load_problems(str(path))


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("return {}['x']", "problems('train') failed (KeyError: 'x')"),
        ("return 'abc'", "problems('train') must return a list of rows, not str"),
        ("return []", "has no train problems"),
        ("return ['abc']", "row 0 of problems('train') must be a dict with a text under problem"),
        ("return [{'problem': 'a'}, {'answer': 'b'}]", "row 1 of problems('train') must be a dict"),
        (
            "return [{'problem': 'a', 'words': {'b'}}]",
            "row 0 of problems('train'): Object of type set is not JSON serializable; a row holds",
        ),
    ],
)
def test_a_python_file_whose_rows_cannot_be_used_is_refused(tmp_path, body, says):
    path = tmp_path / "bad.py"
    path.write_text(MINIMAL_TASK + f"\ndef problems(split): {body}")
    assert f"bad.py: {says}" in refusal_of(str(path))


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("return row['goal']", r"prompt\(row\) of row x/train/0 failed \(KeyError: 'goal'\)"),
        ("return 5", "must return a text or chat messages that end with the user's, .* not 5"),
        ("return []", "must return a text or chat messages"),
        ("return [{'role': 'user'}]", "must return a text or chat messages"),
        ("return [{'role': 'assistant', 'content': 'a'}]", "must return a text or chat messages"),
    ],
)
def test_a_python_file_whose_prompt_cannot_be_used_is_refused(tokenizer, tmp_path, body, says):
    path = tmp_path / "x.py"
    rows = "def problems(split): return [{'problem': 'a'}]"
    path.write_text(f"{MINIMAL_TASK}\n{rows}\ndef prompt(row): {body}")
    (row,) = load_problems(str(path))
    assert row == {"id": "x/train/0", "problem": "a", "answer": None}
    with pytest.raises(BadInput, match=f"x.py: .*{says}"):
        encode_row(tokenizer, task_of(str(path)), row)


def test_names_that_are_nearly_right():
    refusal = refusal_of("aritmetic:5")
    assert "Did you mean arithmetic? Known names: arithmetic, " in refusal and "math, " in refusal
    assert "Did you mean gsm8k?" in refusal_of("gsm8")
    refusal = refusal_of("gsm8k")
    assert "Did you mean" not in refusal and "--data_dir DIR reads it from DIR/gsm8k" in refusal


def test_a_task_of_chat_messages_has_its_own_form_without_a_chat_template(tokenizer):
    task = ModuleType("task")
    task.prompt = lambda row: [{"role": "user", "content": row["problem"]}]
    task.PROMPT_TEMPLATE = "Sort: {problem}\nSorted:"
    ids = encode_row(tokenizer, task, {"problem": "b a"})
    assert tokenizer.decode(ids) == "Sort: b a\nSorted:"


def test_a_tokenizer_may_bring_its_template(tokenizer, monkeypatch):
    assert template_for(None, tokenizer) == template_for("", tokenizer) == "\n{problem}\n"
    assert template_for("Q: {problem}", tokenizer) == "Q: {problem}"
    # A chat template comes first.
    monkeypatch.setattr(tokenizer, "chat_template", "{{ messages }}")
    assert template_for(None, tokenizer) is None


# --- The document ---


def code_blocks(name: str, language: str) -> list[str]:
    """The blocks of code in a document."""
    text = (ROOT / name).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_the_task_of_the_document_is_trained_and_evaluated_as_written(tmp_path):
    (source,) = code_blocks("docs/tasks.md", "python")
    (commands,) = code_blocks("docs/tasks.md", "bash")
    assert len([line for line in source.splitlines() if line]) <= 15
    (tmp_path / "calculator.py").write_text(source, encoding="utf-8")
    for command in commands.splitlines():
        program, script, *words = shlex.split(command)
        assert program == "python"
        done = subprocess.run(
            [sys.executable, ROOT / script, *words],
            cwd=tmp_path,
            capture_output=True,
            encoding="utf-8",
            timeout=600,
        )
        assert done.returncode == 0, done.stderr
    # It learns from its own score.
    metrics = (tmp_path / "results" / "calculator" / "metrics.jsonl").read_text().splitlines()
    rewards = [json.loads(line).get("reward") for line in metrics]
    rewards = [reward for reward in rewards if reward is not None]
    assert len(rewards) == 8 and rewards[-1] > rewards[0] > 0.3
    path = tmp_path / "results" / "eval-calculator" / "scores.json"
    scores = json.loads(path.read_text(encoding="utf-8"))["scores"]["calculator.py"]
    assert scores["n"] == 113 and scores["pass@1"]["mean"] > 0.7
    # Its splits share no problem.
    path = str(tmp_path / "calculator.py")
    texts = [{row["problem"] for row in load_problems(path, split)} for split in ("train", "test")]
    assert not texts[0] & texts[1]
