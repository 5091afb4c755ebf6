"""The engine of fixed shape against the one that calls generate and against re-prefilling, without
graphs; what happens to rows that end; and when a turn would be captured."""

from types import SimpleNamespace

import pytest
import torch
from conftest import FAMILIES, random_model
from peft import LoraConfig, get_peft_model
from test_models import DROPOUT, gaps, other_model
from test_tree_sampler import (
    PROMPTS,
    SEEDS,
    STOP_IDS,
    by_path,
    by_reprefilling,
    same,
    step_by_reprefilling,
)
from transformers import PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

import fixed_shape
from fixed_shape import FixedShapeEngine, decode_sdpa
from generate import Engine, Stream, evaluation_mode
from policy import check_sampler
from tree_sampler import TreeSampler

WIDTHS = [3, 2, 2]


@pytest.fixture
def on_cpu(monkeypatch):
    """Samplers take the engine of fixed shape here too, and look after every turn."""
    monkeypatch.setattr(fixed_shape, "suits", lambda model: True)
    monkeypatch.setattr(FixedShapeEngine, "turns_between_looks", 1)


def sampler_of(model, tokenizer, fixed: bool, **settings) -> TreeSampler:
    settings = {"branching": WIDTHS, "step_tokens": 5, "max_rows": 7, **settings}
    sampler = TreeSampler(model, tokenizer, use_cuda_graph=fixed, **settings)
    sampler.engine.stop_at(STOP_IDS)
    assert isinstance(sampler.engine, FixedShapeEngine) == fixed
    return sampler


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("delimiter", [None, "%"])
def test_three_ways_give_the_same_trees(family, delimiter, tokenizer, on_cpu):
    """Without a delimiter, and where rows end at one and are continued."""
    model = random_model(family, scale=3.0)
    fixed, by_generate = (
        sampler_of(model, tokenizer, fixed, step_delimiter=delimiter).sample(PROMPTS, SEEDS)
        for fixed in (True, False)
    )
    delimiter_ids = tokenizer.encode("%") if delimiter else []
    for tree, other, prompt, seed in zip(fixed, by_generate, PROMPTS, SEEDS):
        assert same(tree, other)
        expected = by_reprefilling(model, prompt, seed, WIDTHS, 5, delimiter_ids)
        nodes = by_path(tree)
        assert nodes.keys() - {()} == expected.keys()
        for path, (tokens, finished) in expected.items():
            assert (nodes[path][0], nodes[path][2]) == (tokens, finished)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "settings", [{"temperature": 0.0}, {"temperature": 0.6, "top_p": 0.8}, {"top_k": 5}]
)
def test_the_same_trees_greedy_and_under_cropping(family, settings, tokenizer, on_cpu):
    model = random_model(family, scale=3.0)
    fixed, by_generate = (
        sampler_of(model, tokenizer, fixed, **settings).sample(PROMPTS, SEEDS)
        for fixed in (True, False)
    )
    assert all(map(same, fixed, by_generate))


@pytest.mark.parametrize("kind", [kind for kind in DROPOUT if kind != "falcon"])
def test_further_families(kind, tokenizer, on_cpu):
    assert max(gaps(other_model(kind, **DROPOUT[kind]), tokenizer)) < 1e-4


def test_what_is_left_to_generate(monkeypatch):
    assert not fixed_shape.suits(random_model("llama"))  # on a CPU
    monkeypatch.setattr(PreTrainedModel, "device", torch.device("cuda"))
    model = random_model("gemma3")
    assert fixed_shape.suits(random_model("llama")) and fixed_shape.suits(model)
    assert not fixed_shape.suits(random_model("llama", attn_implementation="eager"))
    assert not fixed_shape.suits(other_model("falcon", **DROPOUT["falcon"]))
    with monkeypatch.context() as sharded:
        sharded.setenv("ACCELERATE_USE_FSDP", "true")
        assert not fixed_shape.suits(model)
    # Masks of another kind.
    model.config.layer_types = ["sliding_attention", "chunked_attention"]
    assert not fixed_shape.suits(model)


def test_graphs_can_be_turned_off(tokenizer, on_cpu):
    model = random_model("llama")
    assert type(TreeSampler(model, tokenizer, 2, 2, 4, use_cuda_graph=False).engine) is Engine
    assert type(TreeSampler(model, tokenizer, 2, 2, 4).engine) is FixedShapeEngine


