"""Compare the weights of two models tensor by tensor: which are equal bit for bit, and how far apart the others are."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from edgedistill.errors import InputError
from edgedistill.export.compare import WeightDifference, first_difference, tensor_order, weights_hash
from edgedistill.export.weights import Floats, Weights, own_names
from edgedistill.progress import Progress, QuietProgress

QUIET = QuietProgress()


@dataclass(frozen=True)
class TensorDifference:
    """How two tensors of one name differ: `first` is the first weight whose bits do, `relative_error` |a − b| / |a|."""

    tensor: str
    formats: tuple[str, str]
    weights: int
    differing: int
    largest: float
    relative_error: float
    first: WeightDifference


@dataclass(frozen=True)
class PairComparison:
    """What two models have in common."""

    tensors: int  # that both have
    blocks: int  # of the first one's number formats
    differences: tuple[TensorDifference, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    sha256: tuple[str, str]  # of all weights of each

    @property
    def equal(self) -> bool:
        """Whether both hold the same tensors with the same bits."""
        return not (self.differences or self.only_first or self.only_second)

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return {**asdict(self), "equal": self.equal}


def compare_weights(first: Weights, second: Weights, progress: Progress = QUIET) -> PairComparison:
    """Compare all tensors, one pair in memory at a time.

    Raises:
        InputError: no name is common to both, or a common tensor has two shapes.
    """
    if first.foreign or second.foreign:
        if {first.kind, second.kind} != {"gguf"}:
            stranger = first if first.foreign else second
            raise InputError(f"{stranger.foreign} Such a file can be compared with another GGUF file only.")
        first, second = own_names(first.path), own_names(second.path)
    common = [name for name in tensor_order(first.tensors) if name in second.tensors]
    if not common:
        raise InputError(f"{first.path} and {second.path} have no tensor in common; they are models of different kinds")
    differences, blocks = [], 0
    progress.start(f"compare {first.path.name} with {second.path.name}", len(common), "tensors")
    for name in common:
        one, other = first.tensors[name], second.tensors[name]
        a, b = one.values(), other.values()
        if a.shape != b.shape:
            raise InputError(
                f"{name} is {list(a.shape)} in {first.path} and {list(b.shape)} in {second.path}; these are "
                "different models"
            )
        blocks += a.size // one.block
        difference = first_difference(name, a, b, one.block)
        if difference:
            differences.append(_measure(name, (one.format, other.format), a, b, difference))
        progress.advance(1)
    progress.start("hash both", 0, "tensors")
    hashes = weights_hash(first.in_order()), weights_hash(second.in_order())
    progress.finish()
    return PairComparison(
        len(common),
        blocks,
        tuple(differences),
        tuple(n for n in tensor_order(first.tensors) if n not in second.tensors),
        tuple(n for n in tensor_order(second.tensors) if n not in first.tensors),
        hashes,
    )


def _measure(name: str, formats: tuple[str, str], a: Floats, b: Floats, first: WeightDifference) -> TensorDifference:
    gap = a.astype(np.float64) - b
    size = float(np.linalg.norm(a.astype(np.float64)))
    differing = int((a.view(np.uint32) != b.view(np.uint32)).sum())
    return TensorDifference(
        name,
        formats,
        a.size,
        differing,
        float(np.abs(gap).max()),
        float(np.linalg.norm(gap)) / size if size else float("inf"),
        first,
    )
