"""One step for many rows with HF generate: the cache, the draws and the stops. The only file that
knows caches."""

import logging
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np
import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    StoppingCriteria,
    StopStringCriteria,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.cache_utils import DynamicLayer

logger = logging.getLogger(__name__)


def warp(
    logits: Tensor, temperature: float, top_p: float, top_k: int, keep: Tensor | None = None
) -> Tensor:
    """The logits of the sampling policy, [rows, vocabulary]: divided by the temperature, then
    cropped by top-k, top-p.

    The loss calls it too, so that both sides speak of one distribution; there `keep`, [rows, 1],
    holds the sampled tokens, which stay in the crop even where the policy has moved on."""
    logits = logits if temperature in (0, 1) else logits / temperature
    cropped = TopKLogitsWarper(top_k)(None, logits) if top_k > 0 else logits
    cropped = TopPLogitsWarper(top_p)(None, cropped) if top_p < 1 else cropped
    return (
        cropped
        if keep is None or cropped is logits
        else cropped.scatter(1, keep, logits.gather(1, keep))
    )


class _RoomyLayer(DynamicLayer):
    """A cache layer with room for a step's tokens behind its prefix [rows, heads, tokens, head
    dimension]: a token is written in place, where DynamicLayer copies the whole cache for each
    one."""

    def __init__(self, keys: Tensor, values: Tensor, room: int):
        super().__init__()
        self.lazy_initialization(keys, values)
        self.buffers = [
            torch.nn.functional.pad(states, (0, 0, 0, room)) for states in (keys, values)
        ]
        self.keys, self.values = keys, values

    def update(
        self, key_states: Tensor, value_states: Tensor, *args, **kwargs
    ) -> tuple[Tensor, Tensor]:
        start, end = self.keys.shape[2], self.keys.shape[2] + key_states.shape[2]
        for buffer, states in zip(self.buffers, (key_states, value_states)):
            buffer[:, :, start:end] = states
        self.keys, self.values = (buffer[:, :, :end] for buffer in self.buffers)
        return self.keys, self.values


class _InverseCDF(LogitsProcessor):
    """Turns one uniform number a row into a token by the inverse of the cumulative distribution.

    It leaves that token as the only finite score, so `do_sample=False` takes it, and records its
    log-probability from the same pass. Everything stays on the device: no synchronisation beyond
    generate's own end-of-batch check."""

    def __init__(self, uniforms: Tensor, temperature: float, top_p: float, top_k: int):
        self.uniforms = uniforms  # [step tokens, rows]
        self.warping = (temperature, top_p, top_k)
        self.logprobs: list[Tensor] = []  # a [rows] a position

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        logits = warp(scores, *self.warping)  # [rows, vocabulary]
        # A vocabulary may hold 262,144 tokens: it is read once, for the mass of each block, and
        # then a block is.
        blocks = logits.unflatten(
            1, (-1, math.gcd(logits.shape[1], 512))
        )  # [rows, blocks, tokens of a block]
        masses = blocks.logsumexp(-1)  # [rows, blocks]
        if self.warping[0] > 0:
            block, share = _draw(masses, self.uniforms[len(self.logprobs), :, None])
            place, _ = _draw(blocks.take_along_dim(block[:, :, None], 1).squeeze(1), share)
            token = block * blocks.shape[2] + place
        else:
            token = logits.argmax(-1, keepdim=True)
        self.logprobs.append(
            (logits.gather(1, token) - masses.logsumexp(-1, keepdim=True)).squeeze(1)
        )
        return scores.fill_(-torch.inf).scatter_(1, token, 0.0)


def _draw(logits: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """Where the share [rows, 1] of the cumulative distribution of logits [rows, choices] is
    reached, [rows, 1], and the share that it is of the choice found. In double precision, as a
    float32 sum over many would lose the tail."""
    cumulative = logits.double().softmax(-1).cumsum_(-1)
    threshold = share * cumulative[:, -1:]
    choice = torch.searchsorted(cumulative, threshold, right=True).clamp_(max=logits.shape[1] - 1)
    before = torch.nn.functional.pad(cumulative, (1, 0)).gather(1, choice)
    return choice, (threshold - before) / (cumulative.gather(1, choice) - before)


class _StepEnd(StoppingCriteria):
    """Ends a row at the step delimiter, and remembers where it was."""

    def __init__(self, criterion: StopStringCriteria):
        self.criterion = criterion
        self.ended: list[Tensor] = []  # a [rows] a position

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs) -> Tensor:
        self.ended.append(self.criterion(input_ids, scores))
        return self.ended[-1]


@cache
def _warn_once(message: str) -> None:
    logger.warning(message)


def stop_ids(model, tokenizer) -> list[int]:
    """The ids that end a completion: the tokenizer's end token, those of the model's generation
    config, and what ends a turn in the chat template (the end token of Qwen2.5's base models is
    another one)."""
    configured = model.generation_config.eos_token_id
    configured = configured if isinstance(configured, list) else [configured]
    ids = [
        i
        for i in dict.fromkeys([tokenizer.eos_token_id, *configured, *end_of_turn(tokenizer)])
        if i is not None
    ]
    if not ids:
        raise ValueError(
            "the tokenizer has no end token: set eos_token in its tokenizer_config.json"
        )
    return ids


