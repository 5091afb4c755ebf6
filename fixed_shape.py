"""The engine for GPUs: a step is decoded in a cache of fixed shape, so that CUDA graphs can run it.

A decoding pass of a small model is hundreds of short kernels, and launching them one by one takes
longer than running them. A CUDA graph launches them all at once, but only over tensors that keep
their place and their shape. So rows are copied into a workspace that is allocated once, with a
token's keys and values in the column of its position. One turn (forward pass, draw, bookkeeping) is
captured for each pair of a number of rows and a number of columns that occurs, and replayed from
then on.

Copying rows into the workspace writes their keys and values once per slice and step, which is what
a few decoding passes read: of a step of 384 tokens, about 1 %.

Rows that end inside a step stay until half of the rows have ended. Then the others move together,
and the turns that follow are half as large.

On a CPU the same code runs without graphs. `generate.Engine` gives the same steps up to rounding,
as tests on a CPU show; on a GPU this file was not run.
"""

import logging
import math
import weakref
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, DynamicCache
from transformers.cache_utils import Cache, CacheLayerMixin

from generate import (
    Engine,
    Row,
    Step,
    Stream,
    attention_implementation,
    draw_tokens,
    looks_attention_up,
)
from run.processes import launched_with_fsdp

logger = logging.getLogger(__name__)

DECODE_ATTENTION = "decode_sdpa"  # its name among transformers' implementations
# Rows are rounded up to a multiple of this, or to a power of two below it.
ROW_BUCKET = 16
# Attention reads columns up to a multiple of this.
COLUMN_BUCKET = 128
# Turns between looks at which rows have ended; a look waits for the GPU.
TURNS_BETWEEN_LOOKS = 16


def suits(model) -> bool:
    """Whether a model is to be sampled in a fixed shape.

    On a GPU, with attention by SDPA to all columns or to a sliding window. Not under FSDP: its
    passes make other streams wait, which a captured one must not.
    """
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    on_gpu = model.device.type == "cuda"
    return (
        on_gpu
        and not launched_with_fsdp()
        and looks_attention_up(causal)
        and _knows_masks(causal.config.get_text_config())
    )


def _knows_masks(config) -> bool:
    """Whether `FixedShapeEngine._masks` has the mask of each of the model's layers."""
    kinds = set(getattr(config, "layer_types", None) or [])
    in_chunks = getattr(config, "attention_chunk_size", None)
    return kinds <= {"full_attention", "sliding_attention"} and not in_chunks


def decode_sdpa(
    module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float | None = None,
    **kwargs,
) -> tuple[Tensor, None]:
    """SDPA of one token per row.

    The heads that share keys stand side by side as queries, so that keys are not repeated for each
    of them: at many rows reading keys and values is most of the work.

    Args:
        query: [rows, heads, 1, head dimension].
        key, value: [rows, key heads, columns, head dimension].
        attention_mask: BoolTensor [rows, 1, 1, columns].

    Returns:
        [rows, 1, heads, head dimension], and None for the weights.
    """
    rows, heads, _, _ = query.shape
    # [rows, key heads, group, head dimension]
    groups = query.reshape(rows, key.shape[1], -1, query.shape[3]).to(key.dtype)
    output = scaled_dot_product_attention(groups, key, value, attention_mask, scale=scaling)
    return output.reshape(rows, 1, heads, -1), None


# --- Where keys and values are ---


@dataclass(eq=False)
class _Stored:
    """Keys and values of rows, [rows, heads, columns, head dimension] each, layer by layer.

    A token's column is its position. What is in the columns after a row's tokens means nothing.
    """

    layers: list[tuple[Tensor, Tensor]]

    def move_out(self) -> None:
        """Copies them from the workspace, which is to hold other rows."""
        self.layers = [(keys.clone(), values.clone()) for keys, values in self.layers]


