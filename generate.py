"""The engine: one step for many rows, by HF generate over forked KV caches.

The only file that knows caches. It knows no tree: `Engine.prefill` computes the cache of given ids,
and `Engine.grow` continues given rows by one step, of at most `step_tokens` tokens. A row may be
continued many times: its cache is copied for each continuation, so that nothing before a fork is
computed again. Each continuation draws from a random stream of its own (`Stream`), so that what it
draws does not depend on the rows beside it.
"""

import logging
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import (
    DynamicCache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
    StopStringCriteria,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

logger = logging.getLogger(__name__)


@cache
def _warn_once(message: str) -> None:
    logger.warning(message)


# --- The sampling policy and its draws ---


def warp(
    logits: Tensor, temperature: float, top_p: float, top_k: int, keep: Tensor | None = None
) -> Tensor:
    """The logits of the sampling policy, [rows, vocabulary].

    They are divided by the temperature, then cropped by top-k and top-p. The loss calls it too, so
    that sampling and training speak of one distribution.

    Args:
        logits: [rows, vocabulary].
        keep: LongTensor [rows, 1] of tokens that stay in the crop, whatever their probability: the
            loss keeps the sampled tokens, also where the policy has moved away from them.
    """
    if temperature not in (0, 1):
        logits = logits / temperature
    cropped = logits
    if top_k > 0:
        cropped = TopKLogitsWarper(top_k)(None, cropped)
    if top_p < 1:
        cropped = TopPLogitsWarper(top_p)(None, cropped)
    if keep is None or cropped is logits:
        return cropped
    return cropped.scatter(1, keep, logits.gather(1, keep))


class Stream(NamedTuple):
    """The random stream of one step: it depends on the seed and the path alone."""

    seed: int
    path: tuple[int, ...]  # child indices from the root to the step

    def uniforms(self, count: int) -> np.ndarray:
        """The stream's first numbers, [count], one for each position of the step.

        A counter-based generator (Philox), keyed by the seed and the path.
        """
        key = np.random.SeedSequence(self.seed, spawn_key=self.path)
        return np.random.Generator(np.random.Philox(key)).random(count)


class _InverseCDF(LogitsProcessor):
    """Turns one uniform number per row into a token, by the inverse of the cumulative distribution.

    It leaves that token as the only finite score, so that `do_sample=False` takes it, and records
    its log-probability from the same pass. Everything stays on the device: no synchronisation
    beyond generate's own end-of-batch check.
    """

    def __init__(self, uniforms: Tensor, temperature: float, top_p: float, top_k: int):
        self.uniforms = uniforms  # [step tokens, rows]
        self.warping = (temperature, top_p, top_k)
        self.logprobs: list[Tensor] = []  # one [rows] per position

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        token, logprob = draw_tokens(scores, self.uniforms[len(self.logprobs)], self.warping)
        self.logprobs.append(logprob)
        return scores.fill_(-torch.inf).scatter_(1, token[:, None], 0.0)


def draw_tokens(
    logits: Tensor, quantiles: Tensor, warping: tuple[float, float, int]
) -> tuple[Tensor, Tensor]:
    """One token per row, and its log-probability under the sampling policy.

    Args:
        logits: [rows, vocabulary].
        quantiles: [rows], in [0, 1); not read where the temperature is 0.
        warping: temperature, top_p and top_k.

    Returns:
        The tokens, LongTensor [rows], and their log-probabilities, [rows].
    """
    logits = warp(logits, *warping)  # [rows, vocabulary]
    # A vocabulary may hold 262,144 tokens. All of it is read once, for the mass of each block;
    # after that only the block drawn is read.
    block_tokens = math.gcd(logits.shape[1], 512)
    blocks = logits.unflatten(1, (-1, block_tokens))  # [rows, blocks, tokens of a block]
    masses = blocks.logsumexp(-1)  # [rows, blocks]
    is_greedy = warping[0] == 0
    if is_greedy:
        token = logits.argmax(-1, keepdim=True)  # [rows, 1]
    else:
        block, within = _draw(masses, quantiles[:, None])  # [rows, 1] each
        block_logits = blocks.take_along_dim(block[:, :, None], 1).squeeze(1)
        offset, _ = _draw(block_logits, within)  # [rows, 1]
        token = block * block_tokens + offset
    logprob = logits.gather(1, token) - masses.logsumexp(-1, keepdim=True)  # [rows, 1]
    return token.squeeze(1), logprob.squeeze(1)


def _draw(logits: Tensor, quantile: Tensor) -> tuple[Tensor, Tensor]:
    """The choice at which the cumulative distribution reaches a quantile, and how far into it.

    In double precision, as a float32 sum over many choices would lose the tail.

    Args:
        logits: [rows, choices].
        quantile: [rows, 1], in [0, 1).

    Returns:
        The choices, LongTensor [rows, 1]; and the part of each choice's own probability that lies
        below the quantile, [rows, 1], which is a quantile for a draw within the choice.
    """
    cumulative = logits.double().softmax(-1).cumsum_(-1)  # [rows, choices]
    threshold = quantile * cumulative[:, -1:]
    choice = torch.searchsorted(cumulative, threshold, right=True)
    choice.clamp_(max=logits.shape[1] - 1)
    before = pad(cumulative, (1, 0)).gather(1, choice)
    within = (threshold - before) / (cumulative.gather(1, choice) - before)
    return choice, within


class _DelimiterEnd(StoppingCriteria):
    """Ends a row at the step delimiter, and remembers where it was."""

    def __init__(self, criterion: StopStringCriteria):
        self.criterion = criterion
        self.ended: list[Tensor] = []  # one BoolTensor [rows] per position

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs) -> Tensor:
        self.ended.append(self.criterion(input_ids, scores))
        return self.ended[-1]


