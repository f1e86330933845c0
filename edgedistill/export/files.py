"""Several mixes of one model as files, each read back and compared before it counts: what `edgedistill export` does.

A float model is rounded as llama.cpp's own quantizer does it; a checkpoint on its grid is packed as it is. A file has
its name only once it is proven.
"""

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedistill.errors import EdgeDistillError
from edgedistill.export.proven import write_proven
from edgedistill.export.request import ExportRequest, Finished, Proof, find_finished, write_note
from edgedistill.facts import ModelShape
from edgedistill.mixes import Mix, assign_formats
from edgedistill.models.hf_folder import read_shape
from edgedistill.models.load import save_side_files
from edgedistill.models.tensors import ModelTensors
from edgedistill.progress import Progress
from edgedistill.quant.checkpoint import GridCheckpoint, load_grid
from edgedistill.quant.rounded import round_weights
from edgedistill.store.files import tree_sha256
from edgedistill.store.whole import looked_at


@dataclass(frozen=True)
class Exported:
    """One file or ONNX folder that was written, read back and equal to the checkpoint."""

    path: Path
    kind: str
    mix: str
    size_bytes: int
    proof: Proof

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return {
            "path": str(self.path),
            "kind": self.kind,
            "mix": self.mix,
            "bytes": self.size_bytes,
            "tensors": self.proof.tensors,
            "blocks": self.proof.blocks,
            "weights_sha256": self.proof.weights_sha256,
        }


def export_model(
    source: Path, shape: ModelShape, mixes: Sequence[Mix], request: ExportRequest, progress: Progress
) -> list[Exported]:
    """Round a float model (a Hugging Face folder or a GGUF file) to several mixes.

    Raises:
        InputError: a mix doesn't go with the model, a file is there already, or the model can't be read.
        VerifyError: a file doesn't hold what was packed.
        RunError: the disk is full.
    """
    formats = {mix.name: assign_formats(shape, mix) for mix in mixes}
    finished = find_finished(request, {mix.name: source for mix in mixes}, formats)
    done: list[Exported] = []
    with tempfile.TemporaryDirectory() as scratch, _told_as(Path(scratch), source):
        folder, weights = Path(scratch), None
        save_side_files(source, folder)
        for mix in formats:
            if finished.holds(request.paths(mix)):
                done += _there(mix, request, finished, progress)
                continue
            if weights is None:
                progress.start("read the model", 1, "model")
                weights = ModelTensors(source)
                progress.advance(1)
            progress.start(f"{mix}: round", len(formats[mix]), "tensors")
            checkpoint = round_weights(weights, formats[mix], mix)
            progress.advance(len(formats[mix]))
            done += _write(Packed(checkpoint, folder, shape), request, finished, progress)
    return done


def export_checkpoints(checkpoints: Mapping[str, Path], request: ExportRequest, progress: Progress) -> list[Exported]:
    """Write checkpoints, whose folders come by mix with their config and tokenizer, in every kind requested.

    Raises as `export_model`.
    """
    finished = find_finished(request, checkpoints, {})
    done: list[Exported] = []
    for mix, folder in checkpoints.items():
        if finished.holds(request.paths(mix)):
            done += _there(mix, request, finished, progress)
        else:
            done += _write(Packed(load_grid(folder), folder, read_shape(folder)), request, finished, progress)
    return done


@dataclass(frozen=True)
class Packed:
    """What is packed: a checkpoint, the folder of its config and tokenizer, and its shape."""

    checkpoint: GridCheckpoint
    folder: Path
    shape: ModelShape


def _write(packed: Packed, request: ExportRequest, finished: Finished, progress: Progress) -> list[Exported]:
    """Write one mix in every kind that isn't there yet."""
    mix, done = packed.checkpoint.mix, []
    for kind in request.kinds:
        path = request.path(kind, mix)
        proof = finished.proofs.get(path)
        if proof is None:
            progress.start(f"{mix}: write and verify {path.name}", 1, "file")
            proof = _write_one(packed, path, request, kind, finished.keys[path])
            progress.advance(1)
        done.append(Exported(path, kind, mix, _bytes(path), proof))
    progress.finish()
    return done


def _write_one(packed: Packed, path: Path, request: ExportRequest, kind: str, key: str) -> Proof:
    mix = packed.checkpoint.mix
    with looked_at(path) as unproven, _told_as(unproven, path):
        compared, _ = write_proven(packed.checkpoint, packed.folder, packed.shape, unproven, request.spec(kind, mix))
        proof = Proof(key, tree_sha256(unproven), compared.tensors, compared.blocks, compared.sha256)
        write_note(path, proof)
    return proof


def _there(mix: str, request: ExportRequest, finished: Finished, progress: Progress) -> list[Exported]:
    """The files of a mix, all of which an earlier start finished."""
    progress.note(f"{mix}: complete already")
    paths = {kind: request.path(kind, mix) for kind in request.kinds}
    return [Exported(path, kind, mix, _bytes(path), finished.proofs[path]) for kind, path in paths.items()]


def _bytes(path: Path) -> int:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


@contextlib.contextmanager
def _told_as(place: Path, told: Path) -> Iterator[None]:
    """Errors about a temporary place name the one that the user knows."""
    try:
        yield
    except EdgeDistillError as error:
        raise type(error)(str(error).replace(str(place), str(told))) from error
