"""The kinds whose student is a whole model, in float32: of `same` the teacher, of `sibling` and `run` another one."""

from pathlib import Path

from edgedistill.config.students.same import SameStudent
from edgedistill.config.students.sibling import RunStudent, SiblingStudent
from edgedistill.models.load import load_model, save_model
from edgedistill.models.students.origin import Origin
from edgedistill.progress import Progress

WholeModel = SameStudent | SiblingStudent | RunStudent


def build_same(student: WholeModel, origin: Origin, work: Path, progress: Progress) -> None:
    """Write the student to `work`."""
    save_model(load_model(origin.teacher), origin.teacher, work)
