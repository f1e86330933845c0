"""A model's tensors by name, each read from its file when it is asked for: nothing else of the model is in memory.

Safetensors are read and not mapped, so their pages count as the system's cache and not as this process's memory.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from edgedistill.errors import InputError
from edgedistill.facts import EMBEDDING, HEAD, ModelShape
from edgedistill.models.gguf_file import read_header
from edgedistill.models.gguf_model import gguf_shape
from edgedistill.models.gguf_weights import dequantized_tensor
from edgedistill.models.hf_folder import read_shape
from edgedistill.models.hf_weights import check_weights, stored_tensors

FINITE_PIECE = 1 << 22  # elements at a time
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class ModelTensors(Mapping[str, Tensor]):
    """The tensors of a Hugging Face folder or a .gguf file under Hugging Face names, [O, I] or [I], in memory of their
    own.

    A folder's have the type that they are stored in, float64 as float32; a GGUF file's are dequantized to float32. Of a
    tied model the output matrix is the embedding.
    """

    def __init__(self, path: Path) -> None:
        """Read the headers.

        Raises:
            InputError: missing, damaged or unsupported files. Reading a tensor raises it too, where a value isn't a
                finite number.
        """
        self.path = path
        self._header = None if path.is_dir() else read_header(path)
        self.shape: ModelShape = read_shape(path) if self._header is None else gguf_shape(self._header)
        if self._header is None:
            check_weights(path, self.shape)
        self._stored = stored_tensors(path) if self._header is None else {}
        self.dimensions = {tensor.name: tensor.dimensions for tensor in self.shape.tensors()}
        if self.shape.tied:
            self.dimensions[HEAD] = self.dimensions[EMBEDDING]

    def dtype(self, name: str) -> torch.dtype:
        """The type that a tensor is given in."""
        stored = self._stored.get(self._own_name(name))
        dtype = torch.float32 if stored is None else DTYPES[stored.dtype]
        return torch.float32 if dtype == torch.float64 else dtype

    def __getitem__(self, name: str) -> Tensor:
        own = self._own_name(name)
        if name not in self.dimensions:
            raise KeyError(name)
        if self._header is not None:
            tensor = torch.from_numpy(dequantized_tensor(self._header, self.shape, own))
        else:
            tensor = self._read(own)
        pieces = tensor.view(-1).split(FINITE_PIECE)  # for the answer takes twice the memory of what is asked
        if not all(bool(torch.isfinite(piece).all()) for piece in pieces):
            raise InputError(
                f"{self.path}: {name} holds values that aren't finite numbers; the file is damaged or its training "
                "diverged"
            )
        return tensor

    def _read(self, name: str) -> Tensor:
        entry = self._stored[name]
        raw = np.fromfile(entry.file, np.uint8, entry.stop - entry.start, offset=entry.start)
        return torch.from_numpy(raw).view(DTYPES[entry.dtype]).view(entry.shape).to(self.dtype(name))

    def _own_name(self, name: str) -> str:
        return EMBEDDING if name == HEAD and self.shape.tied else name

    def __iter__(self) -> Iterator[str]:
        return iter(self.dimensions)

    def __len__(self) -> int:
        return len(self.dimensions)