# --- What ends a completion ---


def stop_ids(model, tokenizer) -> list[int]:
    """The ids that end a completion.

    They are the tokenizer's end token, those of the model's generation config, and what ends a turn
    in the chat template (the end token of Qwen2.5's base models is another one).

    Raises:
        ValueError: there is none.
    """
    configured = model.generation_config.eos_token_id
    if not isinstance(configured, list):
        configured = [configured]
    candidates = [tokenizer.eos_token_id, *configured, *end_of_turn(tokenizer)]
    ids = [i for i in dict.fromkeys(candidates) if i is not None]
    if not ids:
        raise ValueError(
            "the tokenizer has no end token: set eos_token in its tokenizer_config.json"
        )
    return ids


def end_of_turn(tokenizer) -> list[int]:
    """The tokens that end an assistant's turn in the tokenizer's chat templates.

    Each template gives one token at most: the first after the assistant's text that is special, or
    that looks like a marker (<|end|>) and was added as an ordinary token. An end that is written in
    several tokens gives none: these are text too.
    """
    templates = tokenizer.chat_template or {}
    if not isinstance(templates, dict):
        templates = {"default": templates}
    markers = set(tokenizer.all_special_ids)
    for token_id, token in tokenizer.added_tokens_decoder.items():
        if token.special or re.fullmatch(r"<.+>|\[.+\]", token.content.strip()):
            markers.add(token_id)
    ends = [_first_marker(tokenizer, template, markers) for template in templates.values()]
    return [end for end in dict.fromkeys(ends) if end is not None]


def _first_marker(tokenizer, template: str, markers: set[int]) -> int | None:
    """The first of the `markers` that a chat template writes after an assistant's text."""
    for text in _after_answer(tokenizer, template):
        for token_id in tokenizer.encode(text, add_special_tokens=False):
            if token_id in markers:
                return token_id
    return None


def _after_answer(tokenizer, template: str) -> Iterator[str]:
    """What the template writes after an assistant's text.

    Several conversations are tried, since a template may refuse some: one that ends with the
    assistant's text, one with a next turn, one with a system prompt.
    """
    question = "THEQUESTION"
    answer = "THEANSWER"
    next_question = "THENEXTQUESTION"
    turns = [("user", question), ("assistant", answer)]
    conversations = (turns, [*turns, ("user", next_question)], [("system", "SYSTEM"), *turns])
    for conversation in conversations:
        for in_parts in (False, True):  # the content as text, or as a list of parts
            messages = [
                {"role": role, "content": [{"type": "text", "text": text}] if in_parts else text}
                for role, text in conversation
            ]
            try:
                text = tokenizer.apply_chat_template(
                    messages, chat_template=template, tokenize=False
                )
            # A template raises whatever it likes about a conversation that it does not take.
            except Exception as error:
                logger.debug("chat template: %s", error)
                continue
            if answer in text:
                yield text.rsplit(answer, 1)[1].split(next_question)[0]


# --- A model's state and positions ---


@contextmanager
def evaluation_mode(model):
    """Inside it the model is in evaluation mode, and after it in the mode that it had.

    Dropout is off, and so is transformers' gradient checkpointing, which forbids a cache.
    """
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


