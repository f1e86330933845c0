"""What all files are judged on: texts that a stage wrote, prose, and what is asked."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgedistill.config.tasks import REQUESTS_FILE, task_name, task_path
from edgedistill.pipeline.context import STUDENT_TEXT, TAUGHT, VOCABULARY, VOCABULARY_TEXT, Context
from edgedistill.pipeline.stage import Finished, Outside
from edgedistill.results.report import Teaching
from edgedistill.store.whole import write_json

if TYPE_CHECKING:
    from edgedistill.measure.judge import Judge

ASKED = "asked.json"
JUDGES_FORMAT = 2  # what the folder of judges holds: one more where that changes, so that it is made again
CHATS, WRITTEN, FREE, PROSE, OWN = (
    "held-out chats",
    "held-out text",
    "held-out free text",
    "held-out prose",
    "held-out own text",
)


def written_judges(context: Context, written: str | None, done: Finished) -> "list[Judge]":
    """The held-out texts that a model wrote.

    Args:
        context: the run's.
        written: the stage with what a model wrote; None where it wrote nothing.
        done: all stages so far.
    """
    if written == context.float_text:
        return _judges_of_training(context, done.folder(written))
    if written is None:
        return []
    from edgedistill.measure.judge import Judge, limit_documents
    from edgedistill.teach.training_text import held_out_documents

    documents = held_out_documents(done.folder(written))
    chats = limit_documents(documents, context.recipe.measure.tokens)
    return [Judge(CHATS, "written by the model for this, never trained on", chats)] if chats else []


def _judges_of_training(context: Context, taught: Path) -> "list[Judge]":
    """The held-out part of what the teacher wrote."""
    from edgedistill.measure.judge import Judge, limit_documents, readable, whole_documents
    from edgedistill.signals import shards

    teach, tokens = context.recipe.teach, context.recipe.measure.tokens
    chats = CHATS if teach.style == "chat" else WRITTEN
    sources = (
        (teach.tokens, chats, "written by the teacher, never trained on", shards.WRITTEN),
        (teach.free_tokens, FREE, "written freely by the teacher, never trained on", shards.FREE),
    )
    judges = []
    for budget, name, source, prefix in sources:
        if budget:
            documents = list(shards.iter_shards(taught / f"{prefix}judge"))
            if context.start is not None:
                documents = list(readable(documents, context.shape.context))
            if not context.same_chats and context.same_words:
                documents = [document.without_last() for document in documents if document.kept > 1]
            limit = limit_documents if context.same_words else whole_documents
            judges.append(Judge(name, source, limit(documents, tokens)))
    return judges


def whole_vocabulary(own: "Sequence[Judge]", done: Finished) -> "list[Judge]":
    """The judges' texts in the ids that a student had before it lost tokens."""
    from edgedistill.measure.judge import Judge
    from edgedistill.models.students.vocabulary import kept_tokens
    from edgedistill.teach.trimmed_text import Renumbering

    kept = kept_tokens(done.folder(VOCABULARY))
    assert kept is not None, "its stage wrote it"
    numbers = Renumbering(kept)
    judges = []
    for judge in own:
        documents = [replace(document, tokens=numbers.old(document.tokens)) for document in judge.documents]
        judges.append(Judge(judge.name, judge.source, tuple(documents), judge.per))
    return judges


def teachers_judges(context: Context, own: "Sequence[Judge]", done: Finished) -> "list[Judge]":
    """The judges' texts as a teacher with other words or chats than the student's reads them.

    Where the words are the same, the positions that count are the same answers' in both, without the token that ends
    an answer, which may be another: what both models predict there can be compared.

    Args:
        own: the texts as the student reads them.
    """
    from edgedistill.data.example import counted_from
    from edgedistill.measure.judge import Judge
    from edgedistill.models.tokenizer import load_tokenizer
    from edgedistill.signals import shards

    taught = done.folder(TAUGHT)
    written = {
        example.trace_id: example
        for source in (shards.WRITTEN, shards.FREE)
        for example in shards.iter_shards(taught / f"{source}judge")
    }
    theirs, ours = load_tokenizer(context.given_teacher), load_tokenizer(context.words)
    judges = []
    for judge in own:
        documents = []
        for document in judge.documents:
            if document.trace_id and context.same_words:
                whole = written[document.trace_id].with_signal()
                documents.append(whole.cut(int(whole.positions[document.kept - 1]) + 2))
            elif document.trace_id:
                documents.append(written[document.trace_id].with_signal())
            elif context.same_words:
                documents.append(document)
            else:
                text = ours.decode(document.tokens.tolist(), skip_special_tokens=True)
                documents.append(counted_from(theirs(text, return_tensors="pt")["input_ids"][0].int()))
        per = None if context.same_words else sum(float(document.weights.sum()) for document in judge.documents)
        judges.append(Judge(judge.name, judge.source, tuple(documents), per))
    return judges


def keep_system(folder: Path, written: str | None, done: Finished, system: str | None = None) -> None:
    """Write to the judges' folder what stands before each prompt and request: the system message that all chats of the
    training text began with, where there was one; `system` where another run made that text.
    """
    if written in (TAUGHT, STUDENT_TEXT, VOCABULARY_TEXT):
        taught = json.loads((done.folder(written) / "teach.json").read_text(encoding="utf-8"))
        system = Teaching.from_json(taught).system
    write_json(folder / ASKED, {"system": system})


def kept_system(folder: Path) -> str | None:
    """What `keep_system` wrote."""
    system: str | None = json.loads((folder / ASKED).read_text(encoding="utf-8"))["system"]
    return system


def words_of(context: Context, done: Finished) -> Path:
    """Where the tokenizer lies whose ids the float student has."""
    return done.folder(VOCABULARY) if context.trimmed else context.words


def prose_judge(context: Context, words: Path) -> "Judge":
    """Prose that no training saw, or the last part of the user's own text.

    Args:
        words: where the float student's tokenizer lies.
    """
    from edgedistill.data.prose import passages
    from edgedistill.measure.judge import Judge, prose_documents, readable, whole_texts

    text = context.recipe.teach.text
    name, source = (OWN, "the last tenth of the text given") if text else (PROSE, "prose that no training saw")
    tokens = context.recipe.measure.tokens
    documents = prose_documents(words, passages("judge", text), tokens)
    if context.start is not None:
        documents = readable(documents, min(context.shape.context, context.facts.shape.context))
    return Judge(name, source, documents if context.same_words else whole_texts(words, documents))


def item_files(context: Context) -> dict[str, Outside]:
    """What the questions and requests are read from, by what they are and not by what their files are called."""
    measure = context.recipe.measure
    files = {f"task {task_name(entry)}": Outside(task_path(entry)) for entry in measure.tasks}
    if measure.refusal_items:
        files["requests"] = Outside(REQUESTS_FILE)
    return files
