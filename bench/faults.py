"""Inject faults into whole commands on a tiny model, and count how they end.

Run    python bench/faults.py [SHARE [CLASS...]]     (1: all of them; 0.1: a tenth; mutations corruptions kills disks
                                                clients)
Writes bench/results/faults.json: by class, how many were tried, how many ended right, how many wrong, and which.
Classes that aren't injected stay as they are, such as those of bench/fuzz.py.

A trial is right where the command ends before its deadline, without a traceback, with a sentence where it refuses; and
where it goes on after a kill, a full disk or a corruption, with the files of a command that nobody disturbed.
"""

import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.faults import clients, corruptions, disks, kills, mutations  # noqa: E402, I001 (sets the environment, before torch)
from tests.faults.counts import Counts, record  # noqa: E402
from tests.faults.forked import preload  # noqa: E402
from tests.faults.material import make  # noqa: E402
from tests.faults.sizes import FULL, share_of  # noqa: E402


def main(share: float, chosen: Sequence[str]) -> None:
    """Inject a share of the faults of some classes; the record is written after each."""
    sizes = share_of(FULL, share)
    preload()
    started, done = time.monotonic(), list[Counts]()
    with tempfile.TemporaryDirectory(prefix="edgedistill-faults-") as scratch:
        material = make(Path(scratch))
        classes = {
            "mutations": lambda: [mutations.inject(material, sizes.mutations, random.Random(1))],
            "corruptions": lambda: [corruptions.inject(material, sizes.corruptions, random.Random(2))],
            "kills": lambda: kills.inject(material, sizes.kills, sizes.signals, random.Random(3)),
            "disks": lambda: [disks.inject(material, sizes.disks, random.Random(4))] if disks.can_mount() else [],
            "clients": lambda: [clients.inject(material, sizes.clients, random.Random(5))],
        }
        for name in chosen or classes:
            for counts in classes[name]():
                done.append(counts)
                sys.stdout.write(f"{counts.name}: {counts.tried} tried, {len(counts.wrong)} wrong\n")
                sys.stdout.write("".join(f"  {wrong}\n" for wrong in counts.wrong))
                sys.stdout.flush()
            command = " ".join(["python bench/faults.py", f"{share:g}", *chosen])
            record(done, command, time.monotonic() - started)


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 1.0, sys.argv[2:])