@contextmanager
def bare_generation_config(causal):
    """Inside it a model has no generation config of its own.

    `generate` fills in from it whatever its caller leaves unset, so that suppressed tokens, beams,
    penalties and so on would silently change the sampling policy.
    """
    own = causal.generation_config
    causal.generation_config = GenerationConfig()
    try:
        yield
    finally:
        causal.generation_config = own


@contextmanager
def attention_implementation(config, name: str):
    """Inside it the layers of the model with this config use another attention implementation.

    Outside of it nothing has changed: other passes and other models have transformers' own.
    """
    own = config._attn_implementation
    config._attn_implementation = name
    try:
        yield
    finally:
        config._attn_implementation = own


def looks_attention_up(causal) -> bool:
    """Whether a model that computes by SDPA takes another attention of the same form by its name.

    A model that chooses keys itself (index_topk) does so for "sdpa" alone.
    """
    config = causal.config.get_text_config()
    is_sdpa = config._attn_implementation == "sdpa"
    return is_sdpa and causal.is_backend_compatible() and not hasattr(config, "index_topk")


def max_positions(causal) -> int | None:
    """How many positions a model was made for, where its config says so."""
    return getattr(causal.config.get_text_config(), "max_position_embeddings", None)


def has_rotary_positions(causal) -> bool:
    """Whether a model computes positions from rotary frequencies.

    These continue for ever; a table of positions ends.
    """
    return any(name.endswith("inv_freq") for name, _ in causal.named_buffers())


def settle_rope(causal, longest: int) -> None:
    """Settles rotary frequencies that depend on the sequence's length (dynamic NTK, LongRoPE).

    Where a path may grow to `longest` tokens, beyond the length at which the frequencies change,
    they become those of that length for every token, for good. Otherwise a token would be sampled
    with other frequencies than its cache was made with, and trained with those of the longest path
    in its pack.
    """
    for module in causal.modules():
        rope_type = getattr(module, "rope_type", None)
        if isinstance(rope_type, dict):  # one for each kind of layer
            for layer_type in list(rope_type):
                _settle_rope(causal, module, layer_type, longest)
        elif rope_type is not None:
            _settle_rope(causal, module, None, longest)


def _settle_rope(causal, module, layer_type: str | None, longest: int) -> None:
    """Settles the frequencies of one rotary module, or those of one kind of layer in it."""
    rope_type = module.rope_type if layer_type is None else module.rope_type[layer_type]
    if rope_type != "longrope" and "dynamic" not in str(rope_type):
        return
    settings = module.config.rope_parameters
    layer_argument = {}
    if layer_type is not None:
        settings = settings[layer_type]
        layer_argument = {"layer_type": layer_type}

    # The length up to which the frequencies are those at hand.
    limit = module.config.max_position_embeddings
    if rope_type == "longrope":
        limit = settings.get("original_max_position_embeddings") or limit
    if longest <= limit:
        return

    logger.warning(
        "%s: rotary frequencies are kept at those for paths of %d tokens", rope_type, longest
    )
    # transformers itself changes the frequencies in this call; it no longer does so once the type
    # has another name.
    device = next(causal.parameters()).device
    last_position = torch.tensor([[longest - 1]], device=device)
    module(torch.zeros(1, 1, 1, device=device), last_position, **layer_argument)
    if layer_type is not None:
        module.rope_type[layer_type] = "settled"
    else:
        module.rope_type = "settled"


# --- The cache ---


class _RoomyLayer(DynamicLayer):
    """A cache layer with room for a step's tokens after its prefix.

    A token is written in place, where DynamicLayer copies the whole cache for each token. Keys and
    values are [rows, heads, tokens, head dimension].
    """

    def __init__(self, keys: Tensor, values: Tensor, room: int):
        super().__init__()
        self.lazy_initialization(keys, values)
        # [rows, heads, tokens + room, head dimension] each
        self.buffers = [pad(states, (0, 0, 0, room)) for states in (keys, values)]
        self.keys = keys
        self.values = values

    def update(
        self, key_states: Tensor, value_states: Tensor, *args, **kwargs
    ) -> tuple[Tensor, Tensor]:
        start = self.keys.shape[2]
        end = start + key_states.shape[2]
        for buffer, states in zip(self.buffers, (key_states, value_states)):
            buffer[:, :, start:end] = states
        self.keys, self.values = (buffer[:, :, :end] for buffer in self.buffers)
        return self.keys, self.values


