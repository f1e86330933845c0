"""What the page's template shows beside the report itself: title, key figures, plots, and each part's rows in their
order.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from edgedistill import licences
from edgedistill.report import answers, bars, charts, curves, heat, svg
from edgedistill.report.rows import LEAST, chosen_row, figure, float_name, front_labels, in_order, packed
from edgedistill.report.rows import timing as timing_of
from edgedistill.show import show

KIND_NAMES = {
    "teacher": "teacher",
    "float": "float student",
    "rounded": "rounded",
    "recovered": "recovered by training on the grid",
}
PREDICTION_NAMES = {
    "file": "file size",
    "memory": "memory in use",
    "decode": "decode, tokens/s",
    "prefill": "prefill, tokens/s",
}
MANY = 10  # rows; with more, what is looked up more seldom is behind a fold
REFUSALS = (
    ("unsafe", "unsafe prompts", "more"),
    ("safe", "safe prompts", "fewer"),
)  # whose refusal is better more, or less, often
DRAWN_ENDS = {ord("\n"): "⏎", ord("\t"): "⇥"}
DRAWN = {**DRAWN_ENDS, ord(" "): "␣"}
Row = Mapping[str, Any]


def view(report: Mapping[str, Any]) -> dict[str, Any]:
    """The names that page.html.j2 uses; every part may be empty, and then has no heading."""
    rows, chosen = in_order(report["rows"]), chosen_row(report)
    as_is = bool(report["student"].get("as_is"))
    recipe = report["provenance"].get("recipe")
    sections = {
        **_plots(report, rows),
        "won_back": _won_back(report),
        "predictions": _predictions(report),
        "lost": _lost(report, rows, chosen),
        "tasks": _tasks(rows),
        "differences": _differences(rows),
        "samples": [
            answers.side_by_side(s, rows, float_name(report), chosen["label"] if chosen else None)
            for s in report["samples"]
        ],
        "curve_charts": [
            (curve, curves.training_loss(curve), curves.validation_kl(curve)) for curve in report["curves"]
        ],
    }
    return {
        **sections,
        "rows": rows,
        "many": len(rows) > MANY,
        "chosen": chosen,
        "front": front_labels(report),
        "front_axes": _axes(report),
        "float_name": float_name(report),
        "chips": {
            kind: svg.picture([svg.mark(6, 6, shape, f"dot {kind}", 4.4)], 12, "", 12)
            for kind, shape in charts.SHAPES.items()
        },
        "kind_names": {**KIND_NAMES, **({"teacher": "model as given", "float": "float model"} if as_is else {})},
        "prediction_names": PREDICTION_NAMES,
        "title": f"{report['teacher'].get('name') or 'A model'} on {report['target'].get('name') or 'a device'}",
        "built": _built(report),
        "where": "on the target" if report["on_target"] else "on this machine, which isn't the target",
        "recommendation": report.get("recommendation"),
        "tiles": _tiles(report, chosen),
        "licence": licences.licence_of(report["provenance"].get("license")),
        "licence_id": report["provenance"].get("license"),
        "licence_demands": licences.demands(report["provenance"].get("license")),
        "total": _total(report),
        "fact_lists": _fact_lists(report),
        "file_hashes": [(row["label"], row["file"], row["sha256"]) for row in rows if row["sha256"]],
        "recipe_text": json.dumps(recipe, indent=2, ensure_ascii=False) if recipe else None,
        "parts": _parts(report, sections),
    }


def _axes(report: Mapping[str, Any]) -> str:
    """What the files on the front were compared in."""
    names = {"file_bytes": "size", "decode_tokens_per_s": "speed", "kl": "KL", "task": "tasks"}
    axes = (report.get("front") or {}).get("axes") or ("file_bytes", "decode_tokens_per_s", "kl")
    *most, last = [
        names.get(axis, str(axis)) for axis in axes if axis != "task" or any(row.get("tasks") for row in report["rows"])
    ]
    return f"{', '.join(most)} and {last}" if most else last


def _parts(report: Mapping[str, Any], sections: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Anchor and name of each part that the page has, in its order."""
    there = {
        "choice": ("Size, speed, quality", sections["quality_charts"] or sections["speed_charts"]),
        "figures": ("All figures", report["rows"]),
        "predicted": ("Predicted", sections["predictions"]),
        "training": ("Training", sections["curve_charts"] or report["teach"]),
        "lost": ("Where it was lost", sections["lost"]),
        "answers": ("Answers", sections["samples"]),
        "tasks": ("Tasks and refusals", sections["tasks"]),
        "made": ("How it was made", True),
        "licence": ("Licence", True),
        "terms": ("Reading it", True),
    }
    return [(anchor, name) for anchor, (name, found) in there.items() if found]


