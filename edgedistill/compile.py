"""The one command: teacher + target + recipe -> a run folder with report and bundle. Stages in order, complete ones
left out.

    teach ─► distill ─► capture ─► recover-MIX ─► gguf-MIX, onnx-MIX ─► measure ─► report ─► bundle/
                 └────► float-gguf, rounded-MIX ──────────────────────────┘
    A teacher that isn't a GGUF file has `teacher-gguf` before teach. A student that is the teacher as it is has
    `student`, its float copy, in place of distill, and before teach. A mix that is fitted to a size has `sensitivity`
    and `fit-MIX` between capture and recover.

Each stage reads finished stages and writes one folder; its key hashes all that it depends on. Here is the order; the
stages are in stages/. No torch at import: the checks that come before the first stage answer at once.
"""

from pathlib import Path

from edgedistill import __version__
from edgedistill.config.recipe import Recipe
from edgedistill.config.recover import MEASURED
from edgedistill.config.target import Target
from edgedistill.extras import require
from edgedistill.facts import ModelFacts
from edgedistill.machine import usable_cores
from edgedistill.plan import make_plan, this_machine
from edgedistill.progress import Progress
from edgedistill.stages import files, judging, papers
from edgedistill.stages.build import Outcome
from edgedistill.stages.training import Training
from edgedistill.store.marks import StageResult
from edgedistill.store.run import RunFolder


def compile_model(
    recipe: Recipe,
    target: Target,
    facts: ModelFacts,
    out: Path,
    command: str,
    progress: Progress,
    license_text: str | None = None,
) -> Outcome:
    """Build everything that the recipe asks for in the run folder `out`, going on from what is there.

    Args:
        recipe: what to build, with its teacher filled in.
        target: what for.
        facts: the teacher's, with all its files on this machine.
        out: the run folder; made if it doesn't exist.
        command: the command line that repeats this.
        progress: where stages are shown.
        license_text: the teacher's licence in full, for the bundle.
    Raises:
        InputError: the input is wrong; nothing ran and nothing was written.
        DoesNotFitError: it is sound, but too big for the device or this machine.
        RunError: a stage failed; the same command goes on from there.
    """
    if "onnx" in recipe.export:
        for package in ("onnx", "onnxruntime"):  # seconds now instead of hours later
            require(package, extra="onnx", purpose=f"recipe {recipe.name}: export to ONNX")
    plan = make_plan(recipe, target, facts, this_machine(out))
    plan.require_fit()
    identity = {"teacher": facts.source, "recipe": recipe.name, "target": target.name, "version": __version__}
    run = RunFolder.open(out, identity, on_event=progress.note)
    with run.lock():
        return _Build(run, target, facts, plan, command, progress, license_text).all()


class _Build(Training):
    """One compile at work."""

    def all(self) -> Outcome:
        """Run every stage."""
        import torch

        torch.set_num_threads(usable_cores())
        if self.as_is and self.facts.quantized:
            self.progress.note(
                f"{self.facts.name}: its weights are already rounded, most of them to {self.facts.quantized}; "
                "recovery goes towards "
                "these weights, not towards those that they were rounded from"
            )
        own_file = self.facts.kind == "gguf"
        files_measured = 1 + (own_file or not self.as_is) + len(self.recipe.mixes) * (1 + len(self.recipe.export))
        teacher_file = () if own_file or self.as_is else ("teacher-gguf",)
        fit = (self.recipe.recover.fit,) if self.recipe.recover.fit in MEASURED else ()
        self.expect(
            ("student" if self.as_is else "distill", *teacher_file, "teach", "capture", *fit), True, files_measured
        )
        asked = None if own_file or self.as_is else files.teacher_gguf(self)
        if self.as_is:
            student = self.student()
            floats = files.float_gguf(self, student)
            taught = self.teach(None if own_file else floats)
        else:
            taught = self.teach(asked)
            student = self.distill(taught)
            floats = files.float_gguf(self, student)
        captured = self.capture(taught, student)
        costs = self.costs(student, captured)
        mixes = self.fitted([self.recipe.mix(name) for name in self.recipe.mixes], student, captured, costs)
        rounded: dict[str, StageResult] = {}
        exported: dict[tuple[str, str], StageResult] = {}
        for mix in mixes:
            rounded[mix.name] = files.rounded(self, mix, student)
            recovered = self.recover(mix, student, captured, costs)
            for kind in self.recipe.export:
                exported[kind, mix.name] = files.exported(self, kind, mix.name, recovered)
        measured = judging.measure(
            self, judging.of_training(self, taught), student, floats, asked, rounded, exported, captured
        )
        report, result = papers.report(self, taught, student, measured, exported)
        return papers.shipped(self, report, result, papers.exports(exported))
