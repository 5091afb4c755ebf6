"""docs/hardware.md: its estimates are those of the code, and two processes send what it says."""

import importlib
import json
import re

import pytest
import torch
from conftest import ROOT, random_model
from test_recipes import model_without_weights, recipe_flags, smollm2_without_weights
from test_scripts import TWO_PROCESSES, adapter, read, script, words
from torch.utils._python_dispatch import TorchDispatchMode

import budget
import fixed_shape

TEXT = (ROOT / "docs" / "hardware.md").read_text(encoding="utf-8")
WORDS = " ".join(TEXT.split())
ESTIMATES = {
    cells[0].strip("`"): cells[2:7]
    for cells in (row.strip("| ").split(" | ") for row in TEXT.splitlines() if "estimate |" in row)
}


def model_of(name: str, flags):
    """The model of a recipe, without weights."""
    if name.startswith("smollm2"):
        return smollm2_without_weights(flags)
    return model_without_weights("7b" if "7b" in name else "1.5b", flags)


@pytest.mark.parametrize("name", ESTIMATES)
def test_estimates_are_those_of_a_dry_run(name):
    flags = recipe_flags(name)
    model = model_of(name, flags)
    sizes = budget.update_sizes(flags, flags.max_prompt_length, processes=1)
    memory = budget.update_memory(flags, model, sizes, torch.bfloat16)
    widths = "-".join(map(str, flags.branching))
    sampling, training = (memory.converted + part for part in (memory.caches, memory.activations))
    parts = (memory.weights, sampling, training)
    assert ESTIMATES[name] == [
        f"{widths} of {flags.step_tokens}",
        f"{sizes.sampled_tokens:,}",
        *(f"{part / budget.GIB:.1f}" for part in parts),
    ]


def test_every_recipe_of_a_real_model_has_its_estimate():
    recipes = {path.stem for path in (ROOT / "recipes").glob("*.yaml")}
    real = {name for name in recipes if re.search("qwen|smollm2", name)}
    assert ESTIMATES.keys() == real


def test_the_copy_of_all_weights_has_its_size():
    flags = recipe_flags("paper-qwen2.5-math-1.5b")
    copy = budget.converted_bytes(flags, model_of("1.5b", flags), torch.bfloat16)
    assert f"{copy / budget.GIB:.1f} GiB at 1.5B" in WORDS


def test_the_scaling_table_is_that_of_the_script(on_paper):
    scaling, _ = on_paper
    assert scaling.table() in TEXT
    alone, eight = scaling.update_on(1), scaling.update_on(8)
    assert f"{alone.total:,.0f} s. 300 batches: **{alone.total / 12:.0f} hours" in TEXT
    assert f"{eight.total:.0f} s: **{eight.total / 12:.0f} hours**" in TEXT
    # More processes than trees in a minibatch: training falls no further.
    assert scaling.update_on(128).train == scaling.update_on(64).train
    assert scaling.update_on(128).sample < scaling.update_on(64).sample


