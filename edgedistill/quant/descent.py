"""Codes and scales that make up for each other's errors: coordinate descent on the error of a layer's output.

A row w of a weight, rounded to ŵ, changes the layer's output by (ŵ − w)·x. With H = Σ c_t x_t x_tᵀ over tokens, c_t
what a squared error of token t's output costs, that costs J = (ŵ − w)ᵀ H (ŵ − w): inputs come together, so one weight's
error can undo another's, which no rounding of single weights sees. Each step takes the one number of a row that
minimizes J beside all others: for a code the step nearest to ŵ_j − (H(ŵ − w))_j / H_jj, for a group's scale or offset
the stored value nearest to the minimum of the parabola that J is in it, and only where it lowers J. So J never rises.
Rows are independent: all take their step at once.
Source: coordinate descent on codes, QuantEase (Behdin et al. 2023, arXiv 2309.01885); costs of tokens from gradients,
GuidedQuant (Kim et al. 2025, arXiv 2505.07004). Scales and offsets through the layouts of ggml's blocks are ours.
"""

from dataclasses import replace

import torch
from torch import Tensor

from edgedistill.quant.blocks import to_half
from edgedistill.quant.grids import GRIDS, Grid, GridTensor
from edgedistill.quant.parts import Parts
from edgedistill.quant.rounding import safe_inverse

PASSES = (
    8  # over all columns; in SmolLM2-135M the first wins a third of J, the second a tenth, the eighth three thousandths
)
ROWS = 2048  # at once: what a group's columns need of them stays in a core's cache


@torch.no_grad()
def descend(weight: Tensor, start: GridTensor, curvature: Tensor, passes: int = PASSES) -> GridTensor:
    """A weight on its grid, of lower J than `start`.

    Args:
        weight: [O, I].
        start: the weight on the grid.
        curvature: H, float32 [I, I], symmetric, with a positive diagonal.
        passes: how often each code is set; from the second pass on, scales and offsets too.
    """
    grid, parts = GRIDS[start.grid], start.parts()
    packed = []
    at_once = ROWS if weight.device.type == "cpu" else weight.shape[0]
    for first in range(0, weight.shape[0], at_once):
        rows = slice(first, first + at_once)
        descent = _Descent(grid, _rows_of(parts, rows), weight[rows], curvature)
        for number in range(passes):
            for group in range(descent.groups):
                descent.visit(group, with_scales=number > 0)
        packed.append(grid.pack(descent.parts()))
    return GridTensor(start.grid, torch.cat(packed))


def _rows_of(parts: Parts, rows: slice) -> Parts:
    more = {name: getattr(parts, name) for name in ("m", "scales", "mins")}
    there = {name: field[rows] for name, field in more.items() if field is not None}
    return Parts(parts.codes[rows], parts.d[rows], **there)


class _Descent:
    """Some rows, all turned: what belongs to a column of the weight lies together. Steps and errors [I, O], scales
    [I/group, O].
    """

    def __init__(self, grid: Grid, parts: Parts, weight: Tensor, curvature: Tensor) -> None:
        self.grid, self.start, self.curvature = grid, parts, curvature
        self.groups = weight.shape[1] // grid.GROUP
        self.gains: list[float] = curvature.diagonal().reciprocal().tolist()
        scale, offset = grid.groups(parts)
        self.scale, self.d = _turned(scale), _turned(parts.d)
        self.offset, self.m, self.scales, self.mins = (
            None if field is None else _turned(field) for field in (offset, parts.m, parts.scales, parts.mins)
        )
        self.steps = grid.STEPS.of_codes(parts.codes).T.contiguous()
        decoded = self.steps.view(self.groups, grid.GROUP, -1) * self.scale.unsqueeze(1)
        if self.offset is not None:
            decoded += self.offset.unsqueeze(1)
        self.decoded = decoded.view_as(self.steps)
        self.error = self.decoded - weight.float().T

    def parts(self) -> Parts:
        """As the grid stores them."""
        codes = self.grid.STEPS.to_codes(self.steps.T.contiguous())
        stored = {"d": self.d, "m": self.m, "scales": self.scales, "mins": self.mins}
        kinds = {name: getattr(self.start, name).dtype for name, field in stored.items() if field is not None}
        fields = {name: field.T.to(kinds[name]).contiguous() for name, field in stored.items() if field is not None}
        return replace(self.start, codes=codes, **fields)

    def visit(self, group: int, with_scales: bool) -> None:
        """Set a group's scale and offset, then its codes from the first to the last."""
        here = slice(group * self.grid.GROUP, (group + 1) * self.grid.GROUP)
        slope = self.curvature[here] @ self.error  # half of J's gradient in the group's weights
        own = self.curvature[here, here]
        if with_scales and self.grid.LEARNED:
            block = group * self.grid.GROUP // self.grid.BLOCK
            self._set(
                self.scale[group],
                _field(self.d[block], self.scales, group),
                self.grid.SCALES,
                self.steps[here],
                here,
                slope,
                own,
            )
            if self.offset is not None and self.m is not None:
                field = _field(self.m[block], self.mins, group, -1)
                self._set(self.offset[group], field, self.grid.MINS, torch.ones_like(slope), here, slope, own)
        scale = self.scale[group]
        inverse = safe_inverse(scale)
        offset = None if self.offset is None else self.offset[group]
        steps, decoded, error = self.steps[here], self.decoded[here], self.error[here]
        for column, gain in enumerate(self.gains[here]):
            target = torch.add(decoded[column], slope[column], alpha=-gain)
            if offset is not None:
                target -= offset
            chosen = self.grid.STEPS.nearest_(target.mul_(inverse))
            steps[column] = chosen
            value = chosen.mul_(scale)
            if offset is not None:
                value += offset
            change = value - decoded[column]
            decoded[column] = value
            error[column] += change
            slope[column + 1 :].addr_(own[column + 1 :, column], change)

    def _set(
        self,
        used: Tensor,
        field: tuple[Tensor, Tensor | None],
        allowed: tuple[int, int] | None,
        along: Tensor,
        here: slice,
        slope: Tensor,
        own: Tensor,
    ) -> None:
        """Set a scale or an offset where that lowers J.

        Args:
            used: the number in use [O], changed in place; a unit of it moves the group's weights by `along` [group, O].
            field: what is stored of it, changed in place, and what that is multiplied by; None where it is stored
                itself, as float16.
            allowed: the range of a stored integer.
            here: the group's columns.
            slope: half of J's gradient in them, kept up to date; `own` is H between them.
        """
        stored, unit = field
        pull = own @ along
        falls, bends = (along * slope).sum(0), (along * pull).sum(0)
        target = used - falls * safe_inverse(bends)
        if unit is None:
            kept = rounded = to_half(target).float()
        else:
            assert allowed is not None
            kept = (target * safe_inverse(unit)).round_().clamp_(*allowed)
            rounded = kept * unit
        change = rounded - used
        better = change * (2 * falls + change * bends) < 0
        change = torch.where(better, change, 0.0)
        used.copy_(torch.where(better, rounded, used))
        stored.copy_(torch.where(better, kept, stored))
        moved = change * along
        self.decoded[here] += moved
        self.error[here] += moved
        slope.addcmul_(pull, change.expand_as(pull))


def _field(block: Tensor, integers: Tensor | None, group: int, sign: int = 1) -> tuple[Tensor, Tensor | None]:
    return (block, None) if integers is None else (integers[group], sign * block)


def _turned(field: Tensor) -> Tensor:
    return field.float().T.contiguous()
