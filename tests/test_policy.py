"""Packed log-probabilities, gradients and losses against one forward pass a path."""

import math

import numpy as np
import pytest
import torch
from conftest import FAMILIES, path_logprobs, random_model, random_tree
from peft import LoraConfig, get_peft_model
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
    model = get_peft_model(
        model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # zero at first, which would hide half of the gradients
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def random_trees(seed: int):
    rng = np.random.default_rng(seed)
    trees = [random_tree(rng, nodes) for nodes in (12, 1, 25, 7)]
    advantages = [
        torch.from_numpy(rng.normal(size=len(t.parent)) * (rng.random(len(t.parent)) < 0.6))
        for t in trees
    ]
    for values in advantages:
        values[0] = 0
    return trees, [a.float() for a in advantages]


def expected_logprobs(model, trees, advantages, temperature=1.0):
    """{(advantage, tokens): log-probabilities}: advantages are distinct, so they name the node."""
    return {
        (advantages[t][n].item(), tuple(tree.tokens[n].tolist())): path_logprobs(
            model, tree, n, temperature
        )
        for t, tree in enumerate(trees)
        for n in range(1, len(tree.parent))
        if advantages[t][n] != 0
    }


def by_step(packs, values):
    """{(advantage, tokens): values} of packs, to be held against `expected_logprobs`; every step
    exactly once."""
    found = {}
    for p, value in zip(packs, values):
        for step in range(int(p.steps.max()) + 1):
            chosen = p.steps == step
            key = (p.advantages[chosen][0].item(), tuple(p.targets[chosen].tolist()))
            assert key not in found and len(set(p.advantages[chosen].tolist())) == 1
            found[key] = value[chosen]
    return found


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
    model = with_lora(random_model(family, scale=3.0)) if lora else random_model(family, scale=3.0)
    trees, advantages = random_trees(seed=1)
    for temperature in (1.0, 0.7):
        packs = pack(trees, advantages, max_tokens)
        assert all(len(p.input_ids) <= max_tokens for p in packs) and (len(packs) > 1) == (
            max_tokens < 1000
        )
        segments = [len(p.cuts) - 1 for p in packs]
        assert max(segments) > 5 if attention == "segments" else set(segments) == {1}
        found = by_step(packs, [token_logprobs(model, p, temperature) for p in packs])
        expected = expected_logprobs(model, trees, advantages, temperature)
        assert found.keys() == expected.keys()
        for key in expected:
            torch.testing.assert_close(found[key], expected[key], atol=1e-5, rtol=1e-5)

    def gradients(losses):
        model.zero_grad()
        for loss in losses:
            loss.backward()
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    packed = gradients((token_logprobs(model, p) * p.advantages).sum() for p in packs)
    plain = gradients(
        (lp * a).sum() for (a, _), lp in expected_logprobs(model, trees, advantages).items()
    )
    assert packed.keys() == plain.keys() and len(packed) > 4
    for name in plain:
        torch.testing.assert_close(packed[name], plain[name], atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_attention_implementations_agree(implementation, attention):
    model = random_model("gemma3", scale=3.0)
    model.set_attn_implementation(implementation)
    trees, advantages = random_trees(seed=2)
    packs = pack(trees, advantages, 10_000)
    expected = expected_logprobs(model, trees, advantages)
    for key, value in by_step(packs, [token_logprobs(model, p) for p in packs]).items():
        torch.testing.assert_close(value, expected[key], atol=1e-5, rtol=1e-5)


def test_sampled_logprobs_equal_training_logprobs_under_cropping(tiny_base, tokenizer):
    sampler = TreeSampler(tiny_base, tokenizer, 3, 2, 8, temperature=0.8, top_p=0.9, top_k=20)
    tree = sampler.sample([tokenizer.encode("7-2+3*4-5*2\n")], [0])[0]
    (p,) = pack([tree], [torch.ones(len(tree.parent))], 10_000)
    logprobs = token_logprobs(tiny_base, p, temperature=0.8, top_p=0.9, top_k=20)
    torch.testing.assert_close(logprobs, p.old_logprobs, atol=1e-4, rtol=1e-4)


def test_chunks_and_gradient_checkpointing_change_nothing(monkeypatch, attention):
    model = random_model("qwen3")
    trees, advantages = random_trees(seed=3)
    (p,) = pack(trees, advantages, 10_000)

    def run():
        model.zero_grad()
        logprobs = token_logprobs(model, p)
        (logprobs * p.advantages).sum().backward()
        return logprobs.detach(), model.model.embed_tokens.weight.grad.clone()

    whole = run()
    monkeypatch.setattr(policy, "CHUNK_ELEMENTS", 300)
    torch.testing.assert_close(run(), whole, atol=1e-5, rtol=1e-4)
    checkpoint_layers(model)
    model.train()
    torch.testing.assert_close(run(), whole, atol=1e-5, rtol=1e-4)


def test_a_pack_holds_what_is_needed_once():
    trees, advantages = random_trees(seed=4)
    (p,) = pack(trees, advantages, 10_000)
    forwarded = trained = 0
    for tree, values in zip(trees, advantages):
        needed = {node for i in range(len(values)) if values[i] != 0 for node in tree.path(i)}
        inner = {int(tree.parent[node]) for node in needed}
        forwarded += (len(tree.prompt_ids) if needed else 0) + sum(
            len(tree.tokens[n]) - (n not in inner) for n in needed
        )
        trained += sum(len(tree.tokens[n]) for n in range(len(values)) if values[n] != 0)
    assert len(p.input_ids) == forwarded and len(p.targets) == trained


def test_cuts_cost_least():
    """Against trying every way to cut a small tree."""
    rng = np.random.default_rng(5)
    packs, segments = (
        lambda own, above: 1 + own + above,
        lambda own, above: own * (own + above) + 30,
    )
    for limit, part in ((25, packs), (math.inf, segments)):
        lengths, context = rng.integers(1, 6, 10), rng.integers(0, 9, 10)

        def cost(boundaries, lengths=lengths, context=context, limit=limit, part=part):
            parts = [(lengths[a:b].sum(), context[a]) for a, b in zip(boundaries, boundaries[1:])]
            return np.inf if max(map(sum, parts)) > limit else sum(part(*one) for one in parts)

        every = [
            [0, *(i for i in range(1, 10) if bits >> i & 1), 10] for bits in range(0, 2**10, 2)
        ]
        found = packing._cut(lengths, context, limit, part)
        assert 2 < len(found) < 10 and cost(found) == min(map(cost, every))


def test_segments_leave_out_what_nobody_sees(monkeypatch):
    """A tree of depth 3 with steps of 32 tokens: attention computes less than half of the pairs of
    a whole pack."""
    calls = []

    def count(module, query, key, *args, **kwargs):
        calls.append(query.shape[2] * key.shape[2])
        return sdpa_attention_forward(module, query, key, *args, **kwargs)

    monkeypatch.setattr(policy, "sdpa_attention_forward", count)
    monkeypatch.setattr(packing, "call_pairs", lambda: 2**15)
    parent = [-1, *((i - 1) // 4 for i in range(1, 85))]
    tokens = [torch.empty(0), *(torch.randint(2, 100, (32,)) for _ in parent[1:])]
    tree = Tree(
        [5] * 20, parent, parent, tokens, [torch.zeros(len(t)) for t in tokens], [False] * 85
    )
    (p,) = pack([tree], [torch.ones(85)], 10_000)
    token_logprobs(random_model("qwen2", max_position_embeddings=10_000), p)
    layers = 2
    assert (
        len(calls) == layers * (len(p.cuts) - 1) > 10
        and sum(calls) < layers * len(p.input_ids) ** 2 / 2
    )


def path_entropies(model, tree, node, temperature, top_k):
    """The entropy at each of a node's tokens by one plain forward pass over its path: -sum p log p,
    the definition."""
    ids = tree.prompt_ids + tree.completion_ids(node)
    count = len(tree.tokens[node])
    logits = (
        model(torch.tensor([ids])).logits[0, len(ids) - count - 1 : len(ids) - 1].float()
        / temperature
    )
    entropies = []
    for row, target in zip(logits, tree.tokens[node]):
        if top_k:
            kept = row.topk(top_k).indices.tolist()
            row = row[sorted({*kept, int(target)})]  # the sampled token stays in the crop
        probabilities = row.softmax(-1)
        entropies.append(-(probabilities * probabilities.log()).sum())
    return torch.stack(entropies)


@pytest.mark.parametrize("temperature, top_k", [(1.0, 0), (0.6, 0), (0.6, 10)])
@pytest.mark.parametrize("lora", [False, True], ids=["trained head", "frozen head"])
def test_entropies_and_their_gradient_equal_plain_autograd(lora, temperature, top_k, monkeypatch):
    monkeypatch.setattr(policy, "CHUNK_ELEMENTS", 700)  # seven positions at a time
    model = (
        with_lora(random_model("qwen2", scale=3.0)) if lora else random_model("qwen2", scale=3.0)
    )
    trees, advantages = random_trees(seed=6)

    def gradients(loss):
        model.zero_grad()
        loss.backward()
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    found, weights = [], []
    for p in pack(trees, advantages, 60):
        logprobs, entropies = token_logprobs_and_entropies(model, p, temperature, top_k=top_k)
        torch.testing.assert_close(logprobs, token_logprobs(model, p, temperature, top_k=top_k))
        found.append((logprobs * p.advantages).sum() + 3 * entropies.sum())
        weights.append(entropies.detach())
    assert len(found) > 1
    packed = gradients(sum(found))
    nodes = [
        (tree, n, a)
        for tree, values in zip(trees, advantages)
        for n, a in enumerate(values.tolist())
        if a != 0
    ]
    plain_entropies = [path_entropies(model, tree, n, temperature, top_k) for tree, n, _ in nodes]
    torch.testing.assert_close(
        torch.cat(weights).sum(), torch.cat(plain_entropies).sum(), atol=1e-4, rtol=1e-5
    )
    plain = 3 * torch.cat(plain_entropies).sum()
    if not top_k:  # cropped log-probabilities have tests of their own
        plain = plain + sum(
            (path_logprobs(model, tree, n, temperature) * a).sum() for tree, n, a in nodes
        )
    else:
        packed = gradients(
            sum(
                3 * token_logprobs_and_entropies(model, p, temperature, top_k=top_k)[1].sum()
                for p in pack(trees, advantages, 60)
            )
        )
    expected = gradients(plain)
    assert packed.keys() == expected.keys() and len(expected) > 4
    largest = max(value.abs().max().item() for value in expected.values())
    for name in expected:
        torch.testing.assert_close(packed[name], expected[name], atol=1e-5 * largest, rtol=1e-3)


def test_entropy_of_a_crop_has_a_finite_gradient():
    logits = torch.tensor([[1.0, 2.0, -torch.inf]], requires_grad=True)
    entropy(logits.log_softmax(-1)).sum().backward()
    assert logits.grad.isfinite().all() and logits.grad[0, :2].abs().min() > 0


@pytest.mark.parametrize("seed", range(5))
def test_minibatches_are_as_equal_as_whole_trees_allow(seed):
    tokens = np.random.default_rng(seed).integers(0, 50, 9).tolist()
    for count in (1, 2, 3):
        parts = split_trees(tokens, count, [seed])
        assert (
            sorted(place for part in parts for place in part) == list(range(9))
            and len(parts) == count
        )
        sums = [sum(tokens[place] for place in part) for part in parts]
        if count == 2:  # against trying every way
            best = min(
                abs(sum(tokens) - 2 * sum(t for i, t in enumerate(tokens) if bits >> i & 1))
                for bits in range(2**9)
            )
            assert abs(sums[0] - sums[1]) <= best + 2
        assert max(sums) - min(sums) <= max(tokens)
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
    high = -np.minimum(
        ratio * advantages.numpy(), np.array([1.0, 1.4, 0.8, 1.0]) * advantages.numpy()
    )
    assert policy_loss(logprobs, old, advantages, epsilon_high=0.4).item() == pytest.approx(
        high.mean(), abs=1e-6
    )
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
        assert bonus == pytest.approx(
            plain - 0.1 * 3.5 / 4, abs=1e-6
        )  # a mean over tokens whatever the loss type
    part = policy_loss(
        logprobs,
        old,
        advantages,
        entropy_coef=0.1,
        entropies=entropies,
        normalizer=8,
        trained_tokens=8,
    )
    assert part.item() == pytest.approx((tokens.sum() - 0.1 * 3.5) / 8, abs=1e-6)
    with pytest.raises(ValueError, match="loss_type"):
        policy_loss(logprobs, old, advantages, loss_type="ppo")


def test_the_gradient_of_the_first_update_is_reinforce():
    logprobs = torch.tensor([-1.0, -2.0, -0.3], requires_grad=True)
    advantages = torch.tensor([0.5, -1.0, 2.0])
    policy_loss(logprobs, logprobs.detach(), advantages).backward()
    torch.testing.assert_close(logprobs.grad, -advantages / 3)
