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

from generate import warp
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


def _masks(config, dtype: torch.dtype, pack: Pack):
    """The attention mask of a pack as the model takes it: one, or one for each kind of layer."""

    def visible(window: int | None):
        def mask_mod(batch, head, query, key):
            seen = (key <= query) & (query < pack.tout[key])
            return (
                seen
                if window is None
                else seen & (pack.position_ids[query] - pack.position_ids[key] < window)
            )

        size = len(pack.input_ids)
        if config._attn_implementation == "flex_attention":
            from torch.nn.attention.flex_attention import create_block_mask

            return create_block_mask(mask_mod, None, None, size, size, device=pack.tout.device)
        index = torch.arange(size, device=pack.tout.device)
        mask = mask_mod(None, None, index[:, None], index[None, :])[
            None, None
        ]  # [1, 1, tokens, tokens]
        if config._attn_implementation == "eager":  # adds its mask to the scores
            mask = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(
                ~mask, torch.finfo(dtype).min
            )
        return mask

    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if not kinds:
        return visible(window)
    return {kind: visible(window if kind == "sliding_attention" else None) for kind in set(kinds)}


def tree_sdpa(
    module, query: Tensor, key: Tensor, value: Tensor, attention_mask, segments=(), **kwargs
):
    """transformers' SDPA, for one segment of a pack's queries after another where `segments` names
    them with the keys that some of them see. A token sees its path alone, a small part of a pack,
    and a dense mask saves no work."""
    if len(segments) < 2:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    parts = []
    for own, seen in segments:
        keys, values, mask = (
            key[:, :, seen],
            value[:, :, seen],
            attention_mask[:, :, own][..., seen],
        )
        parts.append(
            sdpa_attention_forward(module, query[:, :, own], keys, values, mask, **kwargs)[0]
        )
    return torch.cat(parts, 1), None  # [1, tokens, heads, head dimension]


AttentionInterface.register("sdpa", tree_sdpa)


def token_logprobs(
    model, pack: Pack, temperature: float = 1.0, top_p: float = 1.0, top_k: int = 0
) -> Tensor:
    """The log-probability of every trained token, [trained tokens], in the order of
    `pack.advantages`.

    Equals one forward pass a path. Logits are made at trained positions only, in chunks that are
    not kept, so that memory does not grow with their number.

    The base model's dropout is turned off, and stays off: with it the policy would be another one
    than was sampled from. An adapter's own dropout (--lora_dropout) follows the model's mode.

    Args:
        model: a causal LM, bare or under PEFT. temperature, top_p, top_k: those of sampling.
    """
    (logprobs,) = _at_trained_positions(
        model, pack, (temperature, top_p, top_k), with_entropy=False
    )
    return logprobs


def token_logprobs_and_entropies(
    model, pack: Pack, temperature: float = 1.0, top_p: float = 1.0, top_k: int = 0
) -> tuple[Tensor, Tensor]:
    """`token_logprobs`, and the entropy in nats of the sampling policy's distribution at the same
    positions.

    Both are [trained tokens] and carry a gradient. The entropy is that of the logits divided by the
    temperature and cropped by top_k and top_p, H = -sum p log p. It costs another product with the
    vocabulary in the backward pass."""
    logprobs, entropies = _at_trained_positions(
        model, pack, (temperature, top_p, top_k), with_entropy=True
    )
    return logprobs, entropies


