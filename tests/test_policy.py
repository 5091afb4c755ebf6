"""Packed log-probabilities, gradients and losses against one forward pass per path."""

import math
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import FAMILIES, path_logprobs, random_model, random_tree
from peft import LoraConfig, get_peft_model
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

import packing
import policy
from packing import pack, split_trees
from policy import (
    checkpoint_layers,
    entropy,
    policy_loss,
    token_logprobs,
    token_logprobs_and_entropies,
)
from tree import Tree
from tree_sampler import TreeSampler


def with_lora(model):
    lora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(model, lora)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # zero at first, which would hide half of the gradients
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def random_trees(seed: int):
    """Trees, and their advantages: of two nodes in five, 0, and of the others, all different."""
    rng = np.random.default_rng(seed)
    trees = [random_tree(rng, nodes) for nodes in (12, 1, 25, 7)]
    advantages = []
    for tree in trees:
        nodes = len(tree.parent)
        values = rng.normal(size=nodes) * (rng.random(nodes) < 0.6)
        values[0] = 0
        advantages.append(torch.from_numpy(values).float())
    return trees, advantages


def trained_nodes(trees, advantages):
    """(tree, node, advantage) of every node with an advantage."""
    return [
        (tree, node, advantage)
        for tree, values in zip(trees, advantages)
        for node, advantage in enumerate(values.tolist())
        if advantage != 0
    ]


def expected_logprobs(model, trees, advantages, temperature=1.0):
    """{(advantage, tokens): log-probabilities}: advantages are distinct, so they name the node."""
    return {
        (advantage, tuple(tree.tokens[node].tolist())): path_logprobs(
            model, tree, node, temperature
        )
        for tree, node, advantage in trained_nodes(trees, advantages)
    }


def by_step(packs, values):
    """{(advantage, tokens): values} of packs, to be held against `expected_logprobs`.

    Every step must be there exactly once."""
    steps = {}
    for packed, value in zip(packs, values):
        for step in range(int(packed.steps.max()) + 1):
            own = packed.steps == step  # [trained tokens]
            key = (packed.advantages[own][0].item(), tuple(packed.targets[own].tolist()))
            assert key not in steps and len(set(packed.advantages[own].tolist())) == 1
            steps[key] = value[own]
    return steps


