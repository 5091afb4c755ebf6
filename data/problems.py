"""Where problems come from: `--dataset_name` -> rows of {"id", "problem", "answer"}, and rows -> prompts.

A name is one of: the built-in `arithmetic`; a key of SOURCES, read from the Hub, or from DIR/NAME.jsonl under
`--data_dir DIR`; a .jsonl, .json, .csv or .parquet file; any other Hub id. A slice may follow: `svamp[:700]`.
"""

import json
import logging
import re
from pathlib import Path
from typing import NamedTuple

from data import arithmetic

logger = logging.getLogger(__name__)

PROBLEM_COLUMNS = ("problem", "question", "prompt")
ANSWER_COLUMNS = ("answer", "final_answer", "solution")
FILE_LOADERS = {".json": "json", ".csv": "csv", ".parquet": "parquet"}  # .jsonl is read here, line by line
# The system prompt of Qwen2.5-Math's evaluation; it goes with a chat template.
SYSTEM_PROMPT = "Please reason step by step, and put your final answer within \\boxed{}."
PROMPT_TEMPLATE = "Problem: {problem}\nSolution:"  # for models without a chat template
# Worked examples for base models (--num_shots), each a problem and its solution.
SHOTS = (
    ("Tom has 3 apples and buys 4 more. How many apples has he now?", "He has 3 + 4 = 7 apples. \\boxed{7}"),
    ("Ann had 12 pens and lost 5. How many pens are left?", "There are 12 - 5 = 7 pens left. \\boxed{7}"),
    ("A box holds 6 eggs. How many eggs are in 4 boxes?", "There are 4 * 6 = 24 eggs. \\boxed{24}"),
    ("What is the value of $x$ if $2x + 1 = 9$?", "Then $2x = 8$, so $x = 4$. \\boxed{4}"),
)


class BadInput(Exception):
    """The user's input can't be used. The scripts print its message as one line and exit with code 2."""


def _last_boxed(text: str) -> str:
    """MATH's answer: the content of the last \\boxed{} of the worked solution."""
    start = text.rfind("\\boxed{")
    level = 0
    for i in range(start + len("\\boxed"), len(text) if start >= 0 else 0):
        level += {"{": 1, "}": -1}.get(text[i], 0)
        if level == 0:
            return text[start + len("\\boxed{") : i]
    return ""


def _short(text: str) -> str:
    """The answer in a column: of a worked solution, what follows GSM8K's "####" (without thousands separators) or the
    last \\boxed{}; else the text as it is."""
    if "####" in text:
        return text.rsplit("####", 1)[-1].strip().replace(",", "")
    return _last_boxed(text) if "\\boxed{" in text else text.strip()


class Source(NamedTuple):
    """A data set on the Hub: its id, configuration, split for training and for testing, columns."""

    hub_id: str
    config: str | None = None
    train: str | None = None
    test: str | None = None
    problem: str | None = None
    answer: str | None = None


SOURCES = {
    "math": Source("DigitalLearningGmbH/MATH-lighteval", None, "train", "test", "problem", "solution"),
    "gsm8k": Source("openai/gsm8k", "main", "train", "test", "question", "answer"),
    "svamp": Source("ChilleD/SVAMP", None, "train", "test", "question_concat", "Answer"),
    "math500": Source("HuggingFaceH4/MATH-500", test="test"),
    "aime24": Source("HuggingFaceH4/aime_2024", test="train", answer="answer"),
    "aime25": Source("math-ai/aime25", test="test"),
    "amc": Source("AI-MO/aimo-validation-amc", test="train"),
    "amc23": Source("math-ai/amc23", test="test"),
    "minerva": Source("math-ai/minervamath", test="test"),
    "olympiadbench": Source("math-ai/olympiadbench", test="test", answer="final_answer"),
}


def load_problems(name: str, split: str = "train", data_dir: str | None = None, problem_column: str | None = None,
                  answer_column: str | None = None) -> list[dict[str, str]]:  # fmt: skip
    """The problems of `name` as rows {"id", "problem", "answer"}; rows without either are counted and left out.

    Args:
        split: "train" or "test". Under `data_dir`, "train" reads DIR/train_NAME.jsonl where that exists.

    Raises:
        BadInput: no such data set, file or column, or no usable row.
    """
    name, start, stop = re.fullmatch(r"(.*?)(?:\[(\d*):(\d*)\])?", name, re.DOTALL).groups()
    if name == "arithmetic":
        rows = arithmetic.problems(split)
    else:
        source = SOURCES.get(name, Source(name, None, split, split))
        local = [Path(data_dir or ".", f"{prefix}{name}.jsonl") for prefix in ("train_", "")[split == "test" :]]
        if data_dir and (name in SOURCES or local[-1].exists()):
            table = _read_file(next((path for path in local if path.exists()), local[-1]))
            source = Source(name)
        elif Path(name).suffix in (".jsonl", *FILE_LOADERS):
            table = _read_file(Path(name))
        else:
            table = _read_hub(name, source, split)
        rows = _normalise(name, table, source, problem_column, answer_column)
    rows = rows[int(start or 0) : int(stop) if stop else None]
    if not rows:
        raise BadInput(f"--dataset_name {name}: no problems in it (or in the slice taken)")
    return rows


