"""Progress of a long stage: what runs, how far it is, its rate and the time left. It goes to stderr, never to stdout.

A stage takes a `Progress` and tells it what it does; the command that started it decides what is shown. On a terminal
that is a bar; in a log file, a line about every ten seconds.
"""

import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

from edgedistill.show import visible

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

    def overall(self, text_of: Callable[[float | None], str] | None) -> None:
        """Show beside each task how far all of it is: what `text_of` says, given the seconds that the task at hand has
        left or None.
        """


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
        self._all: Any = None
        self._text_of: Callable[[float | None], str] | None = None

    def overall(self, text_of: Callable[[float | None], str] | None) -> None:
        """See `Progress.overall`."""
        self._text_of = text_of

    def start(self, what: str, total: float, unit: str) -> None:
        """See `Progress.start`."""
        self.finish()
        what = visible(what, lines=False)
        self._what, self._total, self._unit, self._done, self._figures = what, float(total), unit, 0.0, {}
        self._started = self._last_line = time.monotonic()
        if self._bars:
            self._live = _rich_bars(self._stream)
            self._live.start()
            self._task = self._live.add_task(what, total=total or None, state="", left="")
            self._all = self._live.add_task(
                self._overall_text(), total=0, state="", left="", visible=self._text_of is not None
            )
        else:
            self._line(
                (f"{what}: {_number(total)} {unit}" if total else what)
                + (f" ({self._overall_text()})" if self._text_of else "")
            )

    def advance(self, amount: float, **figures: float) -> None:
        """See `Progress.advance`."""
        self._done += amount
        self._figures.update(figures)
        if self._live is not None:
            left = self._left_s()
            self._live.update(
                self._task,
                completed=self._done,
                state=self._state(),
                left="" if left is None else f"{_duration(left)} left",
            )
            self._live.update(self._all, description=self._overall_text())
        elif self._what and time.monotonic() - self._last_line >= self._line_every_s:
            self._last_line = time.monotonic()
            self._line(self._state_line())

    def note(self, text: str) -> None:
        """See `Progress.note`."""
        text = visible(text)
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
            count = f"{_number(self._done)} {self._unit} in " if self._total or self._done else "done in "
            self._line(f"{self._what}: {count}{_duration(time.monotonic() - self._started)}{self._shown()}")
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
        seconds = self._left_s()
        left = "" if seconds is None else f", {_duration(seconds)} left"
        percent = f"{100 * self._done / self._total:.0f} % " if self._total else ""
        overall = f" ({self._overall_text()})" if self._text_of else ""
        return f"{self._what}: {percent}{self._state()}{left}{overall}"

    def _left_s(self) -> float | None:
        """Seconds that the task at hand has left by its rate so far; None before that can be said."""
        return max(0.0, self._total - self._done) / self._rate() if self._total and self._done else None

    def _overall_text(self) -> str:
        return self._text_of(self._left_s()) if self._text_of else ""


def _rich_bars(stream: TextIO) -> Any:
    """Bars of rich; a task of total 0 is the line about all of it, and has no bar."""
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bars
    from rich.text import Text

    class Bar(BarColumn):
        def render(self, task: Any) -> Any:
            return Text() if task.total == 0 else super().render(task)

    class Percent(TextColumn):
        def render(self, task: Any) -> Text:
            return Text() if task.total == 0 else super().render(task)

    return Bars(
        TextColumn("{task.description}", markup=False),
        Bar(bar_width=24),
        Percent("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[state]}", markup=False),
        TextColumn("{task.fields[left]}", markup=False),
        console=Console(file=stream),
    )


def _number(value: float) -> str:
    """12,400 for large numbers, three significant digits for small ones."""
    if abs(value) >= 1000 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _duration(seconds: float) -> str:
    """ "8 s", "3 min 20 s", "2 h 05 min"."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