class _Slots(CacheLayerMixin):
    """One layer of the workspace, as a layer of transformers' cache."""

    def __init__(self, keys: Tensor, values: Tensor):
        super().__init__()
        self.keys = keys  # [slots, heads, columns, head dimension]
        self.values = values
        self.is_initialized = True
        self.at: tuple[Tensor, Tensor]  # slot and column of each row's new token, [rows] each
        self.columns: int  # that attention reads

    def update(
        self, key_states: Tensor, value_states: Tensor, *args, **kwargs
    ) -> tuple[Tensor, Tensor]:
        slots, positions = self.at
        # Indices around a slice come first: [rows, heads, head dimension].
        self.keys[slots, :, positions] = key_states[:, :, 0].to(self.keys.dtype)
        self.values[slots, :, positions] = value_states[:, :, 0].to(self.values.dtype)
        rows = len(slots)
        return self.keys[:rows, :, : self.columns], self.values[:rows, :, : self.columns]

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        raise AssertionError("the workspace is allocated before the forward pass")

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.columns, 0

    def get_seq_length(self) -> int:
        return self.columns - 1

    def get_max_length(self) -> int:
        return self.keys.shape[2]


class _Workspace:
    """The tensors that a turn reads and writes; they keep their place.

    Args:
        like: keys and values of any rows, for the shapes of the layers.
        slots, columns: of keys and values.
        step_tokens: most tokens of a step.
    """

    def __init__(self, like: _Stored, slots: int, columns: int, step_tokens: int):
        keys, _ = like.layers[0]
        device = keys.device
        self.slots = slots
        self.columns = columns
        # Zeros: what is masked is multiplied by 0, and must be finite.
        self.layers = [
            _Slots(*(_zeros_like(states, slots, columns) for states in pair))
            for pair in like.layers
        ]
        self.cache = Cache(layers=self.layers)
        self.all_slots = torch.arange(slots, device=device)
        self.all_columns = torch.arange(columns, device=device)
        # Of the row in each slot: its newest token, which is not in the cache yet, and its place.
        self.token = torch.zeros(slots, 1, dtype=torch.long, device=device)
        self.position = torch.zeros(slots, dtype=torch.long, device=device)
        # Which of the step's rows stands in each slot.
        self.owner = torch.arange(slots, device=device)
        # Of the step's rows, one line per turn.
        self.turn = torch.zeros(1, dtype=torch.long, device=device)
        self.quantiles = torch.zeros(step_tokens, slots, dtype=torch.double, device=device)
        self.tokens = torch.zeros(step_tokens, slots, dtype=torch.long, device=device)
        self.logprobs = torch.zeros(step_tokens, slots, device=device)
        # A captured turn for each (rows, columns), or None where it has been run once without.
        self.graphs: dict[tuple[int, int], torch.cuda.CUDAGraph | None] = {}
        # Graphs are replayed one after another, so that they can share their memory.
        self.pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None

    def first(self, slots: int, columns: int) -> _Stored:
        """The first slots, as they stand in the workspace."""
        return _Stored(
            [
                (layer.keys[:slots, :, :columns], layer.values[:slots, :, :columns])
                for layer in self.layers
            ]
        )

    def copied(self, slots: list[int], columns: int) -> _Stored:
        """A copy of some slots."""
        whole = self.first(self.slots, columns)
        picked = torch.tensor(slots, device=self.owner.device)
        return _Stored(
            [
                (keys.index_select(0, picked), values.index_select(0, picked))
                for keys, values in whole.layers
            ]
        )

    def load(self, rows: list[Row], quantiles: np.ndarray) -> None:
        """Copies the rows into the first slots, and starts a step.

        Args:
            quantiles: [step tokens, rows].
        """
        start = 0
        # Neighbours that stand in one cache are copied together.
        for _, group in groupby(rows, key=lambda row: id(row.cache)):
            members = list(group)
            indices = torch.tensor([row.index for row in members], device=self.owner.device)
            longest = max(row.length for row in members)
            end = start + len(members)
            for layer, (keys, values) in zip(self.layers, members[0].cache.layers):
                for own, stored in ((layer.keys, keys), (layer.values, values)):
                    copied = stored[:, :, :longest].index_select(0, indices)
                    own[start:end, :, : copied.shape[2]] = copied
            start = end
        count = len(rows)
        # Slots without a row compute too, from a token of their own.
        self.token.zero_()
        self.token[:count, 0] = torch.tensor([row.last_id for row in rows])
        self.position.zero_()
        self.position[:count] = torch.tensor([row.length - 1 for row in rows])
        self.owner.copy_(self.all_slots)
        self.turn.zero_()
        self.quantiles[:, :count] = torch.from_numpy(quantiles)

    def keep(self, slots: list[int], columns: int) -> None:
        """Moves the rows in some slots together into the first slots.

        The other rows stand behind them, without their keys and values.
        """
        kept = torch.tensor(slots, device=self.owner.device)
        # Layer by layer, so that only one is there twice.
        for layer in self.layers:
            for states in (layer.keys, layer.values):
                states[: len(slots), :, :columns] = states[:, :, :columns].index_select(0, kept)
        others = sorted(set(range(self.slots)) - set(slots))
        order = torch.tensor([*slots, *others], device=self.owner.device)
        for state in (self.token, self.position, self.owner):
            state.copy_(state[order])


