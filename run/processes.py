"""The processes that were launched, their dtype, and how FSDP spreads a model over them.

Under FSDP, as `accelerate launch` with recipes/accelerate/fsdp.yaml asks for, the processes share
the frozen weights. A large base then leaves room for longer packs: while training, a process holds
its own part and the layer at hand. What is trained, the adapter, stays whole on every process, and
with it the gradients, the optimizer and the checkpoints.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import PartialState
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn import ModuleList

from run.errors import BadInput


def launched_processes() -> PartialState:
    """The processes that `accelerate launch` or torchrun started: on GPUs, or over gloo.

    Raises:
        BadInput: they were started for DeepSpeed, which would replace the optimizer and the
            backward pass.
    """
    if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
        advice = "recipes/accelerate/fsdp.yaml shards the model"
        raise BadInput(f"accelerate launch: DeepSpeed is not supported; {advice}")
    # Otherwise transformers loads the weights on one process only.
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
    return PartialState(cpu=not torch.accelerator.is_available())


def device_dtype(bf16: bool | None, device: torch.device) -> torch.dtype:
    """bfloat16 where the device has it in hardware, unless turned off; float32 elsewhere.

    Args:
        bf16: the flag --bf16; None leaves the choice to the device.

    Raises:
        BadInput: bfloat16 was asked for, and the device has none.
    """
    has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    if bf16 and not has_bf16:
        advice = "leave the flag out or set it to false"
        raise BadInput(f"--bf16: this device ({device.type}) has no bfloat16; {advice}")
    return torch.bfloat16 if has_bf16 and bf16 is not False else torch.float32


def launched_with_fsdp() -> bool:
    """Whether `accelerate launch` was asked for FSDP."""
    return os.environ.get("ACCELERATE_USE_FSDP") == "true"


def shard(model) -> None:
    """Spreads the frozen weights of each layer of a PEFT model over the processes.

    Every forward and backward pass then is a joint one of all processes.
    """
    adapter = {parameter for parameter in model.parameters() if parameter.requires_grad}
    decoder = model.get_base_model().get_decoder()
    layers = next(part for part in decoder.children() if isinstance(part, ModuleList))
    for layer in layers:
        fully_shard(layer, ignored_params=adapter)
    # None of the decoder's own weights is spread: the call tells FSDP the order of the layers.
    fully_shard(decoder, ignored_params=set(decoder.parameters()))


@contextmanager
def whole_weights(model) -> Iterator[None]:
    """Inside it every process holds all weights.

    Sampling needs that: each process makes as many forward passes as its own trees take.
    """
    shards = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for module in shards:
        module.set_reshard_after_forward(False)
        module.unshard()
    yield
    for module in shards:
        module.set_reshard_after_forward(True)
        module.reshard()
