"""The paper's Table 1 as published, below finished evaluations, as Markdown and as LaTeX.

python eval_math.py --table results/eval-A results/eval-B
"""

import json
import statistics
from pathlib import Path

from run.errors import BadInput, first_line
from run.markdown import markdown_table

# The paper's benchmarks, in the order of its Table 1.
PAPER_BENCHMARKS = ("aime24", "math500", "olympiadbench", "minerva")
# Section 4 says 8, the caption of Table 1 says 16.
PUBLISHED_SCORE = "mean over 8 or 16 samples"
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
# With fewer, a mean over samples says less than the greedy completion.
FEWEST_SAMPLES = 8
NOT_RUN = "not run"


def paper_table(folders: list[str]) -> tuple[str, str]:
    """The paper's Table 1 in percent, and the mean lengths in tokens, as Markdown and as LaTeX: the
    evaluations in `folders`, then the published rows. The second column says which score a row
    gives: avg@k where k is at least 8, else greedy pass@1.

    Raises:
        BadInput: a folder without scores.json.
    """
    evaluations = [_evaluation_rows(folder) for folder in folders]
    score_table = [
        ["pass@1 [%]", "score", *PAPER_BENCHMARKS, "macro average"],
        *(scores for scores, _ in evaluations),
        *_published_rows(PUBLISHED, "{:.1f}"),
    ]
    length_table = [
        ["mean length [tokens]", "score", *PAPER_BENCHMARKS, "mean"],
        *(lengths for _, lengths in evaluations),
        *_published_rows(PUBLISHED_LENGTHS, "{:+.1f} %"),
    ]
    tables = [markdown_table(table[0], table[1:]) for table in (score_table, length_table)]
    markdown = "\n\n".join(tables) + "\n"
    latex = f"{_as_latex(score_table)}\n\n{_as_latex(length_table)}\n"
    return markdown, latex


# --- Rows ---


def _published_rows(figures: dict[str, tuple], form: str) -> list[list[str]]:
    rows = []
    for name, values in figures.items():
        cells = ["-" if value is None else form.format(value) for value in values]
        rows.append([name, PUBLISHED_SCORE, *cells])
    return rows


def _evaluation_rows(folder: str) -> tuple[list[str], list[str]]:
    """A finished evaluation as a row of scores and a row of lengths: name, kind of score,
    benchmarks, mean. The mean is there if all the benchmarks are."""
    try:
        content = (Path(folder) / "scores.json").read_text(encoding="utf-8")
        scores = json.loads(content)["scores"]
    except (OSError, ValueError, KeyError) as error:
        reason = first_line(error)
        raise BadInput(
            f"--table {folder}: holds no scores.json of an evaluation ({reason})"
        ) from error

    means: list[float] = []
    lengths: list[float] = []
    kinds: list[str] = []
    score_cells: list[str] = []
    length_cells: list[str] = []
    for name in PAPER_BENCHMARKS:
        if name not in scores:
            score_cells.append(NOT_RUN)
            length_cells.append(NOT_RUN)
            continue
        score_name, length_name = _score_and_length(scores[name])
        percent = 100 * scores[name][score_name]["mean"]
        error = 100 * scores[name][score_name]["standard_error"]
        length = scores[name][length_name]
        means.append(percent)
        lengths.append(length)
        kinds.append("greedy" if score_name == "pass@1" else score_name)
        score_cells.append(f"{percent:.1f} ± {error:.1f}")
        length_cells.append(f"{length:.0f}")

    if len(means) == len(PAPER_BENCHMARKS):
        score_cells.append(f"{statistics.fmean(means):.1f}")
        length_cells.append(f"{statistics.fmean(lengths):.0f}")
    else:
        score_cells.append(NOT_RUN)
        length_cells.append(NOT_RUN)
    # Each kind once, in the order of the benchmarks.
    kind = ", ".join(dict.fromkeys(kinds)) or NOT_RUN
    first_cells = [Path(folder).name, kind]
    return [*first_cells, *score_cells], [*first_cells, *length_cells]


def _score_and_length(scores: dict) -> tuple[str, str]:
    """The names of a benchmark's score in the table and of the length that goes with it: avg@k of
    the largest k where k is at least 8, as the paper's pass@1 is a mean over samples; else the
    greedy pass@1."""
    samples = [int(name.removeprefix("avg@")) for name in scores if name.startswith("avg@")]
    if samples and max(samples) >= FEWEST_SAMPLES:
        return f"avg@{max(samples)}", "sampled_length"
    return "pass@1", "greedy_length"


# --- Forms ---


def _as_latex(rows: list[list[str]]) -> str:
    """Rows of cells, the header first, as a LaTeX tabular."""
    escapes = {"±": "$\\pm$", "_": "\\_", "%": "\\%"}
    lines = []
    for row in rows:
        line = " & ".join(row)
        for character, escaped in escapes.items():
            line = line.replace(character, escaped)
        lines.append(line + r" \\")
    columns = "ll" + "r" * (len(rows[0]) - 2)
    return "\n".join([rf"\begin{{tabular}}{{{columns}}}", *lines, r"\end{tabular}"])
