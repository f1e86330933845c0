"""Rounding inputs as the runtimes do: gguf's own Q8_0 rounds the same numbers to the same numbers."""

import gguf
import numpy as np
import pytest
import torch

from edgedistill.quant.activations import eight_bits


@pytest.mark.parametrize("scale", [1e-3, 1.0, 300.0])
def test_blocks_of_32_are_gguf_s_q8_0(scale: float):
    torch.manual_seed(0)
    x = torch.randn(7, 96) * scale
    x[0, :32] = 0
    kind = gguf.GGMLQuantizationType.Q8_0
    expected = gguf.quants.dequantize(gguf.quants.quantize(x.numpy(), kind), kind)
    assert np.array_equal(eight_bits(x, 32).numpy(), expected)


def test_blocks_of_256_have_a_float_scale():
    torch.manual_seed(0)
    x = torch.randn(3, 512)
    blocks = x.double().view(3, 2, 256)
    step = blocks.abs().amax(-1, keepdim=True) / 127
    expected = ((blocks / step).round() * step).view(3, 512)
    torch.testing.assert_close(eight_bits(x, 256).double(), expected, rtol=1e-6, atol=1e-7)


def test_the_gradient_passes_through():
    x = torch.randn(2, 64, dtype=torch.bfloat16, requires_grad=True)
    found = eight_bits(x, 32)
    assert found.dtype == torch.bfloat16
    found.sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))
