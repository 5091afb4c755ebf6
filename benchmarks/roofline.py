"""What the work costs at least: bytes and FLOPs from a model's config, over a card's figures.

A floor counts what no implementation can leave out while each row keeps keys and values of its own:
one reading of the weights per turn, one reading of each row's keys and values, and the products.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Card:
    """A GPU's figures, as its maker gives them."""

    flops: float  # dense bfloat16 products with float32 sums, per second
    bandwidth: float  # bytes of its memory per second


# By what its name holds; the first that fits counts.
CARDS = {
    "H200": Card(flops=989e12, bandwidth=4.8e12),
    "H100 NVL": Card(flops=835e12, bandwidth=3.9e12),
    "H100 PCIe": Card(flops=756e12, bandwidth=2.0e12),
    "H100": Card(flops=989e12, bandwidth=3.35e12),
    "A100": Card(flops=312e12, bandwidth=2.0e12),
}


def card_of(name: str) -> Card | None:
    """The figures of a card by its name; None where they aren't known.

    >>> card_of("NVIDIA H100 80GB HBM3").bandwidth
    3350000000000.0
    >>> card_of("2 CPU cores") is None
    True
    """
    return next((card for part, card in CARDS.items() if part in name), None)


@dataclass(frozen=True)
class Arithmetic:
    """A decoder's sizes, as far as they decide bytes and FLOPs."""

    weights: int  # of the products of one token: all layers and the head
    key_values: int  # numbers of keys and values that one token leaves
    attention: int  # heads times head dimension, over all layers
    bytes_per_number: int = 2

    @classmethod
    def of(cls, config, bytes_per_number: int = 2) -> "Arithmetic":
        """Of a Llama-like model: gated feed-forward layers, grouped keys."""
        hidden = config.hidden_size
        heads = config.num_attention_heads
        head_dimension = getattr(config, "head_dim", None) or hidden // heads
        key_width = config.num_key_value_heads * head_dimension
        query_width = heads * head_dimension
        attention = hidden * (2 * query_width + 2 * key_width)
        feed_forward = 3 * hidden * config.intermediate_size
        layers = config.num_hidden_layers
        return cls(
            weights=layers * (attention + feed_forward) + hidden * config.vocab_size,
            key_values=layers * 2 * key_width,
            attention=layers * query_width,
            bytes_per_number=bytes_per_number,
        )

    def forward_flops(self, tokens: float, context: float) -> float:
        """Of `tokens` tokens that see `context` tokens each, on average."""
        return tokens * (2 * self.weights + 4 * self.attention * context)

    def training_flops(self, tokens: float, context: float, all_weights: bool) -> float:
        """Of a forward and a backward pass.

        A backward pass has two products for each of the forward pass: for the gradient of the
        states and for that of the weights. Frozen weights need the first alone; an adapter's own
        products are left out, and so is what gradient checkpointing computes again.
        """
        products = 2 * tokens * self.weights * (3 if all_weights else 2)
        return products + 3 * tokens * 4 * self.attention * context

    def turn_bytes(self, rows: int, context: float) -> float:
        """What one decoding turn of `rows` rows with `context` tokens each reads."""
        return self.bytes_per_number * (self.weights + rows * context * self.key_values)

    def turn_seconds(self, rows: int, context: float, card: Card) -> float:
        """The floor of one decoding turn: memory or products, whichever takes longer."""
        products = self.forward_flops(rows, context) / card.flops
        return max(self.turn_bytes(rows, context) / card.bandwidth, products)

    def step_seconds(
        self, rows: int, prefix: int, tokens: int, card: Card, max_rows: int | None = None
    ) -> float:
        """The floor of one step: `rows` rows of `prefix` tokens grow by `tokens` tokens.

        In slices of at most `max_rows` rows, each of which reads the weights anew.
        """
        slices = math.ceil(rows / (max_rows or rows))
        # The mean over turns of a cost that is linear in the context.
        context = prefix + (tokens + 1) / 2
        return slices * tokens * self.turn_seconds(math.ceil(rows / slices), context, card)


def tree_seconds(
    arithmetic: Arithmetic,
    card: Card,
    prompts: int,
    prompt: int,
    widths: list[int],
    step_tokens: int,
    max_rows: int,
) -> float:
    """The floor of sampling one full tree for each of `prompts` prompts of `prompt` tokens."""
    total = 0.0
    rows = prompts
    for depth, width in enumerate(widths):
        rows *= width
        prefix = prompt + depth * step_tokens
        total += arithmetic.step_seconds(rows, prefix, step_tokens, card, max_rows)
    return total


def flat_seconds(
    arithmetic: Arithmetic, card: Card, rows: int, prompt: int, new_tokens: int
) -> float:
    """The floor of `rows` completions of `new_tokens` tokens, all at once."""
    return arithmetic.step_seconds(rows, prompt, new_tokens, card)


def tree_tokens(widths: list[int], step_tokens: int) -> int:
    """Tokens of a full tree.

    >>> tree_tokens([8, 8, 8], 384)
    224256
    """
    nodes = [math.prod(widths[: depth + 1]) for depth in range(len(widths))]
    return sum(nodes) * step_tokens


def tree_context(prompt: int, widths: list[int], step_tokens: int) -> float:
    """How many tokens a token of a full tree sees on average, of its path up to itself.

    >>> tree_context(10, [2], 4), tree_context(0, [1, 1], 2)
    (12.5, 2.5)
    """
    nodes = [math.prod(widths[: depth + 1]) for depth in range(len(widths))]
    seen = [prompt + depth * step_tokens + (step_tokens + 1) / 2 for depth in range(len(widths))]
    return sum(count * tokens for count, tokens in zip(nodes, seen)) / sum(nodes)
