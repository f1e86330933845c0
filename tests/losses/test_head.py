"""The chunked head against the plain way in float64: values, both gradients, the memory that it takes, and what it
refuses.
"""

import re
import sys
from pathlib import Path

import pytest
import torch

from edgedistill.losses import head
from edgedistill.losses.choose import make_loss
from edgedistill.losses.cross_entropy import CrossEntropy
from edgedistill.losses.forward_kl import ForwardKL
from edgedistill.losses.head import head_loss
from edgedistill.losses.teachers import ExactTeacher, LiveLogits, TopKTeacher, WrittenText
from edgedistill.losses.weighted import Weighted
from tests.losses.definitions import CASES, NAMES, TENSORS, grouped

N, D, V, K = 11, 8, 40, 6
# What memory is measured at, and what blocks and the libraries' own buffers may take beside: less than a second
# gradient or chunk would.
TOKENS, VOCABULARY, SMALL = 2048, 32768, 30 * 10**6


@pytest.fixture
def case():
    torch.manual_seed(0)
    hidden = torch.randn(N, D, requires_grad=True)
    weight = torch.randn(V, D, requires_grad=True)
    teacher_hidden, teacher_weight = torch.randn(N, 5), torch.randn(V, 5)
    return hidden, weight, teacher_hidden, teacher_weight


