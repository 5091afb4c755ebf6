"""Rewards by functions of the user's own: --reward_funcs FILE.py:function, with TRL's signature.

    with Rewards(flags, grader) as rewards:
        scores = rewards.submit(row, tree, completions).result()

A function gets a batch, all completions of one prompt, and gives a number for each of them, or None
where it has none. A completion's score is the weighted sum over the functions that gave one; NaN
where none did. The name `task` stands for the task's own score, which is the default.

The functions run in killable workers (run/workers.py, run/reward_calls.py), under limits on their
time and memory, but with the network. docs/rewards.md describes all of it for users.
"""

import ast
import logging
import math
import statistics
import threading
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from reward import Grader
from run.errors import BadInput
from run.workers import Reply, Workers

if TYPE_CHECKING:
    # It needs torch, which neither the workers nor the flags do.
    from tree import Tree

logger = logging.getLogger(__name__)

# Among the functions, the task's own score.
TASK = "task"
MEMORY_MB = 4096
# Scales by which advantages are defined for rewards in [0, 1] alone.
BOUNDED_SCALES = ("variance", "deviation")


# --- Checks that run no function ---


def check_names(names: list[str]) -> None:
    """Raises BadInput for a function that can't be there, as far as its file's text says.

    Nothing of the file is run.
    """
    for name in names:
        if names.count(name) > 1:
            raise BadInput(f"--reward_funcs {name}: is there twice; --reward_weights weighs it")
        if name != TASK:
            _check_name(f"--reward_funcs {name}", name)


def _check_name(where: str, name: str) -> None:
    path, _, function = name.rpartition(":")
    if not path.endswith(".py") or not function.isidentifier():
        raise BadInput(f"{where}: must be FILE.py:function, or {TASK} for the task's own score")
    try:
        module = ast.parse(Path(path).read_bytes(), path)
    except OSError as error:
        raise BadInput(f"{where}: {path} can't be read ({error.strerror})") from error
    except (SyntaxError, ValueError) as error:
        line = f"line {error.lineno}: " if isinstance(error, SyntaxError) else ""
        reason = error.msg if isinstance(error, SyntaxError) else error
        raise BadInput(f"{where}: {path} is no Python file ({line}{reason})") from error
    defined = _names_in(module)
    if function not in defined and "*" not in defined:
        raise BadInput(f"{where}: {path} has no function {function}")


def _names_in(module: ast.Module) -> set[str]:
    """The names that a module may define, wherever in it; "*" where it imports what can't be told.

    >>> sorted(_names_in(ast.parse("import a.b as c; d = 1\\nif d:\\n  async def e(): pass")))
    ['c', 'd', 'e']
    """
    names = set()
    for node in ast.walk(module):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names.update(alias.asname or alias.name for alias in node.names)
    return names


# --- What the trainer sees ---


@dataclass
class UpdateReport:
    """What the functions gave in one update, on one process."""

    values: dict[str, list[float]] = field(default_factory=dict)  # by function
    failures: list[str] = field(default_factory=list)  # batches: which function failed, and how


def reward_figures(reports: list[UpdateReport]) -> dict[str, float]:
    """Mean and deviation of each function's rewards, by TRL's names for them.

    >>> reward_figures([UpdateReport({"brief": [0.0, 1.0]}), UpdateReport({"brief": [0.5]})])
    {'rewards/brief/mean': 0.5, 'rewards/brief/std': 0.5}
    """
    figures = {}
    for name in dict.fromkeys(name for report in reports for name in report.values):
        values = [value for report in reports for value in report.values.get(name, ())]
        if values:
            figures[f"rewards/{name}/mean"] = statistics.fmean(values)
        if len(values) > 1:
            figures[f"rewards/{name}/std"] = statistics.stdev(values)
    return figures


def short_names(names: list[str]) -> dict[str, str]:
    """A name for each function in the metrics: that in its file, where no two are the same.

    >>> short_names(["a.py:brief", "b.py:brief", "b.py:polite"])
    {'a.py:brief': 'a.py:brief', 'b.py:brief': 'b.py:brief', 'b.py:polite': 'polite'}
    """
    last = {name: name.rpartition(":")[2] for name in names}
    count = Counter(last.values())
    return {name: short if count[short] == 1 else name for name, short in last.items()}


