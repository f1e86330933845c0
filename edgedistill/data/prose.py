"""Plain text for training, validation and judging: the prose that comes along, or files of the user's own.

A user's file is cut into the three splits by position, so no passage is both trained on and judged: the first 80 %
trains, the next 10 % validates, the last 10 % judges. Each file is cut for itself: every split has something of each.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from edgedistill.config.teach import SMALLEST_TEXT
from edgedistill.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TEXTS = Path(__file__).parent / "texts"
_SHARES = {"train": (0.0, 0.8), "validation": (0.8, 0.9), "judge": (0.9, 1.0)}

Item = TypeVar("Item")


def read_prose(split: str, files: Sequence[str] | None) -> list[str]:
    """The texts of one split.

    Args:
        split: "train", "validation" or "judge".
        files: the user's own texts, or None for the one that comes along.
    Raises:
        InputError: a file is missing, not UTF-8, or too short to be split.
    """
    if files is None:
        return [(_TEXTS / f"{split}.txt").read_text(encoding="utf-8")]
    return [_part(Path(file), *_SHARES[split]) for file in files]


def _part(path: Path, start: float, end: float) -> str:
    if not path.is_file():
        raise InputError(
            f"{path}: no such file; teach.text names UTF-8 text files, or null for the prose that comes along"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from error
    if len(text) < SMALLEST_TEXT:
        raise InputError(
            f"{path}: {len(text)} characters are too few to train, validate and judge on; it needs at least "
            f"{SMALLEST_TEXT}"
        )
    return text[round(len(text) * start) : round(len(text) * end)]


def bos_of(tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """What the tokenizer puts before a text: its bos token, or nothing."""
    first = tokenizer("a")["input_ids"][0]
    return [first] if first == tokenizer.bos_token_id else []


def cut_text(tokenizer: "PreTrainedTokenizerBase", text: str, window: int) -> list[list[int]]:
    """A text as pieces of at most `window` ids and at least 2, each behind a bos token where the tokenizer puts one
    before a text.

    Without it a model that has only ever seen texts with a bos token at position 0 is far from itself there.
    """
    return cut_ids(tokenizer(text, add_special_tokens=False)["input_ids"], bos_of(tokenizer), window)


def cut_ids(whole: Sequence[int], start: Sequence[int], window: int) -> list[list[int]]:
    """Ids as pieces of at most `window` and at least 2, each behind `start`."""
    room = window - len(start)
    return [piece for at in range(0, len(whole), room) if len(piece := [*start, *whole[at : at + room]]) > 1]


def spread(pieces: Sequence[Item], lengths: Sequence[int], tokens: int) -> list[Item]:
    """Pieces of about `tokens` tokens in all, at least one, taken evenly over the list; all of them where they hold no
    more.
    """
    total = sum(lengths)
    if total <= tokens:
        return list(pieces)
    count = max(1, round(len(pieces) * tokens / total))
    return [pieces[index * len(pieces) // count] for index in range(count)]
