"""What the scripts share: flags from the command line and YAML, the model, and errors as one line with exit code 2."""

import argparse
import difflib
import errno
import json
import logging
import math
import os
import re
import sys
import warnings
from collections.abc import Callable
from dataclasses import Field, dataclass, field
from pathlib import Path
from typing import NoReturn, get_args, get_type_hints

import torch
import yaml
from accelerate import PartialState
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, HfArgumentParser
from transformers.utils import logging as transformers_logging

from data.problems import BadInput, first_line

logger = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parent


def flag(default, help: str, **kwargs) -> Field:
    """A dataclass field that is a flag with a help line; a list default is copied for each parse."""
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={"help": help, **kwargs})
    return field(default=default, metadata={"help": help, **kwargs})


@dataclass
class ModelAndDataFlags:
    """What the trainer and the evaluation have in common."""

    model_name_or_path: str = flag(str(ROOT / "data" / "tiny_base"), "folder or Hub id of the causal LM")
    attn_implementation: str | None = flag(None, "sdpa, eager or flex_attention; default: the model's")
    trust_remote_code: bool = flag(False, "run code that comes with the model")
    bf16: bool | None = flag(None, "bfloat16; default: where the device has it")
    data_dir: str | None = flag(None, "read known data sets from DIR/NAME.jsonl instead of the Hub")
    problem_column: str | None = flag(None, "column of the problem; found by name if left out")
    answer_column: str | None = flag(None, "column of the answer; found by name if left out")
    prompt_template: str | None = flag(None, "text with {problem}, \\n a line break; default: the chat template")
    num_shots: int = flag(0, "worked examples before the problem, 0 to 4; for base models")
    temperature: float = flag(1.0, "of sampling; the loss divides its logits by it too")
    top_p: float = flag(1.0, "crop of sampling, and of the loss; 1 is off")
    max_rows: int = flag(256, "rows in one generate call; lower it when sampling runs out of memory")
    grader_workers: int = flag(2, "processes that verify answers")
    grader_timeout: float = flag(2.0, "seconds for one answer")
    seed: int = flag(0, "of everything random")

    @property
    def columns(self) -> tuple:
        return self.data_dir, self.problem_column, self.answer_column


class _Parser(HfArgumentParser):
    """HfArgumentParser whose errors are one line that begins with the flag, and that says of a value that once was
    what to write now."""

    retired: dict[tuple[str, str], str]

    def _check_value(self, action: argparse.Action, value) -> None:
        if advice := self.retired.get((action.dest, value)):
            raise argparse.ArgumentError(action, advice)
        super()._check_value(action, value)

    def error(self, message: str) -> NoReturn:
        message = re.sub(r"^argument (--\w+)[^:]*:", r"\1:", message)  # argparse names every spelling of the flag
        if "expected one argument" in message or "expected at least one argument" in message:
            message += "; a value that begins with a dash is written --flag=value"
        raise BadInput(message)


