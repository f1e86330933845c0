"""Training on a grid: the forward value is the file's, the gradients are the estimators' formulas."""

import pytest
import torch

from edgedistill.quant.activations import eight_bits
from edgedistill.quant.exact import ExactLinear
from edgedistill.quant.fit import fit_ggml, fit_importance
from edgedistill.quant.grids import GRIDS
from edgedistill.quant.latent import HEADER, GridLinear, Learned

LEARNED = [name for name in GRIDS if GRIDS[name].LEARNED]  # mxfp4's scales are powers of two, which no gradient moves


@pytest.fixture
def weight():
    torch.manual_seed(1)
    return torch.randn(6, 512)


def gains(layer: GridLinear) -> dict[str, torch.nn.Parameter]:
    return {name: getattr(layer, f"gain_{name}") for name in HEADER if hasattr(layer, f"gain_{name}")}


@pytest.mark.parametrize("train_weight", [True, False])
@pytest.mark.parametrize("name", GRIDS)
def test_the_forward_pass_sees_the_packed_weight(name, weight, train_weight):
    layer = GridLinear(weight, fit_ggml(weight, name), Learned(weights=train_weight), bias=torch.randn(6))
    with torch.no_grad():
        if train_weight:
            layer.latent += 0.01 * torch.randn_like(layer.latent)
        for gain in gains(layer).values():
            gain += 0.05 * torch.randn_like(gain)
    packed = layer.encode()
    assert torch.equal(layer.weight(), packed.decode())
    x = torch.randn(3, 512)
    torch.testing.assert_close(layer(x), x @ packed.decode().T + layer.bias, rtol=0, atol=1e-5)
    eye = torch.eye(512)
    assert torch.equal(layer(eye) - layer(torch.zeros(512)), (eye @ packed.decode().T + layer.bias) - layer.bias)


