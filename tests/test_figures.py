"""Every figure that README.md and results/README.md state stands in a committed JSON; every README
command parses."""

import json
import re
import shlex

import pytest
from conftest import ROOT

import eval_math
import train_treerpo
from eval_math import format_table
from run.flags import parse_flags
from run_ablations import report

README = (ROOT / "README.md").read_text()
SWEEPS = sorted((ROOT / "results" / "ablations").glob("*/results.json"))


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.parent.name)
def test_tables_of_sweeps_are_those_of_their_json(path):
    curves = json.loads(path.read_text())
    assert path.with_name("table.md").read_text() == report(
        f"recipes/ablations/{path.parent.name}.yaml", curves
    )


@pytest.mark.parametrize("name", ["README.md", "results/README.md"])
def test_intervals_are_those_of_the_tables(name):
    """Every "a ± b" stands in a sweep's table or in the demo's evaluations."""
    rows = [
        json.loads(line)
        for line in (ROOT / "results" / "demo" / "evaluations.jsonl").read_text().splitlines()
    ]
    known = "".join(path.with_name("table.md").read_text() for path in SWEEPS)
    known += "".join(format_table(row["evaluation"]) for row in rows)
    stated = re.findall(r"[-+]?[\d.,]+ ± [\d.,]*\d", (ROOT / name).read_text())
    assert len(stated) > 5 and not [figure for figure in stated if figure not in known]


def test_ratios_are_those_of_the_benchmarks():
    known = set()
    for path in (ROOT / "results" / "benchmarks").glob("*.json"):
        for rival in json.loads(path.read_text()).get("rivals", {}).values():
            known |= {
                f"{value:.{digits}f}"
                for value in (rival["ratio"], *rival["range"])
                for digits in (1, 2)
            }
    speed = README[README.index("## Speed") : README.index("## Flags that matter")]
    stated = re.findall(r"(\d+\.\d+) x", speed) + [
        n for pair in re.findall(r"\(([\d.]+) to ([\d.]+)", speed) for n in pair
    ]
    assert len(stated) > 10 and not [figure for figure in stated if figure not in known]


def test_commands_name_flags_that_exist(monkeypatch):
    monkeypatch.chdir(ROOT)
    pattern = r"(?:^    |`)((?:python|accelerate launch) [^`#\n\\]*(?:\\\n[^`#\n\\]*)*)"
    commands = re.findall(pattern, README, re.MULTILINE)
    kinds = {"train_treerpo.py": train_treerpo.Flags, "eval_math.py": eval_math.Flags}
    parsed = 0
    for command in commands:
        words = shlex.split(command.replace("\\\n", " "))
        script = next((word for word in words if word.endswith(".py")), "train_treerpo.py")
        assert (ROOT / script).is_file()
        if script in kinds and script in words and "--help" not in words:
            parse_flags(kinds[script], words[words.index(script) + 1 :], "")
            parsed += 1
    assert parsed > 5
