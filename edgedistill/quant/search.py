"""The search that finds a better scale than ggml's for a block of 32 whole steps without offset (q4_0, q5_0, q8_0).

Each candidate scale gives nearest steps s, for which the error Σ imp (w − d·s)² is least at d = Σ imp·s·w / Σ imp·s², where it
is Σ imp·w² less (Σ imp·s·w)² / Σ imp·s². The best candidate's d is stored and refined once or twice in the same way.
"""

import torch
from torch import Tensor

from edgedistill.quant.blocks import to_half
from edgedistill.quant.rounding import block_sums, safe_inverse
from edgedistill.quant.steps import Steps

# Candidate scales as shares of ggml's own. Clipping the largest weight (below 1) often pays; above 1 rarely.
CANDIDATES = tuple(0.70 + 0.04 * i for i in range(10))
ROUNDS = 2  # of nearest codes and least-squares scale, after the search


def search_scale(blocks: Tensor, importance: Tensor | None, start: Tensor, steps: Steps) -> Tensor:
    """The scale, float32 [O, I/block] before it is stored, of least weighted error in the search.

    Args:
        blocks: weights float32 [O, I/block, block].
        importance: of the same shape; None for equal costs.
        start: ggml's own scale [O, I/block].
    """
    weighted = blocks if importance is None else importance * blocks
    best, best_gain = start, torch.full_like(start, -1.0)
    # Where steps reach farther on one side of zero (q4_0's -8..7) the mirrored scale may serve the block better.
    signs = (1.0,) if steps.low == -steps.high else (1.0, -1.0)
    for share in (sign * candidate for candidate in CANDIDATES for sign in signs):
        scale, gain = _least_squares(blocks, importance, weighted, to_half(start * share).float(), steps)
        better = gain > best_gain
        best, best_gain = torch.where(better, scale, best), torch.where(better, gain, best_gain)
    for _ in range(ROUNDS):
        best, _ = _least_squares(blocks, importance, weighted, to_half(best).float(), steps)
    return best


def _least_squares(blocks: Tensor, importance: Tensor | None, weighted: Tensor, scale: Tensor, steps: Steps) -> tuple[Tensor, Tensor]:
    """The best scale for the steps that `scale` gives, and the weighted error that it saves over zeros: [O, I/block] each."""
    chosen = steps.nearest_(blocks * safe_inverse(scale).unsqueeze(-1))
    along = block_sums(weighted * chosen)
    chosen = chosen.square_() if importance is None else chosen.square_().mul_(importance)
    across = block_sums(chosen).clamp_min_(1e-30)
    found = along / across
    return torch.where(across > 1e-30, found, scale), along * found
