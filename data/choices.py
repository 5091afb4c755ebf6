"""Multiple choice: the choices in a row's columns, the letter of the right one, and a question that
shows them.

Choices are always lettered in their order, A, B, C, ..., whatever the labels of a data set are.
"""

import re
import string
from typing import NamedTuple

from answers.choices import chosen
from data.tables import Number, decode_json

__all__ = ["CHOICE_COLUMNS", "Choices", "gold_letter", "read_choices", "with_choices"]

CHOICE_COLUMNS = ("choices", "options")
# A text that begins with its letter: "A) 4 cm", "(A) 4 cm", "A. 4 cm".
_LETTERED = re.compile(r"\s*(?:\(([A-Za-z])\)|([A-Za-z])[).:])\s*(\S.*)", re.DOTALL)


class Choices(NamedTuple):
    """The choices of a question."""

    by_letter: dict[str, str]
    labels: list[str]  # as the data set has them; may be numbers
    are_numbers: bool  # and not texts


def read_choices(cells: dict) -> Choices | None:
    """The choices in one of CHOICE_COLUMNS; None if there are none that can be read.

    >>> read_choices({"choices": {"label": ["1", "2"], "text": ["cat", "dog"]}})
    Choices(by_letter={'A': 'cat', 'B': 'dog'}, labels=['1', '2'], are_numbers=False)
    >>> read_choices({"options": ["A) 4", "B) 5"]}).by_letter
    {'A': '4', 'B': '5'}
    """
    for column in CHOICE_COLUMNS:
        value = cells.get(column)
        # In a CSV file.
        if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
            value = decode_json(value)
        labels, values = _labels_and_values(value)
        texts = [_text(item) for item in values]
        if not 2 <= len(texts) <= 26 or not all(texts):
            continue
        letters = string.ascii_uppercase[: len(texts)]
        by_letter = dict(zip(letters, _without_letters(texts, letters)))
        labels = [str(label).strip() for label in labels or letters]
        are_numbers = all(isinstance(item, (int, float, Number)) for item in values)
        return Choices(by_letter, labels, are_numbers)
    return None


def _labels_and_values(value) -> tuple[list, list]:
    """The labels of choices, if they have any, and the choices."""
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        # [{"label": "A", "text": "cat"}, ...]
        return [item.get("label") for item in value], [item.get("text") for item in value]
    if isinstance(value, list):
        return [], value
    if not isinstance(value, dict):
        return [], []
    labels, texts = value.get("label"), value.get("text")
    if isinstance(labels, list) and isinstance(texts, list) and len(labels) == len(texts):
        return labels, texts
    # {"A": "cat", ...}
    if all(re.fullmatch(r"[A-Za-z]|\d", str(label)) for label in value):
        return list(value), list(value.values())
    return [], []


def _text(value) -> str:
    is_text = isinstance(value, (str, int, float)) and not isinstance(value, bool)
    return str(value).strip() if is_text else ""


def _without_letters(texts: list[str], letters: str) -> list[str]:
    """The texts without their letters, where each has its own in front."""
    matches = [_LETTERED.fullmatch(text) for text in texts]
    for match, letter in zip(matches, letters):
        if match is None or (match[1] or match[2]).upper() != letter:
            return texts
    return [match[3] for match in matches]


def gold_letter(gold: str, is_number: bool, choices: Choices) -> str | None:
    """The letter of the choice that a gold answer names, or None: by its label, its letter, its
    text, or its place, counted from 0.

    Args:
        is_number: whether the gold answer is a number in its file, and not a text.

    >>> choices = read_choices({"choices": ["cat", "dog", "cow"]})
    >>> [gold_letter(gold, False, choices) for gold in ("B", "(C)", "cow", "2", "horse")]
    ['B', 'C', 'C', 'C', None]
    """
    letters = list(choices.by_letter)
    bare = gold.strip().strip("().: ")
    if bare in choices.labels:
        return letters[choices.labels.index(bare)]
    # A number is a place rather than a text, unless the choices are numbers themselves.
    place = int(bare) if bare.isdecimal() and len(bare) < 3 else len(letters)
    is_place = place < len(letters)
    if is_place and is_number and not choices.are_numbers:
        return letters[place]
    named = chosen(gold, choices.by_letter)
    if named in choices.by_letter:
        return named
    if is_place and not choices.are_numbers:
        return letters[place]
    return bare.upper() if bare.upper() in choices.by_letter else None


def with_choices(question: str, choices: Choices) -> str:
    """The question with its lettered choices below it, unless it shows them already.

    >>> choices = read_choices({"choices": ["cat", "dog"]})
    >>> print(with_choices("Which one barks?", choices))
    Which one barks?
    A. cat
    B. dog
    >>> with_choices("Which one barks? (A) cat (B) dog", choices)
    'Which one barks? (A) cat (B) dog'
    """
    if all(_shows(question, *choice) for choice in choices.by_letter.items()):
        return question
    lines = [f"{letter}. {text}" for letter, text in choices.by_letter.items()]
    return "\n".join([question, *lines])


def _shows(question: str, letter: str, text: str) -> bool:
    """Whether a question shows a choice behind its letter, with no more than marks between them."""
    return re.search(rf"\b{letter}[\W_]{{1,12}}{re.escape(text)}", question) is not None
