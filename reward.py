"""Extract and verify answers: a completion and a gold answer in, 1.0 or 0.0 out.

    with Grader(workers=2, timeout=2.0) as grader:
        rewards = grader.grade_batch(completions, answers)

A completion goes through three stages:

1. `extract_answer` finds the answer in the text: the last \\boxed{}, or else "#### x" or "the answer is x".
2. `_equal` takes answer and gold apart into lists, tuples, regions of the real line, equations and units, down to leaves.
   Leaves that are plain numbers or words are settled by exact arithmetic, here, in microseconds: most pairs end there.
3. A pair with any other leaf is sent to a worker, a bare Python process with a limit on its time and its memory, which
   reads the leaves with math-verify's LaTeX grammar and compares their values with sympy.

Model output is never evaluated: math-verify's `parse` is avoided because its fallback for plain expressions is eval.
"""

import json
import math
import os
import re
import resource
import select
import signal
import subprocess
import sys
import threading
import unicodedata
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from functools import lru_cache
from queue import SimpleQueue

MAX_ANSWER = 400  # characters; a longer answer is right only if it is the gold answer letter for letter

# --- 1. Extraction -----------------------------------------------------------------------------------------------------

_THINK = re.compile(r"</?think(?:ing)?>", re.IGNORECASE)
_BOX = re.compile(r"\\{1,2}(?:boxed|fbox)(?![a-zA-Z])\s*(\{)?|\\.|[{}]", re.DOTALL)
_BARE_BOX = re.compile(r"[-+]?[\d.][^\s$]*|\\[a-zA-Z][^\s$]*")
_NEGATED = re.compile(r"(?:\bnot|n't|\\neq?|≠|!=)(?:\s+(?:be|equal(?:\s+to)?))?[\s$*:(]*$", re.IGNORECASE)
_OFFER = re.compile(r"\b(?:or|alternatively|maybe|possibly|perhaps|might|could)\b", re.IGNORECASE)
_AMEND = re.compile(r"wait|\bno\b|actually|rather|correct|instead|mistake|sorry|check|hmm|oops|should|equiv|i\.e|simpl|words"
                    r"|same|hence|thus|therefore", re.IGNORECASE)  # fmt: skip
_GLUE = re.compile(r"\\(?:text|quad|qquad|mbox|mathrm)(?![a-zA-Z])|\b(?:and|also|both|either)\b|\b[a-zA-Z](?:_\w)?\s*=|\\?[\W_]")
_SAID = re.compile(
    r"####(?P<hash>)|\banswers?(?:\s+to\s[^.\n]{1,80}?)?[\s*]*(?:\b(?:is|are|would be)\b|:|=)[\s*:]*(?P<no>not\b)?", re.IGNORECASE
)
_MATH_SPAN = re.compile(r"\s*(?:\$\$(.+?)\$\$|\\\[(.+?)\\\])", re.DOTALL)
_REMARK = re.compile(r"\.(?=\s|$)|[,;]?\s+\(?(?:because|since|which|so|as)\b.*")


def _outside_thinking(text: str) -> str:
    """Drop thinking blocks. A stray </think> ends a block that the prompt opened; an open <think> never ends."""
    kept, start, inside = [], 0, False
    for tag in _THINK.finditer(text):
        if not inside:
            kept.append(text[start : tag.start()])
        if tag[0][1] == "/" and not inside:
            kept.clear()
        inside, start = tag[0][1] != "/", tag.end()
    return "\n".join(kept if inside else [*kept, text[start:]])


def _boxes(text: str) -> tuple[list[tuple[int, int, str]], bool]:
    """The innermost boxes as (start, end, content), and whether the box opened last is still open. One pass: linear."""
    boxes, stack, last_open = [], [], -1
    for token in _BOX.finditer(text) if "\\boxed" in text or "\\fbox" in text else ():
        if token[1] or token[0] == "{":
            stack.append((token.start(), token.end()) if token[1] else None)
            last_open = token.start() if token[1] else last_open
        elif token[0] == "}":
            if stack and (opened := stack.pop()) and not (boxes and boxes[-1][0] > opened[0]):
                boxes.append((opened[0], token.end(), text[opened[1] : token.start()]))
        elif token[0].lstrip("\\")[:4] in ("boxe", "fbox") and (bare := _BARE_BOX.match(text, token.end())):
            boxes.append((token.start(), bare.end(), bare[0].rstrip(".,;")))
    return boxes, last_open > (boxes[-1][0] if boxes else -1)


def _offered_together(between: str) -> bool:
    """Whether two boxes with this text between them are alternatives or parts of one list, not a box and its correction."""
    if len(between) > 100 or _AMEND.search(between) or re.search(r"=\s*\$?\s*$|\\approx|\\to|arrow", between.replace("x =", "")) and False:
        return False
    return bool(_OFFER.search(between)) or not _GLUE.sub("", between)


def extract_answer(completion: str) -> str | None:
    r"""The answer that a completion commits to, as LaTeX, or None.

    >>> extract_answer(r"So \boxed{4}. Wait, I forgot one: \boxed{5}.")
    '5'
    >>> extract_answer(r"\boxed{1} or \boxed{2}")   # one answer, with two alternatives
    '1 \\text{ or } 2'
    >>> extract_answer("Adding up, the final answer is $12$ cm.")
    '$12$ cm'
    >>> extract_answer(r"<think>\boxed{3}") is None
    True
    """
    text = _outside_thinking(completion)
    boxes, unclosed = _boxes(text)
    if boxes or unclosed:
        kept = [box for box in boxes if not _NEGATED.search(text[max(0, box[0] - 40) : box[0]])]
        if unclosed or not kept:
            return None
        group = [kept.pop()]
        while kept and _offered_together(text[kept[-1][1] : group[0][0]]):
            group.insert(0, kept.pop())
        contents = list(dict.fromkeys(box[2].strip() for box in group))  # the same box twice is one answer
        return r" \text{ or } ".join(contents) if all(_key(_clean(c)) for c in contents) else None
    said = [m for m in _SAID.finditer(text) if m["no"] is None]
    if not said:
        return None
    rest = text[said[-1].end() :][: 2 * MAX_ANSWER]
    if span := _MATH_SPAN.match(rest):
        return (span[1] or span[2]).strip()
    line = rest.lstrip(" \t*:" if said[-1]["hash"] is not None else " \t\r\n*:").split("\n")[0]
    line = _REMARK.sub("", line, count=1) if said[-1]["hash"] is None else line
    return line.strip(" \t\r*`").rstrip(".") or None


# --- 2. Comparison by structure ------------------------------------------------------------------------------------------
