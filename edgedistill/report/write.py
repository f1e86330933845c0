"""report.json and report.html in a folder, each written whole or not at all."""

import json
from pathlib import Path

from edgedistill.report.html import render_html
from edgedistill.results.report import Report
from edgedistill.store.whole import atomic_write


def write_report(report: Report, folder: Path) -> tuple[Path, Path]:
    """Write both files and give their paths; a kill leaves the old ones or the new ones, never half of one."""
    # The page first: if it can't be made, the folder stays as it was.
    page = render_html(report)
    # In ASCII: a model may have written half a surrogate pair, which UTF-8 can't hold.
    data = json.dumps(report.to_json(), indent=1, allow_nan=False) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    json_path, html_path = folder / "report.json", folder / "report.html"
    atomic_write(json_path, data)
    atomic_write(html_path, page)
    return json_path, html_path


def read_report(path: Path) -> Report:
    """A report.json that `write_report` wrote.

    Raises:
        RunError: it is none.
    """
    return Report.from_json(json.loads(path.read_text(encoding="utf-8")))
