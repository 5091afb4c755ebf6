"""The registry on every kind of file, the built-in task and its splits, and prompts."""

import datetime
import functools
import json
import logging
import random
import re

import pytest
from conftest import REAL_DATA, TINY_BASE

import train_treerpo
from data import arithmetic, mathematics, problems
from data.problems import (
    completion_text,
    encode_prompt,
    encode_row,
    file_name,
    load_problems,
    short_name,
    template_for,
)
from reward import extract_answer
from run.errors import BadInput
from run.reading import Reading


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_arithmetic_splits_are_disjoint_and_right():
    train = load_problems("arithmetic", "train")
    test = load_problems("arithmetic", "test")
    assert len(train) == 4000 and len(test) == 1000
    train_texts = {row["problem"] for row in train}
    test_texts = {row["problem"] for row in test}
    assert len(train_texts) == 4000 and len(test_texts) == 1000
    assert not train_texts & test_texts
    assert all(arithmetic.split_of(text) == "train" for text in train_texts)
    assert all(arithmetic.split_of(text) == "test" for text in test_texts)
    # Digits and + - * alone, so Python's own precedence may check ours.
    for row in test[:300]:
        assert str(eval(row["problem"])) == row["answer"]
        assert 0 <= int(row["answer"]) <= arithmetic.LARGEST
    assert load_problems("arithmetic", "test") == test


def test_the_base_never_reads_a_train_or_test_problem():
    from data.pupils.arithmetic import write_drill, write_solution

    rng = random.Random(0)
    for _ in range(2000):
        problem = arithmetic.sample_problem(rng, rng.randint(2, 7), "base")
        assert arithmetic.split_of(problem) == "base" and write_solution(problem, rng).endswith("}")
        # A drill has one operator, and no train or test problem is so short.
        drill, text = write_drill(rng)
        assert len(arithmetic.operators(drill)) == 1
        assert text.split("\n")[0] == arithmetic.solve(drill)
    for row in load_problems("arithmetic", "train"):
        assert len(arithmetic.operators(row["problem"])) >= 4


def test_jsonl_skips_and_names_bad_rows(tmp_path, caplog):
    path = tmp_path / "mine.jsonl"
    path.write_bytes(
        b'{"question": "1+1", "answer": "#### 2"}\n{broken\n\n{"question": "2+2"}\n[1]\n'
        b'{"question": "\xff", "answer": "1"}\n'
        b'{"question": "3+3", "answer": null}\n{"question": "4+4", "answer": 8}\n'
    )
    with caplog.at_level(logging.WARNING):
        rows = load_problems(str(path))
    assert [(row["problem"], row["answer"]) for row in rows] == [("1+1", "2"), ("4+4", "8")]
    assert "skipped 2 rows not a JSON object (rows 2, 5)" in caplog.text
    assert (
        "skipped 1 row not in UTF-8 or not Unicode; save the file as UTF-8 (rows 6)" in caplog.text
    )
    assert "skipped 2 rows without a problem or an answer (rows 4, 7)" in caplog.text


def test_ids_that_repeat_keep_their_rows(tmp_path, caplog):
    ids = (7, 8, 7, "8", None, None)
    rows = [{"id": id, "problem": f"p{i}", "answer": "1"} for i, id in enumerate(ids)]
    rows += [rows[1], {"id": "", "problem": "p6", "answer": 2}]
    with caplog.at_level(logging.WARNING):
        read = load_problems(write(tmp_path / "mine.jsonl", rows))
    assert [row["problem"] for row in read] == ["p0", "p1", "p2", "p3", "p4", "p5", "p6"]
    assert [row["id"] for row in read[:4]] == ["7", "8", "7#3", "8#4"]
    assert len({row["id"] for row in read}) == 7
    assert "2 rows with the id of an earlier row: #ROW is added to it (rows 3, 4)" in caplog.text
    assert "skipped 1 row equal to an earlier row with the same id (rows 7)" in caplog.text


@pytest.mark.parametrize("suffix", ["csv", "json", "parquet"])
def test_other_files(tmp_path, suffix):
    import datasets

    path = tmp_path / f"mine.{suffix}"
    table = datasets.Dataset.from_list(
        [{"prompt": "1+1", "solution": "so \\boxed{\\frac{4}{2}}"}] * 3
    )
    getattr(table, f"to_{suffix}")(path)
    rows = load_problems(str(path))
    assert len(rows) == 3 and rows[0]["problem"] == "1+1" and rows[0]["answer"] == "\\frac{4}{2}"


