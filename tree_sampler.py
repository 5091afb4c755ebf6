"""Prompts -> trees: the scheduler decides which node grows next, and into how many children.

Steps are sampled by the engine (generate.py), which knows no tree; this file knows no cache. A tree
is a function of the weights, its prompt and its seed: each step draws from a stream keyed by (seed,
path of child indices), so that slices, neighbours and processes do not change it (up to rounding of
the logits).
"""

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain

import torch
from torch import Tensor

import fixed_shape
from generate import Engine, Row, Stream, evaluation_mode
from run.memory import MemoryLimit
from tree import Tree

__all__ = ["Node", "Tree", "TreeSampler"]


@dataclass(eq=False)
class Node:
    """A node while its tree grows."""

    tree: int  # index of its tree among those that grow together: equal prompts stay apart
    path: tuple[int, ...]  # child indices from the root; the root's is ()
    tokens: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    logprobs: Tensor = field(default_factory=lambda: torch.empty(0))  # [tokens of the node]
    finished: bool = False  # the last token is a stop token
    children: range = range(0)  # indices of the children that are to be sampled
    # The engine's handle on its cache row. A cache lives as long as a handle on it does.
    row: Row | None = None

    @property
    def depth(self) -> int:
        return len(self.path)


@dataclass(eq=False)
class _Start:
    """A node from which growing starts: a prompt's root, or a node that gets more children."""

    node: Node
    context: list[int]  # token ids from the prompt's start through the node


