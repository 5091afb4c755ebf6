"""Packs -> log-probabilities -> loss; and the checks of a model."""

from collections.abc import Callable
from contextlib import contextmanager
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

import fixed_shape
from generate import attention_implementation, evaluation_mode, looks_attention_up, warp
from packing import Pack, pack
from tree import Tree
from tree_sampler import TreeSampler

__all__ = [
    "Pack",
    "check_model",
    "check_sampler",
    "checkpoint_layers",
    "pack",
    "policy_loss",
    "token_logprobs",
]

LOSS_TYPES = ("dapo", "grpo", "dr_grpo")
CHUNK_ELEMENTS = 2**25  # logits alive at once in `token_logprobs`: 128 MiB of float32
TREE_ATTENTION = "tree_sdpa"  # the name of tree attention among transformers' implementations


# --- Tree attention ---


def tree_sdpa(
    module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor, segments=(), **kwargs
) -> tuple[Tensor, None]:
    """transformers' SDPA, for one segment of a pack's queries after another.

    A token sees only its path, a small part of a pack, and a dense mask saves no work.

    Args:
        query, key, value: [1, heads, tokens, head dimension].
        attention_mask: BoolTensor [1, 1, tokens, tokens].
        segments: for each segment its queries, as a slice, and the indices of the keys that some of
            them see, LongTensor [keys]. None or one of them leave the pack whole.

    Returns:
        [1, tokens, heads, head dimension], and None for the weights.
    """
    if len(segments) < 2:  # the whole pack at once
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    parts = []
    for own, seen in segments:
        output, _ = sdpa_attention_forward(
            module,
            query[:, :, own],  # [1, heads, queries, head dimension]
            key[:, :, seen],  # [1, heads, keys, head dimension]
            value[:, :, seen],
            attention_mask[:, :, own][..., seen],  # [1, 1, queries, keys]
            **kwargs,
        )
        parts.append(output)
    return torch.cat(parts, 1), None


def _attention_for_packs(causal, config) -> str:
    """The attention implementation with which a model computes packs.

    It is tree attention where the model has "sdpa" and looks its attention up by name, and else the
    model's own.
    """
    if not looks_attention_up(causal):
        return config._attn_implementation
    AttentionInterface.register(TREE_ATTENTION, tree_sdpa)
    return TREE_ATTENTION


def _segments(pack: Pack) -> list[tuple[slice, Tensor]]:
    """Each segment's queries, and the keys that some of them see, LongTensor [keys]."""
    index = torch.arange(len(pack.input_ids), device=pack.tout.device)  # [tokens]
    segments = []
    for start, end in pairwise(pack.cuts.tolist()):
        seen = (index < end) & (pack.tout > start)  # [tokens]
        segments.append((slice(start, end), seen.nonzero().squeeze(1)))
    return segments


def _masks(config, dtype: torch.dtype, pack: Pack):
    """The attention mask of a pack as the model takes it: one, or one for each kind of layer."""
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if not kinds:
        return _mask(config, dtype, pack, window)
    windows = {kind: window if kind == "sliding_attention" else None for kind in kinds}
    return {kind: _mask(config, dtype, pack, own) for kind, own in windows.items()}


def _mask(config, dtype: torch.dtype, pack: Pack, window: int | None):
    """The mask of layers with that sliding window: what the attention implementation takes."""

    def visible(batch, head, query: Tensor, key: Tensor) -> Tensor:
        seen = (key <= query) & (query < pack.tout[key])
        if window is not None:
            distance = pack.position_ids[query] - pack.position_ids[key]
            seen = seen & (distance < window)
        return seen

    device = pack.tout.device
    size = len(pack.input_ids)
    if config._attn_implementation == "flex_attention":
        from torch.nn.attention.flex_attention import create_block_mask

        return create_block_mask(visible, None, None, size, size, device=device)
    # The other implementations take a dense mask.
    index = torch.arange(size, device=device)
    mask = visible(None, None, index[:, None], index[None, :])[None, None]  # [1, 1, tokens, tokens]
    if config._attn_implementation == "eager":  # adds its mask to the scores
        additive = torch.zeros(mask.shape, dtype=dtype, device=device)
        return additive.masked_fill_(~mask, torch.finfo(dtype).min)
    return mask


