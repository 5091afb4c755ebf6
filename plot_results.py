"""Draws runs: python plot_results.py results/RUN ...  (writes learning_curve.png, .svg and trees.html into each)"""

import argparse
import html
import json
from pathlib import Path

import matplotlib

from cli import run
from data.problems import BadInput

matplotlib.use("Agg")  # files only: no display is needed
import matplotlib.pyplot as plt

# Okabe and Ito's colours, which colour-blind readers tell apart.
BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#999999"


def read_lines(path: Path) -> list[dict]:
    """The rows of a .jsonl; a last line cut short by a kill is left out."""
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def smooth(values: list[float], window: int = 5) -> list[float]:
    """The running mean over the last `window` values."""
    return [sum(values[max(0, i - window + 1) : i + 1]) / min(i + 1, window) for i in range(len(values))]


def plot_run(run: Path) -> Path:
    """Draws reward, length, signal and time of one run over its updates; returns the PNG's path.

    Raises:
        BadInput: the folder holds no metrics.jsonl with an update in it.
    """
    path = run / "metrics.jsonl"
    rows = read_lines(path) if path.exists() else []
    updates = [row for row in rows if "reward" in row]
    evaluations = [row for row in rows if "evaluation" in row]
    if not updates:
        raise BadInput(f"{path}: no updates to draw; name the folder of a run")
    x = [row["update"] for row in updates]
    figure, axes = plt.subplots(2, 2, figsize=(9, 6), sharex=True, layout="constrained")

    def line(ax, key: str, label: str, colour: str, scale: float = 1.0) -> None:
        points = [(u, scale * row[key]) for u, row in zip(x, updates) if row.get(key) is not None]
        if points:
            xs, ys = zip(*points)
            ax.plot(xs, ys, color=colour, alpha=0.25, linewidth=0.8)
            ax.plot(xs, smooth(ys), color=colour, label=label, linewidth=1.8)

    line(axes[0, 0], "leaf_pass_rate", "training leaves, sampled", BLUE, 100)
    for i, name in enumerate(evaluations[0]["evaluation"] if evaluations else []):
        keys = [k for k in evaluations[0]["evaluation"][name] if k == "pass@1" or k.startswith("avg@")]
        for key, colour, marker in zip(keys, (ORANGE, GREEN), "os^D"[i % 4] * 2):
            points = [(row["update"], row["evaluation"][name][key]) for row in evaluations]
            label = f"{name}, {'greedy' if key == 'pass@1' else 'sampled'} pass@1"
            means = [100 * score["mean"] for _, score in points]
            errors = [196 * score["standard_error"] for _, score in points]
            axes[0, 0].errorbar(
                [u for u, _ in points], means, errors, color=colour, marker=marker, capsize=2, label=label
            )
    axes[0, 0].set(title="Right answers", ylabel="share of completions [%]", ylim=(0, 100))
    line(axes[0, 1], "completion_length", "mean over leaves", BLUE)
    axes[0, 1].set(title="Completion length", ylabel="tokens")
    axes[0, 1].set_ylim(bottom=0)
    line(axes[1, 0], "kept_groups_share", "groups with signal", BLUE, 100)
    line(axes[1, 0], "unfinished_share", "unfinished paths", ORANGE, 100)
    axes[1, 0].set(title="Signal", ylabel="share [%]", xlabel="update", ylim=(0, 100))
    phases = ("sample", "grade", "update")
    seconds = [[row[f"seconds_{phase}"] for row in updates] for phase in phases]
    axes[1, 1].stackplot(x, seconds, labels=phases, colors=(BLUE, PURPLE, GREEN), alpha=0.8)
    axes[1, 1].set(title="Time of an update", ylabel="seconds", xlabel="update")
    for ax in axes.flat:
        ax.grid(alpha=0.3)
        ax.legend(fontsize=8, loc="best")
    figure.suptitle(run.name)
    for suffix in (".png", ".svg"):
        figure.savefig(run / f"learning_curve{suffix}", dpi=150)
    plt.close(figure)
    return run / "learning_curve.png"


STYLE = """body { font: 14px sans-serif; margin: 2em } details { margin-left: 1.2em; border-left: 1px solid #ccc }
summary { padding: 2px 6px } code { white-space: pre-wrap } .figures { color: #555 }"""


def write_trees(run: Path, last: int = 30) -> Path:
    """The tree viewer: the last sampled trees of a run as one HTML file, each step with its text, reward and advantage.

    Steps are green by reward, bold where they are trained. Texts are escaped: model output is untrusted.
    """
    path = run / "trees.jsonl"
    parts = [f"<!doctype html><meta charset='utf-8'><title>{html.escape(run.name)}</title><style>{STYLE}</style>"]

    def add(nodes: list[dict], children: list[list[int]], i: int) -> None:
        node = nodes[i]
        figures = f"reward {node['reward']:.2f}, advantage {node['advantage']:+.2f}, {node['tokens']} tokens"
        end = "" if children[i] else ", finished" if node["finished"] else ", cut off"
        weight = "bold" if node["advantage"] else "normal"
        parts.append(f"<details open><summary style='background: rgba(0,158,115,{0.6 * node['reward']:.2f})'>"
                     f"<span class='figures'>{figures}{end}</span> "
                     f"<code style='font-weight: {weight}'>{html.escape(node['text'])}</code></summary>")  # fmt: skip
        for child in children[i]:
            add(nodes, children, child)
        parts.append("</details>")

    for record in read_lines(path)[-last:] if path.exists() else []:
        children: list[list[int]] = [[] for _ in record["nodes"]]
        for i, node in enumerate(record["nodes"][1:], 1):
            children[node["parent"]].append(i)
        parts.append(f"<h3>update {record['update']}: {html.escape(record['problem'])}</h3>"
                     f"<p>gold answer <code>{html.escape(record['answer'])}</code></p>")  # fmt: skip
        add(record["nodes"], children, 0)
    (run / "trees.html").write_text("\n".join(parts) + "\n")
    return run / "trees.html"


def plot_arms(curves: dict[str, list[list[dict]]], path: Path) -> Path:
    """Draws the evaluations of several arms, a band from the worst to the best seed; returns the path."""
    score = next(key for key in next(iter(curves.values()))[0][-1] if key.startswith("avg@"))
    figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    for (arm, runs), colour in zip(curves.items(), (BLUE, ORANGE, GREEN, PURPLE, GREY) * len(curves)):
        for ax, x, y, scale in zip(
            axes, ("update", "sampled_tokens", "update"), (score, score, "sampled_length"), (100, 100, 1)
        ):
            xs = [sum(p[x] for p in points) / len(points) for points in zip(*runs)]
            ys = [[scale * p[y] for p in points] for points in zip(*runs)]
            ax.plot(xs, [sum(values) / len(values) for values in ys], color=colour, marker="o", markersize=3, label=arm)
            ax.fill_between(xs, list(map(min, ys)), list(map(max, ys)), color=colour, alpha=0.15)
    for ax, x, y in zip(
        axes,
        ("update", "sampled tokens", "update"),
        ("sampled pass@1 [%]", "sampled pass@1 [%]", "sampled length [tokens]"),
    ):
        ax.set(xlabel=x, ylabel=y)
        ax.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs")
    for folder in parser.parse_args().runs:
        print(plot_run(folder), write_trees(folder))


if __name__ == "__main__":
    run(main)
