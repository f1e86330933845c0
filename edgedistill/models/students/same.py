"""The kinds whose student is a whole model, in its own types: of `same` the teacher, of `sibling` and `run` another."""

from pathlib import Path

from edgedistill.config.students.same import SameStudent
from edgedistill.config.students.sibling import RunStudent, SiblingStudent
from edgedistill.models.load import copy_model
from edgedistill.models.students.origin import Origin
from edgedistill.progress import Progress

WholeModel = SameStudent | SiblingStudent | RunStudent


def build_same(student: WholeModel, origin: Origin, work: Path, progress: Progress) -> None:
    """Write the student to `work`."""
    copy_model(origin.teacher, work)
