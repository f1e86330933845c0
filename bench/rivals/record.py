"""What every rival's script says about its run, in the JSON file beside the GGUF file: tool, versions, settings, cost,
tensor types.

Only the standard library (and `gguf` to look into a file), since each script runs in the environment of its own tool.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shlex
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any


class Cost:
    """Wall and processor seconds since it was made, and the highest resident memory of this process."""

    def __init__(self) -> None:
        self.started, self.used = time.perf_counter(), time.process_time()

    def to_dict(self) -> dict[str, float | int]:
        """Seconds so far and peak bytes (VmHWM, Linux)."""
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
        assert found
        return {
            "seconds": round(time.perf_counter() - self.started, 1),
            "cpu_seconds": round(time.process_time() - self.used, 1),
            "peak_rss_bytes": int(found[1]) * 1024,
        }


def versions(*packages: str) -> dict[str, str]:
    """Python's version and those of some installed packages."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in packages}


def text_facts(path: Path) -> dict[str, str | int]:
    """Name, bytes and SHA-256 of a text file."""
    data = path.read_bytes()
    return {"file": path.name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def gguf_facts(path: Path) -> dict[str, Any]:
    """File size, bytes of the tensors alone, and how many tensors have which type: a label such as Q2_K says nothing of
    these.
    """
    import gguf

    tensors = gguf.GGUFReader(path).tensors
    kinds = Counter(tensor.tensor_type.name for tensor in tensors)
    tensor_bytes = sum(int(tensor.n_bytes) for tensor in tensors)
    return {"bytes": path.stat().st_size, "tensor_bytes": tensor_bytes, "types": dict(kinds.most_common())}


def write_record(record: Path, tool: str, mix: str, facts: dict[str, Any]) -> None:
    """Write a record: `facts` after the tool, the mix and the command that ran."""
    command = "python " + shlex.join([_short(word) for word in sys.argv])
    whole = {"tool": tool, "mix": mix, "command": command, "cores": len(os.sched_getaffinity(0)), **facts}
    temporary = record.with_suffix(".json.tmp")
    temporary.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    temporary.replace(record)


def _short(word: str) -> str:
    """A word of the command without this machine's folders: the last two parts of an absolute path."""
    return str(Path(*Path(word).parts[-2:])) if Path(word).is_absolute() else word
