"""Tokens that are found in a text before it is split: what `tokenizers` and llama.cpp do alike with them, and what not.

`tokenizers` goes through the text from left to right and takes the longest token that begins there; llama.cpp
(tokenizer_st_partition) takes the longest token first wherever it stands, then the next. The two differ where the end
of one token is the beginning of a longer one.
"""

from pathlib import Path
from typing import Any

from edgedistill.errors import InputError
from edgedistill.models.tokens import RSTRIP_NAMES, SPACE, rstrip_ids


def check_added(
    path: Path, added: list[dict[str, Any]], normalizer: Any, tokens: tuple[str, ...], types: tuple[int, ...]
) -> bool:
    """Whether the tokens take the spaces behind them, as Phi-3's do.

    Args:
        added: tokenizer.json's `added_tokens`.
        normalizer: its normalizer, which changes the tokens with the flag `normalized`; None where it changes none.
    Raises:
        InputError: a token is found where llama.cpp wouldn't find it.
    """
    stripping = set()
    for token in added:
        content = str(token["content"])
        if not content:
            raise InputError(f"{path}: its token {token['id']} has no text; llama.cpp can't hold one")
        for option in ("lstrip", "single_word"):
            if token.get(option):
                raise InputError(f"{path}: its token {content!r} has {option}, which we can't give llama.cpp unchanged")
        if token.get("rstrip"):
            stripping.add(int(token["id"]))
        if token.get("normalized") and _changed(content, normalizer):
            raise InputError(
                f"{path}: its token {content!r} is searched for after a space was put before the text ('normalized'), "
                'which we can\'t give llama.cpp unchanged; set "normalized" to false in tokenizer.json, as '
                "newer files have it"
            )
    stripped_by_llama = rstrip_ids(tokens, types)
    if stripping and stripping != stripped_by_llama:
        odd = min(stripping ^ stripped_by_llama)
        has = "has" if odd in stripping else "hasn't"
        raise InputError(
            f"{path}: its token {tokens[odd]!r} {has} rstrip; llama.cpp strips spaces behind all special tokens of a "
            f"{RSTRIP_NAMES[0]} model but <unk>, <s> and <|endoftext|>, or behind none"
        )
    _check_overlaps(path, sorted(str(token["content"]) for token in added))
    return bool(stripping)


def check_ids(path: Path, added: list[dict[str, Any]], vocab: dict[str, Any]) -> None:
    """Refuse added tokens with other ids than `tokenizers` gives them, which are those that training sees.

    It takes the vocabulary's id for a token that is in it, and otherwise numbers them on in the order of the file.

    Args:
        added: tokenizer.json's `added_tokens`, all of them.
        vocab: its model's vocabulary, token -> id.
    Raises:
        InputError: one has another id in the file.
    """
    following, ids = len(vocab), dict(vocab)
    for token in added:
        content, stated = str(token["content"]), int(token["id"])
        if content not in ids:
            ids[content] = following
            following += 1
        if ids[content] != stated:
            raise InputError(
                f"{path}: its added token {content!r} has the id {stated}, but transformers gives it {ids[content]}: "
                "it numbers added tokens in their order, without holes; list them so, or write the file with "
                "tokenizer.save_pretrained"
            )


def _changed(content: str, normalizer: Any) -> bool:
    if normalizer is None:
        return False
    return "Prepend" in str(normalizer) or " " in content or SPACE in content


def _check_overlaps(path: Path, contents: list[str]) -> None:
    """Raise InputError where the end of a token is the beginning of a longer one.

    Exempt are tokens that repeat one character in every length, such as Gemma's runs of newlines.
    """
    ends: dict[str, str] = {}  # end of a token -> the shortest such token
    for content in sorted(contents, key=len, reverse=True):
        for at in range(1, len(content)):
            ends[content[at:]] = content
    runs = {(content[0], len(content)) for content in contents if len(set(content)) == 1}
    for content in contents:
        for length in range(1, len(content)):
            first = ends.get(content[:length])
            if first is None or len(first.encode()) >= len(content.encode()):
                continue
            if len(set(content)) == 1 and all(
                (content[0], shorter) in runs for shorter in range(len(first), len(content))
            ):
                continue
            raise InputError(
                f"{path}: its tokens {first!r} and {content!r} overlap in {content[:length]!r}: where both could be "
                "found, llama.cpp takes the longer one, transformers the first; remove one of them"
            )
