"""The tree viewer: sampled trees as one HTML page that needs no network.

python plot_results.py --trees results/RUN/trees.jsonl   # trees.html beside it

`shown_tree` reads one line of trees.jsonl and adds what a reader wants to see: where each node
stands, which leaves are right, what they answer. `write_trees` puts such trees into
tree_viewer.html, which draws them. `plot_results.draw_tree` draws the same as a picture.
"""

import base64
import hashlib
import html
import json
import re
from pathlib import Path

from reward import extract_answer
from run.errors import BadInput
from run.folder import read_lines

TEMPLATE = Path(__file__).with_name("tree_viewer.html")


# --- A tree as it is shown ---


def shown_tree(record: dict) -> dict:
    """One line of trees.jsonl with everything that is drawn: update, problem, answer and nodes,
    each after its parent. A node has, besides what the file says of it,

    depth, row: its place. Leaves have rows 0, 1, ...; an inner node is in the middle of its leaves.
    pruned: no sibling has an advantage, so the group carries no signal.
    mark: of a leaf, "✓" right, "✗" wrong, "~" partly right, "?" without a grade; else "".
    extracted: of a leaf, the answer that its completion commits to, or None.

    Raises:
        ValueError, TypeError: the nodes are not those of a tree.
    """
    given = record.get("nodes") or []
    nodes = [_shown_node(node, i) for i, node in enumerate(given)]
    parents = [node["parent"] for node in nodes]
    rows = leaf_rows(parents)
    inner = set(parents)
    with_signal = {node["parent"] for node in nodes if node["advantage"]}
    for i, node in enumerate(nodes):
        is_leaf = i not in inner
        node["depth"] = nodes[node["parent"]]["depth"] + 1 if i > 0 else 0
        node["row"] = rows[i]
        node["pruned"] = i > 0 and node["parent"] not in with_signal
        node["mark"] = _mark(node["reward"]) if is_leaf else ""
        node["extracted"] = _answer(given[i], _path_text(nodes, i)) if is_leaf else None
    return {
        "update": _text(record.get("update", "?")),
        "problem": _text(record.get("problem", "?")),
        "answer": _text(record.get("answer", "?")),
        "nodes": nodes,
    }


def _shown_node(node: dict, i: int) -> dict:
    """What the file says of a node; None for a figure that is missing or is no number."""
    if not isinstance(node, dict):
        raise ValueError(f"node {i} is no JSON object")
    parent = node.get("parent")
    if i > 0 and not (type(parent) is int and 0 <= parent < i):
        raise ValueError(f"the parent of node {i} is {_quoted(parent)}, which is no node before it")
    return {
        "parent": parent if i > 0 else -1,
        "text": _text(node.get("text", "")),
        "tokens": _figure(node.get("tokens")),
        "finished": bool(node.get("finished")),
        "reward": _figure(node.get("reward")),
        "advantage": _figure(node.get("advantage")),
    }


def _quoted(value: object) -> str:
    """A value of a broken file, as one short line."""
    return json.dumps(value)[:30]


def _text(value: object) -> str:
    """As text that can be written as UTF-8: half a surrogate pair, which JSON can hold, can't."""
    return str(value).encode("utf-8", errors="replace").decode("utf-8")


def _figure(value: object) -> int | float | None:
    """A number that JavaScript knows too, or None. NaN is smaller than nothing."""
    if type(value) in (int, float) and abs(value) < 1e15:
        return value
    return None


def _answer(node: dict, completion: str) -> str | None:
    """What a leaf answers: as its task said, or by the rules of mathematics in files of before."""
    if "extracted" not in node:
        return extract_answer(completion)
    answer = node["extracted"]
    return None if answer is None else _text(answer)


def _mark(reward: float | None) -> str:
    if reward is None:
        return "?"
    if reward >= 1:
        return "✓"
    return "~" if reward > 0 else "✗"


def _path_text(nodes: list[dict], i: int) -> str:
    """The completion from the prompt's end through node i."""
    texts = []
    while i > 0:
        texts.append(nodes[i]["text"])
        i = nodes[i]["parent"]
    return "".join(reversed(texts))


def leaf_rows(parents: list[int]) -> list[float]:
    """The row of every node of a tree: leaves take rows 0, 1, ... from its top to its bottom, an
    inner node is in the middle of the leaves below it. Without recursion: a step for each line of
    text makes trees hundreds of steps deep.

    >>> leaf_rows([-1, 0, 0, 1, 1])  # the leaves are nodes 3, 4 and 2
    [1.0, 0.5, 2.0, 0.0, 1.0]
    """
    leaves = [0] * len(parents)  # below each node; 1 for a leaf itself
    for node in reversed(range(len(parents))):
        leaves[node] = max(1, leaves[node])
        if node > 0:
            leaves[parents[node]] += leaves[node]

    first = [0] * len(parents)  # the first row of each node's leaves
    free = [0] * len(parents)  # the first row that is free for a node's next child
    for node in range(1, len(parents)):
        parent = parents[node]
        first[node] = free[parent]
        free[node] = free[parent]
        free[parent] += leaves[node]
    return [start + (count - 1) / 2 for start, count in zip(first, leaves)]


