"""The last of a run: the report, in its stage and at the top of the run folder, and the folder to ship."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgedistill import __version__
from edgedistill.bundle.names import place_of
from edgedistill.export import PROOF
from edgedistill.licences import UNKNOWN
from edgedistill.pipeline.context import Context
from edgedistill.pipeline.estimate import Estimates
from edgedistill.pipeline.judges import kept_system
from edgedistill.pipeline.stage import Finished, Json, Stage
from edgedistill.results.curve import Curve
from edgedistill.results.measurement import Measurement
from edgedistill.results.planned import PlanFacts
from edgedistill.results.report import Proof, Provenance, Report, StageCost, Teaching
from edgedistill.store.run import RunFolder
from edgedistill.store.whole import atomic_write

REPORT = "report"
REPORT_FILES = ("report.json", "report.html")
BUNDLE_MARK = ".bundle.json"
BUNDLE_FORMAT = 7  # what a bundle holds: one more where that changes, so that a finished run's is made again
REPORT_FORMAT = 4  # what a report says of its stages: one more where that changes, such as a rule of the recommendation
PACKED = ("gguf", "onnx")  # kinds of stages whose file ships and was proven


def report(context: Context, before: Sequence[Stage], student: str) -> Stage:
    """The report of all stages before it.

    Args:
        context: the run's.
        before: all other stages, in order.
        student: the stage of the float student.
    """
    trained = [stage.name for stage in before if stage.kind in ("distill", "recover")]
    packed = [stage for stage in before if stage.kind in PACKED]
    taught = context.text if any(stage.name == context.text for stage in before) else None

    def work(folder: Path, done: Finished) -> None:
        from edgedistill.report.build import build_report
        from edgedistill.report.write import write_report

        plan = PlanFacts.from_json(done.plan.to_dict())
        teach = Teaching.from_json(_read(done.folder(taught) / "teach.json")) if taught else None
        system = kept_system(done.folder("judges"))
        if system is not None:  # what the bundle asks with is what its figures were measured with
            teach = replace(teach or Teaching(), system=system)
        curves = [Curve.from_json(_read(done.folder(name) / "curve.json")) for name in trained]
        measure = Measurement.from_json(_read(done.folder("measure") / "measure.json"))
        provenance = _provenance(context, before, packed, done)
        write_report(build_report(plan, teach, curves, measure, provenance), folder)

    # What a rerun finds complete is told on the terminal; the page tells how the run was made, so it doesn't change.
    settings: dict[str, Json] = {
        "format": REPORT_FORMAT,
        "version": __version__,
        "target": context.target.to_dict(),
    }
    texts = [taught, "judges"] if taught else ["judges"]
    inputs = dict.fromkeys([*texts, student, *trained, *(stage.name for stage in packed)])
    estimate = Estimates(context).papers()
    return Stage(REPORT, "papers", work, settings, (*inputs, "measure"), estimate=estimate)


def _provenance(context: Context, before: Sequence[Stage], packed: Sequence[Stage], done: Finished) -> Provenance:
    results = [done.results[stage.name] for stage in before]
    stages = [StageCost(r.name, r.key, r.mark.seconds, r.mark.peak_rss_bytes, r.reused) for r in results]
    proofs = [{"file": f"{stage.kind} {stage.mix}", **_read(done.folder(stage.name) / PROOF)} for stage in packed]
    return Provenance(
        teacher=context.facts.source,
        recipe=context.recipe.to_dict(),
        command=context.command,
        license=context.origin.license,
        teacher_license=None if context.start is None else context.facts.license or UNKNOWN,
        versions=done.results["measure"].mark.versions,
        places={r.name: r.mark.place for r in results if r.mark.place.get("device", "cpu") != "cpu"},
        stages=tuple(stages),
        verify=tuple(map(Proof.from_json, proofs)),
    )


def publish_report(run: RunFolder, done: Finished) -> Report:
    """Put report.json and report.html at the top of the run folder; returns the report."""
    folder = done.folder(REPORT)
    for name in REPORT_FILES:
        content, place = (folder / name).read_bytes(), run.path / name
        if not place.is_file() or place.read_bytes() != content:
            atomic_write(place, content)
    return Report.from_json(_read(folder / "report.json"))


def ship(
    context: Context,
    run: RunFolder,
    done: Finished,
    report: Report,
    artifacts: Mapping[str, Path],
    student: str,
) -> Path:
    """The folder to ship, made anew only when the report or a file changed.

    Args:
        context: the run's.
        run: its folder.
        done: all stages.
        report: as `publish_report` gives it.
        artifacts: what ships, by gguf-MIX or onnx-MIX; the first is what its README shows how to run.
        student: the stage of the float student, whose folder has the tokenizer and the generation settings.
    """
    from edgedistill.bundle.folder import SUMS, bundle_damage, sums_sha256, write_bundle

    out, mark = run.path / "bundle", run.path / BUNDLE_MARK
    result = done.results[REPORT]
    # A report that was made again under its key, after a figure was measured anew, has another content.
    license_hash = hashlib.sha256((context.origin_license or "").encode()).hexdigest()
    content = f"{result.key} {result.content} {license_hash} {BUNDLE_FORMAT}"
    # The mark has the hash of SHA256SUMS too: that file says what all others must be.
    marked = mark.read_bytes() if mark.is_file() else b""
    if marked.startswith(content.encode()):
        changed = None if marked.endswith(f" {sums_sha256(out)}".encode()) else f"{SUMS} was changed"
        damage = bundle_damage(out) or changed
        if damage is None:
            return out
        done.progress.note(f"bundle: {damage}; making it again")
    write_bundle(artifacts, report, out, context.student_name, context.origin_license, done.folder(student))
    atomic_write(mark, f"{content} {sums_sha256(out)}")
    return out


def shipped_places(folder: Path, artifacts: Mapping[str, Path], name: str) -> dict[str, Path]:
    """Where each file lies in the bundle."""
    return {key: folder / place_of(key, name) for key in artifacts}


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
