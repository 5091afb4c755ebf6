"""Fresh prompts in the place of those without signal: which ones, how often, and how they count."""

import itertools
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import random_tree
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
from generate import Stream
from run.session import Session
from train_treerpo import Flags, Prompts, Rollout, prompt_order, refill

# --- Which prompts ---


def slow_order(count, position, seed, attempt):
    """The problem at one position: go round the epoch's second shuffle, one place at a time."""
    epoch = position // count
    problem = np.random.default_rng([seed, epoch]).permutation(count)[position % count]
    ring = np.random.default_rng([seed, epoch, 1]).permutation(count).tolist()
    for _ in range(attempt):
        problem = ring[ring.index(problem) + 1 - count]
    return problem


@pytest.mark.parametrize("count", [1, 5, 7])
@pytest.mark.parametrize("attempt", [0, 1, 3, 9])
def test_the_order_of_each_attempt(count, attempt):
    expected = [slow_order(count, position, 3, attempt) for position in range(4, 19)]
    assert prompt_order(count, 4, 19, 3, attempt) == expected


def test_an_epoch_of_every_attempt_has_every_problem_once():
    for attempt in range(5):
        assert sorted(prompt_order(9, 18, 27, 0, attempt)) == list(range(9))


def test_no_problem_is_tried_twice_in_a_place_before_all_were():
    attempts = [prompt_order(9, 0, 30, 5, attempt) for attempt in range(9)]
    for tried in zip(*attempts, strict=True):
        assert sorted(tried) == list(range(9))


def make_prompts(count, **changes):
    problems = [{"id": str(index)} for index in range(count)]
    return Prompts(problems, [[index + 2] for index in range(count)], Flags(**changes))


def process(index, of):
    return SimpleNamespace(process_index=index, num_processes=of)


@pytest.mark.parametrize("attempt", [0, 2])
def test_processes_share_the_places_of_every_attempt(attempt):
    prompts = make_prompts(10, prompts_per_update=8, seed=4)
    whole = prompts.batch(3, process(0, 1), attempt)
    parts = [prompts.batch(3, process(index, 4), attempt) for index in range(4)]
    for values, values_of_parts in zip(whole, zip(*parts, strict=True), strict=True):
        assert values == list(itertools.chain(*values_of_parts))
    assert whole.prompts == [[int(problem["id"]) + 2] for problem in whole.problems]
    assert whole.at([5, 1]).seeds == [whole.seeds[5], whole.seeds[1]]


def test_no_two_trees_have_the_same_seed():
    """Neither in a run, nor in runs of neighbouring and of the largest seeds."""
    seeds = []
    for seed in (0, 1, 2**32 - 1):
        prompts = make_prompts(10, prompts_per_update=4, seed=seed)
        for update, attempt in itertools.product((1, 2, 10**6), range(101)):
            seeds += prompts.batch(update, process(0, 1), attempt).seeds
    assert len(set(seeds)) == len(seeds) == 3 * 3 * 101 * 4
    draws = {Stream(seed, (0, 1)).uniforms(1).item() for seed in seeds}
    assert len(draws) == len(seeds)


# --- How often ---


def made_up_rollout(problem, seed):
    """A tree whose seed decides whether it has signal: about half of them do."""
    tree = random_tree(np.random.default_rng(seed), 4)
    has_signal = np.random.default_rng([seed, 7]).random() < 0.5
    advantages = torch.tensor([0.0, 1.0, -1.0, 0.0]) * has_signal
    return Rollout({**problem, "seed": seed}, tree, torch.zeros(4), advantages)


def fill_by_definition(prompts, update, most):
    """Place after place: take the next attempt until there is signal or `most` are used."""
    trained, replaced = [], []
    for slot in range(prompts.flags.prompts_per_update):
        for attempt in range(most + 1):
            (problem,), _, (seed,) = prompts.batch(update, process(0, 1), attempt).at([slot])
            rollout = made_up_rollout(problem, seed)
            if rollout.advantages.any() or attempt == most:
                trained.append(rollout.problem)
                break
            replaced.append(rollout.problem)
    return trained, replaced


