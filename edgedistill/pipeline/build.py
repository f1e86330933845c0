"""A job carried out: all its stages, the report at the top of the run folder, the folder to ship."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgedistill.export import GGUF_NAME, ONNX_NAME
from edgedistill.extras import require
from edgedistill.pipeline.files import exported_stage
from edgedistill.pipeline.papers import publish_report, ship, shipped_places
from edgedistill.pipeline.prepare import Prepared
from edgedistill.pipeline.runner import run_stages
from edgedistill.pipeline.stage import Finished
from edgedistill.pipeline.task_trial import check_verifier
from edgedistill.place.begin import begin
from edgedistill.progress import Progress
from edgedistill.results.report import Report
from edgedistill.store.marks import StageResult
from edgedistill.store.run import RunFolder

CSV = "compare.csv"


@dataclass(frozen=True)
class Outcome:
    """What a compile or a comparison left behind."""

    run: Path
    model: str  # where the teacher lies
    report: Report
    report_html: Path
    bundle: Path
    files: dict[str, Path]  # what ships, by gguf-MIX or onnx-MIX
    stages: tuple[StageResult, ...]


def compile_model(prepared: Prepared, progress: Progress) -> Outcome:
    """Build everything that a recipe asks for, going on from what is there.

    Raises:
        DoesNotFitError: it is too big for the device or this machine; nothing was written.
        InputError: the folder is another run's, or in use.
        RunError: a stage failed; the same command goes on from there.
    """
    prepared.plan.require_fit()
    return _carry_out(prepared, progress, None)


def compare_model(prepared: Prepared, progress: Progress) -> Outcome:
    """Make and measure the files of all mixes, and say which to take. That nothing fits the target is no error.

    Returns:
        The outcome; its `files` are the best of each mix, the recommended one first.
    Raises:
        As `compile_model`, but for the device.
    """
    prepared.plan.require_room()
    return _carry_out(prepared, progress, CSV)


def _carry_out(prepared: Prepared, progress: Progress, csv: str | None) -> Outcome:
    context = prepared.context
    if context.recovering and "onnx" in context.recipe.export:
        for package in ("onnx", "onnxruntime"):  # seconds now instead of hours later
            require(package, extra="onnx", purpose=f"recipe {context.recipe.name}: export to ONNX")
    if context.recipe.task is not None and context.task is not None:
        check_verifier(context.recipe.task, context.task, progress)
    run = RunFolder.open(context.out, context.identity, on_event=progress.note)
    with run.lock():
        begin(context.place)
        import torch

        torch.set_num_threads(context.cores)
        if context.place.on_gpu or context.place.why is not None:
            progress.note(f"computing on {context.place.words()}")
        if context.as_is and context.facts.quantized:
            progress.note(
                f"{context.facts.name}: its weights are already rounded, most of them to {context.facts.quantized}; "
                "everything is compared with these weights, not with those that they were rounded from"
            )
        done = Finished(progress, prepared.plan)
        run_stages(run, prepared.stages, done, context.place.facts())
        report = publish_report(run, done)
        files = _packed(prepared, done)
        if csv is not None:
            from edgedistill.report.comparison import write_csv  # `plan` does without rich

            write_csv(report, run.path / csv)
            files = _recommended_first(files, report)
        student = context.float_student
        bundle = ship(context, run, done, report, files, student)
    placed = shipped_places(bundle, files, context.student_name)
    return Outcome(
        run.path, context.facts.location, report, run.path / "report.html", bundle, placed, tuple(done.results.values())
    )


def _packed(prepared: Prepared, done: Finished) -> dict[str, Path]:
    """What ships, by gguf-MIX or onnx-MIX: the recovered files, or those that were only rounded."""
    context, names = prepared.context, {"gguf": GGUF_NAME, "onnx": ONNX_NAME}
    if not context.recovering:
        return {f"gguf-{mix}": done.folder(f"rounded-{mix}") / GGUF_NAME for mix in context.recipe.mixes}
    stages = [exported_stage(kind, mix) for mix in context.recipe.mixes for kind in context.recipe.export]
    return {stage: done.folder(stage) / names[stage.partition("-")[0]] for stage in stages}


def _recommended_first(artifacts: Mapping[str, Path], report: Report) -> dict[str, Path]:
    """The artifacts, those of the verdict's mix before all others."""
    mix = report.verdict.mix
    return dict(sorted(artifacts.items(), key=lambda item: item[0].partition("-")[2] != mix))
