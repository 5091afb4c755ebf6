"""A run's folder: config.yaml, files written whole, and files with one JSON object per line."""

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

RECORDED_VERSIONS = ("torch", "transformers", "peft", "accelerate", "math-verify")
SHOWN_LINES = 10  # most numbers of damaged lines in one warning


def open_run(flags, default_name: str) -> tuple[Path, Path | None]:
    """The run's folder, and the checkpoint to resume from if there is one.

    Args:
        flags: with output_dir and resume_from_checkpoint.
        default_name: of the folder under results/ where output_dir is left out; the time follows.

    Raises:
        BadInput: the folder holds another run, or there is no checkpoint to resume from.
    """
    checkpoint = _checkpoint_to_resume(flags)
    output_dir = flags.output_dir
    if checkpoint and not output_dir:
        output_dir = str(_run_of(checkpoint))
    default_dir = f"results/{default_name}-{datetime.now():%Y%m%d-%H%M%S}"
    # Every process takes the first one's time.
    output = Path(broadcast_object_list([output_dir or default_dir])[0])

    holds_run = (output / "config.yaml").exists()
    if holds_run and not checkpoint:
        advice = "choose another, or add --resume_from_checkpoint"
        raise BadInput(f"--output_dir {output}: holds another run; {advice}")
    if holds_run and _run_of(checkpoint) != output.resolve():
        advice = "choose another folder, or leave the flag out"
        raise BadInput(
            f"--output_dir {output}: holds another run than that of {checkpoint}; {advice}"
        )
    return output, checkpoint


def _checkpoint_to_resume(flags) -> Path | None:
    """The checkpoint that --resume_from_checkpoint asks for."""
    if flags.resume_from_checkpoint != "newest":
        return Path(flags.resume_from_checkpoint) if flags.resume_from_checkpoint else None
    complete = checkpoints(Path(flags.output_dir)) if flags.output_dir else []
    if not complete:
        where = f"--output_dir {flags.output_dir}"
        raise BadInput(f"--resume_from_checkpoint: no checkpoint in {where}")
    return complete[-1]


def _run_of(checkpoint: Path) -> Path:
    """The folder of the run that a checkpoint belongs to."""
    return checkpoint.resolve().parents[1]


def checkpoints(output: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first.

    A name that ends otherwise is one still being written.
    """
    return sorted(output.glob("checkpoints/step-*[0-9]"))


def write_config(output: Path, flags) -> None:
    """Makes the run's folder with config.yaml: every flag, and what the run was made with."""
    versions = {name: version(name) for name in RECORDED_VERSIONS}
    settings = {
        **vars(flags),
        "output_dir": str(output),
        "versions": {"git_commit": _git_commit(), **versions},
    }
    text = yaml.safe_dump(settings, sort_keys=False)
    try:
        output.mkdir(parents=True, exist_ok=True)
        (output / "config.yaml").write_text(text, encoding="utf-8")
    except OSError as error:
        raise BadInput(f"--output_dir {output}: can't be written ({error.strerror})") from error


def _git_commit() -> str:
    """The commit of the code, where it lies in a git repository and git is installed."""
    if not shutil.which("git"):
        return "unknown"
    command = ["git", "-C", str(Path(__file__).parents[1]), "rev-parse", "HEAD"]
    answer = subprocess.run(
        command, capture_output=True, encoding="utf-8", errors="replace", check=False
    )
    return answer.stdout.strip() or "unknown"


def write_whole(path: Path, text: str) -> None:
    """Writes a file that appears whole or not at all."""
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def append_line(path: Path, row: dict) -> None:
    """Adds one line to a .jsonl file."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def read_lines(path: Path) -> list[dict]:
    """The rows of a .jsonl file.

    A last line that a kill cut short is left out; so are damaged lines, which a warning names.

    Raises:
        BadInput: the file can't be read, or holds lines and none of them can be read.
    """
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except OSError as error:
        raise BadInput(f"{path}: can't be read ({error.strerror})") from error
    rows = []
    damaged: dict[int, str] = {}  # number of the line -> what is wrong with it
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError("not a JSON object")
            rows.append(row)
        except (ValueError, RecursionError) as error:  # RecursionError: brackets without end
            damaged[number] = first_line(error)
    if not damaged:
        return rows
    first, reason = next(iter(damaged.items()))
    if not rows:
        raise BadInput(f"{path}: no line of it is a JSON object (line {first}: {reason})")
    numbers = ", ".join(map(str, list(damaged)[:SHOWN_LINES]))
    numbers += ", ..." if len(damaged) > SHOWN_LINES else ""
    logger.warning(
        "%s: left out %d damaged lines (%s; the first: %s)", path, len(damaged), numbers, reason
    )
    return rows


def cut_back(path: Path, update: int) -> None:
    """Drops the lines of a .jsonl file after `update`, and the evaluation at it.

    That evaluation is made again by a run that resumes there.
    """
    if not path.exists():
        return
    rows = [row for row in read_lines(path) if _stays(row, update)]
    write_whole(path, "".join(json.dumps(row) + "\n" for row in rows))


def _stays(row: dict, update: int) -> bool:
    """Whether a row is of an update that a run which resumes after `update` does not make again."""
    if "update" not in row:
        return False
    if row["update"] == update:
        return "evaluation" not in row
    return row["update"] < update
