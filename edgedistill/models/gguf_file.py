"""Read the header of a GGUF file (versions 2 and 3, little-endian), each count and length checked against the file.

Read by hand because gguf's reader takes seconds on a vocabulary of 49k tokens, and because a hostile file must end in
one sentence: no count or length is believed before the file is seen to hold that many bytes.
Source: docs/gguf.md and gguf.cpp of ggml.
"""

import itertools
import math
import mmap
import struct
from pathlib import Path
from typing import Any

from edgedistill.errors import InputError
from edgedistill.models.gguf_header import (
    ARRAY,
    BOOL,
    SCALARS,
    STRING,
    TENSOR_TYPES,
    GGUFArray,
    GGUFHeader,
    GGUFTensor,
)
from edgedistill.reading import require_regular

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_DIMENSIONS = 4
MAX_KEY_BYTES = 65535  # ggml's own limit


def read_header(path: Path) -> GGUFHeader:
    """Read a GGUF file's metadata and tensor table, and check that every tensor lies within the file.

    Raises:
        InputError: it isn't a GGUF file, is truncated or damaged, one part of several, or holds a tensor type that
            can't be dequantized.
    """
    return _walk(path, foreign=False)


def check_header(path: Path) -> None:
    """Check the header of a file that llama.cpp alone is to read: one of several parts, or of types that only it knows.

    Raises:
        InputError: as `read_header`, but for these.
    """
    _walk(path, foreign=True)


def _walk(path: Path, foreign: bool) -> GGUFHeader:
    try:
        size = require_regular(path)
        with path.open("rb") as file:
            if file.read(4) != MAGIC:
                raise InputError(f"{path}: not a GGUF file: its first four bytes must be 'GGUF'")
            if size < 24:
                raise InputError(f"{path}: the GGUF file ends after {size} bytes, inside its header; download it again")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _Cursor(path, data, foreign).header()
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror or error}") from error


class _Cursor:
    """Walks the bytes of a header. Every read says first what it needs."""

    def __init__(self, path: Path, data: mmap.mmap, foreign: bool) -> None:
        self.foreign = foreign  # parts of a split file and unknown types pass
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

    def array(self, key: str) -> GGUFArray:
        element, count = self.number("I", key), self.number("Q", key)
        if element == STRING:
            self.need(count * 8, key)  # each string has at least its length
            array = GGUFArray(element, count, self.at)
            self.skip_strings(count, key)
            return array
        if element not in SCALARS:
            raise self.fail(f"{key} is an array of type {element}, which isn't a number or a string")
        array = GGUFArray(element, count, self.at)
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
        arrays: dict[str, GGUFArray] = {}
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
        if not self.foreign and isinstance(parts := scalars.get("split.count"), int) and parts > 1:
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
        tensors: dict[str, GGUFTensor] = {}
        for name, (shape, type_id, offset) in entries.items():
            if offset % alignment:
                raise self.fail(
                    f"tensor {name!r} starts at byte {offset} of the data, which isn't a multiple of {alignment}"
                )
            if not (self.foreign and type_id not in TENSOR_TYPES):
                tensors[name] = self.tensor(name, shape, type_id, start + offset)
        self.refuse_overlaps(tensors)
        return tensors

    def refuse_overlaps(self, tensors: dict[str, GGUFTensor]) -> None:
        """llama.cpp refuses tensors that lie over each other; no program writes them."""
        in_order = sorted(tensors.values(), key=lambda tensor: tensor.offset)
        for tensor, following in itertools.pairwise(in_order):
            if tensor.offset + tensor.size > following.offset:
                raise self.fail(f"tensors {tensor.name!r} and {following.name!r} lie over each other")

    def tensor(self, name: str, shape: tuple[int, ...], type_id: int, offset: int) -> GGUFTensor:
        """One tensor, `offset` bytes from the start of the file, which must hold all of it."""
        if type_id not in TENSOR_TYPES:
            supported = ", ".join(name for name, _, _ in TENSOR_TYPES.values())
            raise InputError(
                f"{self.path}: tensor {name!r} has ggml type {type_id}, which we can't dequantize; it must be "
                f"one of {supported}"
            )
        type_name, block, block_bytes = TENSOR_TYPES[type_id]
        weights = math.prod(shape)
        if not weights or shape[-1] % block:
            raise self.fail(
                f"tensor {name!r} has shape {list(shape)}, whose rows don't divide into {type_name}'s blocks of {block}"
            )
        size = weights // block * block_bytes
        if offset + size > self.size:
            raise self.fail(f"tensor {name!r} ends at byte {offset + size}, the file at byte {self.size}")
        return GGUFTensor(name, shape, type_id, type_name, offset, size)
