"""What all files are judged on: texts that a stage wrote, prose, and what is asked."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from edgedistill.config.tasks import REQUESTS_FILE, task_name, task_path
from edgedistill.pipeline.context import Context
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
    if written == "teach":
        return _judges_of_training(context, done.folder("teach"))
    if written is None:
        return []
    from edgedistill.measure.judge import Judge, limit_documents
    from edgedistill.teach.training_text import held_out_documents

    documents = held_out_documents(done.folder(written))
    chats = limit_documents(documents, context.recipe.measure.tokens)
    return [Judge(CHATS, "written by the model for this, never trained on", chats)] if chats else []


def _judges_of_training(context: Context, taught: Path) -> "list[Judge]":
    """The held-out part of what the teacher wrote."""
    from edgedistill.measure.judge import Judge, limit_documents
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
            judges.append(Judge(name, source, limit_documents(documents, tokens)))
    return judges


def keep_system(folder: Path, written: str | None, done: Finished, system: str | None = None) -> None:
    """Write to the judges' folder what stands before each prompt and request: the system message that all chats of the
    training text began with, where there was one; `system` where another run made that text.
    """
    if written == "teach":
        taught = json.loads((done.folder(written) / "teach.json").read_text(encoding="utf-8"))
        system = Teaching.from_json(taught).system
    write_json(folder / ASKED, {"system": system})


def kept_system(folder: Path) -> str | None:
    """What `keep_system` wrote."""
    system: str | None = json.loads((folder / ASKED).read_text(encoding="utf-8"))["system"]
    return system


def prose_judge(context: Context) -> "Judge":
    """Prose that no training saw, or the last part of the user's own text."""
    from edgedistill.data.prose import passages
    from edgedistill.measure.judge import Judge, prose_documents

    text = context.recipe.teach.text
    name, source = (OWN, "the last tenth of the text given") if text else (PROSE, "prose that no training saw")
    tokens = context.recipe.measure.tokens
    return Judge(name, source, prose_documents(context.given_teacher, passages("judge", text), tokens))


def item_files(context: Context) -> dict[str, Outside]:
    """What the questions and requests are read from, by what they are and not by what their files are called."""
    measure = context.recipe.measure
    files = {f"task {task_name(entry)}": Outside(task_path(entry)) for entry in measure.tasks}
    if measure.refusal_items:
        files["requests"] = Outside(REQUESTS_FILE)
    return files
