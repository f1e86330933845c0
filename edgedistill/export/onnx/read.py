"""Read an exported ONNX model back: the codes and scales under Hugging Face names, as the graph's nodes compute with
them.

Nothing is taken from the file's metadata but its schema. A tensor is what its node computes with: a node bears the
module's name, its inputs lead to the initializers, and the attention's head counts say where rows that stand together
part.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from numpy.typing import NDArray
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto

from edgedistill.errors import InputError
from edgedistill.export.onnx.blocks import WIDTHS, Layout, Packed, unpack
from edgedistill.facts import EMBEDDING, HEAD
from edgedistill.runtimes.onnx import find_graph
from edgedistill.show import visible

SCHEMA_KEY, SCHEMA = "edgedistill.schema", "edgedistill.onnx/2"
MAX_QUOTED = 300  # characters of a message
MAX_FILE_BYTES = (1 << 31) - 1  # protobuf's limit
BLOCKS = (16, 32, 64, 128, 256)
DTYPES: dict[int, Any] = {
    TensorProto.FLOAT: np.float32,
    TensorProto.FLOAT16: np.float16,
    TensorProto.BFLOAT16: ml_dtypes.bfloat16,
    TensorProto.UINT8: np.uint8,
    TensorProto.INT8: np.int8,
}
FORMAT_NAMES = {np.dtype(np.float32): "f32", np.dtype(np.float16): "f16", np.dtype(ml_dtypes.bfloat16): "bf16"}
FLOATS, INTEGERS, SCALES = (np.float32, np.float16, ml_dtypes.bfloat16), (np.int8, np.uint8), (np.float16, np.float32)

NORM_OPS = {"SimplifiedLayerNormalization": 1, "SkipSimplifiedLayerNormalization": 2}  # and which input is the weight
STEPS_BACK = ("Cast", "Unsqueeze", "Reshape")  # from a scale to what is stored
NAMES = re.compile(r"[A-Za-z0-9_.()|]{1,200}")
TERMS = (".center", ".shift")  # what is added to a matrix's product
JOINED = re.compile(r"(.+)\.\(([a-z_]+(?:\|[a-z_]+)+)\)")

Floats = NDArray[np.float32]
Array = NDArray[Any]


@dataclass(frozen=True)
class Weight:
    """One tensor as stored: on a grid, or the values [O, I] or [I] of one that is on none."""

    name: str
    stored: Packed | Array

    @property
    def bits(self) -> int | None:
        """Width of its codes, None where it has none."""
        return self.stored.layout.bits if isinstance(self.stored, Packed) else None

    @property
    def format(self) -> str:
        """How it is stored, in words."""
        return f"{self.bits} bits" if isinstance(self.stored, Packed) else FORMAT_NAMES[self.stored.dtype]

    def decode(self) -> Floats:
        """Float32 [O, I] or [I]."""
        return unpack(self.stored) if isinstance(self.stored, Packed) else np.asarray(self.stored, np.float32)

    def rows(self, name: str, first: int, count: int) -> "Weight":
        """Some of the rows under another name."""
        stored = self.stored
        return Weight(name, stored.rows(first, count) if isinstance(stored, Packed) else stored[first : first + count])


class OnnxFile:
    """An exported model, opened. Raises InputError wherever the file isn't what `write_onnx` writes."""

    def __init__(self, folder: Path) -> None:
        _, self.path = find_graph(folder)
        self.model = _parse(self.path)
        self.properties = {p.key: p.value for p in self.model.metadata_props}
        if self.properties.get(SCHEMA_KEY) != SCHEMA:
            found = self.properties.get(SCHEMA_KEY, "missing")
            raise self.refuse(
                f"its {SCHEMA_KEY} is {found}, it must be {SCHEMA}", "the file is cut, or no export of this version's"
            )
        for node in self.model.graph.node:
            texts = (node.name, node.op_type, *node.input, *node.output)  # bytes where they aren't UTF-8
            if not all(isinstance(text, str) for text in texts) or not NAMES.fullmatch(node.name):
                raise self.refuse(f"has a node named {node.name!r}")
        self.nodes = {node.name: node for node in self.model.graph.node}
        self.makers = {output: node for node in self.model.graph.node for output in node.output if output}
        self.tensors = {tensor.name: tensor for tensor in self.model.graph.initializer}

    def refuse(
        self, what: str, why: str = "it is damaged or was changed after the export. Export it again."
    ) -> InputError:
        """The error of a malformed file. `what` may quote the file, which can hold line breaks and terminal codes."""
        return InputError(f"{self.path}: {visible(what[:MAX_QUOTED], lines=False)}; {why}")

    def weights(self) -> Iterator[Weight]:
        """Every tensor of the model, one at a time, in the order of its nodes; a tied table once."""
        embedding, head = EMBEDDING.removesuffix(".weight"), HEAD.removesuffix(".weight")
        tied = self._tied(embedding, head)
        for node in self.model.graph.node:
            if node.op_type in NORM_OPS:
                stored = self._values(self._input(node, NORM_OPS[node.op_type]), (np.float32,), 1)
                yield Weight(f"{node.name}.weight", stored)
            elif node.name == embedding and node.op_type in ("GatherBlockQuantized", "Gather"):
                yield Weight(EMBEDDING, self._packed(node, 0) if node.op_type != "Gather" else self._plain(node, 0))
            elif (
                node.op_type in ("MatMulNBits", "FusedMatMul")
                and not node.name.endswith(TERMS)
                and not (tied and node.name == head)
            ):
                yield from self._modules(node)

    @property
    def accuracy_level(self) -> int:
        """How the matrices treat activations: 4 rounds them to int8, 0 keeps them float32. A file without codes has
        0.
        """
        level = next(
            (_attribute(node, "accuracy_level") for node in self.model.graph.node if node.op_type == "MatMulNBits"), 0
        )
        if not isinstance(level, int):
            raise self.refuse("has no accuracy_level in its first matrix")
        return level

    def _tied(self, embedding: str, head: str) -> bool:
        """Whether the output layer multiplies by the embedding's own table."""
        rows, logits = self.nodes.get(embedding), self.nodes.get(head)
        if rows is None or logits is None or self._input(rows, 0) != self._input(logits, 1):
            return False
        if logits.op_type == "MatMulNBits" and self._leaves(self._input(rows, 2)) != self._leaves(
            self._input(logits, 2)
        ):
            raise self.refuse("has one table for embedding and output, but two sets of scales")
        return True

    def _modules(self, node: NodeProto) -> Iterator[Weight]:
        """The weights and biases of a matrix: of one module, or of those whose rows stand below one another."""
        if node.op_type == "MatMulNBits":
            packed = self._packed(node, 1)
            stored: Packed | Array = packed
            size = (packed.codes.shape[0], packed.codes.shape[1] * packed.layout.block)
            stated = (self._number(node, "N"), self._number(node, "K"))
            if size != stated:
                raise self.refuse(f"has {list(size)} weights in {node.name}, whose node says {list(stated)}")
            bias_name = node.input[5] if len(node.input) > 5 else ""
        else:
            stored = values = self._plain(node, 1)
            size = (values.shape[0], values.shape[1])
            biased = self.nodes.get(f"{node.name}.biased")
            bias_name = self._input(biased, 1) if biased else ""
        bias = self.array(bias_name, (np.float32,), (size[0],)) if bias_name else None
        whole = Weight(node.name, stored)
        first = 0
        for module, rows in self._parts(node.name, size[0]):
            yield whole.rows(f"{module}.weight", first, rows)
            if bias is not None:
                yield Weight(f"{module}.bias", bias[first : first + rows])
            first += rows

    def _parts(self, name: str, rows: int) -> list[tuple[str, int]]:
        """(module, its rows) of a matrix of `rows` rows."""
        found = JOINED.fullmatch(name)
        if found is None:
            return [(name, rows)]
        room, names = found[1], found[2].split("|")
        attention = self.nodes.get(room)
        shares = [1] * len(names)
        if attention is not None and attention.op_type == "GroupQueryAttention":
            heads, kv_heads = self._number(attention, "num_heads"), self._number(attention, "kv_num_heads")
            shares = [heads if part == "q_proj" else kv_heads for part in names]
        if rows % sum(shares):
            raise self.refuse(f"has {rows} rows in {name}, which don't part evenly")
        return [(f"{room}.{part}", rows // sum(shares) * share) for part, share in zip(names, shares, strict=True)]

    def _input(self, node: NodeProto, index: int) -> str:
        if len(node.input) <= index:
            raise self.refuse(f"has {len(node.input)} inputs at {node.name}")
        return node.input[index]

    def _number(self, node: NodeProto, attribute: str) -> int:
        value = _attribute(node, attribute)
        if not isinstance(value, int) or value < 1:
            raise self.refuse(f"has {attribute} = {value!r} in {node.name}, where a number above 0 must stand")
        return value

    def _plain(self, node: NodeProto, first_input: int) -> Array:
        """The values [O, I] of a matrix that is on no grid."""
        leaves = self._leaves(self._input(node, first_input))
        if len(leaves) != 1:
            raise self.refuse(f"has {len(leaves)} stored tensors behind {node.name}")
        return self._values(leaves[0], FLOATS, 2)

    def _packed(self, node: NodeProto, first_input: int) -> Packed:
        """Codes, scales and offsets of a node with inputs (.., codes, ids or scales, scales, zero points)."""
        bits, block = self._number(node, "bits"), self._number(node, "block_size")
        if bits not in WIDTHS or block not in BLOCKS:
            raise self.refuse(f"has {bits}-bit blocks of {block} in {node.name}")
        tensor = self.tensors.get(self._input(node, first_input))
        dims = tuple(tensor.dims) if tensor else ()
        if len(dims) != 3 or dims[2] != block * bits // 8:
            raise self.refuse(f"has codes of shape {list(dims)} at {node.name}")
        codes = self.array(node.input[first_input], (np.uint8,), dims)
        scales = self._factors(self._input(node, 2), dims[0], dims[1])
        center, shift, shifted = (self.nodes.get(f"{node.name}.{what}") for what in ("center", "shift", "shifted"))
        if center is None or shift is None or shifted is None:
            return Packed(Layout(bits, self._zero(node, bits), block), codes, scales)
        layout = Layout(bits, self._zero(node, bits), block, self._center(node, self._input(center, first_input)))
        offsets = self._factors(self._input(shift, first_input), dims[0], dims[1])
        if shifted.op_type != ("Add" if len(offsets) == 1 else "Sub"):
            raise self.refuse(f"has {shifted.op_type} at {shifted.name}, which doesn't go with its offsets")
        return Packed(layout, codes, scales, offsets)

    def _zero(self, node: NodeProto, bits: int) -> int:
        """The code of step 0: one for all, from a byte that is full of it, or the operator's own."""
        if len(node.input) < 4 or not node.input[3]:
            return 1 << (bits - 1)
        maker = self.makers.get(node.input[3])
        if maker is None or maker.op_type != "Expand":
            raise self.refuse(f"has zero points at {node.name} that aren't all the same")
        byte = int(self.array(self._input(maker, 0), (np.uint8,), (1,))[0])
        zero = byte & ((1 << bits) - 1)
        if Layout(bits, zero, 0).zero_byte != byte:
            raise self.refuse(f"has zero points at {node.name} that aren't all the same")
        return zero

    def _center(self, node: NodeProto, name: str) -> int:
        """How many scales of its own a matrix's groups have added."""
        maker = self.makers.get(name)
        if (
            maker is None
            or maker.op_type != "Mul"
            or self._leaves(self._input(maker, 0)) != self._leaves(self._input(node, 2))
        ):
            raise self.refuse(f"has other scales in the sums of {node.name} than in its product")
        center = float(self.array(self._input(maker, 1), (np.float32,), (1,))[0])
        if not center.is_integer() or not 0 < center < 256:
            raise self.refuse(f"has {center} scales added at {node.name}")
        return int(center)

    def _factors(self, name: str, rows: int, groups: int) -> tuple[Array, ...]:
        """What scales or offsets float32 [rows, groups] are made of: a number each, or one a block times an integer
        each.
        """
        leaves = self._leaves(name)
        tensor = self.tensors.get(leaves[0]) if leaves else None
        per_row = tensor.dims[1] if tensor is not None and len(tensor.dims) == 2 else 0
        if len(leaves) == 1:
            return (self.array(leaves[0], SCALES, (rows, groups)),)
        if len(leaves) != 2 or not per_row or groups % per_row:
            raise self.refuse(
                f"has {len(leaves)} stored tensors behind {name}, which don't make {rows} rows of {groups}"
            )
        return self.array(leaves[0], SCALES, (rows, per_row)), self.array(
            leaves[1], INTEGERS, (rows, per_row, groups // per_row)
        )

    def _leaves(self, name: str, depth: int = 6) -> list[str]:
        """The stored tensors that a value is widened, reshaped and multiplied from."""
        maker = self.makers.get(name)
        if maker is None or not depth or not maker.input:
            return [name]
        if maker.op_type in STEPS_BACK:
            return self._leaves(maker.input[0], depth - 1)
        if maker.op_type == "Mul":
            return [leaf for value in maker.input for leaf in self._leaves(value, depth - 1)]
        return [name]

    def _values(self, name: str, dtypes: tuple[Any, ...], dimensions: int) -> Array:
        """An initializer's values, whatever its sizes."""
        tensor = self.tensors.get(name)
        dims = tuple(tensor.dims) if tensor is not None else ()
        if len(dims) != dimensions:
            raise self.refuse(
                f"has {list(dims) if tensor is not None else 'nothing'} for {name}, where {dimensions} "
                "dimensions must stand"
            )
        return self.array(name, dtypes, dims)

    def array(self, name: str, dtypes: tuple[Any, ...], dims: tuple[int, ...]) -> Array:
        """An initializer's values, checked against what the caller expects."""
        tensor = self.tensors.get(name)
        dtype = DTYPES.get(tensor.data_type) if tensor is not None else None
        if tensor is None or dtype is None or dtype not in dtypes or tuple(tensor.dims) != dims:
            found = f"data type {tensor.data_type} {list(tensor.dims)}" if tensor is not None else "nothing"
            wanted = " or ".join(np.dtype(allowed).name for allowed in dtypes)
            raise self.refuse(f"has {found} for {name}, where {wanted} {list(dims)} must stand")
        data = self._outside(tensor) if tensor.data_location == TensorProto.EXTERNAL else tensor.raw_data
        if len(data) != int(np.prod(dims, dtype=np.int64)) * np.dtype(dtype).itemsize:
            raise self.refuse(f"has {len(data)} bytes for {name}, {np.dtype(dtype).name} {list(dims)}")
        return np.frombuffer(data, dtype).reshape(dims)

    def _outside(self, tensor: TensorProto) -> bytes:
        """Bytes from the data file. Its name is ours to say, not the file's: a path in it could lead anywhere."""
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


def read_onnx(folder: Path) -> Iterator[tuple[str, Floats]]:
    """(Hugging Face name, float32 [O, I] or [I]) of each tensor, as the runtime computes it; a tied table once.

    Args:
        folder: an export folder, or the .onnx file in it.
    Raises:
        InputError: the file is damaged, or isn't an export of ours.
    """
    for weight in OnnxFile(folder).weights():
        yield weight.name, weight.decode()


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
