"""What a class of faults gave: how many were tried, how many ended right, and what the wrong ones said."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgedistill.machine import machine_facts

RECORD = Path(__file__).parents[2] / "bench" / "results" / "faults.json"
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


def record(done: Sequence[Counts], command: str, seconds: float, path: Path = RECORD) -> None:
    """Put classes into the record, each with the command that gave it; the others stay as they are."""
    before: list[dict[str, Any]] = []
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))["classes"]
    made = {"command": command, "seconds": round(seconds)}
    classes = {entry["class"]: entry for entry in before}
    classes |= {counts.name: {**counts.to_json(), **made} for counts in done}
    content = {"command": command, "machine": machine_facts(), "classes": list(classes.values())}
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
