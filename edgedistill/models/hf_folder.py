"""A Hugging Face folder before its weights are loaded: config.json, and the headers of its safetensors. No torch.

Only safetensors are ever read: a pickle (.bin, .pt) can run code when it is loaded.
"""

import json
import struct
from pathlib import Path
from typing import Any

from edgedistill.errors import InputError
from edgedistill.facts import HEAD, ModelShape
from edgedistill.models import rope
from edgedistill.models.vocabulary import read_json

SUPPORTED = ("llama",)
FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}  # bytes a weight
MAX_HEADER_BYTES = 100_000_000  # safetensors' own limit
GRID_FILE = "grid.safetensors"


def read_shape(folder: Path) -> ModelShape:
    """The shape of the model in a folder, from config.json alone.

    Raises:
        InputError: no config.json, or a model that we can't run: the message says what was found and what is supported.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise InputError(f"{folder}: has no config.json; a model folder holds config.json, *.safetensors and tokenizer.json")
    config = read_json(path)
    family = config.get("model_type")
    if family not in SUPPORTED:
        raise InputError(f"{path}: model_type is {family!r}; supported architectures are {', '.join(SUPPORTED)}")
    for option in ("attention_bias", "mlp_bias"):
        if config.get(option):
            raise InputError(f"{path}: {option} is on; only llama models without biases are supported")
    if (activation := config.get("hidden_act", "silu")) != "silu":
        raise InputError(f"{path}: hidden_act is {activation!r}; it must be 'silu'")
    if quantization := config.get("quantization_config"):
        method = quantization.get("quant_method") if isinstance(quantization, dict) else quantization
        raise InputError(f"{path}: its weights are quantized by {method!r}; take the model's float version")

    def size(key: str, default: Any = None) -> int:
        value = default if config.get(key) is None else config[key]
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 1 << 31:
            raise InputError(f"{path}: {key} is {value!r}; it must be a whole number above 0")
        return value

    width, heads = size("hidden_size"), size("num_attention_heads")
    theta, scaling = rope.from_config(path, config)
    eps = config.get("rms_norm_eps", 1e-6)
    if isinstance(eps, bool) or not isinstance(eps, int | float) or not 0 < eps < 1:
        raise InputError(f"{path}: rms_norm_eps is {eps!r}; it must be a small number above 0")
    shape = ModelShape(
        family=family, layers=size("num_hidden_layers"), width=width, heads=heads, kv_heads=size("num_key_value_heads", heads),
        head_dim=size("head_dim", width // heads), ffn=size("intermediate_size"), vocab=size("vocab_size"),
        context=size("max_position_embeddings", 2048), tied=bool(config.get("tie_word_embeddings", False)),
        rope_theta=theta, norm_eps=float(eps), rope_scaling=scaling,
    )  # fmt: skip
    check_heads(path, shape)
    return shape


def check_heads(where: object, shape: ModelShape) -> None:
    """Raise InputError where query heads don't share key heads evenly, or a head can't be rotated in pairs."""
    if shape.heads % shape.kv_heads or shape.head_dim % 2:
        raise InputError(
            f"{where}: {shape.heads} heads of {shape.head_dim} over {shape.kv_heads} key heads; heads must be a multiple of key heads, "
            "and a head's size even"
        )


def check_weights(folder: Path, shape: ModelShape) -> int:
    """Check that the folder's safetensors hold exactly the tensors of `shape`, uncut; return the bytes of its weights.

    Raises:
        InputError: no safetensors, only pickles, a damaged or truncated file, a tensor missing, extra or of another shape.
    """
    if (folder / GRID_FILE).is_file() and not any(folder.glob("model*.safetensors")):
        return (folder / GRID_FILE).stat().st_size
    found: dict[str, tuple[str, list[int]]] = {}
    for file in weight_files(folder):
        found.update(_header(file))
    total = 0
    for tensor in shape.tensors():
        if tensor.name not in found:
            raise InputError(f"{folder}: its safetensors lack {tensor.name}, which config.json calls for; download the model again")
        dtype, dimensions = found.pop(tensor.name)
        wanted = [tensor.cols] if tensor.kind == "norm" else [tensor.rows, tensor.cols]
        if dimensions != wanted:
            raise InputError(f"{folder}: {tensor.name} has shape {dimensions}, by config.json it must be {wanted}")
        if dtype not in FLOATS:
            raise InputError(f"{folder}: {tensor.name} is stored as {dtype}; it must be one of {', '.join(FLOATS)}")
        total += tensor.size * FLOATS[dtype]
    # Older files repeat a tied head and store rotary tables that the config implies.
    extra = [name for name in found if not name.endswith("rotary_emb.inv_freq") and not (shape.tied and name == HEAD)]
    if extra:
        raise InputError(f"{folder}: its safetensors hold {extra[0]}, which no plain llama has; models with additions aren't supported")
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
            raise InputError(f"{index}: weight_map must map each tensor to a file name in the folder; download the model again")
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
        raise InputError(f"{folder}: has no *.safetensors; a model folder holds config.json, *.safetensors and tokenizer.json")
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
                raise InputError(f"{damaged}: its header of {length} bytes doesn't fit into the file's {size}; download it again")
            header = json.loads(file.read(length))
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        end = max((int(entry["data_offsets"][1]) for entry in entries.values()), default=0)
        if 8 + length + end != size:
            raise InputError(f"{damaged}: its data should end at byte {8 + length + end}, the file ends at {size}; download it again")
        return {name: (str(entry["dtype"]), [int(n) for n in entry["shape"]]) for name, entry in entries.items()}
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise InputError(f"{damaged}: its header isn't that of a safetensors file; download it again") from error


def license_of(folder: Path) -> str | None:
    """The licence that the folder's README.md states in its front matter, as Hugging Face model cards do."""
    card = folder / "README.md"
    if not card.is_file():
        return None
    lines = card.read_text(encoding="utf-8", errors="replace").splitlines()
    if not lines or lines[0].strip() != "---":
        return None
    for line in lines[1:]:
        if line.strip() == "---":
            break
        if line.startswith("license:"):
            return line.removeprefix("license:").strip().strip("'\"")[:100] or None
    return None
