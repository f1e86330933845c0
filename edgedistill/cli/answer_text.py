"""A model's answer on its way to the screen: piece by piece, harmless, and broken between words where a terminal is
narrow.
"""

import re
import sys
from collections.abc import Callable
from typing import TextIO

from edgedistill.show import visible

WORDS = re.compile(r"\n|[^\S\n]+|\S+")
FENCE = "```"
NEAR_CELLS = 16  # a word that begins so near to the right edge is held back until it is whole; most words are shorter


class AnswerWriter:
    """Writes an answer as it comes.

    Control and escape characters are shown as symbols, each by itself, so that it doesn't matter how a model splits
    them over tokens. Between words only newlines are added, never a cursor moved: that works on any terminal. Lines of
    code stay whole.

    Args:
        width: the cells of a line, asked for each word since windows change; None where nothing is to be broken, as in
            a file.
    """

    def __init__(self, out: TextIO, width: Callable[[], int] | None = None) -> None:
        self._out = out
        self._width = width
        self._return = False  # a carriage return whose newline may be in the next piece
        self._column = 0
        self._line = ""  # the beginning of the line, for the fence of code
        self._code = False
        self._word = ""  # what is held back

    def write(self, piece: str) -> None:
        """Show a piece of the answer, all but what must wait for the next one."""
        piece = "\r" * self._return + piece
        self._return = piece.endswith("\r")
        self._put(visible(piece[: len(piece) - self._return]))
        self._out.flush()

    def end(self) -> None:
        """Show what waits, and end the line."""
        self._put(visible("\r") if self._return else "")
        self._show(self._word)
        self._out.write("\n")
        self._out.flush()
        self._return, self._word, self._column = False, "", 0

    def _put(self, text: str) -> None:
        if self._width is None:
            self._out.write(text)
            return
        parts = WORDS.findall(self._word + text)
        self._word = ""
        last = parts.pop() if parts and not parts[-1].isspace() else ""
        for part in parts:
            self._show(part)
        # The last word may go on in the next piece. Far from the edge that does no harm.
        if (
            last
            and not self._code
            and self._column + cells(last) + NEAR_CELLS > self._width()
            and cells(last) < NEAR_CELLS
        ):
            self._word = last
        else:
            self._show(last)

    def _show(self, part: str) -> None:
        if part == "\n":
            if self._line.lstrip().startswith(FENCE):
                self._code = not self._code
            self._line, self._column = "", 0
        elif self._width and not self._code and self._column and self._column + cells(part) > self._width():
            self._out.write("\n")
            self._column = 0
            if part.isspace():
                return
        self._out.write(part)
        if part != "\n":
            self._line = (self._line + part)[:80]
            if self._width:
                # What is too long for a line, the terminal breaks. At the edge itself it waits for what comes next.
                column = self._column + cells(part)
                self._column = (column - 1) % self._width() + 1 if column else 0


def cells(text: str) -> int:
    """How many columns of a terminal a text takes."""
    from rich.cells import cell_len

    return cell_len(text)


def tolerant_streams() -> None:
    """Let what a terminal or a file can't encode, and what piped input can't be decoded from, be a replacement
    character.
    """
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
