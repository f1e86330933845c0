"""Checkpoint on its grid -> packed file. What its files are called; the work is in stage.py, gguf/ and onnx/."""

GGUF_NAME = "model.gguf"
ONNX_NAME = "onnx"  # a folder
KINDS = ("gguf", "onnx")
PROOF = "verify.json"
