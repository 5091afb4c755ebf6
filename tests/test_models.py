"""Which models are taken, and how: stop tokens, generation configs, dropout, positions, damaged
files."""

import json
import shutil
import sys
from types import SimpleNamespace

import pytest
import torch
from conftest import FAMILIES, TINY_BASE, path_logprobs, random_model
from peft import IA3Config, LoraConfig, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from test_scripts import refused, words
from transformers import AddedToken, AutoConfig, AutoModelForCausalLM, AutoTokenizer

import eval_math
import train_treerpo
from generate import end_of_turn, stop_ids
from packing import pack
from policy import check_model, check_sampler, checkpoint_layers, token_logprobs
from run.errors import BadInput
from run.models import load_model
from tree_sampler import TreeSampler

PROMPTS = [[5, 9, 23, 40, 41, 42, 43, 44, 45, 46, 47, 48], [7, 8, 9]]


def other_model(kind: str, scale: float = 6.0, **settings):
    """A random two-layer model of a family that the other tests leave out."""
    sizes = dict(
        vocab_size=100,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=200,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=1,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes | settings)).float()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(scale)
    return model.eval()


def altered(folder, **files):
    """A copy of the tiny base in `folder`; NAME="text" replaces NAME.json and NAME={...} changes
    keys of it."""
    shutil.copytree(TINY_BASE, folder)
    for name, change in files.items():
        path = folder / f"{name}.json"
        text = (
            change
            if isinstance(change, str)
            else json.dumps({**json.loads(path.read_text()), **change})
        )
        path.write_text(text)
    return folder


def load(folder):
    flags = SimpleNamespace(
        model_name_or_path=str(folder), trust_remote_code=False, attn_implementation=None
    )
    return load_model(flags, torch.float32)


def gaps(model, tokenizer, **settings):
    """The largest difference of sampled log-probabilities to plain forward passes, and to those in
    training mode."""
    trees = TreeSampler(model, tokenizer, 2, 2, 10, **settings).sample(PROMPTS, [1, 2])
    with torch.no_grad():
        plain = [
            tree.logprobs[node] - path_logprobs(model, tree, node)
            for tree in trees
            for node in range(1, len(tree.parent))
        ]
    (packed,) = pack(trees, [torch.ones(len(tree.parent)) for tree in trees], 10_000)
    trained = token_logprobs(model.train(), packed).detach() - packed.old_logprobs
    return float(torch.cat(plain).abs().max()), float(trained.abs().max())


# --- The end of a turn ---

TURNS = {
    "tags": (
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|done|>\n{% endfor %}",
        "<|done|>",
    ),
    "stripped": (
        "{% for m in messages %}{{ m.role }}: {{ m.content | trim }} \n <|done|>{% endfor %}",
        "<|done|>",
    ),
    "no system": (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}"
        "{{ m.content }}<|done|>{{ eos_token }}{% endfor %}",
        "<|done|>",
    ),
    "system first": (
        "{% if messages[0].role != 'system' %}{{ raise_exception('system first') }}{% endif %}"
        "{% for m in messages %}{{ m.content }}<|done|>{% endfor %}",
        "<|done|>",
    ),
    "parts": (
        "{% for m in messages %}{% for part in m.content %}"
        "{% if part.type == 'text' %}{{ part.text }}{% endif %}"
        "{% endfor %}<|done|>{% endfor %}",
        "<|done|>",
    ),
    "next turn": ("{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}", "<|user|>"),
    "end token": (
        "{% for m in messages %}<|user|>{{ m.content }}{{ eos_token }}{% endfor %}",
        "<end>",
    ),
    "ordinary text": (
        "{% for m in messages %}{{ m.role }}: {{ m.content }} END\n{% endfor %}",
        None,
    ),
    "a word that was added": ("{% for m in messages %}{{ m.content }} \\boxed{ {% endfor %}", None),
    "questions only": ("{{ messages[-1].content if messages[-1].role == 'user' }}=", None),
    "broken": ("{% for m in messages %}", None),
}


