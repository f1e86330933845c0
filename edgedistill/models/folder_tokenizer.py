"""A Hugging Face folder's tokenizer: tokenizer.json, with tokenizer_config.json and generation_config.json beside it.

tokenizer.json alone says how text becomes ids; a tokenizer.model isn't needed, as its merges hold what its scores
would. Everything in it that llama.cpp can't do alike is refused here, before anything is trained.
"""

import json
from pathlib import Path
from typing import Any

from edgedistill.errors import InputError
from edgedistill.models import pretokenizers, sentencepiece
from edgedistill.models.added_tokens import check_added, check_ids
from edgedistill.models.templates import chat_template_of, named_templates_of
from edgedistill.models.tokens import (
    BYTE,
    BYTE_TOKEN,
    CONTROL,
    ENDS_BY_TEXT,
    NORMAL,
    SPACE,
    SPECIAL_IDS,
    UNUSED,
    USER_DEFINED,
    Vocabulary,
    check_merges,
    check_pairs,
    check_texts,
    padding_token,
    read_json,
)

__all__ = ["chat_template_of", "detect_pre", "from_folder"]

# Beyond the embedding of a Gemma 3 that reads no images; transformers' own model has no row for it either.
NO_ROW = "<image_soft_token>"
_REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
# A sentencepiece model's normalizer, and where it puts a space before a text.
NORMALIZERS: tuple[tuple[Any, str], ...] = (
    ({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": SPACE}, _REPLACE]}, "each"),
    (_REPLACE, "none"),
    ({"type": "Sequence", "normalizers": [_REPLACE]}, "none"),
)
# Splits at spaces, of which the normalizer has left none: Gemma's tokenizer.json has it.
_NO_SPLIT = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}


def detect_pre(folder: Path) -> tuple[str, str]:
    """GGUF's (tokenizer.ggml.model, tokenizer.ggml.pre) for a Hugging Face folder, from its tokenizer.json.

    Raises:
        InputError: there is no tokenizer.json, or its structure isn't one that llama.cpp and we split alike.
    """
    model, pre, _ = _detect(*_tokenizer_json(folder))
    return model, pre


def from_folder(folder: Path) -> Vocabulary:
    """The tokenizer of a Hugging Face folder.

    Raises:
        InputError: as `detect_pre`, or a part of it is damaged, or does what llama.cpp can't.
    """
    path, data = _tokenizer_json(folder)
    try:
        model, pre, prefix = _detect(path, data)
        return _from_json(path, data, model, pre, prefix)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{path}: malformed tokenizer ({type(error).__name__}: {error}); download the model again"
        ) from error


def _tokenizer_json(folder: Path) -> tuple[Path, dict[str, Any]]:
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise InputError(
            f"{folder}: has no tokenizer.json, which the tokenizer is read from; write one with "
            "tokenizer.save_pretrained"
        )
    return path, read_json(path)


def _detect(path: Path, data: dict[str, Any]) -> tuple[str, str, str]:
    """(model, pre, prefix) of a tokenizer.json."""
    supported = f"byte-level BPE split as {', '.join(pretokenizers.PRE_TOKENIZERS)}, and sentencepiece's BPE"

    def refuse(what: str) -> InputError:
        return InputError(f"{path}: {what}, which we can't give llama.cpp unchanged; supported is {supported}")

    model = data.get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE":
        raise refuse(f"the tokenizer is of type {model.get('type') if isinstance(model, dict) else model!r}")
    for option in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(option):
            raise refuse(f"its BPE has {option} {model[option]!r}")
    ignores = bool(model.get("ignore_merges"))
    if model.get("byte_fallback"):
        if ignores:
            raise refuse("its BPE has byte_fallback and ignore_merges")
        return "llama", "default", _prefix(data, refuse)
    pre = pretokenizers.name_of(data.get("pre_tokenizer"), ignores)
    if pre is None:
        if (split := pretokenizers.name_of(data.get("pre_tokenizer"))) is not None:
            raise refuse(f"its BPE has ignore_merges {ignores} with the split '{split}'")
        raise refuse(f"it splits text by {json.dumps(data.get('pre_tokenizer'))[:200]}")
    if data.get("normalizer") not in (None, {"type": "NFC"}):
        raise refuse(f"it normalizes text by {json.dumps(data.get('normalizer'))[:200]}")
    return "gpt2", pre, "none"


def _prefix(data: dict[str, Any], refuse: Any) -> str:
    """Where a sentencepiece model puts a space before a text."""
    normalizer, split = data.get("normalizer"), data.get("pre_tokenizer")
    if split is None or split == _NO_SPLIT:
        for form, prefix in NORMALIZERS:
            if normalizer == form:
                return prefix
        raise refuse(f"it normalizes text by {json.dumps(normalizer)[:200]}")
    if (
        not isinstance(split, dict)
        or split.get("type") != "Metaspace"
        or split.get("replacement") != SPACE
        or normalizer is not None
    ):
        raise refuse(f"it normalizes text by {json.dumps(normalizer)[:100]} and splits it by {json.dumps(split)[:200]}")
    if split.get("split", True):
        raise refuse("its Metaspace splits text at spaces")
    scheme = split.get("prepend_scheme", "always")
    if scheme not in ("first", "never"):
        raise refuse(
            f"its Metaspace has prepend_scheme '{scheme}': a space before each stretch of text but those that "
            "begin with one"
        )
    return "first" if scheme == "first" else "none"


