"""A run folder of ours as a model: the float student that it made, before any rounding. No torch."""

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

from edgedistill.errors import InputError, RunError
from edgedistill.models.identity import LICENSE, read_identity
from edgedistill.store.marks import MARK, difference, read_mark
from edgedistill.store.run import RUN, RunFolder

FLOAT_FILE = "float-gguf"  # the stage that writes the float student as a file, whichever stage trained it last
AS_GIVEN = "student"  # the stage of a student that no phase has trained
STUDENTS = (AS_GIVEN, "distill")  # what the stages that make one are called, before a phase's number
FEWER_TOKENS = "vocabulary"  # the stage that takes tokens away from the last of them
# The stages of the text that the phases train on, the last one that a run has; and what it says of it.
TAUGHT, TEACHING = ("student-text", "teach"), "teach.json"
REPORT = "report.json"
_TOKENS = re.compile(r",? \d+ tokens$")  # of the name of a student that is to lose some


@dataclass(frozen=True)
class RunStudent:
    """What a run says of its float student; `system`: the message that all of its training chats began with, if they
    did; `lineage`: the models that it was made from and taught by, the oldest first.
    """

    folder: Path
    name: str
    license: str | None
    license_text: str | None
    system: str | None = None
    lineage: tuple[str, ...] = ()


def student_of(path: Path, all_tokens: bool = False) -> RunStudent | None:
    """The float student of a run folder; None where `path` is no run folder.

    Args:
        path: a folder.
        all_tokens: the student as its last phase left it, where the run took tokens away after that; else as it ships.
    Raises:
        InputError: the run isn't that far, or its student is damaged.
    """
    if not (path / RUN).is_file():
        return None
    run = RunFolder.find(path)
    stage = _last_student(run, FLOAT_FILE)
    if stage == FEWER_TOKENS and all_tokens:
        stage = _last_student(run, FEWER_TOKENS)
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
    if FEWER_TOKENS in run.current and stage != FEWER_TOKENS:
        identity = replace(identity, name=_TOKENS.sub("", identity.name))
    text = folder / LICENSE
    license_text = text.read_text(encoding="utf-8", errors="replace") if text.is_file() else None
    system = identity.system if stage == AS_GIVEN else _taught_system(run)
    lineage = tuple(dict.fromkeys((*identity.lineage, str(run.identity.get("teacher", "")), identity.name)))
    return RunStudent(folder, identity.name, identity.license, license_text, system, lineage)


def _taught_system(run: RunFolder) -> str | None:
    """The system message that all chats began with which a student was distilled on, by the stage that wrote them; by
    the report where that stage's files were removed to save space.
    """
    stage = next((name for name in TAUGHT if name in run.current), TAUGHT[-1])
    taught, report = run.stages / run.current.get(stage, stage) / TEACHING, run.path / REPORT
    try:
        if taught.is_file():
            teaching = json.loads(taught.read_text(encoding="utf-8"))
        else:
            teaching = json.loads(report.read_text(encoding="utf-8"))["teach"]
        system = teaching.get("system")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{run.path}: neither {taught.relative_to(run.path)} nor {REPORT} says what the run's float student was "
            f"trained on ({error}). Run its command again, which makes them anew."
        ) from None
    return system if isinstance(system, str) else None


def _last_student(run: RunFolder, reader: str) -> str | None:
    """The stage of the student that another stage reads: after the last phase, if there are any."""
    mark = run.stages / run.current.get(reader, reader) / MARK
    if not mark.is_file():
        return None
    try:
        inputs = json.loads(mark.read_text(encoding="utf-8"))["inputs"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    makers = (name for name in inputs if name == FEWER_TOKENS or name.partition("-")[0] in STUDENTS)
    students = (name for name in makers if name in run.current)
    return next((name for name in students if (run.stages / run.current[name] / MARK).is_file()), None)
