"""The id of what was asked, by its words, and where its hash lies: what splits are made by.

It is part of config/ because the plan splits a user's task before anything long begins; data/trace.py splits what a
teacher wrote by the same ids.
"""

import hashlib
import re

ID_DIGITS = 16  # of SHA-256 in hexadecimal


def normalized(text: str) -> str:
    """What two texts must share to be the same: their words in lower case."""
    return " ".join(re.findall(r"\w+", text.lower()))


def prompt_id_of(text: str) -> str:
    """The id of what was asked, by its words: 16 hexadecimal digits."""
    return hashlib.sha256(normalized(text).encode()).hexdigest()[:ID_DIGITS]


def place_of(prompt_id: str, purpose: str = "") -> float:
    """Where a prompt's hash lies in [0, 1). Places for different purposes have nothing to do with each other."""
    return int.from_bytes(hashlib.sha256(f"{purpose}{prompt_id}".encode()).digest()[:6], "big") / 2**48
