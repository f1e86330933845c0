"""Beginnings of texts of many kinds, which a teacher goes on from: code, languages, mathematics, dialogue, knowledge,
everyday texts.

A model that writes freely, or goes on from one book, writes a few kinds of text. What a fit or a training sees of those
alone it fits to those alone: on other kinds the file then loses more. A few words say which kind is meant; what follows
is the model's own, so nothing about any subject is taught. The words are ours and of no book.
"""

import json
from pathlib import Path

STARTERS = Path(__file__).parent / "texts" / "starters.json"


def read_starters() -> list[list[str]]:
    """The beginnings by kind, each of a few words."""
    return list(json.loads(STARTERS.read_text(encoding="utf-8")).values())
