"""Losses on hidden states against loops in float64, torch's own and autograd's numeric gradient."""

import math

import pytest
import torch

from edgedistill.losses.block_objective import BlockObjective
from edgedistill.losses.blocks import BlockOutputs, Places
from edgedistill.losses.states import DISTANCES, StatesLoss, cosine_distance, fitted_projection, mean_square

N, D, WIDE = 6, 5, 8


def cosine_loop(s, t):
    along = sum(a * b for a, b in zip(s, t, strict=True))
    return 1 - along / math.sqrt(sum(a * a for a in s) * sum(b * b for b in t))


def mse_loop(s, t):
    return sum((a - b) ** 2 for a, b in zip(s, t, strict=True)) / len(s)


LOOPS = {"cosine": cosine_loop, "mse": mse_loop}


def states(seed: int, width: int = D, tokens: int = N):
    return torch.randn(tokens, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def places_of(weights):
    return Places((len(weights),), torch.arange(len(weights)), torch.tensor(weights))


@pytest.mark.parametrize("name", DISTANCES)
def test_each_distance_is_its_formula_token_by_token(name):
    student, teacher = states(0), states(1)
    expected = [LOOPS[name](s, t) for s, t in zip(student.tolist(), teacher.tolist(), strict=True)]
    torch.testing.assert_close(DISTANCES[name](student, teacher), torch.tensor(expected, dtype=torch.float64))
    assert torch.autograd.gradcheck(lambda s: DISTANCES[name](s, teacher), (student.requires_grad_(),))


@pytest.mark.parametrize("name", DISTANCES)
def test_equal_states_are_at_no_distance(name):
    student = states(0).requires_grad_()
    value = DISTANCES[name](student, student.detach().clone())
    torch.testing.assert_close(value, torch.zeros(N, dtype=torch.float64), atol=1e-12, rtol=0)
    (gradient,) = torch.autograd.grad(value.sum(), student)
    torch.testing.assert_close(gradient, torch.zeros(N, D, dtype=torch.float64), atol=1e-12, rtol=0)


def test_they_are_torchs_own():
    student, teacher = states(0).float(), states(1).float()
    one = torch.ones(N)
    ours = torch.nn.CosineEmbeddingLoss(reduction="none")(student, teacher, one)
    torch.testing.assert_close(cosine_distance(student, teacher), ours)
    torch.testing.assert_close(mean_square(student, teacher).mean(), torch.nn.functional.mse_loss(student, teacher))


def test_a_state_of_zeros_has_a_finite_cosine_and_gradient():
    student = torch.zeros(1, D, requires_grad=True)
    value = cosine_distance(student, torch.ones(1, D))
    value.sum().backward()
    assert value.item() == 1.0
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize("name", DISTANCES)
def test_a_projection_stands_between_unequal_widths(name):
    """The weighted sum over two pairs of layers, and its gradients, against loops in float64."""
    ours = {1: states(0).requires_grad_(), 3: states(1).requires_grad_()}
    theirs = {2: states(2, WIDE), 6: states(3, WIDE)}
    weights = [1.0, 0.5, 0.0, 2.0, 1.0, 0.25]
    objective = BlockObjective([StatesLoss(name, ((1, 2), (3, 6)), 0.3)])
    parts = (slice(0, 4), slice(4, N))
    objective.fit_projections(
        (
            BlockOutputs({k: v.detach()[part] for k, v in ours.items()}),
            BlockOutputs({k: v[part] for k, v in theirs.items()}),
        )
        for part in parts
    )
    whole = fitted_projection(ours[1].detach().float(), theirs[2].float())
    assert torch.equal(objective.projections["projection.1-2"], whole)
    assert {p.shape for p in objective.projections.values()} == {(WIDE, D)}
    total = objective.summed(BlockOutputs(ours), BlockOutputs(theirs), places_of(weights))
    expected = 0.0
    for (student, teacher), projection in zip(((1, 2), (3, 6)), objective.projections.values(), strict=True):
        rows = projection.double().tolist()
        for s, t, weight in zip(ours[student].tolist(), theirs[teacher].tolist(), weights, strict=True):
            through = [sum(w * a for w, a in zip(row, s, strict=True)) for row in rows]
            expected += 0.3 * weight * LOOPS[name](through, t)
    assert total.item() == pytest.approx(expected, rel=1e-5)
    total.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in objective.projections.values())
    assert not ours[1].grad[2].any()  # of weight 0
    assert ours[3].grad.abs().sum() > 0


def test_a_projection_begins_as_least_squares():
    student = states(0, D, tokens=200)
    true = states(1, D, tokens=WIDE)
    projection = fitted_projection(student, student @ true.T)
    expected = torch.linalg.lstsq(student, student @ true.T).solution.T
    torch.testing.assert_close(projection.double(), expected, rtol=0.05, atol=0.05)
    few = fitted_projection(student[:2], (student @ true.T)[:2])
    assert torch.isfinite(few).all()


def test_unequal_widths_without_a_projection_are_refused():
    loss = StatesLoss("cosine", ((1, 1),))
    with pytest.raises(ValueError, match=r"\(6, 5\) of the student and \(6, 8\) of the teacher need one shape"):
        loss.summed(BlockOutputs({1: states(0)}), BlockOutputs({1: states(1, WIDE)}), places_of([1.0] * N), {})
    with pytest.raises(ValueError, match="needs a loss"):
        BlockObjective([])
