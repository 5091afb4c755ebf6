"""Bad input becomes one line on stderr and exit code 2.

Light: it imports neither torch nor models.
"""

import errno
import io
import logging
import os
import sys
import warnings
from collections.abc import Callable
from typing import NoReturn

from transformers.utils import logging as transformers_logging

# A full disk, a full quota, a read-only disk, a folder without permission to write.
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)


class BadInput(Exception):
    """The user's input can't be used.

    The scripts print its message as one line and exit with code 2.
    """


def yaml_fault(error: Exception) -> str:
    """Why a YAML file can't be read, with the line where that is known."""
    mark = getattr(error, "problem_mark", None)
    where = f"line {mark.line + 1}: " if mark else ""
    reason = getattr(error, "problem", None) or getattr(error, "strerror", None)
    return where + (reason or first_line(error))


def first_line(error: Exception) -> str:
    """What an error says, short enough for the one line that bad input gets."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]


def refuse(message: str) -> NoReturn:
    """The `error` of a plain parser: bad words of a command line are bad input like any other."""
    raise BadInput(message)


def run_script(main: Callable[[], None]) -> None:
    """Runs a script's main: bad input becomes one line on stderr and exit code 2, Ctrl-C 130."""
    _settle_output()
    try:
        main()
    except BadInput as error:
        _fail(str(error))
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        _fail(f"{error.filename or 'output'}: {error.strerror}; what was written is kept")
    except KeyboardInterrupt:
        sys.exit(130)
    except RuntimeError as error:
        if not _is_out_of_memory(error):
            raise
        _fail(str(error))


def _settle_output() -> None:
    """Escapes what a terminal can't show, and keeps libraries from talking about each other."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Its encoding may lack ± or a character of a model's text.
            stream.reconfigure(errors="backslashreplace")
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning)
    # The schedule moves on over an update that is skipped.
    warnings.filterwarnings("ignore", message="Detected call of")
    # Tokenizers would warn at every fork.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def _is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a GPU's memory ran out. torch is not imported for this: without it, none can."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(error, torch.OutOfMemoryError)


def _fail(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)
