"""Every script as a user runs it: small runs from end to end, resuming, several processes, and bad
input."""

import ast
import copy
import json
import math
import os
import subprocess
import sys

import pytest
import torch
import yaml
from conftest import REAL_DATA, ROOT, TINY_BASE, fault, random_model
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import get_scheduler

import eval_math
import policy
import train_treerpo
from learner import Learner, UpdateResult, trained_counts, update_policy
from packing import pack, split_trees
from policy import token_logprobs
from run.errors import BadInput, run_script
from run.flags import parse_flags
from tree_sampler import TreeSampler

SMALL = {
    "dataset_name": "arithmetic",
    "branching": 2,
    "depth": 2,
    "step_tokens": 24,
    "max_prompt_length": 32,
    "max_pack_tokens": 128,
    "max_rows": 64,
    "prompts_per_update": 4,
    "max_steps": 4,
    "learning_rate": 2e-4,
    "save_steps": 2,
    "seed": 3,
    "eval_steps": 0,
    "num_minibatches": 2,
    "entropy_coef": 0.01,
}


def words(output, **changes):
    settings = {**SMALL, "output_dir": output, **changes}
    return [
        part
        for name, value in settings.items()
        if value is not None
        for part in (f"--{name}", str(value))
    ]


def script(*command):
    """Runs a script in its own process from another folder, as users do, and returns what it
    printed."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def train(output, *more, **changes):
    """A training run in this process."""
    sys.argv = ["train_treerpo.py", *words(output, **changes), *more]
    train_treerpo.main()
    return read(output / "metrics.jsonl")


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def untimed(rows):
    return [
        {k: v for k, v in row.items() if not k.startswith("seconds") and k != "grader"}
        for row in rows
    ]


def assert_same_tensors(tensors, expected):
    """To the last bit."""
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)


def adapter(output):
    return load_file(output / "adapter" / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One run, made by the script itself, that several tests look at."""
    output = tmp_path_factory.mktemp("runs") / "whole"
    printed = script(
        sys.executable,
        "train_treerpo.py",
        *words(output, eval_steps=2, num_samples=2, report_to="tensorboard"),
        "--benchmarks",
        "arithmetic[:6]",
    )
    return output, printed


def test_a_run_leaves_what_it_promises(finished):
    output, printed = finished
    config = yaml.safe_load((output / "config.yaml").read_text())
    assert (
        config["branching"] == [2, 2]
        and config["versions"]["torch"]
        and config["loss_type"] == "dapo"
    )
    rows = read(output / "metrics.jsonl")
    assert [r["update"] for r in rows if "reward" in r] == [1, 2, 3, 4]
    assert [r["update"] for r in rows if "evaluation" in r] == [0, 2, 4]
    row = next(r for r in rows if "reward" in r)
    assert row["leaves"] <= 4 * 4 and row["trained_tokens"] <= row["sampled_tokens"]
    for key in (
        "leaf_pass_rate",
        "step_reward_depth_1",
        "step_reward_depth_2",
        "group_std_depth_1",
        "kept_groups_share",
        "completion_length",
        "unfinished_share",
        "entropy",
        "grad_norm",
        "clip_share",
        "logprob_difference_max",
        "learning_rate",
        "seconds_sample",
        "seconds_grade",
        "seconds_update",
        "seconds_processor",
        "grader",
    ):
        assert key in row, key
    differences = [row.get("logprob_difference_max") for row in rows]
    assert max(filter(None, differences)) < 1e-4
    assert sorted(p.name for p in (output / "checkpoints").iterdir()) == [
        "step-000002",
        "step-000004",
    ]
    (evaluation,) = (output / "eval").iterdir()
    completions = read(evaluation)
    assert (
        len(completions) == 6 * 3
        and {"completion", "grade", "length", "finished"} <= completions[0].keys()
    )
    trees = read(output / "trees.jsonl")
    assert (
        len(trees) == 4
        and {"parent", "text", "reward", "advantage", "finished"} <= trees[0]["nodes"][1].keys()
    )
    assert (output / "learning_curve.png").stat().st_size > 10_000 and (
        output / "learning_curve.svg"
    ).exists()
    assert (output / "trees.html").exists()
    assert list(output.glob("treerpo/events*"))
    assert "Before and after 4 updates" in printed and f"--adapter {output}/adapter" in printed


