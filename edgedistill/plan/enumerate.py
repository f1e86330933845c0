"""What the planner chooses from: every student that a recipe's kinds allow, each in every mix. No torch.

A kind of student is a function here that gives its students; siblings are those that the recipe names. What a mix
weighs is decided elsewhere.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from edgedistill.config.own_mixes import AUTO_MIXES, OwnMix
from edgedistill.config.recipe import Recipe
from edgedistill.config.students.auto import AutoStudent
from edgedistill.config.students.both import DepthWidthStudent
from edgedistill.config.students.depth import DepthStudent
from edgedistill.config.students.same import SameStudent
from edgedistill.config.students.sibling import SiblingStudent
from edgedistill.config.students.sizes import block_of
from edgedistill.config.students.width import WidthStudent
from edgedistill.config.target import Target
from edgedistill.errors import InputError
from edgedistill.facts import ModelFacts, ModelShape, Start, allowed_layers
from edgedistill.mixes import QUANTIZED_MIXES, Mix, storable
from edgedistill.plan.device import HEADER_BYTES_PER_TOKEN, KV_BYTES_PER_ELEMENT, kv_tokens
from edgedistill.plan.speed_rule import AUTO
from edgedistill.plan.start import learnable
from edgedistill.show import show_count

SHARES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.25)  # of the teacher's layers, or of its weights outside of the tables
TO_LIMIT = "auto_limit"  # a mix fitted to what the target's limits allow
TEXTS_BYTES = 16_384  # left free of a file's limit for its header beside the vocabulary
LEAST_CONTEXT = 512  # tokens: the shortest that is planned for where memory is short

Choosable = SameStudent | DepthStudent | WidthStudent | DepthWidthStudent
NamedMix = tuple[Mix, OwnMix | None]  # with its definition where no recipe knows it by name


@dataclass(frozen=True)
class StudentShape:
    """A student that could be built, its shape, and the model that it starts from where that isn't the teacher."""

    student: Choosable | SiblingStudent
    shape: ModelShape
    start: Start | None = None


def students(recipe: Recipe, facts: ModelFacts, siblings: Sequence[Start] = ()) -> Iterator[StudentShape]:
    """The students of the kinds that a recipe's kind `auto` names, each shape once, then its siblings.

    Args:
        recipe: its student is of the kind auto.
        facts: the teacher's.
        siblings: the models that the recipe names, in its order.
    Raises:
        InputError: a sibling isn't smaller than the teacher, or can't learn what the recipe has it learn.
    """
    auto = recipe.student
    assert isinstance(auto, AutoStudent)
    seen: set[tuple[int, ...]] = set()
    mixes = [recipe.mix(name) for name in auto.mixes or QUANTIZED_MIXES]
    for kind in auto.kinds:
        if kind == "same" and recipe.recover.compares:
            continue  # recovery towards the teacher wants a student that isn't it
        for student in KINDS[kind](facts.shape):
            try:
                student.check(f"recipe {recipe.name}", facts.name, facts.shape)
                decided = student.decided(facts.shape, block_of(mixes))
            except InputError:
                continue  # no runtime would run that one
            shape = decided.shape(facts.shape)
            key = (shape.layers, shape.width, shape.heads, shape.kv_heads, shape.ffn)
            if key not in seen:
                seen.add(key)
                yield StudentShape(decided, shape)
    for model, start in zip(auto.siblings, siblings, strict=True):
        _check_sibling(recipe, facts, start)
        yield StudentShape(SiblingStudent(model=model), start.facts.shape, start)


def _check_sibling(recipe: Recipe, facts: ModelFacts, start: Start) -> None:
    own, teacher = start.facts.shape.parameters, facts.shape.parameters
    if own >= teacher:
        raise InputError(
            f"recipe {recipe.name}: the sibling {start.facts.name} has {show_count(own)} parameters, and the teacher "
            f"{facts.name} has {show_count(teacher)}; name a smaller model, or teach with that one."
        )
    learnable(recipe, facts, start)


def shorter_contexts(tokens: int) -> Iterator[int]:
    """Halves of a context, down to the shortest that is planned for."""
    while tokens // 2 >= LEAST_CONTEXT:
        tokens //= 2
        yield tokens


def mixes_for(recipe: Recipe, shape: ModelShape, target: Target, vocabulary: int) -> Iterator[NamedMix]:
    """The mixes of a student.

    Those that no row of the student divides into are left out.
    """
    auto = recipe.student
    assert isinstance(auto, AutoStudent)
    if auto.mixes is not None:
        for name in auto.mixes:
            yield recipe.mix(name), None
        return
    built_in = [name for name in QUANTIZED_MIXES if storable(shape, name)]
    for name in built_in:
        yield Mix(name, name), None
    for name in AUTO_MIXES:
        if name.removeprefix("auto_") in built_in:
            yield recipe.mix(name), None
    most = most_weight_bytes(shape, target, vocabulary)
    if most is not None and 0 < 8 * most < 16 * shape.parameters:
        own = OwnMix(auto=f"{most} B")
        yield own.mix(TO_LIMIT), own


def most_weight_bytes(shape: ModelShape, target: Target, vocabulary: int) -> int | None:
    """What a fitted mix's weights may take so that its file, and its speed with a full context, meet the limits; None
    where neither is limited.
    """
    allowed = []
    if target.limits.file is not None:
        allowed.append(target.limits.file - vocabulary * HEADER_BYTES_PER_TOKEN - TEXTS_BYTES)
    bandwidth, share = target.bandwidth.best, target.efficiency.decode
    if target.limits.decode is not None and bandwidth is not None and share is not None:
        kv = shape.kv_bytes(kv_tokens(shape, target), KV_BYTES_PER_ELEMENT)
        cost = 1.0 if target.gpu is not None else max(AUTO, share)
        allowed.append(int((bandwidth * share / target.limits.decode - kv) / cost))
    return min(allowed, default=None)


def _same(teacher: ModelShape) -> Iterator[Choosable]:
    yield SameStudent()


def _depth(teacher: ModelShape) -> Iterator[Choosable]:
    for share in SHARES:
        ideal = share * teacher.layers
        counts = [count for count in allowed_layers(teacher) if count < teacher.layers]
        if counts:
            yield DepthStudent(layers=min(counts, key=lambda count: (abs(count - ideal), count)))


def _width(teacher: ModelShape) -> Iterator[Choosable]:
    for share in SHARES:
        yield WidthStudent(share=share)


def _both(teacher: ModelShape) -> Iterator[Choosable]:
    for share in SHARES:
        yield DepthWidthStudent(share=share)


KINDS: dict[str, Callable[[ModelShape], Iterator[Choosable]]] = {
    "same": _same,
    "depth": _depth,
    "width": _width,
    "depth+width": _both,
}
