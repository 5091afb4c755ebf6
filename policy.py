"""Trees -> packed batches -> log-probabilities -> loss.

A pack is one sequence that holds many nodes, each token once: a token sees its ancestors and nobody else, and stands
at the position it had when it was sampled. So a prefix that a thousand leaves share is computed once, both ways.
"""

import math
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from tree_sampler import Tree, TreeSampler, warp

LOSS_TYPES = ("dapo", "grpo", "dr_grpo")
CHUNK_ELEMENTS = 2**25  # logits alive at once in `token_logprobs`: 128 MiB of float32
# What a call of attention costs, in pairs of tokens whose attention takes as long; on a GPU by count, not measured.
CALL_PAIRS = 2**18 if torch.cuda.is_available() else 2**15


@dataclass
class Pack:
    """One sequence of tree nodes in depth-first order.

    With entry and exit times of the depth-first walk, query q sees key k when tin[k] <= tin[q] < tout[k]; the entry
    time of a token is its index in the pack, so only `tout` is stored.
    """

    input_ids: Tensor  # LongTensor [tokens]
    position_ids: Tensor  # LongTensor [tokens], from the path's start
    tout: Tensor  # LongTensor [tokens], the index behind the subtree of the token's node
    predictors: Tensor  # LongTensor [trained tokens], the index of the token that predicts each trained token
    targets: Tensor  # LongTensor [trained tokens], their ids
    advantages: Tensor  # [trained tokens], of the node that each belongs to
    old_logprobs: Tensor  # [trained tokens], under the sampling policy
    steps: Tensor  # LongTensor [trained tokens], numbers the node that each belongs to, from 0 within the pack
    cuts: Tensor  # LongTensor [segments + 1], the indices between which attention is computed at once

    def to(self, device) -> "Pack":
        return Pack(**{name: value.to(device) for name, value in vars(self).items()})

    @staticmethod
    def idle() -> "Pack":
        """One token and none that is trained: a pass that another process needs company in."""
        one, none = torch.zeros(1, dtype=torch.long), torch.zeros(0, dtype=torch.long)
        return Pack(one, one, one + 1, none, none, none.float(), none.float(), none, torch.tensor([0, 1]))


@dataclass
class _Item:
    """A kept node on its way into packs. Indices count kept nodes in depth-first order over all trees."""

    ids: np.ndarray  # tokens to forward: a leaf's last token predicts nothing and is left out
    tokens: np.ndarray  # all tokens, to be predicted
    old_logprobs: np.ndarray
    advantage: float
    parent: int  # index of the parent, -1 for a root
    start: int  # position of its first token; the tokens before it are its ancestors'
    end: int = 0  # index behind the last node of its subtree


def pack(trees: list[Tree], advantages: list[Tensor], max_tokens: int) -> list[Pack]:
    """Packs the trained nodes of the trees, each exactly once, with the ancestors they need.

    Nodes with zero advantage and no trained descendant are left out. A cut repeats the tokens of the ancestors at that
    place and nothing else; the cuts are those that leave the fewest tokens in all packs, each of at most max_tokens.

    Args:
        advantages: one Tensor [nodes] a tree.
        max_tokens: most tokens in a pack.

    Raises:
        ValueError: a single path is longer than max_tokens.
    """
    items: list[_Item] = []
    for tree, values in zip(trees, advantages, strict=True):
        _collect(tree, values.tolist(), items)
    if not items:
        return []
    lengths = np.array([len(item.ids) for item in items])
    if (longest := max(item.start + len(item.ids) for item in items)) > max_tokens:
        raise ValueError(f"a path of {longest} tokens does not fit a pack of {max_tokens}: raise max_pack_tokens")
    # A token more for each pack: of two ways to cut that cost the same, the one with fewer packs.
    cuts = _cut(lengths, np.array([item.start for item in items]), max_tokens, lambda own, context: 1 + own + context)
    packs = [_build(items, first, last) for first, last in pairwise(cuts)]
    return [p for p in packs if len(p.targets)]


