"""A tokenizer as plain data: tokens, their types, merges, special ids, chat template. No torch, no transformers.

Read from a Hugging Face folder (tokenizer.json) or from a GGUF file's `tokenizer.*` keys; either side can be made
from it, so a tokenizer keeps its ids on the way from one format to the other. Only byte-level BPE, as llama.cpp's
`gpt2` model: what we can't carry over exactly is refused by name.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedistill.errors import InputError
from edgedistill.models import pretokenizers
from edgedistill.models.gguf_file import GGUFHeader, read_header

# GGUF's token types (llama.h, enum llama_token_type).
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
SPECIAL_IDS = ("bos", "eos", "pad", "unk")
# GGUF says padding_token_id and unknown_token_id.
GGUF_ID_NAMES = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}


@dataclass(frozen=True)
class Vocabulary:
    """A byte-level BPE tokenizer. `tokens[i]` is the text of id i (bytes as GPT-2 spells them), `types[i]` its GGUF type."""

    model: str
    pre: str
    tokens: tuple[str, ...]
    types: tuple[int, ...]
    merges: tuple[str, ...]  # "left right", most important first
    bos: int | None
    eos: int | None
    pad: int | None
    unk: int | None
    add_bos: bool
    add_eos: bool
    chat_template: str | None

    def token(self, special: str) -> str | None:
        """The text of the special token "bos", "eos", "pad" or "unk"."""
        index = getattr(self, special)
        return None if index is None else self.tokens[index]


def read_vocabulary(path: Path) -> Vocabulary:
    """The tokenizer of a Hugging Face folder or a .gguf file.

    Raises:
        InputError: it is missing, malformed, or of a kind that llama.cpp and we don't split alike.
    """
    return from_folder(path) if path.is_dir() else from_gguf(read_header(path))


def padding_token(index: int) -> str:
    """The text of an id that no token has: rows of the embedding beyond the vocabulary (as llama.cpp's converter names them)."""
    return f"[PAD{index}]"


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        InputError: the file can't be read, or isn't a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON ({error}); download the model again") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: holds a JSON {type(value).__name__}, it must be an object; download the model again")
    return value


def detect_pre(folder: Path) -> tuple[str, str]:
    """GGUF's (tokenizer.ggml.model, tokenizer.ggml.pre) for a Hugging Face folder, from its tokenizer.json.

    Raises:
        InputError: there is no tokenizer.json, or its structure isn't one that llama.cpp and we split alike.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise InputError(f"{folder}: has no tokenizer.json, which the tokenizer is read from; write one with tokenizer.save_pretrained")
    return _detect(path, read_json(path))


def from_folder(folder: Path) -> Vocabulary:
    """The tokenizer of a Hugging Face folder. Raises InputError as `detect_pre`."""
    model, pre = detect_pre(folder)
    path = folder / "tokenizer.json"
    data = read_json(path)
    try:
        return _from_json(path, data, model, pre)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: malformed tokenizer ({type(error).__name__}: {error}); download the model again") from error


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
    if len(types) != len(tokens):
        raise InputError(f"{header.path}: {len(tokens)} tokens but {len(types)} token types; the file is damaged")
    if len(set(tokens)) != len(tokens):
        twice = len(tokens) - len(set(tokens))
        raise InputError(f"{header.path}: {twice} tokens come twice in the vocabulary; llama.cpp refuses such a file too")
    merges = header.array("tokenizer.ggml.merges", str)
    _check_merges(header.path, merges, tokens)
    ids: dict[str, int | None] = {}
    for name in SPECIAL_IDS:
        index = header.get(f"tokenizer.ggml.{GGUF_ID_NAMES[name]}_token_id", int)
        if index is not None and not 0 <= index < len(tokens):
            raise InputError(f"{header.path}: its {name} token is {index}, the vocabulary has {len(tokens)}; the file is damaged")
        ids[name] = index
    add_bos = header.get("tokenizer.ggml.add_bos_token", bool, pre in pretokenizers.ADD_BOS)
    return Vocabulary(
        model, pre, tuple(tokens), tuple(types), tuple(merges), **ids,
        add_bos=add_bos and ids["bos"] is not None,
        add_eos=header.get("tokenizer.ggml.add_eos_token", bool, False) and ids["eos"] is not None,
        chat_template=header.get("tokenizer.chat_template", str),
    )  # fmt: skip


def gguf_pre(header: GGUFHeader) -> tuple[str, str]:
    """(model, pre) of a GGUF file, aliases resolved.

    Raises:
        InputError: either isn't one that we rebuild with the same ids.
    """
    model = header.get("tokenizer.ggml.model", str)
    if model != "gpt2":
        raise InputError(f"{header.path}: tokenizer model {model!r} isn't supported; it must be 'gpt2' (byte-level BPE)")
    pre = header.get("tokenizer.ggml.pre", str)
    pre = pretokenizers.ALIASES.get(pre, pre)
    if pre not in pretokenizers.PRE_TOKENIZERS:
        known = ", ".join(pretokenizers.PRE_TOKENIZERS)
        raise InputError(f"{header.path}: pre-tokenizer {pre!r} isn't supported; it must be one of {known}")
    return model, pre


def chat_template_of(folder: Path) -> str | None:
    """The chat template of a Hugging Face folder: chat_template.jinja, or tokenizer_config.json's; of several, the one named "default"."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        try:
            return file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{file}: can't be read as text: {error}") from error
    config = folder / "tokenizer_config.json"
    template = read_json(config).get("chat_template") if config.is_file() else None
    if isinstance(template, list):
        named = {t["name"]: t["template"] for t in template if isinstance(t, dict) and {"name", "template"} <= t.keys()}
        template = named.get("default")
    return template if isinstance(template, str) else None


