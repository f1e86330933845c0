"""Training on a grid: a linear layer with a float latent weight whose forward value is the decoded grid tensor, to the bit."""

import torch
from torch import Tensor, nn

from edgedistill.quant.blocks import to_half
from edgedistill.quant.grids import GRIDS, GridTensor, requantize
from edgedistill.quant.parts import Parts
from edgedistill.quant.product import Layout, decode_nearest, grid_linear

# The numbers beside the codes, which training may scale: a factor for each keeps one learning rate right for blocks of any magnitude.
HEADER = ("d", "m", "scales", "mins")


class GridLinear(nn.Module):
    """A linear layer whose weight lives on a grid.

    `latent` [O, I] is the float weight; `start_d`, `start_m`, `start_scales` and `start_mins` are the fitted numbers of the blocks and
    groups (as far as the grid has them), `gain_*` the learned factors on them: d in use is start_d · (1 + gain_d), stored as the
    layout stores it (float16, or an integer of few bits), with straight-through gradients.
    """

    def __init__(self, weight: Tensor, fitted: GridTensor, train_weight: bool, train_scale: bool, bias: Tensor | None = None) -> None:
        """Start from a float weight [O, I] and its fit. What isn't trained stays as fitted; a bias [O] is trained."""
        super().__init__()
        self.grid = fitted.grid
        module, parts = GRIDS[fitted.grid], fitted.parts()
        self.layout = Layout(module.STEPS, module.GROUP)
        # With frozen weights there is no latent: the codes stay exactly as fitted.
        self.latent = nn.Parameter(weight.detach().float().clone()) if train_weight else None
        self.codes = None if train_weight else parts.codes
        self.bias = None if bias is None else nn.Parameter(bias.detach().float().clone())
        self.fixed = parts if not module.LEARNED else None
        for name in HEADER if module.LEARNED else ():
            start = getattr(parts, name)
            if start is not None:
                self.register_buffer(f"start_{name}", start.float())
                self.register_parameter(f"gain_{name}", nn.Parameter(torch.zeros(start.shape), requires_grad=train_scale))

    def header(self) -> Parts:
        """The blocks' numbers as stored, float32; their codes are the fitted ones, or none."""
        if self.fixed is not None:
            return self.fixed
        module = GRIDS[self.grid]
        ranges = {"scales": module.SCALES, "mins": module.MINS}
        found: dict[str, Tensor] = {}
        for name in HEADER:
            if hasattr(self, f"gain_{name}"):
                value = getattr(self, f"start_{name}") * (1 + getattr(self, f"gain_{name}"))
                found[name] = _Stored.apply(value, ranges.get(name))
        return Parts(torch.empty(0) if self.codes is None else self.codes, **found)

    def weight(self) -> Tensor:
        """The decoded weight float32 [O, I], without gradients."""
        return self.encode().decode() if self.latent is None else decode_nearest(self.latent, *self._groups(), self.layout)

    def forward(self, x: Tensor) -> Tensor:
        """[..., I] -> [..., O], in x's own type or autocast's."""
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        bias = None if self.bias is None else self.bias.to(dtype)
        return grid_linear(x.to(dtype), self.latent, self.codes, *self._groups(), bias, self.layout)

    @torch.no_grad()
    def encode(self) -> GridTensor:
        """The codes and scales whose decoding the forward pass multiplies by."""
        module, header = GRIDS[self.grid], self.header()
        stored = Parts(
            header.codes,
            header.d.half() if module.LEARNED else header.d,
            None if header.m is None else header.m.half(),
            None if header.scales is None else header.scales.to(torch.int8 if _signed(module.SCALES) else torch.uint8),
            None if header.mins is None else header.mins.to(torch.uint8),
        )
        return GridTensor.of(self.grid, stored if self.latent is None else requantize(module, self.latent, stored))

    def _groups(self) -> tuple[Tensor, Tensor | None]:
        return GRIDS[self.grid].groups(self.header())


def _signed(integers: tuple[int, int] | None) -> bool:
    return integers is not None and integers[0] < 0


class _Stored(torch.autograd.Function):
    """A float32 number as its block stores it: float16, or an integer of a range. The gradient passes as if it were not rounded."""

    @staticmethod
    def forward(ctx, x: Tensor, integers: tuple[int, int] | None) -> Tensor:  # type: ignore[no-untyped-def]
        return to_half(x).float() if integers is None else x.round().clamp_(*integers)

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
        return grad, None
