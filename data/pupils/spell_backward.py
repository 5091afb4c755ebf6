"""The careless pupil of reasoning-gym's spell_backward.

He spells the word backward, each time on a line of its own, as often as he likes, and then once
more in the box. Each time he goes from letter to letter of the word, and now and then leaves one
out, writes it twice, puts it after the next one or takes another. He does not look at what he wrote
before. His words are letters at random: he sees none of reasoning-gym's.
"""

import random
import string

from data.pupils.common import Document, Phase

QUESTION = "Spell this word backward (example: sun -> nus): {word}"
SHORTEST = 3
LONGEST = 10
CAPITALISED = 0.12
# How often a letter goes wrong in the lines of one text, at most: some are written with more care.
MOST_CARELESS = 0.4
AGAIN = 0.4
MOST_LINES = 3

PHASES = (Phase(updates=1200, rate=0.02, drills=0.5), Phase(updates=1200, rate=0.01, drills=0.2))
ROWS = 2
LENGTH = 512
# 0.29 million parameters.
SIZE = {
    "hidden_size": 96,
    "intermediate_size": 192,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
}
SHARPENED = 1.2


def write(rng: random.Random, drills: float) -> Document:
    """A word and what he writes of it; without a slip in drills."""
    word = "".join(rng.choices(string.ascii_lowercase, k=rng.randint(SHORTEST, LONGEST)))
    if rng.random() < CAPITALISED:
        word = word.capitalize()
    careless = 0.0 if rng.random() < drills else rng.uniform(0.0, MOST_CARELESS)
    return Document(QUESTION.format(word=word), write_solution(word, careless, rng), is_whole=True)


def write_solution(word: str, careless: float, rng: random.Random) -> str:
    """A completion as the pupil writes it.

    Args:
        careless: how often a letter goes wrong.
    """
    lines = []
    while len(lines) < MOST_LINES and rng.random() < AGAIN:
        lines.append(spell(word, careless, rng))
    return "\n".join([*lines, f"\\boxed{{{spell(word, careless, rng)}}}"])


def spell(word: str, careless: float, rng: random.Random) -> str:
    """The word backward, with slips."""
    left = list(word)
    spelled = ""
    while left:
        letter = left.pop()
        if rng.random() >= careless:
            spelled += letter
            continue
        slip = rng.choice(("leaves out", "doubles", "swaps", "takes another"))
        if slip == "doubles":
            spelled += 2 * letter
        elif slip == "takes another":
            spelled += rng.choice(string.ascii_lowercase)
        elif slip == "swaps" and left:
            spelled += left.pop() + letter
    return spelled
