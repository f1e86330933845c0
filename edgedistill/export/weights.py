"""The weights of anything that holds a model, by name: checkpoint, GGUF file, ONNX folder, Hugging Face folder.

A tensor's values are read when they are called for, so models of any size can be compared a tensor at a time.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgedistill.errors import InputError
from edgedistill.export.compare import multiplier
from edgedistill.facts import ModelShape
from edgedistill.formats import FORMATS
from edgedistill.models.gguf_file import read_header
from edgedistill.models.gguf_header import GGUFHeader, GGUFTensor
from edgedistill.models.gguf_model import gguf_shape
from edgedistill.models.gguf_weights import dequantize, packed_tensors
from edgedistill.models.hf_folder import read_shape
from edgedistill.models.hf_weights import check_weights, stored_tensors
from edgedistill.quant.checkpoint import FILE, load_grid
from edgedistill.quant.grids import GridTensor
from edgedistill.quant.rounded import FLOAT_NAMES

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Stored:
    """One tensor: its number format, and a function that reads its float32 values [O, I] or [I]."""

    format: str
    values: Callable[[], Floats]

    @property
    def block(self) -> int:
        """Weights a block of its format; 1 where it has no blocks."""
        return FORMATS[self.format].block if self.format in FORMATS else 1


@dataclass(frozen=True)
class Weights:
    """All tensors of a model, by Hugging Face name.

    `foreign` says why a file's architecture isn't one of ours; then the names are the file's own.
    """

    path: Path
    kind: str  # "checkpoint", "gguf", "onnx" or "model"
    tensors: dict[str, Stored]
    foreign: str | None = None

    def in_order(self) -> Iterator[tuple[str, Floats]]:
        """Name and values of each tensor."""
        return ((name, stored.values()) for name, stored in self.tensors.items())


def open_weights(path: Path) -> Weights:
    """Find the weights at a path. Values are what a layer multiplies by: of a norm that adds 1 to its weight, the sum.

    Raises:
        InputError: there is none, or the file is damaged.
    """
    if not path.exists():
        raise InputError(f"{path}: there is no such file or folder; name a file or folder that holds a model")
    if path.is_file() and path.suffix == ".gguf":
        return _gguf(path)
    if (path / FILE).is_file():
        return _checkpoint(path)
    if (path / "onnx").is_dir():
        return _onnx(path)
    if path.is_dir() and any(path.glob("*.safetensors")):
        return _folder(path)
    raise InputError(
        f"{path}: holds no weights that can be compared; name a .gguf file, an ONNX folder (one with onnx/ in it), "
        f"a checkpoint (a folder with {FILE}), or a Hugging Face folder with *.safetensors"
    )


def own_names(path: Path) -> Weights:
    """A GGUF file's tensors under the file's own names and in its own order of rows."""
    header = read_header(path)
    tensors = {
        name: Stored(tensor.type_name, partial(_read, header, tensor)) for name, tensor in header.tensors.items()
    }
    return Weights(path, "gguf", tensors, "by its own names")


def _gguf(path: Path) -> Weights:
    header = read_header(path)
    try:
        shape = gguf_shape(header)
    except InputError as error:
        return Weights(path, "gguf", own_names(path).tensors, str(error))
    tensors: dict[str, Stored] = {}
    for name, tensor, raw in packed_tensors(header, shape):
        tensors[name] = Stored(tensor.type_name, partial(_dequantize, header, tensor, raw))
    return Weights(path, "gguf", tensors)


def _checkpoint(path: Path) -> Weights:
    checkpoint, shape = load_grid(path), read_shape(path)

    def values(name: str) -> Floats:
        return multiplier(name, checkpoint.decode(name).numpy(), shape.norm_offset)

    tensors: dict[str, Stored] = {}
    for name, tensor in checkpoint.tensors.items():
        number_format = tensor.grid if isinstance(tensor, GridTensor) else FLOAT_NAMES[tensor.dtype]
        tensors[name] = Stored(number_format, partial(values, name))
    return Weights(path, "checkpoint", tensors)


def _onnx(path: Path) -> Weights:
    from edgedistill.export.onnx.file import OnnxFile
    from edgedistill.export.onnx.read import read_weights

    return Weights(path, "onnx", {w.name: Stored(w.format, w.decode) for w in read_weights(OnnxFile(path))})


def _folder(path: Path) -> Weights:
    shape = read_shape(path)
    check_weights(path, shape)
    stored = stored_tensors(path)
    tensors: dict[str, Stored] = {}
    for tensor in shape.tensors():
        entry = stored[tensor.name]
        tensors[tensor.name] = Stored(entry.dtype.lower(), partial(_from_safetensors, entry.file, tensor.name, shape))
    return Weights(path, "model", tensors)


def _from_safetensors(file: Path, name: str, shape: ModelShape) -> Floats:
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        return multiplier(name, opened.get_tensor(name).float().numpy(), shape.norm_offset)


def _read(header: GGUFHeader, tensor: GGUFTensor) -> Floats:
    raw = np.memmap(header.path, dtype=np.uint8, mode="r")[tensor.offset : tensor.offset + tensor.size]
    return _dequantize(header, tensor, raw.reshape(tensor.shape[0], -1) if len(tensor.shape) == 2 else raw)


def _dequantize(header: GGUFHeader, tensor: GGUFTensor, raw: NDArray[np.uint8]) -> Floats:
    try:
        return dequantize(tensor, raw)
    except NotImplementedError as error:
        raise InputError(
            f"{header.path}: a tensor is stored as {tensor.type_name}, which can't be dequantized here"
        ) from error
