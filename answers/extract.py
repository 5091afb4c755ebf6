"""Finds the answer in a completion: the last \\boxed{}, or else "#### x" or "the answer is x"."""

import re

from answers.equality import MAX_ANSWER, clean

_THOUGHT = re.compile(r"<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)", re.IGNORECASE | re.DOTALL)
_BOX = re.compile(r"\\{1,2}(?:boxed|fbox)(?![a-zA-Z])\s*(\{)?|\\.|[{}]", re.DOTALL)
_BARE_BOX = re.compile(r"[-+]?[\d.][^\s$]*|\\[a-zA-Z][^\s$]*")
# "not \boxed{4}", but "No, it is not: \boxed{5}" is an answer.
_NEGATED = re.compile(
    r"(?i)(?:(?:\bnot|n't)(?![\s*]*:)|\b(?:answer|value|result|solution)\s+(?:is\s+not|isn't)"
    r"|(?:\bnot|n't)(?=\s+(?:be|equal))|rather than|instead of|\\neq?|≠|!=)(?:\s+(?:be|equal(?:\s+to)?|necessarily"
    r"|simply|just))?[\s$*:(]*$"
)
# Words between two boxes: of an offer ("1 or 2"), or of a correction ("wait, it is 2").
_OFFER = re.compile(r"\b(?:or|alternatively|maybe|possibly|perhaps|might|could)\b", re.IGNORECASE)
_AMEND = re.compile(
    r"(?i)wait|\bno\b|actually|rather|correct|instead|mistake|sorry|check|hmm|oops|should|equiv|simpl|same|hence"
    r"|thus|so\b"
)
_NAME_IS = (  # x =, x_1 =, \\alpha =, f(2) =, \\bar{x} =
    r"(?<![a-zA-Z\\])(?:(?:m?\\angle |\\triangle )?(?:[a-zA-Z]|[A-Z]{2,3})|\\(?:[a-z]{2,8}"
    r"|[A-Z][a-z]{1,6})(?:\s*\{\\?\w{1,8}\})?)"
    r"(?:_(?:\{(?:[^{}]|\{[^{}]{1,20}\}){1,20}\}|[\w+-])|\^?'|\(\w{1,3}\))*\s*="
)
_GLUE = re.compile(
    rf"{_NAME_IS}|\\(?:text|q?quad|mbox|mathrm)(?![a-zA-Z])|\b(?:and|also|both|either)\b|\\?[\W_]"
)
_SAID = re.compile(
    r"(?i)####(?P<hash>)|\banswers?(?:\s+to\s[^.\n]{1,80}?)?[\s*]*(?:\b(?:is|are|(?:would|must|should|will) be"
    r"|equals)\b|:|=)"
    r"[\s*:]*(?P<no>not\b)?"
)
# What "the answer is" may say about the answer: "So the answer is clear."
_VAGUE = re.compile(
    r"(?i)(?:"
    r"clear|obvious|evident|correct|right|wrong|incorrect|simpl|found|given|verified|confirmed|"
    r"consistent|reasonable|unique|complete|done|final|known|independent|what|that|this|these|same|"
    r"above|below|follow|shown|obtained|determined|rounded|expressed|written|straight|immediate|"
    r"plausible|valid|ready|already|exact|approximate|expected|hence|thus|therefore|likely|unlikely|"
    r"unclear|uncertain|ambiguous|close|positive|negative|more|less|greater|well|quite|very|really|"
    r"now|indeed|also|accepted|required|fine|good|sensible|easy|trivial|always|never|based|derived|"
    r"calculated|computed|needed|presented|boxed|stated"
    r"|(?:in|as|the|an?|of|on|by|to|for|it|we|you|no longer|one of)\b)"
)
_LIKE_AN_ANSWER = re.compile(r"\d|[\\$]|\b[A-Z]\b|^[\s*_]*[A-Z]")
_LEAD = re.compile(  # the answer is therefore 5
    r"(?i)^(?:(?:therefore|thus|then|hence|simply|clearly|indeed|just|exactly|of course|obviously|now|so)\b,?\s*|"
    r"the (?:number|value|integer|fraction)\s+(?=[-\d$\\]))+"
)
_ALSO = re.compile(
    r"[\s$]*[,(]?\s*or (?:maybe |possibly |perhaps )?\$?(-?\d[\d./]*)"
)  # \boxed{5} or 6
_MATH_SPAN = re.compile(r"\s*(?:\$\$(.+?)\$\$|\\\[(.+?)\\\])", re.DOTALL)
_REMARK = re.compile(
    r"(?:\.(?=\s+[A-Z$\\]|[A-Z][a-z]|\s*$)|[,;]?\s+\(?(?:or so|or thereabouts|see|because|since|which|so|as|not|I"
    r"|hopefully|after|and (?:we|that|this|it|the|so|I)|where|but|rounded|approximately|exactly|given)\b).*"
)


