"""The recipes: what they say of memory, and that every setting of the paper's is live."""

import re
import sys
from operator import add, mul, sub, truediv

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT, TINY_BASE
from peft import LoraConfig, get_peft_model
from test_scripts import read
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

import budget
import train_treerpo

# The sizes of the paper's models, as their configurations give them.
QWEN = {
    "1.5b": dict(
        hidden_size=1536, intermediate_size=8960, num_attention_heads=12, vocab_size=151936
    ),
    "7b": dict(
        hidden_size=3584, intermediate_size=18944, num_attention_heads=28, vocab_size=152064
    ),
}
KEY_VALUE_HEADS = {"1.5b": 2, "7b": 4}
# GiB of the GPU that each recipe says it fits.
RECIPES = {
    "paper-qwen2.5-math-1.5b": 80,
    "paper-qwen2.5-math-1.5b-lora": 24,
    "paper-qwen2.5-math-7b": 80,
    "grpo-qwen2.5-math-1.5b": 80,
    "grpo-qwen2.5-math-1.5b-equal-tokens": 80,
    "grpo-qwen2.5-math-7b": 80,
}


def recipe_flags(name: str, *more: str) -> train_treerpo.Flags:
    argv = ["--config", str(ROOT / "recipes" / f"{name}.yaml"), *more]
    return train_treerpo.read_flags(argv)


def model_without_weights(size: str, flags: train_treerpo.Flags):
    """The model that the trainer would build, on the meta device: shapes and dtypes, no numbers."""
    config = Qwen2Config(
        **QWEN[size],
        num_hidden_layers=28,
        num_key_value_heads=KEY_VALUE_HEADS[size],
        tie_word_embeddings=size == "1.5b",
        max_position_embeddings=4096,
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            config, dtype=torch.bfloat16 if flags.use_peft else torch.float32
        )
        if flags.use_peft:
            lora = LoraConfig(r=flags.lora_r, target_modules="all-linear", task_type="CAUSAL_LM")
            model = get_peft_model(model, lora)
    return model


def described(name: str, gib: int, monkeypatch, *more: str) -> str:
    flags = recipe_flags(name, *more)
    model = model_without_weights("7b" if "7b" in name else "1.5b", flags)
    monkeypatch.setattr(budget, "device_memory", lambda device: gib * budget.GIB)
    return budget.describe(
        flags, model, flags.max_prompt_length, 1, torch.device("cuda"), torch.bfloat16
    )


@pytest.mark.parametrize("name", RECIPES)
def test_each_recipe_fits_the_gpu_it_names(name, monkeypatch):
    text = described(name, RECIPES[name], monkeypatch)
    assert "may not fit" not in text, text
    assert ("reference" in text) == (not recipe_flags(name).use_peft)


def test_what_does_not_fit_is_named(monkeypatch):
    text = described("paper-qwen2.5-math-1.5b", 24, monkeypatch, "--max_rows", "512")
    assert "sampling may not fit: lower --max_rows" in text and "training may not fit" in text


def test_seven_billion_weights_do_not_fit(monkeypatch):
    """Why the 7B recipe has an adapter."""
    assert "training may not fit" in described(
        "paper-qwen2.5-math-7b", 80, monkeypatch, "--use_peft", "false"
    )


def test_equal_tokens_are_equal():
    tree, flat = (
        recipe_flags("paper-qwen2.5-math-1.5b"),
        recipe_flags("grpo-qwen2.5-math-1.5b-equal-tokens"),
    )
    steps = sum(8**d for d in (1, 2, 3))
    assert steps * tree.step_tokens == 224_256
    assert (
        flat.branching == [round(224_256 / flat.step_tokens)]
        and flat.depth * flat.step_tokens == 1152
    )


# SmolLM2-135M, as its checkpoint's config gives it.
SMOLLM2 = dict(
    vocab_size=49152,
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    max_position_embeddings=8192,
    tie_word_embeddings=True,
)


def smollm2_without_weights(flags: train_treerpo.Flags):
    """The model of the smollm2 recipes, on the meta device."""
    with torch.device("meta"):
        base = AutoModelForCausalLM.from_config(LlamaConfig(**SMOLLM2), dtype=torch.bfloat16)
        assert 134e6 < base.num_parameters() < 135e6
        lora = LoraConfig(r=flags.lora_r, target_modules="all-linear", task_type="CAUSAL_LM")
        return get_peft_model(base, lora)


SMALL_REAL = ["smollm2-svamp", "smollm2-gsm8k"]
TOKENS_PER_PROMPT = {"smollm2-svamp": 280, "smollm2-gsm8k": 1008}


@pytest.mark.parametrize("name", SMALL_REAL)
def test_the_small_real_model_fits_a_small_gpu(name, monkeypatch):
    flags = recipe_flags(name)
    model = smollm2_without_weights(flags)
    monkeypatch.setattr(budget, "device_memory", lambda device: 24 * budget.GIB)
    longest = flags.max_prompt_length
    text = budget.describe(flags, model, longest, 1, torch.device("cuda"), torch.bfloat16)
    assert "may not fit" not in text, text


@pytest.mark.parametrize("name", SMALL_REAL)
def test_the_small_real_models_recipes_cost_the_same(name):
    tree, flat = recipe_flags(name), recipe_flags(f"{name}-grpo")
    widths = np.cumprod(tree.branching)
    assert widths.sum() * tree.step_tokens == TOKENS_PER_PROMPT[name]
    assert flat.branching[0] * flat.step_tokens == TOKENS_PER_PROMPT[name]
    # A completion is as long as the tree's longest path.
    assert tree.depth * tree.step_tokens == flat.depth * flat.step_tokens
    changed = {field for field, value in vars(tree).items() if value != getattr(flat, field)}
    assert changed == {"branching", "depth", "step_tokens", "scale_rewards"}


