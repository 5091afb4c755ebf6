"""Scores a model on math benchmarks: greedy pass@1, and with --num_samples k also avg@k, pass@k and
maj@k.

    python eval_math.py                                   # the tiny base on the built-in task:
                                                          # about 20 s on 2 cores
    python eval_math.py --adapter results/RUN/adapter     # after training it

As the paper evaluates, by the mean over 8 samples; then the scores beside the published ones:

    python eval_math.py --model_name_or_path Qwen/Qwen2.5-Math-1.5B \\
        --benchmarks math500 olympiadbench minerva aime24 --temperature 0.6 --num_samples 8
    python eval_math.py --table results/eval-A results/eval-B

Every score comes with n and its standard error over problems. Prompts are those of Qwen2.5-Math's
evaluation where the tokenizer has a chat template. Under `accelerate launch` the problems are
spread over the processes.
"""

import itertools
import json
import logging
import math
import os
import re
import statistics
import sys
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

from data.problems import (
    SHOWN_COLUMNS,
    completion_text,
    encode_row,
    file_name,
    load_problems,
    score_of,
    task_of,
    template_for,
    tiny_base_of,
)
from data.tiny_bases import TINY_BASES
from run.errors import BadInput, first_line, run_script
from run.flags import ModelAndDataFlags, check_shared, flag, parse_flags

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Flags(ModelAndDataFlags):
    """The flags of eval_math.py."""

    adapter: str | None = flag(
        None, "folder of a PEFT adapter to put on the model, e.g. results/RUN/adapter"
    )
    benchmarks: list[str] = flag(
        ["arithmetic"], "names, files or Hub ids; a slice may follow, e.g. gsm8k[:200]"
    )
    num_samples: int = flag(0, "sampled completions per problem, k; 0 for the greedy one alone")
    max_new_tokens: int = flag(2048, "longest completion")
    output_dir: str | None = flag(
        None, "where results go; default results/eval-NAME, by the run or the model"
    )
    table: list[str] = flag(
        [], "folders of finished evaluations: write the paper's table with them, and run nothing"
    )


def read_flags(argv: list[str]) -> Flags:
    """The flags of a command line, checked as far as that needs no model."""
    flags = parse_flags(Flags, argv, __doc__)
    check_shared(flags)
    model_name = flags.model_name_or_path or tiny_base_of(flags.benchmarks[0])
    flags = replace(flags, model_name_or_path=model_name)
    if flags.num_samples and flags.temperature == 0:
        raise BadInput(
            f"--temperature 0 with --num_samples {flags.num_samples}: every sample would be the "
            "greedy completion; set --num_samples 0 or a temperature above 0"
        )
    return flags


# A mistyped flag is answered here, before the imports below, which take seconds.
if __name__ == "__main__":
    run_script(lambda: read_flags(sys.argv[1:]))

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from peft import PeftConfig, PeftModel
from tqdm import trange

from paper_tables import PAPER_BENCHMARKS, PUBLISHED, paper_table
from policy import check_sampler
from reward import Grader, check_platform, same_answer
from run.folder import write_whole
from run.models import damaged_file, load_model, one_line
from run.processes import device_dtype, launched_processes
from tree import Tree
from tree_sampler import TreeSampler

__all__ = [
    "PAPER_BENCHMARKS",
    "PUBLISHED",
    "Flags",
    "check_benchmarks",
    "default_folder",
    "evaluate",
    "format_table",
    "load_adapter",
    "majority",
    "mean_and_error",
    "paper_table",
    "pass_at_k",
    "read_flags",
    "summarise",
]


# --- Estimators ---


def pass_at_k(n: int, correct: int, k: int) -> float:
    """The chance that k of n completions, `correct` of which are right, hold a right one: the
    unbiased estimator

        1 - C(n - c, k) / C(n, k)        (Codex, arXiv 2107.03374, equation 1)

    >>> pass_at_k(4, 1, 2)
    0.5
    """
    return 1.0 - math.comb(n - correct, k) / math.comb(n, k)


