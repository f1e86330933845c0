"""How a file of the user's is opened: regular files alone, without a byte order mark, line by line up to a length.

What is no regular file (a pipe, a device) could be waited for without end, and a line without end would fill memory.
"""

import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from edgedistill.errors import InputError

MAX_LINE_CHARACTERS = 2**24  # a row of a prompts file with a whole book in it has some millions
MAX_JSON_BYTES = 2**28  # the largest tokenizer.json that is published has some 35 MB
MARK = "\ufeff"  # a byte order mark within a text, where files were put together
ENCODING = "utf-8-sig"  # programs of Windows begin a file with a byte order mark, which belongs to no text
SHOWN = 60  # characters of a wrong value that a message repeats


def require_regular(path: Path) -> int:
    """The size of a file in bytes.

    Raises:
        InputError: it is a folder, a pipe or a device.
        OSError: there is no such file, or it can't be looked at.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe or a device"
        raise InputError(f"{path}: it cannot be read: it is {kind}, not a file")
    return status.st_size


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number from 1, line without its end) of a text in UTF-8, as Python's universal newlines have them.

    Raises:
        InputError: it is no regular file, or a line has more than MAX_LINE_CHARACTERS.
        OSError, UnicodeDecodeError: it can't be read, or isn't UTF-8.
    """
    require_regular(path)
    with path.open(encoding=ENCODING) as file:
        for number, line in enumerate(bounded_lines(path, file), 1):
            yield number, line.rstrip("\n").removeprefix(MARK)


def bounded_lines(path: Path, file: TextIO) -> Iterator[str]:
    """The lines of an open text with their ends.

    Raises:
        InputError: a line has more than MAX_LINE_CHARACTERS.
    """
    number = 0
    while line := file.readline(MAX_LINE_CHARACTERS + 2):
        number += 1
        if len(line.rstrip("\r\n")) > MAX_LINE_CHARACTERS:
            raise InputError(f"{path}:{number}: the line has more than {MAX_LINE_CHARACTERS} characters; cut it up.")
        yield line


def json_file(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        InputError: it is no regular file, has more than MAX_JSON_BYTES, or half of a surrogate pair.
        OSError: it can't be read.
        ValueError, RecursionError: it isn't JSON in UTF-8.
    """
    size = require_regular(path)
    if size > MAX_JSON_BYTES:
        raise InputError(f"{path}: it has {size} bytes; at most {MAX_JSON_BYTES} are read")
    text = path.read_text(encoding=ENCODING)
    value = json.loads(text)
    refuse_surrogates(value, text, str(path))
    return value


def refuse_surrogates(value: Any, text: str, where: str) -> None:
    """Raise InputError where JSON holds half of a surrogate pair, which spells nothing and no tokenizer takes.

    Args:
        value: what was read.
        text: from which text: most have no such escape, and then `value` isn't gone through.
        where: "FILE:LINE" for the error.
    """
    if "\\ud" not in text and "\\uD" not in text:
        return
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(error.object[error.start]):04x}"
        raise InputError(
            f"{where}: it holds {half}, half of a surrogate pair, which spells nothing; remove it, or write the whole "
            "character."
        ) from None


def shown(value: object) -> str:
    """A wrong value as a sentence repeats it: cut, since a number may have thousands of digits."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # Python writes no number of more than 4,300 digits
        return "a number of thousands of digits" if isinstance(value, int) else f"a {type(value).__name__}"
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"
