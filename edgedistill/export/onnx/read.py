"""Read an exported ONNX model back: the codes and scales under Hugging Face names, and what the graph's nodes say of its shape.

Nothing is taken from the file's metadata but its schema. A tensor is what its node computes with: MatMulNBits names the
module, its inputs the initializers, and the attention's head counts where the fused q|k|v rows part.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from numpy.typing import NDArray
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto

from edgedistill.errors import InputError
from edgedistill.export.onnx.blocks import BLOCK, ZERO, unpack
from edgedistill.facts import EMBEDDING, FINAL_NORM, HEAD
from edgedistill.records import visible
from edgedistill.runtimes.onnx import find_graph

SCHEMA_KEY, SCHEMA = "edgedistill.schema", "edgedistill.onnx/1"
MAX_QUOTED = 300  # characters of a message
MAX_FILE_BYTES = (1 << 31) - 1  # protobuf's limit
DTYPES: dict[int, type[np.generic]] = {TensorProto.FLOAT: np.float32, TensorProto.FLOAT16: np.float16, TensorProto.UINT8: np.uint8}

NORM_OPS = {"SimplifiedLayerNormalization": 1, "SkipSimplifiedLayerNormalization": 2}  # and which input is the weight

Floats = NDArray[np.float32]
Array = NDArray[Any]


@dataclass(frozen=True)
class Weight:
    """One tensor as stored. A norm has no codes; its scales are its float32 values [I]."""

    name: str
    bits: int | None
    codes: NDArray[np.uint8] | None  # [O, I/32, 4 · bits]
    scales: Array  # float16 [O, I/32]

    def decode(self) -> Floats:
        """Float32 [O, I] or [I]."""
        if self.codes is None or self.bits is None:
            return np.asarray(self.scales, np.float32)
        return unpack(self.codes, self.scales, self.bits)

    def rows(self, name: str, first: int, count: int) -> "Weight":
        """Some of the rows under another name."""
        assert self.codes is not None
        return Weight(name, self.bits, self.codes[first : first + count], self.scales[first : first + count])


@dataclass(frozen=True)
class Sizes:
    """A llama's sizes as the nodes state them. `norm_eps` is a float32."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    tied: bool
    norm_eps: float


