"""Multiple choice: which of the lettered choices an answer names."""

import re

from answers.extract import extract_answer

# An answer of more characters is left as it is.
LONGEST = 2000
# \text{...} and its like around a whole word or sentence.
_TEXT = re.compile(r"\\(?:text(?:bf|it|rm|normal)?|math(?:rm|bf)|mbox)\s*\{([^{}]*)\}")
# A letter and the text of a choice behind it: "B) 4 cm", "(B) 4 cm", "B: 4 cm", "B 4 cm".
_LETTER_AND_TEXT = re.compile(r"\(?([A-Z])(?:\s*[).:,–—-]+\s*|\s+)(\S.*)", re.DOTALL)


def given_answer(completion: str, choices: dict[str, str] | None) -> str | None:
    """The answer that a completion commits to; of multiple choice, as the letter of its choice."""
    answer = extract_answer(completion)
    return chosen(answer, choices) if choices else answer


def chosen(answer: str | None, choices: dict[str, str]) -> str | None:
    r"""The letter of the one choice whose text the answer is, else the answer as it is; None if it
    is a letter with the text of another choice.

    Texts are compared by spelling, up to case, spaces, $ and \text{}.

    >>> choices = {"A": "4 cm", "B": "$5$ cm"}
    >>> chosen(r"5 \text{cm}", choices), chosen("(B) 5 cm", choices), chosen("6 cm", choices)
    ('B', 'B', '6 cm')
    >>> chosen("A) 5 cm", choices) is None
    True
    """
    if answer is None or len(answer) > LONGEST:
        return answer
    # A letter by itself names its choice, whatever the texts are.
    bare = _without_markup(answer).strip()
    letter = bare.strip("().: ")
    if letter in choices:
        return letter
    texts = {letter: _plain(str(text)) for letter, text in choices.items()}
    named = [letter for letter, text in texts.items() if text == _plain(answer)]
    if len(named) == 1:
        return named[0]

    with_letter = _LETTER_AND_TEXT.fullmatch(bare)
    if with_letter and with_letter[1] in choices:
        letter, text = with_letter[1], _plain(with_letter[2])
        if text == texts[letter]:
            return letter
        if text in texts.values():
            return None
    return answer


def _without_markup(text: str) -> str:
    return _TEXT.sub(r"\1", text).replace("$", "").replace("\\ ", " ")


def _plain(text: str) -> str:
    """A text for comparison."""
    return re.sub(r"\s+", "", _without_markup(text)).rstrip(".").casefold()
