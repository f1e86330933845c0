"""A checkpoint's matrices in a graph: the tensors stored, and the nodes that multiply by them or look rows up.

Tensors that read the same activations and are on one grid are stored as one matrix, one below another; it has all their
names, as in `model.layers.0.self_attn.(q_proj|k_proj|v_proj)`, so that a reader can tell them apart again.

Of a matrix NAME the file holds, as `blocks` packs them:

    NAME.codes                              uint8; NAME.values where it is on no grid: float32, float16 or bfloat16
    NAME.scales    [NAME.group_scales]      float16 d a block (mxfp4: float32), and a K-quant's integers
    [NAME.offsets] [NAME.group_offsets]     the same for what is added to the weights
    [NAME.bias]                             float32

Widening and multiplying them are nodes whose inputs are constant: onnxruntime folds them when it loads the file.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import torch
from numpy.typing import NDArray
from onnx import TensorProto

from edgedistill.export.onnx.blocks import CodeLayout, Packed, pack
from edgedistill.export.onnx.nodes import MS, Nodes, Store
from edgedistill.quant.checkpoint import GridCheckpoint
from edgedistill.quant.grids import GridTensor


@dataclass(frozen=True)
class Matrix:
    """What nodes need of a stored matrix [rows, cols]: names of values in the graph.

    `codes` are its values, float32, where `layout` is None. `centers` and `offsets` are what is added to a weight,
    [rows, groups], one after the other. `minus`: the offsets are subtracted.
    """

    rows: int
    cols: int
    layout: CodeLayout | None
    codes: str
    scales: str = ""
    centers: str = ""
    offsets: str = ""
    minus: bool = False
    bias: str = ""


class Matrices(Nodes):
    """Nodes over the matrices of one checkpoint."""

    def __init__(self, checkpoint: GridCheckpoint, store: Store, accuracy_level: int) -> None:
        super().__init__(store)
        self.checkpoint = checkpoint
        self.accuracy_level = accuracy_level

    def linear(self, room: str, names: Sequence[str], x: str) -> list[str]:
        """x [B, T, I] times each of the modules `room.NAME`, biases added: values [B, T, O], one a name.

        Neighbours on one grid are multiplied at once and their outputs split.
        """
        outputs_by_part: list[str] = []
        for group in self.neighbours(room, names):
            joined, out = self.joined(room, group, x)
            if len(group) == 1:
                outputs_by_part.append(out)
                continue
            rows = [self.checkpoint.tensors[f"{room}.{name}.weight"].shape[0] for name in group]
            outputs = [f"{room}.{name}.out" for name in group]
            self.node(
                "Split", [out, self.integers(f"{joined}.rows", *rows)], f"{joined}.split", outputs=outputs, axis=-1
            )
            outputs_by_part += outputs
        return outputs_by_part

    def neighbours(self, room: str, names: Sequence[str]) -> list[list[str]]:
        """The names in order, grouped by which can be stored as one matrix."""
        groups: list[list[str]] = []
        kinds: list[str] = []
        for name in names:
            tensor = self.checkpoint.tensors[f"{room}.{name}.weight"]
            kind = tensor.grid if isinstance(tensor, GridTensor) else str(tensor.dtype)
            if kinds and kinds[-1] == kind:
                groups[-1].append(name)
            else:
                groups.append([name])
                kinds.append(kind)
        return groups

    def joined(self, room: str, names: Sequence[str], x: str) -> tuple[str, str]:
        """(name of the matrix of some modules, x times it)."""
        name = f"{room}.{names[0]}" if len(names) == 1 else f"{room}.({'|'.join(names)})"
        return name, self.multiply(name, x, self.matrix(name, [f"{room}.{part}" for part in names]))

    def matrix(self, name: str, parts: Sequence[str]) -> Matrix:
        """Store the weights of the modules `parts`, one below another, and their biases."""
        tensors = [self.checkpoint.tensors[f"{part}.weight"] for part in parts]
        bias = ""
        if f"{parts[0]}.bias" in self.checkpoint.tensors:
            biases = [self.checkpoint.decode(f"{part}.bias").numpy() for part in parts]
            bias = self.constant(f"{name}.bias", np.concatenate(biases))
        grids = [tensor for tensor in tensors if isinstance(tensor, GridTensor)]
        if not grids:
            values = np.concatenate([plain_values(tensor) for tensor in tensors if isinstance(tensor, torch.Tensor)])
            stored = self.constant(f"{name}.values", values)
            wide = self.widen(f"{name}.widen", stored) if values.dtype != np.float32 else stored
            return Matrix(values.shape[0], values.shape[1], None, wide, bias=bias)
        return self.packed_matrix(name, join([pack(tensor) for tensor in grids]), bias)

    def packed_matrix(self, name: str, packed: Packed, bias: str) -> Matrix:
        """Store a packed matrix and the nodes that make its scales and offsets, each float32 [O, groups]."""
        rows, blocks, _ = packed.codes.shape
        codes = self.constant(f"{name}.codes", packed.codes)
        values = []
        for what, factors in (("scales", packed.scales), ("offsets", packed.offsets)):
            if not factors:
                values.append("")
                continue
            value = self.widen(f"{name}.widen_{what}", self.constant(f"{name}.{what}", factors[0]))
            if len(factors) == 2:
                each = self.widen(f"{name}.widen_group_{what}", self.constant(f"{name}.group_{what}", factors[1]))
                column = self.node("Unsqueeze", [value, self.integers("last", -1)], f"{name}.column_{what}")
                spread = self.node("Mul", [column, each], f"{name}.spread_{what}")
                value = self.node("Reshape", [spread, self.integers("rows", 0, -1)], f"{name}.all_{what}")
            values.append(value)
        scales, offsets = values
        centers = ""
        if packed.layout.center:
            center = self.number(f"center_{packed.layout.center}", packed.layout.center)
            centers = self.node("Mul", [scales, center], f"{name}.centers")
        return Matrix(
            rows,
            blocks * packed.layout.block,
            packed.layout,
            codes,
            scales,
            centers,
            offsets,
            minus=len(packed.offsets) == 2,
            bias=bias,
        )

    def widen(self, name: str, stored: str) -> str:
        """Stored numbers as float32."""
        return self.node("Cast", [stored], name, to=TensorProto.FLOAT)

    def multiply(self, name: str, x: str, matrix: Matrix, outputs: Sequence[str] = ()) -> str:
        """x [B, T, I] times the matrix transposed, its bias added."""
        layout = matrix.layout
        if layout is None:
            out = outputs if not matrix.bias else ()
            value = self.node("FusedMatMul", [x, matrix.codes], name, MS, out, transB=1)
            return self.node("Add", [value, matrix.bias], f"{name}.biased", outputs=outputs) if matrix.bias else value
        inputs = [x, matrix.codes, matrix.scales]
        if not layout.usual_zero:
            per_row = -(-matrix.cols // layout.block * layout.bits // 8)
            inputs.append(self.zero_points(f"{name}.zeros", layout, matrix.rows, per_row))
        if matrix.bias:
            inputs += [""] * (5 - len(inputs)) + [matrix.bias]
        out = outputs if not matrix.offsets else ()
        value = self.node(
            "MatMulNBits",
            inputs,
            name,
            MS,
            out,
            K=matrix.cols,
            N=matrix.rows,
            bits=layout.bits,
            block_size=layout.block,
            accuracy_level=self.accuracy_level,
        )
        if not matrix.offsets:
            return value
        grouped = self.node(
            "Reshape", [x, self.integers(f"groups_of_{layout.block}", 0, 0, -1, layout.block)], f"{name}.grouped"
        )
        sums = self.node("ReduceSum", [grouped, self.integers("last", -1)], f"{name}.sums", keepdims=0)
        for what, done, added in (("center", "centered", matrix.centers), ("shift", "shifted", matrix.offsets)):
            term = self.node("FusedMatMul", [sums, added], f"{name}.{what}", MS, transB=1)
            last = what == "shift"
            value = self.node(
                "Sub" if last and matrix.minus else "Add",
                [value, term],
                f"{name}.{done}",
                outputs=outputs if last else (),
            )
        return value

    def gather(self, name: str, ids: str, matrix: Matrix) -> str:
        """Rows of the matrix for ids [B, T]: [B, T, I]."""
        layout = matrix.layout
        if layout is None:
            return self.node("Gather", [matrix.codes, ids], name)
        # The table keeps MatMulNBits' three dimensions, so that nothing big is reshaped and copied at load.
        inputs = [
            matrix.codes,
            ids,
            self.node("Unsqueeze", [matrix.scales, self.integers("last", -1)], f"{name}.scales_3d"),
        ]
        if not layout.usual_zero:
            inputs.append(self.zero_points(f"{name}.zeros", layout, matrix.rows, matrix.cols // layout.block, 1))
        rows = self.node(
            "GatherBlockQuantized",
            inputs,
            name,
            MS,
            bits=layout.bits,
            block_size=layout.block,
            gather_axis=0,
            quantize_axis=2,
        )
        for what, done, added in (("center", "centered", matrix.centers), ("shift", "shifted", matrix.offsets)):
            if not matrix.offsets:
                break
            gathered = self.node("Gather", [added, ids], f"{name}.{what}")
            column = self.node("Unsqueeze", [gathered, self.integers("last", -1)], f"{name}.{what}_column")
            rows = self.node("Sub" if matrix.minus and what == "shift" else "Add", [rows, column], f"{name}.{done}")
        return self.node("Reshape", [rows, self.integers("flat", 0, 0, matrix.cols)], f"{name}.flat")

    def zero_points(self, name: str, layout: CodeLayout, *dims: int) -> str:
        """Packed zero points, all alike."""
        byte = self.constant(f"zero_{layout.bits}_{layout.zero}", np.array([layout.zero_byte], np.uint8))
        return self.node("Expand", [byte, self.integers(f"{name}.size", *dims)], name)


def join(parts: Sequence[Packed]) -> Packed:
    """Matrices on one grid, one below another."""
    if len(parts) == 1:
        return parts[0]
    columns = [np.concatenate(arrays) for arrays in zip(*(part.arrays for part in parts), strict=True)]
    cut = 1 + len(parts[0].scales)
    return Packed(parts[0].layout, columns[0].astype(np.uint8, copy=False), tuple(columns[1:cut]), tuple(columns[cut:]))


def plain_values(tensor: torch.Tensor) -> NDArray[np.generic]:
    """A tensor that is on no grid, in its own type."""
    if tensor.dtype == torch.bfloat16:
        return tensor.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return np.asarray(tensor.contiguous().numpy())
