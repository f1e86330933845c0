"""Training on a grid: a float latent weight whose forward value is the decoded grid tensor, to the bit.

Backward is the straight-through estimator for the weight (Bengio et al. 2013, arXiv 1308.3432) and LSQ's gradient
for the scale (Esser et al. 2020, arXiv 1902.08153): where a weight lies inside the grid, dŵ/dd = step − w/d; where
it is clipped, dŵ/dd = step and no gradient reaches the weight.
"""

import torch
from torch import Tensor, nn

from edgedistill.quant.grids import GRIDS, GridTensor
from edgedistill.quant.rounding import block_sums, safe_inverse

INSIDE = 0.5 + 1e-3  # of a step: farther from its code, a weight was clipped


class FakeQuant(torch.autograd.Function):
    """(weight [O, I], scale [O, I/block]) -> decoded [O, I], the float32 values that the file will hold."""

    @staticmethod
    def forward(ctx, weight: Tensor, scale: Tensor, grid: str) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(weight, scale)
        ctx.grid = grid
        module = GRIDS[grid]
        stored = module.store_scale(scale).float()
        # Whole steps times the stored scale: `decode` of the codes to the bit, without going through integers.
        return module.nearest_steps(weight.view(*scale.shape, -1), stored).mul_(stored.unsqueeze(-1)).view_as(weight)

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
        # The codes are computed again instead of kept: a pass over the weight costs less than a copy of it.
        weight, scale = ctx.saved_tensors
        module = GRIDS[ctx.grid]
        stored = module.store_scale(scale).float()
        blocks = weight.view(*scale.shape, -1)
        steps = module.nearest_steps(blocks, stored)
        offset = steps - blocks * safe_inverse(stored).unsqueeze(-1)
        inside = offset.abs() <= INSIDE
        grad_blocks = grad.view_as(steps)
        grad_weight = grad_scale = None
        if ctx.needs_input_grad[0]:
            grad_weight = (grad_blocks * inside).view_as(weight)
        if ctx.needs_input_grad[1]:
            grad_scale = block_sums(grad_blocks * torch.where(inside, offset, steps))
        return grad_weight, grad_scale, None


class GridLinear(nn.Module):
    """A linear layer without bias whose weight lives on a grid.

    `latent` [O, I] is the float weight, `start` [O, I/block] the fitted scale, `gain` the learned factor on it: the
    scale in use is start · (1 + gain), so one learning rate serves blocks of any magnitude.
    """

    start: Tensor

    def __init__(self, weight: Tensor, fitted: GridTensor, train_weight: bool, train_scale: bool) -> None:
        """Start from a float weight [O, I] and its fit. What isn't trained stays as fitted."""
        super().__init__()
        self.grid = fitted.grid
        # With frozen weights there is no latent: the codes stay exactly as fitted.
        self.latent = nn.Parameter(weight.detach().float().clone()) if train_weight else None
        self.register_buffer("start", fitted.scale.float())
        self.gain = nn.Parameter(torch.zeros_like(self.start), requires_grad=train_scale)
        self.codes = None if train_weight else fitted.codes

    def scale(self) -> Tensor:
        """The scale in use before it is stored, float32 [O, I/block]."""
        return self.start * (1 + self.gain)

    def weight(self) -> Tensor:
        """The decoded weight float32 [O, I], with gradients to what is trained."""
        if self.codes is not None:
            return ScaleOnly.apply(self.scale(), self.codes, self.grid)  # type: ignore[no-any-return]
        return FakeQuant.apply(self.latent, self.scale(), self.grid)  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        """[..., I] -> [..., O], in x's own type or autocast's."""
        return nn.functional.linear(x, self.weight())

    @torch.no_grad()
    def encode(self) -> GridTensor:
        """The codes and scales whose decoding `weight()` returns."""
        module = GRIDS[self.grid]
        stored = module.store_scale(self.scale())
        if self.latent is None:
            assert self.codes is not None
            return GridTensor(self.grid, stored, self.codes)
        return GridTensor(self.grid, stored, module.encode_with_scale(self.latent, stored))


class ScaleOnly(torch.autograd.Function):
    """(scale [O, I/block], codes [O, I]) -> decoded [O, I]; the codes stay, the scale learns."""

    @staticmethod
    def forward(ctx, scale: Tensor, codes: Tensor, grid: str) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.codes, ctx.grid, ctx.shape = codes, grid, scale.shape
        module = GRIDS[grid]
        return module.decode(module.store_scale(scale), codes)

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
        steps = GRIDS[ctx.grid].decode(torch.ones(ctx.shape), ctx.codes)
        return block_sums((grad * steps).view(*ctx.shape, -1)), None, None
