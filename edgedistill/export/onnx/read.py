"""Read an exported ONNX model back: codes and scales under Hugging Face names, as the graph's nodes compute with them.

A node has its module's name, and its inputs lead to the stored tensors. Where one matrix holds the rows of several
modules, the attention's head counts say how many rows each has.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from edgedistill.export.onnx.blocks import WIDTHS, CodeLayout, Packed, unpack
from edgedistill.export.onnx.file import Array, OnnxFile
from edgedistill.facts import EMBEDDING, HEAD

BLOCKS = (16, 32, 64, 128, 256)
FORMAT_NAMES = {np.dtype(np.float32): "f32", np.dtype(np.float16): "f16", np.dtype(ml_dtypes.bfloat16): "bf16"}
FLOATS, INTEGERS, SCALES = (np.float32, np.float16, ml_dtypes.bfloat16), (np.int8, np.uint8), (np.float16, np.float32)

NORM_OPS = {
    "SimplifiedLayerNormalization": 1,
    "SkipSimplifiedLayerNormalization": 2,
}  # operator -> index of the input with the weight
TERMS = (".center", ".shift")  # ends of the names of nodes that are added to a matrix's product
JOINED = re.compile(r"(.+)\.\(([a-z_]+(?:\|[a-z_]+)+)\)")

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Weight:
    """One tensor as stored: on a grid, or the values [O, I] or [I] of one that is on none."""

    name: str
    stored: Packed | Array

    @property
    def bits(self) -> int | None:
        """Width of its codes in bits; None where it is on no grid."""
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


def read_onnx(folder: Path) -> Iterator[tuple[str, Floats]]:
    """(Hugging Face name, float32 [O, I] or [I]) of each tensor, as the runtime computes it; a tied table once.

    Args:
        folder: an export folder, or the .onnx file in it.
    Raises:
        InputError: the file is damaged, or isn't an export of ours.
    """
    for weight in read_weights(OnnxFile(folder)):
        yield weight.name, weight.decode()


def read_weights(file: OnnxFile) -> Iterator[Weight]:
    """Every tensor of the model, one at a time, in the order of its nodes; a tied table once."""
    return _Reader(file).weights()


class _Reader:
    """Yields the tensors of a file's nodes."""

    def __init__(self, file: OnnxFile) -> None:
        self.file = file

    def weights(self) -> Iterator[Weight]:
        embedding, head = EMBEDDING.removesuffix(".weight"), HEAD.removesuffix(".weight")
        tied = self._tied(embedding, head)
        for node in self.file.model.graph.node:
            if node.op_type in NORM_OPS:
                stored = self.file.values(self.file.input(node, NORM_OPS[node.op_type]), (np.float32,), 1)
                yield Weight(f"{node.name}.weight", stored)
            elif node.name == embedding and node.op_type in ("GatherBlockQuantized", "Gather"):
                yield Weight(EMBEDDING, self._packed(node, 0) if node.op_type != "Gather" else self._plain(node, 0))
            elif node.op_type in ("MatMulNBits", "FusedMatMul"):
                is_term, is_repeated = node.name.endswith(TERMS), tied and node.name == head
                if not is_term and not is_repeated:
                    yield from self._modules(node)

    def _tied(self, embedding: str, head: str) -> bool:
        """Whether the output layer multiplies by the embedding's own table."""
        rows, logits = self.file.nodes.get(embedding), self.file.nodes.get(head)
        if rows is None or logits is None or self.file.input(rows, 0) != self.file.input(logits, 1):
            return False
        if logits.op_type == "MatMulNBits" and self._scales_of(rows, 2) != self._scales_of(logits, 2):
            raise self.file.refuse("has one table for embedding and output, but two sets of scales")
        return True

    def _modules(self, node: NodeProto) -> Iterator[Weight]:
        """The weights and biases of a matrix, which holds the rows of one module or of several, one after another."""
        if node.op_type == "MatMulNBits":
            packed = self._packed(node, 1)
            stored: Packed | Array = packed
            size = (packed.codes.shape[0], packed.codes.shape[1] * packed.layout.block)
            stated = (self.file.number(node, "N"), self.file.number(node, "K"))
            if size != stated:
                raise self.file.refuse(f"has {list(size)} weights in {node.name}, whose node says {list(stated)}")
            bias_name = node.input[5] if len(node.input) > 5 else ""
        else:
            stored = values = self._plain(node, 1)
            size = (values.shape[0], values.shape[1])
            biased = self.file.nodes.get(f"{node.name}.biased")
            bias_name = self.file.input(biased, 1) if biased else ""
        bias = self.file.array(bias_name, (np.float32,), (size[0],)) if bias_name else None
        whole = Weight(node.name, stored)
        first = 0
        for module, rows in self._parts(node.name, size[0]):
            yield whole.rows(f"{module}.weight", first, rows)
            if bias is not None:
                yield Weight(f"{module}.bias", bias[first : first + rows])
            first += rows

    def _parts(self, name: str, rows: int) -> list[tuple[str, int]]:
        """(module, its rows) of a matrix of `rows` rows."""
        match = JOINED.fullmatch(name)
        if match is None:
            return [(name, rows)]
        parent, names = match[1], match[2].split("|")
        attention = self.file.nodes.get(parent)
        shares = [1] * len(names)
        if attention is not None and attention.op_type == "GroupQueryAttention":
            heads, kv_heads = self.file.number(attention, "num_heads"), self.file.number(attention, "kv_num_heads")
            shares = [heads if part == "q_proj" else kv_heads for part in names]
        if rows % sum(shares):
            raise self.file.refuse(f"has {rows} rows in {name}, which don't part evenly")
        return [(f"{parent}.{part}", rows // sum(shares) * share) for part, share in zip(names, shares, strict=True)]

    def _plain(self, node: NodeProto, first_input: int) -> Array:
        """The values [O, I] of a matrix that is on no grid."""
        leaves = self.file.leaves(self.file.input(node, first_input))
        if len(leaves) != 1:
            raise self.file.refuse(f"has {len(leaves)} stored tensors behind {node.name}")
        return self.file.values(leaves[0], FLOATS, 2)

    def _packed(self, node: NodeProto, first_input: int) -> Packed:
        """Codes, scales and offsets of a node with inputs (.., codes, ids or scales, scales, zero points)."""
        bits, block = self.file.number(node, "bits"), self.file.number(node, "block_size")
        if bits not in WIDTHS or block not in BLOCKS:
            raise self.file.refuse(f"has {bits}-bit blocks of {block} in {node.name}")
        tensor = self.file.tensors.get(self.file.input(node, first_input))
        dims = tuple(tensor.dims) if tensor else ()
        if len(dims) != 3 or dims[2] != block * bits // 8:
            raise self.file.refuse(f"has codes of shape {list(dims)} at {node.name}")
        codes = self.file.array(node.input[first_input], (np.uint8,), dims)
        scales = self._factors(self.file.input(node, 2), dims[0], dims[1])
        center, shift, shifted = (self.file.nodes.get(f"{node.name}.{what}") for what in ("center", "shift", "shifted"))
        if center is None or shift is None or shifted is None:
            return Packed(CodeLayout(bits, self._zero(node, bits), block), codes, scales)
        layout = CodeLayout(
            bits, self._zero(node, bits), block, self._center(node, self.file.input(center, first_input))
        )
        offsets = self._factors(self.file.input(shift, first_input), dims[0], dims[1])
        if shifted.op_type != ("Add" if len(offsets) == 1 else "Sub"):
            raise self.file.refuse(f"has {shifted.op_type} at {shifted.name}, which doesn't go with its offsets")
        return Packed(layout, codes, scales, offsets)

    def _zero(self, node: NodeProto, bits: int) -> int:
        """The code of step 0, the same for all groups: from a byte filled with it, or the operator's default."""
        if len(node.input) < 4 or not node.input[3]:
            return 1 << (bits - 1)
        maker = self.file.makers.get(node.input[3])
        if maker is None or maker.op_type != "Expand":
            raise self.file.refuse(f"has zero points at {node.name} that aren't all the same")
        byte = int(self.file.array(self.file.input(maker, 0), (np.uint8,), (1,))[0])
        zero = byte & ((1 << bits) - 1)
        if CodeLayout(bits, zero, 0).zero_byte != byte:
            raise self.file.refuse(f"has zero points at {node.name} that aren't all the same")
        return zero

    def _center(self, node: NodeProto, name: str) -> int:
        """The grid's center: the number of scales that the graph adds to the weights of each group."""
        maker = self.file.makers.get(name)
        is_product = maker is not None and maker.op_type == "Mul"
        if maker is None or not is_product or self._scales_of(maker, 0) != self._scales_of(node, 2):
            raise self.file.refuse(f"has other scales in the sums of {node.name} than in its product")
        center = float(self.file.array(self.file.input(maker, 1), (np.float32,), (1,))[0])
        if not center.is_integer() or not 0 < center < 256:
            raise self.file.refuse(f"has {center} scales added at {node.name}")
        return int(center)

    def _scales_of(self, node: NodeProto, index: int) -> list[str]:
        """The stored tensors behind an input."""
        return self.file.leaves(self.file.input(node, index))

    def _factors(self, name: str, rows: int, groups: int) -> tuple[Array, ...]:
        """The stored factors of scales or offsets [rows, groups]: a number a group, or a number a block and an integer
        a group.
        """
        leaves = self.file.leaves(name)
        tensor = self.file.tensors.get(leaves[0]) if leaves else None
        per_row = tensor.dims[1] if tensor is not None and len(tensor.dims) == 2 else 0
        if len(leaves) == 1:
            return (self.file.array(leaves[0], SCALES, (rows, groups)),)
        if len(leaves) != 2 or not per_row or groups % per_row:
            raise self.file.refuse(
                f"has {len(leaves)} stored tensors behind {name}, which don't make {rows} rows of {groups}"
            )
        integers = self.file.array(leaves[1], INTEGERS, (rows, per_row, groups // per_row))
        return self.file.array(leaves[0], SCALES, (rows, per_row)), integers
