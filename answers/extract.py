r"""Finds the answer that a completion commits to.

1. Nothing inside <think> counts.
2. The last \boxed{} is the answer. Boxes side by side are one answer with several values, and a box
   after "not" or "instead of" is none.
3. Without a box, "#### x" and "the answer is x" count. The sentence ends the answer, remarks are
   left out ("12 or so"), and a statement with a value beats a later one without ("So the answer is
   clear.").
"""

import re
from typing import NamedTuple

from answers.latex import MAX_ANSWER, clean

# --- Thinking ---

_THOUGHT = re.compile(r"<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)", re.IGNORECASE | re.DOTALL)
_THOUGHT_END = re.compile(r"</think(?:ing)?>", re.IGNORECASE)


def without_thinking(completion: str) -> str:
    """What follows the thinking. A stray </think> ends a block that the prompt opened; an open
    <think> never ends."""
    return _THOUGHT_END.split(_THOUGHT.sub("\n", completion))[-1]


# --- Boxes ---


class _Box(NamedTuple):
    start: int
    end: int
    content: str


# A box with or without a brace, any other command, or a brace.
_BOX_TOKEN = re.compile(r"\\{1,2}(?:boxed|fbox)(?![a-zA-Z])\s*(\{)?|\\.|[{}]", re.DOTALL)
_IS_BOX = re.compile(r"\\{1,2}(?:boxed|fbox)")
# \boxed 5; bounded, since many in one word would be copied again and again.
_BARE_CONTENT = re.compile(r"(?:[-+]?[\d.]|\\[a-zA-Z])[^\s$]{0,80}")

# Stands before a box that is denied: "not \boxed{4}", "the answer is not: \boxed{4}", "x \ne
# \boxed{4}". In "No, it is not: \boxed{5}" the colon ends the denial.
_DENIAL = re.compile(
    r"""(?ix)
    (?: (?:\bnot|n't) (?![\s*]*:)
      | \b(?:answer|value|result|solution)\s+(?:is\s+not|isn't)
      | (?:\bnot|n't) (?=\s+(?:be|equal))
      | rather\ than | instead\ of | \\neq? | ≠ | !=
    )
    (?: \s+(?:be|equal(?:\s+to)?|necessarily|simply|just) )?
    [\s$*:(]*$
    """
)
# Words between two boxes: of an offer ("1 or 2"), or of a correction ("wait, it is 2").
_OFFER = re.compile(r"\b(?:or|alternatively|maybe|possibly|perhaps|might|could)\b", re.IGNORECASE)
_CORRECTION = re.compile(
    r"(?i)wait|\bno\b|actually|rather|correct|instead|mistake|sorry|check|hmm|oops|should|equiv|simpl"
    r"|same|hence|thus|so\b"
)
# "x =", "x_1 =", "\alpha =", "f(2) =", "\bar{x} =", "\angle A =", "AB ="
_NAME_IS = r"""
    (?<![a-zA-Z\\])
    (?: (?:m?\\angle\ |\\triangle\ )? (?:[a-zA-Z] | [A-Z]{2,3})
      | \\(?:[a-z]{2,8} | [A-Z][a-z]{1,6}) (?:\s*\{\\?\w{1,8}\})?
    )
    (?: _(?:\{(?:[^{}]|\{[^{}]{1,20}\}){1,20}\} | [\w+-]) | \^?' | \(\w{1,3}\) )*
    \s*=
"""
# What may stand between boxes that are side by side.
_GLUE = re.compile(
    rf"""(?x) {_NAME_IS}
    | \\(?:text|q?quad|mbox|mathrm)(?![a-zA-Z])
    | \b(?:and|also|both|either)\b
    | \\?[\W_]
    """
)
_LETTER_IS = re.compile(r"(?<![a-zA-Z\\])([a-zA-Z])\s*=[\s$]*$")
_ALTERNATIVE = re.compile(  # \boxed{5} or 6
    r"[\s$]*[,(]?\s*or (?:maybe |possibly |perhaps )?\$?(-?\d[\d./]*)"
)
_CHOICE = re.compile(r"\W*(?:text\{)?\W*[A-J]\W*")


def _boxes(text: str) -> tuple[list[_Box], bool]:
    """The innermost boxes in order, and whether the last one is never closed. One pass: linear
    time."""
    boxes: list[_Box] = []
    # One entry per open brace: the start of the box and of its content, or None for other braces.
    open_braces: list[tuple[int, int] | None] = []
    last_opened = -1
    if "\\boxed" not in text and "\\fbox" not in text:
        return [], False
    for token in _BOX_TOKEN.finditer(text):
        if token[1]:
            open_braces.append((token.start(), token.end()))
            last_opened = token.start()
        elif token[0] == "{":
            open_braces.append(None)
        elif token[0] == "}":
            opened = open_braces.pop() if open_braces else None
            holds_a_box = opened and boxes and boxes[-1].start > opened[0]
            if opened and not holds_a_box:
                boxes.append(_Box(opened[0], token.end(), text[opened[1] : token.start()]))
        elif _IS_BOX.match(token[0]) and (bare := _BARE_CONTENT.match(text, token.end())):
            boxes.append(_Box(token.start(), bare.end(), bare[0].rstrip(".,;")))
    last_closed = boxes[-1].start if boxes else -1
    return boxes, last_opened > last_closed