def _built(report: Mapping[str, Any]) -> str:
    """One sentence: what was built, out of what, and for what."""
    teacher, student, target = report["teacher"], report["student"], report["target"]
    mixes = len({row["mix"] for row in report["rows"] if packed(row)})
    recovered = any(row["kind"] == "recovered" for row in report["rows"])
    goal = target.get("title") or target.get("name")
    device = f", for {goal}" if goal else ""
    name = teacher.get("name") or "a model"
    formats = f"{mixes} number format{'s' if mixes != 1 else ''}" if mixes else "no number format yet"
    weights = (
        f"{show(teacher.get('parameters'), 'count')} weights in {teacher.get('layers')} layers"
        if teacher.get("parameters")
        else ""
    )
    if student.get("as_is"):
        how = "rounded and trained on the grid" if recovered else "rounded"
        return f"{name}{f', {weights},' if weights else ''} {how} in {formats}{device}."
    if student.get("parameters"):
        smaller = f"{show(student['parameters'], 'count')} weights in {student.get('layers')} layers"
        return f"A student of {smaller}, distilled from {name} ({weights or 'size not known'}), in {formats}{device}."
    return f"{name}{f', {weights}' if weights else ''}{device}."


def _plots(report: Mapping[str, Any], rows: Sequence[Row]) -> dict[str, Any]:
    against = float_name(report)
    quality = []
    for judge in report["judges"]:
        found = (
            charts.quality_against_size(rows, judge["name"], against),
            charts.quality_against_speed(rows, judge["name"], against),
        )
        if any(found):
            quality.append((judge, [chart for chart in found if chart]))
    shown = [row for judge in report["judges"] for row in charts.compared(rows, judge["name"], against)]
    goals = {
        name: {mix: foretold.get(f"predicted_{name}") for mix, foretold in report["mixes"].items()}
        for name in ("decode_tokens_per_s", "prefill_tokens_per_s")
    }
    speeds = [
        bars.speed_bars(rows, "decode_tokens_per_s", goals["decode_tokens_per_s"], "decode: tokens written a second"),
        bars.speed_bars(rows, "prefill_tokens_per_s", goals["prefill_tokens_per_s"], "prefill: tokens read a second"),
    ]
    zero = next((row for row in rows if row["kind"] == "float"), None)
    facts = []
    if zero is not None:
        decode = timing_of(zero, "decode_tokens_per_s").get("mean")
        facts = [show(zero["file_bytes"], "bytes")] if zero["file_bytes"] else []
        facts += [show(decode, "tokens/s")] if decode is not None else []
    return {
        "quality_charts": quality,
        "chart_kinds": [
            (kind, charts.SHAPES[kind]) for kind in KIND_NAMES if any(row["kind"] == kind for row in shown)
        ],
        "has_pairs": any(row["kind"] == "recovered" for row in shown)
        and any(row["kind"] == "rounded" for row in shown),
        "has_onnx": any(row["runtime"] == "onnxruntime" for row in shown),
        "zero": ", ".join(facts),
        "speed_charts": [chart for chart in speeds if chart],
        "has_goals": any(value is not None for found in goals.values() for value in found.values()),
    }


