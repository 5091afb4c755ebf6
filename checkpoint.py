"""A run's folder: config.yaml, and checkpoints that are written whole or not at all, from which a run resumes."""

import hashlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

import torch
import yaml
from accelerate.utils import broadcast_object_list
from peft.utils import load_peft_weights, set_peft_model_state_dict

from data.problems import BadInput, first_line

logger = logging.getLogger(__name__)

# Flags that may differ when a run is resumed; any other would make it another run.
FREE_ON_RESUME = {
    "dry_run", "max_steps", "max_bad_updates", "output_dir", "resume_from_checkpoint", "logging_steps", "save_steps",
    "save_total_limit", "report_to", "grader_workers", "eval_steps", "benchmarks", "num_samples", "max_new_tokens",
}  # fmt: skip


class StopSignal:
    """Inside its `with`, SIGTERM and Ctrl-C ask for a stop after the update at hand; the second one stops at once."""

    def __enter__(self) -> "StopSignal":
        self.asked = 0  # the signal's number
        self.before = {number: signal.signal(number, self._take) for number in (signal.SIGINT, signal.SIGTERM)}
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


def open_run(flags, default_name: str) -> tuple[Path, Path | None]:
    """The run's folder, and the checkpoint to resume from if any.

    Raises:
        BadInput: the folder holds another run, or there is no checkpoint to resume from.
    """
    checkpoint = None
    if flags.resume_from_checkpoint == "newest":
        found = checkpoints(Path(flags.output_dir)) if flags.output_dir else []
        if not found:
            raise BadInput(f"--resume_from_checkpoint: no checkpoint in --output_dir {flags.output_dir}")
        checkpoint = found[-1]
    elif flags.resume_from_checkpoint:
        checkpoint = Path(flags.resume_from_checkpoint)
        flags.output_dir = flags.output_dir or str(checkpoint.resolve().parents[1])
    name = [flags.output_dir or f"results/{default_name}-{datetime.now():%Y%m%d-%H%M%S}"]
    output = Path(broadcast_object_list(name)[0])  # every process takes the first one's time
    holds_run = (output / "config.yaml").exists()
    if not checkpoint and holds_run:
        raise BadInput(f"--output_dir {output}: holds another run; choose another, or add --resume_from_checkpoint")
    if checkpoint and holds_run and checkpoint.resolve().parents[1] != output.resolve():
        raise BadInput(f"--output_dir {output}: holds another run than that of {checkpoint}; choose another folder, "
                       "or leave the flag out")  # fmt: skip
    return output, checkpoint


def write_config(output: Path, flags) -> None:
    """Makes the run's folder with config.yaml: every flag, and what the run was made with."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    piped = {"capture_output": True, "encoding": "utf-8", "errors": "replace", "check": False}
    commit = subprocess.run(command, **piped).stdout if shutil.which("git") else ""
    versions = {name: version(name) for name in ("torch", "transformers", "peft", "accelerate", "math-verify")}
    settings = {**vars(flags), "versions": {"git_commit": commit.strip() or "unknown", **versions}}
    try:
        output.mkdir(parents=True, exist_ok=True)
        (output / "config.yaml").write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    except OSError as error:
        raise BadInput(f"--output_dir {output}: can't be written ({error.strerror})") from error


def write_whole(path: Path, text: str) -> None:
    """Writes a file that appears whole or not at all."""
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    partial.rename(path)


def checkpoints(output: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first. A name that ends otherwise is one still being written."""
    return sorted(output.glob("checkpoints/step-*[0-9]"))