class OnnxFile:
    """An exported model, opened. Raises InputError wherever the file isn't what `write_onnx` writes."""

    def __init__(self, folder: Path) -> None:
        _, self.path = find_graph(folder)
        self.model = _parse(self.path)
        self.properties = {p.key: p.value for p in self.model.metadata_props}
        if self.properties.get(SCHEMA_KEY) != SCHEMA:
            found = self.properties.get(SCHEMA_KEY, "missing")
            raise self.refuse(f"its {SCHEMA_KEY} is {found}, it must be {SCHEMA}", "the file is cut, or no export of edgedistill's")
        self.nodes = {node.name: node for node in self.model.graph.node}
        self.makers = {output: node for node in self.model.graph.node for output in node.output if output}
        self.tensors = {tensor.name: tensor for tensor in self.model.graph.initializer}
        self.layers = sum(node.op_type == "GroupQueryAttention" for node in self.model.graph.node)
        if not self.layers:
            raise self.refuse("has no attention")

    def refuse(self, what: str, why: str = "it is damaged or was changed after the export. Export it again.") -> InputError:
        """The error of a malformed file. `what` may quote the file, which can hold line breaks and terminal codes."""
        return InputError(f"{self.path}: {visible(what[:MAX_QUOTED], lines=False)}; {why}")

    def weights(self) -> Iterator[Weight]:
        """Every tensor of the model, one at a time; a tied table once."""
        sizes = self.sizes
        embedding = self._packed(self._node("model.embed_tokens", "GatherBlockQuantized"), EMBEDDING)
        yield embedding
        queries, keys = sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim
        for index in range(self.layers):
            at = f"model.layers.{index}."
            yield self._norm(f"{at}input_layernorm", f"{at}input_layernorm.weight")
            joined = self._matrix(f"{at}self_attn.qkv_proj")
            yield joined.rows(f"{at}self_attn.q_proj.weight", 0, queries)
            yield joined.rows(f"{at}self_attn.k_proj.weight", queries, keys)
            yield joined.rows(f"{at}self_attn.v_proj.weight", queries + keys, keys)
            yield self._matrix(f"{at}self_attn.o_proj")
            yield self._norm(f"{at}post_attention_layernorm", f"{at}post_attention_layernorm.weight")
            joined = self._matrix(f"{at}mlp.gate_up_proj")
            yield joined.rows(f"{at}mlp.gate_proj.weight", 0, sizes.ffn)
            yield joined.rows(f"{at}mlp.up_proj.weight", sizes.ffn, sizes.ffn)
            yield self._matrix(f"{at}mlp.down_proj")
        yield self._norm("model.norm", FINAL_NORM)
        head = self._matrix("lm_head")
        if not sizes.tied:
            yield Weight(HEAD, head.bits, head.codes, head.scales)

    @property
    def accuracy_level(self) -> int:
        """How the matrices treat activations: 4 rounds them to int8, 0 keeps them float32."""
        level = _attribute(self._node("lm_head", "MatMulNBits"), "accuracy_level")
        if not isinstance(level, int):
            raise self.refuse("has no accuracy_level in lm_head")
        return level

    @cached_property
    def sizes(self) -> Sizes:
        """The model's sizes; every layer agrees on them."""
        found = {self._layer_sizes(index) for index in range(self.layers)}
        if len(found) != 1:
            raise self.refuse("has layers of different sizes")
        width, heads, kv_heads, head_dim, ffn = found.pop()
        embedding, head = self._node("model.embed_tokens", "GatherBlockQuantized"), self._node("lm_head", "MatMulNBits")
        epsilons = {_attribute(node, "epsilon") for node in self.model.graph.node if node.op_type in NORM_OPS}
        if len(epsilons) != 1 or not isinstance(epsilon := epsilons.pop(), float):
            raise self.refuse("has norms of different epsilon")
        tied = embedding.input[0] == head.input[1]
        if tied and self._initializer_behind(embedding.input[2]) != self._initializer_behind(head.input[2]):
            raise self.refuse("has one table for embedding and output, but two sets of scales")
        return Sizes(self.layers, width, heads, kv_heads, head_dim, ffn, self._number(head, "N"), tied, epsilon)

    def _layer_sizes(self, index: int) -> tuple[int, int, int, int, int]:
        at = f"model.layers.{index}."
        attention = self._node(f"{at}self_attn", "GroupQueryAttention")
        heads, kv_heads = self._number(attention, "num_heads"), self._number(attention, "kv_num_heads")
        qkv, gate_up = self._node(f"{at}self_attn.qkv_proj", "MatMulNBits"), self._node(f"{at}mlp.gate_up_proj", "MatMulNBits")
        rows, both = self._number(qkv, "N"), self._number(gate_up, "N")
        if rows % (heads + 2 * kv_heads) or both % 2:
            raise self.refuse(f"has {rows} rows in {qkv.name} and {both} in {gate_up.name}, which don't part evenly")
        return self._number(qkv, "K"), heads, kv_heads, rows // (heads + 2 * kv_heads), both // 2

    def _node(self, name: str, op: str) -> NodeProto:
        node = self.nodes.get(name)
        if node is None or node.op_type != op:
            raise self.refuse(f"has no {op} node named {name}")
        return node

    def _number(self, node: NodeProto, attribute: str) -> int:
        value = _attribute(node, attribute)
        if not isinstance(value, int) or value < 1:
            raise self.refuse(f"has {attribute} = {value!r} in {node.name}, where a number above 0 must stand")
        return value

    def _norm(self, node_name: str, name: str) -> Weight:
        node = self.nodes.get(node_name)
        if node is None or node.op_type not in NORM_OPS or len(node.input) <= NORM_OPS[node.op_type]:
            raise self.refuse(f"has no norm named {node_name}")
        return Weight(name, None, None, self.array(node.input[NORM_OPS[node.op_type]], np.float32, (self.sizes.width,)))

    def _matrix(self, name: str) -> Weight:
        node = self._node(name, "MatMulNBits")
        weight = self._packed(node, f"{name}.weight", first_input=1)
        assert weight.codes is not None
        found, stated = (weight.codes.shape[0], weight.codes.shape[1] * BLOCK), (self._number(node, "N"), self._number(node, "K"))
        if found != stated:
            raise self.refuse(f"has {list(found)} weights in {name}, whose node says {list(stated)}")
        return weight

    def _packed(self, node: NodeProto, name: str, first_input: int = 0) -> Weight:
        """Codes and scales of a node with inputs (.., codes, ids or scales, scales) and no zero points."""
        bits = self._number(node, "bits")
        if bits not in ZERO or self._number(node, "block_size") != BLOCK:
            raise self.refuse(f"has {bits}-bit blocks of {_attribute(node, 'block_size')} in {node.name}")
        if len(node.input) != 3:
            raise self.refuse(f"has {len(node.input)} inputs at {node.name}; codes and scales without zero points are expected")
        tensor = self.tensors.get(node.input[first_input])
        dims = tuple(tensor.dims) if tensor else ()
        if len(dims) != 3 or dims[2] != BLOCK * bits // 8:
            raise self.refuse(f"has codes of shape {list(dims)} at {node.name}")
        codes = self.array(node.input[first_input], np.uint8, dims)
        scales = self.array(self._initializer_behind(node.input[2]), np.float16, dims[:2])
        return Weight(name, bits, codes.astype(np.uint8, copy=False), scales)

    def _initializer_behind(self, name: str) -> str:
        """The stored tensor that a widened, reshaped value comes from."""
        for _ in range(2):
            maker = self.makers.get(name)
            if maker is not None and maker.op_type in ("Cast", "Unsqueeze") and maker.input:
                name = maker.input[0]
        return name

    def array(self, name: str, dtype: type[np.generic], dims: tuple[int, ...]) -> Array:
        """An initializer's values, checked against what the caller expects."""
        tensor = self.tensors.get(name)
        if tensor is None or DTYPES.get(tensor.data_type) is not dtype or tuple(tensor.dims) != dims:
            found = f"data type {tensor.data_type} {list(tensor.dims)}" if tensor is not None else "nothing"
            raise self.refuse(f"has {found} for {name}, where {np.dtype(dtype).name} {list(dims)} must stand")
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
