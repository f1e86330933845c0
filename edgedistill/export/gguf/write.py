"""Write a checkpoint on its grid as a GGUF file that llama.cpp loads: codes and scales as they are, nothing rounded again.

The bytes depend on the arguments alone: no time, no host, no order of a set. A file stands under its name only when
it is whole: it is written beside it, brought to the disk and renamed.
Keys: docs/gguf.md of ggml, and what llama.cpp's converter writes for the llama family.
"""

import contextlib
import json
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
from edgedistill.errors import InputError, RunError
from edgedistill.facts import ModelShape
from edgedistill.formats import F16, F32, FORMATS, NumberFormat
from edgedistill.models import rope
from edgedistill.models.llama_names import ARCHITECTURE, ROPE_FREQS, gguf_name, permuted_heads, to_gguf_rows
from edgedistill.models.vocabulary import SPECIAL_IDS, UNUSED, Vocabulary, from_folder, padding_token
from edgedistill.quant.checkpoint import GridCheckpoint
from edgedistill.quant.grids import GridTensor
from edgedistill.store.files import sync_folder

Metadata = Mapping[str, str | int | float]

FILE_TYPES = {
    "f32": gguf.LlamaFileType.ALL_F32,
    "f16": gguf.LlamaFileType.MOSTLY_F16,
    "q4_0": gguf.LlamaFileType.MOSTLY_Q4_0,
    "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
}
# Metadata that GGUF has a name of its own for; everything else goes under edgedistill.
GENERAL = ("name", "author", "organization", "description", "license", "license.name", "license.link", "url", "basename", "finetune")
ID_KEYS = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}
SPARE_BYTES = 16 << 20  # left free on the disk beside the file


def float_checkpoint(tensors: Mapping[str, torch.Tensor], mix: str) -> GridCheckpoint:
    """A checkpoint of plain tensors: mix "f32" keeps them, "f16" rounds all but the norms to the nearest float16.

    Raises:
        ValueError: another mix, or a value too large for float16.
    """
    if mix not in ("f32", "f16"):
        raise ValueError(f"a checkpoint without grids is of mix f32 or f16, not {mix!r}")
    plain: dict[str, GridTensor | torch.Tensor] = {}
    for name, tensor in tensors.items():
        value = tensor.detach().float()
        if mix == "f16" and value.ndim == 2:
            value = value.half().float()
        if not torch.isfinite(value).all():
            raise ValueError(f"{name} holds a value that {mix} can't; float16 ends at 65504")
        plain[name] = value
    return GridCheckpoint(mix, plain)


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
    writer = gguf.GGUFWriter(None, ARCHITECTURE)
    _add_model(writer, shape, formats)
    _add_metadata(writer, checkpoint.mix, metadata)
    _add_tokenizer(writer, vocabulary)

    factors = _rope_factors(shape)
    if factors is not None:
        writer.add_tensor_info(ROPE_FREQS, factors.shape, factors.dtype, factors.nbytes)
    size = 0
    for tensor in shape.tensors():
        number_format = formats[tensor.name]
        dimensions = (tensor.cols,) if tensor.kind == "norm" else (tensor.rows, tensor.cols)
        size += (length := number_format.tensor_bytes(tensor.rows, tensor.cols))
        # Quantized bytes are announced by their byte shape, which the writer turns back into the weights' own.
        row_bytes = (*dimensions[:-1], number_format.tensor_bytes(1, tensor.cols)) if number_format.quantized else dimensions
        dtype = np.dtype(np.uint8 if number_format.quantized else np.float16 if number_format is F16 else np.float32)
        kind = gguf.GGMLQuantizationType(number_format.ggml_type)
        writer.add_tensor_info(gguf_name(tensor.name), row_bytes, dtype, length, raw_dtype=kind)

    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if (free := shutil.disk_usage(out.parent).free) < size + SPARE_BYTES:
            raise RunError(f"{out}: needs {size + SPARE_BYTES} bytes, the disk has {free} free. Free some, or choose another folder.")
        _write(writer, temporary, [] if factors is None else [factors], checkpoint, shape)
        temporary.replace(out)
        sync_folder(out.parent)
    except OSError as error:
        raise RunError(f"{out}: it can't be written ({error.strerror or error}). Free some disk, or choose another folder.") from error
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            temporary.unlink()
    return out


def tensor_format(checkpoint: GridCheckpoint, name: str) -> NumberFormat:
    """How a tensor is stored: on its grid; a plain one as f32, or as f16 in the mix of that name unless it is a norm."""
    tensor = checkpoint.tensors[name]
    if isinstance(tensor, GridTensor):
        return FORMATS[tensor.grid]
    return F16 if checkpoint.mix == "f16" and tensor.ndim == 2 else F32