def read_records(path: Path) -> list[tuple[int, dict]]:
    """The lines of a trees.jsonl with the numbers of their rows; none where there is no file."""
    records = read_lines(path) if path.exists() else []
    return list(enumerate(records, 1))


def checked_tree(path: Path, row: int, record: dict) -> dict:
    """The tree of one row, ready to be drawn.

    Raises:
        BadInput: the row holds no tree.
    """
    try:
        return shown_tree(record)
    except (ValueError, TypeError) as error:
        where = f"{path}: row {row} (update {_quoted(record.get('update'))})"
        raise BadInput(f"{where} is damaged: {error}; delete that row") from error


# --- The page ---


def write_trees(path: Path, limit: int = 40) -> Path:
    """Writes the tree viewer, trees.html, beside a trees.jsonl; returns its path. It is one file
    that needs no network. Of more than `limit` trees it takes as many, evenly spread from the first
    to the last.

    Model output is untrusted. The page gets it as JSON in which no character can end the script
    element, and as escaped text for readers without JavaScript. It allows no script but its own.

    Raises:
        BadInput: a row of the file holds no tree.
    """
    records = read_records(path)
    if len(records) > limit:
        distance = (len(records) - 1) / (limit - 1)
        records = [records[round(i * distance)] for i in range(limit)]
    trees = [checked_tree(path, row, record) for row, record in records]

    template = TEMPLATE.read_text(encoding="utf-8")
    # The browser runs a script with this digest, and no other.
    script = template.partition("<script>")[2].partition("</script>")[0]
    digest = hashlib.sha256(script.encode()).digest()

    parts = {
        "NAME": html.escape(path.resolve().parent.name),
        "SCRIPT_HASH": f"sha256-{base64.b64encode(digest).decode()}",
        "TEXT": "\n".join(_tree_text(tree) for tree in trees),
        "DATA": script_json(trees),
    }
    # In one pass, so that a text with @@DATA@@ in it is left as it is.
    page = re.sub(r"@@([A-Z_]+)@@", lambda match: parts[match[1]], template)
    viewer = path.with_suffix(".html")
    viewer.write_text(page, encoding="utf-8")
    return viewer


def script_json(value: object) -> str:
    r"""JSON that may stand in a script element, whatever its strings hold.

    >>> print(script_json("</script>&\u2028"))
    "\u003c/script\u003e\u0026\u2028"
    """
    # json.dumps escapes all that is not ASCII, the line ends U+2028 and U+2029 among it.
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return re.sub("[<>&]", lambda match: f"\\u{ord(match[0]):04x}", text)


def _tree_text(tree: dict, longest: int = 300) -> str:
    """A tree as HTML without script: one paragraph per step, indented by its depth. Texts of steps
    are cut after `longest` characters, since the page holds the whole texts once already."""
    heading = html.escape(f"Update {tree['update']}: {tree['problem']}")
    lines = [f"<h2>{heading}</h2>", f"<p>Gold answer: {html.escape(tree['answer'])}</p>"]
    for i, node in enumerate(tree["nodes"]):
        # What is known about the step ...
        figures = [f"step {i} after {node['parent']}" if i else "prompt"]
        figures.append(f"reward {format_figure(node['reward'])}")
        if i > 0:
            figures.append(f"advantage {format_figure(node['advantage'], '+')}")
            figures.append(f"{node['tokens']} tokens")
        if node["pruned"]:
            figures.append("group pruned")
        if node["mark"]:
            figures.append("finished" if node["finished"] else "cut off")
            answer = "none" if node["extracted"] is None else node["extracted"]
            figures.append(f"answer {answer} {node['mark']}")
        # ... and its text below.
        text = node["text"]
        if len(text) > longest:
            text = text[:longest] + " ..."
        indent = 2 * min(node["depth"], 20)
        words = html.escape(", ".join(figures))
        lines.append(f"<p style='margin-left: {indent}em'>{words}<br>")
        lines.append(f"<code style='white-space: pre-wrap'>{html.escape(text)}</code></p>")
    return "\n".join(lines)


def format_figure(figure: float | None, sign: str = "") -> str:
    """A reward or an advantage; with "+" as `sign`, what is above 0 has a sign too."""
    if figure is None:
        return "?"
    if figure == 0:
        sign = ""
    return f"{figure:{sign}.2f}".replace("-", "−")
