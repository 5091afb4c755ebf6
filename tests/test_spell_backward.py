"""reasoning-gym's spell_backward: its pupil, its tiny base and its recipe."""

import random

import pytest
import torch
from conftest import ROOT
from transformers import AutoModelForCausalLM, AutoTokenizer

import train_treerpo
from data.pupils import spell_backward as pupil
from data.tiny_bases import TINY_BASES

NAME = "reasoning_gym:spell_backward"


def test_the_pupil_asks_as_reasoning_gym_does():
    module = pytest.importorskip("reasoning_gym")
    item = module.create_dataset("spell_backward", seed=0, size=1)[0]
    assert item["question"] == pupil.QUESTION.format(word=item["metadata"]["word"])
    lengths = {
        len(row["metadata"]["word"])
        for row in module.create_dataset("spell_backward", seed=1, size=400)
    }
    assert (min(lengths), max(lengths)) == (pupil.SHORTEST, pupil.LONGEST)


def test_a_careful_pupil_spells_the_word_backward():
    rng = random.Random(0)
    assert {pupil.spell("Sunday", 0.0, rng) for _ in range(20)} == {"yadnuS"}
    for _ in range(50):
        *lines, boxed = pupil.write_solution("sun", 0.0, rng).split("\n")
        assert boxed == "\\boxed{nus}" and set(lines) <= {"nus"}
        assert len(lines) <= pupil.MOST_LINES


def test_each_slip_changes_one_letter():
    rng = random.Random(0)
    spelled = {pupil.spell("ab", 1.0, rng) for _ in range(2000)}
    # Both letters go wrong: left out, doubled, swapped, or another.
    assert {"", "bb", "aa", "bbaa", "ab"} <= spelled
    assert all(len(text) <= 4 for text in spelled)


def test_the_base_spells_and_slips():
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(TINY_BASES[NAME], padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(TINY_BASES[NAME])
    words = ["window", "Peter", "harmonic", "sky", "candle"] * 20
    prompts = [f"\n{pupil.QUESTION.format(word=word)}\n" for word in words]
    batch = tokenizer(prompts, padding=True, return_tensors="pt")
    written = model.generate(**batch, max_new_tokens=48, do_sample=True, top_k=0)
    texts = tokenizer.batch_decode(written[:, batch.input_ids.size(1) :], skip_special_tokens=True)
    right = [text.endswith(f"\\boxed{{{word[::-1]}}}") for word, text in zip(words, texts)]
    assert 0.05 < sum(right) / len(right) < 0.5


def test_its_name_alone_has_the_recipe_and_the_base(monkeypatch):
    pytest.importorskip("reasoning_gym")
    by_name = train_treerpo.read_flags(["--dataset_name", NAME])
    recipe = str(ROOT / "recipes" / "spell-backward.yaml")
    assert by_name == train_treerpo.read_flags(["--config", recipe])
    assert by_name.model_name_or_path == str(TINY_BASES[NAME])
    # Another of its tasks has arithmetic's.
    other = train_treerpo.read_flags(["--dataset_name", "reasoning_gym:chain_sum"])
    assert other.model_name_or_path == str(TINY_BASES["arithmetic"])
