"""Findings that a killed stage doesn't make again: each is written as a small JSON file at once, whole or not at
all.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgedistill.store.whole import atomic_write


def keep(path: Path, make: Callable[[], Any]) -> Any:
    """What `make` found, as JSON gives it back; from `path` where it is there already."""
    if not path.is_file():
        write_whole(path, make())
    return json.loads(path.read_text(encoding="utf-8"))


def write_whole(path: Path, found: Any, indent: int | None = None) -> None:
    """Write JSON under a name that appears only when the file is whole."""
    atomic_write(path, json.dumps(found, indent=indent))
