"""Multiple choice: choices in a row, the letter of the right one, and what counts as naming it."""

import json
import logging

import pytest

from answers.choices import chosen
from data import mathematics
from data.problems import load_problems
from reward import Grader

ANIMALS = ["cat", "dog", "cow"]
LABELLED = {"label": ["1", "2"], "text": ["cat", "dog"]}
OBJECTS = [{"label": "A", "text": "cat"}, {"label": "B", "text": "dog"}]


def read(tmp_path, *cells: dict) -> list[dict]:
    path = tmp_path / "choices.jsonl"
    lines = [json.dumps({"question": f"Which {i}?", **row}) for i, row in enumerate(cells)]
    path.write_text("\n".join(lines))
    return load_problems(str(path))


@pytest.mark.parametrize(
    ("cells", "letter", "text"),
    [
        ({"choices": ANIMALS, "answer": "B"}, "B", "dog"),
        ({"choices": ANIMALS, "answer": "(c)"}, "C", "cow"),
        ({"choices": ANIMALS, "answer": "The answer is (C)."}, "C", "cow"),
        # MMLU: a place, from 0, even where the choices are numbers in quotes.
        ({"choices": ANIMALS, "answer": 2}, "C", "cow"),
        ({"choices": ["1", "2", "3"], "answer": 2}, "C", "3"),
        # HellaSwag: a place in quotes.
        ({"choices": ANIMALS, "answer": "0"}, "A", "cat"),
        # A text that is a choice, which a number may be.
        ({"options": ["1", "2", "3"], "answer": "2"}, "B", "2"),
        ({"options": [1, 2.5, 3], "answer": 2.5}, "B", "2.5"),
        ({"options": [1, 2, 3], "answer": 2}, "B", "2"),
        ({"options": ANIMALS, "answer": ["Dog."]}, "B", "dog"),
        # MedQA, ARC and CommonsenseQA, their source, AQuA-RAT.
        ({"options": {"A": "cat", "B": "dog"}, "answer": "A"}, "A", "cat"),
        ({"choices": LABELLED, "answerKey": "2"}, "B", "dog"),
        ({"choices": OBJECTS, "answerKey": "B"}, "B", "dog"),
        ({"options": ["A)21", "B)22 m"], "answer": "B"}, "B", "22 m"),
        # In a cell of text.
        ({"options": '["cat", "dog"]', "answer": "B"}, "B", "dog"),
    ],
)
def test_the_gold_answer_is_a_letter(tmp_path, cells, letter, text):
    (row,) = read(tmp_path, cells)
    assert row["answer"] == letter and row["choices"][letter] == text
    assert list(row["choices"]) == list("ABC")[: len(row["choices"])]
    lines = [f"{key}. {value}" for key, value in row["choices"].items()]
    assert row["problem"].split("\n") == ["Which 0?", *lines]


def test_choices_that_the_question_shows_are_not_shown_again(tmp_path):
    shown = [
        "Which? (A) cat (B) dog (C) cow",
        "Which?\nA. cat\nB. dog\nC. cow",
        r"Which? $\textbf{(A)}\ $cat$\qquad\textbf{(B)}\ $dog$\qquad\textbf{(C)}\ $cow",
    ]
    hidden = ["Is it a cat, a dog or a cow?", "Which?\n1. cat\n2. dog\n3. cow"]
    rows = read(
        tmp_path,
        *({"question": text, "choices": ANIMALS, "answer": "A"} for text in [*shown, *hidden]),
    )
    problems = [row["problem"] for row in rows]
    assert problems[:3] == shown
    assert problems[3:] == [text + "\nA. cat\nB. dog\nC. cow" for text in hidden]


def test_choices_of_a_conversation_follow_its_last_message(tmp_path):
    turns = [("user", "Hello."), ("assistant", "Hi."), ("user", "Which?")]
    messages = [{"role": role, "content": content} for role, content in turns]
    (row,) = read(tmp_path, {"question": messages, "choices": ANIMALS, "answer": "A"})
    assert row["problem"] == row["messages"][-1]["content"] == "Which?\nA. cat\nB. dog\nC. cow"
    assert row["messages"][:2] == messages[:2]


