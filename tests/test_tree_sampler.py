"""The sampler against re-prefilling, against itself under other slicings, and against the model's
own probabilities."""

import numpy as np
import pytest
import torch
from conftest import FAMILIES, path_logprobs, random_model

from generate import _InverseCDF, _uniforms, warp
from tree_sampler import TreeSampler

PROMPTS = [[5, 9, 23], [7], [4, 4, 4, 8, 15, 16, 23], [5, 9, 23], [60, 61]]
SEEDS = [3, 1, 4, 1, 5]


def same(left, right) -> bool:
    return (
        left.prompt_ids == right.prompt_ids
        and left.parent.tolist() == right.parent.tolist()
        and left.depth.tolist() == right.depth.tolist()
        and left.finished.tolist() == right.finished.tolist()
        and all(torch.equal(a, b) for a, b in zip(left.tokens, right.tokens))
        and all(torch.allclose(a, b, atol=1e-5) for a, b in zip(left.logprobs, right.logprobs))
    )


def by_reprefilling(
    model, prompt, seed, widths, step_tokens, stop_ids, delimiter_ids=(), temperature=1.0
):
    """The tree from the definition: one row, one token, one full forward pass at a time. {path:
    (tokens, finished)}"""
    nodes, frontier = {}, [((), list(prompt))]
    for width in widths:
        grown = []
        for path, ids in frontier:
            for child in range(width):
                tokens, uniforms = [], _uniforms(seed, (*path, child), step_tokens)
                while len(tokens) < step_tokens and not (
                    tokens and tokens[-1] in (*stop_ids, *delimiter_ids)
                ):
                    logits = (
                        model(torch.tensor([ids + tokens])).logits[0, -1].double() / temperature
                    )
                    cumulative = logits.softmax(-1).cumsum(-1)
                    draw = uniforms[len(tokens)] * cumulative[-1].item()
                    tokens.append(int((cumulative <= draw).sum()))
                nodes[(*path, child)] = (tokens, tokens[-1] in stop_ids)
                if tokens[-1] not in stop_ids:
                    grown.append(((*path, child), ids + tokens))
        frontier = grown
    return nodes


def paths(tree):
    """{path of child indices: node}"""
    found, children = {(): 0}, {}
    names = [()]
    for node, parent in enumerate(tree.parent.tolist()[1:], 1):
        children[parent] = children.get(parent, -1) + 1
        names.append((*names[parent], children[parent]))
        found[names[-1]] = node
    return found


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("delimiter", [None, "%"])
def test_forked_cache_equals_reprefilling(family, delimiter, tokenizer):
    model = random_model(family, scale=3.0)
    sampler = TreeSampler(
        model, tokenizer, branching=[3, 2, 2], step_tokens=5, max_rows=7, step_delimiter=delimiter
    )
    # Many tokens end a row or a step here, so that the slices hold rows of every kind.
    sampler.stop_ids = [0, *range(40, 45)]
    sampler.generation_config.eos_token_id = sampler.stop_ids
    delimiter_ids = tokenizer.encode("%") if delimiter else []
    trees = sampler.sample(PROMPTS, SEEDS)
    ended = 0
    for tree, prompt, seed in zip(trees, PROMPTS, SEEDS):
        expected = by_reprefilling(
            model, prompt, seed, [3, 2, 2], 5, sampler.stop_ids, delimiter_ids
        )
        found = paths(tree)
        assert found.keys() - {()} == expected.keys()
        for path, (tokens, finished) in expected.items():
            assert tree.tokens[found[path]].tolist() == tokens
            assert bool(tree.finished[found[path]]) == finished
            ended += finished
    assert ended > 3


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_recorded_logprobs_equal_teacher_forcing(family, temperature, tokenizer):
    model = random_model(family)
    tree = TreeSampler(model, tokenizer, 3, 3, 6, temperature=temperature).sample(
        [[5, 9, 23, 40]], [7]
    )[0]
    for node in range(1, len(tree.parent)):
        torch.testing.assert_close(
            tree.logprobs[node], path_logprobs(model, tree, node, temperature), atol=1e-5, rtol=1e-4
        )