def chat_tokenizer(template, special: bool = True):
    tokenizer = AutoTokenizer.from_pretrained(TINY_BASE)
    names = ("<|user|>", "<|assistant|>", "<|system|>", "<|done|>")
    tokenizer.add_tokens(
        [AddedToken(name, special=special, normalized=False) for name in names],
        special_tokens=special,
    )
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("name", TURNS)
def test_the_end_of_a_turn_is_found(name, special):
    template, expected = TURNS[name]
    tokenizer = chat_tokenizer(template, special)
    ends = tokenizer.convert_ids_to_tokens(end_of_turn(tokenizer))
    assert ends == ([expected] if expected else [])


def test_each_of_several_named_templates_may_end_a_turn():
    tokenizer = chat_tokenizer({"default": TURNS["tags"][0], "tool_use": TURNS["next turn"][0]})
    assert tokenizer.convert_ids_to_tokens(end_of_turn(tokenizer)) == ["<|done|>", "<|user|>"]
    assert end_of_turn(chat_tokenizer(None)) == []


@pytest.mark.parametrize("special", [True, False])
def test_nothing_follows_the_end_of_a_turn(special):
    # Nearly uniform: it says everything sooner or later.
    model = random_model("qwen2", scale=1.0, vocab_size=104)
    tokenizer = chat_tokenizer(TURNS["tags"][0], special)
    end = tokenizer.convert_tokens_to_ids("<|done|>")
    assert stop_ids(model, tokenizer) == [0, end]
    (tree,) = TreeSampler(model, tokenizer, 60, 1, 60).sample([[5, 9, 23]], [0])
    ended = [leaf for leaf in tree.leaves() if end in tree.completion_ids(leaf)]
    assert len(ended) > 5
    for leaf in ended:
        ids = tree.completion_ids(leaf)
        assert ids.index(end) == len(ids) - 1 and tree.finished[leaf]
        assert tree.text_ids(leaf) == ids[:-1]


# --- The sampling policy is the model's ---


@pytest.mark.parametrize(
    "settings",
    [
        dict(suppress_tokens=[30, 31], begin_suppress_tokens=[32]),
        dict(num_beams=3, early_stopping=True, length_penalty=2.0),
        dict(num_beams=2, num_return_sequences=2),
        dict(forced_bos_token_id=20, forced_eos_token_id=21),
        dict(bad_words_ids=[[40], [41, 42]]),
        dict(return_dict_in_generate=True, output_scores=True, output_logits=True),
        dict(cache_implementation="static"),
        dict(cache_implementation="quantized"),
        dict(stop_strings=["1", "+"]),
        dict(min_new_tokens=4, min_length=9),
        dict(sequence_bias=[[[33], 8.0]]),
        dict(guidance_scale=2.5),
        dict(exponential_decay_length_penalty=[1, 2.0]),
        dict(encoder_no_repeat_ngram_size=1, encoder_repetition_penalty=1.7),
        dict(
            do_sample=True, min_p=0.4, typical_p=0.5, epsilon_cutoff=0.1, eta_cutoff=0.1, top_h=0.4
        ),
        dict(prompt_lookup_num_tokens=2),
        dict(penalty_alpha=0.5, top_k=3),
        dict(max_time=1e-6, max_length=4, use_cache=False, token_healing=True),
        dict(watermarking_config={"greenlist_ratio": 0.4, "bias": 4.0}),
    ],
)
def test_a_generation_config_changes_no_tree(settings, tokenizer):
    model = random_model("qwen3", scale=4.0)
    plain = TreeSampler(model, tokenizer, 3, 2, 5).sample(PROMPTS, [1, 2])
    model.generation_config.update(**settings)
    own, before = model.generation_config, model.generation_config.to_dict()
    lora = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    for policy_model in (model, get_peft_model(model, lora)):
        trees = TreeSampler(policy_model, tokenizer, 3, 2, 5).sample(PROMPTS, [1, 2])
        for tree, expected in zip(trees, plain, strict=True):
            ids = [step.tolist() for step in tree.tokens]
            assert ids == [step.tolist() for step in expected.tokens]
        assert model.generation_config is own and own.to_dict() == before


