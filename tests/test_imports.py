"""What imports what, and that importing a module of the project has no side effect."""

import ast
import importlib
import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT

MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for folder in (ROOT, ROOT / "answers", ROOT / "data", ROOT / "run")
    for path in folder.glob("*.py")
    if path.stem != "__init__"
)

# Run in a fresh process, with the project's folder and the modules as arguments. Prints {module:
# what its import changed, or asked the device or the environment}.
PROBE = """
import importlib, json, logging, os, sys
import accelerate, matplotlib, peft, torch, transformers

root, *modules = sys.argv[1:]
sys.argv = ["no program"]
sys.path.insert(0, root)
asked = []

def watched(function, name):
    def call(*args, **kwargs):
        caller = sys._getframe(1).f_code.co_filename
        if caller.startswith(root) and "/.venv/" not in caller:
            asked.append(" ".join([name, *map(str, args[-1:])]))
        return function(*args, **kwargs)
    return call

def state():
    interfaces = (transformers.AttentionInterface, transformers.AttentionMaskInterface)
    return {
        "attention": [dict(interface._global_mapping) for interface in interfaces],
        "environment": dict(os.environ),
        "matplotlib backend": matplotlib.get_backend(auto_select=False),
        "torch.cuda": torch.cuda.is_initialized(),
        "torch settings": (torch.get_default_dtype(), torch.get_num_threads(),
                           torch.get_float32_matmul_precision()),
        "root logger": list(logging.getLogger().handlers),
    }

torch.cuda.is_available = watched(torch.cuda.is_available, "torch.cuda.is_available")
torch.cuda.device_count = watched(torch.cuda.device_count, "torch.cuda.device_count")
os.environ.get = watched(os.environ.get, "os.environ.get")
os.getenv = watched(os.getenv, "os.getenv")

effects = {}
for module in modules:
    before = state()
    importlib.import_module(module)
    after = state()
    effects[module] = [key for key in before if before[key] != after[key]] + asked
    asked.clear()
print(json.dumps(effects))
"""


@pytest.fixture(scope="module")
def effects():
    environment = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    # An effect is put down to the first module that brings it, so the folders' modules, which the
    # scripts import, come first.
    modules = sorted(MODULES, key=lambda name: ("." not in name, name))
    done = subprocess.run(
        [sys.executable, "-c", PROBE, str(ROOT), *modules],
        capture_output=True,
        encoding="utf-8",
        env=environment,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("module", MODULES)
def test_an_import_has_no_side_effect(module, effects):
    assert effects[module] == []


# --- What imports what ---

# The flow of data. A module may import those before it.
CHAIN = (
    "data",
    "tree",
    "generate",
    "fixed_shape",
    "tree_sampler",
    "reward",
    "reward_functions",
    "advantage",
    "packing",
    "policy",
    "learner",
    "train_treerpo",
)
PLACES = {name: index for index, name in enumerate(CHAIN)}


def imported_by(module: str) -> set[str]:
    """The project's modules that a module imports, at its top or in a function."""
    path = ROOT / (module.replace(".", "/") + ".py")
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            names.add(node.module)
        elif isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
    roots = {name.split(".")[0] for name in MODULES}
    return {name for name in names if name and name.split(".")[0] in roots}


@pytest.mark.parametrize("folder", ["answers", "run"])
def test_a_folder_that_knows_no_tree_imports_nothing_of_the_project(folder):
    for module in MODULES:
        if module.startswith(f"{folder}."):
            others = {name for name in imported_by(module) if name.split(".")[0] != folder}
            assert not others, module


def test_the_tree_needs_nothing_of_the_project():
    assert not imported_by("tree")


@pytest.mark.parametrize("module", [name for name in MODULES if name.split(".")[0] in PLACES])
def test_no_module_imports_a_later_one_of_the_chain(module):
    place = PLACES[module.split(".")[0]]
    later = {name for name in imported_by(module) if PLACES.get(name.split(".")[0], -1) > place}
    assert not later


# Names that other code may rely on, and where they are imported from.
CONTRACT = {
    "reward": ("extract_answer", "grade", "Grader"),
    "advantage": ("step_rewards", "sibling_advantages", "leaf_advantages"),
    "tree": ("Tree",),
    "tree_sampler": ("Tree", "TreeSampler"),
    "policy": ("pack", "token_logprobs", "policy_loss"),
    "data.problems": ("load_problems", "encode_prompt", "completion_text"),
    "data.arithmetic": ("problems", "prompt", "score", "answer"),
    "data.mathematics": ("problems", "prompt", "score", "answer"),
}


@pytest.mark.parametrize("module", CONTRACT)
def test_names_that_others_rely_on_are_there(module):
    loaded = importlib.import_module(module)
    assert not [name for name in CONTRACT[module] if not hasattr(loaded, name)]
