"""Prove that packed files hold a checkpoint's weights, for a run folder or for single files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgedistill.errors import InputError
from edgedistill.export import mix_in_name
from edgedistill.export.compare import Comparison
from edgedistill.export.gguf.check import compare_gguf, verify_gguf
from edgedistill.export.onnx.check import compare_onnx, verify_onnx
from edgedistill.models.hf_folder import read_shape
from edgedistill.progress import Progress, QuietProgress
from edgedistill.quant.checkpoint import FILE, load_grid
from edgedistill.store.run import RunFolder

RECOVER, ROUNDED = "recover-", "rounded-"
QUIET = QuietProgress()


@dataclass(frozen=True)
class FileProof:
    """One file compared with one checkpoint."""

    path: Path
    kind: str  # "gguf" or "onnx"
    mix: str
    comparison: Comparison


def verify_run(run: RunFolder, progress: Progress = QUIET) -> list[FileProof]:
    """Compare every file of a run's bundle with the checkpoint of its mix.

    Raises:
        InputError: the run has no bundle or no recovered checkpoint yet.
        VerifyError: a file lacks a tensor or holds a foreign one.
    """
    checkpoints = checkpoints_of(run)
    bundle = run.path / "bundle"
    files = [*sorted(bundle.glob("*.gguf")), *sorted(p for p in bundle.glob("onnx*") if p.is_dir())]
    if not files:
        raise InputError(
            f"{bundle}: there is nothing to verify; run `edgedistill compile` to its end first, or name a file"
        )
    return verify_files(files, checkpoints, None, progress)


def verify_files(
    files: Sequence[Path], checkpoints: dict[str, Path], mix: str | None, progress: Progress
) -> list[FileProof]:
    """Compare files with the checkpoints of their mixes, as `verify_file` does, one after the other."""
    progress.start("verify", len(files), "files")
    proofs = []
    for path in files:
        proofs.append(verify_file(path, checkpoints, mix))
        progress.advance(1)
    progress.finish()
    return proofs


def checkpoints_of(run: RunFolder) -> dict[str, Path]:
    """The recovered checkpoints of a run by mix.

    Raises:
        InputError: it has none: its files were only rounded, or it isn't that far.
    """
    checkpoints = {}
    for name, key in run.current.items():
        folder = run.stages / key
        if name.startswith(RECOVER) and (folder / FILE).is_file():
            checkpoints[name.removeprefix(RECOVER)] = folder
    if not checkpoints and (run.path / "bundle").is_dir() and any(name.startswith(ROUNDED) for name in run.current):
        raise InputError(
            f"{run.path}: its files were only rounded, so it holds no recovered checkpoint; run `edgedistill compare` "
            "again with --recover"
        )
    if not checkpoints:
        raise InputError(
            f"{run.path}: it holds no recovered checkpoint yet; run `edgedistill compile` to its end first"
        )
    return checkpoints


def verify_file(path: Path, checkpoints: dict[str, Path], mix: str | None = None) -> FileProof:
    """Compare one .gguf file or ONNX folder with the checkpoint of its mix.

    Args:
        path: the file or folder.
        checkpoints: folders by mix.
        mix: which of them; None finds it in the path's name, or takes the only one.
    Raises:
        InputError: it is neither, or its mix can't be told.
        VerifyError: it lacks a tensor or holds a foreign one, or its shape or tokenizer is another's.
    """
    if not path.exists():
        raise InputError(f"{path}: there is no such file or folder; name a .gguf file or an ONNX folder")
    if path.is_file() and path.suffix == ".gguf":
        kind = "gguf"
    elif path.is_dir() and (path / "onnx").is_dir():
        kind = "onnx"
    else:
        raise InputError(f"{path}: neither a .gguf file nor an ONNX folder (one with onnx/ in it); name one of these")
    if mix is None:
        mix = _mix_of(path, checkpoints)
    if mix is None or mix not in checkpoints:
        trouble = f"mix '{mix}' has no checkpoint here" if mix else "its name doesn't tell its mix"
        raise InputError(f"{path}: {trouble}; give --mix, one of {', '.join(checkpoints)}")
    folder = checkpoints[mix]
    checkpoint, shape = load_grid(folder), read_shape(folder)
    comparison = compare_gguf(checkpoint, path) if kind == "gguf" else compare_onnx(checkpoint, path)
    if comparison.equal:  # the weights are its own: the rest of the file must be too
        (verify_gguf if kind == "gguf" else verify_onnx)(checkpoint, folder, shape, path)
    return FileProof(path, kind, mix, comparison)


def _mix_of(path: Path, checkpoints: dict[str, Path]) -> str | None:
    """The checkpoint's mix that a path's name ends with or else holds, or the only one there is."""
    last = mix_in_name(path)  # the model's name before it may hold another mix's
    if last in checkpoints:
        return last
    named = [mix for mix in checkpoints if mix in path.name]
    if named:
        return max(named, key=len)
    return next(iter(checkpoints)) if len(checkpoints) == 1 else None
