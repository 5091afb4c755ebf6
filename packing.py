"""Trees -> packs: every token of a tree is forwarded once.

A pack is one sequence that holds many nodes, each token once. A token sees its ancestors, itself
and nothing else, and stands at the position that it had when it was sampled. So a prefix that a
thousand leaves share is computed once, in the forward pass and in the backward pass.

A small tree, with the prompt P Q, and its pack in depth-first order:

    P Q -+- a b -+- d e       node 1: a b, with its children 2: d e and 3: f g
         |       `- f g
         `- c h               node 4: c h

    index         0  1  2  3  4  5  6
    input_ids     P  Q  a  b  d  f  c     a leaf's last token (e, g, h) predicts nothing
    position_ids  0  1  2  3  4  4  2
    tout          7  7  6  6  5  6  7     the index after the node's subtree

    sees   P  Q  a  b  d  f  c
    P      x                         query q sees key k when k <= q < tout[k]
    Q      x  x
    a      x  x  x
    b      x  x  x  x
    d      x  x  x  x  x
    f      x  x  x  x     x          not d: tout[4] = 5 is not above 5
    c      x  x              x

    targets       a  b  d  e  f  g  c  h
    predictors    1  2  3  4  3  5  1  6     the first token of a node follows its parent's last

Attention is computed by segments: runs of neighbouring queries, each with the keys that some of
them see. Cut between d and f and between f and c, the segments are P Q a b d, which sees itself; f,
which sees P Q a b f; and c, which sees P Q c: 25 + 5 + 3 pairs of tokens instead of 49.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from tree import Tree


def call_pairs() -> int:
    """What a call of attention costs, in pairs of tokens whose attention takes as long.

    The figure for a GPU is an estimate, not a measurement.
    """
    return 2**18 if torch.cuda.is_available() else 2**15


@dataclass
class Pack:
    """One sequence of tree nodes in depth-first order.

    The entry time of a token in the depth-first walk is its index in the pack, and its exit time is
    `tout`: query q sees key k when k <= q < tout[k].
    """

    input_ids: Tensor  # LongTensor [tokens]
    position_ids: Tensor  # LongTensor [tokens], from the path's start
    tout: Tensor  # LongTensor [tokens], the index after the subtree of the token's node
    predictors: Tensor  # LongTensor [trained tokens], the index of the token that predicts each
    targets: Tensor  # LongTensor [trained tokens], their ids
    advantages: Tensor  # [trained tokens], of the node that each belongs to
    old_logprobs: Tensor  # [trained tokens], under the sampling policy
    # LongTensor [trained tokens], the number of the node that each belongs to, from 0 in the pack
    steps: Tensor
    cuts: Tensor  # LongTensor [segments + 1], the indices between which attention is computed

    def to(self, device) -> "Pack":
        return Pack(**{name: value.to(device) for name, value in vars(self).items()})

    @staticmethod
    def idle() -> "Pack":
        """One token, and none that is trained: a pass that other processes need for company."""
        zero = torch.zeros(1, dtype=torch.long)  # [1 token]
        none = torch.zeros(0, dtype=torch.long)  # [no trained token]
        return Pack(
            input_ids=zero,
            position_ids=zero,
            tout=zero + 1,
            predictors=none,
            targets=none,
            advantages=none.float(),
            old_logprobs=none.float(),
            steps=none,
            cuts=torch.tensor([0, 1]),
        )


@dataclass
class _Item:
    """A node on its way into packs.

    Indices count the nodes that are packed, in depth-first order over all trees.
    """

    ids: np.ndarray  # [tokens to forward]: a leaf's last token predicts nothing and is left out
    tokens: np.ndarray  # [tokens], all that are to be predicted
    old_logprobs: np.ndarray  # [tokens]
    advantage: float
    parent: int  # index of the parent, -1 for a root
    start: int  # position of its first token: the number of its ancestors' tokens
    end: int = 0  # index after the last node of its subtree


def pack(trees: list[Tree], advantages: list[Tensor], max_tokens: int) -> list[Pack]:
    """Packs the trained nodes of the trees, each exactly once, with the ancestors they need.

    Nodes with zero advantage and no trained descendant are left out. Where a tree is cut, the
    second part repeats the tokens of the ancestors at that place and nothing else. The cuts are
    those that leave the fewest tokens in all packs, each of at most max_tokens.

    Args:
        advantages: one Tensor [nodes] per tree.
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
    starts = np.array([item.start for item in items])
    longest = int((starts + lengths).max())
    if longest > max_tokens:
        raise ValueError(
            f"a path of {longest} tokens does not fit a pack of {max_tokens}: raise max_pack_tokens"
        )

    def tokens_of_pack(own: np.ndarray, context: int) -> np.ndarray:
        # One token more for each pack: of two ways to cut that cost the same, the one with fewer
        # packs is taken.
        return 1 + own + context

    cuts = _cut(lengths, starts, max_tokens, tokens_of_pack)
    pairs = call_pairs()
    packs = [_build(items, first, last, pairs) for first, last in pairwise(cuts)]
    # A pack may hold nothing but the way to what the next one trains.
    return [packed for packed in packs if len(packed.targets)]


