"""ONNX: the llama family as an onnxruntime graph, built node by node from a checkpoint's codes, read back and compared.

onnx is an optional package: whoever imports a module of this room without it gets the line that installs it.
"""

from edgedistill.extras import require

require("onnx", extra="onnx", purpose="ONNX export")
