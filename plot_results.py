"""Draws runs, and shows their trees.

python plot_results.py results/RUN ...                  # learning_curve.png, .svg and trees.html
python plot_results.py --trees results/RUN/trees.jsonl  # the tree viewer alone: trees.html
python plot_results.py results/RUN --picture 3          # and tree_and_curve.png, of update 3

Everything lands in the run's folder.
"""

import argparse
import io
import math
import statistics
from itertools import cycle
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Curve
from matplotlib.ticker import EngFormatter
from PIL import Image

from run.errors import BadInput, refuse, run_script
from run.folder import read_lines
from run.intervals import interval
from tree_viewer import checked_tree, format_figure, read_records, shown_tree, write_trees

# Okabe and Ito's colours, which colour-blind readers tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999")
BLUE, ORANGE, GREEN, PURPLE = COLOURS[:4]
DASHES = ("-", "--", ":")

# Every figure here is drawn under these settings, which leave matplotlib's own as they were.
# Figures are made without pyplot: they need no display, and no backend has to be chosen.
STYLE = {
    "text.parse_math": False,  # a $ in the name of a run, an arm or a benchmark is a $
    "axes.grid": True,
    "grid.alpha": 0.3,
    "legend.fontsize": 8,
}


# --- The learning curve of a run ---


def score_names(scores: dict) -> dict[str, str]:
    """Of one benchmark's scores, the names of the greedy pass@1 and of the sampled one (avg@k),
    where they are there.

    >>> score_names({"n": 2, "pass@1": {}, "avg@4": {}})
    {'greedy': 'pass@1', 'sampled': 'avg@4'}
    """
    names = {}
    for key in scores:
        if key == "pass@1":
            names["greedy"] = key
        elif key.startswith("avg@"):
            names.setdefault("sampled", key)
    return names


@matplotlib.rc_context(STYLE)
def plot_run(run: Path) -> Path:
    """Draws accuracy, length, signal, rewards by depth, entropy and time over the updates; returns
    the PNG's path.

    Raises:
        BadInput: the folder holds no metrics.jsonl with an update in it.
    """
    updates, evaluations = _read_metrics(run)
    figure = Figure(figsize=(13, 6.6), layout="constrained")
    (answers, length, signal), (rewards, entropy, seconds) = figure.subplots(2, 3, sharex=True)

    _draw_answers(answers, updates, evaluations)

    length.set(title="Completion length", ylabel="tokens")
    _draw_metrics(length, updates, {"completion_length": "mean over leaves"})

    signal.set(title="Signal", ylabel="share [%]")
    shares = {
        "kept_groups_share": "groups with signal",
        "unfinished_share": "leaves cut off",
        "all_right_share": "prompts all right",
        "all_wrong_share": "prompts all wrong",
    }
    _draw_metrics(signal, updates, shares, scale=100)

    rewards.set(title="Step reward", ylabel="mean reward")
    prefix = "step_reward_depth_"
    depths = [key for key in updates[-1] if key.startswith(prefix)]
    _draw_metrics(rewards, updates, {key: f"depth {key.removeprefix(prefix)}" for key in depths})
    # Those of reward functions may be of any size.
    lowest, highest = rewards.dataLim.intervaly
    rewards.set_ylim(min(0, lowest), max(1, highest))

    entropy.set(title="Entropy of the policy", ylabel="nats per token")
    _draw_metrics(entropy, updates, {"entropy": "over sampled tokens"})

    _draw_seconds(seconds, updates)

    for ax in (rewards, entropy, seconds):
        ax.set_xlabel("update")
    for ax in figure.axes:
        # Of an old run a panel may be empty.
        if ax.get_legend_handles_labels()[0]:
            ax.legend(loc="best")
    name = run.resolve().name
    figure.suptitle(f"{name}: thin lines are single updates, thick ones the mean of five")
    figure.savefig(run / "learning_curve.svg")
    return _save_png(figure, run / "learning_curve.png")


