"""What a fitted mix chooses between: groups of tensors that share a number format, and the formats for each."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from edgedistill.errors import InputError
from edgedistill.facts import ModelShape, TensorShape
from edgedistill.formats import F32, FORMATS, NumberFormat
from edgedistill.mixes.assign import size_bytes
from edgedistill.mixes.definition import Mix, layer_of
from edgedistill.show import show_bytes

# Tensors of a layer that read the same input and matter alike go together; the rest stand alone.
TOGETHER = {"q_proj": "q+k", "k_proj": "q+k", "gate_proj": "gate+up", "up_proj": "gate+up"}


@dataclass(frozen=True)
class Group:
    """Tensors that get one grid.

    Attributes:
        name: 'layer 3 q+k', 'model.embed_tokens'.
        layer: the index of their layer, None for a table.
        tensors: one or more, in file order.
        formats: what may store all of them, the smallest first.
    """

    name: str
    layer: int | None
    tensors: tuple[TensorShape, ...]
    formats: tuple[NumberFormat, ...]

    def bytes_in(self, number_format: NumberFormat) -> int:
        """What the group takes in a format."""
        return sum(number_format.tensor_bytes(t.rows, t.cols) for t in self.tensors)


def measured_once(mixes: Sequence[Mix]) -> Mix:
    """A mix with all candidates and the most tokens of some fitted mixes: what one series of measurements serves."""
    candidates = tuple(dict.fromkeys(candidate for mix in mixes for candidate in mix.candidates))
    return replace(mixes[0], candidates=candidates, tokens=max(mix.tokens for mix in mixes))


def groups_of(shape: ModelShape, mix: Mix) -> tuple[Group, ...]:
    """The groups of a model, in file order, with the candidates of a fitted mix that fit their rows.

    Raises:
        InputError: no candidate divides a tensor's rows.
    """
    groups = _groups(shape, mix.candidates)
    for group in groups:
        if not group.formats:
            first = group.tensors[0]
            raise InputError(
                f"mix '{mix.name}': {first.name} has rows of {first.cols} weights, which none of its grids "
                f"({', '.join(mix.candidates)}) stores. Add one of 32-blocks, such as q4_0, or choose a "
                "student whose sizes divide by 32."
            )
    return groups


# A choice among many students weighs each in several mixes of the same candidates.
@lru_cache(maxsize=256)
def _groups(shape: ModelShape, candidates: tuple[str, ...]) -> tuple[Group, ...]:
    """The groups with the candidates that fit, the smallest first; with none where none does."""
    gathered: dict[str, list[TensorShape]] = {}
    for tensor in shape.tensors():
        if not tensor.flat:
            gathered.setdefault(_group_name(tensor.name), []).append(tensor)
    groups = []
    for name, tensors in gathered.items():
        lengths = {tensor.cols for tensor in tensors}
        fitting = [FORMATS[grid] for grid in candidates if all(FORMATS[grid].fits(length) for length in lengths)]
        fitting.sort(key=lambda number_format: number_format.bits_per_weight)
        groups.append(Group(name, layer_of(tensors[0].name), tuple(tensors), tuple(fitting)))
    return tuple(groups)


def fit_groups(shape: ModelShape, mix: Mix) -> tuple[Group, ...]:
    """`groups_of`, and a check that some choice is as small as the mix must be.

    Raises:
        InputError: no candidate divides a tensor's rows, or even the smallest choice is larger than the mix may be.
    """
    groups = groups_of(shape, mix)
    assert mix.size is not None
    allowed = size_bytes(shape, mix.size)
    least = least_bytes(shape, groups)
    if least > allowed:
        raise InputError(
            f"mix '{mix.name}': auto allows {show_bytes(allowed)} for all weights; with the smallest of its grids they "
            f"take {show_bytes(least)}, {8 * least / shape.parameters:.2f} bits a weight. Allow at least that, or add "
            "smaller grids."
        )
    return groups


def least_bytes(shape: ModelShape, groups: Sequence[Group]) -> int:
    """Bytes of all weights with each group in the smallest of its formats."""
    return flat_bytes(shape) + sum(group.bytes_in(group.formats[0]) for group in groups)


def flat_bytes(shape: ModelShape) -> int:
    """Bytes of what no grid holds: norms and biases."""
    return sum(F32.tensor_bytes(t.rows, t.cols) for t in shape.tensors() if t.flat)


def _group_name(tensor: str) -> str:
    layer, part = layer_of(tensor), tensor.split(".")[-2]
    if layer is None:
        return tensor.removesuffix(".weight")
    return f"layer {layer} {TOGETHER.get(part, part.removesuffix('_proj'))}"
