"""A guard that notices when an answer repeats itself without end.

Small models may fall into such a loop, above all where they always take the likeliest token. The guard reads the text
alone, so it works with every runtime; the caller stops the answer and says so.
"""

MOST_PERIOD = 400  # characters of the repeated text: a paragraph
COPIES = 3  # in a row; a refrain comes twice
LEAST = 160  # characters of all copies together: rules of dashes and lists of zeros are shorter
STOPPED = "stopped: it repeated itself"


class RepetitionGuard:
    """Watches one answer, which it is given piece by piece."""

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
