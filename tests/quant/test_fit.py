"""Our fits against llama.cpp's own with an importance matrix, and what 16-bit floats hold against ggml's conversion."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from edgedistill.formats import FORMATS
from edgedistill.quant import blocks
from edgedistill.quant.descent import descend
from edgedistill.quant.fit import (
    DAMPING,
    SPREAD,
    Curvature,
    fit_costs,
    fit_ggml,
    fit_weight,
    general,
    importance_of,
)
from edgedistill.quant.grids import GRIDS, GridTensor, decode, requantize
from edgedistill.quant.rounded import to_float_format
from tests import ggml
from tests.quant.test_descent import correlated

REAL_MODEL = os.environ.get(
    "EDGEDISTILL_REAL_MODEL"
)  # a Hugging Face folder with float weights, in one safetensors file or more
SMALL = [name for name in GRIDS if not name.endswith("_k")]


def layer(rows: int = 48, cols: int = 512, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight with the heavy tails of a trained one, and its inputs' mean squares, of very different size as in real
    layers.
    """
    torch.manual_seed(seed)
    weight = 0.05 * torch.distributions.StudentT(5.0).sample((rows, cols)) * torch.rand(rows, 1).add(0.5)
    return weight, (1.5 * torch.randn(cols)).exp().square() * 0.1


def loss(weight: torch.Tensor, importance: torch.Tensor, fitted: GridTensor) -> float:
    return (importance.double() * (weight.double() - fitted.decode().double()).square()).sum().item()


@pytest.mark.parametrize("name", SMALL)
def test_the_importance_fit_loses_at_most_what_llama_cpps_importance_matrix_does(name):
    for seed in range(2):
        weight, mean_square = layer(seed=seed)
        importance = importance_of(weight, mean_square)
        theirs = GridTensor(name, torch.from_numpy(ggml.quantize(weight.numpy(), name, mean_square.numpy())))
        assert loss(weight, importance, fit_weight(weight, name, importance)) < loss(weight, importance, theirs)


def inputs_of(kind: int, tokens: int, seed: int) -> torch.Tensor:
    """Inputs of a layer on one kind of text, float64 [T, 128]: all kinds have the same directions, each at sizes of its
    own.
    """
    directions = torch.randn(128, 128, generator=torch.Generator().manual_seed(100)) / 128**0.5
    sizes = (1.2 * torch.randn(128, generator=torch.Generator().manual_seed(kind))).exp()
    drawn = torch.randn(tokens, 128, generator=torch.Generator().manual_seed(seed))
    return ((drawn * sizes) @ directions).double()


def test_a_fit_to_one_kind_of_text_serves_other_kinds_and_its_own():
    """Against the same descent on H as it was measured, whose error on fresh text is summed up token by token."""
    weight = 0.1 * torch.randn(64, 128, generator=torch.Generator().manual_seed(0))
    seen = inputs_of(1, 300, 1)
    matrix = (seen.T @ seen / seen.square().sum() * 128).float()
    assert float(matrix.diagonal().mean()) == pytest.approx(1)
    narrow = matrix + DAMPING * torch.eye(128)
    start = fit_weight(weight, "q4_0", narrow.diagonal().expand(weight.shape))
    fits = {"narrow": descend(weight, start, narrow), "ours": fit_costs(weight, "q4_0", Curvature(matrix))}

    def error(name: str, kind: int) -> float:
        change = fits[name].decode().double() - weight.double()
        return (inputs_of(kind, 4000, 10 + kind) @ change.T).square().sum().item()

    assert error("ours", 1) < 1.15 * error("narrow", 1)
    for kind in (2, 3):
        assert error("ours", kind) < 0.7 * error("narrow", kind)