def split_trees(tokens: list[int], count: int, seed: list[int]) -> list[list[int]]:
    """Splits a batch of trees into `count` parts that are as equal in trained tokens as whole trees allow.

    Trees are dealt in an order drawn by the seed, each to the part with the fewest tokens so far. Then a tree is moved,
    or two are swapped, for as long as that brings two parts closer together.

    Args:
        tokens: trained tokens of each tree.
        seed: of the draw.

    Returns:
        The places of each part's trees in `tokens`, in order.

    >>> split_trees([30, 20, 20, 30, 20], 2, [0])
    [[1, 2, 4], [0, 3]]
    """
    parts: list[list[int]] = [[] for _ in range(count)]
    sums = [0] * count
    for place in np.random.default_rng(seed).permutation(len(tokens)).tolist():
        emptiest = min(range(count), key=lambda part: (sums[part], len(parts[part])))
        parts[emptiest].append(place)
        sums[emptiest] += tokens[place]
    while exchange := _best_exchange(tokens, parts, sums):
        giver, taker, given, taken = exchange
        for part, out, back in ((giver, given, taken), (taker, taken, given)):
            parts[part] = [place for place in parts[part] if place != out] + ([] if back is None else [back])
            sums[part] = sum(tokens[place] for place in parts[part])
    return [sorted(part) for part in parts]


def _best_exchange(tokens: list[int], parts: list[list[int]], sums: list[int]) -> tuple | None:
    """The move or swap of trees that brings two parts closest together: (giver, taker, place given, place taken or
    None), or None where none brings any two closer."""
    best, found = 0, None
    for giver in range(len(parts)):
        for taker in range(len(parts)):
            difference = sums[giver] - sums[taker]
            for given in parts[giver] if difference > 0 else ():
                for taken in (None, *parts[taker]):
                    shift = tokens[given] - (0 if taken is None else tokens[taken])
                    gain = difference - abs(difference - 2 * shift)
                    if gain > best:
                        best, found = gain, (giver, taker, given, taken)
    return found


def _collect(tree: Tree, advantages: list[float], items: list[_Item]) -> None:
    """Appends the nodes of a tree that are trained or lead to one that is, in depth-first order."""
    parents = tree.parent.tolist()
    needed = [a != 0 for a in advantages]
    children: list[list[int]] = [[] for _ in parents]
    for node in range(len(parents) - 1, 0, -1):
        if needed[node]:
            needed[parents[node]] = True
            children[parents[node]].append(node)
    stack = [(0, -1)] if any(a != 0 for a in advantages[1:]) else []
    closing: list[int] = []  # the indices whose subtree is still open
    while stack:
        node, parent = stack.pop()
        while closing and closing[-1] != parent:
            items[closing.pop()].end = len(items)
        tokens = tree.tokens[node].numpy() if node else np.array(tree.prompt_ids)
        start = items[parent].start + len(items[parent].ids) if node else 0
        ids = tokens if children[node] else tokens[:-1]
        logprobs = tree.logprobs[node].numpy()
        closing.append(len(items))
        stack += [(child, len(items)) for child in children[node]]  # collected backwards: the first child is on top
        items.append(_Item(ids, tokens, logprobs, advantages[node] if node else 0.0, parent, start))
    for index in closing:
        items[index].end = len(items)


def _cut(lengths: np.ndarray, context: np.ndarray, max_tokens: float, cost: Callable) -> list[int]:
    """Where to cut the depth-first order: boundaries 0 = c0 < c1 < ... = nodes, of least total cost, by dynamic
    programming. `cost` takes the tokens of a part's own nodes, [candidates], and those of its context.

    A part of nodes [i, j) needs their tokens and `context[i]` tokens of the ancestors of i. Those are all the ancestors
    it needs: in depth-first order an ancestor of a later node in the range is in the range, or above i too.
    """
    count = len(lengths)
    offsets = np.concatenate([[0], lengths.cumsum()])
    best = np.zeros(count + 1)  # least cost of the nodes from i on
    cut = np.zeros(count, dtype=int)
    for i in range(count - 1, -1, -1):
        last = np.searchsorted(offsets, offsets[i] + max_tokens - context[i], side="right")
        costs = cost(offsets[i + 1 : last] - offsets[i], context[i]) + best[i + 1 : last]  # for j = i + 1 ... last - 1
        # The latest of equals. Behind nodes without tokens of their own it makes no difference.
        cut[i] = last - 1 - int(costs[::-1].argmin())
        best[i] = costs[cut[i] - i - 1]
    boundaries = [0]
    while boundaries[-1] < count:
        boundaries.append(int(cut[boundaries[-1]]))
    return boundaries


