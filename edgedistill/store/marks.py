"""The completion mark of a stage: `stage.json`, written last. No mark, no stage; a mark that its files don't match
counts as none.

Sizes are bytes, times seconds.
"""

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import edgedistill
from edgedistill.errors import RunError
from edgedistill.results.codec import JsonData, absent
from edgedistill.store.files import canonical_json, file_sha256, files_of
from edgedistill.store.whole import write_json

MARK = "stage.json"
SCHEMA = "edgedistill.stage/1"
OWN_HASH = "mark_sha256"  # key of the hash over all else in a mark; marks of older versions have none
# Part of every key: raise it when the bytes that a stage writes, or what they mean, change without its settings
# changing.
FORMAT_VERSION = 2
# Above this a file whose size and time of change are those of the mark isn't read again: hashing it takes seconds.
TRUST_TIME_ABOVE_BYTES = 4 * 2**30
PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "gguf",
    "llama-cpp-python",
    "onnx",
    "onnxruntime",
    "numpy",
)


@dataclass(frozen=True)
class InputMark(JsonData):
    """A stage that was read: its key, and its content, which tells a rebuilt stage from the one that was read."""

    key: str
    content: str


@dataclass(frozen=True)
class FileMark(JsonData):
    """A file of a stage; its time of change only where it is too large to be hashed again."""

    bytes: int
    sha256: str
    mtime_ns: int | None = absent()


@dataclass(frozen=True)
class Mark(JsonData):
    """What `stage.json` holds.

    Attributes:
        name, key: the stage's.
        settings: all that decided the output beside the inputs; JSON types.
        inputs: the stages that it read, by name.
        outside: content hashes of the files outside the run that it read.
        files: its own, by path.
        versions: of Python, edgedistill and the packages that shape results.
        seconds, peak_rss_bytes: what it took, over all starts.
        slimmed: True where store/slim.py removed its files on purpose.
        place: the device that torch computed on, where the stage does: "device", and of a GPU its name, memory, driver.
    """

    schema: str
    name: str
    key: str
    settings: dict[str, Any]
    inputs: dict[str, InputMark]
    outside: dict[str, str]
    files: dict[str, FileMark]
    versions: dict[str, str]
    seconds: float
    peak_rss_bytes: int
    slimmed: bool | None = absent()
    place: dict[str, Any] = absent({})
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def content(self) -> str:
        """SHA-256 over the stage's files as the mark lists them."""
        hashes = {name: file.sha256 for name, file in self.files.items()}
        return hashlib.sha256(canonical_json(hashes).encode()).hexdigest()


@dataclass(frozen=True)
class StageResult:
    """A finished stage."""

    name: str
    key: str  # SHA-256 in hex
    path: Path  # its folder; read it, never write into it
    reused: bool  # whether it was there already
    mark: Mark

    @property
    def content(self) -> str:
        """SHA-256 over its files' paths and hashes."""
        return self.mark.content


def stage_key(
    name: str, settings: Mapping[str, Any], inputs: Sequence[tuple[str, str]], outside: Mapping[str, str]
) -> str:
    """SHA-256 over all that a stage's output depends on; `inputs` are (name, key) of the stages that it reads.

    Raises:
        TypeError, ValueError: the settings aren't made of JSON types.
    """
    parts = {
        "format": FORMAT_VERSION,
        "stage": name,
        "settings": settings,
        "inputs": [list(pair) for pair in inputs],
        "outside": outside,
    }
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()


@dataclass(frozen=True)
class StageSpec:
    """A stage to build or to find: its name, its key, and all that the key hashes.

    Attributes:
        name: small letters, digits, points and dashes, such as "recover-q4_0".
        key: what `stage_key` gives of the rest.
        settings: all that decides the output beside the inputs; JSON types.
        inputs: the stages that it reads.
        outside: content hashes of the files outside the run that it reads, by a name for each.
    """

    name: str
    key: str
    settings: Mapping[str, Any]
    inputs: Sequence[StageResult]
    outside: Mapping[str, str]

    @classmethod
    def of(
        cls, name: str, settings: Mapping[str, Any], inputs: Sequence[StageResult], outside: Mapping[str, str]
    ) -> "StageSpec":
        """The stage with its key worked out."""
        key = stage_key(name, settings, [(result.name, result.key) for result in inputs], outside)
        return cls(name, key, settings, inputs, outside)


