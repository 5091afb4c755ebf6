"""Stands in for a comparison in the grader's workers, which must not import torch: hence a module of its own."""

import os
import signal
import time


def slow(answer, gold):
    """Sleeps, eats memory or dies, by what the answer says."""
    kind, _, amount = answer.partition(" ")
    if kind == "sleep":
        time.sleep(float(amount))
    elif kind == "eat":
        return len(bytearray(int(amount) * 2**20)) > 0
    elif kind == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    return True
