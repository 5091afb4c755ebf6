"""--reward_funcs: what a function gets, what it may give, what becomes of one that fails, and whole
runs."""

import json
import math
import re
import socket
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from accelerate import PartialState
from conftest import ROOT, grading_servers, grading_workers
from safetensors.torch import load_file
from test_scripts import (
    TWO_PROCESSES,
    adapter,
    assert_same_but_for_rounding,
    assert_same_tensors,
    read,
    refused,
    script,
    train,
    untimed,
    words,
)

import train_treerpo
from data import arithmetic
from reward import Grader
from reward_functions import Rewards, short_names
from run.errors import BadInput
from run.reward_calls import call
from run.workers import Failed

FUNCTIONS = '''
import os, socket, time
from dataclasses import dataclass

@dataclass
class Box:  # which needs its module to be found
    value: float

def length(completions, **columns):
    return [len(text) / 10 for text in completions]

def brief(completions, **columns):
    return [1.0 if len(text) < 9 else 0.0 for text in completions]

def digits(completions, **columns):
    return [None if not text.isdigit() else Box(int(text)).value for text in completions]

def odd(completions, **columns):
    """From 0 to 1, by the letters of a completion; no score for one in five."""
    sums = [sum(map(ord, text)) for text in completions]
    return [number % 7 / 6 if number % 5 else None for number in sums]

async def later(completions, **columns):
    return [0.5] * len(completions)

def faulty(completions, how, trainer_state, **columns):
    what, first_bad = how[0].split()
    good = [float(i % 2) for i, _ in enumerate(completions)]
    if trainer_state.global_step + 1 < int(first_bad):
        return good
    if what == "hang":
        time.sleep(60)
    if what == "exit":
        os._exit(0)
    if what == "raise":
        raise ValueError("no such\\nmove")
    if what == "memory":
        bytearray(9 << 30)
    return {
        "nan": [float("nan"), *good[1:]],
        "infinite": [*good[:-1], -float("inf")],
        "strings": ["1.0" for _ in good],
        "text": "1" * len(good),
        "few": good[1:],
        "many": [*good, 1.0],
        "nothing": None,
    }[what]

def call_out(completions, port, **columns):
    with socket.create_connection(("127.0.0.1", port[0]), timeout=5) as connection:
        return [float(connection.recv(1)) for _ in completions]
'''


