"""The chat templates of a Hugging Face folder: the default one and those with a name of their own."""

from pathlib import Path
from typing import Any

from edgedistill.errors import InputError
from edgedistill.models.tokens import read_json

NAMED_FOLDER = "additional_chat_templates"  # as transformers saves them


def chat_template_of(folder: Path) -> str | None:
    """The chat template of a Hugging Face folder: chat_template.jinja, or tokenizer_config.json's; of several, the one named "default"."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return _text(file)
    template = _stated(folder)
    if isinstance(template, list):
        template = _named(template).get("default")
    return template if isinstance(template, str) else None


def named_templates_of(folder: Path) -> tuple[tuple[str, str], ...]:
    """The other templates, sorted by name; what isn't a letter, a digit or _ in a name is _, as in a GGUF key."""
    template = _stated(folder)
    found = _named(template) if isinstance(template, list) else {}
    for file in sorted((folder / NAMED_FOLDER).glob("*.jinja")):
        found[file.stem] = _text(file)
    plain = {"".join(c if c.isascii() and c.isalnum() else "_" for c in name): text for name, text in found.items() if name != "default"}
    return tuple(sorted(plain.items()))


def _stated(folder: Path) -> Any:
    config = folder / "tokenizer_config.json"
    return read_json(config).get("chat_template") if config.is_file() else None


def _named(templates: list[Any]) -> dict[str, str]:
    return {str(t["name"]): str(t["template"]) for t in templates if isinstance(t, dict) and {"name", "template"} <= t.keys()}


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: can't be read as text: {error}") from error