def test_known_names_from_a_folder(tmp_path):
    rows = [{"id": i, "problem": f"p{i}", "answer": str(i)} for i in range(4)]
    write(tmp_path / "gsm8k.jsonl", rows)
    assert [r["id"] for r in load_problems("gsm8k[1:3]", "test", str(tmp_path))] == ["1", "2"]
    assert load_problems("gsm8k", "train", str(tmp_path))[0]["problem"] == "p0"
    write(tmp_path / "train_gsm8k.jsonl", [{"problem": "t", "answer": "1"}])
    assert load_problems("gsm8k", "train", str(tmp_path))[0]["problem"] == "t"
    assert load_problems("gsm8k", "test", str(tmp_path))[0]["problem"] == "p0"


def test_columns_can_be_named(tmp_path):
    path = write(tmp_path / "mine.jsonl", [{"q": "1+1", "a": "2"}])
    assert load_problems(path, problem_column="q", answer_column="a")[0]["answer"] == "2"
    missing = (
        r"no column problem\|question\|prompt\|messages \(it has: a, q\); set --problem_column"
    )
    with pytest.raises(BadInput, match=missing):
        load_problems(path)
    with pytest.raises(BadInput, match="no column gold"):
        load_problems(path, problem_column="q", answer_column="gold")


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(BadInput, match="no such file"):
        load_problems(str(tmp_path / "none.jsonl"))
    with pytest.raises(BadInput, match="no problems"):
        load_problems(write(tmp_path / "empty.jsonl", []))
    with pytest.raises(BadInput, match="no problems"):
        load_problems(write(tmp_path / "none.jsonl", [{"problem": "1", "answer": ""}]))
    with pytest.raises(BadInput, match=r"Known names: arithmetic, .*math"):
        load_problems("no-such-name")
    with pytest.raises(BadInput, match="without a train split"):
        load_problems("aime24", "train")


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="the real problem sets are not here")
@pytest.mark.parametrize(
    "name, rows", [("math500", 500), ("gsm8k", 1319), ("minerva", 272), ("olympiadbench", 675)]
)
def test_real_sets(name, rows):
    assert len(load_problems(name, "test", str(REAL_DATA))) == rows


def test_prompts(tokenizer):
    problem = "what is {x} + 1?"
    plain = tokenizer.decode(encode_prompt(tokenizer, problem))
    assert plain == "Problem: what is {x} + 1?\nSolution:"
    templated = tokenizer.decode(encode_prompt(tokenizer, problem, "Q {problem} \\boxed{}:"))
    assert templated == f"Q {problem} \\boxed{{}}:"
    shots = tokenizer.decode(encode_prompt(tokenizer, problem, num_shots=2))
    assert shots.endswith("\\boxed{7}\n\n" + plain) and shots.count("Problem:") == 3
    invented = tokenizer.encode(" so \\boxed{1}\n\nProblem: another\nSolution: \\boxed{2}")
    assert completion_text(tokenizer, invented, num_shots=2) == " so \\boxed{1}"
    assert completion_text(tokenizer, invented).endswith("\\boxed{2}")


def test_chat_template(tokenizer, monkeypatch):
    template = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}<assistant>"
    monkeypatch.setattr(tokenizer, "chat_template", template)
    text = tokenizer.decode(encode_prompt(tokenizer, "1+1?"))
    assert text == f"<system>{problems.SYSTEM_PROMPT}<user>1+1?<assistant>"


def test_an_answer_in_a_list_is_read_as_without_the_list(tmp_path):
    answers = [["5"], ["x=1", "x=2"], [None], [{"value": 1}], [], None]
    rows = [{"question": f"q{i}", "answer": answer} for i, answer in enumerate(answers)]
    read = load_problems(write(tmp_path / "lists.jsonl", rows))
    assert [row["answer"] for row in read] == ["5", "x=1, x=2"]


def test_rows_without_an_answer_are_used_where_none_is_needed(tmp_path):
    rows = [{"question": "a", "answer": "#### 2"}, {"question": "b"}, {"question": "", "answer": 1}]
    path = write(tmp_path / "mine.jsonl", [*rows, {"question": "c", "answer": r"\boxed{"}])
    assert [row["answer"] for row in load_problems(path)] == ["2"]
    read = load_problems(path, needs_answer=False)
    assert [(row["problem"], row["answer"]) for row in read] == [
        ("a", "2"),
        ("b", None),
        ("c", None),
    ]
    # The column may be missing, unless it is named.
    path = write(tmp_path / "open.jsonl", [{"question": "a"}])
    assert load_problems(path, needs_answer=False)[0]["answer"] is None
    with pytest.raises(BadInput, match="set --answer_column"):
        load_problems(path)
    with pytest.raises(BadInput, match="no column gold"):
        load_problems(path, answer_column="gold", needs_answer=False)


