"""The completion mark of a stage: `stage.json`, written last. No mark, no stage; a mark that its files don't match
counts as none.

Sizes are bytes, times seconds.
"""

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import edgedistill
from edgedistill.errors import RunError
from edgedistill.store.files import canonical_json, file_sha256, files_of

MARK = "stage.json"
SCHEMA = "edgedistill.stage/1"
# Part of every key: raise it when the bytes that a stage writes, or what they mean, change without its settings
# changing.
FORMAT_VERSION = 2
SLIMMED = "slimmed"  # in a mark: the stage's files were removed on purpose, by store/slim.py
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
class StageResult:
    """A finished stage."""

    name: str
    key: str  # SHA-256 in hex
    path: Path  # its folder; read it, never write into it
    reused: bool  # whether it was there already
    mark: dict[str, Any]  # what stage.json holds

    @property
    def content(self) -> str:
        """SHA-256 over its files' paths and hashes."""
        return content_of(self.mark)


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


def make_mark(folder: Path, spec: StageSpec, seconds: float, peak_rss_bytes: int) -> dict[str, Any]:
    """Hash a finished stage's files and say how they came about."""
    return {
        "schema": SCHEMA,
        "name": spec.name,
        "key": spec.key,
        "settings": json.loads(canonical_json(spec.settings)),
        "inputs": inputs_of(spec.inputs),
        "outside": dict(spec.outside),
        "files": {path.relative_to(folder).as_posix(): _facts(path) for path in files_of(folder)},
        "versions": versions(),
        "seconds": round(seconds, 3),
        "peak_rss_bytes": peak_rss_bytes,
    }


def inputs_of(inputs: Sequence[StageResult]) -> dict[str, dict[str, str]]:
    """The stages read, by name: key, and content, which tells a rebuilt stage from the one that was read."""
    return {result.name: {"key": result.key, "content": result.content} for result in inputs}


def read_mark(path: Path) -> dict[str, Any]:
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
    files = mark.get("files")
    whole = isinstance(files, dict) and all(
        isinstance(f, dict) and {"bytes", "sha256"} <= set(f) for f in files.values()
    )
    numbers = all(isinstance(mark.get(name), (int, float)) for name in ("seconds", "peak_rss_bytes"))
    groups = all(isinstance(mark.get(name), dict) for name in ("settings", "inputs", "outside", "versions"))
    if not (whole and numbers and groups and isinstance(mark.get("key"), str) and isinstance(mark.get("name"), str)):
        raise RunError(f"{path.name} lacks a part")
    return mark


def difference(folder: Path, mark: Mapping[str, Any]) -> str | None:
    """The first thing in which a stage's folder differs from its mark, as a clause; None when nothing does."""
    if mark.get(SLIMMED):
        return "`runs clean --slim` removed its files"
    try:
        present = {path.relative_to(folder).as_posix(): path for path in files_of(folder) if path != folder / MARK}
    except RunError as error:
        return str(error)
    for name, facts in mark["files"].items():
        path = present.pop(name, None)
        if path is None:
            return f"{name} is missing"
        stat = path.stat()
        if stat.st_size != facts["bytes"]:
            return f"{name} has {stat.st_size} bytes, its mark says {facts['bytes']}"
        if stat.st_size > TRUST_TIME_ABOVE_BYTES and stat.st_mtime_ns == facts.get("mtime_ns"):
            continue
        if (digest := file_sha256(path)) != facts["sha256"]:
            return f"{name} doesn't match its mark (sha256 {digest[:12]}, marked {str(facts['sha256'])[:12]})"
    return f"{next(iter(present))} is not in its mark" if present else None


def content_of(mark: Mapping[str, Any]) -> str:
    """SHA-256 over a stage's files as its mark lists them."""
    hashes = {name: facts["sha256"] for name, facts in mark["files"].items()}
    return hashlib.sha256(canonical_json(hashes).encode()).hexdigest()


def versions() -> dict[str, str]:
    """Versions of Python, of edgedistill and of the packages that shape its results, without importing them."""
    by_name = {"python": platform.python_version(), "edgedistill": edgedistill.__version__}
    for package in PACKAGES:
        try:
            by_name[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue  # an extra that isn't installed
    return by_name


def _facts(path: Path) -> dict[str, Any]:
    stat = path.stat()
    facts: dict[str, Any] = {"bytes": stat.st_size, "sha256": file_sha256(path)}
    if stat.st_size > TRUST_TIME_ABOVE_BYTES:
        facts["mtime_ns"] = stat.st_mtime_ns
    return facts
