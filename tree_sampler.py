"""Prompts -> trees, by HF generate over a forked KV cache.

A step is one `model.generate` call of at most `step_tokens` tokens. To branch, the cache rows of
the unfinished nodes are copied once a child and handed back through `past_key_values`, so that
nothing before the fork is computed again. Draws come from a stream keyed by (seed, path of child
indices, position): a tree is a function of the weights, its prompt and its seed, and slices,
neighbours and processes do not change it (up to rounding of the logits)."""

import logging
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from transformers import (
    DynamicCache,
    GenerationConfig,
    LogitsProcessorList,
    StoppingCriteriaList,
    StopStringCriteria,
)
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from generate import (
    _align,
    _InverseCDF,
    _mask,
    _RoomyLayer,
    _StepEnd,
    _uniforms,
    _warn_once,
    bare_generation_config,
    positions,
    rotary,
    settle_rope,
    stop_ids,
)
from tree import Tree

logger = logging.getLogger(__name__)


@dataclass
class _Node:
    """A node while its tree grows. `row` is its row in the cache of the slice that sampled it (or
    prefilled it)."""

    prompt: int  # index of the prompt: equal prompts stay apart
    path: tuple[int, ...]  # child indices from the root; the root's is ()
    length: int  # tokens from the prompt's start through this node
    last_id: int = 0
    tokens: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    logprobs: Tensor = field(default_factory=lambda: torch.empty(0))
    finished: bool = False
    cache: DynamicCache | None = None
    row: int = 0
    gap: int = 0  # padding behind the node's last token in its cache row