# --- Log-probabilities ---


def token_logprobs(
    model, pack: Pack, temperature: float = 1.0, top_p: float = 1.0, top_k: int = 0
) -> Tensor:
    """The log-probability of every trained token, [trained tokens], ordered as `pack.advantages`.

    Equals one forward pass per path. Logits are made at trained positions only, in chunks that are
    not kept, so that memory does not grow with their number.

    The base model's dropout is turned off, and stays off: with it the policy would differ from the
    one that was sampled from. An adapter's own dropout (--lora_dropout) follows the model's mode.

    Args:
        model: a causal LM, bare or under PEFT.
        temperature, top_p, top_k: those of sampling.
    """
    (logprobs,) = _at_trained_positions(
        model, pack, (temperature, top_p, top_k), with_entropy=False
    )
    return logprobs


def token_logprobs_and_entropies(
    model, pack: Pack, temperature: float = 1.0, top_p: float = 1.0, top_k: int = 0
) -> tuple[Tensor, Tensor]:
    """`token_logprobs`, and the entropy of the sampling policy at the same positions, in nats.

    Both are [trained tokens] and carry a gradient. The entropy is that of the logits divided by the
    temperature and cropped by top_k and top_p, H = -sum p log p. It costs another product with the
    vocabulary in the backward pass.
    """
    logprobs, entropies = _at_trained_positions(
        model, pack, (temperature, top_p, top_k), with_entropy=True
    )
    return logprobs, entropies


