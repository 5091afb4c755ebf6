"""Curves, the tree viewer and the picture of a tree. What the viewer does in a browser is checked
by tests/check_viewer.py, which needs one."""

import base64
import hashlib
import json
import math
import random
import re
import subprocess
import sys
from html.parser import HTMLParser

import matplotlib
import pytest
from conftest import ROOT, fault
from PIL import Image

import plot_results
import tree_viewer
from run.errors import run_script
from run.folder import read_lines
from run.intervals import interval


def step(parent, **changes):
    node = {"parent": parent, "text": "1+", "tokens": 2, "finished": False}
    return {**node, "reward": 0.5, "advantage": 0.0, **changes}


def leaf(parent, answer, reward, **changes):
    changes = {"text": rf"\boxed{{{answer}}}", "finished": True, **changes}
    return step(parent, reward=reward, **changes)


# Two right leaves of four; the group of nodes 3 and 4 is pruned, the other two have signal.
TREE = [
    step(-1, text="", tokens=0),
    step(0, reward=0.5, advantage=-1.0),
    step(0, reward=1.0, advantage=1.0),
    leaf(2, 7, 1.0),
    leaf(2, 7, 1.0),
    leaf(1, 7, 1.0, advantage=2.0),
    step(1, reward=0.0, advantage=-2.0),
]


def record(nodes, **changes):
    return {"update": 7, "problem": "3+4", "answer": "7", "nodes": nodes, **changes}


def write(path, *rows):
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def metrics(update, **changes):
    seconds = {"seconds_sample": 2.0, "seconds_grade": 0.1, "seconds_update": 1.0}
    shares = {"kept_groups_share": 0.3, "unfinished_share": 0.1, "leaf_pass_rate": 0.5}
    depths = {"step_reward_depth_1": 0.5, "step_reward_depth_2": 0.5}
    row = {"update": update, "reward": 0.5, "completion_length": 40.0, "entropy": 0.1}
    return {**row, **seconds, **shares, **depths, **changes}


def scores(*names):
    return {"n": 2, **{name: {"mean": 0.5, "standard_error": 0.1} for name in names}}


@pytest.fixture
def finished(tmp_path):
    """The folder of a run of three updates."""
    folder = tmp_path / "a-run"
    evaluations = [{"update": at, "evaluation": {"a": scores("pass@1", "avg@2")}} for at in (0, 3)]
    rows = [evaluations[0], metrics(1), metrics(2), metrics(3, reward=math.nan), evaluations[1]]
    write(folder / "metrics.jsonl", *rows)
    write(folder / "trees.jsonl", *(record(TREE, update=update) for update in (1, 2, 3)))
    return folder


def refused(argv, capsys):
    """The one line that bad input gets; nothing but exit code 2 will do."""
    sys.argv = ["plot_results.py", *map(str, argv)]
    with fault("bad input of any kind: one clear line, exit code 2"):
        with pytest.raises(SystemExit) as stop:
            run_script(plot_results.main)
        assert stop.value.code == 2
        lines = capsys.readouterr().err.strip().splitlines()
        errors = [line for line in lines if line.startswith("error: ")]
        assert len(errors) == 1 and "Traceback" not in "\n".join(lines)
        return errors[0]


# --- The script ---


