"""Several mixes of one model as files, each read back and compared before it counts: what `edgedistill export` does.

A float model is rounded as llama.cpp's own quantizer does it; a checkpoint on its grid is packed as it is.
"""

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedistill.errors import InputError, VerifyError
from edgedistill.export.compare import Comparison
from edgedistill.export.proven import FileSpec, write_proven
from edgedistill.facts import ModelShape
from edgedistill.mixes import Mix, assign_formats
from edgedistill.models.load import load_model, save_side_files
from edgedistill.progress import Progress
from edgedistill.quant.checkpoint import GridCheckpoint
from edgedistill.quant.rounded import round_weights


@dataclass(frozen=True)
class Exported:
    """One file or ONNX folder that was written, read back and equal to the checkpoint."""

    path: Path
    kind: str
    mix: str
    size_bytes: int
    comparison: Comparison

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        compared = self.comparison
        return {
            "path": str(self.path),
            "kind": self.kind,
            "mix": self.mix,
            "bytes": self.size_bytes,
            "tensors": compared.tensors,
            "blocks": compared.blocks,
            "weights_sha256": compared.sha256,
        }


@dataclass(frozen=True)
class ExportRequest:
    """What to write and where: `STEM-MIX.gguf` files and `STEM-MIX-onnx` folders."""

    kinds: Sequence[str]
    out: Path
    stem: str
    metadata: Mapping[str, str]
    accuracy_level: int = 4
    force: bool = False

    def path(self, kind: str, mix: str) -> Path:
        """Where one export goes."""
        name = f"{self.stem}-{mix}.gguf" if kind == "gguf" else f"{self.stem}-{mix}-onnx"
        return self.out / name

    def check_paths(self, mixes: Sequence[str]) -> None:
        """Refuse what can't be written, before any work.

        Raises:
            InputError: `out` is a file, or one of the files is there already and `force` doesn't allow to replace it.
        """
        there = next(path for path in (self.out, *self.out.parents) if path.exists())
        if not there.is_dir():
            raise InputError(f"{there} is a file, and --out names the folder that the files go to; choose another")
        if self.force:
            return
        for mix in mixes:
            for kind in self.kinds:
                path = self.path(kind, mix)
                if path.exists():
                    raise InputError(
                        f"{path} is there already; choose another folder with -o, or replace it with --force"
                    )


def export_model(
    source: Path, shape: ModelShape, mixes: Sequence[Mix], request: ExportRequest, progress: Progress
) -> list[Exported]:
    """Round a float model (a Hugging Face folder or a GGUF file) to several mixes.

    Raises:
        InputError: a mix doesn't go with the model, a file is there already, or the model can't be read.
        VerifyError: a file doesn't hold what was packed.
        RunError: the disk is full.
    """
    request.check_paths([mix.name for mix in mixes])
    formats = {mix.name: assign_formats(shape, mix) for mix in mixes}
    progress.start("read the model", 1, "model")
    weights = load_model(source).state_dict()
    progress.advance(1)
    done: list[Exported] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        save_side_files(source, folder)
        for mix in mixes:
            progress.start(f"{mix.name}: round", len(formats[mix.name]), "tensors")
            checkpoint = round_weights(weights, formats[mix.name], mix.name)
            progress.advance(len(formats[mix.name]))
            done += export_checkpoint(checkpoint, folder, shape, request, progress)
    return done


def export_checkpoint(
    checkpoint: GridCheckpoint, folder: Path, shape: ModelShape, request: ExportRequest, progress: Progress
) -> list[Exported]:
    """Write a checkpoint in every kind requested; `folder` holds its config and tokenizer.

    Raises as `export_model`.
    """
    done = []
    for kind in request.kinds:
        path = request.path(kind, checkpoint.mix)
        progress.start(f"{checkpoint.mix}: write and verify {path.name}", 1, "file")
        spec = FileSpec(kind, {**request.metadata, "mix": checkpoint.mix}, request.accuracy_level)
        try:
            comparison, _ = write_proven(checkpoint, folder, shape, path, spec)
        except VerifyError:  # a file that isn't proven doesn't stay
            path.unlink() if kind == "gguf" else shutil.rmtree(path)
            raise
        progress.advance(1)
        files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
        done.append(Exported(path, kind, checkpoint.mix, sum(file.stat().st_size for file in files), comparison))
    progress.finish()
    return done
