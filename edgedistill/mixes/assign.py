"""From a mix and a model's shape to each tensor's number format, and what fell back to another format on the way."""

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache

from edgedistill.errors import InputError, did_you_mean
from edgedistill.facts import ModelShape, TensorShape
from edgedistill.formats import F32, FORMATS, NumberFormat
from edgedistill.mixes.builtin import DEFAULTS, fallback_of, intended_format
from edgedistill.mixes.definition import Mix, Rule, Size, layer_of

MIXES = tuple(DEFAULTS)
Assigned = tuple[TensorShape, NumberFormat, NumberFormat]  # a tensor, the format its mix has for it, the one stored
QUANTIZED_MIXES = tuple(name for name, default in DEFAULTS.items() if default.quantized)


@dataclass(frozen=True)
class Fallback:
    """A tensor that isn't stored in its mix's format, because its rows don't divide into that format's blocks."""

    tensor: str
    cols: int
    intended: NumberFormat
    stored: NumberFormat


def assign_formats(shape: ModelShape, mix: str | Mix) -> dict[str, NumberFormat]:
    """The number format of every tensor, by Hugging Face name.

    Args:
        shape: the model.
        mix: the name of a built-in mix, or a mix.
    Raises:
        InputError: the mix is unknown, a rule of it matches nothing, or a row doesn't divide into the blocks of its
            format.
        ValueError: the mix is one to be fitted, and it hasn't been.
    """
    return {tensor.name: stored for tensor, _, stored in _assigned(shape, _mix(mix))}


def storable(shape: ModelShape, mix: str) -> bool:
    """Whether every row of a model divides into blocks of a built-in mix."""
    try:
        _built_in(shape, mix, mix)
    except InputError:
        return False
    return True


def fallbacks(shape: ModelShape, mix: str | Mix) -> tuple[Fallback, ...]:
    """The tensors that are not stored as the mix wants, in file order; raises as `assign_formats`."""
    return tuple(
        Fallback(tensor.name, tensor.cols, intended, stored)
        for tensor, intended, stored in _assigned(shape, _mix(mix))
        if intended != stored
    )


def mix_bytes(shape: ModelShape, mix: str | Mix) -> int:
    """Bytes of all tensors in the mix, without the file's header; of a mix not yet fitted, what it may take at most."""
    resolved = _mix(mix)
    if resolved.size is not None and resolved.chosen is None:
        return size_bytes(shape, resolved.size)
    return format_bytes(shape, assign_formats(shape, resolved))


def size_bytes(shape: ModelShape, size: Size) -> int:
    """Bytes that a size allows to all tensors of a model; raises as `assign_formats` for the size of a built-in mix."""
    if size.like is not None:
        return mix_bytes(shape, size.like)
    if size.total_bytes is not None:
        return size.total_bytes
    assert size.bits_per_weight is not None
    return int(size.bits_per_weight * shape.parameters / 8)


def format_bytes(shape: ModelShape, formats: dict[str, NumberFormat]) -> int:
    """Bytes of all tensors in the formats given for them."""
    return sum(formats[t.name].tensor_bytes(t.rows, t.cols) for t in shape.tensors())


def _mix(mix: str | Mix) -> Mix:
    if isinstance(mix, Mix):
        return mix
    if mix not in DEFAULTS:
        raise InputError(f"mix '{mix}' is unknown; it must be one of {', '.join(MIXES)}.{did_you_mean(mix, MIXES)}")
    return Mix(mix, mix)


def _assigned(shape: ModelShape, mix: Mix) -> Iterator[Assigned]:
    """Each tensor with the format that the mix has for it and the one that stores it."""
    if mix.unfitted:
        raise ValueError(f"mix '{mix.name}' is fitted by measurement, and that hasn't run")
    if mix.chosen is not None:
        for tensor in shape.tensors():
            chosen = F32 if tensor.flat else FORMATS[mix.chosen[tensor.name]]
            yield tensor, chosen, chosen
        return
    if not mix.rules:
        yield from _built_in(shape, mix.base, mix.name)
        return
    deciding = _deciding_rules(shape, mix)
    for tensor in shape.tensors():
        if tensor.name in deciding:
            number, rule = deciding[tensor.name]
            forced = FORMATS[rule.grid]
            if not forced.fits(tensor.cols):
                raise InputError(
                    f"mix '{mix.name}', rule {number}: {tensor.name} has rows of {tensor.cols} weights, and "
                    f"{forced.name} stores blocks of {forced.block}. Give it one of "
                    f"{', '.join(_fitting(tensor.cols))}, or narrow tensors: '{rule.tensors}'."
                )
            yield tensor, forced, forced
            continue
        yield _without_rule(shape, tensor, mix.base, mix.name)


# A choice among many students weighs each in the same mixes, several times over.
@lru_cache(maxsize=1024)
def _built_in(shape: ModelShape, base: str, name: str) -> tuple[Assigned, ...]:
    return tuple(_without_rule(shape, tensor, base, name) for tensor in shape.tensors())


def _without_rule(shape: ModelShape, tensor: TensorShape, base: str, name: str) -> Assigned:
    """A tensor by a mix's base alone; `name`: the mix's, for messages."""
    intended = intended_format(shape, tensor, layer_of(tensor.name), base)
    stored = fallback_of(intended, tensor.cols)
    if stored is None:
        raise InputError(
            f"{tensor.name} has rows of {tensor.cols} weights, which no grid of mix '{name}' divides; "
            "llama.cpp would leave it in f16. Choose a student whose sizes divide by 32, or ask for f16 with a "
            "rule under define_mixes."
        )
    return tensor, intended, stored


def _deciding_rules(shape: ModelShape, mix: Mix) -> dict[str, tuple[int, Rule]]:
    """Tensor -> (number from 1, rule) of the rule that decides it: the last that matches.

    Raises:
        InputError: a rule matches no tensor that could be put on a grid.
    """
    tensors = list(shape.tensors())
    deciding: dict[str, tuple[int, Rule]] = {}
    for number, rule in enumerate(mix.rules, 1):
        where = f"mix '{mix.name}', rule {number}"
        named = [tensor for tensor in tensors if fnmatchcase(tensor.name, rule.tensors)]
        if not named:
            raise InputError(
                f"{where}: tensors: '{rule.tensors}' matches none of the student's {len(tensors)} tensors. They have "
                f"names like {', '.join(_examples(tensors))}; * stands for anything."
            )
        weights = [tensor for tensor in named if not tensor.flat]
        if not weights:
            raise InputError(
                f"{where}: tensors: '{rule.tensors}' matches only norms and biases, which always stay f32. "
                "Leave it out."
            )
        matching = [t for t in weights if rule.layers is None or layer_of(t.name) in rule.layers]
        if not matching:
            raise InputError(
                f"{where}: no tensor that matches '{rule.tensors}' is in layers "
                f"'{rule.layers.text if rule.layers else ''}'; "
                f"the student has layers 0 to {shape.layers - 1}, and tables belong to none."
            )
        deciding |= {tensor.name: (number, rule) for tensor in matching}
    return deciding


def _examples(tensors: list[TensorShape]) -> list[str]:
    """The names of the first layer's weights, and of the tables."""
    return [t.name for t in tensors if not t.flat and (layer_of(t.name) or 0) == 0]


def _fitting(cols: int) -> list[str]:
    return [f.name for f in FORMATS.values() if f is not F32 and f.fits(cols)]