def _build(items: list[_Item], first: int, last: int) -> Pack:
    """The pack of nodes [first, last) behind the ancestors of `first`."""
    ancestors: list[int] = []
    while (above := items[ancestors[-1] if ancestors else first].parent) >= 0:
        ancestors.append(above)
    members = ancestors[::-1] + list(range(first, last))
    place = {index: i for i, index in enumerate(members)}
    lengths = np.array([len(items[index].ids) for index in members])
    offsets = np.concatenate([[0], lengths.cumsum()])  # [members + 1]
    exits = np.array([offsets[place.get(items[index].end, len(members))] for index in members])
    starts = np.array([items[index].start for index in members])
    # Attention computes own * (own + context) pairs of tokens for a segment, and is called once more for each.
    cuts = _cut(lengths, starts, math.inf, lambda own, context: own * (own + context) + CALL_PAIRS)
    predictors, trained = [], []
    for i, index in enumerate(members):
        item = items[index]
        if index >= first and item.advantage != 0:  # an ancestor is context here; it is trained in its own pack
            own = np.arange(offsets[i] - 1, offsets[i] - 1 + len(item.tokens))
            own[0] = offsets[place[item.parent] + 1] - 1  # the first token follows from the parent's last
            predictors.append(own)
            trained.append(item)
    sizes = [len(item.tokens) for item in trained]

    def join(parts: list[np.ndarray], dtype: type) -> Tensor:
        return torch.from_numpy(np.concatenate([np.empty(0), *parts]).astype(dtype))

    return Pack(
        input_ids=join([items[index].ids for index in members], np.int64),
        position_ids=torch.from_numpy(np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)),
        tout=torch.from_numpy(np.repeat(exits, lengths)),
        predictors=join(predictors, np.int64),
        targets=join([item.tokens for item in trained], np.int64),
        advantages=join([np.full(size, item.advantage) for item, size in zip(trained, sizes)], np.float32),
        old_logprobs=join([item.old_logprobs for item in trained], np.float32),
        steps=torch.from_numpy(np.repeat(np.arange(len(trained)), sizes)),
        cuts=torch.from_numpy(offsets[cuts]),
    )


def _masks(config, dtype: torch.dtype, pack: Pack):
    """The attention mask of a pack as the model takes it: one, or one for each kind of layer."""

    def visible(window: int | None):
        def mask_mod(batch, head, query, key):
            seen = (key <= query) & (query < pack.tout[key])
            return seen if window is None else seen & (pack.position_ids[query] - pack.position_ids[key] < window)

        size = len(pack.input_ids)
        if config._attn_implementation == "flex_attention":
            from torch.nn.attention.flex_attention import create_block_mask

            return create_block_mask(mask_mod, None, None, size, size, device=pack.tout.device)
        index = torch.arange(size, device=pack.tout.device)
        mask = mask_mod(None, None, index[:, None], index[None, :])[None, None]  # [1, 1, tokens, tokens]
        if config._attn_implementation == "eager":  # adds its mask to the scores
            mask = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, torch.finfo(dtype).min)
        return mask

    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if not kinds:
        return visible(window)
    return {kind: visible(window if kind == "sliding_attention" else None) for kind in set(kinds)}


def tree_sdpa(module, query: Tensor, key: Tensor, value: Tensor, attention_mask, segments=(), **kwargs):
    """transformers' SDPA, for one segment of a pack's queries after another where `segments` names them with the keys
    that some of them see. A token sees its path alone, a small part of a pack, and a dense mask saves no work."""
    if len(segments) < 2:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    parts = []
    for own, seen in segments:
        keys, values, mask = key[:, :, seen], value[:, :, seen], attention_mask[:, :, own][..., seen]
        parts.append(sdpa_attention_forward(module, query[:, :, own], keys, values, mask, **kwargs)[0])
    return torch.cat(parts, 1), None  # [1, tokens, heads, head dimension]


