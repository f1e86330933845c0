"""Write a checkpoint on its grid as a GGUF file that llama.cpp loads; codes and scales stay, nothing is rounded again.

The bytes depend on the arguments alone: no time, no host, no order of a set. The file is written under another name,
brought to the disk and then renamed, so that only a whole one has its name.
"""

import contextlib
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np
import torch
from numpy.typing import NDArray

from edgedistill import __version__
from edgedistill.errors import RunError
from edgedistill.export.compare import multiplier
from edgedistill.export.gguf.model_keys import add_model, rope_factors
from edgedistill.export.gguf.tokenizer import add_tokenizer, known_name, pad_vocabulary
from edgedistill.facts import ModelShape
from edgedistill.families import FAMILIES
from edgedistill.formats import F32, FORMATS, NumberFormat
from edgedistill.models.gguf_names import gguf_names, permuted_heads, to_gguf_rows
from edgedistill.models.vocabulary import from_folder
from edgedistill.quant.checkpoint import GridCheckpoint
from edgedistill.quant.grids import GridTensor
from edgedistill.quant.rounded import FLOAT_NAMES, FLOATS, RoundedTensors, round_weights
from edgedistill.store.whole import sync_folder

Metadata = Mapping[str, str | int | float]

# Metadata that GGUF has a name of its own for; everything else goes under edgedistill.
GENERAL = (
    "name",
    "author",
    "organization",
    "description",
    "license",
    "license.name",
    "license.link",
    "url",
    "basename",
    "finetune",
)
STORED = {"f32": np.float32, "f16": np.float16, "bf16": np.uint16}  # as numpy holds them
SPARE_BYTES = 16 << 20  # left free on the disk beside the file


def float_checkpoint(tensors: Mapping[str, torch.Tensor], mix: str) -> GridCheckpoint:
    """A checkpoint of plain tensors: mix "f32" keeps them, "f16" and "bf16" round all but norms and biases.

    Raises:
        ValueError: another mix.
        InputError: a value that the mix can't hold.
    """
    if mix not in FLOATS:
        raise ValueError(f"a checkpoint without grids is of mix {', '.join(FLOATS)}, not {mix!r}")
    return round_weights(
        tensors, {name: F32 if tensor.ndim == 1 else FORMATS[mix] for name, tensor in tensors.items()}, mix
    )


def write_gguf(checkpoint: GridCheckpoint, folder: Path, shape: ModelShape, out: Path, metadata: Metadata) -> Path:
    """Write `checkpoint` to `out`.

    Args:
        folder: a Hugging Face folder with the model's tokenizer.
        shape: the model's shape; the checkpoint holds exactly its tensors.
        metadata: name, license, author and the like become `general.*`; any other key becomes `edgedistill.KEY`.
    Returns:
        `out`.
    Raises:
        InputError: the tokenizer can't be carried over, or has more tokens than the embedding has rows.
        RunError: the disk is full or the folder can't be written; no partial file is left.
        ValueError: the checkpoint's tensors aren't those of the shape.
    """
    vocabulary = pad_vocabulary(from_folder(folder), shape.vocab, folder)
    formats = {name: tensor_format(checkpoint, name) for name in checkpoint.tensors}
    _check_tensors(checkpoint, shape)
    logging.getLogger("gguf.gguf_writer").setLevel(logging.ERROR)
    writer = gguf.GGUFWriter(None, FAMILIES[shape.family].architecture)
    add_model(writer, shape, formats)
    stated = metadata.get("name", metadata.get("general.name"))
    name = known_name(None if stated is None else str(stated), vocabulary)
    _add_metadata(writer, checkpoint.mix, metadata if name is None else {**metadata, "name": name})
    add_tokenizer(writer, vocabulary)

    names = gguf_names(shape)
    factors = rope_factors(shape)
    for name, values in factors.items():
        writer.add_tensor_info(name, values.shape, values.dtype, values.nbytes)
    size = 0
    for tensor in shape.tensors():
        number_format = formats[tensor.name]
        size += (length := number_format.tensor_bytes(tensor.rows, tensor.cols))
        # Quantized bytes are announced by their byte shape, which the writer turns back into the weights' own.
        stored = (
            (tensor.rows, number_format.tensor_bytes(1, tensor.cols)) if number_format.quantized else tensor.dimensions
        )
        dtype = np.dtype(np.uint8 if number_format.quantized else STORED[number_format.name])
        kind = gguf.GGMLQuantizationType(number_format.ggml_type)
        writer.add_tensor_info(names[tensor.name], stored, dtype, length, raw_dtype=kind)

    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if (free := shutil.disk_usage(out.parent).free) < size + SPARE_BYTES:
            raise RunError(
                f"{out}: needs {size + SPARE_BYTES} bytes, the disk has {free} free. Free some, or choose "
                "another folder."
            )
        _write(writer, temporary, list(factors.values()), checkpoint, shape)
        temporary.replace(out)
        sync_folder(out.parent)
    except OSError as error:
        raise RunError(
            f"{out}: it can't be written ({error.strerror or error}). Free some disk, or choose another folder."
        ) from error
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            temporary.unlink()
    return out


