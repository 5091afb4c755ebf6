"""Loads a model and its tokenizer, with one line that names what is damaged or missing."""

import json
import logging
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from run.errors import BadInput

logger = logging.getLogger(__name__)

# The files of a model's or an adapter's folder that are looked at before they are loaded.
MODEL_FILES = (
    "*config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "chat_template.*",
    "model*.safetensors",
    "adapter_model.*",
    "*.safetensors.index.json",
)
SHOWN_NAMES = 3  # most names of tensors or files in one message
SHOWN_CHARACTERS = 400  # most characters of a library's error


def load_model(flags, dtype: torch.dtype):
    """The tokenizer and the causal LM of --model_name_or_path; weights from safetensors only.

    Raises:
        BadInput: missing or damaged files, weights that are missing or of other shapes, not a
            causal LM, or a tokenizer with no end token.
    """
    where = f"--model_name_or_path {flags.model_name_or_path}"
    _check_folder(where, flags.model_name_or_path)
    tokenizer, model, loading = _load(where, flags, dtype)
    _check_weights(where, loading)
    _check_end_token(where, tokenizer, model.config.get_text_config().vocab_size)
    return tokenizer, model


def _check_folder(where: str, name: str) -> None:
    """Raises BadInput for a folder that isn't there, holds no model, or holds a damaged file."""
    folder = Path(name)
    looks_like_path = name.startswith((".", "/", "~")) or name.count("/") > 1
    if looks_like_path and not folder.is_dir():
        raise BadInput(f"{where}: no such folder")
    has_adapter = (folder / "adapter_config.json").exists()
    if has_adapter and not (folder / "config.json").exists():
        advice = "give its base model here, and to eval_math.py this as --adapter"
        raise BadInput(f"{where}: holds an adapter; {advice}")
    if damage := damaged_file(folder):
        raise BadInput(f"{where}: {damage}")


def _load(where: str, flags, dtype: torch.dtype):
    """The tokenizer, the model and what transformers says of loading it."""
    name = flags.model_name_or_path
    trust = flags.trust_remote_code
    part = "config"
    try:
        AutoConfig.from_pretrained(name, trust_remote_code=trust)
        part = "tokenizer"
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=trust)
        # Without files a class makes a tokenizer of special tokens alone.
        known_ids = set(tokenizer.encode("1 + 2 = 3")) - set(tokenizer.all_special_ids)
        if not known_ids:
            advice = "copy tokenizer.json and tokenizer_config.json of its base there"
            raise ValueError(f"it knows no text; {advice}")
        part = "weights"
        model, loading = AutoModelForCausalLM.from_pretrained(
            name,
            dtype=dtype,
            trust_remote_code=trust,
            attn_implementation=flags.attn_implementation,
            use_safetensors=True,
            # A tensor of another shape is then reported with the missing ones.
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever the libraries make of files and settings
        reason = f"{part}: {one_line(error)}"
        raise BadInput(f"{where}: can't be loaded as a causal LM ({reason})") from error
    return tokenizer, model, loading


def _check_weights(where: str, loading: dict) -> None:
    """Raises BadInput for tensors that the weights lack, which transformers would draw at random.

    Tensors that the model has no use for are named in a warning.
    """
    for name, shape, wanted_shape in sorted(loading["mismatched_keys"]):
        shapes = f"{list(shape)} in its weights and {list(wanted_shape)} by its config.json"
        raise BadInput(f"{where}: {name} is {shapes}; weights and config don't belong together")
    missing = sorted(loading["missing_keys"])
    unused = sorted(loading["unexpected_keys"])
    if missing:
        instead = f"; they hold {unused[0]} instead" if unused else ""
        raise BadInput(f"{where}: its weights lack {_first_names(missing)}{instead}")
    if unused:
        logger.warning(
            "%s: the model has no place for these of its weights: %s", where, _first_names(unused)
        )


def _check_end_token(where: str, tokenizer, vocabulary_size: int) -> None:
    """Raises BadInput for a tokenizer whose texts never end, or end in a token the model lacks."""
    if tokenizer.eos_token_id is None:
        raise BadInput(f"{where}: its tokenizer has no end token (eos_token)")
    if tokenizer.eos_token_id >= vocabulary_size:  # it may be a default of the tokenizer's class
        end = f"the end token {tokenizer.eos_token} ({tokenizer.eos_token_id}) of its tokenizer"
        advice = "is tokenizer_config.json missing, or of another model?"
        raise BadInput(
            f"{where}: {end} is not one of the model's {vocabulary_size} tokens; {advice}"
        )


def one_line(error: Exception) -> str:
    """What an error says as one line: the first of a library's lines is often a mere heading."""
    text = " ".join(str(error).split())
    # A list of some hundred names follows.
    text = text.split(" Model type should be one of")[0]
    return text[:SHOWN_CHARACTERS] or type(error).__name__


def damaged_file(folder: Path) -> str | None:
    """What is wrong with the first damaged file of a model's or an adapter's folder; else None.

    The text names the file. A library's own error for it seldom does, and a damaged
    generation_config.json is passed over.
    """
    if not folder.is_dir():
        return None
    paths = {path for pattern in MODEL_FILES for path in folder.glob(pattern) if path.is_file()}
    for path in sorted(paths):
        try:
            damage = _damage(path)
        except Exception as error:  # OSError, or whatever json and safetensors make of it
            damage = f"{path.name} is damaged ({one_line(error)}); copy or download it again"
        if damage:
            return damage
    return None


def _damage(path: Path) -> str | None:
    """What is wrong with a file that can be read; None where it is whole.

    Raises:
        Exception: whatever reading it raises.
    """
    with path.open("rb") as file:
        start = file.read(100)
    if start.startswith(b"version https://git-lfs"):
        advice = "fetch it with: git lfs pull"
        return f"{path.name} is a Git LFS pointer and not the file itself; {advice}"
    if not start.strip():
        raise ValueError("it is empty")
    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt"):
            return None
    if path.suffix != ".json":
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError("it must hold a JSON object")
    if not path.name.endswith(".index.json"):
        return None
    parts = set(content["weight_map"].values())
    absent = sorted(part for part in parts if not (path.parent / part).exists())
    if absent:
        return f"{_first_names(absent)} missing, of the {len(parts)} files that {path.name} names"
    return None


def _first_names(names: list[str]) -> str:
    """The first names, and how many more there are."""
    shown = ", ".join(names[:SHOWN_NAMES])
    more = len(names) - SHOWN_NAMES
    return shown + (f" and {more} more" if more > 0 else "")
