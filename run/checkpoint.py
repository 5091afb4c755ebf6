"""Checkpoints that are written whole or not at all, from which a run resumes."""

import hashlib
import json
import logging
import os
import shutil
import signal
import sys
from pathlib import Path

import torch
from peft.utils import load_peft_weights, set_peft_model_state_dict

from run.errors import BadInput, first_line
from run.folder import checkpoints

logger = logging.getLogger(__name__)

# Flags that may differ when a run is resumed; any other would make it another run.
FREE_ON_RESUME = {
    "dry_run",
    "max_steps",
    "max_bad_updates",
    "output_dir",
    "resume_from_checkpoint",
    "logging_steps",
    "save_steps",
    "save_total_limit",
    "report_to",
    "grader_workers",
    "eval_steps",
    "benchmarks",
    "num_samples",
    "max_new_tokens",
}


class StopSignal:
    """Inside its `with`, SIGTERM and Ctrl-C ask for a stop after the update at hand; the second one
    stops at once."""

    def __enter__(self) -> "StopSignal":
        self.asked = 0  # the signal's number
        self.before = {
            number: signal.signal(number, self._take) for number in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    def __exit__(self, *exception) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _take(self, number: int, frame) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = number
        print("\nstopping after this update; once more stops at once", file=sys.stderr)

    def leave(self, how_to_go_on: str) -> None:
        print(f"stopped: {how_to_go_on}", file=sys.stderr)
        sys.exit(128 + (self.asked or signal.SIGTERM))  # it may be another process that was asked


def random_states() -> dict:
    """This process's random states, of which dropout draws. Sampling has streams of its own."""
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()}


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_checkpoint(
    output: Path, update: int, model, tokenizer, optimizer, scheduler, flags, states: list[dict]
) -> None:
    """Writes checkpoints/step-NNNNNN whole or not at all, then removes the oldest beyond
    save_total_limit.

    Args:
        states: `random_states` of every process.
    """
    final = output / "checkpoints" / f"step-{update:06d}"
    partial = final.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        model.save_pretrained(partial)
        if (
            not flags.use_peft
        ):  # so that eval_math.py takes it as a model; an adapter is used with its base's
            tokenizer.save_pretrained(partial)
        torch.save(
            {"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()},
            partial / "optimizer.pt",
        )
        torch.save(states, partial / "rng.pt")
        # The data cursor is the update itself: prompts and seeds are functions of it.
        state = {
            "update": update,
            "flags": vars(flags),
            "sha256": {p.name: digest(p) for p in partial.iterdir()},
        }
        (partial / "trainer_state.json").write_text(json.dumps(state, indent=2), encoding="utf-8")
        for path in partial.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())  # the rename must not overtake the contents
    except Exception as error:  # OSError, or what torch and safetensors make of it
        free = shutil.disk_usage(output).free >> 20
        shutil.rmtree(partial, ignore_errors=True)
        reason = f"{first_line(error)}; {free} MiB were free"
        raise BadInput(
            f"{final}: can't be written ({reason}); the checkpoints before it are kept"
        ) from error
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    if flags.save_total_limit:
        for old in checkpoints(output)[: -flags.save_total_limit]:
            shutil.rmtree(old)


def load_checkpoint(path: Path, model, optimizer, scheduler, flags, process: int) -> int:
    """Restores a checkpoint and returns its update.

    The schedule is the one of the present flags, as it stands after so many updates: with another
    --max_steps the rates are those of the longer or shorter schedule from here on.

    Args:
        process: whose random states to take; one that was not there when it was saved takes
            another's.

    Raises:
        BadInput: it is incomplete or was changed, is of another configuration (the flag is named),
            or lies beyond --max_steps.
    """
    try:
        state = json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
        if changed := [
            name for name, sha256 in state["sha256"].items() if digest(path / name) != sha256
        ]:
            raise ValueError(f"{changed[0]} was changed")
        training = torch.load(path / "optimizer.pt", weights_only=True)
        rng = torch.load(path / "rng.pt", weights_only=True)
        adapter = load_peft_weights(str(path), device="cpu") if flags.use_peft else None
    except (
        Exception
    ) as error:  # whatever json, torch and safetensors make of a missing or a damaged file
        before = [str(p) for p in checkpoints(path.resolve().parents[1]) if p.name < path.name]
        advice = f"; the one before it is {before[-1]}" if before else ""
        reason = f"not a complete checkpoint ({first_line(error)})"
        raise BadInput(f"--resume_from_checkpoint {path}: {reason}{advice}") from error
    for name, value in vars(flags).items():
        was = state["flags"].get(name)
        if name not in FREE_ON_RESUME and was != value:
            advice = "resume with the same, or start a new run in another --output_dir"
            raise BadInput(
                f"--resume_from_checkpoint {path}: was made with --{name} {was}, not {value}; {advice}"
            )
    done = state["update"]
    if flags.max_steps < done:
        raise BadInput(
            f"--max_steps {flags.max_steps}: the checkpoint {path} has made {done} updates already; give at "
            "least as many, or resume from an earlier checkpoint"
        )
    if flags.eval_steps and (was := state["flags"].get("max_new_tokens")) != flags.max_new_tokens:
        logger.warning(
            "--max_new_tokens was %s and is %s: scores before and after update %d are of completions of "
            "other lengths",
            was,
            flags.max_new_tokens,
            done,
        )
    if flags.use_peft:
        set_peft_model_state_dict(model, adapter)
    else:
        model.load_state_dict(type(model).from_pretrained(path, dtype=model.dtype).state_dict())
    optimizer.load_state_dict(training["optimizer"])
    # The saved schedule, and the rate in the saved optimizer, may be those of another --max_steps.
    for _ in range(done):
        scheduler.step()
    mine = rng[process % len(rng)]
    torch.set_rng_state(mine["cpu"])
    if torch.cuda.is_available():
        torch.cuda.set_rng_state_all(mine["cuda"])
    return done


def set_aside_later(output: Path, update: int) -> None:
    """Renames the checkpoints after `update` to step-NNNNNN.old: a run that resumes from an earlier
    one makes its own, and neither the newest one nor --save_total_limit may mistake these for
    them."""
    for path in checkpoints(output):
        if int(path.name.removeprefix("step-")) > update:
            old = path.with_suffix(".old")
            shutil.rmtree(old, ignore_errors=True)
            path.rename(old)
            logger.warning(
                "%s lies after the checkpoint to resume from; it is %s now", path, old.name
            )
