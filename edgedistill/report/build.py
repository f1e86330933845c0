"""What the stages wrote -> one report (report.json, schema edgedistill.report/1). Measures nothing.

A measured number enters only with a record of the same label, the same file hash and the same value; one without
is left out and named in `left_out`. The renderers see the report and nothing else.
"""

from collections.abc import Sequence
from dataclasses import replace

from edgedistill.report.contest import contest
from edgedistill.report.lineage import lineage, warning
from edgedistill.report.recommend import recommend
from edgedistill.report.rows import rounding_pair, shipped_row
from edgedistill.report.sourced import Sources, sourced_differences, sourced_layers, sourced_row
from edgedistill.report.verdict import give_verdict
from edgedistill.results.curve import Curve
from edgedistill.results.front import front_of
from edgedistill.results.measurement import Measurement, WonBack
from edgedistill.results.planned import PlanFacts
from edgedistill.results.report import Prediction, Provenance, Report, Teaching
from edgedistill.results.row import RIVAL, Row


def build_report(
    plan: PlanFacts, teach: Teaching | None, curves: Sequence[Curve], measure: Measurement, provenance: Provenance
) -> Report:
    """Join the stages' findings into one report.

    Args:
        plan: teacher, student, target and for each mix the predicted bytes, RAM and tokens/s.
        teach: how many texts were asked for, kept and dropped; None where the text was given.
        curves: one a training stage.
        measure: the measure stage's rows, records and samples.
        provenance: recipe, stages, versions, command, licence, proofs.
    """
    sources = Sources(measure.records)
    rows = [_with_bits(sourced_row(row, sources), plan) for row in measure.rows]
    rows = sourced_differences(rows, sources)
    layers = sourced_layers(measure.layers, rows, sources)
    report = Report(
        teacher=plan.teacher,
        student=plan.student,
        target=plan.target,
        on_target=measure.on_target,
        machine=measure.machine,
        mixes=plan.mixes,
        judges=measure.judges,
        rows=tuple(rows),
        recovered=_recovered(measure, rows),
        predictions=tuple(_predictions(plan, rows)),
        teach=teach,
        curves=tuple(curves),
        task=measure.task,
        task_sets=measure.task_sets,
        layers=layers,
        layers_by=measure.layers_by if layers else None,
        samples=measure.samples,
        build=plan.build,
        rival=plan.rival,
        provenance=provenance,
        records=measure.records,
        left_out=tuple(sources.left_out),
    )
    report = replace(report, front=front_of(report))
    rivalry = contest(report)
    report = replace(report, recommendation=recommend(report, lost=rivalry is not None and rivalry.lost))
    report = replace(report, verdict=give_verdict(report))
    told = replace(report.verdict, lineage=lineage(report), warning=warning(report), contest=rivalry)
    return replace(report, verdict=told)


def _with_bits(row: Row, plan: PlanFacts) -> Row:
    """The row with its bits a weight, where its size is known, which is a fact of the hashed file itself."""
    owner = plan.teacher if row.kind in ("teacher", RIVAL) else plan.student
    file_bytes = row.file_bytes if row.sha256 else None
    bits = file_bytes * 8 / owner.parameters if file_bytes and owner.parameters else None
    return replace(row, file_bytes=file_bytes, bits_per_weight=bits)


def _recovered(measure: Measurement, rows: Sequence[Row]) -> dict[str, dict[str, WonBack]]:
    """Measure's shares by mix and judge, each with the two KLs it comes from; a share without both is left out."""
    shares: dict[str, dict[str, WonBack]] = {}
    for mix, judges in measure.recovered.items():
        for judge, share in judges.items():
            pair = rounding_pair(rows, mix, judge)
            if pair:
                rounded, recovered = pair
                shares.setdefault(mix, {})[judge] = replace(share, kl_rounded=rounded, kl_recovered=recovered)
    return shares


def _predictions(plan: PlanFacts, rows: Sequence[Row]) -> list[Prediction]:
    """What the plan foretold for the target beside what llama.cpp showed here, for each mix."""
    predictions = []
    for mix, planned in plan.mixes.items():
        row = shipped_row(rows, mix) or Row("not measured", "rounded", mix, None)
        decode, prefill = planned.predicted_decode_tokens_per_s, planned.predicted_prefill_tokens_per_s
        predictions += [
            Prediction(mix, "file", "bytes", planned.file_bytes, row.file_bytes),
            Prediction(mix, "memory", "bytes", planned.ram_bytes, row.speed.peak_rss_bytes),
            Prediction(mix, "decode", "tokens/s", decode, row.speed.decode.mean),
            Prediction(mix, "prefill", "tokens/s", prefill, row.speed.prefill.mean),
        ]
    return predictions
