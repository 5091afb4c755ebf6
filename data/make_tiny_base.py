"""Trains the tiny bases of the built-in tasks from scratch.

    python -m data.make_tiny_base              # all of them, side by side on the cores there are
    python -m data.make_tiny_base countdown    # one of them, on one core

Each is a small Qwen2 over characters. Its text is what a careless pupil writes (data/pupils/), so
that it behaves like a pretrained model in small: facts that hold, and a mixture of good and bad
strategies. A pupil never sees a problem that is in a split for training or testing.
"""

import argparse
import os
import random
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from multiprocessing import get_context
from types import ModuleType

import torch
from tqdm import trange
from transformers import (
    AddedToken,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2Tokenizer,
    get_cosine_schedule_with_warmup,
)

from data.pupils.common import Phase
from data.tiny_bases import PROMPT_TEMPLATE, TINY_BASES


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
    differ. It knows the template of its prompts."""
    # Byte-level names: a space and a line break are written "\u0120" and "\u010a" in such a
    # vocabulary.
    names = ["<end>", "<pad>", "<unk>", "\u010a", "\u0120", *map(chr, range(33, 127))]
    vocabulary = {name: i for i, name in enumerate(names)}
    special = {"eos_token": "<end>", "pad_token": "<pad>", "unk_token": "<unk>"}
    tokenizer = Qwen2Tokenizer(
        vocab=vocabulary,
        merges=[],
        model_max_length=512,
        prompt_template=PROMPT_TEMPLATE,
        **special,
    )
    tokenizer.add_tokens([AddedToken("\\boxed{", normalized=False)])
    return tokenizer


def make_model(pupil: ModuleType, tokenizer) -> Qwen2ForCausalLM:
    """A model of the pupil's size with random weights."""
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        max_position_embeddings=512,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **pupil.SIZE,
    )
    return Qwen2ForCausalLM(config)


def batches(tokenizer, pupil: ModuleType, drills: float, seed: int) -> Iterator[list[torch.Tensor]]:
    """Batches of freshly written text without end: tokens, positions and labels, each
    [ROWS, LENGTH] of the pupil. `drills` is the share of drills among the texts.

    Documents stand one after another: nothing is padding. Positions start anew with each document,
    from which transformers builds the mask that keeps documents apart. Problems are random: only
    solutions teach."""
    rng = random.Random(seed)
    size = pupil.ROWS * pupil.LENGTH
    # Documents that are not yet in a batch, end to end.
    tokens, positions, labels = [], [], []
    while True:
        # Write documents until a batch is full; the last one continues in the next batch.
        while len(tokens) < size:
            document = pupil.write(rng, drills)
            prompt = tokenizer.encode(PROMPT_TEMPLATE.replace("{problem}", document.problem))
            completion = tokenizer.encode(document.text)
            if document.is_whole:
                completion.append(tokenizer.eos_token_id)
            tokens += prompt + completion
            positions += range(len(prompt) + len(completion))
            # -100: no loss on the prompt.
            labels += [-100] * len(prompt) + completion
        columns = (tokens, positions, labels)
        yield [torch.tensor(column[:size]).view(pupil.ROWS, pupil.LENGTH) for column in columns]
        for column in columns:
            del column[:size]


# --- Training ---


def train(model, tokenizer, pupil: ModuleType, phase: Phase, seed: int) -> None:
    """Trains on freshly written text, as the phase says."""
    # Muon learns the matrices from a third of the tokens that AdamW needs; AdamW learns the rest.
    torch.optim._muon._zeropower_via_newtonschulz = orthogonalise
    matrices = []
    others = []
    for name, parameter in model.named_parameters():
        is_matrix = parameter.dim() == 2 and "embed" not in name
        (matrices if is_matrix else others).append(parameter)
    optimizers = [
        torch.optim.Muon(matrices, lr=phase.rate, weight_decay=0.01),
        torch.optim.AdamW(others, lr=0.15 * phase.rate, betas=(0.9, 0.99), weight_decay=0.0),
    ]
    schedulers = [
        get_cosine_schedule_with_warmup(optimizer, 50, phase.updates) for optimizer in optimizers
    ]

    bar = trange(phase.updates, unit="update", desc=pupil.__name__.rpartition(".")[2])
    # Each tensor is [ROWS, LENGTH].
    for _, batch in zip(bar, batches(tokenizer, pupil, phase.drills, seed)):
        loss = loss_of(model, *batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, scheduler in zip(optimizers, schedulers):
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
        bar.set_postfix(loss=f"{loss.item():.4f}", refresh=False)


def loss_of(
    model, tokens: torch.Tensor, positions: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """The mean loss, [], of a batch of `batches`, each of whose documents sees itself alone."""
    # transformers keeps the documents apart only where it fills no cache.
    return model(input_ids=tokens, position_ids=positions, labels=labels, use_cache=False).loss


def make_base(name: str) -> None:
    """Trains the base of one task and writes it to its folder."""
    # One thread, so that bases side by side don't fight, and so that a base does not depend on how
    # many cores there are.
    torch.set_num_threads(1)
    torch.manual_seed(0)
    # Of reasoning_gym:NAME, the pupil is NAME.
    pupil = import_module(f"data.pupils.{name.rpartition(':')[2]}")
    tokenizer = make_tokenizer()
    model = make_model(pupil, tokenizer)
    # Each phase has optimizers and a schedule of its own.
    for number, phase in enumerate(pupil.PHASES):
        train(model, tokenizer, pupil, phase, seed=number)
    with torch.no_grad():
        model.model.norm.weight *= pupil.SHARPENED
    model.save_pretrained(TINY_BASES[name])
    tokenizer.save_pretrained(TINY_BASES[name])
    print(f"saved {TINY_BASES[name]}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Trains the tiny bases anew.")
    known = ", ".join(TINY_BASES)
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=f"of {known}; left out: all")
    names = parser.parse_args().tasks or list(TINY_BASES)
    for name in names:
        if name not in TINY_BASES:
            parser.error(f"{name}: no such task; there are {known}")
    # Fresh processes: torch's threads don't survive a fork.
    processes = min(len(names), os.cpu_count() or 1)
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        list(pool.map(make_base, names))


if __name__ == "__main__":
    main()