def test_eval_math_loads_the_adapter(finished, tmp_path):
    output, _ = finished
    printed = script(
        sys.executable,
        "eval_math.py",
        "--adapter",
        output / "adapter",
        "--benchmarks",
        "arithmetic[:6]",
        "--num_samples",
        2,
        "--seed",
        3,
        "--output_dir",
        tmp_path,
        "--max_new_tokens",
        48,
        "--seed",
        3,
    )
    assert "avg@2" in printed and "maj@2" in printed
    scores = json.loads((tmp_path / "scores.json").read_text())["scores"]["arithmetic[:6]"]
    last = read(output / "metrics.jsonl")[-1]["evaluation"]["arithmetic[:6]"]
    assert scores == last  # the trainer's evaluation is eval_math's own


# Python's own encoding is ASCII here, as in a locale that lacks ± and ✓; on Windows it is cp1252.
ASCII_LOCALE = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def test_the_locale_decides_nothing(tmp_path):
    """Files are UTF-8, also those that are read; what a terminal can't show is escaped."""
    question = {"problem": "Wie groß ist 2+3?", "answer": "5"}
    (tmp_path / "fragen.jsonl").write_text(
        json.dumps(question, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    (tmp_path / "flags.yaml").write_text('prompt_template: "Löse: {problem}"\n', encoding="utf-8")
    command = [
        sys.executable,
        "train_treerpo.py",
        "--config",
        tmp_path / "flags.yaml",
        *words(
            tmp_path / "run",
            max_steps=1,
            save_steps=0,
            eval_steps=1,
            num_samples=2,
            max_prompt_length=99,
            max_pack_tokens=256,
            prompts_per_update=2,
            dataset_name=tmp_path / "fragen.jsonl",
        ),
        "--benchmarks",
        "arithmetic[:2]",
    ]
    done = subprocess.run(list(map(str, command)), capture_output=True, cwd=ROOT, env=ASCII_LOCALE)
    assert done.returncode == 0 and b"\\xb1" in done.stdout, done.stderr[-3000:]
    viewer = (tmp_path / "run" / "trees.html").read_text(encoding="utf-8")
    assert {"✓", "✗"} & set(viewer) and "Wie groß ist" in viewer
    assert (
        "Löse"
        in yaml.safe_load((tmp_path / "run" / "config.yaml").read_text(encoding="utf-8"))[
            "prompt_template"
        ]
    )


def test_every_text_file_is_opened_as_utf_8():
    """No call in the suite leaves the encoding of a file, or of a pipe, to the locale."""
    left = []
    folders = [ROOT, *(ROOT / name for name in ("answers", "benchmarks", "data", "results", "run"))]
    for path in (path for folder in folders for path in folder.glob("*.py")):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and leaves_encoding(call):
                left.append(f"{path.name}:{call.lineno}")
    assert not left


def leaves_encoding(call: ast.Call) -> bool:
    """Whether a call opens, reads or writes text and names no encoding."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    if name in ("run", "Popen", "check_output"):
        return bool({"text", "universal_newlines"} & given.keys()) and "encoding" not in given
    owner = getattr(getattr(call.func, "value", None), "id", "")
    if name not in ("open", "read_text", "write_text") or (
        name == "open" and owner in ("os", "Image")
    ):
        return False
    constants = [
        str(one.value) for one in [*call.args, given.get("mode")] if isinstance(one, ast.Constant)
    ]
    if any(text.startswith("/proc/") for text in constants):  # ASCII whatever the locale
        return False
    binary = name == "open" and any(
        set(text) <= set("rwaxb+") and "b" in text for text in constants
    )
    return not binary and "encoding" not in given


@pytest.mark.parametrize(
    "source, left",
    [
        ("open(path)", True),
        ("path.open('a')", True),
        ("path.write_text(text)", True),
        ("subprocess.run(command, text=True)", True),
        ("open(path, 'rb')", False),
        ("path.open(mode='wb')", False),
        ("path.read_text(encoding='utf-8')", False),
        ("os.open(path, os.O_RDONLY)", False),
        ("open('/proc/self/stat')", False),
    ],
)
def test_what_leaves_the_encoding_to_the_locale(source, left):
    assert leaves_encoding(ast.parse(source).body[0].value) == left


def test_resumed_equals_uninterrupted(finished, tmp_path):
    """Bit for bit, also where the killed run had passed its checkpoint and ended inside a line."""
    whole, _ = finished
    rows = train(
        tmp_path, "--benchmarks", "arithmetic[:6]", max_steps=3, eval_steps=2, num_samples=2
    )
    assert [r["update"] for r in rows if "reward" in r] == [1, 2, 3]
    (tmp_path / "checkpoints" / "step-000003").rename(
        tmp_path / "checkpoints" / "step-000003.partial"
    )
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"update": 4, "rew')
    resumed = train(
        tmp_path,
        "--benchmarks",
        "arithmetic[:6]",
        "--resume_from_checkpoint",
        max_steps=4,
        eval_steps=2,
        num_samples=2,
    )
    assert untimed(resumed) == untimed(read(whole / "metrics.jsonl"))
    assert_same_tensors(adapter(tmp_path), adapter(whole))
    assert read(tmp_path / "trees.jsonl") == read(whole / "trees.jsonl")


def test_a_run_resumes_with_other_benchmarks_and_samples(tmp_path, capsys):
    """What both evaluations have is compared; what only one has is shown. The plot takes all of
    them."""
    first = dict(max_steps=1, save_steps=1, eval_steps=1, num_samples=2)
    train(tmp_path, "--benchmarks", "arithmetic[:3]", **first)
    capsys.readouterr()
    train(
        tmp_path,
        "--benchmarks",
        "arithmetic[:3]",
        "arithmetic[3:5]",
        "--resume_from_checkpoint",
        **{**first, "max_steps": 2, "num_samples": 3},
    )
    printed = capsys.readouterr().out
    assert "Before and after 2 updates:" in printed and "At update 1 and at update 2:" in printed
    gains = [line for line in printed.splitlines() if line.startswith("gain in points: ")]
    assert "pass@1 " in gains[0] and "avg@" not in gains[0] and "avg@3 " in gains[1]


def test_evaluations_may_begin_as_a_run_resumes(tmp_path, capsys, caplog):
    train(tmp_path, max_steps=2, save_steps=1)
    capsys.readouterr()
    more = dict(max_steps=3, save_steps=1, eval_steps=3, num_samples=0, max_new_tokens=8)
    rows = train(tmp_path, "--resume_from_checkpoint", "--benchmarks", "arithmetic[:2]", **more)
    assert [row["update"] for row in rows if "evaluation" in row] == [3]
    assert "At update 3 (there is no other evaluation" in capsys.readouterr().out
    assert "--max_new_tokens was 48 and is 8" in caplog.text


@pytest.mark.parametrize("schedule", ["cosine", "linear", "polynomial"])
def test_a_longer_run_has_the_rates_of_the_longer_schedule(schedule, tmp_path):
    changes = dict(lr_scheduler_type=schedule, warmup_steps=1, save_steps=1, prompts_per_update=2)
    train(tmp_path, **changes, max_steps=3)
    rows = train(tmp_path, "--resume_from_checkpoint", **changes, max_steps=6)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=SMALL["learning_rate"])
    fresh, expected = get_scheduler(schedule, optimizer, 1, 6), []
    for _ in range(6):
        expected.append(fresh.get_last_lr()[0])
        optimizer.step()
        fresh.step()
    assert [row["learning_rate"] for row in rows[3:]] == expected[3:] and min(expected[3:]) > 0


def test_what_a_resume_refuses_and_sets_aside(tmp_path, capsys, caplog):
    run, other = tmp_path / "run", tmp_path / "other"
    flags = dict(save_steps=1, save_total_limit=3, prompts_per_update=2)
    train(run, **flags, max_steps=3)
    train(other, **flags, max_steps=1)
    resume = ["--resume_from_checkpoint", run / "checkpoints" / "step-000002"]
    assert "has made 2 updates already" in refused(
        train_treerpo.main, [*words(run, **flags, max_steps=1), *resume], capsys
    )
    assert "--warmup_steps 5, not 2" in refused(
        train_treerpo.main, [*words(run, **flags, max_steps=3, warmup_steps=2), *resume], capsys
    )
    before = (other / "metrics.jsonl").read_bytes()
    assert "holds another run than that of" in refused(
        train_treerpo.main, [*words(other, **flags, max_steps=3), *resume], capsys
    )
    assert (other / "metrics.jsonl").read_bytes() == before
    # It was made before these two flags were there.
    state_path = run / "checkpoints" / "step-000002" / "trainer_state.json"
    state = json.loads(state_path.read_text())
    del state["flags"]["refill_zero_signal"], state["flags"]["lora_target_modules"]
    state_path.write_text(json.dumps(state))
    sys.argv = ["train_treerpo.py", *words(run, **flags, max_steps=2), *map(str, resume)]
    train_treerpo.main()
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == [
        "step-000001",
        "step-000002",
        "step-000003.old",
    ]
    assert "step-000003.old now" in caplog.text
    assert [row["update"] for row in read(run / "metrics.jsonl")] == [1, 2]


def test_all_weights_with_a_kl_term_resume_exactly(tmp_path):
    """The reference is the initial policy, also after a resume."""
    changes = dict(
        use_peft="false",
        beta=0.05,
        learning_rate=1e-4,
        max_steps=3,
        save_steps=1,
        prompts_per_update=12,
    )
    whole = train(tmp_path / "whole", **changes)
    train(tmp_path / "parts", **{**changes, "max_steps": 2})
    resumed = train(tmp_path / "parts", "--resume_from_checkpoint", **changes)
    assert untimed(resumed) == untimed(whole)
    weights = "model/model.safetensors"
    assert_same_tensors(
        load_file(tmp_path / "parts" / weights), load_file(tmp_path / "whole" / weights)
    )
    assert resumed[-1]["kl"] > 1e-7  # of the weights that two updates have moved


# `accelerate launch --cpu` starts one process, whatever --num_processes says, unless mpirun is
# there.
TWO_PROCESSES = [
    sys.executable,
    "-m",
    "accelerate.commands.launch",
    "--multi_gpu",
    "--num_processes",
    2,
    "--num_machines",
    1,
    "--mixed_precision",
    "no",
    "--dynamo_backend",
    "no",
    "train_treerpo.py",
]


def test_two_processes_equal_one(finished, tmp_path):
    with fault("two processes, stopped and resumed: the same run as one"):
        for updates, resume in ((2, []), (4, ["--resume_from_checkpoint"])):
            flags = [
                *words(tmp_path, eval_steps=2, num_samples=2, max_steps=updates),
                "--benchmarks",
                "arithmetic[:6]",
            ]
            assert "each of 2 processes" in script(*TWO_PROCESSES, *flags, *resume)
        assert_same_but_for_rounding(tmp_path, finished[0])


def test_fsdp_equals_one_process(finished, tmp_path):
    """Each process holds half of the frozen weights, and they have unlike numbers of packs, at
    times none."""
    launch = [
        *TWO_PROCESSES[:3],
        "--config_file",
        "recipes/accelerate/fsdp.yaml",
        "--num_processes",
        2,
    ]
    with fault("two processes under FSDP, stopped and resumed: the same run as one"):
        for updates, resume in ((2, []), (4, ["--resume_from_checkpoint"])):
            flags = [
                *words(tmp_path, eval_steps=2, num_samples=2, max_steps=updates),
                "--benchmarks",
                "arithmetic[:6]",
            ]
            script(*launch, "train_treerpo.py", *flags, *resume)
        assert_same_but_for_rounding(tmp_path, finished[0])


def test_two_machines_equal_one(finished, tmp_path, namespaces):
    flags = [*words(tmp_path, eval_steps=2, num_samples=2), "--benchmarks", "arithmetic[:6]"]
    with fault("two machines (network namespaces): the same run as one process"):
        printed = script(
            *namespaces, "bash", "tests/faults/two_machines.sh", sys.executable, *flags
        )
        assert "each of 2 processes" in printed
        assert_same_but_for_rounding(tmp_path, finished[0])


def assert_same_but_for_rounding(output, whole):
    torch.testing.assert_close(adapter(output), adapter(whole), atol=1e-6, rtol=0)
    rows, expected_rows = read(output / "metrics.jsonl"), read(whole / "metrics.jsonl")
    for row, expected in zip(rows, expected_rows, strict=True):
        assert row.get("evaluation") == expected.get("evaluation")
        for key in (
            "reward",
            "sampled_tokens",
            "trained_tokens",
            "completion_length",
            "loss",
            "grad_norm",
        ):
            assert row.get(key) == pytest.approx(expected.get(key), abs=1e-5)


def test_training_raises_the_reward(tmp_path):
    changes = dict(
        max_steps=12,
        prompts_per_update=16,
        branching="4",
        depth=3,
        max_pack_tokens=1024,
        learning_rate=1e-3,
    )
    rows = train(tmp_path, **changes)
    first, last = (sum(r["leaf_pass_rate"] for r in part) / 4 for part in (rows[:4], rows[-4:]))
    assert last > first + 0.1


@pytest.mark.parametrize(
    "changes",
    [
        dict(depth=1, step_tokens=72, scale_rewards="group", loss_type="grpo"),
        dict(advantage="outcome", loss_type="dr_grpo", num_iterations=2, epsilon_high=0.28),
        dict(beta=0.1, branching="3,2", temperature=0.7, top_p=0.9, advantage="treerl"),
        dict(
            use_peft=False,
            gradient_checkpointing=True,
            attn_implementation="eager",
            learning_rate=1e-5,
            beta=0.001,
        ),
        dict(
            step_delimiter="\\n",
            branching="2,2,2,1,2,1,1",
            depth=None,
            max_pack_tokens=256,
            prompts_per_update=6,
            prune_threshold=0.1,
            lr_scheduler_type="cosine",
            gradient_checkpointing=True,
        ),
    ],
)
def test_variants_run_and_learn_something(changes, tmp_path):
    rows = train(
        tmp_path,
        **{"branching": 4, "prompts_per_update": 8, **changes, "max_steps": 2, "save_steps": 0},
    )
    # An update whose groups were all pruned has no gradient.
    learned = [row for row in rows if row["grad_norm"] is not None]
    assert len(rows) == 2 and learned and all(r["grad_norm"] > 0 for r in learned)
    assert all((r["kl"] is not None) == ("beta" in changes) for r in learned)
    if "step_delimiter" in changes:
        texts = [n["text"] for tree in read(tmp_path / "trees.jsonl") for n in tree["nodes"][1:]]
        assert any(t.endswith("\n") for t in texts) and all("\n" not in t[:-1] for t in texts)


def sampled_batch(
    model, tokenizer, flags, prompts=("7-2+3*4\n", "2*3+4\n", "8-5+1\n", "9+1*2\n", "6*2-3\n")
):
    """Trees of a few prompts with random rewards, and their advantages."""
    sampler = TreeSampler(model, tokenizer, flags.branching, flags.depth, flags.step_tokens)
    trees = sampler.sample([tokenizer.encode(text) for text in prompts], list(range(len(prompts))))
    generator = torch.Generator().manual_seed(0)
    rewards = [
        torch.randint(0, 2, (len(tree.parent),), generator=generator).float() for tree in trees
    ]
    return trees, train_treerpo.credit(trees, rewards, flags)[1]


@pytest.fixture
def small_model(tiny_base):
    """The tiny base with an adapter that is not zero, and an optimizer."""
    model = get_peft_model(copy.deepcopy(tiny_base), LoraConfig(r=4, target_modules="all-linear"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02, generator=torch.Generator().manual_seed(1))
    return model


def small_flags(**changes):
    shape = dict(branching=[3, 2], depth=2, step_tokens=12)
    return train_treerpo.Flags(**shape, prompts_per_update=5, scale_rewards="variance", **changes)


def small_learner(model, tokenizer, flags, rate=0.1):
    """A learner whose steps are those of plain gradient descent."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=rate)
    scheduler = get_scheduler("constant", optimizer)
    return Learner(model, tokenizer, optimizer, scheduler, train_treerpo.Accelerator(), flags)


def test_two_minibatches_equal_two_updates_made_by_hand(small_model, tokenizer):
    """Each on the trees of its part, with its own count of tokens; ratios to the policy that
    sampled the trees."""
    flags = small_flags(num_minibatches=2, entropy_coef=0.1, max_grad_norm=0.5)
    trees, advantages = sampled_batch(small_model, tokenizer, flags)
    by_hand, start = copy.deepcopy(small_model), copy.deepcopy(small_model.state_dict())

    def optimizer_of(model):
        return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)

    learner = small_learner(small_model, tokenizer, flags, rate=0.5)
    result = update_policy(learner, trees, advantages, update=7)

    counts = [trained_counts(*pair)[0] for pair in zip(trees, advantages)]
    parts = split_trees(counts, 2, [flags.seed, 7])
    assert all(len(part) >= 2 for part in parts)
    optimizer, norms, by_hand = optimizer_of(by_hand), [], by_hand.train()
    for part in parts:
        optimizer.zero_grad()
        total, tokens = 0.0, sum(counts[i] for i in part)
        for i in part:
            for node, advantage in enumerate(advantages[i].tolist()):
                if advantage:
                    ids = torch.tensor([trees[i].prompt_ids + trees[i].completion_ids(node)])
                    count = len(trees[i].tokens[node])
                    logprobs = by_hand(ids).logits[0, -count - 1 : -1].log_softmax(-1)
                    entropies = -(logprobs.exp() * logprobs).sum(-1)
                    own = logprobs.gather(1, trees[i].tokens[node][:, None]).squeeze(1)
                    ratio = (own - trees[i].logprobs[node]).exp()
                    surrogate = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
                    total = total - (surrogate + 0.1 * entropies).sum() / tokens
        total.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(by_hand.parameters(), 0.5)))
        optimizer.step()
    found, expected = dict(small_model.named_parameters()), dict(by_hand.named_parameters())
    moved = [name for name in found if not torch.equal(found[name].data, start[name])]
    assert len(moved) > 10
    for name in found:
        torch.testing.assert_close(found[name], expected[name], atol=1e-5, rtol=1e-4)
    assert result.grad_norm == pytest.approx(sum(norms) / 2, rel=1e-4)


