"""Bad input becomes one line on stderr and exit code 2. Light: it imports neither torch nor
models."""

import errno
import io
import logging
import os
import sys
import warnings
from collections.abc import Callable
from typing import NoReturn

from transformers.utils import logging as transformers_logging


class BadInput(Exception):
    """The user's input can't be used. The scripts print its message as one line and exit with code
    2."""


def first_line(error: Exception) -> str:
    """What an error says, short enough for the one line that bad input gets."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def refuse(message: str) -> NoReturn:
    """The `error` of a plain parser: bad words of a command line are bad input like any other."""
    raise BadInput(message)


def run(main: Callable[[], None]) -> None:
    """Runs a script's main: bad input becomes one line on stderr and exit code 2, Ctrl-C exit code
    130."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(
                errors="backslashreplace"
            )  # its encoding may lack ± or a character of a model's text
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning)  # of libraries about each other
    warnings.filterwarnings(
        "ignore", message="Detected call of"
    )  # the schedule goes on over an update that is skipped
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # it would warn at every fork
    try:
        main()
    except BadInput as error:
        _fail(str(error))
    except OSError as error:  # a full disk, a folder that can't be written
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            raise
        _fail(f"{error.filename or 'output'}: {error.strerror}; what was written is kept")
    except KeyboardInterrupt:
        sys.exit(130)
    except RuntimeError as error:
        torch = sys.modules.get(
            "torch"
        )  # not imported for this: without it nothing can run out of a GPU's memory
        if torch is None or not isinstance(error, torch.OutOfMemoryError):
            raise
        _fail(str(error))


def _fail(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)
