"""Trains the tiny base model of the embedded default from scratch.

    python -m data.make_tiny_base     # 30 minutes on 2 cores

A Qwen2 of 0.75 million parameters over characters. Its text is solved arithmetic
(data/arithmetic.py) as a careless pupil would write it, so that it behaves like a pretrained model
in small: facts that hold, and a mixture of good and bad strategies. At a trap it reduces the
leftmost operation first 65 % of the time, one line in three is restated for nothing, and one
operation in 200 slips. Only the split "base" is read, which shares no problem with the others.
"""

import argparse
import random
from collections.abc import Iterator
from pathlib import Path

import torch
from tqdm import trange
from transformers import (
    AddedToken,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2Tokenizer,
    get_cosine_schedule_with_warmup,
)

from data import arithmetic

LEFTMOST_FIRST = 0.65
RESTATED = 0.33
SLIPPED = 0.005
# (updates of 4,096 tokens, learning rate of Muon, share of drills): everything first, then facts
# until they are firm. A drill is short: nine in ten of the texts are half of the tokens.
PHASES = ((2800, 0.02, 0.5), (2200, 0.01, 0.6), (700, 0.01, 0.9), (350, 0.005, 0.9))
ROWS = 32
LENGTH = 128
# The final norm is scaled by it, as a lower temperature would: facts firm up, mixtures stay mixed.
SHARPENED = 1.6


def orthogonalise(
    gradient: torch.Tensor, coefficients: tuple, steps: int, eps: float
) -> torch.Tensor:
    """Muon's Newton-Schulz iteration in float32: torch's own works in bfloat16, which is slow on a
    CPU."""
    a, b, c = coefficients
    is_tall = gradient.size(0) > gradient.size(1)
    x = gradient.T if is_tall else gradient  # [short side, long side]
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.T  # [short side, short side]
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if is_tall else x


def make_tokenizer() -> Qwen2Tokenizer:
    """One token per printable character, one for `\\boxed{`, and an end and a padding token that
    differ."""
    # Byte-level names: a space and a line break are written "\u0120" and "\u010a" in such a
    # vocabulary.
    names = ["<end>", "<pad>", "<unk>", "\u010a", "\u0120", *map(chr, range(33, 127))]
    vocabulary = {name: i for i, name in enumerate(names)}
    special = {"eos_token": "<end>", "pad_token": "<pad>", "unk_token": "<unk>"}
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=[], model_max_length=512, **special)
    tokenizer.add_tokens([AddedToken("\\boxed{", normalized=False)])
    return tokenizer


# --- Texts ---


def write_solution(problem: str, rng: random.Random) -> str:
    """A completion as the pupil writes it: right, wrong or wordy."""
    lines = []
    line = problem
    while arithmetic.operators(line):
        leftmost = rng.random() < LEFTMOST_FIRST
        index = 0 if leftmost else arithmetic.correct_index(line)
        line = arithmetic.reduce_at(line, index)
        if rng.random() < SLIPPED:
            line = _slip(line, index, rng)
        lines.append(line)
        if rng.random() < RESTATED:
            lines.append(line)
    return "\n".join(lines) + f"\n\\boxed{{{line}}}"


def _slip(line: str, index: int, rng: random.Random) -> str:
    """The line with its `index`-th number, the new one, too high or too low by one, if that stays
    in the range."""
    tokens = arithmetic.TOKEN.findall(line)
    tokens[2 * index] = str(abs(int(tokens[2 * index]) + rng.choice((-1, 1))))
    slipped = "".join(tokens)
    return slipped if arithmetic.stays_in_range(slipped) else line


