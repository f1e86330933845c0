"""What the teacher's blocks take that the student's phases look at: stored, or live beside the student."""

from dataclasses import dataclass

from edgedistill.config.block_terms import BlockTerm, RelationsTerm
from edgedistill.facts import ModelShape
from edgedistill.pipeline.context import Context
from edgedistill.pipeline.text_tokens import TextTokens


@dataclass(frozen=True)
class BlockBytes:
    """What they take.

    Attributes:
        text: bytes of them for the whole training text, stored.
        live: bytes of the teacher that stays in memory instead.
        stored: whether they are stored.
    """

    text: int
    live: int
    stored: bool


def block_bytes(context: Context) -> BlockBytes:
    """What the teacher's blocks take, stored in two bytes an element, or live with the teacher in float32."""
    phases, shape = context.recipe.student_phases, context.facts.shape
    terms = [term for phase in phases if phase.stored_blocks for term in phase.block_terms]
    elements = sum({place: _elements(term, shape) for term in terms for place in _places(term)}.values())
    text, live = 2 * elements * TextTokens(context).taught, 4 * shape.parameters
    wish = context.recipe.teacher.blocks
    return BlockBytes(text, live, text <= live if wish == "auto" else wish == "stored")


def _places(term: BlockTerm) -> list[tuple[str, int | None, int | None]]:
    """What each place is called that a term looks at; terms that look at one place share what is stored of it."""
    if isinstance(term, RelationsTerm):
        return [("attention", term.layer, term.teacher_layer)]
    layers = term.layers or (None,)
    return [("states", *pair) for pair in zip(layers, term.teacher_layers or (None,) * len(layers), strict=True)]


def _elements(term: BlockTerm, shape: ModelShape) -> int:
    """Elements a token of one such place in a model of a shape."""
    if isinstance(term, RelationsTerm):
        return (shape.heads + 2 * shape.kv_heads) * shape.head_dim
    return shape.width