def _zeros_like(states: Tensor, slots: int, columns: int) -> Tensor:
    """[slots, heads, columns, head dimension], with the heads of `states`.

    Under autocast the numbers are those that attention computes with: others would be converted in
    every turn.
    """
    _, heads, _, head_dimension = states.shape
    device = states.device.type
    autocasts = torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if autocasts else states.dtype
    return states.new_zeros(slots, heads, columns, head_dimension, dtype=dtype)


def row_bucket(rows: int) -> int:
    """So many rows or a few more: few sizes occur.

    >>> [row_bucket(rows) for rows in (1, 3, 8, 9, 17, 195, 512)]
    [1, 4, 8, 16, 32, 208, 512]
    """
    if rows < ROW_BUCKET:
        return 1 << (rows - 1).bit_length()
    return math.ceil(rows / ROW_BUCKET) * ROW_BUCKET


def column_bucket(columns: int) -> int:
    """So many columns or some more.

    >>> [column_bucket(columns) for columns in (1, 128, 129)]
    [128, 128, 256]
    """
    return math.ceil(columns / COLUMN_BUCKET) * COLUMN_BUCKET


# --- The engine ---


class FixedShapeEngine(Engine):
    """`generate.Engine` in a fixed shape. Its rows and those of the other are not interchangeable.

    A row whose step ended with the stop token can't be continued: `Step.row` is None.
    """

    turns_between_looks = TURNS_BETWEEN_LOOKS
    # In this process, by any engine: what failed once is not tried again.
    capture_failed = False

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        AttentionInterface.register(DECODE_ATTENTION, decode_sdpa)
        self.config = self.causal.config.get_text_config()
        self.captures = self.model.device.type == "cuda" and not self.capture_failed
        self.longest = 0  # tokens of the longest path that was announced
        self._workspace: _Workspace | None = None
        # The rows of the last step, as long as they stand in the workspace and somebody holds them.
        self._tenant = lambda: None

    def check_prompts(self, prompts: list[list[int]], new_tokens: int) -> None:
        super().check_prompts(prompts, new_tokens)
        # A workspace for these has room for all of their steps.
        self.longest = max(map(len, prompts), default=0) + new_tokens

    @torch.no_grad()
    def prefill(self, contexts: list[list[int]]) -> list[Row]:
        """Computes the cache of each list of ids, in one forward pass.

        They are padded on the right: no token sees what comes after it, so no mask is needed.
        """
        width = max(map(len, contexts))
        padded = [ids + [0] * (width - len(ids)) for ids in contexts]
        cache = DynamicCache()  # without a config every layer keeps all columns
        self.model(
            torch.tensor(padded, device=self.model.device),  # [rows, width]
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        stored = _Stored([(layer.keys, layer.values) for layer in cache.layers])
        return [Row(stored, index, len(ids), ids[-1]) for index, ids in enumerate(contexts)]

    def grow(self, rows: list[Row], streams: list[Stream]) -> list[Step]:
        """Samples one step for each row: see `generate.Engine.grow`."""
        try:
            return self._grow(rows, streams)
        except torch.OutOfMemoryError:
            self.release()  # so that a workspace for fewer rows has room
            raise

    def release(self) -> None:
        """Lets go of the workspace and its graphs.

        It takes memory that training needs, and the graphs hold addresses of weights, which may
        change place between two updates. A row that somebody still holds keeps the workspace's keys
        and values alive, and stays where it is.
        """
        self._tenant = lambda: None
        self._workspace = None

    def _vacate(self) -> None:
        """Moves rows that somebody still holds out of the workspace."""
        tenant = self._tenant()
        if tenant is not None:
            tenant.move_out()
        self._tenant = lambda: None

    @torch.no_grad()
    def _grow(self, rows: list[Row], streams: list[Stream]) -> list[Step]:
        quantiles = np.stack([stream.uniforms(self.step_tokens) for stream in streams], 1)
        workspace = self._enter(rows, quantiles)
        last_ids = torch.tensor([[row.last_id] for row in rows], device=self.model.device)
        longest = max(row.length for row in rows)
        slots = row_bucket(len(rows))
        standing = list(range(len(rows)))  # the row in each of the first slots
        homes: dict[int, tuple[_Stored, int]] = {}  # where each row is that left its slot
        delimited: list[Tensor] = []  # one BoolTensor [rows] per turn
        for turn in range(self.step_tokens):
            self._take_turn(slots, column_bucket(longest + turn))
            tokens = workspace.tokens[: turn + 1, : len(rows)].T  # [rows, turns]
            if self.delimiter:
                delimited.append(self.delimiter(torch.cat([last_ids, tokens], 1), None))
            # From time to time: which rows go on? Once half of them have ended, the others move
            # together.
            if (turn + 1) % self.turns_between_looks or not (self.stop_ids or self.delimiter):
                continue
            ended = self._ended(tokens, _stacked(delimited)).any(1).tolist()
            growing = [row for row in standing if not ended[row]]
            if not growing:
                break
            if len(growing) <= slots // 2:
                if self.delimiter:  # what it ended is continued later
                    homes |= self._set_aside(standing, growing, longest + turn)
                workspace.keep([standing.index(row) for row in growing], longest + turn)
                standing = growing
                while len(growing) <= slots // 2:
                    slots //= 2

        stored = workspace.first(len(standing), longest + tokens.shape[1])
        self._tenant = weakref.ref(stored)
        homes |= {row: (stored, slot) for slot, row in enumerate(standing)}
        return self._steps(rows, tokens, _stacked(delimited), homes)

    def _steps(
        self,
        rows: list[Row],
        tokens: Tensor,
        delimited: Tensor | None,
        homes: dict[int, tuple[_Stored, int]],
    ) -> list[Step]:
        """What was sampled for each row.

        Args:
            tokens: LongTensor [rows, turns], of the workspace.
            delimited: as for `_ends`.
            homes: where the row with each step at its end is.
        """
        lengths, finished = self._ends(tokens, delimited)
        # Copies: the workspace's own are written again in the next step.
        logprobs = self._workspace.logprobs[: tokens.shape[1], : len(rows)].T.clone().cpu()
        tokens = tokens.clone().cpu()
        steps = []
        for index, (row, length, stop) in enumerate(zip(rows, lengths, finished)):
            own = tokens[index, :length]
            following = None
            if not stop:
                following = Row(*homes[index], row.length + length, last_id=int(own[-1]))
            steps.append(Step(own, logprobs[index, :length], stop, following))
        self._warn_of_length(max(row.length + length for row, length in zip(rows, lengths)))
        return steps

    def _enter(self, rows: list[Row], quantiles: np.ndarray) -> _Workspace:
        """The workspace with these rows in its first slots, at the start of a step.

        Args:
            quantiles: [step tokens, rows].
        """
        self._vacate()
        slots = row_bucket(len(rows))
        longest = max(row.length for row in rows) + self.step_tokens
        columns = column_bucket(max(longest, self.longest))
        workspace = self._workspace
        if not workspace or workspace.slots < slots or workspace.columns < columns:
            # The old one goes before the new one comes.
            self._workspace = workspace = None
            workspace = _Workspace(rows[0].cache, slots, columns, self.step_tokens)
            self._workspace = workspace
        workspace.load(rows, quantiles)
        return workspace

    def _set_aside(
        self, standing: list[int], growing: list[int], columns: int
    ) -> dict[int, tuple[_Stored, int]]:
        """Copies the rows that stand in the workspace and don't grow; where each of them is."""
        leaving = [row for row in standing if row not in set(growing)]
        stored = self._workspace.copied([standing.index(row) for row in leaving], columns)
        return {row: (stored, index) for index, row in enumerate(leaving)}

    # --- One turn ---

    def _take_turn(self, slots: int, columns: int) -> None:
        """One token for each row in the first slots; attention reads so many columns.

        The first time that a shape occurs it is run kernel by kernel, which makes whatever the
        libraries make on first use. The second time it is captured.
        """
        graphs = self._workspace.graphs
        shape = (slots, columns)
        if not self.captures or shape not in graphs:
            graphs[shape] = None
            self._turn(slots, columns)
            return
        if graphs[shape] is None:
            graphs[shape] = self._capture(slots, columns)
        if graphs[shape] is None:
            self._turn(slots, columns)
        else:
            graphs[shape].replay()

    def _capture(self, slots: int, columns: int) -> torch.cuda.CUDAGraph | None:
        """A turn as a graph; None where the model does what can't be captured.

        That is to wait for the GPU, as a mixture of experts may do to know its experts' tokens.
        Nothing is computed while a turn is captured, so that one that fails leaves all as it was.
        """
        stream = torch.cuda.current_stream()
        try:
            graph = torch.cuda.CUDAGraph()
            # What other threads ask of the GPU meanwhile (NCCL's watchdog does) is none of it.
            with torch.cuda.graph(
                graph, pool=self._workspace.pool, capture_error_mode="thread_local"
            ):
                self._turn(slots, columns)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # a model's own code raises whatever it likes
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            logger.warning("sampling without CUDA graphs: %s", reason)
            FixedShapeEngine.capture_failed = True
            self.captures = False
            return None
        finally:
            # A capture that fails leaves its own stream in the place of this one.
            torch.cuda.set_stream(stream)
        return graph

    def _turn(self, slots: int, columns: int) -> None:
        """Forward pass, draw and bookkeeping, on tensors of the workspace alone."""
        workspace = self._workspace
        position = workspace.position[:slots]  # [rows]
        owner = workspace.owner[:slots]  # [rows]
        for layer in workspace.layers:
            layer.at = (workspace.all_slots[:slots], position)
            layer.columns = columns
        with attention_implementation(self.config, DECODE_ATTENTION):
            output = self.model(
                workspace.token[:slots],  # [rows, 1]
                attention_mask=self._masks(position, columns),
                position_ids=position[:, None],
                past_key_values=workspace.cache,
                use_cache=True,
            )
        logits = output.logits[:, -1].float()  # [rows, vocabulary]
        quantiles = workspace.quantiles[workspace.turn, owner]  # [rows]
        token, logprob = draw_tokens(logits, quantiles, self.warping)
        workspace.tokens[workspace.turn, owner] = token
        workspace.logprobs[workspace.turn, owner] = logprob
        workspace.token[:slots, 0] = token
        position += 1
        workspace.turn += 1

    def _masks(self, position: Tensor, columns: int) -> Tensor | dict[str, Tensor]:
        """What each row sees, [rows, 1, 1, columns]: one mask, or one for each kind of layer."""
        window = getattr(self.config, "sliding_window", None)
        kinds = getattr(self.config, "layer_types", None)
        column = self._workspace.all_columns[:columns]
        causal = column <= position[:, None]  # [rows, columns]
        near = causal
        if window is not None:
            near = causal & (column > position[:, None] - window)
        if not kinds:
            return near[:, None, None]
        masks = {"sliding_attention": near, "full_attention": causal}
        used = {kind: masks[kind][:, None, None] for kind in set(kinds)}
        # Not every model takes a dict.
        return used if len(used) > 1 else used.popitem()[1]


def _stacked(per_turn: list[Tensor]) -> Tensor | None:
    """[rows, turns] of one [rows] per turn; None of nothing."""
    return torch.stack(per_turn, 1) if per_turn else None
