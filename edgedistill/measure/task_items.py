"""The test rows of the user's task that every file is asked: those that the model's template and context take."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgedistill.config.conversation import Message
from edgedistill.config.task import Task
from edgedistill.config.task_data import Labelled, TaskData
from edgedistill.data.frame import make_frame
from edgedistill.errors import InputError
from edgedistill.models.gguf_file import read_header
from edgedistill.models.gguf_model import gguf_shape
from edgedistill.models.hf_folder import read_shape
from edgedistill.models.tokenizer import load_tokenizer
from edgedistill.progress import Progress
from edgedistill.results.task import METRICS, VERIFIED, TaskFacts
from edgedistill.templates.render import render_for

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SLACK = 8  # tokens by which a runtime's count may differ from the tokenizer's: a blank of its own, a bos token


@dataclass(frozen=True)
class TaskItems:
    """What is asked.

    Attributes:
        settings: the recipe's `task` part.
        rows: test rows.
        labels: all labels of the task; empty of other kinds.
        tokens: room that the longest row needs with its answer.
        chats: whether rows are conversations for the chat template; else plain text that the model goes on from.
        facts: what the report says of the task.
    """

    settings: Task
    rows: tuple[Labelled, ...]
    labels: tuple[str, ...]
    tokens: int
    chats: bool
    facts: TaskFacts


def choose_task_items(
    settings: Task, data: TaskData, chats: bool, model: Path, progress: Progress, others: Sequence[Path] = ()
) -> TaskItems:
    """The rows that a model can be asked; those that are left out are noted.

    Args:
        settings: the recipe's part.
        data: its rows.
        chats: whether the model is asked in chats.
        model: a folder with the model's config and tokenizer.
        progress: where the note is shown.
        others: folders or .gguf files of models with other tokenizers that are asked the same: a row must fit into
            theirs too.
    Raises:
        InputError: none of them can be asked.
    """
    tokenizer, context = load_tokenizer(model), min(map(context_of_model, [model, *others]))
    tokenizers = [tokenizer, *map(load_tokenizer, others)]
    with_system = not chats or make_frame(tokenizer, model.name).shows_system()
    asked = [shown(row, with_system) for row in data.asked(settings.items)]
    room = context - settings.max_answer_tokens - SLACK
    lengths = [_most_tokens(tokenizers, row, chats) for row in asked]
    kept = [row for row, length in zip(asked, lengths, strict=True) if length is not None and length <= room]
    fitting = [length for length in lengths if length is not None and length <= room]
    if left := len(asked) - len(kept):
        why = f"refused by the chat template, or longer than the model's context of {context} tokens"
        progress.note(f"task {settings.name}: {left} of {len(asked)} test rows aren't asked: {why} with their answer")
    if not kept:
        raise InputError(
            f"{settings.file}: none of the {len(asked)} test rows can be asked: with task.max_answer_tokens of "
            f"{settings.max_answer_tokens} they are longer than the model's context of {context} tokens"
        )
    facts = TaskFacts(
        name=settings.name,
        kind=data.kind,
        metric=VERIFIED if settings.verify else METRICS[data.kind],
        items=len(kept),
        left_out=left,
        test_rows=len(data.test),
        learn_rows=len(data.learn),
        labels=None if data.labels is None else len(data.labels),
        fields=data.fields or (),
    )
    longest = max(fitting) + settings.max_answer_tokens + SLACK
    return TaskItems(settings, tuple(kept), data.labels or (), longest, chats, facts)


def context_of_model(model: Path) -> int:
    """Tokens that the model of a folder or a .gguf file reads at most."""
    return read_shape(model).context if model.is_dir() else gguf_shape(read_header(model)).context


def _most_tokens(tokenizers: "Sequence[PreTrainedTokenizerBase]", row: Labelled, chats: bool) -> int | None:
    """The most that a row has in one of the tokenizers; None where a template refuses it."""
    lengths = [_tokens(tokenizer, row, chats) for tokenizer in tokenizers]
    known = [length for length in lengths if length is not None]
    return max(known) if len(known) == len(lengths) else None


def shown(row: Labelled, with_system: bool) -> Labelled:
    """The row as it is asked: without the system's message where the template has no place for it."""
    messages = tuple(message for message in row.messages if with_system or message.role != "system")
    return Labelled(messages, row.answer, row.where)


def plain_text(messages: Sequence[Message]) -> str:
    """A prompt for a model that doesn't chat, as teach gives it to one."""
    return " ".join(message.text for message in messages)


def _tokens(tokenizer: "PreTrainedTokenizerBase", row: Labelled, chats: bool) -> int | None:
    """Tokens of a prompt; None where the template refuses it."""
    if not chats:
        return len(tokenizer(plain_text(row.messages), verbose=False)["input_ids"])
    messages = [{"role": message.role, "content": message.text} for message in row.messages]
    try:
        text = render_for(tokenizer, messages)
    except InputError:
        return None
    return len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
