"""The initial student of a recipe, by kind: a Hugging Face folder that everything after it reads.

To add a kind: its planner's half in `config/students/`, a file like depth.py here, and a line in BUILDERS.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgedistill.config.students import AnyStudent
from edgedistill.config.students.both import DepthWidthStudent
from edgedistill.config.students.depth import DepthStudent
from edgedistill.config.students.new import ConfigStudent
from edgedistill.config.students.same import SameStudent
from edgedistill.config.students.sibling import RunStudent, SiblingStudent
from edgedistill.config.students.width import Narrower, WidthStudent
from edgedistill.models.hf_folder import read_shape
from edgedistill.models.identity import Identity, write_identity
from edgedistill.models.shared_rows import shared_rows
from edgedistill.models.students.both import build_depth_width
from edgedistill.models.students.depth import build_depth
from edgedistill.models.students.new import build_new
from edgedistill.models.students.origin import Origin
from edgedistill.models.students.same import build_same
from edgedistill.models.students.width import build_width
from edgedistill.progress import Progress

# By kind, what writes the folder's config, weights and tokenizer.
BUILDERS: dict[type, Callable[[Any, Origin, Path, Progress], None]] = {
    SameStudent: build_same,
    DepthStudent: build_depth,
    WidthStudent: build_width,
    DepthWidthStudent: build_depth_width,
    ConfigStudent: build_new,
    SiblingStudent: build_same,
    RunStudent: build_same,
}


def build_student(student: AnyStudent, origin: Origin, work: Path, progress: Progress) -> None:
    """Write the student to `work`: config.json, model.safetensors, the tokenizer, and `student.json`. The weights
    are float32; a whole model's are as they are.

    Args:
        student: what the recipe says of it.
        origin: what it is made from.
        work: the folder.
        progress: where it is shown.
    Raises:
        InputError: the teacher's files are missing, damaged or unsupported, or the student has other words.
    """
    BUILDERS[type(student)](student, origin, work, progress)
    shared_rows(origin.teacher, work)
    new_tables = _has_new_tables(student, origin, work)
    identity = Identity(origin.name, origin.license, student.kind, origin.system, new_tables, origin.lineage)
    write_identity(identity, origin.license_text, work)


def _has_new_tables(student: AnyStudent, origin: Origin, work: Path) -> bool:
    """Whether the student's tables are other than the teacher's: projected, or of fewer hidden channels."""
    if isinstance(student, ConfigStudent):
        return True
    return isinstance(student, Narrower) and read_shape(work).width != origin.shape().width
