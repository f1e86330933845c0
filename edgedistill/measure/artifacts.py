"""A packed file to measure: what it is, where it lies, its bytes and their hash."""

from dataclasses import dataclass
from pathlib import Path

from edgedistill.store.files import file_sha256, tree_sha256


@dataclass(frozen=True)
class Artifact:
    """A packed file to measure.

    Attributes:
        label: its row's name, unique.
        kind: "teacher", "float", "rounded" or "recovered".
        mix: the mix's name, None for a float model.
        runtime: "llama.cpp" or "onnxruntime".
        path: the .gguf file, or the ONNX folder.
        file: how the report calls it.
        file_bytes: its size: of the .gguf, or of the model file(s) in the folder.
        sha256: of its bytes.
    """

    label: str
    kind: str
    mix: str | None
    runtime: str
    path: Path
    file: str
    file_bytes: int
    sha256: str

    @classmethod
    def of(cls, label: str, kind: str, mix: str | None, runtime: str, path: Path, run: Path) -> "Artifact":
        """Look at a file or folder; the report calls it by its path within `run`, or by its name where it lies
        elsewhere.
        """
        files = [path] if path.is_file() else sorted((path / "onnx").iterdir())
        digest = file_sha256(path) if path.is_file() else tree_sha256(path)
        shown = str(path.relative_to(run)) if path.is_relative_to(run) else path.name
        return cls(label, kind, mix, runtime, path, shown, sum(file.stat().st_size for file in files), digest)
