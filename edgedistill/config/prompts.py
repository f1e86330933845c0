"""Prompts from a file: JSONL, JSON, CSV, Parquet or plain text, one prompt a row; what is wrong is named with its line.

A prompt is a text, or a conversation up to a user's turn (config/conversation.py). It stands in config/ because the
plan checks the file before anything long begins, and teach reads it again.
"""

from collections import Counter
from dataclasses import dataclass
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
from edgedistill.config.rows import RowFile, checked_text, file_rows, names_of
from edgedistill.errors import InputError, did_you_mean

PROMPT_ROWS = RowFile(
    "prompts",
    (".jsonl", ".json", ".csv", ".parquet", ".txt"),
    "there is no such prompts file. teach.prompts is 'teacher', or a path from the recipe's folder",
)


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
    unused: Counter[str] = Counter()
    prompts: list[Prompt] = []
    usual: str | None = None
    names = (*FIELDS, *ANSWER_FIELDS, *SYSTEM_FIELDS, "input", *((field,) if field else ()))
    for where, row in file_rows(path, PROMPT_ROWS, names):
        name = field or _field_of(row, usual)
        prompts.append(_prompt(row, where, name, unused))
        usual = usual or name
    if not prompts:
        raise InputError(f"{path}: it holds no prompts. Give at least one, or set teach.prompts to 'teacher'.")
    return PromptFile(tuple(prompts), dict(unused))


def _prompt(row: Any, where: str, name: str | None, unused: Counter[str]) -> Prompt:
    """The prompt of one row, from the field of that name."""
    if not isinstance(row, dict):
        return Prompt((Message("user", checked_text(row, "prompt", where)),))
    if name is None:
        raise InputError(
            f"{where}: the row has no field {', '.join(FIELDS)}; it has {names_of(row)}. "
            "Name one in teach.prompt_field."
        )
    if name not in row:
        raise InputError(
            f"{where}: the row has no field '{name}'; it has {names_of(row)}.{did_you_mean(name, map(str, row))}"
        )
    content = row[name]
    if isinstance(content, list) and all(isinstance(message, dict) for message in content):
        prompt = conversation(content, unused)
        if prompt is None:
            raise InputError(f"{where}: the prompt is null; no message of a user's with a text is in its list.")
        for message in prompt.messages:
            checked_text(message.text, "prompt", where)
        return prompt
    if isinstance(content, list):
        content = first_turn(content, unused)
    text = checked_text(content, "prompt", where)
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


def _first_text(row: dict[Any, Any], names: tuple[str, ...], but: str = "") -> str | None:
    """The first of a row's fields that has a text."""
    for name in names:
        content = row.get(name)
        if name != but and isinstance(content, str) and content.strip():
            return content
    return None
