"""The report as one self-contained page: no script, nothing loaded, light, dark and printable.

Text from models and files is hostile: jinja2 escapes every value, and `visible` has been over each before that, so
that no markup, escape sequence or direction override of theirs survives. A Content-Security-Policy in the page
forbids whatever might slip past both.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from edgedistill.report.rows import timing as timing_of
from edgedistill.report.view import view
from edgedistill.show import DASH, show, show_spread, visible

HERE = Path(__file__).parent
UNIT = re.compile(r"(?<=\d) (?=%|kB|MB|GB|tokens/s)")
Row = Mapping[str, Any]


def render_html(report: Mapping[str, Any]) -> str:
    """The whole page for a report of `build_report` (or one read back from report.json)."""
    # Chainable: parts of a report may be missing, and what is missing is shown as a dash.
    undefined = jinja2.ChainableUndefined
    environment = jinja2.Environment(
        autoescape=True, finalize=_clean, undefined=undefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(show=show, flat=_flat, timing=_timing, share=_share, difference=_difference)
    template = environment.from_string((HERE / "page.html.j2").read_text(encoding="utf-8"))
    css = Markup((HERE / "page.css").read_text(encoding="utf-8"))
    return template.render(css=css, **{**report, **view(report)})


def _clean(value: Any) -> Any:
    """Every value on its way into the page: ours stays, None becomes a dash, all else is made harmless."""
    if isinstance(value, Markup):
        return value
    return DASH if value is None or isinstance(value, jinja2.Undefined) else visible(value)


def _flat(value: Any) -> str:
    """Hostile text on one line; a number keeps its unit when the line breaks."""
    if value is None or isinstance(value, jinja2.Undefined):
        return DASH
    return UNIT.sub("\u00a0", visible(value, lines=False))


def _timing(row: Row, name: str) -> Markup:
    """Mean and spread of one speed."""
    found = timing_of(row, name)
    mean, sign, spread = show_spread(found.get("mean"), found.get("std")).partition(" ± ")
    return Markup("{} <small>± {}</small>").format(mean, spread) if sign else Markup("{}").format(mean)


def _share(value: Any) -> str:
    """A share in percent with one decimal, as intervals need it."""
    return DASH if not isinstance(value, (int, float)) else f"{json.loads(f'{value * 100:.1f}'):g} %".replace("-", "−")


def _difference(value: Any) -> str:
    """A difference of two shares in points of percent, with its sign."""
    if not isinstance(value, (int, float)):
        return DASH
    return f"{value * 100:+.1f}".replace("-", "−").replace("+0.0", "0").replace("−0.0", "0")
