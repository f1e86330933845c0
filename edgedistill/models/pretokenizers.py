"""How text is split before BPE: the splits that both `tokenizers` and llama.cpp do the same, under llama.cpp's names.

Each entry is the `pre_tokenizer` of a tokenizer.json; the regular expressions behind a name are in llama.cpp's
llama-vocab.cpp (llm_tokenizer_bpe). A name is listed here once a test has shown equal ids on both sides.
"""

from typing import Any

Json = dict[str, Any]

# Names that llama.cpp splits exactly as another one.
ALIASES = {"llama3": "llama-bpe", "llama-v3": "llama-bpe"}
# Where these are split off, a whole word that is a token is taken before any merge (llama.cpp: ignore_merges).
IGNORE_MERGES = frozenset({"llama-bpe"})
# What the file's pre-tokenizer says of a beginning-of-text token where the file itself says nothing.
ADD_BOS = frozenset({"llama-bpe"})

_LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


def _byte_level(regex: bool) -> Json:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": regex}


def _sequence(*steps: Json) -> Json:
    return {"type": "Sequence", "pretokenizers": list(steps)}


def _split(regex: str) -> Json:
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}


PRE_TOKENIZERS: dict[str, Json] = {
    "smollm": _sequence({"type": "Digits", "individual_digits": True}, _byte_level(True)),
    "gpt-2": _byte_level(True),
    "llama-bpe": _sequence(_split(_LLAMA3), _byte_level(False)),
    "qwen2": _sequence(_split(_QWEN2), _byte_level(False)),
}


def name_of(pre_tokenizer: Json | None) -> str | None:
    """llama.cpp's name of a tokenizer.json's `pre_tokenizer`, None where we know none."""
    found = _canonical(pre_tokenizer)
    return next((name for name, known in PRE_TOKENIZERS.items() if _canonical(known) == found), None)


def _canonical(node: Any) -> Any:
    """The same structure without what has no effect on ids: trim_offsets, and a sequence of one."""
    if isinstance(node, list):
        return [_canonical(item) for item in node]
    if not isinstance(node, dict):
        return node
    if node.get("type") == "Sequence" and isinstance(steps := node.get("pretokenizers"), list) and len(steps) == 1:
        return _canonical(steps[0])
    plain = {key: _canonical(value) for key, value in node.items() if key != "trim_offsets"}
    if plain.get("type") == "ByteLevel":
        plain.setdefault("use_regex", True)
    return plain
