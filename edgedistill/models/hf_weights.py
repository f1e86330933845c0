"""The safetensors of a Hugging Face folder before they are loaded: which files, and what their headers say. No torch.

Only safetensors are ever read: a pickle (.bin, .pt) can run code when it is loaded.
"""

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedistill.errors import InputError
from edgedistill.facts import EMBEDDING, HEAD, ModelShape
from edgedistill.models.vocabulary import read_json
from edgedistill.reading import require_regular

FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}  # bytes a weight
MAX_HEADER_BYTES = 100_000_000  # safetensors' own limit
GRID_FILE = "grid.safetensors"
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
COMPARED_BYTES = 2**24  # of two tensors at a time


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a safetensors file: its type by the format's name, and its bytes from `start` to before `stop`."""

    file: Path
    dtype: str
    shape: list[int]
    start: int
    stop: int


def check_weights(folder: Path, shape: ModelShape) -> int:
    """Check that the folder's safetensors hold exactly the tensors of `shape`, uncut; return the bytes of its weights.

    Raises:
        InputError: no safetensors, only pickles, a damaged or truncated file, a tensor missing, extra or of another
            shape, or an output matrix beside the embedding that config.json ties to it.
    """
    if (folder / GRID_FILE).is_file() and not any(folder.glob("model*.safetensors")):
        return (folder / GRID_FILE).stat().st_size
    stored = stored_tensors(folder)
    embedding = stored.get(EMBEDDING)
    total = 0
    for tensor in shape.tensors():
        if tensor.name not in stored:
            raise InputError(
                f"{folder}: its safetensors lack {tensor.name}, which config.json calls for; download the model again"
            )
        entry = stored.pop(tensor.name)
        expected = list(tensor.dimensions)
        if entry.shape != expected:
            raise InputError(f"{folder}: {tensor.name} has shape {entry.shape}; by config.json it must be {expected}")
        if entry.dtype not in FLOATS:
            raise InputError(
                f"{folder}: {tensor.name} is stored as {entry.dtype}; it must be one of {', '.join(FLOATS)}"
            )
        total += tensor.size * FLOATS[entry.dtype]
    for name in stored:
        # Older files repeat a tied head and store rotary tables that the config implies.
        implied = name.endswith("rotary_emb.inv_freq") or (shape.tied and name == HEAD)
        if not implied:
            raise InputError(
                f"{folder}: its safetensors hold {name}, which no plain {shape.family} has; models with additions "
                "aren't supported"
            )
    if HEAD in stored and embedding is not None and not _same_bytes(embedding, stored[HEAD]):
        raise InputError(
            f"{folder}: config.json says tie_word_embeddings, but {HEAD} in its safetensors isn't the embedding; set "
            "tie_word_embeddings to false, or leave that tensor out"
        )
    return total


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Every tensor of the folder's safetensors by its name, from their headers.

    Raises:
        InputError: as `weight_files`; or a file is damaged or cut off.
    """
    stored: dict[str, StoredTensor] = {}
    for file in weight_files(folder):
        stored.update(header_of(file))
    return stored


def weight_files(folder: Path) -> list[Path]:
    """The folder's safetensors, in transformers' order: the single file; those that the index names; all that there
    are. A model that was saved twice, in shards and then whole, has an index that is out of date.

    Raises:
        InputError: there is none, or one that the index names is missing.
    """
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    index = folder / INDEX
    if index.is_file():
        names = read_json(index).get("weight_map")
        if not isinstance(names, dict) or not all(isinstance(n, str) and Path(n).name == n for n in names.values()):
            raise InputError(
                f"{index}: weight_map must map each tensor to a file name in the folder; download the model again"
            )
        files = [folder / name for name in sorted(set(names.values()))]
        if missing := [file.name for file in files if not file.is_file()]:
            raise InputError(f"{folder}: {missing[0]} is missing, which its index names; download the model again")
        return files
    files = sorted(folder.glob("*.safetensors"))
    if (folder / "adapter_config.json").is_file():
        raise InputError(
            f"{folder}: its weights are an adapter's (adapter_config.json); merge it into its model with peft's "
            "merge_and_unload, and name that folder"
        )
    if not files:
        pickles = sorted(p.name for pattern in ("*.bin", "*.pt", "*.pth") for p in folder.glob(pattern))
        if pickles:
            raise InputError(
                f"{folder}: its weights are the pickle {pickles[0]}, which isn't loaded because a pickle can run code; "
                "convert it with transformers' save_pretrained to model.safetensors"
            )
        raise InputError(
            f"{folder}: has no *.safetensors; a model folder holds config.json, *.safetensors and tokenizer.json"
        )
    return files


def header_of(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a safetensors file, whose data must be all there, each byte once."""
    damaged = f"{path}: damaged or cut off"
    try:
        size = require_regular(path)
        with path.open("rb") as file:
            start = file.read(8)
            if len(start) < 8:
                raise InputError(f"{damaged}: it has {size} bytes; download it again")
            (length,) = struct.unpack("<Q", start)
            if length > min(size - 8, MAX_HEADER_BYTES):
                raise InputError(
                    f"{damaged}: its header of {length} bytes doesn't fit into the file's {size}; download it again"
                )
            header = json.loads(file.read(length))
        tensors = {name: _tensor(path, entry, 8 + length) for name, entry in header.items() if name != "__metadata__"}
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise InputError(f"{damaged}: its header isn't that of a safetensors file; download it again") from error
    at = 8 + length
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].stop)):
        stated = FLOATS.get(tensor.dtype)
        if tensor.start != at or (stated and math.prod(tensor.shape) * stated != tensor.stop - tensor.start):
            raise InputError(f"{damaged}: {name[:80]} isn't where its header says; download it again")
        at = tensor.stop
    if at != size:
        raise InputError(f"{damaged}: its data should end at byte {at}, the file ends at {size}; download it again")
    return tensors


def _tensor(path: Path, entry: Any, base: int) -> StoredTensor:
    """An entry of a header. Raises what a malformed one raises."""
    shape, (first, last) = list(entry["shape"]), entry["data_offsets"]
    # JSON's numbers may be floats, and as large as infinity; a size is neither.
    if not all(type(number) is int and number >= 0 for number in (first, last, *shape)) or last < first:
        raise ValueError("a size that is no whole number, or negative")
    return StoredTensor(path, str(entry["dtype"]), shape, base + first, base + last)


def _same_bytes(one: StoredTensor, other: StoredTensor) -> bool:
    """Whether two tensors are alike to the last byte, compared a piece at a time."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    with one.file.open("rb") as first, other.file.open("rb") as second:
        first.seek(one.start)
        second.seek(other.start)
        left = one.stop - one.start
        while left:
            count = min(left, COMPARED_BYTES)
            if first.read(count) != second.read(count):
                return False
            left -= count
    return True