@pytest.fixture
def on_paper(monkeypatch):
    """The two scripts that compute what is not run."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("scaling"), importlib.import_module("roofline")


def test_the_floors_are_those_of_the_script(on_paper):
    scaling, roofline = on_paper
    arithmetic, card = roofline.Arithmetic.of(scaling.QWEN), roofline.CARDS["H100"]
    for rows in (8, 64, 256, 512):
        turns = [arithmetic.turn_seconds(rows, context, card) for context in (448, 832, 1216)]
        cells = " | ".join(f"{1000 * seconds:.2f}" for seconds in turns)
        assert f"| {rows} | {cells} |" in TEXT
    tree = roofline.tree_seconds(arithmetic, card, 1, 256, [8, 8, 8], 384, max_rows=512)
    flat = roofline.flat_seconds(arithmetic, card, 512, 256, 1152)
    assert f"a floor of {tree:.1f} s in slices of 512 rows" in WORDS
    assert f"512 flat completions one of {flat:.1f} s" in WORDS
    assert f"a tree gains {flat / tree:.1f} times at equal leaves" in WORDS


def test_the_cost_of_a_batch_is_that_of_the_scripts(on_paper):
    scaling, roofline = on_paper
    arithmetic, card = roofline.Arithmetic.of(scaling.QWEN), roofline.CARDS["H100"]
    tree = ([8, 8, 8], 384)
    tokens = 128 * roofline.tree_tokens(*tree)
    context = roofline.tree_context(256, *tree)
    floor = roofline.tree_seconds(arithmetic, card, 128, 256, *tree, max_rows=256)
    forward = arithmetic.forward_flops(tokens, context)
    trained = arithmetic.training_flops(tokens, context, all_weights=True)
    update = scaling.update_on(1)
    for says in (
        f"steps of 384 tokens: {tokens:,} tokens",
        f"slices of 256 rows is {floor:.0f} s; at 50 % of it {update.sample:.0f} s",
        f"{forward:.1e} FLOPs; at 40 % of 989e12 per second {update.reference:.0f} s",
        f"{trained:.2e} FLOPs; {update.train:.0f} s",
    ):
        assert says.replace("e+", "e") in WORDS
    slow = scaling.update_on(64, link=5e9)
    assert f"At 5 GB/s the reduction takes {slow.reduce:.0f} s, a seventh of an update" in WORDS
    assert slow.reduce / slow.total == pytest.approx(1 / 7, abs=0.01)


def test_what_a_reduction_sends():
    trained = {
        "paper-qwen2.5-math-1.5b": "all weights of the 1.5B model that is {} calls and {} GB",
        "paper-qwen2.5-math-1.5b-lora": "an adapter of rank 64 {} calls and {} GB",
    }
    for name, says in trained.items():
        model = model_of(name, recipe_flags(name))
        sizes = [p.numel() for p in model.parameters() if p.requires_grad]
        assert says.format(len(sizes), f"{4 * sum(sizes) / 1e9:.1f}") in WORDS


# --- What autocast converts, and what a fixed shape keeps ---


class Conversions(TorchDispatchMode):
    """Takes down the numbers of each weight matrix that is converted, call by call."""

    def __init__(self, model) -> None:
        super().__init__()
        self.weights = {id(weight) for weight in model.parameters() if weight.dim() > 1}
        self.sizes: list[int] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function is torch.ops.aten._to_copy.default and id(args[0]) in self.weights:
            self.sizes.append(result.numel() * result.element_size())
        return result


@pytest.mark.parametrize("family", ["qwen2", "gemma3"])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("sampling", [False, True])
def test_autocast_keeps_as_much_as_is_counted(family, tied, sampling):
    """Each weight is converted once, however often it is read until autocast ends."""
    model = random_model(family, tie_word_embeddings=tied)
    ids = torch.tensor([[5, 9, 23]])
    with Conversions(model) as seen, torch.autocast("cpu", torch.bfloat16):
        for _ in range(2):
            with torch.set_grad_enabled(not sampling):
                model(ids)
    flags = recipe_flags("paper-qwen2.5-math-1.5b")
    assert budget.converted_bytes(flags, model, torch.bfloat16) == sum(seen.sizes) > 0
    in_layers = 2 * sum(weight.numel() for weight in model.parameters() if weight.dim() > 1)
    embeddings = 2 * model.get_input_embeddings().weight.numel()
    assert sum(seen.sizes) == in_layers - (0 if tied else embeddings)


def test_where_autocast_is_off_nothing_is_converted():
    flags = recipe_flags("paper-qwen2.5-math-1.5b")
    assert budget.converted_bytes(flags, random_model("qwen2"), torch.float32) == 0
    adapter_flags = recipe_flags("paper-qwen2.5-math-1.5b-lora")
    assert budget.converted_bytes(adapter_flags, random_model("qwen2"), torch.bfloat16) == 0


def test_the_copy_can_be_what_does_not_fit(monkeypatch):
    flags = recipe_flags("paper-qwen2.5-math-1.5b")
    model = model_of("1.5b", flags)
    sizes = budget.update_sizes(flags, flags.max_prompt_length, processes=1)
    memory = budget.update_memory(flags, model, sizes, torch.bfloat16)
    enough = memory.weights + memory.converted + memory.caches

    def described(available: int) -> str:
        monkeypatch.setattr(budget, "device_memory", lambda device: available)
        device = torch.device("cuda")
        return budget.describe(flags, model, flags.max_prompt_length, 1, device, torch.bfloat16)

    assert "a copy of the weights in bfloat16 2.88, caches" in described(enough)
    assert "may not fit" not in described(enough)
    assert "sampling may not fit" in described(enough - 1)


def test_a_fixed_shape_keeps_the_columns_before_a_window(monkeypatch):
    name = "paper-qwen2.5-math-1.5b-lora"
    flags = recipe_flags(name)
    model = random_model("gemma3")  # one layer of two has a window, of 6 tokens
    config = model.config
    sizes = budget.update_sizes(flags, 100, processes=1)
    length = sizes.path_length

    def row_bytes(flags) -> float:
        return budget.update_memory(flags, model, sizes, torch.float32).caches / sizes.cached_rows

    assert row_bytes(flags) == budget.cache_bytes(config, length, 4)
    monkeypatch.setattr(fixed_shape, "suits", lambda model: True)
    per_token = 2 * config.num_key_value_heads * config.head_dim * 4
    assert row_bytes(flags) == 2 * length * per_token
    assert budget.cache_bytes(config, length, 4) == (length + 6) * per_token
    by_generate = recipe_flags(name, "--use_cuda_graph", "false")
    assert row_bytes(by_generate) == budget.cache_bytes(config, length, 4)


# --- What two processes send ---

# Stands before the trainer: writes down the all-reduces of each process.
RECORDER = """
import json, os, runpy, sys
import torch.distributed as dist

