"""The model that a student starts from, where that isn't the teacher: read before anything runs, without torch."""

from dataclasses import replace
from pathlib import Path

from edgedistill.config.students import AnyStudent
from edgedistill.config.students.auto import AutoStudent
from edgedistill.config.students.sibling import RunStudent, SiblingStudent
from edgedistill.errors import InputError
from edgedistill.facts import ModelFacts, Start
from edgedistill.models.facts import read_facts
from edgedistill.models.run import student_of
from edgedistill.models.shared_rows import other_words, same_chats
from edgedistill.models.source import license_text_beside, resolve, resolve_config_only
from edgedistill.models.vocabulary import read_vocabulary


def read_start(student: AnyStudent, teacher: ModelFacts, config_only: bool) -> Start | None:
    """The model that a student starts from; None where that is its teacher.

    Args:
        student: the recipe's part.
        teacher: the teacher's facts; its files are here.
        config_only: whether the model's weights need not be here yet.
    Raises:
        InputError: it can't be found or read, or a run has no float student yet.
    """
    if student.start is None:
        return None
    source, revision = student.start
    run = student_of(Path(source).expanduser(), all_tokens=True)
    if run is None and isinstance(student, RunStudent):
        raise InputError(f"student.path is '{source}', which is no run folder; name another model with kind: sibling")
    if run is not None:
        facts = read_facts(run.folder, source)
        facts = replace(facts, name=run.name, license=facts.license or run.license, system=run.system)
        return _compared(Start(facts, run.license_text, lineage=run.lineage), teacher)
    path = (resolve_config_only if config_only else resolve)(source, revision=revision)
    facts = read_facts(path, source, config_only=config_only)
    return _compared(Start(facts, license_text_beside(Path(facts.location))), teacher)


def read_siblings(student: AnyStudent, teacher: ModelFacts) -> tuple[Start, ...]:
    """The models among which the planner may choose beside the teacher's cuts, in the recipe's order; none for other
    kinds. Their weights need not be here.

    Raises:
        InputError: as `read_start`.
    """
    if not isinstance(student, AutoStudent):
        return ()
    starts = (read_start(SiblingStudent(model=model), teacher, config_only=True) for model in student.siblings)
    return tuple(start for start in starts if start is not None)


def _compared(start: Start, teacher: ModelFacts) -> Start:
    """The same, with how its words differ from the teacher's."""
    theirs, own = read_vocabulary(Path(teacher.location)), read_vocabulary(Path(start.facts.location))
    differ = other_words(theirs, own)
    return replace(start, other_words=differ, same_chats=differ is None and same_chats(theirs, own))