def test_the_script_draws_a_run(finished):
    command = [sys.executable, "plot_results.py", finished, "--picture", "2"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    printed = done.stdout.split()
    names = ["learning_curve.png", "trees.html", "tree_and_curve.png"]
    assert printed == [str(finished / name) for name in names]
    for name in [*names, "learning_curve.svg"]:
        assert (finished / name).stat().st_size > 10_000


def test_bad_plots(finished, tmp_path, capsys):
    assert "no updates to draw" in refused([tmp_path], capsys)
    assert "no such file" in refused(["--trees", tmp_path / "none.jsonl"], capsys)
    assert "nothing to draw" in refused([], capsys)
    assert "unrecognized arguments: --depth" in refused(["--depth"], capsys)
    assert "--picture: name the folder" in refused(
        ["--picture", 3, "--trees", finished / "trees.jsonl"], capsys
    )
    says = refused([finished, "--picture", 4], capsys)
    assert "--picture 4" in says and "it has: 1, 2, 3" in says


def test_importing_and_drawing_change_no_settings_of_matplotlib(finished):
    before = dict(matplotlib.rcParams)
    plot_results.plot_run(finished)
    assert dict(matplotlib.rcParams) == before
    program = (
        "import matplotlib; before = dict(matplotlib.rcParams); import plot_results; "
        "assert dict(matplotlib.rcParams) == before"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


# --- Curves ---


@pytest.fixture
def figures(monkeypatch):
    """The figures that would have been written as PNG."""
    drawn = []
    monkeypatch.setattr(
        plot_results, "_save_png", lambda figure, path: drawn.append(figure) or path
    )
    return drawn


def test_evaluations_of_other_benchmarks_and_samples_are_drawn(tmp_path, figures):
    rows = [
        {"update": 0, "evaluation": {"a": scores("pass@1", "avg@2")}},
        {"update": 1, "reward": 0.5},
        {"update": 1, "evaluation": {"b$^$": scores("avg@4")}},
        {"update": 2, "reward": math.nan},
        {"update": 2, "evaluation": {"a": scores("pass@1"), "b$^$": {"n": 0}}},
        {"update": 2, "evaluation": {}},
    ]
    write(tmp_path / "metrics.jsonl", *rows)
    plot_results.plot_run(tmp_path)
    answers = figures[0].axes[0]
    lines = {bars.get_label(): bars.lines[0].get_xydata().tolist() for bars in answers.containers}
    assert lines == {
        "a, greedy pass@1": [[0, 50], [2, 50]],
        "a, sampled pass@1": [[0, 50]],
        "b$^$, sampled pass@1": [[1, 50]],
    }


def test_a_learning_curve_names_its_run_and_averages_five_updates(tmp_path, figures):
    rows = [metrics(update, completion_length=10.0 * update) for update in range(1, 8)]
    write(tmp_path / "a-run" / "metrics.jsonl", *rows)
    plot_results.plot_run(tmp_path / "a-run")
    assert figures[0].get_suptitle().startswith("a-run: ")
    length = next(ax for ax in figures[0].axes if ax.get_title() == "Completion length")
    single, mean = length.lines
    assert single.get_ydata().tolist() == [10, 20, 30, 40, 50, 60, 70]
    assert mean.get_ydata().tolist() == [10, 15, 20, 25, 30, 40, 50]
    assert all(ax.get_ylim()[0] == 0 for ax in figures[0].axes)


def test_shares_of_prompts_are_drawn_where_a_run_has_them(tmp_path, figures):
    old = [metrics(1), metrics(2)]
    new = [metrics(update, all_right_share=0.25, all_wrong_share=0.5) for update in (1, 2)]
    for name, rows in (("old", old), ("new", new)):
        write(tmp_path / name / "metrics.jsonl", *rows)
        plot_results.plot_run(tmp_path / name)
    panels = [figure.axes[2] for figure in figures]
    labels = [panel.get_legend_handles_labels()[1] for panel in panels]
    assert labels[1] == [*labels[0], "prompts all right", "prompts all wrong"]
    assert [line.get_ydata().tolist() for line in panels[1].lines[-4::2]] == [[25, 25], [50, 50]]


def point(update, score):
    totals = {"update": update, "sampled_tokens": 100 * update, "seconds": 2.0 * update}
    return {**totals, "pass@1": score, "avg@2": score, "sampled_length": 9.0}


def test_arms_end_as_points_with_intervals_on_an_axis_that_says_its_range(tmp_path, figures):
    ends = {"tree": [0.61, 0.65, 0.70], "$flat$": [0.64, 0.66, None]}
    curves = {"failed": [None, None, None]}
    curves |= {
        arm: [score and [point(0, 0.2), point(4, score)] for score in of_seeds]
        for arm, of_seeds in ends.items()
    }
    path = tmp_path / "a-sweep" / "curves.png"
    assert plot_results.plot_arms(curves, path) == path
    (figure,) = figures
    assert figure.get_suptitle().startswith("a-sweep: ")

    last = figure.axes[5]
    assert not last.patches  # a bar would have to start at 0
    low, high = last.get_xlim()
    assert f"{low:.0f} to {high:.0f} %" in last.get_title() and low < 61 and high > 70
    assert [label.get_text() for label in last.get_yticklabels()] == list(ends)
    for bars, of_seeds in zip(last.containers, ends.values()):
        mean, half = interval([100 * score for score in of_seeds if score])
        assert bars.lines[0].get_xdata()[0] == pytest.approx(mean)
        ((start, _), (end, _)) = bars.lines[2][0].get_segments()[0]
        assert (start, end) == pytest.approx((mean - half, mean + half))

    tree = figure.axes[0].lines[0]
    assert tree.get_ydata().tolist() == pytest.approx([20, 100 * sum(ends["tree"]) / 3])
    assert [ax.get_ylim()[0] for ax in figure.axes[:3]] == [0, 0, 0]


# --- A tree as it is shown ---


def test_a_shown_tree_has_places_marks_answers_and_pruned_groups():
    tree = tree_viewer.shown_tree(record(TREE))
    assert (tree["update"], tree["problem"], tree["answer"]) == ("7", "3+4", "7")
    nodes = tree["nodes"]
    assert [node["depth"] for node in nodes] == [0, 1, 1, 2, 2, 2, 2]
    assert [node["row"] for node in nodes] == [1.5, 0.5, 2.5, 2, 3, 0, 1]
    assert [node["mark"] for node in nodes] == ["", "", "", "✓", "✓", "✓", "✗"]
    assert [node["extracted"] for node in nodes] == [None, None, None, "7", "7", "7", None]
    assert [node["pruned"] for node in nodes] == [False, False, False, True, True, False, False]


def test_a_leaf_shows_what_its_task_says_that_it_answers():
    """Where the file holds it; else what the text answers in mathematics, as in older files."""
    answers = ("URRD", None, 7, r"\boxed{8}")
    nodes = [step(-1), *(step(0, text=r"\boxed{9}", extracted=answer) for answer in answers)]
    nodes.append(step(0, text=r"\boxed{9}"))
    shown = tree_viewer.shown_tree(record(nodes))["nodes"][1:]
    assert [node["extracted"] for node in shown] == ["URRD", None, "7", r"\boxed{8}", "9"]


def test_a_leaf_is_right_wrong_partly_right_or_without_a_grade():
    rewards = [1, 0.0, 0.5, None, math.nan, math.inf, True, "1"]
    nodes = [step(-1), *(step(0, reward=reward) for reward in rewards)]
    shown = tree_viewer.shown_tree(record(nodes))["nodes"][1:]
    assert [node["mark"] for node in shown] == ["✓", "✗", "~", "?", "?", "?", "?", "?"]


def test_rows_are_those_of_a_walk_through_the_tree():
    """Against the obvious recursion, for trees in any order in which parents come first."""

    def walk(parents, node, rows):
        children = [i for i, parent in enumerate(parents) if parent == node and i > 0]
        if not children:
            rows[node] = 1 + max((row for row in rows.values() if row == int(row)), default=-1)
            leaves.append((node, rows[node]))
            return [rows[node]]
        below = [row for child in children for row in walk(parents, child, rows)]
        middles[node] = (below[0] + below[-1]) / 2
        return below

    rng = random.Random(0)
    for _ in range(200):
        size = rng.randint(1, 30)
        parents = [-1] + [rng.randrange(i) for i in range(1, size)]
        leaves, middles = [], {}
        walk(parents, 0, {})
        expected = {**dict(leaves), **middles}
        assert tree_viewer.leaf_rows(parents) == [expected[i] for i in range(size)]
    assert tree_viewer.leaf_rows([]) == []


# --- The viewer ---


class Page(HTMLParser):
    """A page as a browser without scripts reads it: its elements, data, script and text."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.attributes, self.inside = [], [], ""
        self.contents = {"script": "", "data": "", "text": ""}
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        self.data = json.loads(self.contents["data"], parse_constant=pytest.fail)
        self.text = self.contents["text"]

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes.append(dict(attributes))
        if tag == "noscript":
            self.inside = "text"
        elif tag == "script":
            self.inside = dict(attributes).get("id", "script")

    def handle_endtag(self, tag):
        if tag in ("noscript", "script"):
            self.inside = ""

    def handle_data(self, data):
        if self.inside:
            self.contents[self.inside] += data


def view(path, *rows):
    return Page(tree_viewer.write_trees(write(path, *rows)))


def test_the_viewer_holds_every_tree(finished):
    page = Page(plot_results.write_trees(finished / "trees.jsonl"))
    assert [tree["update"] for tree in page.data] == ["1", "2", "3"]
    assert page.data[0] == tree_viewer.shown_tree(record(TREE, update=1))
    # Without scripts: every step with its figures, and the right leaves.
    assert page.text.count("step 3 after 2, reward 1.00, advantage 0.00, 2 tokens") == 3
    assert page.text.count("group pruned, finished, answer 7 ✓") == 6
    assert page.text.count("cut off, answer none ✗") == 3
    assert page.text.count("Gold answer: 7") == 3 and "Trees of a-run" in page.text


HOSTILE = [
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "]]><img src=x onerror=alert(1)>",
    "</noscript><b onclick='alert(1)'>&amp;\"",
    "</title></style></textarea></code></p><base href=//x>",
    "\u2028\u2029\0\r\n\t\x1b[31m",
    "@@DATA@@ @@TEXT@@ \\u003c ${1} \\1 \\g<0>",
    "\N{RIGHT-TO-LEFT OVERRIDE}\N{BELL}𝄞",
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_model_output_never_becomes_markup(text, tmp_path):
    def page_with(words, name):
        nodes = [step(-1, text=words), step(0, text=words), leaf(1, words, 1.0)]
        row = record(nodes, update=words, problem=words, answer=words)
        return view(tmp_path / name / "trees.jsonl", row)

    hostile, harmless = page_with(text, "<i>a&b"), page_with("x", "run")
    assert hostile.tags == harmless.tags and hostile.attributes == harmless.attributes
    assert hostile.contents["script"] == harmless.contents["script"]
    (tree,) = hostile.data
    assert [tree[key] for key in ("update", "problem", "answer")] == [text] * 3
    assert [node["text"] for node in tree["nodes"][:2]] == [text] * 2
    raw = hostile.contents["data"]
    assert raw.isascii() and not set(raw) & set("<>&")


def test_the_page_asks_nothing_of_the_network_and_runs_its_own_script_alone(finished):
    path = tree_viewer.write_trees(finished / "trees.jsonl")
    page = Page(path)
    policy = next(each["content"] for each in page.attributes if "http-equiv" in each)
    digest = base64.b64encode(hashlib.sha256(page.contents["script"].encode()).digest()).decode()
    assert "default-src 'none'" in policy and f"script-src 'sha256-{digest}'" in policy
    assert not any({"src", "href"} & each.keys() for each in page.attributes)
    text = path.read_text(encoding="utf-8")
    assert set(re.findall(r"\w+://[\w./]*", text)) == {"http://www.w3.org/2000/svg"}
    for word in ("@import", "url(", "innerHTML", "outerHTML", "insertAdjacentHTML", "eval("):
        assert word not in text


def test_the_viewer_takes_deep_wide_and_empty_trees(tmp_path):
    deep = [step(i - 1) for i in range(5000)]
    wide = [step(-1), *(step(0, reward=float(i == 3)) for i in range(10_000))]
    rows = [record(deep), record(wide), record([]), record([step(-1)]), {"update": 1}]
    page = view(tmp_path / "trees.jsonl", *rows)
    assert [len(tree["nodes"]) for tree in page.data] == [5000, 10_001, 0, 1, 0]
    assert page.data[0]["nodes"][-1]["depth"] == 4999
    marks = [node["mark"] for tree in page.data for node in tree["nodes"]]
    assert marks.count("✓") == 1 and marks.count("✗") == 9_999 and marks.count("~") == 2


def test_a_long_run_is_shown_from_its_first_tree_to_its_last(tmp_path):
    rows = [record(TREE, update=update) for update in range(1, 1002)]
    updates = [int(tree["update"]) for tree in view(tmp_path / "trees.jsonl", *rows).data]
    assert len(updates) == 40 and updates[0] == 1 and updates[-1] == 1001
    assert {later - earlier for earlier, later in zip(updates, updates[1:])} <= {25, 26}


def test_a_run_without_trees_gets_an_empty_viewer(tmp_path):
    assert Page(tree_viewer.write_trees(tmp_path / "trees.jsonl")).data == []


def test_the_viewer_takes_what_older_or_broken_runs_wrote(tmp_path):
    odd = [
        step(-1),
        step(0, reward=math.nan, advantage=math.nan),
        {"parent": 0},
        step(0, text="\ud800", reward=None, tokens=10**400, advantage=-math.inf),
        step(0, text=["no", "text"], finished=None, tokens="many", advantage=True),
    ]
    page = view(tmp_path / "trees.jsonl", record(odd))
    nodes = page.data[0]["nodes"]
    assert [node["reward"] for node in nodes] == [0.5, None, None, None, 0.5]
    assert [node["tokens"] for node in nodes] == [2, 2, None, None, None]
    assert {node["advantage"] for node in nodes[1:]} == {None}
    assert [node["text"] for node in nodes] == ["1+", "1+", "", "?", "['no', 'text']"]
    assert "step 1 after 0, reward ?, advantage ?" in page.text


@pytest.mark.parametrize(
    "nodes, says",
    [
        ([step(-1), step(1)], "the parent of node 1 is 1, which is no node before it"),
        ([step(-1), step(-1)], "the parent of node 1 is -1"),
        ([step(-1), step("a\nb")], r'the parent of node 1 is "a\nb"'),
        ([step(-1), step(0.0)], "the parent of node 1 is 0.0"),
        ([step(-1), {}], "the parent of node 1 is null"),
        ([step(-1), "x"], "node 1 is no JSON object"),
        ({"parent": 0}, "node 0 is no JSON object"),
        (5, "'int' object is not iterable"),
    ],
)
def test_a_broken_tree_gets_one_line_that_names_file_and_row(nodes, says, finished, capsys):
    path = write(finished / "trees.jsonl", record(TREE), record(TREE), record(nodes))
    for argv in (["--trees", path], [finished]):
        line = refused(argv, capsys)
        assert f"{path}: row 3 (update 7) is damaged: " in line and says in line


def test_damaged_lines_of_trees_jsonl(tmp_path, caplog, capsys):
    path = tmp_path / "trees.jsonl"
    path.write_text('{"update": 1}\n{"upd\n[1]\n\0\0\n{"update": 2}\n{"cut sh')
    assert read_lines(path) == [{"update": 1}, {"update": 2}]
    assert "left out 3 damaged lines (2, 3, 4;" in caplog.text
    path.write_bytes(b"\xff\xfe\n<html>\n")
    assert "no line of it is a JSON object (line 1: " in refused(["--trees", path], capsys)
    assert "is a viewer itself" in refused(["--trees", path.with_suffix(".html")], capsys)


# --- The picture of a tree ---


@pytest.mark.parametrize("leaves", [4, 40])
def test_a_picture_has_rewards_and_advantages_at_its_nodes(leaves, tmp_path):
    more = [leaf(0, "$x_1", 0.0, advantage=-3.0, finished=False) for _ in range(leaves - 4)]
    nodes = [*TREE, *more]
    path = plot_results.draw_tree(record(nodes, problem="<b>$3+4"), tmp_path / "tree.svg")
    # Letters are drawn as shapes; the words stand beside them in comments.
    words = path.read_text(encoding="utf-8")
    for figures in ("0.50  −1.00", "1.00  +1.00", "✓ 7  +2.00", "✗ no answer, cut off  −2.00"):
        assert f"<!-- {figures} -->" in words
    assert words.count("<!-- ✓ 7 -->") == 2  # of the pruned group: without an advantage
    assert words.count("<!-- ✗ $x_1, cut off  −3.00 -->") == leaves - 4
    assert (r"\boxed{7}" in words) == (leaves <= 16)  # the text of steps, where there is room
    with Image.open(plot_results.draw_tree(record(nodes), tmp_path / "tree.png")) as image:
        assert image.width > 900


def test_pictures_of_the_smallest_trees(tmp_path):
    for nodes in ([], [step(-1)], [step(-1), step(0, text="\ud800\0", reward=None)]):
        assert plot_results.draw_tree(record(nodes), tmp_path / "tree.png").exists()


def test_the_picture_beside_the_curve_shows_the_tree_of_that_update(finished, figures):
    path = plot_results.draw_tree_and_curve(finished, 2)
    assert path == finished / "tree_and_curve.png"
    tree_side, curve_side = figures[0].axes
    assert tree_side.get_title() == "Update 2: 3+4, answer 7"
    labels = curve_side.get_legend_handles_labels()[1]
    assert "training leaves" in labels and "a, greedy pass@1" in labels


def test_the_committed_picture_is_small():
    path = ROOT / "results" / "demo" / "tree_and_curve.png"
    with Image.open(path) as image:
        assert path.stat().st_size < 150_000 and image.width >= 900