def test_under_an_adapter(tokenizer, on_cpu):
    base = random_model("qwen2", scale=3.0)
    lora = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
    model = get_peft_model(base, lora)
    fixed, by_generate = (
        sampler_of(model, tokenizer, fixed).sample(PROMPTS, SEEDS) for fixed in (True, False)
    )
    assert all(map(same, fixed, by_generate))


def test_the_check_of_a_model_is_of_this_engine(tokenizer, monkeypatch, on_cpu):
    model = random_model("gemma3", scale=3.0)
    check_sampler(model, tokenizer, trains=True)
    masks = FixedShapeEngine._masks

    def without_window(engine, position, columns):
        return masks(engine, position, columns)["full_attention"]

    monkeypatch.setattr(FixedShapeEngine, "_masks", without_window)
    with pytest.raises(ValueError, match=r"try --use_cuda_graph false \(log-probabilities differ"):
        check_sampler(model, tokenizer, trains=True)
    check_sampler(model, tokenizer, trains=True, use_cuda_graph=False)


def test_extended_trees(tokenizer, on_cpu):
    model = random_model("gemma3", scale=3.0)
    extended = []
    for fixed in (True, False):
        sampler = sampler_of(model, tokenizer, fixed, step_delimiter="%")
        trees = sampler.sample(PROMPTS, SEEDS)
        extended.append(sampler.extend(trees, [{0: 2}] * len(trees), SEEDS))
    assert all(map(same, *extended))


# --- Rows that end, and rows that wait ---


def shapes_of(engine, monkeypatch) -> list[tuple[int, int]]:
    """The rows and columns of every turn that an engine will take."""
    shapes = []
    turn = engine._turn

    def watched(slots: int, columns: int) -> None:
        shapes.append((slots, columns))
        turn(slots, columns)

    monkeypatch.setattr(engine, "_turn", watched)
    return shapes


def test_turns_are_halved_as_rows_end_and_stop_after_the_last(tokenizer, monkeypatch, on_cpu):
    model = random_model("llama", scale=3.0)
    engine = FixedShapeEngine(model, tokenizer, step_tokens=60)
    engine.stop_at(range(30))  # nearly every row ends soon
    shapes = shapes_of(engine, monkeypatch)
    with evaluation_mode(model):
        rows = engine.prefill([[5, 9, 23, 40]])
        steps = engine.grow(rows * 20, [Stream(1, (child,)) for child in range(20)])
    lengths = torch.tensor([len(step.tokens) for step in steps])
    assert all(step.finished and step.row is None for step in steps)
    sizes = [slots for slots, _ in shapes]
    assert len(sizes) == lengths.max() < 60
    # The rows of a turn: those that had not ended before it, up to twice as many.
    growing = [int((lengths > turn).sum()) for turn in range(len(sizes))]
    expected = [32]
    for count in growing[1:]:
        size = expected[-1]
        while count <= size // 2:
            size //= 2
        expected.append(size)
    assert sizes == expected and len(set(sizes)) > 3


def test_looks_are_seldom(tokenizer, monkeypatch, on_cpu):
    """Between two looks rows that have ended are computed along, and change nothing."""
    monkeypatch.setattr(FixedShapeEngine, "turns_between_looks", 4)
    model = random_model("llama", scale=3.0)
    fixed = sampler_of(model, tokenizer, True, step_tokens=10)
    shapes = shapes_of(fixed.engine, monkeypatch)
    by_generate = sampler_of(model, tokenizer, False, step_tokens=10)
    assert all(map(same, fixed.sample(PROMPTS, SEEDS), by_generate.sample(PROMPTS, SEEDS)))
    changes = [turn for turn, (a, b) in enumerate(zip(shapes, shapes[1:]), 1) if a[0] != b[0]]
    assert changes