@pytest.mark.parametrize("max_rows", [1, 2, 5, 1000])
def test_trees_do_not_change_with_slices_neighbours_or_order(max_rows, tiny_base, tokenizer):
    prompts = [
        tokenizer.encode(text) for text in ("2+3*4-5\n", "7-2+3*4-5\n", "9+9\n", "2+3*4-5\n")
    ]
    whole = TreeSampler(tiny_base, tokenizer, 3, 3, 6, max_rows=16).sample(prompts, SEEDS[:4])
    sampler = TreeSampler(tiny_base, tokenizer, 3, 3, 6, max_rows=max_rows)
    for tree, prompt, seed in zip(whole, prompts, SEEDS):
        assert same(tree, sampler.sample([prompt], [seed])[0])
    order = [2, 0, 3, 1]
    shuffled = sampler.sample([prompts[i] for i in order], [SEEDS[i] for i in order])
    assert all(same(whole[i], tree) for i, tree in zip(order, shuffled))


def test_seeds_and_siblings_differ(tiny_base, tokenizer):
    prompt = tokenizer.encode("7-2+3*4-5*2\n")
    a, b, c = TreeSampler(tiny_base, tokenizer, 8, 1, 40).sample([prompt] * 3, [0, 0, 1])
    assert same(a, b) and not same(a, c)
    assert len({tuple(tokens.tolist()) for tokens in a.tokens[1:]}) > 2


def test_frequencies_follow_the_model(tokenizer):
    """Chi-square over first tokens, also under temperature and cropping."""
    model = random_model("qwen2", scale=4.0)
    prompt, draws = [5, 9, 23], 4000
    logits = model(torch.tensor([prompt])).logits[0, -1:]
    for temperature, top_p, top_k in ((1.0, 1.0, 0), (0.6, 1.0, 0), (1.0, 0.8, 0), (1.0, 1.0, 5)):
        sampler = TreeSampler(
            model, tokenizer, draws, 1, 1, temperature, top_p, top_k, max_rows=draws
        )
        tree = sampler.sample([prompt], [11])[0]
        probabilities = warp(logits, temperature, top_p, top_k).softmax(-1)[0].detach().double()
        counts = torch.bincount(torch.cat(tree.tokens), minlength=len(probabilities)).double()
        assert counts[probabilities == 0].sum() == 0
        common = probabilities * draws >= 5
        expected = (
            torch.cat([probabilities[common], (1 - probabilities[common].sum()).clamp(min=0)[None]])
            * draws
        )
        observed = torch.cat([counts[common], (draws - counts[common].sum())[None]])
        statistic = ((observed - expected) ** 2 / expected.clamp(min=1)).sum().item()
        freedom = int(common.sum())
        assert statistic < freedom + 5 * np.sqrt(
            2 * freedom
        )  # five standard deviations of a chi-square


def test_shape_of_a_tree(tiny_base, tokenizer):
    prompt = tokenizer.encode("8+4*2-3*3+8-8\n")
    tree = TreeSampler(tiny_base, tokenizer, [4, 3, 2], step_tokens=8).sample([prompt], [0])[0]
    parent, leaves = tree.parent.tolist(), tree.leaves()
    assert parent[0] == -1 and all(p < i for i, p in enumerate(parent))
    assert tree.depth.tolist() == [0] + [tree.depth[p].item() + 1 for p in parent[1:]]
    for node in range(1, len(parent)):
        width = [4, 3, 2][tree.depth[node] - 1]
        assert parent.count(parent[node]) == width
        assert (node in leaves) == (bool(tree.finished[node]) or tree.depth[node] == 3)
        assert bool(tree.finished[node]) == (tree.tokens[node][-1].item() == tokenizer.eos_token_id)
        assert len(tree.tokens[node]) == len(tree.logprobs[node]) <= 8
        assert tree.finished[node] or len(tree.tokens[node]) == 8
    assert tree.completion_ids(0) == []
    node = leaves[-1]
    assert (
        tree.completion_ids(node) == tree.completion_ids(parent[node]) + tree.tokens[node].tolist()
    )


def test_greedy_is_deterministic_and_ignores_the_seed(tiny_base, tokenizer):
    prompt = tokenizer.encode("7-2+3*4-5\n")
    trees = TreeSampler(tiny_base, tokenizer, 1, 1, 60, temperature=0).sample([prompt] * 2, [0, 1])
    expected = tiny_base.generate(torch.tensor([prompt]), max_new_tokens=60, do_sample=False)[
        0, len(prompt) :
    ]
    assert trees[0].tokens[1].tolist() == trees[1].tokens[1].tolist() == expected.tolist()


def test_a_models_own_generation_config_does_not_leak(tokenizer):
    model = random_model("qwen2")
    plain = TreeSampler(model, tokenizer, 4, 2, 6).sample([[5, 9, 23]], [0])[0]
    model.generation_config.update(
        repetition_penalty=5.0, top_k=1, temperature=0.01, do_sample=True, max_length=4
    )
    assert same(plain, TreeSampler(model, tokenizer, 4, 2, 6).sample([[5, 9, 23]], [0])[0])


