"""Read a GGUF file back: packed bytes and float32 values under Hugging Face names and row order."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgedistill.models.gguf_file import read_header
from edgedistill.models.gguf_model import gguf_shape
from edgedistill.models.gguf_weights import dequantize, packed_tensors


def read_gguf(path: Path) -> Iterator[tuple[str, NDArray[np.uint8], str, NDArray[np.float32]]]:
    """(name, bytes [O, row bytes] or [row bytes], format's name, float32 [O, I] or [I]) of each tensor, one at a time.

    Norms are what a layer multiplies by: gemma3's hold 1 + w.

    Raises:
        InputError: the file is damaged, or of a family that we don't know.
    """
    header = read_header(path)
    for name, tensor, raw in packed_tensors(header, gguf_shape(header)):
        yield name, raw, tensor.type_name, dequantize(tensor, raw)
