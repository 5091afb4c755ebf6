"""Continues with less at a time when a device runs out of memory."""

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


class MemoryLimit:
    """How much is computed at a time: a flag's value, halved each time that it turns out too large.

    Args:
        flag_name: the flag that sets the size, for the warning.
        size: its value.
        smallest: the error is raised instead where half of a size would be less than this.
    """

    def __init__(self, flag_name: str, size: int, smallest: int = 1) -> None:
        self.flag_name = flag_name
        self.size = size
        self.smallest = smallest

    def run(self, attempt: Callable[[int], Result], needed: int | None = None) -> Result:
        """Returns attempt(size), tried again with half the size each time it runs out of memory.

        Args:
            attempt: a function of the size, which leaves nothing behind when it fails.
            needed: the most that the attempt can use; a larger size is not tried.

        Raises:
            torch.OutOfMemoryError: the smallest size is still too large.
        """
        while True:
            size = self.size if needed is None else min(self.size, needed)
            try:
                return attempt(size)
            except torch.OutOfMemoryError:
                if size // 2 < self.smallest:
                    raise
            # Outside of the except block, where the error no longer holds tensors.
            self.size = size // 2
            torch.cuda.empty_cache()
            logger.warning("out of memory: continuing with --%s %d", self.flag_name, self.size)
