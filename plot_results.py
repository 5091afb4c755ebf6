"""Draws runs, and shows their trees.

python plot_results.py results/RUN ...                   # learning_curve.png, .svg and trees.html into each
python plot_results.py --trees results/RUN/trees.jsonl   # the tree viewer alone: trees.html beside it
"""

import argparse
import html
import math
import statistics
from itertools import cycle
from pathlib import Path

import matplotlib

from reward import extract_answer
from run.errors import BadInput, refuse, run
from run.folder import read_lines
from run.intervals import interval

matplotlib.use("Agg")  # files only: no display is needed
import matplotlib.pyplot as plt
from matplotlib.ticker import EngFormatter

plt.rcParams["text.parse_math"] = False  # a $ in the name of a run, an arm or a benchmark is a $

# Okabe and Ito's colours, which colour-blind readers tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999")
BLUE, ORANGE, GREEN, PURPLE = COLOURS[:4]


def score_names(scores: dict) -> dict[str, str]:
    """Of one benchmark's scores, the names of the greedy pass@1 and of the sampled one (avg@k),
    where they are there.

    >>> score_names({"n": 2, "pass@1": {}, "avg@4": {}})
    {'greedy': 'pass@1', 'sampled': 'avg@4'}
    """
    names = {
        "greedy": [key for key in scores if key == "pass@1"],
        "sampled": [key for key in scores if key.startswith("avg@")],
    }
    return {kind: found[0] for kind, found in names.items() if found}


def plot_run(run: Path) -> Path:
    """Draws accuracy, length, signal, rewards by depth, entropy and time over the updates; returns
    the PNG's path.

    Raises:
        BadInput: the folder holds no metrics.jsonl with an update in it.
    """
    path = run / "metrics.jsonl"
    rows = read_lines(path) if path.exists() else []
    updates = [row for row in rows if "reward" in row]
    evaluations = [row for row in rows if "evaluation" in row]
    if not updates:
        raise BadInput(f"{path}: no updates to draw; name the folder of a run")
    figure, axes = plt.subplots(2, 3, figsize=(13, 6), sharex=True, layout="constrained")

    def panel(
        ax,
        title: str,
        ylabel: str,
        *lines: tuple[str, str, str],
        scale: float = 1.0,
        top: float | None = None,
    ):
        """Draws metrics (key, label, colour), each as it was and as the running mean of five."""
        for key, label, colour in lines:
            points = [
                (row["update"], scale * row[key]) for row in updates if row.get(key) is not None
            ]
            xs, ys = zip(*points) if points else ((), ())
            ax.plot(xs, ys, color=colour, alpha=0.25, linewidth=0.8)
            means = [statistics.fmean(ys[max(0, i - 4) : i + 1]) for i in range(len(ys))]
            ax.plot(xs, means, color=colour, label=label, linewidth=1.8)
        ax.set(title=title, ylabel=ylabel, ylim=(0, top))

    answers, length, signal, step_reward, entropy, time = axes.flat
    leaves = ("leaf_pass_rate", "training leaves, sampled", BLUE)
    panel(answers, "Right answers", "share of completions [%]", leaves, scale=100, top=100)
    # A resumed run may have evaluated on other benchmarks, or with other samples, from some update
    # on.
    for i, name in enumerate(
        dict.fromkeys(name for row in evaluations for name in row["evaluation"])
    ):
        found = [
            (row["update"], row["evaluation"][name])
            for row in evaluations
            if name in row["evaluation"]
        ]
        for kind, colour in (("greedy", ORANGE), ("sampled", GREEN)):
            scores = [
                (at, one[score_names(one)[kind]]) for at, one in found if kind in score_names(one)
            ]
            if scores:
                means, errors = zip(
                    *((100 * s["mean"], 196 * s["standard_error"]) for _, s in scores)
                )
                answers.errorbar(
                    [at for at, _ in scores],
                    means,
                    errors,
                    color=colour,
                    marker="os^D"[i % 4],
                    capsize=2,
                    label=f"{name}, {kind} pass@1",
                )
    panel(length, "Completion length", "tokens", ("completion_length", "mean over leaves", BLUE))
    kept, cut_off = (
        ("kept_groups_share", "groups with signal", BLUE),
        ("unfinished_share", "unfinished paths", ORANGE),
    )
    panel(signal, "Signal", "share [%]", kept, cut_off, scale=100, top=100)
    depths = [key for key in updates[-1] if key.startswith("step_reward_depth_")]
    steps = [
        (key, f"steps at depth {key.rsplit('_', 1)[1]}", colour)
        for key, colour in zip(depths, cycle(COLOURS))
    ]
    panel(step_reward, "Step reward", "mean reward", *steps, top=1)
    panel(entropy, "Entropy", "nats a token", ("entropy", "policy, sampled tokens", BLUE))
    phases = ("sample", "grade", "update")
    seconds = [[row.get(f"seconds_{phase}", math.nan) for row in updates] for phase in phases]
    time.stackplot(
        [row["update"] for row in updates],
        seconds,
        labels=phases,
        colors=(BLUE, PURPLE, GREEN),
        alpha=0.8,
    )
    time.set(title="Time of an update", ylabel="seconds")
    for ax in axes[1]:
        ax.set_xlabel("update")
    for ax in axes.flat:
        ax.grid(alpha=0.3)
        if ax.get_legend_handles_labels()[0]:
            ax.legend(fontsize=8, loc="best")
    figure.suptitle(run.name)
    for suffix in (".png", ".svg"):
        figure.savefig(run / f"learning_curve{suffix}", dpi=150)
    plt.close(figure)
    return run / "learning_curve.png"