def assert_same(loss, hidden, weight, expected, h, w):
    loss.backward()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(hidden.grad.double(), h.grad, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(weight.grad.double(), w.grad, rtol=1e-4, atol=1e-6)


def in_float64(hidden, weight):
    """Copies for autograd, and the student's logits from them."""
    h, w = hidden.detach().double().requires_grad_(), weight.detach().double().requires_grad_()
    return h, w, h @ w.T


@pytest.mark.parametrize(("name", "settings"), CASES, ids=NAMES)
@pytest.mark.parametrize("known", ["exact", "exact softened", "top-k"])
def test_it_is_the_plain_way_in_float64(case, name, settings, known):
    hidden, weight, teacher_hidden, teacher_weight = case
    h, w, z = in_float64(hidden, weight)
    y = teacher_hidden.double() @ teacher_weight.double().T
    if known == "top-k":
        top = torch.log_softmax(y, -1).topk(K)
        expected = TENSORS[name](
            grouped(torch.softmax(y, -1), top.indices), grouped(torch.softmax(z, -1), top.indices), **settings
        )
        loss = make_loss(name, TopKTeacher(top.indices, top.values), **settings)
    else:
        t = 2.5 if known == "exact softened" else 1.0
        expected = t**2 * TENSORS[name](torch.softmax(y / t, -1), torch.softmax(z / t, -1), **settings)
        loss = make_loss(name, ExactTeacher(teacher_hidden, teacher_weight), temperature=t, **settings)
    assert_same(head_loss(hidden, weight, loss, chunk=4), hidden, weight, expected.mean(), h, w)


def test_cross_entropy_is_torchs(case):
    hidden, weight, *_ = case
    labels = torch.arange(N) % V
    h, w, z = in_float64(hidden, weight)
    loss = head_loss(hidden, weight, make_loss("cross_entropy", WrittenText(labels)), chunk=3)
    assert_same(loss, hidden, weight, torch.nn.functional.cross_entropy(z, labels), h, w)


@pytest.mark.parametrize("chunk", [3, None])
@pytest.mark.parametrize("kind", [torch.float16, torch.float32])
def test_token_weights_are_a_weighted_mean_in_a_float64_loop(case, chunk, kind):
    """Weights of 0, of 1 and between, over a sum of two losses."""
    hidden, weight, teacher_hidden, teacher_weight = case
    token_weights = torch.tensor([0.0, 1.0, 0.5, 0.25, 0.0, 1.0, 1.0, 0.125, 2.0, 0.75, 1.0], dtype=kind)
    labels = torch.arange(N) % V
    h, w, z = in_float64(hidden, weight)
    p = torch.softmax(teacher_hidden.double() @ teacher_weight.double().T, -1)
    expected = torch.zeros((), dtype=torch.float64)
    for token in range(N):
        q = torch.softmax(z[token], -1)
        kl = TENSORS["reverse_kl"](p[token : token + 1], q.unsqueeze(0)).sum()
        expected = expected + float(token_weights[token]) * (0.75 * kl - 0.25 * q[labels[token]].log())
    expected = expected / float(token_weights.double().sum())
    loss = Weighted(
        [
            (0.75, make_loss("reverse_kl", ExactTeacher(teacher_hidden, teacher_weight))),
            (0.25, make_loss("cross_entropy", WrittenText(labels))),
        ]
    )
    assert_same(head_loss(hidden, weight, loss, token_weights, chunk), hidden, weight, expected, h, w)


def test_a_token_of_weight_zero_is_as_if_it_were_not_there(case):
    hidden, weight, *_ = case
    labels = torch.arange(N) % V
    token_weights = torch.ones(N)
    token_weights[[2, 7]] = 0
    kept = token_weights > 0
    both = head_loss(hidden, weight, CrossEntropy(labels), token_weights)
    fewer = head_loss(hidden[kept], weight, CrossEntropy(labels[kept]))
    assert both.item() == pytest.approx(fewer.item(), rel=1e-6)
    (grad,) = torch.autograd.grad(both, hidden)
    assert not grad[~kept].any()


def test_two_teachers_and_a_text_are_the_sum_of_three_losses(case):
    """A float student and an original teacher of another width, mixed."""
    hidden, weight, teacher_hidden, teacher_weight = case
    labels = torch.arange(N) % V
    own_hidden, own_weight = torch.randn(N, D), torch.randn(V, D)
    h, w, z = in_float64(hidden, weight)
    q = torch.softmax(z, -1)
    p, own = (
        torch.softmax(a.double() @ b.double().T, -1)
        for a, b in ((teacher_hidden, teacher_weight), (own_hidden, own_weight))
    )
    plain = 0.6 * TENSORS["forward_kl"](own, q) + 0.3 * TENSORS["skew_kl"](p, q, alpha=0.1)
    expected = plain.mean() + 0.1 * torch.nn.functional.cross_entropy(z, labels)
    parts = [
        (0.6, make_loss("forward_kl", ExactTeacher(own_hidden, own_weight))),
        (0.0, make_loss("tvd", ExactTeacher(own_hidden, own_weight))),
        (0.3, make_loss("skew_kl", ExactTeacher(teacher_hidden, teacher_weight))),
        (0.1, make_loss("cross_entropy", WrittenText(labels))),
    ]
    assert_same(head_loss(hidden, weight, Weighted(parts), chunk=4), hidden, weight, expected, h, w)


def test_one_teacher_may_serve_two_losses(case):
    hidden, weight, teacher_hidden, teacher_weight = case
    teacher = ExactTeacher(teacher_hidden, teacher_weight)
    parts = [make_loss("forward_kl", teacher), make_loss("reverse_kl", teacher)]
    single = [head_loss(hidden, weight, part).item() for part in parts]
    both = head_loss(hidden, weight, Weighted([(0.9, parts[0]), (0.1, parts[1])]))
    assert both.item() == pytest.approx(0.9 * single[0] + 0.1 * single[1], rel=1e-6)


def test_kl_of_a_model_with_itself_is_zero(case):
    hidden, weight, *_ = case
    loss = head_loss(hidden, weight, ForwardKL(hidden.detach(), weight.detach()))
    loss.backward()
    assert abs(loss.item()) < 1e-6
    assert hidden.grad.abs().max() < 1e-6


@pytest.mark.parametrize("known", ["exact", "top-k", "text"])
def test_chunks_and_blocks_change_nothing(case, known, monkeypatch):
    hidden, weight, teacher_hidden, teacher_weight = case
    top = torch.log_softmax(teacher_hidden @ teacher_weight.T, -1).topk(K)
    loss = {
        "exact": make_loss("forward_kl", ExactTeacher(teacher_hidden, teacher_weight)),
        "top-k": make_loss("forward_kl", TopKTeacher(top.indices, top.values)),
        "text": make_loss("cross_entropy", WrittenText(torch.arange(N))),
    }[known]
    whole = torch.autograd.grad(head_loss(hidden, weight, loss, chunk=N), (hidden, weight))
    for chunk, block in ((1, 1), (4, 1), (4, 3 * V), (99, 2 * V), (None, 2 * V)):
        monkeypatch.setattr(head, "BLOCK_LOGITS", block)
        value = head_loss(hidden, weight, loss, chunk=chunk)
        assert value.item() == pytest.approx(head_loss(hidden, weight, loss, chunk=N).item(), rel=1e-6)
        for found, expected in zip(torch.autograd.grad(value, (hidden, weight)), whole, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("chunk", [3, None])
def test_bfloat16_is_the_plain_way_in_bfloat16(chunk):
    """Products in bfloat16, all else in float32, and the weight's gradient summed in float32 over rows that don't
    divide evenly.
    """
    torch.manual_seed(0)
    vocabulary = head.WEIGHT_ROWS * 2 + 5
    hidden, weight = (
        torch.randn(N, D).bfloat16().requires_grad_(),
        torch.randn(vocabulary, D).bfloat16().requires_grad_(),
    )
    teacher = torch.randn(N, vocabulary)
    loss = head_loss(hidden, weight, make_loss("forward_kl", LiveLogits(teacher)), chunk=chunk)
    (loss * 3).backward()
    z = (hidden @ weight.T).detach().float().requires_grad_()
    log_q = torch.log_softmax(z, -1)
    plain = torch.nn.functional.kl_div(log_q, torch.log_softmax(teacher, -1), log_target=True, reduction="batchmean")
    plain.backward()
    assert loss.item() == pytest.approx(plain.item(), rel=1e-5)
    for found, expected in (
        (hidden.grad, 3 * z.grad @ weight.detach().float()),
        (weight.grad, 3 * z.grad.T @ hidden.detach().float()),
    ):
        assert found.dtype == torch.bfloat16
        assert found.is_contiguous()
        assert (found.float() - expected).norm() / expected.norm() < 0.01


def test_a_frozen_output_matrix_gets_no_gradient(case):
    hidden, weight, teacher_hidden, teacher_weight = case
    head_loss(hidden, weight.detach(), ForwardKL(teacher_hidden, teacher_weight)).backward()
    assert hidden.grad is not None
    assert weight.grad is None


def test_the_gradient_is_given_once(case):
    hidden, weight, *_ = case
    loss = head_loss(hidden, weight, CrossEntropy(torch.arange(N)))
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="handed out: compute the loss anew"):
        loss.backward()


def peak_bytes_of(work):
    """How far the resident size rises above where it was while `work` runs."""
    threads = torch.get_num_threads()
    torch.set_num_threads(min(threads, 2))  # each has blocks of its own
    status = Path("/proc/self/status")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak is counted anew
    before = int(re.search(r"VmRSS:\s+(\d+) kB", status.read_text(encoding="ascii"))[1])
    work()
    torch.set_num_threads(threads)
    return 1024 * (int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="ascii"))[1]) - before)


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize("known", ["exact", "top-k"])
@pytest.mark.parametrize("trained", [False, True], ids=["frozen", "trained"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_memory_is_two_chunks_and_the_weights_gradient(known, trained, dtype):
    """Of a chunk the student's logits and an exact teacher's, and blocks of few rows; no second copy of the weight's
    gradient.
    """
    torch.manual_seed(0)
    width = (
        320 if trained else 16
    )  # a gradient of 42 MB: what is larger than 32 MiB is never hidden in memory that malloc kept
    hidden = torch.randn(TOKENS, width).to(dtype).requires_grad_()
    weight = torch.randn(VOCABULARY, width).to(dtype).requires_grad_(trained)
    ids = torch.randint(VOCABULARY - K, (TOKENS, 1)) + torch.arange(K)
    loss = {
        "exact": make_loss(
            "forward_kl", ExactTeacher(torch.randn(TOKENS, 16).to(dtype), torch.randn(VOCABULARY, 16).to(dtype))
        ),
        "top-k": make_loss("forward_kl", TopKTeacher(ids, torch.full(ids.shape, -3.0))),
    }[known]
    chunks = (2 if known == "exact" else 1) * head.CHUNK * VOCABULARY * weight.element_size()
    gradient = 4 * VOCABULARY * width if trained else 0
    assert peak_bytes_of(lambda: head_loss(hidden, weight, loss).backward()) < chunks + gradient + SMALL


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_the_plain_way_takes_seven_times_that():
    hidden, weight = torch.randn(TOKENS, 16).requires_grad_(), torch.randn(VOCABULARY, 16)

    def plain():
        teacher = torch.log_softmax(hidden.detach() @ weight.T, -1)
        log_q = torch.log_softmax(hidden @ weight.T, -1)
        torch.nn.functional.kl_div(log_q, teacher, log_target=True, reduction="batchmean").backward()

    assert peak_bytes_of(plain) > 4 * TOKENS * VOCABULARY * 3
    assert 4 * TOKENS * VOCABULARY * 3 > 7 * (2 * head.CHUNK * VOCABULARY * 4 + SMALL)


def weighted_mean(weights):
    return head_loss(torch.zeros(1, 2), torch.zeros(3, 2), CrossEntropy(torch.zeros(1)), torch.tensor(weights))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: head_loss(torch.zeros(0, 2), torch.zeros(3, 2), CrossEntropy(torch.zeros(0))), "at least one token"),
        (lambda: head_loss(torch.zeros(1, 2).bfloat16(), torch.zeros(3, 2), CrossEntropy(torch.zeros(1))), "one type"),
        (lambda: weighted_mean([1.0, 1.0]), r"a weight for each of 1 tokens, got \(2,\)"),
        (lambda: weighted_mean([0.0]), "at least one of them above 0"),
        (lambda: weighted_mean([-1.0]), "weights of 0 and above"),
        (lambda: weighted_mean([float("nan")]), "weights of 0 and above"),
        (lambda: ForwardKL(torch.zeros(1, 2), torch.zeros(3, 2), 0.0), "above 0, got 0.0"),
        (lambda: Weighted([(0.0, CrossEntropy(torch.zeros(1)))]), "weight above 0"),
        (
            lambda: Weighted([(2.0, CrossEntropy(torch.zeros(1))), (-1.0, CrossEntropy(torch.zeros(1)))]),
            r"0 and above, got \[2.0, -1.0\]",
        ),
        (lambda: TopKTeacher(torch.zeros(1, 2), torch.zeros(1, 3)), r"one shape, got \(1, 2\) and \(1, 3\)"),
        (
            lambda: ExactTeacher(torch.zeros(1, 2), torch.zeros(3, 4)),
            r"one width, got \(\(1, 2\), torch.float32\) and \(\(3, 4\)",
        ),
        (lambda: ExactTeacher(torch.zeros(1, 2), torch.zeros(3, 2).bfloat16()), "one type and one width"),
        (
            lambda: head_loss(torch.zeros(1, 2), torch.zeros(3, 2), ForwardKL(torch.zeros(1, 2), torch.zeros(4, 2))),
            "the same vocabulary",
        ),
        (
            lambda: head_loss(torch.zeros(2, 2), torch.zeros(3, 2), ForwardKL(torch.zeros(1, 2), torch.zeros(3, 2))),
            "the same tokens",
        ),
    ],
)
def test_wrong_input_is_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()