def gradients(model, loss):
    """{name: gradient} of the loss, of the parameters that have one."""
    model.zero_grad()
    loss.backward()
    return {
        name: parameter.grad.clone()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


@pytest.fixture(params=["segments", "dense"])
def attention(request, monkeypatch):
    """Attention by segments of a few tokens, or all at once, as in any pack as small as the
    tests'."""
    pairs = {"segments": 8, "dense": 2**15}[request.param]
    monkeypatch.setattr(packing, "call_pairs", lambda: pairs)
    return request.param


@pytest.mark.parametrize("max_tokens", [35, 60, 10_000])
@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_packs_equal_one_forward_per_path(family, lora, max_tokens, attention):
    model = random_model(family, scale=3.0)
    if lora:
        model = with_lora(model)
    trees, advantages = random_trees(seed=1)
    packs = pack(trees, advantages, max_tokens)
    assert all(len(packed.input_ids) <= max_tokens for packed in packs)
    assert (len(packs) > 1) == (max_tokens < 1000)
    segments = [len(packed.cuts) - 1 for packed in packs]
    assert max(segments) > 5 if attention == "segments" else set(segments) == {1}

    for temperature in (1.0, 0.7):
        values = [token_logprobs(model, packed, temperature) for packed in packs]
        logprobs = by_step(packs, values)
        expected = expected_logprobs(model, trees, advantages, temperature)
        assert logprobs.keys() == expected.keys()
        for key in expected:
            torch.testing.assert_close(logprobs[key], expected[key], atol=1e-5, rtol=1e-5)

    by_pack = [(token_logprobs(model, packed) * packed.advantages).sum() for packed in packs]
    by_path = expected_logprobs(model, trees, advantages)
    actual = gradients(model, sum(by_pack))
    plain = gradients(
        model, sum((values * advantage).sum() for (advantage, _), values in by_path.items())
    )
    assert actual.keys() == plain.keys() and len(actual) > 4
    for name in plain:
        torch.testing.assert_close(actual[name], plain[name], atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_attention_implementations_agree(implementation, attention):
    model = random_model("gemma3", scale=3.0)
    model.set_attn_implementation(implementation)
    trees, advantages = random_trees(seed=2)
    packs = pack(trees, advantages, 10_000)
    logprobs = by_step(packs, [token_logprobs(model, packed) for packed in packs])
    expected = expected_logprobs(model, trees, advantages)
    for key, value in logprobs.items():
        torch.testing.assert_close(value, expected[key], atol=1e-5, rtol=1e-5)


def test_packs_leave_transformers_and_the_model_as_they_are(attention):
    model = with_lora(random_model("qwen2", scale=3.0))
    trees, advantages = random_trees(seed=2)
    (packed,) = pack(trees, advantages, 10_000)
    prompt = torch.tensor([[5, 9, 23]])

    def generated():
        return model.generate(prompt, max_new_tokens=12, do_sample=False)

    before = generated()
    names = []
    model.base_model.model.model.layers[1].register_forward_hook(
        lambda *_: names.append(model.config._attn_implementation)
    )
    token_logprobs(model, packed).sum().backward()
    assert names == ["tree_sdpa"] and model.config._attn_implementation == "sdpa"
    assert AttentionInterface()["sdpa"] is sdpa_attention_forward
    with pytest.raises(IndexError):  # no token has this id
        token_logprobs(model, replace(packed, input_ids=packed.input_ids + 1000))
    assert model.config._attn_implementation == "sdpa"
    assert torch.equal(generated(), before) and set(names[1:]) == {"sdpa"}


@pytest.mark.parametrize("implementation", ["eager", "flex_attention"])
def test_other_implementations_stay_themselves(implementation):
    model = random_model("qwen2")
    model.set_attn_implementation(implementation)
    trees, advantages = random_trees(seed=2)
    (packed,) = pack(trees, advantages, 10_000)
    names = []
    model.model.layers[0].register_forward_pre_hook(
        lambda *_: names.append(model.config._attn_implementation)
    )
    with suppress(Exception):  # flex_attention compiles, which not every machine can
        token_logprobs(model, packed)
    assert names == [implementation]


def test_sampled_logprobs_equal_training_logprobs_under_cropping(tiny_base, tokenizer):
    sampler = TreeSampler(tiny_base, tokenizer, 3, 2, 8, temperature=0.8, top_p=0.9, top_k=20)
    (tree,) = sampler.sample([tokenizer.encode("7-2+3*4-5*2\n")], [0])
    (packed,) = pack([tree], [torch.ones(len(tree.parent))], 10_000)
    logprobs = token_logprobs(tiny_base, packed, temperature=0.8, top_p=0.9, top_k=20)
    torch.testing.assert_close(logprobs, packed.old_logprobs, atol=1e-4, rtol=1e-4)


@pytest.fixture
def attention_calls(monkeypatch):
    """(queries, keys) of each call of transformers' SDPA by tree attention."""
    calls = []

    def counted(module, query, key, *args, **kwargs):
        calls.append((query.shape[2], key.shape[2]))
        return sdpa_attention_forward(module, query, key, *args, **kwargs)

    monkeypatch.setattr(policy, "sdpa_attention_forward", counted)
    return calls


def test_chunks_and_gradient_checkpointing_change_nothing(monkeypatch, attention, attention_calls):
    model = random_model("qwen3")
    trees, advantages = random_trees(seed=3)
    (packed,) = pack(trees, advantages, 10_000)

    def run():
        model.zero_grad()
        attention_calls.clear()
        logprobs = token_logprobs(model, packed)
        (logprobs * packed.advantages).sum().backward()
        return logprobs.detach(), model.model.embed_tokens.weight.grad.clone()

    whole = run()
    layers = 2
    per_pass = layers * (len(packed.cuts) - 1)
    assert len(attention_calls) == per_pass
    monkeypatch.setattr(policy, "CHUNK_ELEMENTS", 300)
    torch.testing.assert_close(run(), whole, atol=1e-5, rtol=1e-4)
    checkpoint_layers(model)
    model.train()
    torch.testing.assert_close(run(), whole, atol=1e-5, rtol=1e-4)
    # Layers are computed again by the same segments.
    forward, again = attention_calls[:per_pass], attention_calls[per_pass:]
    assert sorted(forward) == sorted(again)


def test_the_pack_drawn_in_the_docstring():
    tree = Tree(
        prompt_ids=list(b"PQ"),
        parent=[-1, 0, 1, 1, 0],
        depth=[0, 1, 2, 2, 1],
        tokens=[[], list(b"ab"), list(b"de"), list(b"fg"), list(b"ch")],
        logprobs=[[0.0] * size for size in (0, 2, 2, 2, 2)],
        finished=[False] * 5,
    )
    (packed,) = pack([tree], [torch.ones(5)], 100)
    lines = packing.__doc__.splitlines()
    columns = {line.split()[0]: line.split()[1:] for line in lines if line.strip()}
    letters = [chr(i) for i in packed.input_ids]
    assert columns["input_ids"][: len(letters)] == letters
    assert columns["position_ids"] == [str(i) for i in packed.position_ids.tolist()]
    assert columns["tout"][: len(letters)] == [str(i) for i in packed.tout.tolist()]
    assert columns["targets"] == [chr(i) for i in packed.targets]
    predictors = [str(i) for i in packed.predictors.tolist()]
    assert columns["predictors"][: len(predictors)] == predictors

    table = next(i for i, line in enumerate(lines) if line.startswith("    sees "))
    for query in range(len(letters)):
        row = lines[table + 1 + query].ljust(80)
        assert row.split()[0] == letters[query]
        crosses = [
            key for key, letter in enumerate(letters) if row[lines[table].rindex(letter)] == "x"
        ]
        assert crosses == [
            key for key in range(len(letters)) if key <= query < int(packed.tout[key])
        ]
    segments = policy._segments(replace(packed, cuts=torch.tensor([0, 5, 6, 7])))
    sizes = [(own.stop - own.start, len(seen)) for own, seen in segments]
    assert sizes == [(5, 5), (1, 5), (1, 3)]


def test_the_price_of_a_call_is_that_of_the_device_at_hand(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    on_a_gpu = packing.call_pairs()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert on_a_gpu > packing.call_pairs()


def test_a_pack_holds_what_is_needed_once():
    trees, advantages = random_trees(seed=4)
    (packed,) = pack(trees, advantages, 10_000)
    forwarded = 0
    trained = 0
    for tree, values in zip(trees, advantages):
        needed = {node for i in range(len(values)) if values[i] != 0 for node in tree.path(i)}
        inner = {int(tree.parent[node]) for node in needed}
        forwarded += len(tree.prompt_ids) if needed else 0
        forwarded += sum(len(tree.tokens[node]) - (node not in inner) for node in needed)
        trained += sum(len(tree.tokens[node]) for node in range(len(values)) if values[node] != 0)
    assert len(packed.input_ids) == forwarded and len(packed.targets) == trained


def test_cuts_cost_least():
    """Against trying every way to cut a small tree."""
    rng = np.random.default_rng(5)

    def tokens_of_pack(own, context):
        return 1 + own + context

    def attention_pairs(own, context):
        return own * (own + context) + 30

    every = [[0, *(i for i in range(1, 10) if bits >> i & 1), 10] for bits in range(0, 2**10, 2)]
    for limit, cost in ((25, tokens_of_pack), (math.inf, attention_pairs)):
        lengths = rng.integers(1, 6, 10)
        context = rng.integers(0, 9, 10)

        def total(boundaries, lengths=lengths, context=context, limit=limit, cost=cost):
            parts = [
                (lengths[start:end].sum(), context[start])
                for start, end in zip(boundaries, boundaries[1:])
            ]
            if max(map(sum, parts)) > limit:
                return np.inf
            return sum(cost(own, above) for own, above in parts)

        cuts = packing._cut(lengths, context, limit, cost)
        assert 2 < len(cuts) < 10 and total(cuts) == min(map(total, every))


def test_segments_leave_out_what_no_token_sees(monkeypatch, attention_calls):
    """A tree of depth 3 with steps of 32 tokens: attention computes less than half of the pairs of
    a whole pack."""
    monkeypatch.setattr(packing, "call_pairs", lambda: 2**15)
    parent = [-1, *((node - 1) // 4 for node in range(1, 85))]
    tokens = [torch.empty(0), *(torch.randint(2, 100, (32,)) for _ in parent[1:])]
    tree = Tree(
        prompt_ids=[5] * 20,
        parent=parent,
        depth=parent,  # packing does not read it
        tokens=tokens,
        logprobs=[torch.zeros(len(ids)) for ids in tokens],
        finished=[False] * 85,
    )
    (packed,) = pack([tree], [torch.ones(85)], 10_000)
    token_logprobs(random_model("qwen2", max_position_embeddings=10_000), packed)
    layers = 2
    assert len(attention_calls) == layers * (len(packed.cuts) - 1) > 10
    pairs = sum(queries * keys for queries, keys in attention_calls)
    assert pairs < layers * len(packed.input_ids) ** 2 / 2


def path_entropies(model, tree, node, temperature, top_k):
    """The entropy at each of a node's tokens by one plain forward pass over its path: -sum p log p,
    the definition."""
    ids = tree.prompt_ids + tree.completion_ids(node)
    targets = tree.tokens[node].tolist()
    logits = model(torch.tensor([ids])).logits[0, -1 - len(targets) : -1].float() / temperature
    entropies = []
    for row, target in zip(logits, targets):
        if top_k:
            cropped = row.topk(top_k).indices.tolist()
            row = row[sorted({*cropped, target})]  # the sampled token stays in the crop
        probabilities = row.softmax(-1)
        entropies.append(-(probabilities * probabilities.log()).sum())
    return torch.stack(entropies)


@pytest.mark.parametrize("temperature, top_k", [(1.0, 0), (0.6, 0), (0.6, 10)])
@pytest.mark.parametrize("lora", [False, True], ids=["trained head", "frozen head"])
def test_entropies_and_their_gradient_equal_plain_autograd(lora, temperature, top_k, monkeypatch):
    monkeypatch.setattr(policy, "CHUNK_ELEMENTS", 700)  # seven positions at a time
    model = random_model("qwen2", scale=3.0)
    if lora:
        model = with_lora(model)
    trees, advantages = random_trees(seed=6)
    packs = pack(trees, advantages, 60)
    assert len(packs) > 1

    def packed_loss(logprob_weight):
        loss = 0.0
        for packed in packs:
            logprobs, entropies = token_logprobs_and_entropies(
                model, packed, temperature, top_k=top_k
            )
            alone = token_logprobs(model, packed, temperature, top_k=top_k)
            torch.testing.assert_close(logprobs, alone)
            loss = loss + logprob_weight * (logprobs * packed.advantages).sum()
            loss = loss + 3 * entropies.sum()
        return loss

    def plain_loss(logprob_weight):
        loss = 0.0
        for tree, node, advantage in trained_nodes(trees, advantages):
            logprobs = path_logprobs(model, tree, node, temperature)
            entropies = path_entropies(model, tree, node, temperature, top_k)
            loss = loss + logprob_weight * (logprobs * advantage).sum() + 3 * entropies.sum()
        return loss

    with torch.no_grad():
        torch.testing.assert_close(packed_loss(0), plain_loss(0), atol=1e-4, rtol=1e-5)
    # Cropped log-probabilities have tests of their own.
    logprob_weight = 0 if top_k else 1
    actual = gradients(model, packed_loss(logprob_weight))
    expected = gradients(model, plain_loss(logprob_weight))
    assert actual.keys() == expected.keys() and len(expected) > 4
    largest = max(value.abs().max().item() for value in expected.values())
    for name in expected:
        torch.testing.assert_close(actual[name], expected[name], atol=1e-5 * largest, rtol=1e-3)


def test_entropy_of_a_crop_has_a_finite_gradient():
    logits = torch.tensor([[1.0, 2.0, -torch.inf]], requires_grad=True)
    entropy(logits.log_softmax(-1)).sum().backward()
    assert logits.grad.isfinite().all() and logits.grad[0, :2].abs().min() > 0


@pytest.mark.parametrize("seed", range(5))
def test_minibatches_are_as_equal_as_whole_trees_allow(seed):
    tokens = np.random.default_rng(seed).integers(0, 50, 9).tolist()
    for count in (1, 2, 3):
        parts = split_trees(tokens, count, [seed])
        assert len(parts) == count
        assert sorted(tree for part in parts for tree in part) == list(range(9))
        sums = [sum(tokens[tree] for tree in part) for part in parts]
        assert max(sums) - min(sums) <= max(tokens)
        if count == 2:  # against trying every way
            halves = [
                sum(size for tree, size in enumerate(tokens) if bits >> tree & 1)
                for bits in range(2**9)
            ]
            best = min(abs(sum(tokens) - 2 * half) for half in halves)
            assert abs(sums[0] - sums[1]) <= best + 2
    assert split_trees(tokens, 2, [seed]) == split_trees(tokens, 2, [seed])


def test_minibatches_are_drawn_by_the_seed():
    assert len({str(split_trees([7] * 8, 2, [0, update])) for update in range(10)}) > 5


def test_a_path_that_does_not_fit_is_refused():
    trees, advantages = random_trees(seed=1)
    with pytest.raises(ValueError, match="max_pack_tokens"):
        pack(trees, advantages, 6)


def test_nothing_to_train_makes_no_pack():
    trees, advantages = random_trees(seed=1)
    assert pack(trees, [torch.zeros_like(a) for a in advantages], 100) == []


def test_policy_loss_by_hand():
    logprobs = torch.tensor([-1.0, -0.5, -2.0, -0.1], requires_grad=True)
    old = torch.tensor([-1.0, -1.0, -1.0, -0.1])
    advantages = torch.tensor([1.0, 2.0, -1.0, -0.5])
    ratio = np.exp([0.0, 0.5, -1.0, 0.0])
    clipped = np.array([1.0, 1.2, 0.8, 1.0])
    tokens = -np.minimum(ratio * advantages.numpy(), clipped * advantages.numpy())
    assert policy_loss(logprobs, old, advantages).item() == pytest.approx(tokens.mean(), abs=1e-6)
    steps = torch.tensor([0, 0, 0, 1])
    grpo = policy_loss(logprobs, old, advantages, loss_type="grpo", steps=steps).item()
    assert grpo == pytest.approx((tokens[:3].mean() + tokens[3]) / 2, abs=1e-6)
    constant = policy_loss(logprobs, old, advantages, loss_type="dr_grpo", normalizer=10).item()
    assert constant == pytest.approx(tokens.sum() / 10, abs=1e-6)
    clipped_high = np.array([1.0, 1.4, 0.8, 1.0])
    high = -np.minimum(ratio * advantages.numpy(), clipped_high * advantages.numpy())
    wider = policy_loss(logprobs, old, advantages, epsilon_high=0.4).item()
    assert wider == pytest.approx(high.mean(), abs=1e-6)
    reference = torch.tensor([-1.5, -0.5, -1.0, -0.2])
    d = reference.numpy() - logprobs.detach().numpy()
    kl = policy_loss(logprobs, old, advantages, beta=0.1, ref_logprobs=reference).item()
    assert kl == pytest.approx((tokens + 0.1 * (np.exp(d) - d - 1)).mean(), abs=1e-6)
    entropies = torch.tensor([0.5, 1.0, 0.0, 2.0])
    for kind in (
        dict(),
        dict(loss_type="grpo", steps=steps),
        dict(loss_type="dr_grpo", normalizer=10),
    ):
        plain = policy_loss(logprobs, old, advantages, **kind).item()
        bonus = policy_loss(
            logprobs, old, advantages, **kind, entropy_coef=0.1, entropies=entropies
        ).item()
        # A mean over tokens whatever the loss type.
        assert bonus == pytest.approx(plain - 0.1 * 3.5 / 4, abs=1e-6)
    batch = dict(normalizer=8, trained_tokens=8)
    part = policy_loss(logprobs, old, advantages, entropy_coef=0.1, entropies=entropies, **batch)
    assert part.item() == pytest.approx((tokens.sum() - 0.1 * 3.5) / 8, abs=1e-6)
    with pytest.raises(ValueError, match="loss_type"):
        policy_loss(logprobs, old, advantages, loss_type="ppo")


def test_the_gradient_of_the_first_update_is_reinforce():
    logprobs = torch.tensor([-1.0, -2.0, -0.3], requires_grad=True)
    advantages = torch.tensor([0.5, -1.0, 2.0])
    policy_loss(logprobs, logprobs.detach(), advantages).backward()
    torch.testing.assert_close(logprobs.grad, -advantages / 3)
