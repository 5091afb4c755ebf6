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
    """The names of the parameters that are spread over the processes."""
    return {name for name, parameter in model.named_parameters() if isinstance(parameter, DTensor)}


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
    (packed,) = pack([tree], [torch.ones(8)], 1000)
    adapter = [parameter for parameter in model.parameters() if parameter.requires_grad]
    plain = torch.cat([path_logprobs(model.eval(), tree, node).detach() for node in range(1, 8)])
    expected = torch.autograd.grad(token_logprobs(model.train(), packed).sum(), adapter)

    shard(model)
    frozen = {
        name
        for name, parameter in model.named_parameters()
        if ".layers." in name and not parameter.requires_grad
    }
    assert spread(model) == frozen and len(frozen) > 10
    logprobs = token_logprobs(model, packed)
    gradients = torch.autograd.grad(logprobs.sum(), adapter)
    for gradient, whole in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, whole)
    with whole_weights(model), torch.no_grad():
        assert not spread(model)
        sampled = token_logprobs(model.eval(), packed)
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
    gradients = [parameter.grad for parameter in model.parameters()]
    assert all(gradient is None or not gradient.any() for gradient in gradients)
