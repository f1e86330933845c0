"""What a GGUF file's header holds: metadata, its arrays, and the table of tensors. No numpy, no torch.

Arrays stay in the file until they are read: a vocabulary and its merges are some 100,000 strings.
Source: docs/gguf.md and gguf.cpp of ggml.
"""

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedistill.errors import InputError

STRING, ARRAY, BOOL = 8, 9, 7
# Metadata type -> struct code. 8 is a string, 9 an array.
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}

# ggml type -> name, weights a block, bytes a block: the types that gguf-py can dequantize.
TENSOR_TYPES: dict[int, tuple[str, int, int]] = {
    0: ("f32", 1, 4),
    1: ("f16", 1, 2),
    30: ("bf16", 1, 2),
    2: ("q4_0", 32, 18),
    3: ("q4_1", 32, 20),
    6: ("q5_0", 32, 22),
    7: ("q5_1", 32, 24),
    8: ("q8_0", 32, 34),
    10: ("q2_k", 256, 84),
    11: ("q3_k", 256, 110),
    12: ("q4_k", 256, 144),
    13: ("q5_k", 256, 176),
    14: ("q6_k", 256, 210),
    16: ("iq2_xxs", 256, 66),
    17: ("iq2_xs", 256, 74),
    18: ("iq3_xxs", 256, 98),
    19: ("iq1_s", 256, 50),
    20: ("iq4_nl", 32, 18),
    21: ("iq3_s", 256, 110),
    22: ("iq2_s", 256, 82),
    23: ("iq4_xs", 256, 136),
    29: ("iq1_m", 256, 56),
    34: ("tq1_0", 256, 54),
    35: ("tq2_0", 256, 66),
    39: ("mxfp4", 32, 17),
    40: ("nvfp4", 64, 36),
}


@dataclass(frozen=True)
class GGUFTensor:
    """One tensor of the file. `shape` is [rows, cols] or [cols], as torch has it; GGUF itself stores the reverse."""

    name: str
    shape: tuple[int, ...]
    type_id: int
    type_name: str
    offset: int  # bytes from the start of the file
    size: int  # bytes


@dataclass(frozen=True)
class GGUFArray:
    element: int
    count: int
    offset: int


@dataclass(frozen=True)
class GGUFHeader:
    """A file's metadata and tensors. Scalars are in `scalars`; arrays are read by `array`."""

    path: Path
    version: int
    scalars: dict[str, Any]
    arrays: dict[str, GGUFArray]
    tensors: dict[str, GGUFTensor]

    def get(self, key: str, kind: type, default: Any = None) -> Any:
        """A scalar of the metadata, or `default` where the key is absent.

        Raises:
            InputError: the value isn't of `kind` (an int is taken for a float).
        """
        if key not in self.scalars and key not in self.arrays:
            return default
        value = self.scalars.get(key)
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            shown = "an array" if key in self.arrays else repr(value)[:60]
            raise InputError(
                f"{self.path}: {key} is {shown}; it must be of type {kind.__name__}. The file is damaged; "
                "download it again."
            )
        return value

    def count(self, key: str) -> int:
        """Number of elements of an array, 0 where it is absent."""
        return self.arrays[key].count if key in self.arrays else 0

    def array(self, key: str, kind: type) -> list[Any]:
        """An array of strings (`str`) or numbers (`int`, `float`), empty where it is absent.

        Raises:
            InputError: it holds something else, or bytes that aren't UTF-8.
        """
        if key not in self.arrays:
            if key in self.scalars:
                raise InputError(f"{self.path}: {key} is {self.scalars[key]!r}; it must be an array of {kind.__name__}")
            return []
        array = self.arrays[key]
        allowed = {str: "s", int: "BbHhIiQq", float: "fd"}[kind]
        code = SCALARS.get(array.element, "s")
        if code not in allowed or array.element == BOOL:
            raise InputError(
                f"{self.path}: {key} holds elements of type {array.element}; it must be an array of {kind.__name__}"
            )
        with self.path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if kind is not str:
                return list(struct.unpack_from(f"<{array.count}{code}", data, array.offset))
            words, at = [], array.offset
            unpack = struct.Struct("<Q").unpack_from
            try:
                for _ in range(array.count):
                    (length,) = unpack(data, at)
                    words.append(data[at + 8 : at + 8 + length].decode())
                    at += 8 + length
            except UnicodeDecodeError as error:
                raise InputError(
                    f"{self.path}: {key}[{len(words)}] isn't UTF-8 text; the file is damaged, download it again"
                ) from error
            return words

    def flags(self, key: str) -> list[bool]:
        """An array of truth values, or of whole numbers that stand for them; empty where it is absent."""
        if key in self.arrays and self.arrays[key].element == BOOL:
            array = self.arrays[key]
            with self.path.open("rb") as file:
                file.seek(array.offset)
                return [byte != 0 for byte in file.read(array.count)]
        return [number != 0 for number in self.array(key, int)]


def shortest_float(value: float) -> float:
    """The shortest decimal that is the same float32: 1e-05 for the 9.999999747378752e-06 that a float32 holds."""
    packed = struct.pack("<f", value)
    for digits in range(1, 9):
        short = float(f"{value:.{digits}g}")
        if struct.pack("<f", short) == packed:
            return short
    return value
