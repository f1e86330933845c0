"""Prove that an ONNX export holds a checkpoint: weights and codes bit for bit, sizes, graph, rotary angles, tokenizer."""

from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from edgedistill.errors import VerifyError
from edgedistill.export.compare import Comparison, Difference, compare_tensors, tensor_order
from edgedistill.export.onnx.blocks import onnx_bits, pack
from edgedistill.export.onnx.build import ALIGNMENT, MAX_POSITIONS, rotary_caches, store_inside
from edgedistill.export.onnx.graph import LlamaGraph
from edgedistill.export.onnx.read import Floats, OnnxFile, Sizes, Weight
from edgedistill.facts import ModelShape
from edgedistill.formats import FORMATS
from edgedistill.models.vocabulary import read_json
from edgedistill.quant.checkpoint import GridCheckpoint
from edgedistill.quant.grids import GridTensor

# Angles of far positions differ in their last bit from one processor's cosine to the next.
ANGLE_TOLERANCE = 1e-6


def compare_onnx(checkpoint: GridCheckpoint, folder: Path) -> Comparison:
    """Compare every tensor of the export with the checkpoint, by value and, on a grid, code by code.

    Two blocks of scale zero have equal values whatever their codes; their codes must be equal all the same.

    Raises:
        VerifyError: a tensor is missing, extra, or stored in another width.
        InputError: the file is damaged, or isn't an export of ours.
    """
    by_codes: dict[str, Difference] = {}

    def values() -> Iterator[tuple[str, Floats]]:
        for weight in OnnxFile(folder).weights():
            found = weight.decode()
            tensor = checkpoint.tensors.get(weight.name)
            if isinstance(tensor, GridTensor):
                if weight.bits != onnx_bits(tensor.grid):
                    stored = f"{weight.bits} bits" if weight.bits else "float32"
                    raise VerifyError(f"{folder}: {weight.name} is stored in {stored}, the checkpoint's is {tensor.grid}; export it again")
                difference = _first_code(weight, tensor, found)
                if difference is not None:
                    by_codes[weight.name] = difference
            yield weight.name, found

    compared = compare_tensors(checkpoint, values())
    every = {**by_codes, **{difference.tensor: difference for difference in compared.differences}}
    return replace(compared, differences=tuple(every[name] for name in tensor_order(every)))


def verify_onnx(checkpoint: GridCheckpoint, folder: Path, shape: ModelShape, path: Path) -> Comparison:
    """`compare_onnx`, and the rest of the export: sizes, graph, rotary angles, tokenizer and chat template are the model's.

    Args:
        folder: the checkpoint's folder, with its tokenizer.
        path: the export folder.
    Raises:
        VerifyError: a weight or any of these differs; the message names it.
        InputError: the export is damaged.
    """
    compared = compare_onnx(checkpoint, path)
    compared.require_equal(str(path))
    file = OnnxFile(path)
    _require_sizes(path, shape, file.sizes)
    angles = rotary_caches(shape, min(shape.context, MAX_POSITIONS))
    _require_graph(checkpoint, shape, file, angles)
    for name, expected in zip(("cos_cache", "sin_cache"), angles, strict=True):
        found = file.array(name, np.float32, expected.shape)
        wrong = ~(np.abs(found - expected) <= ANGLE_TOLERANCE)
        if wrong.any():
            at = int(np.argwhere(wrong)[0][0])
            raise VerifyError(f"{path}: {name} differs from the model's rotary angles, first at position {at}. Export it again.")
    if (path / "tokenizer.json").read_bytes() != (folder / "tokenizer.json").read_bytes():
        raise VerifyError(f"{path}: its tokenizer.json isn't the checkpoint's. Export it again.")
    template = folder / "chat_template.jinja"
    if template.is_file() and read_json(path / "tokenizer_config.json").get("chat_template") != template.read_text(encoding="utf-8"):
        raise VerifyError(f"{path}: its tokenizer_config.json doesn't hold the checkpoint's chat template. Export it again.")
    return compared


def _first_code(weight: Weight, tensor: GridTensor, found: Floats) -> Difference | None:
    """The first block whose codes or scale aren't the checkpoint's, or None. Tensors of another shape are left to the values."""
    if tuple(found.shape) != tensor.shape or weight.codes is None:
        return None
    codes, scales = pack(tensor)
    unequal = (weight.codes != codes).any(-1) | (weight.scales.view(np.uint16) != scales.view(np.uint16))
    if not unequal.any():
        return None
    row, block = (int(i) for i in np.unravel_index(int(unequal.argmax()), unequal.shape))
    col = block * FORMATS[tensor.grid].block
    return Difference(weight.name, row, block, float(tensor.decode()[row, col]), float(found[row, col]))


def _require_sizes(path: Path, shape: ModelShape, sizes: Sizes) -> None:
    for field in fields(sizes):
        ours, theirs = getattr(shape, field.name), getattr(sizes, field.name)
        ours = float(np.float32(ours)) if field.name == "norm_eps" else ours
        if ours != theirs:
            raise VerifyError(f"{path}: its {field.name} is {theirs!r}, the checkpoint's {ours!r}. Export it again.")


def _require_graph(checkpoint: GridCheckpoint, shape: ModelShape, file: OnnxFile, angles: tuple[Floats, Floats]) -> None:
    """Raise VerifyError unless the file has the very nodes, inputs, outputs and constants that this schema builds."""

    def keep_small(name: str, values: NDArray[np.generic]) -> TensorProto:
        return store_inside(name, values if values.nbytes < ALIGNMENT else values[:0])

    level = file.accuracy_level
    expected = LlamaGraph(checkpoint, shape, keep_small, level).build(*angles)
    for kind in ("node", "input", "output"):
        ours, theirs = getattr(expected, kind), getattr(file.model.graph, kind)
        for index, (one, other) in enumerate(zip(ours, theirs, strict=False)):
            if one != other:
                raise VerifyError(f"{file.path}: {kind} {index}, {one.name}, isn't as the export writes it. Export it again.")
        if len(ours) != len(theirs):
            raise VerifyError(f"{file.path}: it has {len(theirs)} {kind}s, the export writes {len(ours)}. Export it again.")
    for tensor in expected.initializer:
        found = file.tensors.get(tensor.name)
        if found is None or (tensor.raw_data and found.raw_data != tensor.raw_data):
            raise VerifyError(f"{file.path}: constant {tensor.name} isn't as the export writes it. Export it again.")
    if (stored := len(file.model.graph.initializer)) != (wanted := len(expected.initializer)):
        raise VerifyError(f"{file.path}: it has {stored} stored tensors, the export writes {wanted}. Export it again.")
