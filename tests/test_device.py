"""On the GPU where there is one, and else on the CPU: sampling in a fixed shape, packs under each
attention, bfloat16, memory and resuming. benchmarks/gpu.sh runs these alone."""

import numpy as np
import pytest
import torch
from conftest import FAMILIES, path_logprobs, random_model, random_tree
from test_scripts import adapter, train

import fixed_shape
from fixed_shape import FixedShapeEngine
from packing import pack
from policy import check_sampler, token_logprobs
from tree_sampler import TreeSampler

ON_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if ON_GPU else "cpu")
# On a CPU other tests run all of them.
FAMILIES_HERE = list(FAMILIES) if ON_GPU else ["gemma3"]
PROMPTS = [[5, 9, 23], [7], [4, 4, 4, 8, 15, 16, 23], [5, 9, 23], [60, 61]]
SEEDS = [3, 1, 4, 1, 5]
STOP_IDS = [0, *range(40, 45)]


def model_on_device(family: str, dtype=torch.float32, **settings):
    return random_model(family, scale=3.0, **settings).to(DEVICE, dtype)


@pytest.fixture
def everywhere(monkeypatch):
    """The engine of fixed shape on a CPU too."""
    monkeypatch.setattr(fixed_shape, "suits", lambda model: True)


def trees_by(use_cuda_graph: bool, model, tokenizer, delimiter=None):
    """Trees, and how many graphs were captured for them."""
    sampler = TreeSampler(
        model,
        tokenizer,
        [3, 2, 2],
        step_tokens=12,
        max_rows=16,
        step_delimiter=delimiter,
        use_cuda_graph=use_cuda_graph,
    )
    sampler.engine.stop_at(STOP_IDS)
    graphs = 0
    if use_cuda_graph:
        capture = sampler.engine._capture

        def counted(slots: int, columns: int):
            nonlocal graphs
            graph = capture(slots, columns)
            graphs += graph is not None
            return graph

        sampler.engine._capture = counted
    return sampler.sample(PROMPTS, SEEDS), graphs