def test_every_result_has_the_same_keys(small_model, tokenizer):
    """Also that of an update without signal, and of one whose gradient is not finite."""
    flags = small_flags(beta=0.1, entropy_coef=0.1)
    trees, advantages = sampled_batch(small_model, tokenizer, flags)
    learner = small_learner(small_model, tokenizer, flags)
    whole = update_policy(learner, trees, advantages)
    assert all(value is not None for value in vars(whole).values()) and not whole.bad_update
    nothing = update_policy(learner, trees, [0 * values for values in advantages])
    assert nothing == UpdateResult(trained_tokens=0, learning_rate=0.1)
    before = copy.deepcopy(small_model.state_dict())
    bad = update_policy(learner, trees, [math.inf * values for values in advantages])
    assert bad.bad_update and bad.loss is None and bad.trained_tokens > 0
    assert all(
        torch.equal(before[name], value) for name, value in learner.model.state_dict().items()
    )
    assert vars(whole).keys() == vars(nothing).keys() == vars(bad).keys()


def test_passes_multiply_minibatches(small_model, tokenizer, monkeypatch):
    flags = small_flags(num_minibatches=2, num_iterations=3)
    trees, advantages = sampled_batch(small_model, tokenizer, flags)
    learner = small_learner(small_model, tokenizer, flags)
    steps = []
    monkeypatch.setattr(learner.optimizer, "step", lambda: steps.append(1))
    update_policy(learner, trees, advantages)
    assert len(steps) == 6


