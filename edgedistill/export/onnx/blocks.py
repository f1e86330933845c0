"""Grid tensors as MatMulNBits holds them: blocks of 32 codes along a row, uint8, and one float16 scale a block.

4 bits: byte j of a block holds q[2j] in its low and q[2j + 1] in its high half; weight = scale · (q − 8), which is q4_0.
8 bits: one code a byte; weight = scale · (q − 128), which is q8_0 with 128 added to its signed codes.
Both zero points are what the operator takes when none is given. Source: onnxruntime, contrib operator MatMulNBits.
"""

import numpy as np
from numpy.typing import NDArray

from edgedistill.errors import InputError
from edgedistill.formats import FORMATS
from edgedistill.quant.grids import GridTensor

BLOCK = 32
ZERO = {4: 8, 8: 128}  # the code of weight 0

Bytes = NDArray[np.uint8]
Halves = NDArray[np.float16]


def onnx_bits(grid: str) -> int:
    """Width of the codes of a grid that the operator can hold.

    Raises:
        InputError: it can't.
    """
    bits = FORMATS[grid].onnx_bits
    if bits is None:
        allowed = ", ".join(f.name for f in FORMATS.values() if f.onnx_bits)
        raise InputError(f"number format '{grid}' has no place in an ONNX file; it must be one of {allowed}. Export it as GGUF instead.")
    return bits


def pack(tensor: GridTensor) -> tuple[Bytes, Halves]:
    """A grid tensor [O, I] as codes uint8 [O, I/32, 16 or 32] and scales float16 [O, I/32]."""
    rows = tensor.shape[0]
    parts = tensor.parts()
    codes = parts.codes.numpy()
    # Not through float: XOR moves the sign bit, which is adding 128 to a signed code.
    packed = codes[:, 0::2] | (codes[:, 1::2] << 4) if onnx_bits(tensor.grid) == 4 else codes.view(np.uint8) ^ np.uint8(0x80)
    return np.ascontiguousarray(packed).reshape(rows, tensor.shape[1] // BLOCK, -1), parts.d.numpy()


def unpack(codes: Bytes, scales: Halves, bits: int) -> NDArray[np.float32]:
    """The weights float32 [O, I] of codes [O, I/32, 16 or 32] and scales [O, I/32], as the operator computes them."""
    rows, blocks, _ = codes.shape
    steps = codes if bits == 8 else np.stack([codes & 0x0F, codes >> 4], axis=-1)
    steps = steps.reshape(rows, blocks, BLOCK).astype(np.float32) - np.float32(ZERO[bits])
    return (steps * scales.astype(np.float32)[:, :, None]).reshape(rows, blocks * BLOCK)
