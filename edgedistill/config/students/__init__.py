"""The student part of a recipe: what of the teacher becomes the student, by kind. A file for each kind.

This is the planner's half, without torch: the shape that each kind gives. `models/students/` builds them.
"""

from typing import Annotated, Any, get_args

from pydantic import BeforeValidator, Discriminator, Tag

from edgedistill.config.students.auto import AutoStudent
from edgedistill.config.students.both import DepthWidthStudent
from edgedistill.config.students.depth import DepthStudent
from edgedistill.config.students.new import ConfigStudent
from edgedistill.config.students.same import SameStudent
from edgedistill.config.students.sibling import RunStudent, SiblingStudent
from edgedistill.config.students.width import WidthStudent
from edgedistill.errors import did_you_mean

AnyStudent = (
    SameStudent
    | DepthStudent
    | WidthStudent
    | DepthWidthStudent
    | ConfigStudent
    | SiblingStudent
    | RunStudent
    | AutoStudent
)
KINDS = tuple(kind.model_fields["kind"].default for kind in get_args(AnyStudent))


def _with_kind(given: Any) -> Any:
    """The part with its `kind`. The older keys say it too: `as_is: true` is the kind same, all else is depth."""
    if isinstance(given, str):
        given = {"kind": given}
    if not isinstance(given, dict):
        return given
    part = dict(given)
    as_is = part.pop("as_is", False)
    if not isinstance(as_is, bool):
        raise ValueError(f"as_is is {as_is!r}; it must be true or false")
    if as_is and part.get("layers") is not None:
        raise ValueError(
            f"as_is keeps all of the teacher's layers; leave out layers ({part['layers']}), or set as_is to false"
        )
    if as_is and part.get("kind", "same") != "same":
        raise ValueError(f"as_is is true and kind is '{part['kind']}'; leave out one of them")
    if as_is:
        return {"kind": "same"}
    part.setdefault("kind", "depth")
    if part["kind"] not in KINDS:
        near = did_you_mean(part["kind"], KINDS) if isinstance(part["kind"], str) else ""
        raise ValueError(f"kind is {part['kind']!r}; it must be one of {', '.join(KINDS)}.{near}")
    return part


def _tag(student: Any) -> str:
    """Which of the kinds validates; in brackets, so that messages leave it out."""
    kind = student.get("kind", "depth") if isinstance(student, dict) else getattr(student, "kind", "depth")
    return f"[{kind}]"


Student = Annotated[
    Annotated[SameStudent, Tag("[same]")]
    | Annotated[DepthStudent, Tag("[depth]")]
    | Annotated[WidthStudent, Tag("[width]")]
    | Annotated[DepthWidthStudent, Tag("[depth+width]")]
    | Annotated[ConfigStudent, Tag("[config]")]
    | Annotated[SiblingStudent, Tag("[sibling]")]
    | Annotated[RunStudent, Tag("[run]")]
    | Annotated[AutoStudent, Tag("[auto]")],
    Discriminator(_tag),
    BeforeValidator(_with_kind),
]
