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

CASES = [
    "normal",
    "zeros",
    "one zero block",
    "constant",
    "tiny",
    "huge",
    "rounding edges",
    "ties of sign",
    "outlier",
    "positive",
]
SMALL = [name for name in GRIDS if GRIDS[name].BLOCK == 32 or name == "tq2_0"]
# Grids whose values a quantizer finds again: their scale is a power of two, or the magnitude of every weight that isn't
# zero.
IDEMPOTENT = ("mxfp4", "tq2_0")


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
    with np.errstate(
        over="ignore", invalid="ignore"
    ):  # where ggml stores an infinite scale, and mxfp4's largest exponents
        return gguf.quants.dequantize(packed.numpy(), gguf.GGMLQuantizationType(FORMATS[name].ggml_type)).astype(
            np.float32
        )


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", SMALL)
def test_ggmls_fit_is_byte_equal_to_ggml(name, case):
    weight = make_weight(case)
    packed = GRIDS[name].pack(GRIDS[name].encode(weight))
    assert packed.numpy().tobytes() == clamped(name, ggml.quantize(weight.numpy(), name)).tobytes()


def clamped(name: str, packed: np.ndarray) -> np.ndarray:
    """ggml's blocks with fp16's largest number where ggml stored infinity: what we ship in its place."""
    blocks = packed.reshape(packed.shape[0], -1, FORMATS[name].block_bytes).copy()
    for at in HALF_BYTES[name]:
        half = blocks[..., at - 1 : at + 1].copy().view(np.float16)
        largest = np.finfo(np.float16).max
        blocks[..., at - 1 : at + 1] = half.clip(-largest, largest).view(np.uint8)
    return blocks.reshape(packed.shape)


@pytest.mark.parametrize(
    ("name", "overflows"), [("q4_1", True), ("q5_1", True), ("tq2_0", True), ("q4_0", False), ("iq4_nl", False)]
)
def test_weights_beyond_fp16_stay_finite_where_ggml_writes_infinity(name, overflows):
    weight = make_weight("huge")
    assert weight.abs().max() > 65504
    with np.errstate(over="ignore"):
        theirs = dequantized(name, torch.from_numpy(ggml.quantize(weight.numpy(), name)))
    assert np.isfinite(theirs).all() != overflows
    assert decode(GRIDS[name], GRIDS[name].encode(weight)).isfinite().all()
    assert fit_weight(weight, name, None).decode().isfinite().all()


# Zero, or within what a model's weights ever are: ggml's arithmetic on subnormal numbers is undefined.
numbers = st.one_of(
    st.just(0.0),
    st.floats(2.0**-46, 6e4, width=32),
    st.floats(-6e4, -(2.0**-46), width=32),
    st.integers(-32, 32).map(lambda i: i / 16),
)


@pytest.mark.parametrize("name", SMALL)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_ggmls_fit_is_byte_equal_to_ggml_on_any_numbers(name, data):
    block = GRIDS[name].BLOCK
    few = st.lists(numbers, min_size=1, max_size=40)
    values = data.draw(few)
    scale = data.draw(st.sampled_from([1.0, 1e-4, 2.0**-14]))
    weight = np.resize(np.array(values, dtype=np.float32) * np.float32(scale), (1, block))
    ours = GRIDS[name].pack(GRIDS[name].encode(torch.from_numpy(weight)))
    assert ours.numpy().tobytes() == ggml.quantize(weight, name).tobytes()


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("seed", range(3))
def test_ggmls_fit_is_byte_equal_to_ggml_on_mixed_magnitudes(name, seed):
    torch.manual_seed(seed)
    weight = torch.randn(64, 1024) * torch.exp(torch.randn(64, 1024) * seed) * 0.02
    assert (
        GRIDS[name].pack(GRIDS[name].encode(weight)).numpy().tobytes() == ggml.quantize(weight.numpy(), name).tobytes()
    )


def test_mxfp4s_exponent_is_ggmls_at_powers_of_two_and_beside_them():
    powers = 2.0 ** torch.arange(-124, 127, dtype=torch.float64)
    beside = [torch.nextafter(powers.float(), torch.tensor(limit)) for limit in (0.0, float("inf"))]
    weight = torch.zeros(3 * len(powers), 32)
    weight[:, 5] = torch.cat([powers.float(), *beside])
    assert (
        GRIDS["mxfp4"].pack(GRIDS["mxfp4"].encode(weight)).numpy().tobytes()
        == ggml.quantize(weight.numpy(), "mxfp4").tobytes()
    )


def test_mxfp4_of_weights_too_small_for_its_exponents_is_zero_not_huge():
    """ggml's exponent wraps around there: 2^-126 comes back as 2^119 and more."""
    weight = torch.full((1, 32), 2.0**-130)
    theirs = dequantized("mxfp4", torch.from_numpy(ggml.quantize(weight.numpy(), "mxfp4")))
    parts = GRIDS["mxfp4"].encode(weight)
    assert parts.d.item() == 0
    assert decode(GRIDS["mxfp4"], parts).abs().max() <= 2.0**-129
    assert GRIDS["mxfp4"].pack(parts)[0, 0] != ggml.quantize(weight.numpy(), "mxfp4")[0, 0], theirs


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
HALF_BYTES: dict[str, tuple[int, ...]] = {
    "q4_0": (1,),
    "q4_1": (1, 3),
    "q5_0": (1,),
    "q5_1": (1, 3),
    "q8_0": (1,),
    "iq4_nl": (1,),
    "mxfp4": (),
    "tq2_0": (65,),
    "q2_k": (81, 83),
    "q3_k": (109,),
    "q4_k": (1, 3),
    "q5_k": (1, 3),
    "q6_k": (209,),
}


@pytest.mark.parametrize("name", GRIDS)
def test_codes_for_given_scales_are_the_nearest(name):
    grid, weight = GRIDS[name], make_weight("normal")
    parts = requantize(grid, weight, grid.encode(weight * 0.9))
    error = (weight - decode(grid, parts)).abs()
    steps = grid.STEPS
    every = (
        range(len(steps.levels))
        if steps.levels
        else range(int(steps.low) + steps.zero, int(steps.high) + steps.zero + 1)
    )
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
    assert np.array_equal(dequantized(name, again), expected) == (name in IDEMPOTENT)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", GRIDS)
def test_our_fit_loses_at_most_what_ggmls_does_in_every_block(name, case):
    weight, costs = make_weight(case), make_weight("positive").square()
    for importance in (None, costs):
        factor = torch.ones_like(weight) if importance is None else importance

        def errors(decoded: torch.Tensor, factor: torch.Tensor = factor) -> torch.Tensor:
            blocks = (factor.double() * (weight.double() - decoded.double()).square()).view(
                weight.shape[0], -1, GRIDS[name].BLOCK
            )
            return blocks.sum(-1)

        ours = errors(fit_weight(weight, name, importance).decode())
        theirs = errors(torch.from_numpy(dequantized(name, torch.from_numpy(ggml.quantize(weight.numpy(), name)))))
        theirs = theirs.nan_to_num(float("inf"))  # ggml's scale overflowed
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
