"""The machine that we run on: processor, cores, memory, system; and how busy it is. Bytes and seconds; no torch.

A measurement is only worth something beside the machine that gave it, so each record carries `machine_facts()`.
"""

import contextlib
import ctypes
import gc
import hashlib
import json
import math
import os
import platform
import sys
from pathlib import Path
from typing import Any

from edgedistill.cgroup import cpu_quota, memory_left_bytes, memory_limit_bytes

BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}


def machine_facts() -> dict[str, Any]:
    """What doesn't change between two runs: cpu, cores (usable by this process), memory_bytes, os, arch, python."""
    return {
        "cpu": _cpu_model(),
        "cores": usable_cores(),
        "memory_bytes": _memory_bytes(),
        "os": f"{platform.system()} {platform.release()}",
        "arch": platform.machine(),
        "python": platform.python_version(),
    }


def fingerprint() -> str:
    """Twelve hex digits that are the same for the same processor, cores, memory and system."""
    facts = machine_facts()
    stable = {name: facts[name] for name in ("cpu", "cores", "memory_bytes", "arch")} | {"os": platform.system()}
    return hashlib.sha256(json.dumps(stable, sort_keys=True).encode()).hexdigest()[:12]


def usable_cores() -> int:
    """Logical cores that this process may use, at least 1: its affinity where the system tells it, and no more than a
    container's share of processor time, rounded up. Threads beyond the share stop each other.
    """
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    quota = cpu_quota()
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def compute_of(setting: str) -> str:
    """float32 or bfloat16, for a recipe's `compute`: auto is bfloat16 where the processor multiplies matrices in it,
    with AVX512-BF16, AMX or Arm's BF16. Elsewhere bfloat16 is emulated, several times slower than float32.
    """
    if setting != "auto":
        return setting
    return "bfloat16" if _cpu_flags() & BFLOAT16_FLAGS else "float32"


def load_average() -> float | None:
    """Mean number of runnable processes over the last minute; None where the system doesn't keep it."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None


def free_memory_bytes() -> int:
    """Bytes that a new process could take without pushing others to swap."""
    import psutil

    available = int(psutil.virtual_memory().available)
    left = memory_left_bytes()
    return available if left is None else max(0, min(available, left))


def _memory_bytes() -> int:
    import psutil

    total = int(psutil.virtual_memory().total)
    limit = memory_limit_bytes()
    return total if limit is None else min(total, limit)


def _cpu_flags() -> set[str]:
    """What the first processor can do, in Linux' words; empty elsewhere."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip().lower() in ("flags", "features"):
                return set(value.split())
    return set()


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip().lower() in ("model name", "hardware"):
                return value.strip()
    if sys.platform == "darwin":
        import subprocess

        with contextlib.suppress(OSError):
            output = subprocess.run(
                ["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=False
            )
            if output.stdout.strip():
                return output.stdout.strip()
    return platform.processor() or platform.machine()


def release_memory() -> None:
    """Give back to the system what is free: models that stages dropped leave malloc's arenas full of holes.

    Without it a process keeps the memory of its largest stage, and the next one's comes on top. Does nothing where the
    C library has no malloc_trim.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
