"""Scores a model on math benchmarks: greedy pass@1, and with --num_samples k also avg@k, pass@k and
maj@k.

    python eval_math.py                                   # the tiny base on the built-in task, about 20 s on 2 cores
    python eval_math.py --adapter results/RUN/adapter     # after training it
    python eval_math.py --model_name_or_path Qwen/Qwen2.5-Math-1.5B --benchmarks math500 olympiadbench minerva aime24 \
        --temperature 0.6 --num_samples 8                 # as the paper evaluates: the mean over 8 samples
    python eval_math.py --table results/eval-A results/eval-B         # their scores beside the published ones

Every score comes with n and its standard error over problems. Prompts are those of Qwen2.5-Math's
evaluation where the tokenizer has a chat template. Under `accelerate launch` the problems are
spread over the processes. """

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
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from data.problems import completion_text, encode_prompt, file_name, load_problems, template_for
from run.errors import BadInput, first_line, run
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
    num_samples: int = flag(0, "sampled completions a problem, k; 0 for the greedy one alone")
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
    if flags.num_samples and flags.temperature == 0:
        advice = "every sample would be the greedy completion; set --num_samples 0 or a temperature above 0"
        raise BadInput(f"--temperature 0 with --num_samples {flags.num_samples}: {advice}")
    return flags


if (
    __name__ == "__main__"
):  # a mistyped flag is answered here, before the imports below, which take seconds
    run(lambda: read_flags(sys.argv[1:]))

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from peft import PeftConfig, PeftModel
from tqdm import trange

from policy import check_sampler
from reward import Grader, extract_answer, same_answer
from run.folder import write_whole
from run.models import damaged_file, load_model, one_line
from run.processes import device_dtype, launched_processes
from tree_sampler import TreeSampler


def pass_at_k(n: int, correct: int, k: int) -> float:
    """The chance that k of n completions, `correct` of which are right, hold a right one: the
    unbiased estimator
    1 - C(n - c, k) / C(n, k) (Codex, arXiv 2107.03374, equation 1).

    >>> pass_at_k(4, 1, 2)
    0.5
    """
    return 1.0 - math.comb(n - correct, k) / math.comb(n, k)


def majority(answers: list[str | None], grades: list[float], grader: Grader | None = None) -> float:
    """The grade of the most frequent answer; of several that tie, the mean of theirs. No answer is
    no vote.

    Equal values are votes for one answer however they are spelled, by the grader's own equality.
    Pairs that only a comparison by value can decide are put to its workers, and only where they can
    change the result.

    Args:
        grader: whose workers decide; left out, one is started where it is needed.

    >>> majority(["5", "6", "5", None], [1.0, 0.0, 1.0, 0.0]), majority(["3", "1/2", "0.5"], [0.0, 1.0, 1.0])
    (1.0, 1.0)
    """
    votes = defaultdict(list)  # of each spelling, the grades of its votes
    for answer, value in zip(answers, grades, strict=True):
        if answer is not None:
            votes[answer].append(value)
    everyone = [value for found in votes.values() for value in found]
    if len(set(everyone)) < 2:
        return float(everyone[0]) if everyone else 0.0
    groups = _joined([[spelling] for spelling in votes], lambda a, b: same_answer(a, b) is True)

    def size(group: list[str]) -> int:
        return sum(len(votes[spelling]) for spelling in group)

    leads = 2 * max(map(size, groups)) > len(
        everyone
    )  # all the rest together could not come up to it
    if not leads and any(
        same_answer(a[0], b[0]) is None for a, b in itertools.combinations(groups, 2)
    ):
        with nullcontext(grader) if grader else Grader(1) as judge:
            groups = _joined(groups, _by_value(judge))
    most = max(map(size, groups))
    winners = [
        [value for spelling in group for value in votes[spelling]]
        for group in groups
        if size(group) == most
    ]
    return statistics.fmean(map(statistics.fmean, winners))


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