def write_drill(rng: random.Random) -> tuple[str, str]:
    """One operation on numbers of 0..99, mostly two-digit ones, which are the hardest to learn, and
    its result."""
    while True:
        operator = rng.choice("++--*")
        bounds = rng.choice(((9, 9), (9, 99), (99, 9), (99, 99), (99, 99), (99, 99)))
        if operator == "*":
            bounds = rng.choice(((9, 9), (9, 49), (49, 9)))
        a, b = (rng.randint(0, bound) for bound in bounds)
        value = arithmetic.OPERATORS[operator](a, b)
        if not 0 <= value <= arithmetic.LARGEST:
            continue
        problem = f"{a}{operator}{b}"
        # Half of the drills stop at the result, so that the loss is about facts more than about
        # endings.
        if rng.random() < 0.5:
            return problem, f"{value}\n\\boxed{{{value}}}"
        return problem, f"{value}\n"


def batches(tokenizer, drills: float, seed: int) -> Iterator[list[torch.Tensor]]:
    """Batches of freshly written text without end: tokens, positions and labels, each
    [ROWS, LENGTH]. `drills` is the share of drills among the texts.

    Documents stand one after another: nothing is padding. Positions start anew with each document,
    from which transformers builds the mask that keeps documents apart. Problems are random: only
    solutions teach."""
    rng = random.Random(seed)
    size = ROWS * LENGTH
    # Documents that are not yet in a batch, end to end.
    tokens, positions, labels = [], [], []
    while True:
        # Write documents until a batch is full; the last one continues in the next batch.
        while len(tokens) < size:
            if rng.random() < drills:
                problem, text = write_drill(rng)
            else:
                problem = arithmetic.sample_problem(rng, rng.randint(2, 7), "base")
                text = write_solution(problem, rng)
            # -100: no loss on the prompt.
            prompt = tokenizer.encode(arithmetic.prompt({"problem": problem}))
            completion = tokenizer.encode(text)
            if text.endswith("}"):
                completion.append(tokenizer.eos_token_id)
            tokens += prompt + completion
            positions += range(len(prompt) + len(completion))
            labels += [-100] * len(prompt) + completion
        columns = (tokens, positions, labels)
        yield [torch.tensor(column[:size]).view(ROWS, LENGTH) for column in columns]
        for column in columns:
            del column[:size]


# --- Training ---


def train(model, tokenizer, updates: int, rate: float, drills: float, seed: int) -> None:
    """Trains on `updates` batches of text."""
    # Muon learns the matrices from a third of the tokens that AdamW needs; AdamW learns the rest.
    torch.optim._muon._zeropower_via_newtonschulz = orthogonalise
    matrices = []
    others = []
    for name, parameter in model.named_parameters():
        is_matrix = parameter.dim() == 2 and "embed" not in name
        (matrices if is_matrix else others).append(parameter)
    optimizers = [
        torch.optim.Muon(matrices, lr=rate, weight_decay=0.01),
        torch.optim.AdamW(others, lr=0.15 * rate, betas=(0.9, 0.99), weight_decay=0.0),
    ]
    schedulers = [
        get_cosine_schedule_with_warmup(optimizer, 50, updates) for optimizer in optimizers
    ]

    bar = trange(updates, unit="update")
    # Each tensor is [ROWS, LENGTH].
    for _, (tokens, positions, labels) in zip(bar, batches(tokenizer, drills, seed)):
        loss = model(input_ids=tokens, position_ids=positions, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, scheduler in zip(optimizers, schedulers):
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
        bar.set_postfix(loss=f"{loss.item():.4f}", refresh=False)


def main() -> None:
    argparse.ArgumentParser(description="Trains the tiny base anew.").parse_args()
    output = Path(__file__).parent / "tiny_base"
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    # 0.75 million parameters.
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Qwen2ForCausalLM(config)
    # Each phase has optimizers and a schedule of its own.
    for number, (updates, rate, drills) in enumerate(PHASES):
        train(model, tokenizer, updates, rate, drills, seed=number)
    with torch.no_grad():
        model.model.norm.weight *= SHARPENED
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)
    print(f"saved {output}")


if __name__ == "__main__":
    main()
