"""The documents: links lead somewhere, flags exist, every metric is explained, names are those of
the code."""

import ast
import dataclasses
import os
import re

import pytest
import yaml
from conftest import ROOT
from test_scripts import train

import eval_math
import train_treerpo

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "results/README.md"])
README_BYTES = 9000

TRAINING_FLAGS = {field.name for field in dataclasses.fields(train_treerpo.Flags)}
EVALUATION_FLAGS = {field.name for field in dataclasses.fields(eval_math.Flags)}
# Flags of other programs that documents name: pip, pytest, make's commands and accelerate launch.
FLAGS_OF_OTHERS = {
    "config",
    "config_file",
    "cpu",
    "help",
    "machine_rank",
    "main_process_ip",
    "main_process_port",
    "multi_gpu",
    "num_machines",
    "num_processes",
}
# Names that documents give as those of before.
RETIRED_FLAGS = {"prompts_per_step"}


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def section(name: str, title: str) -> str:
    """The part of a document under a heading of level two."""
    text = text_of(name)
    start = text.index(f"\n## {title}\n")
    end = text.find("\n## ", start + 1)
    return text[start:] if end < 0 else text[start:end]


def first_cells(table: str) -> list[str]:
    """The names in backticks in the first column of the tables in a text."""
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row.split(" | ")[0])]


def test_the_readme_is_short():
    assert len(text_of("README.md").encode()) <= README_BYTES


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files(path):
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text(encoding="utf-8"))
    inside = [link for link in links if not link.startswith("http")]
    assert [link for link in inside if not (path.parent / link).exists()] == []


def flags_of_scripts() -> set[str]:
    """The flags that scripts give to a parser as words, and those that the benchmarks' helper
    `arguments` makes of its keywords."""
    script = text_of("benchmarks/gpu.sh")
    flags = set(re.findall(r"^ +--(\w+)\)", script, re.MULTILINE))
    for path in [*ROOT.glob("*.py"), *(ROOT / "benchmarks").glob("*.py")]:
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(call, ast.Call):
                continue
            for word in call.args:
                if isinstance(word, ast.Constant) and str(word.value).startswith("--"):
                    flags.add(word.value.removeprefix("--"))
            if ast.unparse(call.func) == "arguments":
                flags |= {keyword.arg for keyword in call.keywords}
    return flags


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_flags_that_documents_name_exist(path):
    known = TRAINING_FLAGS | EVALUATION_FLAGS | FLAGS_OF_OTHERS | RETIRED_FLAGS | flags_of_scripts()
    named = re.findall(r"(?<![\w-])--([a-z]\w+)", path.read_text(encoding="utf-8"))
    assert sorted(set(named) - known) == []


def test_every_metric_is_explained(tmp_path):
    """A run with everything that is logged only when asked for."""
    rows = train(tmp_path / "run", max_steps=1, save_steps=0, beta=0.01)
    (row,) = [row for row in rows if "reward" in row]
    explained = first_cells(section("docs/training.md", "Metrics"))
    patterns = [name.replace("depth_d", r"depth_\d+") for name in explained]
    names = [name for name in row if name != "update"]
    assert len(names) > 15
    assert [n for n in names if not any(re.fullmatch(p, n) for p in patterns)] == []


def test_flags_that_may_differ_on_resume_are_those_of_the_code():
    from run.checkpoint import FREE_ON_RESUME

    table = section("docs/training.md", "Resuming")
    # These two say which run is resumed.
    assert set(first_cells(table)) == FREE_ON_RESUME - {"output_dir", "resume_from_checkpoint"}


def test_estimators_and_scales_are_those_of_the_code():
    from advantage import ESTIMATORS, default_scale

    rows = re.findall(
        r"^\| `(\w+)` \|.*\| (\w+) \|$", section("docs/design.md", "Credit"), re.MULTILINE
    )
    assert dict(rows) == {name: default_scale(name) for name in ESTIMATORS}


# --- Coming from TRL ---


def names_of_trl() -> set[str]:
    trl = pytest.importorskip("trl")
    script = pytest.importorskip("trl.scripts.grpo")
    kinds = (trl.GRPOConfig, trl.ModelConfig, script.GRPOScriptArguments)
    return {field.name for kind in kinds for field in dataclasses.fields(kind)}


def test_names_that_are_the_same_in_trl():
    text = section("docs/flags.md", "Coming from TRL")
    paragraph = next(part for part in text.split("\n\n") if part.startswith("`model_name"))
    named = set(re.findall(r"`(\w+)`", paragraph))
    assert named == TRAINING_FLAGS & names_of_trl()


@pytest.mark.parametrize("name", ["README.md", "docs/flags.md"])
def test_names_of_trl_that_have_another_word_here(name):
    table = text_of(name)[text_of(name).index("| TRL | here |") :]
    others = [cell for cell in first_cells(table.split("\n\n")[0]) if not cell.endswith("*")]
    different = [other for other in others if other not in TRAINING_FLAGS]
    assert len(different) >= 6
    # The whole table of the README but its last row; all of docs/flags.md.
    assert len(others) - len(different) == (3 if name == "README.md" else 0)
    if name == "docs/flags.md":
        advice = pytest.importorskip("run.trl")
        assert set(advice.TRL_NAMES) <= set(others)
        assert [other for other in others if advice.trl_advice(other) is None] == []


# --- Citation ---


def test_the_citation_names_the_papers_authors():
    citation = yaml.safe_load(text_of("CITATION.cff"))
    paper = citation["preferred-citation"]
    names = [f"{author['given-names']} {author['family-names']}" for author in paper["authors"]]
    head = " ".join(text_of("docs/paper.md").split("## ")[0].split())
    assert f"{', '.join(names[:-1])} and {names[-1]}" in head
    assert paper["title"] in head and "2506.05183" in paper["url"]
    for key in ("cff-version", "message", "title", "authors"):
        assert citation[key]


def test_recipes_that_documents_name_exist():
    named = set()
    for path in DOCUMENTS:
        named |= set(re.findall(r"recipes/[\w./-]+\.yaml", path.read_text(encoding="utf-8")))
    named -= {"recipes/ablations/NAME.yaml"}
    assert named and [name for name in named if not os.path.exists(ROOT / name)] == []
