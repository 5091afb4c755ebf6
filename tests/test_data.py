"""The registry on every kind of file, the built-in task and its splits, and prompts."""

import json
import logging
import random

import pytest
from conftest import REAL_DATA

from data import arithmetic, problems
from data.problems import BadInput, completion_text, encode_prompt, load_problems


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_arithmetic_splits_are_disjoint_and_right():
    train, test = load_problems("arithmetic", "train"), load_problems("arithmetic", "test")
    assert len(train) == 4000 and len(test) == 1000
    texts = [{row["problem"] for row in rows} for rows in (train, test)]
    assert len(texts[0]) == 4000 and len(texts[1]) == 1000 and not texts[0] & texts[1]
    assert all(arithmetic.split_of(p) == "train" for p in texts[0])
    assert all(arithmetic.split_of(p) == "test" for p in texts[1])
    for row in test[:300]:  # digits and + - * alone, so Python's own precedence may check ours
        assert str(eval(row["problem"])) == row["answer"] and 0 <= int(row["answer"]) <= arithmetic.LARGEST
    assert load_problems("arithmetic", "test") == test


def test_the_base_never_reads_a_train_or_test_problem():
    from data.make_tiny_base import write_drill, write_solution

    rng = random.Random(0)
    for _ in range(2000):
        problem = arithmetic.sample_problem(rng, rng.randint(2, 7), "base")
        assert arithmetic.split_of(problem) == "base" and write_solution(problem, rng).endswith("}")
        drill, text = write_drill(rng)  # of two terms, and no train or test problem is so short
        assert len(arithmetic.operators(drill)) == 1 and text.split("\n")[0] == arithmetic.solve(drill)
    assert all(len(arithmetic.operators(row["problem"])) >= 4 for row in load_problems("arithmetic", "train"))


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
    assert "skipped 1 rows not in UTF-8 or not Unicode; save the file as UTF-8 (rows 6)" in caplog.text
    assert "skipped 2 rows without a problem or an answer (rows 4, 7)" in caplog.text


def test_ids_that_repeat_keep_their_rows(tmp_path, caplog):
    rows = [{"id": i, "problem": f"p{place}", "answer": "1"} for place, i in enumerate((7, 8, 7, "8", None, None))]
    with caplog.at_level(logging.WARNING):
        read = load_problems(write(tmp_path / "mine.jsonl", [*rows, rows[1], {"id": "", "problem": "p6", "answer": 2}]))
    assert [row["problem"] for row in read] == ["p0", "p1", "p2", "p3", "p4", "p5", "p6"]
    assert [row["id"] for row in read[:4]] == ["7", "8", "7#3", "8#4"] and len({row["id"] for row in read}) == 7
    assert "2 rows have the id of an earlier row and get #ROW after it (rows 3, 4)" in caplog.text
    assert "skipped 1 rows equal to an earlier row with the same id (rows 7)" in caplog.text


@pytest.mark.parametrize("suffix", ["csv", "json", "parquet"])
def test_other_files(tmp_path, suffix):
    import datasets

    path = tmp_path / f"mine.{suffix}"
    table = datasets.Dataset.from_list([{"prompt": "1+1", "solution": "so \\boxed{\\frac{4}{2}}"}] * 3)
    getattr(table, f"to_{suffix}")(path)
    rows = load_problems(str(path))
    assert len(rows) == 3 and rows[0]["problem"] == "1+1" and rows[0]["answer"] == "\\frac{4}{2}"


def test_known_names_from_a_folder(tmp_path):
    write(tmp_path / "gsm8k.jsonl", [{"id": i, "problem": f"p{i}", "answer": str(i)} for i in range(4)])
    assert [r["id"] for r in load_problems("gsm8k[1:3]", "test", str(tmp_path))] == ["1", "2"]
    assert load_problems("gsm8k", "train", str(tmp_path))[0]["problem"] == "p0"
    write(tmp_path / "train_gsm8k.jsonl", [{"problem": "t", "answer": "1"}])
    assert load_problems("gsm8k", "train", str(tmp_path))[0]["problem"] == "t"
    assert load_problems("gsm8k", "test", str(tmp_path))[0]["problem"] == "p0"


def test_columns_can_be_named(tmp_path):
    path = write(tmp_path / "mine.jsonl", [{"q": "1+1", "a": "2"}])
    assert load_problems(path, problem_column="q", answer_column="a")[0]["answer"] == "2"
    with pytest.raises(BadInput, match=r"no column problem\|question\|prompt \(it has: a, q\); set --problem_column"):
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
    with pytest.raises(BadInput, match="Known names: arithmetic, math"):
        load_problems("no-such-name")
    with pytest.raises(BadInput, match="without a train split"):
        load_problems("aime24", "train")


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="the real problem sets are not here")
@pytest.mark.parametrize("name, rows", [("math500", 500), ("gsm8k", 1319), ("minerva", 272), ("olympiadbench", 675)])
def test_real_sets(name, rows):
    assert len(load_problems(name, "test", str(REAL_DATA))) == rows


def test_prompts(tokenizer):
    problem = "what is {x} + 1?"
    plain = tokenizer.decode(encode_prompt(tokenizer, problem))
    assert plain == "Problem: what is {x} + 1?\nSolution:"
    assert tokenizer.decode(encode_prompt(tokenizer, problem, "Q {problem} \\boxed{}:")) == f"Q {problem} \\boxed{{}}:"
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
    (tmp_path / "lists.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert [row["answer"] for row in load_problems(str(tmp_path / "lists.jsonl"))] == ["5", "x=1, x=2"]