class _RecordingLayer(DynamicSlidingWindowLayer):
    """A sliding-window layer that keeps the columns that the window drops during a step.

    Attention sees the window alone. (transformers' own recording shows all columns in some
    versions, for which its masks are too short.)
    """

    def update(
        self, key_states: Tensor, value_states: Tensor, *args, **kwargs
    ) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        new = key_states.shape[2]
        self.cumulative_length += new
        self.keys = torch.cat([self.keys, key_states], 2)
        self.values = torch.cat([self.values, value_states], 2)
        seen = self.sliding_window - 1 + new
        return self.keys[:, :, -seen:], self.values[:, :, -seen:]


@dataclass(eq=False)
class Row:
    """A handle on one cache row, which `Engine.grow` continues.

    A row's last token is not in its cache yet: the next step's first forward pass takes it.
    """

    cache: DynamicCache
    index: int  # of the row in the cache
    length: int  # tokens, from the prompt's start through the last
    last_id: int  # the last token
    gap: int = 0  # padding after the row's tokens in the cache, where it ended before others


@dataclass(eq=False)
class Step:
    """What `Engine.grow` sampled for one row."""

    tokens: Tensor  # LongTensor [tokens of the step], on the CPU
    logprobs: Tensor  # [tokens of the step], on the CPU
    finished: bool  # the last token is a stop token
    row: Row | None  # the row with this step at its end; None where it can't be continued


@dataclass(eq=False)
class _Run:
    """Rows side by side that stand in one cache: they are copied together."""

    cache: DynamicCache
    indices: Tensor  # LongTensor [rows], of the rows in the cache
    gaps: Tensor | None  # LongTensor [rows]; None where every gap is 0

    def aligned(self, states: Tensor, columns: int) -> Tensor:
        """The last `columns` columns of each row before its gap.

        Args:
            states: the keys or values of one layer of the cache, [cache rows, heads, cache columns,
                head dimension].

        Returns:
            [rows, heads, columns, head dimension]. Columns from before the cache's first are
            padding, which the mask hides.
        """
        width = states.shape[2]
        if self.gaps is None:
            picked = states[:, :, max(width - columns, 0) :].index_select(0, self.indices)
        else:
            last_columns = torch.arange(width - columns, width, device=states.device)
            source = last_columns - self.gaps[:, None]  # [rows, columns]
            # Advanced indices side by side keep their place: heads move out of their way and back.
            by_column = states.transpose(1, 2)  # [cache rows, cache columns, heads, head dimension]
            picked = by_column[self.indices[:, None], source.clamp(min=0)].transpose(1, 2)
        return pad(picked, (0, 0, columns - picked.shape[2], 0))


def _runs(rows: list[Row], device) -> list[_Run]:
    """Splits the rows where the cache changes."""
    runs = []
    for _, group in groupby(rows, key=lambda row: id(row.cache)):
        members = list(group)
        indices = torch.tensor([row.index for row in members], device=device)
        gaps = None
        if any(row.gap for row in members):
            gaps = torch.tensor([row.gap for row in members], device=device)
        runs.append(_Run(members[0].cache, indices, gaps))
    return runs


