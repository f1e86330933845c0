"""Each divergence against its definition in plain loops and float64 autograd, full and grouped; then identities and
edges.
"""

import math

import pytest
import torch

from edgedistill.losses.choose import make_loss
from edgedistill.losses.teachers import ExactTeacher, LiveLogits, TopKTeacher
from tests.losses.definitions import CASES, LOOPS, NAMES, TENSORS, grouped, softmax

N, D, V, K = 9, 6, 31, 5
each = pytest.mark.parametrize(("name", "settings"), CASES, ids=NAMES)


@pytest.fixture
def pair():
    """Logits of a teacher and of a student, neither of them flat nor equal."""
    torch.manual_seed(0)
    return 2 * torch.randn(N, V), 2 * torch.randn(N, V)


def top_k(logits, k=K):
    found = torch.log_softmax(logits.double(), -1).topk(k)
    return TopKTeacher(found.indices, found.values)


def run(loss, logits):
    """Mean loss and its gradient, a loss being free to overwrite the logits that it is given."""
    values, grad = loss.loss_and_grad(logits.clone(), 0)
    return values.sum().item() / len(logits), grad / len(logits)


@each
@pytest.mark.parametrize("temperature", [1.0, 2.5, 0.5])
def test_value_is_that_of_plain_loops(pair, name, settings, temperature):
    teacher, student = pair
    expected = [
        temperature**2
        * LOOPS[name](softmax((y / temperature).tolist()), softmax((z / temperature).tolist()), **settings)
        for y, z in zip(teacher.double(), student.double(), strict=True)
    ]
    value, _ = run(make_loss(name, LiveLogits(teacher), temperature=temperature, **settings), student)
    assert value == pytest.approx(sum(expected) / N, rel=2e-6)


@each
@pytest.mark.parametrize("temperature", [1.0, 2.5, 0.5])
def test_gradient_is_autograds_in_float64(pair, name, settings, temperature):
    teacher, student = pair
    z = student.double().requires_grad_()
    p, q = torch.softmax(teacher.double() / temperature, -1), torch.softmax(z / temperature, -1)
    (temperature**2 * TENSORS[name](p, q, **settings).mean()).backward()
    _, grad = run(make_loss(name, LiveLogits(teacher), temperature=temperature, **settings), student)
    torch.testing.assert_close(grad.double(), z.grad, rtol=2e-5, atol=2e-7)


@each
def test_grouped_value_and_gradient_are_those_of_the_grouped_distributions(pair, name, settings):
    teacher, student = pair
    known = top_k(teacher)
    z = student.double().requires_grad_()
    p = grouped(torch.softmax(teacher.double(), -1), known.ids)
    q = grouped(torch.softmax(z, -1), known.ids)
    TENSORS[name](p, q, **settings).mean().backward()
    loops = sum(LOOPS[name](*rows, **settings) for rows in zip(p.tolist(), q.tolist(), strict=True)) / N
    value, grad = run(make_loss(name, known, **settings), student)
    assert value == pytest.approx(loops, rel=2e-6)
    torch.testing.assert_close(grad.double(), z.grad, rtol=2e-5, atol=2e-7)


@each
@pytest.mark.parametrize("temperature", [1.0, 2.5, 0.5])
def test_renormalized_value_and_gradient_are_those_of_the_k_words_alone(pair, name, settings, temperature):
    """p and q over the teacher's k words, each tempered and made to sum up to 1, outcome by outcome in plain floats."""
    teacher, student = pair
    known = top_k(teacher)
    expected = 0.0
    for ids, y, z in zip(known.ids.tolist(), teacher.double(), student.double(), strict=True):
        p, q = softmax((y[ids] / temperature).tolist()), softmax((z[ids] / temperature).tolist())
        expected += temperature**2 * LOOPS[name](p, q, **settings) / N
    z = student.double().requires_grad_()
    p = torch.softmax(teacher.double().gather(-1, known.ids) / temperature, -1)
    q = torch.softmax(z.gather(-1, known.ids) / temperature, -1)
    (temperature**2 * TENSORS[name](p, q, **settings).mean()).backward()
    loss = make_loss(name, known, renormalized=True, temperature=temperature, **settings)
    for part in (loss, loss.chunk(0, N)):
        value, grad = run(part, student)
        assert value == pytest.approx(expected, rel=2e-6)
        torch.testing.assert_close(grad.double(), z.grad, rtol=2e-5, atol=2e-7)


@each
def test_of_all_words_renormalized_is_the_full_one(pair, name, settings):
    teacher, student = pair
    full, _ = run(make_loss(name, LiveLogits(teacher), temperature=2.0, **settings), student)
    every = make_loss(name, top_k(teacher, V), renormalized=True, temperature=2.0, **settings)
    assert run(every, student)[0] == pytest.approx(full, rel=1e-5)


@each
def test_grouping_can_only_lower_it(pair, name, settings):
    teacher, student = pair
    full, _ = run(make_loss(name, LiveLogits(teacher), **settings), student)
    values = [run(make_loss(name, top_k(teacher, k), **settings), student)[0] for k in (1, K, 20)]
    assert 0 < values[0] <= values[1] <= values[2] <= full


