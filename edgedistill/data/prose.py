"""Plain prose for training, validation and judging: the texts that come along, or a file of the user's own.

The user's file is cut into the three splits by position, so no passage is both trained on and judged: the first 80 %
trains, the next 10 % validates, the last 10 % judges.
"""

from pathlib import Path

from edgedistill.errors import InputError

_TEXTS = Path(__file__).parent / "texts"
_SHARES = {"train": (0.0, 0.8), "validation": (0.8, 0.9), "judge": (0.9, 1.0)}
SMALLEST = 2000  # characters: a tenth of it is a paragraph


def read_prose(split: str, file: str | None) -> str:
    """The text of one split.

    Args:
        split: "train", "validation" or "judge".
        file: the user's own text, or None for the one that comes along.
    Raises:
        InputError: the file is missing, not UTF-8, or too short to be split.
    """
    if file is None:
        return (_TEXTS / f"{split}.txt").read_text(encoding="utf-8")
    path = Path(file)
    if not path.is_file():
        raise InputError(f"{path}: no such file; teach.text names a UTF-8 text file, or null for the prose that comes along")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from error
    if len(text) < SMALLEST:
        raise InputError(f"{path}: {len(text)} characters are too few to train, validate and judge on; it needs at least {SMALLEST}")
    start, end = (round(len(text) * share) for share in _SHARES[split])
    return text[start:end]