def _from_json(path: Path, data: dict[str, Any], model: str, pre: str, prefix: str) -> Vocabulary:
    ids: dict[int, str] = {}
    for token, index in data["model"]["vocab"].items():
        ids[int(index)] = str(token)
    merges = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in data["model"]["merges"]]
    entries = data.get("added_tokens") or []
    rows = _rows(path.parent)
    added = {
        int(t["id"]): t for t in entries if not (rows is not None and int(t["id"]) >= rows and t["content"] == NO_ROW)
    }
    for index, token in added.items():
        ids[index] = str(token["content"])
    # A hostile id would make a vocabulary of any size; no real one has more holes than tokens.
    if not ids or min(ids) < 0 or max(ids) > 2 * len(ids) + 1024:
        lowest, highest = min(ids, default=None), max(ids, default=None)
        raise InputError(f"{path}: its {len(ids)} tokens have ids from {lowest} to {highest}; the file is damaged")
    tokens, types = [], []
    for index in range(max(ids) + 1):
        tokens.append(ids.get(index, padding_token(index)))
        types.append(
            UNUSED
            if tokens[-1] == padding_token(index) and index not in added
            else _type(tokens[-1], added.get(index), model)
        )
    check_texts(path, tokens)
    check_ids(path, entries, data["model"]["vocab"])
    plain = [" ".join(merge) for merge in merges]
    if model == "gpt2":
        check_merges(path, plain, tokens)
    else:
        check_pairs(path, merges, tokens)
    scores: list[float] = []
    if model == "llama":
        sentencepiece.check_bytes(path, tokens)
        pairs = [(left, right) for left, right in merges]
        scores, plain = (
            sentencepiece.scores_of(path, tokens, pairs, frozenset(str(t["content"]) for t in added.values())),
            [],
        )
    rstrip = check_added(
        path, list(added.values()), data.get("normalizer") if model == "llama" else None, tuple(tokens), tuple(types)
    )
    by_text = {token: index for index, token in enumerate(tokens)}
    special = {name: by_text.get(text) if text else None for name, text in special_texts(path.parent).items()}
    ends = _generation_ends(path.parent, len(tokens))
    further = [index for index in ends if index != special["eos"] and tokens[index] not in ENDS_BY_TEXT]
    if len(further) > 2:
        raise InputError(
            f"{path.parent}: generation_config.json ends a text at {', '.join(repr(tokens[i]) for i in further)} "
            "beside the eos token; GGUF has room for two; leave out those that the model never ends with"
        )
    eot, eom = (*further, None, None)[:2]
    add_bos, add_eos = _adds(path, data.get("post_processor"), tokens, special)
    return Vocabulary(
        model,
        pre,
        tuple(tokens),
        tuple(types),
        tuple(plain),
        special["bos"],
        special["eos"],
        special["pad"],
        special["unk"],
        add_bos,
        add_eos,
        chat_template_of(path.parent),
        scores=tuple(scores),
        sep=special["sep"],
        eot=eot,
        eom=eom,
        prefix=prefix,
        rstrip=rstrip,
        nfc=model == "gpt2" and data.get("normalizer") is not None,
        named_templates=named_templates_of(path.parent),
    )


def _type(token: str, added: dict[str, Any] | None, model: str) -> int:
    if added is not None:
        if added.get("special"):
            return CONTROL
        # Gemma adds its runs of spaces as ▁▁. Merges make them from spaces; as an added token llama.cpp would write ▁▁
        # out.
        return NORMAL if model == "llama" and SPACE in token else USER_DEFINED
    return BYTE if model == "llama" and BYTE_TOKEN.fullmatch(token) else NORMAL


def _rows(folder: Path) -> int | None:
    """How many ids the embedding has, by config.json."""
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    inner = config.get("text_config")
    rows = config.get("vocab_size", inner.get("vocab_size") if isinstance(inner, dict) else None)
    return rows if isinstance(rows, int) else None


def _generation_ends(folder: Path, count: int) -> list[int]:
    """The ids at which transformers' generate ends a text: generation_config.json's; without it, config.json's."""
    path = folder / "generation_config.json"
    if not path.is_file():
        path = folder / "config.json"
    stated = read_json(path).get("eos_token_id") if path.is_file() else None
    if stated is None:
        return []
    ends = stated if isinstance(stated, list) else [stated]
    ends = [index for index in ends if index is not None and index != -1]  # both mean none
    if path.name == "config.json":  # a default of its class may be an id that no token has, at which nothing ends
        ends = [index for index in ends if not isinstance(index, int) or index < count]
    for index in ends:
        if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < count:
            raise InputError(
                f"{path}: eos_token_id holds {index!r}; it must be an id below {count}, the tokenizer's "
                "number of tokens"
            )
    return list(dict.fromkeys(ends))


def special_texts(folder: Path) -> dict[str, str | None]:
    """The texts of bos, eos, pad, unk and sep by tokenizer_config.json, or by the older special_tokens_map.json."""
    merged: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            merged.update({key: value for key, value in read_json(folder / name).items() if value is not None})
    texts: dict[str, str | None] = {}
    for name in SPECIAL_IDS:
        value = merged.get(f"{name}_token")
        texts[name] = value.get("content") if isinstance(value, dict) else value
    return texts


def _adds(
    path: Path, processor: dict[str, Any] | None, tokens: list[str], special: dict[str, int | None]
) -> tuple[bool, bool]:
    """Whether bos goes before and eos after every text: by tokenizer.json's post-processor alone, as in transformers 5.

    Raises:
        InputError: it adds anything else.
    """
    add_bos = add_eos = False
    steps = (
        [processor] if processor and processor.get("type") != "Sequence" else (processor or {}).get("processors", [])
    )
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