@pytest.mark.parametrize("most", [0, 1, 2, 5])
@pytest.mark.parametrize("processes", [1, 2])
def test_refilling_against_the_definition(most, processes, monkeypatch):
    rounds = []

    def roll_out(training, grader, session, batch):
        rounds.append(len(batch.prompts))
        return list(map(made_up_rollout, batch.problems, batch.seeds))

    monkeypatch.setattr(train_treerpo, "roll_out", roll_out)
    prompts = make_prompts(30, prompts_per_update=12, refill_zero_signal=most)
    for update in (1, 2):
        problems_trained, problems_replaced = [], []
        for index in range(processes):
            learner = SimpleNamespace(flags=prompts.flags, accelerator=process(index, processes))
            training = SimpleNamespace(learner=learner, prompts=prompts)
            batch = prompts.batch(update, learner.accelerator)
            first = roll_out(training, None, None, batch)
            rounds.clear()
            trained, replaced = refill(training, None, None, update, first)
            # What has signal stays the very tree it was, and no round is made for nothing.
            for before, after in zip(first, trained, strict=True):
                assert after is before or (most and not before.has_signal)
            assert len(rounds) <= most and all(rounds) and sum(rounds) == len(replaced)
            problems_trained += [rollout.problem for rollout in trained]
            problems_replaced += [rollout.problem for rollout in replaced]
        expected_trained, expected_replaced = fill_by_definition(prompts, update, most)
        assert problems_trained == expected_trained
        by_seed = {"key": lambda problem: problem["seed"]}
        assert sorted(problems_replaced, **by_seed) == sorted(expected_replaced, **by_seed)


# --- Runs ---

# With this seed all cases occur: a process without any round, places that are filled by the first
# or by the second attempt, and one that stays without signal.
REFILLED = dict(
    refill_zero_signal=2, branching=3, max_steps=2, save_steps=1, warmup_steps=1, seed=9
)


@pytest.fixture(scope="module")
def refilled(tmp_path_factory):
    """A run with refilling, and for each update what was trained and what was replaced."""
    output = tmp_path_factory.mktemp("runs") / "refilled"
    updates = []

    def watched(training, grader, session, update, first):
        trained, replaced = refill(training, grader, session, update, first)
        updates.append((first, trained, replaced))
        return trained, replaced

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_treerpo, "refill", watched)
        rows = train(output, **REFILLED)
    return output, rows, updates


def tokens(rollouts):
    return sum(len(ids) for rollout in rollouts for ids in rollout.tree.tokens)


def test_counts_and_figures(refilled):
    """Means are over the first trees; tokens over all; what is trained over what was put in."""
    output, rows, updates = refilled
    assert len(rows) == 2
    for row, (first, trained, replaced) in zip(rows, updates, strict=True):
        fresh = [rollout for rollout in trained if all(rollout is not one for one in first)]
        assert fresh and row["replaced_trees"] == len(replaced) >= len(fresh)
        assert row["replaced_tokens"] == tokens(replaced) > 0
        assert row["sampled_tokens"] == tokens(trained) + tokens(replaced)
        assert row["trained_tokens"] == sum(
            len(rollout.tree.tokens[node])
            for rollout in trained
            for node in rollout.advantages.nonzero().flatten().tolist()
        )
        means = [rollout.rewards[0].item() for rollout in first]
        assert row["reward"] == pytest.approx(sum(means) / 4)
        assert row["all_right_share"] == means.count(1) / 4
        assert row["all_wrong_share"] == means.count(0) / 4
    # The viewer's trees are those that were trained.
    shown = [record["nodes"][0]["reward"] for record in read(output / "trees.jsonl")]
    assert shown == [trained[0].rewards[0].item() for _, trained, _ in updates]


