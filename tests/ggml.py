"""ggml's own quantizers and decoders, through the library that llama-cpp-python builds: the truth that our grids are
held against.
"""

import ctypes
import functools
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgedistill.formats import FORMATS


@functools.cache
def library() -> ctypes.CDLL:
    """libggml-base, with the signatures that are used here."""
    import importlib.util

    spec = importlib.util.find_spec("llama_cpp")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent / "lib"
    found = next(p for p in sorted(folder.iterdir()) if "ggml-base" in p.name)
    ggml = ctypes.CDLL(str(found))
    pointer = ctypes.POINTER(ctypes.c_float)
    ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
    ggml.ggml_quantize_chunk.argtypes = [ctypes.c_int, pointer, ctypes.c_void_p] + [ctypes.c_int64] * 3 + [pointer]
    return ggml


def quantize(
    weight: NDArray[np.float32], name: str, importance: NDArray[np.float32] | None = None
) -> NDArray[np.uint8]:
    """uint8 [O, row bytes] of float32 [O, I] as llama.cpp's quantizer makes it; importance [I] as an importance matrix
    gives it.
    """
    pointer = ctypes.POINTER(ctypes.c_float)
    number_format = FORMATS[name]
    weight = np.ascontiguousarray(weight, dtype=np.float32)
    rows, cols = weight.shape
    out = np.zeros((rows, number_format.tensor_bytes(1, cols)), dtype=np.uint8)
    costs = None if importance is None else np.ascontiguousarray(importance, dtype=np.float32).ctypes.data_as(pointer)
    data = weight.ctypes.data_as(pointer)
    size = library().ggml_quantize_chunk(number_format.ggml_type, data, out.ctypes.data, 0, rows, cols, costs)
    assert size == out.nbytes
    return out
