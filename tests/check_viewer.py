"""What the tree viewer does in a real browser: clicks, keys, the slider, hostile texts. Not part of
`make test`, since it needs Chromium:

python tests/check_viewer.py [chromium]
"""

import base64
import hashlib
import html
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tree_viewer import write_trees

ATTACK = "</script><img src=x onerror='window.attacked = 1'><script>window.attacked = 1</script>"

# Does what a reader does, and notes after each move what the page shows.
DRIVER = """
const seen = {};
const note = name => { seen[name] = {
  tree: state.tree, node: state.node, hash: location.hash, row: place.row,
  heading: document.querySelector("#detail h2").textContent,
  text: document.querySelector("#detail .text").textContent,
  bold: document.querySelector("#detail .current")?.textContent,
  focus: groups.indexOf(document.activeElement),
  selected: groups.findIndex(group => group.getAttribute("aria-selected") === "true"),
  path: edges.flatMap((edge, i) => edge?.classList.contains("path") ? [i] : []),
}; };
const press = key => document.activeElement.dispatchEvent(
  new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
const click = i => {
  const picture = document.querySelector("#canvas svg");
  const corner = picture.getBoundingClientRect();
  const clientX = corner.left + place.x(nodesShown()[i]) + 2;
  const clientY = corner.top + place.y(nodesShown()[i]) - 2;
  picture.dispatchEvent(new MouseEvent("click", { clientX, clientY, bubbles: true }));
};
setTimeout(() => {
  note("start");
  click(1); note("click");
  for (const key of ["ArrowRight", "ArrowDown", "ArrowDown", "ArrowLeft", "ArrowUp", "ArrowLeft"]) {
    press(key);
    note(Object.keys(seen).length + " " + key);
  }
  press("ArrowLeft"); note("left of the prompt");
  click(6); byId("larger").click(); note("larger");
  byId("fit").click(); note("fit");
  byId("which").value = 1; byId("which").dispatchEvent(new Event("input")); note("slider");
  byId("earlier").click(); note("earlier");
  byId("which").value = 2; byId("which").dispatchEvent(new Event("input"));
  const images = document.querySelectorAll("img").length;
  const result = { seen, images, attacked: window.attacked ?? 0,
                   marks: document.querySelectorAll(".node").length,
                   width: document.documentElement.scrollWidth - window.innerWidth };
  const out = document.createElement("pre");
  out.id = "result";
  out.textContent = JSON.stringify(result);
  document.body.append(out);
}, 500);
"""


def node(parent, text, reward, advantage, finished=False):
    figures = {"reward": reward, "advantage": advantage, "tokens": 5, "finished": finished}
    return {"parent": parent, "text": text, **figures}


def record(update, nodes, problem="1+2"):
    return {"update": update, "problem": problem, "answer": "3", "nodes": nodes}


SMALL = [
    node(-1, "", 0.5, 0.0),
    node(0, "one ", 0.5, -1.0),
    node(0, "two ", 1.0, 1.0),
    node(1, r"\boxed{3}", 1.0, 2.5, finished=True),
    node(1, "four", 0.0, -2.0),
    node(2, r"\boxed{3}", 1.0, 0.0, finished=True),
    node(2, r"six \boxed{3}", 1.0, 0.0, finished=True),
]


def wide_tree():
    """Eight by eight by eight steps, all with hostile texts."""
    nodes = [node(-1, "", 0.5, 0.0)]
    for depth, size in enumerate((1, 8, 64)):
        parents = range(len(nodes) - size, len(nodes))
        for parent in parents:
            nodes += [node(parent, ATTACK, 0.5, 0.1 * i - 0.35, depth == 2) for i in range(8)]
    return nodes


def drive(page: Path, browser: str, width: int) -> dict:
    """Adds the driver to a page, opens it in the browser and returns what the driver noted."""
    digest = base64.b64encode(hashlib.sha256(DRIVER.encode()).digest()).decode()
    text = page.read_text(encoding="utf-8")
    text = text.replace("script-src '", f"script-src 'sha256-{digest}' '", 1)
    driven = page.with_name("driven.html")
    driven.write_text(text.replace("</body>", f"<script>{DRIVER}</script></body>"))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000"]
    command = [browser, *flags, f"--window-size={width},900", "--dump-dom", driven.as_uri()]
    dumped = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return json.loads(html.unescape(re.search('<pre id="result">(.*?)</pre>', dumped, re.S)[1]))


def check(result: dict) -> None:
    seen = result["seen"]
    for name, view in seen.items():
        print(f"{name:20} tree {view['tree']} node {view['node']}: {view['heading']}")
        assert (
            view["selected"] == view["node"] and view["hash"] == f"#{view['tree']}.{view['node']}"
        )

    # The step with the largest advantage comes first; its text follows that of the step before it.
    assert seen["start"]["node"] == 3 and seen["start"]["text"] == r"one \boxed{3}"
    assert seen["start"]["bold"] == r"\boxed{3}" and seen["start"]["path"] == [1, 3]
    assert "leaf, right" in seen["start"]["heading"]

    # Keys: to the child, its sibling, its cousin; to the parent, its sibling; to the prompt.
    assert seen["click"]["node"] == 1
    visited = [view["node"] for name, view in seen.items() if "Arrow" in name]
    assert visited == [3, 4, 5, 2, 1, 0]
    focused = [view["focus"] for name, view in seen.items() if "Arrow" in name]
    assert focused == visited
    assert "leaf, wrong, cut off" in seen["3 ArrowDown"]["heading"]
    assert seen["left of the prompt"]["node"] == 0 and seen["left of the prompt"]["text"] == "1+2"

    # Zooming keeps the selection; another tree starts anew.
    assert seen["larger"]["node"] == seen["fit"]["node"] == 6
    assert seen["larger"]["row"] > seen["fit"]["row"]
    assert seen["slider"]["tree"] == 1 and seen["earlier"]["tree"] == 0

    # Hostile texts of 584 steps are text, and the page is no wider than its window.
    assert result["images"] == result["attacked"] == 0 and result["marks"] == 585
    assert result["width"] <= 0


def main() -> None:
    browser = sys.argv[1] if len(sys.argv) > 1 else "chromium"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trees.jsonl"
        trees = [record(1, SMALL), record(2, SMALL), record(3, wide_tree(), problem=ATTACK)]
        path.write_text("".join(json.dumps(tree) + "\n" for tree in trees))
        page = write_trees(path)
        for width in (1400, 500):
            print(f"--- {width} pixels wide ---")
            check(drive(page, browser, width))
    print("all as it should be")


if __name__ == "__main__":
    main()
