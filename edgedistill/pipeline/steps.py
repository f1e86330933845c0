"""The pipeline: two functions that return lists of stages. Read each from top to bottom.

    compile   [teacher-gguf] ─► teach ─► student ─► distill ─► capture, curvature ─► recover-MIX ─► gguf-, onnx-MIX ─┐
                                                       └─► float-gguf, rounded-MIX ──────────────────────────────────┤
              teach ─► rival-curvature ─► rival-fit ─► rival-gguf: the teacher in the student's bytes ───────────────┤
                                                       judges, references ─► rows, layers, speeds ─► measure ┴─► report
              a teacher with phases of its own first: labels ─► specialise ─► teacher-gguf
              a student that loses tokens: distill ─► vocabulary ─► vocabulary-text, float-gguf
              phases that look inside the teacher: student ─► blocks ─► distill

    compare   student ─► float-gguf, rounded-MIX, held-out ─► rows ... ─► measure ─► report
              with --recover also teach ─► capture, curvature ─► recover-MIX ─► gguf-MIX

Nothing runs while a list is made. A stage reads finished stages and writes one folder; its key hashes all that it
depends on. To add one: a function that returns a `Stage`, and a line here.
"""

from edgedistill.pipeline.context import Context
from edgedistill.pipeline.files import FLOAT_FILE, TEACHER_FILE, float_gguf, rounded, teacher_gguf
from edgedistill.pipeline.judging import JudgingStages
from edgedistill.pipeline.papers import report
from edgedistill.pipeline.recovering import RecoveryStages
from edgedistill.pipeline.rival import RivalStages
from edgedistill.pipeline.stage import Stage, check_order
from edgedistill.pipeline.student_text import student_text
from edgedistill.pipeline.training import TrainingStages
from edgedistill.pipeline.vocabulary import vocabulary


def compile_steps(context: Context) -> list[Stage]:
    """All stages of a compile, in order."""
    training = TrainingStages(context)
    stages = training.specialise()
    if context.as_is:
        stages += [training.student(), float_gguf(context, "student")]
        stages += [training.teach(None if context.own_file else FLOAT_FILE, held_out=False)]
    else:
        if not context.own_file:
            stages.append(teacher_gguf(context))
        stages.append(training.teach(None if context.own_file else TEACHER_FILE, held_out=False))
        stages += student_text(context)
        stages += [training.student(), *training.phases(), *vocabulary(context)]
        stages.append(float_gguf(context, context.float_student))
    stages += RecoveryStages(context).all()
    if context.rival is not None:
        stages += RivalStages(context, context.rival).all()
    stages += JudgingStages(context, context.mixes, context.float_student, context.float_text, "capture").all()
    stages.append(report(context, tuple(stages), context.float_student))
    check_order(stages)
    return stages


def compare_steps(context: Context) -> list[Stage]:
    """All stages of a comparison, in order.

    The judges don't depend on training, nor does a row on the other files: adding a mix, or recovery, to a finished
    comparison makes and judges what is new.
    """
    training = TrainingStages(context)
    chats = context.recipe.teach.style == "chat"
    writer_file = None if context.own_file else FLOAT_FILE
    stages = [training.student(), float_gguf(context, "student")]
    if chats:
        stages.append(training.held_out(writer_file))
    if context.recovering:
        stages.append(training.teach(writer_file, held_out=chats))
        stages += RecoveryStages(context).all()
    else:
        stages += [rounded(context, mix, "student") for mix in context.mixes]
    captured = "capture" if context.recovering else None
    stages += JudgingStages(context, context.mixes, "student", "held-out" if chats else None, captured).all()
    stages.append(report(context, tuple(stages), "student"))
    check_order(stages)
    return stages
