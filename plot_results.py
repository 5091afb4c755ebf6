"""Draws runs, and shows their trees.

python plot_results.py results/RUN ...                   # learning_curve.png, .svg and trees.html into each
python plot_results.py --trees results/RUN/trees.jsonl   # the tree viewer alone: trees.html beside it
"""

import argparse
import html
import json
import statistics
from itertools import cycle
from pathlib import Path

import matplotlib

from cli import run
from data.problems import BadInput
from reward import extract_answer

matplotlib.use("Agg")  # files only: no display is needed
import matplotlib.pyplot as plt
from matplotlib.ticker import EngFormatter

# Okabe and Ito's colours, which colour-blind readers tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999")
BLUE, ORANGE, GREEN, PURPLE = COLOURS[:4]


def read_lines(path: Path) -> list[dict]:
    """The rows of a .jsonl; a last line cut short by a kill is left out."""
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def plot_run(run: Path) -> Path:
    """Draws accuracy, length, signal, rewards by depth, entropy and time over the updates; returns the PNG's path.

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

    def panel(ax, title: str, ylabel: str, *lines: tuple[str, str, str], scale: float = 1.0, top: float | None = None):
        """Draws metrics (key, label, colour), each as it was and as the running mean of five."""
        for key, label, colour in lines:
            points = [(row["update"], scale * row[key]) for row in updates if row.get(key) is not None]
            xs, ys = zip(*points) if points else ((), ())
            ax.plot(xs, ys, color=colour, alpha=0.25, linewidth=0.8)
            means = [statistics.fmean(ys[max(0, i - 4) : i + 1]) for i in range(len(ys))]
            ax.plot(xs, means, color=colour, label=label, linewidth=1.8)
        ax.set(title=title, ylabel=ylabel, ylim=(0, top))

    answers, length, signal, step_reward, entropy, time = axes.flat
    leaves = ("leaf_pass_rate", "training leaves, sampled", BLUE)
    panel(answers, "Right answers", "share of completions [%]", leaves, scale=100, top=100)
    for i, name in enumerate(evaluations[0]["evaluation"] if evaluations else []):
        keys = [k for k in evaluations[0]["evaluation"][name] if k == "pass@1" or k.startswith("avg@")]
        for key, colour, marker in zip(keys, (ORANGE, GREEN), "os^D"[i % 4] * 2):
            label = f"{name}, {'greedy' if key == 'pass@1' else 'sampled'} pass@1"
            scores = [row["evaluation"][name][key] for row in evaluations]
            means, errors = zip(*((100 * s["mean"], 196 * s["standard_error"]) for s in scores))
            at = [row["update"] for row in evaluations]
            answers.errorbar(at, means, errors, color=colour, marker=marker, capsize=2, label=label)
    panel(length, "Completion length", "tokens", ("completion_length", "mean over leaves", BLUE))
    kept, cut_off = ("kept_groups_share", "groups with signal", BLUE), ("unfinished_share", "unfinished paths", ORANGE)
    panel(signal, "Signal", "share [%]", kept, cut_off, scale=100, top=100)
    depths = [key for key in updates[-1] if key.startswith("step_reward_depth_")]
    steps = [(key, f"steps at depth {key.rsplit('_', 1)[1]}", colour) for key, colour in zip(depths, cycle(COLOURS))]
    panel(step_reward, "Step reward", "mean reward", *steps, top=1)
    panel(entropy, "Entropy", "nats a token", ("entropy", "policy, sampled tokens", BLUE))
    phases = ("sample", "grade", "update")
    seconds = [[row[f"seconds_{phase}"] for row in updates] for phase in phases]
    time.stackplot([row["update"] for row in updates], seconds, labels=phases, colors=(BLUE, PURPLE, GREEN), alpha=0.8)
    time.set(title="Time of an update", ylabel="seconds")
    for ax in axes[1]:
        ax.set_xlabel("update")
    for ax in axes.flat:
        ax.grid(alpha=0.3)
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
    """The tree viewer: the last trees of a trees.jsonl as one HTML file beside it, which needs no network; Tab, Enter
    and a mouse fold it.

    A step is blue where its advantage is positive and orange where it is negative, in grey letters where its group was
    pruned; a leaf shows its answer and its grade. Texts are escaped: model output is untrusted.
    """
    parts = [f"<!doctype html><meta charset='utf-8'><title>{html.escape(str(path))}</title><style>{STYLE}</style>"]
    parts.append(f"<h1>Sampled trees</h1><p>{LEGEND}</p>")

    def add(nodes: list[dict], children: list[list[int]], i: int, before: str) -> None:
        node = nodes[i]
        figures = f"reward {node['reward']:.2f}, advantage {node['advantage']:+.2f}, {node['tokens']} tokens"
        if not children[i]:
            answer = html.escape(str(extract_answer(before + node["text"])))
            end = "finished" if node["finished"] else "cut off"
            figures += f", {end}, answer <code>{answer}</code> {'✓' if node['reward'] else '✗'}"
        kept = i == 0 or any(nodes[k]["advantage"] for k in children[node["parent"]])
        colour = "0,114,178" if node["advantage"] > 0 else "213,94,0"
        shade = f"background: rgba({colour},{min(abs(node['advantage']), 2) / 4:.2f})"
        text = f"<code class='{'kept' if kept else 'pruned'}'>{html.escape(node['text'])}</code>"
        parts.append(f"<details open><summary style='{shade}'><span class='figures'>{figures}</span> {text}</summary>")
        for child in children[i]:
            add(nodes, children, child, before + node["text"])
        parts.append("</details>")

    records = read_lines(path)[-last:] if path.exists() else []
    for record in records:
        children: list[list[int]] = [[] for _ in record["nodes"]]
        for i, node in enumerate(record["nodes"][1:], 1):
            children[node["parent"]].append(i)
        shown = "open" if record is records[0] else ""
        parts.append(f"<details {shown}><summary><b>update {record['update']}: {html.escape(record['problem'])}</b>"
                     f" (gold answer <code>{html.escape(record['answer'])}</code>)</summary>")  # fmt: skip
        add(record["nodes"], children, 0, "")
        parts.append("</details>")
    viewer = path.with_suffix(".html")
    viewer.write_text("\n".join(parts) + "\n")
    return viewer


def plot_arms(curves: dict[str, list[list[dict]]], path: Path) -> Path:
    """Draws the evaluations of several arms, lines from the worst to the best seed; returns the path.

    Args:
        curves: for each arm the points of every seed, as `run_ablations.curve` gives them.
    """
    score = next(key for key in next(iter(curves.values()))[0][-1] if key.startswith("avg@"))
    figure, axes = plt.subplots(2, 3, figsize=(13, 7), layout="constrained")
    scales = {score: (100, "sampled pass@1 [%]"), "sampled_length": (1, "sampled length [tokens]")}
    panels = [("update", score), ("sampled_tokens", score), ("seconds", score), ("update", "sampled_length")]
    for number, (arm, runs) in enumerate(curves.items()):
        colour, style = COLOURS[number % len(COLOURS)], ("-", "--", ":")[number // len(COLOURS) % 3]
        for ax, (x, y) in zip(axes.flat, panels):
            xs = [sum(p[x] for p in points) / len(points) for points in zip(*runs)]
            ys = [[scales[y][0] * p[y] for p in points] for points in zip(*runs)]
            means = [sum(values) / len(values) for values in ys]
            ax.plot(xs, means, color=colour, linestyle=style, marker="o", markersize=3, label=arm)
            ax.fill_between(xs, list(map(min, ys)), list(map(max, ys)), color=colour, alpha=0.15)
        ends = [points[-1] for points in runs]
        axes[1, 1].scatter([p["sampled_length"] for p in ends], [100 * p[score] for p in ends], color=colour, label=arm)
    for ax, (x, y) in zip(axes.flat, [*panels, ("sampled length [tokens]", score)]):
        ax.set(xlabel=x.replace("_", " "), ylabel=scales[y][1])
        ax.grid(alpha=0.3)
        ax.xaxis.set_major_formatter(EngFormatter())  # 200 k tokens
    axes[1, 1].set_title("last update, a point a seed", fontsize=10)
    ends = [[100 * points[-1][score] for points in runs] for runs in curves.values()]
    means, halves = zip(*map(interval, ends))
    axes[1, 2].barh(list(curves), means, xerr=halves, color=COLOURS, capsize=3)
    axes[1, 2].invert_yaxis()
    axes[1, 2].set(xlabel="sampled pass@1 at the last update [%]", xlim=(max(0, min(means) - 15), 100))
    axes[0, 0].legend(fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path


T_95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)  # Student's t, two-sided, for 1 to 9 degrees of freedom


def interval(values: list[float]) -> tuple[float, float]:
    """Mean over seeds and half the width of its 95 % interval (NaN for one seed)."""
    if len(values) < 2:
        return statistics.fmean(values), float("nan")
    t = T_95[min(len(values) - 2, len(T_95) - 1)]
    return statistics.fmean(values), t * statistics.stdev(values) / len(values) ** 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, help="folders of runs")
    parser.add_argument("--trees", nargs="*", type=Path, default=[], help="files trees.jsonl, for the viewer alone")
    args = parser.parse_args()
    if missing := [path for path in args.trees if not path.is_file()]:
        raise BadInput(f"--trees {missing[0]}: no such file")
    for folder in args.runs:
        print(plot_run(folder))
    for path in [*(folder / "trees.jsonl" for folder in args.runs), *args.trees]:
        print(write_trees(path))


if __name__ == "__main__":
    run(main)
