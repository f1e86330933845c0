"""A report as the bundle tells it: without the paths of the machine that made it, which are nobody else's business, and
which would make other bytes of the same model in another folder.
"""

import shlex
from dataclasses import replace

from edgedistill.models.source import public_source
from edgedistill.results.report import Report


def public_report(report: Report) -> Report:
    """The report with the last names of places on this machine: of the teacher, and of what the command names."""
    source = report.teacher.source
    provenance = report.provenance
    teacher, student = provenance.teacher, report.student
    if student.start is not None:
        student = replace(student, start=replace(student.start, source=public_source(student.start.source)))
    return replace(
        report,
        student=student,
        teacher=replace(report.teacher, source=source and public_source(source)),
        provenance=replace(
            provenance, teacher=teacher and public_source(teacher), command=_public_command(provenance.command)
        ),
    )


def _public_command(command: str | None) -> str | None:
    if not command:
        return command
    try:
        words = shlex.split(command)
    except ValueError:  # from a report.json that isn't ours
        return None
    return shlex.join(public_source(word) if "/" in word else word for word in words)