def _joined(parts: list[Tensor]) -> Tensor:
    """The rows of all parts, [rows, ...], without a copy where there is one part."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _mask(lengths: list[int], width: int, device) -> Tensor:
    """The attention mask of rows padded on the left, [rows, width].

    It comes from the rows' lengths and never from their ids.
    """
    padding = width - torch.tensor(lengths)  # [rows]
    return (torch.arange(width) >= padding[:, None]).long().to(device)


# --- The engine ---


class Engine:
    """Grows rows of tokens by steps (TreeRPO, section 3.1), knowing nothing of trees.

    Its two operations are `prefill` and `grow`. Both expect the model in evaluation mode.

    Args:
        model: a causal LM, bare or under PEFT, whose cache is made of plain or sliding-window
            attention layers.
        tokenizer: gives stop tokens (besides those of the model's generation config) and decodes
            step delimiters.
        step_tokens: most new tokens in a step.
        temperature: 0 takes the most probable token.
        top_p, top_k: crop the distribution; 1 and 0 leave it whole.
        step_delimiter: text that ends a step before `step_tokens`.

    Raises:
        ValueError: a setting out of range, no stop token, or a model that can't generate or whose
            cache can't be forked.
    """

    def __init__(
        self,
        model,
        tokenizer,
        step_tokens: int,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int = 0,
        step_delimiter: str | None = None,
    ):
        if step_tokens < 1:
            raise ValueError(f"step_tokens={step_tokens}: must be at least 1")
        if temperature < 0 or not 0 < top_p <= 1 or top_k < 0:
            raise ValueError("temperature must be at least 0, top_p in (0, 1] and top_k at least 0")
        self.model = model
        self.tokenizer = tokenizer
        self.causal = model.get_base_model() if hasattr(model, "get_base_model") else model
        model_type = model.config.model_type
        if not (hasattr(model, "generate") and self.causal.can_generate()):
            raise ValueError(f"{model_type}: this model can't generate text")
        for layer in self._new_cache().layers:
            if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer):
                raise ValueError(f"{model_type}: a cache of {type(layer).__name__} can't be forked")
        self.step_tokens = step_tokens
        self.warping = (temperature, top_p, top_k)
        self.delimiter = StopStringCriteria(tokenizer, [step_delimiter]) if step_delimiter else None
        self.stop_at(stop_ids(model, tokenizer))

    def stop_at(self, ids: list[int]) -> None:
        """Sets the ids that end a completion; with none of them every step has all its tokens."""
        self.stop_ids = ids
        self.generation_config = GenerationConfig(
            max_new_tokens=self.step_tokens,
            do_sample=False,
            eos_token_id=ids or None,
            # Any id will do: lengths come from the stop tokens, and masks from lengths.
            pad_token_id=ids[0] if ids else 0,
            use_cache=True,
        )

    def check_prompts(self, prompts: list[list[int]], new_tokens: int) -> None:
        """Checks that the model can take these prompts with `new_tokens` tokens after each.

        Rotary frequencies that depend on the length of a sequence are settled for the longest of
        them (`settle_rope`).

        Raises:
            ValueError: a prompt without tokens, a token without an embedding, or more positions
                than the model has.
        """
        if not all(map(len, prompts)):
            raise ValueError("a prompt holds no token: every prompt needs at least one token")
        known = self.causal.config.get_text_config().vocab_size
        largest = max(map(max, prompts), default=0)
        if largest >= known:
            token = self.tokenizer.convert_ids_to_tokens(largest)
            raise ValueError(
                f"a prompt holds token {largest} ({token}), but the model knows {known} tokens: "
                "tokenizer and model do not belong together"
            )
        longest = max(map(len, prompts), default=0)
        needed = longest + new_tokens - 1  # the last token is not forwarded
        limit = max_positions(self.causal)
        if limit and not has_rotary_positions(self.causal) and needed > limit:
            raise ValueError(
                f"{self.causal.config.model_type} has positions for {limit} tokens, but a prompt "
                f"of {longest} and {new_tokens} new ones need {needed}; lower the number of new "
                "tokens, or leave out long prompts"
            )
        settle_rope(self.causal, longest + new_tokens)

    @torch.no_grad()
    def prefill(self, contexts: list[list[int]]) -> list[Row]:
        """Computes the cache of each list of ids, in one forward pass.

        It takes all ids but the last of each, which the next step's first forward pass takes.
        """
        device = self.model.device
        cache = self._new_cache()
        width = max(map(len, contexts)) - 1
        if width:
            padded = [[0] * (width + 1 - len(ids)) + ids[:-1] for ids in contexts]
            input_ids = torch.tensor(padded, device=device)  # [rows, width], padded on the left
            mask = _mask([len(ids) - 1 for ids in contexts], width, device)  # [rows, width]
            self.model(
                input_ids,
                attention_mask=mask,
                position_ids=(mask.cumsum(-1) - 1).clamp(min=0),  # [rows, width]
                past_key_values=cache,
                use_cache=True,  # a model's config may turn it off
                logits_to_keep=1,
            )
        return [Row(cache, index, len(ids), ids[-1]) for index, ids in enumerate(contexts)]

    @torch.no_grad()
    def grow(self, rows: list[Row], streams: list[Stream]) -> list[Step]:
        """Samples one step for each row, in one generate call.

        Args:
            rows: the rows to continue; a row that is to be continued several times stands in the
                list as often.
            streams: the random stream of each step.
        """
        device = self.model.device
        cache, mask = self._fork(rows)
        uniforms = np.stack([stream.uniforms(self.step_tokens) for stream in streams], 1)
        draw = _InverseCDF(torch.from_numpy(uniforms).to(device), *self.warping)
        criteria = [_DelimiterEnd(self.delimiter)] if self.delimiter else []
        with bare_generation_config(self.causal):
            sequences = self.model.generate(
                # Only the last token of each row: the rest is in the cache, and the mask tells
                # generate how long that is.
                input_ids=torch.tensor([[row.last_id] for row in rows], device=device),
                attention_mask=mask,
                past_key_values=cache,
                generation_config=self.generation_config,
                logits_processor=LogitsProcessorList([draw]),
                stopping_criteria=StoppingCriteriaList(criteria),
            )
        tokens = sequences[:, 1:]  # [rows, new tokens]
        logprobs = torch.stack(draw.logprobs, 1).float()  # [rows, new tokens]

        delimited = torch.stack(criteria[0].ended, 1) if criteria else None
        lengths, finished = self._ends(tokens, delimited)
        width = tokens.shape[1]

        tokens = tokens.cpu()
        logprobs = logprobs.cpu()
        steps = []
        for index, (length, stop) in enumerate(zip(lengths, finished)):
            own = tokens[index, :length]
            total = rows[index].length + length
            row = Row(cache, index, total, last_id=int(own[-1]), gap=width - length)
            steps.append(Step(own, logprobs[index, :length], stop, row))
        self._warn_of_length(max(step.row.length for step in steps))
        return steps

    def _ended(self, tokens: Tensor, delimited: Tensor | None) -> Tensor:
        """Where a stop token or a delimiter ends, BoolTensor [rows, new tokens].

        Args:
            tokens: LongTensor [rows, new tokens].
            delimited: BoolTensor [rows, new tokens]: where a delimiter ends; None without one.
        """
        stop_ids = torch.tensor(self.stop_ids, dtype=torch.long, device=tokens.device)
        stopped = torch.isin(tokens, stop_ids)
        return stopped if delimited is None else stopped | delimited

    def _ends(self, tokens: Tensor, delimited: Tensor | None) -> tuple[list[int], list[bool]]:
        """How many tokens each row has, and whether a stop token is the last of them.

        A row ends at its first stop token or delimiter, or else with the call. Arguments are those
        of `_ended`.
        """
        ended = self._ended(tokens, delimited)
        lengths = torch.where(ended.any(1), ended.int().argmax(1) + 1, tokens.shape[1])  # [rows]
        last = tokens.gather(1, lengths[:, None] - 1)  # [rows, 1]
        finished = self._ended(last, None).squeeze(1)  # [rows]
        return lengths.tolist(), finished.tolist()

    def release(self) -> None:
        """Lets go of what is kept from one step to the next: nothing here."""

    def _warn_of_length(self, longest: int) -> None:
        """Warns once where rows outgrow the model; rotary positions have no end that stops them."""
        limit = max_positions(self.causal)
        if limit and longest > limit:
            _warn_once(
                f"some paths are longer than the {limit} positions that the model was made for"
            )

    def _new_cache(self) -> DynamicCache:
        # With the config, sliding-window layers keep their kind.
        return DynamicCache(config=self.model.config)

    def _fork(self, rows: list[Row]) -> tuple[DynamicCache, Tensor]:
        """A new cache with a copy of each row, aligned on the right, and its mask [rows, width].

        A run of rows from one cache is one index_select per layer. Rows that ended early, at a
        delimiter, are moved to the right, so that the newest token of every row stands in the last
        column.
        """
        device = self.model.device
        lengths = [row.length - 1 for row in rows]  # the last token is not in the cache yet
        width = max(lengths)
        cache = self._new_cache()
        runs = _runs(rows, device) if width else []
        for number, layer in enumerate(cache.layers):
            if layer.is_sliding and self.delimiter:
                # Moving a row to the right needs the columns that the window would have dropped
                # during the step.
                layer = cache.layers[number] = _RecordingLayer(layer.sliding_window)
            if not width:
                continue
            columns = min(width, layer.sliding_window - 1) if layer.is_sliding else width
            sources = [run.cache.layers[number] for run in runs]
            # [rows, heads, columns, head dimension] each
            keys = _joined([run.aligned(old.keys, columns) for run, old in zip(runs, sources)])
            values = _joined([run.aligned(old.values, columns) for run, old in zip(runs, sources)])
            if layer.is_sliding:
                layer.lazy_initialization(keys, values)
                layer.keys = keys
                layer.values = values
                layer.cumulative_length = width
            else:
                cache.layers[number] = _RoomyLayer(keys, values, self.step_tokens)
        # The mask covers the last tokens too.
        return cache, _mask([length + 1 for length in lengths], width + 1, device)
