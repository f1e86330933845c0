"""The byte contract of each grid, against gguf's own encoder and decoder."""

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedistill.formats import FORMATS
from edgedistill.quant.grids import GRIDS

TYPES = {"q4_0": gguf.GGMLQuantizationType.Q4_0, "q8_0": gguf.GGMLQuantizationType.Q8_0}
CASES = ["normal", "zeros", "one zero block", "constant", "tiny", "huge", "rounding edges", "ties of sign", "outlier"]


def make_weight(case: str, rows: int = 5, cols: int = 96) -> torch.Tensor:
    torch.manual_seed(0)
    weight = torch.randn(rows, cols)
    if case == "zeros":
        weight.zero_()
    elif case == "one zero block":
        weight[1, 32:64] = 0
    elif case == "constant":
        weight.fill_(-0.37)
    elif case == "tiny":
        weight *= 1e-7
    elif case == "huge":
        weight *= 3e4
    elif case == "rounding edges":
        weight = (torch.arange(rows * cols).view(rows, cols) % 17 - 8) / 2.0
    elif case == "ties of sign":
        weight[:, ::2] = 1.5
        weight[:, 1::2] = -1.5
    elif case == "outlier":
        weight[:, ::32] = 40.0
    return weight


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", TYPES)
def test_ggmls_fit_is_byte_equal_to_gguf(name, case):
    weight = make_weight(case)
    expected = gguf.quants.quantize(weight.numpy(), TYPES[name])
    assert GRIDS[name].pack(*GRIDS[name].encode(weight)).numpy().tobytes() == expected.tobytes()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", TYPES)
def test_decode_is_ggufs_dequantize_bit_for_bit(name, case):
    grid = GRIDS[name]
    scale, codes = grid.encode(make_weight(case))
    expected = gguf.quants.dequantize(grid.pack(scale, codes).numpy(), TYPES[name])
    assert grid.decode(scale, codes).numpy().tobytes() == expected.astype(np.float32).tobytes()


@pytest.mark.parametrize("name", TYPES)
@given(seed=st.integers(0, 2**31 - 1))
@settings(max_examples=40, deadline=None)
def test_any_bytes_decode_as_gguf_does_and_pack_back(name, seed):
    number_format = FORMATS[name]
    generator = np.random.default_rng(seed)
    packed = generator.integers(0, 256, (3, 2 * number_format.block_bytes), dtype=np.uint8)
    blocks = packed.reshape(3, 2, number_format.block_bytes)
    blocks[..., 1] &= 0xBF  # keep the fp16 scale finite: its exponent never all ones
    scale, codes = GRIDS[name].unpack(torch.from_numpy(packed))
    assert GRIDS[name].pack(scale, codes).numpy().tobytes() == packed.tobytes()
    expected = gguf.quants.dequantize(packed, TYPES[name])
    assert np.array_equal(GRIDS[name].decode(scale, codes).numpy(), expected)


@pytest.mark.parametrize("name", TYPES)
def test_codes_for_a_given_scale_are_the_nearest(name):
    weight = make_weight("normal")
    grid = GRIDS[name]
    scale = grid.store_scale(grid.fit_scale(weight) * 0.9)
    codes = grid.encode_with_scale(weight, scale)
    error = (weight - grid.decode(scale, codes)).abs()
    low, high = (0, 15) if name == "q4_0" else (-127, 127)
    for step in (-1, 1):
        moved = (codes.int() + step).clamp(low, high).to(codes.dtype)
        assert (error <= (weight - grid.decode(scale, moved)).abs() + 1e-6).all()


@pytest.mark.parametrize("name", TYPES)
def test_a_free_scale_survives_packing(name):
    """A searched or learned scale isn't what a quantizer would choose: only the bytes can carry it."""
    weight = make_weight("normal")
    grid = GRIDS[name]
    scale = grid.store_scale(grid.fit_scale(weight) * 1.2)
    codes = grid.encode_with_scale(weight, scale)
    expected = grid.decode(scale, codes).numpy()
    assert np.array_equal(gguf.quants.dequantize(grid.pack(scale, codes).numpy(), TYPES[name]), expected)
    assert not np.array_equal(gguf.quants.dequantize(gguf.quants.quantize(expected, TYPES[name]), TYPES[name]), expected)


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_a_number_is_refused(name, value):
    weight = make_weight("normal")
    weight[2, 7] = value
    with pytest.raises(ValueError, match=r"at \[2, 7\]; all weights must be finite"):
        GRIDS[name].encode(weight)


@pytest.mark.parametrize("name", TYPES)
def test_short_row_error_names_the_row_length(name):
    with pytest.raises(ValueError, match=r"multiple of 32 weights, got 40 in \(2, 40\)"):
        GRIDS[name].encode(torch.zeros(2, 40))
