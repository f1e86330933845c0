"""An exported ONNX folder in onnxruntime, and single matrices of its graph run on their own."""

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

ONE_THREAD = ort.SessionOptions()
ONE_THREAD.intra_op_num_threads = 1
WEIGHT_OPS = ("MatMulNBits", "FusedMatMul")


def graph_of(folder):
    """The folder's one graph."""
    (path,) = (folder / "onnx").glob("*.onnx")
    return onnx.load(path).graph


class Session:
    """An exported folder in onnxruntime, one thread."""

    def __init__(self, folder):
        (path,) = (folder / "onnx").glob("*.onnx")
        self.session = ort.InferenceSession(str(path), ONE_THREAD, providers=["CPUExecutionProvider"])
        self.past = [i for i in self.session.get_inputs() if i.name.startswith("past_key_values.")]

    def empty(self, batch=1):
        return [np.zeros((batch, i.shape[1], 0, i.shape[3]), np.float32) for i in self.past]

    def __call__(self, ids, mask=None, past=None):
        """Logits [B, T, V] and the caches."""
        ids = np.asarray(ids, np.int64)
        past = past or self.empty(len(ids))
        mask = np.ones((len(ids), past[0].shape[2] + ids.shape[1]), np.int64) if mask is None else mask
        cache = {i.name: value for i, value in zip(self.past, past, strict=True)}
        logits, *present = self.session.run(
            None, {"input_ids": ids, "attention_mask": np.asarray(mask, np.int64), **cache}
        )
        return logits, present

    def greedy(self, ids, mask=None, count=24):
        """The next tokens [B, count] of prompts [B, T]."""
        mask = np.ones_like(ids) if mask is None else np.asarray(mask)
        logits, past = self(ids, mask)
        made = []
        for _ in range(count):
            made.append(logits[:, -1].argmax(-1))
            mask = np.concatenate([mask, np.ones((len(mask), 1), np.int64)], 1)
            logits, past = self(made[-1][:, None], mask, past)
        return np.stack(made, 1)


def matrices(folder):
    """(name, weights [O, I]) of each matrix of the graph: what onnxruntime's kernels make of it times the identity,
    without its bias.

    The nodes between the input and the output of a matrix are run as they stand in the file; our reader has no part in
    it.
    """
    graph = graph_of(folder)
    for node in graph.node:
        if node.op_type in WEIGHT_OPS and not node.name.endswith((".center", ".shift")):
            del node.input[5:]  # the bias
            while node.input and not node.input[-1]:
                node.input.pop()
            shifted = next((n for n in graph.node if n.name == f"{node.name}.shifted"), node)
            cols = width(graph, node)
            yield node.name, run(graph, shifted.output[0], node.input[0], np.eye(cols, dtype=np.float32)[None])[0].T


def table(folder, rows):
    """The embedding [V, D] as the graph looks it up."""
    graph = graph_of(folder)
    output = "model.embed_tokens.flat.out"
    if output not in {name for node in graph.node for name in node.output}:
        output = "model.embed_tokens.out"
    return run(graph, output, "input_ids", np.arange(rows, dtype=np.int64)[None])[0]


def width(graph, node):
    for attribute in node.attribute:
        if attribute.name == "K":
            return attribute.i
    sizes = {tensor.name: tensor.dims for tensor in graph.initializer}
    widened = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Cast"}
    return sizes[widened.get(node.input[1], node.input[1])][1]


def run(graph, output, given, value):
    """Run the part of a graph between the value `given` and `output`."""
    makers = {name: node for node in graph.node for name in node.output}
    stored = {tensor.name: tensor for tensor in graph.initializer}
    needed, waiting, tensors = [], [output], {}
    while waiting:
        name = waiting.pop()
        if name in stored:
            tensors[name] = stored[name]
        elif name and name != given and makers[name] not in needed:
            needed.append(makers[name])
            waiting += makers[name].input
    kind = TensorProto.INT64 if value.dtype == np.int64 else TensorProto.FLOAT
    part = helper.make_graph(
        [node for node in graph.node if node in needed],
        "part",
        [helper.make_tensor_value_info(given, kind, list(value.shape))],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        list(tensors.values()),
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(part, opset_imports=opsets, ir_version=10)
    session = ort.InferenceSession(model.SerializeToString(), ONE_THREAD, providers=["CPUExecutionProvider"])
    return session.run(None, {given: value})[0]
