"""Grid tensors as MatMulNBits holds them: codes uint8 in blocks along a row, and a scale for each block.

The operator's weight is scale · (code − zero), float32. `layout_of` gives the width of a grid's codes and the code of
step 0. The file keeps the checkpoint's own numbers (a float16 d a block, a K-quant's integers of each group), and the
graph multiplies them into scales when it is loaded; float32 holds that product exactly, as in gguf's dequantization.

Minimums. A grid with weight = scale · step + offset adds its offsets beside the operator: x times the weight is
x · (scale · step) plus the sum of x over each group times the group's offset. Zero points can't hold the offset:
(code − offset/scale) · scale rounds otherwise, and 39 % of random q4_1 weights came out as another number.

Center. Such a grid's steps are all positive, so where activations are rounded to 8 bits an error in x would be
multiplied by them, while the sums are exact. Therefore the operator takes steps around their `center`, and the sums
take center scales more: a whole number of scales, added first, so that no rounding changes. At accuracy level 4 the
logits of a tiny q4_k model were 6 % off without it, and 2 to 3 % with it, like q8_0's.

Widths. Codes get the next width that the operator has: five and six bits, and the levels of iq4_nl and mxfp4, take
8; three bits take 4. Two bits are fast only in blocks of 32 to 128: in groups of 16 q2_k's two bits were 140 times
slower than four, so it takes 4, and tq2_0's block of 256 is written as two of 128. formats.py has the bits a weight in
the file, scales included (`onnx_bits`). Two bits run in onnxruntime 1.24 and later (in an embedding not in 1.25, but in
1.30), all else in 1.23.
Source: onnxruntime 1.31, contrib operator MatMulNBits and its CPU kernels, tried on an identity matrix at each width
and block.
"""

import functools
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from edgedistill.quant.grids import GRIDS, GridTensor

LARGEST_BLOCK = 128
FEW_CODES = {"q2_k": 4}  # wider than its codes need, for speed
WIDTHS = (2, 4, 8)

Array = NDArray[np.generic]
Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class CodeLayout:
    """How a grid's codes stand: `bits` each, `zero` the code of step `center`, one scale every `block` weights."""

    bits: int
    zero: int
    block: int
    center: int = 0

    @property
    def usual_zero(self) -> bool:
        """Whether the zero is what the operator takes when it is given none."""
        return self.zero == 1 << (self.bits - 1)

    @property
    def zero_byte(self) -> int:
        """A byte full of zero points."""
        return int(sum(self.zero << shift for shift in range(0, 8, self.bits)))


@dataclass(frozen=True)
class Packed:
    """A tensor's numbers as the file holds them: codes uint8 [O, I/block, bytes], factors of scales and offsets.

    `scales` is (d [O, n],), or (d [O, n], integers [O, n, g]) whose product is the scale of each of a row's n · g
    groups; `offsets` likewise, or empty. One factor is added to the weights, a product is subtracted.
    """

    layout: CodeLayout
    codes: Bytes
    scales: tuple[Array, ...]
    offsets: tuple[Array, ...] = ()

    @property
    def arrays(self) -> tuple[Array, ...]:
        """All of them."""
        return (self.codes, *self.scales, *self.offsets)

    def rows(self, first: int, count: int) -> "Packed":
        """Some of its rows."""
        codes, *factors = (array[first : first + count] for array in self.arrays)
        cut = len(self.scales)
        return Packed(self.layout, codes.astype(np.uint8, copy=False), tuple(factors[:cut]), tuple(factors[cut:]))


@functools.cache
def layout_of(grid: str) -> CodeLayout:
    """A grid's layout: the narrowest width that holds every code, with the operator's own zero where it can."""
    module = GRIDS[grid]
    lowest, highest = step_range(grid)
    center = (highest + 1) // 2 if lowest >= 0 else 0  # steps without negatives have offsets
    lowest, highest = lowest - center, highest - center
    block = min(module.GROUP, LARGEST_BLOCK)
    for bits in (width for width in WIDTHS if width >= FEW_CODES.get(grid, 0)):
        half = 1 << (bits - 1)
        if -half <= lowest and highest < half:
            return CodeLayout(bits, half, block, center)
        if module.STEPS.levels is None and highest - lowest < 1 << bits:
            return CodeLayout(bits, -lowest, block, center)
    raise AssertionError(f"{grid} has steps from {lowest} to {highest}")


def step_range(grid: str) -> tuple[int, int]:
    """Lowest and highest step that a file can hold, with those that no encoder writes: tq2_0's 3, q8_0's -128."""
    steps = GRIDS[grid].STEPS
    if steps.levels is not None:
        return int(steps.low), int(steps.high)
    codes = 1 << int(steps.high - steps.low).bit_length()
    lowest = -steps.zero if steps.low + steps.zero >= 0 else -codes // 2
    return lowest, lowest + codes - 1


def pack(tensor: GridTensor) -> Packed:
    """A grid tensor [O, I], bit for bit."""
    grid, layout, parts = GRIDS[tensor.grid], layout_of(tensor.grid), tensor.parts()
    rows, blocks = tensor.shape[0], tensor.shape[1] // grid.BLOCK
    if grid.STEPS.levels is not None:
        table = torch.tensor([int(level) + layout.zero for level in grid.STEPS.levels], dtype=torch.uint8)
        codes = table[parts.codes.int()]
    else:
        # In bytes, where it wraps around: adding 128 to a signed code is moving its sign bit.
        codes = parts.codes.view(torch.uint8) + ((layout.zero - layout.center - grid.STEPS.zero) % 256)
    codes = codes.view(rows, -1, 8 // layout.bits)
    packed = codes[..., 0].clone()
    for index in range(1, codes.shape[-1]):
        packed |= codes[..., index] << (index * layout.bits)
    d = parts.d if parts.d.dtype == torch.float16 else grid.groups(parts)[0]  # mxfp4's exponents: float16 is too narrow
    scales = [d.repeat_interleave(max(1, grid.GROUP // layout.block), 1)]
    offsets = [] if parts.m is None else [parts.m]
    scales += [] if parts.scales is None else [parts.scales.view(rows, blocks, -1)]
    offsets += [] if parts.mins is None else [parts.mins.view(rows, blocks, -1)]
    packed = packed.view(rows, tensor.shape[1] // layout.block, -1)
    return Packed(layout, packed.numpy(), tuple(t.numpy() for t in scales), tuple(t.numpy() for t in offsets))


def unpack(packed: Packed) -> NDArray[np.float32]:
    """The weights float32 [O, I] as the nodes compute them, each zero with the sign that gguf gives it."""
    rows, blocks, _ = packed.codes.shape
    layout = packed.layout
    shifts = np.arange(0, 8, layout.bits, dtype=np.uint8)
    codes = (packed.codes[..., None] >> shifts) & np.uint8((1 << layout.bits) - 1)
    weights = codes.reshape(rows, blocks, layout.block).astype(np.float32) - np.float32(layout.zero - layout.center)
    weights *= product(packed.scales)[:, :, None]
    if packed.offsets:
        offset = product(packed.offsets)[:, :, None]
        weights = weights + offset if len(packed.offsets) == 1 else weights - offset
    return weights.reshape(rows, blocks * layout.block)


def product(factors: tuple[Array, ...]) -> NDArray[np.float32]:
    """Scales or offsets float32 [O, groups] of their factors."""
    first = factors[0].astype(np.float32)
    if len(factors) == 1:
        return first
    return (first[:, :, None] * factors[1].astype(np.float32)).reshape(len(first), -1)
