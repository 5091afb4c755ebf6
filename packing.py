"""Trees -> packs.

A pack is one sequence that holds many nodes, each token once: a token sees its ancestors and nobody
else, and stands at the position it had when it was sampled. So a prefix that a thousand leaves
share is computed once, both ways."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from tree import Tree

# What a call of attention costs, in pairs of tokens whose attention takes as long; on a GPU by
# count, not measured.
CALL_PAIRS = 2**18 if torch.cuda.is_available() else 2**15


@dataclass
class Pack:
    """One sequence of tree nodes in depth-first order.

    With entry and exit times of the depth-first walk, query q sees key k when tin[k] <= tin[q] <
    tout[k]; the entry time of a token is its index in the pack, so only `tout` is stored."""

    input_ids: Tensor  # LongTensor [tokens]
    position_ids: Tensor  # LongTensor [tokens], from the path's start
    tout: Tensor  # LongTensor [tokens], the index behind the subtree of the token's node
    predictors: Tensor  # LongTensor [trained tokens], the index of the token that predicts each trained token
    targets: Tensor  # LongTensor [trained tokens], their ids
    advantages: Tensor  # [trained tokens], of the node that each belongs to
    old_logprobs: Tensor  # [trained tokens], under the sampling policy
    steps: Tensor  # LongTensor [trained tokens], numbers the node that each belongs to, from 0 within the pack
    cuts: (
        Tensor  # LongTensor [segments + 1], the indices between which attention is computed at once
    )

    def to(self, device) -> "Pack":
        return Pack(**{name: value.to(device) for name, value in vars(self).items()})

    @staticmethod
    def idle() -> "Pack":
        """One token and none that is trained: a pass that another process needs company in."""
        one, none = torch.zeros(1, dtype=torch.long), torch.zeros(0, dtype=torch.long)
        return Pack(
            one, one, one + 1, none, none, none.float(), none.float(), none, torch.tensor([0, 1])
        )


@dataclass
class _Item:
    """A kept node on its way into packs. Indices count kept nodes in depth-first order over all
    trees."""

    ids: np.ndarray  # tokens to forward: a leaf's last token predicts nothing and is left out
    tokens: np.ndarray  # all tokens, to be predicted
    old_logprobs: np.ndarray
    advantage: float
    parent: int  # index of the parent, -1 for a root
    start: int  # position of its first token; the tokens before it are its ancestors'
    end: int = 0  # index behind the last node of its subtree


def pack(trees: list[Tree], advantages: list[Tensor], max_tokens: int) -> list[Pack]:
    """Packs the trained nodes of the trees, each exactly once, with the ancestors they need.

    Nodes with zero advantage and no trained descendant are left out. A cut repeats the tokens of
    the ancestors at that place and nothing else; the cuts are those that leave the fewest tokens in
    all packs, each of at most max_tokens.

    Args:
        advantages: one Tensor [nodes] a tree.
        max_tokens: most tokens in a pack.

    Raises:
        ValueError: a single path is longer than max_tokens.
    """
    items: list[_Item] = []
    for tree, values in zip(trees, advantages, strict=True):
        _collect(tree, values.tolist(), items)
    if not items:
        return []
    lengths = np.array([len(item.ids) for item in items])
    if (longest := max(item.start + len(item.ids) for item in items)) > max_tokens:
        raise ValueError(
            f"a path of {longest} tokens does not fit a pack of {max_tokens}: raise max_pack_tokens"
        )
    # A token more for each pack: of two ways to cut that cost the same, the one with fewer packs.
    cuts = _cut(
        lengths,
        np.array([item.start for item in items]),
        max_tokens,
        lambda own, context: 1 + own + context,
    )
    packs = [_build(items, first, last) for first, last in pairwise(cuts)]
    return [p for p in packs if len(p.targets)]


def split_trees(tokens: list[int], count: int, seed: list[int]) -> list[list[int]]:
    """Splits a batch of trees into `count` parts that are as equal in trained tokens as whole trees
    allow.

    Trees are dealt in an order drawn by the seed, each to the part with the fewest tokens so far.
    Then a tree is moved, or two are swapped, for as long as that brings two parts closer together.

    Args:
        tokens: trained tokens of each tree.
        seed: of the draw.

    Returns:
        The places of each part's trees in `tokens`, in order.

    >>> split_trees([30, 20, 20, 30, 20], 2, [0])
    [[1, 2, 4], [0, 3]]
    """
    parts: list[list[int]] = [[] for _ in range(count)]
    sums = [0] * count
    for place in np.random.default_rng(seed).permutation(len(tokens)).tolist():
        emptiest = min(range(count), key=lambda part: (sums[part], len(parts[part])))
        parts[emptiest].append(place)
        sums[emptiest] += tokens[place]
    while exchange := _best_exchange(tokens, parts, sums):
        giver, taker, given, taken = exchange
        for part, out, back in ((giver, given, taken), (taker, taken, given)):
            parts[part] = [place for place in parts[part] if place != out] + (
                [] if back is None else [back]
            )
            sums[part] = sum(tokens[place] for place in parts[part])
    return [sorted(part) for part in parts]


def _best_exchange(tokens: list[int], parts: list[list[int]], sums: list[int]) -> tuple | None:
    """The move or swap of trees that brings two parts closest together: (giver, taker, place given,
    place taken or None), or None where none brings any two closer."""
    best, found = 0, None
    for giver in range(len(parts)):
        for taker in range(len(parts)):
            difference = sums[giver] - sums[taker]
            for given in parts[giver] if difference > 0 else ():
                for taken in (None, *parts[taker]):
                    shift = tokens[given] - (0 if taken is None else tokens[taken])
                    gain = difference - abs(difference - 2 * shift)
                    if gain > best:
                        best, found = gain, (giver, taker, given, taken)
    return found


def _collect(tree: Tree, advantages: list[float], items: list[_Item]) -> None:
    """Appends the nodes of a tree that are trained or lead to one that is, in depth-first order."""
    parents = tree.parent.tolist()
    needed = [a != 0 for a in advantages]
    children: list[list[int]] = [[] for _ in parents]
    for node in range(len(parents) - 1, 0, -1):
        if needed[node]:
            needed[parents[node]] = True
            children[parents[node]].append(node)
    stack = [(0, -1)] if any(a != 0 for a in advantages[1:]) else []
    closing: list[int] = []  # the indices whose subtree is still open
    while stack:
        node, parent = stack.pop()
        while closing and closing[-1] != parent:
            items[closing.pop()].end = len(items)
        tokens = tree.tokens[node].numpy() if node else np.array(tree.prompt_ids)
        start = items[parent].start + len(items[parent].ids) if node else 0
        ids = tokens if children[node] else tokens[:-1]
        logprobs = tree.logprobs[node].numpy()
        closing.append(len(items))
        stack += [
            (child, len(items)) for child in children[node]
        ]  # collected backwards: the first child is on top
        items.append(_Item(ids, tokens, logprobs, advantages[node] if node else 0.0, parent, start))
    for index in closing:
        items[index].end = len(items)


def _cut(lengths: np.ndarray, context: np.ndarray, max_tokens: float, cost: Callable) -> list[int]:
    """Where to cut the depth-first order: boundaries 0 = c0 < c1 < ... = nodes, of least total
    cost, by dynamic programming. `cost` takes the tokens of a part's own nodes, [candidates], and
    those of its context.

    A part of nodes [i, j) needs their tokens and `context[i]` tokens of the ancestors of i. Those
    are all the ancestors it needs: in depth-first order an ancestor of a later node in the range is
    in the range, or above i too."""
    count = len(lengths)
    offsets = np.concatenate([[0], lengths.cumsum()])
    best = np.zeros(count + 1)  # least cost of the nodes from i on
    cut = np.zeros(count, dtype=int)
    for i in range(count - 1, -1, -1):
        last = np.searchsorted(offsets, offsets[i] + max_tokens - context[i], side="right")
        costs = (
            cost(offsets[i + 1 : last] - offsets[i], context[i]) + best[i + 1 : last]
        )  # for j = i + 1 ... last - 1
        # The latest of equals. Behind nodes without tokens of their own it makes no difference.
        cut[i] = last - 1 - int(costs[::-1].argmin())
        best[i] = costs[cut[i] - i - 1]
    boundaries = [0]
    while boundaries[-1] < count:
        boundaries.append(int(cut[boundaries[-1]]))
    return boundaries


def _build(items: list[_Item], first: int, last: int) -> Pack:
    """The pack of nodes [first, last) behind the ancestors of `first`."""
    ancestors: list[int] = []
    while (above := items[ancestors[-1] if ancestors else first].parent) >= 0:
        ancestors.append(above)
    members = ancestors[::-1] + list(range(first, last))
    place = {index: i for i, index in enumerate(members)}
    lengths = np.array([len(items[index].ids) for index in members])
    offsets = np.concatenate([[0], lengths.cumsum()])  # [members + 1]
    exits = np.array([offsets[place.get(items[index].end, len(members))] for index in members])
    starts = np.array([items[index].start for index in members])
    # Attention computes own * (own + context) pairs of tokens for a segment, and is called once
    # more for each.
    cuts = _cut(lengths, starts, math.inf, lambda own, context: own * (own + context) + CALL_PAIRS)
    predictors, trained = [], []
    for i, index in enumerate(members):
        item = items[index]
        if (
            index >= first and item.advantage != 0
        ):  # an ancestor is context here; it is trained in its own pack
            own = np.arange(offsets[i] - 1, offsets[i] - 1 + len(item.tokens))
            own[0] = (
                offsets[place[item.parent] + 1] - 1
            )  # the first token follows from the parent's last
            predictors.append(own)
            trained.append(item)
    sizes = [len(item.tokens) for item in trained]

    def join(parts: list[np.ndarray], dtype: type) -> Tensor:
        return torch.from_numpy(np.concatenate([np.empty(0), *parts]).astype(dtype))

    return Pack(
        input_ids=join([items[index].ids for index in members], np.int64),
        position_ids=torch.from_numpy(
            np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
        ),
        tout=torch.from_numpy(np.repeat(exits, lengths)),
        predictors=join(predictors, np.int64),
        targets=join([item.tokens for item in trained], np.int64),
        advantages=join(
            [np.full(size, item.advantage) for item, size in zip(trained, sizes)], np.float32
        ),
        old_logprobs=join([item.old_logprobs for item in trained], np.float32),
        steps=torch.from_numpy(np.repeat(np.arange(len(trained)), sizes)),
        cuts=torch.from_numpy(offsets[cuts]),
    )
