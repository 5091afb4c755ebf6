"""Every table of measured figures is what results/make_tables.py writes, every interval in prose
stands in a table, and every command named in the documents can be run."""

import json
import re
import shlex
import statistics
from collections import Counter

import conftest
import pytest
from conftest import ROOT
from test_scripts import refused

import eval_math
import train_treerpo
from results import make_tables
from results.evidence import FRESH_SEEDS
from run.flags import parse_flags
from run_ablations import check_arms, read_sweep, report

DOCUMENTS = make_tables.documents(ROOT)
SWEEPS = sorted((ROOT / "results" / "ablations").glob("*/results.json"))
BENCHMARKS = sorted((ROOT / "results" / "benchmarks").glob("*.json"))
MEASUREMENTS = (
    *make_tables.SAMPLING,
    *make_tables.TRAINING,
    *make_tables.UPDATE,
    *make_tables.GRADING,
    *make_tables.MEMORY,
    *make_tables.PROFILES,
    *make_tables.CREDIT,
)


def marked(name: str, table: str) -> str:
    return f"Before.\n<!-- begin {name} -->\n{table}\n<!-- end {name} -->\nAfter.\n"


# --- Tables that write themselves ---


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_running_the_script_changes_nothing(path):
    text = path.read_text()
    assert make_tables.rewrite(text, path.name) == text, "run python results/make_tables.py"


@pytest.mark.parametrize("name", make_tables.TABLES)
def test_a_changed_digit_changes_back(name):
    """Each digit of the first row of figures, one at a time, and a row that is missing."""
    table = make_tables.TABLES[name]()
    right = marked(name, table)
    start = table.index("\n", table.index("---"))
    digits = [match.start() for match in re.finditer(r"\d", table) if match.start() > start]
    assert len(digits) > 3
    for position in digits[:20]:
        other_digit = str((int(table[position]) + 1) % 10)
        changed = table[:position] + other_digit + table[position + 1 :]
        assert make_tables.rewrite(marked(name, changed), "x") == right
    assert make_tables.rewrite(marked(name, "").replace("\n\n", "\n"), "x") == right


def copy_of_the_documents(folder):
    for path in DOCUMENTS:
        copy = folder / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(path.read_text())


def test_the_script_names_the_files_that_it_changed(tmp_path, monkeypatch, capsys):
    copy_of_the_documents(tmp_path)
    monkeypatch.setattr(make_tables, "ROOT", tmp_path)
    make_tables.main()
    assert capsys.readouterr().out == "nothing changed\n"
    page = tmp_path / "docs" / "sweeps.md"
    right = page.read_text()
    page.write_text(right.replace("80.9 ± 1.8", "81.9 ± 1.8", 1))
    make_tables.main()
    assert capsys.readouterr().out == "changed: docs/sweeps.md\n"
    assert page.read_text() == right


@pytest.mark.parametrize(
    "text, says",
    [
        ("<!-- begin speed -->\n<!-- end speed -->", "line 1: <!-- begin speed -->: there is no"),
        ("x\n<!-- end speed -->", "line 2: <!-- end speed -->: there is no such table"),
        ("<!-- begin demo -->\n| 1 |", "line 1: <!-- begin demo -->: has no <!-- end demo -->"),
        (
            "<!-- begin demo -->\n<!-- begin update -->\n<!-- end update -->",
            "line 1: <!-- begin demo -->: has no <!-- end demo --> before line 2",
        ),
        (
            "<!-- begin demo -->\n<!-- end update -->",
            "line 2: <!-- end update -->: has no <!-- begin update -->",
        ),
        ("<!-- end demo -->", "line 1: <!-- end demo -->: has no <!-- begin demo -->"),
        ("<!--begin demo-->\n<!--  end  demi  -->", "line 2: <!-- end demi -->: there is no"),
    ],
)
def test_bad_markers_are_refused_and_nothing_is_written(text, says, tmp_path, monkeypatch, capsys):
    copy_of_the_documents(tmp_path)
    stale = marked("demo", "an old table")
    (tmp_path / "README.md").write_text(stale)
    (tmp_path / "docs" / "runs.md").write_text(text)
    monkeypatch.setattr(make_tables, "ROOT", tmp_path)
    assert f"docs/runs.md, {says}" in refused(make_tables.main, [], capsys)
    assert (tmp_path / "README.md").read_text() == stale


