"""The one command: teacher + target + recipe -> a run folder with report and bundle. Stages in order, complete ones left out.

    teach ─► distill ─► capture ─► recover-MIX ─► gguf-MIX, onnx-MIX ─► measure ─► report ─► bundle/
                 └────► float-gguf, rounded-MIX ──────────────────────────┘
    A teacher that isn't a GGUF file has `teacher-gguf` before teach. A student that is the teacher as it is has `student`, its
    float copy, in place of distill, and before teach. A mix that is fitted to a size has `sensitivity` and `fit-MIX` between
    capture and recover.

Each stage reads finished stages and writes one folder; its key hashes all that it depends on. Here are the order, and the
stages that teach and train; those that write files, measure and report are in stages/. No torch at import: the checks that
come before the first stage answer at once.
"""

import json
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from edgedistill import __version__
from edgedistill.bundle.names import place_of
from edgedistill.config.recipe import Recipe
from edgedistill.config.target import Target
from edgedistill.config.teach import OWN_PROMPTS
from edgedistill.export import GGUF_NAME
from edgedistill.extras import require
from edgedistill.facts import ModelFacts
from edgedistill.machine import usable_cores
from edgedistill.mixes import Mix, assign_formats, groups_of, measured_once, mix_bytes
from edgedistill.plan import make_plan, this_machine
from edgedistill.progress import Progress
from edgedistill.stages import files, judging, papers
from edgedistill.stages.build import Build, names_of, settings_of
from edgedistill.store.files import file_sha256
from edgedistill.store.marks import StageResult
from edgedistill.store.run import RunFolder


@dataclass(frozen=True)
class Outcome:
    """What a compile left behind."""

    run: Path
    report: dict[str, Any]
    report_html: Path
    bundle: Path
    files: dict[str, Path]  # what ships, by gguf-MIX or onnx-MIX
    stages: tuple[StageResult, ...]


