"""The text of an answer as its tokens come: whole characters, ended by the first of its stop texts."""

import codecs


class AnswerText:
    """Bytes in, text out. What may be the beginning of a stop text is held back until that is known."""

    def __init__(self, stops: tuple[str, ...] = ()) -> None:
        """`stops` are texts that end the answer, and aren't part of it."""
        self._stops = stops
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""
        self.stopped = False

    @property
    def holds(self) -> bool:
        """Whether text or part of a character is held back."""
        return bool(self._held or self._decoder.getstate()[0])

    def add(self, data: bytes) -> str:
        """The text that is certain now."""
        self._held += self._decoder.decode(data)
        places = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if places:
            self.stopped = True
            return self._release(min(places))
        longest = max((_overlap(self._held, stop) for stop in self._stops), default=0)
        return self._release(len(self._held) - longest)

    def end(self) -> str:
        """The rest, where no stop text ended it."""
        self._held += self._decoder.decode(b"", final=True)
        return "" if self.stopped else self._release(len(self._held))

    def _release(self, count: int) -> str:
        text, self._held = self._held[:count], self._held[count:]
        return text


def _overlap(text: str, stop: str) -> int:
    """How much of the text's end is the beginning of a stop text."""
    for count in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:count]):
            return count
    return 0
