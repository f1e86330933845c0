"""The stages that measure: which files, on which held-out texts (one of each source of the training text), what they
are asked.

    judges ─► reference-student, reference-teacher ─► measure-LABEL, one a file ─┐
    a mix's files ─► layers-MIX ─────────────────────────────────────────────────┼─► measure
    all files ─► speeds ─────────────────────────────────────────────────────────┘

A row's key hashes the file's own bytes, the judges, the references, the questions, the recipe's `measure` part and the
machine; not what the file is called, nor the files beside it. So another mix, or recovery, finds every row that was
measured. `speeds` times all files in turn, since only trials of one sitting can be compared: another file among them is
another sitting.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from edgedistill.export import GGUF_NAME, ONNX_NAME
from edgedistill.machine import fingerprint
from edgedistill.mixes import Mix, mix_bytes
from edgedistill.pipeline.asked import asked_task, task_files
from edgedistill.pipeline.context import TAUGHT, VOCABULARY, Context, settings_of
from edgedistill.pipeline.estimate import Estimates
from edgedistill.pipeline.files import FLOAT_FILE, TEACHER_FILE, exported_stage
from edgedistill.pipeline.judges import (
    JUDGES_FORMAT,
    item_files,
    keep_system,
    kept_system,
    prose_judge,
    teachers_judges,
    whole_vocabulary,
    words_of,
    written_judges,
)
from edgedistill.pipeline.stage import Finished, InStage, Json, Outside, Stage
from edgedistill.plan.rival import FILE_STAGE as RIVAL_FILE
from edgedistill.results.row import LLAMA_CPP, ONNXRUNTIME, Artifact

if TYPE_CHECKING:
    from edgedistill.measure.items import Items

# Of how files are measured, what no row depends on, and tasks, which count by their content.
NO_ROW = {"repetitions", "accuracy_level", "tasks"}
JOINED = "measure"
TEACHERS = ("teacher", "rival")  # kinds of files of the teacher itself
THEIRS = "teacher"  # the folder of the judges' texts as a teacher with other words or chats reads them
MEASURE_FORMAT = 2  # what measure.json holds: one more where that changes, so that older rows are joined again
RUNTIMES = {"gguf": (LLAMA_CPP, GGUF_NAME), "onnx": (ONNXRUNTIME, ONNX_NAME)}


@dataclass(frozen=True)
class PackedFile:
    """A file that is to be measured: its row's label, what it is, and where it will lie."""

    label: str
    kind: str  # one of results.row.KINDS
    mix: str | None
    runtime: str
    place: Path | InStage

    @property
    def stage(self) -> str:
        """The name of its row's stage."""
        return "measure-" + re.sub(r"[^a-z0-9._]+", "-", self.label.lower()).strip("-")


