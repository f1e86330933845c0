"""A packed file as it lies on disk: its size, its hash, and what the report calls it."""

import re
from pathlib import Path

from edgedistill.errors import InputError
from edgedistill.results.row import Artifact
from edgedistill.store.files import file_sha256, files_sha256, tree_sha256

SPLIT = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")  # llama.cpp's own names of parts


def read_artifact(label: str, kind: str, mix: str | None, runtime: str, path: Path, run: Path) -> Artifact:
    """A file or folder as it lies there; the report calls it by its path within `run`, or by its name outside of it."""
    shown = str(path.relative_to(run)) if path.is_relative_to(run) else path.name
    return Artifact(label, kind, mix, runtime, path, shown, packed_bytes(path), packed_sha256(path))


def parts_of(path: Path) -> list[Path]:
    """All parts of a .gguf file that was split, whose first llama.cpp is given; the file alone where it wasn't.

    Raises:
        InputError: it is another part than the first, or one is missing.
    """
    match = SPLIT.fullmatch(path.name)
    if match is None:
        return [path]
    name, number, count = match[1], int(match[2]), int(match[3])
    if number != 1:
        raise InputError(f"{path}: it is part {number} of {count}; name the first one, {name}-00001-of-{match[3]}.gguf")
    parts = [path.with_name(f"{name}-{part:05d}-of-{match[3]}.gguf") for part in range(1, count + 1)]
    for part in parts:
        if not part.is_file():
            raise InputError(f"{part}: it is missing, one of the {count} parts of a model; download it again")
    return parts


def packed_bytes(path: Path) -> int:
    """The size of a .gguf file with all its parts, or of the model file(s) in an ONNX folder."""
    if path.is_file():
        return sum(part.stat().st_size for part in parts_of(path))
    return sum(file.stat().st_size for file in (path / "onnx").iterdir())


def packed_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, or of a folder's, or over the parts of a file that was split."""
    if path.is_dir():
        return tree_sha256(path)
    parts = parts_of(path)
    return file_sha256(path) if len(parts) == 1 else files_sha256(path.parent, parts)
