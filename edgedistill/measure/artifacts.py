"""A packed file as it lies on disk: its size, its hash, and what the report calls it."""

from pathlib import Path

from edgedistill.results.row import Artifact
from edgedistill.store.files import file_sha256, tree_sha256


def read_artifact(label: str, kind: str, mix: str | None, runtime: str, path: Path, run: Path) -> Artifact:
    """A file or folder as it lies there; the report calls it by its path within `run`, or by its name outside of it."""
    shown = str(path.relative_to(run)) if path.is_relative_to(run) else path.name
    return Artifact(label, kind, mix, runtime, path, shown, packed_bytes(path), packed_sha256(path))


def packed_bytes(path: Path) -> int:
    """The size of a .gguf file, or of the model file(s) in an ONNX folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in (path / "onnx").iterdir())


def packed_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, or of a folder's."""
    return file_sha256(path) if path.is_file() else tree_sha256(path)