def golds(tmp_path, answers):
    """The gold answers that are read from these; None for one that is left out."""
    # The first row is there so that the file holds a usable one.
    rows = []
    for i, answer in enumerate(["0", *answers]):
        rows.append({"id": str(i), "question": f"q{i}", "answer": answer})
    usable = load_problems(write(tmp_path / "golds.jsonl", rows))
    answers_by_id = {row["id"]: row["answer"] for row in usable}
    return [answers_by_id.get(str(i)) for i in range(1, len(rows))]


BOXES = [
    (r"Hence $\boxed 17$.", "17"),
    (r"thus $$x = \boxed -2\sqrt 3$$", r"-2\sqrt 3"),
    (r"so it is \boxed 40. With $n$ apples", "40"),
    (r"we get $\boxed {\frac{3}{8}}$", r"\frac{3}{8}"),
    (r"hence \fbox{12}", "12"),
    (r"$\fbox\frac59$", r"\frac59"),
    (r"$\boxed C$", "C"),
    (r"\text{Total: \boxed{\text{9 cm}}}", r"\text{9 cm}"),
    (r"first \boxed{1}, but that counts one twice; finally \boxed{6}", "6"),
    (r"\boxed{\boxed{\{1,2\}}}", r"\{1,2\}"),
    ("\boxed{11}", "11"),  # a backspace: \b in JSON
    (r"\boxed{31", None),
    (r"\boxed{ }", None),
]
SOLUTIONS = [
    ("He walks 3 * 400 = 1,200 m.\n#### 1,200", "1200"),
    ("They cross there.\n#### (3,4)", "(3,4)"),
    ("#### 7, 8", "7, 8"),
    ("It costs 2 dollars.\n#### $2\n", "$2"),
    ("#### Step 2: solve\nSo we have \\boxed{13}", "13"),
    ("### Result\n14", "14"),
    ("One half of them is left. Therefore, the final answer is 15.", "15"),
    ("Answer: (D)", "(D)"),
    ("####", None),
]
VALUES = [
    (7.0, "7.0"),
    (3**150, str(3**150)),
    (float("nan"), None),
    ("NaN", None),
    (float("-inf"), r"-\infty"),
    (True, "True"),
    ("None", "None"),
    ("N/A", "N/A"),
    ([4], "4"),
    ([[1, 2.5], [3]], "[1, 2.5], [3]"),
    (["4", None], None),
    ({"text": "4"}, None),
    ({"ground_truth": "4", "style": "rule"}, "4"),
]


@pytest.mark.parametrize("cases", [BOXES, SOLUTIONS, VALUES], ids=["boxes", "solutions", "values"])
def test_golds(tmp_path, cases):
    assert golds(tmp_path, [answer for answer, _ in cases]) == [gold for _, gold in cases]


def test_numbers_are_read_as_written(tmp_path):
    lines = (
        '{"problem": "a", "answer": 2.50}',
        '{"problem": "b", "answer": 1E3}',
        '{"problem": 3, "answer": 4}',
    )
    (tmp_path / "mine.jsonl").write_text("\n".join(lines))
    assert [row["answer"] for row in load_problems(str(tmp_path / "mine.jsonl"))] == ["2.50", "1E3"]


def test_solutions_without_an_answer_are_named(tmp_path, caplog):
    solutions = ["Count them one by one, then halve the sum.", "He is left.", "一" * 40]
    answers = [r"\frac{2}{3}", "Eve and Ann"]
    with caplog.at_level(logging.WARNING):
        assert golds(tmp_path, [*solutions, *answers]) == [*solutions, *answers]
    assert "3 rows with a text instead of an answer" in caplog.text
    assert "(rows 2, 3, 4)" in caplog.text


