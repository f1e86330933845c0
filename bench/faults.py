"""Inject faults into whole commands on a tiny model, and count how they end.

Run    python bench/faults.py [SHARE]     (1: all of them; 0.1: a tenth)
Writes bench/results/faults.json: by class, how many were tried, how many ended right, how many wrong, and which.

A trial is right where the command ends before its deadline, without a traceback, with a sentence where it refuses; and
where it goes on after a kill, a full disk or a corruption, with the files of a command that nobody disturbed.
"""

import json
import random
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.faults import corruptions, disks, kills, mutations  # noqa: E402, I001 (sets the environment, before torch)
from tests.faults.forked import preload  # noqa: E402
from tests.faults.material import make  # noqa: E402
from tests.faults.sizes import FULL, share_of  # noqa: E402

from edgedistill.machine import machine_facts  # noqa: E402

OUT = ROOT / "bench" / "results" / "faults.json"


def main(share: float) -> None:
    """Inject a share of all faults and write the record."""
    sizes = share_of(FULL, share)
    preload()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="edgedistill-faults-") as scratch:
        material = make(Path(scratch))
        classes = [
            mutations.inject(material, sizes.mutations, random.Random(1)),
            corruptions.inject(material, sizes.corruptions, random.Random(2)),
            *kills.inject(material, sizes.kills, sizes.signals, random.Random(3)),
        ]
        if disks.can_mount():
            classes.append(disks.inject(material, sizes.disks, random.Random(4)))
    record = {
        "command": f"python bench/faults.py {share:g}",
        "machine": machine_facts(),
        "sizes": asdict(sizes),
        "seconds": round(time.monotonic() - started),
        "classes": [counts.to_json() for counts in classes],
    }
    OUT.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    for counts in classes:
        sys.stdout.write(f"{counts.name}: {counts.tried} tried, {len(counts.wrong)} wrong\n")


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 1.0)
