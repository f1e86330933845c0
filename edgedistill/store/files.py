"""What files and folders hold: SHA-256 of their contents, and the list of files below a folder."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from edgedistill.errors import RunError

CHUNK_BYTES = 2**20


def files_of(folder: Path) -> list[Path]:
    """All files below a folder, sorted by their path in it.

    Raises:
        RunError: there is a link or a special file: a link would hide what it points to from the hash.
    """
    return _sorted_files(folder, links=False)


def _sorted_files(folder: Path, links: bool) -> list[Path]:
    return sorted(_walk(folder, links), key=lambda path: path.relative_to(folder).as_posix())


def _walk(folder: Path, links: bool) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.is_symlink() and not (links and path.is_file()):
            raise RunError(
                f"{path}: it is a link{'' if not links else ' to a folder'}; put what it points to in its place."
            )
        if path.is_dir():
            yield from _walk(path, links)
        elif path.is_file():
            yield path
        else:
            raise RunError(f"{path}: it is neither a file nor a folder; remove it.")


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def tree_sha256(folder: Path) -> str:
    """SHA-256 over the paths and contents of all files below a folder (or of one file), in hex; times and modes don't
    count.

    A link to a file counts as the file: the hub's cache is made of such links.
    """
    if folder.is_file():
        return file_sha256(folder)
    return files_sha256(folder, _sorted_files(folder, links=True))


def files_sha256(folder: Path, files: Iterable[Path]) -> str:
    """SHA-256 over the paths and contents of some files of a folder, in the order given, in hex."""
    lines = [f"{file_sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def canonical_json(value: Any) -> str:
    """One text for equal values: keys sorted, no spaces. What a key hashes.

    Raises:
        TypeError, ValueError: the value is not made of JSON types, or a number isn't finite.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