def test_a_csv_is_text(tmp_path, caplog):
    path = tmp_path / "mine.csv"
    path.write_text(
        'question,answer\na,null\n"b, c",NULL\nd,2021-03-04\ne,007\nf,"8\n9"\ng,1,500\nh\ni,j,\n'
    )
    with caplog.at_level(logging.WARNING):
        rows = load_problems(str(path))
    assert [row["answer"] for row in rows] == ["null", "NULL", "2021-03-04", "007", "8\n9", "j"]
    assert rows[1]["problem"] == "b, c"
    assert "skipped 1 row with more cells than the header (rows 6)" in caplog.text
    assert "skipped 1 row without a problem or an answer (rows 7)" in caplog.text


@pytest.mark.parametrize(
    "name, text",
    [
        ("mine.csv", "problem;answer\n1, 2?;3,5\n"),
        ("mine.tsv", "problem\tanswer\n1, 2?\t3,5\n"),
        ("MINE.CSV", '\n problem , answer\n"1, 2?","3,5"\n'),
        ("m[0-9]*.csv", 'answer,problem\n"3,5","1, 2?"'),
        ("mine.jsonl", '[{"problem": "1, 2?", "answer": "3,5"}]'),
        ("mine.Json", '{"problem": "1, 2?", "answer": "3,5"}'),
        ("m.jsonl", '[\n {"problem": "1, 2?",\n "answer": "3,5"}\n]'),
        ("mine.json", '{"rows": [{"problem": "1, 2?", "answer": "3,5"}], "version": 2}'),
        ("m.json", '{"problem": ["1, 2?"], "answer": ["3,5"]}'),
    ],
)
def test_shapes_of_files(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    (row,) = load_problems(str(tmp_path / name))
    assert (row["problem"], row["answer"]) == ("1, 2?", "3,5")


@pytest.mark.parametrize(
    "suffix, text",
    [
        ("jsonl", '{"problem": "naïve", "answer": "1"}\n{"problem": "b", "answer": "2"}'),
        ("csv", "problem,answer\nnaïve,1\nb,2"),
        ("json", '[{"problem": "naïve", "answer": "1"}, {"problem": "b", "answer": "2"}]'),
    ],
)
def test_encodings(tmp_path, caplog, suffix, text):
    path = tmp_path / f"mine.{suffix}"
    for encoding in ("utf-8-sig", "utf-16", "utf-16-be", "utf-32"):
        path.write_bytes(text.encode(encoding))
        assert [row["problem"] for row in load_problems(str(path))] == ["naïve", "b"]
    path.write_bytes(text.encode("latin-1"))
    with caplog.at_level(logging.WARNING):
        assert [row["problem"] for row in load_problems(str(path))] == ["b"]
    assert (
        "skipped 1 row not in UTF-8 or not Unicode; save the file as UTF-8 (rows 1)" in caplog.text
    )


@pytest.mark.parametrize(
    "name, data, cause",
    [
        (
            "a.jsonl.bz2",
            b"BZh9",
            r"\.bz2 files are not read; .* \.jsonl, \.json, \.csv, \.tsv, \.parquet",
        ),
        ("a.xlsx", b"PK", r"\.xlsx files are not read"),
        ("data", b"{}", "without an ending are not read"),
        ("a.jsonl", b"\x1f\x8b\x08", "compressed"),
        ("a.parquet", b"version https://git-lfs.github.com/spec", "LFS"),
        ("a.csv", b'problem,answer\nb,1\n"c,2\nd,3', "line 4: unexpected end"),
        ("b.csv", b"problem,answer,answer\na,1,2", "two columns have the same name"),
        ("a.json", b'[{"problem": "b",]', "line 1 column"),
        ("b.json", b"[1]", "no array of objects"),
        (
            "c.json",
            b'{"train": [{"problem": "b"}], "dev": [{"problem": "b"}]}',
            r"several tables \(train, dev\)",
        ),
        ("b.jsonl", b'{\n"problem": "b"\n}', "no line of it is a JSON object"),
        ("b.parquet", b"PAR1....PAR1", "can't be read as parquet"),
        ("c.jsonl", b"\xff\xfea", "encoding is broken"),
        (
            "d.jsonl",
            b'{"problem": "\\ud800", "answer": "1"}',
            r"no problems in it \(1 row not in UTF-8 or not Unicode",
        ),
    ],
)
def test_files_that_cannot_be_read_say_why(tmp_path, name, data, cause):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(BadInput, match=cause):
        load_problems(str(tmp_path / name))


CONFIGURATIONS = """---
configs:
- config_name: easy
  data_files:
  - split: train
    path: easy.KIND
  - split: dev
    path: dev.KIND
- config_name: hard
  data_files: hard.KIND
---
"""


@pytest.fixture(params=["jsonl", "parquet"])
def folder(request, tmp_path):
    """A data set of two configurations, of which one has a split of an unusual name."""
    import datasets

    kind = request.param
    (tmp_path / "README.md").write_text(CONFIGURATIONS.replace("KIND", kind))
    for name in ("easy", "dev", "hard"):
        table = datasets.Dataset.from_list([{"problem": name, "answer": "1"}])
        save = table.to_parquet if kind == "parquet" else table.to_json
        save(tmp_path / f"{name}.{kind}")
    return str(tmp_path)


def test_configurations_and_splits(folder):
    def problem_of(split, **reading):
        (row,) = load_problems(folder, split, reading=Reading(**reading))
        return row["problem"]

    assert problem_of("train", dataset_config="easy") == "easy"
    assert problem_of("train", dataset_config="hard") == "hard"
    assert problem_of("train", dataset_config="easy", dataset_train_split="dev") == "dev"
    assert problem_of("test", dataset_config="easy", dataset_test_split="dev") == "dev"
    # Each split is chosen by its own flag.
    with pytest.raises(BadInput, match=r"Unknown split \"test\".*'train', 'dev'.*_test_split"):
        problem_of("test", dataset_config="easy", dataset_train_split="dev")
    with pytest.raises(BadInput, match=r'Unknown split "no".* Set --dataset_train_split'):
        problem_of("train", dataset_config="easy", dataset_train_split="no")
    with pytest.raises(BadInput, match=r"--dataset_config: .*'medium' not.*'easy', 'hard'"):
        problem_of("train", dataset_config="medium")
    with pytest.raises(BadInput, match=r"several config.*'easy', 'hard'.*; set --dataset_c"):
        problem_of("train")


def test_flags_of_reading_reach_the_data(folder):
    flags = train_treerpo.Flags(dataset_config="easy", dataset_test_split="dev")
    (row,) = load_problems(folder, "test", *flags.columns)
    assert row["problem"] == "dev"
    # A file, a task or a known name has none to choose from.
    assert len(load_problems("arithmetic[:2]", "test", *flags.columns)) == 2
    with pytest.raises(BadInput, match="--dataset_config easy: arithmetic has no configurations"):
        load_problems("arithmetic", "train", *flags.columns)
    flags = train_treerpo.Flags(dataset_train_split="dev")
    with pytest.raises(BadInput, match="--dataset_train_split dev: gsm8k has no splits"):
        load_problems("gsm8k", "train", *flags.columns)


def test_folders_say_why(tmp_path):
    (tmp_path / "easy.jsonl").write_text('{"problem": "1", "answer": "2"}\n{"problem": ')
    with pytest.raises(BadInput, match="can't be loaded") as error:
        load_problems(str(tmp_path))
    assert "An error occurred" not in str(error.value) and "\n" not in str(error.value)


def test_parquet_columns(tmp_path, caplog):
    import datasets

    label, value = datasets.ClassLabel(names=["yes", "no"]), datasets.Value
    for kind, answers, read in [
        (label, [1, 0, -1], ["no", "yes"]),
        (datasets.List(label), [[1], [0, 1], []], ["no", "yes, no"]),
        (value("float32"), [0.7, 2.0, float("nan")], ["0.7", "2.0"]),
        (value("date32"), [datetime.date(2023, 5, 6), None, None], ["2023-05-06"]),
        (value("timestamp[s]"), [datetime.datetime(2023, 5, 6), None, None], ["2023-05-06"]),
        (value("binary"), [b"3", None, None], ["3"]),
    ]:
        features = datasets.Features({"problem": value("string"), "answer": kind})
        columns = {"problem": ["a", "b", "c"], "answer": answers}
        datasets.Dataset.from_dict(columns, features=features).to_parquet(tmp_path / "p[0].parquet")
        assert [row["answer"] for row in load_problems(str(tmp_path / "p[0].parquet"))] == read


def turn(content, role="user"):
    return {"role": role, "content": content}


def test_conversations(tmp_path, caplog):
    parts = [{"type": "text", "text": "5+"}, {"type": "text", "text": "6"}]
    call = {"role": "assistant", "content": None, "tool_calls": [{"name": "search"}]}
    prompts = [
        [turn("1+2")],
        [turn("Be brief.", "system"), turn("3+4")],
        [turn(parts)],
        json.dumps([turn("7+8")]),
        [turn("a"), turn("b", "assistant"), turn("c")],
        [turn("Put it in a \\boxed{}.", "developer"), turn("d"), turn("e", "model"), turn(" f ")],
        [turn("", "system"), turn("g")],
        # What follows can't be used.
        [turn("Be brief.", "system")],
        [turn("a"), turn("b", "assistant")],
        [],
        str([turn("d")]),
        [turn("d", "narrator")],
        [turn("a"), turn("Be brief.", "system"), turn("b")],
        [turn([{"type": "image", "url": "e.png"}])],
        [turn("a"), call, turn("b", "tool"), turn("c")],
        [turn("a"), turn("", "assistant"), turn("b")],
    ]
    reward_model = {"style": "rule", "ground_truth": "9"}
    rows = [{"prompt": prompt, "reward_model": reward_model} for prompt in prompts]
    rows.append({**rows[4], "tools": [{"name": "search"}]})
    with caplog.at_level(logging.WARNING):
        read = load_problems(write(tmp_path / "chat.jsonl", rows))
    assert [row["problem"] for row in read] == ["1+2", "3+4", "5+6", "7+8", "c", "f", "g"]
    assert {row["answer"] for row in read} == {"9"}
    # One message of the user's is a problem like any other.
    conversations = {row["problem"]: row.get("messages") for row in read}
    assert [problem for problem, messages in conversations.items() if messages] == ["3+4", "c", "f"]
    assert conversations["3+4"] == [turn("Be brief.", "system"), turn("3+4")]
    assert conversations["c"] == prompts[4]
    roles = [message["role"] for message in conversations["f"]]
    assert roles == ["system", "user", "assistant", "user"]
    for warning in (
        r"1 row with a system message that does not ask for \boxed{}; it takes the place of the "
        "suite's (rows 2)",
        "skipped 3 rows whose prompt does not end with a user message (rows 8, 9, 10)",
        "skipped 2 rows whose prompt holds something else than messages (rows 11, 12)",
        "skipped 1 row whose prompt has a system message after the first one (rows 13)",
        "skipped 1 row whose prompt holds more than text (rows 14)",
        "skipped 2 rows whose prompt has tools (rows 15, 17)",
        "skipped 1 row without a problem or an answer (rows 16)",
    ):
        assert warning in caplog.text


def test_other_columns_are_never_a_conversation(tmp_path):
    """A data set may hold the whole conversation, solution and all, beside the problem."""
    messages = [turn("1+2?"), turn("It is 3.", "assistant")]
    cells = {"problem": "1+2?", "answer": "3", "messages": messages, "choices": "none"}
    (row,) = load_problems(write(tmp_path / "mine.jsonl", [cells]))
    assert row == {"id": row["id"], "problem": "1+2?", "answer": "3"}
    # It is the prompt where there is no other, or where it is named.
    asked = [{"messages": messages[:1], "answer": "3"}, {"messages": messages, "answer": "3"}]
    (row,) = load_problems(write(tmp_path / "mine.jsonl", asked))
    assert row["problem"] == "1+2?" and "messages" not in row


def test_slices(tmp_path, caplog):
    path = write(tmp_path / "set[2].jsonl", [{"problem": f"p{i}", "answer": i} for i in range(6)])
    # Brackets in a name are no slice.
    assert len(load_problems(path)) == 6
    slices = {"-1:": "5", ":-4": "01", "1::2": "135", "::-1": "543210", " 2 : 4 ": "23"}
    for inside, answers in slices.items():
        assert "".join(row["answer"] for row in load_problems(f"{path}[{inside}]")) == answers
    for inside in ("2", ":25%", "x:", "::0", "1:2:3:4", " "):
        with pytest.raises(BadInput, match=r"the slice \[.*\] must be"):
            load_problems(f"{path}[{inside}]")
    for inside in ("6:", "4:2"):
        with pytest.raises(BadInput, match="no problems in this slice of 6 problems"):
            load_problems(f"{path}[{inside}]")
    with caplog.at_level(logging.WARNING):
        assert len(load_problems(f"{path}[:50]")) == 6
    assert "the slice reaches beyond the 6 problems" in caplog.text


def test_names_of_files():
    slices = ["svamp[:9]", "svamp[9:]", "svamp[-9:]"]
    paths = ["one/set.jsonl", "two/set.jsonl", "set.jsonl"]
    files = [file_name(name) for name in [*slices, *paths, "math500", "a b", "a:b", "/"]]
    assert len(set(files)) == 10 and all(re.fullmatch(r"[A-Za-z0-9_.-]+", file) for file in files)
    assert file_name("math500") == "math500" and len(file_name("x/" * 200 + "y" * 300)) < 150
    assert short_name("../my sets/one.jsonl[2:]") == "one.jsonl_2"


def rendered(tokenizer, problem="6*7", **settings):
    return tokenizer.decode(encode_prompt(tokenizer, problem, **settings))


LOOP = "{% for m in messages %}"
NO_SYSTEM = "{% if m.role == 'system' %}{{ raise_exception('no such role') }}{% endif %}"
STRICT = (
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
)
PARTS = "{% for part in m.content %}{{ part.text }}{% endfor %}"


@pytest.mark.parametrize(
    "template, start, end",
    [
        (LOOP + NO_SYSTEM + "[{{ m.content }}]{% endfor %}:", "[SYSTEM\n\n", "6*7]:"),
        (LOOP + STRICT + "({{ m.content }}){% endfor %}:", "(SYSTEM\n\n", "6*7):"),
        (
            LOOP + "{% if m.role != 'system' %}[{{ m.content }}]{% endif %}{% endfor %}:",
            "[SYSTEM\n\n",
            "6*7]:",
        ),
        (LOOP + "[" + PARTS + "]{% endfor %}:", "[SYSTEM][", "6*7]:"),
        (LOOP + NO_SYSTEM + "[{{ m.content[0]['text'] }}]{% endfor %}:", "[SYSTEM\n\n", "6*7]:"),
        (
            LOOP + "<{{ m.role }}>{{ m.content }}\n{% endfor %}",
            "<system>SYSTEM\n<user>",
            "6*7\n<assistant>",
        ),
    ],
)
def test_chat_templates_of_other_forms(tokenizer, monkeypatch, template, start, end):
    monkeypatch.setattr(tokenizer, "chat_template", template)
    text = rendered(tokenizer)
    assert text.startswith(start.replace("SYSTEM", problems.SYSTEM_PROMPT)) and text.endswith(end)
    assert all(question in rendered(tokenizer, num_shots=2) for question, _ in problems.SHOTS[:2])


@pytest.mark.parametrize(
    "template, cause",
    [
        ("What now?", "leaves out the problem"),
        ("{{ messages[-1].content }}:", "leaves out"),
        (LOOP + "{{ m.content | upper }}{% endfor %}", "leaves out the problem"),
        (LOOP, "Unexpected end of template"),
        ({"rag": "x", "tool_use": "y"}, r"several chat templates \(rag, tool_use\)"),
    ],
)
def test_chat_templates_that_are_refused(tokenizer, monkeypatch, template, cause):
    monkeypatch.setattr(tokenizer, "chat_template", template)
    with pytest.raises(BadInput, match=cause):
        encode_prompt(tokenizer, "6*7", num_shots=1)


def special_tokenizer(*tokens, around="$A"):
    """The tiny base's tokenizer with further special tokens and others around a text."""
    from tokenizers.processors import TemplateProcessing
    from transformers import AddedToken, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(TINY_BASE)
    added = [AddedToken(token, special=True, normalized=False) for token in tokens]
    tokenizer.add_tokens(added, special_tokens=True)
    names = [("<end>", 0), ("<pad>", 1), ("<unk>", 2)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=around, special_tokens=names
    )
    return tokenizer


@pytest.mark.parametrize(
    "around, before", [("$A <end>", []), ("<pad> $A <unk> <end>", [1]), ("<end> $A", [0])]
)
def test_a_prompt_ends_with_its_text(around, before):
    tokenizer = special_tokenizer(around=around)
    text = tokenizer.encode("6*7=", add_special_tokens=False)
    assert tokenizer.encode("6*7=") != text
    assert encode_prompt(tokenizer, "6*7", "{problem}=") == before + text
    # No second one where the template brings it.
    if before:
        written = tokenizer.decode(before) + "{problem}="
        assert encode_prompt(tokenizer, "6*7", written) == before + text


def test_conversations_as_prompts(tokenizer, monkeypatch):
    messages = [turn("Be <end>.", "system"), turn("a<end>"), turn("b", "assistant"), turn("c")]
    row = {"id": "1", "problem": "c", "answer": "", "messages": messages}
    assert mathematics.prompt(row) == messages
    # A conversation without a system message gets the suite's.
    suite = turn(problems.SYSTEM_PROMPT, "system")
    assert mathematics.prompt({**row, "messages": messages[1:]}) == [suite, *messages[1:]]

    encode = functools.partial(encode_row, tokenizer, mathematics)
    monkeypatch.setattr(
        tokenizer, "chat_template", LOOP + "<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
    )
    ids = encode(row)
    text = "<system>Be <end>.<user>a<end><assistant>b<user>c<assistant>"
    assert 0 not in ids and tokenizer.decode(ids) == text
    # Worked examples stand between the system message and the first turn.
    (question, solution), *_ = problems.SHOTS
    text = text.replace("<user>a", f"<user>{question}<assistant>{solution}<user>a")
    assert tokenizer.decode(encode(row, num_shots=1)) == text

    # Without a chat template it is plain text. A template has no room for it.
    monkeypatch.setattr(tokenizer, "chat_template", None)
    plain = "Be <end>.\n\nUser: a<end>\n\nAssistant: b\n\nUser: c\n\nAssistant:"
    ids = encode(row)
    assert 0 not in ids and tokenizer.decode(ids) == plain
    one = {"id": "1", "problem": "c", "messages": [messages[0], messages[3]]}
    assert tokenizer.decode(encode(one)) == "Be <end>.\n\nUser: c\n\nAssistant:"
    with pytest.raises(BadInput, match="row 1: its prompt has several turns, and a template has"):
        encode(row, "Q: {problem}")
    assert tokenizer.decode(encode(one, "Q: {problem}")) == "Q: c"


def test_a_template_may_leave_out_earlier_thinking(tokenizer, monkeypatch):
    template = LOOP + "[{{ m.content.split('</think>')[-1] }}]{% endfor %}:"
    monkeypatch.setattr(tokenizer, "chat_template", template)
    thought = turn("<think>hm</think>two", "assistant")
    row = {"problem": "b", "messages": [turn("s", "system"), turn("a"), thought, turn("b")]}
    assert tokenizer.decode(encode_row(tokenizer, mathematics, row)) == "[s][a][two][b]:"


def test_what_opens_the_models_turn_is_added_beside_special_tokens(tokenizer, monkeypatch):
    template = LOOP + "<{{ m.role }}>{{ m.content }}{% endfor %}"
    monkeypatch.setattr(tokenizer, "chat_template", template)
    for problem in ("6*7", "6<end>7"):
        assert rendered(tokenizer, problem).endswith(f"<user>{problem}<assistant>")


def test_special_tokens_in_a_problem_are_text():
    tokenizer = special_tokenizer("<|turn|>")
    turn_id = tokenizer.convert_tokens_to_ids("<|turn|>")
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}<|turn|>{% endfor %}"
    for problem in ("1<|turn|>2", "<|turn|>", "<end>"):
        ids = encode_prompt(tokenizer, problem)
        assert ids.count(turn_id) == 2 and 0 not in ids
        assert problem in tokenizer.decode(ids)
        plain = encode_prompt(tokenizer, problem, "<|turn|>{problem}={problem}")
        assert plain.count(turn_id) == 1 and 0 not in plain
        assert f"{problem}={problem}" in tokenizer.decode(plain)


def test_think_tags_that_are_special_tokens_stay():
    tokenizer = special_tokenizer("<think>", "</think>", "<thinking>", "</thinking>", "<|turn|>")
    texts = (
        "<think>\\boxed{1}</think>\\boxed{2}",
        "<thinking>1</thinking> 2",
        "\\boxed{3}</think>",
    )
    for text in texts:
        for end in ("", "<end>", "<|turn|>", "<end><pad><pad>"):
            assert completion_text(tokenizer, tokenizer.encode(text + end)) == text
    thought = tokenizer.encode("<think>\\boxed{1}</think> so")
    assert extract_answer(completion_text(tokenizer, thought)) is None


def test_line_breaks_in_a_template(tokenizer):
    given = {
        r"Solve:\n{problem}\nSo": "Solve:\n{problem}\nSo",
        "Solve:\n{problem}\n": "Solve:\n{problem}\n",
        r"$a \neq b$, \nabla: {problem}": r"$a \neq b$, \nabla: {problem}",
    }
    for written, template in given.items():
        assert template_for(written, tokenizer) == template
    for bad in ("no place", "{problem}\ud83d"):
        with pytest.raises(BadInput, match="--prompt_template"):
            template_for(bad, tokenizer)