def test_a_config_that_turns_the_cache_off_changes_nothing(tokenizer):
    model = random_model("llama")
    model.config.use_cache = model.generation_config.use_cache = False
    assert max(gaps(model, tokenizer)) < 1e-4


DROPOUT = {
    "gpt2": dict(
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=200,
        attn_pdrop=0.4,
        resid_pdrop=0.4,
        embd_pdrop=0.4,
    ),
    "opt": dict(
        ffn_dim=48, word_embed_proj_dim=32, dropout=0.4, attention_dropout=0.4, layerdrop=0.5
    ),
    # It reads its config in the forward pass.
    "falcon": dict(attention_dropout=0.4, hidden_dropout=0.4),
    "phi3": dict(attention_dropout=0.4, resid_pdrop=0.4, embd_pdrop=0.4),
    "mixtral": dict(
        num_local_experts=4, router_jitter_noise=0.4, attention_dropout=0.4, sliding_window=None
    ),
}


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", DROPOUT)
def test_the_base_models_dropout_is_off_in_training(kind, checkpointing, tokenizer):
    model = other_model(kind, **DROPOUT[kind])
    trees = TreeSampler(model, tokenizer, 2, 2, 6).sample(PROMPTS, [1, 2])
    (packed,) = pack(trees, [torch.ones(len(tree.parent)) for tree in trees], 10_000)

    def gradients():
        model.zero_grad()
        logprobs = token_logprobs(model.train(), packed)
        torch.testing.assert_close(logprobs.detach(), packed.old_logprobs, atol=1e-4, rtol=1e-4)
        logprobs.sum().backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    expected = gradients()
    if checkpointing:
        checkpoint_layers(model)
    torch.testing.assert_close(gradients(), expected, atol=1e-3, rtol=1e-3)


def test_checkpointed_layers_are_computed_twice_and_only_for_gradients():
    model, calls = random_model("qwen2"), []
    model.model.layers[0].self_attn.register_forward_hook(lambda *args: calls.append(1))
    checkpoint_layers(model)
    with torch.no_grad():
        model(torch.tensor([[5, 6]]))
    assert len(calls) == 1
    model(torch.tensor([[5, 6]])).logits.sum().backward()
    assert len(calls) == 3


def test_an_adapters_own_dropout_follows_the_mode(tokenizer):
    lora = LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.5, init_lora_weights=False)
    model = get_peft_model(random_model("qwen2", scale=3.0, attention_dropout=0.5), lora).eval()
    trees = TreeSampler(model, tokenizer, 2, 2, 6).sample(PROMPTS, [1, 2])
    (packed,) = pack(trees, [torch.ones(len(tree.parent)) for tree in trees], 10_000)
    torch.testing.assert_close(
        token_logprobs(model, packed), packed.old_logprobs, atol=1e-4, rtol=1e-4
    )
    model.train()
    first, second = (token_logprobs(model, packed) for _ in range(2))
    assert (first - second).abs().max() > 0.01


ROPES = {
    "dynamic": dict(
        max_position_embeddings=16,
        rope_parameters=dict(rope_type="dynamic", rope_theta=1e4, factor=3.0),
    ),
    "longrope": dict(
        max_position_embeddings=160,
        rope_parameters=dict(
            rope_type="longrope",
            rope_theta=1e4,
            short_factor=[1.0] * 4,
            long_factor=[1.5, 2.0, 4.0, 8.0],
            original_max_position_embeddings=24,
            factor=5.0,
        ),
    ),
    "yarn": dict(
        rope_parameters=dict(
            rope_type="yarn", rope_theta=1e4, factor=4.0, original_max_position_embeddings=16
        )
    ),
}


@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.parametrize("name", ROPES)
def test_rotary_frequencies_stay_the_same_at_every_length(name, family, tokenizer):
    assert max(gaps(random_model(family, **ROPES[name]), tokenizer)) < 1e-4


