"""Checkpoint on its grid -> packed file. What its files are called; the work is in stage.py, gguf/ and onnx/."""

from pathlib import Path

GGUF_NAME = "model.gguf"
ONNX_NAME = "onnx"  # a folder
KINDS = ("gguf", "onnx")
PROOF = "verify.json"


def mix_in_name(path: Path) -> str:
    """The mix that the name of a packed file ends with, as a bundle has it: NAME-MIX.gguf, or the folder onnx-MIX."""
    return path.stem.rpartition("-")[2] if path.suffix == ".gguf" else path.name.partition("-")[2]