@pytest.fixture
def functions(tmp_path, monkeypatch):
    """Their file, from whose folder it is named."""
    (tmp_path / "rewards.py").write_text(FUNCTIONS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def flags(*names, weights=None, **changes):
    settings = dict(
        reward_funcs=list(names),
        reward_weights=weights,
        reward_timeout=20.0,
        scale_rewards="group",
        grader_workers=1,
        max_steps=9,
    )
    return SimpleNamespace(**settings | changes)


def star(leaves):
    """As much of a tree as is looked at."""
    leaf_nodes = list(range(1, leaves + 1))
    return SimpleNamespace(leaves=lambda: leaf_nodes, completion_ids=lambda leaf: [7, leaf])


def scores(rewards, completions, update=1, **row):
    rewards.begin(update)
    row = {"id": "a", "problem": "?", "answer": None, **row}
    return rewards.submit(row, star(len(completions)), completions).result()


def same(left, right):
    """Whether scores are equal; None stands for NaN."""
    right = [math.nan if value is None else value for value in right]
    np.testing.assert_allclose(left, right, rtol=1e-12)
    return True


# --- What a function gets ---


def recorded(batch):
    """The keyword arguments of a call."""
    seen = {}

    def function(**arguments):
        seen.update(arguments)
        return [0.0] * len(arguments["completions"])

    call(function, batch)
    return seen


BATCH = {
    "row": {"id": "a", "problem": "2+3?", "answer": "5", "level": {"of": [1]}, "prompt": "-"},
    "completions": ["5", "6"],
    "completion_ids": [[1, 2], [3]],
    "trainer_state": {"global_step": 4, "max_steps": 9},
}


def test_a_function_gets_columns_as_lists_by_keyword():
    seen = recorded(BATCH)
    state = seen.pop("trainer_state")
    assert (state.global_step, state.max_steps) == (4, 9)
    assert seen == {
        "prompts": ["2+3?"] * 2,
        "completions": ["5", "6"],
        "completion_ids": [[1, 2], [3]],
        "id": ["a"] * 2,
        "problem": ["2+3?"] * 2,
        "answer": ["5"] * 2,
        "level": [{"of": [1]}] * 2,
    }
    seen["level"][0]["of"].append(2)
    assert seen["level"][1] == {"of": [1]}


def test_a_conversation_has_the_conversational_form():
    messages = [{"role": "system", "content": "Add."}, {"role": "user", "content": "2+3?"}]
    seen = recorded({**BATCH, "row": {**BATCH["row"], "messages": messages}})
    assert seen["prompts"] == [messages, messages]
    assert seen["completions"] == [[{"role": "assistant", "content": text}] for text in "56"]


def test_the_arguments_are_those_of_trl():
    """Run by TRL's own code: the same arguments, but for three that belong to its trainer."""
    trl = pytest.importorskip("trl")
    PartialState()  # which its logger asks
    seen = {}

    def function(**arguments):
        seen.update(arguments)
        return [1, None]

    trainer = object.__new__(trl.GRPOTrainer)
    trainer.accelerator = SimpleNamespace(device="cpu", is_main_process=True)
    trainer.args = SimpleNamespace(report_to=[])
    trainer.reward_funcs = [function]
    trainer.reward_processing_classes = [None]
    trainer.reward_func_names = ["function"]
    trainer.environments = None
    trainer.state = SimpleNamespace(**BATCH["trainer_state"])
    row = {**BATCH["row"], "prompt": BATCH["row"]["problem"]}
    inputs = [row, row]
    prompts = [row["prompt"]] * 2
    rewards = trl.GRPOTrainer._calculate_rewards(
        trainer, inputs, prompts, BATCH["completions"], BATCH["completion_ids"]
    )
    assert torch.equal(rewards.isnan().flatten(), torch.tensor([False, True]))
    own = recorded(BATCH)
    for name in ("log_extra", "log_metric"):
        del seen[name]
    assert vars(own.pop("trainer_state")) == vars(seen.pop("trainer_state"))
    assert own == seen


# --- What it may give ---


@pytest.mark.parametrize(
    "given, values",
    [
        ([1, 0.5], [1.0, 0.5]),
        ((True, None), [1.0, None]),
        (np.array([0.25, 2]), [0.25, 2.0]),
        (torch.tensor([0.25, -2]), [0.25, -2.0]),
        ([torch.tensor(3.0), np.float32(0.5)], [3.0, 0.5]),
        ((value for value in (1, 2)), [1.0, 2.0]),
    ],
)
def test_what_counts_as_numbers(given, values):
    assert call(lambda **_: given, BATCH) == values


@pytest.mark.parametrize(
    "given, says",
    [
        ([1.0], r"returned 1 values \(\[1.0\]\) instead of a list of 2 numbers"),
        ([1.0] * 3, "returned 3 values"),
        ("11", "returned 2 values"),
        ({1.0: 0, 2.0: 0}, "instead of a list"),
        (None, "returned None instead of a list of 2 numbers"),
        (1.0, "returned 1.0 instead of"),
        ([1.0, math.nan], "returned nan for a completion; a reward is a finite number, or None"),
        ([1.0, math.inf], "returned inf for a completion"),
        ([1.0, 1e30], "finite"),
        (["1.0", "0.5"], "returned '1.0' for a completion"),
        ([[1.0], [0.5]], r"returned \[1.0\] for a completion"),
        ([1j, 0], "returned 1j for a completion"),
    ],
)
def test_what_does_not(given, says):
    with pytest.raises(Failed, match=says):
        call(lambda **_: given, BATCH)


def test_the_sum_is_trls():
    """By nansum over the functions, with weights; NaN where none gave a score."""
    table = [[1.0, None, 3.0, None], [None, None, 0.5, 2.0], [0.25, None, None, -1.0]]
    weights = [0.5, 2.0, -1.0]
    by_trl = torch.tensor(
        [[math.nan if value is None else value for value in row] for row in table]
    ).T
    expected = (by_trl * torch.tensor(weights)).nansum(dim=1)
    expected[by_trl.isnan().all(dim=1)] = torch.nan
    rewards = Rewards(flags("a.py:f", "b.py:g", "c.py:h", weights=weights), Grader())
    own = [rewards._weighted_sum(values) for values in zip(*table)]
    torch.testing.assert_close(torch.tensor(own), expected, equal_nan=True)


def test_several_functions_and_the_tasks_own_score(functions):
    names = ("task", "rewards.py:length", "rewards.py:digits", "rewards.py:later")
    settings = flags(*names, weights=[1.0, 1.0, 10.0, 0.0])
    with Grader(1) as grader, Rewards(settings, grader) as rewards:
        texts = [r"\boxed{4}", r"\boxed{5}", "12"]
        assert same(scores(rewards, texts, answer="4"), [1.9, 0.9, 120.2])
        assert rewards.report.values == {
            "task": [1.0, 0.0, 0.0],
            "length": [0.9, 0.9, 0.2],
            "digits": [12.0],
            "later": [0.5] * 3,
        }
        assert rewards.stats == {"reward_batches": 1, "unscored": 0}
    assert not grading_servers()


def test_no_score_from_any_function(functions):
    with Rewards(flags("rewards.py:digits"), Grader()) as rewards:
        assert same(scores(rewards, ["7", "a", ""]), [7, None, None])
        assert rewards.stats["unscored"] == 2 and not rewards.stats["reward_failures"]


def test_the_tasks_own_score_alone_starts_nothing(functions):
    with Grader(1) as grader, Rewards(flags("task"), grader) as rewards:
        assert scores(rewards, [r"\boxed{4}", "5"], answer="4") == [1.0, 0.0]
        assert len(grading_servers()) == 1
        assert not rewards.stats and not rewards.report.values


def test_functions_of_one_name_are_told_apart():
    names = ["task", "a/one.py:f", "b/one.py:f", "b/one.py:g"]
    assert list(short_names(names).values()) == ["task", "a/one.py:f", "b/one.py:f", "g"]


@pytest.mark.parametrize("scale", ["variance", "deviation"])
def test_rewards_of_any_size_need_a_scale_for_them(functions, scale):
    def refusal(*names, texts, **changes):
        settings = flags(*names, scale_rewards=scale, **changes)
        with Rewards(settings, Grader()) as rewards:
            with pytest.raises(BadInput) as error:
                assert max(scores(rewards, ["", "1"])[1:]) <= 1.0
                scores(rewards, texts)
            return str(error.value)

    needs = f"--scale_rewards {scale} needs rewards from 0 to 1, and "
    said = refusal("rewards.py:digits", texts=["1", "25", "30"])
    assert said == f"{needs}rewards.py:digits gave 25; write --scale_rewards group, or none"
    both = ("rewards.py:length", "rewards.py:brief")
    said = refusal(*both, texts=["a", "aaa"], weights=[-1.0, 0.0])
    names = "the weighted sum of rewards.py:length + rewards.py:brief"
    assert said.startswith(f"{needs}{names} gave -0.1;")
    # Sums of inexact weights are no reward outside.
    settings = flags(*both, scale_rewards=scale, weights=[0.1 + 0.2, 0.7])
    with Rewards(settings, Grader()) as rewards:
        (largest,) = scores(rewards, ["a" * 8])
        assert largest <= 1
        assert rewards._weighted_sum((1.0, 1.0)) == 1.0


# --- Failures ---

KINDS = [
    ("hang", "took more than --reward_timeout 1 seconds"),
    ("exit", "ended its process"),
    ("nan", "returned nan for a completion; a reward is a finite number, or None for no score"),
    ("infinite", "returned -inf for a completion"),
    ("strings", "returned '1.0' for a completion"),
    ("text", "returned 3 values ('111') instead of a list of 3 numbers"),
    ("few", "numbers, one for each completion"),
    ("many", "returned 4 values"),
    ("nothing", "returned None instead of"),
    ("raise", "raised ValueError in line 36: no such move"),
    ("memory", "took more than 4096 MB of memory"),
]


@pytest.mark.parametrize("what, says", KINDS)
def test_a_failure_on_the_first_batch_stops(functions, what, says):
    start = time.monotonic()
    settings = flags("rewards.py:faulty", reward_timeout=1.0)
    with Rewards(settings, Grader()) as rewards, pytest.raises(BadInput) as error:
        scores(rewards, ["a", "b", "c"], how=f"{what} 1")
    message = str(error.value)
    assert message.startswith("--reward_funcs: rewards.py:faulty ") and says in message
    assert "on its first batch" in message and "\n" not in message and len(message) < 300
    assert time.monotonic() - start < 20


@pytest.mark.parametrize("what, says", KINDS)
def test_a_later_failure_leaves_its_batch_without_a_score(functions, caplog, what, says):
    names = ("rewards.py:length", "rewards.py:faulty")
    with Rewards(flags(*names, reward_timeout=1.0), Grader()) as rewards:
        for update in (1, 2):
            good = scores(rewards, ["a", "b", "c"], update, how=f"{what} 3")
            assert same(good, [0.1, 1.1, 0.1]) and not rewards.report.failures
        for update in (3, 4):
            bad = scores(rewards, ["a", "b", "c"], update, how=f"{what} 3")
            assert all(map(math.isnan, bad))
            (failure,) = rewards.report.failures
            assert failure.startswith("rewards.py:faulty ") and says in failure
            # Nothing of half a reward is logged.
            assert not rewards.report.values
        # The function is still there.
        assert same(scores(rewards, ["a"], how="nan 99"), [0.1])
        counts = {"reward_batches": 5, "reward_failures": 2, "unscored": 6}
        assert rewards.stats == counts
    (record,) = caplog.records
    assert says in record.getMessage() and "get no score" in record.getMessage()


def test_batches_wait_for_the_first_one(functions):
    """Whichever is faster, the first batch decides whether a function works at all."""
    with Rewards(flags("rewards.py:faulty", grader_workers=4), Grader()) as rewards:
        rewards.begin(1)
        tree, texts = star(2), ["a", "b"]
        pending = [rewards.submit({"problem": "?", "how": "raise 1"}, tree, texts)]
        pending += [rewards.submit({"problem": "?", "how": "nan 9"}, tree, texts) for _ in "abc"]
        with pytest.raises(BadInput, match="first batch"):
            pending[0].result()
        assert [future.result() for future in pending[1:]] == [[0.0, 1.0]] * 3


def test_leaving_does_not_wait_for_a_function_that_hangs(functions):
    start = time.monotonic()
    with Rewards(flags("rewards.py:faulty", reward_timeout=300.0), Grader()) as rewards:
        scores(rewards, ["a"], how="hang 99")
        rewards.begin(2)
        for _ in range(3):
            rewards.submit({"problem": "?", "how": "hang 1"}, star(1), ["a"])
        time.sleep(0.3)
        running = grading_servers() + grading_workers()
    assert time.monotonic() - start < 30
    assert len(running) == 2 and not any(map(psutil.Process.is_running, running))


def test_a_function_may_use_the_network(functions):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            connection, _ = server.accept()
            connection.sendall(b"42")
            connection.close()

        thread = threading.Thread(target=answer)
        thread.start()
        with Rewards(flags("rewards.py:call_out"), Grader()) as rewards:
            port = server.getsockname()[1]
            assert same(scores(rewards, ["a", "b"], port=port), [4, 2])
        thread.join()


# --- What can be told before ---


@pytest.mark.parametrize(
    "argv, says",
    [
        (["rewards.py"], "--reward_funcs rewards.py: must be FILE.py:function, or task"),
        (["rewards:length"], "must be FILE.py:function"),
        (["accuracy_reward"], "must be FILE.py:function"),
        (["missing.py:f"], "missing.py can't be read (No such file or directory)"),
        (["rewards.py:lengthy"], "rewards.py has no function lengthy"),
        (["broken.py:f"], "broken.py is no Python file (line 2: "),
        (["task", "task"], "--reward_funcs task: is there twice"),
        (["rewards.py:length", "--reward_weights", "1", "2"], "--reward_weights 1.0 2.0: must be"),
        (["rewards.py:length", "--reward_weights", "inf"], "must be finite numbers"),
        (["rewards.py:length", "--reward_timeout", "0"], "--reward_timeout 0.0: must be above 0"),
        (["rewards.py:length", "--grade_noise", "0.1"], "--grade_noise 0.1: flips the grades of"),
        (["rewards.py:length", "--prune_threshold", "1"], "no group has rewards so far apart"),
    ],
)
def test_bad_flags(functions, argv, says, capsys):
    (functions / "broken.py").write_text("import os\ndef f(:\n")
    argv = [*words(functions / "run"), "--reward_funcs", *argv]
    assert says in refused(lambda: train_treerpo.read_flags(sys.argv[1:]), argv, capsys)


def test_large_rewards_may_have_a_large_threshold(functions):
    argv = ["--prune_threshold", "3", "--reward_funcs", "rewards.py:length", "--scale_rewards"]
    assert train_treerpo.read_flags([*argv, "none"]).prune_threshold == 3


@pytest.mark.parametrize(
    "text, says",
    [
        ("import no_such_judge", "ModuleNotFoundError: No module named 'no_such_judge'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("import sys; sys.exit()", "exit code 0"),
        ("length = 3", "TypeError: odd.py:length is no function"),
        ("from os.path import *", "has no attribute 'length'"),
    ],
)
def test_a_file_that_cannot_be_imported_is_named(functions, text, says):
    (functions / "odd.py").write_text(f"{text}\nif False:\n    def length(): pass\n")
    with pytest.raises(BadInput) as error, Rewards(flags("odd.py:length"), Grader()):
        pass
    message = str(error.value)
    assert message.startswith("--reward_funcs odd.py:length: can't be imported (")
    assert says in message and not grading_servers()


def test_nothing_of_the_file_is_run_by_a_mistyped_flag(functions):
    (functions / "loud.py").write_text("raise SystemExit(7)\ndef f(): pass\n")
    with pytest.raises(BadInput, match="no function g"):
        train_treerpo.read_flags(["--reward_funcs", "loud.py:g"])
    assert train_treerpo.read_flags(["--reward_funcs", "loud.py:f"]).reward_funcs == ["loud.py:f"]


# --- Whole runs ---


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run in which completions get no score. Its data has no answers."""
    folder = tmp_path_factory.mktemp("odd")
    (folder / "rewards.py").write_text(FUNCTIONS)
    problems = [{"problem": row["problem"]} for row in arithmetic.problems("train")[:24]]
    (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in problems))
    train(folder / "run", **named(folder))
    return folder


def named(folder, **changes):
    return {
        "reward_funcs": f"{folder}/rewards.py:odd",
        "dataset_name": folder / "sums.jsonl",
        **changes,
    }


def test_a_run_with_completions_that_get_no_score(whole):
    rows = read(whole / "run" / "metrics.jsonl")
    assert [row["update"] for row in rows] == [1, 2, 3, 4]
    assert rows[-1]["grader"]["reward_batches"] == 16
    assert 0 < rows[-1]["grader"]["unscored"] < sum(row["leaves"] for row in rows)
    for row in rows:
        assert 0 < row["rewards/odd/mean"] <= 1 and row["rewards/odd/std"] >= 0
        assert 0 < row["reward"] <= 1
        assert row["leaf_pass_rate"] == pytest.approx(row["rewards/odd/mean"])
        assert not row["bad_update"]
    assert all(row["trained_tokens"] for row in rows)
    nodes = [node for tree in read(whole / "run" / "trees.jsonl") for node in tree["nodes"]]
    rewards = [node["reward"] for node in nodes]
    assert None in rewards and any(isinstance(reward, float) for reward in rewards)
    assert all(node["advantage"] == 0 for node in nodes if node["reward"] is None)
    assert "reward ?" in (whole / "run" / "trees.html").read_text()
    # Strict JSON, in which there is no NaN.
    for name in ("trees.jsonl", "metrics.jsonl"):
        assert not re.search(r"\bNaN\b", (whole / "run" / name).read_text())


def test_resumed_equals_uninterrupted(whole, tmp_path):
    train(tmp_path, **named(whole, max_steps=2))
    resumed = train(tmp_path, "--resume_from_checkpoint", **named(whole))
    expected = read(whole / "run" / "metrics.jsonl")
    for row in resumed + expected:
        del row["grader"]  # counts since the process started
    assert untimed(resumed) == untimed(expected)
    assert_same_tensors(adapter(tmp_path), adapter(whole / "run"))
    assert read(tmp_path / "trees.jsonl") == read(whole / "run" / "trees.jsonl")


def test_two_processes_equal_one(whole, tmp_path):
    script(*TWO_PROCESSES, *words(tmp_path, **named(whole)))
    assert_same_but_for_rounding(tmp_path, whole / "run")
    rows, expected = read(tmp_path / "metrics.jsonl"), read(whole / "run" / "metrics.jsonl")
    for row, other in zip(rows, expected, strict=True):
        for key in ("rewards/odd/mean", "rewards/odd/std", "leaf_pass_rate", "leaves"):
            assert row[key] == pytest.approx(other[key], abs=1e-6)


def faulty(folder, how):
    (folder / "one.jsonl").write_text(json.dumps({"problem": "2 + 3", "how": how}) + "\n")
    return {
        "reward_funcs": "rewards.py:faulty",
        "dataset_name": folder / "one.jsonl",
        "prompts_per_update": 1,
        "num_minibatches": 1,
        "max_steps": 6,
        "save_steps": 1,
        "save_total_limit": 9,
        "reward_timeout": 2,
        "max_bad_updates": 2,
    }


@pytest.mark.parametrize("what", ["hang", "exit", "nan", "strings", "few"])
def test_a_run_whose_function_fails_at_once_trains_nothing(functions, what, capsys):
    argv = words(functions / "run", **faulty(functions, f"{what} 1"))
    said = refused(train_treerpo.main, argv, capsys)
    assert "rewards.py:faulty" in said and dict(KINDS)[what].split(" 1 ")[0] in said
    assert not (functions / "run" / "metrics.jsonl").exists()
    assert not (functions / "run" / "checkpoints").exists()


@pytest.mark.parametrize("what", ["hang", "exit", "nan", "strings", "few"])
def test_a_run_whose_function_fails_later_stops_in_one_line(functions, what, capsys):
    changes = faulty(functions, f"{what} 3")
    output = functions / "run"
    said = refused(train_treerpo.main, words(output, **changes), capsys)
    assert said.startswith(
        "error: --max_bad_updates: a reward function failed in each of 2 updates"
    )
    assert "rewards.py:faulty" in said and dict(KINDS)[what].split(" 1 ")[0] in said
    assert "update 4 is saved" in said
    rows = read(output / "metrics.jsonl")
    assert [row["reward"] is None for row in rows] == [False, False, True, True]
    assert [row["grader"].get("reward_failures", 0) for row in rows] == [0, 0, 1, 2]
    assert rows[2]["trained_tokens"] == rows[3]["trained_tokens"] == 0
    assert all(node["reward"] is None for node in read(output / "trees.jsonl")[-1]["nodes"])
    assert load_file(output / "checkpoints" / "step-000004" / "adapter_model.safetensors")


def test_a_run_goes_on_once_its_function_is_mended(functions, capsys):
    changes = faulty(functions, "exit 2")
    output = functions / "run"
    refused(train_treerpo.main, words(output, **changes | {"save_steps": 0}), capsys)
    # The function is mended; the checkpoint is whole.
    text = (functions / "rewards.py").read_text()
    mended = text.replace("what, first_bad = how[0].split()", "first_bad = 99")
    (functions / "rewards.py").write_text(mended)
    rows = train(output, "--resume_from_checkpoint", **changes | {"max_steps": 4})
    assert [row["update"] for row in rows] == [1, 2, 3, 4]
    assert rows[-1]["reward"] is not None and (output / "adapter").exists()


def test_failures_that_are_not_in_a_row_do_not_stop_a_run(functions):
    text = FUNCTIONS.replace("< int(first_bad)", "not in (2, 4)")
    (functions / "rewards.py").write_text(text)
    rows = train(functions / "run", **faulty(functions, "nan 0"))
    assert [row["reward"] is None for row in rows] == [False, True, False, True, False, False]


def test_a_reward_out_of_bounds_stops_before_the_update_learns(functions, capsys):
    changes = {**faulty(functions, "few 99"), "reward_funcs": "rewards.py:length"}
    text = FUNCTIONS.replace("len(text) / 10", "len(text) * columns['trainer_state'].global_step")
    (functions / "rewards.py").write_text(text)
    output = functions / "run"
    said = refused(train_treerpo.main, words(output, **changes), capsys)
    assert "--scale_rewards variance needs rewards from 0 to 1, and rewards.py:length gave" in said
    assert len(read(output / "metrics.jsonl")) == 1
    rows = train(functions / "other", **{**changes, "scale_rewards": "none", "max_steps": 2})
    assert max(row["reward"] for row in rows) > 1
    # The curve of its rewards is drawn to its top; nothing is said to be right.
    curve = (functions / "other" / "learning_curve.svg").read_text()
    assert "depth 1" in curve and "training leaves" not in curve


def test_data_without_answers_is_evaluated_on_other_data_or_not_at_all(functions, caplog):
    changes = {**faulty(functions, "nan 9"), "max_steps": 1, "save_steps": 0, "eval_steps": 1}
    (row,) = train(functions / "run", **changes)
    assert row["update"] == 1
    (record,) = caplog.records
    assert "one.jsonl has no answers, so there are no evaluations" in record.getMessage()
    rows = train(functions / "other", "--benchmarks", "arithmetic[:2]", **changes)
    assert [list(row["evaluation"]) for row in rows if "evaluation" in row] == [
        ["arithmetic[:2]"],
        ["arithmetic[:2]"],
    ]


def test_the_example_of_the_documentation(tmp_path, monkeypatch):
    """As written: the file, then both commands, with a table of ten rows."""
    text = (ROOT / "docs" / "rewards.md").read_text()
    blocks = re.findall(r"(?:^    .*\n|^\n(?=\n*    ))+", text, flags=re.M)
    source = next(block for block in blocks if "# rewards.py" in block)
    (tmp_path / "rewards.py").write_text(re.sub("^    ", "", source.lstrip("\n"), flags=re.M))
    table = "problem\n" + "".join(f"What is {n} + {n}?\n" for n in range(10))
    (tmp_path / "ten.csv").write_text(table)
    monkeypatch.chdir(tmp_path)
    commands = [line.split() for line in text.splitlines() if line.startswith("    python train")]
    assert len(commands) == 2
    for number, command in enumerate(commands):
        rows = train(tmp_path / str(number), *command[2:], max_steps=2)
        assert len(rows) == 2 and "rewards/brief/mean" in rows[-1]
    assert {"rewards/task/mean", "rewards/near/mean"} <= rows[-1].keys()
