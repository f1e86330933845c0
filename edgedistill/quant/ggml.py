"""ggml's own quantizer, called in the library that llama-cpp-python brings: float32 in, a GGUF tensor's bytes out.

The K-quants' fit is thousands of lines of C that each release may change, so "rounded by llama.cpp" can only mean what
that code returns. Rows are independent, so torch's number of threads share them; ctypes releases Python's lock.
"""

import ctypes
import functools
import importlib.util
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from edgedistill.errors import InputError
from edgedistill.formats import FORMATS
from edgedistill.quant.rounding import check_finite

FLOATS = ctypes.POINTER(ctypes.c_float)


def quantize(weight: Tensor, grid: str, importance: Tensor | None = None) -> Tensor:
    """The bytes that llama.cpp's quantizer makes of a weight [O, I]: uint8 [O, row bytes], on the weight's device.

    Args:
        importance: [I], as an importance matrix gives it: E[x²] of the layer's inputs. None: without one.
    Raises:
        ValueError: a row isn't a multiple of the grid's block, or a number isn't finite; ggml would abort, or go on.
        InputError: llama-cpp-python isn't installed.
    """
    number_format = FORMATS[grid]
    rows, cols = weight.shape
    packed = torch.empty(number_format.tensor_bytes(rows, cols), dtype=torch.uint8)
    check_finite(weight, grid)
    values = weight.detach().to("cpu", torch.float32).contiguous()
    costs = None if importance is None else importance.detach().to("cpu", torch.float32).contiguous()
    if costs is not None:
        if costs.shape != (cols,):
            raise ValueError(
                f"{grid}: an importance matrix has one number for each of the {cols} columns, got shape "
                f"{tuple(costs.shape)}"
            )
        check_finite(costs, f"{grid}'s importance matrix")
    quantize_chunk = _library().ggml_quantize_chunk
    share = max(1, -(-rows // torch.get_num_threads()))  # rows a thread

    def quantize_rows(start: int) -> int:
        source, target, count = _floats(values), packed.data_ptr(), min(share, rows - start)
        return int(quantize_chunk(number_format.ggml_type, source, target, start * cols, count, cols, _floats(costs)))

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        written = sum(pool.map(quantize_rows, range(0, rows, share)))
    if written != packed.numel():
        raise RuntimeError(
            f"ggml wrote {written} bytes of {grid} where {packed.numel()} were expected; its layout has changed"
        )
    return packed.view(rows, -1).to(weight.device)


def _floats(numbers: Tensor | None) -> object:
    return None if numbers is None else ctypes.cast(numbers.data_ptr(), FLOATS)


@functools.cache
def _library() -> ctypes.CDLL:
    """libggml-base alone: it needs no llama.cpp context, no backend, and none of llama_cpp's Python."""
    spec = importlib.util.find_spec("llama_cpp")
    files: list[Path] = []
    if spec is not None and spec.origin is not None:
        files = sorted((Path(spec.origin).parent / "lib").glob("*ggml-base*"))
    if not files:
        raise InputError(
            "Rounding to a K-quant needs ggml's quantizer from llama-cpp-python, which is not installed whole "
            "(llama_cpp/lib has no ggml-base). Run: pip install --force-reinstall 'llama-cpp-python>=0.3.36'"
        )
    library = ctypes.CDLL(str(files[0]))
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = (
        ctypes.c_int,
        FLOATS,
        ctypes.c_void_p,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_int64,
        FLOATS,
    )
    return library
