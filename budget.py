"""What one update will cost, from the flags and the model's config, before anything runs."""

import math
from dataclasses import dataclass

import psutil
import torch
from torch.distributed.tensor import DTensor

import fixed_shape
from policy import CHUNK_ELEMENTS

GIB = 2**30
FLOAT32 = 4  # bytes
# Bytes of activations per token, hidden unit and layer at two bytes per element (Korthikanti et
# al., arXiv 2205.05198, section 4); under gradient checkpointing a layer keeps its input alone.
LAYER_BYTES = 34
CHECKPOINTED_LAYER_BYTES = 2
# Copies of a chunk of logits that are alive at once.
LOGIT_COPIES = 3
LOGIT_COPIES_WITH_ENTROPY = 6


def device_memory(device: torch.device) -> int:
    """Bytes of the GPU, or of the machine."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return psutil.virtual_memory().total


def cache_bytes(config, length: int, element: int, every_column: bool = False) -> int:
    """Keys and values of one row of `length` tokens.

    A sliding-window layer keeps no more than its window, but for an engine that keeps every column.

    Args:
        element: bytes of one number.
    """
    default_head_dim = config.hidden_size // config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or default_head_dim
    default_types = ["full_attention"] * config.num_hidden_layers
    layer_types = getattr(config, "layer_types", None) or default_types
    window = length if every_column else getattr(config, "sliding_window", None) or length
    tokens = sum(
        min(length, window) if layer_type == "sliding_attention" else length
        for layer_type in layer_types
    )
    return 2 * tokens * config.num_key_value_heads * head_dim * element


def converted_bytes(flags, model, compute_dtype: torch.dtype) -> int:
    """The copy of the weights in `compute_dtype` that autocast keeps while it is at work.

    It keeps one of every float32 weight that trains and that a product reads. Embeddings are looked
    up as they are, unless the head shares them; vectors (norms and biases) are too small to count.
    """
    if flags.use_peft or compute_dtype == torch.float32:
        return 0
    read_by_products = {  # by identity: a shared weight has one copy
        weight
        for module in model.modules()
        if not isinstance(module, torch.nn.Embedding)
        for weight in module.parameters(recurse=False)
        if weight.requires_grad and weight.dtype == torch.float32 and weight.dim() > 1
    }
    return sum(weight.numel() for weight in read_by_products) * compute_dtype.itemsize


@dataclass
class Sizes:
    """One update on one process in the worst case: no path ends early, no group is pruned."""

    trees: int
    leaves: int  # of each tree
    sampled_tokens: int
    cached_rows: int  # whose caches are alive at once
    path_length: int  # tokens from the prompt's start to a leaf
    pack_tokens: int


def update_sizes(flags, longest_prompt: int, processes: int) -> Sizes:
    """The sizes of one update on each of `processes` processes."""
    trees = flags.prompts_per_update // processes
    # Nodes of a tree at each depth.
    nodes = [math.prod(flags.branching[: depth + 1]) for depth in range(flags.depth)]
    sampled_tokens = trees * sum(nodes) * flags.step_tokens
    return Sizes(
        trees=trees,
        leaves=nodes[-1],
        sampled_tokens=sampled_tokens,
        # One slice of max_rows grows while at most one more per depth waits with its cache.
        cached_rows=sum(min(flags.max_rows, trees * count) for count in nodes),
        path_length=longest_prompt + flags.depth * flags.step_tokens,
        pack_tokens=min(flags.max_pack_tokens, sampled_tokens + trees * longest_prompt),
    )


@dataclass
class Memory:
    """Bytes of one process, estimated."""

    weights: int  # with reference, gradients and optimizer, while sampling
    trained_weights: int  # the same while training: under FSDP a part of the weights
    converted: int  # autocast's copy of the weights, while sampling and while training
    caches: int  # while sampling
    activations: int  # while training


def update_memory(flags, model, sizes: Sizes, compute_dtype: torch.dtype) -> Memory:
    """The memory that one update takes on one process."""
    config = model.config.get_text_config()
    parameters = list(model.parameters())
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    local = sum((p.to_local() if isinstance(p, DTensor) else p).numel() for p in parameters)
    # Gradients and AdamW's two moments are float32.
    fixed = trained * 3 * FLOAT32
    if _has_reference(flags):
        fixed += model.num_parameters() * compute_dtype.itemsize

    layers = config.num_hidden_layers
    layer_bytes = LAYER_BYTES * layers
    if flags.gradient_checkpointing:
        # The inputs of all layers, and everything of the layer that is being recomputed.
        layer_bytes = CHECKPOINTED_LAYER_BYTES * layers + LAYER_BYTES
    copies = LOGIT_COPIES_WITH_ENTROPY if flags.entropy_coef else LOGIT_COPIES
    pack = sizes.pack_tokens
    activations = pack * config.hidden_size * layer_bytes * compute_dtype.itemsize // 2
    mask = pack**2
    logits = copies * FLOAT32 * CHUNK_ELEMENTS
    every_column = flags.use_cuda_graph and fixed_shape.suits(model)
    row_cache = cache_bytes(config, sizes.path_length, compute_dtype.itemsize, every_column)
    return Memory(
        weights=model.num_parameters() * model.dtype.itemsize + fixed,
        trained_weights=local * model.dtype.itemsize + fixed,
        converted=converted_bytes(flags, model, compute_dtype),
        caches=sizes.cached_rows * row_cache,
        activations=activations + mask + logits,
    )


def _has_reference(flags) -> bool:
    """Whether a frozen copy of the model is held: under an adapter the KL term needs none."""
    return bool(flags.beta) and not flags.use_peft


def describe(
    flags,
    model,
    longest_prompt: int,
    processes: int,
    device: torch.device,
    compute_dtype: torch.dtype | None = None,
) -> str:
    """The cost of one update on one process, line by line, with a hint where it does not fit.

    The worst case: no path ends early, and no group is pruned.

    Args:
        compute_dtype: of activations and caches, where the weights have another; None takes that of
            the weights. Where all weights train with a KL term, the frozen reference has it too.
    """
    compute_dtype = compute_dtype or model.dtype
    sizes = update_sizes(flags, longest_prompt, processes)
    memory = update_memory(flags, model, sizes, compute_dtype)
    available = device_memory(device)
    held = "weights, reference and optimizer" if _has_reference(flags) else "weights and optimizer"
    converted = ""
    if memory.converted:
        name = str(compute_dtype).removeprefix("torch.")
        converted = f"a copy of the weights in {name} {memory.converted / GIB:.2f}, "
    lines = [
        f"one update on each of {processes} processes, at most: {sizes.trees} trees of "
        f"{sizes.leaves} leaves, {sizes.sampled_tokens:,} tokens sampled in slices of "
        f"{flags.max_rows} rows, as many trained in packs of {sizes.pack_tokens:,}",
        f"memory of the device {available / GIB:.1f} GiB; {held} {memory.weights / GIB:.2f}, "
        f"{converted}caches while sampling {memory.caches / GIB:.2f}, activations while training "
        f"{memory.activations / GIB:.2f} GiB (estimates)",
    ]
    if flags.refill_zero_signal:
        # A round of fresh prompts is no larger than the first one, so memory stays the same.
        rounds = flags.refill_zero_signal
        most_tokens = (1 + rounds) * sizes.sampled_tokens
        lines.append(
            f"--refill_zero_signal {rounds} replaces each tree up to {rounds} times: at most "
            f"{most_tokens:,} tokens sampled; memory and training stay the same"
        )
    if memory.weights + memory.converted + memory.caches > available:
        lines.append("sampling may not fit: lower --max_rows")
    if memory.trained_weights + memory.converted + memory.activations > available:
        advice = "" if flags.gradient_checkpointing else " or set --gradient_checkpointing true"
        lines.append(f"training may not fit: lower --max_pack_tokens{advice}")
    return "\n".join(lines)
