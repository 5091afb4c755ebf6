"""Checkpoints that are written whole or not at all, from which a run resumes exactly."""

import dataclasses
import hashlib
import json
import logging
import os
import shutil
from pathlib import Path

import torch
from peft.utils import load_peft_weights, set_peft_model_state_dict

from run.errors import BadInput, first_line
from run.folder import checkpoints

logger = logging.getLogger(__name__)

# Flags that may differ when a run is resumed; any other would make it another run.
FREE_ON_RESUME = {
    "benchmarks",
    "dry_run",
    "eval_steps",
    "grader_workers",
    "logging_steps",
    "max_bad_updates",
    "max_new_tokens",
    "max_steps",
    "num_samples",
    "output_dir",
    "report_to",
    "resume_from_checkpoint",
    "reward_timeout",
    "save_steps",
    "save_total_limit",
    "use_cuda_graph",
}


def random_states() -> dict:
    """This process's random states, of which dropout draws. Sampling has streams of its own."""
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()}


def default_flags(flags) -> dict:
    """What each flag is where it is left out, as far as it does not depend on others."""
    defaults = {}
    for field in dataclasses.fields(flags):
        has_factory = field.default_factory is not dataclasses.MISSING
        defaults[field.name] = field.default_factory() if has_factory else field.default
    return defaults


def digest(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- Saving ---


def save_checkpoint(output: Path, update: int, learner, flags, states: list[dict]) -> None:
    """Writes checkpoints/step-NNNNNN whole or not at all; removes the oldest ones too many.

    Args:
        learner: has the model, tokenizer, optimizer and scheduler to save.
        flags: with use_peft and save_total_limit; written beside the weights.
        states: `random_states` of every process.

    Raises:
        BadInput: it can't be written; the checkpoints before it are kept.
    """
    final = output / "checkpoints" / f"step-{update:06d}"
    partial = final.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        _write_states(partial, update, learner, flags, states)
    except Exception as error:  # OSError, or what torch and safetensors make of it
        free = shutil.disk_usage(output).free >> 20
        shutil.rmtree(partial, ignore_errors=True)
        reason = f"{first_line(error)}; {free} MiB were free"
        advice = "the checkpoints before it are kept"
        raise BadInput(f"{final}: can't be written ({reason}); {advice}") from error
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    if flags.save_total_limit:
        for old in checkpoints(output)[: -flags.save_total_limit]:
            shutil.rmtree(old)


def _write_states(folder: Path, update: int, learner, flags, states: list[dict]) -> None:
    """Writes everything that a run resumes from, and sees it safely to the disk."""
    learner.model.save_pretrained(folder)
    if not flags.use_peft:
        # So that eval_math.py takes it as a model; an adapter is used with its base's tokenizer.
        learner.tokenizer.save_pretrained(folder)
    training = {
        "optimizer": learner.optimizer.state_dict(),
        "scheduler": learner.scheduler.state_dict(),
    }
    torch.save(training, folder / "optimizer.pt")
    torch.save(states, folder / "rng.pt")
    # The data cursor is the update itself: prompts and seeds are functions of it.
    state = {
        "update": update,
        "flags": vars(flags),
        "sha256": {path.name: digest(path) for path in folder.iterdir()},
    }
    (folder / "trainer_state.json").write_text(json.dumps(state, indent=2), encoding="utf-8")
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())  # the rename must not overtake the contents


# --- Resuming ---


