"""Training on the built-in puzzles: exact however it is interrupted or spread over processes."""

import pytest
from test_scripts import (
    TWO_PROCESSES,
    adapter,
    assert_same_but_for_rounding,
    assert_same_tensors,
    read,
    script,
    train,
    untimed,
    words,
)

PUZZLES = ("countdown", "sudoku4", "maze")
# The model and the other flags are those of the puzzle's recipe.
SETTINGS = dict(
    branching=3, depth=2, step_tokens=30, max_prompt_length=64, max_pack_tokens=512, max_steps=3
)


@pytest.mark.parametrize("name", PUZZLES)
def test_resumed_equals_uninterrupted(name, tmp_path):
    changes = dict(SETTINGS, dataset_name=name, refill_zero_signal=1)
    whole = train(tmp_path / "whole", **changes)
    # The reward comes from a worker, and is not always the same.
    assert whole[-1]["grader"]["pairs"] > 0
    assert sum(row["trained_tokens"] for row in whole) > 0
    train(tmp_path / "parts", **{**changes, "max_steps": 2})
    resumed = train(tmp_path / "parts", "--resume_from_checkpoint", **changes)
    assert untimed(resumed) == untimed(whole)
    assert_same_tensors(adapter(tmp_path / "parts"), adapter(tmp_path / "whole"))


def test_two_processes_equal_one(tmp_path):
    changes = dict(SETTINGS, dataset_name="maze", refill_zero_signal=2)
    rows = train(tmp_path / "one", **changes)
    assert sum(row["replaced_trees"] for row in rows) > 0
    script(*TWO_PROCESSES, *words(tmp_path / "two", **changes))
    assert len(read(tmp_path / "two" / "metrics.jsonl")) == len(rows)
    assert_same_but_for_rounding(tmp_path / "two", tmp_path / "one")
