"""What a container allows this process: its share of processor time and its memory, from Linux' control groups of both
versions. None where there is no limit, or no such thing.

Source: Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst of Linux.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")
UNLIMITED = 2**60  # version 1 says "no limit" by a number near 2**63


def cpu_quota() -> float | None:
    """Cores' worth of processor time."""
    shares = []
    for folder in _folders("cpu"):
        both = _words(folder / "cpu.max")
        if len(both) == 2 and both[0] != "max":
            shares.append(int(both[0]) / int(both[1]))
        quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
        if quota and period and quota > 0:
            shares.append(quota / period)
    return min(shares, default=None)


def memory_limit_bytes() -> int | None:
    """The memory that this process and those beside it may have together."""
    limits = [limit for folder in _folders("memory") if (limit := _limit(folder)) is not None]
    return min(limits, default=None)


def memory_left_bytes() -> int | None:
    """What of that isn't taken; pages of files count as free, since the kernel drops them."""
    left = []
    for folder in _folders("memory"):
        limit = _limit(folder)
        used = _number(folder / "memory.current") or _number(folder / "memory.usage_in_bytes")
        if limit is not None and used is not None:
            left.append(limit - used + _file_bytes(folder))
    return min(left, default=None)


def _limit(folder: Path) -> int | None:
    for name in ("memory.max", "memory.high", "memory.limit_in_bytes"):
        limit = _number(folder / name)
        if limit is not None and limit < UNLIMITED:
            return limit
    return None


def _file_bytes(folder: Path) -> int:
    """Pages of files that nothing used lately."""
    words = _words(folder / "memory.stat")
    entries = dict(zip(words[::2], words[1::2], strict=False))
    stated = entries.get("total_inactive_file") or entries.get("inactive_file") or "0"
    return int(stated) if stated.isdigit() else 0


def _folders(controller: str) -> Iterator[Path]:
    """The group of this process and all above it, as far as they can be seen from here."""
    if sys.platform != "linux":
        return
    for line in _lines(OWN):
        number, _, rest = line.partition(":")
        names, _, place = rest.partition(":")
        if number == "0" and not names:
            top = ROOT
        elif controller in names.split(","):
            top = next((ROOT / name for name in (names, controller) if (ROOT / name).is_dir()), ROOT / names)
        else:
            continue
        folder = top / place.strip("/")
        yield from (each for each in (folder, *folder.parents) if each == top or top in each.parents)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _words(path: Path) -> list[str]:
    return " ".join(_lines(path)).split()


def _number(path: Path) -> int | None:
    words = _words(path)
    return int(words[0]) if words and words[0].lstrip("-").isdigit() else None