@pytest.mark.parametrize("name", ["dynamic", "longrope"])
def test_rotary_frequencies_are_settled_only_where_paths_grow_beyond_the_original_length(
    name, tokenizer, caplog
):
    model = random_model("llama", **ROPES[name])
    untouched = model.model.rotary_emb.inv_freq.clone()
    TreeSampler(model, tokenizer, 2, 1, 8).check_prompts([[5] * 8])  # 16 tokens
    assert model.model.rotary_emb.rope_type == name and not caplog.text
    TreeSampler(model, tokenizer, 2, 1, 22).check_prompts([[5] * 8])  # 30
    assert (
        not torch.equal(model.model.rotary_emb.inv_freq, untouched) and "30 tokens" in caplog.text
    )
    settled = model.model.rotary_emb.inv_freq.clone()
    for length in (60, 4):  # no longer or shorter sequence changes them any more
        model(torch.full((1, length), 5))
        assert torch.equal(model.model.rotary_emb.inv_freq, settled)


# --- The check at start-up ---


@pytest.mark.parametrize("family", FAMILIES)
def test_the_check_passes_and_leaves_everything_as_it_was(family, tokenizer):
    model = get_peft_model(
        random_model(family), LoraConfig(r=2, target_modules="all-linear", lora_dropout=0.5)
    )
    state, own = torch.get_rng_state(), model.generation_config
    for training in (True, False):
        model.train(training)
        check_sampler(model, tokenizer, trains=True)
        assert model.training == training and model.generation_config is own
    assert torch.equal(torch.get_rng_state(), state) and all(
        p.grad is None for p in model.parameters()
    )


def test_the_check_refuses_what_is_sampled_otherwise(tokenizer):
    model = random_model("qwen2")
    norm = model.model.norm.forward
    # Dropout in every mode.
    model.model.norm.forward = lambda states: torch.nn.functional.dropout(norm(states), 0.1)
    with pytest.raises(ValueError, match=r"qwen2 with attention sdpa can't be sampled .*differ"):
        check_sampler(model, tokenizer, trains=False)
    two_way = other_model("bert", max_position_embeddings=64)  # a token sees those after it
    with pytest.raises(ValueError, match="bert"):
        check_sampler(two_way, tokenizer, trains=False)
    with pytest.raises(ValueError, match="can't be forked"):
        check_sampler(other_model("mamba"), tokenizer, trains=False)
    damaged = random_model("llama")
    damaged.model.layers[1].mlp.up_proj.weight.data[3, 4] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        check_sampler(damaged, tokenizer, trains=False)


def test_the_check_refuses_what_is_trained_otherwise(tokenizer):
    model = other_model("cohere", logit_scale=0.25)  # scales its logits, which packs leave out
    check_sampler(model, tokenizer, trains=False)
    with pytest.raises(ValueError, match="cohere"):
        check_sampler(model, tokenizer, trains=True)
    with pytest.raises(ValueError, match="cohere with attention sdpa can't be trained"):
        check_model(model)


# --- Tokens and positions that a model lacks ---


def test_tokens_that_the_model_does_not_know(tmp_path, capsys):
    folder = altered(tmp_path / "model")
    chat_tokenizer(TURNS["tags"][0]).save_pretrained(folder)
    problems = tmp_path / "problems.jsonl"
    problems.write_text('{"problem": "2+3", "answer": "5"}\n')
    argv = ["--model_name_or_path", folder, "--output_dir", tmp_path / "out"]
    says = refused(eval_math.main, [*argv, "--benchmarks", problems, "--max_new_tokens", 8], capsys)
    assert "--model_name_or_path" in says and "<|done|>" in says and "knows 100 tokens" in says
    long = dict(
        max_prompt_length=300, max_pack_tokens=512, dataset_name=problems, model_name_or_path=folder
    )
    assert "knows 100 tokens" in refused(
        train_treerpo.main, words(tmp_path / "out", **long), capsys
    )
    assert not (tmp_path / "out").exists()


