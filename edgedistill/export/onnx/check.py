"""Prove that an ONNX export holds a checkpoint: weights and codes bit for bit, graph, rotary angles, tokenizer."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto
from torch import Tensor

from edgedistill.errors import VerifyError
from edgedistill.export.compare import Comparison, WeightDifference, compare_tensors, tensor_order
from edgedistill.export.onnx.blocks import Packed, pack
from edgedistill.export.onnx.build import ALIGNMENT, MAX_POSITIONS, store_inside
from edgedistill.export.onnx.file import OnnxFile
from edgedistill.export.onnx.graph import DecoderGraph
from edgedistill.export.onnx.read import Floats, Weight, read_weights
from edgedistill.export.onnx.rotary import RotaryCaches, rotary_caches
from edgedistill.facts import ModelShape
from edgedistill.formats import FORMATS
from edgedistill.models.hf_folder import read_shape
from edgedistill.models.tokenizer import plain_tokenizer
from edgedistill.models.vocabulary import read_json
from edgedistill.quant.checkpoint import GridCheckpoint
from edgedistill.quant.grids import GridTensor
from edgedistill.runtimes.onnx import find_graph

# Angles of far positions differ in their last bit from one processor's cosine to the next.
ANGLE_TOLERANCE = 1e-6


def compare_onnx(checkpoint: GridCheckpoint, folder: Path) -> Comparison:
    """Compare every tensor of the export with the checkpoint, by value and, on a grid, code by code.

    Two blocks of scale zero have equal values whatever their codes; their codes must be equal all the same.

    Args:
        folder: the export folder, whose config.json tells the family.
    Raises:
        VerifyError: a tensor is missing, extra, or stored in another way.
        InputError: the file is damaged, or isn't an export of ours.
    """
    by_codes: dict[str, WeightDifference] = {}

    def values() -> Iterator[tuple[str, Floats]]:
        for weight in read_weights(OnnxFile(folder)):
            actual = weight.decode()
            tensor = checkpoint.tensors.get(weight.name)
            if tensor is not None and tuple(actual.shape) == tuple(tensor.shape):
                difference = _first_code(folder, weight, tensor, actual)
                if difference is not None:
                    by_codes[weight.name] = difference
            yield weight.name, actual

    norm_offset = read_shape(find_graph(folder)[0]).norm_offset
    compared = compare_tensors(checkpoint, values(), norm_offset)
    every = {**by_codes, **{difference.tensor: difference for difference in compared.differences}}
    return replace(compared, differences=tuple(every[name] for name in tensor_order(every)))


def verify_onnx(checkpoint: GridCheckpoint, folder: Path, shape: ModelShape, path: Path) -> Comparison:
    """`compare_onnx`, and the rest of the export: graph, rotary angles, tokenizer and chat template are the model's.

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
    caches = rotary_caches(folder, shape, min(shape.context, MAX_POSITIONS))
    _require_graph(checkpoint, shape, file, caches)
    for name, expected in caches.named().items():
        actual = file.array(name, (np.float32,), expected.shape)
        wrong = ~(np.abs(actual - expected) <= ANGLE_TOLERANCE)
        if wrong.any():
            at = int(np.argwhere(wrong)[0][0])
            raise VerifyError(
                f"{path}: {name} differs from the model's rotary angles, first at position {at}. Export it again."
            )
    if (path / "tokenizer.json").read_bytes() != plain_tokenizer(folder):
        raise VerifyError(f"{path}: its tokenizer.json isn't the checkpoint's. Export it again.")
    template = folder / "chat_template.jinja"
    if template.is_file() and read_json(path / "tokenizer_config.json").get("chat_template") != template.read_text(
        encoding="utf-8"
    ):
        raise VerifyError(
            f"{path}: its tokenizer_config.json doesn't hold the checkpoint's chat template. Export it again."
        )
    return compared


def _first_code(folder: Path, weight: Weight, tensor: GridTensor | Tensor, actual: Floats) -> WeightDifference | None:
    """The first block whose codes or scales aren't the checkpoint's, or None.

    Raises:
        VerifyError: the tensor is stored in another way.
    """
    if not isinstance(tensor, GridTensor):
        dtype_name = str(tensor.dtype).removeprefix("torch.")
        same = not isinstance(weight.stored, Packed) and weight.stored.dtype.name == dtype_name
        if not same and tensor.ndim == 2:
            raise VerifyError(
                f"{folder}: {weight.name} is stored in {weight.format}, the checkpoint's is {dtype_name}; "
                "export it again"
            )
        return None
    expected = pack(tensor)
    stored = weight.stored
    if not isinstance(stored, Packed) or stored.layout != expected.layout or len(stored.arrays) != len(expected.arrays):
        raise VerifyError(
            f"{folder}: {weight.name} is stored in {weight.format}, not as {tensor.grid} is; export it again"
        )
    rows, block = tensor.shape[0], FORMATS[tensor.grid].block
    unequal = np.zeros((rows, tensor.shape[1] // block), np.bool_)
    for ours, theirs in zip(expected.arrays, stored.arrays, strict=True):
        if ours.dtype != theirs.dtype or ours.shape != theirs.shape:
            raise VerifyError(
                f"{folder}: {weight.name} is stored in {weight.format}, not as {tensor.grid} is; export it again"
            )
        one, other = (
            np.ascontiguousarray(array).view(np.uint8).reshape(*unequal.shape, -1) for array in (ours, theirs)
        )
        unequal |= (one != other).any(-1)
    if not unequal.any():
        return None
    row, at = (int(i) for i in np.unravel_index(int(unequal.argmax()), unequal.shape))
    return WeightDifference(
        weight.name, row, at, float(tensor.decode()[row, at * block]), float(actual[row, at * block])
    )


def _require_graph(checkpoint: GridCheckpoint, shape: ModelShape, file: OnnxFile, caches: RotaryCaches) -> None:
    """Raise VerifyError unless the file has the very nodes, inputs, outputs and constants that this schema builds."""

    def keep_small(name: str, values: NDArray[np.generic]) -> TensorProto:
        return store_inside(name, values if values.nbytes < ALIGNMENT else values[:0])

    level = file.accuracy_level
    expected = DecoderGraph(checkpoint, shape, keep_small, level).build(caches)
    for kind in ("node", "input", "output"):
        ours, theirs = getattr(expected, kind), getattr(file.model.graph, kind)
        for index, (one, other) in enumerate(zip(ours, theirs, strict=False)):
            if one != other:
                raise VerifyError(
                    f"{file.path}: {kind} {index}, {one.name}, isn't as the export writes it. Export it again."
                )
        if len(ours) != len(theirs):
            raise VerifyError(
                f"{file.path}: it has {len(theirs)} {kind}s, the export writes {len(ours)}. Export it again."
            )
    for tensor in expected.initializer:
        constant = file.tensors.get(tensor.name)
        if constant is None or (tensor.raw_data and constant.raw_data != tensor.raw_data):
            raise VerifyError(f"{file.path}: constant {tensor.name} isn't as the export writes it. Export it again.")
    stored, built = len(file.model.graph.initializer), len(expected.initializer)
    if stored != built:
        raise VerifyError(f"{file.path}: it has {stored} stored tensors, the export writes {built}. Export it again.")
