r"""Tasks of reasoning-gym: `reasoning_gym:NAME` for any of its hundred generators of problems.

https://github.com/open-thought/reasoning-gym (Apache-2.0) is optional: pip install reasoning-gym.

Item i of a generator is drawn from its seed + i. Training and testing take items of seeds that do
not overlap, and a question is of one split alone, by a hash of its text: generators that have few
questions repeat them. A generator runs in a process of its own, so that its rows are the same each
time: some depend on the order of a set, which Python changes from process to process.

    python -m data.reasoning_gym NAME train     # what that process prints: rows as JSON lines
"""

import ast
import contextlib
import difflib
import functools
import importlib.util
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

from answers.extract import without_thinking
from data.splits import split_of
from run.errors import BadInput

__all__ = ["LEVELS", "answer", "problems", "prompt", "score", "warm_up"]

LEVELS = "the name of one of reasoning-gym's tasks, such as reasoning_gym:chain_sum"
SYSTEM_PROMPT = (
    "Please reason step by step, and put your final answer within \\boxed{}, "
    "in the form that the question asks for."
)
# For models without a chat template.
PROMPT_TEMPLATE = "{problem}\nPut the final answer within \\boxed{}.\n"

# A quarter of the questions are for testing.
SPLITS = ("test", "train", "train", "train")
# Seeds of the first item, and the rows that are wanted. Every second or fourth item is of the
# other split, or repeats a question.
FIRST_SEEDS = {"train": 0, "test": 1_000_000}
WANTED_ROWS = {"train": 2000, "test": 200}
ITEMS_PER_ROW = {"train": 1.5, "test": 5}
# Generators that take more than a twentieth of a second for an item give fewer rows.
SLOW = {
    *("futoshiki", "intermediate_integration", "knight_swap", "number_sequence", "puzzle24"),
    *("sokoban", "zebra_puzzles"),
}
WANTED_ROWS_OF_SLOW = {"train": 200, "test": 50}
LONGEST_GENERATION = 1800  # seconds

REFUSED = {
    "codeio": "it runs code from a file of its own, and its problems change from time to time",
    "composite": "it is a mixture of others, and has no problems without settings",
    "game_of_life_halting": "its check takes any text for right",
}

# A longer answer is wrong. The longest right ones have 5,000 characters.
LONGEST_ANSWER = 20_000
# Scorers that call eval on an answer which is not spelled as theirs: what they get is literal_eval.
EVALUATING = {"binary_matrix", "n_queens", "spiral_matrix", "string_insertion"}
# Scorers that hand an answer to sympy's parser, which evaluates it: arithmetic and functions alone
# reach them.
PARSING = {
    "countdown",
    "intermediate_integration",
    "polynomial_multiplication",
    "puzzle24",
    "simple_integration",
}
FUNCTIONS = (
    *("sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh"),
    *("exp", "log", "ln", "sqrt", "Abs"),
)
LARGEST_EXPONENT = 100
# Fields of an item's metadata that a scorer compares with tuples of its own. JSON has lists.
TUPLES = {"arc_agi": ("output",), "rearc": ("output",)}


# --- The task ---


def problems(split: str, level: str | None = None) -> list[dict]:
    """The problems of one of reasoning-gym's tasks as rows: id, problem, answer (None where any
    answer may be right that passes the task's check), task and metadata.

    Generators take from a second to some minutes.

    Args:
        level: the name of the task.

    Raises:
        BadInput: reasoning-gym is not installed, has no such task, or the task can't be used.
    """
    lines = _generated(_check_name(level), split).splitlines()
    return [json.loads(line) for line in lines]


def prompt(row: dict) -> list[dict[str, str]]:
    """The chat messages that ask for the answer in a box."""
    return [
        {"role": "system", "content": SYSTEM_PROMPT},
        {"role": "user", "content": row["problem"]},
    ]


def score(completion: str, row: dict) -> float:
    """The task's own score of the answer: 1.0 if it gives full credit, else 0.0; the part of a
    credit that it gives where the row says `partial_credit`."""
    given = answer(completion)
    if not given or len(given) > LONGEST_ANSWER:
        return 0.0
    name = row["task"]
    if name in PARSING and not _is_expression(given):
        return 0.0
    metadata = dict(row["metadata"])
    for field in TUPLES.get(name, ()):
        metadata[field] = _as_tuples(metadata[field])
    entry = {"question": row["problem"], "answer": row["answer"], "metadata": metadata}
    try:
        credit = float(_scorer(name)(given, entry))
    except MemoryError:
        raise
    except Exception:
        # Many scorers raise an error for an answer that they can't read.
        return 0.0
    if row.get("partial_credit"):
        return min(max(credit, 0.0), 1.0)
    return float(credit >= 1)


def answer(completion: str) -> str | None:
    r"""The content of the last \boxed{} or <answer>, as it is written; None if there is none, or
    the last box is never closed. It may have several lines.

    >>> answer("So\n\\boxed{1 2\n3 4}"), answer("<answer>{a}</answer>"), answer(r"\boxed{\text{a}}")
    ('1 2\n3 4', '{a}', 'a')
    """
    text = without_thinking(completion)
    box = max(text.rfind("\\boxed{"), text.rfind("\\fbox{"))
    tag = text.rfind("<answer>")
    if box < 0 and tag < 0:
        return None
    if tag > box:
        content, end, _ = text[tag + len("<answer>") :].partition("</answer>")
        return content.strip() if end else None

    start = text.index("{", box) + 1
    depth = 1
    for brace in re.finditer(r"\\.|[{}]", text[start:], re.DOTALL):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            content = text[start : start + brace.start()].strip()
            # Words are often written as text.
            as_text = re.fullmatch(r"\\text(?:bf|tt|rm)?\{([^{}]*)\}", content)
            return as_text[1].strip() if as_text else content
    return None