class TreeSampler:
    """Samples an N-ary tree of steps for each prompt (TreeRPO, section 3.1).

    Args:
        model, tokenizer, step_tokens, temperature, top_p, top_k, step_delimiter: as for `Engine`.
        branching: children of each unfinished node (N); or a list of one width per depth, which
            then sets `depth`.
        depth: steps from the prompt to the longest leaves (D).
        max_rows: most rows in one generate call; it bounds the memory, however large the tree.
            Where that is still too much for the device, it is halved.
        use_cuda_graph: sample by the engine of fixed shape where `fixed_shape.suits` has it so: on
            a GPU, for most models.

    Raises:
        ValueError: as `Engine`, or a branching, depth or max_rows below 1.
    """

    def __init__(  # noqa: PLR0913  (the suite's contract fixes these)
        self,
        model,
        tokenizer,
        branching: int | list[int] = 8,
        depth: int = 3,
        step_tokens: int = 384,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int = 0,
        max_rows: int = 256,
        step_delimiter: str | None = None,
        use_cuda_graph: bool = True,
    ):
        if isinstance(branching, (list, tuple)):
            self.widths = list(branching)
        else:
            self.widths = [branching] * depth
        narrowest = min(self.widths, default=0)  # 0 where depth is 0
        for name, value in (("branching", narrowest), ("max_rows", max_rows)):
            if value < 1:
                raise ValueError(f"{name}={value}: must be at least 1 (and depth too)")
        in_fixed_shape = use_cuda_graph and fixed_shape.suits(model)
        engine_class = fixed_shape.FixedShapeEngine if in_fixed_shape else Engine
        self.engine = engine_class(
            model, tokenizer, step_tokens, temperature, top_p, top_k, step_delimiter
        )
        self._limit = MemoryLimit("max_rows", max_rows)

    @property
    def max_rows(self) -> int:
        """Most rows in one generate call: the setting, or less where that ran out of memory."""
        return self._limit.size

    def width(self, node: Node) -> int:
        """How many children a node gets; 0 makes it a leaf.

        Whatever it depends on must be a function of the weights, the prompt and the seed, as the
        tree is. A finished node has no children.
        """
        if node.finished or node.depth >= len(self.widths):
            return 0
        return self.widths[node.depth]

    def check_prompts(self, prompts: list[list[int]]) -> None:
        """Checks that the model can take these prompts and the longest trees that may grow there.

        Rotary frequencies that depend on the length of a sequence are settled for the longest path.

        Raises:
            ValueError: a prompt without tokens, a token without an embedding, or more positions
                than the model has.
        """
        self.engine.check_prompts(prompts, len(self.widths) * self.engine.step_tokens)

    def sample(self, prompts: list[list[int]], seeds: list[int]) -> list[Tree]:
        """One tree per prompt, in order.

        Args:
            prompts: token ids, at least one each.
            seeds: one non-negative integer per prompt.
        """
        trees = dict(self.stream(prompts, seeds))
        return [trees[index] for index in range(len(prompts))]

    def stream(self, prompts: list[list[int]], seeds: list[int]) -> Iterator[tuple[int, Tree]]:
        """Yields each tree with its prompt's index as soon as it is whole.

        Others may grow while it is graded.
        """
        if len(prompts) != len(seeds):
            raise ValueError(f"{len(prompts)} prompts and {len(seeds)} seeds: one each is needed")
        self.check_prompts(prompts)
        starts = []
        for index, prompt in enumerate(prompts):
            root = Node(index, path=())
            root.children = range(self.width(root))
            starts.append(_Start(root, prompt))
        # A sampled tree is a bare root with all that grew below it.
        for index, nodes in self._grow(starts, seeds):
            bare = Tree(prompts[index], [-1], [0], [[]], [[]], [False])
            yield index, _with_nodes(bare, nodes)

    def extend(self, trees: list[Tree], more: list[dict[int, int]], seeds: list[int]) -> list[Tree]:
        """Gives nodes of finished trees further children, each with a subtree of its own.

        The prompt and the path of each such node are prefilled again. New children get the child
        indices after those of the children that are there, so that their draws are new: they are
        those that a larger width would have drawn in the first place. What grows below them has the
        sampler's own widths.

        Args:
            trees: grown under the same weights.
            more: one dict per tree. It maps unfinished nodes to the number of children that they
                get beside those that they have.
            seeds: one per tree: the seed that it was sampled with.

        Returns:
            One tree per tree, in order. The nodes of the old one keep their indices, so that their
            rewards stay valid; new nodes come after them.

        Raises:
            ValueError: a node that is finished or not in its tree, a number of children below 1, or
                more positions than the model has.
        """
        if not len(trees) == len(more) == len(seeds):
            raise ValueError(
                f"{len(trees)} trees, {len(more)} dicts of new children and {len(seeds)} seeds: "
                "one each is needed"
            )
        starts = []
        for index, (tree, counts) in enumerate(zip(trees, more)):
            starts += _extension_starts(index, tree, counts)
        # A leaf of the last depth may be extended too: by a step more than the sampler's depth.
        deepest = max((start.node.depth for start in starts), default=0)
        steps = max(len(self.widths), deepest + 1)
        self.engine.check_prompts(
            [tree.prompt_ids for tree in trees], steps * self.engine.step_tokens
        )
        extended = list(trees)
        for index, nodes in self._grow(starts, seeds):
            extended[index] = _with_nodes(trees[index], nodes)
        return extended

    def _grow(self, starts: list[_Start], seeds: list[int]) -> Iterator[tuple[int, list[Node]]]:
        """Grows everything below the starts: (index of a tree, its new nodes), once it is whole."""
        frontier = _Frontier(starts)
        grown: defaultdict[int, list[Node]] = defaultdict(list)  # new nodes by tree
        with self._sampling():
            while not frontier.empty():
                # Which parents are next? As many as fill a slice.
                generation = frontier.next_generation(self.max_rows)
                if generation == 0:
                    self._prefill(frontier)
                parents = frontier.take(generation, self.max_rows)
                # Their children, of which those that are not leaves become parents.
                for node in self._sample_children(parents, seeds):
                    grown[node.tree].append(node)
                    if node.children:
                        frontier.add(node, generation + 1)
                # Trees in which nothing is left to grow.
                for tree in frontier.close(parents):
                    yield tree, grown.pop(tree, [])

    @contextmanager
    def _sampling(self) -> Iterator[None]:
        """Inside it the model is in evaluation mode; after it the engine holds no memory."""
        with evaluation_mode(self.engine.model):
            try:
                yield
            finally:
                self.engine.release()

    def _prefill(self, frontier: "_Frontier") -> None:
        """Prefills as many waiting starts as fit into a slice; fewer where memory runs out."""
        starts = frontier.next_starts(self.max_rows)
        if starts:
            contexts = [start.context for start in starts]
            rows = self._limit.run(lambda size: self.engine.prefill(contexts[:size]), len(contexts))
            frontier.admit(rows)

    def _sample_children(self, parents: list[Node], seeds: list[int]) -> Iterator[Node]:
        """The children that the parents lack, sampled in slices of at most max_rows rows."""
        pending = [(parent, child) for parent in parents for child in parent.children]

        def sample_slice(size: int) -> list[Node]:
            return self._sample_slice(pending[:size], seeds)

        # A slice that runs out of memory is tried again with fewer rows.
        while pending:
            nodes = self._limit.run(sample_slice, len(pending))
            del pending[: len(nodes)]
            yield from nodes

    def _sample_slice(self, children: list[tuple[Node, int]], seeds: list[int]) -> list[Node]:
        """One step for each (parent, child index), in one call of the engine."""
        rows = [parent.row for parent, _ in children]
        streams = [Stream(seeds[parent.tree], (*parent.path, child)) for parent, child in children]
        steps = self.engine.grow(rows, streams)
        nodes = []
        for (parent, _), stream, step in zip(children, streams, steps):
            node = Node(parent.tree, stream.path, step.tokens, step.logprobs, step.finished)
            node.children = range(self.width(node))
            if node.children:  # a leaf lets go of its cache
                node.row = step.row
            nodes.append(node)
        return nodes


