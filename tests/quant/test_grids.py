"""The byte contract of each grid, against gguf's decoder and ggml's own quantizer."""

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedistill.formats import FORMATS
from edgedistill.quant.fit import fit_weight
from edgedistill.quant.grids import GRIDS, GridTensor, decode, requantize
from tests import ggml

CASES = ["normal", "zeros", "one zero block", "constant", "tiny", "huge", "rounding edges", "ties of sign", "outlier", "positive"]
SMALL = [name for name in GRIDS if GRIDS[name].BLOCK == 32]


def make_weight(case: str, rows: int = 5, cols: int = 512) -> torch.Tensor:
    torch.manual_seed(0)
    weight = torch.randn(rows, cols)
    if case == "zeros":
        weight.zero_()
    elif case == "one zero block":
        weight[1, :256] = 0
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
    elif case == "positive":
        weight = weight.abs() + 2
    return weight


def dequantized(name: str, packed: torch.Tensor) -> np.ndarray:
    return gguf.quants.dequantize(packed.numpy(), gguf.GGMLQuantizationType(FORMATS[name].ggml_type)).astype(np.float32)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", SMALL)
def test_ggmls_fit_is_byte_equal_to_ggml(name, case):
    weight = make_weight(case)
    packed = GRIDS[name].pack(GRIDS[name].encode(weight))
    assert packed.numpy().tobytes() == ggml.quantize(weight.numpy(), name).tobytes()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", GRIDS)
def test_decode_is_ggufs_dequantize_bit_for_bit(name, case):
    grid = GRIDS[name]
    weight = make_weight(case)
    for parts in (grid.encode(weight), grid.fit(weight, None), grid.fit(weight, torch.rand(weight.shape) + 0.01)):
        packed = grid.pack(parts)
        assert packed.dtype == torch.uint8
        assert decode(grid, parts).numpy().tobytes() == dequantized(name, packed).tobytes()
        assert grid.pack(grid.unpack(packed)).equal(packed)
        assert torch.equal(GridTensor(name, packed).decode(), decode(grid, parts))
        assert GridTensor(name, packed).shape == tuple(weight.shape)


@pytest.mark.parametrize("name", GRIDS)
@given(seed=st.integers(0, 2**31 - 1))
@settings(max_examples=40, deadline=None)
def test_any_bytes_decode_as_gguf_does_and_pack_back(name, seed):
    packed = torch.from_numpy(random_blocks(name, seed))
    parts = GRIDS[name].unpack(packed)
    assert GRIDS[name].pack(parts).equal(packed)
    assert np.array_equal(decode(GRIDS[name], parts).numpy(), dequantized(name, packed))


def random_blocks(name: str, seed: int) -> np.ndarray:
    """Three rows of two blocks of any bytes, but finite scales: fp16 exponents never all ones."""
    number_format = FORMATS[name]
    packed = np.random.default_rng(seed).integers(0, 256, (3, 2 * number_format.block_bytes), dtype=np.uint8)
    blocks = packed.reshape(3, 2, number_format.block_bytes)
    for at in HALF_BYTES[name]:
        blocks[..., at] &= 0xBF
    return packed


# The high byte of each fp16 number in a block.
HALF_BYTES = {"q4_0": (1,), "q8_0": (1,)}


@pytest.mark.parametrize("name", GRIDS)
def test_codes_for_given_scales_are_the_nearest(name):
    grid, weight = GRIDS[name], make_weight("normal")
    parts = requantize(grid, weight, grid.encode(weight * 0.9))
    error = (weight - decode(grid, parts)).abs()
    steps = grid.STEPS
    every = range(len(steps.levels)) if steps.levels else range(int(steps.low) + steps.zero, int(steps.high) + steps.zero + 1)
    for code in every:
        other = decode(grid, parts.with_codes(torch.full_like(parts.codes, code)))
        assert (error <= (weight - other).abs() + 1e-6).all()


@pytest.mark.parametrize("name", GRIDS)
def test_free_scales_survive_packing(name):
    """Searched or learned scales aren't what a quantizer would choose: only the bytes can carry them."""
    weight = make_weight("normal")
    fitted = fit_weight(weight, name, torch.rand(weight.shape) + 0.01)
    expected = fitted.decode().numpy()
    assert np.array_equal(dequantized(name, fitted.packed), expected)
    again = torch.from_numpy(ggml.quantize(expected, name))
    assert not np.array_equal(dequantized(name, again), expected)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", GRIDS)
def test_our_fit_loses_at_most_what_ggmls_does_in_every_block(name, case):
    weight, costs = make_weight(case), make_weight("positive").square()
    for importance in (None, costs):
        factor = torch.ones_like(weight) if importance is None else importance

        def errors(decoded: torch.Tensor, factor: torch.Tensor = factor) -> torch.Tensor:
            blocks = (factor.double() * (weight.double() - decoded.double()).square()).view(weight.shape[0], -1, GRIDS[name].BLOCK)
            return blocks.sum(-1)

        ours = errors(fit_weight(weight, name, importance).decode())
        theirs = errors(torch.from_numpy(dequantized(name, torch.from_numpy(ggml.quantize(weight.numpy(), name)))))
        assert (ours <= theirs * (1 + 1e-5)).all()


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_a_number_is_refused(name, value):
    weight = make_weight("normal")
    weight[2, 7] = value
    with pytest.raises(ValueError, match=r"at \[2, 7\]; all weights must be finite"):
        GRIDS[name].encode(weight)


@pytest.mark.parametrize("name", GRIDS)
def test_short_row_error_names_the_row_length(name):
    with pytest.raises(ValueError, match=rf"multiple of {GRIDS[name].BLOCK} weights, got 40 in \(2, 40\)"):
        GRIDS[name].encode(torch.zeros(2, 40))
