"""A GGUF file's weights in float32, under Hugging Face names and with Hugging Face's order of rows.

The values are gguf-py's dequantization, unchanged: whole rows are moved, and where a family's norms multiply by 1 + w,
the 1 that the file has in them is taken off, which float32 does exactly.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from edgedistill.facts import ModelShape
from edgedistill.models.gguf_header import GGUFHeader, GGUFTensor
from edgedistill.models.gguf_names import from_gguf_rows, gguf_names, permuted_heads

ROW_PIECE = 1 << 22  # weights at a time


def packed_tensors(header: GGUFHeader, shape: ModelShape) -> Iterator[tuple[str, GGUFTensor, NDArray[np.uint8]]]:
    """(Hugging Face name, entry in the file, bytes [O, row bytes] or [row bytes]) of each tensor, in the shape's order.

    The bytes are a view of the file; those of q and k are copies in Hugging Face's order of rows. Norms are the file's.
    """
    for name, stored in gguf_names(shape).items():
        yield name, *_packed(header, shape, name, stored)


def _packed(header: GGUFHeader, shape: ModelShape, name: str, stored: str) -> tuple[GGUFTensor, NDArray[np.uint8]]:
    """The entry of a tensor and its bytes; `stored` is the file's name for it."""
    tensor = header.tensors[stored]
    # A map of its own: pages that were read go with it.
    raw = np.memmap(header.path, dtype=np.uint8, mode="r", offset=tensor.offset, shape=(tensor.size,))
    heads = permuted_heads(name, shape)
    rows: NDArray[np.uint8] = raw if heads is None else from_gguf_rows(raw.reshape(tensor.shape[0], -1), heads)
    return tensor, rows.reshape(tensor.shape[0], -1) if len(tensor.shape) == 2 else rows.reshape(-1)


def dequantized_tensors(header: GGUFHeader, shape: ModelShape) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """(Hugging Face name, float32 [O, I] or [I]) of each tensor, laid out as in a Hugging Face folder."""
    return ((name, dequantized_tensor(header, shape, name)) for name in gguf_names(shape))


def dequantized_tensor(header: GGUFHeader, shape: ModelShape, name: str) -> NDArray[np.float32]:
    """One of them by its Hugging Face name."""
    values = dequantize(*_packed(header, shape, name, gguf_names(shape)[name]))
    return values - np.float32(1) if shape.norm_offset and name.endswith("norm.weight") else values


def dequantize(tensor: GGUFTensor, raw: NDArray[np.uint8]) -> NDArray[np.float32]:
    """A tensor's bytes as gguf dequantizes them: float32 of the tensor's shape, an array of its own."""
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize as gguf_dequantize

    kind = GGMLQuantizationType(tensor.type_id)
    if raw.ndim != 2:
        return np.array(gguf_dequantize(np.ascontiguousarray(raw), kind), dtype=np.float32).reshape(tensor.shape)
    out = np.empty(tensor.shape, np.float32)
    at_once = max(1, ROW_PIECE // tensor.shape[1])
    for start in range(0, len(raw), at_once):  # whole, gguf's steps take several times the memory of a table
        rows = np.ascontiguousarray(raw[start : start + at_once])
        out[start : start + at_once] = gguf_dequantize(rows, kind).reshape(len(rows), -1)
    return out