def make_mark(folder: Path, spec: StageSpec, seconds: float, peak_rss_bytes: int) -> Mark:
    """Hash a finished stage's files and say how they came about."""
    return Mark(
        schema=SCHEMA,
        name=spec.name,
        key=spec.key,
        settings=json.loads(canonical_json(spec.settings)),
        inputs=inputs_of(spec.inputs),
        outside=dict(spec.outside),
        files={path.relative_to(folder).as_posix(): _file_mark(path) for path in files_of(folder)},
        versions=versions(),
        seconds=round(seconds, 3),
        peak_rss_bytes=peak_rss_bytes,
    )


def inputs_of(inputs: Sequence[StageResult]) -> dict[str, InputMark]:
    """The stages read, by name."""
    return {result.name: InputMark(result.key, result.content) for result in inputs}


def write_mark(path: Path, mark: Mark) -> None:
    """Write a mark with a hash over itself: its seconds, memory and versions go into reports.

    Raises:
        RunError: the disk is full or the folder can't be written.
    """
    content = mark.to_json()
    write_json(path, {**content, OWN_HASH: _own_hash(content)})


def read_mark(path: Path) -> Mark:
    """A mark as it was written.

    Raises:
        RunError: it isn't a mark, and why.
    """
    try:
        mark = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{path.name} is missing") from None
    except (OSError, ValueError, RecursionError):
        raise RunError(f"{path.name} cannot be read") from None
    if not isinstance(mark, dict) or mark.get("schema") != SCHEMA:
        raise RunError(f"{path.name} has no schema {SCHEMA}")
    own = mark.pop(OWN_HASH, None)
    if own is not None and own != _own_hash(mark):
        raise RunError(f"{path.name} doesn't match its own hash")
    try:
        return Mark.from_json(mark, path.name)
    except RunError as error:
        raise RunError(f"{path.name} lacks a part ({error})") from None


def difference(folder: Path, mark: Mark) -> str | None:
    """The first thing in which a stage's folder differs from its mark, as a clause; None when nothing does."""
    if mark.slimmed:
        return "`runs clean --slim` removed its files"
    try:
        present = {path.relative_to(folder).as_posix(): path for path in files_of(folder) if path != folder / MARK}
    except RunError as error:
        return str(error)
    for name, file in mark.files.items():
        path = present.pop(name, None)
        if path is None:
            return f"{name} is missing"
        stat = path.stat()
        if stat.st_size != file.bytes:
            return f"{name} has {stat.st_size} bytes, its mark says {file.bytes}"
        if stat.st_size > TRUST_TIME_ABOVE_BYTES and stat.st_mtime_ns == file.mtime_ns:
            continue
        if (digest := file_sha256(path)) != file.sha256:
            return f"{name} doesn't match its mark (sha256 {digest[:12]}, marked {file.sha256[:12]})"
    return f"{next(iter(present))} is not in its mark" if present else None


def missing(folder: Path, mark: Mark) -> str | None:
    """The first file of a mark that isn't there in its size, as a clause; None where all are. Contents aren't read."""
    if mark.slimmed:
        return None
    for name, file in mark.files.items():
        try:
            size = (folder / name).stat().st_size
        except OSError:
            return f"{name} is missing"
        if size != file.bytes:
            return f"{name} has {size} bytes, its mark says {file.bytes}"
    return None if (folder / MARK).is_file() else f"{MARK} is missing"


def versions() -> dict[str, str]:
    """Versions of Python, of edgedistill and of the packages that shape its results, without importing them."""
    by_name = {"python": platform.python_version(), "edgedistill": edgedistill.__version__}
    for package in PACKAGES:
        try:
            by_name[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue  # an extra that isn't installed
    return by_name


def _file_mark(path: Path) -> FileMark:
    stat = path.stat()
    large = stat.st_size > TRUST_TIME_ABOVE_BYTES
    return FileMark(stat.st_size, file_sha256(path), stat.st_mtime_ns if large else None)


def _own_hash(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json(content).encode(errors="surrogatepass")).hexdigest()
