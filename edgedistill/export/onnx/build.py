"""Write a model on its grids as an ONNX folder that onnxruntime, onnxruntime-genai and transformers.js load.

    config.json, generation_config.json, tokenizer.json, tokenizer_config.json, chat_template.jinja, genai_config.json
    onnx/model_q4.onnx, onnx/model_quantized.onnx or onnx/model.onnx

transformers.js asks for a file by its dtype: q4, q8 or fp32. The model file is named by the width in which most weights
of the linear layers are stored: up to 4 bits, 8, or more. So a mix of several grids has one name, which says how the
file computes, not what it is rounded to.

Weights lie inside the .onnx file up to 1.5 GB, beyond that in `*.onnx_data` beside it: protobuf ends at 2 GiB, and a
single file is easier to download and to check. The codes and scales are the checkpoint's own; nothing is rounded here.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

from edgedistill import __version__
from edgedistill.errors import InputError, RunError
from edgedistill.export.onnx import companions
from edgedistill.export.onnx.blocks import layout_of
from edgedistill.export.onnx.file import SCHEMA, SCHEMA_KEY
from edgedistill.export.onnx.graph import DecoderGraph
from edgedistill.export.onnx.nodes import MS
from edgedistill.export.onnx.rotary import rotary_caches
from edgedistill.facts import ModelShape, check_onnx
from edgedistill.families import FAMILIES
from edgedistill.formats import FORMATS
from edgedistill.quant.checkpoint import GridCheckpoint
from edgedistill.quant.grids import GridTensor
from edgedistill.store.whole import sync_folder, sync_tree

Metadata = Mapping[str, str | int | float]

MIX_KEY, VERSION_KEY = "edgedistill.mix", "edgedistill.version"
OPSET, IR_VERSION = 21, 10  # which belong together; onnxruntime 1.23 reads them
# By the bits of a stored weight, at most.
MODEL_FILES = {4: "model_q4.onnx", 8: "model_quantized.onnx", 32: "model.onnx"}
ACCURACY_LEVELS = (0, 1, 4)  # 2 and 3 are float16 and bfloat16, for devices whose kernels have them
INSIDE_LIMIT_BYTES = 1_500_000_000
ALIGNMENT = 4096  # of tensors in the data file: onnxruntime maps them page by page
# Rotary angles are stored for each position. Past this the float32 cache of keys and values takes far more memory than
# the weights (1.5 GB for SmolLM2-135M), and the angles of Llama 3.2's 131072 positions would be 33 MB of a file.
MAX_POSITIONS = 32768


def write_onnx(
    checkpoint: GridCheckpoint, folder: Path, shape: ModelShape, out: Path, metadata: Metadata, accuracy_level: int = 4
) -> Path:
    """Write the export folder `out` and return it.

    The same input gives the same bytes. `out` appears whole or not at all; an earlier export there is replaced.

    Args:
        checkpoint: every tensor of `shape`.
        folder: config.json and the tokenizer of the model, as transformers saves them.
        metadata: becomes the model's metadata_props (name, license, teacher, recipe, run hash, ...).
        accuracy_level: 4 rounds activations to int8 (fast, as llama.cpp does), 0 keeps them float32 (for comparisons).
    Raises:
        InputError: the model, the mix, the folder or `out` isn't what can be exported.
        RunError: the disk is full or the folder can't be written; nothing partial is left.
    """
    check_exportable(checkpoint, shape, accuracy_level)
    companions.require_shape(folder, shape)
    positions = min(shape.context, MAX_POSITIONS)
    outside = stored_bytes(checkpoint) > INSIDE_LIMIT_BYTES
    model_name = model_file_name(checkpoint, shape)
    beside = companions.companion_files(folder, shape, positions, model_name, outside)
    check_replaceable(out, {*beside, *companions.OPTIONAL, "onnx"})
    new, old = out.with_name(f".{out.name}.new"), out.with_name(f".{out.name}.old")
    try:
        for leftover in (new, old):  # of a run that was killed
            if leftover.exists():
                shutil.rmtree(leftover)
        (new / "onnx").mkdir(parents=True)
        model_file = new / "onnx" / model_name
        store = OutsideStore(model_file.with_name(f"{model_name}_data")) if outside else store_inside
        graph = DecoderGraph(checkpoint, shape, store, accuracy_level).build(rotary_caches(folder, shape, positions))
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MS, 1)]
        model = helper.make_model(
            graph,
            opset_imports=opsets,
            ir_version=IR_VERSION,
            producer_name="edgedistill",
            producer_version=__version__,
        )
        facts = {**metadata, VERSION_KEY: __version__, MIX_KEY: checkpoint.mix, SCHEMA_KEY: SCHEMA}
        helper.set_model_props(model, {key: str(facts[key]) for key in sorted(facts)})
        # `deterministic` fixes the order of protobuf's maps.
        model_file.write_bytes(model.SerializeToString(deterministic=True))
        for name, content in beside.items():
            (new / name).write_bytes(content)
        sync_tree(new)
        if out.exists():
            out.rename(old)
        new.rename(out)
        sync_folder(out.parent)
        if old.exists():
            shutil.rmtree(old)
    except OSError as error:
        reason = error.strerror or error
        raise RunError(
            f"{out}: the ONNX export can't be written ({reason}). Free some disk, or choose another folder."
        ) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
        if old.exists() and not out.exists():
            old.rename(out)
    return out


def check_exportable(checkpoint: GridCheckpoint, shape: ModelShape, accuracy_level: int) -> None:
    """Raise InputError unless this builder knows the model and the checkpoint holds exactly its tensors."""
    if shape.family not in FAMILIES:
        raise InputError(f"model family '{shape.family}' has no ONNX export; supported are {', '.join(FAMILIES)}")
    if accuracy_level not in ACCURACY_LEVELS:
        raise InputError(
            f"accuracy_level is {accuracy_level}; it must be one of {', '.join(map(str, ACCURACY_LEVELS))}"
        )
    check_onnx(f"the {shape.family} to export", shape)
    shapes = {t.name: t for t in shape.tensors()}
    if odd := sorted(shapes.keys() ^ checkpoint.tensors.keys()):
        raise InputError(
            f"the checkpoint and the model's shape differ in {len(odd)} tensors, first {odd[0]}; they must be "
            "one model's"
        )
    for name, tensor in checkpoint.tensors.items():
        if tuple(tensor.shape) != shapes[name].dimensions:
            raise InputError(
                f"{name} is {list(tensor.shape)} in the checkpoint, {list(shapes[name].dimensions)} in the "
                "model's shape"
            )


def model_file_name(checkpoint: GridCheckpoint, shape: ModelShape) -> str:
    """The model file's name: see the top of this module."""
    weights = dict.fromkeys(MODEL_FILES, 0)
    for linear in (t for t in shape.tensors() if t.kind == "linear"):
        tensor = checkpoint.tensors[linear.name]
        bits = layout_of(tensor.grid).bits if isinstance(tensor, GridTensor) else 32
        weights[min(width for width in MODEL_FILES if bits <= width)] += linear.size
    return MODEL_FILES[max(weights, key=lambda width: weights[width])]


