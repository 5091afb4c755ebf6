"""One prompt's tree: its nodes, leaves and paths, and its JSON form. It needs torch alone."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Tree:
    """One prompt's tree. Nodes stand in topological order: a parent comes before its children.

    Node 0 is the root: the prompt, with no tokens of its own. Any other node is a step. Its child
    index is its rank among its siblings, in the order of their indices.

    >>> tokens = [[], [7], [8, 9], [3]]
    >>> tree = Tree([5, 6], [-1, 0, 0, 2], [0, 1, 1, 2], tokens, [[]] * 4, [False] * 4)
    >>> tree.leaves(), tree.path(3), tree.completion_ids(3), tree.child_paths()
    ([1, 3], [2, 3], [8, 9, 3], [(), (0,), (1,), (1, 0)])
    """

    prompt_ids: list[int]
    parent: Tensor  # LongTensor [nodes], -1 for the root
    depth: Tensor  # LongTensor [nodes], 0 for the root
    tokens: list[Tensor]  # per node: LongTensor [tokens of the node]
    logprobs: list[Tensor]  # per node: [tokens of the node], under the sampling policy
    finished: Tensor  # BoolTensor [nodes]: the node's last token is a stop token

    def __post_init__(self) -> None:
        self.prompt_ids = torch.as_tensor(self.prompt_ids).tolist()
        self.parent = torch.as_tensor(self.parent, dtype=torch.long)
        self.depth = torch.as_tensor(self.depth, dtype=torch.long)
        self.finished = torch.as_tensor(self.finished, dtype=torch.bool)
        self.tokens = [torch.as_tensor(ids, dtype=torch.long) for ids in self.tokens]
        self.logprobs = [torch.as_tensor(values, dtype=torch.float32) for values in self.logprobs]

    def leaves(self) -> list[int]:
        """The nodes without children, in order."""
        inner = set(self.parent.tolist())
        return [node for node in range(len(self.parent)) if node not in inner]

    def path(self, node: int) -> list[int]:
        """The nodes from the root's child through `node`."""
        parent = self.parent.tolist()
        nodes = []
        while node > 0:
            nodes.append(node)
            node = parent[node]
        return nodes[::-1]

    def child_paths(self) -> list[tuple[int, ...]]:
        """For each node the child indices on its path from the root; () for the root."""
        paths: list[tuple[int, ...]] = [()]
        children = [0] * len(self.parent)  # of each node, so far
        for parent in self.parent.tolist()[1:]:
            paths.append((*paths[parent], children[parent]))
            children[parent] += 1
        return paths

    def completion_ids(self, node: int) -> list[int]:
        """The token ids from the prompt's end through `node`."""
        return [token for step in self.path(node) for token in self.tokens[step].tolist()]

    def text_ids(self, node: int) -> list[int]:
        """`completion_ids` without the stop token.

        An end of turn need not be a special token, and would be decoded as text.
        """
        ids = self.completion_ids(node)
        return ids[:-1] if self.finished[node] else ids

    def to_json(self, decode: Callable[[Tensor], str], **values: Tensor) -> list[dict]:
        """The nodes as plain JSON: one dict per node, with its text and its own `values`.

        A stop token counts as a token and is left out of the text, as it is where answers are read.
        NaN, which JSON does not have, becomes None.

        Args:
            decode: from token ids to text.
            values: Tensors [nodes], for example reward=rewards.
        """
        columns = {
            name: [None if math.isnan(value) else value for value in column.tolist()]
            for name, column in values.items()
        }
        return [
            {
                "parent": parent,
                "text": decode(self.tokens[node][: -1 if self.finished[node] else None]),
                "tokens": len(self.tokens[node]),
                "finished": bool(self.finished[node]),
                **{name: column[node] for name, column in columns.items()},
            }
            for node, parent in enumerate(self.parent.tolist())
        ]