def warm_up() -> None:
    """Imports reasoning-gym, which takes seconds: once, before the workers are forked."""
    import reasoning_gym  # noqa: F401


# --- Scoring ---


@functools.cache
def _scorer(name: str):
    """The `score_answer` of a task, in which no text reaches Python's eval."""
    from reasoning_gym.factory import get_score_answer_fn

    scorer = get_score_answer_fn(name)
    if name in EVALUATING:
        # A module's own name comes before a builtin one.
        vars(sys.modules[scorer.__module__])["eval"] = ast.literal_eval
    return scorer


def _as_tuples(value):
    """A value with tuples for its lists."""
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


def _is_expression(text: str) -> bool:
    """Whether a text is arithmetic with numbers, names and FUNCTIONS, and no power of it is large.

    >>> [_is_expression(text) for text in ("2*(x + 1)**2", "sin(x)/3 + C")]
    [True, True]
    >>> [_is_expression(text) for text in ("9**9**9", "open('x')", "2**'x'")]
    [False, False, False]
    """
    try:
        tree = ast.parse(text.strip(), mode="eval")
        nodes = list(ast.walk(tree.body))
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False
    return all(map(_is_plain, nodes))


def _is_plain(node: ast.AST) -> bool:
    """Whether a node of an expression's tree is one that may be evaluated."""
    if isinstance(node, ast.Constant):
        return type(node.value) in (int, float)
    if isinstance(node, ast.Call):
        is_known = isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS
        return is_known and not node.keywords
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        # An exponent is a number, or at most a quotient of two or a name.
        parts = list(ast.walk(node.right))
        constants = [part.value for part in parts if isinstance(part, ast.Constant)]
        nests = any(isinstance(part, (ast.Pow, ast.Mult)) for part in parts)
        return not nests and all(map(_is_small_number, constants))
    plain = (ast.Name, ast.Load, ast.BinOp, ast.UnaryOp, ast.operator, ast.unaryop)
    return isinstance(node, plain)


def _is_small_number(constant: object) -> bool:
    return type(constant) in (int, float) and abs(constant) <= LARGEST_EXPONENT


# --- Problems ---


def _check_name(level: str | None) -> str:
    """The name of a task that is there and can be used."""
    if importlib.util.find_spec("reasoning_gym") is None:
        raise BadInput("reasoning_gym is not installed; pip install reasoning-gym")
    if not level:
        raise BadInput(f"reasoning_gym needs {LEVELS}")
    from reasoning_gym.factory import DATASETS

    if level in REFUSED:
        raise BadInput(f"reasoning_gym:{level}: can't be used, since {REFUSED[level]}")
    if level not in DATASETS:
        close = ", ".join(difflib.get_close_matches(level, DATASETS, 3, cutoff=0.4))
        advice = f"did you mean {close}?" if close else f"there are {', '.join(sorted(DATASETS))}"
        raise BadInput(f"reasoning_gym:{level}: reasoning-gym has no such task; {advice}")
    return level


@functools.lru_cache(maxsize=4)
def _generated(name: str, split: str) -> str:
    """What `main` prints in a process of its own."""
    command = [sys.executable, "-m", "data.reasoning_gym", name, split]
    try:
        done = subprocess.run(
            command,
            cwd=Path(__file__).parents[1],
            env={**os.environ, "PYTHONHASHSEED": "0"},
            capture_output=True,
            encoding="utf-8",
            timeout=LONGEST_GENERATION,
        )
    except subprocess.TimeoutExpired:
        reason = f"its problems took longer than {LONGEST_GENERATION} seconds"
        raise BadInput(f"reasoning_gym:{name}: {reason}") from None
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["it was killed"])[-1]
        raise BadInput(f"reasoning_gym:{name}: its generator failed ({reason})")
    return done.stdout


def generate(name: str, split: str) -> list[dict]:
    """The rows of a split, each question once. Items are drawn until there are enough rows, or most
    of them repeat others."""
    from reasoning_gym import create_dataset

    wanted = (WANTED_ROWS_OF_SLOW if name in SLOW else WANTED_ROWS)[split]
    items = round(wanted * ITEMS_PER_ROW[split])
    dataset = create_dataset(name, seed=FIRST_SEEDS[split], size=items)
    rows: dict[str, dict] = {}
    for i in range(items):
        row = row_of(name, f"{split}/{i}", dataset[i])
        question = row["problem"]
        # An integral that the generator could not solve itself is its answer.
        is_solved = name not in PARSING or _is_expression(row["answer"])
        if is_solved and split_of(question, SPLITS) == split:
            rows.setdefault(question, row)
        if len(rows) == wanted:
            break
    return list(rows.values())


def row_of(name: str, place: str, item: dict) -> dict:
    """An item of a generator as a row."""
    return {
        "id": f"reasoning_gym:{name}/{place}",
        "problem": item["question"],
        "answer": item["answer"],
        "task": name,
        # What JSON does not know, fractions and numpy's numbers, no scorer reads.
        "metadata": json.loads(json.dumps(item["metadata"], default=str)),
    }


def main() -> None:
    """Prints the rows of a task and a split, as the command line names them."""
    name, split = sys.argv[1:]
    # Some generators print.
    with contextlib.redirect_stdout(io.StringIO()):
        rows = generate(name, split)
    for row in rows:
        print(json.dumps(row))


if __name__ == "__main__":
    main()
