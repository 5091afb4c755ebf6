"""Flags from the command line and YAML.

It imports neither torch nor models, so that a mistyped flag is answered at once.
"""

import argparse
import difflib
import math
import re
from dataclasses import Field, dataclass, field
from pathlib import Path
from typing import NoReturn, get_args, get_type_hints

import yaml
from transformers.hf_argparser import HfArgumentParser

from run.errors import BadInput, yaml_fault
from run.reading import Reading
from run.trl import trl_advice

ROOT = Path(__file__).resolve().parents[1]
MAX_GRADER_TIMEOUT = 86400  # seconds in a day
WORKED_EXAMPLES = 4  # that --num_shots can take from
# Names of flags that once were, and what to write instead.
RETIRED_FLAGS = {"prompts_per_step": "it is called --prompts_per_update now"}


def flag(default, help: str, **kwargs) -> Field:
    """A dataclass field that is a flag with a help line; a list default is copied."""
    metadata = {"help": help, **kwargs}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class ModelAndDataFlags:
    """What the trainer and the evaluation have in common."""

    model_name_or_path: str | None = flag(
        None, "folder or Hub id of the causal LM; default: the tiny base of the task, in data/"
    )
    attn_implementation: str | None = flag(
        None, "sdpa, eager or flex_attention; default: the model's"
    )
    trust_remote_code: bool = flag(False, "run code that comes with the model")
    bf16: bool | None = flag(None, "bfloat16; default: where the device has it")
    data_dir: str | None = flag(None, "read known data sets from DIR/NAME.jsonl instead of the Hub")
    problem_column: str | None = flag(None, "column of the problem; found by name if left out")
    answer_column: str | None = flag(None, "column of the answer; found by name if left out")
    dataset_config: str | None = flag(None, "configuration of a Hub id or folder that has several")
    dataset_train_split: str | None = flag(
        None, "split of a Hub id or folder to train on; default: train"
    )
    dataset_test_split: str | None = flag(
        None, "split of a Hub id or folder to evaluate on; default: test"
    )
    partial_credit: bool = flag(
        False, "reasoning_gym's own credit for a part of an answer; default: 1 or 0"
    )
    prompt_template: str | None = flag(
        None, "text with {problem}, \\n a line break; default: the chat template"
    )
    num_shots: int = flag(0, "worked examples before the problem, 0 to 4; for base models")
    temperature: float = flag(1.0, "of sampling; the loss divides its logits by it too")
    top_p: float = flag(1.0, "crop of sampling, and of the loss; 1 is off")
    max_rows: int = flag(
        256, "rows in one generate call; lower it when sampling runs out of memory"
    )
    use_cuda_graph: bool = flag(
        True, "on a GPU, sample in a cache of fixed shape by CUDA graphs; false: by generate"
    )
    grader_workers: int = flag(2, "processes that verify answers")
    grader_timeout: float = flag(2.0, "seconds for one answer")
    seed: int = flag(0, "of everything random")

    @property
    def columns(self) -> tuple[str | None, str | None, str | None, Reading]:
        """Where problems come from: folder, column of the problem, column of the answer, and how
        they are read."""
        reading = Reading(
            self.dataset_config,
            self.dataset_train_split,
            self.dataset_test_split,
            self.partial_credit,
        )
        return self.data_dir, self.problem_column, self.answer_column, reading


# --- Parsing ---


class _Parser(HfArgumentParser):
    """HfArgumentParser whose errors are one line that begins with the flag.

    Of a value that once was, the line says what to write now.
    """

    retired: dict[tuple[str, str], str]

    def _check_value(self, action: argparse.Action, value) -> None:
        if advice := self.retired.get((action.dest, value)):
            raise argparse.ArgumentError(action, advice)
        super()._check_value(action, value)

    def error(self, message: str) -> NoReturn:
        # argparse names every spelling of a flag; the first one is enough.
        message = re.sub(r"^argument (--\w+)[^:]*:", r"\1:", message)
        if "expected one argument" in message or "expected at least one argument" in message:
            message += "; a value that begins with a dash is written --flag=value"
        raise BadInput(message)


