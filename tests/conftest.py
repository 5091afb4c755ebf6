"""Small random models of every supported family, hand-made trees, and where the real problems may
lie."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # the tests ask nothing of the network
os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # of each process: several test files run side by side
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import json
import subprocess
import time
from collections import Counter
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma3TextConfig,
    LlamaConfig,
    Qwen2Config,
    Qwen3Config,
)

from tree import Tree

ROOT = Path(__file__).resolve().parents[1]
TINY_BASE = ROOT / "data" / "tiny_base"
REAL_DATA = ROOT.parent / "shared" / "data"
VOCABULARY = 100
FAMILIES = {
    "qwen2": Qwen2Config,
    "qwen3": Qwen3Config,
    "llama": LlamaConfig,
    "gemma3": Gemma3TextConfig,
}

TRIED, SURVIVED = Counter(), Counter()
STARTED = time.monotonic()


@contextmanager
def fault(name: str, times: int = 1):
    """Counts what is tried and, where the test holds, survived: the table of `make faults`."""
    TRIED[name] += times
    yield
    SURVIVED[name] += times


def pytest_terminal_summary(terminalreporter):
    if "KILLS" in os.environ:
        terminalreporter.write_line("\n| fault | tried | survived |\n|---|---|---|")
        for name, times in TRIED.items():
            terminalreporter.write_line(f"| {name} | {times:,} | {SURVIVED[name]:,} |")
    # Only `make faults` sets all three.
    if {"KILLS", "WORKER_KILLS", "HOSTILE"} <= os.environ.keys():
        record_faults(ROOT / "results" / "faults.json")


def record_faults(path: Path) -> None:
    """Writes that table as results/make_tables.py reads it."""
    record = {
        "command": "make faults",
        "machine": f"{os.cpu_count()} CPU cores",
        "seconds": round(time.monotonic() - STARTED),
        "rows": [
            {"fault": name, "tried": times, "survived": SURVIVED[name]}
            for name, times in TRIED.items()
        ],
    }
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


# A user, network and mount namespace of one's own: for other machines and other disks. Not
# permitted everywhere.
NAMESPACES = ["unshare", "--user", "--map-root-user", "--net", "--mount"]


@pytest.fixture(scope="session")
def namespaces():
    try:
        permitted = subprocess.run([*NAMESPACES, "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        permitted = False
    if not permitted:
        pytest.skip("namespaces are not permitted here")
    return NAMESPACES


def random_model(family: str, scale: float = 8.0, **settings):
    """A two-layer model in float32; `scale` widens its weights, so that its distributions are far
    from uniform."""
    torch.manual_seed(0)
    sizes = dict(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=256,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=1,
    )
    if family == "gemma3":  # one layer of each kind, with a window that the tests' paths exceed
        sizes |= dict(sliding_window=6, layer_types=["sliding_attention", "full_attention"])
    model = AutoModelForCausalLM.from_config(FAMILIES[family](**sizes | settings)).float()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(scale)
    return model.eval()


@pytest.fixture(scope="session")
def tokenizer():
    return AutoTokenizer.from_pretrained(TINY_BASE)


@pytest.fixture(scope="session")
def tiny_base():
    return AutoModelForCausalLM.from_pretrained(TINY_BASE, dtype=torch.float32).eval()


def grading_servers() -> list[psutil.Process]:
    """The fork servers of this process's Graders, one for each."""
    return [process for process in psutil.Process().children() if _runs_workers(process)]


def grading_workers() -> list[psutil.Process]:
    """The live workers of this process's Graders: children of the fork servers."""
    workers = []
    for server in grading_servers():
        with suppress(psutil.NoSuchProcess):
            workers += [process for process in server.children() if _runs_workers(process)]
    return workers


def _runs_workers(process: psutil.Process) -> bool:
    """Whether it is a grading process; one that was just killed has no command line any more."""
    try:
        return any("workers.py" in word for word in process.cmdline())
    except psutil.NoSuchProcess:  # of which a zombie is one
        return False


def random_tree(rng, nodes: int, prompt: int = 5, longest: int = 4) -> Tree:
    """A tree of any shape with random tokens and log-probabilities."""
    parent = [-1] + [int(rng.integers(0, i)) for i in range(1, nodes)]
    depth = [0]
    for p in parent[1:]:
        depth.append(depth[p] + 1)
    sizes = [0] + [int(rng.integers(1, longest + 1)) for _ in range(1, nodes)]
    return Tree(
        prompt_ids=rng.integers(2, VOCABULARY, prompt).tolist(),
        parent=parent,
        depth=depth,
        tokens=[torch.from_numpy(rng.integers(2, VOCABULARY, n)) for n in sizes],
        logprobs=[torch.from_numpy(-rng.random(n)) for n in sizes],
        finished=[False] * nodes,
    )


def path_logprobs(model, tree: Tree, node: int, temperature: float = 1.0) -> torch.Tensor:
    """Log-probabilities of a node's tokens by one plain forward pass over its path: the
    definition."""
    ids = tree.prompt_ids + tree.completion_ids(node)
    logits = model(torch.tensor([ids])).logits[0].float() / temperature
    count = len(tree.tokens[node])
    predictions = logits.log_softmax(-1)[len(ids) - count - 1 : len(ids) - 1]
    return predictions.gather(1, tree.tokens[node][:, None]).squeeze(1)
