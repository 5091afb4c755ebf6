"""The call of a user's reward function, as a worker makes it: its arguments, and what it may give.

It imports little, since the workers of reward functions import it.
"""

import asyncio
import copy
import inspect
from collections.abc import Callable
from numbers import Real
from types import SimpleNamespace

from run.workers import Failed, Judge, load_function

# What a function is given beside the columns of its row.
GIVEN = ("prompt", "prompts", "completion", "completions", "completion_ids", "trainer_state")
# Squares of what is larger are not finite in float32.
LARGEST_REWARD = 1e18


def judge_of(*names: str) -> Judge:
    """What answers the questions of `Rewards`: the rewards of a batch by one of these functions."""
    functions = {name: load_function(name) for name in names}
    for name, function in functions.items():
        if not callable(function):
            raise TypeError(f"{name} is no function")

    def judge(name: str, batch: dict) -> list[float | None]:
        return call(functions[name], batch)

    return judge


def call(function: Callable, batch: dict) -> list[float | None]:
    """The rewards that a function gives to a batch.

    Args:
        batch: the row, the completions' texts and token ids, and how far the training is.

    Raises:
        Failed: it gave something else than one number, or None, for each completion.
    """
    row, completions = batch["row"], batch["completions"]
    prompt = row.get("messages") or row["problem"]
    if row.get("messages"):
        completions = [[{"role": "assistant", "content": text}] for text in completions]
    # Each completion has a copy of the row's cells, which the function may change.
    columns = {
        name: [copy.deepcopy(value) for _ in completions]
        for name, value in row.items()
        if name not in GIVEN
    }
    try:
        given = function(
            prompts=[copy.deepcopy(prompt) for _ in completions],
            completions=completions,
            completion_ids=batch["completion_ids"],
            trainer_state=SimpleNamespace(**batch["trainer_state"]),
            **columns,
        )
        if inspect.isawaitable(given):
            given = asyncio.run(_result_of(given))
    except MemoryError:
        raise
    except Exception as error:
        # The frame below this one is the function's own; there is none if it can't be called so.
        frame = error.__traceback__.tb_next
        where = f" in line {frame.tb_lineno}" if frame else ""
        raise Failed(f"raised {type(error).__name__}{where}: {error}") from error
    return checked(given, len(completions))


async def _result_of(awaitable) -> object:
    return await awaitable


def checked(given: object, count: int) -> list[float | None]:
    """What a function returned, as `count` finite numbers; None where it has no score.

    Raises:
        Failed: it is something else.

    >>> checked([1, None, True], 3)
    [1.0, None, 1.0]
    """
    wanted = f"a list of {count} numbers, one for each completion"
    try:
        values = list(given)
    except TypeError:
        raise Failed(f"returned {given!r:.50} instead of {wanted}") from None
    if len(values) != count or isinstance(given, (str, bytes, dict, set)):
        raise Failed(f"returned {len(values)} values ({given!r:.50}) instead of {wanted}")
    return [None if value is None else _number(value) for value in values]


def _number(value: object) -> float:
    # A tensor or an array that holds one number.
    plain = value.item() if hasattr(value, "item") else value
    # NaN is not below anything.
    if isinstance(plain, Real) and abs(plain) < LARGEST_REWARD:
        return float(plain)
    advice = "a reward is a finite number, or None for no score"
    raise Failed(f"returned {value!r:.50} for a completion; {advice}")