def load_checkpoint(path: Path, learner, flags, process: int) -> int:
    """Restores a checkpoint and returns its update.

    The schedule is that of the present flags, as it stands after so many updates: with another
    --max_steps the rates are those of the longer or shorter schedule from here on.

    Args:
        learner: has the model, optimizer and scheduler to restore.
        process: whose random states to take; one that was not there when the checkpoint was saved
            takes another's.

    Raises:
        BadInput: it is incomplete or was changed, is of another configuration (the flag is named),
            or lies beyond --max_steps.
    """
    state, training, states = _read_states(path)
    _check_same_run(path, state, flags)
    _restore_weights(path, learner.model, flags)
    learner.optimizer.load_state_dict(training["optimizer"])
    # The saved schedule, and the rate in the saved optimizer, may be those of another --max_steps.
    for _ in range(state["update"]):
        learner.scheduler.step()
    own_states = states[process % len(states)]
    torch.set_rng_state(own_states["cpu"])
    if torch.cuda.is_available():
        torch.cuda.set_rng_state_all(own_states["cuda"])
    return state["update"]


def _read_states(path: Path) -> tuple[dict, dict, list[dict]]:
    """What trainer_state.json, optimizer.pt and rng.pt hold, with digests checked."""
    try:
        state = json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
        for name, sha256 in state["sha256"].items():
            if digest(path / name) != sha256:
                raise ValueError(f"{name} was changed")
        training = torch.load(path / "optimizer.pt", weights_only=True)
        states = torch.load(path / "rng.pt", weights_only=True)
    except Exception as error:  # whatever json and torch make of a missing or a damaged file
        raise _incomplete(path, error) from error
    return state, training, states


def _incomplete(path: Path, error: Exception) -> BadInput:
    """What to say of a checkpoint that can't be read, and which one to take instead."""
    run_folder = path.resolve().parents[1]
    earlier = [other for other in checkpoints(run_folder) if other.name < path.name]
    advice = f"; the one before it is {earlier[-1]}" if earlier else ""
    reason = f"not a complete checkpoint ({first_line(error)})"
    return BadInput(f"--resume_from_checkpoint {path}: {reason}{advice}")


def _check_same_run(path: Path, state: dict, flags) -> None:
    """Raises BadInput where the present flags would make another run of it."""
    saved_flags, saved_update = state["flags"], state["update"]
    # A flag that there was not yet is as if it had been left out.
    saved_flags = {**default_flags(flags), **saved_flags}
    for name, value in vars(flags).items():
        saved_value = saved_flags[name]
        if name not in FREE_ON_RESUME and saved_value != value:
            advice = "resume with the same, or start a new run in another --output_dir"
            difference = f"was made with --{name} {saved_value}, not {value}"
            raise BadInput(f"--resume_from_checkpoint {path}: {difference}; {advice}")
    if flags.max_steps < saved_update:
        advice = "give at least as many, or resume from an earlier checkpoint"
        made = f"the checkpoint {path} has made {saved_update} updates already"
        raise BadInput(f"--max_steps {flags.max_steps}: {made}; {advice}")
    saved_length = saved_flags.get("max_new_tokens")
    if flags.eval_steps and saved_length != flags.max_new_tokens:
        logger.warning(
            "--max_new_tokens was %s and is %s: scores before and after update %d are of "
            "completions of other lengths",
            saved_length,
            flags.max_new_tokens,
            saved_update,
        )


def _restore_weights(path: Path, model, flags) -> None:
    """Loads the adapter, or all weights, that a checkpoint holds."""
    if not flags.use_peft:
        saved_model = type(model).from_pretrained(path, dtype=model.dtype)
        model.load_state_dict(saved_model.state_dict())
        return
    try:
        adapter = load_peft_weights(str(path), device="cpu")
    except Exception as error:  # whatever safetensors makes of a damaged file
        raise _incomplete(path, error) from error
    set_peft_model_state_dict(model, adapter)


def set_aside_later(output: Path, update: int) -> None:
    """Renames the checkpoints after `update` to step-NNNNNN.old.

    A run that resumes from an earlier one makes its own, and neither the newest one nor
    --save_total_limit may mistake these for them.
    """
    for path in checkpoints(output):
        if int(path.name.removeprefix("step-")) > update:
            old = path.with_suffix(".old")
            shutil.rmtree(old, ignore_errors=True)
            path.rename(old)
            logger.warning(
                "%s lies after the checkpoint to resume from; it is %s now", path, old.name
            )
