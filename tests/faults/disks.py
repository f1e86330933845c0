"""Disks that fill at random moments of a compile, and get room again: a sentence, then the same files as ever.

Needs root, for a small file system in memory that nobody else sees.
"""

import ctypes
import os
import random
import subprocess
from pathlib import Path

from tests.faults.counts import Counts
from tests.faults.forked import run
from tests.faults.material import Material, compile_words, weights_of

NEW_MOUNTS = 0x20000  # CLONE_NEWNS
LEAST_KIB, MOST_KIB = 256, 24 << 10


def can_mount() -> bool:
    """Whether this process may mount, in a namespace of its own; from then on it is in one."""
    if os.geteuid() != 0 or ctypes.CDLL(None, use_errno=True).unshare(NEW_MOUNTS):
        return False
    return subprocess.run(["mount", "--make-rprivate", "/"], capture_output=True, check=False).returncode == 0


def inject(material: Material, number: int, rng: random.Random) -> Counts:
    """So many compiles on a disk that is too small at first."""
    counts = Counts("full disks")
    expected = weights_of(material.run / "bundle")
    place = material.root / "disk"
    place.mkdir(exist_ok=True)
    for _ in range(number):
        kib = rng.randint(LEAST_KIB, MOST_KIB)
        _mount("-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(place))
        try:
            counts.add(f"a disk of {kib} KiB", _compile(material, place, expected))
        finally:
            subprocess.run(["umount", "-l", place], check=True)
    return counts


def _compile(material: Material, place: Path, expected: dict[str, str]) -> str | None:
    words = compile_words(material.model, place / "run")
    done = run(words, limit_s=600)
    trouble = done.trouble((0, 1, 2, 3))
    if trouble:
        return trouble
    _mount("-o", "remount,size=512m", str(place))
    done = run(words, limit_s=600)
    if done.code != 0:
        return f"with room again, exit code {done.code}: {done.said}"
    return None if weights_of(place / "run" / "bundle") == expected else "with room again, other files"


def _mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True)
