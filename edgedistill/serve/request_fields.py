"""The fields of a JSON request, or of an object in one: each is read in its type and range, and what nobody has read is
refused at the end.

null means that a field isn't given, as in OpenAI's API.
"""

import math
from collections.abc import Iterable
from typing import Any

from edgedistill.errors import did_you_mean
from edgedistill.serve.refused import Refused


class RequestFields:
    """The fields of one object, each of which is read once."""

    def __init__(self, body: dict[str, Any], where: str = "") -> None:
        """`where` the object stands in the request, as "messages[0]"; "" for the request itself."""
        self._where = f"{where}." if where else ""
        self._left = {name: value for name, value in body.items() if value is not None}
        self._read: set[str] = set()

    def take(self, name: str) -> Any:
        """A field's value as it was sent; None where it isn't given."""
        self._read.add(name)
        return self._left.pop(name, None)

    def number(self, name: str, default: float, low: float, high: float) -> float:
        """A number in [low, high].

        Raises:
            Refused: it is none.
        """
        value = self.take(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not _within(value, low, high):
            raise self._refused(name, f"must be a number from {low:g} to {high:g}")
        return float(value)

    def whole(self, name: str, low: int, high: int) -> int | None:
        """A whole number in [low, high]; None where it isn't given. 3.0 is one too.

        Raises:
            Refused: it is none.
        """
        value = self.take(name)
        if value is None:
            return None
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self._refused(name, f"must be a whole number from {low} to {high}")
        return value

    def flag(self, name: str, default: bool = False) -> bool:
        """True or false.

        Raises:
            Refused: it is neither.
        """
        value = self.take(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self._refused(name, "must be true or false")
        return value

    def text(self, name: str) -> str | None:
        """A text; None where it isn't given.

        Raises:
            Refused: it is none.
        """
        value = self.take(name)
        if value is not None and not isinstance(value, str):
            raise self._refused(name, "must be a text")
        return value

    def take_false(self, name: str) -> bool:
        """Whether a field that is otherwise a number is false; it is read then."""
        if self._left.get(name) is False:
            self.take(name)
            return True
        return False

    def only(self, name: str, *allowed: Any) -> None:
        """A field that is understood in one value, the one that changes nothing.

        Raises:
            Refused: it has another.
        """
        value = self.take(name)
        if value is not None and value not in allowed:
            raise self._refused(name, "is not offered; leave it out")

    def pass_over(self, names: Iterable[str]) -> None:
        """Fields that don't change what is answered."""
        for name in names:
            self.take(name)

    def refuse_rest(self) -> None:
        """Refuse what nobody has read: an answer that passed over it would look as if it had been heeded.

        Raises:
            Refused: there is something.
        """
        if self._left:
            name = next(iter(self._left))[:100]
            where = f"{self._where}{name}"
            raise Refused(f"{where!r} is not known here; leave it out.{did_you_mean(name, self._read)}", param=where)

    def _refused(self, name: str, why: str) -> Refused:
        return Refused(f"{self._where}{name} {why}", param=f"{self._where}{name}")


def _within(value: float, low: float, high: float) -> bool:
    try:
        return math.isfinite(value) and low <= value <= high
    except OverflowError:
        return False
