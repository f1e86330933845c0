"""The bytes that blocks of 32 weights share: fp16 numbers, codes of four bits, and the fifth bits.

Source: ggml, block_q4_0 to block_q5_1 and block_iq4_nl (ggml-common.h).
"""

import torch
from torch import Tensor

BLOCK = 32


def halves_to_bytes(x: Tensor) -> Tensor:
    """float16 [...] -> uint8 [..., 2], low byte first."""
    return x.unsqueeze(-1).contiguous().view(torch.uint8)


def bytes_to_halves(packed: Tensor) -> Tensor:
    """uint8 [..., 2] -> float16 [...]."""
    return packed.contiguous().view(torch.float16).squeeze(-1)


def pack_nibbles(codes: Tensor) -> Tensor:
    """uint8 [..., 32] below 16 -> uint8 [..., 16]: byte j holds code j in its low and code j + 16 in its high half."""
    return codes[..., : BLOCK // 2] | (codes[..., BLOCK // 2 :] << 4)


def unpack_nibbles(packed: Tensor) -> Tensor:
    """Undo `pack_nibbles`."""
    return torch.cat([packed & 0x0F, packed >> 4], -1)


def pack_bits(bits: Tensor) -> Tensor:
    """uint8 [..., 32] of 0 and 1 -> uint8 [..., 4]: bit i of byte j is number 8j + i."""
    shifts = torch.arange(8, dtype=torch.uint8, device=bits.device)
    return (bits.unflatten(-1, (BLOCK // 8, 8)) << shifts).sum(-1, dtype=torch.uint8)


def unpack_bits(packed: Tensor) -> Tensor:
    """Undo `pack_bits`."""
    shifts = torch.arange(8, dtype=torch.uint8, device=packed.device)
    return ((packed.unsqueeze(-1) >> shifts) & 1).flatten(-2)
