r"""Chains of operations on one digit, within a budget of characters: many small skills in a row.

    from data.chain import problems
    problems("test", "16-4")     # 16 operations, 4 skills

A problem such as `7x1:FbKcAa` starts with a digit and goes through operations, in one round or
several (x1). The capital letter is an operation's kind: it multiplies by a number, adds another and
keeps the last digit. The answer is the digit after each operation, and the whole completion must
keep to a budget: there is room for every result, and for the working of some of them only. How many
differs from problem to problem, from none to a little less than half.

The small letter is an operation's family. The tiny base has two ways to write the operations of a
family, one of which is short, so that to be brief in a family is a skill of its own. The numbers of
operations (how long the way is) and of families (how many skills it takes) are the level: either
can be changed with the rest held fixed.
"""

import random
import re
import string
from collections.abc import Iterator
from typing import NamedTuple

from answers.extract import extract_answer
from data.splits import split_of
from run.errors import BadInput

__all__ = ["LEVELS", "PROMPT_TEMPLATE", "answer", "problems", "prompt", "score"]

# The most operations of a round; no kind comes twice in it.
ROUND = 16
# Of two operations there are fewer chains than rows.
OPERATIONS = (*range(3, ROUND + 1), 2 * ROUND, 3 * ROUND)
MOST_SKILLS = 16
LEVELS = "OPERATIONS-SKILLS, 3 to 16, 32 or 48 and 1 to 16; default 32-16"
DEFAULT_LEVEL = (32, 16)
ROWS = {"train": 4000, "test": 1000}
# Kind -> what it multiplies by and adds. All of them permute the digits, and no two are alike.
KINDS = {kind: ((3, 7, 9)[i % 3], i // 3) for i, kind in enumerate(string.ascii_uppercase[:ROUND])}
FAMILIES = string.ascii_lowercase[:MOST_SKILLS]
# The characters of an operation: its kind, its family and its result. Working, such as
# `7*3=21+4=25;`, is more, at most so many.
SHORT = 3
WORKING = 12
# Those of a round beside its operations, such as `1:`.
HEADER = 2
BOX = len(r"\boxed{}")

SYSTEM_PROMPT = (
    "You follow chains of operations on one digit, and you are brief. Put the digit after each "
    "operation within \\boxed{}, in order, for example \\boxed{4 8 3}."
)
OPERATIONS_IN_WORDS = """\
Start with {start} and do these operations in order, {rounds} over: {chain}.
After each one keep the last digit only.
{kinds}
"""
BUDGET_IN_WORDS = "Your whole answer may have at most {budget} characters."
# For a tokenizer without a chat template.
PROMPT_TEMPLATE = "{problem}\n\nPut the digit after each operation within \\boxed{}.\n"


# --- The task ---


def problems(split: str, level: str | None = None) -> list[dict]:
    """The chains of `split` ("train" or "test"): 4,000 or 1,000 rows.

    A row holds `id`; `problem`, such as `7x1:FbKcAa`; `answer`, the digit after each operation; and
    `budget`, the most characters of a completion.

    Args:
        level: OPERATIONS-SKILLS; 32-16 where it is None.

    Raises:
        BadInput: no such level.
    """
    operations, skills = read_level(level)
    rng = random.Random(f"chain/{split}/{operations}/{skills}")
    return [
        {
            "id": f"chain/{operations}-{skills}/{split}/{number}",
            "problem": write_problem(chain),
            "answer": "".join(map(str, results(chain))),
            "budget": budget_of(operations, rng.randint(0, most_workings(operations))),
        }
        for number, chain in enumerate(distinct_chains(rng, operations, skills, split))
    ]


def read_level(level: str | None) -> tuple[int, int]:
    """The operations and the skills that a level names."""
    if level is None:
        return DEFAULT_LEVEL
    operations, _, skills = level.partition("-")
    known_operations = map(str, OPERATIONS)
    known_skills = map(str, range(1, MOST_SKILLS + 1))
    if operations not in known_operations or skills not in known_skills:
        raise BadInput(f"chain:{level}: no such level; there are {LEVELS}")
    return int(operations), int(skills)


def most_workings(operations: int) -> int:
    """The most operations for whose working a budget has room. A completion that works out every
    second one, at random, keeps to its budget about once in twenty times.

    >>> most_workings(4), most_workings(32)
    (0, 14)
    """
    return max(0, operations // 2 - 2)


def budget_of(operations: int, workings: int) -> int:
    """The most characters of a completion: every operation's result, and the working of some."""
    headers = HEADER * rounds_of(operations)
    return SHORT * operations + WORKING * workings + headers + BOX


def rounds_of(operations: int) -> int:
    """In how many rounds so many operations are done.

    >>> rounds_of(5), rounds_of(16), rounds_of(48)
    (1, 1, 3)
    """
    return max(1, operations // ROUND)


def prompt(row: dict) -> list[dict[str, str]]:
    """The chat messages that ask for the digits."""
    question = in_words(read(row["problem"])) + BUDGET_IN_WORDS.format(budget=row["budget"])
    return [{"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": question}]


def score(completion: str, row: dict) -> float:
    """1.0 where all boxed digits are right and the completion keeps to the budget, else 0.0."""
    is_brief = len(completion.strip()) <= row["budget"]
    return float(is_brief and answer(completion) == row["answer"])


# A digit; before it perhaps a round's header, its operation's kind and family, and the working.
RESULT = re.compile(r"(?:[1-3]:)?(?:[A-Z][A-Za-z](?:\d\*\d=\d{1,2}\+\d=\d{1,2};)?)?([0-9])[\s,;]*")


def answer(completion: str) -> str | None:
    r"""The digits that a completion commits to, or None.

    >>> answer(r"\boxed{1:Fb4KC4*7=28+3=31;1}"), answer(r"\boxed{4, 1}"), answer(r"\boxed{41.}")
    ('41', '41', None)
    """
    content = extract_answer(completion) or ""
    digits = []
    position = 0
    while position < len(content):
        result = RESULT.match(content, position)
        if result is None:
            return None
        digits.append(result[1])
        position = result.end()
    return "".join(digits) or None


# --- Chains ---


class Chain(NamedTuple):
    """The operation `i` of each round is of the kind kinds[i] and of the family families[i]."""

    start: int
    rounds: int
    kinds: str
    families: str


def write_problem(chain: Chain) -> str:
    """The chain in one line.

    >>> write_problem(Chain(7, 1, "FKA", "bca"))
    '7x1:FbKcAa'
    """
    operations = map("".join, zip(chain.kinds, chain.families, strict=True))
    return f"{chain.start}x{chain.rounds}:" + "".join(operations)


def read(problem: str) -> Chain:
    """The chain that a problem's text writes.

    >>> read("7x1:FbKcAa")
    Chain(start=7, rounds=1, kinds='FKA', families='bca')
    """
    numbers, _, operations = problem.partition(":")
    start, _, rounds = numbers.partition("x")
    return Chain(int(start), int(rounds), operations[::2], operations[1::2])


def apply(kind: str, digit: int) -> int:
    """The digit after an operation.

    >>> KINDS["F"], apply("F", 7)
    ((9, 1), 4)
    """
    factor, addend = KINDS[kind]
    return (digit * factor + addend) % 10


def results(chain: Chain) -> list[int]:
    """The digit after each operation."""
    digits = [chain.start]
    for kind in chain.kinds * chain.rounds:
        digits.append(apply(kind, digits[-1]))
    return digits[1:]


def in_words(chain: Chain) -> str:
    """What a chain asks, in lines of words."""
    kinds = [
        f"{kind}: multiply by {factor}, then add {addend}."
        for kind, (factor, addend) in KINDS.items()
        if kind in chain.kinds
    ]
    return OPERATIONS_IN_WORDS.format(
        start=chain.start,
        rounds={1: "once", 2: "twice", 3: "three times"}[chain.rounds],
        chain=", ".join(chain.kinds),
        kinds="\n".join(kinds),
    )


# --- Drawing lots ---


def distinct_chains(
    rng: random.Random, operations: int, skills: int, split: str
) -> Iterator[Chain]:
    """As many chains as a split has rows, no two with the same text."""
    written = set()
    while len(written) < ROWS[split]:
        chain = sample_chain(rng, operations, skills, split)
        problem = write_problem(chain)
        if problem not in written:
            written.add(problem)
            yield chain


def sample_chain(rng: random.Random, operations: int, skills: int, split: str) -> Chain:
    """A random chain of a split. No kind comes twice in a round, and the kinds are spread evenly
    over the families."""
    rounds = rounds_of(operations)
    while True:
        kinds = "".join(rng.sample(list(KINDS), operations // rounds))
        families = "".join(family_of(kind, skills) for kind in kinds)
        chain = Chain(rng.randrange(10), rounds, kinds, families)
        if split_of(write_problem(chain)) == split:
            return chain


def family_of(kind: str, skills: int) -> str:
    """The family of a kind where there are so many.

    >>> family_of("F", 16), family_of("F", 4), family_of("F", 1)
    ('f', 'b', 'a')
    """
    return FAMILIES[list(KINDS).index(kind) % skills]
