"""Rows of a Parquet file, read by a process of its own within limits of memory and time (parquet_worker)."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from edgedistill.environment import child_environment
from edgedistill.errors import InputError
from edgedistill.reading import MAX_LINE_CHARACTERS, require_regular

WORKER = "edgedistill.config.parquet_worker"
PACKAGE_PARENT = Path(__file__).resolve().parents[2]
MAX_CHARACTERS = 2**29  # of all rows as JSON
DEADLINE_S = 300.0
# One thread and one arena: each reserves address space, of which the process has little.
ENVIRONMENT = {"ARROW_DEFAULT_MEMORY_POOL": "system", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}


def parquet_rows(path: Path, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The rows of a file, of each the columns among `names`; all columns as null in the first where it has none of
    these.

    Raises:
        InputError: it isn't Parquet, or unfolds into more than is read.
    """
    require_regular(path)
    process = subprocess.Popen(
        [sys.executable, "-m", WORKER, str(path.resolve()), json.dumps(list(names))],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=child_environment(**ENVIRONMENT),
        cwd=PACKAGE_PARENT,
        text=True,
        encoding="utf-8",
    )
    clock = threading.Timer(DEADLINE_S, process.kill)
    clock.daemon = True
    clock.start()
    try:
        yield from _rows(path, process, names)
    finally:
        clock.cancel()
        process.kill()
        assert process.stdout is not None
        process.stdout.close()
        process.wait()


def _rows(path: Path, process: "subprocess.Popen[str]", names: Sequence[str]) -> Iterator[dict[str, Any]]:
    assert process.stdout is not None
    total, first = 0, True
    while line := process.stdout.readline(MAX_LINE_CHARACTERS + 1):
        total += len(line)
        if len(line) > MAX_LINE_CHARACTERS or total > MAX_CHARACTERS:
            raise InputError(
                f"{path}: its rows unfold into more than {MAX_CHARACTERS} characters, or one into more than "
                f"{MAX_LINE_CHARACTERS}; give a smaller file."
            )
        row = json.loads(line)
        if first and "columns" in row:
            first, columns = False, row["columns"]
            if not set(columns) & set(names):
                yield dict.fromkeys(columns)
                return
        elif set(row) == {"error"}:
            raise InputError(f"{path}: it is not a readable Parquet file ({row['error']}).")
        else:
            yield row
    if process.wait() != 0 or first:
        raise InputError(
            f"{path}: it is not a readable Parquet file (reading it took more memory than it may, or more than "
            f"{DEADLINE_S:.0f} s)."
        )