@pytest.mark.parametrize("name", LEARNED)
def test_gradients_are_straight_through_and_the_scales(name, weight):
    """Against a float64 loop over every weight: what is within the steps, what is clipped, and what each scale then
    gets.
    """
    grid = GRIDS[name]
    layer = GridLinear(weight * 0.6, fit_ggml(weight * 0.6, name), Learned())
    with torch.no_grad():
        layer.latent.copy_(weight)  # beyond the fitted scales' reach: some weights are clipped
    x = torch.randn(7, 512, requires_grad=True)
    upstream = torch.randn(7, 6)
    layer(x).backward(upstream)
    decoded = layer.encode().decode()
    torch.testing.assert_close(x.grad, upstream @ decoded)

    scale, offset = grid.groups(layer.encode().parts())
    g = (upstream.T.double() @ x.detach().double()).view(6, -1, grid.GROUP)
    grouped = weight.double().view_as(g)
    base = torch.zeros_like(scale) if offset is None else offset
    ratio = (grouped - base.double().unsqueeze(-1)) / scale.double().unsqueeze(-1)
    ratio[torch.isnan(ratio) | torch.isinf(ratio)] = 0.0
    step = ((decoded.double().view_as(g) - base.double().unsqueeze(-1)) / scale.double().unsqueeze(-1)).nan_to_num(0.0)
    nearest = ratio if grid.STEPS.levels is not None else ratio.round()
    clipped = (nearest < grid.STEPS.low) | (nearest > grid.STEPS.high)
    assert clipped.any()
    expected = torch.where(clipped, 0.0, g).flatten(1)
    torch.testing.assert_close(layer.latent.grad.double(), expected, rtol=1e-4, atol=1e-4)
    by_scale, by_offset = (g * step).sum(-1), g.sum(-1)
    # The chain on to the stored numbers is the layout's: d alone, or d and the integers of its groups.
    parts = layer.encode().parts()
    if grid.SCALES is None:
        expected_d = by_scale.view(6, -1, grid.BLOCK // grid.GROUP).sum(-1) * parts.d.double()
    else:
        expected_d = (by_scale * parts.scales.double()).view(6, -1, grid.BLOCK // grid.GROUP).sum(-1) * parts.d.double()
        torch.testing.assert_close(
            layer.gain_scales.grad.double(),
            by_scale * parts.d.double().repeat_interleave(grid.BLOCK // grid.GROUP, 1) * parts.scales.double(),
            rtol=2e-3,
            atol=2e-3,
        )
    torch.testing.assert_close(layer.gain_d.grad.double(), expected_d, rtol=2e-3, atol=2e-3)
    if parts.m is not None and grid.MINS is None:
        torch.testing.assert_close(layer.gain_m.grad.double(), by_offset * parts.m.double(), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("name", LEARNED)
def test_scales_that_learn_leave_the_codes(name, weight):
    fitted = fit_ggml(weight, name)
    layer = GridLinear(weight, fitted, Learned())
    with torch.no_grad():
        for gain in gains(layer).values():
            gain += 0.03 * torch.randn_like(gain)
    assert torch.equal(layer.encode().parts().codes, fitted.parts().codes)
    assert not torch.equal(layer.encode().packed, fitted.packed)


@pytest.mark.parametrize("name", LEARNED)
def test_frozen_codes_stay_while_scales_learn(name, weight):
    fitted = fit_ggml(weight, name)
    layer = GridLinear(weight, fitted, Learned(weights=False))
    assert all(parameter.startswith("gain_") for parameter, _ in layer.named_parameters())
    layer(torch.randn(4, 512)).square().sum().backward()
    with torch.no_grad():
        for gain in gains(layer).values():
            assert gain.grad.abs().max() > 0
            gain -= 0.02 * gain.grad.sign()
    assert torch.equal(layer.encode().parts().codes, fitted.parts().codes)
    assert not torch.equal(layer.encode().packed, fitted.packed)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("train_weight", [True, False])
@pytest.mark.parametrize("name", GRIDS)
def test_the_weight_in_use_is_the_files_to_the_bit(name, train_weight, dtype, weight):
    """In bfloat16 it is a sum of numbers of that type; rounded to one of them, 80 to 97 % of weights were others."""
    layer = GridLinear(weight, fit_ggml(weight, name), Learned(weights=train_weight))
    with torch.no_grad():
        for gain in gains(layer).values():
            gain += 0.05 * torch.randn_like(gain)
        operand = layer.operand(dtype)
    shipped = layer.encode().decode()
    assert operand.dtype == dtype
    assert torch.equal(operand.double().view(6, -1, 512).sum(1), shipped.double())
    if name in ("q4_0", "q5_0", "tq2_0"):
        assert operand.shape[1] <= 2 * 512


@pytest.mark.parametrize("name", [*GRIDS, "f32"])
def test_bfloat16_products_tell_weights_apart_that_round_alike(name, weight):
    """Differences of two weights, which cancel: a weight that is rounded to bfloat16 on the way would show."""
    if name == "f32":
        layer, shipped = ExactLinear.of(torch.nn.Linear(512, 6)), None
        shipped, bias = layer.weight.detach(), layer.bias.detach()
    else:
        bias = torch.randn(6)
        layer = GridLinear(weight, fit_ggml(weight, name), Learned(), bias)
        shipped = layer.encode().decode()
    x = torch.eye(512) - torch.eye(512).roll(1, 0)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(x)
    expected = x.double() @ shipped.double().T + bias.double()
    assert found.dtype == torch.bfloat16
    # The result alone is rounded: by 2^-9 of itself, and by float32's sum of a handful of terms.
    torch.testing.assert_close(found.double(), expected, rtol=2**-8, atol=1e-6)


def test_a_layer_in_plain_float_has_a_linear_layers_gradients():
    torch.manual_seed(3)
    plain = torch.nn.Linear(64, 8)
    exact = ExactLinear.of(plain)
    assert exact.weight is plain.weight
    x = torch.randn(5, 64)
    assert torch.equal(exact(x), plain(x))
    seen = []
    for layer in (plain, exact):
        inputs = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            layer(inputs).float().square().sum().backward()
        seen.append((inputs.grad, layer.weight.grad, layer.bias.grad))
        plain.zero_grad()
    for ours, torchs in zip(*reversed(seen), strict=True):
        torch.testing.assert_close(ours, torchs, rtol=2e-2, atol=2e-2 * float(torchs.abs().max()))


@pytest.mark.parametrize("name", GRIDS)
def test_the_importance_fit_loses_less_of_the_output_than_ggmls(name):
    torch.manual_seed(2)
    weight = torch.randn(32, 256) * 0.05
    inputs = (
        torch.randn(400, 256) * (1.5 * torch.randn(256)).exp()
    )  # channels of very different size, as in real layers
    mean_square = inputs.square().mean(0)

    def output_error(fitted):
        return ((inputs @ (weight - fitted.decode()).T) ** 2).mean().item()

    plain, searched = fit_ggml(weight, name), fit_importance(weight, name, mean_square)
    assert output_error(searched) < (1.001 if name == "q8_0" else 0.97) * output_error(plain)


@pytest.mark.parametrize("name", GRIDS)
def test_the_importance_fit_holds_on_edges(name):
    for weight in (torch.zeros(2, 256), torch.full((2, 256), 1e-8), torch.full((2, 256), 6e4)):
        fitted = fit_importance(weight, name, torch.zeros(256))
        assert torch.isfinite(fitted.decode()).all()


def test_a_low_rank_trains_the_rounded_sum(weight):
    """Its gradients are those of the whole weight's, taken through W + BA by the chain rule."""
    fitted = fit_ggml(weight, "q4_0")
    whole, low = GridLinear(weight, fitted, Learned()), GridLinear(weight, fitted, Learned(low_rank=3))
    with torch.no_grad():
        low.low_b.normal_(std=0.05)
        whole.latent.add_(low.low_b @ low.low_a)
    assert torch.equal(low.encode().packed, whole.encode().packed)
    assert not torch.equal(low.encode().packed, fitted.packed)
    x = torch.randn(5, 512)
    for layer in (whole, low):
        layer(x).square().sum().backward()
    for found, right in (
        (low.low_b.grad, whole.latent.grad @ low.low_a.T),
        (low.low_a.grad, low.low_b.T @ whole.latent.grad),
        (low.gain_d.grad, whole.gain_d.grad),
    ):
        # Sums of large terms that cancel: how float32 rounds them depends on the processor's order, so the tensor's
        # size is the measure.
        torch.testing.assert_close(found, right, rtol=1.3e-6, atol=1e-5 * right.abs().max().item())
    assert low.latent.grad is None


def test_a_low_rank_begins_at_the_weight(weight):
    layer = GridLinear(weight, fit_ggml(weight, "q4_0"), Learned(low_rank=8))
    assert torch.equal(layer.weight(), GridLinear(weight, fit_ggml(weight, "q4_0"), Learned()).weight())


def test_inputs_are_rounded_where_asked(weight):
    layer = GridLinear(weight, fit_ggml(weight, "q4_0"), Learned(round_inputs=True))
    x = torch.randn(4, 512, requires_grad=True)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), eight_bits(x, 32) @ layer.weight().T)
    layer(x).sum().backward()
    torch.testing.assert_close(x.grad, layer.weight().sum(0).expand(4, -1))
