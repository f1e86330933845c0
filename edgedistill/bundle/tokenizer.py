"""The tokenizer and the generation settings beside a GGUF file.

llama.cpp needs none of them. They are for what reads them instead of the file's own: llama-cpp-python's server
(--hf_tokenizer_config_path), vLLM (--tokenizer), llama-server (--chat-template-file), and any app that counts tokens.
"""

import json
import shutil
from pathlib import Path

from edgedistill.models.templates import chat_template_of, whole_tokenizer_config
from edgedistill.models.tokenizer import plain_tokenizer, save_tokenizer
from edgedistill.models.tokens import read_json
from edgedistill.store.whole import atomic_write

GENERATION = "generation_config.json"


def place_tokenizer(folder: Path, source: Path) -> None:
    """Put tokenizer.json, tokenizer_config.json, and where there are any chat_template.jinja and generation_config.json
    into `folder`.

    Args:
        source: a Hugging Face folder (of the hub's cache too, whose files are links), or a .gguf file, whose tokenizer
            is rebuilt.
    Raises:
        InputError: a file is missing or damaged.
    """
    if source.is_dir():
        _place_folder(folder, source)
        return
    scratch = folder / ".tokenizer"
    save_tokenizer(source, scratch)
    _place_folder(folder, scratch)
    shutil.rmtree(scratch)


def _place_folder(folder: Path, source: Path) -> None:
    (folder / "tokenizer.json").write_bytes(plain_tokenizer(source))
    config = whole_tokenizer_config(source)
    atomic_write(folder / "tokenizer_config.json", json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    template = chat_template_of(source)
    if template is not None:
        atomic_write(folder / "chat_template.jinja", template)
    if (source / GENERATION).is_file():
        read_json(source / GENERATION)
        shutil.copyfile(source / GENERATION, folder / GENERATION)
