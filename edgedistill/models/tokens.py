"""A tokenizer as plain data: tokens, types, merges or scores, special ids, chat templates. No torch, no transformers.

Two kinds, under llama.cpp's names. "gpt2": text is split by a regular expression, each piece spelled as bytes and
merged by rank. "llama": characters (spaces as ▁) merged by the score of what they make, as sentencepiece does it; what
no token spells becomes byte tokens <0x00> to <0xFF>. What we can't carry over exactly is refused by name where it is
read.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgedistill.errors import InputError
from edgedistill.reading import json_file

# GGUF's token types (llama.h, enum llama_token_type).
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
SPECIAL_IDS = ("bos", "eos", "pad", "unk", "sep")
# GGUF's names of all ids; seperator is GGUF's own spelling.
GGUF_ID_NAMES = {
    "bos": "bos",
    "eos": "eos",
    "pad": "padding",
    "unk": "unknown",
    "sep": "seperator",
    "eot": "eot",
    "eom": "eom",
}
SPACE = "▁"
BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")
# Tokens at which llama.cpp ends a text whatever the file says, by their text (llama-vocab.cpp, special_eog_ids).
ENDS_BY_TEXT = frozenset(
    {
        "<|eot_id|>",
        "<|im_end|>",
        "<|end|>",
        "<|return|>",
        "<|call|>",
        "<|flush|>",
        "<|calls|>",
        "<end_of_turn>",
        "<|endoftext|>",
        "</s>",
        "<|eom_id|>",
        "<EOT>",
        "_<EOT>",
        "[EOT]",
        "[EOS]",
        "<|end_of_text|>",
        "<end_of_utterance>",
        "<eos>",
        "<turn|>",
        "<|tool_response>",
        "<｜end▁of▁sentence｜>",
        "[e~[",
    }
)
# Tokens that llama.cpp takes for control tokens by their text, whatever the file says: these, and those of
# fill-in-the-middle.
CONTROL_BY_TEXT = ENDS_BY_TEXT | frozenset(
    {
        "<|fim_prefix|>",
        "<fim-prefix>",
        "<fim_prefix>",
        "<｜fim▁begin｜>",
        "<PRE>",
        "▁<PRE>",
        "<|code_prefix|>",
        "<|prefix|>",
        "<|fim_suffix|>",
        "<fim-suffix>",
        "<fim_suffix>",
        "<｜fim▁hole｜>",
        "<SUF>",
        "▁<SUF>",
        "<|code_suffix|>",
        "<|suffix|>",
        "<|fim_middle|>",
        "<fim-middle>",
        "<fim_middle>",
        "<｜fim▁end｜>",
        "<MID>",
        "▁<MID>",
        "<|code_middle|>",
        "<|middle|>",
        "<|fim_pad|>",
        "<fim-pad>",
        "<fim_pad>",
        "<PAD>",
        "[PAD]",
        "<|fim_repo|>",
        "<|repo_name|>",
        "<fim-repo>",
        "<REPO>",
        "<reponame>",
        "<|file_sep|>",
    }
)
# A model of this name strips spaces behind its special tokens in llama.cpp, all but these (llama-vocab.cpp).
RSTRIP_NAMES = ("phi-3", "phi3")
NO_RSTRIP = frozenset({"<unk>", "<s>", "<|endoftext|>"})


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer: `tokens[i]` is the text of id i (in gpt2 its bytes as GPT-2 spells them), `types[i]` its type."""

    model: str
    pre: str
    tokens: tuple[str, ...]
    types: tuple[int, ...]
    merges: tuple[str, ...]  # gpt2: "left right", most important first; llama: none
    bos: int | None
    eos: int | None
    pad: int | None
    unk: int | None
    add_bos: bool
    add_eos: bool
    chat_template: str | None
    scores: tuple[float, ...] = ()  # llama: one a token, the highest is merged first; gpt2: none
    sep: int | None = None
    eot: int | None = None  # further ids at which a text ends, where llama.cpp wouldn't find them by their text
    eom: int | None = None
    # llama: the space put before a text: "each" (before every stretch between special tokens), "none", or "first" (only
    # at the very start of a text that begins with no special token), which GGUF can't say.
    prefix: str = "none"
    rstrip: bool = False  # spaces behind a special token go with it, as in Phi-3
    nfc: bool = False  # text is normalized to NFC first, which GGUF can't say
    named_templates: tuple[tuple[str, str], ...] = ()  # further chat templates: (name, template)

    def token(self, special: str) -> str | None:
        """The text of the special token "bos", "eos", "pad", "unk", "sep", "eot" or "eom"."""
        index = getattr(self, special)
        return None if index is None else self.tokens[index]

    @property
    def ends(self) -> tuple[int, ...]:
        """The ids at which llama.cpp ends a text, the eos token first, without fill-in-the-middle tokens."""
        named = [index for index in (self.eos, self.eot, self.eom) if index is not None]
        by_text = [index for index, token in enumerate(self.tokens) if token in ENDS_BY_TEXT]
        return tuple(dict.fromkeys(named + by_text))

    @property
    def stored(self) -> "Vocabulary":
        """The same tokenizer as llama.cpp runs it, without what only tokenizer.json can say (see `differences`)."""
        prefix = "none" if self.prefix == "first" else self.prefix
        return replace(self, nfc=False, prefix=prefix, types=types_in_llama_cpp(self.tokens, self.types))

    @property
    def rstrip_ids(self) -> frozenset[int]:
        """The tokens that take the spaces behind them, by llama.cpp's rule for Phi-3."""
        return rstrip_ids(self.tokens, self.types) if self.rstrip else frozenset()


