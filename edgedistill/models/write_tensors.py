"""Write a safetensors file of any size with one tensor in memory at a time: the bytes that the library's own writer
gives, which takes all tensors at once.

Source: the format's description, https://github.com/huggingface/safetensors#format: the header's length, the header as
JSON, padded with spaces to 8 bytes, and the data. The library puts wide types first, and then goes by name.
"""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


def write_tensors(
    path: Path,
    dtypes: Mapping[str, torch.dtype],
    dimensions: Mapping[str, tuple[int, ...]],
    read: Callable[[str], Tensor],
) -> None:
    """Write a file, and bring it to the disk later.

    Args:
        path: the file.
        dtypes: of each tensor that is written: float32, float16 or bfloat16.
        dimensions: of these at least.
        read: a name -> the tensor, of that type and those dimensions.
    Raises:
        ValueError: a tensor is of another type or other dimensions.
    """
    order = sorted(dtypes, key=lambda name: (-dtypes[name].itemsize, NAMES[dtypes[name]] == "F16", name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name in order:
        stop = at + math.prod(dimensions[name]) * dtypes[name].itemsize
        entry = {"dtype": NAMES[dtypes[name]], "shape": list(dimensions[name]), "data_offsets": [at, stop]}
        header[name], at = entry, stop
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for name in order:
            tensor = read(name)
            if tensor.dtype != dtypes[name] or tuple(tensor.shape) != dimensions[name]:
                raise ValueError(f"{name} is {tensor.dtype} {list(tensor.shape)}, not as the header says")
            file.write(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
