"""Read a model's tokenizer, from a Hugging Face folder or a GGUF file, as plain data. No torch, no transformers."""

from pathlib import Path

from edgedistill.models.folder_tokenizer import chat_template_of, detect_pre, from_folder, special_texts
from edgedistill.models.gguf_file import read_header
from edgedistill.models.gguf_tokenizer import from_gguf, gguf_pre
from edgedistill.models.tokens import (
    BYTE,
    CONTROL,
    NORMAL,
    SPECIAL_IDS,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    Vocabulary,
    padding_token,
    read_json,
)

__all__ = [
    "BYTE",
    "CONTROL",
    "NORMAL",
    "SPECIAL_IDS",
    "UNKNOWN",
    "UNUSED",
    "USER_DEFINED",
    "Vocabulary",
    "chat_template_of",
    "detect_pre",
    "from_folder",
    "from_gguf",
    "gguf_pre",
    "padding_token",
    "read_json",
    "read_vocabulary",
    "template_and_ends",
]


def read_vocabulary(path: Path) -> Vocabulary:
    """The tokenizer of a Hugging Face folder or a .gguf file.

    Raises:
        InputError: it is missing, malformed, or of a kind that llama.cpp and we don't split alike.
    """
    return from_folder(path) if path.is_dir() else from_gguf(read_header(path))


def template_and_ends(path: Path) -> tuple[str | None, str, str]:
    """(chat template, the texts of the bos and eos tokens, "" for none) of a folder or a .gguf file.

    Raises:
        InputError: a file of it is missing or malformed.
    """
    if path.is_dir():
        texts = special_texts(path)
        return chat_template_of(path), str(texts["bos"] or ""), str(texts["eos"] or "")
    header = read_header(path)
    tokens = header.array("tokenizer.ggml.tokens", str)
    ids = [header.get(f"tokenizer.ggml.{name}_token_id", int, -1) for name in ("bos", "eos")]
    bos, eos = (tokens[index] if 0 <= index < len(tokens) else "" for index in ids)
    return header.get("tokenizer.chat_template", str) or None, bos, eos