def test_markers_in_an_indented_example_are_text():
    example = "Tables stand between\n\n    <!-- begin NAME -->\n    <!-- end NAME -->\n"
    assert make_tables.rewrite(example, "x") == example


# --- The figures themselves ---


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.parent.name)
def test_tables_of_sweeps_are_those_of_their_json(path):
    curves = json.loads(path.read_text())
    sweep = path.parent.name
    first = FRESH_SEEDS.get(sweep)
    more = f" --first_seed {first}" if first else ""
    table = report(f"recipes/ablations/{sweep}.yaml", curves, more)
    assert path.with_name("table.md").read_text() == table


def test_every_sweep_has_a_table_and_its_recipe_the_same_arms():
    assert {path.parent.name for path in SWEEPS} == set(make_tables.SWEEPS)
    for path in SWEEPS:
        recipe = ROOT / "recipes" / "ablations" / f"{path.parent.name}.yaml"
        _, arms = read_sweep(recipe)
        assert list(json.loads(path.read_text())) == list(arms)


def test_differences_to_grpo_against_the_definition():
    """The table of results, worked out anew for the sweep tuned: interpolated, seed by seed."""
    curves = json.loads((ROOT / "results" / "ablations" / "tuned" / "results.json").read_text())
    budget = min(points[-1]["sampled_tokens"] for runs in curves.values() for points in runs)

    def score(points):
        for low, high in zip(points, points[1:]):
            if low["sampled_tokens"] <= budget <= high["sampled_tokens"]:
                width = high["sampled_tokens"] - low["sampled_tokens"]
                weight = (budget - low["sampled_tokens"]) / width
                return 100 * ((1 - weight) * low["avg@2"] + weight * high["avg@2"])
        raise AssertionError("no two evaluations around the budget")

    gains = [score(tree) - score(flat) for tree, flat in zip(curves["4-2"], curves["grpo-5"])]
    half_width = 2.776 * statistics.stdev(gains) / 5**0.5
    cell = f"{statistics.fmean(gains):+.1f} ± {half_width:.1f}"
    row = next(line for line in make_tables.results_table().splitlines() if "tuned: Tree" in line)
    assert row.split(" | ")[3:] == [cell, "5 |"]


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_ratios_are_those_of_the_seconds(path):
    measured = json.loads(path.read_text())
    assert any(path.stem == measurement.file for measurement in MEASUREMENTS)
    rivals = measured.get("rivals", {})
    ours = next((rival["seconds"] for rival in rivals.values() if rival["ratio"] == 1.0), None)
    for rival in rivals.values():
        ratios = [theirs / mine for theirs, mine in zip(rival["seconds"], ours)]
        assert rival["ratio"] == pytest.approx(statistics.median(ratios))
        assert rival["range"] == pytest.approx([min(ratios), max(ratios)])


def test_the_faults_that_were_tried_are_recorded_as_the_table_reads_them(tmp_path, monkeypatch):
    monkeypatch.setattr(conftest, "TRIED", Counter({"full disk: a clear line": 1200}))
    monkeypatch.setattr(conftest, "SURVIVED", Counter({"full disk: a clear line": 1199}))
    monkeypatch.setattr(make_tables, "RESULTS", tmp_path)
    conftest.record_faults(tmp_path / "faults.json")
    table = make_tables.faults_table()
    assert "| full disk: a clear line | 1,200 | 1,199 |" in table
    assert "`make faults`: " in table and "seconds on" in table


# Measured with the default of every flag but the model, whose name names the file.
WITH_DEFAULTS = {
    "sampling": "sampling-4-tiny",
    "training": "training-50m",
    "grading": "grading-math",
}


def settings_of(file: str) -> dict:
    return json.loads((ROOT / "results" / "benchmarks" / f"{file}.json").read_text())["settings"]


