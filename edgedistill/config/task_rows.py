"""One row of a task's file: what is asked, and the answer. What is wrong is named with its line."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedistill.config.conversation import (
    ANSWER_FIELDS,
    FIELDS,
    SYSTEM_FIELDS,
    Message,
    conversation,
)
from edgedistill.config.rows import RowFile, checked_text, file_rows, kind_of, names_of
from edgedistill.config.task import Task
from edgedistill.errors import InputError, did_you_mean
from edgedistill.show import one_line

ANSWERS = (*ANSWER_FIELDS, "label")
CHATS = ("messages", "conversations")
TASK_ROWS = RowFile(
    "rows of a task",
    (".jsonl", ".json", ".csv", ".parquet"),
    "there is no such file of a task's rows. task.file and task.test name paths from the recipe's folder",
)
SHAPE = '{"prompt": "...", "answer": "..."} or {"messages": [...]}'


@dataclass(frozen=True)
class TaskRow:
    """A row.

    Attributes:
        messages: a system's or none, then users' and answers in turn; the last is a user's.
        answer: its text; "" where the file writes an object.
        object: the answer as an object, where it is one or a text that spells one.
        written_as_object: whether the file itself writes it as an object, not as a text.
        where: "FILE:LINE".
    """

    messages: tuple[Message, ...]
    answer: str
    object: dict[str, Any] | None
    written_as_object: bool
    where: str


def read_rows(task: Task, path: Path) -> Iterator[TaskRow]:
    """The rows of one of a task's files, in its order.

    Raises:
        InputError: as `file_rows`; or a row has an unknown field, or no prompt or answer; "FILE:LINE: ...".
    """
    named = [name for name in (task.prompt_field, task.answer_field) if name is not None]
    known = (*FIELDS, *ANSWERS, *SYSTEM_FIELDS, *named)
    empty = True
    for where, row in file_rows(path, TASK_ROWS, known):
        empty = False
        read = _row(task, row, where)
        if read.written_as_object and path.suffix.lower() == ".parquet":
            raise InputError(
                f"{where}: the answer is an object, and Parquet gives every object all fields of its column, null "
                "where the row has none; write it as JSON text"
            )
        yield read
    if empty:
        raise InputError(f"{path}: it holds no rows; write {SHAPE}")


def _row(task: Task, row: Any, where: str) -> TaskRow:
    if not isinstance(row, dict):
        raise InputError(f"{where}: the row is {kind_of(row)}; write {SHAPE}")
    row = {name: value for name, value in row.items() if value is not None}
    prompt_field = task.prompt_field or next((name for name in FIELDS if name in row), None)
    if prompt_field is None or prompt_field not in row:
        missing = f"field '{prompt_field}' for the prompt" if prompt_field else f"prompt: {', '.join(FIELDS)}"
        raise InputError(
            f"{where}: the row has no {missing}; it has {names_of(row)}.{_name_one(task.prompt_field, row)}"
        )
    chat = isinstance(row[prompt_field], list) and prompt_field in (*CHATS, task.prompt_field)
    allowed = [prompt_field, *SYSTEM_FIELDS]
    if not chat:
        allowed += [task.answer_field] if task.answer_field else ANSWERS
    if unknown := [name for name in row if name not in allowed]:
        raise InputError(
            f"{where}: the row has the unknown field '{one_line(str(unknown[0]))[:40]}'; it may have "
            f"{', '.join(map(str, allowed))}. Take it out, or name your fields in task.prompt_field and "
            f"task.answer_field.{did_you_mean(str(unknown[0]), allowed)}"
        )
    messages, answer = _chat(row, prompt_field, where) if chat else _pair(task, row, prompt_field, where)
    return _checked(messages, answer, where)


def _name_one(field: str | None, row: dict[Any, Any]) -> str:
    return did_you_mean(field, map(str, row)) if field else " Name it in task.prompt_field"


def _pair(task: Task, row: dict[Any, Any], prompt_field: str, where: str) -> tuple[tuple[Message, ...], Any]:
    """A row of a prompt and an answer."""
    names = [task.answer_field] if task.answer_field else [name for name in ANSWERS if name in row]
    if not names or names[0] not in row:
        missing = (
            f"field '{task.answer_field}' for the answer" if task.answer_field else f"answer: {', '.join(ANSWERS)}"
        )
        raise InputError(f"{where}: the row has no {missing}; it has {names_of(row)}")
    if len(names) > 1:
        raise InputError(f"{where}: the row has two answers, {names[0]} and {names[1]}; take one out")
    prompt = checked_text(row[prompt_field], "prompt", where)
    return (*_system(row, where), Message("user", prompt)), row[names[0]]


def _chat(row: dict[Any, Any], prompt_field: str, where: str) -> tuple[tuple[Message, ...], Any]:
    """A row of chat messages; the last of them is the answer."""
    messages = row[prompt_field]
    if not messages or not all(isinstance(message, dict) for message in messages):
        raise InputError(f"{where}: {prompt_field} must be a list of messages with role and content")
    key = "content" if "content" in messages[-1] else "value"
    answer = messages[-1].get(key)
    spelled = [*messages[:-1], messages[-1] | {key: "object"}] if isinstance(answer, dict) else messages
    left_out: Counter[str] = Counter()
    prompt = conversation(spelled, left_out)
    if left_out:
        raise InputError(f"{where}: it holds {next(iter(left_out))}; a task's row is used whole or not at all")
    if prompt is None or prompt.answer is None:
        raise InputError(f"{where}: the last message must be the assistant's, behind a user's: it is the answer")
    system = _system(row, where)
    if system and prompt.system is not None:
        raise InputError(f"{where}: it has a system's message in its list and another beside it; take one out")
    return (*system, *prompt.messages), answer if isinstance(answer, dict) else prompt.answer


def _system(row: dict[Any, Any], where: str) -> tuple[Message, ...]:
    systems = [row[name] for name in SYSTEM_FIELDS if name in row and row[name] != ""]
    return tuple(Message("system", checked_text(system, "system message", where)) for system in systems[:1])


def _checked(messages: tuple[Message, ...], answer: Any, where: str) -> TaskRow:
    for message in messages:
        checked_text(message.text, "prompt", where)
    if isinstance(answer, dict):
        if not answer:
            raise InputError(f"{where}: the answer is an empty object; give it a field")
        return TaskRow(messages, "", answer, True, where)
    text = checked_text(answer, "answer", where, "a text or an object")
    return TaskRow(messages, text, object_of(text), False, where)


def object_of(text: str) -> dict[str, Any] | None:
    """The JSON object that a text spells, blanks around it aside; None where it spells none."""
    if not text.lstrip().startswith("{"):
        return None
    try:
        value = json.loads(text, parse_constant=_no_json)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _no_json(name: str) -> None:
    """NaN and infinities, which Python reads and JSON doesn't have."""
    raise ValueError(f"{name} is no JSON")
