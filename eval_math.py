"""Scores a model on the problems of any task: greedy pass@1, and with --num_samples k also avg@k,
pass@k and maj@k.

    python eval_math.py                                   # the tiny base on the built-in task:
                                                          # about 20 s on 2 cores
    python eval_math.py --adapter results/RUN/adapter     # what a run has trained
    python eval_math.py --benchmarks countdown "gsm8k[:200]" my_task.py my.csv

A benchmark is whatever --dataset_name takes: a built-in task, at a level where it has some
(countdown:5); a known data set of mathematics; a task or a data file of your own; a Hub id. Each is
asked, answered and scored as its own task says, and a slice may follow its name.

What lies in a run's folder (adapter/, model/, checkpoints/step-N) is evaluated as it was trained:
the run's config.yaml gives the model, the prompts, the benchmarks and the length of completions,
wherever the command line and --config don't.

As the paper evaluates, by the mean over 8 samples; then the scores beside the published ones:

    python eval_math.py --model_name_or_path Qwen/Qwen2.5-Math-1.5B \\
        --benchmarks math500 olympiadbench minerva aime24 --temperature 0.6 --num_samples 8
    python eval_math.py --table results/eval-A results/eval-B

Every score comes with n and its standard error over problems. Mathematics is asked as in
Qwen2.5-Math's evaluation where the tokenizer has a chat template. Under `accelerate launch` the
problems are spread over the processes.
"""

import json
import logging
import math
import os
import re
import shlex
import statistics
import sys
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import ModuleType

