"""A matrix product whose weight is decoded from its grid on the way: y = x · ŵᵀ + bias, ŵ = scale · step + offset.

ŵ never outlives the product: backward decodes it again, in the same passes that mask the gradient. On the processor the
work goes through the weight in pieces that stay in a core's cache, which is what makes it cheap: a dozen passes over a
whole matrix would read it from memory a dozen times. Masks are floats, since torch's operations on bools take several
times as long.

A latent weight chooses its step on the grid that it began on, and learned scales and offsets stretch what is chosen:
codes change because weights move, never because a scale does. (With LSQ, arXiv 1902.08153, a scale that grows by a
hundredth makes codes anew all over the block, and gives up what a fit chose them together for.) So dŵ/dscale = step and
dŵ/doffset = 1; for the latent weight it is the straight-through estimator's 1 within the steps, and 0 where it is
clipped (Bengio et al. 2013, arXiv 1308.3432).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from edgedistill.quant.rounding import block_sums, safe_inverse
from edgedistill.quant.split import WHOLE, multiply, parts_for, split_into
from edgedistill.quant.steps import Steps

HALF_BITS = 11  # significant bits of a float16
PIECE = 1 << 17  # weights at a time: half a MiB of float32, and a few times that in flight


@dataclass(frozen=True)
class Layout:
    """How a weight's groups lie: `group` weights share a scale; `steps` are what it is multiplied by.

    `plain` says that a weight is no more than a float16 scale times a step, so that few of its bits count.
    """

    steps: Steps
    group: int
    plain: bool = False

    def parts(self, dtype: torch.dtype) -> int:
        """How many numbers of a type a decoded weight is the sum of."""
        if dtype == torch.float32:
            return 1
        largest = int(max(abs(self.steps.low), abs(self.steps.high)))
        step_bits = (largest - 1).bit_length()  # of -8 .. 7 or -8 .. 8 it is 3: 8 itself has one significant bit
        return parts_for(HALF_BITS + step_bits) if self.plain else WHOLE

    def pieces(self, rows: int, cols: int, device: torch.device) -> Iterator[slice]:
        """Rows at a time; on another device than the processor all of them, since each operation is a launch there."""
        at_once = max(1, PIECE // cols) if device.type == "cpu" else rows
        return (slice(start, min(start + at_once, rows)) for start in range(0, rows, at_once))


@dataclass(frozen=True)
class Latent:
    """The float32 weight whose nearest steps count: `weight` [O, I], plus b [O, r] · a [r, I] where these are given.

    Nearest on the grid of `scale` and `offset`, float32 [O, I/group]; `inverse` is 1/scale where that is kept.
    """

    weight: Tensor | None
    scale: Tensor
    offset: Tensor | None = None
    a: Tensor | None = None
    b: Tensor | None = None
    inverse: Tensor | None = None

    @property
    def chosen_on(self) -> "ChosenOn":
        """What steps are chosen by."""
        return self.scale, self.offset, self.inverse


# The scale, offset and, where it is kept, inverse scale that a latent weight chooses its steps by.
ChosenOn = tuple[Tensor, Tensor | None, Tensor | None]


def merged(weight: Tensor, a: Tensor | None, b: Tensor | None) -> Tensor:
    """The sum of `Latent`: float32 [O, I]."""
    return weight if a is None or b is None else torch.addmm(weight, b, a)


def grid_linear(
    x: Tensor,
    latent: Latent,
    codes: Tensor | None,
    scale: Tensor,
    offset: Tensor | None,
    bias: Tensor | None,
    layout: Layout,
) -> Tensor:
    """[..., I] -> [..., O] in x's type; the weight that it multiplies by is exact in bfloat16 too (split.py).

    Args:
        latent: whose nearest steps count; without a weight:
        codes: then these stay, integer [O, I].
        scale, offset: what the steps are multiplied by and moved by, float32 [O, I/group], as stored.
    """
    weight, low = latent.weight, (latent.a, latent.b)
    return _GridLinear.apply(x, weight, *low, codes, latent.chosen_on, scale, offset, bias, layout)  # type: ignore[no-any-return]


@torch.no_grad()
def decode_nearest(latent: Latent, scale: Tensor, offset: Tensor | None, layout: Layout) -> Tensor:
    """ŵ float32 [O, I] for the steps nearest to a latent weight."""
    assert latent.weight is not None
    weight = merged(latent.weight, latent.a, latent.b)
    return operand(weight, None, latent.chosen_on, scale, offset, layout, torch.float32)


class _GridLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, a, b, codes, chosen_on, scale, offset, bias, layout):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x, weight, a, b, codes, *chosen_on, scale, offset)
        ctx.layout = layout
        weight = merged(weight, a, b)  # made again in backward: kept, it would be the memory that a low rank saves
        return multiply(x, operand(weight, codes, chosen_on, scale, offset, layout, x.dtype), bias)

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
        x, weight, a, b, codes, *chosen_on, scale, offset = ctx.saved_tensors
        weight = merged(weight, a, b)
        needs_x, wants_weight, wants_low, _, _, _, needs_scale, needs_offset, needs_bias, _ = ctx.needs_input_grad
        needs_weight = wants_weight or wants_low
        rows = grad.reshape(-1, grad.shape[-1])
        whole = x.device.type != "cpu"  # one piece, which needs no copy
        decoded = None
        if needs_x and not whole:
            decoded = torch.empty(scale.shape[0], x.shape[-1], dtype=x.dtype)
        # The whole gradient of ŵ in one product; it becomes the weight's piece by piece.
        wide = rows.T @ x.reshape(-1, x.shape[-1]) if needs_weight or needs_scale or needs_offset else None
        grad_weight = torch.empty_like(weight) if needs_weight else None
        grad_scale = torch.empty_like(scale) if needs_scale and not whole else None
        grad_offset = torch.empty_like(scale) if needs_offset and not whole else None
        for piece, steps, latent in _walk(weight, codes, tuple(chosen_on), ctx.layout):
            if latent and grad_weight is not None:
                steps, within = ctx.layout.steps.nearest_within(steps)
            elif latent:
                steps = ctx.layout.steps.nearest_(steps)
            if wide is not None:
                part = wide[piece].float().view_as(steps)
                if grad_weight is not None:
                    torch.mul(part, within, out=grad_weight[piece].view_as(steps))
                if grad_offset is not None:
                    grad_offset[piece] = block_sums(part)
                elif needs_offset:
                    grad_offset = block_sums(part)
                if grad_scale is not None:
                    grad_scale[piece] = block_sums(part.mul_(steps))
                elif needs_scale:
                    grad_scale = block_sums(part.mul_(steps))
            if needs_x:
                steps.mul_(scale[piece].unsqueeze(-1))
                if offset is not None:
                    steps.add_(offset[piece].unsqueeze(-1))
                if decoded is None:
                    decoded = steps.flatten(1).to(x.dtype)
                else:
                    decoded[piece] = steps.flatten(1)
        grad_x = (rows @ decoded).view_as(x) if decoded is not None else None
        grad_bias = rows.sum(0, dtype=torch.float32) if needs_bias else None
        grad_a, grad_b = (b.T @ grad_weight, grad_weight @ a.T) if wants_low else (None, None)
        return (
            grad_x,
            grad_weight if wants_weight else None,
            grad_a,
            grad_b,
            None,
            None,
            grad_scale,
            grad_offset,
            grad_bias,
            None,
        )


def operand(
    weight: Tensor | None,
    codes: Tensor | None,
    chosen_on: ChosenOn,
    scale: Tensor,
    offset: Tensor | None,
    layout: Layout,
    dtype: torch.dtype,
) -> Tensor:
    """What the forward product multiplies by: ŵ float32 [O, I], or the bfloat16 parts that sum up to it [O, parts · I].

    Args: as for `grid_linear`, `weight` and `codes` with the low rank merged, `chosen_on` of `Latent`.
    """
    width = layout.parts(dtype) * scale.shape[1] * layout.group
    out = None
    if scale.device.type == "cpu" or dtype != torch.float32:
        out = torch.empty(scale.shape[0], width, dtype=dtype, device=scale.device)
    for piece, steps, latent in _walk(weight, codes, chosen_on, layout):
        if latent:
            steps = layout.steps.nearest_(steps)
        # Two roundings, as the runtimes': a fused multiply-add would make other weights.
        steps.mul_(scale[piece].unsqueeze(-1))
        if offset is not None:
            steps.add_(offset[piece].unsqueeze(-1))
        if out is None:
            return steps.flatten(1)  # one piece, which is the whole
        split_into(out[piece], steps.flatten(1))
    assert out is not None
    return out


def _walk(
    weight: Tensor | None, codes: Tensor | None, chosen_on: ChosenOn, layout: Layout
) -> Iterator[tuple[slice, Tensor, bool]]:
    """Some rows at a time: which; of codes that stay their steps, else (w − offset)/scale, [rows, I/group, group];
    whether it is that.
    """
    scale, offset, inverse = chosen_on
    if codes is not None:
        inverse = None
    elif inverse is None:
        inverse = safe_inverse(scale)
    for piece in layout.pieces(scale.shape[0], scale.shape[1] * layout.group, scale.device):
        groups = (-1, scale.shape[1], layout.group)
        if inverse is None:
            assert codes is not None
            yield piece, layout.steps.of_codes(codes[piece]).view(groups), False
            continue
        assert weight is not None
        grouped = weight[piece].view(groups)
        if offset is not None:
            grouped = grouped - offset[piece].unsqueeze(-1)
        yield piece, grouped * inverse[piece].unsqueeze(-1), True
