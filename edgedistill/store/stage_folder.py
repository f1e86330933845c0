"""One stage's folder while it is built, and after: found whole, gone on with, or built anew.

RUN/stages/distill-0123456789ab/                 finished; its stage.json was written last
RUN/stages/.distill-0123456789ab.partial/        at work; it survives a kill and is handed to its builder again
RUN/stages/.distill-0123456789ab.origin.json     the inputs that the unfinished work was begun from
RUN/stages/.distill-0123456789ab.journal.json    seconds and memory so far
RUN/stages/.distill-0123456789ab.seal.json       the mark to be, while a complete folder gets its name
RUN/stages/.distill-0123456789ab.removed/        what a kill left of a stage that was being removed
"""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgedistill.errors import RunError
from edgedistill.results.codec import to_plain
from edgedistill.store.marks import (
    MARK,
    Mark,
    StageResult,
    StageSpec,
    difference,
    inputs_of,
    make_mark,
    read_mark,
    write_mark,
)
from edgedistill.store.meter import Meter
from edgedistill.store.whole import remove_temporaries, sync_folder, sync_tree, write_json


@dataclass(frozen=True)
class StageFolder:
    """Where one stage lives: its folder, and beside it what is there only while it is at work."""

    stages: Path
    name: str

    @property
    def final(self) -> Path:
        """The finished stage."""
        return self.stages / self.name

    @property
    def partial(self) -> Path:
        """The stage at work."""
        return self.stages / f".{self.name}.partial"

    @property
    def journal(self) -> Path:
        """Seconds and memory so far."""
        return self.stages / f".{self.name}.journal.json"

    @property
    def origin(self) -> Path:
        """Keys and contents of the stages that the unfinished work was begun from."""
        return self.stages / f".{self.name}.origin.json"

    @property
    def seal(self) -> Path:
        """The mark to be: written when the work is complete, before the folder gets its name."""
        return self.stages / f".{self.name}.seal.json"

    @property
    def removed(self) -> Path:
        """The stage while it is removed."""
        return self.stages / f".{self.name}.removed"

    def finish(self, mark: Mark) -> None:
        """Give a sealed folder its name, and then, last of all, its mark."""
        if self.partial.exists():
            self.partial.rename(self.final)
            sync_folder(self.stages)
        write_mark(self.final / MARK, mark)

    def tidy(self) -> None:
        """Remove what a finished stage doesn't need."""
        for path in (self.seal, self.journal, self.origin):
            path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the stage, in an order in which a kill never leaves something that looks complete."""
        self.tidy()
        for folder in (self.final, self.partial):
            discard(folder, self.removed)

    def find(self, spec: StageSpec, on_event: Callable[[str], None]) -> Mark | None:
        """The mark of a stage that is whole; None, with nothing in its way, when it must be built.

        Args:
            spec: the stage that must lie here.
            on_event: told why something that lies here is removed.
        """
        complete = self.final.exists()
        if not complete and not self.seal.exists():
            trouble = self._partial_trouble(spec.inputs)
            if trouble:
                on_event(f"stage {self.name}: {trouble}; starting it anew")
                self.remove()
            return None
        marked = (self.final / MARK).exists() or not self.seal.exists()
        sealed = self.final / MARK if marked else self.seal
        trouble = None
        try:
            mark = read_mark(sealed)
            trouble = _mark_trouble(mark, spec, self.final if complete else self.partial)
        except RunError as error:
            trouble = str(error)
        if trouble:
            on_event(f"stage {self.name}: {trouble}; rebuilding it")
            self.remove()
            return None
        if sealed == self.seal:
            self.finish(mark)
        self.tidy()
        return mark

    def build(self, spec: StageSpec, work: Callable[[Path], None], place: Mapping[str, Any] | None = None) -> Mark:
        """Build a stage in its partial folder, a new one or one that a kill left; returns its mark.

        Raises:
            RunError: it wrote nothing, or a file with the mark's name. What `work` raises passes through.
        """
        self.stages.mkdir(exist_ok=True)
        if not self.partial.exists():
            self.journal.unlink(missing_ok=True)
            write_json(self.origin, to_plain(inputs_of(spec.inputs)))
            self.partial.mkdir()
        with Meter(self.journal) as meter:
            work(self.partial)
        remove_temporaries(self.partial)
        mark = make_mark(self.partial, spec, meter.seconds, meter.peak_rss_bytes)
        if place is not None:
            mark = replace(mark, place=dict(place))
        if not mark.files:
            raise RunError(f"stage {self.name} wrote nothing.")
        if MARK in mark.files:
            raise RunError(f"stage {self.name} wrote a file named {MARK}, which is the name of its mark.")
        sync_tree(self.partial)
        write_mark(self.seal, mark)
        self.finish(mark)
        self.tidy()
        return mark

    def _partial_trouble(self, inputs: Sequence[StageResult]) -> str | None:
        """Why half a stage must not be gone on with: it was begun from other inputs under the same keys."""
        if not self.partial.exists():
            return None
        try:
            origin = json.loads(self.origin.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return "nothing says what its unfinished work was begun from"
        if origin == to_plain(inputs_of(inputs)):
            return None
        return "a stage that its unfinished work was begun from has been rebuilt and differs"


def discard(folder: Path, removed: Path) -> None:
    """Remove a folder, if it is there: it takes the name `removed` first, since a kill may leave half of it."""
    for left in (removed, folder):
        if left.is_dir():
            if left == folder:
                folder.rename(removed)
            shutil.rmtree(removed)


def _mark_trouble(mark: Mark, spec: StageSpec, folder: Path) -> str | None:
    """Why a complete stage must be rebuilt, as a clause; None when nothing is wrong."""
    if mark.key != spec.key:
        return "it is another stage"
    if trouble := difference(folder, mark):
        return trouble
    if mark.inputs != inputs_of(spec.inputs):
        return "a stage that it was built from has been rebuilt and differs"
    return None
