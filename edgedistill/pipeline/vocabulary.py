"""The stages that cut a trained student's vocabulary down to what its text uses, and put the text into its ids."""

import shutil
from pathlib import Path

from edgedistill.pipeline.context import VOCABULARY, VOCABULARY_TEXT, Context
from edgedistill.pipeline.estimate import Estimates
from edgedistill.pipeline.stage import Finished, Json, Outside, Stage
from edgedistill.store.marks import MARK


def vocabulary(context: Context) -> list[Stage]:
    """Both stages; none where the student keeps its tokens."""
    size = context.recipe.vocabulary
    if size is None:
        return []
    anew = not context.recipe.recover.compares

    def trim(folder: Path, done: Finished) -> None:
        from edgedistill.models.students.vocabulary import trim_student
        from edgedistill.signals.shards import iter_split
        from edgedistill.train.curve import CURVE

        text = done.folder(context.text)
        # A killed attempt may have renumbered some of the files.
        shutil.rmtree(folder)
        shutil.copytree(done.folder(context.trained_student), folder, ignore=shutil.ignore_patterns(MARK, CURVE))
        texts = (example.tokens for split in ("train", "validation", "judge") for example in iter_split(text, split))
        trim_student(folder, texts, size)

    def renumber(folder: Path, done: Finished) -> None:
        from edgedistill.models.students.vocabulary import kept_tokens
        from edgedistill.teach.trimmed_text import Prose, write_trimmed_text

        kept = kept_tokens(done.folder(VOCABULARY))
        assert kept is not None, "the stage before this one wrote it"
        prose = Prose(done.folder(VOCABULARY), context.recipe.teach) if anew else None
        write_trimmed_text(done.folder(context.text), kept, prose, folder, done.progress)

    estimates = Estimates(context)
    inputs, read = (context.trained_student, context.text), (VOCABULARY, context.text)
    texts = context.recipe.teach.text or () if anew else ()
    outside = {f"text {number}": Outside(Path(path)) for number, path in enumerate(texts)}
    settings: dict[str, Json] = {"prose": "read anew"} if anew else {}
    return [
        Stage(VOCABULARY, VOCABULARY, trim, {"tokens": size}, inputs, estimate=estimates.student()),
        Stage(VOCABULARY_TEXT, VOCABULARY, renumber, settings, read, outside, estimate=estimates.student_text()),
    ]
