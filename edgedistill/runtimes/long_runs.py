"""Texts that llama.cpp can't split: for some tokenizers it uses std::regex, which recurses at every character of a
piece, overflows the stack on some 20,000 in a row and so ends the whole process.
"""

import re

from edgedistill.errors import InputError
from edgedistill.models.pretokenizers import ALIASES, BY_CASE, PRE_TOKENIZERS

MOST = 10_000
_LONG = re.compile(rf"\S{{{MOST}}}|\s{{{MOST}}}")
# Only byte-level BPE splits by regular expressions.
SPLIT_MODEL = "gpt2"
# Split by functions of llama.cpp's own, which don't recurse; a test runs each.
_SAFE = frozenset(PRE_TOKENIZERS) - BY_CASE
SAFE_SPLITS = _SAFE | {alias for alias, name in ALIASES.items() if name in _SAFE}


def check_runs(text: str, model: str | None, split: str | None) -> None:
    """Refuse a text that would end the process.

    Args:
        model: of the tokenizer, the file's tokenizer.ggml.model.
        split: the file's tokenizer.ggml.pre.
    Raises:
        InputError: it holds a run that is too long.
    """
    if model != SPLIT_MODEL or split in SAFE_SPLITS or len(text) < MOST:
        return
    if match := _LONG.search(text):
        raise InputError(
            f"the text holds {MOST} characters from character {match.start()} on without a space between, of which "
            "llama.cpp's split for this tokenizer dies; break them up"
        )
