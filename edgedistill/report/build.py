"""What the stages wrote -> one report (report.json, schema edgedistill.report/1). Measures nothing.

A measured number enters only with a record of the same label, the same file hash and the same value; one without
is left out and named in `left_out`. The renderers see the report and nothing else.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from edgedistill.errors import RunError
from edgedistill.report.front import front_of, recommend
from edgedistill.report.rows import rounding_pair, shipped_row
from edgedistill.report.sourced import add_differences, same, sourced_extras, sourced_layers
from edgedistill.report.verdict import give_verdict
from edgedistill.results.record import Record

SCHEMA = "edgedistill.report/1"
KINDS = ("teacher", "float", "rounded", "recovered")
COUNTS = ("tokens",)  # how much was judged; not itself a measurement
CONDITIONS = ("threads", "load_average", "busy")  # how it was measured
SPEEDS = ("prefill_tokens_per_s", "decode_tokens_per_s")  # each {mean, std, trials}
LOADS = ("load_s", "peak_rss_bytes")


def build_report(
    plan: Mapping[str, Any],
    teach: Mapping[str, Any] | None,
    curves: Sequence[Mapping[str, Any]],
    measure: Mapping[str, Any],
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    """Join the stages' findings into one report of JSON types; NaN and infinity become null.

    Args:
        plan: teacher, student, target and for each mix the predicted bytes, RAM and tokens/s.
        teach: how many texts were asked for, kept and dropped; None where the text was given.
        curves: one entry a training stage: points, validation, best, start.
        measure: the measure stage's rows, records and samples (schema edgedistill.measure/1).
        provenance: recipe, stages, versions, command, licence, verify results.
    Raises:
        RunError: a part lacks what every report needs, or a record is damaged.
    """
    for name, part in (("plan", plan), ("measure", measure), ("provenance", provenance)):
        if not isinstance(part, Mapping):
            raise RunError(
                f"report: {name} is {type(part).__name__}; it must be an object. Run the {name} stage again."
            )
    records = [Record.from_json(found) for found in measure.get("records") or []]
    left_out: list[str] = []
    rows = [_sourced_row(row, index, records, plan, left_out) for index, row in enumerate(measure.get("rows") or [])]
    add_differences(rows, measure.get("rows") or [], left_out)
    found_layers = sourced_layers(measure.get("layers") or {}, rows, records, left_out)
    report: dict[str, Any] = {
        "schema": SCHEMA,
        "teacher": plan.get("teacher") or {},
        "student": plan.get("student") or {},
        "target": plan.get("target") or {},
        "on_target": bool(measure.get("on_target")),
        "machine": measure.get("machine") or {},
        "mixes": plan.get("mixes") or {},
        "judges": [dict(judge) for judge in measure.get("judges") or []],
        "rows": rows,
        "recovered": _recovered(measure, rows),
        "predictions": _predictions(plan, rows),
        "teach": dict(teach) if teach else None,
        "curves": [dict(curve) for curve in curves],
        "task_sets": [dict(found) for found in measure.get("task_sets") or []],
        "layers": found_layers,
        "layers_by": measure.get("layers_by") if found_layers else None,
        "samples": [dict(sample) for sample in measure.get("samples") or []],
        "build": plan.get("build") or {},
        "provenance": dict(provenance),
        "records": [record.to_json() for record in records],
        "left_out": left_out,
    }
    report["front"] = front_of(report)
    report["recommendation"] = recommend(report)
    report["verdict"] = give_verdict(report)
    return {name: _finite(part) for name, part in report.items()}


def _sourced_row(
    row: Mapping[str, Any], index: int, records: Sequence[Record], plan: Mapping[str, Any], left_out: list[str]
) -> dict[str, Any]:
    """The row with only those figures that a record vouches for; the rest become None and are named in `left_out`."""
    label, kind = row.get("label"), row.get("kind")
    if not isinstance(label, str) or not label:
        raise RunError(f"report: row {index} of measure has no label; each row must name its artifact.")
    if kind not in KINDS:
        raise RunError(f"report: row '{label}' of measure is of kind {kind!r}; it must be one of {', '.join(KINDS)}.")
    sha256 = row.get("sha256")
    mine = [record for record in records if record.artifact == label and record.file_sha256 == sha256]

    def sourced(value: Any, name: str, judge: str | None = None) -> Any:
        if value is None:
            return None
        if any(same(record.value, value) and record.text in (judge, None) for record in mine):
            return value
        left_out.append(f"{label}: {f'{judge}, ' if judge else ''}{name}")
        return None

    quality = {}
    for judge, found in (row.get("quality") or {}).items():
        quality[judge] = {
            name: value if name in COUNTS else sourced(value, name, judge) for name, value in (found or {}).items()
        } or None
    speed: dict[str, Any] = {}
    found = row.get("speed") or {}
    for name in SPEEDS:
        timing = found.get(name)
        speed[name] = dict(timing) if timing and sourced(timing.get("mean"), name) is not None else None
    speed.update({name: sourced(found.get(name), name) for name in LOADS})
    speed.update({name: found.get(name) for name in CONDITIONS})

    # The size of a file is a fact of the hashed file itself.
    file_bytes = row.get("file_bytes") if sha256 else None
    owner = plan.get("teacher") if kind == "teacher" else plan.get("student")
    parameters = (owner or {}).get("parameters")
    return {
        **{name: row.get(name) for name in ("label", "kind", "mix", "runtime", "file", "sha256")},
        "file_bytes": file_bytes,
        "bits_per_weight": file_bytes * 8 / parameters if file_bytes and parameters else None,
        "quality": quality,
        "speed": speed,
        **sourced_extras(row, sourced),
    }


def _recovered(measure: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Measure's shares by mix and judge, each with the two KLs it comes from; a share without both is left out."""
    shares: dict[str, Any] = {}
    for mix, judges in (measure.get("recovered") or {}).items():
        for judge, share in (judges or {}).items():
            pair = rounding_pair(rows, mix, judge)
            if pair and share:
                shares.setdefault(mix, {})[judge] = {**share, "kl_rounded": pair[0], "kl_recovered": pair[1]}
    return shares


def _predictions(plan: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What the plan foretold for the target beside what llama.cpp showed here, for each mix."""
    out = []
    for mix, foretold in (plan.get("mixes") or {}).items():
        row = shipped_row(rows, mix)
        speed = row["speed"] if row else {}
        pairs = (
            ("file", "bytes", "file_bytes", row["file_bytes"] if row else None),
            ("memory", "bytes", "ram_bytes", speed.get("peak_rss_bytes")),
            (
                "decode",
                "tokens/s",
                "predicted_decode_tokens_per_s",
                (speed.get("decode_tokens_per_s") or {}).get("mean"),
            ),
            (
                "prefill",
                "tokens/s",
                "predicted_prefill_tokens_per_s",
                (speed.get("prefill_tokens_per_s") or {}).get("mean"),
            ),
        )
        out += [
            {"mix": mix, "what": what, "unit": unit, "predicted": foretold.get(key), "measured": measured}
            for what, unit, key, measured in pairs
        ]
    return out


def _finite(found: Any) -> Any:
    """The same with JSON types only: tuples become lists, NaN and infinity None, keys text."""
    if isinstance(found, Mapping):
        return {str(key): _finite(value) for key, value in found.items()}
    if isinstance(found, (list, tuple)):
        return [_finite(value) for value in found]
    if isinstance(found, float) and not math.isfinite(found):
        return None
    if found is None or isinstance(found, (str, int, float)):
        return found
    return str(found)