def test_the_diagonal_grows_between_a_constant_and_itself():
    matrix = correlated(64, 1) * 3
    expected = matrix.double().clone()
    mean = float(matrix.diagonal().double().mean())
    for i in range(64):
        expected[i, i] += DAMPING * mean + SPREAD * (mean * float(matrix[i, i])) ** 0.5
    torch.testing.assert_close(general(matrix).double(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", SMALL)
def test_pieces_of_rows_make_the_bytes_of_the_whole(name, monkeypatch):
    weight, mean_square = layer(rows=21)
    importance = importance_of(weight, mean_square)
    whole = fit_ggml(weight, name).packed, fit_weight(weight, name, importance).packed
    monkeypatch.setattr(blocks, "PIECE", 4 * weight.shape[1] // torch.get_num_threads())
    assert len(list(blocks.row_pieces(weight))) > 4
    assert torch.equal(fit_ggml(weight, name).packed, whole[0])
    assert torch.equal(fit_weight(weight, name, importance).packed, whole[1])


@pytest.mark.parametrize("name", SMALL)
def test_every_tensor_is_made_on_the_weights_device(name, monkeypatch):
    """Meta tensors refuse to meet others, so one made on the processor by default would raise."""
    monkeypatch.setattr(blocks, "check_finite", lambda weight, grid: None)
    grid, weight = GRIDS[name], torch.empty(4, 512, device="meta")
    for parts in (grid.encode(weight), grid.fit(weight, None), grid.fit(weight, torch.empty_like(weight))):
        packed = grid.pack(parts)
        assert (
            decode(grid, grid.unpack(packed)).device.type == requantize(grid, weight, parts).codes.device.type == "meta"
        )


@pytest.mark.parametrize("fit", [fit_ggml, lambda weight, grid: fit_weight(weight, grid, None)])
def test_a_bad_number_is_named_by_its_place_in_the_whole_weight(fit, monkeypatch):
    monkeypatch.setattr(blocks, "PIECE", 1)
    weight = layer()[0]
    weight[40, 3] = float("nan")
    with pytest.raises(ValueError, match=r"q4_0 can't hold the value nan at \[40, 3\]"):
        fit(weight, "q4_0")


@pytest.mark.parametrize("name", SMALL)
def test_nearest_steps_are_a_searchs_and_what_is_not_a_number_stays_so(name):
    steps = GRIDS[name].STEPS
    torch.manual_seed(0)
    scaled = torch.cat([torch.randn(5000) * steps.high, torch.arange(-260, 260) / 2])
    every = torch.tensor(steps.levels or range(int(steps.low), int(steps.high) + 1), dtype=torch.float64)
    least = (scaled.double().unsqueeze(-1) - every).abs().amin(-1)
    found = steps.nearest_(scaled.clone())
    assert torch.equal((scaled.double() - found.double()).abs(), least)
    assert torch.equal(steps.of_codes(steps.to_codes(found)), found)
    assert steps.nearest_(torch.tensor([float("nan"), 1.0])).isnan().tolist() == [True, False]


def test_ternary_weights_get_the_best_scale_there_is():
    """Against a search of ten thousand scales in float64."""
    weight, mean_square = layer(rows=3, cols=256)
    for importance in (torch.ones_like(weight), importance_of(weight, mean_square)):
        found = loss(weight, importance, fit_weight(weight, "tq2_0", importance))
        least = 0.0
        for row, costs in zip(weight.double(), importance.double(), strict=True):
            scales = torch.linspace(1e-6, row.abs().max().item(), 10_000, dtype=torch.float64).unsqueeze(-1)
            errors = row - scales * (row / scales).round().clamp(-1, 1)
            least += (costs * errors.square()).sum(-1).min().item()
        assert found == pytest.approx(least, rel=2e-4)


@pytest.mark.parametrize("name", ["f16", "bf16"])
@given(values=st.lists(st.floats(-65504.0, 65504.0, width=32), min_size=1, max_size=64))
@settings(max_examples=100, deadline=None)
def test_sixteen_bit_floats_are_ggmls(name, values):
    ties = [1 + 2.0**-11, 1 + 3 * 2.0**-11, 1 + 2.0**-8, 1 + 3 * 2.0**-8, 2.0**-25, -(2.0**-24)]
    weight = torch.tensor([[*values, *ties, 65519.0 if name == "f16" else 3e38]])
    assert (
        to_float_format(weight, FORMATS[name]).view(torch.uint8).numpy().tobytes()
        == ggml.quantize(weight.numpy(), name).tobytes()
    )


@pytest.mark.parametrize(
    ("name", "value"), [("f16", 65520.0), ("f16", float("nan")), ("bf16", 3.4e38), ("bf16", float("inf"))]
)
def test_sixteen_bit_floats_refuse_what_they_cannot_hold(name, value):
    with pytest.raises(ValueError, match=rf"{name} can't hold the value .* at \[0, 1\]"):
        to_float_format(torch.tensor([[1.0, value]]), FORMATS[name])


@pytest.mark.slow
@pytest.mark.skipif(REAL_MODEL is None, reason="EDGEDISTILL_REAL_MODEL names no folder with a model's weights")
@pytest.mark.parametrize("name", SMALL)
def test_real_tensors_fit_as_ggmls_to_the_byte_and_ours_lose_less(name):
    torch.manual_seed(0)
    seen = 0
    for file in sorted(Path(str(REAL_MODEL)).glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for key in list(tensors.keys())[::7]:
                weight = tensors.get_tensor(key).float()
                if weight.ndim != 2 or weight.shape[1] % GRIDS[name].BLOCK:
                    continue
                # A folder made from a quantized file lies on that file's grid: within half a step of it, weights are
                # anywhere.
                weight = weight[:: 1 + weight.numel() // 500_000].contiguous()
                grouped = weight.view(weight.shape[0], -1, 32)
                step = (grouped.amax(-1, keepdim=True) - grouped.amin(-1, keepdim=True)) / 15
                weight = (grouped + (torch.rand(grouped.shape) - 0.5) * step).view_as(weight)
                assert np.array_equal(fit_ggml(weight, name).packed.numpy(), ggml.quantize(weight.numpy(), name)), key
                mean_square = (1.5 * torch.randn(weight.shape[1])).exp().square()
                importance = importance_of(weight, mean_square)
                theirs = GridTensor(name, torch.from_numpy(ggml.quantize(weight.numpy(), name, mean_square.numpy())))
                assert loss(weight, importance, fit_weight(weight, name, importance)) <= loss(
                    weight, importance, theirs
                ), key
                seen += 1
    assert seen > 3