def _at_trained_positions(
    model, pack: Pack, warping: tuple, with_entropy: bool
) -> tuple[Tensor, ...]:
    """Log-probabilities, and entropies where asked for, of a pack's trained tokens: a tuple of
    [trained tokens]."""
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    if causal.training:
        for name, module in causal.named_modules():
            module.training = "lora_dropout" in name
    config, head = causal.config.get_text_config(), causal.get_output_embeddings()
    index, cuts = (
        torch.arange(len(pack.input_ids), device=pack.tout.device),
        pairwise(pack.cuts.tolist()),
    )
    segments = [
        (slice(a, b), ((index < b) & (pack.tout > a)).nonzero().squeeze(1)) for a, b in cuts
    ]
    hidden = causal.get_decoder()(
        input_ids=pack.input_ids[None],
        attention_mask=_masks(config, causal.dtype, pack),
        position_ids=pack.position_ids[None],
        use_cache=False,
        segments=segments,  # for `tree_sdpa`; other implementations pass over it
    ).last_hidden_state[0]  # [tokens, hidden size]
    softcap = getattr(config, "final_logit_softcapping", None)

    def chunk_values(states: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
        logits = head(states).float()  # [chunk, vocabulary]
        logits = softcap * torch.tanh(logits / softcap) if softcap else logits
        logits = warp(logits, *warping, keep=targets[:, None])
        if not with_entropy:
            return (-cross_entropy(logits, targets, reduction="none"),)
        logprobs = logits.log_softmax(-1)
        return logprobs.gather(1, targets[:, None]).squeeze(1), entropy(logprobs)

    return head_values(chunk_values, head, hidden[pack.predictors], pack.targets)


def checkpoint_layers(model) -> None:
    """Makes the backward pass compute each layer again instead of keeping what is inside it.

    transformers' own way does so in training mode alone, in which dropout is on.

    Raises:
        ValueError: the model has no list of layers.
    """
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model

    def recomputed(forward: Callable) -> Callable:
        def run(*args, **kwargs):
            if not torch.is_grad_enabled():
                return forward(*args, **kwargs)
            return checkpoint(forward, *args, use_reentrant=False, **kwargs)

        return run

    lists = [
        part for part in causal.get_decoder().children() if isinstance(part, torch.nn.ModuleList)
    ]
    if not lists:
        raise ValueError(
            f"--gradient_checkpointing: {causal.config.model_type} has no list of layers"
        )
    for layer in lists[0]:
        layer.forward = recomputed(layer.forward)


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
    """`chunk_values(states, targets)` in chunks whose logits are freed before the next: a tuple of
    [trained tokens].

    Each value of a token depends on the token's own state [hidden size] alone, and what arrives
    from the loss is one number for each. So under a frozen head the forward pass takes the
    gradients along, and the backward pass only scales them: two products with the vocabulary for
    one value instead of three. A head that is trained is recomputed in the backward pass."""

    def with_slopes(states: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
        own = states.detach().requires_grad_()
        values = chunk_values(own, targets)  # [chunk] each
        linear = []
        for i, value in enumerate(values):
            last = i == len(values) - 1
            (slope,) = torch.autograd.grad(
                value.sum(), own, retain_graph=not last
            )  # [chunk, hidden size]
            # Adds 0 to the value, and has the gradient `slope`.
            linear.append(value.detach() + (slope * (states - own.detach())).sum(-1))
        return tuple(linear)

    size = max(1, CHUNK_ELEMENTS // head.out_features)
    chunks = list(zip(states.split(size), targets.split(size)))
    if not torch.is_grad_enabled():
        parts = [chunk_values(*chunk) for chunk in chunks]
    elif not any(p.requires_grad for p in head.parameters()):
        parts = [with_slopes(*chunk) for chunk in chunks]
    else:
        parts = [checkpoint(chunk_values, *chunk, use_reentrant=False) for chunk in chunks]
    return tuple(torch.cat(values) for values in zip(*parts))


def check_model(model) -> None:
    """Refuses a model whose packed log-probabilities differ from one forward pass a path, on a
    small random tree.

    Raises:
        ValueError: names the model's type and its attention implementation.
    """
    config = model.config.get_text_config()
    rng = np.random.default_rng(0)
    sizes = [_prompt_length(config), 3, 2, 4, 2]
    prompt, *tokens = [rng.integers(0, config.vocab_size, size) for size in sizes]
    zeros = [[], *map(np.zeros_like, tokens)]
    tree = Tree(prompt, [-1, 0, 1, 1, 0], [0, 1, 2, 2, 1], [[], *tokens], zeros, [False] * 5)
    with _refusing(model, "can't be trained on packed trees"), torch.no_grad():
        packed = pack([tree], [torch.ones(5)], 10**9)[0].to(model.device)
        found = token_logprobs(model, packed).split(sizes[1:])
        for node, logprobs in enumerate(found, 1):
            _require_close(logprobs, _plain_logprobs(model, tree, node), model.dtype)


def check_sampler(model, tokenizer, trains: bool) -> None:
    """Refuses a model that is sampled otherwise than it computes: two small trees, by real generate
    calls, against one forward pass a path, and against `token_logprobs` in training mode where the
    model is to be trained.

    Random states are left as they were: sampling has streams of its own, and only dropout draws
    from torch's.

    Raises:
        ValueError: names the model's type and its attention implementation.
    """
    config = model.config.get_text_config()
    rng = np.random.default_rng(1)
    prompts = [
        rng.integers(0, config.vocab_size, size).tolist() for size in (_prompt_length(config), 3)
    ]
    devices = [model.device] if model.device.type == "cuda" else []
    with _refusing(model, "can't be sampled"), torch.random.fork_rng(devices):
        sampler = TreeSampler(model, tokenizer, branching=2, depth=2, step_tokens=4)
        sampler.stop_ids = sampler.generation_config.eos_token_id = [
            config.vocab_size
        ]  # so that no path ends early
        trees = sampler.sample(prompts, [0, 1])
        for tree in trees:
            for node in range(1, len(tree.parent)):
                with torch.no_grad():
                    plain = _plain_logprobs(model, tree, node)
                _require_close(tree.logprobs[node].to(plain.device), plain, model.dtype)
        if trains:
            (packed,) = pack(trees, [torch.ones(len(tree.parent)) for tree in trees], 10**9)
            packed = packed.to(model.device)
            model.train()
            _require_close(token_logprobs(model, packed).detach(), packed.old_logprobs, model.dtype)


def _prompt_length(config) -> int:
    """Where it is affordable, as long as a sliding window, so that the paths of a check reach
    beyond it."""
    window = getattr(config, "sliding_window", None) or 0
    return max(8, window if window <= 1024 else 0)


def _plain_logprobs(model, tree: Tree, node: int) -> Tensor:
    """The log-probabilities of a node's tokens by one forward pass over its path, [tokens of the
    node]."""
    ids = torch.tensor([tree.prompt_ids + tree.completion_ids(node)], device=model.device)
    size = len(tree.tokens[node])
    plain = model(input_ids=ids).logits[0, -1 - size : -1].float().log_softmax(-1)
    return plain.gather(1, ids[0, -size:, None]).squeeze(1)


def _require_close(found: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    """Raises ValueError where log-probabilities differ by more than rounding in the model's
    dtype."""
    tolerance = 1e-3 if dtype == torch.float32 else 0.5
    if not (found.isfinite() & expected.isfinite()).all():
        raise ValueError(
            f"its log-probabilities are not finite: damaged weights, or too large for {dtype}"
        )
    gap = (found - expected).abs().max()
    if not torch.allclose(found, expected, atol=tolerance, rtol=tolerance):
        raise ValueError(
            f"log-probabilities differ by up to {gap:.2g} from those of one forward pass a path"
        )


@contextmanager
def _refusing(model, what: str):
    """Inside it the model is in evaluation mode, and whatever fails is a ValueError that names the
    model."""
    training = model.training
    model.eval()
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # a model's own code raises whatever it likes
        config = model.config.get_text_config()
        name = f"{config.model_type} with attention {config._attn_implementation}"
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{name} {what} ({reason})") from error
    finally:
        model.train(training)


def policy_loss(
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
    """The loss of TreeRPO (section 3.4, equation 5), as a scalar to minimise. It is the clipped
    surrogate of PPO (arXiv 1707.06347, equation 7) with a KL term, for each trained token

        l = -min(w A, clip(w, 1 - epsilon, 1 + epsilon_high) A) + beta (exp(d) - d - 1)

    with w = exp(logprobs - old_logprobs) and d = ref_logprobs - logprobs (the estimator of GRPO,
    arXiv 2402.03300, equation 4). The mean of l is lowered by entropy_coef times the mean entropy
    at the trained positions (section 4). `loss_type` says how l is averaged:
        "dapo": sum over tokens / trained tokens (arXiv 2503.14476, equation 8), as in the paper's
        code. "grpo": mean over the tokens of a step, then over steps, as in the paper's equation 5.
        "dr_grpo": sum over tokens / a constant (arXiv 2503.20783).
    The entropy is a mean over tokens whatever the loss type, as in TRL.

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
    ratio = torch.exp(logprobs - old_logprobs)
    clipped = ratio.clamp(1 - epsilon, 1 + (epsilon if epsilon_high is None else epsilon_high))
    loss = -torch.minimum(ratio * advantages, clipped * advantages)  # [trained tokens]
    if beta:
        difference = ref_logprobs - logprobs
        loss = loss + beta * (torch.exp(difference) - difference - 1)
    if loss_type == "grpo":
        sizes = torch.bincount(steps)  # [steps]
        loss = loss / sizes[steps]
        normalizer = len(sizes) if normalizer is None else normalizer
    elif loss_type == "dapo":
        normalizer = len(loss) if normalizer is None else normalizer
    elif loss_type != "dr_grpo" or normalizer is None:
        raise ValueError(
            f"loss_type must be one of {', '.join(LOSS_TYPES)}, the last with a normalizer"
        )
    total = loss.sum() / normalizer
    if entropy_coef:
        total = total - entropy_coef * entropies.sum() / (trained_tokens or len(entropies))
    return total