@dataclass(frozen=True)
class JudgingStages:
    """The stages of one run that measure.

    Attributes:
        context: the run's.
        mixes: all of them.
        student: the stage of the float student.
        written: the stage with what a model wrote of the judges' texts; None where it wrote nothing.
        captured: the stage with the inputs' mean squares, which weigh the errors by layer; None: all count alike.
    """

    context: Context
    mixes: Sequence[Mix]
    student: str
    written: str | None
    captured: str | None

    @cached_property
    def estimates(self) -> Estimates:
        """What they take."""
        return Estimates(self.context)

    @cached_property
    def files(self) -> list[PackedFile]:
        """What is measured, in the order of the table."""
        context = self.context
        files: list[PackedFile] = []
        if context.own_file or not context.as_is:
            label = "model as given" if context.as_is else "teacher"
            place: Path | InStage = context.given_teacher if context.own_file else InStage(TEACHER_FILE, GGUF_NAME)
            files.append(PackedFile(label, "teacher", None, LLAMA_CPP, place))
        if context.rival is not None:
            place = InStage(RIVAL_FILE, GGUF_NAME)
            files.append(PackedFile(context.rival.label, "rival", None, LLAMA_CPP, place))
        label = "float model" if context.as_is else "float student"
        files.append(PackedFile(label, "float", None, LLAMA_CPP, InStage(FLOAT_FILE, GGUF_NAME)))
        for mix in (mix.name for mix in self.mixes):
            place = InStage(f"rounded-{mix}", GGUF_NAME)
            files.append(PackedFile(f"{mix} rounded", "rounded", mix, LLAMA_CPP, place))
            for kind in context.recipe.export if context.recovering else ():
                runtime, name = RUNTIMES[kind]
                place = InStage(exported_stage(kind, mix), name)
                files.append(PackedFile(f"{mix} recovered, {runtime}", "recovered", mix, runtime, place))
        return files

    def all(self) -> list[Stage]:
        """All of them, in order."""
        rows = [self._row(file) for file in self.files]
        layers = [self._layers(mix.name) for mix in self.mixes]
        return [self._judges(), *self._references(), *rows, *layers, self._speeds(), self._joined(rows, layers)]

    def _judges(self) -> Stage:
        """The texts that all files are judged on."""
        context, teach = self.context, self.context.recipe.teach

        def work(folder: Path, done: Finished) -> None:
            from edgedistill.measure.judge import save_judges

            judges = [*written_judges(context, self.written, done), prose_judge(context, words_of(context, done))]
            save_judges(judges, folder)
            if self._has_others:
                theirs = folder / THEIRS
                theirs.mkdir(exist_ok=True)
                whole = whole_vocabulary(judges, done) if context.trimmed else judges
                save_judges(whole if context.same_chats else teachers_judges(context, whole, done), theirs)
            keep_system(folder, self.written, done, context.system)

        settings: dict[str, Json] = {
            "format": JUDGES_FORMAT,
            "tokens": context.recipe.measure.tokens,
            "own": bool(teach.text),
        }
        if self.written == context.float_text:
            settings |= {"style": teach.style, "written": bool(teach.tokens), "free": bool(teach.free_tokens)}
        elif context.system is not None:
            settings["system"] = context.system
        outside = {f"text {number}": Outside(Path(path)) for number, path in enumerate(teach.text or ())}
        outside |= context.words_files
        inputs = (self.written,) if self.written else ()
        if context.trimmed:
            inputs = (*inputs, VOCABULARY)
        if not context.same_chats:
            inputs, outside["teacher"] = (*inputs, TAUGHT), context.given_files
        return Stage("judges", "judges", work, settings, inputs, outside, estimate=self.estimates.judges())

    def _references(self) -> list[Stage]:
        """The float models' views of the judges."""
        context = self.context
        student, teacher = context.shape, context.facts.shape

        def work(what: str, folder: Path, done: Finished) -> None:
            from edgedistill.measure.judge import REFERENCE, load_judges, make_reference

            place = context.teacher_files.place
            model = done.folder(self.student) if what == "student" else done.locate(place)
            judges = load_judges(self._texts_of(what, done))
            kept = None
            if what == "teacher" and context.trimmed:
                from edgedistill.models.students.vocabulary import kept_tokens

                kept = kept_tokens(done.folder(VOCABULARY))
            out, title = folder / REFERENCE, f"float {what}"
            make_reference(model, judges, out, title, done.progress, kept, context.device)

        stages = [
            Stage(
                "reference-student",
                "reference",
                partial(work, "student"),
                inputs=("judges", self.student),
                estimate=self.estimates.reference(student),
            )
        ]
        if self._compares_with_teacher:
            teacher_stage = Stage(
                "reference-teacher",
                "reference",
                partial(work, "teacher"),
                inputs=("judges", VOCABULARY) if context.trimmed else ("judges",),
                outside={"teacher": context.teacher_files},
                estimate=self.estimates.reference(teacher),
            )
            stages.append(teacher_stage)
        return stages

    def _texts_of(self, kind: str, done: Finished) -> Path:
        """The judges' texts as a model reads them: the teacher's are its own where the student has other chats."""
        folder = done.folder("judges")
        return folder / THEIRS if kind in TEACHERS and self._has_others else folder

    @property
    def _has_others(self) -> bool:
        """Whether the teacher reads the judges' texts by other ids than the student."""
        return self.context.trimmed or not self.context.same_chats

    @property
    def _same_ids(self) -> bool:
        """Whether the student's ids mean what the teacher's do."""
        return self.context.same_words and not self.context.trimmed

    @property
    def _compares_with_teacher(self) -> bool:
        """Whether the student's predictions can be compared with its teacher's, over the tokens that it has."""
        return not self.context.as_is and self.context.same_words

    @property
    def _reference_stages(self) -> dict[str, str]:
        stages = {"student": "reference-student"}
        if self._compares_with_teacher:
            stages["teacher"] = "reference-teacher"
        return stages

    def _row(self, file: PackedFile) -> Stage:
        """One file judged; a teacher with other words on the same texts in its own."""
        context = self.context
        comparable = file.kind not in TEACHERS or self._same_ids
        references = self._reference_stages if comparable else {}

        def work(folder: Path, done: Finished) -> None:
            from edgedistill.measure.judge import REFERENCE, load_judges, load_reference
            from edgedistill.measure.row import RowInputs, measure_row

            # Loaded once for all rows: the values that it caches of each position are then computed once too.
            views = {
                name: done.once(stage, partial(load_reference, done.folder(stage) / REFERENCE))
                for name, stage in references.items()
            }
            judges = load_judges(self._texts_of(file.kind, done))
            items = self._items(done)
            inputs = RowInputs(judges, views, items, context.recipe, folder, done.progress)
            measure_row(_artifact(context, file, done), inputs)

        measure = {key: value for key, value in settings_of(context.recipe.measure).items() if key not in NO_ROW}
        settings: dict[str, Json] = {
            "measure": measure,
            "style": context.recipe.teach.style,
            "runtime": file.runtime,
            "worst": file.kind in ("rounded", "recovered"),
            "machine": fingerprint(),
            "cores": context.cores,
        }
        if context.recipe.task is not None:
            settings["task"] = asked_task(context.recipe.task)
        inputs = ("judges", *references.values())
        outside = {"file": Outside(file.place), **item_files(context), **self._task_files}
        estimate = self.estimates.row(self._loaded_bytes(file))
        return Stage(file.stage, "row", work, settings, inputs, outside, mix=file.mix, estimate=estimate)

    def _loaded_bytes(self, file: PackedFile) -> int:
        """What a runtime has of a file in memory: llama.cpp lays quantized weights out anew beside the file's pages."""
        if file.kind == "rival" and self.context.rival is not None:
            return 2 * self.context.rival.planned.file_bytes
        if file.mix is not None:
            return 2 * mix_bytes(self.context.shape, self.context.recipe.mix(file.mix))
        return self.context.facts.weight_bytes if file.kind == "teacher" else 2 * self.context.shape.parameters

    @property
    def _task_files(self) -> dict[str, Outside]:
        """The user's task and its verifier, as a stage reads them."""
        task = self.context.recipe.task
        if task is None:
            return {}
        verifier = {f"verify {number}": Outside(path) for number, path in enumerate(task.verify_files)}
        return task_files(task) | verifier

    def _items(self, done: Finished) -> "Items":
        """The recipe's questions and requests that fit the model."""
        from edgedistill.measure.items import choose_items
        from edgedistill.measure.task_items import choose_task_items

        measure = self.context.recipe.measure
        system = kept_system(done.folder("judges"))
        others = () if self._same_ids else (self.context.given_teacher,)
        task, model = self.context.recipe.task, done.folder(self.student)
        chats = self.context.recipe.teach.style == "chat"

        def choose() -> "Items":
            items = choose_items(measure, model, done.progress, system, others)
            if task is None or self.context.task is None:
                return items
            rows = choose_task_items(task, self.context.task, chats, model, done.progress, others)
            return replace(items, task=rows)

        return done.once("items", choose)

    def _layers(self, mix: str) -> Stage:
        """A mix's errors by layer, of its files in llama.cpp."""
        context = self.context
        files = [file for file in self.files if (file.mix, file.runtime) == (mix, LLAMA_CPP)]

        def work(folder: Path, done: Finished) -> None:
            from edgedistill.export.weights import open_weights
            from edgedistill.measure.layers import measure_layers, save_layers
            from edgedistill.teach.capture import load_importance

            squares = load_importance(done.folder(self.captured)) if self.captured else None
            tensors = {file.kind: open_weights(done.locate(file.place)).tensors for file in files}
            floats = open_weights(done.folder(self.student)).tensors
            save_layers(measure_layers(floats, tensors, squares, mix, done.progress), folder)

        inputs = (self.student, self.captured) if self.captured else (self.student,)
        outside = {file.kind: Outside(file.place) for file in files}
        estimate = Estimates(context).layers()
        return Stage(f"layers-{mix}", "layers", work, inputs=inputs, outside=outside, mix=mix, estimate=estimate)

    def _speeds(self) -> Stage:
        """All files timed in turn."""
        context, measure = self.context, self.context.recipe.measure

        def work(folder: Path, done: Finished) -> None:
            from edgedistill.measure.speed import time_files

            time_files(self._artifacts(done), context.recipe, folder, done.progress)

        settings: dict[str, Json] = {
            "machine": fingerprint(),
            "cores": context.cores,
            "prefill": measure.prefill,
            "decode": measure.decode,
            "rounds": measure.repetitions,
            "threads": measure.threads,
        }
        outside = {file.label: Outside(file.place) for file in self.files}
        estimate = self.estimates.speeds(len(self.files))
        return Stage("speeds", "speeds", work, settings, outside=outside, estimate=estimate)

    def _joined(self, rows: Sequence[Stage], layers: Sequence[Stage]) -> Stage:
        """Every packed file in its runtime on this machine, as one table."""
        context = self.context

        def work(folder: Path, done: Finished) -> None:
            from edgedistill.measure.join import Setting, join_rows, load_files, save_measurement
            from edgedistill.measure.judge import load_judges
            from edgedistill.measure.layers import load_layers

            row_folders = [done.folder(row.name) for row in rows]
            files = load_files(self._artifacts(done), row_folders, done.folder("speeds"))
            by_mix = {str(stage.mix): load_layers(done.folder(stage.name)) for stage in layers}
            setting = Setting(
                load_judges(done.folder("judges")),
                self._items(done),
                context.recipe.measure.prompts,
                context.command,
                context.target.this_machine,
            )
            save_measurement(join_rows(files, by_mix, setting), folder)

        table: list[Json] = [[file.label, file.kind, file.mix, _shown(file.place)] for file in self.files]
        settings: dict[str, Json] = {
            "format": MEASURE_FORMAT,
            "target": context.target.name,
            "on_target": context.target.this_machine,
            "rows": table,
        }
        if context.recipe.task is not None:
            settings["task"] = {"name": context.recipe.task.name, **asked_task(context.recipe.task)}
        inputs = ("judges", *(stage.name for stage in (*rows, *layers)), "speeds")
        outside = item_files(context) | self._task_files
        return Stage(JOINED, "papers", work, settings, inputs, outside, estimate=self.estimates.papers())

    def _artifacts(self, done: Finished) -> list[Artifact]:
        return [_artifact(self.context, file, done) for file in self.files]


def _artifact(context: Context, file: PackedFile, done: Finished) -> Artifact:
    from edgedistill.measure.artifacts import read_artifact

    def look() -> Artifact:
        return read_artifact(file.label, file.kind, file.mix, file.runtime, done.locate(file.place), run=context.out)

    return done.once(f"artifact {file.label}", look)


def _shown(place: Path | InStage) -> str:
    return place.name if isinstance(place, Path) else f"{place.stage}/{place.name}"
