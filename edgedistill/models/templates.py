"""The chat templates of a Hugging Face folder: the default one and those with a name of their own."""

from pathlib import Path
from typing import Any

from edgedistill.errors import InputError
from edgedistill.models.tokens import read_json

NAMED_FOLDER = "additional_chat_templates"  # as transformers saves them
# transformers 5's name for a tokenizer that is all in tokenizer.json, and the one that 4 (and so optimum) knows too.
NEW_CLASS, OLD_CLASS = "TokenizersBackend", "PreTrainedTokenizerFast"


def chat_template_of(folder: Path) -> str | None:
    """A folder's chat template: chat_template.jinja, or tokenizer_config.json's (of several, "default"); None for an
    empty one, which a GGUF file can't hold.
    """
    file = folder / "chat_template.jinja"
    if file.is_file():
        return _text(file) or None
    template = _stated(folder)
    if isinstance(template, list):
        template = _named(template).get("default")
    return template if isinstance(template, str) and template else None


def named_templates_of(folder: Path) -> tuple[tuple[str, str], ...]:
    """The other templates, sorted by name; what isn't a letter, a digit or _ in a name is _, as in a GGUF key."""
    template = _stated(folder)
    templates = _named(template) if isinstance(template, list) else {}
    for file in sorted((folder / NAMED_FOLDER).glob("*.jinja")):
        templates[file.stem] = _text(file)
    return tuple(sorted((plain_name(name), text) for name, text in templates.items() if name != "default" and text))


def plain_name(name: str) -> str:
    """A template's name for a GGUF key and a file: anything but a letter, a digit or _ becomes _."""
    return "".join(c if c.isascii() and c.isalnum() else "_" for c in name)


def whole_tokenizer_config(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json with the chat template inside, since transformers.js reads no separate file for it.

    Raises:
        InputError: the file is missing or malformed.
    """
    config = read_json(folder / "tokenizer_config.json")
    if config.get("tokenizer_class") == NEW_CLASS:
        config["tokenizer_class"] = OLD_CLASS
    template = folder / "chat_template.jinja"
    if template.is_file():
        config["chat_template"] = _text(template)
    return config


def _stated(folder: Path) -> Any:
    config = folder / "tokenizer_config.json"
    return read_json(config).get("chat_template") if config.is_file() else None


def _named(templates: list[Any]) -> dict[str, str]:
    return {
        str(t["name"]): str(t["template"])
        for t in templates
        if isinstance(t, dict) and {"name", "template"} <= t.keys()
    }


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: can't be read as text: {error}") from error