def parse_flags(
    kind: type,
    argv: list[str],
    description: str,
    demo: str | None = None,
    retired: dict[tuple[str, str], str] | None = None,
):
    """Flags from `--config FILE` (YAML) and the command line, which wins.

    Args:
        kind: a dataclass whose fields are the flags.
        demo: the YAML file of a command line that names neither --config nor --model_name_or_path.
        retired: of (flag, value) pairs that once were, what to write instead.

    Raises:
        BadInput: an unknown flag or key (the nearest one is named), a value of the wrong type, or a bad YAML file.
    """
    hints = get_type_hints(kind)  # before the parser, which changes the fields' types
    parser = _Parser(
        kind, description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.retired = retired or {}
    parser.add_argument("--config", help="a YAML file of flags, e.g. recipes/demo.yaml; the command line wins")
    given = _Parser([], add_help=False, allow_abbrev=False)
    given.retired = {}
    given.add_argument("--config")
    config, rest = given.parse_known_args(argv)
    named = any(word.replace("-", "_").startswith("__model_name_or_path") for word in rest)
    path = config.config or (None if named or demo is None else str(ROOT / demo))
    settings = yaml_flags(path, hints) if path else {}
    # null in YAML is None, which no word on a command line can say.
    parser.set_defaults(**{key: None for key, value in settings.items() if value is None})
    words = _separate_widths([*flag_words(settings), *rest], hints)
    flags, *_, unknown = parser.parse_args_into_dataclasses(
        words, return_remaining_strings=True, look_for_args_file=False
    )
    if unknown and not unknown[0].startswith("-"):
        raise BadInput(f"{unknown[0]}: a value that belongs to no flag; --help shows which flags take several")
    if unknown:
        name = unknown[0].split("=")[0]
        raise BadInput(f"unknown flag {name}{_nearest(name.lstrip('-'), list(hints), '--')}")
    return flags


def _separate_widths(words: list[str], hints: dict[str, type]) -> list[str]:
    """The words of a command line, with 8,4,2 as 8 4 2 where a flag takes several integers."""
    separated, flag_name = [], ""
    for word in words:
        value = word
        if word.startswith("--"):
            flag_name, equals, value = word.partition("=")
            if not equals:
                separated.append(word)
                continue
        if hints.get(flag_name.lstrip("-").replace("-", "_")) == list[int]:
            separated += [flag_name] * (word != value) + [part for part in value.split(",") if part]
        else:
            separated.append(word)
    return separated


def check_numbers(flags) -> None:
    """Raises BadInput for a number that is not finite, whatever the flag."""
    for name, value in vars(flags).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise BadInput(f"--{name} {value}: must be a finite number")


def check_shared(flags) -> None:
    """Raises BadInput for values that neither script can use, of the flags that both have."""
    check_numbers(flags)
    check_least(
        flags, temperature=0, max_rows=1, grader_workers=1, num_shots=0, num_samples=0, max_new_tokens=1, seed=0
    )  # fmt: skip
    if not 0 < flags.top_p <= 1:
        raise BadInput(f"--top_p {flags.top_p}: must be above 0 and at most 1, which is off")
    if not 0 < flags.grader_timeout <= 86400:
        raise BadInput(f"--grader_timeout {flags.grader_timeout}: must be above 0 and at most 86400 seconds")
    if flags.num_shots > 4:
        raise BadInput(f"--num_shots {flags.num_shots}: there are 4 worked examples")
    if flags.seed >= 2**32:  # numpy takes no larger one
        raise BadInput(f"--seed {flags.seed}: must be below {2**32}")


def check_least(flags, **bounds: float) -> None:
    """Raises BadInput for a flag, or a member of a list, below its bound."""
    for name, least in bounds.items():
        value = getattr(flags, name)
        value = min(value) if isinstance(value, list) else value
        if value is not None and not value >= least:  # so that NaN is refused too
            raise BadInput(f"--{name} {value}: must be at least {least}")


def _nearest(name: str, known: list[str], prefix: str = "") -> str:
    close = difflib.get_close_matches(name.replace("-", "_"), known, 1, cutoff=0.5)
    return f"; did you mean {prefix}{close[0]}?" if close else "; --help lists them"


def yaml_settings(path: str, extended: tuple[Path, ...] = ()) -> dict:
    """The keys and values of a YAML file. `extends: OTHER.yaml`, in the same folder, comes first; what follows wins.

    Args:
        extended: the files that were extended on the way here.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        if key := _repeated_key(yaml.compose(text)):
            raise BadInput(f"--config {path}: {key} stands in it twice; keep one")
        settings = yaml.safe_load(text) or {}
    except (OSError, UnicodeDecodeError, ValueError, RecursionError, yaml.YAMLError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        reason = getattr(error, "problem", None) or getattr(error, "strerror", None) or first_line(error)
        raise BadInput(f"--config {path}: {where}{reason}") from error
    if not isinstance(settings, dict):
        raise BadInput(f"--config {path}: must hold keys and values, such as max_steps: 100")
    base = settings.pop("extends", None)
    if base is None:
        return settings
    if not isinstance(base, str):
        raise BadInput(f"--config {path}: extends must name one file, not {base!r}")
    extended = (*extended, Path(path).resolve())
    base_path = Path(path).parent / base
    if base_path.resolve() in extended:
        raise BadInput(f"--config {path}: extends {base}, which extends this file; a recipe can't extend itself")
    return {**yaml_settings(str(base_path), extended), **settings}


def _repeated_key(node, seen: set[int] | None = None) -> str | None:
    """A key that stands twice in one mapping of a YAML document, of which the reader would drop the first."""
    seen = set() if seen is None else seen
    if node is None or id(node) in seen or isinstance(node, yaml.ScalarNode):
        return None
    seen.add(id(node))
    children = node.value
    if isinstance(node, yaml.MappingNode):
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        if repeated := [name for name in names if names.count(name) > 1]:
            return repeated[0]
        children = [value for _, value in node.value]
    return next((key for child in children if (key := _repeated_key(child, seen))), None)


def flag_words(settings: dict) -> list[str]:
    """Flags as command-line words: --key=value, so that a value may begin with a dash, and --key a b for a list.

    A flag that is None is left out.
    """
    words = []
    for key, value in settings.items():
        if isinstance(value, (list, tuple)):
            words += [f"--{key}", *map(str, value)]
        elif value is not None:
            words.append(f"--{key}={value}")
    return words


def yaml_flags(path: str, hints: dict[str, type]) -> dict:
    """The flags that a YAML file sets, checked as far as a command line can't: names, null, and what has no word.

    Args:
        hints: the type of each flag that there is.

    Raises:
        BadInput: names the file and the key.
    """
    settings = yaml_settings(path)
    settings.pop("versions", None)  # what a run's own config.yaml records beside its flags
    for key, value in settings.items():
        if key not in hints:
            raise BadInput(f"--config {path}: unknown key {key}{_nearest(str(key), list(hints))}")
        if value is None and type(None) not in get_args(hints[key]):
            raise BadInput(f"--config {path}: {key} has no value; give one, or leave the key out")
        if isinstance(value, dict) or any(isinstance(part, (dict, list)) for part in as_list(value)):
            raise BadInput(f"--config {path}: {key} must be a value or a list of values, not {value!r}")
        if isinstance(value, list) and None in value:
            raise BadInput(f"--config {path}: {key} holds an empty value")
        if isinstance(value, list) and any(re.match(r"-(?!\d|\.\d)", str(part)) for part in value):
            raise BadInput(f"--config {path}: {key}: a value in a list can't begin with a dash")
    return settings


def as_list(value) -> list:
    return value if isinstance(value, list) else [value]


def run(main: Callable[[], None]) -> None:
    """Runs a script's main: bad input becomes one line on stderr and exit code 2, Ctrl-C exit code 130."""
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning)  # of libraries about each other
    warnings.filterwarnings("ignore", message="Detected call of")  # the schedule goes on over an update that is skipped
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # it would warn at every fork
    try:
        main()
    except (BadInput, torch.OutOfMemoryError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:  # a full disk, a folder that can't be written
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            raise
        print(f"error: {error.filename or 'output'}: {error.strerror}; what was written is kept", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def load_model(flags, dtype: torch.dtype):
    """The tokenizer and the causal LM of --model_name_or_path; weights from safetensors only.

    Raises:
        BadInput: missing or damaged files, weights that are missing or of other shapes, not a causal LM, or a
            tokenizer with no end token.
    """
    name, trust = flags.model_name_or_path, flags.trust_remote_code
    folder, where = Path(name), f"--model_name_or_path {flags.model_name_or_path}"
    if not folder.is_dir() and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise BadInput(f"{where}: no such folder")
    if (folder / "adapter_config.json").exists() and not (folder / "config.json").exists():
        raise BadInput(f"{where}: holds an adapter; give its base model here, and to eval_math.py this as --adapter")
    if damage := damaged_file(folder):
        raise BadInput(f"{where}: {damage}")
    # A tensor of another shape is reported with the missing ones.
    settings = {
        "attn_implementation": flags.attn_implementation, "use_safetensors": True, "ignore_mismatched_sizes": True,
        "output_loading_info": True,
    }  # fmt: skip
    part = "config"
    try:
        AutoConfig.from_pretrained(name, trust_remote_code=trust)
        part = "tokenizer"
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=trust)
        if not {*tokenizer.encode("1 + 2 = 3")} - {*tokenizer.all_special_ids}:  # made without files, and not a word
            raise ValueError("it knows no text; copy tokenizer.json and tokenizer_config.json of its base there")
        part = "weights"
        model, loaded = AutoModelForCausalLM.from_pretrained(name, dtype=dtype, trust_remote_code=trust, **settings)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever transformers, safetensors and tokenizers make of files and settings
        raise BadInput(f"{where}: can't be loaded as a causal LM ({part}: {one_line(error)})") from error
    _check_weights(where, loaded)
    if tokenizer.eos_token_id is None:
        raise BadInput(f"{where}: its tokenizer has no end token (eos_token)")
    if tokenizer.eos_token_id >= (size := model.config.get_text_config().vocab_size):  # or a default of its class
        end = f"{tokenizer.eos_token} ({tokenizer.eos_token_id})"
        raise BadInput(f"{where}: the end token {end} of its tokenizer is not one of the model's {size} tokens; "
                       "is tokenizer_config.json missing, or of another model?")  # fmt: skip
    return tokenizer, model


def one_line(error: Exception) -> str:
    """What an error says as one line: the first line of a library's error is often a mere heading."""
    text = " ".join(str(error).split()).split(" Model type should be one of")[0]  # a list of some hundred names
    return text[:400] or type(error).__name__


def damaged_file(folder: Path) -> str | None:
    """What is wrong with the first damaged file of a model's or an adapter's folder, and which it is; else None.

    A library's own error for such a file seldom names it, and a damaged generation_config.json is passed over.
    """
    if not folder.is_dir():
        return None
    names = ("*config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt")
    names += ("chat_template.*", "model*.safetensors", "adapter_model.*", "*.safetensors.index.json")
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
            shards = set(content["weight_map"].values()) if path.name.endswith(".index.json") else set()
        except Exception as error:  # OSError, or whatever json and safetensors make of it
            return f"{path.name} is damaged ({one_line(error)}); copy or download it again"
        if absent := sorted(shard for shard in shards if not (folder / shard).exists()):
            return f"{_some(absent)} missing, of the {len(shards)} files that {path.name} names"
    return None


def _check_weights(where: str, loaded: dict) -> None:
    """Raises BadInput for tensors that the weights lack, which transformers would draw at random; names unused ones."""
    missing, unused = sorted(loaded["missing_keys"]), sorted(loaded["unexpected_keys"])
    for name, found, wanted in sorted(loaded["mismatched_keys"]):
        shapes = f"{list(found)} in its weights and {list(wanted)} by its config.json"
        raise BadInput(f"{where}: {name} is {shapes}; weights and config don't belong together")
    if missing:
        others = f"; they hold {unused[0]} instead" if unused else ""
        raise BadInput(f"{where}: its weights lack {_some(missing)}{others}")
    if unused:
        logger.warning("%s: the model has no place for these of its weights: %s", where, _some(unused))


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def launched_processes() -> PartialState:
    """The processes that `accelerate launch` or torchrun started, on GPUs, or over gloo where there is none.

    Raises:
        BadInput: they were started for DeepSpeed, which would replace the optimizer and the backward pass.
    """
    if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
        raise BadInput("accelerate launch: DeepSpeed is not supported; recipes/accelerate/fsdp.yaml shards the model")
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"  # transformers would load weights on one process only
    return PartialState(cpu=not torch.accelerator.is_available())


def device_dtype(bf16: bool | None, device: torch.device) -> torch.dtype:
    """bfloat16 where the device has it in hardware, unless turned off; float32 elsewhere."""
    able = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    if bf16 and not able:
        raise BadInput(f"--bf16: this device ({device.type}) has no bfloat16; leave the flag out or set it to false")
    return torch.bfloat16 if able and bf16 is not False else torch.float32
