"""The stages that teach and train in float: the text, the initial student, its phases."""

from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from edgedistill.config.phase import Phase, stage_of
from edgedistill.config.students import AnyStudent
from edgedistill.config.teach import OWN_PROMPTS, Teach
from edgedistill.data.seeds import derived_seed
from edgedistill.export import GGUF_NAME
from edgedistill.facts import Start
from edgedistill.machine import compute_of
from edgedistill.pipeline.asked import asked_files, teaching_prompts
from edgedistill.pipeline.blocks import BlockStages
from edgedistill.pipeline.context import TAUGHT, Context, settings_of
from edgedistill.pipeline.estimate import Estimates
from edgedistill.pipeline.on_policy import rounds_of
from edgedistill.pipeline.stage import Finished, Json, Outside, Stage

START_KEYS = ("model", "revision", "path", "of")  # of the recipe's student: where the model lies that it starts from
TEACH_FORMAT = 2  # what teach.json holds: one more where that changes, so that older text is made again
LABELS_FORMAT = 2  # the same of labels.json


@dataclass(frozen=True)
class TrainingStages:
    """The stages of one run that teach and train."""

    context: Context

    @cached_property
    def estimates(self) -> Estimates:
        """What they take."""
        return Estimates(self.context)

    @cached_property
    def blocks(self) -> BlockStages:
        """What the phases look at inside the teacher."""
        return BlockStages(self.context)

    def student(self) -> Stage:
        """The initial student, as a folder; all that comes after it reads that and never the teacher."""
        context = self.context
        student, phase = context.recipe.student, context.recipe.distill
        settings: dict[str, Json] = {"student": _student_settings(student), "layers": context.shape.layers}
        if context.start is not None:
            settings["start"] = _start_settings(context.start)
        if context.facts.system is not None:
            settings["system"] = context.facts.system
        if student.needs_text:
            settings |= {"seq_len": phase.seq_len, "compute": compute_of(phase.compute)}

        def work(folder: Path, done: Finished) -> None:
            from edgedistill.models.students.build import build_student
            from edgedistill.models.students.origin import Origin
            from edgedistill.signals.shards import iter_split
            from edgedistill.train.forward import compute_type

            examples = iter_split(done.folder(context.text), "train") if student.needs_text else iter(())
            texts = (example.tokens[: phase.seq_len] for example in examples)
            origin = Origin(
                done.locate(next(iter(context.origin_files.values())).place),
                context.student_name,
                context.origin.license,
                context.origin_license,
                texts,
                compute_type(phase.compute),
                context.facts.system,
                context.start.lineage if context.start is not None else (),
                context.device,
            )
            build_student(student, origin, folder, done.progress)

        return Stage(
            "student",
            "student",
            work,
            settings,
            inputs=(context.text,) if student.needs_text else (),
            outside=context.origin_files,
            estimate=self.estimates.student(),
        )

    def teach(self, writer_file: str | None, held_out: bool) -> Stage:
        """The training text; with the teacher's log-probabilities, where a student is distilled.

        Args:
            writer_file: the stage of the file that llama.cpp writes with; None: the teacher is that.
            held_out: whether chats were written to judge on, none of which may be trained on.
        """
        context, teach = self.context, self.context.recipe.teach
        # Recovery captures the float student's own view of the text.
        top_k = context.recipe.top_k
        writes = teach.free_tokens + teach.new_tokens + top_k > 0 or (teach.tokens > 0 and teach.answers != "own")
        outside = {"teacher": context.teacher_files}
        outside |= {f"text {number}": Outside(Path(path)) for number, path in enumerate(teach.text or ())}
        settings = settings_of(teach) | {"text": len(teach.text or ())}
        files, read = asked_files(context)
        outside |= files
        settings |= read
        if not files and context.facts.system is not None:
            settings["system"] = context.facts.system
        inputs = [writer_file] if writer_file and writes else []
        if held_out:
            inputs.append("held-out")

        def work(folder: Path, done: Finished) -> None:
            from edgedistill.teach.rounds import prompt_ids_in
            from edgedistill.teach.training_text import TeachInputs
            from edgedistill.teach.training_text import teach as write_text
            from edgedistill.teach.writers import open_writer

            file = done.folder(writer_file) / GGUF_NAME if writer_file else context.given_teacher
            room = max(teach.longest_prompt + teach.max_answer_tokens, (teach.text_window or 0) + 1)
            never = prompt_ids_in(done.folder("held-out")) if held_out else set()
            never |= context.task.test_ids() if context.task else set()
            opened = open_writer(file, context.cores, room, teach.parallel, folder) if writes else nullcontext()
            with opened as writer:
                name, system = context.facts.name, context.facts.system
                prompts = teaching_prompts(context.task, teach)
                given, recipe = context.given_teacher, context.recipe
                text = TeachInputs(writer, given, name, recipe, top_k, prompts, never, system, context.task)
                write_text(text, folder, done.progress)

        return Stage(
            TAUGHT,
            "teach",
            work,
            # As much is held out for judging as is read.
            {
                "format": TEACH_FORMAT,
                "teach": settings,
                "top_k": top_k,
                "judged": context.recipe.measure.tokens,
            },
            tuple(inputs),
            outside,
            estimate=self.estimates.teach(),
        )

    def held_out(self, writer_file: str | None) -> Stage:
        """Chats that the model writes to be judged on: another budget of training finds them again.

        Args:
            writer_file: as for `teach`.
        """
        context = self.context
        teach = _held_out_text(context)
        settings = settings_of(teach)
        if context.facts.system is not None:
            settings["system"] = context.facts.system

        def work(folder: Path, done: Finished) -> None:
            from edgedistill.teach.training_text import TeachInputs, write_held_out
            from edgedistill.teach.writers import open_writer

            file = done.folder(writer_file) / GGUF_NAME if writer_file else context.given_teacher
            room = teach.longest_prompt + teach.max_answer_tokens
            recipe = context.recipe.model_copy(update={"teach": teach})
            with open_writer(file, context.cores, room, teach.parallel, folder) as writer:
                name, system = context.facts.name, context.facts.system
                write_held_out(
                    TeachInputs(writer, context.given_teacher, name, recipe, 0, None, system=system),
                    folder,
                    done.progress,
                )

        return Stage(
            "held-out",
            "held-out",
            work,
            {"teach": settings},
            (writer_file,) if writer_file else (),
            {"teacher": context.teacher_files},
            estimate=self.estimates.held_out(),
        )

    def specialise(self) -> list[Stage]:
        """The teacher's own phases and the labelled answers that they learn; none where the recipe has none."""
        phases = self.context.recipe.teacher_phases
        if not phases:
            return []
        return [self._labels(), *(self._phase(index, phase) for index, phase in enumerate(phases))]

    def _labels(self) -> Stage:
        """The answers that the file of prompts brings."""
        context, teach = self.context, self.context.recipe.teach
        files, read = asked_files(context)
        outside = {"teacher": context.given_files, **files}
        outside |= {f"text {number}": Outside(Path(path)) for number, path in enumerate(teach.text or ())}
        settings = settings_of(teach) | {"text": len(teach.text or ()), **read}

        def work(folder: Path, done: Finished) -> None:
            from edgedistill.teach.labels import write_labels

            prompts = teaching_prompts(context.task, teach)
            if prompts is None:
                raise ValueError("a teacher's phases learn from a task's rows or a file of prompts")
            write_labels(context.given_teacher, context.facts.name, prompts, context.recipe, folder, done.progress)

        return Stage(
            "labels",
            "labels",
            work,
            {"format": LABELS_FORMAT, "teach": settings, "judged": context.recipe.measure.tokens},
            outside=outside,
            estimate=self.estimates.labels(),
        )

    def phases(self) -> list[Stage]:
        """The student's trainings in float, each from the student that the one before left; none of the teacher as it
        is.
        """
        if self.context.as_is:
            return []
        stages = [self._phase(index, phase) for index, phase in enumerate(self.context.recipe.student_phases)]
        return [*self.blocks.all(), *stages]

    def _phase(self, index: int, phase: Phase) -> Stage:
        """A training of one model; `index`: among that model's phases."""
        context, name, blocks = self.context, stage_of(index, phase.train), self.blocks
        rounds = rounds_of(context, phase)
        place = context.recipe.place_of(context.recipe.phases.index(phase))
        taught, first, estimate = context.text, "student", self.estimates.distill(phase)
        if phase.train == "teacher":
            taught, first, estimate = "labels", "", self.estimates.specialise(phase)
        before = stage_of(index - 1, phase.train) if index else first
        decides = ("written",) if phase.train == "teacher" else context.deciding_text

        def work(folder: Path, done: Finished) -> None:
            from edgedistill.distill.phase import TrainingText, distill
            from edgedistill.signals.shards import load_sources

            text = done.folder(taught)
            model = done.folder(before) if before else context.given_teacher
            training = blocks.joined(phase, load_sources(text, "train"), done)
            target = blocks.target(phase, done)
            author = rounds.in_float(model, training, folder, done)
            validation = load_sources(text, "validation")
            trained = TrainingText(training, validation, place, target, author, decides, context.device)
            distill(model, trained, phase, folder, done.progress, name)

        settings: dict[str, Json] = {"phase": settings_of(phase)}
        if decides:
            settings["decides"] = list(decides)
        inputs = (before, taught) if before else (taught,)
        outside = {} if before else {"teacher": context.given_files}
        inputs = (*inputs, *rounds.inputs)
        if phase.block_terms:
            # The initial student says which of the teacher's layers it has.
            inputs = tuple(dict.fromkeys((*inputs, "student", *blocks.inputs(phase))))
            outside |= {} if blocks.inputs(phase) else {"teacher": context.teacher_files}
        return Stage(name, "distill", work, settings, inputs, outside, estimate=estimate)


def _student_settings(student: AnyStudent) -> dict[str, Json]:
    """The recipe's part, without where the model lies that it starts from: the key has its content."""
    return {name: value for name, value in settings_of(student).items() if name not in START_KEYS}


def _start_settings(start: Start) -> dict[str, Json]:
    """What a student's folder says of the model that it started from."""
    return {"name": start.facts.name, "license": start.facts.license, "lineage": list(start.lineage)}


def _held_out_text(context: Context) -> Teach:
    """The `teach` part of a recipe that writes chats to judge on and nothing else."""
    teach = context.recipe.teach
    changes = {
        "prompts": OWN_PROMPTS,
        "prompt_field": None,
        "tokens": context.recipe.measure.tokens,
        "free_tokens": 0,
        "new_tokens": 0,
        "text_tokens": 0,
        "text": None,
        "answers": "teacher",
        "holdout": 1.0,  # all of it judges, whatever share a training holds out
        "seed": derived_seed(teach.seed, "chats to judge on"),
    }
    return teach.model_copy(update=changes)
