"""AdamW against torch's."""

import pytest
import torch

from edgedistill.train import adamw
from edgedistill.train.adamw import AdamW, AdamWSettings


def trained(step_of, parameters, steps=60):
    """Follow gradients that have a direction and noise; what the parameters are then."""
    generator = torch.Generator().manual_seed(3)
    for _ in range(steps):
        for parameter in parameters.values():
            parameter.grad = torch.randn(parameter.shape, generator=generator) + 0.3
        step_of()
    return {name: p.detach().clone() for name, p in parameters.items()}


def start():
    generator = torch.Generator().manual_seed(1)
    return {
        name: torch.randn(shape, generator=generator).requires_grad_() for name, shape in (("a", (7, 13)), ("b", (40,)))
    }


@pytest.fixture
def of_torch():
    parameters = start()
    rates = [{"params": [p], "lr": rate} for p, rate in zip(parameters.values(), (0.01, 0.002), strict=True)]
    optimizer = torch.optim.AdamW(rates, betas=(0.9, 0.95), weight_decay=0.1)
    return trained(optimizer.step, parameters)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_it_is_torchs(dtype, of_torch, monkeypatch):
    monkeypatch.setattr(adamw, "PIECE", 16)  # several pieces, the last one short
    parameters = start()
    optimizer = AdamW(parameters, AdamWSettings(decay=0.1), dtype)
    found = trained(lambda: optimizer.step({"a": 0.01, "b": 0.002}), parameters)
    begun = start()
    for name, expected in of_torch.items():
        near = 1e-6 if dtype == torch.float32 else 0.01  # of the way that the parameters went
        assert (found[name] - expected).norm() < near * (expected - begun[name]).norm() + 1e-6
    assert all(p.grad is None for p in parameters.values())


def test_its_state_goes_on_to_the_same_bits():
    whole = start()
    optimizer = AdamW(whole, AdamWSettings())
    trained(lambda: optimizer.step({"a": 0.01, "b": 0.002}), whole, 5)
    begun = {name: p.detach().clone().requires_grad_() for name, p in whole.items()}
    state = {name: value.clone() for name, value in optimizer.state().items()}
    expected = trained(lambda: optimizer.step({"a": 0.01, "b": 0.002}), whole, 5)
    again = AdamW(begun, AdamWSettings())
    again.restore(state)
    found = trained(lambda: again.step({"a": 0.01, "b": 0.002}), begun, 5)
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_a_parameter_without_gradient_stays():
    parameters = start()
    before = parameters["b"].detach().clone()
    parameters["a"].grad = torch.ones(7, 13)
    AdamW(parameters, AdamWSettings(decay=0.1)).step({"a": 0.1, "b": 0.1})
    assert torch.equal(parameters["b"].detach(), before)


def test_betas_that_bfloat16_cannot_follow_are_refused():
    with pytest.raises(ValueError, match=r"moments in bfloat16 need betas of at most"):
        AdamW(start(), AdamWSettings(betas=(0.9, 0.999)))
    AdamW(start(), AdamWSettings(betas=(0.9, 0.999)), torch.float32)