def recipe_of(argv: list[str], demos: dict[str, str] | None = None) -> tuple[str | None, list[str]]:
    """The YAML file of a command line, and the words that remain.

    Args:
        demos: by the name of a task, the file of a command line that names neither --config nor
            --model_name_or_path; under "" that of one without a data set, under "*" that of one
            with any other data set.
    """
    config_parser = _Parser([], add_help=False, allow_abbrev=False)
    config_parser.retired = {}
    config_parser.add_argument("--config")
    given, remaining_words = config_parser.parse_known_args(argv)
    if given.config:
        return given.config, remaining_words
    names_model = any(
        word.replace("-", "_").startswith("__model_name_or_path") for word in remaining_words
    )
    if not demos or names_model:
        return None, remaining_words
    # The task, without a slice, and without a level.
    data_parser = _Parser([], add_help=False, allow_abbrev=False)
    data_parser.retired = {}
    data_parser.add_argument("--dataset_name", default="")
    dataset_name = data_parser.parse_known_args(remaining_words)[0].dataset_name
    with_level = dataset_name.partition("[")[0]
    task = with_level.partition(":")[0]
    known = [name for name in (with_level, task, "*") if name in demos]
    return str(ROOT / demos[known[0]]), remaining_words


def parse_flags(
    kind: type,
    argv: list[str],
    description: str,
    demos: dict[str, str] | None = None,
    retired: dict[tuple[str, str], str] | None = None,
    recorded: dict | None = None,
):
    """Flags from `--config FILE` (YAML) and the command line, which wins.

    Args:
        kind: a dataclass whose fields are the flags.
        demos: as for `recipe_of`.
        retired: of (flag, value) pairs that once were, what to write instead.
        recorded: flags of an earlier run, over which the YAML file and the command line win.

    Raises:
        BadInput: an unknown flag or key (the nearest one is named, or what stands for TRL's flag of
            this name), a value of the wrong type, or a bad YAML file.
    """
    hints = get_type_hints(kind)  # before the parser is made, which changes the fields' types
    parser = _Parser(
        kind,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.retired = retired or {}
    parser.add_argument(
        "--config", help="a YAML file of flags, e.g. recipes/demo.yaml; the command line wins"
    )
    recipe, remaining_words = recipe_of(argv, demos)
    settings = dict(recorded or {})
    if recipe:
        settings |= yaml_flags(recipe, hints)
    # null in YAML is None, which no word on a command line can say.
    parser.set_defaults(**{key: None for key, value in settings.items() if value is None})
    words = _separate_widths([*flag_words(settings), *remaining_words], hints)
    flags, *_, unknown = parser.parse_args_into_dataclasses(
        words, return_remaining_strings=True, look_for_args_file=False
    )
    if unknown:
        raise BadInput(_about_unknown(unknown[0], list(hints)))
    return flags


def _about_unknown(word: str, known_flags: list[str]) -> str:
    """What to say of a word on the command line that no flag takes."""
    if not word.startswith("-"):
        return f"{word}: a value that belongs to no flag; --help shows which flags take several"
    name = word.split("=")[0]
    return f"unknown flag {name}{_hint(name.lstrip('-'), known_flags, '--')}"


def _hint(name: str, known_flags: list[str], prefix: str = "") -> str:
    """What to write instead of an unknown flag: its new name, its word here, or the nearest."""
    name = name.replace("-", "_")
    if advice := RETIRED_FLAGS.get(name) or trl_advice(name):
        return f": {advice}"
    close = difflib.get_close_matches(name, known_flags, 1, cutoff=0.5)
    return f"; did you mean {prefix}{close[0]}?" if close else "; --help lists them"


def _separate_widths(words: list[str], hints: dict[str, type]) -> list[str]:
    """The words of a command line, with 8,4,2 as 8 4 2 where a flag takes several integers."""
    separated = []
    flag_name = ""
    for word in words:
        value = word
        if word.startswith("--"):
            flag_name, equals, value = word.partition("=")
            if not equals:
                separated.append(word)
                continue
        takes_integers = hints.get(flag_name.lstrip("-").replace("-", "_")) == list[int]
        if not takes_integers:
            separated.append(word)
            continue
        if word != value:  # --branching=8,4,2
            separated.append(flag_name)
        separated += [part for part in value.split(",") if part]
    return separated


def flag_words(settings: dict) -> list[str]:
    """Flags as command-line words; a flag that is None is left out.

    --key=value, so that a value may begin with a dash, and --key a b for a list.
    """
    words = []
    for key, value in settings.items():
        if isinstance(value, (list, tuple)):
            words += [f"--{key}", *map(str, value)]
        elif value is not None:
            words.append(f"--{key}={value}")
    return words


# --- YAML ---


def yaml_settings(path: str, extended: tuple[Path, ...] = ()) -> dict:
    """The keys and values of a YAML file.

    `extends: OTHER.yaml`, in the same folder, comes first; what follows wins.

    Args:
        extended: the files that were extended on the way here.

    Raises:
        BadInput: it can't be read, holds no keys and values, or extends itself.
    """
    settings = _read_yaml(path)
    base = settings.pop("extends", None)
    if base is None:
        return settings
    if not isinstance(base, str):
        raise BadInput(f"--config {path}: extends must name one file, not {base!r}")
    extended = (*extended, Path(path).resolve())
    base_path = Path(path).parent / base
    if base_path.resolve() in extended:
        reason = f"extends {base}, which extends this file; a recipe can't extend itself"
        raise BadInput(f"--config {path}: {reason}")
    return {**yaml_settings(str(base_path), extended), **settings}


def _read_yaml(path: str) -> dict:
    """The mapping that a YAML file holds, with `extends` as it stands."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        if key := repeated_key(yaml.compose(text)):
            raise BadInput(f"--config {path}: {key} stands in it twice; keep one")
        settings = yaml.safe_load(text) or {}
    except (OSError, UnicodeDecodeError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise BadInput(f"--config {path}: {yaml_fault(error)}") from error
    if not isinstance(settings, dict):
        raise BadInput(f"--config {path}: must hold keys and values, such as max_steps: 100")
    return settings


def repeated_key(node, seen: set[int] | None = None) -> str | None:
    """A key that stands twice in one mapping of a YAML document; the reader would drop the first.

    Args:
        node: of the composed document; None is an empty one.
        seen: the nodes looked at before, since an alias may point back to one.
    """
    seen = set() if seen is None else seen
    if node is None or id(node) in seen or isinstance(node, yaml.ScalarNode):
        return None
    seen.add(id(node))
    children = node.value
    if isinstance(node, yaml.MappingNode):
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key in keys:
            if key != "<<" and keys.count(key) > 1:
                return key
        children = [value for _, value in node.value]
    for child in children:
        if key := repeated_key(child, seen):
            return key
    return None


def yaml_flags(path: str, hints: dict[str, type]) -> dict:
    """The flags that a YAML file sets, checked as far as a command line can't.

    That is: names, null, and values that no word on a command line can say.

    Args:
        hints: the type of each flag that there is.

    Raises:
        BadInput: names the file and the key.
    """
    settings = yaml_settings(path)
    settings.pop("versions", None)  # what a run's own config.yaml records beside its flags
    for key, value in settings.items():
        if key not in hints:
            raise BadInput(f"--config {path}: unknown key {key}{_hint(str(key), list(hints))}")
        if value is None and type(None) not in get_args(hints[key]):
            raise BadInput(f"--config {path}: {key} has no value; give one, or leave the key out")
        _check_yaml_value(f"--config {path}: {key}", value)
    return settings


def _check_yaml_value(where: str, value) -> None:
    """Raises BadInput for a value that can't be said on a command line."""
    parts = value if isinstance(value, list) else [value]
    if isinstance(value, dict) or any(isinstance(part, (dict, list)) for part in parts):
        raise BadInput(f"{where} must be a value or a list of values, not {value!r}")
    if not isinstance(value, list):
        return
    if None in value:
        raise BadInput(f"{where} holds an empty value")
    if any(re.match(r"-(?!\d|\.\d)", str(part)) for part in value):
        raise BadInput(f"{where}: a value in a list can't begin with a dash")


# --- Checks ---


def check_shared(flags) -> None:
    """Raises BadInput for values that neither script can use, of the flags that both have."""
    check_numbers(flags)
    check_least(
        flags,
        temperature=0,
        max_rows=1,
        grader_workers=1,
        num_shots=0,
        num_samples=0,
        max_new_tokens=1,
        seed=0,
    )
    if not 0 < flags.top_p <= 1:
        raise BadInput(f"--top_p {flags.top_p}: must be above 0 and at most 1, which is off")
    if not 0 < flags.grader_timeout <= MAX_GRADER_TIMEOUT:
        limits = f"must be above 0 and at most {MAX_GRADER_TIMEOUT} seconds"
        raise BadInput(f"--grader_timeout {flags.grader_timeout}: {limits}")
    if flags.num_shots > WORKED_EXAMPLES:
        advice = f"there are {WORKED_EXAMPLES} worked examples"
        raise BadInput(f"--num_shots {flags.num_shots}: {advice}")
    if flags.seed >= 2**32:  # numpy takes no larger one
        raise BadInput(f"--seed {flags.seed}: must be below {2**32}")


def check_numbers(flags) -> None:
    """Raises BadInput for a number that is not finite, whatever the flag."""
    for name, value in vars(flags).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise BadInput(f"--{name} {value}: must be a finite number")


def check_least(flags, **bounds: float) -> None:
    """Raises BadInput for a flag, or a member of a list, below its bound."""
    for name, least in bounds.items():
        value = getattr(flags, name)
        value = min(value) if isinstance(value, list) else value
        if value is not None and not value >= least:  # so that NaN is refused too
            raise BadInput(f"--{name} {value}: must be at least {least}")
