"""Fits: which scales and codes a weight starts from. The layout is the format's; the choice in it is ours.

`ggml` is what llama.cpp's quantizer takes without an importance matrix. `curvature` minimizes Σ (w − ŵ)ᵀ H (w − ŵ)
over rows, with H measured by a backward pass (recover/curvature.py): it lets errors of a row undo each other
(descent.py). `fisher` minimizes the expected KL of independent errors, Σ F_oi · (w_oi − ŵ_oi)², with F measured by a
backward pass (recover/fisher.py). `importance` looks for those that lose least of the layer's output on real
activations: it minimizes Σ_i imp_i · (w_i − ŵ_i)², the expected squared change of the output when inputs are
uncorrelated, with imp_i = sqrt(σ² + w_i²) · E[x_i²] as llama.cpp's importance-matrix quantizers weigh it
(quantize_row_q4_0_impl in ggml-quants.c, σ² the row's mean square). Squared error without activations makes a model
worse, not better.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from edgedistill.quant.blocks import block_errors, choose_blocks, row_pieces
from edgedistill.quant.descent import PASSES, descend
from edgedistill.quant.grids import GRIDS, Grid, GridTensor, decode
from edgedistill.quant.rounding import check_finite

# H is measured on little text of a few kinds. On other text other inputs are large and go together otherwise, so its
# smallest directions are not believed to be small: what is added to its diagonal h, a mean of 1, are DAMPING and
# SPREAD · √h, which lies between a constant and h itself.
DAMPING = 0.03
SPREAD = 1.0


@dataclass(frozen=True)
class Curvature:
    """What errors of a layer's rows cost.

    Attributes:
        matrix: H, what those of a row cost together, float32 [I, I], its mean diagonal about 1.
        scale: what half of it is multiplied by for nats a token.
    """

    matrix: Tensor
    scale: float = 1.0

    def to(self, device: str | torch.device) -> "Curvature":
        """The same on a device."""
        return Curvature(self.matrix.to(device), self.scale)


def fit_ggml(weight: Tensor, grid: str) -> GridTensor:
    """Round [O, I] as ggml's quantizer does."""
    check_finite(weight, grid)  # here, where the place of a bad number is its place in the whole weight
    module = GRIDS[grid]
    return GridTensor(grid, torch.cat([module.pack(module.encode(weight[rows])) for rows in row_pieces(weight)]))


Costs = Tensor | Curvature


def fit_costs(weight: Tensor, grid: str, costs: Costs | None, passes: int = PASSES) -> GridTensor:
    """The fit for what is known of a weight [O, I].

    Args:
        costs: what errors of a row cost together; what a squared error of each weight costs, [O, I]; mean squares of
            the layer's inputs, [I]; None for ggml's own fit.
        passes: of `descend`; 2 have most of what more win.
    """
    if costs is None:
        return fit_ggml(weight, grid)
    costs = costs.to(weight.device)
    if isinstance(costs, Curvature):
        return fit_curvature(weight, grid, costs, passes)
    return fit_importance(weight, grid, costs) if costs.dim() == 1 else fit_weight(weight, grid, costs.float())


def fit_curvature(weight: Tensor, grid: str, curvature: Curvature, passes: int = PASSES) -> GridTensor:
    """The least cost that coordinate descent finds from the scales and codes that are best when errors don't know of
    each other.
    """
    matrix = general(curvature.matrix)
    return descend(weight, fit_weight(weight, grid, matrix.diagonal().expand(weight.shape)), matrix, passes)


def general(matrix: Tensor) -> Tensor:
    """H for text of other kinds than it was measured on: float32 [I, I], with a larger diagonal than `matrix` has."""
    mean = matrix.diagonal().mean()
    raised = matrix.clone()
    raised.diagonal().add_(DAMPING * mean + SPREAD * (matrix.diagonal() * mean).sqrt())
    return raised


@torch.no_grad()
def expected_kl(weight: Tensor, fitted: GridTensor, curvature: Curvature) -> float:
    """What a weight [O, I] on its grid costs to second order, nats a token: ½ · scale · Σ (w − ŵ)ᵀ H (w − ŵ) over
    rows.
    """
    error = fitted.decode() - weight.float()
    curvature = curvature.to(weight.device)
    return (
        0.5
        * curvature.scale
        * sum(float(((error[rows] @ curvature.matrix) * error[rows]).sum()) for rows in row_pieces(weight))
    )


def fit_importance(weight: Tensor, grid: str, mean_square: Tensor) -> GridTensor:
    """The fit of least importance-weighted error.

    Args:
        weight: [O, I].
        mean_square: [I] float32, E[x²] of the layer's inputs.
    Returns:
        The weight on its grid. Its weighted error is in no block above `fit_ggml`'s.
    """
    return fit_weight(weight, grid, importance_of(weight, mean_square))


def importance_of(weight: Tensor, mean_square: Tensor) -> Tensor:
    """What a squared error of each weight costs: float32 [O, I] of a weight [O, I] and its inputs' mean squares [I]."""
    squared = weight.float().square()
    return (squared + squared.mean(-1, keepdim=True)).sqrt_() * mean_square.float().clamp_min(1e-12)


def fit_weight(weight: Tensor, grid: str, importance: Tensor | None) -> GridTensor:
    """The grid's own fit for given costs [O, I], or for equal ones; a block where ggml's is still better keeps
    ggml's.
    """
    check_finite(weight, grid)
    pieces = [
        _fit_rows(weight[rows], GRIDS[grid], None if importance is None else importance[rows])
        for rows in row_pieces(weight)
    ]
    return GridTensor(grid, torch.cat(pieces))


def _fit_rows(weight: Tensor, grid: Grid, importance: Tensor | None) -> Tensor:
    searched, plain = grid.fit(weight, importance), grid.encode(weight)
    ours, theirs = (block_errors(weight, decode(grid, parts), importance, grid.BLOCK) for parts in (searched, plain))
    keep = ours < theirs
    return grid.pack(searched if bool(torch.all(keep)) else choose_blocks(keep, searched, plain))
