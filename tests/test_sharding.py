"""FSDP in a group of one process; tests/test_scripts.py trains under it with two."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
from conftest import FAMILIES, path_logprobs, random_model, random_tree
from peft import LoraConfig, get_peft_model
from torch.distributed.tensor import DTensor

from packing import Pack, pack
from policy import checkpoint_layers, token_logprobs
from run.processes import shard, whole_weights


@pytest.fixture
def group():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def spread(model):
    return {name for name, p in model.named_parameters() if isinstance(p, DTensor)}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_frozen_weights_are_spread_and_nothing_changes(family, checkpointing, group):
    base = random_model(family, scale=2.0)
    model = get_peft_model(
        base, LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
    ).train()
    if checkpointing:
        checkpoint_layers(model)
    tree = random_tree(np.random.default_rng(0), 8)
    (one,) = pack([tree], [torch.ones(8)], 1000)
    adapter = [p for p in model.parameters() if p.requires_grad]
    plain = torch.cat([path_logprobs(model.eval(), tree, node).detach() for node in range(1, 8)])
    expected = torch.autograd.grad(token_logprobs(model.train(), one).sum(), adapter)

    shard(model)
    frozen = {
        name for name, p in model.named_parameters() if ".layers." in name and not p.requires_grad
    }
    assert spread(model) == frozen and len(frozen) > 10
    logprobs = token_logprobs(model, one)
    for found, gradient in zip(torch.autograd.grad(logprobs.sum(), adapter), expected, strict=True):
        torch.testing.assert_close(found, gradient)
    with whole_weights(model), torch.no_grad():
        assert not spread(model)
        sampled = token_logprobs(model.eval(), one)
        assert not spread(model)  # a forward pass inside does not let go of them
    assert spread(model) == frozen
    torch.testing.assert_close(sampled, logprobs.detach())
    torch.testing.assert_close(sampled.sum(), plain.sum(), rtol=1e-4, atol=1e-4)


def test_an_idle_pass_adds_no_gradient(group):
    model = get_peft_model(
        random_model("qwen2"), LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
    )
    shard(model)
    logprobs = token_logprobs(model, Pack.idle())
    logprobs.sum().backward()
    assert logprobs.shape == (0,)
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())
