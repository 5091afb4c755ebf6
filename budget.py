"""What one update will cost, from the flags and the model's config, before anything runs."""

import math
import os

import torch
from torch.distributed.tensor import DTensor

from policy import CHUNK_ELEMENTS

GIB = 2**30


def device_memory(device: torch.device) -> int:
    """Bytes of the GPU, or of the machine."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def cache_bytes(config, length: int, element: int) -> int:
    """Keys and values of one row of `length` tokens; a sliding-window layer keeps no more than its
    window."""
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    window = getattr(config, "sliding_window", None) or length
    tokens = sum(min(length, window) if kind == "sliding_attention" else length for kind in kinds)
    return 2 * tokens * config.num_key_value_heads * head * element


def describe(
    flags,
    model,
    longest_prompt: int,
    processes: int,
    device: torch.device,
    compute: torch.dtype | None = None,
) -> str:
    """The cost of one update on one process, line by line, with a hint where it does not fit.

    Sampling: one slice of `max_rows` grows while at most one more a depth waits with its cache.
    Training: 34 bytes a token, hidden unit and layer at two bytes an element (Korthikanti et al.,
    arXiv 2205.05198, section 4), or 2 and one layer's 34 under gradient checkpointing, the mask of
    a pack, and three copies of a chunk of logits (six with an entropy bonus). The worst case: no
    path ends early, and no group is pruned.

    Args:
        compute: the dtype of activations and caches, where the weights have another; None takes
            that of the weights. Where all weights train with a KL term, the frozen reference is
            held in it too.
    """
    config, element = model.config.get_text_config(), (compute or model.dtype).itemsize
    prompts = flags.prompts_per_update // processes
    widths = [
        math.prod(flags.branching[: d + 1]) for d in range(flags.depth)
    ]  # nodes a prompt, by depth
    length = longest_prompt + flags.depth * flags.step_tokens
    tokens = prompts * sum(widths) * flags.step_tokens
    slices = sum(min(flags.max_rows, prompts * width) for width in widths)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    # Gradients and AdamW's two moments are float32. Under FSDP only a share of the weights is there
    # while training.
    held = sum((p.to_local() if isinstance(p, DTensor) else p).numel() for p in model.parameters())
    reference = model.num_parameters() * element if flags.beta and not flags.use_peft else 0
    fixed = trained * (4 + 8) + reference
    weights, weights_trained = (
        count * model.dtype.itemsize + fixed for count in (model.num_parameters(), held)
    )
    pack = min(flags.max_pack_tokens, tokens + prompts * longest_prompt)
    kept = (
        2 * config.num_hidden_layers + 34
        if flags.gradient_checkpointing
        else 34 * config.num_hidden_layers
    )
    chunks = 6 if flags.entropy_coef else 3
    training = (
        pack * config.hidden_size * kept * element // 2 + pack**2 + chunks * 4 * CHUNK_ELEMENTS
    )
    memory, sampling = device_memory(device), slices * cache_bytes(config, length, element)
    held_whole = "weights, reference and optimizer" if reference else "weights and optimizer"
    lines = [
        f"one update on each of {processes} processes, at most: {prompts} trees of {widths[-1]} leaves, {tokens:,} "
        f"tokens sampled in slices of {flags.max_rows} rows, as many trained in packs of {pack:,}",
        f"memory of the device {memory / GIB:.1f} GiB; {held_whole} {weights / GIB:.2f}, "
        f"caches while sampling {sampling / GIB:.2f}, activations while training {training / GIB:.2f} GiB (estimates)",
    ]
    if weights + sampling > memory:
        lines.append("sampling may not fit: lower --max_rows")
    if weights_trained + training > memory:
        more = "" if flags.gradient_checkpointing else " or set --gradient_checkpointing true"
        lines.append(f"training may not fit: lower --max_pack_tokens{more}")
    return "\n".join(lines)
