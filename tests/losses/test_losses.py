"""Each loss against its definition in float64, its gradient against autograd on that definition."""

import math

import pytest
import torch

from edgedistill.losses.cross_entropy import CrossEntropy
from edgedistill.losses.forward_kl import ForwardKL
from edgedistill.losses.head import head_loss
from edgedistill.losses.top_k_kl import TopKKL
from edgedistill.losses.weighted import Weighted

N, D, V, K = 11, 8, 40, 6


@pytest.fixture
def case():
    torch.manual_seed(0)
    hidden = torch.randn(N, D, requires_grad=True)
    weight = torch.randn(V, D, requires_grad=True)
    teacher_hidden, teacher_weight = torch.randn(N, 5), torch.randn(V, 5)
    return hidden, weight, teacher_hidden, teacher_weight


def reference(hidden, weight):
    h, w = hidden.detach().double().requires_grad_(), weight.detach().double().requires_grad_()
    return h, w, torch.log_softmax(h @ w.T, -1)


def assert_same(loss, hidden, weight, expected, h, w):
    loss.backward()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(hidden.grad.double(), h.grad, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(weight.grad.double(), w.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_forward_kl_is_its_definition(case, temperature):
    hidden, weight, teacher_hidden, teacher_weight = case
    h = hidden.detach().double().requires_grad_()
    w = weight.detach().double().requires_grad_()
    teacher = teacher_hidden.double() @ teacher_weight.double().T
    expected = torch.zeros((), dtype=torch.float64)
    for token in range(N):
        p = torch.softmax(teacher[token] / temperature, -1)
        log_q = torch.log_softmax((h[token] @ w.T) / temperature, -1)
        expected = expected + temperature**2 * (p * (p.log() - log_q)).sum() / N
    loss = head_loss(hidden, weight, ForwardKL(teacher_hidden, teacher_weight, temperature), chunk=4)
    assert_same(loss, hidden, weight, expected, h, w)


def test_top_k_kl_is_the_kl_of_the_grouped_distributions(case):
    hidden, weight, teacher_hidden, teacher_weight = case
    log_p = torch.log_softmax(teacher_hidden @ teacher_weight.T, -1)
    top = log_p.topk(K)
    h, w, log_q = reference(hidden, weight)
    expected = torch.zeros((), dtype=torch.float64)
    for token in range(N):
        p, q = top.values[token].double().exp(), log_q[token, top.indices[token]].exp()
        rest_p, rest_q = 1 - p.sum(), 1 - q.sum()
        expected = expected + ((p * (p / q).log()).sum() + rest_p * (rest_p / rest_q).log()) / N
    loss = head_loss(hidden, weight, TopKKL(top.indices, top.values), chunk=4)
    assert_same(loss, hidden, weight, expected, h, w)


def test_cross_entropy_is_torchs(case):
    hidden, weight, *_ = case
    labels = torch.arange(N) % V
    h, w, log_q = reference(hidden, weight)
    loss = head_loss(hidden, weight, CrossEntropy(labels), chunk=3)
    assert_same(loss, hidden, weight, torch.nn.functional.nll_loss(log_q, labels), h, w)


def test_a_weighted_sum_is_the_sum_of_its_parts(case):
    hidden, weight, teacher_hidden, teacher_weight = case
    labels = torch.arange(N) % V
    parts = [ForwardKL(teacher_hidden, teacher_weight), CrossEntropy(labels)]
    single = [head_loss(hidden, weight, part).item() for part in parts]
    both = head_loss(hidden, weight, Weighted([(0.9, parts[0]), (0.1, parts[1]), (0.0, parts[1])]))
    assert both.item() == pytest.approx(0.9 * single[0] + 0.1 * single[1], rel=1e-6)


def test_kl_of_a_model_with_itself_is_zero(case):
    hidden, weight, *_ = case
    loss = head_loss(hidden, weight, ForwardKL(hidden.detach(), weight.detach()))
    loss.backward()
    assert abs(loss.item()) < 1e-6
    assert hidden.grad.abs().max() < 1e-6


def test_top_k_never_exceeds_the_full_kl(case):
    hidden, weight, teacher_hidden, teacher_weight = case
    top = torch.log_softmax(teacher_hidden @ teacher_weight.T, -1).topk(K)
    full = head_loss(hidden, weight, ForwardKL(teacher_hidden, teacher_weight)).item()
    assert 0 < head_loss(hidden, weight, TopKKL(top.indices, top.values)).item() <= full


def test_the_chunk_changes_nothing(case):
    hidden, weight, teacher_hidden, teacher_weight = case
    losses = [head_loss(hidden, weight, ForwardKL(teacher_hidden, teacher_weight), chunk=c).item() for c in (1, 4, N, 99)]
    assert max(losses) - min(losses) < 1e-6 * max(losses)


def test_a_frozen_output_matrix_gets_no_gradient(case):
    hidden, weight, teacher_hidden, teacher_weight = case
    head_loss(hidden, weight.detach(), ForwardKL(teacher_hidden, teacher_weight)).backward()
    assert hidden.grad is not None
    assert weight.grad is None


def test_extreme_logits_stay_finite():
    hidden = torch.tensor([[1000.0], [-1000.0]], requires_grad=True)
    weight = torch.tensor([[1.0], [-1.0], [0.5]])
    ids = torch.tensor([[1, 2], [1, 2]])
    log_probs = torch.tensor([[math.log(0.5), math.log(0.25)]] * 2)
    for loss in (ForwardKL(torch.tensor([[-900.0], [900.0]]), weight), TopKKL(ids, log_probs), CrossEntropy(torch.tensor([0, 1]))):
        value = head_loss(hidden, weight, loss)
        value.backward()
        assert torch.isfinite(value)
        assert torch.isfinite(hidden.grad).all()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: head_loss(torch.zeros(0, 2), torch.zeros(3, 2), CrossEntropy(torch.zeros(0))), "at least one token"),
        (lambda: head_loss(torch.zeros(1, 2).bfloat16(), torch.zeros(3, 2), CrossEntropy(torch.zeros(1))), "one type"),
        (lambda: ForwardKL(torch.zeros(1, 2), torch.zeros(3, 2), 0.0), "above 0, got 0.0"),
        (lambda: Weighted([(0.0, CrossEntropy(torch.zeros(1)))]), "weight above 0"),
        (lambda: TopKKL(torch.zeros(1, 2), torch.zeros(1, 3)), "one shape"),
    ],
)
def test_wrong_input_is_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()
