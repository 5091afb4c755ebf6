"""maj@k: the most frequent of several answers, and its grade.

Equal values are votes for one answer however they are spelled. What equal means depends on the
task: `majority` says how. docs/runs.md describes it for users.
"""

import itertools
import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import nullcontext
from fractions import Fraction

from reward import Grader, same_answer

__all__ = ["majority", "plain_number"]

LONGEST_NUMBER = 300  # characters; a longer answer counts by its spelling
# An integer, a decimal or a fraction, without a plus sign or leading zeros: 007 is a code.
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+|/(?P<denominator>[1-9][0-9]*))?")


def majority(answers: list[str | None], grades: list[float], grader: Grader | None = None) -> float:
    """The grade of the most frequent answer; of several that tie, the mean of theirs. No answer is
    no vote.

    In mathematics, equal answers are those of the grader's own equality. Pairs that only a
    comparison by value can decide are put to its workers, and only where they can change the
    result. In another task, equal answers are equal plain numbers (`plain_number`) or equal texts:
    what else the task's answers may be, moves or a grid, mathematics can't tell.

    Args:
        grader: which task's score it has says which equality holds, and its workers decide; left
            out, it is mathematics, and a grader is started where it is needed.

    >>> majority(["5", "6", "5", None], [1.0, 0.0, 1.0, 0.0])
    1.0
    >>> majority(["3", "1/2", "0.5"], [0.0, 1.0, 1.0])
    1.0
    """
    # The grades of the votes for each spelling.
    votes: dict[str, list[float]] = defaultdict(list)
    for answer, grade in zip(answers, grades, strict=True):
        if answer is not None:
            votes[answer].append(grade)
    # Where all grades are alike, so is the winner's.
    all_grades = [grade for grades in votes.values() for grade in grades]
    if len(set(all_grades)) < 2:
        return float(all_grades[0]) if all_grades else 0.0

    groups = _groups_by_value(votes, grader)
    # The winners, and the mean grade of each.
    sizes = [_size(group, votes) for group in groups]
    means = []
    for group, size in zip(groups, sizes):
        if size == max(sizes):
            means.append(statistics.fmean(grade for text in group for grade in votes[text]))
    return statistics.fmean(means)


def plain_number(text: str) -> Fraction | None:
    """The value of an integer, a decimal or a fraction in lowest terms; None for any other text.

    A fraction that can be reduced is none: 6/2 may be an expression whose very numbers matter. Nor
    are 007, +5, 1e3 and 1,000, which may be codes, moves or lists in some task.

    >>> plain_number("0.50") == plain_number("1/2"), plain_number("6/2"), plain_number("007")
    (True, None, None)
    """
    number = text.strip()
    match = _NUMBER.fullmatch(number) if len(number) <= LONGEST_NUMBER else None
    if match is None:
        return None
    value = Fraction(number)
    denominator = match["denominator"]
    is_reduced = denominator is None or str(value.denominator) == denominator != "1"
    return value if is_reduced else None


# --- Groups of answers ---


def _size(group: list[str], votes: dict[str, list[float]]) -> int:
    """How many votes the spellings of a group have."""
    return sum(len(votes[spelling]) for spelling in group)


def _groups_by_value(votes: dict[str, list[float]], grader: Grader | None) -> list[list[str]]:
    """Groups of spellings with one value.

    First as far as that can be told at once; then, if it matters, with the help of workers.
    """
    spellings = [[spelling] for spelling in votes]
    if isinstance(grader, Grader) and not grader.is_of_mathematics:
        return _joined(spellings, _same_plainly)
    groups = _joined(spellings, lambda one, other: same_answer(one, other) is True)

    # All the other groups together could not catch up with this one.
    votes_in_all = sum(map(len, votes.values()))
    has_leader = 2 * max(_size(group, votes) for group in groups) > votes_in_all
    if has_leader or not _any_undecided(groups):
        return groups
    with nullcontext(grader) if grader else Grader(1) as judge:
        return _joined(groups, _same_by_value(judge))


def _joined(groups: list[list[str]], same: Callable[[str, str], bool]) -> list[list[str]]:
    """Joins the groups whose first members are the same."""
    joined: list[list[str]] = []
    for group in groups:
        match = next((other for other in joined if same(other[0], group[0])), None)
        if match is None:
            joined.append(list(group))
        else:
            match += group
    return joined


def _same_plainly(one: str, other: str) -> bool:
    """Whether two answers are equal plain numbers, or one text with other spaces around it."""
    number = plain_number(one)
    if number is not None:
        return number == plain_number(other)
    return one.strip() == other.strip()


def _any_undecided(groups: list[list[str]]) -> bool:
    """Whether there are groups that only a comparison by value can tell apart or join."""
    return any(same_answer(a[0], b[0]) is None for a, b in itertools.combinations(groups, 2))


def _same_by_value(grader: Grader) -> Callable[[str, str], bool]:
    """Whether two answers are the same, by the grader's workers where nothing simpler tells.

    An answer in two comparisons that broke a limit takes part in no more, so that n hostile answers
    cost at most n time-outs."""
    strikes: Counter[str] = Counter()

    def same(one: str, other: str) -> bool:
        verdict = same_answer(one, other)
        if verdict is None and max(strikes[one], strikes[other]) < 2:
            verdict = grader.same_value(one, other)
            if verdict is None:
                strikes.update([one, other])
        return bool(verdict)

    return same