def _save_png(figure: Figure, path: Path) -> Path:
    """Writes a figure with a palette: a third of the size that all colours would take."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=140)
    with Image.open(buffer) as image:
        small = image.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    small.save(path, optimize=True)
    return path


def _read_metrics(run: Path) -> tuple[list[dict], list[dict]]:
    """The rows of a run's updates, and those of its evaluations."""
    path = run / "metrics.jsonl"
    rows = read_lines(path) if path.exists() else []
    updates = [row for row in rows if "reward" in row and "update" in row]
    evaluations = [row for row in rows if "evaluation" in row]
    if not updates:
        raise BadInput(f"{path}: no updates to draw; name the folder of a run")
    return updates, evaluations


def _draw_metrics(ax: Axes, updates: list[dict], labels: dict[str, str], scale=1.0) -> None:
    """Draws metrics (name -> label), each as it was and as the running mean of five updates."""
    for (key, label), colour, dashes in zip(labels.items(), cycle(COLOURS), cycle(DASHES)):
        # An update without any leaf, for example, has no share of right ones.
        rows = [row for row in updates if row.get(key) is not None]
        if not rows:  # an old run
            continue
        xs = [row["update"] for row in rows]
        ys = [scale * row[key] for row in rows]
        ax.plot(xs, ys, color=colour, alpha=0.3, linewidth=0.8)
        # At each update the mean of it and of the four before it.
        means = []
        for end in range(1, len(ys) + 1):
            means.append(statistics.fmean(ys[max(0, end - 5) : end]))
        # Dashes, since lines may lie on each other.
        ax.plot(xs, means, color=colour, linestyle=dashes, label=label, linewidth=1.8)
    ax.set_ylim(bottom=0)


def _draw_answers(ax: Axes, updates: list[dict], evaluations: list[dict]) -> None:
    """The share of right answers: of the leaves in training, and on every benchmark."""
    ax.set(title="Right answers", ylabel="right [%], bars: 95 % interval")
    # What reward functions give need not say what is right.
    if not any(key.startswith("rewards/") for row in updates for key in row):
        _draw_metrics(ax, updates, {"leaf_pass_rate": "training leaves"}, scale=100)
    # A resumed run may have evaluated on other benchmarks from some update on.
    benchmarks = dict.fromkeys(name for row in evaluations for name in row["evaluation"])
    for benchmark, marker in zip(benchmarks, cycle("os^D")):
        for kind, colour in (("greedy", ORANGE), ("sampled", GREEN)):
            scores = _scores(evaluations, benchmark, kind)
            if scores:
                xs = list(scores)
                means = [100 * score["mean"] for score in scores.values()]
                halves = [100 * 1.96 * score["standard_error"] for score in scores.values()]
                label = f"{benchmark}, {kind} pass@1"
                style = {"color": colour, "marker": marker, "markersize": 5, "capsize": 2}
                ax.errorbar(xs, means, halves, label=label, **style)
    ax.set_ylim(0, 100)


def _scores(evaluations: list[dict], benchmark: str, kind: str) -> dict[int, dict]:
    """The greedy or the sampled scores on a benchmark, by update, where there are any: a run may
    have been resumed without samples, or with another number of them."""
    scores = {}
    for row in evaluations:
        of_benchmark = row["evaluation"].get(benchmark, {})
        name = score_names(of_benchmark).get(kind)
        if name:
            scores[row["update"]] = of_benchmark[name]
    return scores


def _draw_seconds(ax: Axes, updates: list[dict]) -> None:
    """What the time of each update went to."""
    phases = ("sample", "grade", "update")
    colours = (BLUE, PURPLE, GREEN)
    xs = [row["update"] for row in updates]
    seconds = []  # [phases][updates]
    for phase in phases:
        seconds.append([row.get(f"seconds_{phase}", math.nan) for row in updates])
    ax.stackplot(xs, seconds, labels=phases, colors=colours, alpha=0.8)
    ax.set(title="Time of an update", ylabel="seconds")


# --- The arms of a sweep ---


