"""Run as a child process: llama.cpp's own quantizer over one GGUF file, with or without an importance matrix. It may
abort the process.

Reads {"source", "out", "file_type", "threads", "importance": safetensors file or null, "types": {regular expression:
ggml type}} as JSON on stdin. With an importance matrix it does what `llama-quantize --imatrix` does.
"""

import ctypes
import json
import sys

import llama_cpp
from safetensors.numpy import load_file


@llama_cpp.llama_log_callback
def errors_alone(level: int, text: bytes, _: ctypes.c_void_p) -> None:
    """Keep llama.cpp's warnings and errors of its log."""
    if level in (3, 4):
        sys.stderr.write(text.decode("utf-8", errors="replace"))


class Override(ctypes.Structure):
    """llama_model_tensor_override (llama.h): a regular expression on GGUF names, a ggml type."""

    _fields_ = [("pattern", ctypes.c_char_p), ("type", ctypes.c_int)]


def main() -> None:
    """Quantize; exits 1 where llama.cpp says no."""
    asked = json.load(sys.stdin)
    llama_cpp.llama_log_set(errors_alone, ctypes.c_void_p(0))
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype, parameters.nthread = asked["file_type"], asked["threads"]
    kinds = asked["types"]
    overrides = (Override * (len(kinds) + 1))(*(Override(key.encode(), kind) for key, kind in kinds.items()))
    if kinds:
        parameters.tt_overrides = ctypes.cast(overrides, type(parameters.tt_overrides))
    matrix = (
        {name: values.astype("<f4") for name, values in load_file(asked["importance"]).items()}
        if asked["importance"]
        else {}
    )
    # Both lists end with an empty entry, as C expects.
    entries = (llama_cpp.llama_cpp.llama_model_imatrix_data * (len(matrix) + 1))()
    for entry, (name, values) in zip(entries, matrix.items(), strict=False):
        entry.name, entry.size = name.encode(), values.size
        entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    if matrix:
        parameters.imatrix = ctypes.cast(entries, type(parameters.imatrix))
    sys.exit(llama_cpp.llama_model_quantize(asked["source"].encode(), asked["out"].encode(), ctypes.byref(parameters)))


if __name__ == "__main__":
    main()