STYLE = """body { font: 14px sans-serif; margin: 2em } details { margin-left: 1.2em; border-left: 1px solid #ccc }
summary { padding: 2px 6px } summary:focus { outline: 2px solid #0072B2 } code { white-space: pre-wrap }
.kept, .pruned { display: block; margin-left: 1.3em }
.figures, .pruned { color: #666 }"""


LEGEND = """A line is a step: its reward is the mean of its children's, its advantage is relative to its siblings.
<b>Blue</b>: better than they are; <b>orange</b>: worse; grey letters: the group was pruned. A leaf shows its answer and
whether it is right. Click or press Enter to fold, Tab to move on."""


def write_trees(path: Path, last: int = 30) -> Path:
    """The tree viewer: the last trees of a trees.jsonl as one HTML file beside it, which needs no
    network; Tab, Enter and a mouse fold it.

    A step is blue where its advantage is positive and orange where it is negative, in grey letters
    where its group was pruned; a leaf shows its answer and its grade. Texts are escaped: model
    output is untrusted."""
    parts = [
        f"<!doctype html><meta charset='utf-8'><title>{html.escape(str(path))}</title><style>{STYLE}</style>"
    ]
    parts.append(f"<h1>Sampled trees</h1><p>{LEGEND}</p>")

    records = read_lines(path)[-last:] if path.exists() else []
    for record in records:
        update, problem, answer = (
            html.escape(str(record.get(key, "?"))) for key in ("update", "problem", "answer")
        )
        shown = "open" if record is records[0] else ""
        parts.append(
            f"<details {shown}><summary><b>update {update}: {problem}</b>"
            f" (gold answer <code>{answer}</code>)</summary>"
        )
        try:
            parts += tree_lines(record.get("nodes") or [])
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise BadInput(
                f"{path}: the tree of update {record.get('update')} is damaged ({error!r})"
            ) from error
        parts.append("</details>")
    viewer = path.with_suffix(".html")
    viewer.write_text(
        "\n".join(parts) + "\n", encoding="utf-8", errors="backslashreplace"
    )  # for lone surrogates
    return viewer


def tree_lines(nodes: list[dict]) -> list[str]:
    """The HTML of one tree, given by the nodes of its line in trees.jsonl, each after its parent.
    No call goes deeper with the tree: a step for each line of text makes trees hundreds of steps
    deep.

    Raises:
        KeyError, TypeError, AttributeError, IndexError: the nodes are not those of a tree.
    """
    lines: list[str] = []
    children: list[list[int]] = [[] for _ in nodes]
    for i, node in enumerate(nodes[1:], 1):
        if not 0 <= node["parent"] < i:
            raise IndexError(f"node {i} stands before its parent {node['parent']}")
        children[node["parent"]].append(i)
    has_signal = [
        any(abs(_figure(nodes[child], "advantage")) > 0 for child in group) for group in children
    ]

    def open_node(i: int) -> None:
        node = nodes[i]
        reward, advantage = _figure(node, "reward"), _figure(node, "advantage")
        figures = (
            f"reward {reward:.2f}, advantage {advantage:+.2f}, {node.get('tokens', '?')} tokens"
        )
        if not children[i]:
            answer = html.escape(str(extract_answer("".join(texts))))
            end = "finished" if node.get("finished") else "cut off"
            grade = "?" if math.isnan(reward) else "✓" if reward else "✗"
            figures += f", {end}, answer <code>{answer}</code> {grade}"
        kept = i == 0 or has_signal[node["parent"]]
        colour = "0,114,178" if advantage > 0 else "213,94,0"
        strength = 0 if math.isnan(advantage) else min(2, abs(advantage)) / 4
        shade = f"background: rgba({colour},{strength:.2f})"
        text = f"<code class='{'kept' if kept else 'pruned'}'>{html.escape(texts[-1])}</code>"
        lines.append(
            f"<details open><summary style='{shade}'><span class='figures'>{figures}</span> {text}</summary>"
        )

    texts: list[str] = []  # of the nodes from the root to the present one
    waiting = [0] * bool(nodes)  # nodes to open, the next one last; -1: close the present one
    while waiting:
        i = waiting.pop()
        if i < 0:
            texts.pop()
            lines.append("</details>")
            continue
        texts.append(str(nodes[i].get("text", "")))
        open_node(i)
        waiting += [-1, *reversed(children[i])]
    return lines


