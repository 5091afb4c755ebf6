"""The processes that were launched, their dtype, and how they share a model.

Under FSDP the processes share the frozen weights, as `accelerate launch` with
recipes/accelerate/fsdp.yaml asks for.

A large base then leaves room for longer packs: while training, a process holds its share and the
layer at hand. What is trained, the adapter, stays whole on every process, and with it the
gradients, the optimizer and the checkpoints."""

import os
from contextlib import contextmanager

import torch
from accelerate import PartialState
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn import ModuleList

from run.errors import BadInput

FSDP = os.environ.get("ACCELERATE_USE_FSDP") == "true"


def shard(model) -> None:
    """Spreads the frozen weights of each layer of a PEFT model; every forward and backward pass
    then is a joint one."""
    adapter = {p for p in model.parameters() if p.requires_grad}
    decoder = model.get_base_model().get_decoder()
    for layer in next(part for part in decoder.children() if isinstance(part, ModuleList)):
        fully_shard(layer, ignored_params=adapter)
    fully_shard(
        decoder, ignored_params=set(decoder.parameters())
    )  # no weights: it knows the layers' order


@contextmanager
def whole_weights(model):
    """Inside it every process holds all weights: to sample, each makes as many forward passes as
    its trees need."""
    shards = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for module in shards:
        module.set_reshard_after_forward(False)
        module.unshard()
    yield
    for module in shards:
        module.set_reshard_after_forward(True)
        module.reshard()


def launched_processes() -> PartialState:
    """The processes that `accelerate launch` or torchrun started, on GPUs, or over gloo where there
    is none.

    Raises:
        BadInput: they were started for DeepSpeed, which would replace the optimizer and the
            backward pass.
    """
    if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
        raise BadInput(
            "accelerate launch: DeepSpeed is not supported; recipes/accelerate/fsdp.yaml shards the model"
        )
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = (
        "false"  # transformers would load weights on one process only
    )
    return PartialState(cpu=not torch.accelerator.is_available())


def device_dtype(bf16: bool | None, device: torch.device) -> torch.dtype:
    """bfloat16 where the device has it in hardware, unless turned off; float32 elsewhere."""
    able = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    if bf16 and not able:
        raise BadInput(
            f"--bf16: this device ({device.type}) has no bfloat16; leave the flag out or set it to false"
        )
    return torch.bfloat16 if able and bf16 is not False else torch.float32
