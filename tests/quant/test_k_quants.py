"""The K-quants: ggml's quantizer from threads, and our search held against it, with and without an importance
matrix.
"""

import importlib.util
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from edgedistill.errors import InputError
from edgedistill.quant import blocks, k_search
from edgedistill.quant import ggml as quantizer
from edgedistill.quant.fit import fit_weight, importance_of
from edgedistill.quant.grids import GRIDS, GridTensor, decode, requantize
from edgedistill.quant.k_layout import join_planes, join_scales, split_planes, split_scales
from edgedistill.quant.k_offset import Fixed
from edgedistill.quant.k_search import Piece, sums_of_nearest
from edgedistill.quant.steps import Steps
from tests import ggml

REAL_MODEL = os.environ.get(
    "EDGEDISTILL_REAL_MODEL"
)  # a Hugging Face folder with float weights, in one safetensors file or more
NAMES = ["q2_k", "q3_k", "q4_k", "q5_k", "q6_k"]


def layer(rows: int = 24, cols: int = 1024, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight with the heavy tails of a trained one, and its inputs' mean squares, of very different size as in real
    layers.
    """
    torch.manual_seed(seed)
    weight = 0.05 * torch.distributions.StudentT(5.0).sample((rows, cols)) * torch.rand(rows, 1).add(0.5)
    return weight, torch.randn(cols).exp().square()


def loss(weight: torch.Tensor, importance: torch.Tensor | None, decoded: torch.Tensor) -> float:
    squared = (weight.double() - decoded.double()).square()
    return (squared if importance is None else squared * importance.double()).sum().item()


def theirs(weight: torch.Tensor, name: str, mean_square: torch.Tensor | None = None) -> torch.Tensor:
    costs = None if mean_square is None else mean_square.numpy()
    return GridTensor(name, torch.from_numpy(ggml.quantize(weight.numpy(), name, costs))).decode()


@pytest.mark.parametrize("name", NAMES)
def test_the_search_alone_loses_less_than_ggml_with_and_without_an_importance_matrix(name):
    for seed in range(2):
        weight, mean_square = layer(seed=seed)
        importance = importance_of(weight, mean_square)
        grid = GRIDS[name]
        plain = loss(weight, None, decode(grid, grid.fit(weight, None))) / loss(weight, None, theirs(weight, name))
        weighted = loss(weight, importance, decode(grid, grid.fit(weight, importance)))
        weighted /= loss(weight, importance, theirs(weight, name, mean_square))
        assert plain < 0.96
        assert weighted < 0.99


@pytest.mark.parametrize("name", NAMES)
def test_what_lies_on_the_grid_already_stays_nearer_than_ggml_leaves_it(name):
    """ggml's fit of its own output isn't always its output: a model that was rounded once is rounded again."""
    first = theirs(layer()[0], name)
    assert loss(first, None, fit_weight(first, name, None).decode()) <= loss(first, None, theirs(first, name))


@pytest.mark.parametrize("name", NAMES)
def test_encode_is_ggml_byte_for_byte_however_many_threads(name, monkeypatch):
    weight, mean_square = layer(rows=7)
    assert (
        ggml.quantize(weight.numpy(), name).tobytes() == GRIDS[name].pack(GRIDS[name].encode(weight)).numpy().tobytes()
    )
    for threads in (1, 3, 16):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert quantizer.quantize(weight, name).numpy().tobytes() == ggml.quantize(weight.numpy(), name).tobytes()
        found = quantizer.quantize(weight.T.contiguous().T, name, mean_square)
        assert found.numpy().tobytes() == ggml.quantize(weight.numpy(), name, mean_square.numpy()).tobytes()


@pytest.mark.parametrize("name", NAMES)
def test_pieces_make_the_bytes_of_the_whole(name, monkeypatch):
    weight, mean_square = layer(rows=5)
    for importance in (None, importance_of(weight, mean_square)):
        whole = GRIDS[name].pack(GRIDS[name].fit(weight, importance))
        with monkeypatch.context() as patch:
            patch.setattr(k_search, "PIECE", 3 * 256 // torch.get_num_threads())
            assert torch.equal(GRIDS[name].pack(GRIDS[name].fit(weight, importance)), whole)


@pytest.mark.parametrize("name", NAMES)
@given(
    seed=st.integers(0, 2**31 - 1),
    exponent=st.integers(-45, 38),
    spread=st.floats(0, 12),
    shift=st.sampled_from([0.0, 0.0, 1.0, -1.0, 5.0]),
    costs=st.sampled_from([None, 0.0, 1.0, 8.0]),
)
@settings(max_examples=25, deadline=None)
def test_fits_of_any_weight_are_finite_and_no_worse_than_zeros(name, seed, exponent, spread, shift, costs):
    """From the smallest subnormals to numbers whose squares float32 can't hold, with groups of very different size and
    costs of zero.
    """
    random = np.random.default_rng(seed)

    def draw() -> np.ndarray:
        return random.standard_normal((2, 512))

    values = (draw() + shift) * np.exp(spread * draw() * (draw() > 1.3))
    values = values / np.abs(values).max() * 10.0**exponent
    weight = torch.from_numpy(values.clip(-3e38, 3e38).astype(np.float32))
    importance = None
    if costs is not None:
        importance = torch.from_numpy((np.exp(costs * draw()) * (draw() < 0.5)).astype(np.float32))
    grid = GRIDS[name]
    encoded, fitted = decode(grid, grid.encode(weight)), decode(grid, grid.fit(weight, importance))
    assert torch.isfinite(encoded).all()
    assert torch.isfinite(fitted).all()
    zeros = loss(weight, importance, torch.zeros_like(weight))
    assert loss(weight, importance, fitted) <= zeros * (1 + 1e-5)
    best = fit_weight(weight, name, None).decode()
    assert loss(weight, None, best) <= loss(weight, None, encoded) * (1 + 1e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [0.37, -0.37, 1e-7, 6e4, 3e38])
def test_a_constant_weight_is_held_as_nearly_as_the_layout_can(name, value):
    weight = torch.full((1, 256), value)
    fitted = decode(GRIDS[name], GRIDS[name].fit(weight, None))
    lattice = GRIDS[name].LATTICE
    expected = lattice.saturated(weight)
    # Steps of fp16's least number, where the weight is less than the layout's least scale can tell.
    torch.testing.assert_close(fitted, expected, rtol=1e-3, atol=2.0**-25 * max(-lattice.steps.low, 1))


@pytest.mark.parametrize("name", NAMES)
def test_weights_that_cost_nothing_take_no_part(name):
    weight, _ = layer(rows=4)
    costs = torch.ones_like(weight)
    costs[:, ::2] = 0
    free = loss(weight, costs, decode(GRIDS[name], GRIDS[name].fit(weight, costs)))
    assert free < 0.9 * loss(weight, costs, decode(GRIDS[name], GRIDS[name].fit(weight, None)))
    nothing = decode(GRIDS[name], GRIDS[name].fit(weight, torch.zeros_like(weight)))
    assert torch.equal(nothing, decode(GRIDS[name], GRIDS[name].fit(weight, torch.ones_like(weight))))


@pytest.mark.parametrize("name", ["q4_k", "q6_k"])
def test_every_tensor_is_made_on_the_weights_device(name, monkeypatch):
    """Meta tensors refuse to meet others, so one made on the processor by default would raise."""
    monkeypatch.setattr(blocks, "check_finite", lambda weight, grid: None)
    grid, weight = GRIDS[name], torch.empty(4, 512, device="meta")
    parts = grid.fit(weight, torch.empty_like(weight))
    assert (
        decode(grid, grid.unpack(grid.pack(parts))).device.type
        == requantize(grid, weight, parts).codes.device.type
        == "meta"
    )


def test_sums_and_gains_are_those_of_a_float64_loop():
    torch.manual_seed(0)
    weights, costs = torch.randn(8, 3, 5), torch.rand(8, 3, 5)
    scale, offset = torch.rand(3, 5) * 0.5 + 0.2, -torch.rand(3, 5)
    for given_costs in (costs, None):
        piece = Piece(weights, given_costs, torch.ones(5))
        sums = sums_of_nearest(piece, Steps(0, 7), scale, offset)
        gain = Fixed.of(piece).gain(sums, scale, offset)
        for g in range(3):
            for b in range(5):
                lost = total = products = 0.0
                for i in range(8):
                    x, c = weights[i, g, b].item(), 1.0 if given_costs is None else costs[i, g, b].item()
                    a, o = scale[g, b].item(), offset[g, b].item()
                    q = min(max(round((x - o) / a), 0), 7)
                    lost, total, products = lost + c * (x - a * q - o) ** 2, total + c * x * x, products + c * q * x
                assert math.isclose(gain[g, b].item(), total - lost, rel_tol=1e-4, abs_tol=1e-5)
                assert math.isclose(sums.products[g, b].item(), products, rel_tol=1e-4, abs_tol=1e-5)


@pytest.mark.parametrize(("bits", "run"), [(1, 32), (2, 32), (2, 4), (4, 64)])
def test_planes_join_and_split(bits, run):
    codes = torch.randint(0, 1 << bits, (3, 2, 256), dtype=torch.uint8)
    packed = join_planes(codes, bits, run)
    assert packed.shape == (3, 2, 256 * bits // 8)
    assert torch.equal(split_planes(packed, bits, run), codes)
    # Code j of a run sits in byte j of it, run r of codes at bit r·bits.
    assert (packed[0, 0, 1] >> bits) & ((1 << bits) - 1) == codes[0, 0, run + 1]


def test_six_bit_scales_join_and_split():
    scales, mins = torch.randint(0, 64, (2, 4, 8), dtype=torch.uint8)
    for found, expected in zip(split_scales(join_scales(scales, mins)), (scales, mins), strict=True):
        assert torch.equal(found, expected)


def test_what_ggml_would_abort_on_is_refused():
    weight, mean_square = layer(rows=2)
    with pytest.raises(ValueError, match=r"q4_k rows must be a multiple of 256 weights, got 40 in \(2, 40\)"):
        quantizer.quantize(weight[:, :40], "q4_k")
    with pytest.raises(ValueError, match="one number for each of the 1024 columns, got shape"):
        quantizer.quantize(weight, "q4_k", mean_square[:512])
    with pytest.raises(ValueError, match=r"importance matrix can't hold the value nan at \[3\]"):
        quantizer.quantize(weight, "q4_k", mean_square.index_fill(0, torch.tensor([3]), float("nan")))
    weight[1, 5] = float("inf")
    with pytest.raises(ValueError, match=r"q4_k can't hold the value inf at \[1, 5\]"):
        quantizer.quantize(weight, "q4_k")


def test_without_the_library_the_line_that_installs_it_is_named(monkeypatch):
    quantizer._library.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs ggml's quantizer from llama-cpp-python.*pip install"):
        GRIDS["q4_k"].encode(layer(rows=1)[0])


@pytest.mark.slow
@pytest.mark.skipif(REAL_MODEL is None, reason="EDGEDISTILL_REAL_MODEL names no folder with a model's weights")
@pytest.mark.parametrize("name", NAMES)
def test_real_tensors_lose_less_in_our_search(name):
    torch.manual_seed(0)
    seen = 0
    for file in sorted(Path(str(REAL_MODEL)).glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for key in list(tensors.keys())[::7]:
                weight = tensors.get_tensor(key).float()
                if weight.ndim != 2 or weight.shape[1] < 256:
                    continue
                weight = weight[:: 1 + weight.numel() // 500_000, : weight.shape[1] // 256 * 256].contiguous()
                mean_square = (1.5 * torch.randn(weight.shape[1])).exp().square()
                importance = importance_of(weight, mean_square)
                grid = GRIDS[name]
                assert loss(weight, None, decode(grid, grid.fit(weight, None))) <= loss(
                    weight, None, theirs(weight, name)
                ), key
                fitted = decode(grid, grid.fit(weight, importance))
                assert loss(weight, importance, fitted) <= loss(
                    weight, importance, theirs(weight, name, mean_square)
                ), key
                seen += 1
    assert seen > 3