@each
@pytest.mark.parametrize("known", [LiveLogits, top_k], ids=["full", "grouped"])
def test_a_teacher_costs_itself_nothing(pair, name, settings, known):
    value, grad = run(make_loss(name, known(pair[0]), **settings), pair[0])
    assert abs(value) < 1e-6
    # Total variation has a kink where both agree: of what rounding leaves, its gradient sees the sign.
    assert grad.abs().max() < 1e-7 or (name, known) == ("tvd", top_k)


@each
@pytest.mark.parametrize("known", [LiveLogits, top_k], ids=["full", "grouped"])
def test_a_gradient_sums_to_zero_over_the_vocabulary(pair, name, settings, known):
    """Adding a constant to all logits changes nothing."""
    _, grad = run(make_loss(name, known(pair[0]), **settings), pair[1])
    assert grad.sum(-1).abs().max() < 3e-7


@each
def test_the_teacher_may_have_a_width_of_its_own(pair, name, settings):
    hidden, weight = torch.randn(N, D), torch.randn(V, D)
    expected = run(make_loss(name, LiveLogits(hidden @ weight.T), **settings), pair[1])
    exact = make_loss(name, ExactTeacher(hidden, weight), **settings)
    for loss in (exact, exact.chunk(0, N)):
        value, grad = run(loss, pair[1])
        assert value == pytest.approx(expected[0], rel=1e-6)
        torch.testing.assert_close(grad, expected[1])


@each
@pytest.mark.parametrize(
    ("known", "more"),
    [(LiveLogits, {}), (LiveLogits, {"temperature": 2.0}), (top_k, {}), (top_k, {"renormalized": True})],
    ids=["full", "soft", "grouped", "renormalized"],
)
def test_what_the_teacher_knows_is_not_overwritten(pair, name, settings, known, more):
    loss = make_loss(name, known(pair[0].clone()), **settings, **more)
    first, second = run(loss, pair[1]), run(loss, pair[1])
    assert first[0] == second[0]
    assert torch.equal(first[1], second[1])


def test_the_limits_of_jsd_are_both_kl(pair):
    teacher, student = LiveLogits(pair[0]), pair[1]
    share = 1e-3
    forward = run(make_loss("jsd", teacher, beta=share), student)[0] / share
    reverse = run(make_loss("jsd", teacher, beta=1 - share), student)[0] / share
    assert forward == pytest.approx(run(make_loss("forward_kl", teacher), student)[0], rel=0.05)
    assert reverse == pytest.approx(run(make_loss("reverse_kl", teacher), student)[0], rel=0.05)


@pytest.mark.parametrize(
    ("name", "bound"),
    [("jsd", math.log(2)), ("skew_kl", -math.log(0.1)), ("skew_reverse_kl", -math.log(0.1)), ("tvd", 1.0)],
)
def test_of_two_that_share_nothing_it_is_its_bound(name, bound):
    """Logits so far apart that float32 probabilities underflow on both sides."""
    teacher = torch.tensor([[900.0, -900.0, 0.0, -500.0]])
    value, grad = run(make_loss(name, LiveLogits(teacher)), -teacher)
    assert value == pytest.approx(bound, rel=1e-6)
    assert torch.isfinite(grad).all()


@each
@pytest.mark.parametrize("known", [LiveLogits, lambda logits: top_k(logits, 2)], ids=["full", "grouped"])
def test_extreme_logits_stay_finite(name, settings, known):
    teacher = torch.tensor([[900.0, -900.0, 0.0, -500.0], [0.0, 0.0, 0.0, 0.0], [1e4, 1e4, -1e4, 0.0]])
    for student in (teacher, -teacher, teacher.flip(-1), torch.zeros_like(teacher)):
        value, grad = run(make_loss(name, known(teacher), **settings), student)
        assert math.isfinite(value)
        assert torch.isfinite(grad).all()


@pytest.mark.parametrize("name", ["forward_kl", "reverse_kl", "jsd"])
def test_a_students_small_tail_keeps_its_digits(name):
    """Mass outside the teacher's k of 1e-9, which 1 - sum of the k in float32 would call 0 or 6e-8."""
    teacher = torch.tensor([[2.0, 1.0, 0.0, -1.0, -1.5]])
    student = torch.tensor([[22.0, 21.0, 1.0, 0.0, 1.5]])
    known = top_k(teacher, 2)
    z = student.double().requires_grad_()
    q = torch.softmax(z, -1)
    tail = q[:, 2:].sum(-1, keepdim=True)
    settings = {"beta": 0.5} if name == "jsd" else {}
    expected = TENSORS[name](
        grouped(torch.softmax(teacher.double(), -1), known.ids), torch.cat([q[:, :2], tail], -1), **settings
    ).sum()
    expected.backward()
    value, grad = run(make_loss(name, known, **settings), student)
    assert value == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(grad.double()[:, 2:], z.grad[:, 2:], rtol=2e-5, atol=0)


def test_log_probs_of_float16_that_sum_above_one_give_the_smallest_tail():
    ids, log_probs = torch.tensor([[0, 1]]), torch.tensor([[math.log(0.75) + 4e-4, math.log(0.25)]]).half()
    assert log_probs.float().exp().sum() > 1
    value, grad = run(make_loss("forward_kl", TopKTeacher(ids, log_probs)), torch.tensor([[math.log(3.0), 0.0, -9.0]]))
    assert abs(value) < 1e-3
    assert torch.isfinite(grad).all()