def test_a_padded_vocabulary_is_normal(tokenizer):
    model = random_model("qwen2", scale=1.0, vocab_size=128)
    (tree,) = TreeSampler(model, tokenizer, 20, 1, 20).sample([[5, 9]], [0])
    ids = tree.completion_ids(1)
    assert any(i >= 100 for leaf in tree.leaves() for i in tree.completion_ids(leaf))
    assert isinstance(tokenizer.decode(ids), str)


@pytest.mark.parametrize(
    "kind, settings", [("opt", DROPOUT["opt"]), ("gpt2", {**DROPOUT["gpt2"], "n_positions": 50})]
)
def test_positions_that_the_model_lacks(kind, settings, tmp_path, capsys, tokenizer):
    model = other_model(kind, **{"max_position_embeddings": 50, **settings})
    fits = TreeSampler(model, tokenizer, 2, 3, 15)
    fits.check_prompts([[5] * 6])
    (tree,) = fits.sample([[5] * 6], [0])
    assert max(len(tree.completion_ids(leaf)) for leaf in tree.leaves()) == 45
    says = f"{kind} has positions for 50 tokens, but a prompt of 7 and 45 new ones need 51"
    with pytest.raises(ValueError, match=says):
        fits.check_prompts([[5], [5] * 7])
    (short,) = fits.sample([[5]], [0])
    longest = max(short.leaves(), key=lambda leaf: len(short.completion_ids(leaf)))
    with pytest.raises(ValueError, match="a prompt of 1 and 60 new ones need 60"):
        fits.extend([short], [{longest: 1}], [0])  # one step more than the sampler's depth
    folder = altered(tmp_path / "model")
    model.save_pretrained(folder)
    argv = [
        "--model_name_or_path",
        folder,
        "--benchmarks",
        "arithmetic[:2]",
        "--output_dir",
        tmp_path / "out",
    ]
    long = [*argv, "--max_new_tokens", "2048"]
    assert "--max_new_tokens 2048: " in refused(eval_math.main, long, capsys)
    argv = words(tmp_path / "out", model_name_or_path=folder)
    assert "--depth 2 and --step_tokens 24: " in refused(train_treerpo.main, argv, capsys)
    argv = words(
        tmp_path / "out", model_name_or_path=folder, step_tokens=9, eval_steps=1, max_new_tokens=60
    )
    assert "--max_new_tokens 60: " in refused(train_treerpo.main, argv, capsys)
    assert not (tmp_path / "out").exists()


def test_rotary_positions_continue_with_a_warning(tokenizer, caplog):
    model = random_model("llama", max_position_embeddings=21)
    for _ in range(2):
        TreeSampler(model, tokenizer, 2, 1, 30).sample([[5, 9]], [0])
    assert caplog.text.count("longer than the 21 positions") == 1


# --- Files ---

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:0123456789\nsize 4567\n"


def weights(change):
    """An edit of model.safetensors by a function from tensors to tensors."""

    def edit(folder):
        tensors = change(load_file(folder / "model.safetensors"))
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    return edit


def replaced(name, content):
    return lambda folder: (folder / name).write_bytes(
        content if isinstance(content, bytes) else content.encode()
    )