def test_columns_that_are_no_choices_change_nothing(tmp_path, caplog):
    answer = {"answer": "42"}
    others = [[], None, ["one"], ["a", ""], [["a"], ["b"]], {"shuffle": True}, "a or b"]
    with caplog.at_level(logging.WARNING):
        rows = read(tmp_path, *({"options": other, **answer} for other in others))
    assert caplog.text == ""
    assert [row["problem"] for row in rows] == [f"Which {i}?" for i in range(len(others))]
    assert all("choices" not in row and row["answer"] == "42" for row in rows)
    assert rows[2]["options"] == ["one"]
    # The answer is none of them.
    with caplog.at_level(logging.WARNING):
        (row,) = read(tmp_path, {"choices": ANIMALS, **answer})
    assert row == {"id": row["id"], "problem": "Which 0?", "answer": "42", "question": "Which 0?"}
    assert "1 row whose answer is none of their choices, which are left out" in caplog.text


CHOICES = {
    "A": "4 cm",
    "B": "$5$ cm",
    "C": "an ellipse",
    "D": r"\frac{1}{2}",
    "E": "4 cm",
    "F": "a",
}
NAMING = [
    ("B", r"\boxed{B}", 1),
    ("B", r"\boxed{(B)}", 1),
    ("B", r"\boxed{\text{B}}", 1),
    ("B", r"\boxed{\textbf{(B)}\ 5 \text{ cm}}", 1),
    ("B", r"\boxed{B) 5 cm}", 1),
    ("B", r"\boxed{B: $5$ cm.}", 1),
    ("B", r"\boxed{5 cm}", 1),
    ("B", r"\boxed{5 \text{ cm}}", 1),
    ("C", r"The answer is an ellipse.", 1),
    ("C", r"\boxed{An Ellipse}", 1),
    ("D", r"\boxed{$\frac{1}{2}$}", 1),
    ("F", r"\boxed{a}", 1),
    ("A", r"\boxed{A}", 1),
    # Another letter, another text, two choices, the text of two choices, no choice.
    ("B", r"\boxed{C}", 0),
    ("A", r"\boxed{a}", 0),
    ("B", r"\boxed{an ellipse}", 0),
    ("B", r"\boxed{C) an ellipse}", 0),
    ("B", r"\boxed{B) an ellipse}", 0),
    ("C", r"\boxed{B) an ellipse}", 0),
    ("B", r"\boxed{B} or \boxed{C}", 0),
    ("B", r"\boxed{B, C}", 0),
    ("B", r"\boxed{5 cm or an ellipse}", 0),
    ("A", r"\boxed{4 cm}", 0),
    ("B", r"\boxed{6 cm}", 0),
    ("B", r"\boxed{}", 0),
    ("B", "B", 0),
    ("B", r"\boxed{" + "5" * 10**5 + "}", 0),
    ("B", r"\boxed{" + r"\text{" * 1000 + "C" + "}" * 1001, 0),
]


def test_what_names_a_choice():
    rows = [{"answer": gold, "choices": CHOICES} for gold, _, _ in NAMING]
    completions = [completion for _, completion, _ in NAMING]
    expected = [float(is_right) for _, _, is_right in NAMING]
    for row, completion, is_right in zip(rows, completions, expected):
        assert mathematics.score(completion, row) == is_right, (row["answer"], completion[:80])
    with Grader(1) as grader:
        assert grader.grade_batch(completions, rows) == expected
        # Each is told without a worker.
        assert grader.stats["settled"] == grader.stats["pairs"]


def test_other_answers_stay_as_they_are():
    for answer in (None, "42", "5 or 6", "x" * 3000):
        assert chosen(answer, CHOICES) == answer
