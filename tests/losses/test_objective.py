"""The objective of a recipe's terms against their sum in a float64 loop; what it needs; sums that add up."""

import pytest
import torch

from edgedistill.config.loss import DivergenceTerm, TextTerm
from edgedistill.losses.head import head_loss
from edgedistill.losses.objective import TEACHER, TEXT, Objective, ObjectiveTerm, of_recipe
from edgedistill.losses.teachers import ExactTeacher, TopKTeacher, WrittenText
from tests.losses.definitions import TENSORS, grouped

N, D, V, K = 7, 5, 23, 4
TERMS = (
    DivergenceTerm(kl="skew", weight=0.5, share=0.3),
    DivergenceTerm(kl="forward", weight=0.4, temperature=2.0),
    TextTerm(text=True, weight=0.1),
)


@pytest.fixture
def case():
    torch.manual_seed(0)
    hidden, head = torch.randn(N, D, requires_grad=True), torch.randn(V, D)
    top = torch.log_softmax(2 * torch.randn(N, V, dtype=torch.float64), -1).topk(K)
    views = {TEACHER: TopKTeacher(top.indices, top.values), TEXT: WrittenText(torch.arange(N))}
    return hidden, head, views, torch.tensor([1.0, 0.5, 0.0, 1.0, 0.25, 2.0, 1.0])


def test_a_step_is_the_weighted_sum_of_the_terms_in_a_float64_loop(case):
    hidden, head, views, token_weights = case
    z = (hidden.detach().double() @ head.double().T).requires_grad_()
    ids, log_probs = views[TEACHER].ids, views[TEACHER].log_probs
    expected = torch.zeros((), dtype=torch.float64)
    for token in range(N):
        logits, known = z[token : token + 1], ids[token : token + 1]
        p = log_probs[token : token + 1].exp()
        p = torch.cat([p, 1 - p.sum(-1, keepdim=True)], -1)
        skew = TENSORS["skew_kl"](p, grouped(torch.softmax(logits, -1), known), alpha=0.3)
        few = torch.softmax(log_probs[token : token + 1] / 2, -1), torch.softmax(logits.gather(-1, known) / 2, -1)
        soft = 4 * TENSORS["forward_kl"](*few)
        text = -torch.log_softmax(logits, -1)[0, token]
        expected = expected + token_weights[token].double() * (0.5 * skew + 0.4 * soft + 0.1 * text).sum()
    expected.backward()
    total, weight = of_recipe(TERMS).step(hidden, head, views, token_weights)
    total.backward()
    assert weight == token_weights.sum()
    assert total.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(hidden.grad.double(), z.grad @ head.double(), rtol=1e-4, atol=1e-6)


def test_sums_and_weights_of_two_parts_add_up(case):
    hidden, head, views, token_weights = case
    objective = of_recipe(TERMS)
    whole, weight = objective.step(hidden, head, views, token_weights)
    sums, weights = 0.0, 0.0
    for start, stop in ((0, 3), (3, N)):
        part = {TEACHER: views[TEACHER].chunk(start, stop), TEXT: WrittenText(views[TEXT].labels[start:stop])}
        total, counted = objective.step(hidden[start:stop], head, part, token_weights[start:stop])
        sums, weights = sums + total.item(), weights + counted
    assert sums == pytest.approx(whole.item(), rel=1e-5)
    assert weights == weight


def test_it_needs_the_sources_of_its_terms_alone():
    assert of_recipe(TERMS).needs == {TEACHER, TEXT}
    assert of_recipe(TERMS[2:]).needs == {TEXT}
    assert Objective([ObjectiveTerm("a", "tvd", 0.0), ObjectiveTerm("b", "tvd")]).needs == {"b"}
    with pytest.raises(ValueError, match="a term with a weight above 0"):
        Objective([ObjectiveTerm("a", "tvd", 0.0)])


def test_a_teacher_with_fewer_rows_is_compared_on_these(case):
    """A student with padding rows beyond the teacher's table: both renormalized over the rows that both have."""
    hidden, head, _, token_weights = case
    teacher = ExactTeacher(torch.randn(N, 3), torch.randn(V - 4, 3))
    total, _ = Objective([ObjectiveTerm("t", "reverse_kl")]).step(hidden, head, {"t": teacher}, token_weights)
    p = torch.softmax(teacher.hidden.double() @ teacher.weight.double().T, -1)
    q = torch.softmax((hidden.detach().double() @ head.double().T)[:, : V - 4], -1)
    expected = (TENSORS["reverse_kl"](p, q) * token_weights.double()).sum()
    assert total.item() == pytest.approx(expected.item(), rel=1e-5)


def test_one_term_of_weight_one_is_its_loss_and_no_copy(case):
    hidden, head, views, token_weights = case
    term = ObjectiveTerm(TEACHER, "forward_kl")
    total, weight = Objective([term]).step(hidden, head, views, token_weights)
    alone = head_loss(hidden, head, term.against(views[TEACHER]), token_weights)
    assert total.item() / weight == pytest.approx(alone.item(), rel=1e-6)
