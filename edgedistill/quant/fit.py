"""Fits: which scales a grid starts from. The layout is the format's; the choice of scale is ours.

`ggml` takes the largest magnitude in each block. `importance` searches the scale that loses least of the layer's
output on real activations: it minimizes Σ_i imp_i · (w_i − ŵ_i)², the expected squared change of the output when
inputs are uncorrelated, with imp_i = sqrt(σ² + w_i²) · E[x_i²] as llama.cpp's importance-matrix quantizer weighs it
(quantize_row_q4_0_impl in ggml-quants.c, σ² the row's mean square). Squared error without activations makes a
model worse, not better.
"""

import torch
from torch import Tensor

from edgedistill.quant.grids import GRIDS, GridTensor

# Candidate scales as shares of ggml's own. Clipping the largest weight (below 1) often pays; above 1 rarely.
CANDIDATES = tuple(0.70 + 0.025 * i for i in range(17))
ROUNDS = 2  # of least-squares refinement after the search


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
    start = module.fit_scale(weight)

    best = fit_ggml(weight, grid)
    best_scale, best_error = best.scale.float(), _error(blocks, importance, best.decode())
    # Both signs: where the grid is lopsided (q4_0's -8..7), the mirrored one may serve the block better.
    for share in (*CANDIDATES, *(-c for c in CANDIDATES)):
        scale = module.store_scale(start * share).float()
        for _ in range(ROUNDS):
            steps = module.decode(torch.ones_like(scale), module.encode_with_scale(weight, scale)).view_as(blocks)
            # Given the codes, the best scale is the weighted least-squares one.
            denominator = (importance * steps.square()).sum(-1)
            refined = (importance * steps * blocks).sum(-1) / denominator.clamp_min(1e-30)
            scale = module.store_scale(torch.where(denominator > 0, refined, scale)).float()
        error = _error(blocks, importance, module.decode(scale, module.encode_with_scale(weight, scale)))
        better = error < best_error
        best_scale = torch.where(better, scale, best_scale)
        best_error = torch.where(better, error, best_error)
    # Blocks that kept ggml's scale get nearest codes for the stored scale; ggml's own divide by the unstored one.
    stored = module.store_scale(best_scale)
    return GridTensor(grid, stored, module.encode_with_scale(weight, stored))


def _error(blocks: Tensor, importance: Tensor, decoded: Tensor) -> Tensor:
    """Weighted squared error of each block [O, I/block]."""
    return (importance * (blocks - decoded.view_as(blocks)).square()).sum(-1)