def compile_model(
    recipe: Recipe, target: Target, facts: ModelFacts, out: Path, command: str, progress: Progress, license_text: str | None = None
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


class _Build(Build):
    """The stages that teach and train, each a method that returns its result, and the order of all."""

    def all(self) -> Outcome:
        """Run every stage."""
        import torch

        torch.set_num_threads(usable_cores())
        if self.as_is and self.facts.quantized:
            self.progress.note(
                f"{self.facts.name}: its weights are already rounded, most of them to {self.facts.quantized}; recovery goes towards "
                "these weights, not towards those that they were rounded from"
            )
        own_file = self.facts.kind == "gguf"
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
        fisher = self.fisher(student, captured)
        mixes = self.fitted([self.recipe.mix(name) for name in self.recipe.mixes], student, captured, fisher)
        rounded: dict[str, StageResult] = {}
        exported: dict[tuple[str, str], StageResult] = {}
        for mix in mixes:
            rounded[mix.name] = files.rounded(self, mix, student)
            recovered = self.recover(mix, student, captured, fisher)
            for kind in self.recipe.export:
                exported[kind, mix.name] = files.exported(self, kind, mix.name, recovered)
        measured = judging.measure(self, taught, student, floats, asked, rounded, exported)
        report, result = papers.report(self, taught, student, measured, exported)
        bundle = papers.bundle(self, report, result, exported)
        self.run.set_current(self.results)
        shipped = {key: bundle / place_of(key, self.name) for key in (f"{kind}-{mix}" for kind, mix in exported)}
        return Outcome(self.run.path, report, self.run.path / "report.html", bundle, shipped, tuple(self.results))

    def student(self) -> StageResult:
        """The float student that is the teacher as it is."""

        def build(work: Path) -> None:
            from edgedistill.models.load import load_model, save_model

            save_model(load_model(self.teacher), self.teacher, work)

        return self.stage("student", {"layers": self.layers}, [], build, {"teacher": self.teacher_hash})

    def teach(self, asked: StageResult | None) -> StageResult:
        """The training text; with the teacher's log-probabilities, where a student is distilled.

        Args:
            asked: holds the file that llama.cpp writes with; None: the teacher is that.
        """
        wanted = self.recipe.teach
        top_k = 0 if self.as_is else self.recipe.teacher.top_k  # recovery captures the float student's own view of the text
        needed = wanted.tokens + wanted.free_tokens + top_k > 0
        read = {f"text {number}": path for number, path in enumerate(wanted.text or ())}
        if wanted.prompts != OWN_PROMPTS:
            read["prompts"] = wanted.prompts
        outside = {"teacher": self.teacher_hash, **{label: file_sha256(Path(path)) for label, path in read.items()}}

        def build(work: Path) -> None:
            from edgedistill.teach.rounds import longest_prompt
            from edgedistill.teach.stage import teach
            from edgedistill.teach.writers import open_writer

            file = asked.path / GGUF_NAME if asked else self.teacher
            context = max(longest_prompt(wanted) + wanted.max_answer_tokens, (wanted.text_window or 0) + 1)
            with open_writer(file, usable_cores(), context, wanted.parallel, work) if needed else nullcontext() as writer:
                teach(writer, self.teacher, self.facts.name, self.recipe, top_k, work, self.progress)

        inputs = [asked] if asked and needed else []
        return self.stage("teach", {"teach": settings_of(wanted), "top_k": top_k}, inputs, build, outside)

    def distill(self, taught: StageResult) -> StageResult:
        """The float student."""

        def build(work: Path) -> None:
            from edgedistill.distill.stage import distill
            from edgedistill.signals.shards import load_split

            training, validation = (load_split(taught.path, split) for split in ("train", "validation"))
            distill(self.teacher, training, validation, self.layers, self.recipe, work, self.progress)

        settings = {"distill": settings_of(self.recipe.distill), "layers": self.layers, "seed": self.recipe.teach.seed}
        return self.stage("distill", settings, [taught], build, {"teacher": self.teacher_hash})

    def capture(self, taught: StageResult, student: StageResult) -> StageResult:
        """The float student's own distribution, and its inputs' importance."""
        # Hidden states in full precision: against q8_0, whose KL is thousandths, rounding the teacher would show.
        compute, seq_len = "float32", self.recipe.recover.seq_len
        keep = ("ids", "log_probs") if self.recipe.recover.teacher_share else ()
        held = json.loads((taught.path / "teach.json").read_text(encoding="utf-8"))["train_tokens"]
        recover = self.recipe.recover
        # A budget beyond the text goes over it again, and needs no other capture.
        tokens = min(held, max(recover.fit_tokens, *map(recover.tokens_of, self.recipe.mixes)))

        def build(work: Path) -> None:
            from edgedistill.signals.shards import load_split
            from edgedistill.teach.capture import capture, spread_documents

            training, validation = (load_split(taught.path, split) for split in ("train", "validation"))
            chosen = spread_documents(training, tokens, seq_len)
            capture(student.path, [("train", chosen), ("validation", validation)], seq_len, compute, work, self.progress, keep)

        settings = {"seq_len": seq_len, "compute": compute, "tokens": tokens, "keep": list(keep)}
        return self.stage("capture", settings, [taught, student], build)

    def fisher(self, student: StageResult, captured: StageResult) -> StageResult | None:
        """What each weight's error costs, where the fit goes by that."""
        recover = self.recipe.recover
        if recover.fit != "fisher":
            return None

        def build(work: Path) -> None:
            from edgedistill.recover.fisher import measure_fisher
            from edgedistill.signals.shards import iter_shards
            from edgedistill.teach.capture import spread_documents

            chosen = spread_documents(list(iter_shards(captured.path / "train")), recover.fit_tokens, recover.seq_len)
            measure_fisher(student.path, chosen, recover.seq_len, recover.compute, self.recipe.teach.seed, work, self.progress)

        settings = {"tokens": recover.fit_tokens, "seq_len": recover.seq_len, "compute": recover.compute, "seed": self.recipe.teach.seed}
        return self.stage("fisher", settings, [student, captured], build)

    def costs(self, captured: StageResult, fisher: StageResult | None) -> Mapping[str, Any] | None:
        """What `quant.fit.fit_costs` takes, by tensor."""
        from edgedistill.recover.fisher import load_fisher
        from edgedistill.teach.capture import load_importance

        if fisher is not None:
            return load_fisher(fisher.path)
        return load_importance(captured.path) if self.recipe.recover.fit == "importance" else None

    def fitted(
        self, mixes: list[Mix], student: StageResult, captured: StageResult, fisher: StageResult | None
    ) -> list[Mix]:
        """The mixes with all grids chosen: what each grid costs is measured once, and each mix to be fitted chooses by that."""
        waiting = [mix for mix in mixes if mix.unfitted]
        if not waiting:
            return mixes
        once = measured_once(waiting)
        groups = groups_of(self.shape, once)

        def inputs(tokens: int) -> tuple[Path, list[Any], Mapping[str, Any] | None]:
            from edgedistill.signals.shards import iter_shards
            from edgedistill.teach.capture import spread_documents

            validation = list(iter_shards(captured.path / "validation"))
            return student.path, spread_documents(validation, tokens, self.recipe.recover.seq_len), self.costs(captured, fisher)

        def measure(work: Path) -> None:
            from edgedistill.recover.sensitivity import measure_sensitivity

            measure_sensitivity(*inputs(once.tokens), groups, self.recipe, work, self.progress)

        def fit(mix: Mix, measured: StageResult, work: Path) -> None:
            from edgedistill.recover.choose import fit_mix
            from edgedistill.recover.sensitivity import read_table

            fit_mix(*inputs(mix.tokens), read_table(measured.path), self.shape, mix, self.recipe, work, self.progress)

        settings = {"fit": self.recipe.recover.fit, "seq_len": self.recipe.recover.seq_len}
        read = [student, captured, *([fisher] if fisher else [])]
        choices = {group.name: [f.name for f in group.formats] for group in groups}
        measured = self.stage("sensitivity", {**settings, "tokens": once.tokens, "choices": choices}, read, measure)
        found = {mix.name: mix for mix in mixes}
        for mix in waiting:
            own = {**settings, "tokens": mix.tokens, "grids": mix.candidates, "bytes": mix_bytes(self.shape, mix)}
            result = self.stage(f"fit-{mix.name}", own, [*read, measured], partial(fit, mix, measured))
            chosen = json.loads((result.path / "mix.json").read_text(encoding="utf-8"))["grids"]
            found[mix.name] = replace(mix, chosen=chosen)
        return list(found.values())

    def recover(self, mix: Mix, student: StageResult, captured: StageResult, fisher: StageResult | None) -> StageResult:
        """The student on its grid."""
        name, formats = mix.name, assign_formats(self.shape, mix)

        def build(work: Path) -> None:
            from edgedistill.recover.stage import recover
            from edgedistill.signals.shards import iter_shards

            training, validation = (list(iter_shards(captured.path / split)) for split in ("train", "validation"))
            costs = self.costs(captured, fisher)
            recover(student.path, training, validation, costs, name, formats, self.recipe, work, self.progress)

        settings = settings_of(self.recipe.recover)
        settings |= {"tokens": self.recipe.recover.tokens_of(name), "rate": self.recipe.recover.rate_of(name)}
        # Budgets and rates are there already as this mix has them, and the fit's budget is the fisher stage's.
        del settings["tokens_by_mix"], settings["rate_by_mix"], settings["fit_tokens"]
        settings |= {"mix": name, "formats": names_of(formats), "seed": self.recipe.teach.seed}
        return self.stage(f"recover-{name}", settings, [student, captured, *([fisher] if fisher else [])], build)
