"""Trains the tiny base model of the embedded default from scratch: python data/make_tiny_base.py  (25 min on 2 cores)

A Qwen2 of 0.75 million parameters over characters. Its text is solved arithmetic (data/arithmetic.py) as a careless
pupil would write it, so that it behaves like a pretrained model in small: facts that hold, and a mixture of good and
bad strategies. At a trap it reduces the leftmost operation first 65 % of the time, one line in five is restated for
nothing, and one operation in 200 slips. Only the split "base" is read, which shares no problem with the others.
"""

import argparse
import random
import sys
import time
from pathlib import Path

import torch
from transformers import AddedToken, Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer, get_cosine_schedule_with_warmup

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from data import arithmetic

LEFTMOST_FIRST, RESTATED, SLIPPED, DRILLED = 0.65, 0.2, 0.005, 0.3


def make_tokenizer() -> Qwen2Tokenizer:
    """One token a printable character, one for `\\boxed{`, and an end and a padding token that differ."""
    # Byte-level names: a space and a line break are written "\u0120" and "\u010a" in such a vocabulary.
    names = ["<end>", "<pad>", "<unk>", "\u010a", "\u0120", *map(chr, range(33, 127))]
    tokenizer = Qwen2Tokenizer(
        vocab={name: i for i, name in enumerate(names)},
        merges=[],
        eos_token="<end>",
        pad_token="<pad>",
        unk_token="<unk>",
        model_max_length=512,
    )
    tokenizer.add_tokens([AddedToken("\\boxed{", normalized=False)])
    return tokenizer


def write_solution(problem: str, rng: random.Random) -> str:
    """A completion as the pupil writes it: right, wrong or wordy."""
    lines, line = [], problem
    while arithmetic.operators(line):
        index = 0 if rng.random() < LEFTMOST_FIRST else arithmetic.correct_index(line)
        line = arithmetic.reduce_at(line, index)
        if rng.random() < SLIPPED:  # the new number, the `index`-th of the line, comes out one too high or too low
            numbers = arithmetic.TOKEN.findall(line)
            numbers[2 * index] = str(abs(int(numbers[2 * index]) + rng.choice((-1, 1))))
            slipped = "".join(numbers)
            line = slipped if arithmetic.stays_in_range(slipped) else line
        lines += [line] * (1 + (rng.random() < RESTATED))
    return "\n".join(lines) + f"\n\\boxed{{{line}}}"


def write_text(rng: random.Random) -> str:
    """One document: a single operation on numbers of 0..99 (a drill of the facts), or a problem with its solution."""
    while rng.random() < DRILLED:
        a, b, operator = rng.randint(0, arithmetic.LARGEST), rng.randint(0, arithmetic.LARGEST), rng.choice("+-*")
        if operator == "*":
            a, b = rng.choice(((rng.randint(0, 9), rng.randint(0, 49)), (rng.randint(0, 49), rng.randint(0, 9))))
        if 0 <= arithmetic.OPERATORS[operator](a, b) <= arithmetic.LARGEST:
            problem = f"{a}{operator}{b}"
            break
    else:
        problem = arithmetic.sample_problem(rng, rng.randint(2, 7), "base")
    return arithmetic.PROMPT_TEMPLATE.format(problem=problem) + write_solution(problem, rng)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", default=Path(__file__).parent / "tiny_base", type=Path)
    parser.add_argument("--updates", default=5500, type=int, help="of 4,096 tokens each")
    parser.add_argument("--learning_rate", default=2e-3, type=float)
    parser.add_argument("--seed", default=0, type=int)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)
    tokenizer = make_tokenizer()
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Qwen2ForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.learning_rate, betas=(0.9, 0.99), weight_decay=0.1)
    scheduler = get_cosine_schedule_with_warmup(optimizer, 200, args.updates)
    rows, length = 32, 128
    tokens: list[int] = []
    positions: list[int] = []
    start = time.time()
    for update in range(1, args.updates + 1):
        # Documents one after another in [rows, length]: nothing is padding. Positions start anew with each document,
        # from which transformers builds the mask that keeps documents apart.
        while len(tokens) < rows * length:
            ids = tokenizer.encode(write_text(rng)) + [tokenizer.eos_token_id]
            tokens += ids
            positions += range(len(ids))
        input_ids = torch.tensor(tokens[: rows * length]).view(rows, length)
        position_ids = torch.tensor(positions[: rows * length]).view(rows, length)
        del tokens[: rows * length], positions[: rows * length]
        labels = input_ids.masked_fill(position_ids == 0, -100)  # a document's first token follows from nothing
        loss = model(input_ids=input_ids, position_ids=position_ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        if update % 100 == 0 or update == args.updates:
            seconds = time.time() - start
            left = seconds / update * (args.updates - update)
            print(f"update {update}/{args.updates}  loss {loss.item():.4f}  {seconds:.0f} s, {left:.0f} s left")
    model.save_pretrained(args.output_dir)
    tokenizer.save_pretrained(args.output_dir)
    print(f"saved {args.output_dir}")


if __name__ == "__main__":
    main()
