"""Results that a killed stage doesn't compute again: each is written at once as a small JSON file, whole or not at
all.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from edgedistill.results.codec import JsonData
from edgedistill.store.whole import atomic_write

T = TypeVar("T", bound=JsonData)


def keep(path: Path, compute: Callable[[], Any]) -> Any:
    """What `compute` returns, as JSON gives it back; read from `path` where an earlier start wrote it."""
    if not path.is_file():
        write_whole(path, compute())
    return read_json(path)


def keep_typed(kind: type[T], path: Path, compute: Callable[[], T]) -> T:
    """The same for a value of `kind`."""
    return kind.from_json(keep(path, lambda: compute().to_json()), str(path))


def write_whole(path: Path, value: Any, indent: int | None = None) -> None:
    """Write JSON under a name that appears only when the file is whole."""
    atomic_write(path, json.dumps(value, indent=indent))


def read_json(path: Path) -> Any:
    """What a JSON file holds."""
    return json.loads(path.read_text(encoding="utf-8"))
