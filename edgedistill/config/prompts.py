"""Prompts from a file: JSONL, JSON, CSV, Parquet or plain text, one prompt a row; what is wrong is named with its line.

It stands in config/ because the plan checks the file before anything long begins, and teach reads it again.
"""

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from edgedistill.errors import InputError, did_you_mean

# Names that prompt files give their field, tried in this order.
FIELDS = ("prompt", "question", "instruction", "text", "turns", "messages")
MAX_ROW_CHARACTERS = 2**20


def read_prompts(path: Path, field: str | None = None) -> list[str]:
    """All prompts of a file, in its order.

    A row is a text, or has its prompt under `field` or the first of FIELDS that is there. Of a list of turns the first
    one counts, of a list of chat messages the first of the user's. An Alpaca row's `input` follows its `instruction`.

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
        ".parquet": _parquet_rows,
        ".txt": _text_lines,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path}: prompts are read from {', '.join(readers)} files, not '{path.suffix or path.name}'.")
    if not path.is_file():
        raise InputError(
            f"{path}: there is no such prompts file. teach.prompts is 'teacher', or a path from the recipe's folder."
        )
    try:
        prompts = [_prompt(row, where, field) for where, row in reader(path)]
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: it is not a text in UTF-8 (byte {error.start}).") from None
    except OSError as error:
        raise InputError(f"{path}: it cannot be read ({error.strerror}).") from None
    if not prompts:
        raise InputError(f"{path}: it holds no prompts. Give at least one, or set teach.prompts to 'teacher'.")
    return prompts


def _json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                where = f"{path}:{number}"
                yield where, _json(line.rstrip("\r\n"), where)


def _json_list(path: Path) -> Iterator[tuple[str, Any]]:
    text = path.read_text(encoding="utf-8")
    found = _json(text, str(path)) if text.strip() else []
    if not isinstance(found, list):
        raise InputError(f"{path}: it holds {_kind(found)}; a .json file of prompts is one list, [...]. Is it .jsonl?")
    yield from ((f"{path}: entry {number}", row) for number, row in enumerate(found, 1))


def _csv_rows(path: Path) -> Iterator[tuple[str, Any]]:
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            for row in reader:
                if None in row or None in row.values():
                    raise InputError(
                        f"{path}:{reader.line_num}: the row has not as many cells as the first line, "
                        f"{reader.fieldnames}."
                    )
                yield f"{path}:{reader.line_num}", row
        except csv.Error as error:
            raise InputError(f"{path}:{reader.line_num}: it is not CSV ({error}).") from None


def _parquet_rows(path: Path) -> Iterator[tuple[str, Any]]:
    import pyarrow  # type: ignore[import-untyped]
    from pyarrow import parquet

    try:
        rows = parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{path}: it is not a readable Parquet file ({str(error).splitlines()[0][:100]}).") from None
    yield from ((f"{path}: row {number}", row) for number, row in enumerate(rows, 1))


def _text_lines(path: Path) -> Iterator[tuple[str, Any]]:
    with path.open(encoding="utf-8") as file:
        yield from ((f"{path}:{number}", line.strip()) for number, line in enumerate(file, 1) if line.strip())


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: it is not JSON ({error.msg}, column {error.colno}).") from None
    except (ValueError, RecursionError):
        raise InputError(f"{where}: it is not JSON that can be read (nested too deep, or a number too long).") from None


def _prompt(row: Any, where: str, field: str | None) -> str:
    """The prompt of one row."""
    if isinstance(row, dict):
        name = field or next((name for name in FIELDS if row.get(name)), None)
        if name is None:
            raise InputError(
                f"{where}: the row has no field {', '.join(FIELDS)}; it has {_names(row)}. Name one in "
                "teach.prompt_field."
            )
        if name not in row:
            raise InputError(
                f"{where}: the row has no field '{name}'; it has {_names(row)}.{did_you_mean(name, map(str, row))}"
            )
        found = _first(row[name])
        if (
            name == "instruction"
            and isinstance(found, str)
            and isinstance(row.get("input"), str)
            and row["input"].strip()
        ):
            found = f"{found}\n\n{row['input']}"
    else:
        found = row
    if not isinstance(found, str):
        raise InputError(f"{where}: the prompt is {_kind(found)}; it must be a text.")
    if not found.strip():
        raise InputError(f"{where}: the prompt is empty; remove the row, or write one.")
    if len(found) > MAX_ROW_CHARACTERS:
        raise InputError(f"{where}: the prompt has {len(found)} characters; at most {MAX_ROW_CHARACTERS} are read.")
    return found


def _first(found: Any) -> Any:
    """The first turn of a list of turns, or the user's first message of a list of messages."""
    if not isinstance(found, list):
        return found
    for turn in found:
        if not isinstance(turn, dict):
            return turn
        if turn.get("role", turn.get("from")) in ("user", "human"):
            return turn.get("content", turn.get("value"))
    return None


def _kind(found: Any) -> str:
    kinds = {
        dict: "an object",
        list: "a list",
        type(None): "null",
        bool: "true or false",
        int: "a number",
        float: "a number",
    }
    return kinds.get(type(found), type(found).__name__)


def _names(row: dict[Any, Any]) -> str:
    names = [str(name)[:40] for name in row]
    return ", ".join(names[:8]) + (", …" if len(names) > 8 else "") if names else "none"