def sharded(folder):
    """The weights in several files, with an index."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="900KB")
    return sorted(folder.glob("model-*.safetensors"))


@pytest.mark.parametrize(
    "edit, says",
    [
        (replaced("model.safetensors", LFS), "model.safetensors is a Git LFS pointer"),
        (replaced("model.safetensors", ""), "model.safetensors is damaged .it is empty"),
        (
            replaced("model.safetensors", "<html>403 Forbidden</html>"),
            "model.safetensors is damaged",
        ),
        (
            lambda folder: replaced(
                "model.safetensors", (folder / "model.safetensors").read_bytes()[:99_999]
            )(folder),
            "model.safetensors is damaged .*not fully covered",
        ),
        (lambda folder: (folder / "model.safetensors").unlink(), "no file named model.safetensors"),
        (
            lambda folder: sharded(folder)[1].unlink(),
            "model-00002-of-0000.* missing, of the . files that",
        ),
        (
            lambda folder: sharded(folder)[2].write_text(LFS),
            "model-00003-of-0000.* is a Git LFS pointer",
        ),
        (replaced("config.json", '{"model_type": '), "config.json is damaged"),
        (replaced("config.json", "[]"), "config.json is damaged .it must hold a JSON object"),
        (replaced("generation_config.json", LFS), "generation_config.json is a Git LFS pointer"),
        (
            replaced("generation_config.json", '{"eos_token_id": [0,'),
            "generation_config.json is damaged",
        ),
        (replaced("tokenizer.json", '{"version": "1.0", "model"'), "tokenizer.json is damaged"),
        (replaced("chat_template.jinja", LFS), "chat_template.jinja is a Git LFS pointer"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer: it knows no text"),
        (
            lambda folder: (folder / "tokenizer_config.json").unlink(),
            "end token .* is not one of the model's 100",
        ),
        (
            replaced("config.json", '{"model_type": "t5"}'),
            "weights: Unrecognized configuration class .*T5Config",
        ),
        (
            weights(
                lambda w: {k: v for k, v in w.items() if k != "model.layers.2.mlp.up_proj.weight"}
            ),
            "its weights lack model.layers.2.mlp.up_proj.weight",
        ),
        (
            weights(lambda w: {k: v for k, v in w.items() if "norm" not in k}),
            "its weights lack .* and 6 more",
        ),
        (
            weights(lambda w: {f"module.{k}": v for k, v in w.items()}),
            "they hold module.model.embed_tokens",
        ),
        (
            weights(
                lambda w: {
                    k: v[:, :90].contiguous()
                    if k == "model.layers.1.self_attn.o_proj.weight"
                    else v
                    for k, v in w.items()
                }
            ),
            r"o_proj.weight is \[128, 90\] in its weights and \[128, 128\]",
        ),
    ],
)
def test_damaged_models_are_refused_by_the_files_name(edit, says, tmp_path):
    edit(altered(tmp_path / "model"))
    with pytest.raises(BadInput, match=f"--model_name_or_path .*{says}"):
        load(tmp_path / "model")


def test_tensors_without_a_place_are_named(tmp_path, caplog):
    weights(lambda w: {**w, "value_head.weight": torch.ones(1, 128)})(altered(tmp_path / "model"))
    load(tmp_path / "model")
    assert "value_head.weight" in caplog.text
    sharded(altered(tmp_path / "in_parts"))
    caplog.clear()
    load(tmp_path / "in_parts")
    assert not caplog.text


def adapter(folder, config=None, edit=lambda tensors: tensors, base=None):
    """An adapter of the tiny base with random weights, edited by a function from tensors to
    tensors."""
    config = config or LoraConfig(
        r=2, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM"
    )
    model = get_peft_model(base or AutoModelForCausalLM.from_pretrained(TINY_BASE), config)
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    path = folder / "adapter_model.safetensors"
    save_file(edit(load_file(path)), path, {"format": "pt"})
    return folder


def with_adapter(folder):
    return eval_math.load_adapter(
        AutoModelForCausalLM.from_pretrained(TINY_BASE, dtype=torch.float32).eval(), str(folder)
    )


@pytest.mark.parametrize(
    "settings",
    [
        dict(target_modules="all-linear", use_dora=True),
        dict(target_modules=["v_proj", "embed_tokens"]),
        dict(target_modules=["v_proj"], trainable_token_indices=[30, 31]),
        dict(target_modules=["v_proj"], modules_to_save=["embed_tokens"]),
    ],
)
def test_adapters_of_several_kinds_are_sampled(settings, tmp_path, tokenizer, caplog):
    model = with_adapter(
        adapter(tmp_path / "a", LoraConfig(r=2, task_type="CAUSAL_LM", **settings))
    )
    check_sampler(model, tokenizer, trains=False)
    config = IA3Config(
        target_modules=["k_proj", "down_proj"],
        feedforward_modules=["down_proj"],
        task_type="CAUSAL_LM",
    )
    check_sampler(with_adapter(adapter(tmp_path / "b", config)), tokenizer, trains=False)
    assert not caplog.text


@pytest.mark.parametrize(
    "edit, says",
    [
        (
            lambda w: {k.replace("base_model.model", "policy"): v for k, v in w.items()},
            "16 of its tensors .*policy.model",
        ),
        (
            lambda w: {k.replace("base_model.", "base_model._orig_mod."): v for k, v in w.items()},
            "no place in the model",
        ),
        (
            lambda w: {k.replace("layers.3", "layers.9"): v for k, v in w.items()},
            "no place .*layers.9",
        ),
        (lambda w: {k: v for k, v in w.items() if "lora_B" not in k}, "lacks 8 tensors .*lora_B"),
        (
            lambda w: {k: v[:, :1].contiguous() if "lora_B" in k else v for k, v in w.items()},
            "size mismatch .*lora_B",
        ),
    ],
)
def test_adapters_of_other_names_or_shapes_are_refused(edit, says, tmp_path):
    with pytest.raises(BadInput, match=f"--adapter .*{says}"):
        with_adapter(adapter(tmp_path / "a", edit=edit))


def test_damaged_adapters_are_refused(tmp_path):
    def damage(name, content, says):
        folder = adapter(tmp_path / str(len(list(tmp_path.iterdir()))))
        (folder / name).write_text(content) if content else (folder / name).unlink()
        with pytest.raises(BadInput, match=f"--adapter .*{says}"):
            with_adapter(folder)

    damage("adapter_model.safetensors", LFS, "adapter_model.safetensors is a Git LFS pointer")
    damage("adapter_model.safetensors", "{}", "adapter_model.safetensors is damaged")
    damage("adapter_model.safetensors", None, "holds no adapter_model.safetensors")
    damage("adapter_config.json", '{"r": 2', "adapter_config.json is damaged")
    damage("adapter_config.json", None, "can't be loaded")
    damage("adapter_config.json", '{"peft_type": "UNHEARD_OF"}', "can't be loaded .*UNHEARD_OF")


def test_adapters_that_put_tokens_before_the_prompt_are_refused(tmp_path):
    with pytest.raises(BadInput, match="PROMPT_TUNING"):
        with_adapter(
            adapter(tmp_path / "a", PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"))
        )


def test_an_adapter_of_another_base_is_named(tmp_path, caplog, capsys):
    base = AutoModelForCausalLM.from_pretrained(altered(tmp_path / "another_base"))
    with_adapter(adapter(tmp_path / "a", base=base))
    assert "another_base, another model by name" in caplog.text
    argv = ["--model_name_or_path", tmp_path / "a"]
    assert "holds an adapter" in refused(eval_math.main, argv, capsys)


def test_all_weights_of_a_run_can_be_evaluated(tmp_path, capsys):
    """The folder that the run prints as the next command's, and its checkpoints."""
    changes = dict(
        model_name_or_path=altered(tmp_path / "base"), max_steps=1, save_steps=1, learning_rate=1e-5
    )
    sys.argv = ["train_treerpo.py", *words(tmp_path / "run", use_peft=False, **changes)]
    train_treerpo.main()
    assert f"--model_name_or_path {tmp_path / 'run' / 'model'}" in capsys.readouterr().out
    for folder in (tmp_path / "run" / "model", tmp_path / "run" / "checkpoints" / "step-000001"):
        sys.argv = [
            "eval_math.py",
            "--model_name_or_path",
            str(folder),
            "--output_dir",
            str(tmp_path / folder.name),
        ]
        sys.argv += ["--benchmarks", "arithmetic[:2]", "--max_new_tokens", "16"]
        eval_math.main()
        assert "pass@1" in capsys.readouterr().out