def majority(answers: list[str | None], grades: list[float], grader: Grader | None = None) -> float:
    """The grade of the most frequent answer; of several that tie, the mean of theirs. No answer is
    no vote.

    Equal values are votes for one answer however they are spelled, by the grader's own equality.
    Pairs that only a comparison by value can decide are put to its workers, and only where they can
    change the result. Under the score of another task than mathematics, spelling is all.

    Args:
        grader: whose workers decide; left out, one is started where it is needed.

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

    def size(group: list[str]) -> int:
        return sum(len(votes[spelling]) for spelling in group)

    # Groups of spellings with one value: first as far as that can be told at once, then, if it
    # matters, with the help of workers.
    groups = [[spelling] for spelling in votes]
    if not isinstance(grader, Grader) or grader.is_of_mathematics:
        groups = _joined(groups, lambda one, other: same_answer(one, other) is True)
        # All the other groups together could not catch up with this one.
        has_leader = 2 * max(map(size, groups)) > len(all_grades)
        if not has_leader and _any_undecided(groups):
            with nullcontext(grader) if grader else Grader(1) as judge:
                groups = _joined(groups, _same_by_value(judge))

    # The winners, and the mean grade of each.
    most = max(map(size, groups))
    means = []
    for group in groups:
        if size(group) == most:
            means.append(statistics.fmean(grade for text in group for grade in votes[text]))
    return statistics.fmean(means)


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


def mean_and_error(values: list[float]) -> dict[str, float]:
    """The mean over problems and its standard error (0 for one problem).

    >>> mean_and_error([0.0, 1.0, 1.0, 0.0])
    {'mean': 0.5, 'standard_error': 0.28867513459481287}
    """
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return {"mean": statistics.fmean(values), "standard_error": error}


def summarise(rows: list[dict], grader: Grader | None = None) -> dict:
    """The scores of one benchmark from its graded completions, one dict each as `evaluate` writes
    them.

    Args:
        grader: of `majority`.
    """
    scores: dict = {"n": len({row["index"] for row in rows})}
    for kind, is_greedy in (("greedy", True), ("sampled", False)):
        rows_of_kind = [row for row in rows if row["greedy"] == is_greedy]
        if rows_of_kind:
            scores |= _scores_of_kind(kind, rows_of_kind, grader)
    return scores


def _scores_of_kind(kind: str, rows: list[dict], grader: Grader | None) -> dict:
    """The scores of the greedy completions of a benchmark, or of the sampled ones."""
    problems: dict[int, list[dict]] = defaultdict(list)
    for row in rows:
        problems[row["index"]].append(row)
    # Of each problem, the grades of its k completions.
    grades = [[row["grade"] for row in group] for group in problems.values()]
    k = len(grades[0])

    scores: dict = {}
    mean_name = "pass@1" if kind == "greedy" else f"avg@{k}"
    scores[mean_name] = mean_and_error([statistics.fmean(values) for values in grades])
    # pass@ 2, 4, 8, ... and k itself.
    powers = [2**i for i in range(1, k.bit_length()) if 2**i < k]
    sizes = [*powers, k] if k > 1 else []
    for size in sizes:
        chances = [pass_at_k(k, values.count(1.0), size) for values in grades]
        scores[f"pass@{size}"] = mean_and_error(chances)
    if k > 1:
        answers = [[row["extracted"] for row in group] for group in problems.values()]
        voted = [majority(*pair, grader) for pair in zip(answers, grades)]
        scores[f"maj@{k}"] = mean_and_error(voted)
    scores[f"{kind}_length"] = statistics.fmean(row["length"] for row in rows)
    scores[f"{kind}_unfinished"] = statistics.fmean(not row["finished"] for row in rows)
    return scores


# --- An evaluation ---


@dataclass
class Setting:
    """What all benchmarks of an evaluation have in common."""

    model: PeftModel  # or any causal LM
    tokenizer: object
    grader: Grader
    accelerator: Accelerator
    flags: Flags  # or those of the trainer
    output: Path


@dataclass
class Benchmark:
    """A benchmark that is ready to be run."""

    name: str
    task: ModuleType
    problems: list[dict]
    template: str | None  # of its prompts
    prompts: list[list[int]]  # token ids, one list per problem


def prepare(tokenizer, name: str, problems: list[dict], flags) -> Benchmark:
    """A benchmark with its prompts encoded."""
    # A template is the user's, or the tokenizer's; else the task asks by itself.
    task = task_of(name)
    template = template_for(flags.prompt_template, tokenizer)
    prompts = [encode_row(tokenizer, task, row, template, flags.num_shots) for row in problems]
    return Benchmark(name, task, problems, template, prompts)


def check_benchmarks(model, tokenizer, benchmarks: dict[str, list[dict]], flags) -> None:
    """Finds out before any work whether the model can take every prompt and the longest completion.

    Raises:
        BadInput: it can't.
    """
    prompts = []
    for name, problems in benchmarks.items():
        prompts += prepare(tokenizer, name, problems, flags).prompts
    longest = flags.max_new_tokens
    try:
        sampler = TreeSampler(model, tokenizer, branching=1, depth=1, step_tokens=longest)
        sampler.check_prompts(prompts)
    except ValueError as error:
        where = f"--model_name_or_path {flags.model_name_or_path} with --max_new_tokens {longest}"
        raise BadInput(f"{where}: {error}") from error


def evaluate(
    model,
    tokenizer,
    benchmarks: dict[str, list[dict]],
    grader: Grader,
    accelerator: Accelerator,
    flags,
    output: Path,
) -> dict[str, dict]:
    """Completes and grades every problem of each benchmark, once greedily and `num_samples` times
    by sampling.

    Writes one line per completion to output/eval/NAME.jsonl.

    Args:
        benchmarks: the problems of each, by name.
        flags: of this script or of the trainer.

    Returns:
        The scores of each benchmark (`summarise`), the same on every process.
    """
    setting = Setting(model, tokenizer, grader, accelerator, flags, output)
    scores = {}
    for name, problems in benchmarks.items():
        scores[name] = _evaluate_one(setting, prepare(tokenizer, name, problems, flags))
    return scores


def _evaluate_one(setting: Setting, benchmark: Benchmark) -> dict:
    is_main_process = setting.accelerator.is_main_process
    scores = None
    with _grader_of(benchmark.task, setting.grader) as grader:
        rows = _complete_and_grade(setting, benchmark, grader, greedy=True)
        if setting.flags.num_samples:
            rows += _complete_and_grade(setting, benchmark, grader, greedy=False)
        rows = sorted(gather_object(rows), key=lambda row: (row["index"], not row["greedy"]))
        # One vote, and not one per process.
        if is_main_process:
            scores = summarise(rows, grader)
    if is_main_process:
        path = setting.output / "eval" / f"{file_name(benchmark.name)}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, "".join(json.dumps(row) + "\n" for row in rows))
    return broadcast_object_list([scores])[0]


@contextmanager
def _grader_of(task: ModuleType, grader: Grader) -> Iterator[Grader]:
    """The grader given; or, for a task with another score, one with the same limits, whose counts
    are added to those of the grader given."""
    score = score_of(task)
    if score == grader.score:
        yield grader
        return
    with Grader(grader.workers, grader.timeout, grader.memory_mb, score) as own_grader:
        yield own_grader
    grader.stats.update(own_grader.stats)


def _complete_and_grade(
    setting: Setting, benchmark: Benchmark, grader: Grader, greedy: bool
) -> list[dict]:
    """One row per completion, of this process's share of the problems."""
    flags = setting.flags
    accelerator = setting.accelerator
    width = 1 if greedy else flags.num_samples
    # Completions are a tree of depth 1.
    sampler = TreeSampler(
        setting.model,
        setting.tokenizer,
        branching=width,
        depth=1,
        step_tokens=flags.max_new_tokens,
        temperature=0.0 if greedy else flags.temperature,
        top_p=flags.top_p,
        max_rows=flags.max_rows,
    )
    # The problems go round the processes, so that each has some of the long ones.
    count = len(benchmark.problems)
    indices = list(range(accelerator.process_index, count, accelerator.num_processes))
    at_once = max(1, flags.max_rows // width)
    # None hides the bar where there is no terminal.
    hidden = None if accelerator.is_main_process else True

    rows = []
    starts = trange(0, len(indices), at_once, desc=benchmark.name, leave=False, disable=hidden)
    for start in starts:
        part = indices[start : start + at_once]
        prompts = [benchmark.prompts[i] for i in part]
        # A seed for each problem, whichever process samples it.
        seeds = [flags.seed * 2**40 + i for i in part]
        trees = dict(zip(part, sampler.sample(prompts, seeds)))
        for row in _graded_rows(setting, benchmark, grader, trees):
            rows.append({**row, "greedy": greedy})
    return rows


def _graded_rows(
    setting: Setting, benchmark: Benchmark, grader: Grader, trees: dict[int, Tree]
) -> list[dict]:
    """One row per leaf of the trees, which are given by the places of their problems."""
    leaves = [(i, tree, leaf) for i, tree in trees.items() for leaf in tree.leaves()]
    num_shots = setting.flags.num_shots
    texts = []
    for _, tree, leaf in leaves:
        ids = tree.text_ids(leaf)
        texts.append(completion_text(setting.tokenizer, ids, benchmark.template, num_shots))
    # One batch for all problems at hand, so that the workers stay busy.
    grades = grader.grade_batch(texts, [benchmark.problems[i] for i, _, _ in leaves])

    rows = []
    for (i, tree, leaf), text, grade in zip(leaves, texts, grades):
        problem = benchmark.problems[i]
        rows.append(
            {
                "index": i,
                **{column: problem[column] for column in SHOWN_COLUMNS},
                "completion": text,
                "grade": grade,
                "extracted": benchmark.task.answer(text),
                "length": len(tree.tokens[leaf]),
                "finished": bool(tree.finished[leaf]),
            }
        )
    return rows


def format_table(scores: dict[str, dict]) -> str:
    """The scores of several benchmarks as text, one benchmark per row: percent, plus or minus a
    standard error."""
    # All scores that any benchmark has, in their order.
    columns = list(dict.fromkeys(name for values in scores.values() for name in values))
    table = [["benchmark", *columns]]
    for benchmark, values in scores.items():
        cells = [_table_cell(column, values.get(column)) for column in columns]
        table.append([benchmark, *cells])
    widths = [max(map(len, column)) for column in zip(*table)]
    lines = []
    for cells in table:
        lines.append("  ".join(text.rjust(width) for text, width in zip(cells, widths)))
    return "\n".join(lines)


def _table_cell(column: str, value) -> str:
    if value is None:
        return "-"
    if isinstance(value, dict):
        return f"{100 * value['mean']:.1f} ± {100 * value['standard_error']:.1f}"
    if column.endswith("unfinished"):
        return f"{100 * value:.1f} %"
    return f"{value:.4g}"


# --- The model ---


def load_adapter(model, folder: str) -> PeftModel:
    """The model under the adapter in `folder`.

    Raises:
        BadInput: missing or damaged files, tensors for another model, or a kind of adapter that
            can't be sampled.
    """
    # What can be told from the files alone gets a line that says what to do.
    where = f"--adapter {folder}"
    if damage := damaged_file(Path(folder)):
        raise BadInput(f"{where}: {damage}")
    if Path(folder).is_dir() and not list(Path(folder).glob("adapter_model.*")):
        raise BadInput(f"{where}: holds no adapter_model.safetensors")
    try:
        config = PeftConfig.from_pretrained(folder)
        _check_kind(config)
        with warnings.catch_warnings(action="ignore"):
            model = PeftModel.from_pretrained(model, folder)
            # Loaded again for its result, which says what PEFT leaves out without an error.
            result = model.load_adapter(folder, "default")
    except Exception as error:
        # Whatever peft, torch and safetensors make of it.
        raise BadInput(f"{where}: can't be loaded ({one_line(error)})") from error

    # An adapter of another model: tensors without a place, or places without a tensor.
    unexpected, missing = result.unexpected_keys, result.missing_keys
    if unexpected:
        reason = f"{len(unexpected)} of its tensors have no place in the model"
        advice = "is it of another base model?"
        raise BadInput(f"{where}: {reason}, such as {unexpected[0]}; {advice}")
    if missing:
        reason = f"it lacks {len(missing)} tensors for this model"
        raise BadInput(f"{where}: {reason}, such as {missing[0]}")

    # The same model may have moved to another folder, so only its name is compared.
    base = config.base_model_name_or_path
    if base and Path(base).name != Path(model.get_base_model().name_or_path).name:
        logger.warning("%s: it was trained on %s, another model by name", where, base)
    return model


def _check_kind(config: PeftConfig) -> None:
    """Raises ValueError for an adapter that can't be sampled."""
    if config.is_prompt_learning:
        kind = config.peft_type.value
        raise ValueError(f"{kind} adapters put tokens before the prompt; only others are sampled")
    if config.task_type not in (None, "CAUSAL_LM"):
        raise ValueError(f"an adapter for {config.task_type}, not for CAUSAL_LM")


def load_model_to_evaluate(flags: Flags, accelerator: Accelerator):
    """The tokenizer, and the model with its adapter on the device.

    Raises:
        BadInput: it can't be loaded or sampled.
    """
    tokenizer, model = load_model(flags, device_dtype(flags.bf16, accelerator.device))
    if flags.adapter:
        model = load_adapter(model, flags.adapter)
    model.to(accelerator.device)
    try:
        check_sampler(model, tokenizer, trains=False)
    except ValueError as error:
        raise BadInput(f"--model_name_or_path {flags.model_name_or_path}: {error}") from error
    return tokenizer, model


# --- The folder of an evaluation ---

# Flags on which no score depends; others must be the same in one folder.
FREE_IN_FOLDER = ("benchmarks", "output_dir", "table", "max_rows", "grader_workers")


def default_folder(flags: Flags) -> str:
    """results/eval-NAME. Of what lies in a run's folder NAME is the run's (and a checkpoint's), of
    another folder its last two parts, and of a Hub id ORGANISATION-NAME: so that two runs or models
    don't share a folder.

    >>> default_folder(Flags(adapter="results/A/adapter/"))
    'results/eval-A'
    >>> default_folder(Flags(adapter="results/A/checkpoints/step-000100"))
    'results/eval-A-step-000100'
    >>> default_folder(Flags(model_name_or_path="org/model"))
    'results/eval-org-model'
    """
    # A tiny base, which may be a full path, has a short name.
    name = flags.adapter or flags.model_name_or_path
    if name in map(str, TINY_BASES.values()):
        return f"results/eval-{Path(name).name}"
    is_hub_id = re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) and not os.path.exists(name)
    if is_hub_id:
        return f"results/eval-{name.replace('/', '-')}"

    # Empty names stand for the parts that a short path lacks.
    *_, grandparent, parent, last = ("", "", "", *Path(os.path.abspath(name)).parts[1:])
    if last in ("adapter", "model"):
        return f"results/eval-{parent}"
    parts = [grandparent, last] if parent == "checkpoints" else [parent, last]
    return "results/eval-" + "-".join(filter(None, parts))


