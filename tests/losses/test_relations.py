"""Attention relations against a loop in float64 from the paper's formula, and autograd's numeric gradient."""

import math

import pytest
import torch

from edgedistill.losses.block_objective import BlockObjective
from edgedistill.losses.blocks import Attending, BlockOutputs, Places
from edgedistill.losses.relations import RelationsLoss, relation_kl
from tests.losses.definitions import kl, softmax

T, WIDTH, WIDER, HEADS = 5, 8, 12, 4


def vectors(seed: int, width: int, tokens: int = T):
    return torch.randn(tokens, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def relation_rows(x, heads, row):
    """Of each relation head, the softmax of a token's scaled products with those up to it."""
    size = len(x[0]) // heads
    rows = []
    for head in range(heads):
        part = [vector[head * size : (head + 1) * size] for vector in x]
        products = [sum(a * b for a, b in zip(part[row], part[j], strict=True)) for j in range(row + 1)]
        rows.append(softmax([product / math.sqrt(size) for product in products]))
    return rows


def loop(student, teacher, heads, row):
    pairs = zip(relation_rows(teacher, heads, row), relation_rows(student, heads, row), strict=True)
    return sum(kl(p, q) for p, q in pairs) / heads


def test_it_is_the_papers_formula_under_a_causal_mask():
    student, teacher = vectors(0, WIDTH), vectors(1, WIDER)
    found = relation_kl(student, teacher, HEADS, torch.arange(T))
    expected = [loop(student.tolist(), teacher.tolist(), HEADS, row) for row in range(T)]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    assert expected[0] == 0
    rows = torch.tensor([1, 4])
    torch.testing.assert_close(relation_kl(student, teacher, HEADS, rows), found[rows])


def test_its_gradient_is_the_numeric_one():
    teacher = vectors(1, WIDER)
    rows = torch.tensor([0, 2, 3])
    student = vectors(0, WIDTH).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: relation_kl(s, teacher, HEADS, rows), (student,))


def test_equal_vectors_and_a_single_token_cost_nothing():
    student = vectors(0, WIDTH).requires_grad_()
    for tokens in (T, 1):
        value = relation_kl(student[:tokens], student[:tokens].detach().clone(), 2, torch.arange(tokens))
        (gradient,) = torch.autograd.grad(value.sum(), student)
        torch.testing.assert_close(value, torch.zeros(tokens, dtype=torch.float64), atol=1e-12, rtol=0)
        torch.testing.assert_close(gradient, torch.zeros(T, WIDTH, dtype=torch.float64), atol=1e-12, rtol=0)


def test_documents_of_a_row_do_not_see_each_other():
    """Two documents and padding in one row of vectors: the sum of each alone, weighted, over two relations."""
    ours = {name: vectors(seed, WIDTH, 8).requires_grad_() for seed, name in enumerate(("queries", "keys", "values"))}
    theirs = {name: vectors(seed + 3, WIDER, 8) for seed, name in enumerate(("queries", "keys", "values"))}
    kept, weights = torch.tensor([1, 2, 4, 5]), torch.tensor([1.0, 0.5, 2.0, 0.25])
    places = Places((3, 3, 2), kept, weights)
    objective = BlockObjective([RelationsLoss(("qq", "vv"), 2, 6, HEADS, 0.7)])
    student, teacher = BlockOutputs({}, {2: Attending(**ours)}), BlockOutputs({}, {6: Attending(**theirs)})
    total = objective.summed(student, teacher, places)
    expected = 0.0
    for name in ("queries", "values"):
        for start, row, weight in ((0, 1, 1.0), (0, 2, 0.5), (3, 1, 2.0), (3, 2, 0.25)):
            s, t = ours[name][start : start + 3].tolist(), theirs[name][start : start + 3].tolist()
            expected += 0.7 * weight * loop(s, t, HEADS, row)
    assert total.item() == pytest.approx(expected, rel=1e-5)
    total.backward()
    assert ours["keys"].grad is None
    assert not ours["queries"].grad[6:].any()
    assert ours["queries"].grad[:6].abs().sum() > 0


def test_wrong_heads_and_other_lengths_are_refused():
    with pytest.raises(ValueError, match="3 relation heads don't divide vectors of 8 elements"):
        relation_kl(vectors(0, WIDTH), vectors(1, WIDER), 3, torch.arange(T))
    with pytest.raises(ValueError, match="among 5 tokens can't be compared with those among 4"):
        relation_kl(vectors(0, WIDTH), vectors(1, WIDTH, 4), 2, torch.arange(T))
