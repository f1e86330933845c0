"""A GGUF file's tokenizer, from its `tokenizer.*` keys; where a key is absent, llama.cpp's default.

Source: llama_vocab::impl::load in llama-vocab.cpp.
"""

import math

from edgedistill.errors import InputError
from edgedistill.models import pretokenizers, sentencepiece
from edgedistill.models.gguf_header import GGUFHeader
from edgedistill.models.templates import plain_name
from edgedistill.models.tokens import (
    GGUF_ID_NAMES,
    NORMAL,
    RSTRIP_NAMES,
    Vocabulary,
    check_merges,
    check_texts,
    types_in_llama_cpp,
)

# Of a file with sentencepiece's BPE that doesn't name them.
LLAMA_IDS = {"bos": 1, "eos": 2, "unk": 0}
MODELS = ("gpt2", "llama")


def from_gguf(header: GGUFHeader) -> Vocabulary:
    """The tokenizer of a GGUF file.

    Raises:
        InputError: the tokenizer model or its pre-tokenizer isn't supported, or the arrays don't agree.
    """
    model, pre = gguf_pre(header)
    tokens = header.array("tokenizer.ggml.tokens", str)
    types = header.array("tokenizer.ggml.token_type", int) or [NORMAL] * len(tokens)
    if not tokens:
        raise InputError(f"{header.path}: has no tokenizer.ggml.tokens; a model without its vocabulary can't be used")
    # An empty token would match everywhere; llama.cpp replaces it in this way.
    tokens = [token or f"[EMPTY_{index}]" for index, token in enumerate(tokens)]
    if len(types) != len(tokens):
        raise InputError(f"{header.path}: {len(tokens)} tokens but {len(types)} token types; the file is damaged")
    check_texts(header.path, tokens)
    merges, scores = [], []
    if model == "gpt2":
        merges = header.array("tokenizer.ggml.merges", str)
        check_merges(header.path, merges, tokens)
    else:
        scores = header.array("tokenizer.ggml.scores", float)
        if len(scores) != len(tokens) or not all(map(math.isfinite, scores)):
            raise InputError(
                f"{header.path}: {len(tokens)} tokens but {len(scores)} finite scores; the file is damaged"
            )
        sentencepiece.check_bytes(header.path, tokens)
    ids: dict[str, int | None] = {}
    for name, key in GGUF_ID_NAMES.items():
        index = header.get(f"tokenizer.ggml.{key}_token_id", int, LLAMA_IDS.get(name) if model == "llama" else None)
        if index is not None and not 0 <= index < len(tokens):
            raise InputError(
                f"{header.path}: its {name} token is {index}, the vocabulary has {len(tokens)}; the file is damaged"
            )
        ids[name] = index
    adds_bos = model == "llama" or pre in pretokenizers.ADD_BOS
    prefix = model == "llama" and header.get("tokenizer.ggml.add_space_prefix", bool, True)
    name = header.get("general.name", str, "").lower()
    return Vocabulary(
        model,
        pre,
        tuple(tokens),
        types_in_llama_cpp(tokens, types),
        tuple(merges),
        ids["bos"],
        ids["eos"],
        ids["pad"],
        ids["unk"],
        header.get("tokenizer.ggml.add_bos_token", bool, adds_bos) and ids["bos"] is not None,
        header.get("tokenizer.ggml.add_eos_token", bool, False) and ids["eos"] is not None,
        header.get("tokenizer.chat_template", str) or None,
        scores=tuple(scores),
        sep=ids["sep"],
        eot=ids["eot"],
        eom=ids["eom"],
        prefix="each" if prefix else "none",
        rstrip=any(part in name for part in RSTRIP_NAMES),
        named_templates=_named_templates(header),
    )


def gguf_pre(header: GGUFHeader) -> tuple[str, str]:
    """(model, pre) of a GGUF file, aliases resolved.

    Raises:
        InputError: either isn't one that we rebuild with the same ids.
    """
    model = header.get("tokenizer.ggml.model", str)
    if model not in MODELS:
        raise InputError(
            f"{header.path}: tokenizer model {model!r} isn't supported; it must be 'gpt2' (byte-level BPE) or "
            "'llama' (sentencepiece's BPE)"
        )
    if model == "llama":
        return model, "default"  # llama.cpp reads no pre-tokenizer for it
    pre = header.get("tokenizer.ggml.pre", str)
    pre = pretokenizers.ALIASES.get(pre, pre)
    if pre not in pretokenizers.PRE_TOKENIZERS:
        supported = ", ".join(pretokenizers.PRE_TOKENIZERS)
        raise InputError(f"{header.path}: pre-tokenizer {pre!r} isn't supported; it must be one of {supported}")
    return model, pre


def _named_templates(header: GGUFHeader) -> tuple[tuple[str, str], ...]:
    names = header.array("tokenizer.chat_templates", str)
    templates = {plain_name(name): header.get(f"tokenizer.chat_template.{name}", str) for name in names}
    return tuple(sorted((name, text) for name, text in templates.items() if text is not None))
