"""The sampler against re-prefilling, against itself under other slicings, and against the model's
own probabilities; trees that are extended against trees that were wider from the start."""

import ast
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import FAMILIES, path_logprobs, random_model

import tree_sampler
from generate import Engine, Stream, _InverseCDF, evaluation_mode, warp
from tree_sampler import Tree, TreeSampler

PROMPTS = [[5, 9, 23], [7], [4, 4, 4, 8, 15, 16, 23], [5, 9, 23], [60, 61]]
SEEDS = [3, 1, 4, 1, 5]
# Many tokens end a completion, so that slices hold rows of every kind.
STOP_IDS = [0, *range(40, 45)]


def same(left, right) -> bool:
    return (
        left.prompt_ids == right.prompt_ids
        and left.parent.tolist() == right.parent.tolist()
        and left.depth.tolist() == right.depth.tolist()
        and left.finished.tolist() == right.finished.tolist()
        and all(torch.equal(a, b) for a, b in zip(left.tokens, right.tokens))
        and all(torch.allclose(a, b, atol=1e-5) for a, b in zip(left.logprobs, right.logprobs))
    )


def step_by_reprefilling(model, ids, stream, step_tokens, ends):
    """One step from the definition: one token and one full forward pass at a time."""
    tokens = []
    for uniform in stream.uniforms(step_tokens):
        logits = model(torch.tensor([ids + tokens])).logits[0, -1].double()
        cumulative = logits.softmax(-1).cumsum(-1)
        tokens.append(int((cumulative <= uniform * cumulative[-1].item()).sum()))
        if tokens[-1] in ends:
            break
    return tokens


def by_reprefilling(model, prompt, seed, widths, step_tokens, delimiter_ids=()):
    """The tree from the definition, by depth. {path: (tokens, finished)}"""
    nodes = {}
    frontier = [((), list(prompt))]
    for width in widths:
        grown = []
        for parent, ids in frontier:
            for child in range(width):
                path = (*parent, child)
                ends = (*STOP_IDS, *delimiter_ids)
                tokens = step_by_reprefilling(model, ids, Stream(seed, path), step_tokens, ends)
                finished = tokens[-1] in STOP_IDS
                nodes[path] = (tokens, finished)
                if not finished:
                    grown.append((path, ids + tokens))
        frontier = grown
    return nodes


def by_path(tree):
    """{path of child indices: (token ids, log-probabilities, finished)}"""
    return {
        path: (tree.tokens[node].tolist(), tree.logprobs[node], bool(tree.finished[node]))
        for node, path in enumerate(tree.child_paths())
    }