def test_columns_grow_with_the_rows(tokenizer, monkeypatch, on_cpu):
    monkeypatch.setattr(fixed_shape, "COLUMN_BUCKET", 4)
    model = random_model("qwen2", scale=3.0)
    sampler = sampler_of(model, tokenizer, True, branching=[2], step_tokens=9)
    sampler.engine.stop_at([])
    shapes = shapes_of(sampler.engine, monkeypatch)
    (tree,) = sampler.sample([[5, 9, 23]], [3])
    # The first turn reads the three tokens of the prompt.
    assert shapes == [(2, 4)] * 2 + [(2, 8)] * 4 + [(2, 12)] * 3
    by_generate = sampler_of(model, tokenizer, False, branching=[2], step_tokens=9)
    by_generate.engine.stop_at([])
    assert same(tree, by_generate.sample([[5, 9, 23]], [3])[0])


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_rows_wait_while_others_use_the_workspace(family, tokenizer, on_cpu):
    """Rows of other lengths, from other steps, in any order and more than once: as from their
    definition."""
    model = random_model(family, scale=3.0)
    engine = FixedShapeEngine(model, tokenizer, step_tokens=5, step_delimiter="%")
    engine.stop_at([])
    delimiter_ids = tokenizer.encode("%")
    generator = torch.Generator().manual_seed(0)
    with evaluation_mode(model):
        contexts = [[5, 9, 23], [7], [60, 61, 8, 8, 8]]
        known = list(zip(contexts, engine.prefill(contexts)))
        for round_number in range(6):
            picked = torch.randint(len(known), (7,), generator=generator).tolist()
            streams = [Stream(round_number, (i,)) for i in range(7)]
            steps = engine.grow([known[i][1] for i in picked], streams)
            for i, stream, step in zip(picked, streams, steps):
                ids = known[i][0]
                expected = step_by_reprefilling(model, ids, stream, 5, delimiter_ids)
                assert step.tokens.tolist() == expected
                known.append((ids + expected, step.row))


def test_nothing_is_held_after_sampling(tokenizer, on_cpu):
    sampler = sampler_of(random_model("llama"), tokenizer, True)
    sampler.sample(PROMPTS, SEEDS)
    assert sampler.engine._workspace is None
    stream = sampler.stream(PROMPTS, SEEDS)
    next(stream)
    assert sampler.engine._workspace is not None
    stream.close()
    assert sampler.engine._workspace is None


def test_a_workspace_that_does_not_fit_is_tried_smaller(tokenizer, monkeypatch, on_cpu):
    model = random_model("qwen2", scale=3.0)
    by_generate = sampler_of(model, tokenizer, False, max_rows=16).sample(PROMPTS, SEEDS)
    allocate = fixed_shape._Workspace

    def tight(like, slots, columns, step_tokens):
        if slots > 4:
            raise torch.OutOfMemoryError("out of memory")
        return allocate(like, slots, columns, step_tokens)

    monkeypatch.setattr(fixed_shape, "_Workspace", tight)
    sampler = sampler_of(model, tokenizer, True, max_rows=16)
    assert all(map(same, sampler.sample(PROMPTS, SEEDS), by_generate))
    assert sampler.max_rows <= 4


def test_rows_for_whose_copies_memory_is_lacking_stay(tokenizer, monkeypatch, on_cpu):
    model = random_model("qwen2", scale=3.0)
    by_generate = sampler_of(model, tokenizer, False, max_rows=16).sample(PROMPTS, SEEDS)
    move_out, errors = fixed_shape._Stored.move_out, []

    def tight(stored):
        if len(errors) < 2:
            errors.append(torch.OutOfMemoryError("out of memory"))
            raise errors[-1]
        move_out(stored)

    monkeypatch.setattr(fixed_shape._Stored, "move_out", tight)
    sampler = sampler_of(model, tokenizer, True, max_rows=16)
    assert all(map(same, sampler.sample(PROMPTS, SEEDS), by_generate))
    assert len(errors) == 2 and sampler.max_rows == 4


# --- Graphs ---