@matplotlib.rc_context(STYLE)
def plot_arms(curves: dict[str, list[list[dict] | None]], path: Path) -> Path:
    """Draws the evaluations of several arms, bands from the worst to the best seed; returns the
    path.

    Args:
        curves: for each arm the points of every seed, as `run_ablations.curve` gives them; None for
            a failed run.
    """
    finished = {}
    for arm, runs in curves.items():
        if any(runs):
            finished[arm] = [points for points in runs if points]
    # The sampled score is drawn where there is one; evaluations without samples have only greedy
    # scores.
    first_run = next(iter(finished.values()))[0]
    names = score_names(first_run[-1])
    kind = "sampled" if "sampled" in names else "greedy"
    score, length = names[kind], f"{kind}_length"
    labels = {score: f"{kind} pass@1 [%]", length: f"{kind} length [tokens]"}
    for key in ("update", "sampled_tokens", "seconds"):
        labels[key] = key.replace("_", " ")

    figure = Figure(figsize=(13, 8), layout="constrained")
    axes = figure.subplots(2, 3)
    # Curves: the first three panels show the score, the fourth the length.
    panels = [("update", score), ("sampled_tokens", score), ("seconds", score), ("update", length)]
    for ax, (x, y) in zip(axes.flat, panels):
        for number, (arm, runs) in enumerate(finished.items()):
            colour = COLOURS[number % len(COLOURS)]
            dashes = DASHES[number // len(COLOURS) % len(DASHES)]
            scale = 100 if y == score else 1
            _draw_arm(ax, runs, x, y, scale, label=arm, color=colour, linestyle=dashes)
        ax.set(xlabel=labels[x], ylabel=labels[y])
        ax.xaxis.set_major_formatter(EngFormatter())  # 200 k tokens
        if y == score:
            ax.set_ylim(bottom=0)

    # The end of every run.
    _draw_lengths(axes[1, 1], finished, length, score)
    axes[1, 1].set(xlabel=labels[length], ylabel=labels[score])
    _draw_intervals(axes[1, 2], finished, score)
    axes[1, 2].set_xlabel(labels[score])

    handles, arms = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, arms, loc="outside lower center", ncols=min(6, len(arms)))
    sweep = path.resolve().parent.name
    figure.suptitle(f"{sweep}: means over seeds; bands reach from the worst to the best seed")
    return _save_png(figure, path)


def _draw_arm(ax: Axes, runs: list[list[dict]], x: str, y: str, scale: float, **style) -> None:
    """The mean over an arm's seeds, and a band from the worst to the best of them."""
    # One point of every seed, for as many evaluations as all seeds have: [evaluations][seeds].
    columns = list(zip(*runs))
    xs = [statistics.fmean(point[x] for point in points) for points in columns]
    ys = [[scale * point[y] for point in points] for points in columns]
    means = [statistics.fmean(values) for values in ys]
    ax.plot(xs, means, marker="o", markersize=3, **style)
    lowest = [min(values) for values in ys]
    highest = [max(values) for values in ys]
    ax.fill_between(xs, lowest, highest, color=style["color"], alpha=0.15)


def _draw_lengths(ax: Axes, finished: dict, length: str, score: str) -> None:
    """Score against length at the last update, one point per seed."""
    for (arm, runs), colour in zip(finished.items(), cycle(COLOURS)):
        ends = [points[-1] for points in runs]
        xs = [point[length] for point in ends]
        ys = [100 * point[score] for point in ends]
        ax.scatter(xs, ys, color=colour, s=22, label=arm)
    ax.set_title("last update, one point per seed", fontsize=10)


def _draw_intervals(ax: Axes, finished: dict, score: str) -> None:
    """The score of every arm at the last update: mean, 95 % interval and seeds. These are points,
    not bars, so the axis need not start at 0; its title says where it starts."""
    for row, (runs, colour) in enumerate(zip(finished.values(), cycle(COLOURS))):
        ends = [100 * points[-1][score] for points in runs]
        mean, half = interval(ends)
        rows = [row] * len(ends)
        ax.scatter(ends, rows, color=colour, s=14, alpha=0.5)
        ax.errorbar(mean, row, xerr=half, color=colour, marker="D", markersize=6, capsize=4)
    ax.set_yticks(range(len(finished)), list(finished))
    ax.set_ylim(len(finished) - 0.5, -0.5)  # the first arm on top
    low, high = ax.get_xlim()
    title = f"last update: mean, 95 % interval, seeds\n(this axis shows {low:.0f} to {high:.0f} %)"
    ax.set_title(title, fontsize=10)


# --- A picture of one tree ---

