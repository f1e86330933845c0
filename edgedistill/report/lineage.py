"""From which teacher to which file, and whether the file is still worth having: what a reader must know first.

A file is warned of where its perplexity on a held-out text is more than POOR_PPL times the teacher's, where its mean KL
to the teacher is above POOR_KL nats a token, or where it has no answer to most sample prompts. A file for a task of the
user's own is only warned of where it gets nothing of it right, or does it certainly worse than the teacher, by more
than POOR_TASK: it needn't know anything else.
"""

from edgedistill.report.rows import chosen_row
from edgedistill.results.planned import StudentFacts, TeacherFacts
from edgedistill.results.report import Report
from edgedistill.results.row import Row
from edgedistill.results.task import TaskScore
from edgedistill.show import NATS, show, show_bytes, show_count, show_rate

POOR_PPL = 1.5
POOR_KL = 1.0
POOR_TASK = 0.1  # of the share of rows that are answered rightly


def lineage(report: Report) -> str | None:
    """Teacher -> file, each with its weights, size, speed and perplexity as far as they were measured; None where no
    file was.
    """
    row, judge = chosen_row(report), report.first_judge
    if row is None:
        return None
    name = report.teacher.name or "the teacher"
    if report.specialised:
        name = f"{name} trained on labelled answers"
    source = _end(report.teacher, teacher_row(report), judge, name)
    words = f"{source} → {_end(report.student, row, judge, row.label)}"
    distance = row.on(judge).teacher if not report.student.as_is else row.on(judge).student
    if distance.kl_mean is None or row.task is not None:
        return f"{words}."
    return f"{words}; KL to the teacher {show(distance.kl_mean, NATS)} nats a token on {judge}."


def warning(report: Report) -> str | None:
    """Why the file is a poor stand-in for its teacher, in a sentence; None where nothing says so."""
    row, base = chosen_row(report), teacher_row(report)
    if row is None:
        return None
    if row.task is not None:
        return _task_warning(row.label, row.task)
    reasons = []
    for judge in report.judge_names:
        own, theirs = row.on(judge), base.on(judge) if base else None
        distance = own.student if report.student.as_is else own.teacher
        if theirs and own.ppl and theirs.ppl and own.ppl > POOR_PPL * theirs.ppl:
            reasons.append(f"its perplexity on {judge} is {show(own.ppl / theirs.ppl)} times the teacher's")
        elif distance.kl_mean is not None and distance.kl_mean > POOR_KL:
            reasons.append(f"its KL to the teacher on {judge} is {show(distance.kl_mean, NATS)} nats a token")
    answers = [sample.answers[row.label] for sample in report.samples if row.label in sample.answers]
    blank = sum(not answer.strip() for answer in answers)
    if 2 * blank > len(answers):
        reasons.append(f"{blank} of {len(answers)} sample answers are blank")
    if not reasons:
        return None
    return f"{row.label} is a poor stand-in for its teacher: {'; '.join(reasons)}."


def _task_warning(label: str, task: TaskScore) -> str | None:
    if task.right == 0:
        return f"{label} is poor at the task: it answers none of {task.items} rows rightly."
    lost = task.to_teacher
    if lost is None or lost.high >= 0 or lost.difference >= -POOR_TASK:
        return None
    theirs = show(task.share - lost.difference, "share")
    return f"{label} is poor at the task: its {task.metric} is {show(task.share, 'share')}, the teacher's {theirs}."


def teacher_row(report: Report) -> Row | None:
    """The teacher's own file, else the float model's where the student is the teacher."""
    kinds = ("float", "teacher") if report.student.as_is else ("teacher",)
    return next((row for kind in kinds for row in report.rows if row.kind == kind), None)


def _end(model: TeacherFacts | StudentFacts, row: Row | None, judge: str | None, name: str) -> str:
    """One end of the arrow: 'SmolLM2 (134 515 008 weights, 98.2 MB, 60.1 tokens/s, perplexity 6.90)'."""
    facts = []
    if model.parameters:
        facts.append(f"{show_count(model.parameters)} weights")
    if isinstance(model, StudentFacts) and model.cut:
        facts.append(model.cut)
    if row is not None and row.file_bytes:
        facts.append(show_bytes(row.file_bytes))
    if row is not None and row.speed.decode.mean is not None:
        facts.append(show_rate(row.speed.decode.mean))
    if row is not None and row.task is not None:
        facts.append(f"{row.task.metric} {show(row.task.share, 'share')}")
    elif row is not None and row.on(judge).ppl is not None:
        facts.append(f"perplexity {show(row.on(judge).ppl, 'perplexity')}")
    return f"{name} ({', '.join(facts)})" if facts else name