from data.problems import (
    SHOWN_COLUMNS,
    answer_of,
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
from run.flags import ModelAndDataFlags, check_shared, flag, flag_words, parse_flags
from run.recorded import config_of, recorded_flags

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Flags(ModelAndDataFlags):
    """The flags of eval_math.py."""

    adapter: str | None = flag(
        None, "folder of a PEFT adapter to put on the model, e.g. results/RUN/adapter"
    )
    benchmarks: list[str] = flag(
        ["arithmetic"],
        "tasks, data files, task files or Hub ids; a slice may follow, e.g. gsm8k[:200]",
    )
    num_samples: int = flag(0, "sampled completions per problem, k; 0 for the greedy one alone")
    max_new_tokens: int | None = flag(
        None, "longest completion; default 2048, or what the model has positions for"
    )
    output_dir: str | None = flag(
        None, "where results go; default results/eval-NAME, by the run or the model"
    )
    table: list[str] = flag(
        [], "folders of finished evaluations: write the paper's table with them, and run nothing"
    )


def read_flags(argv: list[str]) -> Flags:
    """The flags of a command line, with defaults filled in; checked as far as that needs no
    model."""
    flags = parse_flags(Flags, argv, __doc__)
    if recorded := flags_of_run(flags):
        flags = parse_flags(Flags, argv, __doc__, recorded=recorded)
    check_shared(flags)
    model_name = flags.model_name_or_path or tiny_base_of(flags.benchmarks[0])
    flags = replace(flags, model_name_or_path=model_name)
    if flags.num_samples and flags.temperature == 0:
        raise BadInput(
            f"--temperature 0 with --num_samples {flags.num_samples}: every sample would be the "
            "greedy completion; set --num_samples 0 or a temperature above 0"
        )
    return flags


def flags_of_run(flags: Flags) -> dict:
    """The flags of the run that the weights to be evaluated lie in, as far as an evaluation takes
    them over; none for other weights.

    Raises:
        BadInput: the run's config.yaml is damaged.
    """
    config = _config_of_run(flags)
    if config is None or not config.exists():
        return {}
    recorded = recorded_flags(config, {field.name for field in fields(Flags)})
    # Checked by themselves, so that the line can name their file.
    try:
        check_shared(parse_flags(Flags, [], __doc__, recorded=recorded))
    except BadInput as error:
        raise BadInput(f"{config}: {error}") from error

    # A tiny base of another checkout, where the run was made, is that of this one.
    base = Path(recorded.get("model_name_or_path", ""))
    for own_base in TINY_BASES.values():
        if not base.exists() and base.parts[-2:] == own_base.parts[-2:]:
            recorded["model_name_or_path"] = str(own_base)
    return recorded


def _config_of_run(flags: Flags) -> Path | None:
    weights = flags.adapter or flags.model_name_or_path
    return None if flags.table or weights is None else config_of(weights)


# A mistyped flag is answered here, before the imports below, which take seconds.
if __name__ == "__main__":
    run_script(lambda: read_flags(sys.argv[1:]))

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from peft import PeftConfig, PeftModel
from tqdm import trange

from generate import max_positions
from paper_tables import PAPER_BENCHMARKS, PUBLISHED, paper_table
from policy import check_sampler
from reward import Grader, check_platform
from run.folder import write_whole
from run.models import damaged_file, load_model, one_line
from run.processes import device_dtype, launched_processes
from tree import Tree
from tree_sampler import TreeSampler
from votes import majority

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


# Tokens; where --max_new_tokens is left out, and the model has positions for so many.
LONGEST_COMPLETION = 2048

# --- Estimators ---


def pass_at_k(n: int, correct: int, k: int) -> float:
    """The chance that k of n completions, `correct` of which are right, hold a right one: the
    unbiased estimator

        1 - C(n - c, k) / C(n, k)        (Codex, arXiv 2107.03374, equation 1)

    >>> pass_at_k(4, 1, 2)
    0.5
    """
    return 1.0 - math.comb(n - correct, k) / math.comb(n, k)


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
    longest: int  # most new tokens in a completion


def prepare(model, tokenizer, name: str, problems: list[dict], flags) -> Benchmark:
    """A benchmark with its prompts encoded, and with the length of its completions: that of
    --max_new_tokens, or else LONGEST_COMPLETION tokens, or as many as the model has positions for
    after the longest prompt."""
    # A template is the user's, or the tokenizer's; else the task asks by itself.
    task = task_of(name)
    template = template_for(flags.prompt_template, tokenizer)
    prompts = [encode_row(tokenizer, task, row, template, flags.num_shots) for row in problems]
    longest = flags.max_new_tokens
    if longest is None:
        limit = max_positions(model) or math.inf
        room = limit - max(map(len, prompts))
        longest = max(1, min(LONGEST_COMPLETION, room))
    return Benchmark(name, task, problems, template, prompts, longest)


def check_benchmarks(model, tokenizer, benchmarks: dict[str, list[dict]], flags) -> list[Benchmark]:
    """The benchmarks, ready to be run. So one finds out before any work whether the model can take
    every prompt and the longest completion.

    Args:
        benchmarks: the problems of each, by name.

    Raises:
        BadInput: it can't.
    """
    prepared = []
    for name, problems in benchmarks.items():
        benchmark = prepare(model, tokenizer, name, problems, flags)
        longest = benchmark.longest
        try:
            sampler = TreeSampler(model, tokenizer, branching=1, depth=1, step_tokens=longest)
            sampler.check_prompts(benchmark.prompts)
        except ValueError as error:
            model_flag = f"--model_name_or_path {flags.model_name_or_path}"
            where = f"{model_flag} with --max_new_tokens {longest}"
            raise BadInput(f"{where}: {error}") from error
        prepared.append(benchmark)
    return prepared


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
    setting = Setting(model, tokenizer, accelerator, flags, output)
    prepared = check_benchmarks(model, tokenizer, benchmarks, flags)
    return dict(evaluate_each(setting, prepared, grader))


def evaluate_each(
    setting: Setting, benchmarks: list[Benchmark], grader: Grader
) -> Iterator[tuple[str, dict]]:
    """`evaluate` of prepared benchmarks: the name and the scores of each, as soon as it is done.

    Args:
        grader: for the benchmarks of its own score, and with its limits for all others.
    """
    with graders_like(grader) as grader_of:
        for benchmark in benchmarks:
            own_grader = grader_of(score_of(benchmark.task))
            yield benchmark.name, _evaluate_one(setting, benchmark, own_grader)


@contextmanager
def graders_like(grader: Grader) -> Iterator[Callable[[str], Grader]]:
    """Gives a Grader for each score: the one given for its own, and for any other one with the
    same limits, which starts when it is first asked for and ends with the `with`. Their counts are
    added to those of the grader given."""
    graders = {grader.score: grader}
    with ExitStack() as stack:

        def grader_of(score: str) -> Grader:
            if score not in graders:
                new = Grader(grader.workers, grader.timeout, grader.memory_mb, score)
                graders[score] = stack.enter_context(new)
            return graders[score]

        yield grader_of
    for other in graders.values():
        if other is not grader:
            grader.stats.update(other.stats)


def _evaluate_one(setting: Setting, benchmark: Benchmark, grader: Grader) -> dict:
    is_main_process = setting.accelerator.is_main_process
    scores = None
    rows = _complete_and_grade(setting, benchmark, grader, greedy=True)
    if setting.flags.num_samples:
        rows += _complete_and_grade(setting, benchmark, grader, greedy=False)
    rows = sorted(gather_object(rows), key=lambda row: (row["index"], not row["greedy"]))
    # One vote, and not one per process.
    if is_main_process:
        scores = summarise(rows, grader)
        path = setting.output / "eval" / f"{file_name(benchmark.name)}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, "".join(json.dumps(row) + "\n" for row in rows))
    return broadcast_object_list([scores])[0]


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
        step_tokens=benchmark.longest,
        temperature=0.0 if greedy else flags.temperature,
        top_p=flags.top_p,
        max_rows=flags.max_rows,
        use_cuda_graph=flags.use_cuda_graph,
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
                "extracted": answer_of(benchmark.task, text),
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
        check_sampler(model, tokenizer, trains=False, use_cuda_graph=flags.use_cuda_graph)
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


def announce_run(argv: list[str], flags: Flags) -> None:
    """Says which flags the run's config.yaml has given, beyond the command line and the
    defaults."""
    config = _config_of_run(flags)
    if config is None:
        return
    if not config.exists():
        # Any model may lie in a folder that is called model.
        if flags.adapter:
            consequence = "model, prompts and benchmarks are those of the command line"
            logger.warning(
                "--adapter %s: its run has no config.yaml; %s", flags.adapter, consequence
            )
        return
    without_run = parse_flags(Flags, argv, __doc__)
    taken = {}
    for name, recorded in flags_of_run(without_run).items():
        value = getattr(flags, name)
        if value == recorded and value != getattr(without_run, name):
            taken[name] = value
    if taken:
        words = shlex.join(flag_words(taken)).replace("\n", "\\n")
        print(f"from {config}: {words}")


def main() -> None:
    flags = read_flags(sys.argv[1:])
    if flags.table:
        write_paper_table(flags)
        return
    check_platform()
    # First, as Accelerator alone would not join processes without a GPU.
    launched_processes()
    accelerator = Accelerator()
    if accelerator.is_main_process:
        announce_run(sys.argv[1:], flags)

    # Everything is checked before the first completion: folder, data, model, lengths.
    output = Path(flags.output_dir or default_folder(flags))
    settings, earlier_scores = scores_so_far(output, flags)
    problems = {name: load_problems(name, "test", *flags.columns) for name in flags.benchmarks}
    tokenizer, model = load_model_to_evaluate(flags, accelerator)
    benchmarks = check_benchmarks(model, tokenizer, problems, flags)

    setting = Setting(model, tokenizer, accelerator, flags, output)
    scores: dict[str, dict] = {}
    score = score_of(benchmarks[0].task)
    with Grader(flags.grader_workers, flags.grader_timeout, score=score) as grader:
        for name, scores_of_benchmark in evaluate_each(setting, benchmarks, grader):
            scores[name] = scores_of_benchmark
            # After each benchmark: what a kill leaves behind is good.
            if accelerator.is_main_process:
                content = {**settings, "scores": {**earlier_scores, **scores}}
                write_whole(output / "scores.json", json.dumps(content, indent=2) + "\n")
    if accelerator.is_main_process:
        print(f"{format_table(scores)}\ngrading: {dict(grader.stats)}")
        print(f"results: {output}/scores.json, {output}/eval/*.jsonl")


if __name__ == "__main__":
    run_script(main)
