"""The report as one self-contained page: no script, nothing loaded, light, dark and printable.

Text from models and files is hostile: jinja2 escapes every value, and `visible` has been over each before that, so
that no markup, escape sequence or direction override of theirs survives. A Content-Security-Policy in the page
forbids whatever might slip past both.
"""

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from edgedistill.report.view import view
from edgedistill.results.report import Report
from edgedistill.results.row import Timing
from edgedistill.show import DASH, show, show_spread, visible

HERE = Path(__file__).parent
UNIT = re.compile(r"(?<=\d) (?=%|kB|MB|GB|tokens/s)")


def render_html(report: Report) -> str:
    """The whole page for a report."""
    environment = jinja2.Environment(
        autoescape=True, finalize=_clean, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(show=show, flat=_flat, timing=_timing, share=_share, difference=_difference)
    template = environment.from_string((HERE / "page.html.j2").read_text(encoding="utf-8"))
    css = Markup((HERE / "page.css").read_text(encoding="utf-8"))
    parts = view(report)
    names = {each.name: getattr(report, each.name) for each in fields(report)}
    names |= {each.name: getattr(parts, each.name) for each in fields(parts)}
    return template.render(css=css, **names)


def _clean(value: Any) -> Any:
    """Every value on its way into the page: ours stays, None becomes a dash, all else is made harmless."""
    if isinstance(value, Markup):
        return value
    return DASH if value is None else visible(value)


def _flat(value: object) -> str:
    """Hostile text on one line; a number keeps its unit when the line breaks."""
    return DASH if value is None else UNIT.sub("\u00a0", visible(value, lines=False))


def _timing(timing: Timing) -> Markup:
    """Mean and spread of one speed."""
    mean, sign, spread = show_spread(timing.mean, timing.std).partition(" ± ")
    return Markup("{} <small>± {}</small>").format(mean, spread) if sign else Markup("{}").format(mean)


def _share(share: float) -> str:
    """A share in percent with one decimal, as intervals need it."""
    text = f"{share * 100:.1f}".removesuffix(".0")
    return f"{text} %".replace("-", "−")


def _difference(difference: float) -> str:
    """A difference of two shares in percentage points, with its sign."""
    return f"{difference * 100:+.1f}".replace("-", "−").replace("+0.0", "0").replace("−0.0", "0")
