"""A run folder of ours as a model: the float student that it made, before any rounding. No torch."""

import json
from dataclasses import dataclass
from pathlib import Path

from edgedistill.errors import InputError, RunError
from edgedistill.models.identity import LICENSE, read_identity
from edgedistill.store.marks import MARK, difference, read_mark
from edgedistill.store.run import RUN, RunFolder

FLOAT_FILE = "float-gguf"  # the stage that writes the float student as a file, whichever stage trained it last
STUDENTS = ("student", "distill")  # what the stages that make one are called, before a phase's number


@dataclass(frozen=True)
class RunStudent:
    """What a run says of its float student."""

    folder: Path
    name: str
    license: str | None
    license_text: str | None


def student_of(path: Path) -> RunStudent | None:
    """The float student of a run folder; None where `path` is no run folder.

    Raises:
        InputError: the run isn't that far, or its student is damaged.
    """
    if not (path / RUN).is_file():
        return None
    run = RunFolder.find(path)
    stage = _last_student(run)
    if stage is None:
        raise InputError(
            f"{path}: the run isn't that far: it has no float student yet (stage {FLOAT_FILE}). "
            "Run its command again until it has, or name the model itself."
        )
    folder = run.stages / run.current[stage]
    try:
        trouble = difference(folder, read_mark(folder / MARK))
    except RunError as error:
        trouble = str(error)
    if trouble:
        raise InputError(
            f"{path}: the run's float student isn't whole ({trouble}). Run its command again, which makes it anew."
        )
    identity = read_identity(folder)
    text = folder / LICENSE
    license_text = text.read_text(encoding="utf-8", errors="replace") if text.is_file() else None
    return RunStudent(folder, identity.name, identity.license, license_text)


def _last_student(run: RunFolder) -> str | None:
    """The stage that the float student's file was written from: after the last phase, if there are any."""
    mark = run.stages / run.current.get(FLOAT_FILE, FLOAT_FILE) / MARK
    if not mark.is_file():
        return None
    try:
        inputs = json.loads(mark.read_text(encoding="utf-8"))["inputs"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    students = (name for name in inputs if name.partition("-")[0] in STUDENTS and name in run.current)
    return next((name for name in students if (run.stages / run.current[name] / MARK).is_file()), None)
