"""What a stage costs: seconds and peak memory of this process and its children, kept in a journal that a kill doesn't
lose.

A second of work that a kill threw away counts too: it was spent.
"""

import contextlib
import json
import threading
import time
from pathlib import Path
from types import TracebackType

import psutil

from edgedistill.errors import RunError
from edgedistill.store.whole import write_json

SAMPLE_SECONDS = 1.0
JOURNAL_EVERY = 5  # samples


class Meter:
    """Use as a context around the work; afterwards `seconds` and `peak_rss_bytes` sum up this start and those before
    it.
    """

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        self._before = 0.0
        self.peak_rss_bytes = 0
        # Without a journal the count starts at zero.
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            spent = json.loads(journal.read_text(encoding="utf-8"))
            self._before, self.peak_rss_bytes = float(spent["seconds"]), int(spent["peak_rss_bytes"])
        self._started = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._process = psutil.Process()

    @property
    def seconds(self) -> float:
        """Wall time over all starts."""
        return self._before + time.monotonic() - self._started

    def __enter__(self) -> "Meter":
        self._sample()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._sample()
        if kind is None:
            self._write()
        else:
            with contextlib.suppress(RunError):  # a full disk is what the error that is on its way tells
                self._write()

    def _watch(self) -> None:
        samples = 0
        while not self._stop.wait(SAMPLE_SECONDS):
            samples += 1
            self._sample()
            if samples % JOURNAL_EVERY == 0:
                with contextlib.suppress(RunError):  # the work itself will meet the full disk
                    self._write()

    def _sample(self) -> None:
        total = 0
        with contextlib.suppress(psutil.Error):
            for process in (self._process, *self._process.children(recursive=True)):
                with contextlib.suppress(psutil.Error):  # a child may end meanwhile
                    total += process.memory_info().rss
        self.peak_rss_bytes = max(self.peak_rss_bytes, total)

    def _write(self) -> None:
        write_json(self._journal, {"seconds": self.seconds, "peak_rss_bytes": self.peak_rss_bytes})