def _read_file(path: Path) -> list[dict]:
    if not path.is_file():
        raise BadInput(f"{path}: no such file (--dataset_name takes a name, a Hub id or a file; --data_dir its folder)")
    if path.suffix != ".jsonl":
        import datasets

        try:
            return list(datasets.load_dataset(FILE_LOADERS[path.suffix], data_files=str(path), split="train"))
        except Exception as error:  # datasets raises whatever its parser did; the chain keeps it
            raise BadInput(f"{path}: can't be read as {path.suffix[1:]} ({first_line(error)})") from error
    table, bad = [], []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            row = json.loads(line) if line.strip() else None
            if row is not None:
                table.append(dict(row))
        except (ValueError, TypeError):  # not JSON, not UTF-8, or not an object
            bad.append(number)
    _report(path, bad, "not a JSON object")
    return table


def _read_hub(name: str, source: Source, split: str) -> list[dict]:
    wanted = source.train if split == "train" else source.test
    if wanted is None:
        raise BadInput(f"--dataset_name {name}: a benchmark without a {split} split; choose another data set")
    import datasets

    try:
        return list(datasets.load_dataset(source.hub_id, source.config, split=wanted))
    except Exception as error:  # no network, no such id, a gated or a broken repository: all end here
        known = ", ".join(["arithmetic", *SOURCES])
        raise BadInput(f"--dataset_name {name}: not found ({first_line(error)}). Known names: {known}") from error


def _normalise(name: str, table: list[dict], source: Source, problem: str | None, answer: str | None) -> list[dict]:
    columns = sorted({column for row in table for column in row})

    def choose(flag: str, given: str | None, candidates: tuple[str, ...]) -> str:
        column = given or next((c for c in candidates if c in columns), None)
        if table and column not in columns:
            wanted = given or "|".join(candidates)
            raise BadInput(f"{name}: no column {wanted} (it has: {', '.join(columns)}); set {flag}")
        return column

    problem = choose("--problem_column", problem or source.problem, PROBLEM_COLUMNS)
    answer = choose("--answer_column", answer or source.answer, ANSWER_COLUMNS)
    rows, bad, repeated, ids = [], [], [], set()
    for number, row in enumerate(table, 1):
        question, gold = row.get(problem), row.get(answer)
        gold = (gold[0] if len(gold) == 1 else ", ".join(map(str, gold))) if isinstance(gold, list) else gold
        gold = "" if gold is None or isinstance(gold, dict) else _short(str(gold))
        own_id = str(row.get("id", f"{name}/{number - 1}"))
        if not (isinstance(question, str) and question.strip() and gold):
            bad.append(number)
        elif own_id in ids:
            repeated.append(number)
        else:
            ids.add(own_id)
            rows.append({"id": own_id, "problem": question.strip(), "answer": gold})
    _report(name, bad, "without a problem or an answer")
    _report(name, repeated, "with the id of an earlier row")
    return rows


def _report(where: object, numbers: list[int], what: str) -> None:
    if numbers:
        shown = ", ".join(map(str, numbers[:5])) + (", ..." if len(numbers) > 5 else "")
        logger.warning("%s: skipped %d rows %s (rows %s)", where, len(numbers), what, shown)


def first_line(error: Exception) -> str:
    """What an error says, short enough for the one line that bad input gets."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def template_for(name: str, template: str | None) -> str | None:
    """The prompt template that goes with a data set: the one given, or the built-in task's own."""
    if template and "{problem}" not in template:
        raise BadInput("--prompt_template: must hold {problem}, the place where the problem goes")
    return template or (arithmetic.PROMPT_TEMPLATE if name.split("[")[0] == "arithmetic" else None)


def encode_prompt(tokenizer, problem: str, template: str | None = None, num_shots: int = 0) -> list[int]:
    """The token ids of the prompt for one problem.

    Without a template, a tokenizer's chat template is used, as in Qwen2.5-Math's evaluation; a template is plain text
    that holds {problem}. Shots are worked examples in the same form before it.
    """
    if tokenizer.chat_template and not template:
        turns = [("system", SYSTEM_PROMPT)]
        for question, solution in SHOTS[:num_shots]:
            turns += [("user", question), ("assistant", solution)]
        messages = [{"role": role, "content": text} for role, text in [*turns, ("user", problem)]]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return tokenizer.encode(text, add_special_tokens=False)
    template = template or PROMPT_TEMPLATE
    shots = "".join(template.replace("{problem}", q) + f" {solution}\n\n" for q, solution in SHOTS[:num_shots])
    return tokenizer.encode(shots + template.replace("{problem}", problem))


def completion_text(tokenizer, ids: list[int], template: str | None = None, num_shots: int = 0) -> str:
    """The text of a completion; after shots it ends where a base model goes on to invent a next problem."""
    text = tokenizer.decode(ids, skip_special_tokens=True)
    if num_shots and (template or not tokenizer.chat_template):
        text = text.split("\n\n" + (template or PROMPT_TEMPLATE).split("{problem}")[0].strip())[0]
    return text