sent = []
all_reduce = dist.all_reduce

def recorded(tensor, *args, **kwargs):
    sent.append([str(tensor.dtype), tensor.numel()])
    return all_reduce(tensor, *args, **kwargs)

dist.all_reduce = recorded
sys.argv = sys.argv[1:]
sys.path.insert(0, os.getcwd())
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    with open(os.environ["SENT"] + os.environ["RANK"], "w") as file:
        json.dump(sent, file)
"""


def test_two_processes_send_gradients_once_per_minibatch(tmp_path, monkeypatch):
    """Each trained tensor once for each of the two optimizer steps, and little beside."""
    recorder = tmp_path / "recorder.py"
    recorder.write_text(RECORDER, encoding="utf-8")
    monkeypatch.setenv("SENT", str(tmp_path / "sent"))
    launch = [recorder if word == "train_treerpo.py" else word for word in TWO_PROCESSES]
    more = words(
        tmp_path / "run",
        max_steps=1,
        num_minibatches=2,
        save_steps=0,
        max_pack_tokens=128,
        warmup_steps=1,
    )
    script(*launch, "train_treerpo.py", *more)
    (row,) = read(tmp_path / "run" / "metrics.jsonl")
    assert row["trained_tokens"] > 0
    # A tensor of so few numbers could be taken for a sum.
    trained = [tensor.numel() for tensor in adapter(tmp_path / "run").values()]
    assert min(trained) > 16
    for rank in range(2):
        sent = json.loads((tmp_path / f"sent{rank}").read_text())
        assert len(sent) > len(trained)
        gradients = [size for dtype, size in sent if dtype == "torch.float32" and size > 16]
        steps = len(gradients) // len(trained)
        assert steps in (1, 2)  # a minibatch without signal makes none
        assert sorted(gradients) == sorted(trained * steps)
        assert sum(size for _, size in sent) - sum(gradients) < 100
