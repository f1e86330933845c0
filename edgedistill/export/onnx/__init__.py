"""ONNX: the llama family as an onnxruntime graph, built node by node from a checkpoint's codes, read back and compared."""
