"""Coordinate descent on codes and scales: J never rises, no single code can lower it further, GPTQ's loop loses as
much.
"""

import pytest
import torch
from torch import Tensor

from edgedistill.quant.descent import descend
from edgedistill.quant.fit import fit_weight
from edgedistill.quant.grids import GRIDS, GridTensor

INPUTS = 512


def correlated(inputs: int, seed: int) -> Tensor:
    """E[x xᵀ] of inputs that share a few directions, as a model's do."""
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(2000, inputs // 8, generator=generator) @ torch.randn(inputs // 8, inputs, generator=generator)
    x = 0.3 * shared + torch.randn(2000, inputs, generator=generator)
    return x.T @ x / 2000


def cost(weight: Tensor, fitted: GridTensor, curvature: Tensor) -> Tensor:
    """J of each row in float64: [O]."""
    error = fitted.decode().double() - weight.double()
    return ((error @ curvature.double()) * error).sum(-1)


def start_of(weight: Tensor, grid: str, curvature: Tensor) -> GridTensor:
    return fit_weight(weight, grid, curvature.diagonal().expand(weight.shape))


@pytest.mark.parametrize("grid", GRIDS)
def test_no_row_of_any_grid_gets_worse_and_all_together_much_better(grid: str):
    weight = torch.randn(40, INPUTS, generator=torch.Generator().manual_seed(1)) * 0.1
    curvature = correlated(INPUTS, 2)
    before = start_of(weight, grid, curvature)
    costs = [cost(weight, before, curvature)]
    for passes in (1, 2, 4):
        costs.append(cost(weight, descend(weight, before, curvature, passes), curvature))
    for earlier, later in zip(costs, costs[1:], strict=False):
        assert bool(torch.all(later <= earlier * (1 + 1e-5)))
    assert costs[-1].sum() < 0.6 * costs[0].sum()


@pytest.mark.parametrize("grid", ["q4_0", "q4_1", "iq4_nl", "q8_0"])
def test_in_the_end_no_single_code_lowers_it(grid: str):
    weight = torch.randn(3, 64, generator=torch.Generator().manual_seed(3)) * 0.1
    curvature = correlated(64, 4)
    found = descend(weight, start_of(weight, grid, curvature), curvature, passes=60)
    parts, least = found.parts(), cost(weight, found, curvature)
    codes = range(int(parts.codes.min()), int(parts.codes.max()) + 1)
    for row in range(len(weight)):
        for column in range(64):
            for code in codes:
                tried = parts.codes.clone()
                tried[row, column] = code
                other = cost(weight, GridTensor.of(grid, parts.with_codes(tried)), curvature)
                assert other[row] >= least[row] * (1 - 1e-5), (row, column, code)


def gptq(weight: Tensor, start: GridTensor, curvature: Tensor) -> GridTensor:
    """Algorithm 1 of GPTQ (arXiv 2210.17323) in float64 with the start's scales: round a column, move the error to
    those to come.
    """
    grid, parts = GRIDS[start.grid], start.parts()
    scale = grid.groups(parts)[0].double().repeat_interleave(grid.GROUP, 1)
    upper = torch.linalg.cholesky(torch.linalg.inv(curvature.double()), upper=True)
    left, steps = weight.double().clone(), torch.empty(weight.shape, dtype=torch.float64)
    for column in range(weight.shape[1]):
        steps[:, column] = (left[:, column] / scale[:, column]).round().clamp(grid.STEPS.low, grid.STEPS.high)
        error = (left[:, column] - steps[:, column] * scale[:, column]) / upper[column, column]
        left[:, column:] -= error.unsqueeze(1) * upper[column, column:]
    return GridTensor.of(start.grid, parts.with_codes(grid.STEPS.to_codes(steps.float())))


def test_it_beats_gptq_with_the_same_scales():
    weight = torch.randn(200, 256, generator=torch.Generator().manual_seed(5)) * 0.1
    curvature = correlated(256, 6)
    start = start_of(weight, "q4_0", curvature)
    plain, theirs = (cost(weight, fitted, curvature).sum() for fitted in (start, gptq(weight, start, curvature)))
    ours = cost(weight, descend(weight, start, curvature), curvature).sum()
    assert ours < 1.05 * theirs < 0.7 * plain


def test_rows_do_not_know_of_each_other(monkeypatch: pytest.MonkeyPatch):
    weight = torch.randn(100, 64, generator=torch.Generator().manual_seed(7)) * 0.1
    curvature = correlated(64, 8)
    start = start_of(weight, "q4_0", curvature)
    whole = descend(weight, start, curvature)
    monkeypatch.setattr("edgedistill.quant.descent.ROWS", 48)
    assert torch.equal(whole.packed, descend(weight, start, curvature).packed)


def test_a_block_of_zeros_stays_zeros():
    weight = torch.randn(4, 64, generator=torch.Generator().manual_seed(9))
    weight[:, :32] = 0
    curvature = torch.eye(64)
    for grid in ("q4_0", "q8_0"):
        found = descend(weight, start_of(weight, grid, curvature), curvature).decode()
        assert bool(torch.all(found[:, :32] == 0))
        assert bool(torch.isfinite(found).all())
