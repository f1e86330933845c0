"""What lies in a run folder, and cleaning away what no current result uses. Sizes are bytes, times seconds."""

from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgedistill.errors import InputError, RunError
from edgedistill.store.marks import MARK, read_mark
from edgedistill.store.own import FINAL, PARTIAL, REMOVED, is_beside
from edgedistill.store.run import RUN, RunFolder
from edgedistill.store.stage_folder import StageFolder, discard


@dataclass(frozen=True)
class StageListing:
    """One stage's folder as it lies on the disk; its files are not checked."""

    name: str
    folder: str
    state: str  # "complete", "slimmed", "at work" (or killed there), "half removed", "no mark"
    current: bool  # whether the run's results come from it
    size_bytes: int
    seconds: float | None
    peak_rss_bytes: int | None

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self)


def list_stages(run: RunFolder) -> list[StageListing]:
    """All stages of a run, those at work too, by name."""
    listings = []
    for path in run.stages.iterdir() if run.stages.is_dir() else []:
        partial, half = PARTIAL.fullmatch(path.name), REMOVED.fullmatch(path.name)
        named = partial or half or FINAL.fullmatch(path.name)
        if not path.is_dir() or named is None:
            continue
        state, seconds, peak = "half removed" if half else "at work", None, None
        if not (partial or half):
            try:
                mark = read_mark(path / MARK)
                state = "slimmed" if mark.slimmed else "complete"
                seconds, peak = mark.seconds, mark.peak_rss_bytes
            except RunError:
                state = "no mark"
        current = run.current.get(named[1]) == path.name
        listings.append(StageListing(named[1], path.name, state, current, _size(path), seconds, peak))
    return sorted(listings, key=lambda listing: (listing.name, listing.folder))


def clean(run: RunFolder, keep_current: Collection[str] | None = None, dry_run: bool = False) -> list[StageListing]:
    """Remove every stage that no current result uses, and every unfinished one; returns what was removed.

    A folder that merely has a name like a stage's, without a mark in it, is left alone.

    Args:
        run: its lock is held.
        keep_current: folder names to keep; None keeps those that run.json names.
        dry_run: only say what would go.
    """
    keep = set(run.current.values()) if keep_current is None else set(keep_current)
    removed = [listing for listing in list_stages(run) if listing.folder not in keep and _is_ours(run, listing)]
    if dry_run:
        return removed
    # Origins, journals and seals first: half a folder must look neither complete nor fit to go on from.
    for path in run.stages.iterdir() if run.stages.is_dir() else []:
        if is_beside(path.name):
            path.unlink()
    for listing in removed:
        folder = run.stages / listing.folder
        discard(folder, folder if listing.state == "half removed" else folder.with_name(f".{folder.name}.removed"))
    return removed


def _is_ours(run: RunFolder, listing: StageListing) -> bool:
    """Whether a folder is a stage's: by its mark or its seal, or by a name that only we give."""
    named = listing.state in ("at work", "half removed")
    return (
        named
        or (run.stages / listing.folder / MARK).is_file()
        or StageFolder(run.stages, listing.folder).seal.is_file()
    )


def list_runs(folder: Path) -> list[RunFolder]:
    """The runs in a folder: itself, or the folders right inside it, by name; what isn't a run is passed over.

    Raises:
        InputError: there is no such folder.
    """
    if not folder.exists():
        raise InputError(f"{folder}: there is no such folder; name one that holds runs, such as `runs`.")
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder. Name one that holds runs, such as `runs`.")
    places = [folder] if (folder / RUN).exists() else sorted(path.parent for path in folder.glob(f"*/{RUN}"))
    return [RunFolder.find(path) for path in places]


def run_bytes(run: RunFolder) -> int:
    """Bytes of all files of a run."""
    return _size(run.path)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
