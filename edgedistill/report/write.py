"""report.json and report.html in a folder, each written whole or not at all."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgedistill.report.html import render_html


def write_report(report: Mapping[str, Any], folder: Path) -> tuple[Path, Path]:
    """Write both files and give their paths; a kill leaves the old ones or the new ones, never half of one."""
    # The page first: if it can't be made, the folder stays as it was.
    page = render_html(report)
    folder.mkdir(parents=True, exist_ok=True)
    data = json.dumps(report, indent=1, allow_nan=False) + "\n"
    return _write_whole(folder / "report.json", data), _write_whole(folder / "report.html", page)


def _write_whole(path: Path, words: str) -> Path:
    temporary = path.with_name(f".{path.name}.new")
    with temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.write(words)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    return path
