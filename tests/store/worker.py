"""A process that builds two stages in a run folder, slowly and resumably, and is killed from outside: `worker.py
RUN`.
"""

import sys
import time
from pathlib import Path

from edgedistill.store import RunFolder

STEPS = 8


def slow(inputs: str):
    """A builder that writes STEPS files, one every few milliseconds, and goes on from those that are there."""

    def build(work: Path) -> None:
        for step in range(STEPS):
            path = work / f"{step}.txt"
            if not path.exists():
                time.sleep(0.01)
                partial = work / f"{step}.part"
                partial.write_text(f"{inputs} {step}\n" * 500)
                partial.rename(path)

    return build


def work(path: Path) -> list[str]:
    """Build both stages; returns the names of their folders."""
    run = RunFolder.open(path, {"teacher": "t"})
    with run.lock():
        first = run.stage("first", {"steps": STEPS}, build=slow("first"))
        second = run.stage("second", {"steps": STEPS}, [first], build=slow(first.content))
        run.set_current([first, second])
    return [first.path.name, second.path.name]


if __name__ == "__main__":
    work(Path(sys.argv[1]))
