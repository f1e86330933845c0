"""Prompts from a file: JSONL, JSON, CSV, Parquet or plain text, one prompt a row; what is wrong is named with its line.

A prompt is a text, or a conversation up to a user's turn (config/conversation.py). It stands in config/ because the
plan checks the file before anything long begins, and teach reads it again.
"""

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from edgedistill.config.conversation import (
    ANSWER_FIELDS,
    FIELDS,
    SYSTEM_FIELDS,
    Message,
    Prompt,
    conversation,
    first_turn,
)
from edgedistill.config.parquet_file import parquet_rows
from edgedistill.errors import InputError, did_you_mean
from edgedistill.reading import (
    ENCODING,
    MAX_JSON_BYTES,
    MAX_LINE_CHARACTERS,
    bounded_lines,
    refuse_surrogates,
    text_lines,
)

MAX_ROW_CHARACTERS = 2**20


@dataclass(frozen=True)
class PromptFile:
    """What a file of prompts holds.

    Attributes:
        prompts: in the file's order.
        unused: what of its rows isn't used, in words, and in how many rows.
    """

    prompts: tuple[Prompt, ...]
    unused: dict[str, int]

    def __getitem__(self, index: int) -> str:
        """The last question of one prompt."""
        return self.prompts[index].messages[-1].text

    def used(self, answers: str) -> tuple[Prompt, ...]:
        """The prompts that are used with this `teach.answers`: all, or those that bring an answer."""
        if answers != "own":
            return self.prompts
        return tuple(prompt for prompt in self.prompts if prompt.answer is not None)

    def notes(self, name: str, answers: str) -> list[str]:
        """What a user should know of the file, a sentence each.

        Args:
            name: what messages call the file.
            answers: `teach.answers`.
        """
        total = len(self.prompts)
        answered = sum(prompt.answer is not None for prompt in self.prompts)
        longer = sum(prompt.turns > 1 for prompt in self.prompts)
        notes = []
        if longer:
            notes.append(
                f"{name}: {longer} of {total} prompts have turns before their last question; they are its context"
            )
        if answered and answers == "teacher":
            notes.append(
                f"{name}: {answered} of {total} prompts bring an answer, which isn't used: the teacher answers them "
                "itself. teach.answers: own trains on these answers, both on either"
            )
        if answered < total and answers == "own":
            notes.append(f"{name}: {total - answered} of {total} prompts bring no answer and are left out")
        notes += [f"{name}: not used: {what}, in {count} rows" for what, count in sorted(self.unused.items())]
        return notes


def read_prompts(path: Path, field: str | None = None) -> PromptFile:
    """All prompts of a file, in its order.

    A row is a text, or has its prompt under `field` or the first of FIELDS that is there. Of a list of chat messages
    all up to the last of the user's is the prompt, and what follows is an answer of the file's own. Of a list of
    questions without answers the first one counts. An Alpaca row's `input` follows its `instruction`.

    Args:
        path: .jsonl, .json, .csv, .parquet, or .txt with a prompt a line.
        field: the row's field to read; None finds it.
    Raises:
        InputError: the file is missing, of another kind, empty, or a row is malformed; "FILE:LINE: ...".
    """
    readers: dict[str, Callable[[Path], Iterator[tuple[str, Any]]]] = {
        ".jsonl": _json_lines,
        ".json": _json_list,
        ".csv": _csv_rows,
        ".parquet": partial(_parquet_rows, field=field),
        ".txt": _text_lines,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path}: prompts are read from {', '.join(readers)} files, not '{path.suffix or path.name}'.")
    if not path.is_file():
        raise InputError(
            f"{path}: there is no such prompts file. teach.prompts is 'teacher', or a path from the recipe's folder."
        )
    unused: Counter[str] = Counter()
    prompts: list[Prompt] = []
    usual: str | None = None
    try:
        for where, row in reader(path):
            name = field or _field_of(row, usual)
            prompts.append(_prompt(row, where, name, unused))
            usual = usual or name
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: it is not a text in UTF-8 (byte {error.start}); save it as UTF-8.") from None
    except OSError as error:
        raise InputError(f"{path}: it cannot be read ({error.strerror}).") from None
    if not prompts:
        raise InputError(f"{path}: it holds no prompts. Give at least one, or set teach.prompts to 'teacher'.")
    return PromptFile(tuple(prompts), dict(unused))


def _json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    for number, line in text_lines(path):
        if line.strip():
            where = f"{path}:{number}"
            yield where, _json(line, where)


def _json_list(path: Path) -> Iterator[tuple[str, Any]]:
    if path.stat().st_size > MAX_JSON_BYTES:
        raise InputError(f"{path}: a .json file is read as a whole, up to {MAX_JSON_BYTES} bytes; write it as .jsonl.")
    text = path.read_text(encoding=ENCODING)
    content = _json(text, str(path)) if text.strip() else []
    if not isinstance(content, list):
        raise InputError(
            f"{path}: it holds {_kind(content)}; a .json file of prompts is one list, [...]. Is it .jsonl?"
        )
    yield from ((f"{path}: entry {number}", row) for number, row in enumerate(content, 1))


