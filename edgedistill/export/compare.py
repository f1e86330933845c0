"""Bit-for-bit comparison of an exported file's weights with the checkpoint that training saw.

Every exporter reads its own file back to float32 under Hugging Face names and in Hugging Face layout, and this module
decides whether the file holds the checkpoint.

The hash of a model's weights: for each tensor the SHA-256 of its name in UTF-8, a zero byte and its float32 values,
little-endian and row by row; then the SHA-256 of these digests in `tensor_order`. A GGUF file, an ONNX file and a
checkpoint that hold the same weights have the same hash, whatever order and format they store them in. A weight is what
a layer multiplies by: for a norm that adds 1 to what is stored, as gemma's do, float32(1 + w), as GGUF and ONNX files
hold it.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgedistill.errors import VerifyError
from edgedistill.facts import EMBEDDING, FINAL_NORM, HEAD
from edgedistill.formats import FORMATS
from edgedistill.quant.checkpoint import GridCheckpoint
from edgedistill.quant.grids import GridTensor

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class WeightDifference:
    """The first weight of a tensor that differs. `block` counts the format's blocks within the row."""

    tensor: str
    row: int
    block: int
    expected: float
    found: float

    def __str__(self) -> str:
        return f"{self.tensor}, row {self.row}, block {self.block}: expected {self.expected!r}, found {self.found!r}"


@dataclass(frozen=True)
class Comparison:
    """What was compared, and what differs: the first weight of each tensor that isn't equal bit for bit.

    `blocks` counts the blocks of quantized tensors, or single weights where a tensor isn't quantized. `sha256` is the
    hash of the weights as read from the file.
    """

    tensors: int
    blocks: int
    differences: tuple[WeightDifference, ...]
    sha256: str

    @property
    def equal(self) -> bool:
        """Whether every weight is the same, bit for bit."""
        return not self.differences

    def require_equal(self, where: str) -> None:
        """Raise VerifyError naming the first differing tensor and block of the file `where`."""
        if self.differences:
            raise VerifyError(
                f"{where}: {len(self.differences)} of {self.tensors} tensors differ from the checkpoint; "
                f"the first is {self.differences[0]}. Export it again."
            )


def tensor_order(names: Iterable[str]) -> list[str]:
    """Canonical order of a model's tensors: embedding, layers by number and then by name, final norm, head."""

    def rank(name: str) -> tuple[int, int, str]:
        ends = {EMBEDDING: 0, FINAL_NORM: 2, HEAD: 3}
        if name in ends:
            return (ends[name], 0, name)
        parts = name.split(".")
        layer = int(parts[2]) if len(parts) > 2 and parts[2].isdigit() else 0
        return (1, layer, name)

    return sorted(names, key=rank)


def weights_hash(tensors: Iterable[tuple[str, Floats]]) -> str:
    """The hash, in hex, of named float32 tensors that come in any order, one at a time."""
    return _combine({name: _tensor_digest(name, values) for name, values in tensors})


def multiplier(name: str, values: Floats, norm_offset: bool) -> Floats:
    """What a layer multiplies by: the stored values, or float32(1 + w) for a norm of a family with `norm_offset`."""
    if norm_offset and name.endswith("norm.weight"):
        return values + np.float32(1)
    return values


def checkpoint_hash(checkpoint: GridCheckpoint, norm_offset: bool = False) -> str:
    """`weights_hash` of the checkpoint's decoded weights. `norm_offset`: its ModelShape's."""
    return weights_hash(
        (name, multiplier(name, checkpoint.decode(name).numpy(), norm_offset)) for name in checkpoint.tensors
    )


def compare_tensors(
    checkpoint: GridCheckpoint, read: Iterable[tuple[str, Floats]], norm_offset: bool = False
) -> Comparison:
    """Compare every tensor of a file with the checkpoint's decoded values.

    Args:
        read: (Hugging Face name, float32 values [O, I] or [I]) of each tensor in the file, in any order. Two tensors
            that the file stores once (a tied embedding) come once.
        norm_offset: the model's norms multiply by 1 + w (its ModelShape's `norm_offset`), and the file holds that sum.
    Raises:
        VerifyError: a tensor is missing, extra, comes twice, or has another shape.
    """
    order = tensor_order(checkpoint.tensors)
    digests: dict[str, bytes] = {}
    differences: dict[str, WeightDifference] = {}
    blocks = 0
    for name, actual in read:
        if name not in checkpoint.tensors:
            raise VerifyError(f"the file holds {name}, which the checkpoint doesn't have; export it again")
        if name in digests:
            raise VerifyError(f"the file holds {name} twice; export it again")
        expected = np.ascontiguousarray(
            multiplier(name, checkpoint.decode(name).numpy(), norm_offset), dtype=np.float32
        )
        if actual.shape != expected.shape:
            raise VerifyError(
                f"the file's {name} has shape {list(actual.shape)}, the checkpoint's {list(expected.shape)}; "
                "export it again"
            )
        block = _block_size(checkpoint, name)
        blocks += expected.size // block
        digests[name] = _tensor_digest(name, actual)
        difference = first_difference(name, expected, actual, block)
        if difference:
            differences[name] = difference
    missing = [name for name in order if name not in digests]
    if missing:
        raise VerifyError(
            f"the file lacks {len(missing)} of the checkpoint's {len(order)} tensors, first {missing[0]}; "
            "export it again"
        )
    return Comparison(len(order), blocks, tuple(differences[n] for n in order if n in differences), _combine(digests))


def first_difference(name: str, expected: Floats, actual: Floats, block: int) -> WeightDifference | None:
    """The first weight whose 32 bits differ (so 0.0 is not -0.0), or None. Both [O, I] or [I]."""
    expected, actual = np.atleast_2d(expected), np.atleast_2d(np.ascontiguousarray(actual, dtype=np.float32))
    unequal = expected.view(np.uint32) != actual.view(np.uint32)
    if not unequal.any():
        return None
    row, col = np.unravel_index(int(unequal.argmax()), unequal.shape)
    return WeightDifference(name, int(row), int(col) // block, float(expected[row, col]), float(actual[row, col]))


def _tensor_digest(name: str, values: Floats) -> bytes:
    digest = hashlib.sha256(name.encode() + b"\0")
    digest.update(np.ascontiguousarray(values, dtype="<f4").data)
    return digest.digest()


def _combine(digests: dict[str, bytes]) -> str:
    return hashlib.sha256(b"".join(digests[name] for name in tensor_order(digests))).hexdigest()


def _block_size(checkpoint: GridCheckpoint, name: str) -> int:
    tensor = checkpoint.tensors[name]
    return FORMATS[tensor.grid].block if isinstance(tensor, GridTensor) else 1
