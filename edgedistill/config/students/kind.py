"""What every kind of student answers to the planner and the pipeline. A kind's own file says where it differs."""

from typing import ClassVar, TypeVar

from edgedistill.config.yaml_file import Model
from edgedistill.facts import ModelShape

Kind = TypeVar("Kind", bound="StudentKind")


class StudentKind(Model):
    """The part that most kinds share. Each adds `shape`, `name` and `check`.

    Attributes:
        as_is: whether the student is the teacher, so that there is nothing to distill.
        needs_text: whether building it looks at training text.
    """

    as_is: ClassVar[bool] = False
    needs_text: ClassVar[bool] = False

    @property
    def start(self) -> tuple[str, str | None] | None:
        """The model that it starts from and its revision, where that isn't the teacher."""
        return None

    def decided(self: Kind, teacher: ModelShape, block: int) -> Kind:
        """The same with every size decided.

        Args:
            teacher: the shape of the model that it starts from.
            block: what rows should divide by (`sizes.block_of`).
        """
        return self
