"""Which packed file or folder a path means: an artifact itself, or one of a run's or a bundle's: the mix that is named,
else the one that the bundle recommends.
"""

from collections.abc import Iterable
from pathlib import Path

from edgedistill.bundle.recommended import read_recommended
from edgedistill.errors import InputError
from edgedistill.export import mix_in_name
from edgedistill.mixes import MIXES

RUNTIMES = ("llama.cpp", "onnxruntime")


def require_paths(paths: Iterable[Path]) -> None:
    """Refuse a path at which there is nothing, before anything else is said of it.

    Raises:
        InputError: the first such path.
    """
    for path in paths:
        if not path.exists():
            raise InputError(f"{path}: there is no such file or folder")


def find_artifact(path: Path, runtime: str | None, mix: str | None) -> tuple[str, Path]:
    """The runtime and the file or folder that is meant by a path: a .gguf file, an ONNX folder or graph, a run or
    bundle folder.

    Raises:
        InputError: it is none of these, or has no artifact of that runtime or mix.
    """
    if not path.exists():
        raise InputError(f"{path}: there is no such file or folder; name a .gguf file, an ONNX folder or a run folder")
    files: dict[str, Path] | None = None
    bundle = path / "bundle" if (path / "bundle").is_dir() else path
    if path.is_file():
        kind = RUNTIMES[path.suffix == ".onnx"]
    elif (path / "config.json").is_file() and (path / "onnx").is_dir():
        kind = RUNTIMES[1]
    else:
        kind = runtime or RUNTIMES[0]
        files = bundle_artifacts(bundle, kind)
        if not files:
            raise InputError(f"{path}: {_without_files(bundle, kind)}")
    if runtime and runtime != kind:
        raise InputError(f"{path}: it runs in {kind}, not in {runtime}; leave --runtime out")
    if files is None:
        if mix is not None:
            raise InputError(
                f"{path}: --mix chooses among the artifacts of a run folder, and this is one artifact; leave it out"
            )
        return kind, path
    if mix is not None and mix not in files:
        raise InputError(f"{path}: it has no mix '{mix}' for {kind}; it has {', '.join(files)}")
    if mix:
        return kind, files[mix]
    name = read_recommended(bundle).of(kind)
    return kind, bundle / name if name else next(iter(files.values()))


def _without_files(bundle: Path, kind: str) -> str:
    """What is wrong with a folder that has no artifact for a runtime, and what to do."""
    other = next(runtime for runtime in RUNTIMES if runtime != kind)
    artifacts = bundle_artifacts(bundle, other)
    if not artifacts:
        return f"it holds no artifact for {kind}; name a .gguf file, an ONNX folder or the folder of a finished run"
    if other == RUNTIMES[0]:  # the one that is taken by default
        return f"it has files for {other} alone; leave --runtime out"
    return f"it has files for {other} alone; name one of them, such as {next(iter(artifacts.values()))}"


def bundle_artifacts(bundle: Path, kind: str) -> dict[str, Path]:
    """A bundle's artifacts for a runtime by their mix: NAME-MIX.gguf or onnx-MIX/; the mixes that we know first, in
    their order.
    """
    by_mix = {mix_in_name(path): path for path in sorted(bundle.glob("*.gguf" if kind == RUNTIMES[0] else "onnx*/"))}
    order = [*(mix for mix in MIXES if mix in by_mix), *(mix for mix in by_mix if mix not in MIXES)]
    return {mix: by_mix[mix] for mix in order}