@pytest.mark.parametrize("name", SMALL_REAL)
def test_the_small_real_models_prompt_is_its_chat_templates(name):
    """The worked turns and the problem's, as the template of SmolLM2 writes them."""
    template = recipe_flags(name).prompt_template
    turns = re.findall(r"<\|im_start\|>(user|assistant)\n(.*?)(?:<\|im_end\|>\n|$)", template, re.S)
    assert [role for role, _ in turns] == ["user", "assistant"] * 4
    assert turns[-2:] == [("user", "{problem}"), ("assistant", "")]
    rendered = "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in turns[:-1])
    assert template == rendered + "<|im_start|>assistant\n"


@pytest.mark.parametrize("name", SMALL_REAL)
def test_the_small_real_models_worked_turns_are_right(name):
    template = recipe_flags(name).prompt_template
    equations = re.findall(r"(\d+) ([-+*/]) (\d+) = (\d+)\.", template)
    assert len(equations) >= 3
    for left, sign, right, result in equations:
        exact = {"+": add, "-": sub, "*": mul, "/": truediv}[sign](int(left), int(right))
        assert exact == int(result)
    answers = re.findall(r"= (\d+)\. The answer is \\boxed\{(\d+)\}\.", template)
    assert len(answers) == 3 and all(result == boxed for result, boxed in answers)


@pytest.mark.parametrize("twin", ["", "-grpo"])
@pytest.mark.parametrize("name", SMALL_REAL)
def test_the_small_real_models_recipes_on_the_tiny_base(name, twin, tmp_path):
    output = tmp_path / "run"
    sys.argv = [
        "train_treerpo.py",
        *("--config", str(ROOT / "recipes" / f"{name}{twin}.yaml")),
        *("--model_name_or_path", str(TINY_BASE), "--prompt_template", "{problem}"),
        *("--dataset_name", "arithmetic", "--benchmarks", "arithmetic[:2]"),
        *("--prompts_per_update", "2", "--max_steps", "1", "--save_steps", "0"),
        *("--max_prompt_length", "64", "--output_dir", str(output)),
    ]
    train_treerpo.main()
    (row,) = [row for row in read(output / "metrics.jsonl") if "reward" in row]
    assert 0 < row["sampled_tokens"] <= 2 * TOKENS_PER_PROMPT[name] and row["learning_rate"] == 0


def test_the_papers_settings():
    """The table of settings in the paper, one by one."""
    flags = recipe_flags("paper-qwen2.5-math-1.5b")
    assert (
        flags.branching == [8, 8, 8] and flags.step_tokens == 384 and flags.max_prompt_length == 512
    )
    assert (flags.temperature, flags.top_p, flags.prompts_per_update, flags.num_minibatches) == (
        0.6,
        1.0,
        128,
        2,
    )
    assert (flags.learning_rate, flags.lr_scheduler_type, flags.warmup_steps) == (
        1e-6,
        "constant",
        0,
    )
    assert (flags.max_grad_norm, flags.beta, flags.entropy_coef, flags.epsilon) == (
        1.0,
        0.001,
        0.001,
        0.2,
    )
    assert (flags.scale_rewards, flags.prune_threshold, flags.use_peft, flags.num_samples) == (
        "variance",
        0.1,
        False,
        8,
    )
    baseline = recipe_flags("grpo-qwen2.5-math-1.5b")
    assert (
        baseline.branching == [8]
        and baseline.step_tokens == 1152
        and baseline.scale_rewards == "group"
    )
    changed = {name for name, value in vars(flags).items() if value != getattr(baseline, name)}
    assert changed == {
        "config",
        "branching",
        "depth",
        "step_tokens",
        "scale_rewards",
        "prune_threshold",
    } - {"config"}


def test_every_setting_of_the_paper_is_live(tmp_path):
    """The paper's recipe on the tiny base, its sizes cut by flags: three updates of two optimizer
    steps each."""
    output = tmp_path / "run"
    sys.argv = [
        "train_treerpo.py",
        "--config",
        str(ROOT / "recipes" / "paper-qwen2.5-math-1.5b.yaml"),
        "--model_name_or_path",
        str(TINY_BASE),
        "--dataset_name",
        "arithmetic",
        "--benchmarks",
        "arithmetic[:8]",
        "--branching",
        "4",
        "--step_tokens",
        "16",
        "--prompts_per_update",
        "8",
        "--max_steps",
        "3",
        "--max_prompt_length",
        "32",
        "--max_pack_tokens",
        "512",
        "--max_new_tokens",
        "48",
        "--num_samples",
        "8",
        "--output_dir",
        str(output),
    ]
    train_treerpo.main()
    rows = [row for row in read(output / "metrics.jsonl") if "reward" in row]
    learned = [row for row in rows if row["grad_norm"] is not None]
    assert len(rows) == 3 and learned
    # The first optimizer step is at the initial policy; the second of the update has left it.
    assert all(0 < row["kl"] < 0.01 for row in learned) and all(
        row["entropy_trained"] > 0 for row in learned
    )
    assert all(row["learning_rate"] == 1e-6 for row in rows)
    config = yaml.safe_load((output / "config.yaml").read_text())
    assert (config["scale_rewards"], config["prune_threshold"], config["num_minibatches"]) == (
        "variance",
        0.1,
        2,
    )
    assert "avg@8" in read(output / "metrics.jsonl")[0]["evaluation"]["arithmetic[:8]"]
