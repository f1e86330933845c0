"""TQ2_0: blocks of 256 weights, one fp16 scale d and 256 codes q in 0..2; the weight is d·(q − 1): -d, 0 or d.

66 bytes a block, 2.0625 bits a weight: two runs of 32 bytes, byte j of each holding codes j, j + 32, j + 64 and j + 96
of its 128 weights from the lowest bits up; then d. Two bits have room for a code 3, which decodes to 2·d and which no
encoder writes.
Source: ggml, block_tq2_0, quantize_row_tq2_0_ref (ggml-quants.c).
"""

import torch
from torch import Tensor

from edgedistill.formats import TQ2_0
from edgedistill.quant.blocks import blocks_of, nearest_steps, to_half
from edgedistill.quant.fields import bytes_to_halves, halves_to_bytes
from edgedistill.quant.parts import Parts
from edgedistill.quant.rounding import round_half_away, safe_inverse
from edgedistill.quant.steps import Steps

NAME = TQ2_0.name
BLOCK = GROUP = TQ2_0.block
STEPS = Steps(-1, 1, zero=1)
SCALES = MINS = None
LEARNED = True

RUN = 32  # bytes that hold 128 weights, four a byte


def groups(parts: Parts) -> tuple[Tensor, Tensor | None]:
    """Scale [O, I/256]; there is no offset."""
    return parts.d.float(), None


def encode(weight: Tensor) -> Parts:
    """ggml's fit of a weight [O, I]: d is the largest magnitude, made for weights that are ternary already."""
    blocks = blocks_of(weight, NAME, BLOCK)
    scale = blocks.abs().amax(-1)
    steps = round_half_away(blocks * safe_inverse(scale).unsqueeze(-1))
    return Parts(STEPS.to_codes(steps).flatten(1), to_half(scale))


def fit(weight: Tensor, importance: Tensor | None) -> Parts:
    """The scale and codes of least weighted error of all.

    For a scale d the weights above d/2 in magnitude are best not zero, whatever their costs c; so the best set is the k
    largest for some k. With P = Σ c |w| and A = Σ c over them, d = P/A loses Σ c w² less P²/A: all k are tried.
    """
    blocks = blocks_of(weight, NAME, BLOCK)
    ordered, at = blocks.abs().sort(-1, descending=True)
    costs = torch.ones_like(ordered) if importance is None else importance.view_as(blocks).gather(-1, at)
    along, across = (ordered * costs).cumsum(-1), costs.cumsum(-1).clamp_min_(1e-30)
    best = (along * along / across).argmax(-1, keepdim=True)
    d = to_half((along.gather(-1, best) / across.gather(-1, best)).squeeze(-1))
    return Parts(STEPS.to_codes(nearest_steps(STEPS, blocks, d.float(), None)).flatten(1), d)


def pack(parts: Parts) -> Tensor:
    """The blocks' bytes: uint8 [O, I/256·66]."""
    codes = parts.codes.unflatten(1, (-1, BLOCK // (4 * RUN), 4, RUN))
    quarters = codes[..., 0, :] | (codes[..., 1, :] << 2) | (codes[..., 2, :] << 4) | (codes[..., 3, :] << 6)
    return torch.cat([quarters.flatten(2), halves_to_bytes(parts.d)], -1).flatten(1)


def unpack(packed: Tensor) -> Parts:
    """Undo `pack`."""
    blocks = packed.unflatten(1, (-1, TQ2_0.block_bytes))
    quarters = blocks[..., :-2].unflatten(-1, (-1, RUN))
    codes = torch.stack([(quarters >> shift) & 3 for shift in (0, 2, 4, 6)], -2)
    return Parts(codes.flatten(1), bytes_to_halves(blocks[..., -2:]))
