"""Training on a grid: the forward value is the file's, the gradients are the estimators' formulas."""

import pytest
import torch

from edgedistill.quant.fit import fit_ggml, fit_importance
from edgedistill.quant.grids import GRIDS
from edgedistill.quant.latent import FakeQuant, GridLinear


@pytest.fixture
def weight():
    torch.manual_seed(1)
    return torch.randn(6, 64)


@pytest.mark.parametrize("name", GRIDS)
def test_the_forward_pass_sees_the_packed_weight(name, weight):
    layer = GridLinear(weight, fit_ggml(weight, name), train_weight=True, train_scale=True)
    with torch.no_grad():
        layer.latent += 0.01 * torch.randn_like(layer.latent)
        layer.gain += 0.05 * torch.randn_like(layer.gain)
    packed = layer.encode()
    assert torch.equal(layer.weight(), packed.decode())
    x = torch.randn(3, 64)
    torch.testing.assert_close(layer(x), x @ packed.decode().T, rtol=0, atol=0)


@pytest.mark.parametrize("name", GRIDS)
def test_gradients_are_straight_through_and_lsqs(name, weight):
    scale = (GRIDS[name].fit_scale(weight) * 0.6).requires_grad_()  # 0.6: some weights are clipped
    latent = weight.clone().requires_grad_()
    upstream = torch.randn_like(weight)
    FakeQuant.apply(latent, scale, name).backward(upstream)

    low, high = (-8, 7) if name == "q4_0" else (-127, 127)
    stored = GRIDS[name].store_scale(scale.detach()).double()
    for row in range(weight.shape[0]):
        for block in range(2):
            expected_scale = 0.0
            for column in range(32 * block, 32 * block + 32):
                ratio = weight[row, column].double() / stored[row, block]
                step = min(max(torch.floor(ratio + 0.5), low), high)
                clipped = abs(step - ratio) > 0.501
                g = upstream[row, column].double()
                expected_scale += g * (step if clipped else step - ratio)
                assert latent.grad[row, column].item() == pytest.approx(0.0 if clipped else g.item(), rel=1e-6)
            assert scale.grad[row, block].item() == pytest.approx(float(expected_scale), rel=1e-3, abs=1e-4)


def test_frozen_codes_stay_while_scales_learn(weight):
    fitted = fit_ggml(weight, "q4_0")
    layer = GridLinear(weight, fitted, train_weight=False, train_scale=True)
    assert [name for name, _ in layer.named_parameters()] == ["gain"]
    layer(torch.randn(4, 64)).square().sum().backward()
    with torch.no_grad():
        layer.gain -= 0.01 * layer.gain.grad.sign()
    assert torch.equal(layer.encode().codes, fitted.codes)
    assert not torch.equal(layer.encode().scale, fitted.scale)


@pytest.mark.parametrize("name", GRIDS)
def test_the_importance_fit_loses_less_of_the_output_than_ggmls(name):
    torch.manual_seed(2)
    weight = torch.randn(32, 256) * 0.05
    inputs = torch.randn(400, 256) * (1.5 * torch.randn(256)).exp()  # channels of very different size, as in real layers
    mean_square = inputs.square().mean(0)

    def output_error(fitted):
        return ((inputs @ (weight - fitted.decode()).T) ** 2).mean().item()

    plain, searched = fit_ggml(weight, name), fit_importance(weight, name, mean_square)
    assert output_error(searched) < (0.9 if name == "q4_0" else 1.001) * output_error(plain)


@pytest.mark.parametrize("name", GRIDS)
def test_the_importance_fit_holds_on_edges(name):
    for weight in (torch.zeros(2, 32), torch.full((2, 32), 1e-8), torch.full((2, 32), 6e4)):
        fitted = fit_importance(weight, name, torch.zeros(32))
        assert torch.isfinite(fitted.decode()).all()
