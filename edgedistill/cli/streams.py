"""Standard input, output and error of the command, whatever they were when it started: closed, full, or a terminal.

What is written passes one place, where control characters of file names, models and libraries lose their power: a
terminal obeys them, and some set its title, its clipboard or its keys.
"""

import errno
import os
import re
import sys
from typing import Any, TextIO

from edgedistill.errors import RunError

# What we write ourselves: colours, and the moves of a progress bar.
OURS = re.compile(r"(\x1b\[[0-9;]*[mKA]|\x1b\[\?25[lh]|[\r\n\t])")
HARMLESS = re.compile(r"[\x20-\x7e\r\n\t]*")


class SafeStream:
    """A text stream that shows control characters as symbols.

    Args:
        stream: where the text goes.
        needed: whether an error in writing is one of the command. Progress that nobody can read ends no work of hours.
    """

    def __init__(self, stream: TextIO, needed: bool) -> None:
        self._stream = stream
        self._needed = needed

    def write(self, text: str) -> int:
        """Write a text.

        Raises:
            RunError: what is needed can't be written.
            BrokenPipeError: nobody reads it any more.
        """
        try:
            self._stream.write(text if HARMLESS.fullmatch(text) else _shown(text))
        except (OSError, ValueError) as error:
            self._failed(error)
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Send off what was written. Raises as `write`."""
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            self._failed(error)

    def _failed(self, error: OSError | ValueError) -> None:
        if not self._needed:
            return
        if isinstance(error, BrokenPipeError):
            raise error
        why = error.strerror if isinstance(error, OSError) else "it is closed"
        raise RunError(f"the output can't be written ({why}); name another file, or free some disk") from error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def guard_streams() -> None:
    """Put safe streams in the place of the process's own. One that was closed reads and writes nothing."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number; a file of ours must not become stdout
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 (it lives as long as the process)
    out = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    err = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = SafeStream(out, needed=True)
    sys.stderr = SafeStream(err, needed=False)


def finish_streams() -> str | None:
    """Send off what was written; returns why that can't be done, an empty text where nobody reads it any more.

    After a failure the interpreter finds nothing left that it would fail at again.
    """
    try:
        sys.stdout.flush()
    except RunError as error:
        failure = str(error)
    except OSError as error:
        failure = "" if error.errno == errno.EPIPE else str(error)
    else:
        return None
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return failure


def _shown(text: str) -> str:
    from edgedistill.show import visible  # `--help` does without it

    return "".join(part if OURS.fullmatch(part) else visible(part) for part in OURS.split(text))
