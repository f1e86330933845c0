"""File names that a model's name can't break out of: letters, digits, point, dash and underscore, nothing else."""

import re
import unicodedata

from edgedistill.errors import InputError

LONGEST = 80  # characters; with the mix and the ending it stays below every file system's 255
INNER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")


def safe_name(name: str) -> str:
    """The name as one harmless part of a path: accents dropped, all else than A-Za-z0-9._- turned into a dash.

    '../../etc/passwd' gives 'etc-passwd', a name without any such character gives 'model'.
    """
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    parts = re.sub(r"[^A-Za-z0-9._-]+", "-", plain)
    return re.sub(r"\.{2,}", ".", re.sub(r"-{2,}", "-", parts)).strip(".-")[:LONGEST].rstrip(".-") or "model"


def place_of(key: str, name: str) -> str:
    """Where in the bundle of a model an artifact lies: NAME-MIX.gguf, or the folder onnx-MIX.

    Raises:
        InputError: as `split_key`.
    """
    kind, mix = split_key(key)
    return f"{safe_name(name)}-{mix}.gguf" if kind == "gguf" else f"onnx-{mix}"


def split_key(key: str) -> tuple[str, str]:
    """('gguf', 'q4_0') of 'gguf-q4_0'.

    Raises:
        InputError: the key is not of that form.
    """
    kind, _, mix = key.partition("-")
    if kind not in ("gguf", "onnx") or not re.fullmatch(r"[a-z0-9_]+", mix):
        raise InputError(f"bundle: artifact '{key}' must be named gguf-MIX or onnx-MIX, such as gguf-q4_0.")
    return kind, mix
