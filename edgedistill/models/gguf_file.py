"""The header of a GGUF file (versions 2 and 3, little-endian): metadata and the table of tensors, each bounds-checked.

Read by hand because gguf's reader takes seconds on a vocabulary of 49k tokens, and because a hostile file must end in
one sentence: no count or length is believed before the file is seen to hold that many bytes. Arrays stay in the file
until they are asked for. Needs neither numpy nor torch.
Source: docs/gguf.md and gguf.cpp of ggml.
"""

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedistill.errors import InputError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_DIMENSIONS = 4
MAX_KEY_BYTES = 65535  # ggml's own limit
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
class _Array:
    element: int
    count: int
    offset: int


@dataclass(frozen=True)
class GGUFHeader:
    """A file's metadata and tensors. Scalars are in `scalars`; arrays are read by `array`."""

    path: Path
    version: int
    scalars: dict[str, Any]
    arrays: dict[str, _Array]
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
            found = "an array" if key in self.arrays else repr(value)[:60]
            raise InputError(
                f"{self.path}: {key} is {found}; it must be of type {kind.__name__}. The file is damaged; "
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
        wanted = {str: "s", int: "BbHhIiQq", float: "fd"}[kind]
        if (code := SCALARS.get(array.element, "s")) not in wanted or array.element == BOOL:
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


def read_header(path: Path) -> GGUFHeader:
    """Read a GGUF file's metadata and tensor table, and check that every tensor lies within the file.

    Raises:
        InputError: it isn't a GGUF file, is truncated or damaged, one part of several, or holds a tensor type that
            can't be dequantized.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            if file.read(4) != MAGIC:
                raise InputError(f"{path}: not a GGUF file: its first four bytes must be 'GGUF'")
            if size < 24:
                raise InputError(f"{path}: the GGUF file ends after {size} bytes, inside its header; download it again")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _Cursor(path, data).header()
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror or error}") from error


class _Cursor:
    """Walks the bytes of a header. Every read says first what it needs."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path, self.data, self.size, self.at = path, data, len(data), 4

    def fail(self, what: str) -> InputError:
        return InputError(f"{self.path}: {what}; the file is damaged or cut off, download it again")

    def need(self, count: int, what: str) -> None:
        if count > self.size - self.at:
            raise self.fail(f"{what} at byte {self.at} needs {count} bytes, the file has {self.size - self.at} more")

    def number(self, code: str, what: str) -> Any:
        size = struct.calcsize(code)
        self.need(size, what)
        (value,) = struct.unpack_from("<" + code, self.data, self.at)
        self.at += size
        return value

    def text(self, what: str, limit: int | None = None) -> str:
        length = self.number("Q", what)
        if limit is not None and length > limit:
            raise self.fail(f"{what} at byte {self.at} is {length} bytes long, at most {limit} are allowed")
        self.need(length, what)
        raw = self.data[self.at : self.at + length]
        self.at += length
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise self.fail(f"{what} at byte {self.at - length} isn't UTF-8 text") from error

    def skip_strings(self, count: int, what: str) -> None:
        # The hot loop of the whole reader: a vocabulary and its merges are some 100,000 strings.
        unpack, data, at, last = struct.Struct("<Q").unpack_from, self.data, self.at, self.size - 8
        for _ in range(count):
            if at > last:
                break
            at += 8 + unpack(data, at)[0]
        else:
            if at <= self.size:
                self.at = at
                return
        raise self.fail(f"{what} at byte {self.at} has strings past the end of the file at byte {self.size}")

    def array(self, key: str) -> _Array:
        element, count = self.number("I", key), self.number("Q", key)
        if element == STRING:
            self.need(count * 8, key)  # each string has at least its length
            array = _Array(element, count, self.at)
            self.skip_strings(count, key)
            return array
        if element not in SCALARS:
            raise self.fail(f"{key} is an array of type {element}, which isn't a number or a string")
        array = _Array(element, count, self.at)
        self.need(count * struct.calcsize(SCALARS[element]), key)
        self.at += count * struct.calcsize(SCALARS[element])
        return array

    def header(self) -> GGUFHeader:
        version = self.number("I", "version")
        if version not in VERSIONS:
            raise InputError(
                f"{self.path}: GGUF version {version} isn't supported; it must be little-endian and of version 2 or 3"
            )
        tensor_count, key_count = self.number("Q", "tensor count"), self.number("Q", "key count")
        scalars: dict[str, Any] = {}
        arrays: dict[str, _Array] = {}
        self.need(key_count * 13, "the metadata")  # a key's length, its type and a byte of value
        for _ in range(key_count):
            key = self.text("a metadata key", MAX_KEY_BYTES)
            if key in scalars or key in arrays:
                raise self.fail(f"metadata key {key!r} comes twice")
            kind = self.number("I", key)
            if kind == ARRAY:
                arrays[key] = self.array(key)
            elif kind == STRING:
                scalars[key] = self.text(key)
            elif kind in SCALARS:
                value = self.number(SCALARS[kind], key)
                scalars[key] = bool(value) if kind == BOOL else value
            else:
                raise self.fail(f"metadata key {key!r} has type {kind}, which GGUF doesn't define")
        if isinstance(parts := scalars.get("split.count"), int) and parts > 1:
            raise InputError(
                f"{self.path}: one of {parts} parts of a split GGUF; merge them with llama.cpp's "
                "`llama-gguf-split --merge`"
            )
        tensors = self.tensors(tensor_count, scalars.get("general.alignment", 32))
        return GGUFHeader(self.path, version, scalars, arrays, tensors)

    def tensors(self, count: int, alignment: Any) -> dict[str, GGUFTensor]:
        if not isinstance(alignment, int) or not 1 <= alignment <= 1 << 20 or alignment & (alignment - 1):
            raise self.fail(f"general.alignment is {alignment!r}, which isn't a power of two")
        self.need(count * 32, "the table of tensors")  # name length, dimension count, one dimension, type, offset
        entries: dict[str, tuple[tuple[int, ...], int, int]] = {}
        for _ in range(count):
            name = self.text("a tensor name", MAX_KEY_BYTES)
            dimensions = self.number("I", name)
            if not 1 <= dimensions <= MAX_DIMENSIONS:
                raise self.fail(f"tensor {name!r} has {dimensions} dimensions")
            shape = tuple(self.number("Q", name) for _ in range(dimensions))[::-1]
            type_id, offset = self.number("I", name), self.number("Q", name)
            if name in entries:
                raise self.fail(f"tensor {name!r} comes twice")
            entries[name] = (shape, type_id, offset)
        start = -(-self.at // alignment) * alignment
        return {name: self.place(name, *entry, start, alignment) for name, entry in entries.items()}

    def place(
        self, name: str, shape: tuple[int, ...], type_id: int, offset: int, start: int, alignment: int
    ) -> GGUFTensor:
        if type_id not in TENSOR_TYPES:
            known = ", ".join(name for name, _, _ in TENSOR_TYPES.values())
            raise InputError(
                f"{self.path}: tensor {name!r} has ggml type {type_id}, which we can't dequantize; it must be "
                f"one of {known}"
            )
        type_name, block, block_bytes = TENSOR_TYPES[type_id]
        weights = 1
        for length in shape:
            weights *= length
        if not weights or shape[-1] % block:
            raise self.fail(
                f"tensor {name!r} has shape {list(shape)}, whose rows don't divide into {type_name}'s blocks of {block}"
            )
        size = weights // block * block_bytes
        if offset % alignment:
            raise self.fail(
                f"tensor {name!r} starts at byte {offset} of the data, which isn't a multiple of {alignment}"
            )
        if start + offset + size > self.size:
            raise self.fail(f"tensor {name!r} ends at byte {start + offset + size}, the file at byte {self.size}")
        return GGUFTensor(name, shape, type_id, type_name, start + offset, size)