def test_the_frozen_copy_is_the_initial_policy(small_model, tiny_base, tokenizer):
    """It gives what the model gives with its adapter disabled, at the start and after the model has
    moved."""
    trees, advantages = sampled_batch(small_model, tokenizer, small_flags())
    (p,) = pack(trees, advantages, 10_000)
    model = copy.deepcopy(tiny_base)
    reference = train_treerpo.frozen_copy(model, torch.float32)
    assert (
        not any(parameter.requires_grad for parameter in reference.parameters())
        and not reference.training
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
    with torch.no_grad(), small_model.disable_adapter():
        torch.testing.assert_close(
            token_logprobs(reference, p), token_logprobs(small_model, p), atol=1e-6, rtol=0
        )
        assert (token_logprobs(model, p) - token_logprobs(reference, p)).abs().max() > 0.1


def test_grade_noise_flips_grades(tmp_path):
    right, wrong = (
        train(tmp_path / str(noise), max_steps=1, save_steps=0, grade_noise=noise)[0][
            "leaf_pass_rate"
        ]
        for noise in (0, 1)
    )
    assert right + wrong == pytest.approx(1)


def test_out_of_memory_halves_the_packs_and_changes_nothing_else(tmp_path, monkeypatch, caplog):
    changes = dict(
        branching=4, max_steps=2, save_steps=0, learning_rate=1e-3, num_iterations=2, beta=0.01
    )
    changes |= dict(entropy_coef=0.0)
    expected = train(tmp_path / "roomy", **changes)
    logprobs = policy.token_logprobs

    def tight(model, pack, *sampling):
        found = logprobs(model, pack, *sampling)
        if len(pack.input_ids) > 100:
            raise torch.OutOfMemoryError("out of memory")
        return found

    monkeypatch.setattr("learner.token_logprobs", tight)
    monkeypatch.setattr("policy.token_logprobs", logprobs)
    rows = train(tmp_path / "tight", **changes, max_pack_tokens=400)
    assert "continuing with --max_pack_tokens 100" in caplog.text
    for a, b in zip(expected, rows, strict=True):
        for key in ("reward", "loss", "grad_norm", "kl", "trained_tokens"):
            assert a.get(key) == pytest.approx(b.get(key), abs=1e-4), key
    assert (
        yaml.safe_load((tmp_path / "tight" / "config.yaml").read_text())["max_pack_tokens"] == 400
    )


def test_out_of_memory_with_a_single_path_says_what_to_lower(tmp_path, monkeypatch, capsys):
    def full(*args):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr("learner.token_logprobs", full)
    argv = words(tmp_path, branching=4, max_steps=3, learning_rate=1e-3, entropy_coef=0.0)
    assert "error: out of memory: a path of" in refused(train_treerpo.main, argv, capsys)


def test_dry_run_says_what_an_update_costs_and_writes_nothing(tmp_path, capsys):
    sys.argv = [
        "train_treerpo.py",
        *words(tmp_path / "run", prompts_per_update=8, branching=3),
        "--dry_run",
    ]
    train_treerpo.main()
    printed = capsys.readouterr().out
    assert "8 trees of 9 leaves, 2,304 tokens sampled" in printed and "may not fit" not in printed
    assert not (tmp_path / "run").exists()
    sys.argv += ["--max_rows", "1000000000", "--prompts_per_update", "1000000"]
    train_treerpo.main()
    assert "sampling may not fit: lower --max_rows" in capsys.readouterr().out


def test_help_teaches():
    printed = script(sys.executable, "train_treerpo.py", "--help")
    assert (
        "children of an unfinished node" in printed
        and "Each update goes through four phases" in printed
    )


def refused(main, argv, capsys):
    """The one line that bad input gets; nothing but exit code 2 will do."""
    sys.argv = ["script", *map(str, argv)]
    with fault("bad input of any kind: one clear line, exit code 2"):
        with pytest.raises(SystemExit) as stop:
            run_script(main)
        assert stop.value.code == 2
        lines = capsys.readouterr().err.strip().splitlines()
        errors = [line for line in lines if line.startswith("error: ")]
        assert len(errors) == 1 and "Traceback" not in "\n".join(lines)
        return errors[0]


@pytest.mark.parametrize(
    "argv, says",
    [
        (["--brnching", "4"], "unknown flag --brnching; did you mean --branching?"),
        (["--max_steps", "many"], "--max_steps"),
        (["--config", "none.yaml"], "--config none.yaml"),
        (["--branching", "1"], "--branching 1: steps without siblings"),
        (["--branching", "4,0"], "--branching 0: must be at least 1"),
        (["--depth", "0"], "--depth 0: must be at least 1"),
        (["--step_tokens", "0"], "--step_tokens 0: must be at least 1"),
        (["--temperature", "0"], "--temperature"),
        (
            ["--scale_rewards", "std"],
            "invalid choice: 'std' (choose from 'variance', 'deviation', 'group', 'none')",
        ),
        (
            ["--scale_rewards", "bernoulli"],
            "--scale_rewards: bernoulli is called deviation now; the paper's scale is variance",
        ),
        (["--scale-rewards=bernoulli"], "bernoulli is called deviation now"),
        (["--advantage", "grpo"], "GRPO is the tree of depth 1: write --depth 1"),
        (
            ["--num_minibatches", "5"],
            "--num_minibatches 5: more parts than trees; at most --prompts_per_update 4",
        ),
        (["--num_minibatches", "0"], "--num_minibatches 0: must be at least 1"),
        (["--entropy_coef", "-1"], "--entropy_coef -1.0: must be at least 0"),
        (["--bf16", "true"], "--bf16"),
        (["--max_pack_tokens", "10"], "--max_pack_tokens 10"),
        (["--lr_scheduler_type", "zigzag"], "zigzag"),
        (["--lora_target_modules", "nonsense"], "nonsense"),
        (["--dataset_name", "no-such-set"], "--dataset_name no-such-set: not found"),
        (["--dataset_name", "none.jsonl"], "none.jsonl: no such file"),
        (
            ["--answer_column", "gold", "--dataset_name", str(ROOT / "tests" / "none.csv")],
            "none.csv: no such file",
        ),
        (["--max_prompt_length", "2"], "--max_prompt_length 2: every prompt is longer"),
        (
            ["--model_name_or_path", "/no/such/folder"],
            "--model_name_or_path /no/such/folder: no such folder",
        ),
        (["--prompt_template", "no place"], "--prompt_template"),
        (["--resume_from_checkpoint"], "--resume_from_checkpoint: no checkpoint"),
        (["--resume_from_checkpoint", "/no/such/step"], "not a complete checkpoint"),
        (["--attn_implementation", "magic"], "magic"),
    ],
)
def test_bad_flags(argv, says, tmp_path, capsys):
    main = train_treerpo.main
    assert says in refused(main, [*words(tmp_path / "run"), *argv], capsys)
    assert not (tmp_path / "run" / "config.yaml").exists() or "resume" in argv[0]


def test_a_launch_by_deepspeed_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")  # as accelerate launch sets it
    assert "DeepSpeed is not supported" in refused(
        train_treerpo.main, words(tmp_path / "run"), capsys
    )


def test_fsdp_needs_an_adapter(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")  # as accelerate launch sets it
    argv = words(tmp_path / "run", use_peft="false")
    assert "--use_peft false: FSDP" in refused(train_treerpo.main, argv, capsys)


def test_recipes_extend_and_the_command_line_wins(tmp_path):
    (tmp_path / "base.yaml").write_text("depth: 2\nbranching: [4, 2]\nlearning_rate: 1.0e-4\n")
    (tmp_path / "arm.yaml").write_text("extends: base.yaml\ndepth: 3\n")
    argv = ["--config", str(tmp_path / "arm.yaml"), "--learning_rate=0.5", "--use-peft", "false"]
    flags = parse_flags(train_treerpo.Flags, argv, "")
    assert (flags.depth, flags.branching, flags.learning_rate, flags.use_peft) == (
        3,
        [4, 2],
        0.5,
        False,
    )
    # The demo and the exam have few prompts per update, for one process.
    of_one_process = {"demo.yaml", "demo-grpo.yaml", "exam.yaml"}
    of_one_process |= {"evidence-chain.yaml", "evidence-exam.yaml"}
    for recipe in (ROOT / "recipes").glob("*.yaml"):
        if recipe.name not in of_one_process:
            train_treerpo.check_processes(train_treerpo.read_flags(["--config", str(recipe)]), 8)


def test_bad_yaml(tmp_path, capsys):
    for text, says in (
        ("learning_rte: 1", "unknown key learning_rte; did you mean learning_rate?"),
        ("- 1", "keys and values"),
        ("a: [", "bad.yaml"),
        ("depth: deep", "--depth"),
    ):
        (tmp_path / "bad.yaml").write_text(text)
        assert says in refused(train_treerpo.main, ["--config", tmp_path / "bad.yaml"], capsys)


def test_bad_models(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    main = train_treerpo.main
    assert "can't be loaded" in refused(
        main, words(tmp_path / "run", model_name_or_path=tmp_path / "empty"), capsys
    )
    (tmp_path / "empty" / "config.json").write_text('{"model_type": "vit"}')
    assert "can't be loaded" in refused(
        main, words(tmp_path / "run", model_name_or_path=tmp_path / "empty"), capsys
    )
    endless = tmp_path / "endless"
    random_model("qwen2").save_pretrained(endless)
    settings = json.loads((TINY_BASE / "tokenizer_config.json").read_text())
    (endless / "tokenizer.json").write_bytes((TINY_BASE / "tokenizer.json").read_bytes())
    (endless / "tokenizer_config.json").write_text(json.dumps({**settings, "eos_token": None}))
    assert "no end token" in refused(
        main, words(tmp_path / "run", model_name_or_path=endless), capsys
    )


def test_another_run_is_not_overwritten(finished, capsys):
    output, _ = finished
    before = (output / "metrics.jsonl").read_bytes()
    assert "holds another run" in refused(train_treerpo.main, words(output), capsys)
    assert "--learning_rate 0.0002, not 0.002" in refused(
        train_treerpo.main, [*words(output, learning_rate=2e-3), "--resume_from_checkpoint"], capsys
    )
    assert (output / "metrics.jsonl").read_bytes() == before


def test_long_prompts_are_counted_and_rows_without_an_answer_named(tmp_path, capsys, caplog):
    rows = [
        {"problem": "2+3", "answer": "5"},
        {"problem": "1" * 10**6, "answer": "1"},
        {"problem": "9"},
    ]
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    train(
        tmp_path / "run",
        dataset_name=tmp_path / "mine.jsonl",
        prompt_template="{problem}\\n",
        max_steps=1,
    )
    assert "1 prompts longer than max_prompt_length 32" in caplog.text
    assert "skipped 1 row without a problem or an answer (rows 3)" in caplog.text


def test_bad_evaluations(tmp_path, capsys):
    main = eval_math.main
    assert "--adapter" in refused(main, ["--adapter", tmp_path], capsys)
    assert "--num_samples -1" in refused(main, ["--num_samples", "-1"], capsys)
    assert "none.jsonl: no such file" in refused(main, ["--benchmarks", "none.jsonl"], capsys)
    assert "did you mean --benchmarks?" in refused(main, ["--benchmark", "arithmetic"], capsys)


def test_processes_must_divide_the_prompts():
    with pytest.raises(BadInput, match="multiple of the 3 processes"):
        train_treerpo.check_processes(train_treerpo.Flags(), 3)


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="the real problem sets are not here")
def test_real_problems_through_the_tiny_base(tmp_path):
    """Its vocabulary is too small for words, but every part of the way must work."""
    rows = train(
        tmp_path,
        dataset_name="gsm8k[:20]",
        data_dir=REAL_DATA,
        max_prompt_length=400,
        max_pack_tokens=2048,
        max_steps=1,
        step_tokens=4,
    )
    assert rows[0]["reward"] >= 0
