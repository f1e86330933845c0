"""What no reader and no stage foresaw, as a sentence: the file that was being read, and a log with the traceback.

Readers name the errors that they know; a damaged or hostile file finds others. While a stage runs, the same is a
failure of the run.
"""

import contextlib
import os
import tempfile
import traceback
from pathlib import Path
from types import TracebackType

from edgedistill.errors import EdgeDistillError, InputError, LoadError, RunError

PACKAGE = Path(__file__).resolve().parents[1]
# A frame of these is below every stage: what fails there isn't the reading of input.
RUNNING = PACKAGE / "pipeline" / "runner.py"


def foreseen(error: Exception) -> EdgeDistillError:
    """The sentence for an exception of any kind; its traceback goes to a log that the sentence names."""
    frames = list(_own_frames(error.__traceback__))
    kind = RunError if any(name == str(RUNNING) for name, _ in frames) else InputError
    if isinstance(error, ImportError | MemoryError):
        kind = RunError
    place, what = _place(frames), f"{type(error).__name__}: {error}"
    if isinstance(error, OSError) and error.strerror:
        place, what = str(error.filename or place or ""), error.strerror
    what = " ".join(what.split())[:300]
    log = _write_log(error)
    where = f"{_cut(place)}: " if place else ""
    return kind(f"{where}{what}.{f' The traceback is in {log}.' if log else ''}")


def refused(error: LoadError) -> EdgeDistillError:
    """A file that a runtime doesn't load is wrong input where it was named, and a failed run where a stage made it."""
    frames = _own_frames(error.__traceback__)
    return error if any(name == str(RUNNING) for name, _ in frames) else InputError(str(error))


def _own_frames(trace: TracebackType | None) -> "list[tuple[str, dict[str, object]]]":
    """(file, local variables) of the frames of ours, the outermost first."""
    frames = []
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if name.startswith(str(PACKAGE)):
            frames.append((name, trace.tb_frame.f_locals))
        trace = trace.tb_next
    return frames


def _place(frames: "list[tuple[str, dict[str, object]]]") -> str | None:
    """The file that was being read: the last path that a function of ours had in hand."""
    for _, local in reversed(frames):
        for name in ("path", "file", "folder", "source"):
            if isinstance(local.get(name), Path):
                return str(local[name])
        paths = [value for value in local.values() if isinstance(value, Path)]
        if paths:
            return str(paths[-1])
    return None


def _cut(place: str) -> str:
    return place if len(place) <= 200 else place[:100] + "…" + place[-99:]


def _write_log(error: Exception) -> str | None:
    """The name of a new file with the traceback, None where none can be written."""
    with contextlib.suppress(OSError):
        handle, name = tempfile.mkstemp(prefix="edgedistill-", suffix=".log")
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as log:
            log.write("".join(traceback.format_exception(error)))
        return name
    return None