def test_the_model_keeps_its_mode(tiny_base, tokenizer):
    tiny_base.train()
    TreeSampler(tiny_base, tokenizer, 2, 1, 2).sample([[5]], [0])
    assert tiny_base.training
    tiny_base.eval()


@pytest.mark.parametrize(
    "settings",
    [
        {"branching": 0},
        {"depth": 0},
        {"step_tokens": 0},
        {"max_rows": 0},
        {"temperature": -1.0},
        {"top_p": 0.0},
    ],
)
def test_settings_out_of_range_are_refused(settings, tiny_base, tokenizer):
    with pytest.raises(ValueError):
        TreeSampler(tiny_base, tokenizer, **settings)


def test_a_prompt_without_tokens_is_refused(tiny_base, tokenizer):
    with pytest.raises(ValueError, match="at least one token"):
        TreeSampler(tiny_base, tokenizer, 2, 1, 2).sample([[]], [0])


def test_out_of_memory_halves_the_rows_and_changes_no_tree(tokenizer, monkeypatch, caplog):
    model = random_model("qwen2")
    expected = TreeSampler(model, tokenizer, branching=[3, 2], step_tokens=4, max_rows=12).sample(
        PROMPTS, SEEDS
    )
    sampler = TreeSampler(model, tokenizer, branching=[3, 2], step_tokens=4, max_rows=12)
    grow, sizes = sampler._grow, []

    def tight(children, seeds):
        sizes.append(len(children))
        if len(children) > 3:
            raise torch.OutOfMemoryError("out of memory")
        return grow(children, seeds)

    monkeypatch.setattr(sampler, "_grow", tight)
    trees = sampler.sample(PROMPTS, SEEDS)
    assert all(same(a, b) for a, b in zip(expected, trees, strict=True))
    assert (
        sampler.max_rows == 3
        and max(sizes[2:]) <= 3
        and "going on with --max_rows 3" in caplog.text
    )
    sizes.clear()
    monkeypatch.setattr(sampler, "_grow", lambda children, seeds: tight([*children] * 4, seeds))
    with pytest.raises(torch.OutOfMemoryError):  # where a single row is too many
        sampler.sample(PROMPTS[:1], SEEDS[:1])


def test_trees_are_streamed_as_soon_as_they_are_whole(tokenizer):
    """Several prompts in slices of one prompt's rows: the first tree comes before the last one is
    begun."""
    model = random_model("qwen2")
    sampler = TreeSampler(model, tokenizer, branching=[2, 2], step_tokens=3, max_rows=4)
    begun, prefill = [], sampler._prefill
    sampler._prefill = lambda indices, prompts: begun.extend(indices) or prefill(indices, prompts)
    order = []
    for index, tree in sampler.stream(PROMPTS, SEEDS):
        assert tree.prompt_ids == PROMPTS[index]
        order.append((index, len(begun)))
    assert sorted(index for index, _ in order) == list(range(len(PROMPTS))) and order[0][1] < len(
        PROMPTS
    )
    assert model.training is False


@pytest.mark.parametrize("vocabulary", [2**18, 50_257, 151_936])
def test_draws_from_a_large_vocabulary(vocabulary):
    """The inverse of the cumulative distribution, in double precision; the last rows have most of
    the mass cropped."""
    rows = 24
    generator = torch.Generator().manual_seed(0)
    logits = (
        torch.randn(rows, vocabulary, generator=generator) * torch.linspace(0.5, 6, rows)[:, None]
    )
    logits[-8:, torch.rand(vocabulary, generator=generator) < 0.999] = -torch.inf
    uniforms = torch.rand(3, rows, generator=generator, dtype=torch.double)
    uniforms[1], uniforms[2] = 0.0, 1 - 2**-53
    draw = _InverseCDF(uniforms, temperature=1.0, top_p=1.0, top_k=0)
    for position in range(3):
        token = draw(torch.zeros(rows, 1, dtype=torch.long), logits.clone()).argmax(-1)
        logprobs = logits.double().log_softmax(-1)
        cumulative = logprobs.exp().cumsum(-1)
        low = (cumulative - logprobs.exp()).gather(1, token[:, None]).squeeze(1)
        high = cumulative.gather(1, token[:, None]).squeeze(1)
        assert (low <= uniforms[position] + 1e-6).all() and (
            uniforms[position] <= high + 1e-6
        ).all()
        expected = logprobs.gather(1, token[:, None]).squeeze(1)
        assert expected.isfinite().all()
        torch.testing.assert_close(draw.logprobs[position].double(), expected, atol=1e-5, rtol=0)