def _figure(node: dict, key: str) -> float:
    """A node's reward or advantage; NaN where it was not written or is no number."""
    value = node.get(key)
    return float(value) if isinstance(value, (int, float)) else math.nan


def plot_arms(curves: dict[str, list[list[dict] | None]], path: Path) -> Path:
    """Draws the evaluations of several arms, lines from the worst to the best seed; returns the
    path.

    Args:
        curves: for each arm the points of every seed, as `run_ablations.curve` gives them; None for
            a failed run.
    """
    curves = {arm: [points for points in runs if points] for arm, runs in curves.items()}
    names = score_names(next(iter(curves.values()))[0][-1])
    kind = (
        "sampled" if "sampled" in names else "greedy"
    )  # evaluations without samples have greedy scores alone
    score, length_key = names[kind], f"{kind}_length"
    figure, axes = plt.subplots(2, 3, figsize=(13, 7), layout="constrained")
    scales = {score: (100, f"{kind} pass@1 [%]"), length_key: (1, f"{kind} length [tokens]")}
    panels = [
        ("update", score),
        ("sampled_tokens", score),
        ("seconds", score),
        ("update", length_key),
    ]
    for number, (arm, runs) in enumerate(curves.items()):
        colour, style = COLOURS[number % len(COLOURS)], ("-", "--", ":")[number // len(COLOURS) % 3]
        for ax, (x, y) in zip(axes.flat, panels):
            xs = [sum(p[x] for p in points) / len(points) for points in zip(*runs)]
            ys = [[scales[y][0] * p[y] for p in points] for points in zip(*runs)]
            means = [sum(values) / len(values) for values in ys]
            ax.plot(xs, means, color=colour, linestyle=style, marker="o", markersize=3, label=arm)
            ax.fill_between(xs, list(map(min, ys)), list(map(max, ys)), color=colour, alpha=0.15)
        ends = [points[-1] for points in runs]
        axes[1, 1].scatter(
            [p[length_key] for p in ends], [100 * p[score] for p in ends], color=colour, label=arm
        )
    for ax, (x, y) in zip(axes.flat, [*panels, (scales[length_key][1], score)]):
        ax.set(xlabel=x.replace("_", " "), ylabel=scales[y][1])
        ax.grid(alpha=0.3)
        ax.xaxis.set_major_formatter(EngFormatter())  # 200 k tokens
    axes[1, 1].set_title("last update, a point a seed", fontsize=10)
    ends = [[100 * points[-1][score] for points in runs] for runs in curves.values()]
    means, halves = zip(*map(interval, ends))
    axes[1, 2].barh(list(curves), means, xerr=halves, color=COLOURS, capsize=3)
    axes[1, 2].invert_yaxis()
    axes[1, 2].set(
        xlabel=f"{kind} pass@1 at the last update [%]", xlim=(max(0, min(means) - 15), 100)
    )
    axes[0, 0].legend(fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="*", type=Path, help="folders of runs")
    parser.add_argument(
        "--trees", nargs="*", type=Path, default=[], help="files trees.jsonl, for the viewer alone"
    )
    parser.error = refuse
    args = parser.parse_args()
    if not args.runs and not args.trees:
        raise BadInput("nothing to draw: name the folder of a run, or a trees.jsonl after --trees")
    if html_files := [path for path in args.trees if path.suffix == ".html"]:
        raise BadInput(f"--trees {html_files[0]}: is a viewer itself; name the trees.jsonl")
    if missing := [path for path in args.trees if not path.is_file()]:
        raise BadInput(f"--trees {missing[0]}: no such file")
    for folder in args.runs:
        print(plot_run(folder))
    for path in [*(folder / "trees.jsonl" for folder in args.runs), *args.trees]:
        print(write_trees(path))


if __name__ == "__main__":
    run(main)
