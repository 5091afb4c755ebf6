"""FSDP: the processes share the frozen weights, as `accelerate launch` with recipes/accelerate/fsdp.yaml asks for.

A large base then leaves room for longer packs: while training, a process holds its share and the layer at hand. What
is trained, the adapter, stays whole on every process, and with it the gradients, the optimizer and the checkpoints.
"""

import os
from contextlib import contextmanager

from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn import ModuleList

FSDP = os.environ.get("ACCELERATE_USE_FSDP") == "true"


def shard(model) -> None:
    """Spreads the frozen weights of each layer of a PEFT model; every forward and backward pass then is a joint one."""
    adapter = {p for p in model.parameters() if p.requires_grad}
    decoder = model.get_base_model().get_decoder()
    for layer in next(part for part in decoder.children() if isinstance(part, ModuleList)):
        fully_shard(layer, ignored_params=adapter)
    fully_shard(decoder, ignored_params=set(decoder.parameters()))  # no weights: it knows the layers' order


@contextmanager
def whole_weights(model):
    """Inside it every process holds all weights: to sample, each makes as many forward passes as its trees need."""
    shards = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for module in shards:
        module.set_reshard_after_forward(False)
        module.unshard()
    yield
    for module in shards:
        module.set_reshard_after_forward(True)
        module.reshard()