@pytest.mark.parametrize("measurement", MEASUREMENTS, ids=lambda measurement: measurement.file)
def test_commands_of_benchmarks_are_those_that_measured(measurement):
    """Each flag of a table's command has the value that the JSON records, and no flag that was not
    at its default is left out."""
    settings = settings_of(measurement.file)
    values_of: dict[str, list[str]] = {}
    for word in measurement.flags.split():
        if word.startswith("--"):
            name = word.removeprefix("--")
            values_of[name] = []
        elif word != "DIR":
            values_of[name].append(word)
    for name, words in values_of.items():
        value = settings[name]
        recorded = value if isinstance(value, list) else [value]
        assert [str(part) for part in recorded] == (words or ["True"])

    script = measurement.file.removeprefix("profile-").split("-")[0]
    if script in WITH_DEFAULTS:
        defaults = settings_of(WITH_DEFAULTS[script])
        changed = {
            name for name in settings if settings[name] != defaults.get(name, settings[name])
        }
        assert changed - {"model", "data_dir"} <= values_of.keys()


# --- Prose ---

INTERVAL = re.compile(r"[\d.,]*\d ± [\d.,]*\d")


def outside_tables(text: str) -> str:
    return re.sub(r"<!-- begin .*?<!-- end [^>]*>", "", text, flags=re.DOTALL)


def intervals(text: str) -> list[str]:
    """Every "a ± b", without its sign, which in prose is often a word.

    >>> intervals("it is 3.0 ± 2.2\\npoints behind, 59,549 ± 2,359 tokens.")
    ['3.0 ± 2.2', '59,549 ± 2,359']
    """
    return INTERVAL.findall(" ".join(text.split()))


def test_intervals_in_the_sections_of_sweeps_are_those_of_their_tables():
    page = outside_tables((ROOT / "docs" / "sweeps.md").read_text())
    sections = re.findall(r"^### \[([\w-]+)\].*?$(.*?)(?=^##)", page, re.MULTILINE | re.DOTALL)
    assert {name for name, _ in sections} == set(make_tables.SWEEPS)
    checked = 0
    for name, text in sections:
        table = (ROOT / "results" / "ablations" / name / "table.md").read_text()
        known = set(intervals(table))
        assert set(intervals(text)) <= known, name
        checked += len(intervals(text))
    assert checked > 30


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_intervals_in_prose_stand_in_a_table(path):
    known = {figure for make in make_tables.TABLES.values() for figure in intervals(make())}
    for sweep in SWEEPS:
        known |= set(intervals(sweep.with_name("table.md").read_text()))
    stated = intervals(outside_tables(path.read_text()))
    assert not [figure for figure in stated if figure not in known]


# --- Commands ---

# What follows four spaces or stands in backticks, with lines that end in a backslash joined.
COMMAND = re.compile(
    r"(?:^    |`)((?:python|accelerate launch) [^`#\n\\]*(?:\\\n[^`#\n\\]*)*)", re.MULTILINE
)


def commands() -> list[list[str]]:
    texts = [command for path in DOCUMENTS for command in COMMAND.findall(path.read_text())]
    return [shlex.split(text.replace("\\\n", " ")) for text in texts]


def test_commands_name_flags_that_exist(monkeypatch):
    monkeypatch.chdir(ROOT)
    kinds = {"train_treerpo.py": train_treerpo.Flags, "eval_math.py": eval_math.Flags}
    parsed = dict.fromkeys((*kinds, "run_ablations.py"), 0)
    for words in commands():
        script = next((word for word in words if word.endswith(".py")), None)
        if script is None:
            continue
        assert (ROOT / script).is_file(), words
        arguments = words[words.index(script) + 1 :]
        if script in kinds and "--help" not in arguments:
            parse_flags(kinds[script], arguments, "")
            parsed[script] += 1
        # NAME stands for any sweep.
        if script == "run_ablations.py" and arguments[:1] != ["recipes/ablations/NAME.yaml"]:
            sweep = ROOT / arguments[0]
            check_arms(sweep, *read_sweep(sweep))
            parsed[script] += 1
    assert parsed["train_treerpo.py"] > 3
    assert parsed["eval_math.py"] > 1
    assert parsed["run_ablations.py"] >= len(SWEEPS)
