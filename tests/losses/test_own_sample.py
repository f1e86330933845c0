"""Labels that a model draws from itself: as often as it says, and the gradient of their negative log-likelihood."""

import torch

from edgedistill.losses.own_sample import OwnSample


def test_labels_come_as_often_as_the_model_says():
    torch.manual_seed(0)
    logits = torch.randn(1, 11).expand(20_000, -1)
    q = torch.softmax(logits[0], -1)
    _, grad = OwnSample(3).loss_and_grad(logits.clone(), 0)
    drawn = (q - grad).round().sum(0) / len(logits)
    assert ((drawn - q).abs() < 4 * (q * (1 - q) / len(logits)).sqrt()).all()


def test_the_gradient_is_that_of_the_drawn_label():
    torch.manual_seed(1)
    logits = torch.randn(50, 30, requires_grad=True)
    values, grad = OwnSample(5).loss_and_grad(logits.detach().clone(), 0)
    labels = (torch.softmax(logits, -1) - grad).argmax(-1)
    expected = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
    expected.backward()
    torch.testing.assert_close(values.sum(), expected.detach())
    torch.testing.assert_close(grad, logits.grad)


def test_one_seed_draws_one_text():
    logits = torch.randn(40, 20)
    first, second, other = (OwnSample(seed).loss_and_grad(logits.clone(), 0)[1] for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
