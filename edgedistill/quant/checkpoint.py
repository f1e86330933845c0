"""A checkpoint on its grid: `grid.safetensors`, the one source of every exported file.

For a quantized tensor NAME it holds `NAME.packed`, the very bytes that a GGUF file will hold, uint8 [O, row bytes]; for
any other `NAME` as float32 (norms, biases), float16 or bfloat16. The file's metadata has one entry, JSON, that says
which grid each tensor is on.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from edgedistill.errors import InputError
from edgedistill.formats import FORMATS
from edgedistill.quant.grids import GRIDS, GridTensor

FILE = "grid.safetensors"
SCHEMA = "edgedistill.grid/2"
ENTRY = "edgedistill"
PACKED = ".packed"


@dataclass(frozen=True)
class GridCheckpoint:
    """All weights of a model under their Hugging Face names, on grids or as plain floats (norms and biases float32)."""

    mix: str
    tensors: Mapping[str, GridTensor | Tensor]

    def decode(self, name: str) -> Tensor:
        """The float32 values of one tensor, as every runtime must see them."""
        tensor = self.tensors[name]
        return tensor.decode() if isinstance(tensor, GridTensor) else tensor.float()


def save_grid(folder: Path, checkpoint: GridCheckpoint) -> None:
    """Write `folder/grid.safetensors`."""
    flat: dict[str, Tensor] = {}
    grids: dict[str, str] = {}
    for name, tensor in checkpoint.tensors.items():
        if isinstance(tensor, GridTensor):
            grids[name] = tensor.grid
            flat[f"{name}{PACKED}"] = tensor.packed.contiguous()
        else:
            flat[name] = tensor.contiguous()
    facts = {"schema": SCHEMA, "mix": checkpoint.mix, "grids": grids}
    # One entry: safetensors writes several in random order, and equal checkpoints must be equal files.
    save_file(flat, folder / FILE, metadata={ENTRY: json.dumps(facts)})


def load_grid(folder: Path) -> GridCheckpoint:
    """Read `folder/grid.safetensors`.

    Raises:
        InputError: the file is absent, cut off, isn't a grid checkpoint, or names an unknown grid.
    """
    path = folder / FILE
    if not path.is_file():
        raise InputError(
            f"{path}: no such file; a checkpoint on its grid is a folder with {FILE}, as the recover stage writes it"
        )
    try:
        return _read(path)
    except (SafetensorError, json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: not a whole checkpoint on its grid ({error}); run the recover stage again"
        ) from error


def _read(path: Path) -> GridCheckpoint:
    with safe_open(path, framework="pt") as file:
        facts = json.loads((file.metadata() or {}).get(ENTRY, "{}"))
        if facts.get("schema") != SCHEMA:
            raise InputError(f"{path}: schema is {facts.get('schema')!r}; this version reads {SCHEMA!r}")
        grids: dict[str, str] = facts["grids"]
        unknown = sorted(set(grids.values()) - set(GRIDS))
        if unknown:
            raise InputError(f"{path}: grid '{unknown[0]}' is unknown; this version knows {', '.join(GRIDS)}")
        tensors: dict[str, GridTensor | Tensor] = {}
        for name, grid in grids.items():
            tensors[name] = GridTensor(grid, _whole_rows(path, name, grid, file.get_tensor(name + PACKED)))
        packed = {name + PACKED for name in grids}
        for name in file.keys():  # noqa: SIM118
            if name not in packed:
                tensors[name] = file.get_tensor(name)
    return GridCheckpoint(facts["mix"], tensors)


def _whole_rows(path: Path, name: str, grid: str, packed: Tensor) -> Tensor:
    block_bytes = FORMATS[grid].block_bytes
    if packed.dtype != torch.uint8 or packed.ndim != 2 or packed.shape[1] % block_bytes:
        raise InputError(
            f"{path}: {name} is {packed.dtype} {list(packed.shape)}; {grid} takes bytes in rows of whole blocks of "
            f"{block_bytes}. Run the recover stage again"
        )
    return packed
