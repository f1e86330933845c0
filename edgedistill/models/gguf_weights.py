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


def packed_tensors(header: GGUFHeader, shape: ModelShape) -> Iterator[tuple[str, GGUFTensor, NDArray[np.uint8]]]:
    """(Hugging Face name, entry in the file, bytes [O, row bytes] or [row bytes]) of each tensor, in the shape's order.

    The bytes are a view of the file; those of q and k are copies in Hugging Face's order of rows. Norms are the file's.
    """
    file = np.memmap(header.path, dtype=np.uint8, mode="r")
    for name, stored in gguf_names(shape).items():
        tensor = header.tensors[stored]
        raw = file[tensor.offset : tensor.offset + tensor.size]
        heads = permuted_heads(name, shape)
        if heads is not None:
            raw = from_gguf_rows(raw.reshape(tensor.shape[0], -1), heads)
        yield name, tensor, raw.reshape(tensor.shape[0], -1) if len(tensor.shape) == 2 else raw.reshape(-1)


def dequantized_tensors(header: GGUFHeader, shape: ModelShape) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """(Hugging Face name, float32 [O, I] or [I]) of each tensor, laid out as in a Hugging Face folder."""
    for name, tensor, raw in packed_tensors(header, shape):
        values = dequantize(tensor, raw)
        yield name, values - np.float32(1) if shape.norm_offset and name.endswith("norm.weight") else values


def dequantize(tensor: GGUFTensor, raw: NDArray[np.uint8]) -> NDArray[np.float32]:
    """A tensor's bytes as gguf dequantizes them: float32 of the tensor's shape, an array of its own."""
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize as gguf_dequantize

    values = gguf_dequantize(np.ascontiguousarray(raw), GGMLQuantizationType(tensor.type_id))
    return np.array(values, dtype=np.float32).reshape(tensor.shape)
