"""Loads a model and its tokenizer, with a line that names what is damaged or missing."""

import json
import logging
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from run.errors import BadInput

logger = logging.getLogger(__name__)


def load_model(flags, dtype: torch.dtype):
    """The tokenizer and the causal LM of --model_name_or_path; weights from safetensors only.

    Raises:
        BadInput: missing or damaged files, weights that are missing or of other shapes, not a
            causal LM, or a tokenizer with no end token.
    """
    name, trust = flags.model_name_or_path, flags.trust_remote_code
    folder, where = Path(name), f"--model_name_or_path {flags.model_name_or_path}"
    if not folder.is_dir() and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise BadInput(f"{where}: no such folder")
    if (folder / "adapter_config.json").exists() and not (folder / "config.json").exists():
        raise BadInput(
            f"{where}: holds an adapter; give its base model here, and to eval_math.py this as --adapter"
        )
    if damage := damaged_file(folder):
        raise BadInput(f"{where}: {damage}")
    # A tensor of another shape is reported with the missing ones.
    settings = {
        "attn_implementation": flags.attn_implementation,
        "use_safetensors": True,
        "ignore_mismatched_sizes": True,
        "output_loading_info": True,
    }
    part = "config"
    try:
        AutoConfig.from_pretrained(name, trust_remote_code=trust)
        part = "tokenizer"
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=trust)
        if not {*tokenizer.encode("1 + 2 = 3")} - {
            *tokenizer.all_special_ids
        }:  # made without files, and not a word
            raise ValueError(
                "it knows no text; copy tokenizer.json and tokenizer_config.json of its base there"
            )
        part = "weights"
        model, loaded = AutoModelForCausalLM.from_pretrained(
            name, dtype=dtype, trust_remote_code=trust, **settings
        )
    except torch.OutOfMemoryError:
        raise
    except (
        Exception
    ) as error:  # whatever transformers, safetensors and tokenizers make of files and settings
        raise BadInput(
            f"{where}: can't be loaded as a causal LM ({part}: {one_line(error)})"
        ) from error
    _check_weights(where, loaded)
    if tokenizer.eos_token_id is None:
        raise BadInput(f"{where}: its tokenizer has no end token (eos_token)")
    if tokenizer.eos_token_id >= (
        size := model.config.get_text_config().vocab_size
    ):  # or a default of its class
        end = f"{tokenizer.eos_token} ({tokenizer.eos_token_id})"
        raise BadInput(
            f"{where}: the end token {end} of its tokenizer is not one of the model's {size} tokens; "
            "is tokenizer_config.json missing, or of another model?"
        )
    return tokenizer, model


def one_line(error: Exception) -> str:
    """What an error says as one line: the first line of a library's error is often a mere
    heading."""
    text = " ".join(str(error).split()).split(" Model type should be one of")[
        0
    ]  # a list of some hundred names
    return text[:400] or type(error).__name__


def damaged_file(folder: Path) -> str | None:
    """What is wrong with the first damaged file of a model's or an adapter's folder, and which it
    is; else None.

    A library's own error for such a file seldom names it, and a damaged generation_config.json is
    passed over."""
    if not folder.is_dir():
        return None
    names = (
        "*config.json",
        "tokenizer*",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.*",
        "merges.txt",
    )
    names += (
        "chat_template.*",
        "model*.safetensors",
        "adapter_model.*",
        "*.safetensors.index.json",
    )
    for path in sorted({path for name in names for path in folder.glob(name) if path.is_file()}):
        try:
            with path.open("rb") as file:
                start = file.read(100)
            if start.startswith(b"version https://git-lfs"):
                return f"{path.name} is a Git LFS pointer and not the file itself; fetch it with: git lfs pull"
            if not start.strip():
                raise ValueError("it is empty")
            content = json.loads(path.read_text(encoding="utf-8")) if path.suffix == ".json" else {}
            if not isinstance(content, dict):
                raise ValueError("it must hold a JSON object")
            if path.suffix == ".safetensors":
                with safe_open(path, framework="pt"):
                    pass
            shards = (
                set(content["weight_map"].values()) if path.name.endswith(".index.json") else set()
            )
        except Exception as error:  # OSError, or whatever json and safetensors make of it
            return f"{path.name} is damaged ({one_line(error)}); copy or download it again"
        if absent := sorted(shard for shard in shards if not (folder / shard).exists()):
            return f"{_some(absent)} missing, of the {len(shards)} files that {path.name} names"
    return None


def _check_weights(where: str, loaded: dict) -> None:
    """Raises BadInput for tensors that the weights lack, which transformers would draw at random;
    names unused ones."""
    missing, unused = sorted(loaded["missing_keys"]), sorted(loaded["unexpected_keys"])
    for name, found, wanted in sorted(loaded["mismatched_keys"]):
        shapes = f"{list(found)} in its weights and {list(wanted)} by its config.json"
        raise BadInput(f"{where}: {name} is {shapes}; weights and config don't belong together")
    if missing:
        others = f"; they hold {unused[0]} instead" if unused else ""
        raise BadInput(f"{where}: its weights lack {_some(missing)}{others}")
    if unused:
        logger.warning(
            "%s: the model has no place for these of its weights: %s", where, _some(unused)
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
