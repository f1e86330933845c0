"""Plain text for training, validation and judging: the prose that comes along, or files of the user's own.

A user's file is cut into the three splits by position, so no passage is both trained on and judged: the first 80 %
trains, the next 10 % validates, the last 10 % judges. Each file is cut for itself: every split has something of each.

Files are never read as a whole. A split's part of a file is a `Passage`, a range of bytes; it is read in blocks that
end where a line does, and each block is tokenized for itself. For a budget of tokens it falls into stretches, equally
far apart, each of which gives its share of the budget from its beginning on: the text is taken evenly from the whole
part, and any stretch can be read again without those before it.
"""

import codecs
import itertools
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgedistill.config.text_file import SMALLEST_TEXT
from edgedistill.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TEXTS = Path(__file__).parent / "texts"
_SHARES = {"train": (0.0, 0.8), "validation": (0.8, 0.9), "judge": (0.9, 1.0)}
BLOCK_BYTES = 2**15  # of text that is tokenized at once
ALIGN_BYTES = 2**12  # within which a line's end, or else a word's, is looked for
# A stretch gives at least so many windows, where the budget has them, and has at least so many bytes for each token
# of a window, so that few windows are cut short by its end.
STRETCH_WINDOWS, STRETCH_BYTES = 4, 32
WORD_BYTES = 2**9  # that are read to find a few words in


@dataclass(frozen=True)
class Passage:
    """Part of a text file: the bytes from `start` to before `stop`, both at the beginning of a line or word."""

    path: Path
    start: int
    stop: int

    def blocks(self) -> Iterator[str]:
        """The text in order, in pieces of about BLOCK_BYTES that end where a line does, or else a word.

        Raises:
            InputError: the file is no longer UTF-8 there.
        """
        at = self.start
        with self.path.open("rb") as file:
            while at < self.stop:
                end = self.stop if self.stop - at <= BLOCK_BYTES else _aligned(self.path, at + BLOCK_BYTES)
                end = min(end, self.stop)
                file.seek(at)
                yield _decoded(file.read(end - at), self.path, at)
                at = end

    def text(self) -> str:
        """All of it at once."""
        return "".join(self.blocks())

    def stretches(self, count: int) -> list["Passage"]:
        """The passage in `count` parts of about one length, end to end."""
        width = self.stop - self.start
        inner = [_aligned(self.path, self.start + width * number // count) for number in range(1, count)]
        bounds = [self.start, *(min(place, self.stop) for place in inner), self.stop]
        return [Passage(self.path, first, last) for first, last in itertools.pairwise(bounds) if first < last]


def passages(split: str, files: Sequence[str] | None) -> list[Passage]:
    """Where the text of one split lies.

    Args:
        split: "train", "validation" or "judge".
        files: the user's own texts, or None for the one that comes along.
    Raises:
        InputError: a file is missing, or too short to be split.
    """
    if files is None:
        path = _TEXTS / f"{split}.txt"
        return [Passage(path, 0, path.stat().st_size)]
    parts = []
    for file in files:
        path = Path(file)
        if not path.is_file():
            raise InputError(
                f"{path}: no such file; teach.text names UTF-8 text files, or null for the prose that comes along"
            )
        size = path.stat().st_size
        if size < SMALLEST_TEXT:
            raise InputError(
                f"{path}: {size} bytes are too few to train, validate and judge on; it needs at least {SMALLEST_TEXT}"
            )
        first, last = (_aligned(path, round(size * share)) for share in _SHARES[split])
        first = first or _mark(path)
        parts.append(Passage(path, first, last))
    return parts


def read_prose(split: str, files: Sequence[str] | None) -> list[str]:
    """The texts of one split as a whole, for what is short."""
    return [passage.text() for passage in passages(split, files)]


@dataclass(frozen=True)
class Stretch:
    """A part of a passage, and how many of its tokens are taken at most."""

    passage: Passage
    tokens: int

    def pieces(self, tokenizer: "PreTrainedTokenizerBase", window: int) -> Iterator[list[int]]:
        """Its ids as pieces of at most `window` and at least 2, as `cut_ids` cuts them."""
        start = bos_of(tokenizer)
        room = window - len(start)
        waiting: list[int] = []
        left = self.tokens
        for block in self.passage.blocks():
            ids = tokenizer(block, add_special_tokens=False)["input_ids"][:left]
            left -= len(ids)
            waiting += ids
            whole = len(waiting) // room * room
            yield from cut_ids(waiting[:whole], start, window)
            waiting = waiting[whole:]
            if left == 0:
                break
        yield from cut_ids(waiting, start, window)


def plan_stretches(split: str, files: Sequence[str] | None, tokens: int, window: int) -> list[Stretch]:
    """The stretches of a split that give about `tokens` tokens, of each file as many; fewer where its text ends before.

    Args:
        window: tokens of a piece; stretches are several of them long.
    """
    parts = passages(split, files)
    stretches = []
    for passage in parts:
        share = -(-tokens // len(parts))
        most = max(1, (passage.stop - passage.start) // (STRETCH_BYTES * window))
        count = min(most, -(-share // (STRETCH_WINDOWS * window)))
        stretches += [Stretch(stretch, -(-share // count)) for stretch in passage.stretches(count)]
    return stretches


class ProseWords:
    """Words of the training part of the prose, from places drawn at random."""

    def __init__(self, parts: Sequence[Passage]) -> None:
        """Take the passages; each place in them is as likely."""
        self._parts = list(parts)
        self._sizes = [passage.stop - passage.start for passage in parts]

    def draw(self, rng: random.Random, count: int) -> str:
        """`count` words in a row, or as many as stand in WORD_BYTES."""
        (passage,) = rng.choices(self._parts, self._sizes)
        at = passage.start + rng.randrange(max(1, passage.stop - passage.start - WORD_BYTES))
        with passage.path.open("rb") as file:
            file.seek(at)
            content = file.read(min(WORD_BYTES, passage.stop - at))
        words = content.decode("utf-8", errors="ignore").split()
        # The first is mostly the end of a word. A language without spaces has no other.
        return " ".join(words[1 : count + 1] or words)


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


def _mark(path: Path) -> int:
    """The bytes of a byte order mark at the beginning of a file: 3 or 0."""
    with path.open("rb") as file:
        return len(codecs.BOM_UTF8) if file.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8 else 0


def _aligned(path: Path, offset: int) -> int:
    """The first place at or after `offset` where a line begins that isn't empty, or else a space, or else a character.

    A word keeps the space before it, which tokenizers count to it.
    """
    if offset <= 0:
        return 0
    with path.open("rb") as file:
        file.seek(offset - 1)
        content = file.read(ALIGN_BYTES)
    line = re.search(rb"\n+", content)
    if line:
        return offset - 1 + line.end()
    space = content.find(b" ", 1)
    if space > 0:
        return offset - 1 + space
    at = 1
    while at < len(content) and content[at] & 0xC0 == 0x80:  # within a character
        at += 1
    return offset - 1 + at


def _decoded(content: bytes, path: Path, at: int) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 at byte {at + error.start}; save it as UTF-8") from error