def test_a_shape_is_run_then_captured_then_replayed(tokenizer, monkeypatch, on_cpu):
    model = random_model("llama", scale=3.0)
    engine = FixedShapeEngine(model, tokenizer, step_tokens=12)
    engine.stop_at(STOP_IDS)
    engine.captures = True
    turn = engine._turn
    events = []
    monkeypatch.setattr(
        engine, "_turn", lambda *shape: (events.append(("run", shape)), turn(*shape))
    )

    def capture(*shape):
        """A graph that, replayed, computes the turn."""
        events.append(("capture", shape))
        return SimpleNamespace(replay=lambda: (events.append(("replay", shape)), turn(*shape)))

    monkeypatch.setattr(engine, "_capture", capture)
    with evaluation_mode(model):
        rows = engine.prefill([[5, 9, 23, 40]])
        for _ in range(2):  # what the first call has captured serves the second one
            engine.grow(rows * 20, [Stream(1, (child,)) for child in range(20)])
    shapes = {shape for _, shape in events}
    assert len(shapes) > 1
    for shape in shapes:
        of_shape = [event for event, other in events if other == shape]
        assert of_shape == ["run", "capture", *["replay"] * len(of_shape)][: len(of_shape)]
    assert [event for event, _ in events].count("replay") > 12


class Refusing:
    """In place of torch.cuda.graph: takes a stream of its own and, as that does, leaves it in place
    when the capture has failed."""

    def __init__(self, graph, **settings):
        pass

    def __enter__(self):
        assert "the engine's" in STREAMS
        STREAMS.append("the capture's")

    def __exit__(self, kind, error, traceback):
        assert kind is not None  # otherwise the turn was computed: there is no GPU to capture it
        raise RuntimeError("capture was invalidated") from error


STREAMS = []


@pytest.fixture
def capturing(monkeypatch):
    """Engines try to capture here too, and fail."""
    STREAMS[:] = ["the engine's"]
    monkeypatch.setattr(FixedShapeEngine, "capture_failed", False)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: STREAMS[-1])
    monkeypatch.setattr(torch.cuda, "set_stream", STREAMS.append)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "graph", Refusing)


@pytest.mark.parametrize("fails_in", ["begin", "model"])
def test_what_can_not_be_captured_is_sampled_without(
    fails_in, tokenizer, monkeypatch, on_cpu, capturing, caplog
):
    model = random_model("gemma3", scale=3.0)
    expected = sampler_of(model, tokenizer, False).sample(PROMPTS, SEEDS)

    def fail(*args):
        if STREAMS[-1] == "the capture's":
            raise ValueError("the model waits")

    # In the middle of the forward pass, where the first layers have written keys.
    model.model.layers[-1].mlp.register_forward_pre_hook(fail)
    if fails_in == "begin":
        monkeypatch.setattr(Refusing, "__enter__", lambda self: 1 / 0)
    for _ in range(2):  # a later sampler, of an evaluation, does not try again
        sampler = sampler_of(model, tokenizer, True)
        sampler.engine.captures = not FixedShapeEngine.capture_failed
        assert all(map(same, sampler.sample(PROMPTS, SEEDS), expected))
    assert caplog.text.count("sampling without CUDA graphs") == 1
    assert STREAMS[-1] == "the engine's" and not sampler.engine.captures
    assert model.config._attn_implementation == "sdpa"


def test_memory_that_runs_out_in_a_capture_halves_the_rows(
    tokenizer, monkeypatch, on_cpu, capturing
):
    model = random_model("qwen2", scale=3.0)
    expected = sampler_of(model, tokenizer, False, max_rows=16).sample(PROMPTS, SEEDS)
    sampler = sampler_of(model, tokenizer, True, max_rows=16)
    sampler.engine.captures = True
    capture = sampler.engine._capture

    def tight(slots, columns):
        if slots > 4:
            raise torch.OutOfMemoryError("out of memory")
        return capture(slots, columns)

    monkeypatch.setattr(sampler.engine, "_capture", tight)
    monkeypatch.setattr(Refusing, "__enter__", lambda self: 1 / 0)
    assert all(map(same, sampler.sample(PROMPTS, SEEDS), expected))
    assert sampler.max_rows <= 4


# --- Attention ---


def test_attention_of_grouped_heads():
    torch.manual_seed(0)
    query = torch.randn(3, 12, 1, 8)
    key, value = torch.randn(2, 3, 4, 10, 8)  # a group of 3 heads shares keys
    mask = torch.rand(3, 1, 1, 10) < 0.7
    module = torch.nn.Module()
    module.num_key_value_groups = 3
    expected, _ = sdpa_attention_forward(module, query, key, value, mask, scaling=0.3)
    output, _ = decode_sdpa(module, query, key, value, mask, scaling=0.3)
    torch.testing.assert_close(output, expected)