def _at_trained_positions(
    model, pack: Pack, warping: tuple[float, float, int], with_entropy: bool
) -> tuple[Tensor, ...]:
    """Log-probabilities, and entropies where asked for, of a pack's trained tokens.

    Returns:
        A tuple of [trained tokens].
    """
    causal = _causal(model)
    if causal.training:
        _turn_off_dropout(causal)
    head = causal.get_output_embeddings()
    softcap = getattr(causal.config.get_text_config(), "final_logit_softcapping", None)

    def chunk_values(states: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
        logits = head(states).float()  # [chunk, vocabulary]
        # A cap (Gemma 2) that the model's own forward pass applies after its head.
        if softcap:
            logits = softcap * torch.tanh(logits / softcap)
        logits = warp(logits, *warping, keep=targets[:, None])
        if not with_entropy:
            return (-cross_entropy(logits, targets, reduction="none"),)
        logprobs = logits.log_softmax(-1)  # [chunk, vocabulary]
        return logprobs.gather(1, targets[:, None]).squeeze(1), entropy(logprobs)

    hidden = _hidden_states(causal, pack)  # [tokens, hidden size]
    return head_values(chunk_values, head, hidden[pack.predictors], pack.targets)


def _causal(model):
    """The causal LM itself, without PEFT's wrapper; its layers hold the adapter."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _turn_off_dropout(causal) -> None:
    """Puts all of a model but its adapter's dropout into evaluation mode."""
    for name, module in causal.named_modules():
        module.training = "lora_dropout" in name


def _hidden_states(causal, pack: Pack) -> Tensor:
    """The last layer's states of all tokens of a pack, [tokens, hidden size]."""
    decoder = causal.get_decoder()
    config = decoder.config.get_text_config()
    masks = _masks(config, causal.dtype, pack)
    attention = _attention_for_packs(causal, config)
    tree_arguments = {"segments": _segments(pack)} if attention == TREE_ATTENTION else {}
    with attention_implementation(config, attention):
        output = decoder(
            input_ids=pack.input_ids[None],  # [1, tokens]
            attention_mask=masks,
            position_ids=pack.position_ids[None],  # [1, tokens]
            use_cache=False,
            **tree_arguments,
        )
    return output.last_hidden_state[0]


def entropy(logprobs: Tensor) -> Tensor:
    """The entropy of each row of log-probabilities [rows, choices], in nats, [rows].

    A choice of probability 0 adds nothing, and its gradient is 0.

    >>> entropy(torch.tensor([[0.5, 0.5, 0.0], [0.25, 0.25, 0.5]]).log())
    tensor([0.6931, 1.0397])
    """
    return -(logprobs.exp() * logprobs.masked_fill(logprobs == -torch.inf, 0.0)).sum(-1)


def head_values(
    chunk_values: Callable[..., tuple[Tensor, ...]],
    head: torch.nn.Module,
    states: Tensor,
    targets: Tensor,
) -> tuple[Tensor, ...]:
    """`chunk_values(states, targets)` in chunks, whose logits are freed before the next.

    Under a frozen head the forward pass takes the gradients along (`_with_slopes`). A head that is
    trained is recomputed in the backward pass.

    Args:
        chunk_values: from states [chunk, hidden size] and targets [chunk] to a tuple of [chunk].
            Each value of a token depends on the token's own state alone.
        head: the output embeddings.
        states: [trained tokens, hidden size].
        targets: LongTensor [trained tokens].

    Returns:
        A tuple of [trained tokens].
    """
    size = max(1, CHUNK_ELEMENTS // head.out_features)
    chunks = list(zip(states.split(size), targets.split(size)))
    if not torch.is_grad_enabled():
        parts = [chunk_values(*chunk) for chunk in chunks]
    # A frozen head: gradients are needed of the states alone.
    elif not any(parameter.requires_grad for parameter in head.parameters()):
        parts = [_with_slopes(chunk_values, *chunk) for chunk in chunks]
    else:
        parts = [checkpoint(chunk_values, *chunk, use_reentrant=False) for chunk in chunks]
    return tuple(torch.cat(values) for values in zip(*parts))


def _with_slopes(
    chunk_values: Callable[..., tuple[Tensor, ...]], states: Tensor, targets: Tensor
) -> tuple[Tensor, ...]:
    """`chunk_values` with their gradients computed along in the forward pass.

    What arrives from the loss is one number for each value. So the backward pass only scales the
    gradients taken here: two products with the vocabulary for one value instead of three.

    Args:
        states: [chunk, hidden size].
        targets: LongTensor [chunk].
    """
    leaf = states.detach().requires_grad_()
    values = chunk_values(leaf, targets)  # [chunk] each
    linear = []
    for i, value in enumerate(values):
        is_last = i == len(values) - 1
        # [chunk, hidden size]
        (slope,) = torch.autograd.grad(value.sum(), leaf, retain_graph=not is_last)
        # Adds 0 to the value, and has the gradient `slope`.
        linear.append(value.detach() + (slope * (states - leaf.detach())).sum(-1))
    return tuple(linear)


def checkpoint_layers(model) -> None:
    """Makes the backward pass compute each layer again instead of keeping what is inside it.

    transformers' own way does so in training mode alone, in which dropout is on.

    Raises:
        ValueError: the model has no list of layers.
    """
    causal = _causal(model)
    decoder = causal.get_decoder()
    lists = [part for part in decoder.children() if isinstance(part, torch.nn.ModuleList)]
    if not lists:
        raise ValueError(
            f"--gradient_checkpointing: {causal.config.model_type} has no list of layers"
        )
    config = decoder.config.get_text_config()
    for layer in lists[0]:
        layer.forward = _recomputed(layer.forward, config)


def _recomputed(forward: Callable, config) -> Callable:
    """A layer's forward pass that keeps its input alone, and is run again in the backward pass."""

    def run(*args, **kwargs):
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        # The backward pass comes when `_attention` has ended.
        implementation = config._attn_implementation

        def forward_as_now(*args, **kwargs):
            with attention_implementation(config, implementation):
                return forward(*args, **kwargs)

        return checkpoint(forward_as_now, *args, use_reentrant=False, **kwargs)

    return run


# --- The loss ---


def policy_loss(  # noqa: PLR0913  (the suite's contract fixes these)
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
    beta: float = 0.0,
    ref_logprobs: Tensor | None = None,
    loss_type: str = "dapo",
    steps: Tensor | None = None,
    normalizer: float | None = None,
    entropy_coef: float = 0.0,
    entropies: Tensor | None = None,
    trained_tokens: int | None = None,
) -> Tensor:
    """The loss of TreeRPO (section 3.4, equation 5), as a scalar to minimise.

    It is the clipped surrogate of PPO (arXiv 1707.06347, equation 7) with a KL term, for each
    trained token

        l = -min(w A, clip(w, 1 - epsilon, 1 + epsilon_high) A) + beta (exp(d) - d - 1)

    with w = exp(logprobs - old_logprobs) and d = ref_logprobs - logprobs (the estimator of GRPO,
    arXiv 2402.03300, equation 4). `loss_type` says how l is averaged:

        "dapo"     sum over tokens / trained tokens (arXiv 2503.14476, equation 8), as in the
                   paper's code
        "grpo"     mean over the tokens of a step, then over steps, as in the paper's equation 5
        "dr_grpo"  sum over tokens / a constant (arXiv 2503.20783)

    The mean of l is lowered by entropy_coef times the mean entropy at the trained positions
    (section 4). That mean is over tokens whatever the loss type, as in TRL.

    Args:
        logprobs, old_logprobs, advantages, ref_logprobs, entropies: [trained tokens]. ref_logprobs
            is needed where beta > 0, entropies where entropy_coef is not 0.
        epsilon_high: None takes epsilon.
        steps: LongTensor [trained tokens], the step that each belongs to; needed for "grpo".
        normalizer: the divisor over the global batch (tokens, steps or the constant), where these
            tokens are only a part of it. None takes the count of these tokens or steps; "dr_grpo"
            needs it.
        trained_tokens: the trained tokens of the global batch, by which the entropies are divided.
            None takes the count of these tokens.
    """
    if epsilon_high is None:
        epsilon_high = epsilon
    losses = -_clipped_surrogate(logprobs, old_logprobs, advantages, epsilon, epsilon_high)
    if beta:
        losses = losses + beta * _kl_estimate(logprobs, ref_logprobs)
    loss = _average(losses, loss_type, steps, normalizer)
    if entropy_coef:
        loss = loss - entropy_coef * entropies.sum() / (trained_tokens or len(entropies))
    return loss


def _clipped_surrogate(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, low: float, high: float
) -> Tensor:
    """min(w A, clip(w, 1 - low, 1 + high) A) for each token, [trained tokens]."""
    ratio = torch.exp(logprobs - old_logprobs)
    clipped = ratio.clamp(1 - low, 1 + high)
    return torch.minimum(ratio * advantages, clipped * advantages)


def _kl_estimate(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """exp(d) - d - 1 for each token, [trained tokens]: unbiased, and never negative."""
    difference = ref_logprobs - logprobs
    return torch.exp(difference) - difference - 1


def _average(
    losses: Tensor, loss_type: str, steps: Tensor | None, normalizer: float | None
) -> Tensor:
    """The average of losses [trained tokens] as `loss_type` has it, a scalar."""
    if loss_type == "grpo":
        sizes = torch.bincount(steps)  # [steps], tokens of each
        losses = losses / sizes[steps]
        count = len(sizes)
    elif loss_type == "dapo":
        count = len(losses)
    elif loss_type == "dr_grpo" and normalizer is not None:
        count = normalizer
    else:
        raise ValueError(
            f"loss_type must be one of {', '.join(LOSS_TYPES)}, the last with a normalizer"
        )
    return losses.sum() / (count if normalizer is None else normalizer)


# --- Checks of a model ---


def check_model(model) -> None:
    """Refuses a model whose packed log-probabilities are not those of one forward pass per path.

    It is tried on a small random tree.

    Raises:
        ValueError: names the model's type and its attention implementation.
    """
    config = model.config.get_text_config()
    rng = np.random.default_rng(0)
    sizes = [3, 2, 4, 2]  # tokens of the steps
    prompt = rng.integers(0, config.vocab_size, _prompt_length(config))
    tokens = [[], *(rng.integers(0, config.vocab_size, size) for size in sizes)]
    tree = Tree(
        prompt_ids=prompt,
        parent=[-1, 0, 1, 1, 0],
        depth=[0, 1, 2, 2, 1],
        tokens=tokens,
        logprobs=[[0.0] * len(ids) for ids in tokens],
        finished=[False] * 5,
    )
    with _refusing(model, "can't be trained on packed trees"), torch.no_grad():
        (packed,) = pack([tree], [torch.ones(5)], max_tokens=10**9)
        # Nodes are numbered in depth-first order, which is the order in the pack.
        by_step = token_logprobs(model, packed.to(model.device)).split(sizes)
        for node, logprobs in enumerate(by_step, 1):
            _require_close(logprobs, _plain_logprobs(model, tree, node), model.dtype)


def check_sampler(model, tokenizer, trains: bool, use_cuda_graph: bool = True) -> None:
    """Refuses a model that is sampled otherwise than it computes.

    Two small trees are sampled by the engine that the run will use. Their log-probabilities are
    held against one forward pass per path, and, where the model is to be trained, against
    `token_logprobs` in training mode. Random states are left as they were: sampling has streams of
    its own, and only dropout draws from torch's.

    Raises:
        ValueError: names the model's type and its attention implementation.
    """
    config = model.config.get_text_config()
    rng = np.random.default_rng(1)
    lengths = (_prompt_length(config), 3)
    prompts = [rng.integers(0, config.vocab_size, length).tolist() for length in lengths]
    devices = [model.device] if model.device.type == "cuda" else []
    what = "can't be sampled"
    if use_cuda_graph and fixed_shape.suits(model):
        what += " in a cache of fixed shape: try --use_cuda_graph false"
    with _refusing(model, what), torch.random.fork_rng(devices):
        # As sampled, against one forward pass per path.
        sampler = TreeSampler(
            model, tokenizer, branching=2, depth=2, step_tokens=4, use_cuda_graph=use_cuda_graph
        )
        sampler.engine.stop_at([])  # so that no path ends early
        trees = sampler.sample(prompts, seeds=[0, 1])
        for tree in trees:
            for node in range(1, len(tree.parent)):
                with torch.no_grad():
                    plain = _plain_logprobs(model, tree, node)
                _require_close(tree.logprobs[node].to(plain.device), plain, model.dtype)
        # As sampled, against packs.
        if trains:
            every_node = [torch.ones(len(tree.parent)) for tree in trees]
            (packed,) = pack(trees, every_node, max_tokens=10**9)
            packed = packed.to(model.device)
            model.train()
            _require_close(token_logprobs(model, packed).detach(), packed.old_logprobs, model.dtype)


def _prompt_length(config) -> int:
    """The length of a check's prompt: that of a sliding window, where it is affordable.

    The paths then reach beyond the window.
    """
    window = getattr(config, "sliding_window", None) or 0
    return max(8, window if window <= 1024 else 0)


def _plain_logprobs(model, tree: Tree, node: int) -> Tensor:
    """The log-probabilities of a node's tokens by one forward pass over its path, [tokens]."""
    ids = torch.tensor([tree.prompt_ids + tree.completion_ids(node)], device=model.device)
    size = len(tree.tokens[node])
    logits = model(input_ids=ids).logits[0, -1 - size : -1].float()  # [tokens, vocabulary]
    return logits.log_softmax(-1).gather(1, ids[0, -size:, None]).squeeze(1)


def _require_close(actual: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    """Raises ValueError where log-probabilities differ by more than the rounding of a dtype."""
    tolerance = 1e-3 if dtype == torch.float32 else 0.5
    if not (actual.isfinite() & expected.isfinite()).all():
        raise ValueError(
            f"its log-probabilities are not finite: damaged weights, or too large for {dtype}"
        )
    if not torch.allclose(actual, expected, atol=tolerance, rtol=tolerance):
        gap = (actual - expected).abs().max()
        raise ValueError(
            f"log-probabilities differ by up to {gap:.2g} from those of one forward pass per path"
        )


@contextmanager
def _refusing(model, what: str):
    """Inside it the model is in evaluation mode, and a failure is a ValueError that names it."""
    try:
        with evaluation_mode(model):
            yield
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # a model's own code raises whatever it likes
        config = model.config.get_text_config()
        name = f"{config.model_type} with attention {config._attn_implementation}"
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{name} {what} ({reason})") from error