class Rewards:
    """Scores the completions of one prompt at a time, a batch, by all reward functions.

    A function that fails on the first batch of this process stops the run. After that a batch on
    which one fails is left without scores. The functions do not see how many processes there are:
    a batch is the same whoever scores it.

    Args:
        flags: with reward_funcs, reward_weights, reward_timeout, scale_rewards, grader_workers and
            max_steps.
        grader: gives the task's own score.

    `stats` counts what has been since the process started: reward_batches, reward_failures (batches
    on which a function failed) and unscored (completions).
    """

    def __init__(self, flags, grader: Grader) -> None:
        self.flags = flags
        self.grader = grader
        self.names = flags.reward_funcs
        self.weights = flags.reward_weights or [1.0] * len(self.names)
        self.short_names = short_names(self.names)
        functions = [name for name in self.names if name != TASK]
        self.workers = None
        if functions:
            self.workers = Workers(
                "run.reward_calls:judge_of",
                *functions,
                count=flags.grader_workers,
                timeout=flags.reward_timeout,
                memory_mb=MEMORY_MB,
                isolated=False,
                # A function that ends its process would be asked again for a whole time-out.
                retry_seconds=0.0,
            )
        self.stats: Counter[str] = Counter()
        self.update = 0
        self.batches = 0
        self.proven: set[str] = set()  # functions that have worked
        self.first_is_scored = threading.Event()
        self.lock = threading.Lock()  # of what the threads write
        self.has_warned = False
        self.report = UpdateReport()

    def __enter__(self) -> "Rewards":
        """Starts the workers, and waits until they have imported the functions.

        Raises:
            BadInput: one can't be imported; says why.
        """
        if self.workers:
            self.workers.__enter__()
            try:
                self.workers.check()
            except RuntimeError as error:
                self.workers.__exit__()
                names = " ".join(name for name in self.names if name != TASK)
                raise BadInput(f"--reward_funcs {names}: can't be imported ({error})") from error
        self.threads = ThreadPoolExecutor(self.flags.grader_workers)
        return self

    def __exit__(self, *exception) -> None:
        # Those that wait for the first batch wait no longer, nor for a function that hangs.
        self.first_is_scored.set()
        if self.workers:
            self.workers.__exit__(*exception)
        self.threads.shutdown(cancel_futures=True)

    @property
    def counts(self) -> dict[str, int]:
        """What was counted since the process started, of grading and of reward functions."""
        return {**self.grader.stats, **self.stats}

    def begin(self, update: int) -> None:
        """What is submitted from now on belongs to this update."""
        self.update = update
        self.report = UpdateReport()

    def submit(self, row: dict, tree: "Tree", completions: list[str]) -> "Future[list[float]]":
        """The scores of all completions of one prompt, in the background.

        Args:
            row: of the prompt.
            completions: the texts of the tree's leaves.

        Its result raises BadInput where a function's first batch failed, or where a reward does not
        go with --scale_rewards.
        """
        own_scores = None
        if TASK in self.names:
            own_scores = self.grader.submit(completions, [row] * len(completions))
        # The task's score alone needs nothing more.
        if self.names == [TASK] and self.weights == [1.0]:
            return own_scores
        batch = {
            "row": row,
            "completions": completions,
            "completion_ids": [tree.completion_ids(leaf) for leaf in tree.leaves()],
            "trainer_state": {"global_step": self.update - 1, "max_steps": self.flags.max_steps},
        }
        self.batches += 1
        return self.threads.submit(self._score, batch, own_scores, is_first=self.batches == 1)

    def _score(self, batch: dict, own_scores: Future | None, is_first: bool) -> list[float]:
        # Whether a function fails at first does not depend on which batch is faster.
        if not is_first:
            self.first_is_scored.wait()
        try:
            by_function = self._ask_all(batch, own_scores)
        finally:
            self.first_is_scored.set()
        count = len(batch["completions"])
        scores = [math.nan] * count
        if by_function is not None:
            scores = [self._weighted_sum(values) for values in zip(*by_function.values())]
        with self.lock:
            self.stats["reward_batches"] += 1
            self.stats["unscored"] += sum(map(math.isnan, scores))
            for name, values in (by_function or {}).items():
                given = [value for value in values if value is not None]
                self.report.values.setdefault(self.short_names[name], []).extend(given)
        return scores

    def _ask_all(self, batch: dict, own_scores: Future | None) -> dict[str, list] | None:
        """What each function gives to a batch; None where one of them fails."""
        by_function = {}
        for name in self.names:
            if name == TASK:
                by_function[name] = own_scores.result()
                continue
            reply = self.workers.ask([name, batch])[-1]
            if reply.kind != "answered":
                self._take_failure(name, f"{name} {self._what_happened(reply)}")
                return None
            self.proven.add(name)
            by_function[name] = reply.value
        return by_function

    def _what_happened(self, reply: Reply) -> str:
        return {
            "failed": " ".join(reply.reason.split()),
            "timeouts": f"took more than --reward_timeout {self.flags.reward_timeout:g} seconds",
            "kills": f"took more than {MEMORY_MB} MB of memory",
            "died": "ended its process",
        }[reply.kind]

    def _take_failure(self, name: str, failure: str) -> None:
        """Counts a batch on which a function failed.

        Raises:
            BadInput: it is the function's first one.
        """
        if name not in self.proven:
            raise BadInput(f"--reward_funcs: {failure} (on its first batch)")
        with self.lock:
            self.stats["reward_failures"] += 1
            self.report.failures.append(failure)
            if not self.has_warned:
                self.has_warned = True
                consequence = "this prompt's completions get no score; such batches are counted"
                logger.warning("--reward_funcs: %s; %s", failure, consequence)

    def _weighted_sum(self, values: tuple[float | None, ...]) -> float:
        """A completion's score from what the functions gave to it.

        Raises:
            BadInput: it does not go with --scale_rewards.
        """
        given = [
            weight * value
            for weight, value in zip(self.weights, values, strict=True)
            if value is not None
        ]
        if not given:
            return math.nan
        total = sum(given)
        scale = self.flags.scale_rewards
        # Sums of weights such as 0.1 are inexact.
        if scale in BOUNDED_SCALES and not -1e-9 <= total <= 1 + 1e-9:
            names = " + ".join(self.names)
            if len(self.names) > 1 or self.weights != [1.0]:
                names = f"the weighted sum of {names}"
            raise BadInput(
                f"--scale_rewards {scale} needs rewards from 0 to 1, and {names} gave {total:g}; "
                "write --scale_rewards group, or none"
            )
        return min(max(total, 0.0), 1.0) if scale in BOUNDED_SCALES else total
