"""What every pupil has: a schedule of training, and texts.

A pupil is a careless solver of one task. A tiny base learns to write as he writes, by
data/make_tiny_base.py, so that it behaves like a pretrained model in small: facts that hold, and a
mixture of good and bad strategies. He is a module with

    PHASES      the phases of training, one after the other
    ROWS, LENGTH    rows of a training batch, and tokens of a row: many documents long, since one
                    that is cut at a row's end continues without its problem
    SIZE        the model's size, as settings of Qwen2Config
    SHARPENED   the final norm is scaled by it, as a lower temperature would: facts firm up,
                mixtures stay mixed
    write(rng, drills) -> Document    a new text
"""

from typing import NamedTuple


class Phase(NamedTuple):
    """A part of training, with optimizers and a schedule of its own."""

    updates: int  # of ROWS * LENGTH tokens
    rate: float  # learning rate of Muon
    drills: float  # share of drills among the texts


class Document(NamedTuple):
    """A problem and what a pupil writes about it."""

    problem: str
    text: str
    is_whole: bool  # the end token follows