@pytest.mark.parametrize("family", FAMILIES_HERE)
@pytest.mark.parametrize("delimiter", [None, "%"])
def test_graphs_give_the_same_trees_as_generate(family, delimiter, tokenizer, everywhere):
    model = model_on_device(family)
    by_graphs, graphs = trees_by(True, model, tokenizer, delimiter)
    by_generate, _ = trees_by(False, model, tokenizer, delimiter)
    assert (graphs > 0) == ON_GPU
    for left, right in zip(by_graphs, by_generate, strict=True):
        assert left.parent.tolist() == right.parent.tolist()
        for own, other in zip(left.tokens, right.tokens, strict=True):
            assert own.tolist() == other.tolist()
        for own, other in zip(left.logprobs, right.logprobs, strict=True):
            torch.testing.assert_close(own, other, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("family", FAMILIES_HERE)
def test_in_bfloat16_sampling_and_training_agree(family, tokenizer, everywhere):
    model = model_on_device(family, torch.bfloat16)
    trees, _ = trees_by(True, model, tokenizer)
    (packed,) = pack(trees, [torch.ones(len(tree.parent)) for tree in trees], 10_000)
    packed = packed.to(DEVICE)
    with torch.no_grad():
        trained = token_logprobs(model, packed)
    assert (trained.float() - packed.old_logprobs).abs().mean() < 0.05
    check_sampler(model, tokenizer, trains=True)


def test_all_weights_under_autocast(tokenizer, everywhere):
    """Float32 weights whose bfloat16 copies a graph may have captured."""
    model = model_on_device("qwen2")
    for _ in range(2):
        with torch.autocast(DEVICE.type, torch.bfloat16):
            trees, _ = trees_by(True, model, tokenizer)
        for tree in trees[:2]:
            for node in range(1, len(tree.parent)):
                plain = plain_logprobs(model, tree, node)
                assert (tree.logprobs[node] - plain).abs().max() < 0.3
        with torch.no_grad():  # an update in between
            for parameter in model.parameters():
                parameter.mul_(1.2)


def plain_logprobs(model, tree, node: int) -> torch.Tensor:
    """Log-probabilities of a node's tokens by one forward pass, [tokens], on the CPU."""
    ids = torch.tensor([tree.prompt_ids + tree.completion_ids(node)], device=DEVICE)
    size = len(tree.tokens[node])
    with torch.no_grad():
        logits = model(ids).logits[0, -size - 1 : -1].float()  # [tokens, vocabulary]
    return logits.log_softmax(-1).gather(1, ids[0, -size:, None]).squeeze(1).cpu()


@pytest.mark.parametrize("family", FAMILIES_HERE)
@pytest.mark.parametrize("implementation", ["sdpa", "eager", "flex_attention"])
def test_packs_under_each_attention(family, implementation):
    """Values and gradients against one forward pass per path on the CPU, in float32."""
    if implementation == "flex_attention" and not ON_GPU:
        pytest.skip("compiled for GPUs")
    sizes = {"hidden_size": 64, "head_dim": 16}  # FlexAttention takes none below 16
    reference = random_model(family, scale=2.0, **sizes)
    model = random_model(family, scale=2.0, attn_implementation=implementation, **sizes).to(DEVICE)
    tree = random_tree(np.random.default_rng(0), 40)
    paths = tree.child_paths()
    nodes = sorted(range(1, 40), key=lambda node: paths[node])  # depth-first, as in the pack
    (packed,) = pack([tree], [torch.ones(40)], 10_000)
    logprobs = token_logprobs(model, packed.to(DEVICE))
    expected = torch.cat([path_logprobs(reference, tree, node) for node in nodes])
    logprobs.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(logprobs.detach().cpu(), expected.detach(), atol=1e-3, rtol=1e-3)
    for own, other in zip(model.parameters(), reference.parameters(), strict=True):
        scale = other.grad.abs().max()
        assert (own.grad.cpu() - other.grad).abs().max() < 2e-3 * scale + 1e-4


def test_sampling_leaves_no_memory(tokenizer, everywhere):
    model = model_on_device("llama")
    trees_by(True, model, tokenizer)  # what libraries allocate once
    before = torch.cuda.memory_allocated() if ON_GPU else 0
    trees, _ = trees_by(True, model, tokenizer)
    assert len(trees) == len(PROMPTS)
    after = torch.cuda.memory_allocated() if ON_GPU else 0
    assert after <= before + 2**16


def test_out_of_memory_halves_the_rows(tokenizer, everywhere, monkeypatch):
    allocate = fixed_shape._Workspace

    def tight(like, slots, columns, step_tokens):
        if slots > 8:
            raise torch.OutOfMemoryError("out of memory")
        return allocate(like, slots, columns, step_tokens)

    monkeypatch.setattr(fixed_shape, "_Workspace", tight)
    model = model_on_device("qwen2")
    sampler = TreeSampler(model, tokenizer, [3, 2, 2], step_tokens=12, max_rows=16)
    assert isinstance(sampler.engine, FixedShapeEngine)
    sampler.engine.stop_at(STOP_IDS)
    trees = sampler.sample(PROMPTS, SEEDS)
    expected, _ = trees_by(False, model, tokenizer)
    for left, right in zip(trees, expected, strict=True):
        assert [ids.tolist() for ids in left.tokens] == [ids.tolist() for ids in right.tokens]


@pytest.mark.skipif(not ON_GPU, reason="tests/test_scripts.py does it, to the last bit")
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(tmp_path):
    """Up to the order in which a GPU adds."""
    settings = {"max_steps": 2, "save_steps": 1, "warmup_steps": 1}
    train(tmp_path / "whole", **settings)
    train(tmp_path / "parts", **{**settings, "max_steps": 1})
    train(tmp_path / "parts", "--resume_from_checkpoint", **settings)
    whole, parts = adapter(tmp_path / "whole"), adapter(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor, atol=1e-5, rtol=1e-2)
