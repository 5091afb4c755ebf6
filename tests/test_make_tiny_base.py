"""How the tiny bases are trained."""

import itertools

import torch

from data.make_tiny_base import batches, loss_of, make_model, make_tokenizer
from data.pupils import chain


def test_documents_of_a_batch_do_not_see_each_other():
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    model = make_model(chain, tokenizer)
    tokens, positions, labels = next(batches(tokenizer, chain, 1.0, 0))
    total = 0.0
    trained = 0
    for row in range(chain.ROWS):
        starts = [0, *(positions[row, 1:] == 0).nonzero().flatten().add(1).tolist()]
        for start, stop in itertools.pairwise([*starts, chain.LENGTH]):
            document = tokens[row : row + 1, start:stop]
            logits = model(document).logits[0, :-1]
            targets = labels[row, start + 1 : stop]
            total += torch.nn.functional.cross_entropy(logits, targets, reduction="sum").item()
            trained += int((targets != -100).sum())
    assert trained > 300
    torch.testing.assert_close(loss_of(model, tokens, positions, labels).item(), total / trained)
