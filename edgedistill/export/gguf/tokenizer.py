"""A tokenizer in a GGUF file: the `tokenizer.*` keys, and the model's name, by which llama.cpp recognises Phi-3's
treatment of spaces.

Keys: docs/gguf.md of ggml; what they do: llama_vocab::impl::load in llama.cpp.
"""

import re
from dataclasses import replace
from pathlib import Path

import gguf

from edgedistill.errors import InputError
from edgedistill.models.sentencepiece import UNFORMED
from edgedistill.models.tokens import GGUF_ID_NAMES, RSTRIP_NAMES, UNUSED, Vocabulary, padding_token


def add_tokenizer(writer: gguf.GGUFWriter, vocabulary: Vocabulary) -> None:
    """Write the tokenizer's keys. A part that GGUF has no key for is left out; `Vocabulary.stored` is what a reader
    gets.
    """
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(list(vocabulary.tokens))
    if vocabulary.scores:
        writer.add_token_scores(list(vocabulary.scores))
    writer.add_token_types(list(vocabulary.types))
    if vocabulary.merges:
        writer.add_token_merges(list(vocabulary.merges))
    for name, key in GGUF_ID_NAMES.items():
        if (index := getattr(vocabulary, name)) is not None:
            writer.add_uint32(f"tokenizer.ggml.{key}_token_id", index)
    writer.add_add_bos_token(vocabulary.add_bos)
    writer.add_add_eos_token(vocabulary.add_eos)
    writer.add_add_space_prefix(vocabulary.prefix == "each")
    if vocabulary.chat_template is not None:
        writer.add_chat_template(vocabulary.chat_template)
    if vocabulary.named_templates:
        writer.add_array("tokenizer.chat_templates", [name for name, _ in vocabulary.named_templates])
    for name, template in vocabulary.named_templates:
        writer.add_string(f"tokenizer.chat_template.{name}", template)


def pad_vocabulary(vocabulary: Vocabulary, rows: int, folder: Path) -> Vocabulary:
    """The vocabulary as the file holds it, with a placeholder for each row of the embedding that no token has.

    Raises:
        InputError: more tokens than rows, or no end token, for which llama.cpp would take token 11.
    """
    count = len(vocabulary.tokens)
    if count > rows:
        raise InputError(
            f"{folder}: its tokenizer has {count} tokens, the embedding {rows} rows; the tokenizer isn't this model's"
        )
    if vocabulary.eos is None:
        raise InputError(
            f"{folder}: its tokenizer names no eos_token, so generation would never end; name one in "
            "tokenizer_config.json"
        )
    extra = rows - count
    return replace(
        vocabulary.stored,
        tokens=(*vocabulary.tokens, *(padding_token(index) for index in range(count, rows))),
        types=(*vocabulary.types, *[UNUSED] * extra),
        scores=(*vocabulary.scores, *[UNFORMED] * extra) if vocabulary.scores else (),
    )


def known_name(name: str | None, vocabulary: Vocabulary) -> str | None:
    """`general.name`, so that llama.cpp treats spaces behind special tokens as the tokenizer does.

    llama.cpp strips these spaces only where the name holds "phi-3" or "phi3", and with such a name it can't load a file
    without Phi-3's tokens. So a tokenizer that strips them gets the name, and any other loses it ("phi-3" becomes
    "phi 3").
    """
    if vocabulary.rstrip:
        if name is not None and any(part in name.lower() for part in RSTRIP_NAMES):
            return name
        return f"{name} (phi-3)" if name else RSTRIP_NAMES[0]
    return None if name is None else re.sub(r"(phi)-?(3)", r"\1 \2", name, flags=re.IGNORECASE)
