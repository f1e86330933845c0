"""Sizes of a student that is narrower than its teacher: which there are, which a share decides, which none can run.

Sizes count elements. Query heads stand in groups, one for each key head: whole groups go, or as many queries of each.
"""

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from edgedistill.errors import InputError
from edgedistill.facts import ModelShape
from edgedistill.families import FAMILIES
from edgedistill.formats import FORMATS
from edgedistill.mixes import Mix
from edgedistill.mixes.builtin import DEFAULTS

BLOCK, LONG_BLOCK = 32, 256  # weights that share a scale: in most number formats, and in K-quants


@dataclass(frozen=True)
class Sizes:
    """What a recipe gives of the sizes; None where it doesn't."""

    ffn: int | None = None
    heads: int | None = None
    kv_heads: int | None = None
    width: int | None = None

    @property
    def names(self) -> list[str]:
        """Those that are given."""
        return [name for name in ("ffn", "heads", "kv_heads", "width") if getattr(self, name) is not None]

    def of(self, teacher: ModelShape) -> ModelShape:
        """The student's shape, unchecked: what isn't given follows from what is, else stays the teacher's.

        Key heads alone keep their queries, query heads alone their keys where these divide them. Where heads times
        their size must be the width, either follows from the other.
        """
        group = teacher.heads // teacher.kv_heads
        heads, kv_heads, width = self.heads, self.kv_heads, self.width or teacher.width
        if heads is None and kv_heads is not None:
            heads = kv_heads * group
        square = FAMILIES[teacher.family].square
        if square and heads is None and self.width is not None:
            heads = max(1, width // teacher.head_dim)
        if square and self.width is None and heads is not None:
            width = heads * teacher.head_dim
        heads = teacher.heads if heads is None else heads
        if kv_heads is None:
            kv_heads = teacher.kv_heads if heads % teacher.kv_heads == 0 else max(1, heads // group)
        return teacher.with_sizes(width, heads, kv_heads, self.ffn or teacher.ffn)


def block_of(mixes: Collection[Mix]) -> int:
    """What rows should divide by for these mixes: 256 where one of them holds K-quants, else 32."""
    grids = [name for mix in mixes if mix.size is not None for name in mix.candidates]
    grids += [DEFAULTS[mix.base].name for mix in mixes if mix.size is None]
    grids += [rule.grid for mix in mixes for rule in mix.rules]
    return LONG_BLOCK if any(FORMATS[grid].block == LONG_BLOCK for grid in grids) else BLOCK


def non_embedding(shape: ModelShape) -> int:
    """Weights outside of the tables, which no cut in depth makes smaller."""
    return shape.parameters - shape.table_parameters


def shared(teacher: ModelShape, given: Sizes, most: int, block: int) -> Sizes | None:
    """The sizes that are not given, decided so that at most `most` weights lie outside of the tables.

    Of all numbers of groups of heads, each with as many FFN channels as `most` allows, the one is taken whose share of
    the teacher's heads is nearest to the root of the channels' share: of SmolLM2-135M at half of its weights that lost
    less than the same share of both (bench/results/which_cut.json). Rows divide by `block` where the teacher's do, else
    by 32.

    Args:
        teacher: with as many layers as the student.
        given: what the recipe gives.
        block: see `block_of`.
    Returns:
        Sizes, all given; None where the smallest are too many weights still.
    """
    choices = []
    for heads, kv_heads in _head_choices(teacher, given, block):
        sizes = Sizes(given.ffn, heads, kv_heads, given.width)
        shape = sizes.of(teacher)
        ffn = given.ffn
        if ffn is None:
            step = _step(teacher.ffn, block)
            at_none = non_embedding(teacher.with_sizes(shape.width, heads, kv_heads, 0))
            a_channel = non_embedding(teacher.with_sizes(shape.width, heads, kv_heads, 1)) - at_none
            ffn = min(teacher.ffn, (most - at_none) // a_channel) // step * step
        shape = teacher.with_sizes(shape.width, heads, kv_heads, ffn)
        if ffn <= 0 or non_embedding(shape) > most:
            continue
        apart = abs(math.sqrt(ffn / teacher.ffn) - heads / teacher.heads)
        if given.ffn is not None:
            apart = most - non_embedding(shape)
        choices.append((apart, -heads, Sizes(ffn, heads, kv_heads, shape.width)))
    return min(choices, key=lambda choice: choice[:2])[2] if choices else None


def _head_choices(teacher: ModelShape, given: Sizes, block: int) -> Iterator[tuple[int, int]]:
    """(query heads, key heads) that a share may choose, the teacher's first."""
    shape = given.of(teacher)
    if given.heads is not None or given.kv_heads is not None or (given.width and FAMILIES[teacher.family].square):
        yield shape.heads, shape.kv_heads
        return
    group, step = teacher.heads // teacher.kv_heads, _step(teacher.heads * teacher.head_dim, block)
    every = [(count * group, count) for count in range(teacher.kv_heads, 0, -1)]
    if teacher.kv_heads == 1:
        every = [(count, 1) for count in range(teacher.heads, 0, -1)]
    for heads, kv_heads in every:
        if heads * teacher.head_dim % step == 0:
            yield heads, kv_heads


def _step(size: int, block: int) -> int:
    """What a size may be cut to multiples of: rows that don't divide by 256 in the teacher needn't in the student."""
    return block if size % block == 0 else BLOCK


def check_sizes(where: str, name: str, teacher: ModelShape, student: ModelShape) -> None:
    """Raise InputError where a cut of the teacher would be larger than it, or a runtime wouldn't load it. One sentence.

    Args:
        where: the recipe, for messages.
        name: the teacher's.
        student: its shape.
    """
    _check_bounds(where, name, teacher, student)
    if student.heads % student.kv_heads or student.heads // student.kv_heads > teacher.heads // teacher.kv_heads:
        group = teacher.heads // teacher.kv_heads
        raise InputError(
            f"{where}: the student would have {student.heads} heads over {student.kv_heads} key heads; every key head "
            f"must have as many, from 1 to the teacher's {group}."
        )
    _check_heads(where, teacher, student)


def check_new_sizes(where: str, name: str, teacher: ModelShape, student: ModelShape) -> None:
    """The same of a new model, whose heads needn't be found in the teacher's groups."""
    _check_bounds(where, name, teacher, student)
    if student.heads % student.kv_heads:
        counts = [count for count in range(1, student.heads + 1) if student.heads % count == 0]
        raise InputError(
            f"{where}: the student would have {student.heads} heads over {student.kv_heads} key heads; every key head "
            f"must have as many, so student.kv_heads must be one of {', '.join(map(str, counts))}."
        )
    _check_heads(where, teacher, student)


def _check_bounds(where: str, name: str, teacher: ModelShape, student: ModelShape) -> None:
    for key in ("ffn", "heads", "kv_heads", "width"):
        size, most = getattr(student, key), getattr(teacher, key)
        if not 0 < size <= most:
            raise InputError(
                f"{where}: the student's {key} would be {size}; the teacher {name} has {most}, so student.{key} must "
                f"be from 1 to {most}."
            )
    for key in ("ffn", "width"):
        if getattr(student, key) != getattr(teacher, key):
            _check_rows(where, key, getattr(student, key))


def _check_rows(where: str, key: str, size: int) -> None:
    if size % BLOCK:
        lower = size // BLOCK * BLOCK
        near = f"{lower} or {lower + BLOCK}" if lower else str(BLOCK)
        raise InputError(
            f"{where}: the student's {key} would be {size}, and rows of {size} weights don't divide into blocks of "
            f"{BLOCK}; take {near}."
        )


def _check_heads(where: str, teacher: ModelShape, student: ModelShape) -> None:
    """That heads make rows of whole blocks, and what a family asks of heads and width together."""
    rows = student.heads * student.head_dim
    family = FAMILIES[teacher.family]
    if family.square and rows != student.width:
        raise InputError(
            f"{where}: the student would have {student.heads} heads of {student.head_dim} at a width of "
            f"{student.width}; llama.cpp runs {family.name} models only where heads times their size are the width, so "
            f"take heads {max(1, student.width // student.head_dim)}, or width {rows}."
        )
    if student.heads != teacher.heads and rows % BLOCK:
        counts = [n for n in range(1, teacher.heads + 1) if n * student.head_dim % BLOCK == 0]
        raise InputError(
            f"{where}: the student's {student.heads} heads of {student.head_dim} make rows of {rows} weights, which "
            f"don't divide into blocks of {BLOCK}; student.heads must be one of {', '.join(map(str, counts))}."
        )
    fixed = teacher.family == "gemma3_text" and teacher.attention_scale is not None
    if fixed and (student.width, student.heads) != (teacher.width, teacher.heads):
        raise InputError(
            f"{where}: llama.cpp scales this gemma3's attention by its width over its heads, which training "
            "didn't; keep heads and width, and cut ffn or take a smaller gemma3 as the teacher."
        )


def cuts(student: ModelShape, teacher: ModelShape) -> list[str]:
    """What sets a student's sizes apart, as its name has it: ["ffn 768", "6 heads over 2", "width 384"]."""
    words = []
    if student.ffn != teacher.ffn:
        words.append(f"ffn {student.ffn}")
    if (student.heads, student.kv_heads) != (teacher.heads, teacher.kv_heads):
        words.append(f"{student.heads} heads over {student.kv_heads}")
    if student.width != teacher.width:
        words.append(f"width {student.width}")
    return words