def random_states() -> dict:
    """This process's random states, of which dropout draws. Sampling has streams of its own."""
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()}


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_checkpoint(output: Path, update: int, model, tokenizer, optimizer, scheduler, flags,
                    states: list[dict]) -> None:  # fmt: skip
    """Writes checkpoints/step-NNNNNN whole or not at all, then removes the oldest beyond save_total_limit.

    Args:
        states: `random_states` of every process.
    """
    final = output / "checkpoints" / f"step-{update:06d}"
    partial = final.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        model.save_pretrained(partial)
        if not flags.use_peft:  # so that eval_math.py takes it as a model; an adapter is used with its base's
            tokenizer.save_pretrained(partial)
        torch.save({"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}, partial / "optimizer.pt")
        torch.save(states, partial / "rng.pt")
        # The data cursor is the update itself: prompts and seeds are functions of it.
        state = {"update": update, "flags": vars(flags), "sha256": {p.name: digest(p) for p in partial.iterdir()}}
        (partial / "trainer_state.json").write_text(json.dumps(state, indent=2), encoding="utf-8")
        for path in partial.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())  # the rename must not overtake the contents
    except Exception as error:  # OSError, or what torch and safetensors make of it
        free = shutil.disk_usage(output).free >> 20
        shutil.rmtree(partial, ignore_errors=True)
        reason = f"{first_line(error)}; {free} MiB were free"
        raise BadInput(f"{final}: can't be written ({reason}); the checkpoints before it are kept") from error
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    if flags.save_total_limit:
        for old in checkpoints(output)[: -flags.save_total_limit]:
            shutil.rmtree(old)


def load_checkpoint(path: Path, model, optimizer, scheduler, flags, process: int) -> int:
    """Restores a checkpoint and returns its update.

    The schedule is the one of the present flags, as it stands after so many updates: with another --max_steps the rates
    are those of the longer or shorter schedule from here on.

    Args:
        process: whose random states to take; one that was not there when it was saved takes another's.

    Raises:
        BadInput: it is incomplete or was changed, is of another configuration (the flag is named), or lies beyond
            --max_steps.
    """
    try:
        state = json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
        if changed := [name for name, sha256 in state["sha256"].items() if digest(path / name) != sha256]:
            raise ValueError(f"{changed[0]} was changed")
        training = torch.load(path / "optimizer.pt", weights_only=True)
        rng = torch.load(path / "rng.pt", weights_only=True)
        adapter = load_peft_weights(str(path), device="cpu") if flags.use_peft else None
    except Exception as error:  # whatever json, torch and safetensors make of a missing or a damaged file
        before = [str(p) for p in checkpoints(path.resolve().parents[1]) if p.name < path.name]
        advice = f"; the one before it is {before[-1]}" if before else ""
        reason = f"not a complete checkpoint ({first_line(error)})"
        raise BadInput(f"--resume_from_checkpoint {path}: {reason}{advice}") from error
    for name, value in vars(flags).items():
        was = state["flags"].get(name)
        if name not in FREE_ON_RESUME and was != value:
            advice = "resume with the same, or start a new run in another --output_dir"
            raise BadInput(f"--resume_from_checkpoint {path}: was made with --{name} {was}, not {value}; {advice}")
    done = state["update"]
    if flags.max_steps < done:
        raise BadInput(f"--max_steps {flags.max_steps}: the checkpoint {path} has made {done} updates already; give at "
                       "least as many, or resume from an earlier checkpoint")  # fmt: skip
    if flags.eval_steps and (was := state["flags"].get("max_new_tokens")) != flags.max_new_tokens:
        logger.warning("--max_new_tokens was %s and is %s: scores before and after update %d are of completions of "
                       "other lengths", was, flags.max_new_tokens, done)  # fmt: skip
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
    """Renames the checkpoints after `update` to step-NNNNNN.old: a run that resumes from an earlier one makes its own,
    and neither the newest one nor --save_total_limit may mistake these for them."""
    for path in checkpoints(output):
        if int(path.name.removeprefix("step-")) > update:
            old = path.with_suffix(".old")
            shutil.rmtree(old, ignore_errors=True)
            path.rename(old)
            logger.warning("%s lies after the checkpoint to resume from; it is %s now", path, old.name)


def read_lines(path: Path) -> list[dict]:
    """The rows of a .jsonl. A last line that a kill cut short is left out; so are damaged lines, which a warning names.

    Raises:
        BadInput: the file can't be read, or holds lines and none of them can be read.
    """
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except OSError as error:
        raise BadInput(f"{path}: can't be read ({error.strerror})") from error
    rows, damaged, reason = [], [], ""
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError("not a JSON object")
            rows.append(row)
        except (ValueError, RecursionError) as error:  # RecursionError: brackets without end
            damaged.append(number)
            reason = reason or first_line(error)
    if damaged and not rows:
        raise BadInput(f"{path}: no line of it is a JSON object (line {damaged[0]}: {reason})")
    if damaged:
        numbers = ", ".join(map(str, damaged[:10])) + ", ..." * (len(damaged) > 10)
        logger.warning("%s: left out %d damaged lines (%s; the first: %s)", path, len(damaged), numbers, reason)
    return rows


def cut_back(path: Path, update: int) -> None:
    """Drops the lines of a .jsonl after `update`, and the evaluation at it, which is made again."""
    if path.exists():
        rows = [row for row in read_lines(path) if row.get("update", update + 1) <= update]
        kept = [row for row in rows if row["update"] < update or "evaluation" not in row]
        write_whole(path, "".join(json.dumps(row) + "\n" for row in kept))