def assert_same_nodes(left, right):
    """Two trees have the same nodes, whatever their order; log-probabilities up to rounding."""
    assert left.prompt_ids == right.prompt_ids
    left_nodes = by_path(left)
    right_nodes = by_path(right)
    assert left_nodes.keys() == right_nodes.keys()
    for path, (tokens, logprobs, finished) in left_nodes.items():
        assert (tokens, finished) == (right_nodes[path][0], right_nodes[path][2])
        torch.testing.assert_close(logprobs, right_nodes[path][1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("delimiter", [None, "%"])
def test_forked_cache_equals_reprefilling(family, delimiter, tokenizer):
    model = random_model(family, scale=3.0)
    sampler = TreeSampler(
        model, tokenizer, branching=[3, 2, 2], step_tokens=5, max_rows=7, step_delimiter=delimiter
    )
    sampler.engine.stop_at(STOP_IDS)
    delimiter_ids = tokenizer.encode("%") if delimiter else []
    trees = sampler.sample(PROMPTS, SEEDS)
    ended = 0
    for tree, prompt, seed in zip(trees, PROMPTS, SEEDS):
        expected = by_reprefilling(model, prompt, seed, [3, 2, 2], 5, delimiter_ids)
        nodes = by_path(tree)
        assert nodes.keys() - {()} == expected.keys()
        for path, (tokens, finished) in expected.items():
            assert (nodes[path][0], nodes[path][2]) == (tokens, finished)
            ended += finished
    assert ended > 3


@pytest.mark.parametrize("prompt", [[7], [5, 9, 23, 40, 8, 8, 8, 15]])
def test_delimited_steps_longer_than_a_window(prompt, tokenizer):
    """A row that ended early is continued from columns that the window dropped during the step."""
    model = random_model("gemma3", scale=3.0)
    engine = Engine(model, tokenizer, step_tokens=16, step_delimiter="%")
    engine.stop_at([])
    delimiter_ids = tokenizer.encode("%")
    count = 12
    contexts = [list(prompt) for _ in range(count)]
    lengths = set()
    with evaluation_mode(model):
        rows = engine.prefill([prompt]) * count
        for turn in range(3):
            streams = [Stream(turn, (i,)) for i in range(count)]
            steps = engine.grow(rows, streams)
            for i, step in enumerate(steps):
                expected = step_by_reprefilling(model, contexts[i], streams[i], 16, delimiter_ids)
                assert step.tokens.tolist() == expected
                contexts[i] = contexts[i] + expected
                lengths.add(len(expected))
            rows = [step.row for step in steps]
    assert min(lengths) < 6 and max(lengths) == 16  # the window has 6 tokens


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_recorded_logprobs_equal_teacher_forcing(family, temperature, tokenizer):
    model = random_model(family)
    sampler = TreeSampler(model, tokenizer, 3, 3, 6, temperature=temperature)
    (tree,) = sampler.sample([[5, 9, 23, 40]], [7])
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
    sampler = TreeSampler(tiny_base, tokenizer, 8, 1, 40)
    first, equal, other = sampler.sample([prompt] * 3, [0, 0, 1])
    assert same(first, equal) and not same(first, other)
    assert len({tuple(tokens.tolist()) for tokens in first.tokens[1:]}) > 2


@pytest.mark.parametrize(
    "temperature, top_p, top_k", [(1.0, 1.0, 0), (0.6, 1.0, 0), (1.0, 0.8, 0), (1.0, 1.0, 5)]
)
def test_frequencies_follow_the_model(temperature, top_p, top_k, tokenizer):
    """Chi-square over first tokens, also under temperature and cropping."""
    model = random_model("qwen2", scale=4.0)
    prompt = [5, 9, 23]
    draws = 4000
    sampler = TreeSampler(model, tokenizer, draws, 1, 1, temperature, top_p, top_k, max_rows=draws)
    (tree,) = sampler.sample([prompt], [11])
    counts = torch.bincount(torch.cat(tree.tokens), minlength=100).double()  # [vocabulary]
    logits = model(torch.tensor([prompt])).logits[0, -1:]
    probabilities = warp(logits, temperature, top_p, top_k).softmax(-1)[0].detach().double()
    assert counts[probabilities == 0].sum() == 0

    # Rare tokens are counted together.
    common = probabilities * draws >= 5
    rare = (1 - probabilities[common].sum()).clamp(min=0)
    expected = torch.cat([probabilities[common], rare[None]]) * draws
    observed = torch.cat([counts[common], (draws - counts[common].sum())[None]])
    statistic = ((observed - expected) ** 2 / expected.clamp(min=1)).sum().item()
    freedom = int(common.sum())
    five_deviations = 5 * np.sqrt(2 * freedom)  # of a chi-square
    assert statistic < freedom + five_deviations


def test_shape_of_a_tree(tiny_base, tokenizer):
    prompt = tokenizer.encode("8+4*2-3*3+8-8\n")
    tree = TreeSampler(tiny_base, tokenizer, [4, 3, 2], step_tokens=8).sample([prompt], [0])[0]
    parent = tree.parent.tolist()
    leaves = tree.leaves()
    assert parent[0] == -1 and all(above < node for node, above in enumerate(parent))
    assert tree.depth.tolist() == [0] + [tree.depth[above].item() + 1 for above in parent[1:]]
    for node in range(1, len(parent)):
        width = [4, 3, 2][tree.depth[node] - 1]
        assert parent.count(parent[node]) == width
        assert (node in leaves) == (bool(tree.finished[node]) or tree.depth[node] == 3)
        assert bool(tree.finished[node]) == (tree.tokens[node][-1].item() == tokenizer.eos_token_id)
        assert len(tree.tokens[node]) == len(tree.logprobs[node]) <= 8
        assert tree.finished[node] or len(tree.tokens[node]) == 8
    assert tree.completion_ids(0) == []
    last = leaves[-1]
    above = tree.completion_ids(parent[last])
    assert tree.completion_ids(last) == above + tree.tokens[last].tolist()


def test_greedy_is_deterministic_and_ignores_the_seed(tiny_base, tokenizer):
    prompt = tokenizer.encode("7-2+3*4-5\n")
    trees = TreeSampler(tiny_base, tokenizer, 1, 1, 60, temperature=0).sample([prompt] * 2, [0, 1])
    greedy = tiny_base.generate(torch.tensor([prompt]), max_new_tokens=60, do_sample=False)
    expected = greedy[0, len(prompt) :].tolist()
    assert trees[0].tokens[1].tolist() == trees[1].tokens[1].tolist() == expected


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


def tight(monkeypatch, sampler, rows: int) -> list[int]:
    """Lets the engine run out of memory above so many rows. Returns the rows of its calls."""
    sizes = []
    for name in ("prefill", "grow"):
        operation = getattr(sampler.engine, name)

        def limited(rows_of_call, *args, operation=operation):
            sizes.append(len(rows_of_call))
            if len(rows_of_call) > rows:
                raise torch.OutOfMemoryError("out of memory")
            return operation(rows_of_call, *args)

        monkeypatch.setattr(sampler.engine, name, limited)
    return sizes


@pytest.mark.parametrize("branching", [[3, 2], [1, 2]])
def test_out_of_memory_halves_the_rows_and_changes_no_tree(
    branching, tokenizer, monkeypatch, caplog
):
    """Growing with wide roots, and prefilling, where each root has one child."""
    model = random_model("qwen2")
    expected = TreeSampler(model, tokenizer, branching, 2, 4, max_rows=12).sample(PROMPTS, SEEDS)
    sampler = TreeSampler(model, tokenizer, branching, 2, 4, max_rows=12)
    sizes = tight(monkeypatch, sampler, rows=3)
    trees = sampler.sample(PROMPTS, SEEDS)
    assert all(same(a, b) for a, b in zip(expected, trees, strict=True))
    assert max(sizes) > 3 and sampler.max_rows in (2, 3)
    assert f"continuing with --max_rows {sampler.max_rows}" in caplog.text
    sizes.clear()
    sampler.sample(PROMPTS, SEEDS)
    assert max(sizes) <= 3


def test_a_single_row_that_is_too_large_is_an_error(tokenizer, monkeypatch):
    sampler = TreeSampler(random_model("qwen2"), tokenizer, [3, 2], step_tokens=4, max_rows=12)
    tight(monkeypatch, sampler, rows=0)
    with pytest.raises(torch.OutOfMemoryError):
        sampler.sample(PROMPTS[:1], SEEDS[:1])


def test_trees_are_streamed_as_soon_as_they_are_whole(tokenizer, monkeypatch):
    """Several prompts in slices of one prompt's rows: the first tree comes before the last one is
    begun."""
    model = random_model("qwen2")
    sampler = TreeSampler(model, tokenizer, branching=[2, 2], step_tokens=3, max_rows=4)
    begun = []
    prefill = sampler.engine.prefill
    monkeypatch.setattr(
        sampler.engine, "prefill", lambda prompts: begun.extend(prompts) or prefill(prompts)
    )
    order = []
    for index, tree in sampler.stream(PROMPTS, SEEDS):
        assert tree.prompt_ids == PROMPTS[index]
        order.append((index, len(begun)))
    assert sorted(index for index, _ in order) == list(range(len(PROMPTS)))
    assert order[0][1] < len(PROMPTS)
    assert model.training is False


# --- The engine and the scheduler ---


def test_the_scheduler_knows_no_caches():
    """It touches neither caches nor masks nor generate."""
    tree = ast.parse(Path(tree_sampler.__file__).read_text(encoding="utf-8"))
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    names |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not {name for name in names if "cache" in name or "mask" in name or name == "generate"}
    assert not any(module.startswith("transformers") for module in modules)


def test_another_engine_may_stand_behind_the_sampler(tokenizer):
    """One with the same two operations, which computes nothing before a step again and again."""
    model = random_model("qwen2", scale=3.0)
    sampler = TreeSampler(model, tokenizer, branching=[3, 2], step_tokens=4, max_rows=5)
    sampler.engine.stop_at(STOP_IDS)
    expected = sampler.sample(PROMPTS, SEEDS)

    class Slow(Engine):
        def prefill(self, contexts):
            return list(contexts)

        def grow(self, rows, streams):
            steps = []
            for row, stream in zip(rows, streams):
                (step,) = super().grow(super().prefill([row]), [stream])
                step.row = row + step.tokens.tolist()
                steps.append(step)
            return steps

    sampler.engine = Slow(model, tokenizer, 4)
    sampler.engine.stop_at(STOP_IDS)
    for tree, fast in zip(sampler.sample(PROMPTS, SEEDS), expected, strict=True):
        assert_same_nodes(tree, fast)


def test_the_engine_continues_rows_of_several_calls(tokenizer):
    """Rows of other lengths, from other caches, one of them twice: as from their definition."""
    model = random_model("llama", scale=3.0)
    engine = Engine(model, tokenizer, step_tokens=5, step_delimiter="%")
    engine.stop_at([])
    with evaluation_mode(model):
        first = engine.prefill([[5, 9, 23], [7]])
        second = engine.prefill([[60, 61, 8, 8, 8]])
        rows = [second[0], first[1], first[0], first[1]]
        contexts = [[60, 61, 8, 8, 8], [7], [5, 9, 23], [7]]
        for round_number in range(3):
            streams = [Stream(round_number, (i,)) for i in range(4)]
            steps = engine.grow(rows, streams)
            for i, step in enumerate(steps):
                delimiter_ids = tokenizer.encode("%")
                expected = step_by_reprefilling(model, contexts[i], streams[i], 5, delimiter_ids)
                assert step.tokens.tolist() == expected
                contexts[i] = contexts[i] + expected
                assert step.row.length == len(contexts[i])
            rows = [step.row for step in steps]


class Varied(TreeSampler):
    """As many children as the node's last token says."""

    def width(self, node):
        if node.finished or node.depth == 3:
            return 0
        return 2 if node.depth == 0 else int(node.tokens[-1]) % 4


def test_a_nodes_width_may_depend_on_its_tokens(tiny_base, tokenizer):
    prompts = [tokenizer.encode(text) for text in ("2+3*4-5\n", "7-2+3*4-5\n", "9+9\n")]
    trees = Varied(tiny_base, tokenizer, 1, 3, 6).sample(prompts, SEEDS[:3])
    widths = set()
    for tree in trees:
        parent = tree.parent.tolist()
        for node in range(1, len(parent)):
            if not tree.finished[node] and tree.depth[node] < 3:
                assert parent.count(node) == int(tree.tokens[node][-1]) % 4
                widths.add(parent.count(node))
    assert len(widths) > 2
    for max_rows in (1, 3):
        sliced = Varied(tiny_base, tokenizer, 1, 3, 6, max_rows=max_rows)
        for tree, expected in zip(sliced.sample(prompts, SEEDS[:3]), trees, strict=True):
            assert same(tree, expected)


# --- Extending finished trees ---


@pytest.fixture(params=FAMILIES)
def narrow_and_wide(request, tokenizer):
    """Samplers of one model whose widths differ at the first two depths, with short steps too."""
    model = random_model(request.param, scale=3.0)
    samplers = [
        TreeSampler(model, tokenizer, widths, step_tokens=5, max_rows=9, step_delimiter="%")
        for widths in ([2, 2, 2], [3, 2, 2], [2, 4, 2])
    ]
    for sampler in samplers:
        sampler.engine.stop_at(STOP_IDS)
    return samplers


def test_a_further_child_is_that_of_a_larger_width(narrow_and_wide):
    narrow, wide_roots, wide_steps = narrow_and_wide
    trees = narrow.sample(PROMPTS, SEEDS)
    at_roots = narrow.extend(trees, [{0: 1}] * len(trees), SEEDS)
    for tree, expected in zip(at_roots, wide_roots.sample(PROMPTS, SEEDS), strict=True):
        assert_same_nodes(tree, expected)
    inner = [
        {
            node: 2
            for node in range(len(tree.parent))
            if tree.depth[node] == 1 and not tree.finished[node]
        }
        for tree in trees
    ]
    assert sum(map(len, inner)) > 3
    at_steps = narrow.extend(trees, inner, SEEDS)
    for tree, expected in zip(at_steps, wide_steps.sample(PROMPTS, SEEDS), strict=True):
        assert_same_nodes(tree, expected)


def test_extension_does_not_depend_on_batching(narrow_and_wide):
    narrow, _, _ = narrow_and_wide
    trees = narrow.sample(PROMPTS, SEEDS)
    together = narrow.extend(trees, [{0: 3}] * len(trees), SEEDS)
    for max_rows in (1, 2, 1000):
        sampler = TreeSampler(
            narrow.engine.model,
            narrow.engine.tokenizer,
            [2, 2, 2],
            step_tokens=5,
            max_rows=max_rows,
            step_delimiter="%",
        )
        sampler.engine.stop_at(STOP_IDS)
        for index, tree in enumerate(trees):
            # One tree, and one child, at a time.
            for _ in range(3):
                (tree,) = sampler.extend([tree], [{0: 1}], [SEEDS[index]])
            assert_same_nodes(tree, together[index])


def test_extended_nodes_keep_their_indices_and_their_probabilities(narrow_and_wide):
    narrow, _, _ = narrow_and_wide
    narrow.engine.stop_at([])
    (tree,) = narrow.sample([[5, 9, 23, 41]], [2])
    before = len(tree.parent)
    deepest = tree.leaves()[-1]  # becomes an inner node, beyond the sampler's depth
    assert tree.depth[deepest] == 3
    (extended,) = narrow.extend([tree], [{0: 1, deepest: 2}], [2])
    assert extended.parent[:before].tolist() == tree.parent.tolist()
    assert extended.finished[:before].tolist() == tree.finished.tolist()
    for old, new in ((tree.tokens, extended.tokens), (tree.logprobs, extended.logprobs)):
        assert all(torch.equal(a, b) for a, b in zip(old, new))
    assert extended.parent.tolist().count(deepest) == 2
    assert extended.parent.tolist().count(0) == 3
    for node, parent in enumerate(extended.parent.tolist()[1:], 1):
        assert parent < node and extended.depth[node] == extended.depth[parent] + 1
        plain = path_logprobs(narrow.engine.model, extended, node)
        torch.testing.assert_close(extended.logprobs[node], plain, atol=1e-5, rtol=1e-4)


def test_an_extension_of_nothing_changes_nothing(tiny_base, tokenizer):
    sampler = TreeSampler(tiny_base, tokenizer, 2, 2, 4)
    trees = sampler.sample(PROMPTS[:2], SEEDS[:2])
    extended = sampler.extend(trees, [{}, {0: 1}], SEEDS[:2])
    assert same(extended[0], trees[0]) and len(extended[1].parent) > len(trees[1].parent)


def test_extensions_that_make_no_sense_are_refused(tiny_base, tokenizer):
    sampler = TreeSampler(tiny_base, tokenizer, 2, 1, 4)
    tree = Tree([5], [-1, 0], [0, 1], [[], [0]], [[], [0.0]], [False, True])
    for more, says in (
        ({1: 1}, "node 1 of tree 0 is finished"),
        ({2: 1}, "tree 0 has no node 2"),
        ({-1: 1}, "tree 0 has no node -1"),
        ({0: 0}, "node 0 of tree 0: 0 new children"),
    ):
        with pytest.raises(ValueError, match=says):
            sampler.extend([tree], [more], [0])
    with pytest.raises(ValueError, match="1 trees, 1 dicts of new children and 0 seeds"):
        sampler.extend([tree], [{0: 1}], [])


def test_a_trees_json_form():
    tree = Tree([5], [-1, 0], [0, 1], [[], [7, 0]], [[], [-0.5, -0.1]], [False, True])
    rows = tree.to_json(
        lambda ids: "".join(map(str, ids.tolist())), reward=torch.tensor([0.5, 1.0])
    )
    assert rows == [
        {"parent": -1, "text": "", "tokens": 0, "finished": False, "reward": 0.5},
        {"parent": 0, "text": "7", "tokens": 2, "finished": True, "reward": 1.0},
    ]


# --- Draws ---


@pytest.mark.parametrize("vocabulary", [2**18, 50_257, 151_936])
def test_draws_from_a_large_vocabulary(vocabulary):
    """The inverse of the cumulative distribution, in double precision; the last rows have most of
    the mass cropped."""
    rows = 24
    generator = torch.Generator().manual_seed(0)
    widths = torch.linspace(0.5, 6, rows)[:, None]
    logits = torch.randn(rows, vocabulary, generator=generator) * widths
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
        assert (low <= uniforms[position] + 1e-6).all()
        assert (uniforms[position] <= high + 1e-6).all()
        expected = logprobs.gather(1, token[:, None]).squeeze(1)
        assert expected.isfinite().all()
        torch.testing.assert_close(draw.logprobs[position].double(), expected, atol=1e-5, rtol=0)
