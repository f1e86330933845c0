"""Fits: which scales a grid starts from. The layout is the format's; the choice of scale is ours.

`ggml` takes the largest magnitude in each block. `importance` searches the scale that loses least of the layer's
output on real activations: it minimizes Σ_i imp_i · (w_i − ŵ_i)², the expected squared change of the output when
inputs are uncorrelated, with imp_i = sqrt(σ² + w_i²) · E[x_i²] as llama.cpp's importance-matrix quantizer weighs it
(quantize_row_q4_0_impl in ggml-quants.c, σ² the row's mean square). Squared error without activations makes a
model worse, not better.
"""

import torch
from torch import Tensor

from edgedistill.quant.grids import GRIDS, Grid, GridTensor
from edgedistill.quant.rounding import block_sums

# Candidate scales as shares of ggml's own. Clipping the largest weight (below 1) often pays; above 1 rarely.
CANDIDATES = tuple(0.70 + 0.04 * i for i in range(10))
ROUNDS = 2  # of nearest codes and least-squares scale, after the search


def fit_ggml(weight: Tensor, grid: str) -> GridTensor:
    """Round [O, I] as ggml's quantizer does."""
    scale, codes = GRIDS[grid].encode(weight)
    return GridTensor(grid, scale, codes)


def fit_importance(weight: Tensor, grid: str, mean_square: Tensor) -> GridTensor:
    """The scales that minimize the importance-weighted error, and the nearest codes.

    Args:
        weight: [O, I].
        grid: a grid with a scale a block (weight = scale · step).
        mean_square: [I] float32, E[x²] of the layer's inputs.
    Returns:
        The weight on its grid. Its weighted error is never above `fit_ggml`'s.
    """
    module = GRIDS[grid]
    rows, cols = weight.shape
    weight = weight.float()
    sigma2 = weight.square().mean(-1, keepdim=True)
    importance = (sigma2 + weight.square()).sqrt_() * mean_square.float().clamp_min(1e-12)
    importance = importance.view(rows, -1, module.BLOCK)
    blocks = weight.view(rows, -1, module.BLOCK)
    weighted = importance * blocks
    start = module.fit_scale(weight)

    best_scale, best_gain = start, torch.full_like(start, -1.0)
    # Where a grid is lopsided (q4_0's -8..7) the mirrored scale may serve the block better.
    signs = (1.0, -1.0) if module.LOPSIDED else (1.0,)
    for share in (sign * candidate for candidate in CANDIDATES for sign in signs):
        scale, gain = _least_squares(module, blocks, importance, weighted, module.store_scale(start * share).float())
        better = gain > best_gain
        best_scale, best_gain = torch.where(better, scale, best_scale), torch.where(better, gain, best_gain)
    for _ in range(ROUNDS):
        best_scale, _ = _least_squares(module, blocks, importance, weighted, module.store_scale(best_scale).float())
    stored = module.store_scale(best_scale)
    searched = GridTensor(grid, stored, module.encode_with_scale(weight, stored))
    plain = fit_ggml(weight, grid)
    # The stored scale is rounded and the codes found anew: a block where ggml's fit is still better keeps it.
    keep = _error(blocks, importance, searched.decode()) < _error(blocks, importance, plain.decode())
    codes = torch.where(keep.unsqueeze(-1), searched.codes.view_as(blocks), plain.codes.view_as(blocks)).view(rows, cols)
    return GridTensor(grid, torch.where(keep, searched.scale, plain.scale), codes)


def _least_squares(module: Grid, blocks: Tensor, importance: Tensor, weighted: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """The best scale [O, I/block] for the codes that `scale` gives, and the weighted error that it saves over zeros.

    With steps s the error Σ imp (w − d·s)² is least at d = Σ imp·s·w / Σ imp·s², where it is Σ imp·w² less
    (Σ imp·s·w)² / Σ imp·s².
    """
    steps = module.nearest_steps(blocks, scale)
    along = block_sums(weighted * steps)
    across = block_sums(steps.square_().mul_(importance)).clamp_min_(1e-30)
    found = along / across
    return torch.where(across > 1e-30, found, scale), along * found


def _error(blocks: Tensor, importance: Tensor, decoded: Tensor) -> Tensor:
    """Weighted squared error of each block [O, I/block]."""
    return block_sums((blocks - decoded.view_as(blocks)).square_().mul_(importance))