ADVANTAGE_COLOURS = LinearSegmentedColormap.from_list("advantage", (ORANGE, "white", BLUE))
PRUNED = "#b4bac1"
MARKERS = {"": "o", "✓": "o", "✗": "X", "~": "D", "?": "^"}
# Up to so many leaves there is room for the text of every step.
LEAVES_WITH_TEXT = 16
# White behind a text, so that no edge crosses it.
HALO = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.5}
EXPLANATION = (
    "At a step: reward, advantage. Blue: better than its siblings; orange: worse;\n"
    "grey: the rewards of its group hardly differ, so it is pruned. Area: number of tokens."
)


@matplotlib.rc_context(STYLE)
def draw_tree(record: dict, path: Path) -> Path:
    """Draws one line of trees.jsonl, with rewards and advantages at the nodes, as PNG or SVG by the
    path's ending; returns the path.

    Raises:
        ValueError: the record holds no tree.
    """
    tree = shown_tree(record)
    leaves = sum(node["mark"] != "" for node in tree["nodes"])
    height = max(2.5, 1.0 + 0.32 * leaves)
    figure = Figure(figsize=(7, height), layout="constrained")
    _draw_tree(figure.subplots(), tree)
    figure.savefig(path, dpi=150)
    return path


@matplotlib.rc_context(STYLE)
def draw_tree_and_curve(run: Path, update: int) -> Path:
    """Draws a run's tree of one update beside its share of right answers; returns the PNG's path.

    Raises:
        BadInput: the run has no tree of that update.
    """
    path = run / "trees.jsonl"
    rows = {record.get("update"): (row, record) for row, record in read_records(path)}
    if update not in rows:
        known = ", ".join(map(str, rows)) or "none"
        raise BadInput(f"--picture {update}: {path} has no tree of that update; it has: {known}")
    row, record = rows[update]
    tree = checked_tree(path, row, record)
    updates, evaluations = _read_metrics(run)

    figure = Figure(figsize=(10, 6.3), layout="constrained")
    tree_side, curve_side = figure.subplots(1, 2, width_ratios=(2, 1))
    _draw_tree(tree_side, tree)
    _draw_answers(curve_side, updates, evaluations)
    curve_side.axvline(update, color="#555555", linestyle=":", label="update of this tree")
    curve_side.set(title="The run of this tree", xlabel="update")
    curve_side.legend(loc="lower right")
    return _save_png(figure, run / "tree_and_curve.png")


def _draw_tree(ax: Axes, tree: dict) -> None:
    """Depth goes to the right, leaves stand below each other. A node's area is in proportion to its
    tokens, its colour to the root of its advantage, as in the viewer."""
    nodes = tree["nodes"]
    # Never 0, since they divide below.
    largest_advantage = max((abs(node["advantage"] or 0) for node in nodes), default=0) or 1
    most_tokens = max((node["tokens"] or 0 for node in nodes), default=0) or 1
    leaves = sum(node["mark"] != "" for node in nodes)
    with_text = leaves <= LEAVES_WITH_TEXT

    for i, node in enumerate(nodes):
        colour = _advantage_colour(node, largest_advantage)
        if i > 0:
            _draw_edge(ax, nodes[node["parent"]], node, colour)
        area = 130 * (node["tokens"] or 0) / most_tokens
        style = {
            "s": max(12, area) if i > 0 else 60,
            "marker": MARKERS[node["mark"]] if i > 0 else "s",
            "color": colour,
            "edgecolor": PRUNED if node["pruned"] else "black",
            "linewidth": 0.7,
        }
        ax.scatter(node["depth"], node["row"], zorder=2, **style)
        _write_figures(ax, node, is_root=i == 0)
        if with_text:
            _write_text(ax, node)

    depth = max((node["depth"] for node in nodes), default=0)
    ax.set_axis_off()
    ax.set_xlim(-0.15, depth + 0.55)
    # Row 0 on top; below the last row there is room for its text.
    ax.set_ylim(leaves + 0.6 if with_text else leaves - 0.4, -0.6)
    problem = tree["problem"][:60]
    answer = tree["answer"][:20]
    ax.set_title(f"Update {tree['update']}: {problem}, answer {answer}")
    # The lower left corner of the axes.
    at_corner = {"transform": ax.transAxes, "va": "top"}
    ax.text(0, 0, EXPLANATION, fontsize=7.5, color="#444444", **at_corner)


