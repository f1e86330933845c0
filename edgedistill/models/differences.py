"""Texts that llama.cpp splits otherwise than `tokenizers`: rare ones, for tokenizers that it otherwise runs alike.

Each is held by a test, so that a llama.cpp that learns it shows. A tokenizer that differs on common text is refused
where it is read (`folder_tokenizer`), not listed here.
"""

import re
import unicodedata

from edgedistill.models import pretokenizers
from edgedistill.models.tokens import CONTROL, CONTROL_BY_TEXT, SPACE, UNKNOWN, USER_DEFINED, Vocabulary

# std::regex recurses at every character of a piece: beyond some 20,000 in a row it overflows the stack.
_LONG = re.compile(r"\S{10000}|\s{10000}")
_UNICODE_SPACES = re.compile(r"\s*[^\S \t\n\v\f\r]")


def known_difference(vocabulary: Vocabulary, text: str, special: bool = True) -> str | None:
    """Why llama.cpp may give other ids than `tokenizers` for a text, or None: then they must be equal.

    Args:
        special: control tokens written in the text are read as such.
    """
    if vocabulary.nfc and not unicodedata.is_normalized("NFC", text):
        return "it is normalized to NFC, which llama.cpp doesn't do"
    if vocabulary.pre in pretokenizers.BY_CASE and _by_case(text):
        return "it is split by case and marks beyond ASCII, which llama.cpp's split doesn't know"
    if vocabulary.pre in pretokenizers.BY_CASE and _LONG.search(text):
        return "it is split by a regular expression of which llama.cpp dies on a run of tens of thousands of characters"
    if vocabulary.model == "gpt2" and "'ſ" in text:
        return "it has a contraction with ſ, which is an s where case is ignored"
    spelled = [token for token in CONTROL_BY_TEXT if token in text]
    if spelled and _taken_for_control(vocabulary, spelled):
        return "it spells a token that llama.cpp takes for a control token by its text"
    if vocabulary.model == "llama" and SPACE * 2 in text:
        return "it holds the character ▁ itself twice, which Gemma's tokenizer.json finds before all else"
    if vocabulary.rstrip and any(
        text[: match.start()].endswith(_added(vocabulary)) for match in _UNICODE_SPACES.finditer(text)
    ):
        return "spaces other than ASCII's stay behind a special token in llama.cpp"
    if (
        vocabulary.prefix == "first"
        and text
        and not text.startswith((" ", SPACE))
        and not text.startswith(_added(vocabulary, special))
    ):
        return "a space is put before a text that begins with no special token, which GGUF can't say"
    return None


def _by_case(text: str) -> bool:
    """Whether a text holds a mark, or a word beyond ASCII with an upper-case letter after a lower-case one."""
    lower = foreign = False
    for character in text:
        category = unicodedata.category(character)
        if category.startswith("M"):
            return True
        if not category.startswith("L"):
            lower = foreign = False
            continue
        foreign = foreign or not character.isascii()
        if category in ("Lu", "Lt"):
            if lower and foreign:
                return True
        elif category == "Ll":
            lower = True
    return False


def _taken_for_control(vocabulary: Vocabulary, spelled: list[str]) -> bool:
    """Whether one of these tokens is none that `tokenizers` would find before it splits: "</s>" in Qwen."""
    added = (CONTROL, UNKNOWN, USER_DEFINED)
    return any(
        token in spelled and kind not in added for token, kind in zip(vocabulary.tokens, vocabulary.types, strict=True)
    )


def _added(vocabulary: Vocabulary, special: bool = True) -> tuple[str, ...]:
    kinds = (CONTROL, UNKNOWN, USER_DEFINED) if special else (USER_DEFINED,)
    return tuple(token for token, kind in zip(vocabulary.tokens, vocabulary.types, strict=True) if kind in kinds)
