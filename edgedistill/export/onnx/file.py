"""An exported ONNX file, opened: its nodes by name, and its stored tensors, each checked before it is read.

Nothing is taken from the file's metadata but its schema, and its data file is the one beside it, whatever it names.
"""

import re
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from numpy.typing import NDArray
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto

from edgedistill.errors import InputError
from edgedistill.runtimes.onnx import find_graph
from edgedistill.show import visible

SCHEMA_KEY, SCHEMA = "edgedistill.schema", "edgedistill.onnx/2"
MAX_QUOTED = 300  # characters of a message
MAX_FILE_BYTES = (1 << 31) - 1  # protobuf's limit
DTYPES: dict[int, Any] = {
    TensorProto.FLOAT: np.float32,
    TensorProto.FLOAT16: np.float16,
    TensorProto.BFLOAT16: ml_dtypes.bfloat16,
    TensorProto.UINT8: np.uint8,
    TensorProto.INT8: np.int8,
}
STEPS_BACK = ("Cast", "Unsqueeze", "Reshape")  # from a scale to what is stored
NAMES = re.compile(r"[A-Za-z0-9_.()|]{1,200}")
CHANGED = "it is damaged or was changed after the export. Export it again."

Array = NDArray[Any]


class OnnxFile:
    """A model's file. Every method raises InputError where the file isn't what `write_onnx` writes."""

    def __init__(self, folder: Path) -> None:
        _, self.path = find_graph(folder)
        self.model = _parse(self.path)
        self.properties = {p.key: p.value for p in self.model.metadata_props}
        if self.properties.get(SCHEMA_KEY) != SCHEMA:
            stated = self.properties.get(SCHEMA_KEY, "missing")
            raise self.refuse(
                f"its {SCHEMA_KEY} is {stated}, it must be {SCHEMA}", "the file is cut, or no export of this version's"
            )
        for node in self.model.graph.node:
            texts = (node.name, node.op_type, *node.input, *node.output)  # bytes where they aren't UTF-8
            if not all(isinstance(text, str) for text in texts) or not NAMES.fullmatch(node.name):
                raise self.refuse(f"has a node named {node.name!r}")
        self.nodes = {node.name: node for node in self.model.graph.node}
        self.makers = {output: node for node in self.model.graph.node for output in node.output if output}
        self.tensors = {tensor.name: tensor for tensor in self.model.graph.initializer}

    def refuse(self, what: str, why: str = CHANGED) -> InputError:
        """The error of a malformed file. `what` may quote the file, which can hold line breaks and terminal codes."""
        return InputError(f"{self.path}: {visible(what[:MAX_QUOTED], lines=False)}; {why}")

    @property
    def accuracy_level(self) -> int:
        """How the matrices treat activations: 4 rounds them to int8; 0, also of a file without codes, doesn't."""
        for node in self.model.graph.node:
            if node.op_type == "MatMulNBits":
                level = _attribute(node, "accuracy_level")
                if not isinstance(level, int):
                    raise self.refuse("has no accuracy_level in its first matrix")
                return level
        return 0

    def input(self, node: NodeProto, index: int) -> str:
        if len(node.input) <= index:
            raise self.refuse(f"has {len(node.input)} inputs at {node.name}")
        return node.input[index]

    def number(self, node: NodeProto, attribute: str) -> int:
        value = _attribute(node, attribute)
        if not isinstance(value, int) or value < 1:
            raise self.refuse(f"has {attribute} = {value!r} in {node.name}, where a number above 0 must stand")
        return value

    def leaves(self, name: str, depth: int = 6) -> list[str]:
        """The stored tensors that a value is widened, reshaped and multiplied from."""
        maker = self.makers.get(name)
        if maker is None or not depth or not maker.input:
            return [name]
        if maker.op_type in STEPS_BACK:
            return self.leaves(maker.input[0], depth - 1)
        if maker.op_type == "Mul":
            return [leaf for value in maker.input for leaf in self.leaves(value, depth - 1)]
        return [name]

    def values(self, name: str, dtypes: tuple[Any, ...], dimensions: int) -> Array:
        """An initializer's values, whatever its sizes."""
        tensor = self.tensors.get(name)
        dims = tuple(tensor.dims) if tensor is not None else ()
        if len(dims) != dimensions:
            stored = "nothing" if tensor is None else list(dims)
            raise self.refuse(f"has {stored} for {name}, where {dimensions} dimensions must stand")
        return self.array(name, dtypes, dims)

    def array(self, name: str, dtypes: tuple[Any, ...], dims: tuple[int, ...]) -> Array:
        """An initializer's values, checked against what the caller expects."""
        tensor = self.tensors.get(name)
        dtype = DTYPES.get(tensor.data_type) if tensor is not None else None
        if tensor is None or dtype is None or dtype not in dtypes or tuple(tensor.dims) != dims:
            stored = "nothing" if tensor is None else f"data type {tensor.data_type} {list(tensor.dims)}"
            allowed = " or ".join(np.dtype(one).name for one in dtypes)
            raise self.refuse(f"has {stored} for {name}, where {allowed} {list(dims)} must stand")
        data = self._outside(tensor) if tensor.data_location == TensorProto.EXTERNAL else tensor.raw_data
        if len(data) != int(np.prod(dims, dtype=np.int64)) * np.dtype(dtype).itemsize:
            raise self.refuse(f"has {len(data)} bytes for {name}, {np.dtype(dtype).name} {list(dims)}")
        return np.frombuffer(data, dtype).reshape(dims)

    def _outside(self, tensor: TensorProto) -> bytes:
        """Bytes from the data file, whose name follows from the model's: a path in the file could lead anywhere."""
        entries = {entry.key: entry.value for entry in tensor.external_data}
        data = self.path.with_name(f"{self.path.name}_data")
        offset, length = entries.get("offset", ""), entries.get("length", "")
        if entries.get("location") != data.name or not offset.isdecimal() or not length.isdecimal():
            raise self.refuse(f"looks for {tensor.name} in {entries}; it must be in {data.name}")
        try:
            if int(offset) + int(length) > data.stat().st_size:
                raise self.refuse(f"looks for {tensor.name} past the end of {data.name}")
            with data.open("rb") as file:
                file.seek(int(offset))
                return file.read(int(length))
        except OSError as error:
            raise InputError(f"{data}: can't be read: {error.strerror or error}") from error


def _parse(path: Path) -> ModelProto:
    try:
        if (size := path.stat().st_size) > MAX_FILE_BYTES:
            raise InputError(f"{path}: {size} bytes; an ONNX file ends at {MAX_FILE_BYTES}")
        return onnx.load_model_from_string(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror or error}") from error
    except DecodeError as error:
        raise InputError(f"{path}: isn't a whole ONNX file; it is cut or damaged. Export it again.") from error


def _attribute(node: NodeProto, name: str) -> int | float | None:
    """A number among a node's attributes, None where there is none of that name."""
    for attribute in node.attribute:
        if attribute.name == name and attribute.type in (AttributeProto.INT, AttributeProto.FLOAT):
            return attribute.i if attribute.type == AttributeProto.INT else attribute.f
    return None
