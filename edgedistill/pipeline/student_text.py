"""The stage that puts the training text into the ids of a student whose words or chats aren't its teacher's."""

from pathlib import Path

from edgedistill.pipeline.context import STUDENT_TEXT, TAUGHT, Context, settings_of
from edgedistill.pipeline.estimate import Estimates
from edgedistill.pipeline.stage import Finished, Json, Outside, Stage

FORMAT = 1  # what the folder holds: one more where that changes, so that older text is made again


def student_text(context: Context) -> list[Stage]:
    """The stage; none where the student reads the training text as its teacher wrote it."""
    if context.text == TAUGHT:
        return []
    teach = context.recipe.teach

    def work(folder: Path, done: Finished) -> None:
        from edgedistill.teach.student_text import Reader, write_student_text

        reader = Reader(
            context.given_teacher,
            context.words,
            context.origin.name,
            teach,
            context.same_words,
            context.shape.context,
        )
        write_student_text(reader, done.folder(TAUGHT), folder, done.progress)

    outside = {"teacher": context.given_files, **context.words_files}
    outside |= {f"text {number}": Outside(Path(path)) for number, path in enumerate(teach.text or ())}
    settings: dict[str, Json] = {
        "format": FORMAT,
        "teach": settings_of(teach) | {"text": len(teach.text or ()), "prompts": Path(teach.prompts).suffix},
        "same_words": context.same_words,
        "context": context.shape.context,
    }
    estimate = Estimates(context).student_text()
    return [Stage(STUDENT_TEXT, STUDENT_TEXT, work, settings, (TAUGHT,), outside, estimate=estimate)]