def _advantage_colour(node: dict, largest: float):
    """Grey for a pruned node; else from orange over white to blue, by the root of the advantage."""
    if node["pruned"]:
        return PRUNED
    advantage = node["advantage"] or 0
    strength = math.copysign(math.sqrt(abs(advantage) / largest), advantage)
    return ADVANTAGE_COLOURS(0.5 + 0.5 * strength)


def _draw_edge(ax: Axes, parent: dict, node: dict, colour) -> None:
    """A curve that leaves the parent and reaches the node horizontally."""
    middle = (parent["depth"] + node["depth"]) / 2
    points = [
        (parent["depth"], parent["row"]),
        (middle, parent["row"]),
        (middle, node["row"]),
        (node["depth"], node["row"]),
    ]
    curve = Curve(points, [Curve.MOVETO, Curve.CURVE4, Curve.CURVE4, Curve.CURVE4])
    width = 1 if node["pruned"] else 1.8
    if not node["pruned"]:
        # A dark line below, with which pale colours show on the white page.
        ax.add_patch(PathPatch(curve, fill=False, edgecolor="#888888", linewidth=2.6, zorder=1))
    ax.add_patch(PathPatch(curve, fill=False, edgecolor=colour, linewidth=width, zorder=1))


def _write_figures(ax: Axes, node: dict, is_root: bool) -> None:
    """Reward and advantage above an inner node; mark, answer and advantage beside a leaf."""
    at = (node["depth"], node["row"])
    advantage = "" if node["pruned"] or is_root else format_figure(node["advantage"], "+")
    if node["mark"]:
        answer = "no answer" if node["extracted"] is None else node["extracted"][:12]
        end = "" if node["finished"] else ", cut off"
        words = f"{node['mark']} {answer}{end}  {advantage}"
        offset = (9, 1)
        alignment = {"ha": "left", "va": "center"}
    else:
        words = f"{format_figure(node['reward'])}  {advantage}"
        offset = (0, 7)
        alignment = {"ha": "center", "va": "bottom"}
    style = {"textcoords": "offset points", "fontsize": 8, "zorder": 4, "bbox": HALO}
    ax.annotate(words.rstrip(), at, offset, **style, **alignment)


def _write_text(ax: Axes, node: dict) -> None:
    """The first lines of a step's text below an inner node; those of a leaf in one line."""
    at = (node["depth"], node["row"])
    lines = []
    for line in node["text"].strip().split("\n"):
        lines.append(_printable(line[:22]))
    style = {"fontsize": 6.5, "family": "monospace", "color": "#444444", "zorder": 3}
    style |= {"textcoords": "offset points", "va": "top"}
    if node["mark"]:
        text = " ⏎ ".join(lines)[:40]
        ax.annotate(text, at, (9, -5), ha="left", **style)
    else:
        more = " ..." if len(lines) > 3 else ""
        text = "\n".join(lines[:3]) + more
        ax.annotate(text, at, (0, -8), ha="center", bbox=HALO, **style)


def _printable(text: str) -> str:
    """Without control characters, for which fonts have no shape."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flag = parser.add_argument
    flag("runs", nargs="*", type=Path, help="folders of runs")
    flag("--trees", nargs="*", type=Path, default=[], help="files trees.jsonl: the viewer alone")
    flag("--picture", type=int, metavar="UPDATE", help="also draw the tree of this update")
    parser.error = refuse
    args = parser.parse_args()
    if not args.runs and not args.trees:
        raise BadInput("nothing to draw: name the folder of a run, or a trees.jsonl after --trees")
    if args.picture is not None and not args.runs:
        raise BadInput("--picture: name the folder of a run")
    for path in args.trees:
        if path.suffix == ".html":
            raise BadInput(f"--trees {path}: is a viewer itself; name the trees.jsonl")
        if not path.is_file():
            raise BadInput(f"--trees {path}: no such file")
    for folder in args.runs:
        print(plot_run(folder))
        print(write_trees(folder / "trees.jsonl"))
        if args.picture is not None:
            print(draw_tree_and_curve(folder, args.picture))
    for path in args.trees:
        print(write_trees(path))


if __name__ == "__main__":
    run_script(main)
