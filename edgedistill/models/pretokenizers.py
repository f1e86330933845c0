"""How text is split before byte-level BPE: the splits that both `tokenizers` and llama.cpp have, by llama.cpp's names.

Each entry is the `pre_tokenizer` of a tokenizer.json; the regular expressions behind a name are in llama.cpp's
llama-vocab.cpp (llm_tokenizer_bpe). A name is listed here once a test has shown equal ids on both sides; the few texts
that a name splits otherwise are in `differences`.
"""

from typing import Any

Json = dict[str, Any]

# Names that llama.cpp splits exactly as another one.
ALIASES = {
    **dict.fromkeys(("llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"), "llama-bpe"),
    **dict.fromkeys(("starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"), "smollm"),
    **dict.fromkeys(
        ("phi-2", "mpt", "olmo", "jais", "trillion", "granite-docling", "exaone4", "gigachat", "a.x-4.0", "mellum"),
        "gpt-2",
    ),
    **dict.fromkeys(
        ("stablelm2", "deepseek-r1-qwen", "kormo", "f2llmv2", "megrez", "hunyuan", "solar-open", "grok-2"), "qwen2"
    ),
    **dict.fromkeys(("smaug-bpe",), "dbrx"),
    **dict.fromkeys(("llama4", "kanana2", "talkie", "minimax-m2"), "gpt-4o"),
}
# Where these are split off, a whole word that is a token is taken before any merge (llama.cpp: ignore_merges).
IGNORE_MERGES = frozenset({"llama-bpe", "tekken"})
# What the file's pre-tokenizer says of a beginning-of-text token where the file itself says nothing.
ADD_BOS = frozenset({"llama-bpe", "tekken"})
# Splits by the case of letters, which llama.cpp knows of a-z and A-Z alone (see `differences`).
BY_CASE = frozenset({"tekken", "gpt-4o"})

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LLAMA3 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORDS = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+%s|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*%s"
_TEKKEN = _WORDS % ("", "") + r"|\p{N}|" + _REST
_GPT4O = _WORDS % (_CONTRACTIONS + "?", _CONTRACTIONS + "?") + r"|\p{N}{1,3}|" + _REST


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
    "dbrx": _sequence(_split(_LLAMA3), _byte_level(False)),
    "qwen2": _sequence(_split(_QWEN2), _byte_level(False)),
    "tekken": _sequence(_split(_TEKKEN), _byte_level(False)),
    "gpt-4o": _sequence(_split(_GPT4O), _byte_level(False)),
}


def name_of(pre_tokenizer: Json | None, ignore_merges: bool | None = None) -> str | None:
    """llama.cpp's name of a tokenizer.json's `pre_tokenizer`, None where we know none.

    Args:
        ignore_merges: what the BPE model says of it, which tells "llama-bpe" from "dbrx"; None takes the first that
            splits so.
    """
    canonical = _canonical(pre_tokenizer)
    same = (name for name, listed in PRE_TOKENIZERS.items() if _canonical(listed) == canonical)
    return next((name for name in same if ignore_merges is None or ignore_merges == (name in IGNORE_MERGES)), None)


def _canonical(node: Any) -> Any:
    """The same structure without what has no effect on ids: trim_offsets, a sequence of one, two ways to say a split.

    To isolate what matches and to drop what doesn't are the same here, as our expressions leave no character unmatched.
    """
    if isinstance(node, list):
        return [_canonical(item) for item in node]
    if not isinstance(node, dict):
        return node
    if node.get("type") == "Sequence" and isinstance(steps := node.get("pretokenizers"), list) and len(steps) == 1:
        return _canonical(steps[0])
    plain = {key: _canonical(value) for key, value in node.items() if key != "trim_offsets"}
    if plain.get("type") == "ByteLevel":
        plain.setdefault("use_regex", True)
    if plain.get("type") == "Split" and (plain.get("behavior"), plain.get("invert")) == ("Removed", True):
        plain |= {"behavior": "Isolated", "invert": False}
    return plain
