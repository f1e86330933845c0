"""The safetensors of a Hugging Face folder before they are loaded: which files, and what their headers say. No torch.

Only safetensors are ever read: a pickle (.bin, .pt) can run code when it is loaded.
"""

import json
import struct
from pathlib import Path

from edgedistill.errors import InputError
from edgedistill.facts import HEAD, ModelShape
from edgedistill.models.vocabulary import read_json

FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}  # bytes a weight
MAX_HEADER_BYTES = 100_000_000  # safetensors' own limit
GRID_FILE = "grid.safetensors"


def check_weights(folder: Path, shape: ModelShape) -> int:
    """Check that the folder's safetensors hold exactly the tensors of `shape`, uncut; return the bytes of its weights.

    Raises:
        InputError: no safetensors, only pickles, a damaged or truncated file, a tensor missing, extra or of another
            shape.
    """
    if (folder / GRID_FILE).is_file() and not any(folder.glob("model*.safetensors")):
        return (folder / GRID_FILE).stat().st_size
    stored: dict[str, tuple[str, list[int]]] = {}
    for file in weight_files(folder):
        stored.update(_header(file))
    total = 0
    for tensor in shape.tensors():
        if tensor.name not in stored:
            raise InputError(
                f"{folder}: its safetensors lack {tensor.name}, which config.json calls for; download the model again"
            )
        dtype, dimensions = stored.pop(tensor.name)
        expected = list(tensor.dimensions)
        if dimensions != expected:
            raise InputError(f"{folder}: {tensor.name} has shape {dimensions}; by config.json it must be {expected}")
        if dtype not in FLOATS:
            raise InputError(f"{folder}: {tensor.name} is stored as {dtype}; it must be one of {', '.join(FLOATS)}")
        total += tensor.size * FLOATS[dtype]
    for name in stored:
        # Older files repeat a tied head and store rotary tables that the config implies.
        implied = name.endswith("rotary_emb.inv_freq") or (shape.tied and name == HEAD)
        if not implied:
            raise InputError(
                f"{folder}: its safetensors hold {name}, which no plain {shape.family} has; models with additions "
                "aren't supported"
            )
    return total


def weight_files(folder: Path) -> list[Path]:
    """The folder's safetensors: those that the index names, or all of them.

    Raises:
        InputError: there is none, or one that the index names is missing.
    """
    index = folder / "model.safetensors.index.json"
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


def _header(path: Path) -> dict[str, tuple[str, list[int]]]:
    """name -> (dtype, shape) of a safetensors file, whose data must all be there."""
    damaged = f"{path}: damaged or cut off"
    try:
        size = path.stat().st_size
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
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        end = max((int(entry["data_offsets"][1]) for entry in entries.values()), default=0)
        if 8 + length + end != size:
            raise InputError(
                f"{damaged}: its data should end at byte {8 + length + end}, the file ends at {size}; download it again"
            )
        return {name: (str(entry["dtype"]), [int(n) for n in entry["shape"]]) for name, entry in entries.items()}
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise InputError(f"{damaged}: its header isn't that of a safetensors file; download it again") from error
