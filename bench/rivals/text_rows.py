"""Rows of equal length from a plain text, the same for every tool: windows over the whole text, evenly spread, in a
fixed random order.
"""

import random
from pathlib import Path
from typing import Any


def token_rows(tokenizer: Any, text: Path, rows: int, length: int, seed: int = 0) -> list[list[int]]:
    """`rows` windows of `length` token ids, none overlapping another, spread over the text and shuffled; no special
    tokens.

    Raises:
        SystemExit: the text is shorter than that.
    """
    ids = tokenizer(text.read_text(encoding="utf-8"), add_special_tokens=False, verbose=False)["input_ids"]
    windows = len(ids) // length
    if windows < rows:
        raise SystemExit(
            f"{text}: has {len(ids)} tokens; {rows} rows of {length} need {rows * length}. Give a longer text "
            "or fewer rows."
        )
    starts = [windows * i // rows * length for i in range(rows)]
    random.Random(seed).shuffle(starts)
    return [ids[start : start + length] for start in starts]
