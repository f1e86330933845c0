"""What a class of faults gave: how many were tried, how many ended right, and what the wrong ones said."""

from dataclasses import dataclass, field

KEPT = 20  # wrong ones that are told of


@dataclass
class Counts:
    """The trials of one class."""

    name: str
    tried: int = 0
    wrong: list[str] = field(default_factory=list)

    def add(self, what: str, trouble: str | None) -> None:
        """One more trial, with what is wrong with it or None."""
        self.tried += 1
        if trouble is not None:
            self.wrong.append(f"{what}: {trouble}"[:300])

    def to_json(self) -> dict[str, object]:
        """As the record has it."""
        return {
            "class": self.name,
            "tried": self.tried,
            "right": self.tried - len(self.wrong),
            "wrong": len(self.wrong),
            "examples": self.wrong[:KEPT],
        }