def tensor_format(checkpoint: GridCheckpoint, name: str) -> NumberFormat:
    """How a tensor is stored: on its grid, or as the float type that it has."""
    if isinstance(checkpoint.tensors, RoundedTensors):  # without rounding it now
        return checkpoint.tensors.formats[name]
    tensor = checkpoint.tensors[name]
    return FORMATS[tensor.grid if isinstance(tensor, GridTensor) else FLOAT_NAMES[tensor.dtype]]


def packed(checkpoint: GridCheckpoint, name: str, shape: ModelShape) -> NDArray[np.generic]:
    """A tensor as the file holds it: uint8 [O, row bytes] or floats.

    Rows of q and k come in GGUF's order, gemma's norms as 1 + w.
    """
    tensor = checkpoint.tensors[name]
    expected = next(t.dimensions for t in shape.tensors() if t.name == name)
    if tuple(tensor.shape) != expected:
        raise ValueError(f"{name} is {list(tensor.shape)} in the checkpoint, {list(expected)} in the model's shape")
    if isinstance(tensor, GridTensor):
        rows: NDArray[np.generic] = tensor.packed.numpy()
    elif tensor.dtype == torch.bfloat16:
        rows = tensor.view(torch.int16).numpy().view(np.uint16)  # numpy has no bfloat16
    else:
        rows = multiplier(name, tensor.numpy(), shape.norm_offset)
    heads = permuted_heads(name, shape)
    return np.ascontiguousarray(to_gguf_rows(rows, heads) if heads else rows)


def _check_tensors(checkpoint: GridCheckpoint, shape: ModelShape) -> None:
    dimensions = {t.name: t.dimensions for t in shape.tensors()}
    if odd := sorted(dimensions.keys() ^ checkpoint.tensors.keys()):
        raise ValueError(f"the checkpoint and the model's shape differ in {len(odd)} tensors, first {odd[0]}")
    if isinstance(checkpoint.tensors, RoundedTensors):  # its tensors are compared as they are written
        return
    for name, size in dimensions.items():
        if tuple(checkpoint.tensors[name].shape) != size:
            raise ValueError(
                f"{name} is {list(checkpoint.tensors[name].shape)} in the checkpoint, {list(size)} in the model's shape"
            )


def _add_metadata(writer: gguf.GGUFWriter, mix: str, metadata: Metadata) -> None:
    entries: dict[str, str | int | float] = {"edgedistill.version": __version__, "edgedistill.mix": mix}
    for key, value in metadata.items():
        plain = key.removeprefix("general.").removeprefix("edgedistill.")
        entries[f"general.{plain}" if plain in GENERAL else f"edgedistill.{plain}"] = value
    for key in sorted(entries):
        value = entries[key]
        if isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_int64(key, value)
        else:
            writer.add_float64(key, value)


def _write(
    writer: gguf.GGUFWriter, path: Path, first: list[NDArray[np.float32]], checkpoint: GridCheckpoint, shape: ModelShape
) -> None:
    """Header, metadata and tensors to `path`, one tensor in memory at a time, and all of it to the disk."""
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for extra in first:
        writer.write_tensor_data(extra)
    for tensor in shape.tensors():
        writer.write_tensor_data(packed(checkpoint, tensor.name, shape))
    writer.close()
    with path.open("rb") as file:
        os.fsync(file.fileno())
