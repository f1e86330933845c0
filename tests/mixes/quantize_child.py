"""Run by the tests as a child process: llama.cpp's own quantizer over GGUF files, once for each file type asked for.

It may abort the process. Reads {"files": {name: path}, "jobs": {mix: [ftype, {pattern: ggml type}]}} as JSON on stdin;
writes {name: {mix: {tensor: ggml type}}} to argv[1].
"""

import ctypes
import json
import sys
from pathlib import Path

import llama_cpp

from edgedistill.models.gguf_file import read_header


@llama_cpp.llama_log_callback
def silent(level, text, data):
    """Drop llama.cpp's log."""


class Override(ctypes.Structure):
    """llama_model_tensor_override (llama.h): a regular expression on GGUF names, a ggml type."""

    _fields_ = [("pattern", ctypes.c_char_p), ("type", ctypes.c_int)]


def main() -> None:
    """Quantize and read the types back."""
    asked = json.load(sys.stdin)
    llama_cpp.llama_log_set(silent, ctypes.c_void_p(0))
    found = {
        name: {mix: quantized(path, *job) for mix, job in asked["jobs"].items()}
        for name, path in asked["files"].items()
    }
    Path(sys.argv[1]).write_text(json.dumps(found))


def quantized(path: str, ftype: int, overrides: dict[str, int]) -> dict[str, int]:
    """The ggml type of each tensor of the quantized file."""
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype, parameters.nthread = ftype, 1
    entries = (Override * (len(overrides) + 1))(*(Override(key.encode(), kind) for key, kind in overrides.items()))
    if overrides:
        parameters.tt_overrides = ctypes.cast(entries, type(parameters.tt_overrides))
    out = f"{path}.out"
    status = llama_cpp.llama_model_quantize(path.encode(), out.encode(), ctypes.byref(parameters))
    assert status == 0, (path, ftype, status)
    types = {tensor.name: tensor.type_id for tensor in read_header(Path(out)).tensors.values()}
    Path(out).unlink()
    return types


if __name__ == "__main__":
    main()