def check_replaceable(out: Path, names: set[str]) -> None:
    """Raise InputError where `out` holds anything that an export doesn't write, since it will be replaced."""
    if out.is_dir():
        strange = sorted(p.name for p in out.iterdir() if p.name not in names)
        if strange:
            raise InputError(
                f"{out} holds '{strange[0]}', which no ONNX export writes; choose an empty or a new folder."
            )
    elif out.exists():
        raise InputError(f"{out} is a file; an ONNX export is a folder. Choose another name.")


def stored_bytes(checkpoint: GridCheckpoint) -> int:
    """Bytes of all tensors as the model file holds them."""
    total = 0.0
    for tensor in checkpoint.tensors.values():
        if isinstance(tensor, GridTensor):
            total += tensor.shape[0] * tensor.shape[1] * FORMATS[tensor.grid].onnx_bits / 8
        else:
            total += tensor.numel() * tensor.element_size()
    return round(total)


def store_inside(name: str, values: NDArray[np.generic]) -> TensorProto:
    """An initializer whose bytes are part of the model file."""
    tensor = TensorProto(name=name, dims=values.shape, data_type=helper.np_dtype_to_tensor_dtype(values.dtype))
    tensor.raw_data = np.ascontiguousarray(values).tobytes()
    return tensor


class OutsideStore:
    """Initializers whose bytes go to a data file beside the model, one after another on page borders."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.end = 0
        path.touch()

    def __call__(self, name: str, values: NDArray[np.generic]) -> TensorProto:
        if values.nbytes < ALIGNMENT:  # onnxruntime reads axes and shapes before it opens the data file
            return store_inside(name, values)
        tensor = TensorProto(name=name, dims=values.shape, data_type=helper.np_dtype_to_tensor_dtype(values.dtype))
        tensor.data_location = TensorProto.EXTERNAL
        offset = -(-self.end // ALIGNMENT) * ALIGNMENT
        with self.path.open("r+b") as file:
            file.seek(offset)
            file.write(np.ascontiguousarray(values).data)
        self.end = offset + values.nbytes
        for key, value in (("location", self.path.name), ("offset", offset), ("length", values.nbytes)):
            tensor.external_data.add(key=key, value=str(value))
        return tensor