def types_in_llama_cpp(tokens: Sequence[str], types: Sequence[int]) -> tuple[int, ...]:
    """The types that llama.cpp gives the tokens; what looks like an end or a fill-in token is a control token to it."""
    return tuple(CONTROL if token in CONTROL_BY_TEXT else kind for token, kind in zip(tokens, types, strict=True))


def rstrip_ids(tokens: tuple[str, ...], types: tuple[int, ...]) -> frozenset[int]:
    """The ids that llama.cpp lets strip the spaces behind them in a model whose name holds "phi-3"."""
    special = (CONTROL, USER_DEFINED, UNKNOWN)
    return frozenset(
        index
        for index, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if (kind in special or token in CONTROL_BY_TEXT) and token not in NO_RSTRIP
    )


def padding_token(index: int) -> str:
    """The text of an id beyond the vocabulary that the embedding has a row for, as llama.cpp's converter names it."""
    return f"[PAD{index}]"


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        InputError: the file can't be read, or isn't a JSON object.
    """
    try:
        value = json_file(path)
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON ({error}); download the model again") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: holds a JSON {type(value).__name__}, it must be an object; download the model again")
    return value


def check_texts(path: Path, tokens: Sequence[str]) -> None:
    """Raise InputError where two tokens have one text, or one has a NUL, at which llama.cpp cuts it off."""
    if len(set(tokens)) != len(tokens):
        twice = len(tokens) - len(set(tokens))
        raise InputError(f"{path}: {twice} ids have the same token as another; llama.cpp refuses such a vocabulary")
    for index, token in enumerate(tokens):
        if "\0" in token:
            raise InputError(
                f"{path}: its token {index} is {token[:40]!r}; llama.cpp would cut it off at the NUL, which "
                "byte tokens spell"
            )


def check_merges(path: Path, merges: list[str], tokens: list[str]) -> None:
    """Raise InputError unless every merge is "left right", and both and what they make are tokens."""
    if not merges:
        raise InputError(f"{path}: has no merges; byte-level BPE can't split text without them")
    split = [merge.partition(" ") for merge in merges]
    check_pairs(path, [(left, right) for left, _, right in split], tokens)


def check_pairs(path: Path, merges: Sequence[Sequence[str]], tokens: Sequence[str]) -> None:
    """Raise InputError unless every merge is two tokens that make a third one. A token may have spaces in it."""
    texts = set(tokens)
    for merge in merges:
        if len(merge) != 2 or not {*merge, "".join(merge)} <= texts:
            shown = " ".join(merge)[:80]
            raise InputError(f"{path}: merge {shown!r} isn't two tokens that make a third one; the file is damaged")
