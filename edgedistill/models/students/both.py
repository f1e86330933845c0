"""The kind `depth+width`: fewer layers first, then of what is left the channels and heads that matter most."""

from pathlib import Path

from edgedistill.config.students.both import DepthWidthStudent
from edgedistill.models.load import load_model, save_model
from edgedistill.models.students.depth import shallower_by_text
from edgedistill.models.students.origin import Origin
from edgedistill.models.students.width import narrow_by_text
from edgedistill.progress import Progress


def build_depth_width(student: DepthWidthStudent, origin: Origin, work: Path, progress: Progress) -> None:
    """Write the student to `work`, with `layers.json` and `channels.json`. The teacher is in memory once."""
    model = load_model(origin.teacher)
    keep = student.layers_of(len(model.model.layers))
    model = shallower_by_text(model, keep, student.choose, origin, (work, progress))
    save_model(narrow_by_text(model, student, origin, work, progress), origin.teacher, work)
