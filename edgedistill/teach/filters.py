"""Which of the teacher's texts are kept: not those that are duplicates, empty, cut off or in an endless loop.

A student copies what it reads; one looping answer in fifty is enough to teach a small model to loop.
"""

import re
from collections import Counter
from collections.abc import Sequence

EMPTY, CUT_OFF, LOOP, DUPLICATE, CONTROL = "empty", "cut off", "loop", "duplicate", "control characters"

NGRAM = 6  # tokens
# A text in which the commonest six tokens in a row come this often, or most six-token windows aren't new, is a loop.
NGRAM_REPEATS = 5
FRESH_SHARE = 0.6
PERIODS = range(1, 33)  # tokens: lengths of a phrase that is repeated at the end
PERIOD_REPEATS = 4
# Control characters other than newline, carriage return and tab: a tokenizer's stray bytes, or worse in a terminal.
CONTROL_CHARACTERS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffd]")


def why_dropped(text: str, tokens: Sequence[int], finish: str) -> str | None:
    """The reason to drop one generated turn, or None to keep it.

    Args:
        text: as decoded, without special tokens.
        tokens: its ids.
        finish: "stop" where the model ended its turn, "length" where the limit did.
    """
    if not text.strip():
        return EMPTY
    if finish != "stop":
        return LOOP if is_loop(tokens) else CUT_OFF
    if CONTROL_CHARACTERS.search(text):
        return CONTROL
    return LOOP if is_loop(tokens) else None


def is_loop(tokens: Sequence[int]) -> bool:
    """Whether a text repeats itself without end."""
    for period in PERIODS:
        tail = tokens[-period * PERIOD_REPEATS :]
        if (
            len(tail) == period * PERIOD_REPEATS
            and period * PERIOD_REPEATS >= 8
            and all(tail[i] == tail[i % period] for i in range(len(tail)))
        ):
            return True
    windows = Counter(tuple(tokens[i : i + NGRAM]) for i in range(len(tokens) - NGRAM + 1))
    total = sum(windows.values())
    if total < 2 * NGRAM:
        return False
    return max(windows.values()) >= NGRAM_REPEATS or len(windows) / total < FRESH_SHARE
