"""The last of a run: the report, in its stage and at the top of the run folder, and the folder to ship."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgedistill import __version__
from edgedistill.bundle.names import place_of
from edgedistill.export import PROOF
from edgedistill.pipeline.context import Context
from edgedistill.pipeline.estimate import Estimates
from edgedistill.pipeline.stage import Finished, Stage
from edgedistill.store.run import RunFolder
from edgedistill.store.whole import atomic_write

REPORT = "report"
REPORT_FILES = ("report.json", "report.html")
BUNDLE_MARK = ".bundle.json"
BUNDLE_FORMAT = 3  # what a bundle holds: one more where that changes, so that a finished run's is made again
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
    taught = any(stage.name == "teach" for stage in before)

    def work(folder: Path, done: Finished) -> None:
        from edgedistill.report import build_report, write_report

        curves = [_read(done.folder(name) / "curve.json") for name in trained]
        teach = _read(done.folder("teach") / "teach.json") if taught else None
        measure = _read(done.folder("measure") / "measure.json")
        provenance = _provenance(context, before, packed, done)
        write_report(build_report(done.plan.to_dict(), teach, curves, measure, provenance), folder)

    # What a rerun finds complete is told on the terminal; the page tells how the run was made, so it doesn't change.
    settings = {"version": __version__, "target": context.target.to_dict()}
    inputs = dict.fromkeys([*(["teach"] if taught else []), student, *trained, *(stage.name for stage in packed)])
    estimate = Estimates(context).papers()
    return Stage(REPORT, "papers", work, settings, (*inputs, "measure"), estimate=estimate)


def _provenance(context: Context, before: Sequence[Stage], packed: Sequence[Stage], done: Finished) -> dict[str, Any]:
    stages = [
        {
            "name": stage.name,
            "key": done.results[stage.name].key,
            "seconds": done.results[stage.name].mark["seconds"],
            "peak_rss_bytes": done.results[stage.name].mark["peak_rss_bytes"],
            "reused": done.results[stage.name].reused,
        }
        for stage in before
    ]
    proofs = [{"file": f"{stage.kind} {stage.mix}", **_read(done.folder(stage.name) / PROOF)} for stage in packed]
    return {
        "teacher": context.facts.source,
        "recipe": context.recipe.to_dict(),
        "command": context.command,
        "license": context.facts.license,
        "versions": done.results["measure"].mark["versions"],
        "stages": stages,
        "verify": proofs,
    }


def publish_report(run: RunFolder, done: Finished) -> dict[str, Any]:
    """Put report.json and report.html at the top of the run folder; returns the report."""
    folder = done.folder(REPORT)
    for name in REPORT_FILES:
        content, place = (folder / name).read_bytes(), run.path / name
        if not place.is_file() or place.read_bytes() != content:
            atomic_write(place, content)
    report: dict[str, Any] = _read(folder / "report.json")
    return report


def ship(
    context: Context,
    run: RunFolder,
    done: Finished,
    report: dict[str, Any],
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
    from edgedistill.bundle import bundle_damage, write_bundle

    out, mark = run.path / "bundle", run.path / BUNDLE_MARK
    result = done.results[REPORT]
    # A report that was made again under its key, after a figure was measured anew, has another content.
    license_hash = hashlib.sha256((context.license_text or "").encode()).hexdigest()
    content = f"{result.key} {result.content} {license_hash} {BUNDLE_FORMAT}"
    if mark.is_file() and mark.read_text(encoding="utf-8") == content:
        damage = bundle_damage(out)
        if damage is None:
            return out
        done.progress.note(f"bundle: {damage}; making it again")
    mark.unlink(missing_ok=True)
    write_bundle(artifacts, report, out, context.student_name, context.license_text, done.folder(student))
    atomic_write(mark, content)
    return out


def shipped_places(folder: Path, artifacts: Mapping[str, Path], name: str) -> dict[str, Path]:
    """Where each file lies in the bundle."""
    return {key: folder / place_of(key, name) for key in artifacts}


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