class _Frontier:
    """The nodes that are still to get children.

    A start waits until it is prefilled. A node that can grow stands in the pool of its generation:
    the number of steps between its start and it, which is its depth where trees grow from prompts.
    """

    def __init__(self, starts: list[_Start]):
        # Long ones first: neighbours in a slice are then alike in length, and the largest slices
        # come first.
        self.waiting = deque(sorted(starts, key=lambda start: -len(start.context)))
        self.pools: list[list[Node]] = [[]]
        # Nodes of each tree that wait or stand in a pool, or are growing.
        self.open = Counter(start.node.tree for start in starts)

    def empty(self) -> bool:
        return not self.waiting and not any(self.pools)

    def next_generation(self, max_rows: int) -> int:
        """The deepest pool that fills a slice; else the first that can feed the deeper ones.

        Deep first, so that caches are let go early. A slice below max_rows waits for more rows, as
        long as there are others to grow.
        """
        for generation in reversed(range(len(self.pools))):
            if sum(len(node.children) for node in self.pools[generation]) >= max_rows:
                return generation
        if self.waiting:
            return 0
        return next(generation for generation, pool in enumerate(self.pools) if pool)

    def next_starts(self, max_rows: int) -> list[_Start]:
        """The first waiting starts that fit into a slice of max_rows rows with the first pool."""
        ready = self.pools[0]
        fitting = _fitting(chain(ready, (start.node for start in self.waiting)), max_rows)
        count = max(0, fitting - len(ready))
        return [self.waiting[i] for i in range(count)]

    def admit(self, rows: list[Row]) -> None:
        """Moves the first waiting starts into the first pool, each with its prefilled row."""
        for row in rows:
            node = self.waiting.popleft().node
            node.row = row
            self.pools[0].append(node)

    def add(self, node: Node, generation: int) -> None:
        """Adds a node that has been sampled."""
        if generation == len(self.pools):
            self.pools.append([])
        self.pools[generation].append(node)
        self.open[node.tree] += 1

    def take(self, generation: int, max_rows: int) -> list[Node]:
        """Takes the next parents out of a pool: as many as have max_rows children together."""
        pool = self.pools[generation]
        count = _fitting(pool, max_rows)
        self.pools[generation] = pool[count:]
        return pool[:count]

    def close(self, parents: list[Node]) -> list[int]:
        """Lets go of parents whose children are sampled. Returns the trees that are whole now."""
        for parent in parents:
            parent.row = None
            self.open[parent.tree] -= 1
        touched = dict.fromkeys(parent.tree for parent in parents)
        return [tree for tree in touched if not self.open[tree]]


def _fitting(nodes: Iterable[Node], max_rows: int) -> int:
    """How many nodes, from the first on, have at most max_rows children together; at least one."""
    count = 0
    rows = 0
    for node in nodes:
        rows += len(node.children)
        if rows > max_rows and count:
            break
        count += 1
    return count


def _extension_starts(index: int, tree: Tree, more: dict[int, int]) -> list[_Start]:
    """The nodes of a finished tree that get further children, as starts."""
    paths = tree.child_paths()
    existing = Counter(tree.parent.tolist())  # children of each node
    starts = []
    for node, count in more.items():
        if not 0 <= node < len(paths):
            raise ValueError(f"tree {index} has no node {node}: it has {len(paths)} nodes")
        if tree.finished[node]:
            raise ValueError(f"node {node} of tree {index} is finished: it can't get children")
        if count < 1:
            raise ValueError(f"node {node} of tree {index}: {count} new children, but 1 is least")
        children = range(existing[node], existing[node] + count)
        start = Node(index, paths[node], children=children)
        starts.append(_Start(start, tree.prompt_ids + tree.completion_ids(node)))
    return starts


def _with_nodes(tree: Tree, nodes: list[Node]) -> Tree:
    """The tree with new nodes after its own.

    Sorted by path a parent stands before its children, whatever the order in which they grew.
    """
    nodes = sorted(nodes, key=lambda node: node.path)
    paths = [*tree.child_paths(), *(node.path for node in nodes)]
    index = {path: i for i, path in enumerate(paths)}
    return Tree(
        prompt_ids=tree.prompt_ids,
        parent=[index[path[:-1]] if path else -1 for path in paths],
        depth=[len(path) for path in paths],
        tokens=[*tree.tokens, *(node.tokens for node in nodes)],
        logprobs=[*tree.logprobs, *(node.logprobs for node in nodes)],
        finished=[*tree.finished.tolist(), *(node.finished for node in nodes)],
    )
