"""Training on a grid: a linear layer with a float latent weight whose forward value is the decoded grid tensor, to the
bit.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgedistill.quant.activations import eight_bits
from edgedistill.quant.blocks import to_half
from edgedistill.quant.grids import GRIDS, GridTensor, requantize
from edgedistill.quant.parts import Parts
from edgedistill.quant.product import ChosenOn, Latent, Layout, decode_nearest, grid_linear, merged, operand
from edgedistill.quant.rounding import safe_inverse
from edgedistill.quant.split import autocast_type

# The numbers beside the codes, which training may scale: a factor for each keeps one learning rate right for blocks of
# any magnitude.
HEADER = ("d", "m", "scales", "mins")


# Share of codes that aren't the nearest in a fit that rounds: some lie halfway between two before the scale becomes
# float16.
TIES = 0.02


@dataclass(frozen=True)
class Learned:
    """What of a layer is trained.

    Attributes:
        weights: the latent weights; False: the codes stay exactly as fitted.
        scales: the blocks' scales and minimums.
        norms: norms, and biases where there are any.
        low_rank: train W + B·A with B [O, r] and A [r, I] instead of W (Hu et al. 2021, arXiv 2106.09685). What is
            rounded is the sum, so merging it afterwards changes nothing.
        round_inputs: round the layer's inputs to 8 bits, as the runtimes do.
    """

    weights: bool = True
    scales: bool = True
    norms: bool = True
    low_rank: int | None = None
    round_inputs: bool = False


class GridLinear(nn.Module):
    """A linear layer whose weight lives on a grid.

    `latent` [O, I] is a float weight, to which `low_b` · `low_a` is added where training is of low rank; its nearest
    steps on the fitted grid are the codes. `start_d`, `start_m`, `start_scales` and `start_mins` are the fitted numbers
    of the blocks and groups (as far as the grid has them), `gain_*` the learned factors on them: d in use is start_d ·
    (1 + gain_d), stored as the layout stores it (float16, or an integer of few bits), with straight-through gradients.
    """

    def __init__(self, weight: Tensor, fitted: GridTensor, learned: Learned, bias: Tensor | None = None) -> None:
        """Start from a float weight [O, I], its fit and its bias [O]."""
        super().__init__()
        self.grid = fitted.grid
        fitted = fitted.to(weight.device)
        module, parts = GRIDS[fitted.grid], fitted.parts()
        self.layout = Layout(module.STEPS, module.GROUP, parts.m is None and module.SCALES is None)
        # With frozen weights there is no latent: the codes stay exactly as fitted.
        whole = learned.low_rank is None
        self.latent = (
            nn.Parameter(towards_codes(weight.detach().float(), fitted), requires_grad=whole)
            if learned.weights
            else None
        )
        self.low_a: nn.Parameter | None = None
        self.low_b: nn.Parameter | None = None
        if learned.weights and learned.low_rank is not None:
            self.low_a, self.low_b = _low_rank(weight, learned.low_rank)
        self.codes = None if learned.weights else parts.codes
        self.bias = None if bias is None else nn.Parameter(bias.detach().float().clone(), requires_grad=learned.norms)
        self.input_block = min(module.BLOCK, 256) if learned.round_inputs else None
        self._kept: ChosenOn | None = None
        self.fixed = parts if not module.LEARNED else None
        for name in HEADER if module.LEARNED else ():
            start = getattr(parts, name)
            if start is not None:
                self.register_buffer(f"start_{name}", start.float())
                gain = torch.zeros(start.shape, device=start.device)
                self.register_parameter(f"gain_{name}", nn.Parameter(gain, requires_grad=learned.scales))

    def header(self) -> Parts:
        """The blocks' numbers as stored, float32; their codes are the fitted ones, or none."""
        if self.fixed is not None:
            return self.fixed
        module = GRIDS[self.grid]
        ranges = {"scales": module.SCALES, "mins": module.MINS}
        fields: dict[str, Tensor] = {}
        for name in HEADER:
            if hasattr(self, f"gain_{name}"):
                value = getattr(self, f"start_{name}") * (1 + getattr(self, f"gain_{name}"))
                fields[name] = _Stored.apply(value, ranges.get(name))
        return Parts(torch.empty(0) if self.codes is None else self.codes, **fields)

    def weight(self) -> Tensor:
        """The decoded weight float32 [O, I], without gradients."""
        if self.latent is None:
            return self.encode().decode()
        return decode_nearest(self._latent(), *self._groups(), self.layout)

    def operand(self, dtype: torch.dtype) -> Tensor:
        """What `forward` multiplies by in a type: the decoded weight, or the parts that sum up to it."""
        latent = self._latent()
        weight = None if latent.weight is None else merged(latent.weight, latent.a, latent.b)
        return operand(weight, self.codes, latent.chosen_on, *self._groups(), self.layout, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """[..., I] -> [..., O], in x's own type or autocast's."""
        dtype = autocast_type(x) or x.dtype
        if self.input_block is not None:
            x = eight_bits(x, self.input_block)
        return grid_linear(x.to(dtype), self._latent(), self.codes, *self._groups(), self.bias, self.layout)

    @torch.no_grad()
    def encode(self) -> GridTensor:
        """The codes and scales whose decoding the forward pass multiplies by."""
        module, header = GRIDS[self.grid], self.header()
        scale_type = torch.int8 if _signed(module.SCALES) else torch.uint8
        stored = Parts(
            header.codes,
            header.d.half() if module.LEARNED else header.d,
            None if header.m is None else header.m.half(),
            None if header.scales is None else header.scales.to(scale_type),
            None if header.mins is None else header.mins.to(torch.uint8),
        )
        if self.latent is None:
            return GridTensor.of(self.grid, stored)
        latent = merged(self.latent, self.low_a, self.low_b)
        return GridTensor.of(self.grid, stored.with_codes(requantize(module, latent, self._start()).codes))

    def _latent(self) -> Latent:
        scale, offset, inverse = self._chosen_on()
        return Latent(self.latent, scale, offset, self.low_a, self.low_b, inverse)

    def _chosen_on(self) -> ChosenOn:
        """What steps are chosen by, which training doesn't change. Kept where each operation is a launch; the processor
        works it out in a core's cache.
        """
        if self._kept is not None:
            return self._kept
        scale, offset = GRIDS[self.grid].groups(self._start())
        if scale.device.type == "cpu":
            return scale, offset, None
        self._kept = scale, offset, safe_inverse(scale)
        return self._kept

    def _start(self) -> Parts:
        """The blocks' numbers as fitted, float32; without codes."""
        header = {name: getattr(self, f"start_{name}") for name in HEADER if hasattr(self, f"start_{name}")}
        return self.fixed or Parts(torch.empty(0), **header)

    def _groups(self) -> tuple[Tensor, Tensor | None]:
        return GRIDS[self.grid].groups(self.header())


def towards_codes(weight: Tensor, fitted: GridTensor) -> Tensor:
    """What a latent weight [O, I] begins as: the weight, where the fit took the nearest codes; else the fitted values.

    A fit that lets errors undo each other takes codes that aren't the nearest. Latent weights that began at their own
    value would lose them, and those that began near another code after a few steps.
    """
    other = requantize(GRIDS[fitted.grid], weight, fitted.parts()).codes != fitted.parts().codes
    decoded = fitted.decode()
    return decoded if other.float().mean() > TIES else torch.where(other, decoded, weight)


def _low_rank(weight: Tensor, rank: int) -> tuple[nn.Parameter, nn.Parameter]:
    """A and B, whose product is zero at first. With A's variance 1/r a step of size s on B moves each weight by about
    s, as it would W.
    """
    rows, cols = weight.shape
    start = torch.randn(rank, cols, generator=torch.Generator().manual_seed(rows * cols)) / rank**0.5
    # Drawn on the processor: the same on all devices.
    return nn.Parameter(start.to(weight.device)), nn.Parameter(torch.zeros(rows, rank, device=weight.device))


def _signed(integers: tuple[int, int] | None) -> bool:
    return integers is not None and integers[0] < 0


class _Stored(torch.autograd.Function):
    """A float32 number as its block stores it: float16, or an integer of a range. The gradient passes as if it were not
    rounded.
    """

    @staticmethod
    def forward(ctx, x: Tensor, integers: tuple[int, int] | None) -> Tensor:  # type: ignore[no-untyped-def]
        return to_half(x).float() if integers is None else x.round().clamp_(*integers)

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
        return grad, None
