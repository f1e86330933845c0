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

from edgedistill.records import DASH, show, show_spread, visible
from edgedistill.report import charts
from edgedistill.report.rows import figure, shipped_row
from edgedistill.report.rows import timing as timing_of

HERE = Path(__file__).parent
KIND_NAMES = {"teacher": "teacher", "float": "float student", "rounded": "rounded", "recovered": "recovered by training on the grid"}
PREDICTION_NAMES = {"file": "file size", "memory": "memory in use", "decode": "decode", "prefill": "prefill"}
UNIT = re.compile(r"(?<=\d) (?=%|kB|MB|GB|tokens/s)")
Row = Mapping[str, Any]


def render_html(report: Mapping[str, Any]) -> str:
    """The whole page for a report of `build_report` (or one read back from report.json)."""
    # Chainable: parts of a report may be missing, and what is missing is shown as a dash.
    undefined = jinja2.ChainableUndefined
    environment = jinja2.Environment(autoescape=True, finalize=_clean, undefined=undefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(show=show, flat=_flat, timing=_timing, ratio=_ratio)
    template = environment.from_string((HERE / "page.html.j2").read_text(encoding="utf-8"))
    css = Markup((HERE / "page.css").read_text(encoding="utf-8"))
    return template.render(css=css, prediction_names=PREDICTION_NAMES, **report, **_view(report))


def _view(report: Mapping[str, Any]) -> dict[str, Any]:
    """What the template shows beside the report itself: title, key figures, plots, lists of facts."""
    rows, judges = report["rows"], report["judges"]
    quality = [(judge, charts.quality_against_size(rows, judge["name"])) for judge in judges]
    on_charts = [row for row in rows if any(figure(row, judge["name"], "kl_student_mean") is not None for judge in judges)]
    runtimes = {row["runtime"] for row in on_charts}
    goals = {
        name: {mix: foretold.get(f"predicted_{name}") for mix, foretold in report["mixes"].items()}
        for name in ("decode_tokens_per_s", "prefill_tokens_per_s")
    }
    speeds = [
        charts.speed_bars(rows, "decode_tokens_per_s", goals["decode_tokens_per_s"], "decode: tokens written a second"),
        charts.speed_bars(rows, "prefill_tokens_per_s", goals["prefill_tokens_per_s"], "prefill: tokens read a second"),
    ]
    curves = [(curve, [charts.training_loss(curve), charts.validation_kl(curve)]) for curve in report["curves"]]
    recipe = report["provenance"].get("recipe")
    return {
        "kind_names": {**KIND_NAMES, **({"teacher": "model as given", "float": "float model"} if report["student"].get("as_is") else {})},
        "title": f"{report['teacher'].get('name') or 'A model'} on {report['target'].get('name') or 'a device'}",
        "where": "on the target" if report["on_target"] else "on this machine, which isn't the target",
        "tiles": _tiles(report),
        "quality_charts": [(judge, chart) for judge, chart in quality if chart],
        "chart_kinds": [kind for kind in KIND_NAMES if any(row["kind"] == kind for row in on_charts)],
        "chart_shapes": [(runtime, shape) for runtime, shape in charts.SHAPES.items() if runtime in runtimes],
        "speed_charts": [chart for chart in speeds if chart],
        "has_goals": any(value is not None for found in goals.values() for value in found.values()),
        "curve_charts": [(curve, [chart for chart in found if chart]) for curve, found in curves],
        "fact_lists": _fact_lists(report),
        "file_hashes": [(row["label"], row["file"], row["sha256"]) for row in rows if row["sha256"]],
        "recipe_text": json.dumps(recipe, indent=2, ensure_ascii=False) if recipe else None,
    }


def _tiles(report: Mapping[str, Any]) -> list[dict[str, str]]:
    """The few figures that one looks for first, of the mix that the verdict is about; only those that were measured."""
    mix = report["verdict"]["mix"]
    row = shipped_row(report["rows"], mix) if mix else None
    if row is None:
        return []
    tiles = []
    if row["file_bytes"]:
        value, unit = show(row["file_bytes"], "bytes").split(" ")
        bits = f"{show(row['bits_per_weight'], 'bits')} bits a weight" if row["bits_per_weight"] else row["file"]
        tiles.append({"name": f"{mix} file", "value": value, "unit": unit, "note": bits})
    decode = timing_of(row, "decode_tokens_per_s")
    if decode.get("mean") is not None:
        threads = row["speed"].get("threads")
        how = f"{row['runtime']}, {threads} thread{'s' if threads != 1 else ''}" if threads else row["runtime"]
        note = f"{how}, {'on the target' if report['on_target'] else 'not the target'}"
        tiles.append({"name": "writes", "value": show(decode["mean"]), "unit": "tokens/s", "note": note})
    rss = row["speed"].get("peak_rss_bytes")
    if rss is not None:
        value, unit = show(rss, "bytes").split(" ")
        tiles.append({"name": "peak memory", "value": value, "unit": unit, "note": f"whole process, {row['runtime']}"})
    judge = next((judge["name"] for judge in report["judges"]), None)
    share = report["recovered"].get(mix, {}).get(judge, {})
    if share.get("kl_share") is not None:
        kls = f"KL {show(share['kl_rounded'], charts.NATS)} → {show(share['kl_recovered'], charts.NATS)} on {judge}"
        tiles.append({"name": "rounding loss won back", "value": show(share["kl_share"], "share"), "unit": "", "note": kls})
    return tiles


def _fact_lists(report: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, Any]]]]:
    """Short lists of names and values: where from, the machine, the versions."""
    provenance, teacher = report["provenance"], report["teacher"]
    origin = [("teacher", teacher.get("name")), ("source", teacher.get("source")), ("licence", provenance.get("license") or "not known")]
    lists = [
        ("Origin", [(name, value) for name, value in origin if value]),
        ("Machine", [_fact(name, value) for name, value in report["machine"].items()]),
        ("Versions", list((provenance.get("versions") or {}).items())),
    ]
    return [(heading, found) for heading, found in lists if found]


def _fact(name: str, value: Any) -> tuple[str, Any]:
    if name.endswith("_bytes"):
        return name.removesuffix("_bytes").replace("_", " "), show(value, "bytes")
    return name.replace("_", " "), json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else value


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


def _ratio(prediction: Mapping[str, Any]) -> str:
    """Measured over predicted, or a dash."""
    measured, predicted = prediction["measured"], prediction["predicted"]
    return f"{measured / predicted:.2f}" if measured is not None and predicted else DASH