def _csv_rows(path: Path) -> Iterator[tuple[str, Any]]:
    csv.field_size_limit(MAX_LINE_CHARACTERS)  # a prompt that is too long is then named as one
    with path.open(encoding=ENCODING, newline="") as file:
        rows = csv.reader(bounded_lines(path, file), strict=True)
        try:
            names: list[str] | None = None
            for row in rows:
                where = f"{path}:{rows.line_num}"
                if not row:
                    continue
                if names is None:
                    names = row
                    if twice := [name for name, count in Counter(names).items() if count > 1]:
                        raise InputError(f"{where}: two columns have the name {twice[0][:40]!r}; rename one.")
                    continue
                if len(row) != len(names):
                    raise InputError(f"{where}: the row has not as many cells as the first line, {names}.")
                yield where, dict(zip(names, row, strict=True))
        except csv.Error as error:
            raise InputError(f"{path}:{rows.line_num}: it is not CSV ({error}).") from None


def _parquet_rows(path: Path, field: str | None) -> Iterator[tuple[str, Any]]:
    names = (*FIELDS, *ANSWER_FIELDS, *SYSTEM_FIELDS, "input", *((field,) if field else ()))
    for number, row in enumerate(parquet_rows(path, names), 1):
        where = f"{path}: row {number}"
        refuse_surrogates(row, "\\ud", where)
        yield where, row


def _text_lines(path: Path) -> Iterator[tuple[str, Any]]:
    yield from ((f"{path}:{number}", line.strip()) for number, line in text_lines(path) if line.strip())


def _json(text: str, where: str) -> Any:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: it is not JSON ({error.msg}, column {error.colno}).") from None
    except (ValueError, RecursionError):
        raise InputError(f"{where}: it is not JSON that can be read (nested too deep, or a number too long).") from None
    refuse_surrogates(value, text, where)
    return value


def _prompt(row: Any, where: str, name: str | None, unused: Counter[str]) -> Prompt:
    """The prompt of one row, from the field of that name."""
    if not isinstance(row, dict):
        return Prompt((Message("user", _text(row, where)),))
    if name is None:
        raise InputError(
            f"{where}: the row has no field {', '.join(FIELDS)}; it has {_names(row)}. Name one in teach.prompt_field."
        )
    if name not in row:
        raise InputError(
            f"{where}: the row has no field '{name}'; it has {_names(row)}.{did_you_mean(name, map(str, row))}"
        )
    content = row[name]
    if isinstance(content, list) and all(isinstance(message, dict) for message in content):
        prompt = conversation(content, unused)
        if prompt is None:
            raise InputError(f"{where}: the prompt is null; no message of a user's with a text is in its list.")
        for message in prompt.messages:
            _text(message.text, where)
        return prompt
    if isinstance(content, list):
        content = first_turn(content, unused)
    text = _text(content, where)
    extra = row.get("input")
    if name == "instruction" and isinstance(extra, str) and extra.strip():
        text = f"{text}\n\n{extra}"
    messages = [Message("system", system)] if (system := _first_text(row, SYSTEM_FIELDS)) else []
    return Prompt((*messages, Message("user", text)), _first_text(row, ANSWER_FIELDS, but=name))


def _field_of(row: Any, usual: str | None) -> str | None:
    """Where a row's prompt is: in the field that rows before it had, empty or not; else in the first that has one."""
    if not isinstance(row, dict):
        return None
    if usual in row:
        return usual
    filled = next((name for name in FIELDS if row.get(name)), None)
    return filled or next((name for name in FIELDS if name in row and row[name] in (None, "")), None)


def _text(content: Any, where: str) -> str:
    """A prompt's text, checked."""
    if not isinstance(content, str):
        empty = " (empty)" if content is None else ""
        raise InputError(f"{where}: the prompt is {_kind(content)}{empty}; it must be a text.")
    if not content.strip():
        raise InputError(f"{where}: the prompt is empty; remove the row, or write one.")
    if len(content) > MAX_ROW_CHARACTERS:
        raise InputError(f"{where}: the prompt has {len(content)} characters; at most {MAX_ROW_CHARACTERS} are read.")
    return content


def _first_text(row: dict[Any, Any], names: tuple[str, ...], but: str = "") -> str | None:
    """The first of a row's fields that has a text."""
    for name in names:
        content = row.get(name)
        if name != but and isinstance(content, str) and content.strip():
            return content
    return None


def _kind(value: Any) -> str:
    kinds = {
        dict: "an object",
        list: "a list",
        type(None): "null",
        bool: "true or false",
        int: "a number",
        float: "a number",
    }
    return kinds.get(type(value), type(value).__name__)


def _names(row: dict[Any, Any]) -> str:
    names = [str(name)[:40] for name in row]
    if not names:
        return "none"
    return ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
