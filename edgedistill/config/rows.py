"""Rows of a user's file: JSONL, JSON, CSV, Parquet or plain text; what is wrong is named with its line.

It stands in config/ because the plan checks files of prompts and of a task before anything long begins.
"""

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from edgedistill.config.parquet_file import parquet_rows
from edgedistill.errors import InputError
from edgedistill.reading import (
    ENCODING,
    MAX_JSON_BYTES,
    MAX_LINE_CHARACTERS,
    bounded_lines,
    refuse_surrogates,
    text_lines,
)

MAX_ROW_CHARACTERS = 2**20  # of a text in a row


@dataclass(frozen=True)
class RowFile:
    """What a kind of file is called in messages, the suffixes that it may have, and what is said of a missing one."""

    rows: str
    suffixes: tuple[str, ...]
    missing: str


def file_rows(path: Path, kind: RowFile, names: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """(FILE:LINE, row) of each row of a file, in its order: a JSON value, a dict of a table's row, or a line's text.

    Args:
        path: the file.
        kind: what its rows are.
        names: the columns that are read of a Parquet file.
    Raises:
        InputError: the file is missing, of another kind, or a row can't be read; "FILE:LINE: ...".
    """
    readers: dict[str, Callable[[Path], Iterator[tuple[str, Any]]]] = {
        ".jsonl": _json_lines,
        ".json": _json_list,
        ".csv": _csv_rows,
        ".parquet": partial(_parquet_rows, names=names),
        ".txt": _text_lines,
    }
    suffix = path.suffix.lower()
    if suffix not in kind.suffixes:
        allowed = ", ".join(kind.suffixes)
        raise InputError(f"{path}: {kind.rows} are read from {allowed} files, not '{path.suffix or path.name}'.")
    if not path.is_file():
        raise InputError(f"{path}: {kind.missing}.")
    try:
        yield from readers[suffix](path)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: it is not a text in UTF-8 (byte {error.start}); save it as UTF-8.") from None
    except OSError as error:
        raise InputError(f"{path}: it cannot be read ({error.strerror}).") from None


def kind_of(value: Any) -> str:
    """What a JSON value is, in words: "a list"."""
    kinds = {
        dict: "an object",
        list: "a list",
        type(None): "null",
        bool: "true or false",
        int: "a number",
        float: "a number",
    }
    return kinds.get(type(value), type(value).__name__)


def names_of(row: dict[Any, Any]) -> str:
    """A row's fields as a sentence lists them."""
    names = [str(name)[:40] for name in row]
    if not names:
        return "none"
    return ", ".join(names[:8]) + (", …" if len(names) > 8 else "")


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
            f"{path}: it holds {kind_of(content)}; a .json file of prompts is one list, [...]. Is it .jsonl?"
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


def _parquet_rows(path: Path, names: Sequence[str]) -> Iterator[tuple[str, Any]]:
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


def checked_text(content: Any, what: str, where: str, allowed: str = "a text") -> str:
    """A row's text.

    Args:
        what: what messages call it, such as "prompt".
        where: "FILE:LINE".
        allowed: what it may be, in words.
    Raises:
        InputError: it is no text, empty, or too long.
    """
    if not isinstance(content, str):
        empty = " (empty)" if content is None else ""
        raise InputError(f"{where}: the {what} is {kind_of(content)}{empty}; it must be {allowed}.")
    if not content.strip():
        raise InputError(f"{where}: the {what} is empty; remove the row, or write one.")
    if len(content) > MAX_ROW_CHARACTERS:
        raise InputError(f"{where}: the {what} has {len(content)} characters; at most {MAX_ROW_CHARACTERS} are read.")
    return content