def split_trees(tokens: list[int], count: int, seed: list[int]) -> list[list[int]]:
    """Splits a batch of trees into `count` parts, as equal in trained tokens as whole trees allow.

    Trees are dealt in an order drawn by the seed, each to the part with the fewest tokens so far.
    Then a tree is moved, or two are swapped, for as long as that brings two parts closer together.

    Args:
        tokens: trained tokens of each tree.
        count: number of parts.
        seed: of the draw.

    Returns:
        The indices of each part's trees in `tokens`, in order.

    >>> split_trees([30, 20, 20, 30, 20], 2, [0])
    [[1, 2, 4], [0, 3]]
    """
    parts: list[list[int]] = [[] for _ in range(count)]
    sums = [0] * count  # trained tokens of each part
    for tree in np.random.default_rng(seed).permutation(len(tokens)).tolist():
        emptiest = min(range(count), key=lambda part: (sums[part], len(parts[part])))
        parts[emptiest].append(tree)
        sums[emptiest] += tokens[tree]
    while exchange := _best_exchange(tokens, parts, sums):
        giver, taker, given, taken = exchange
        parts[giver].remove(given)
        parts[taker].append(given)
        if taken is not None:
            parts[taker].remove(taken)
            parts[giver].append(taken)
        for part in (giver, taker):
            sums[part] = sum(tokens[tree] for tree in parts[part])
    return [sorted(part) for part in parts]


def _best_exchange(tokens: list[int], parts: list[list[int]], sums: list[int]) -> tuple | None:
    """The move or swap of trees that brings two parts closest together.

    Returns:
        (giver, taker, tree given, tree taken or None), or None where no exchange brings any two
        parts closer.
    """
    best_gain = 0
    best_exchange = None
    for giver in range(len(parts)):
        for taker in range(len(parts)):
            difference = sums[giver] - sums[taker]
            if difference <= 0:
                continue
            for given in parts[giver]:
                for taken in (None, *parts[taker]):
                    moved = tokens[given] - (0 if taken is None else tokens[taken])
                    gain = difference - abs(difference - 2 * moved)
                    if gain > best_gain:
                        best_gain = gain
                        best_exchange = (giver, taker, given, taken)
    return best_exchange


def _collect(tree: Tree, advantages: list[float], items: list[_Item]) -> None:
    """Appends the nodes of a tree that are trained or lead to one that is, in depth-first order."""
    parents = tree.parent.tolist()
    children = _needed_children(parents, advantages)
    if not children[0]:
        return
    # (node of the tree, index of its parent in `items`); the next node is on top
    stack = [(0, -1)]
    open_items: list[int] = []  # indices whose subtree is still being walked
    while stack:
        node, parent = stack.pop()
        while open_items and open_items[-1] != parent:
            items[open_items.pop()].end = len(items)
        if node == 0:
            tokens = np.array(tree.prompt_ids)
            start = 0
            advantage = 0.0
        else:
            tokens = tree.tokens[node].numpy()
            start = items[parent].start + len(items[parent].ids)
            advantage = advantages[node]
        item = _Item(
            ids=tokens if children[node] else tokens[:-1],
            tokens=tokens,
            old_logprobs=tree.logprobs[node].numpy(),
            advantage=advantage,
            parent=parent,
            start=start,
        )
        open_items.append(len(items))
        stack += [(child, len(items)) for child in reversed(children[node])]
        items.append(item)
    for index in open_items:
        items[index].end = len(items)


def _needed_children(parents: list[int], advantages: list[float]) -> list[list[int]]:
    """The children of each node that are trained or lead to a node that is, in order."""
    needed = [advantage != 0 for advantage in advantages]
    children: list[list[int]] = [[] for _ in parents]
    for node in range(len(parents) - 1, 0, -1):  # children before parents
        if needed[node]:
            needed[parents[node]] = True
            children[parents[node]].append(node)
    return [group[::-1] for group in children]


