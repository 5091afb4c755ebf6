"""What surrounds the updates of a run: progress, its log, checkpoints, evaluations, stopping."""

import logging
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.tracking import filter_trackers
from tqdm import tqdm

from run.errors import BadInput
from run.folder import append_line

logger = logging.getLogger(__name__)


class StopSignal:
    """Inside its `with`, SIGTERM and Ctrl-C ask for a stop after the update at hand.

    A second one stops at once.
    """

    def __enter__(self) -> "StopSignal":
        self.asked = 0  # the signal's number
        self.handlers_before = {
            number: signal.signal(number, self._take) for number in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    def __exit__(self, *exception) -> None:
        for number, handler in self.handlers_before.items():
            signal.signal(number, handler)

    def _take(self, number: int, frame) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = number
        print("\nstopping after this update; once more stops at once", file=sys.stderr)


def figures_of_evaluation(scores: dict[str, dict]) -> dict[str, float]:
    """The scores of each benchmark as a tracker takes them: one number by one name.

    >>> figures_of_evaluation({"gsm8k": {"n": 2, "pass@1": {"mean": 0.5, "standard_error": 0.5}}})
    {'eval/gsm8k/n': 2, 'eval/gsm8k/pass@1': 0.5}
    """
    figures = {}
    for benchmark, values in scores.items():
        for name, value in values.items():
            number = value["mean"] if isinstance(value, dict) else value
            figures[f"eval/{benchmark}/{name}"] = number
    return figures


class Session:
    """The course of a run, from one update to the next.

        with Session(flags, accelerator, output, done, save, evaluate) as session:
            for update in session.updates():
                with session.timed("sample"):
                    ...
                session.log({"update": update, ...})

    Args:
        flags: with max_steps, eval_steps, save_steps, logging_steps and report_to.
        output: the run's folder.
        done: updates that were made before.
        save: writes the checkpoint of an update; called on every process.
        evaluate: scores the policy after an update, and returns the scores and a text that shows
            them; called on every process.
    """

    def __init__(
        self,
        flags,
        accelerator: Accelerator,
        output: Path,
        done: int,
        save: Callable[[int], None],
        evaluate: Callable[[int], tuple[dict, str]],
    ) -> None:
        self.flags = flags
        self.accelerator = accelerator
        self.output = output
        self.done = done
        self.save = save
        self.evaluate = evaluate
        self.is_main = accelerator.is_main_process
        self.seconds: dict[str, float] = {}  # of the phases of the update at hand
        self.processor_start = 0.0  # the processor's time when the update at hand began
        self.bad_updates = 0  # in a row
        self.failed_updates = 0  # in a row, by a reward function
        self.stop = StopSignal()

    def __enter__(self) -> "Session":
        self.stop.__enter__()
        # Where `disable` is left out, the environment variable TQDM_DISABLE decides.
        quiet = {} if self.is_main else {"disable": True}
        self.bar = tqdm(total=self.flags.max_steps, initial=self.done, unit="update", **quiet)
        if self.flags.report_to != "none":
            self._start_tracker()
        return self

    def __exit__(self, *exception) -> None:
        self.bar.close()
        self.stop.__exit__(*exception)

    def _start_tracker(self) -> None:
        self.accelerator.project_configuration.set_directories(str(self.output))
        self.accelerator.log_with = filter_trackers(self.flags.report_to, str(self.output))
        plain_flags = {
            name: value
            for name, value in vars(self.flags).items()
            if isinstance(value, (int, float, str))
        }
        self.accelerator.init_trackers("treerpo", plain_flags)

    def updates(self) -> Iterator[int]:
        """Yields the number of each update; what is due after one is done before the next.

        Saving comes before evaluating, so that a failure in the latter costs nothing.
        """
        if self.done == self.flags.max_steps or self._every(self.flags.eval_steps, self.done):
            self._evaluate(self.done)
        for update in range(self.done + 1, self.flags.max_steps + 1):
            self.seconds = {}
            self.processor_start = time.process_time()
            yield update
            self.bar.update()
            stopping = self._is_asked_to_stop()
            if stopping or self._is_due(self.flags.save_steps, update):
                self.save(update)
            if stopping:
                self._leave(update)
            if self._is_due(self.flags.eval_steps, update):
                self._evaluate(update)
        self.accelerator.end_training()

    @staticmethod
    def _every(steps: int, update: int) -> bool:
        """Whether `update` is one of every `steps`; never where that is 0."""
        return steps > 0 and update % steps == 0

    def _is_due(self, steps: int, update: int) -> bool:
        """Whether what is done every `steps` updates, and after the last one, is due."""
        is_last = update == self.flags.max_steps
        return self._every(steps, update) or (steps > 0 and is_last)

    def _evaluate(self, update: int) -> None:
        """Scores the policy, where evaluations are wanted, and logs the scores."""
        if not self.flags.eval_steps:
            return
        scores, text = self.evaluate(update)
        self.accelerator.log(figures_of_evaluation(scores), step=update)
        if self.is_main:
            append_line(self.output / "metrics.jsonl", {"update": update, "evaluation": scores})
            self.bar.write(f"update {update}\n{text}")

    # --- Time and log ---

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Adds the seconds that a phase takes to those of the update at hand.

        A phase may come several times, and inside another one, whose seconds leave it out.
        """
        start = time.perf_counter()
        timed_before = sum(self.seconds.values())
        yield
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        timed_inside = sum(self.seconds.values()) - timed_before
        seconds = time.perf_counter() - start - timed_inside
        name = f"seconds_{phase}"
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    def processor_seconds(self) -> float:
        """The time that the processors have worked on the update at hand, in this process and all
        its threads. Other work on the machine does not count."""
        return time.process_time() - self.processor_start

    def keeps_tree(self, update: int) -> bool:
        """Whether a tree of this update goes to trees.jsonl, and its metrics to the tracker."""
        return self._every(self.flags.logging_steps, update)

    def log(self, row: dict, tree_record: dict | None = None) -> None:
        """Writes one line per update to metrics.jsonl, and to trees.jsonl where a tree is given.

        Args:
            row: the update's metrics; None where one has no value.
        """
        update = row["update"]
        if self.keeps_tree(update):
            numbers = {
                name: value for name, value in row.items() if isinstance(value, (int, float))
            }
            self.accelerator.log(numbers, step=update)
        if not self.is_main:
            return
        append_line(self.output / "metrics.jsonl", row)
        if tree_record:
            append_line(self.output / "trees.jsonl", tree_record)
        self.bar.set_postfix(self._shown_figures(row))

    def _shown_figures(self, row: dict) -> dict[str, str]:
        """What the progress bar shows of an update."""
        figures = {
            "kept": f"{row['kept_groups_share']:.2f}",
            "length": f"{row['completion_length']:.0f}",
        }
        if row["reward"] is not None:  # no leaf had a score
            figures = {"reward": f"{row['reward']:.3f}", **figures}
        if self.flags.refill_zero_signal:
            figures["replaced"] = str(row["replaced_trees"])
        return figures

    # --- Trouble and stopping ---

    def count_bad_update(self, update: int, is_bad: bool, trees: list) -> None:
        """Keeps the trees of an update whose gradient was not finite, and counts such in a row.

        Raises:
            BadInput: there were --max_bad_updates of them in a row.
        """
        if not is_bad:
            self.bad_updates = 0
            return
        self.bad_updates += 1
        path = self.output / f"bad_update-{update}-{self.accelerator.process_index}.pt"
        torch.save([vars(tree) for tree in trees], path)
        logger.warning(
            "update %d skipped: its gradient is not finite; its trees are in %s",
            update,
            self.output,
        )
        if self.bad_updates == self.flags.max_bad_updates:
            count = f"{self.bad_updates} gradients in a row were not finite"
            advice = (
                f"look at {self.output}/bad_update-*.pt, "
                "or continue from a checkpoint with a lower --learning_rate"
            )
            raise BadInput(f"--max_bad_updates: {count}; {advice}")

    def count_failed_rewards(self, update: int, failures: list[str]) -> None:
        """Counts updates in a row in which a reward function failed on a batch.

        Args:
            failures: of all processes; this is called on each of them.

        Raises:
            BadInput: there were --max_bad_updates of them in a row; the last one is saved.
        """
        self.failed_updates = self.failed_updates + 1 if failures else 0
        if self.failed_updates == self.flags.max_bad_updates:
            self.save(update)
            count = f"a reward function failed in each of {self.failed_updates} updates in a row"
            advice = f"update {update} is saved, from which the run resumes"
            raise BadInput(f"--max_bad_updates: {count}, the last time as {failures[-1]}; {advice}")

    def _is_asked_to_stop(self) -> bool:
        """Whether any process was sent a signal."""
        asked = torch.tensor(float(self.stop.asked), device=self.accelerator.device)
        return bool(self.accelerator.reduce(asked, "sum"))

    def _leave(self, update: int) -> None:
        """Ends this process with the exit code of the signal, and says how to continue."""
        # A launcher ends the others as soon as one process leaves.
        self.accelerator.wait_for_everyone()
        how = f"the same command with --output_dir {self.output} --resume_from_checkpoint"
        print(f"stopped: update {update} is saved; continue by {how}", file=sys.stderr)
        # It may be another process that was asked.
        sys.exit(128 + (self.stop.asked or signal.SIGTERM))
