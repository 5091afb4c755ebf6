"""Importing a module of the project has no side effect: nothing is registered, chosen or asked."""

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


KNOWN = {"plot_results": "chooses matplotlib's backend"}


@pytest.mark.parametrize(
    "module",
    [
        pytest.param(name, marks=pytest.mark.xfail(reason=KNOWN[name])) if name in KNOWN else name
        for name in MODULES
    ],
)
def test_an_import_has_no_side_effect(module, effects):
    assert effects[module] == []
