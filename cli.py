"""What the scripts share: flags from the command line and YAML, the model, and errors as one line with exit code 2."""

import argparse
import difflib
import errno
import io
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable
from dataclasses import Field, dataclass, field, fields
from pathlib import Path

import torch
import yaml
from accelerate import PartialState
from transformers import AutoModelForCausalLM, AutoTokenizer, HfArgumentParser
from transformers.utils import logging as transformers_logging

from data.problems import BadInput

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
    """HfArgumentParser that says of a value that once was what to write now."""

    retired: dict[tuple[str, str], str]

    def _check_value(self, action: argparse.Action, value) -> None:
        if advice := self.retired.get((action.dest, value)):
            raise argparse.ArgumentError(action, advice)
        super()._check_value(action, value)


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
    parser = _Parser(
        kind, description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.retired = retired or {}
    parser.add_argument("--config", help="a YAML file of flags, e.g. recipes/demo.yaml; the command line wins")
    parser.error = refuse
    known = [f.name for f in fields(kind)]
    # 8,4,2 is 8 4 2
    argv = [part for word in argv for part in (word.split(",") if re.fullmatch(r"\d+(,\d+)+", word) else [word])]
    given = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    given.add_argument("--config")
    config, rest = given.parse_known_args(argv)
    named = any(word.replace("-", "_").startswith("__model_name_or_path") for word in rest)
    path = config.config or (None if named or demo is None else str(ROOT / demo))
    words = [*(_yaml_flags(path, known) if path else []), *rest]
    flags, *_, unknown = parser.parse_args_into_dataclasses(words, return_remaining_strings=True)
    if unknown:
        name = unknown[0].split("=")[0]
        raise BadInput(f"unknown flag {name}{_nearest(name.lstrip('-'), known, '--')}")
    return flags


def check_least(flags, **bounds: float) -> None:
    """Raises BadInput for a flag, or a member of a list, below its bound."""
    for name, least in bounds.items():
        value = getattr(flags, name)
        value = min(value) if isinstance(value, list) else value
        if value is not None and not value >= least:  # so that NaN is refused too
            raise BadInput(f"--{name} {value}: must be at least {least}")


def refuse(message: str) -> None:
    """What a parser does with bad flags, as its `error`: one line, like that of any other bad input."""
    raise BadInput(message)


def _nearest(name: str, known: list[str], prefix: str = "") -> str:
    close = difflib.get_close_matches(name.replace("-", "_"), known, 1, cutoff=0.5)
    return f"; did you mean {prefix}{close[0]}?" if close else "; --help lists them"


def yaml_settings(path: str) -> dict:
    """The keys and values of a YAML file. `extends: OTHER.yaml`, in the same folder, comes first; what follows wins."""
    try:
        settings = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadInput(f"--config {path}: {str(error).splitlines()[0]}") from error
    if not isinstance(settings, dict):
        raise BadInput(f"--config {path}: must hold keys and values, such as max_steps: 100")
    base = settings.pop("extends", None)
    return {**(yaml_settings(str(Path(path).parent / base)) if base else {}), **settings}


def flag_words(settings: dict) -> list[str]:
    """Flags as command-line words; a flag that is None is left out."""
    given = {key: value if isinstance(value, list) else [value] for key, value in settings.items() if value is not None}
    return [word for key, values in given.items() for word in (f"--{key}", *map(str, values))]


def _yaml_flags(path: str, known: list[str]) -> list[str]:
    """The keys of a YAML file as command-line words, so that both are checked in one place."""
    settings = yaml_settings(path)
    for key in settings:
        if key not in known:
            raise BadInput(f"--config {path}: unknown key {key}{_nearest(str(key), known)}")
    return flag_words(settings)


def run(main: Callable[[], None]) -> None:
    """Runs a script's main: bad input becomes one line on stderr and exit code 2, Ctrl-C exit code 130."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # its encoding may lack ± or a character of a model's text
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
        BadInput: missing, not a causal LM, or a tokenizer with no end token.
    """
    name, trust = flags.model_name_or_path, flags.trust_remote_code
    if not Path(name).is_dir() and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise BadInput(f"--model_name_or_path {name}: no such folder")
    settings = {"attn_implementation": flags.attn_implementation, "use_safetensors": True}
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=trust)
        model = AutoModelForCausalLM.from_pretrained(name, dtype=dtype, trust_remote_code=trust, **settings)
    except (OSError, ValueError, KeyError, ImportError) as error:  # what transformers raises for files and settings
        reason = (str(error).strip().splitlines() or ["unreadable"])[0]
        raise BadInput(f"--model_name_or_path {name}: can't be loaded as a causal LM ({reason[:300]})") from error
    if tokenizer.eos_token_id is None:
        raise BadInput(f"--model_name_or_path {name}: its tokenizer has no end token (eos_token)")
    return tokenizer, model


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
