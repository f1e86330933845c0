"""Progress of a long stage: what runs, how far it is, its rate and the time left. It goes to stderr, never to stdout.

A stage takes a `Progress` and tells it what it does; the command that started it decides what is shown. On a terminal
that is a bar; in a log file, a line about every ten seconds.
"""

import sys
import time
from typing import Any, TextIO

LINE_EVERY_S = 10.0


class Progress:
    """What a stage may say. This base class says nothing; `QuietProgress` is its name for callers."""

    def start(self, what: str, total: float, unit: str) -> None:
        """Begin a task of `total` units ("tokens", "steps"); ends the one before. A total of 0 means unknown."""

    def advance(self, amount: float, **figures: float) -> None:
        """Add `amount` units; `figures` (loss=2.31) replace those shown so far."""

    def note(self, text: str) -> None:
        """Show one line that stays."""

    def finish(self) -> None:
        """End the task at hand. Harmless when there is none."""


class QuietProgress(Progress):
    """Shows nothing: for tests and for callers that want silence."""


class RichProgress(Progress):
    """Bars on a terminal, otherwise a plain line when a task starts, about every ten seconds and when it ends."""

    def __init__(self, stream: TextIO | None = None, line_every_s: float = LINE_EVERY_S) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._bars = self._stream.isatty()
        self._line_every_s = line_every_s
        self._what = ""
        self._unit = ""
        self._total = self._done = 0.0
        self._started = self._last_line = 0.0
        self._figures: dict[str, float] = {}
        self._live: Any = None
        self._task: Any = None

    def start(self, what: str, total: float, unit: str) -> None:
        """See `Progress.start`."""
        self.finish()
        self._what, self._total, self._unit, self._done, self._figures = what, float(total), unit, 0.0, {}
        self._started = self._last_line = time.monotonic()
        if self._bars:
            self._live = _rich_bars(self._stream)
            self._live.start()
            self._task = self._live.add_task(what, total=total or None, state="")
        else:
            self._line(f"{what}: {_number(total)} {unit}" if total else what)

    def advance(self, amount: float, **figures: float) -> None:
        """See `Progress.advance`."""
        self._done += amount
        self._figures.update(figures)
        if self._live is not None:
            self._live.update(self._task, completed=self._done, state=self._state())
        elif self._what and time.monotonic() - self._last_line >= self._line_every_s:
            self._last_line = time.monotonic()
            self._line(self._state_line())

    def note(self, text: str) -> None:
        """See `Progress.note`."""
        if self._live is not None:
            self._live.console.print(text, markup=False, highlight=False)
        else:
            self._line(text)

    def finish(self) -> None:
        """See `Progress.finish`."""
        if not self._what:
            return
        if self._live is not None:
            self._live.stop()
            self._live = None
        else:
            self._line(f"{self._what}: {_number(self._done)} {self._unit} in {_duration(time.monotonic() - self._started)}{self._shown()}")
        self._what = ""

    def _line(self, text: str) -> None:
        self._stream.write(text + "\n")
        self._stream.flush()

    def _shown(self) -> str:
        return "".join(f", {name.replace('_', ' ')} {_number(value)}" for name, value in self._figures.items())

    def _rate(self) -> float:
        return self._done / max(time.monotonic() - self._started, 1e-9)

    def _state(self) -> str:
        of = f"/{_number(self._total)}" if self._total else ""
        return f"{_number(self._done)}{of} {self._unit}, {_number(self._rate())}/s{self._shown()}"

    def _state_line(self) -> str:
        left = ""
        if self._total and self._done:
            left = f", {_duration((self._total - self._done) / self._rate())} left"
        percent = f"{100 * self._done / self._total:.0f} % " if self._total else ""
        return f"{self._what}: {percent}{self._state()}{left}"


def _rich_bars(stream: TextIO) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    return Bars(
        TextColumn("{task.description}", markup=False), BarColumn(bar_width=24), TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[state]}", markup=False), TimeRemainingColumn(compact=True), console=Console(file=stream),
    )


def _number(value: float) -> str:
    """12,400 for large numbers, three significant digits for small ones."""
    if abs(value) >= 1000 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _duration(seconds: float) -> str:
    """"8 s", "3 min 20 s", "2 h 05 min"."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