def _side_by_side(between: str) -> bool:
    """Whether two boxes with this text between them are one answer, and not a box and its
    correction."""
    if len(between) > 100 or _CORRECTION.search(between):
        return False
    return bool(_OFFER.search(between)) or not _GLUE.sub("", between)


def _last_group(text: str, boxes: list[_Box]) -> list[_Box]:
    """The last box, with those that are side by side with it."""
    backwards = [boxes[-1]]
    for box in reversed(boxes[:-1]):
        if not _side_by_side(text[box.end : backwards[-1].start]):
            break
        backwards.append(box)
    return backwards[::-1]


def _named_contents(text: str, group: list[_Box]) -> list[str]:
    r"""The boxes' contents, with their names where each has one of its own: x = \boxed{1}, y =
    \boxed{2}."""
    contents = [box.content.strip() for box in group]
    names = [_LETTER_IS.search(text[max(0, box.start - 20) : box.start]) for box in group]
    if len(group) < 2 or not all(names):
        return contents
    letters = [name[1] for name in names]
    if len(set(letters)) < len(letters):
        return contents
    return [f"{name} = {content}" if content else "" for name, content in zip(letters, contents)]


def _boxed_answer(text: str, boxes: list[_Box]) -> str | None:
    """The answer of the last boxes that are not denied; None if one of them is empty."""
    asserted = [
        box for box in boxes if not _DENIAL.search(text[max(0, box.start - 40) : box.start])
    ]
    if not asserted:
        return None
    group = _last_group(text, asserted)
    contents = _named_contents(text, group)
    alternative = _ALTERNATIVE.match(text, group[-1].end)
    if alternative:
        contents.append(alternative[1])

    distinct = dict.fromkeys(contents)  # the same box twice is one answer
    if not all(map(clean, distinct)):
        return None
    offered = alternative or any(
        _OFFER.search(text[box.end : following.start]) for box, following in zip(group, group[1:])
    )
    choices = all(len(content) < 20 and _CHOICE.fullmatch(content) for content in distinct)
    separator = ", " if choices and not offered else r" \text{ or } "
    return separator.join(distinct)


# --- Answers without a box ---

_STATEMENT = re.compile(
    r"""(?ix)
    \#\#\#\#(?P<hash>)
    | \banswers?(?:\s+to\s[^.\n]{1,80}?)? [\s*]{0,20}
      (?: \b(?:is|are|(?:would|must|should|will)\ be|equals)\b | : | = )
      [\s*:]* (?P<denied>not\b)?
    """
)
_DISPLAYED = re.compile(r"\s*(?:\$\$(.+?)\$\$|\\\[(.+?)\\\])", re.DOTALL)
# "the answer is therefore 5", "the answer is the number 5"
_LEAD = re.compile(
    r"""(?ix) ^(?:
        (?:therefore|thus|then|hence|simply|clearly|indeed|just|exactly|of\ course|obviously|now|so)
        \b ,?\s*
      | the\ (?:number|value|integer|fraction)\s+ (?=[-\d$\\])
    )+
    """
)
# Ends an answer: the end of its sentence, or a remark that leaves its value as it is. "or more",
# "at least" and "plus or minus 1" change the value, and stay.
_REMARK = re.compile(
    r"""(?x) (?:
        \. (?= \s+[A-Z$\\] | [A-Z][a-z] | \s*$ | \s+(?:the|so|this|that|hence|thus|therefore)\b )
      | [,;]?\s+ \(?
        (?: or\ (?:so|thereabouts|about\ that|around\ there|something\ (?:like\ that|similar|close))
          | give\ or\ take | more\ or\ less
          | see | because | since | which | so | as | not | I | hopefully | after | where | but
          | and\ (?:we|that|this|it|the|so|I)
          | if\ (?:I|we|you|my) | assuming | according\ to | due\ to | thanks\ to
          | by\ (?:symmetry|inspection|definition|construction|the)
          | rounded | approximately | roughly | exactly | given | QED
        )\b
      | [,;]\s+ (?:the|this|that|hence|thus|therefore|done)\b
      | \s+[–—]\s+ (?=[A-Za-z]{2})
    ) .*
    """
)
# A statement that begins with a value: "3.5 m", "$x$", "(2, 3)", "about 7", "x = 2", "B", "Evelyn".
_VALUE = re.compile(
    r"""(?x) [\s*_`]*
    (?: (?i:the|an?|about|approximately|approx\.?|roughly|around|nearly|almost|point|interval
        |line|set|number|value|fraction|integer|ratio|pair|vector|option|choice|letter)\s+ ){0,3}
    [-+±−√]? \s?
    (?: \d | \.\d | [$\\€£¥√π∞]
      | [(\[{] \s? [-+]? (?: \d | [\\$] | [A-Za-z](?![a-z]) )
      | [A-Za-z] (?= [\d_^'(]? \s* (?: $ | [-+*/^=<>,;.):_\d≤≥≠] ) )
      | [A-Z]{2,} \b | [A-Z][a-z]+
    )
    """
)
# Words that are an answer by themselves.
_WORD = re.compile(
    r"""(?ix) [\s*_`]*
    (?: yes | no | true | false | none | undefined | infinit[ey] | infinity | impossible
      | zero | one | two | three | four | five | six | seven | eight | nine | ten
      | no\ (?:real\ )?solutions? | does\ not\ exist | dne
    )
    [\s*_`.!]*
    """
)
# How a statement begins that says something about the answer: "So the answer is clear."
_VAGUE = re.compile(
    r"""(?ix) [\s*_`]* (?:
    clear|obvious|evident|correct|right|wrong|incorrect|simpl|found|given|verified|confirmed
    |consistent|reasonable|unique|complete|done|final|known|independent|what|that|this|these|same
    |above|below|follow|shown|obtained|determined|rounded|expressed|written|straight|immediate
    |plausible|valid|ready|already|exact|approximate|expected|hence|thus|therefore|likely|unlikely
    |unclear|uncertain|ambiguous|close|positive|negative|more|less|greater|well|quite|very|really
    |now|indeed|also|accepted|required|fine|good|sensible|easy|trivial|always|never|based|derived
    |calculated|computed|needed|presented|boxed|stated|see|plain|checked|proved|proven|justified
    |beautiful|surprising|interesting|useful|helpful|nice|neat|elegant|intuitive|natural|apparent
    |let|note|here|there|since|because|when|how|why
    |satisf|supported|established|guaranteed|acceptable|appropriate|wanted|desired|sound|solid
    |(?:in|as|at|the|an?|of|on|by|to|for|it|we|you|no\ longer|one\ of|between)\b
    )
    """
)
# After these words a later statement replaces an earlier one, whatever it says.
_RETRACTION = re.compile(
    r"(?i)\bwait\b|\bactually\b|\bwrong\b|\bincorrect\b|\bmistake|\boops\b|\bsorry\b|\bno,"
    r"|\bnot (?:right|correct)\b"
)