def _detect(path: Path, data: dict[str, Any]) -> tuple[str, str]:
    def refuse(what: str) -> InputError:
        names = ", ".join(pretokenizers.PRE_TOKENIZERS)
        return InputError(f"{path}: {what}, which we can't give llama.cpp unchanged; supported is byte-level BPE split as {names}")

    model = data.get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE":
        raise refuse(f"the tokenizer is of type {model.get('type') if isinstance(model, dict) else model!r}")
    for option in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"):
        if model.get(option):
            raise refuse(f"its BPE has {option} {model[option]!r}")
    pre = pretokenizers.name_of(data.get("pre_tokenizer"))
    if pre is None:
        raise refuse(f"it splits text by {json.dumps(data.get('pre_tokenizer'))[:200]}")
    normalizer = data.get("normalizer")
    # Qwen's normalizes to NFC, which llama.cpp leaves out for it: the ids of decomposed letters differ there.
    if normalizer and not (pre == "qwen2" and normalizer == {"type": "NFC"}):
        raise refuse(f"it normalizes text by {json.dumps(normalizer)[:200]}")
    # Llama 3's own tokenizer.json and GPT-2's differ in this, and so does llama.cpp.
    if bool(model.get("ignore_merges")) != (pre in pretokenizers.IGNORE_MERGES):
        raise refuse(f"its BPE has ignore_merges {bool(model.get('ignore_merges'))} with the split '{pre}'")
    for token in data.get("added_tokens") or []:
        for option in ("lstrip", "rstrip", "single_word"):
            if isinstance(token, dict) and token.get(option):
                raise refuse(f"its token {token.get('content')!r} has {option}")
    return "gpt2", pre


def _from_json(path: Path, data: dict[str, Any], model: str, pre: str) -> Vocabulary:
    ids: dict[int, str] = {}
    for token, index in data["model"]["vocab"].items():
        ids[int(index)] = str(token)
    added = {int(t["id"]): t for t in data.get("added_tokens") or []}
    for index, token in added.items():
        ids[index] = str(token["content"])
    # A hostile id would make a vocabulary of any size; no real one has more holes than tokens.
    if not ids or min(ids) < 0 or max(ids) > 2 * len(ids) + 1024:
        lowest, highest = min(ids, default=None), max(ids, default=None)
        raise InputError(f"{path}: its {len(ids)} tokens have ids from {lowest} to {highest}; the file is damaged")
    tokens, types = [], []
    for index in range(max(ids) + 1):
        tokens.append(ids.get(index, padding_token(index)))
        if index in added:
            types.append(CONTROL if added[index].get("special") else USER_DEFINED)
        else:
            types.append(UNUSED if tokens[-1] == padding_token(index) else NORMAL)
    if len(set(tokens)) != len(tokens):
        raise InputError(f"{path}: two ids have the same token; llama.cpp refuses such a vocabulary")
    by_text = {token: index for index, token in enumerate(tokens)}
    special = {name: by_text.get(text) if text else None for name, text in _special_texts(path.parent).items()}
    add_bos, add_eos = _adds(path, data.get("post_processor"), tokens, special)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in data["model"]["merges"]]
    _check_merges(path, merges, tokens)
    return Vocabulary(
        model, pre, tuple(tokens), tuple(types), tuple(merges), **special,
        add_bos=add_bos, add_eos=add_eos, chat_template=chat_template_of(path.parent),
    )  # fmt: skip


def _check_merges(path: Path, merges: list[str], tokens: list[str]) -> None:
    """Raise InputError unless every merge is "left right", and both and what they make are tokens."""
    if not merges:
        raise InputError(f"{path}: has no merges; byte-level BPE can't split text without them")
    known = set(tokens)
    for merge in merges:
        left, _, right = merge.partition(" ")
        if not {left, right, left + right} <= known:
            raise InputError(f"{path}: merge {merge[:80]!r} isn't two tokens that make a third one; the file is damaged")


def _special_texts(folder: Path) -> dict[str, str | None]:
    """The texts of bos, eos, pad and unk by tokenizer_config.json, or by the older special_tokens_map.json."""
    merged: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            merged.update({key: value for key, value in read_json(folder / name).items() if value is not None})
    texts: dict[str, str | None] = {}
    for name in SPECIAL_IDS:
        value = merged.get(f"{name}_token")
        texts[name] = value.get("content") if isinstance(value, dict) else value
    return texts


def _adds(path: Path, processor: dict[str, Any] | None, tokens: list[str], special: dict[str, int | None]) -> tuple[bool, bool]:
    """Whether bos goes before and eos after every text, by tokenizer.json's post-processor.

    Raises:
        InputError: it adds anything else.
    """
    add_bos = add_eos = False
    steps = [processor] if processor and processor.get("type") != "Sequence" else (processor or {}).get("processors", [])
    for step in steps:
        if step.get("type") == "ByteLevel":
            continue
        single = [next(iter(piece.items())) for piece in step.get("single", [])]
        texts = [value["id"] if kind == "SpecialToken" else None for kind, value in single]
        if step.get("type") == "TemplateProcessing" and texts.count(None) == 1:
            before, after = texts[: texts.index(None)], texts[texts.index(None) + 1 :]
            bos = None if special["bos"] is None else tokens[special["bos"]]
            eos = None if special["eos"] is None else tokens[special["eos"]]
            if before in ([], [bos]) and after in ([], [eos]):
                add_bos, add_eos = add_bos or bool(before), add_eos or bool(after)
                continue
        raise InputError(
            f"{path}: its post-processor {json.dumps(step)[:120]} adds something other than the bos token before "
            "and the eos token after a text, which llama.cpp can't do"
        )
    return add_bos, add_eos
