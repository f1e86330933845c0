"""The kind `same`: the student is the teacher, its weights in float32."""

from pathlib import Path

from edgedistill.config.students.same import SameStudent
from edgedistill.models.load import load_model, save_model
from edgedistill.models.students.origin import Origin
from edgedistill.progress import Progress


def build_same(student: SameStudent, origin: Origin, work: Path, progress: Progress) -> None:
    """Write the student to `work`."""
    save_model(load_model(origin.teacher), origin.teacher, work)