def _carries_value(answer: str) -> bool:
    """Whether a stated answer is a value or a word that answers, and not a remark on the answer."""
    if _WORD.fullmatch(answer):
        return True
    capital_word = re.match(r"[\s*_`]*[A-Z][a-z]+", answer)
    if capital_word and _VAGUE.match(answer):
        return False
    return bool(_VALUE.match(answer))


def _stated_answer(text: str) -> str | None:
    """The last statement that carries a value, or else the last one that is not vague.

    >>> _stated_answer("The answer is 3.5 m. So the answer is clear.")
    '3.5 m'
    >>> _stated_answer("The answer is gray.")
    'gray'
    """
    asserted = [match for match in _STATEMENT.finditer(text) if match["denied"] is None][-20:]
    statements = [(match, _statement(text, match)) for match in asserted]
    last_words: tuple[re.Match, str] | None = None  # words that may be an answer: "gray"
    for match, answer in reversed(statements):
        if answer is None:
            continue
        if _carries_value(answer):
            if last_words and _RETRACTION.search(text, match.end(), last_words[0].start()):
                return last_words[1]
            return answer
        if last_words is None and not _VAGUE.match(answer):
            last_words = (match, answer)
    if last_words:
        return last_words[1]
    return statements[-1][1] if statements else None


def _statement(text: str, said: re.Match) -> str | None:
    """What stands after "the answer is", up to the end of its sentence."""
    after = text[said.end() :][: 2 * MAX_ANSWER]
    if displayed := _DISPLAYED.match(after):
        return (displayed[1] or displayed[2]).strip()
    is_hash = said["hash"] is not None
    line = after.lstrip(" \t*:" if is_hash else " \t\r\n*:").split("\n")[0]
    if not is_hash:
        line = _REMARK.sub("", _LEAD.sub("", line), count=1)
    return line.strip(" \t\r*`").rstrip(".") or None


def extract_answer(completion: str) -> str | None:
    r"""The answer that a completion commits to, as LaTeX, or None.

    >>> extract_answer(r"So \boxed{4}. Wait, I forgot one: \boxed{5}.")
    '5'
    >>> extract_answer(r"<think>\boxed{3}") is None
    True

    Two alternatives are one answer, which is right only for such a gold answer:

    >>> extract_answer(r"\boxed{1} or \boxed{2}")
    '1 \\text{ or } 2'
    """
    text = without_thinking(completion)
    boxes, last_is_unclosed = _boxes(text)
    if last_is_unclosed:
        return None
    return _boxed_answer(text, boxes) if boxes else _stated_answer(text)