def _boxes(text: str) -> tuple[list[tuple[int, int, str]], bool]:
    """The innermost boxes as (start, end, content), and whether the last one is never closed. One
    pass: linear time."""
    boxes, stack, last_open = [], [], -1
    for token in _BOX.finditer(text) if "\\boxed" in text or "\\fbox" in text else ():
        if token[1] or token[0] == "{":
            stack.append((token.start(), token.end()) if token[1] else None)
            last_open = token.start() if token[1] else last_open
        elif token[0] == "}":
            if stack and (opened := stack.pop()) and not (boxes and boxes[-1][0] > opened[0]):
                boxes.append((opened[0], token.end(), text[opened[1] : token.start()]))
        elif token[0].lstrip("\\")[:4] in ("boxe", "fbox") and (
            bare := _BARE_BOX.match(text, token.end())
        ):
            boxes.append((token.start(), bare.end(), bare[0].rstrip(".,;")))
    return boxes, last_open > (boxes[-1][0] if boxes else -1)


def _offered_together(between: str) -> bool:
    """Whether two boxes with this text between them are alternatives, and not a box and its
    correction."""
    if len(between) > 100 or _AMEND.search(between):
        return False
    return bool(_OFFER.search(between)) or not _GLUE.sub("", between)


def _named_contents(text: str, boxes: list[tuple[int, int, str]]) -> list[str]:
    r"""The boxes' contents; with their names where each has one of its own: x = \boxed{1}, y =
    \boxed{2}."""
    names = [
        re.search(r"(?<![a-zA-Z\\])([a-zA-Z])\s*=[\s$]*$", text[max(0, box[0] - 20) : box[0]])
        for box in boxes
    ]
    contents = [box[2].strip() for box in boxes]
    if len(boxes) < 2 or not all(names) or len({name[1] for name in names}) < len(names):
        return contents
    return [f"{name[1]} = {content}" if content else "" for name, content in zip(names, contents)]


def extract_answer(completion: str) -> str | None:
    r"""The answer that a completion commits to, as LaTeX, or None.

    >>> extract_answer(r"So \boxed{4}. Wait, I forgot one: \boxed{5}."), extract_answer(r"<think>\boxed{3}")
    ('5', None)
    >>> extract_answer(r"\boxed{1} or \boxed{2}")  # one answer with two alternatives: right only for such a gold
    '1 \\text{ or } 2'
    """
    # A stray </think> ends a block that the prompt opened; an open <think> never ends.
    text = re.split(r"</think(?:ing)?>", _THOUGHT.sub("\n", completion), flags=re.IGNORECASE)[-1]
    boxes, unclosed = _boxes(text)
    if boxes or unclosed:
        kept = [box for box in boxes if not _NEGATED.search(text[max(0, box[0] - 40) : box[0]])]
        if unclosed or not kept:
            return None
        group = [kept.pop()]
        while kept and _offered_together(text[kept[-1][1] : group[-1][0]]):
            group.append(kept.pop())
        contents = _named_contents(text, group[::-1])
        if also := _ALSO.match(text, group[0][1]):
            contents.append(also[1])
        distinct = dict.fromkeys(contents)  # the same box twice is one answer
        choices = all(
            len(content) < 20 and re.fullmatch(r"\W*(?:text\{)?\W*[A-J]\W*", content)
            for content in distinct
        )
        offered = any(
            _OFFER.search(text[one[1] : other[0]]) for other, one in zip(group, group[1:])
        )
        join = ", " if choices and not offered and not also else r" \text{ or } "
        return join.join(distinct) if all(map(clean, distinct)) else None
    said = [m for m in _SAID.finditer(text) if m["no"] is None][-20:]
    answers = [_stated(text, match) for match in said]
    sure = [
        answer
        for answer in answers
        if answer and (_LIKE_AN_ANSWER.search(answer) or not _VAGUE.match(answer))
    ]
    return (sure or answers or [None])[-1]


def _stated(text: str, said: re.Match) -> str | None:
    """What stands after "the answer is", up to the end of its sentence."""
    rest = text[said.end() :][: 2 * MAX_ANSWER]
    if span := _MATH_SPAN.match(rest):
        return (span[1] or span[2]).strip()
    line = rest.lstrip(" \t*:" if said["hash"] is not None else " \t\r\n*:").split("\n")[0]
    if said["hash"] is None:
        line = _REMARK.sub("", _LEAD.sub("", line), count=1)
    return line.strip(" \t\r*`").rstrip(".") or None
