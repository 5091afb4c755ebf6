"""How long an update of the paper's recipe takes on many GPUs, on paper: the tables of
docs/hardware.md.

    python benchmarks/scaling.py

Nothing is measured here. Sampling is taken to reach --of_floor of the floor by memory traffic
(roofline.py), training --mfu of the card's FLOPs, and reductions --link bytes per second. Trees are
full and nothing is pruned, so that every figure is an upper bound under these assumptions.
"""

import argparse
from dataclasses import dataclass
from types import SimpleNamespace

from roofline import CARDS, Arithmetic, tree_context, tree_seconds, tree_tokens

QWEN = SimpleNamespace(  # Qwen2.5-Math-1.5B
    hidden_size=1536,
    intermediate_size=8960,
    num_attention_heads=12,
    num_key_value_heads=2,
    num_hidden_layers=28,
    vocab_size=151_936,
)
PARAMETERS = 1_543_714_304
PROMPT = 256  # tokens
WIDTHS = [8, 8, 8]
STEP_TOKENS = 384
PROMPTS = 128
MINIBATCHES = 2
MAX_ROWS = 256
UPDATES = 300


@dataclass
class Update:
    """Seconds of the phases of one update."""

    sample: float
    reference: float  # the log-probabilities under the initial policy, for the KL term
    train: float
    reduce: float

    @property
    def total(self) -> float:
        return self.sample + self.reference + self.train + self.reduce


def update_on(  # one process on each of `gpus` GPUs
    gpus: int, card: str = "H100", of_floor: float = 0.5, mfu: float = 0.4, link: float = 50e9
) -> Update:
    """The phases of one update of the paper's recipe.

    - Sampling: each process grows the trees of its own prompts.
    - Training: each process trains its own trees. The trees of a minibatch are drawn from all, so
      that with more processes than trees in a minibatch some wait; the slowest has one tree.
    - Reduction: after each minibatch the gradients, float32, are added up in a ring.
    """
    arithmetic = Arithmetic.of(QWEN)
    figures = CARDS[card]
    prompts = PROMPTS // gpus  # of each process
    floor = tree_seconds(arithmetic, figures, prompts, PROMPT, WIDTHS, STEP_TOKENS, MAX_ROWS)

    # Trees that the busiest process has in all minibatches together, at least.
    trees = max(prompts, MINIBATCHES)
    tokens = trees * tree_tokens(WIDTHS, STEP_TOKENS)
    context = tree_context(PROMPT, WIDTHS, STEP_TOKENS)
    rate = mfu * figures.flops
    # The initial policy's pass is of the process's own trees too.
    reference = arithmetic.forward_flops(tokens, context) / rate
    train = arithmetic.training_flops(tokens, context, all_weights=True) / rate

    sent = 2 * (gpus - 1) / gpus * 4 * PARAMETERS  # by each process, per minibatch
    return Update(floor / of_floor, reference, train, MINIBATCHES * sent / link)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--card", default="H100", choices=CARDS)
    parser.add_argument("--of_floor", default=0.5, type=float, help="share of sampling's floor")
    parser.add_argument("--mfu", default=0.4, type=float, help="share of the card's FLOPs")
    parser.add_argument("--link", default=50e9, type=float, help="bytes per second of a process")
    args = parser.parse_args()
    print(table(**vars(args)))


def table(**assumptions) -> str:
    """One row for each number of GPUs."""
    lines = [
        "| GPUs | sampling [s] | reference [s] | training [s] | reduction [s] | update [s] | "
        "300 updates [h] | efficiency |",
        "|---|---|---|---|---|---|---|---|",
    ]
    alone = update_on(1, **assumptions).total
    for gpus in (1, 8, 32, 64, 128):
        update = update_on(gpus, **assumptions)
        phases = (update.sample, update.reference, update.train, update.reduce, update.total)
        cells = [str(gpus), *(f"{seconds:,.1f}" for seconds in phases)]
        cells += [f"{UPDATES * update.total / 3600:,.1f}", f"{alone / gpus / update.total:.0%}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