AttentionInterface.register("sdpa", tree_sdpa)


def token_logprobs(model, pack: Pack, temperature: float = 1.0, top_p: float = 1.0, top_k: int = 0) -> Tensor:
    """The log-probability of every trained token, [trained tokens], in the order of `pack.advantages`.

    Equals one forward pass a path. Logits are made at trained positions only, in chunks that are not kept, so that
    memory does not grow with their number.

    The base model's dropout is turned off, and stays off: with it the policy would be another one than was sampled
    from. An adapter's own dropout (--lora_dropout) follows the model's mode.

    Args:
        model: a causal LM, bare or under PEFT. temperature, top_p, top_k: those of sampling.
    """
    (logprobs,) = _at_trained_positions(model, pack, (temperature, top_p, top_k), with_entropy=False)
    return logprobs


def token_logprobs_and_entropies(
    model, pack: Pack, temperature: float = 1.0, top_p: float = 1.0, top_k: int = 0
) -> tuple[Tensor, Tensor]:
    """`token_logprobs`, and the entropy in nats of the sampling policy's distribution at the same positions.

    Both are [trained tokens] and carry a gradient. The entropy is that of the logits divided by the temperature and
    cropped by top_k and top_p, H = -sum p log p. It costs another product with the vocabulary in the backward pass.
    """
    logprobs, entropies = _at_trained_positions(model, pack, (temperature, top_p, top_k), with_entropy=True)
    return logprobs, entropies


