"""The one command: teacher + target + recipe -> a run folder with report and bundle. Stages in order, complete ones left out.

    teach ─► distill ─► capture ─► recover-MIX ─► gguf-MIX, onnx-MIX ─► measure ─► report ─► bundle/
                 └────► float-gguf, rounded-MIX ──────────────────────────┘
    A mix that is fitted to a size has `sensitivity` and `fit-MIX` between capture and recover.

Each stage reads finished stages and writes one folder; its key hashes all that it depends on. No torch at import: the
checks that come before the first stage answer at once.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgedistill import __version__
from edgedistill.config.recipe import OWN_PROMPTS, Recipe
from edgedistill.config.target import Target
from edgedistill.export import GGUF_NAME, ONNX_NAME, PROOF
from edgedistill.extras import require
from edgedistill.facts import ModelFacts
from edgedistill.formats import NumberFormat
from edgedistill.machine import fingerprint, usable_cores
from edgedistill.mixes import Mix, assign_formats, groups_of, measured_once, mix_bytes
from edgedistill.plan import Plan, make_plan, this_machine
from edgedistill.progress import Progress
from edgedistill.store.files import atomic_write, file_sha256, tree_sha256
from edgedistill.store.marks import StageResult
from edgedistill.store.run import RunFolder

if TYPE_CHECKING:
    from edgedistill.measure.artifacts import Artifact

CHATS, PROSE = "held-out chats", "held-out prose"
TEACHER_NAME = "teacher.gguf"
BUNDLE_MARK = ".bundle.json"
# Recipe settings that change how a stage is run and not what it makes.
NO_RESULT = {"checkpoint_seconds"}


@dataclass(frozen=True)
class Outcome:
    """What a compile left behind."""

    run: Path
    report: dict[str, Any]
    report_html: Path
    bundle: Path
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
        return _Build(run, recipe, target, facts, plan, command, progress, license_text).all()


class _Build:
    """One compile. Each method is a stage and returns its result."""

    def __init__(
        self,
        run: RunFolder,
        recipe: Recipe,
        target: Target,
        facts: ModelFacts,
        plan: Plan,
        command: str,
        progress: Progress,
        license_text: str | None,
    ) -> None:
        self.run, self.recipe, self.target, self.facts, self.plan = run, recipe, target, facts, plan
        self.command, self.progress, self.license_text = command, progress, license_text
        self.teacher = Path(facts.location)
        self.layers = recipe.student.layers_of(facts.shape.layers)
        self.shape = facts.shape.with_layers(self.layers)
        self.name = f"{facts.name} {self.layers} layers"
        self.results: list[StageResult] = []

    def all(self) -> Outcome:
        """Run every stage."""
        import torch

        torch.set_num_threads(usable_cores())
        self.progress.note("checking the teacher's files")
        self.teacher_hash = file_sha256(self.teacher) if self.teacher.is_file() else tree_sha256(self.teacher)
        taught = self.teach()
        student = self.distill(taught)
        captured = self.capture(taught, student)
        floats = self.float_gguf(student)
        mixes = self.fitted([self.recipe.mix(name) for name in self.recipe.mixes], student, captured)
        rounded: dict[str, StageResult] = {}
        exported: dict[tuple[str, str], StageResult] = {}
        for mix in mixes:
            rounded[mix.name] = self.rounded(mix, student)
            recovered = self.recover(mix, student, captured)
            for kind in self.recipe.export:
                exported[kind, mix.name] = self.export(kind, mix.name, recovered)
        measured = self.measure(taught, student, floats, rounded, exported)
        report, result = self.report(taught, student, measured, exported)
        bundle = self.bundle(report, result, exported)
        self.run.set_current(self.results)
        return Outcome(self.run.path, report, self.run.path / "report.html", bundle, tuple(self.results))

    def stage(
        self,
        name: str,
        settings: Mapping[str, Any],
        inputs: list[StageResult],
        build: Callable[[Path], None],
        outside: Mapping[str, str] | None = None,
    ) -> StageResult:
        """One stage of the store, told to the user."""
        result = self.run.stage(name, settings, inputs, outside, build=build)
        self.results.append(result)
        seconds = result.mark["seconds"]
        self.progress.note(f"{name}: " + ("complete already" if result.reused else f"done in {seconds:.0f} s"))
        return result

    def teach(self) -> StageResult:
        """The teacher's text with its log-probabilities."""
        recipe = self.recipe
        files = {"teacher": self.teacher_hash}
        for label, path in (("prompts", recipe.teach.prompts), ("text", recipe.teach.text)):
            if path and path != OWN_PROMPTS:
                files[label] = file_sha256(Path(path))

        def build(work: Path) -> None:
            from edgedistill.teach.stage import teach
            from edgedistill.teach.writers import open_writer

            context = recipe.teach.max_prompt_tokens + recipe.teach.max_answer_tokens + 512
            with open_writer(self.teacher, usable_cores(), context, recipe.teach.parallel, work) as writer:
                teach(writer, self.teacher, self.facts.name, recipe, work, self.progress)

        return self.stage("teach", {"teach": _settings(recipe.teach), "top_k": recipe.teacher.top_k}, [], build, files)

    def distill(self, taught: StageResult) -> StageResult:
        """The float student."""

        def build(work: Path) -> None:
            from edgedistill.distill.stage import distill
            from edgedistill.signals.shards import load_split

            training, validation = (load_split(taught.path, split) for split in ("train", "validation"))
            distill(self.teacher, training, validation, self.layers, self.recipe, work, self.progress)

        settings = {"distill": _settings(self.recipe.distill), "layers": self.layers, "seed": self.recipe.teach.seed}
        return self.stage("distill", settings, [taught], build, {"teacher": self.teacher_hash})

    def capture(self, taught: StageResult, student: StageResult) -> StageResult:
        """The float student's own distribution, and its inputs' importance."""
        # Hidden states in full precision: against q8_0, whose KL is thousandths, rounding the teacher would show.
        compute, seq_len = "float32", self.recipe.recover.seq_len
        tokens = max(map(self.recipe.recover.tokens_of, self.recipe.mixes))

        def build(work: Path) -> None:
            from edgedistill.signals.shards import load_split
            from edgedistill.teach.capture import capture, spread_documents

            training, validation = (load_split(taught.path, split) for split in ("train", "validation"))
            chosen = spread_documents(training, tokens, seq_len)
            capture(student.path, [("train", chosen), ("validation", validation)], seq_len, compute, work, self.progress)

        return self.stage("capture", {"seq_len": seq_len, "compute": compute, "tokens": tokens}, [taught, student], build)

    def fitted(self, mixes: list[Mix], student: StageResult, captured: StageResult) -> list[Mix]:
        """The mixes with all grids chosen: what each grid costs is measured once, and each mix to be fitted chooses by that."""
        waiting = [mix for mix in mixes if mix.unfitted]
        if not waiting:
            return mixes
        once = measured_once(waiting)
        groups = groups_of(self.shape, once)

        def inputs(tokens: int) -> tuple[Path, list[Any], dict[str, Any]]:
            from edgedistill.signals.shards import iter_shards
            from edgedistill.teach.capture import load_importance, spread_documents

            validation = list(iter_shards(captured.path / "validation"))
            return student.path, spread_documents(validation, tokens, self.recipe.recover.seq_len), load_importance(captured.path)

        def measure(work: Path) -> None:
            from edgedistill.recover.sensitivity import measure_sensitivity

            measure_sensitivity(*inputs(once.tokens), groups, self.recipe, work, self.progress)

        def fit(mix: Mix, measured: StageResult, work: Path) -> None:
            from edgedistill.recover.choose import fit_mix
            from edgedistill.recover.sensitivity import read_table

            fit_mix(*inputs(mix.tokens), read_table(measured.path), self.shape, mix, self.recipe, work, self.progress)

        settings = {"fit": self.recipe.recover.fit, "seq_len": self.recipe.recover.seq_len}
        choices = {group.name: [f.name for f in group.formats] for group in groups}
        measured = self.stage("sensitivity", {**settings, "tokens": once.tokens, "choices": choices}, [student, captured], measure)
        found = {mix.name: mix for mix in mixes}
        for mix in waiting:
            own = {**settings, "tokens": mix.tokens, "grids": mix.candidates, "bytes": mix_bytes(self.shape, mix)}
            result = self.stage(f"fit-{mix.name}", own, [student, captured, measured], partial(fit, mix, measured))
            chosen = json.loads((result.path / "mix.json").read_text(encoding="utf-8"))["grids"]
            found[mix.name] = replace(mix, chosen=chosen)
        return list(found.values())

    def recover(self, mix: Mix, student: StageResult, captured: StageResult) -> StageResult:
        """The student on its grid."""
        name, formats = mix.name, assign_formats(self.shape, mix)

        def build(work: Path) -> None:
            from edgedistill.recover.stage import recover
            from edgedistill.signals.shards import iter_shards
            from edgedistill.teach.capture import load_importance

            training, validation = (list(iter_shards(captured.path / split)) for split in ("train", "validation"))
            recover(student.path, training, validation, load_importance(captured.path), name, formats, self.recipe, work, self.progress)

        settings = _settings(self.recipe.recover)
        settings |= {"tokens": self.recipe.recover.tokens_of(name), "rate": self.recipe.recover.rate_of(name)}
        del settings["tokens_by_mix"], settings["rate_by_mix"]
        settings |= {"mix": name, "formats": _names(formats), "seed": self.recipe.teach.seed}
        return self.stage(f"recover-{name}", settings, [student, captured], build)

    def float_gguf(self, student: StageResult) -> StageResult:
        """The float student as an F16 file, and the teacher too where it isn't a GGUF file already: rows to compare with."""

        def build(work: Path) -> None:
            from edgedistill.export.stage import export_float

            export_float(student.path, self.shape, work / GGUF_NAME, self._metadata("f16", "float"))
            if self.facts.kind != "gguf":
                export_float(self.teacher, self.facts.shape, work / TEACHER_NAME, self._metadata("f16", "teacher"))

        return self.stage("float-gguf", {"mix": "f16"}, [student], build, {"teacher": self.teacher_hash})

    def rounded(self, mix: Mix, student: StageResult) -> StageResult:
        """Plain rounding as llama.cpp's quantizer does it: what recovery is compared with."""
        formats = assign_formats(self.shape, mix)

        def build(work: Path) -> None:
            from edgedistill.export.stage import export_rounded

            export_rounded(student.path, self.shape, mix.name, formats, work / GGUF_NAME, self._metadata(mix.name, "rounded"))

        return self.stage(f"rounded-{mix.name}", {"mix": mix.name, "formats": _names(formats)}, [student], build)

    def export(self, kind: str, mix: str, recovered: StageResult) -> StageResult:
        """The packed file, read back and compared bit for bit before it counts."""
        metadata = self._metadata(mix, "recovered") | {"run": recovered.key}
        level = self.recipe.measure.accuracy_level

        def build(work: Path) -> None:
            from edgedistill.export.stage import export_recovered

            export_recovered(kind, recovered.path, self.shape, work, metadata, level)

        settings = {"metadata": metadata, **({"accuracy_level": level} if kind == "onnx" else {})}
        return self.stage(f"{kind}-{mix}", settings, [recovered], build)

    def _metadata(self, mix: str, made: str) -> dict[str, str]:
        found = {
            "name": self.name,
            "license": self.facts.license,
            "teacher": self.facts.source,
            "recipe": self.recipe.name,
            "mix": mix,
            "made": made,
            "version": __version__,
        }
        return {key: value for key, value in found.items() if value}

    def measure(
        self,
        taught: StageResult,
        student: StageResult,
        floats: StageResult,
        rounded: Mapping[str, StageResult],
        exported: Mapping[tuple[str, str], StageResult],
    ) -> StageResult:
        """Every packed file in its runtime on this machine."""

        def build(work: Path) -> None:
            from edgedistill.data.prose import read_prose
            from edgedistill.measure.judge import Judge, limit_documents, prose_documents
            from edgedistill.measure.stage import measure
            from edgedistill.signals.shards import iter_shards

            tokens = self.recipe.measure.tokens
            chats = CHATS if self.recipe.teach.style == "chat" else "held-out text"
            written = limit_documents(list(iter_shards(taught.path / "judge")), tokens)
            prose = prose_documents(self.teacher, read_prose("judge", self.recipe.teach.text), tokens)
            judges = [Judge(chats, "written by the teacher, never trained on", written), Judge(PROSE, "prose that no training saw", prose)]
            measure(
                self._artifacts(floats, rounded, exported),
                judges,
                self.teacher,
                student.path,
                self.recipe,
                self.command,
                self._on_target(),
                work,
                self.progress,
            )

        settings = {
            "measure": _settings(self.recipe.measure),
            "style": self.recipe.teach.style,
            "machine": fingerprint(),
            "cores": usable_cores(),
            "target": self.target.name,
        }
        inputs = [taught, student, floats, *rounded.values(), *exported.values()]
        return self.stage("measure", settings, inputs, build, {"teacher": self.teacher_hash})

    def _on_target(self) -> bool:
        """Whether this machine is the target. Targets that come along name kinds of device; a probe will name machines."""
        return False

    def _artifacts(
        self, floats: StageResult, rounded: Mapping[str, StageResult], exported: Mapping[tuple[str, str], StageResult]
    ) -> list["Artifact"]:
        from edgedistill.measure.artifacts import Artifact

        one = partial(Artifact.of, run=self.run.path)
        teacher = self.teacher if self.facts.kind == "gguf" else floats.path / TEACHER_NAME
        artifacts = [
            one("teacher", "teacher", None, "llama.cpp", teacher),
            one("float student", "float", None, "llama.cpp", floats.path / GGUF_NAME),
        ]
        for mix in self.recipe.mixes:
            artifacts.append(one(f"{mix} rounded", "rounded", mix, "llama.cpp", rounded[mix].path / GGUF_NAME))
            for kind, runtime, name in (("gguf", "llama.cpp", GGUF_NAME), ("onnx", "onnxruntime", ONNX_NAME)):
                if (kind, mix) in exported:
                    artifacts.append(one(f"{mix} recovered, {runtime}", "recovered", mix, runtime, exported[kind, mix].path / name))
        return artifacts

    def report(
        self, taught: StageResult, student: StageResult, measured: StageResult, exported: Mapping[tuple[str, str], StageResult]
    ) -> tuple[dict[str, Any], StageResult]:
        """report.json and report.html, in their stage and at the top of the run folder."""
        provenance = {
            "teacher": self.facts.source,
            "recipe": self.recipe.to_dict(),
            "command": self.command,
            "license": self.facts.license,
            "versions": measured.mark["versions"],
            "stages": [
                {"name": r.name, "key": r.key, "seconds": r.mark["seconds"], "peak_rss_bytes": r.mark["peak_rss_bytes"], "reused": r.reused}
                for r in self.results
            ],
            "verify": [
                {"file": f"{kind} {mix}", **json.loads((result.path / PROOF).read_text(encoding="utf-8"))}
                for (kind, mix), result in exported.items()
            ],
        }
        recovered = [r for r in self.results if r.name.startswith("recover-")]

        def build(work: Path) -> None:
            from edgedistill.report import build_report, write_report

            curves = [json.loads((r.path / "curve.json").read_text(encoding="utf-8")) for r in (student, *recovered)]
            teach = json.loads((taught.path / "teach.json").read_text(encoding="utf-8"))
            measure = json.loads((measured.path / "measure.json").read_text(encoding="utf-8"))
            write_report(build_report(self.plan.to_dict(), teach, curves, measure, provenance), work)

        # What a rerun finds complete is told on the terminal; the page tells how the run was made, so it doesn't change.
        result = self.stage("report", {"version": __version__}, [taught, student, *recovered, *exported.values(), measured], build)
        for name in ("report.json", "report.html"):
            content = (result.path / name).read_bytes()
            if not (self.run.path / name).is_file() or (self.run.path / name).read_bytes() != content:
                atomic_write(self.run.path / name, content)
        return json.loads((result.path / "report.json").read_text(encoding="utf-8")), result

    def bundle(self, report: dict[str, Any], result: StageResult, exported: Mapping[tuple[str, str], StageResult]) -> Path:
        """The folder to ship, made anew only when the report or a file changed."""
        from edgedistill.bundle import bundle_damage, write_bundle

        out, mark = self.run.path / "bundle", self.run.path / BUNDLE_MARK
        if mark.is_file() and mark.read_text(encoding="utf-8") == result.key:
            damage = bundle_damage(out)
            if damage is None:
                return out
            self.progress.note(f"bundle: {damage}; making it again")
        names = {"gguf": GGUF_NAME, "onnx": ONNX_NAME}
        artifacts = {f"{kind}-{mix}": stage.path / names[kind] for (kind, mix), stage in exported.items()}
        mark.unlink(missing_ok=True)
        write_bundle(artifacts, report, out, self.name, self.license_text)
        atomic_write(mark, result.key)
        return out


def _settings(part: Any) -> dict[str, Any]:
    """A recipe part as JSON types, without what changes no result."""
    return {key: value for key, value in part.model_dump(mode="json").items() if key not in NO_RESULT}


def _names(formats: Mapping[str, NumberFormat]) -> dict[str, str]:
    """Tensor -> the name of its format, as settings hold it."""
    return {tensor: number_format.name for tensor, number_format in formats.items()}
