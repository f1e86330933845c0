"""A text file of the user's, checked before anything long begins: UTF-8, and long enough; read a piece at a time."""

import codecs
from pathlib import Path

from edgedistill.errors import InputError
from edgedistill.reading import require_regular

SMALLEST_TEXT = 2000  # bytes of a text of the user's own: a tenth of it, which judges, is a paragraph
PIECE_BYTES = 2**20
ROWS = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")  # files of rows: prompts or data, not prose


def check_text(part: str, path: Path) -> None:
    """Refuse a file that can't be trained, validated and judged on.

    Args:
        part: the recipe's key that names it, for the error.
    Raises:
        InputError: it can't be read, isn't UTF-8, is too short, or holds rows.
    """
    refuse_rows(part, path)
    decoder = codecs.getincrementaldecoder("utf-8")()
    size, blank = 0, True
    try:
        require_regular(path)
        with path.open("rb") as file:
            while piece := file.read(PIECE_BYTES):
                before = len(decoder.getstate()[0])
                try:
                    text = decoder.decode(piece)
                except UnicodeDecodeError as error:
                    place = size - before + error.start
                    raise InputError(
                        f"{path}: {part} is not a text in UTF-8 (byte {place}); save it as UTF-8."
                    ) from None
                size += len(piece)
                blank = blank and not text.strip()
    except OSError as error:
        raise InputError(
            f"{path}: {part} cannot be read ({error.strerror}). In a recipe, paths count from its folder."
        ) from None
    if decoder.getstate()[0]:
        raise InputError(
            f"{path}: {part} is not a text in UTF-8 (byte {size - len(decoder.getstate()[0])}); save it as UTF-8."
        )
    if blank:
        raise InputError(f"{path}: {part} is an empty file.")
    if size < SMALLEST_TEXT:
        raise InputError(
            f"{path}: {part} has {size} bytes, too few to train, validate and judge on; it needs at least "
            f"{SMALLEST_TEXT}."
        )


def refuse_rows(part: str, path: Path) -> None:
    """Refuse a file of rows by its name: its quotes, braces and names of fields would count as prose.

    Args:
        part: the option or the recipe's key that names it.
    Raises:
        InputError: it is one.
    """
    if path.suffix.lower() in ROWS:
        raise InputError(
            f"{path}: {part} names a {path.suffix} file, whose quotes and names of fields would count as prose; write "
            "its texts alone into a .txt file. Rows of questions go into teach.prompts (--prompts)."
        )
