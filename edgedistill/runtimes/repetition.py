"""Small models may fall into a loop, above all where they always take the likeliest token: a guard that sees it.

It reads the text alone, so it serves every runtime. Whoever stops an answer for it says so.
"""

MOST_PERIOD = 400  # characters of what is said again and again: a paragraph
COPIES = 3  # in a row; a refrain comes twice
LEAST = 160  # characters of all copies together: rules of dashes and lists of zeros are shorter
STOPPED = "stopped: it repeated itself"


class RepetitionGuard:
    """Fed an answer piece by piece."""

    def __init__(self) -> None:
        self._tail = ""

    def add(self, piece: str) -> bool:
        """Whether the answer, with this piece, ends in a loop."""
        self._tail = (self._tail + piece)[-MOST_PERIOD * COPIES :]
        return repeats(self._tail)


def repeats(text: str) -> bool:
    """Whether a text ends in the same words COPIES times in a row, or more often where they are short."""
    for period in range(1, min(MOST_PERIOD, len(text) // COPIES) + 1):
        copies = max(COPIES, -(-LEAST // period))
        length = copies * period
        if length <= len(text) and text[-length:-period] == text[-length + period :]:
            return True
    return False
