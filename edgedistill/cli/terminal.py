"""What `edgedistill chat` shows beside the answers, on stderr: notes, and how far a long conversation is read."""

import os
import shutil
import sys
import textwrap
import time

import click

READING_S = 1.0  # how long a conversation is read before the terminal says so


def terminal_width() -> int:
    """Cells of a line; a terminal that says nonsense has 80."""
    return max(20, shutil.get_terminal_size().columns)


def note(text: str) -> None:
    """A line beside the conversation, on stderr: paler where that is a terminal that wants colours."""
    plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb" or not sys.stderr.isatty()
    if sys.stderr.isatty():
        text = textwrap.fill(text, terminal_width())
    click.echo(text if plain else click.style(text, dim=True), err=True)


class Reading:
    """Shows on a terminal how far a long conversation is read, if that takes longer than READING_S; wiped away before
    the answer.
    """

    def __init__(self) -> None:
        self._since = time.perf_counter()
        self._shown = False
        self._on_terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"

    def show(self, read: int, tokens: int) -> None:
        """Show it, in the place of what was shown before."""
        if self._on_terminal and time.perf_counter() - self._since > READING_S:
            click.echo(f"\r[read {read} of {tokens} tokens]", nl=False, err=True)
            self._shown = True

    def done(self) -> None:
        """Wipe it away."""
        if self._shown:
            click.echo("\r\x1b[K", nl=False, err=True, color=True)
            self._shown = False
