"""Take out of a finished run what only building it needed: training text, captured states, curvature, float files.

What stays is what people use: the bundle, the report, the checkpoints that `verify` and `export` read, the figures. A
stage whose files are gone keeps its mark, which says so; the same command, run again, names each such stage and makes
it anew.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgedistill.errors import InputError
from edgedistill.store.files import files_of
from edgedistill.store.marks import MARK, read_mark, write_mark
from edgedistill.store.run import RunFolder

# Stages that stay, by the beginning of their names.
KEPT = ("recover-", "gguf-", "onnx-", "measure", "speeds", "layers-", "report")
# The float student, which another comparison or recovery can begin with; of one that lost tokens this stage too.
STUDENTS, FEWER_TOKENS = ("student", "distill"), "vocabulary"
REPORT, BUNDLE = "report", "bundle"


@dataclass(frozen=True)
class Slimmed:
    """A stage whose files are gone; `freed_bytes` without those that the bundle has too, as hard links."""

    name: str
    folder: str
    freed_bytes: int


def slim(run: RunFolder, student: bool = False, dry_run: bool = False) -> list[Slimmed]:
    """Remove the files of the stages that a finished run's results need no more; returns which, and what it freed.

    Args:
        run: its lock is held.
        student: the float student's files too.
        dry_run: only say what would go.
    Raises:
        InputError: the run isn't finished.
    """
    if REPORT not in run.current or not (run.path / BUNDLE).is_dir():
        raise InputError(
            f"{run.path}: the run isn't finished, so all of it may be needed; run its command to its end first"
        )
    kept = KEPT if student else (*KEPT, *STUDENTS)
    gone = []
    for name, folder in sorted(run.current.items()):
        place = run.stages / folder
        if name.startswith(kept) or (name == FEWER_TOKENS and not student) or not (place / MARK).is_file():
            continue
        files = [path for path in files_of(place) if path != place / MARK]
        if not files:
            continue
        gone.append(Slimmed(name, folder, _own_bytes(files)))
        if not dry_run:
            _empty(place, files)
    return gone


def _empty(place: Path, files: Sequence[Path]) -> None:
    """The mark first: a stage that is killed half emptied must not look whole."""
    write_mark(place / MARK, replace(read_mark(place / MARK), slimmed=True))
    for path in files:
        path.unlink()
    for folder in sorted((path for path in place.rglob("*") if path.is_dir()), reverse=True):
        folder.rmdir()


def _own_bytes(files: Sequence[Path]) -> int:
    facts = [path.stat() for path in files]
    return sum(fact.st_size for fact in facts if fact.st_nlink == 1)