def _by_value(grader: Grader) -> Callable[[str, str], bool]:
    """Whether two answers are the same, by the grader's workers where nothing simpler tells. An
    answer in two comparisons that broke a limit takes part in no more, so that n hostile answers
    cost at most n time-outs."""
    strikes: Counter[str] = Counter()

    def same(one: str, other: str) -> bool:
        found = same_answer(one, other)
        if found is None and max(strikes[one], strikes[other]) < 2:
            found = grader.same_value(one, other)
            if found is None:
                strikes.update([one, other])
        return bool(found)

    return same


def mean_and_error(values: list[float]) -> dict[str, float]:
    """The mean over problems and its standard error (0 for one problem)."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return {"mean": statistics.fmean(values), "standard_error": error}


def summarise(rows: list[dict], grader: Grader | None = None) -> dict:
    """The scores of one benchmark from its graded completions, one dict each as `evaluate` writes
    them.

    Args:
        grader: of `majority`.
    """
    scores: dict = {"n": len({row["index"] for row in rows})}
    for kind, greedy in (("greedy", True), ("sampled", False)):
        chosen = [row for row in rows if row["greedy"] == greedy]
        if not chosen:
            continue
        groups = defaultdict(list)
        for row in chosen:
            groups[row["index"]].append(row)
        grades = [[row["grade"] for row in group] for group in groups.values()]
        k = len(grades[0])
        scores["pass@1" if greedy else f"avg@{k}"] = mean_and_error(
            [statistics.fmean(g) for g in grades]
        )
        for j in [2**i for i in range(1, k.bit_length()) if 2**i < k] + [k] * (k > 1):
            scores[f"pass@{j}"] = mean_and_error([pass_at_k(k, round(sum(g)), j) for g in grades])
        if k > 1:
            answers = [[row["extracted"] for row in group] for group in groups.values()]
            voted = [majority(*one, grader) for one in zip(answers, grades)]
            scores[f"maj@{k}"] = mean_and_error(voted)
        scores[f"{kind}_length"] = statistics.fmean(row["length"] for row in chosen)
        scores[f"{kind}_unfinished"] = statistics.fmean(not row["finished"] for row in chosen)
    return scores


def encode_problems(
    tokenizer, name: str, problems: list[dict], flags
) -> tuple[str | None, list[list[int]]]:
    """The prompt template that goes with a benchmark, if any, and the token ids of its prompts."""
    template = template_for(name, flags.prompt_template)
    return template, [
        encode_prompt(tokenizer, p["problem"], template, flags.num_shots) for p in problems
    ]


def check_benchmarks(model, tokenizer, benchmarks: dict[str, list[dict]], flags) -> None:
    """Finds out before any work whether the model can take every prompt and the longest completion.

    Raises:
        BadInput: it can't.
    """
    prompts = [
        ids
        for name, rows in benchmarks.items()
        for ids in encode_problems(tokenizer, name, rows, flags)[1]
    ]
    try:
        TreeSampler(model, tokenizer, 1, 1, flags.max_new_tokens).check_prompts(prompts)
    except ValueError as error:
        where = f"--model_name_or_path {flags.model_name_or_path} with --max_new_tokens {flags.max_new_tokens}"
        raise BadInput(f"{where}: {error}") from error


def load_adapter(model, folder: str) -> PeftModel:
    """The model under the adapter in `folder`.

    Raises:
        BadInput: missing or damaged files, tensors for another model, or a kind of adapter that
            can't be sampled.
    """
    if damage := damaged_file(Path(folder)):
        raise BadInput(f"--adapter {folder}: {damage}")
    if Path(folder).is_dir() and not list(Path(folder).glob("adapter_model.*")):
        raise BadInput(f"--adapter {folder}: holds no adapter_model.safetensors")
    try:
        config = PeftConfig.from_pretrained(folder)
        if config.is_prompt_learning:
            raise ValueError(
                f"{config.peft_type.value} adapters put tokens before the prompt; only others are sampled"
            )
        if config.task_type not in (None, "CAUSAL_LM"):
            raise ValueError(f"an adapter for {config.task_type}, not for CAUSAL_LM")
        with warnings.catch_warnings(action="ignore"):
            model = PeftModel.from_pretrained(model, folder)
            result = model.load_adapter(
                folder, "default"
            )  # which says what PEFT leaves out without an error
    except Exception as error:  # whatever peft, torch and safetensors make of it
        raise BadInput(f"--adapter {folder}: can't be loaded ({one_line(error)})") from error
    if result.unexpected_keys:
        number, first = len(result.unexpected_keys), result.unexpected_keys[0]
        raise BadInput(
            f"--adapter {folder}: {number} of its tensors have no place in the model, such as {first}; "
            "is it of another base model?"
        )
    if result.missing_keys:
        number, first = len(result.missing_keys), result.missing_keys[0]
        raise BadInput(
            f"--adapter {folder}: it lacks {number} tensors for this model, such as {first}"
        )
    base = config.base_model_name_or_path
    if (
        base and Path(base).name != Path(model.get_base_model().name_or_path).name
    ):  # the same model may have moved
        logger.warning("--adapter %s: it was trained on %s, another model by name", folder, base)
    return model


def evaluate(model, tokenizer, benchmarks: dict[str, list[dict]], *rest) -> dict[str, dict]:
    """The scores of each benchmark, given by its problems; `rest` is that of `evaluate_one`."""
    return {
        name: evaluate_one(model, tokenizer, name, problems, *rest)
        for name, problems in benchmarks.items()
    }


def evaluate_one(
    model, tokenizer, name: str, problems: list[dict], grader, accelerator, flags, output: Path
) -> dict:
    """Completes and grades every problem once greedily and `num_samples` times by sampling.

    Writes one line a completion to output/eval/NAME.jsonl. `flags` are those of this script or of
    the trainer.

    Returns:
        The scores (`summarise`), the same on every process.
    """
    template, prompts = encode_problems(tokenizer, name, problems, flags)
    mine = list(range(accelerator.process_index, len(problems), accelerator.num_processes))
    rows = []
    for greedy, width in ((True, 1), (False, flags.num_samples)):
        if not width:
            continue
        policy = (0.0 if greedy else flags.temperature, flags.top_p, 0, flags.max_rows)
        sampler = TreeSampler(model, tokenizer, width, 1, flags.max_new_tokens, *policy)
        share = max(1, flags.max_rows // width)
        silent = None if accelerator.is_main_process else True  # None: where no terminal shows it
        for start in trange(0, len(mine), share, desc=name, leave=False, disable=silent):
            chosen = mine[start : start + share]
            trees = sampler.sample(
                [prompts[i] for i in chosen], [flags.seed * 2**40 + i for i in chosen]
            )
            leaves = [(i, tree, leaf) for i, tree in zip(chosen, trees) for leaf in tree.leaves()]
            ids = [tree.text_ids(leaf) for _, tree, leaf in leaves]
            texts = [completion_text(tokenizer, one, template, flags.num_shots) for one in ids]
            grades = grader.grade_batch(texts, [problems[i]["answer"] for i, _, _ in leaves])
            for (i, tree, leaf), text, value in zip(leaves, texts, grades):
                row = {
                    "index": i,
                    **problems[i],
                    "greedy": greedy,
                    "completion": text,
                    "grade": value,
                }
                length, finished = len(tree.tokens[leaf]), bool(tree.finished[leaf])
                rows.append(
                    row
                    | {"extracted": extract_answer(text), "length": length, "finished": finished}
                )
    rows = sorted(gather_object(rows), key=lambda row: (row["index"], not row["greedy"]))
    if accelerator.is_main_process:
        path = output / "eval" / f"{file_name(name)}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, "".join(json.dumps(row) + "\n" for row in rows))
    scores = [
        summarise(rows, grader) if accelerator.is_main_process else None
    ]  # one vote, and not one per process
    return broadcast_object_list(scores)[0]


def format_table(scores: dict[str, dict]) -> str:
    """The scores of several benchmarks as text, one benchmark a row: percent, plus or minus a
    standard error."""
    columns = list(dict.fromkeys(key for values in scores.values() for key in values))

    def cell(key: str, value) -> str:
        if isinstance(value, dict):
            return f"{100 * value['mean']:.1f} ± {100 * value['standard_error']:.1f}"
        return (
            "-"
            if value is None
            else f"{100 * value:.1f} %"
            if key.endswith("unfinished")
            else f"{value:.4g}"
        )

    table = [["benchmark", *columns]]
    table += [[name, *(cell(c, values.get(c)) for c in columns)] for name, values in scores.items()]
    widths = [max(map(len, column)) for column in zip(*table)]
    return "\n".join(
        "  ".join(text.rjust(width) for text, width in zip(line, widths)) for line in table
    )


# The paper's benchmarks, in the order of its Table 1.
PAPER_BENCHMARKS = ("aime24", "math500", "olympiadbench", "minerva")
PUBLISHED_SCORE = "mean over 8 or 16 samples"  # section 4 says 8, the caption of Table 1 says 16
# As published, in percent: those benchmarks, then their macro average. None where a figure was not
# published.
PUBLISHED = {
    "1.5B base (published, arXiv 2506.05183)": (None, None, None, None, 19.0),
    "1.5B GRPO (published, arXiv 2506.05183)": (13.8, 67.9, 28.5, 20.5, 32.7),
    "1.5B TreeRPO (published, arXiv 2506.05183)": (16.8, 70.7, 30.9, 24.0, 35.6),
    "7B GRPO (published, arXiv 2506.05183)": (26.7, 74.3, 34.7, 27.1, 40.7),
    "7B TreeRPO (published, arXiv 2506.05183)": (26.7, 75.5, 35.4, 28.1, 41.4),
    "1.5B CATPO (published, arXiv 2606.08346)": (None, None, None, None, 37.5),
}
# Mean lengths against GRPO's, in percent, as published.
PUBLISHED_LENGTHS = {
    "1.5B TreeRPO over GRPO (published, arXiv 2506.05183)": (-15.3, -17.1, -18.0, -22.3, -18.1)
}
FEWEST_SAMPLES = 8  # below that, a mean over samples says less than the greedy completion


def chosen_score(scores: dict) -> tuple[str, str]:
    """Which score of a benchmark the paper's table takes, and which length goes with it: avg@k of
    the largest k where k is at least 8, as the paper's pass@1 is a mean over samples; else the
    greedy pass@1."""
    samples = [int(name.removeprefix("avg@")) for name in scores if name.startswith("avg@")]
    if samples and max(samples) >= FEWEST_SAMPLES:
        return f"avg@{max(samples)}", "sampled_length"
    return "pass@1", "greedy_length"


def evaluation_rows(folder: str) -> tuple[list[str], list[str]]:
    """A finished evaluation as a row of scores and a row of lengths: name, kind of score,
    benchmarks, mean.

    Raises:
        BadInput: a folder without scores.json.
    """
    try:
        scores = json.loads((Path(folder) / "scores.json").read_text(encoding="utf-8"))["scores"]
    except (OSError, ValueError, KeyError) as error:
        raise BadInput(
            f"--table {folder}: holds no scores.json of an evaluation ({first_line(error)})"
        ) from error
    values, lengths, kinds, cells, length_cells = [], [], [], [], []
    for name in PAPER_BENCHMARKS:
        if name not in scores:
            cells.append("not run")
            length_cells.append("not run")
            continue
        score, length = chosen_score(scores[name])
        mean, error = scores[name][score]["mean"], scores[name][score]["standard_error"]
        values.append(100 * mean)
        lengths.append(scores[name][length])
        kinds.append("greedy" if score == "pass@1" else score)
        cells.append(f"{100 * mean:.1f} ± {100 * error:.1f}")
        length_cells.append(f"{scores[name][length]:.0f}")
    whole = len(values) == len(PAPER_BENCHMARKS)
    kind = ", ".join(dict.fromkeys(kinds)) or "not run"
    name = Path(folder).name
    return (
        [name, kind, *cells, f"{statistics.fmean(values):.1f}" if whole else "not run"],
        [name, kind, *length_cells, f"{statistics.fmean(lengths):.0f}" if whole else "not run"],
    )


def as_markdown(rows: list[list[str]]) -> str:
    """Rows of cells, the header first, as a Markdown table."""
    lines = [" | ".join(row) for row in rows]
    return "\n".join(
        f"| {line} |" for line in [lines[0], " | ".join(["---"] * len(rows[0])), *lines[1:]]
    )


def as_latex(rows: list[list[str]]) -> str:
    """Rows of cells, the header first, as a LaTeX tabular."""
    escapes = {"±": "$\\pm$", "_": "\\_", "%": "\\%"}
    lines = []
    for row in rows:
        line = " & ".join(row)
        for character, escaped in escapes.items():
            line = line.replace(character, escaped)
        lines.append(line + r" \\")
    columns = "l" * 2 + "r" * (len(rows[0]) - 2)
    return "\n".join([rf"\begin{{tabular}}{{{columns}}}", *lines, r"\end{tabular}"])


def paper_table(folders: list[str]) -> tuple[str, str]:
    """The paper's Table 1 in percent, and the mean lengths in tokens, as Markdown and as LaTeX: our
    rows, then the published ones. The second column says which score a row gives: avg@k where k is
    at least 8, else greedy pass@1.

    Raises:
        BadInput: a folder without scores.json.
    """
    ours = [evaluation_rows(folder) for folder in folders]
    header = ["score", *PAPER_BENCHMARKS]

    def published(rows: dict[str, tuple], form: str) -> list[list[str]]:
        return [
            [
                name,
                PUBLISHED_SCORE,
                *("-" if value is None else form.format(value) for value in values),
            ]
            for name, values in rows.items()
        ]

    scores = [
        ["pass@1 [%]", *header, "macro average"],
        *(row for row, _ in ours),
        *published(PUBLISHED, "{:.1f}"),
    ]
    lengths = [
        ["mean length [tokens]", *header, "mean"],
        *(row for _, row in ours),
        *published(PUBLISHED_LENGTHS, "{:+.1f} %"),
    ]
    tables = (scores, lengths)
    return tuple(
        "\n\n".join(form(rows) for rows in tables) + "\n" for form in (as_markdown, as_latex)
    )


# --- The folder of an evaluation ---

# Flags on which no score depends; others must be the same in one folder.
FREE_IN_FOLDER = ("benchmarks", "output_dir", "table", "max_rows", "grader_workers")


def default_folder(flags: Flags) -> str:
    """results/eval-NAME. Of what lies in a run's folder NAME is the run's (and a checkpoint's), of
    another folder its last two parts, and of a Hub id ORGANISATION-NAME: so that two runs or models
    don't share a folder.

    >>> default_folder(Flags(adapter="results/A/adapter/")), default_folder(Flags(model_name_or_path="org/model"))
    ('results/eval-A', 'results/eval-org-model')
    >>> default_folder(Flags(adapter="results/A/checkpoints/step-000100"))
    'results/eval-A-step-000100'
    """
    name = flags.adapter or flags.model_name_or_path
    if name == Flags.model_name_or_path:
        return f"results/eval-{Path(name).name}"
    if not os.path.exists(name) and re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        return f"results/eval-{name.replace('/', '-')}"
    *_, before, parent, last = ("", "", "", *Path(os.path.abspath(name)).parts[1:])
    if last in ("adapter", "model"):
        return f"results/eval-{parent}"
    parts = [before, last] if parent == "checkpoints" else [parent, last]
    return "results/eval-" + "-".join(filter(None, parts))


def scores_so_far(output: Path, flags: Flags) -> tuple[dict, dict]:
    """The settings to be written beside the scores, and the scores of other benchmarks that
    `output` holds already.

    Raises:
        BadInput: it holds a run, or scores that were made with other flags or by other weights.
    """
    weights = sorted(Path(flags.adapter or flags.model_name_or_path).glob("*.safetensors"))
    times = {path.name: [path.stat().st_size, path.stat().st_mtime] for path in weights}
    settings = {
        "flags": vars(flags),
        "weights": times,
    }  # sizes and times of the files: a run may have continued
    advice = "choose another --output_dir, or remove this one"
    if (output / "config.yaml").exists():
        raise BadInput(
            f"--output_dir {output}: holds a run, whose evaluations would be overwritten; choose another"
        )
    if not (output / "scores.json").exists():
        return settings, {}
    try:
        before = json.loads((output / "scores.json").read_text(encoding="utf-8"))
        was, scores = before["flags"], dict(before["scores"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(
            f"{output}/scores.json: can't be read ({first_line(error)}); {advice}"
        ) from error

    def plain(value):
        return os.path.normpath(value) if isinstance(value, str) and "/" in value else value

    for name, value in vars(flags).items():
        if name not in FREE_IN_FOLDER and plain(was.get(name, value)) != plain(value):
            raise BadInput(
                f"{output}: holds scores that were made with --{name} {was[name]}, not {value}; {advice}"
            )
    if before.get("weights", times) != times:
        raise BadInput(f"{output}: holds scores of weights that have changed since then; {advice}")
    names = list(dict.fromkeys([*was.get("benchmarks", []), *flags.benchmarks]))
    return {"flags": {**vars(flags), "benchmarks": names}, "weights": times}, scores


def main() -> None:
    flags = read_flags(sys.argv[1:])
    if flags.table:
        markdown, latex = paper_table(flags.table)
        output = Path(flags.output_dir or "results")
        output.mkdir(parents=True, exist_ok=True)
        for name, text in (("paper_table.md", markdown), ("paper_table.tex", latex)):
            write_whole(output / name, text)
        print(f"{markdown}\nwritten to {output}/paper_table.md and paper_table.tex")
        return
    launched_processes()  # first, as Accelerator alone would not join processes without a GPU
    accelerator = Accelerator()
    output = Path(flags.output_dir or default_folder(flags))
    settings, scores = scores_so_far(output, flags)
    benchmarks = {name: load_problems(name, "test", *flags.columns) for name in flags.benchmarks}
    tokenizer, model = load_model(flags, device_dtype(flags.bf16, accelerator.device))
    if flags.adapter:
        model = load_adapter(model, flags.adapter)
    model.to(accelerator.device)
    try:
        check_sampler(model, tokenizer, trains=False)
    except ValueError as error:
        raise BadInput(f"--model_name_or_path {flags.model_name_or_path}: {error}") from error
    check_benchmarks(model, tokenizer, benchmarks, flags)
    found = {}
    with Grader(flags.grader_workers, flags.grader_timeout) as grader:
        for name, problems in benchmarks.items():
            found |= evaluate(
                model, tokenizer, {name: problems}, grader, accelerator, flags, output
            )
            if accelerator.is_main_process:  # after each benchmark: what a kill leaves is good
                text = json.dumps({**settings, "scores": {**scores, **found}}, indent=2)
                write_whole(output / "scores.json", text + "\n")
    if accelerator.is_main_process:
        print(f"{format_table(found)}\ngrading: {dict(grader.stats)}")
        print(f"results: {output}/scores.json, {output}/eval/*.jsonl")


if __name__ == "__main__":
    run(main)
