"""One prompt's tree: its nodes, leaves and paths. It needs torch alone."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Tree:
    """One prompt's tree: nodes in topological order, node 0 is the prompt (no tokens of its own).

    prompt_ids: list of token ids. parent, depth: LongTensor [nodes]. tokens[i], logprobs[i]:
    LongTensor and float tensor [tokens of node i], the latter under the sampling policy. finished:
    BoolTensor [nodes], whether the node ended by the stop token (which is its last token then)."""

    prompt_ids: list[int]
    parent: Tensor
    depth: Tensor
    tokens: list[Tensor]
    logprobs: list[Tensor]
    finished: Tensor

    def __post_init__(self) -> None:
        self.prompt_ids = torch.as_tensor(self.prompt_ids).tolist()
        self.parent = torch.as_tensor(self.parent, dtype=torch.long)
        self.depth = torch.as_tensor(self.depth, dtype=torch.long)
        self.finished = torch.as_tensor(self.finished, dtype=torch.bool)
        self.tokens = [torch.as_tensor(t, dtype=torch.long) for t in self.tokens]
        self.logprobs = [torch.as_tensor(lp, dtype=torch.float32) for lp in self.logprobs]

    def leaves(self) -> list[int]:
        """The nodes without children, in order."""
        inner = set(self.parent.tolist())
        return [i for i in range(len(self.parent)) if i not in inner]

    def path(self, i: int) -> list[int]:
        """The nodes from the root's child through node i."""
        parent, nodes = self.parent.tolist(), []
        while i > 0:
            nodes.append(i)
            i = parent[i]
        return nodes[::-1]

    def completion_ids(self, i: int) -> list[int]:
        """The token ids from the prompt's end through node i."""
        return [t for node in self.path(i) for t in self.tokens[node].tolist()]

    def text_ids(self, i: int) -> list[int]:
        """`completion_ids` without the stop token: an end of turn need not be special, and would be
        read as text."""
        ids = self.completion_ids(i)
        return ids[:-1] if self.finished[i] else ids
