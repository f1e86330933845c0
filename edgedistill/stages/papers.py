"""The last stages: the report, in its stage and at the top of the run folder, and the folder to ship."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgedistill import __version__
from edgedistill.bundle.names import place_of
from edgedistill.export import GGUF_NAME, ONNX_NAME, PROOF
from edgedistill.stages.build import Build, Outcome
from edgedistill.store.marks import StageResult
from edgedistill.store.whole import atomic_write

BUNDLE_MARK = ".bundle.json"
BUNDLE_FORMAT = 3  # what a bundle holds: one more where that changes, so that a finished run's is made again
STUDENT_STAGES = ("student", "distill")  # their folder has the tokenizer and the generation settings


def report(
    build: Build,
    taught: StageResult | None,
    student: StageResult,
    measured: StageResult,
    exported: Mapping[tuple[str, str], StageResult],
) -> tuple[dict[str, Any], StageResult]:
    """report.json and report.html, in their stage and at the top of the run folder. `taught`: None where nothing was
    trained.
    """
    provenance = {
        "teacher": build.facts.source,
        "recipe": build.recipe.to_dict(),
        "command": build.command,
        "license": build.facts.license,
        "versions": measured.mark["versions"],
        "stages": [
            {
                "name": r.name,
                "key": r.key,
                "seconds": r.mark["seconds"],
                "peak_rss_bytes": r.mark["peak_rss_bytes"],
                "reused": r.reused,
            }
            for r in build.results
        ],
        "verify": [
            {"file": f"{kind} {mix}", **json.loads((result.path / PROOF).read_text(encoding="utf-8"))}
            for (kind, mix), result in exported.items()
        ],
    }
    recovered = [r for r in build.results if r.name.startswith("recover-")]
    trained = recovered if build.as_is else [student, *recovered]

    def write(work: Path) -> None:
        from edgedistill.report import build_report, write_report

        curves = [json.loads((r.path / "curve.json").read_text(encoding="utf-8")) for r in trained]
        teach = json.loads((taught.path / "teach.json").read_text(encoding="utf-8")) if taught else None
        measure = json.loads((measured.path / "measure.json").read_text(encoding="utf-8"))
        write_report(build_report(build.plan.to_dict(), teach, curves, measure, provenance), work)

    # What a rerun finds complete is told on the terminal; the page tells how the run was made, so it doesn't change.
    settings = {"version": __version__, "target": build.target.to_dict()}
    inputs = [*([taught] if taught else []), student, *recovered, *exported.values(), measured]
    result = build.stage("report", settings, inputs, write)
    for name in ("report.json", "report.html"):
        content = (result.path / name).read_bytes()
        if not (build.run.path / name).is_file() or (build.run.path / name).read_bytes() != content:
            atomic_write(build.run.path / name, content)
    return json.loads((result.path / "report.json").read_text(encoding="utf-8")), result


def exports(exported: Mapping[tuple[str, str], StageResult]) -> dict[str, Path]:
    """The files of export stages, by gguf-MIX or onnx-MIX."""
    names = {"gguf": GGUF_NAME, "onnx": ONNX_NAME}
    return {f"{kind}-{mix}": stage.path / names[kind] for (kind, mix), stage in exported.items()}


def bundle(build: Build, found: dict[str, Any], result: StageResult, artifacts: Mapping[str, Path]) -> Path:
    """The folder to ship, made anew only when the report (`found`, of the stage `result`) or a file changed.

    Args:
        artifacts: what ships, by gguf-MIX or onnx-MIX; the first is what its README shows how to run.
    """
    from edgedistill.bundle import bundle_damage, write_bundle

    out, mark = build.run.path / "bundle", build.run.path / BUNDLE_MARK
    # A report that was made again under its key, after a figure was measured anew, has another content.
    license_hash = hashlib.sha256((build.license_text or "").encode()).hexdigest()
    made = f"{result.key} {result.content} {license_hash} {BUNDLE_FORMAT}"
    if mark.is_file() and mark.read_text(encoding="utf-8") == made:
        damage = bundle_damage(out)
        if damage is None:
            return out
        build.progress.note(f"bundle: {damage}; making it again")
    mark.unlink(missing_ok=True)
    student = next((stage.path for stage in build.results if stage.name in STUDENT_STAGES), None)
    write_bundle(artifacts, found, out, build.name, build.license_text, student)
    atomic_write(mark, made)
    return out


def shipped(build: Build, found: dict[str, Any], result: StageResult, artifacts: Mapping[str, Path]) -> Outcome:
    """The bundle, and all that the run left behind."""
    folder = bundle(build, found, result, artifacts)
    build.run.set_current(build.results)
    placed = {key: folder / place_of(key, build.name) for key in artifacts}
    return Outcome(build.run.path, found, build.run.path / "report.html", folder, placed, tuple(build.results))