def packed(checkpoint: GridCheckpoint, name: str, shape: ModelShape) -> NDArray[np.generic]:
    """A tensor as the file holds it: uint8 [O, row bytes] or floats, rows of q and k in GGUF's order."""
    tensor = checkpoint.tensors[name]
    if isinstance(tensor, GridTensor):
        rows: NDArray[np.generic] = tensor.packed.numpy()
    else:
        rows = tensor.float().numpy()
        if tensor_format(checkpoint, name) is F16:
            half = rows.astype(np.float16)
            if not np.array_equal(half.astype(np.float32), rows):
                raise ValueError(f"{name} holds values that aren't float16; round the checkpoint first, as float_checkpoint does")
            rows = half
    heads = permuted_heads(name, shape)
    return np.ascontiguousarray(to_gguf_rows(rows, heads) if heads else rows)


def pad_vocabulary(vocabulary: Vocabulary, rows: int, folder: Path) -> Vocabulary:
    """The vocabulary with a placeholder for each row of the embedding that no token has.

    Raises:
        InputError: more tokens than rows, or no end token, for which llama.cpp would take token 11.
    """
    count = len(vocabulary.tokens)
    if count > rows:
        raise InputError(f"{folder}: its tokenizer has {count} tokens, the embedding {rows} rows; the tokenizer isn't this model's")
    if vocabulary.eos is None:
        raise InputError(f"{folder}: its tokenizer names no eos_token, so generation would never end; name one in tokenizer_config.json")
    fields = dict(vars(vocabulary))
    fields["tokens"] = (*vocabulary.tokens, *(padding_token(index) for index in range(count, rows)))
    fields["types"] = (*vocabulary.types, *(UNUSED for _ in range(count, rows)))
    return Vocabulary(**fields)


def _check_tensors(checkpoint: GridCheckpoint, shape: ModelShape) -> None:
    wanted = {t.name: (t.cols,) if t.kind == "norm" else (t.rows, t.cols) for t in shape.tensors()}
    if odd := sorted(wanted.keys() ^ checkpoint.tensors.keys()):
        raise ValueError(f"the checkpoint and the model's shape differ in {len(odd)} tensors, first {odd[0]}")
    for name, size in wanted.items():
        if tuple(checkpoint.tensors[name].shape) != size:
            raise ValueError(f"{name} is {list(checkpoint.tensors[name].shape)} in the checkpoint, {list(size)} in the model's shape")


def _add_model(writer: gguf.GGUFWriter, shape: ModelShape, formats: Mapping[str, NumberFormat]) -> None:
    writer.add_type("model")
    writer.add_size_label(gguf.size_label(shape.parameters, 0, 0, 0))
    writer.add_block_count(shape.layers)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(shape.rope_theta)
    if shape.rope_scaling and shape.rope_scaling["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(shape.rope_scaling["factor"])
    elif shape.rope_scaling:
        writer.add_string(rope.STATED_KEY, json.dumps(shape.rope_scaling, sort_keys=True))
    writer.add_layer_norm_rms_eps(shape.norm_eps)
    writer.add_vocab_size(shape.vocab)
    linear = next(formats[t.name] for t in shape.tensors() if t.kind == "linear")
    writer.add_file_type(FILE_TYPES[linear.name])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


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


def _add_tokenizer(writer: gguf.GGUFWriter, vocabulary: Vocabulary) -> None:
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(list(vocabulary.tokens))
    writer.add_token_types(list(vocabulary.types))
    writer.add_token_merges(list(vocabulary.merges))
    for name in SPECIAL_IDS:
        if (index := getattr(vocabulary, name)) is not None:
            writer.add_uint32(f"tokenizer.ggml.{ID_KEYS[name]}_token_id", index)
    writer.add_add_bos_token(vocabulary.add_bos)
    writer.add_add_eos_token(vocabulary.add_eos)
    writer.add_add_space_prefix(False)
    if vocabulary.chat_template is not None:
        writer.add_chat_template(vocabulary.chat_template)


def _rope_factors(shape: ModelShape) -> NDArray[np.float32] | None:
    if not shape.rope_scaling or shape.rope_scaling["rope_type"] != "llama3":
        return None
    return np.array(rope.llama3_factors(shape.rope_theta, shape.head_dim, shape.rope_scaling), dtype=np.float32)


def _write(writer: gguf.GGUFWriter, path: Path, first: list[NDArray[np.float32]], checkpoint: GridCheckpoint, shape: ModelShape) -> None:
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
