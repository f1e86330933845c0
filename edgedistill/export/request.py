"""What an export writes and where, and what of it is there already: the same export again, killed or not, goes on.

.NAME-MIX.gguf.proof.json      a note, written when a file is proven, before it takes its name; it stays beside it,
                               since a command may be killed after its last file as well as before
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgedistill import __version__
from edgedistill.errors import InputError, RunError
from edgedistill.export.proven import FileSpec
from edgedistill.formats import NumberFormat
from edgedistill.models.source import model_sha256
from edgedistill.results.codec import JsonData
from edgedistill.store.files import canonical_json, tree_sha256
from edgedistill.store.whole import remove_left, write_json


@dataclass(frozen=True)
class Proof(JsonData):
    """A file that was proven: the key of all that it was made from, its own hash, and what was compared."""

    key: str
    content: str
    tensors: int
    blocks: int
    weights_sha256: str


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

    def paths(self, mix: str) -> list[Path]:
        """Where a mix goes, one for each kind."""
        return [self.path(kind, mix) for kind in self.kinds]

    def spec(self, kind: str, mix: str) -> FileSpec:
        """How one file is written."""
        return FileSpec(kind, {**self.metadata, "mix": mix}, self.accuracy_level)

    def check_folder(self) -> None:
        """Refuse an `out` that is a file, before any work.

        Raises:
            InputError: it is, or lies in one.
        """
        there = next(path for path in (self.out, *self.out.parents) if path.exists())
        if not there.is_dir():
            raise InputError(f"{there} is a file, and --out names the folder that the files go to; choose another")


@dataclass(frozen=True)
class Finished:
    """The keys of all files of an export, and the proofs of those that are there already, as they were proven."""

    keys: Mapping[Path, str]
    proofs: Mapping[Path, Proof]

    def holds(self, paths: Iterable[Path]) -> bool:
        """Whether all of some files are there."""
        return all(path in self.proofs for path in paths)


def find_finished(
    request: ExportRequest, sources: Mapping[str, Path], formats: Mapping[str, Mapping[str, NumberFormat]]
) -> Finished:
    """Which files an earlier start of this export finished.

    Args:
        request: what to write.
        sources: by mix, the model or the checkpoint that is packed.
        formats: by mix and tensor, where a model is rounded.
    Raises:
        InputError: `out` is a file; or a file is there already, isn't one of these, and `force` doesn't allow to
            replace it.
    """
    request.check_folder()
    hashes = {source: model_sha256(source) for source in set(sources.values())}
    keys: dict[Path, str] = {}
    proofs: dict[Path, Proof] = {}
    for mix, source in sources.items():
        names = {tensor: number_format.name for tensor, number_format in formats.get(mix, {}).items()}
        for kind in request.kinds:
            path, spec = request.path(kind, mix), request.spec(kind, mix)
            remove_left(path)
            keys[path] = _key(hashes[source], names, spec)
            proof = None if request.force else _proof_of(path, keys[path])
            if proof is not None:
                proofs[path] = proof
            elif path.exists() and not request.force:
                raise InputError(f"{path} is there already; choose another folder with -o, or replace it with --force")
    return Finished(keys, proofs)


def write_note(path: Path, proof: Proof) -> None:
    """Say of a file, which is about to take its name, that it is proven."""
    write_json(_note_of(path), proof.to_json())


def _note_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.proof.json")


def _key(model: str, formats: Mapping[str, str], spec: FileSpec) -> str:
    how = {"kind": spec.kind, "metadata": dict(spec.metadata), "accuracy_level": spec.accuracy_level}
    parts = {"version": __version__, "model": model, "formats": dict(formats), "how": how}
    return hashlib.sha256(canonical_json(parts).encode(errors="surrogatepass")).hexdigest()


def _proof_of(path: Path, key: str) -> Proof | None:
    """The proof of a file; None where it isn't there, was made from something else, or isn't what was proven."""
    try:
        proof = Proof.from_json(json.loads(_note_of(path).read_text(encoding="utf-8")))
        return proof if proof.key == key and tree_sha256(path) == proof.content else None
    except (OSError, ValueError, RecursionError, RunError):
        return None
