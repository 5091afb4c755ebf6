"""What a run's config.yaml says of the weights in its folder: for their evaluation.

It imports neither torch nor models, so that a mistyped flag is answered at once.
"""

import os
from pathlib import Path

import yaml

from run.errors import BadInput, yaml_fault

# The flags that say how a policy was trained and evaluated, which its evaluation takes over. Not
# trust_remote_code: a folder from elsewhere must not have a model's code run.
RECORDED_FLAGS = (
    "model_name_or_path",
    "attn_implementation",
    "bf16",
    "data_dir",
    "dataset_config",
    "dataset_test_split",
    "partial_credit",
    "problem_column",
    "answer_column",
    "prompt_template",
    "num_shots",
    "temperature",
    "top_p",
    "benchmarks",
    "max_new_tokens",
)


def config_of(weights: str) -> Path | None:
    """The config.yaml of the run that a folder of weights lies in, whether it is there or not.

    Such a folder is RUN/adapter, RUN/model or RUN/checkpoints/step-N. None for any other folder,
    and for a Hub id.
    """
    folder = Path(os.path.abspath(weights))
    if not folder.is_dir():
        return None
    if folder.name in ("adapter", "model"):
        run = folder.parent
    elif folder.parent.name == "checkpoints":
        run = folder.parents[1]
    else:
        return None
    # For messages, a short path is better than a whole one.
    here = Path.cwd()
    return (run.relative_to(here) if run.is_relative_to(here) else run) / "config.yaml"


def recorded_flags(path: Path, known: set[str]) -> dict:
    """The flags of RECORDED_FLAGS that a run's config.yaml holds.

    Those without a value are left out. So are all others: keys of an older version of the trainer,
    and flags that have nothing to do with an evaluation.

    Args:
        known: the flags that there are.

    Raises:
        BadInput: it can't be read, or holds no flags.
    """
    advice = "mend it, or move it away and give its flags on the command line"
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise BadInput(f"{path}: can't be read ({yaml_fault(error)}); {advice}") from error
    if not isinstance(settings, dict):
        raise BadInput(f"{path}: holds no flags; {advice}")

    wanted = [name for name in RECORDED_FLAGS if name in known]
    flags = {name: settings[name] for name in wanted if settings.get(name) is not None}
    for name, value in flags.items():
        parts = value if isinstance(value, list) else [value]
        if not all(isinstance(part, (str, int, float)) for part in parts):
            raise BadInput(f"{path}: {name} is {value!r:.60}, which is no value of it; {advice}")
    return flags
