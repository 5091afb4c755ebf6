"""Trains the tiny base model of the embedded default from scratch: python data/make_tiny_base.py  (30 min on 2 cores)

A Qwen2 of 0.75 million parameters over characters. Its text is solved arithmetic
(data/arithmetic.py) as a careless pupil would write it, so that it behaves like a pretrained model
in small: facts that hold, and a mixture of good and bad strategies. At a trap it reduces the
leftmost operation first 65 % of the time, one line in three is restated for nothing, and one
operation in 200 slips. Only the split "base" is read, which shares no problem with the others."""

import random
import sys
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

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from data import arithmetic

LEFTMOST_FIRST, RESTATED, SLIPPED = 0.65, 0.33, 0.005
# (updates of 4,096 tokens, learning rate of Muon, share of drills): everything first, then facts
# until they are firm. A drill is short: nine in ten of the texts are half of the tokens.
PHASES = ((2800, 0.02, 0.5), (2200, 0.01, 0.6), (700, 0.01, 0.9), (350, 0.005, 0.9))
SHARPENED = 1.6  # the final norm is scaled by it, as a lower temperature would: facts firm up, mixtures stay mixed


def orthogonalise(
    gradient: torch.Tensor, coefficients: tuple, steps: int, eps: float
) -> torch.Tensor:
    """Muon's Newton-Schulz iteration in float32: torch's own works in bfloat16, which is slow on a
    CPU."""
    a, b, c = coefficients
    x = gradient.T if gradient.size(0) > gradient.size(1) else gradient
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if gradient.size(0) > gradient.size(1) else x


def make_tokenizer() -> Qwen2Tokenizer:
    """One token a printable character, one for `\\boxed{`, and an end and a padding token that
    differ."""
    # Byte-level names: a space and a line break are written "\u0120" and "\u010a" in such a
    # vocabulary.
    names = ["<end>", "<pad>", "<unk>", "\u010a", "\u0120", *map(chr, range(33, 127))]
    vocabulary = {name: i for i, name in enumerate(names)}
    special = {"eos_token": "<end>", "pad_token": "<pad>", "unk_token": "<unk>"}
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=[], model_max_length=512, **special)
    tokenizer.add_tokens([AddedToken("\\boxed{", normalized=False)])
    return tokenizer


def write_solution(problem: str, rng: random.Random) -> str:
    """A completion as the pupil writes it: right, wrong or wordy."""
    lines, line = [], problem
    while arithmetic.operators(line):
        index = 0 if rng.random() < LEFTMOST_FIRST else arithmetic.correct_index(line)
        line = arithmetic.reduce_at(line, index)
        if (
            rng.random() < SLIPPED
        ):  # the new number, the `index`-th of the line, comes out one too high or too low
            numbers = arithmetic.TOKEN.findall(line)
            numbers[2 * index] = str(abs(int(numbers[2 * index]) + rng.choice((-1, 1))))
            slipped = "".join(numbers)
            line = slipped if arithmetic.stays_in_range(slipped) else line
        lines += [line] * (1 + (rng.random() < RESTATED))
    return "\n".join(lines) + f"\n\\boxed{{{line}}}"


def write_drill(rng: random.Random) -> tuple[str, str]:
    """One operation on numbers of 0..99, mostly two-digit ones, which are the hardest to learn, and
    its result."""
    while True:
        operator = rng.choice("++--*")
        bounds = rng.choice(((9, 9), (9, 99), (99, 9), (99, 99), (99, 99), (99, 99)))
        if operator == "*":
            bounds = rng.choice(((9, 9), (9, 49), (49, 9)))
        a, b = (rng.randint(0, bound) for bound in bounds)
        if 0 <= (value := arithmetic.OPERATORS[operator](a, b)) <= arithmetic.LARGEST:
            # Half of the drills stop at the result, so that the loss is about facts more than about
            # endings.
            return (
                f"{a}{operator}{b}",
                f"{value}\n\\boxed{{{value}}}" if rng.random() < 0.5 else f"{value}\n",
            )


def train(model, tokenizer, updates: int, rate: float, drills: float, seed: int) -> None:
    """Trains on freshly written text, [rows, length] tokens an update."""
    rng, rows, length = random.Random(seed), 32, 128
    # Muon learns the matrices from a third of the tokens that AdamW needs; AdamW learns the rest.
    torch.optim._muon._zeropower_via_newtonschulz = orthogonalise
    matrices = [p for name, p in model.named_parameters() if p.dim() == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.dim() != 2 or "embed" in name]
    optimizers = [
        torch.optim.Muon(matrices, lr=rate, weight_decay=0.01),
        torch.optim.AdamW(others, lr=0.15 * rate, betas=(0.9, 0.99), weight_decay=0.0),
    ]
    schedulers = [
        get_cosine_schedule_with_warmup(optimizer, 50, updates) for optimizer in optimizers
    ]
    tokens, positions, labels = [], [], []
    for _ in (bar := trange(updates, unit="update")):
        # Documents one after another: nothing is padding. Positions start anew with each document,
        # from which transformers builds the mask that keeps documents apart. Problems are random:
        # only solutions teach.
        while len(tokens) < rows * length:
            if rng.random() < drills:
                problem, text = write_drill(rng)
            else:
                problem = arithmetic.sample_problem(rng, rng.randint(2, 7), "base")
                text = write_solution(problem, rng)
            prompt = tokenizer.encode(arithmetic.PROMPT_TEMPLATE.replace("{problem}", problem))
            completion = tokenizer.encode(text)
            if text[-1] == "}":
                completion.append(tokenizer.eos_token_id)
            tokens += prompt + completion
            positions += range(len(prompt) + len(completion))
            labels += [-100] * len(prompt) + completion
        batch = [
            torch.tensor(part[: rows * length]).view(rows, length)
            for part in (tokens, positions, labels)
        ]
        for part in (tokens, positions, labels):
            del part[: rows * length]
        loss = model(input_ids=batch[0], position_ids=batch[1], labels=batch[2]).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, scheduler in zip(optimizers, schedulers):
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
        bar.set_postfix(loss=f"{loss.item():.4f}", refresh=False)


def main() -> None:
    output = Path(__file__).parent / "tiny_base"
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
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
    for number, phase in enumerate(PHASES):
        train(model, tokenizer, *phase, seed=number)
    with torch.no_grad():
        model.model.norm.weight *= SHARPENED
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)
    print(f"saved {output}")


if __name__ == "__main__":
    main()