class TreeSampler:
    """Samples an N-ary tree of steps for each prompt (TreeRPO, section 3.1).

    Args:
        model: a causal LM, bare or under PEFT, whose cache is made of plain or sliding-window
            attention layers.
        tokenizer: gives stop tokens (besides those of the model's generation config) and decodes
            step delimiters.
        branching: children of each unfinished node (N); or one width a depth, which then sets
            `depth`.
        depth: steps from the prompt to the longest leaves (D).
        step_tokens: most new tokens in a step.
        temperature: 0 takes the most probable token. top_p, top_k: crop the distribution; 1 and 0
            leave it whole.
        max_rows: most rows in one generate call; with it the memory is bounded, however large the
            tree.
        step_delimiter: text that ends a step before `step_tokens`.

    Raises:
        ValueError: a setting out of range, no stop token, or a model that can't generate or whose
            cache can't be forked.
    """

    def __init__(
        self,
        model,
        tokenizer,
        branching: int | list[int] = 8,
        depth: int = 3,
        step_tokens: int = 384,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int = 0,
        max_rows: int = 256,
        step_delimiter: str | None = None,
    ):
        self.widths = (
            list(branching) if isinstance(branching, (list, tuple)) else [branching] * depth
        )
        least = {
            "branching": min(self.widths, default=0),
            "step_tokens": step_tokens,
            "max_rows": max_rows,
        }
        if bad := [f"{name}={value}" for name, value in least.items() if value < 1]:
            raise ValueError(f"{bad[0]}: must be at least 1 (and depth too)")
        if temperature < 0 or not 0 < top_p <= 1 or top_k < 0:
            raise ValueError("temperature must be at least 0, top_p in (0, 1] and top_k at least 0")
        self.model, self.tokenizer = model, tokenizer
        self.causal = model.get_base_model() if hasattr(model, "get_base_model") else model
        if not (hasattr(model, "generate") and self.causal.can_generate()):
            raise ValueError(f"{model.config.model_type}: this model can't generate text")
        self.step_tokens, self.max_rows = step_tokens, max_rows
        self.warping = (temperature, top_p, top_k)
        self.stop_ids = stop_ids(model, tokenizer)
        self.delimiter = StopStringCriteria(tokenizer, [step_delimiter]) if step_delimiter else None
        for layer in self._new_cache().layers:
            if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer):
                raise ValueError(
                    f"{model.config.model_type}: a cache of {type(layer).__name__} can't be forked"
                )
        self.generation_config = GenerationConfig(
            max_new_tokens=step_tokens,
            do_sample=False,
            eos_token_id=self.stop_ids,
            pad_token_id=self.stop_ids[
                0
            ],  # any id will do: lengths come from the stop tokens, masks from lengths
            use_cache=True,
        )

    def check_prompts(self, prompts: list[list[int]]) -> None:
        """Checks that the model can take these prompts and the longest trees that may grow from
        them.

        Rotary frequencies that depend on the length of a sequence are settled for the longest path
        (`settle_rope`).

        Raises:
            ValueError: a prompt without tokens, a token without an embedding, or more positions
                than the model has.
        """
        if not all(map(len, prompts)):
            raise ValueError("a prompt holds no token: every prompt needs at least one token")
        known = self.causal.config.get_text_config().vocab_size
        if (largest := max(map(max, prompts), default=0)) >= known:
            token = self.tokenizer.convert_ids_to_tokens(largest)
            name = f"token {largest} ({token}), but the model knows {known} tokens"
            raise ValueError(f"a prompt holds {name}: tokenizer and model do not belong together")
        prompt, new = max(map(len, prompts), default=0), len(self.widths) * self.step_tokens
        limit = positions(self.causal)
        if (
            limit and not rotary(self.causal) and prompt + new - 1 > limit
        ):  # the last token is not forwarded
            name = f"{self.causal.config.model_type} has positions for {limit} tokens"
            need = f"a prompt of {prompt} and {new} new ones need {prompt + new - 1}"
            raise ValueError(
                f"{name}, but {need}; lower the number of new tokens, or leave out long prompts"
            )
        settle_rope(self.causal, prompt + new)

    def sample(self, prompts: list[list[int]], seeds: list[int]) -> list[Tree]:
        """One tree a prompt, in order.

        Args:
            prompts: token ids, at least one each. seeds: one non-negative integer a prompt.
        """
        return [
            tree for _, tree in sorted(self.stream(prompts, seeds))
        ]  # by index, which no two share

    @torch.no_grad()
    def stream(self, prompts: list[list[int]], seeds: list[int]) -> Iterator[tuple[int, Tree]]:
        """Yields each tree with its prompt's index as soon as it is whole, so that others grow
        while it is graded."""
        if len(prompts) != len(seeds):
            raise ValueError("sample needs one seed a prompt")
        self.check_prompts(prompts)
        training = self.model.training
        self.model.eval()  # dropout off; gradient checkpointing, which forbids a cache, too
        nodes: list[list[_Node]] = [[] for _ in prompts]
        # Long prompts first: neighbours in a slice are then alike in length, and the largest slices
        # come first.
        waiting = deque(sorted(range(len(prompts)), key=lambda i: -len(prompts[i])))
        pools: list[list[_Node]] = [
            [] for _ in self.widths
        ]  # unfinished nodes by depth, each with its cache row
        try:
            while waiting or any(pools):
                depth = self._next_depth(pools, bool(waiting))
                parents = max(1, self.max_rows // self.widths[depth])
                if depth == 0 and waiting and len(pools[0]) < parents:
                    count = min(parents - len(pools[0]), len(waiting))
                    pools[0] += self._prefill([waiting.popleft() for _ in range(count)], prompts)
                    for root in pools[0][-count:]:
                        nodes[root.prompt].append(root)
                    continue
                taken, pools[depth] = pools[depth][:parents], pools[depth][parents:]
                children = [(parent, k) for parent in taken for k in range(self.widths[depth])]
                while children:
                    rows = children[: self.max_rows]
                    try:
                        grown = self._grow(rows, seeds)
                    except torch.OutOfMemoryError:
                        if len(rows) == 1:
                            raise
                        grown = None  # retried outside of this block, where the error no longer holds tensors
                    if grown is None:
                        self.max_rows = len(rows) // 2
                        torch.cuda.empty_cache()
                        logger.warning("out of memory: going on with --max_rows %d", self.max_rows)
                        continue
                    del children[: len(rows)]
                    for node in grown:  # a cache lives only as long as some node in a pool holds it
                        nodes[node.prompt].append(node)
                        if node.finished or depth + 1 == len(self.widths):
                            node.cache = None
                        else:
                            pools[depth + 1].append(node)
                for node in taken:
                    node.cache = None
                growing = {node.prompt for pool in pools for node in pool}
                for index in dict.fromkeys(node.prompt for node in taken):
                    if index not in growing:
                        yield index, _assemble(prompts[index], nodes[index])
        finally:
            self.model.train(training)

    def _next_depth(self, pools: list[list[_Node]], waiting: bool) -> int:
        """The deepest pool that fills a slice; else the first that can feed the deeper ones.

        Deep first, so that caches are let go early; and a slice below max_rows waits for rows of
        other prompts."""
        for depth in range(len(pools) - 1, -1, -1):
            if len(pools[depth]) * self.widths[depth] >= self.max_rows:
                return depth
        return 0 if waiting else next(depth for depth, pool in enumerate(pools) if pool)

    def _new_cache(self) -> DynamicCache:
        return DynamicCache(
            config=self.model.config
        )  # with the config, sliding-window layers keep their kind

    def _prefill(self, indices: list[int], prompts: list[list[int]]) -> list[_Node]:
        """Computes the prompts once, all but their last token, which the children's first forward
        pass takes."""
        roots = [
            _Node(prompt=i, path=(), length=len(prompts[i]), last_id=prompts[i][-1])
            for i in indices
        ]
        width = max(node.length for node in roots) - 1
        cache = self._new_cache()
        if width:
            padded = [[0] * (width + 1 - node.length) + prompts[node.prompt][:-1] for node in roots]
            input_ids = torch.tensor(
                padded, device=self.model.device
            )  # [prompts, width], padded on the left
            mask = _mask([node.length - 1 for node in roots], width, self.model.device)
            places = (mask.cumsum(-1) - 1).clamp(min=0)
            # A model's config may turn the cache off.
            kept = {"past_key_values": cache, "use_cache": True, "logits_to_keep": 1}
            self.model(input_ids, attention_mask=mask, position_ids=places, **kept)
        for row, node in enumerate(roots):
            node.cache, node.row = cache, row
        return roots

    def _fork(self, parents: list[_Node]) -> tuple[DynamicCache, Tensor]:
        """A cache with one row an entry of `parents`, aligned on the right, and its mask [rows,
        width].

        A run of parents from one cache is one index_select a layer. Rows that ended early, at a
        delimiter, are moved to the right so that the newest token of every row stands in the last
        column."""
        lengths = [node.length - 1 for node in parents]  # the last token is not in the cache yet
        width, device = max(lengths), self.model.device
        cache, runs = self._new_cache(), []
        for node in parents:
            if not runs or runs[-1][0].cache is not node.cache:
                runs.append([])
            runs[-1].append(node)
        for index, layer in enumerate(cache.layers if width else []):
            columns = min(width, layer.sliding_window - 1) if layer.is_sliding else width
            keys, values = [], []
            for run in runs:
                source = run[0].cache.layers[index]
                rows = torch.tensor([node.row for node in run], device=device)
                gaps = torch.tensor([node.gap for node in run], device=device)
                for states, parts in ((source.keys, keys), (source.values, values)):
                    parts.append(
                        _align(states, rows, gaps if any(n.gap for n in run) else None, columns)
                    )
            keys, values = (p[0] if len(p) == 1 else torch.cat(p) for p in (keys, values))
            if not layer.is_sliding:
                cache.layers[index] = _RoomyLayer(keys, values, self.step_tokens)
            else:
                layer.lazy_initialization(keys, values)
                layer.keys, layer.values, layer.cumulative_length = keys, values, width
                # Moving a row to the right needs the columns that the window would have dropped
                # during the step.
                layer.record_past = self.delimiter is not None
        return cache, _mask([n + 1 for n in lengths], width + 1, device)

    def _grow(self, children: list[tuple[_Node, int]], seeds: list[int]) -> list[_Node]:
        """Samples one step for each (parent, child index) in one generate call."""
        device = self.model.device
        cache, mask = self._fork([parent for parent, _ in children])
        paths = [parent.path + (k,) for parent, k in children]
        uniforms = [
            _uniforms(seeds[p.prompt], path, self.step_tokens)
            for (p, _), path in zip(children, paths)
        ]
        draw = _InverseCDF(torch.from_numpy(np.stack(uniforms, 1)).to(device), *self.warping)
        step_end = _StepEnd(self.delimiter) if self.delimiter else None
        with bare_generation_config(self.causal):
            sequences = self.model.generate(
                # Only the last token: the rest is in the cache, and the mask tells generate how
                # long that is.
                input_ids=torch.tensor([[parent.last_id] for parent, _ in children], device=device),
                attention_mask=mask,
                past_key_values=cache,
                generation_config=self.generation_config,
                logits_processor=LogitsProcessorList([draw]),
                stopping_criteria=StoppingCriteriaList([step_end] if step_end else []),
            )
        new = sequences[:, 1:]  # [rows, new tokens]
        stopped = torch.isin(new, torch.tensor(self.stop_ids, device=device))
        ended = stopped | torch.stack(step_end.ended, 1) if step_end else stopped
        lengths = torch.where(ended.any(1), ended.int().argmax(1) + 1, new.shape[1])  # [rows]
        finished = stopped.gather(1, lengths[:, None] - 1).squeeze(1)
        logprobs = torch.stack(draw.logprobs, 1).float()  # [rows, new tokens]
        new, logprobs, lengths, finished = (
            new.cpu(),
            logprobs.cpu(),
            lengths.tolist(),
            finished.tolist(),
        )
        grown = []
        for row, (parent, _) in enumerate(children):
            n = lengths[row]
            node = _Node(
                parent.prompt, paths[row], parent.length + n, int(new[row, n - 1]), new[row, :n]
            )
            node.logprobs, node.finished, node.cache = logprobs[row, :n], finished[row], cache
            node.row, node.gap = row, new.shape[1] - n
            grown.append(node)
        limit = positions(self.causal)
        if limit and max(node.length for node in grown) > limit:  # rotary positions have no end
            _warn_once(
                f"some paths are longer than the {limit} positions that the model was made for"
            )
        return grown


def _assemble(prompt_ids: list[int], members: list[_Node]) -> Tree:
    """The finished tree. Sorted by path a parent stands before its children, however the slices
    were cut."""
    members.sort(key=lambda node: node.path)
    index = {node.path: i for i, node in enumerate(members)}
    parent = [index[node.path[:-1]] if node.path else -1 for node in members]
    columns = zip(*((len(n.path), n.tokens, n.logprobs, n.finished) for n in members))
    return Tree(prompt_ids, parent, *map(list, columns))