def end_of_turn(tokenizer) -> list[int]:
    """The tokens that end an assistant's turn in the tokenizer's chat templates, one a template at
    most.

    It is the first special token after the assistant's text, as the template renders it, or a token
    such as <|end|> that was added as an ordinary one. Of an end that is written in several tokens
    nothing is taken: they are text too."""
    templates = tokenizer.chat_template or {}
    templates = templates if isinstance(templates, dict) else {"default": templates}
    added = tokenizer.added_tokens_decoder.items()
    markers = {
        id
        for id, token in added
        if token.special or re.fullmatch(r"<.+>|\[.+\]", token.content.strip())
    }
    markers.update(tokenizer.all_special_ids)
    found = []
    for template in templates.values():
        for after in _after_answer(tokenizer, template):
            ids = tokenizer.encode(after, add_special_tokens=False)
            if ends := [i for i in ids if i in markers][:1]:
                found += ends
                break
    return list(dict.fromkeys(found))


def _after_answer(tokenizer, template: str) -> Iterator[str]:
    """What the template writes after an assistant's text: at the end of a conversation, or before
    the next turn."""
    question, answer, more = "THEQUESTION", "THEANSWER", "THENEXTQUESTION"
    turns = [("user", question), ("assistant", answer)]
    for conversation in (turns, [*turns, ("user", more)], [("system", "SYSTEM"), *turns]):
        for in_parts in (False, True):  # the content as text, or as a list of parts
            messages = [
                {"role": role, "content": [{"type": "text", "text": text}] if in_parts else text}
                for role, text in conversation
            ]
            try:
                text = tokenizer.apply_chat_template(
                    messages, chat_template=template, tokenize=False
                )
            except (
                Exception
            ) as error:  # whatever a template raises about a conversation that it doesn't take
                logger.debug("chat template: %s", error)
                continue
            if answer in text:
                yield text.rsplit(answer, 1)[1].split(more)[0]


@contextmanager
def bare_generation_config(causal):
    """Inside it a model has no generation config of its own: `generate` fills with it whatever its
    caller leaves unset, so that suppressed tokens, beams, penalties and so on would change the
    sampling policy without a word."""
    own, causal.generation_config = causal.generation_config, GenerationConfig()
    try:
        yield
    finally:
        causal.generation_config = own


def positions(causal) -> int | None:
    """How many positions a model was made for, where its config says so."""
    return getattr(causal.config.get_text_config(), "max_position_embeddings", None)


def rotary(causal) -> bool:
    """Whether a model computes positions from rotary frequencies, which go on for ever; a table of
    positions ends."""
    return any(name.endswith("inv_freq") for name, _ in causal.named_buffers())


def settle_rope(causal, longest: int) -> None:
    """Settles rotary frequencies that depend on the length of the sequence (dynamic NTK, LongRoPE)
    for good.

    Where a path may grow to `longest` tokens, beyond the length at which the frequencies change,
    they become those of that length for every token. Otherwise a token would be sampled with some
    frequencies beside a cache made with others, and trained with those of the longest path in its
    pack."""
    for module in causal.modules():
        kinds = getattr(module, "rope_type", None)
        layered = isinstance(kinds, dict)  # one kind for each kind of layer
        for layer_type, kind in kinds.items() if layered else [(None, kinds)]:
            if kind != "longrope" and "dynamic" not in str(kind):
                continue
            settings = (
                module.config.rope_parameters[layer_type]
                if layered
                else module.config.rope_parameters
            )
            original = (
                settings.get("original_max_position_embeddings") if kind == "longrope" else None
            )
            if longest <= (original or module.config.max_position_embeddings):
                continue
            logger.warning(
                "%s: rotary frequencies are kept at those for paths of %d tokens", kind, longest
            )
            device = next(causal.parameters()).device
            place = torch.tensor([[longest - 1]], device=device)
            # transformers itself changes the frequencies in this call, and no more once the kind
            # has another name.
            module(
                torch.zeros(1, 1, 1, device=device),
                place,
                **({"layer_type": layer_type} if layered else {}),
            )
            if layered:
                kinds[layer_type] = "settled"
            else:
                module.rope_type = "settled"


def _uniforms(seed: int, path: tuple[int, ...], count: int) -> np.ndarray:
    """The node's stream of uniform numbers, [count]: Philox, keyed by the seed and the path,
    counted by position."""
    return np.random.Generator(
        np.random.Philox(np.random.SeedSequence(seed, spawn_key=path))
    ).random(count)


def _mask(lengths: list[int], width: int, device) -> Tensor:
    """The attention mask of rows padded on the left, [rows, width], from their lengths and never
    from their ids."""
    return (torch.arange(width) >= width - torch.tensor(lengths)[:, None]).long().to(device)


def _align(states: Tensor, rows: Tensor, gaps: Tensor | None, columns: int) -> Tensor:
    """The last `columns` columns of each row before its gap: [rows, heads, columns, head
    dimension].

    `states` is a cache layer's keys or values. Columns that reach back before its first are
    padding, masked anyway."""
    width = states.shape[2]
    if gaps is None:
        picked = states[:, :, max(width - columns, 0) :].index_select(0, rows)
    else:
        column = (
            torch.arange(width - columns, width, device=states.device) - gaps[:, None]
        )  # [rows, columns]
        # Advanced indices side by side keep their place, so swap heads out of their way and back.
        picked = states.transpose(1, 2)[rows[:, None], column.clamp(min=0)].transpose(1, 2)
    return torch.nn.functional.pad(picked, (0, 0, columns - picked.shape[2], 0))
