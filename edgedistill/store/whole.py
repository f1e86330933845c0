"""Files and folders that are either whole or not there: written under a temporary name, synced, then renamed.

Nothing else in this package writes a file that another start reads. A kill leaves the old content, or the new, and
perhaps a temporary beside it, which the next `whole` of the same name removes.

.NAME.PID.tmp           being written by process PID
.NAME.replaced.tmp      a folder's old content, for the moment in which the new one takes its name
"""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgedistill.errors import RunError

TEMPORARY = ".tmp"


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary path for the block to write a file to; it is synced and takes the name `path` when the block ends
    well, and is removed when it doesn't.

    Raises:
        RunError: the disk is full or the folder can't be written.
    """
    temporary = _begin(path)
    try:
        with _disk_errors(path, temporary):
            yield temporary
            sync_file(temporary)
            temporary.replace(path)
            sync_folder(path.parent)
    finally:
        _remove(temporary)


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """The same for a folder: the block fills a new, empty one, which takes the name `path`, an older folder's place
    too.

    A folder can't be replaced in one step. A reader that must find the old content after a kill between the two
    renames calls `settle(path)` first.

    Raises:
        RunError: as `whole`.
    """
    with looked_at(path) as folder:
        folder.mkdir()
        yield folder


@contextlib.contextmanager
def looked_at(path: Path) -> Iterator[Path]:
    """A path of the same name in a temporary folder, for a file or a folder that the block writes and looks at. It
    takes its place when the block ends well, in that of an older one too, and is removed when it doesn't.

    Raises:
        RunError: as `whole`.
    """
    settle(path)
    temporary, replaced = _begin(path), _replaced(path)
    try:
        with _disk_errors(path, temporary):
            temporary.mkdir(parents=True)
            inner = temporary / path.name
            yield inner
            sync_tree(temporary)
            if path.is_dir() or (inner.is_dir() and path.exists()):
                path.rename(replaced)
            inner.rename(path)
            sync_folder(path.parent)
            _remove(replaced)
    finally:
        _remove(temporary)


def settle(path: Path) -> None:
    """Put a folder's old content back that a kill took the name of, or remove it where the new content has it."""
    replaced = _replaced(path)
    if replaced.exists() and not path.exists():
        replaced.rename(path)
    _remove(replaced)


def atomic_write(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader, or the next start after a power cut, sees the old content or the new, never a
    part.

    Raises:
        RunError: the disk is full or the folder can't be written.
    """
    data = content.encode() if isinstance(content, str) else content
    with whole(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, value: Any, indent: int | None = 2) -> None:
    """`atomic_write` of a value as JSON, keys in the order given."""
    atomic_write(path, json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False) + "\n")


def remove_temporaries(folder: Path) -> None:
    """Remove what killed writers left below a folder."""
    for path in list(folder.rglob(f".*{TEMPORARY}")):
        _remove(path)


def sync_file(path: Path) -> None:
    """Bring a file's content to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(folder: Path) -> None:
    """Bring a folder's entries (names, renames) to the disk."""
    sync_file(folder)


def sync_tree(folder: Path) -> None:
    """Bring every file and folder below `folder` to the disk; links are left alone."""
    for path in folder.rglob("*"):
        if not path.is_symlink():
            sync_file(path)
    sync_folder(folder)


def remove_left(path: Path) -> None:
    """Remove what processes that no longer live left beside a path while they wrote it."""
    for left in path.parent.glob(f".{_literal(path.name)}.*{TEMPORARY}"):
        number = left.name.removeprefix(f".{path.name}.").removesuffix(TEMPORARY)
        if number.isdigit() and (int(number) == os.getpid() or not _alive(int(number))):
            _remove(left)


def _begin(path: Path) -> Path:
    """The temporary's path, free."""
    remove_left(path)
    return path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")


def _literal(name: str) -> str:
    """The name with glob's signs in brackets."""
    return "".join(f"[{sign}]" if sign in "*?[" else sign for sign in name)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True  # somebody else's
    return True


def _replaced(path: Path) -> Path:
    return path.with_name(f".{path.name}.replaced{TEMPORARY}")


def _remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _disk_errors(path: Path, temporary: Path) -> Iterator[None]:
    """Turn an error in writing the temporary into one that names the path; one about another file passes through."""
    try:
        yield
    except OSError as error:
        named = None if error.filename is None else Path(os.fsdecode(error.filename))
        if named is not None and named != temporary and temporary not in named.parents:
            raise
        raise RunError(
            f"{path}: it cannot be written ({error.strerror}). Free some disk, or choose another folder."
        ) from error