def test_without_the_flag_the_same_first_trees_and_none_replaced(refilled, tmp_path):
    _, rows, _ = refilled
    (plain,) = train(tmp_path, **{**REFILLED, "refill_zero_signal": 0, "max_steps": 1})
    assert plain["replaced_trees"] == plain["replaced_tokens"] == 0
    assert plain["sampled_tokens"] < rows[0]["sampled_tokens"]
    assert plain["trained_tokens"] < rows[0]["trained_tokens"]
    of_first_trees = [name for name in plain if name.startswith(("all_", "step_", "group_"))]
    for name in ("reward", "leaf_pass_rate", "entropy", "leaves", *of_first_trees):
        assert plain[name] == rows[0][name], name


def test_resumed_equals_uninterrupted(refilled, tmp_path):
    output, rows, _ = refilled
    train(tmp_path, **{**REFILLED, "max_steps": 1})
    resumed = train(tmp_path, "--resume_from_checkpoint", **REFILLED)
    assert untimed(resumed) == untimed(rows)
    assert_same_tensors(adapter(tmp_path), adapter(output))
    assert read(tmp_path / "trees.jsonl") == read(output / "trees.jsonl")


FSDP = ["--config_file", "recipes/accelerate/fsdp.yaml", "--num_processes", 2]


@pytest.mark.parametrize(
    "launch",
    [TWO_PROCESSES, [*TWO_PROCESSES[:3], *FSDP, "train_treerpo.py"]],
    ids=["whole", "fsdp"],
)
def test_two_processes_equal_one(launch, refilled, tmp_path):
    """Also where one of them makes rounds and the other one does not."""
    output, rows, updates = refilled
    rounds = []  # whether each process makes any, by update
    for first, _, _ in updates:
        places = [not rollout.has_signal for rollout in first]
        rounds.append((any(places[:2]), any(places[2:])))
    assert (False, True) in rounds and (True, True) in rounds
    script(*launch, *words(tmp_path, **REFILLED))
    assert_same_but_for_rounding(tmp_path, output)
    for row, expected in zip(read(tmp_path / "metrics.jsonl"), rows, strict=True):
        for name in ("replaced_trees", "replaced_tokens", "all_right_share", "all_wrong_share"):
            assert row[name] == expected[name]


# --- Flags, cost and time ---


@pytest.mark.parametrize(
    "value, says",
    [(-1, "must be at least 0"), (101, "must be at most 100"), (1.5, "--refill_zero_signal")],
)
def test_bad_values(value, says, tmp_path, capsys):
    argv = words(tmp_path, refill_zero_signal=value)
    assert says in refused(train_treerpo.main, argv, capsys)


def test_a_resumed_run_must_refill_as_before(refilled, tmp_path, capsys):
    output, _, _ = refilled
    argv = [*words(output, **{**REFILLED, "refill_zero_signal": 1}), "--resume_from_checkpoint"]
    assert "--refill_zero_signal 2, not 1" in refused(train_treerpo.main, argv, capsys)


def test_a_dry_run_says_what_refilling_can_cost(tmp_path, capsys):
    sys.argv = ["train_treerpo.py", *words(tmp_path, refill_zero_signal=4), "--dry_run"]
    train_treerpo.main()
    # 4 trees of 2 + 4 steps of 24 tokens.
    assert "at most 2,880 tokens sampled" in capsys.readouterr().out


def test_seconds_of_a_phase_leave_out_the_phases_inside(monkeypatch):
    """And those of a phase that comes again are added up."""
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    session = Session.__new__(Session)
    session.seconds = {}
    with session.timed("sample"):
        now[0] += 1
        for _ in range(2):
            with session.timed("grade"):
                now[0] += 10
            now[0] += 100
    with session.timed("update"):
        now[0] += 1000
    expected = {"seconds_grade": 20, "seconds_sample": 201, "seconds_update": 1000}
    assert session.seconds == expected
