"""A run's folder: config.yaml, files that are written whole, and files of one JSON object a
line."""

import json
import logging
import shutil
import subprocess
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

import yaml
from accelerate.utils import broadcast_object_list

from run.errors import BadInput, first_line

logger = logging.getLogger(__name__)


def open_run(flags, default_name: str) -> tuple[Path, Path | None]:
    """The run's folder, and the checkpoint to resume from if any.

    Raises:
        BadInput: the folder holds another run, or there is no checkpoint to resume from.
    """
    checkpoint = None
    if flags.resume_from_checkpoint == "newest":
        found = checkpoints(Path(flags.output_dir)) if flags.output_dir else []
        if not found:
            raise BadInput(
                f"--resume_from_checkpoint: no checkpoint in --output_dir {flags.output_dir}"
            )
        checkpoint = found[-1]
    elif flags.resume_from_checkpoint:
        checkpoint = Path(flags.resume_from_checkpoint)
        flags.output_dir = flags.output_dir or str(checkpoint.resolve().parents[1])
    name = [flags.output_dir or f"results/{default_name}-{datetime.now():%Y%m%d-%H%M%S}"]
    output = Path(broadcast_object_list(name)[0])  # every process takes the first one's time
    holds_run = (output / "config.yaml").exists()
    if not checkpoint and holds_run:
        raise BadInput(
            f"--output_dir {output}: holds another run; choose another, or add --resume_from_checkpoint"
        )
    if checkpoint and holds_run and checkpoint.resolve().parents[1] != output.resolve():
        raise BadInput(
            f"--output_dir {output}: holds another run than that of {checkpoint}; choose another folder, "
            "or leave the flag out"
        )
    return output, checkpoint


def write_config(output: Path, flags) -> None:
    """Makes the run's folder with config.yaml: every flag, and what the run was made with."""
    command = ["git", "-C", str(Path(__file__).parents[1]), "rev-parse", "HEAD"]
    piped = {"capture_output": True, "encoding": "utf-8", "errors": "replace", "check": False}
    commit = subprocess.run(command, **piped).stdout if shutil.which("git") else ""
    versions = {
        name: version(name)
        for name in ("torch", "transformers", "peft", "accelerate", "math-verify")
    }
    settings = {**vars(flags), "versions": {"git_commit": commit.strip() or "unknown", **versions}}
    try:
        output.mkdir(parents=True, exist_ok=True)
        (output / "config.yaml").write_text(
            yaml.safe_dump(settings, sort_keys=False), encoding="utf-8"
        )
    except OSError as error:
        raise BadInput(f"--output_dir {output}: can't be written ({error.strerror})") from error


def write_whole(path: Path, text: str) -> None:
    """Writes a file that appears whole or not at all."""
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    partial.rename(path)


def checkpoints(output: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first. A name that ends otherwise is one still
    being written."""
    return sorted(output.glob("checkpoints/step-*[0-9]"))


def read_lines(path: Path) -> list[dict]:
    """The rows of a .jsonl. A last line that a kill cut short is left out; so are damaged lines,
    which a warning names.

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
        logger.warning(
            "%s: left out %d damaged lines (%s; the first: %s)", path, len(damaged), numbers, reason
        )
    return rows


def cut_back(path: Path, update: int) -> None:
    """Drops the lines of a .jsonl after `update`, and the evaluation at it, which is made again."""
    if path.exists():
        rows = [row for row in read_lines(path) if row.get("update", update + 1) <= update]
        kept = [row for row in rows if row["update"] < update or "evaluation" not in row]
        write_whole(path, "".join(json.dumps(row) + "\n" for row in kept))


def append_line(path: Path, row: dict) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