def scores_so_far(output: Path, flags: Flags) -> tuple[dict, dict]:
    """The settings to be written beside the scores, and the scores of other benchmarks that
    `output` holds already.

    Raises:
        BadInput: it holds a run, or scores that were made with other flags or by other weights.
    """
    if (output / "config.yaml").exists():
        reason = "holds a run, whose evaluations would be overwritten"
        raise BadInput(f"--output_dir {output}: {reason}; choose another")
    # The folder is new.
    weights = _weights_of(flags)
    path = output / "scores.json"
    if not path.exists():
        return {"flags": vars(flags), "weights": weights}, {}

    # It holds scores: do these belong with them?
    advice = "choose another --output_dir, or remove this one"
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        flags_before = before["flags"]
        scores = dict(before["scores"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{path}: can't be read ({first_line(error)}); {advice}") from error
    for name, value in vars(flags).items():
        value_before = flags_before.get(name, value)
        if name not in FREE_IN_FOLDER and _plain_path(value_before) != _plain_path(value):
            made_with = f"holds scores that were made with --{name} {value_before}, not {value}"
            raise BadInput(f"{output}: {made_with}; {advice}")
    if before.get("weights", weights) != weights:
        reason = "holds scores of weights that have changed since then"
        raise BadInput(f"{output}: {reason}; {advice}")

    names = list(dict.fromkeys([*flags_before.get("benchmarks", []), *flags.benchmarks]))
    return {"flags": {**vars(flags), "benchmarks": names}, "weights": weights}, scores


def _weights_of(flags: Flags) -> dict[str, list[float]]:
    """The sizes and times of the files of weights: a run may have continued since it was
    evaluated."""
    folder = Path(flags.adapter or flags.model_name_or_path)
    sizes_and_times = {}
    for path in sorted(folder.glob("*.safetensors")):
        status = path.stat()
        sizes_and_times[path.name] = [status.st_size, status.st_mtime]
    return sizes_and_times


def _plain_path(value):
    """A path in its shortest form; any other value as it is."""
    return os.path.normpath(value) if isinstance(value, str) and "/" in value else value


def write_paper_table(flags: Flags) -> None:
    """Writes and prints the paper's table with the evaluations of --table."""
    markdown, latex = paper_table(flags.table)
    output = Path(flags.output_dir or "results")
    output.mkdir(parents=True, exist_ok=True)
    write_whole(output / "paper_table.md", markdown)
    write_whole(output / "paper_table.tex", latex)
    print(f"{markdown}\nwritten to {output}/paper_table.md and paper_table.tex")


def main() -> None:
    flags = read_flags(sys.argv[1:])
    if flags.table:
        write_paper_table(flags)
        return
    check_platform()
    # First, as Accelerator alone would not join processes without a GPU.
    launched_processes()
    accelerator = Accelerator()

    # Everything is checked before the first completion: folder, data, model, lengths.
    output = Path(flags.output_dir or default_folder(flags))
    settings, earlier_scores = scores_so_far(output, flags)
    benchmarks = {name: load_problems(name, "test", *flags.columns) for name in flags.benchmarks}
    tokenizer, model = load_model_to_evaluate(flags, accelerator)
    check_benchmarks(model, tokenizer, benchmarks, flags)

    scores: dict[str, dict] = {}
    with Grader(flags.grader_workers, flags.grader_timeout) as grader:
        for name, problems in benchmarks.items():
            benchmark = {name: problems}
            scores |= evaluate(model, tokenizer, benchmark, grader, accelerator, flags, output)
            # After each benchmark: what a kill leaves behind is good.
            if accelerator.is_main_process:
                content = {**settings, "scores": {**earlier_scores, **scores}}
                write_whole(output / "scores.json", json.dumps(content, indent=2) + "\n")
    if accelerator.is_main_process:
        print(f"{format_table(scores)}\ngrading: {dict(grader.stats)}")
        print(f"results: {output}/scores.json, {output}/eval/*.jsonl")


if __name__ == "__main__":
    run_script(main)
