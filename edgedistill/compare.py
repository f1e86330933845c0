"""One model at several sizes: rounded and, with a budget, recovered; every packed file measured here; what to choose.

    student ─► float-gguf, rounded-MIX ──────────────────────────────────┐
       │          held-out ─► judges, reference-student ─► measure-LABEL ─┴► measure ─► report ─► bundle/
       └► teach ─► capture, costs ─► recover-MIX ─► gguf-MIX ─┘

The line that begins with teach is there with --recover alone. The judges don't depend on it, nor does a row on the
other files: adding a mix, or recovery, to a finished comparison makes and judges what is new. It is the engine of
compile.py with other stages in its order.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgedistill import __version__
from edgedistill.config.recipe import Recipe
from edgedistill.config.recover import MEASURED
from edgedistill.config.target import Target
from edgedistill.export import GGUF_NAME
from edgedistill.extras import require
from edgedistill.facts import ModelFacts
from edgedistill.machine import usable_cores
from edgedistill.plan import make_plan, this_machine
from edgedistill.progress import Progress
from edgedistill.report.comparison import write_csv
from edgedistill.stages import files, judging, papers
from edgedistill.stages.build import Outcome
from edgedistill.stages.training import Training
from edgedistill.store.marks import StageResult
from edgedistill.store.run import RunFolder

CSV = "compare.csv"


def compare_model(
    recipe: Recipe,
    target: Target,
    facts: ModelFacts,
    out: Path,
    command: str,
    progress: Progress,
    license_text: str | None,
    recovering: bool,
) -> Outcome:
    """Make and measure the files of all mixes in the run folder `out`, going on from what is there.

    Args:
        recipe: as `comparison_recipe` gives it, with its teacher filled in.
        target: what to choose for. That nothing fits it is a finding, no error.
        facts: the model's, with all its files on this machine.
        out: the run folder; made if it doesn't exist.
        command: the command line that repeats this.
        progress: where stages are shown.
        license_text: the model's licence in full, for the bundle.
        recovering: whether each mix is also trained on its grid.
    Returns:
        The outcome; its `files` are the best of each mix, the recommended one first.
    Raises:
        InputError: the input is wrong; nothing ran and nothing was written.
        DoesNotFitError: it is sound, but too big for this machine.
        RunError: a stage failed; the same command goes on from there.
    """
    if recovering and "onnx" in recipe.export:
        for package in ("onnx", "onnxruntime"):
            require(package, extra="onnx", purpose=f"recipe {recipe.name}: export to ONNX")
    plan = make_plan(recipe, target, facts, this_machine(out), recovering)
    plan.require_room()
    identity = {"teacher": facts.source, "recipe": recipe.name, "target": target.name, "version": __version__}
    run = RunFolder.open(out, identity, on_event=progress.note)
    with run.lock():
        return _Comparison(run, target, facts, plan, command, progress, license_text).all(recovering)


class _Comparison(Training):
    """One comparison at work."""

    def all(self, recovering: bool) -> Outcome:
        """Run every stage."""
        import torch

        torch.set_num_threads(usable_cores())
        if self.facts.quantized:
            self.progress.note(
                f"{self.facts.name}: its weights are already rounded, most of them to {self.facts.quantized}; "
                "all is compared with these "
                "weights, not with those that they were rounded from"
            )
        own_file, chats = self.facts.kind == "gguf", self.recipe.teach.style == "chat"
        fit = (self.recipe.recover.fit,) if self.recipe.recover.fit in MEASURED else ()
        once = ("student", *(("held-out",) if chats else ()), *(("teach", "capture", *fit) if recovering else ()))
        self.expect(
            once, recovering, 1 + own_file + len(self.recipe.mixes) * (1 + recovering * len(self.recipe.export))
        )
        student = self.student()
        floats = files.float_gguf(self, student)
        asked = None if own_file else floats
        held_out = self.held_out(asked) if chats else None
        mixes = [self.recipe.mix(name) for name in self.recipe.mixes]
        taught, captured, costs = None, None, None
        if recovering:
            taught = self.teach(asked, held_out)
            captured = self.capture(taught, student)
            costs = self.costs(student, captured)
            mixes = self.fitted(mixes, student, captured, costs)
        rounded: dict[str, StageResult] = {}
        exported: dict[tuple[str, str], StageResult] = {}
        for mix in mixes:
            rounded[mix.name] = files.rounded(self, mix, student)
            if captured is not None:
                recovered = self.recover(mix, student, captured, costs)
                for kind in self.recipe.export:
                    exported[kind, mix.name] = files.exported(self, kind, mix.name, recovered)
        judges = judging.of_comparison(self, held_out)
        measured = judging.measure(self, judges, student, floats, None, rounded, exported, captured)
        report, result = papers.report(self, taught, student, measured, exported)
        write_csv(report, self.run.path / CSV)
        # A recovery that didn't beat plain rounding on validation text has the weights of plain rounding.
        best = papers.exports(exported) or {f"gguf-{name}": stage.path / GGUF_NAME for name, stage in rounded.items()}
        return papers.shipped(self, report, result, _first(best, report))


def _first(artifacts: Mapping[str, Path], report: Mapping[str, Any]) -> dict[str, Path]:
    """The artifacts, those of the recommended mix before all others."""
    mix = (report.get("recommendation") or {}).get("mix")
    return dict(sorted(artifacts.items(), key=lambda item: item[0].partition("-")[2] != mix))