def _cut(lengths: np.ndarray, context: np.ndarray, max_tokens: float, cost: Callable) -> list[int]:
    """Where to cut the depth-first order of nodes, by dynamic programming.

    A part of nodes [i, j) needs their tokens and `context[i]` tokens of the ancestors of i. Those
    are all the ancestors it needs: in depth-first order an ancestor of a later node in the part is
    in the part, or above i too.

    Args:
        lengths: [nodes], tokens of each node.
        context: [nodes], tokens of each node's ancestors.
        max_tokens: most tokens of a part, its context included.
        cost: of a part, from the tokens of its own nodes, [candidates], and those of its context.

    Returns:
        The boundaries 0 = c0 < c1 < ... = nodes of least total cost.
    """
    count = len(lengths)
    offsets = np.concatenate([[0], lengths.cumsum()])  # [nodes + 1]
    best = np.zeros(count + 1)  # least cost of the nodes from i on
    next_cut = np.zeros(count, dtype=int)  # where the part that begins at i ends
    for i in range(count - 1, -1, -1):
        # Candidates for the end of the part: j = i + 1 ... last - 1.
        last = np.searchsorted(offsets, offsets[i] + max_tokens - context[i], side="right")
        own = offsets[i + 1 : last] - offsets[i]  # [candidates]
        costs = cost(own, context[i]) + best[i + 1 : last]  # [candidates]
        # The latest of equals. After nodes without tokens of their own it makes no difference.
        next_cut[i] = last - 1 - int(costs[::-1].argmin())
        best[i] = costs[next_cut[i] - i - 1]
    boundaries = [0]
    while boundaries[-1] < count:
        boundaries.append(int(next_cut[boundaries[-1]]))
    return boundaries


def _build(items: list[_Item], first: int, last: int, pairs_per_call: int) -> Pack:
    """The pack of the nodes [first, last), after the ancestors of `first`."""
    ancestors = _ancestors(items, first)
    indices = [*ancestors, *range(first, last)]  # in `items`
    members = [items[index] for index in indices]
    rank = {index: i for i, index in enumerate(indices)}  # in the pack

    # Where each member stands: its tokens are [offsets[i], offsets[i + 1]).
    lengths = np.array([len(item.ids) for item in members])  # [members]
    starts = np.array([item.start for item in members])  # [members]
    offsets = np.concatenate([[0], lengths.cumsum()])  # [members + 1]
    ends = [rank.get(item.end, len(members)) for item in members]
    tout = offsets[ends]  # [members]
    position_ids = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)  # [tokens]

    def attention_pairs(own: np.ndarray, context: int) -> np.ndarray:
        # Attention computes that many pairs of tokens for a segment, and each takes a call.
        return own * (own + context) + pairs_per_call

    cuts = _cut(lengths, starts, math.inf, attention_pairs)

    # An ancestor is context here: it is trained in its own pack.
    predictors = []  # one [tokens of the node] per trained node
    trained = []
    for i, item in enumerate(members):
        if i >= len(ancestors) and item.advantage != 0:
            own = np.arange(offsets[i] - 1, offsets[i] - 1 + len(item.tokens))
            # The first token follows the parent's last.
            own[0] = offsets[rank[item.parent] + 1] - 1
            predictors.append(own)
            trained.append(item)
    sizes = [len(item.tokens) for item in trained]
    advantages = [np.full(size, item.advantage) for item, size in zip(trained, sizes)]
    return Pack(
        input_ids=_joined([item.ids for item in members], np.int64),
        position_ids=torch.from_numpy(position_ids),
        tout=torch.from_numpy(np.repeat(tout, lengths)),
        predictors=_joined(predictors, np.int64),
        targets=_joined([item.tokens for item in trained], np.int64),
        advantages=_joined(advantages, np.float32),
        old_logprobs=_joined([item.old_logprobs for item in trained], np.float32),
        steps=torch.from_numpy(np.repeat(np.arange(len(trained)), sizes)),
        cuts=torch.from_numpy(offsets[cuts]),
    )


def _ancestors(items: list[_Item], index: int) -> list[int]:
    """The indices of the ancestors of an item, from the root down."""
    ancestors = []
    while (index := items[index].parent) >= 0:
        ancestors.append(index)
    return ancestors[::-1]


def _joined(parts: list[np.ndarray], dtype: type) -> Tensor:
    """The parts one after another, [elements]; empty where there are none."""
    return torch.from_numpy(np.concatenate([np.empty(0), *parts]).astype(dtype))