def _won_back(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """A row a mix and a column group a judge: what training took away of rounding's loss; None where nothing was
    recovered.
    """
    found = {mix: shares for mix, shares in report["recovered"].items() if shares}
    judges = list(dict.fromkeys(judge for shares in found.values() for judge in shares))
    order = list(dict.fromkeys(row["mix"] for row in in_order(report["rows"]) if row["mix"] in found))
    order += [mix for mix in found if mix not in order]
    return (
        {"judges": judges, "lines": [(mix, [found[mix].get(judge) or {} for judge in judges]) for mix in order]}
        if found
        else None
    )


def _predictions(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """A row a mix, with what was foretold and what was measured of each quantity; a quantity that nobody knows has no
    column.
    """
    known = [
        found for found in report["predictions"] if found["measured"] is not None or found["predicted"] is not None
    ]
    whats = [what for what in PREDICTION_NAMES if any(found["what"] == what for found in known)]
    lines: dict[str, dict[str, Any]] = {}
    for found in known:
        measured, predicted = found["measured"], found["predicted"]
        ratio = measured / predicted if measured is not None and predicted else None
        unit = found["unit"] if found["unit"] == "bytes" else ""  # tokens/s stand in the heading
        off = ratio is not None and not 0.8 <= ratio <= 1.25
        cell = {**found, "unit": unit, "ratio": f"{ratio:.2f}" if ratio is not None else None, "off": off}
        lines.setdefault(found["mix"], {})[found["what"]] = cell
    order = list(dict.fromkeys(row["mix"] for row in in_order(report["rows"]) if row["mix"] in lines))
    order += [mix for mix in lines if mix not in order]
    return (
        {"whats": whats, "lines": [(mix, [lines[mix].get(what) for what in whats]) for mix in order]} if whats else None
    )


def _lost(report: Mapping[str, Any], rows: Sequence[Row], chosen: Row | None) -> dict[str, Any] | None:
    """The heat maps of each mix and the worst tokens of each row; the chosen mix stands first. None where neither was
    kept.
    """
    mix = chosen["mix"] if chosen else None
    maps: list[dict[str, Any]] = []
    for name, entries in (report.get("layers") or {}).items():
        edges = heat.scale_of(entries)
        if edges is None:
            continue
        drawn = [(which, heat.heatmap(entries, which, edges, f"{name} {which}")) for which in ("rounded", "recovered")]
        shown = [(which, chart) for which, chart in drawn if chart]
        if shown:
            worst = heat.worst_tensors(entries, shown[-1][0])
            maps.append(
                {
                    "mix": name,
                    "charts": [chart for _, chart in shown],
                    "legend": heat.legend(edges),
                    "middles": [(which, heat.percent(heat.middle(entries, which) or 0.0)) for which, _ in shown],
                    "worst": [
                        (e["tensor"], e.get("grid"), [heat.shown(e.get(which)) for which, _ in shown]) for e in worst
                    ],
                    "kinds": [which for which, _ in shown],
                }
            )
    tokens: list[dict[str, Any]] = [
        {"row": row, "worst": [_token_pair(token) for token in row["worst"]]} for row in rows if row.get("worst")
    ]
    maps.sort(key=lambda found: found["mix"] != mix)
    tokens.sort(key=lambda found: found["row"]["mix"] != mix)
    if not maps and not tokens:
        return None
    # One mix' maps and tokens stand open; of many, the others are behind a fold.
    first = [found for found in tokens if found["row"]["mix"] == tokens[0]["row"]["mix"]] if tokens else []
    return {
        "maps": maps[:1] if len(maps) > 2 else maps,
        "more_maps": maps[1:] if len(maps) > 2 else [],
        "tokens": first,
        "more_tokens": [found for found in tokens if found not in first],
        "by": report.get("layers_by"),
        "trained": any("recovered" in found["kinds"] for found in maps),
    }


def _token_pair(token: Mapping[str, Any]) -> dict[str, Any]:
    """The token with what is shown of it: the space before the expected word, the word, and what the file says instead
    of it.

    Spaces are drawn where they are all of a token, or all that tells the two apart.
    """
    want, says = (str(token.get(name) or "") for name in ("expected", "got"))
    word = want.lstrip(" ")
    apart = want.strip() != says.strip()
    shown = [
        (found.strip(" ") if apart and found.strip() else found).translate(
            DRAWN if not found.strip() or not apart else DRAWN_ENDS
        )
        for found in (want, says)
    ]
    gap = want[: len(want) - len(word)] if word else ""
    return {
        **token,
        "gap": gap,
        "word": word.translate(DRAWN_ENDS) if word else want.translate(DRAWN),
        "want": shown[0],
        "says": shown[1],
    }


def _tasks(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Shares with intervals: each task that any row was asked, then refusals."""
    out: list[dict[str, Any]] = []
    level = next((row for row in rows if row["kind"] == "float"), None)
    names = dict.fromkeys(name for row in rows for name in row.get("tasks") or {})
    for name in names:
        found = [(row, row["tasks"][name]) for row in rows if _whole((row.get("tasks") or {}).get(name))]
        line = ((level or {}).get("tasks") or {}).get(name) or {}
        out.append(
            {
                "group": "tasks",
                "name": name,
                "items": found[0][1].get("items") if found else None,
                "chart": bars.intervals(found, f"{name}: share answered right", line.get("share")),
            }
        )
    for key, words, better in REFUSALS:
        found = [(row, row["refusals"][key]) for row in rows if _whole((row.get("refusals") or {}).get(key))]
        line = ((level or {}).get("refusals") or {}).get(key) or {}
        out.append(
            {
                "group": "refusals",
                "name": words,
                "items": found[0][1].get("items") if found else None,
                "chart": bars.intervals(found, f"{words} refused; {better} is better", line.get("share")),
            }
        )
    return [entry for entry in out if entry["chart"]]


def _differences(rows: Sequence[Row]) -> dict[str, Any] | None:
    """Paired with the float model on the same items, a row a file and a column a task; None where nothing was
    paired.
    """
    names = list(dict.fromkeys(name for row in rows for name in row.get("differences") or {}))
    if not names:
        return None
    lines = []
    for row in rows:
        cells = [(row.get("differences") or {}).get(name) for name in names]
        if any(cells):
            lines.append(
                {
                    "row": row,
                    "cells": [
                        {**cell, "sure": cell["low"] > 0 or cell["high"] < 0} if cell else None for cell in cells
                    ],
                }
            )
    return {"names": names, "lines": lines} if lines else None


def _whole(found: Any) -> bool:
    return bool(found) and all(isinstance(found.get(name), (int, float)) for name in ("share", "low", "high"))


def _tiles(report: Mapping[str, Any], row: Row | None) -> list[dict[str, str]]:
    """The few figures that one looks for first, of the row that the verdict is about; only those that were measured."""
    if row is None:
        return []
    mix = row["mix"]
    tiles = []
    if row["file_bytes"]:
        value, unit = show(row["file_bytes"], "bytes").split(" ")
        bits = f"{show(row['bits_per_weight'], 'bits')} bits a weight" if row["bits_per_weight"] else row["file"]
        tiles.append({"name": f"{mix or row['label']} file", "value": value, "unit": unit, "note": bits})
    decode = timing_of(row, "decode_tokens_per_s")
    if decode.get("mean") is not None:
        threads = row["speed"].get("threads")
        how = f"{row['runtime']}, {threads} thread{'s' if threads != 1 else ''}" if threads else row["runtime"]
        note = f"{how}, {'on the target' if report['on_target'] else 'not the target'}"
        tiles.append({"name": "writes", "value": show(decode["mean"]), "unit": "tokens/s", "note": note})
    judge = next((judge["name"] for judge in report["judges"]), None)
    tiles += _quality_tiles(report, row, judge)
    rss = row["speed"].get("peak_rss_bytes")
    if rss is not None:
        value, unit = show(rss, "bytes").split(" ")
        tiles.append({"name": "peak memory", "value": value, "unit": unit, "note": f"whole process, {row['runtime']}"})
    return tiles


def _quality_tiles(report: Mapping[str, Any], row: Row, judge: str | None) -> list[dict[str, str]]:
    """How much of the float model's behavior is kept, and how much of rounding's loss training won back."""
    tiles, mix = [], row["mix"]
    top = figure(row, judge, "top1_student")
    if top is not None:
        value, unit = show(top, "share").split(" ")
        rounded = next(
            (
                r
                for r in report["rows"]
                if r["mix"] == mix and r["kind"] == "rounded" and r["runtime"] == row["runtime"]
            ),
            None,
        )
        before = figure(rounded, judge, "top1_student") if rounded is not None and rounded is not row else None
        note = f"as the {float_name(report)}, on {judge}" + (
            f"; rounded {show(before, 'share')}" if before is not None else ""
        )
        tiles.append({"name": "same likeliest word", "value": value, "unit": unit, "note": note})
    share = report["recovered"].get(mix, {}).get(judge, {}) if row["kind"] == "recovered" else {}
    if share.get("kl_share") is not None and share["kl_rounded"] > LEAST:
        kls = f"KL {show(share['kl_rounded'], charts.NATS)} → {show(share['kl_recovered'], charts.NATS)} on {judge}"
        value, unit = show(share["kl_share"], "share").split(" ")
        tiles.append({"name": "rounding loss won back", "value": value, "unit": unit, "note": kls})
    elif figure(row, judge, "kl_student_mean") is not None:
        kl = show(figure(row, judge, "kl_student_mean"), charts.NATS)
        tiles.append(
            {"name": f"KL to the {float_name(report)}", "value": kl, "unit": "", "note": f"nats per token, on {judge}"}
        )
    return tiles


def _total(report: Mapping[str, Any]) -> dict[str, Any]:
    """All stages together: seconds and the highest peak memory."""
    stages = report["provenance"].get("stages") or []
    seconds = [stage["seconds"] for stage in stages if stage.get("seconds") is not None]
    peaks = [stage["peak_rss_bytes"] for stage in stages if stage.get("peak_rss_bytes") is not None]
    return {
        "seconds": sum(seconds) if seconds else None,
        "peak": max(peaks, default=None),
        "reused": any(s.get("reused") for s in stages),
    }


def _fact_lists(report: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, Any]]]]:
    """Short lists of names and values: where from, the machine, the versions."""
    provenance, teacher, target = report["provenance"], report["teacher"], report["target"]
    origin = [
        ("model" if report["student"].get("as_is") else "teacher", teacher.get("name")),
        ("source", teacher.get("source")),
        ("licence", provenance.get("license") or "not known"),
        ("target", target.get("name")),
    ]
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