def _at_trained_positions(model, pack: Pack, warping: tuple, with_entropy: bool) -> tuple[Tensor, ...]:
    """Log-probabilities, and entropies where asked for, of a pack's trained tokens: a tuple of [trained tokens]."""
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    if causal.training:
        for name, module in causal.named_modules():
            module.training = "lora_dropout" in name
    config, head = causal.config.get_text_config(), causal.get_output_embeddings()
    index, cuts = torch.arange(len(pack.input_ids), device=pack.tout.device), pairwise(pack.cuts.tolist())
    segments = [(slice(a, b), ((index < b) & (pack.tout > a)).nonzero().squeeze(1)) for a, b in cuts]
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

    lists = [part for part in causal.get_decoder().children() if isinstance(part, torch.nn.ModuleList)]
    if not lists:
        raise ValueError(f"--gradient_checkpointing: {causal.config.model_type} has no list of layers")
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
    chunk_values: Callable[..., tuple[Tensor, ...]], head: torch.nn.Module, states: Tensor, targets: Tensor
) -> tuple[Tensor, ...]:
    """`chunk_values(states, targets)` in chunks whose logits are freed before the next: a tuple of [trained tokens].

    Each value of a token depends on the token's own state [hidden size] alone, and what arrives from the loss is one
    number for each. So under a frozen head the forward pass takes the gradients along, and the backward pass only
    scales them: two products with the vocabulary for one value instead of three. A head that is trained is recomputed
    in the backward pass.
    """

    def with_slopes(states: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
        own = states.detach().requires_grad_()
        values = chunk_values(own, targets)  # [chunk] each
        linear = []
        for i, value in enumerate(values):
            last = i == len(values) - 1
            (slope,) = torch.autograd.grad(value.sum(), own, retain_graph=not last)  # [chunk, hidden size]
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
    """Refuses a model whose packed log-probabilities differ from one forward pass a path, on a small random tree.

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
    """Refuses a model that is sampled otherwise than it computes: two small trees, by real generate calls, against one
    forward pass a path, and against `token_logprobs` in training mode where the model is to be trained.

    Random states are left as they were: sampling has streams of its own, and only dropout draws from torch's.

    Raises:
        ValueError: names the model's type and its attention implementation.
    """
    config = model.config.get_text_config()
    rng = np.random.default_rng(1)
    prompts = [rng.integers(0, config.vocab_size, size).tolist() for size in (_prompt_length(config), 3)]
    devices = [model.device] if model.device.type == "cuda" else []
    with _refusing(model, "can't be sampled"), torch.random.fork_rng(devices):
        sampler = TreeSampler(model, tokenizer, branching=2, depth=2, step_tokens=4)
        sampler.stop_ids = sampler.generation_config.eos_token_id = [config.vocab_size]  # so that no path ends early
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
    """Where it is affordable, as long as a sliding window, so that the paths of a check reach beyond it."""
    window = getattr(config, "sliding_window", None) or 0
    return max(8, window if window <= 1024 else 0)


def _plain_logprobs(model, tree: Tree, node: int) -> Tensor:
    """The log-probabilities of a node's tokens by one forward pass over its path, [tokens of the node]."""
    ids = torch.tensor([tree.prompt_ids + tree.completion_ids(node)], device=model.device)
    size = len(tree.tokens[node])
    plain = model(input_ids=ids).logits[0, -1 - size : -1].float().log_softmax(-1)
    return plain.gather(1, ids[0, -size:, None]).squeeze(1)


def _require_close(found: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    """Raises ValueError where log-probabilities differ by more than rounding in the model's dtype."""
    tolerance = 1e-3 if dtype == torch.float32 else 0.5
    if not (found.isfinite() & expected.isfinite()).all():
        raise ValueError(f"its log-probabilities are not finite: damaged weights, or too large for {dtype}")
    gap = (found - expected).abs().max()
    if not torch.allclose(found, expected, atol=tolerance, rtol=tolerance):
        raise ValueError(f"log-probabilities differ by up to {gap:.2g} from those of one forward pass a path")


@contextmanager
def _refusing(model, what: str):
    """Inside it the model is in evaluation mode, and whatever fails is a ValueError that names the model."""
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


def policy_loss(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, epsilon: float = 0.2,
                epsilon_high: float | None = None, beta: float = 0.0, ref_logprobs: Tensor | None = None,
                loss_type: str = "dapo", steps: Tensor | None = None, normalizer: float | None = None,
                entropy_coef: float = 0.0, entropies: Tensor | None = None,
                trained_tokens: int | None = None) -> Tensor:  # fmt: skip
    """The loss of TreeRPO (section 3.4, equation 5), as a scalar to minimise. It is the clipped surrogate of PPO (arXiv
    1707.06347, equation 7) with a KL term, for each trained token

        l = -min(w A, clip(w, 1 - epsilon, 1 + epsilon_high) A) + beta (exp(d) - d - 1)

    with w = exp(logprobs - old_logprobs) and d = ref_logprobs - logprobs (the estimator of GRPO, arXiv 2402.03300,
    equation 4). The mean of l is lowered by entropy_coef times the mean entropy at the trained positions (section 4).
    `loss_type` says how l is averaged:
        "dapo": sum over tokens / trained tokens (arXiv 2503.14476, equation 8), as in the paper's code.
        "grpo": mean over the tokens of a step, then over steps, as in the paper's equation 5.
        "dr_grpo": sum over tokens / a constant (arXiv 2503.20783).
    The entropy is a mean over tokens whatever the loss type, as in TRL.

    Args:
        logprobs, old_logprobs, advantages, ref_logprobs, entropies: [trained tokens]. ref_logprobs is needed where
            beta > 0, entropies where entropy_coef is not 0.
        epsilon_high: None takes epsilon.
        steps: LongTensor [trained tokens], the step that each belongs to; needed for "grpo".
        normalizer: the divisor over the global batch (tokens, steps or the constant), where these tokens are only a
            part of it. None takes the count of these tokens or steps; "dr_grpo" needs it.
        trained_tokens: the trained tokens of the global batch, by which the entropies are divided. None takes the
            count of these tokens.
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
        raise ValueError(f"loss_type must be one of {', '.join(LOSS_TYPES)}, the last with a normalizer")
    total = loss.sum() / normalizer
    if entropy_coef:
        total = total - entropy_coef * entropies.sum() / (trained_tokens or len(entropies))
    return total
