"""The stages that teach and train: the text, the float student, what errors cost, the student on its grid."""

from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from edgedistill.config.phase import stage_of
from edgedistill.config.recover import MEASURED
from edgedistill.config.teach import OWN_PROMPTS, Teach
from edgedistill.config.validation import MOST_TOKENS
from edgedistill.data.seeds import derived_seed
from edgedistill.export import GGUF_NAME
from edgedistill.machine import compute_of
from edgedistill.mixes import Group, Mix, assign_formats, groups_of, measured_once, mix_bytes
from edgedistill.pipeline.context import Context, names_of, settings_of
from edgedistill.pipeline.estimate import Estimates
from edgedistill.pipeline.stage import Finished, Json, Outside, Stage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgedistill.data.example import Example
    from edgedistill.quant.fit import Costs

# What the files of a measured fit hold of a weight: part of the stage's key, so that one which lacks it isn't read.
KEPT: dict[str, list[Json]] = {"curvature": ["correlation", "diagonal", "scale"], "fisher": ["weight"]}


@dataclass(frozen=True)
class TrainingStages:
    """The stages of one run that teach and train."""

    context: Context

    @cached_property
    def estimates(self) -> Estimates:
        """What they take."""
        return Estimates(self.context)

    @cached_property
    def mixes(self) -> list[Mix]:
        """All mixes of the recipe."""
        return [self.context.recipe.mix(name) for name in self.context.recipe.mixes]

    @property
    def float_student(self) -> str:
        """The stage whose folder is the trained float student."""
        return "student" if self.context.as_is else stage_of(len(self.context.recipe.phases) - 1)

    @property
    def costs_stage(self) -> str | None:
        """The stage that measures what errors of the weights cost, where the fit has that measured."""
        fit = self.context.recipe.recover.fit
        return fit if fit in MEASURED else None

    def student(self) -> Stage:
        """The initial student, as a folder; all that comes after it reads that and never the teacher."""
        context = self.context
        student, phase = context.recipe.student, context.recipe.phases[0]
        settings: dict[str, Json] = {"student": settings_of(student), "layers": context.shape.layers}
        if student.needs_text:
            settings |= {"seq_len": phase.seq_len, "compute": compute_of(phase.compute)}

        def work(folder: Path, done: Finished) -> None:
            from edgedistill.models.students.build import build_student
            from edgedistill.models.students.origin import Origin
            from edgedistill.signals.shards import iter_split
            from edgedistill.train.forward import compute_type

            examples = iter_split(done.folder("teach"), "train") if student.needs_text else iter(())
            texts = (example.tokens[: phase.seq_len] for example in examples)
            facts = context.facts
            origin = Origin(
                context.teacher,
                context.student_name,
                facts.license,
                context.license_text,
                texts,
                compute_type(phase.compute),
            )
            build_student(student, origin, folder, done.progress)

        return Stage(
            "student",
            "student",
            work,
            settings,
            inputs=("teach",) if student.needs_text else (),
            outside={"teacher": context.teacher_files},
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
        writes = teach.tokens + teach.free_tokens + top_k > 0
        outside = {"teacher": context.teacher_files}
        outside |= {f"text {number}": Outside(Path(path)) for number, path in enumerate(teach.text or ())}
        # Of files it is the content that counts, wherever they lie; and of the prompts' how it is read.
        settings = settings_of(teach) | {"text": len(teach.text or ())}
        if teach.prompts != OWN_PROMPTS:
            outside["prompts"] = Outside(Path(teach.prompts))
            settings["prompts"] = Path(teach.prompts).suffix
        inputs = [writer_file] if writer_file and writes else []
        if held_out:
            inputs.append("held-out")

        def work(folder: Path, done: Finished) -> None:
            from edgedistill.teach.rounds import longest_prompt, prompt_ids_in
            from edgedistill.teach.stage import teach as write_text
            from edgedistill.teach.writers import open_writer

            file = done.folder(writer_file) / GGUF_NAME if writer_file else context.teacher
            room = max(longest_prompt(teach) + teach.max_answer_tokens, (teach.text_window or 0) + 1)
            never = prompt_ids_in(done.folder("held-out")) if held_out else set()
            opened = open_writer(file, context.cores, room, teach.parallel, folder) if writes else nullcontext()
            with opened as writer:
                write_text(
                    writer, context.teacher, context.facts.name, context.recipe, top_k, folder, done.progress, never
                )

        return Stage(
            "teach",
            "teach",
            work,
            # As much is held out for judging as is read.
            {"teach": settings, "top_k": top_k, "judged": context.recipe.measure.tokens},
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

        def work(folder: Path, done: Finished) -> None:
            from edgedistill.teach.rounds import longest_prompt
            from edgedistill.teach.stage import write_held_out
            from edgedistill.teach.writers import open_writer

            file = done.folder(writer_file) / GGUF_NAME if writer_file else context.teacher
            room = longest_prompt(teach) + teach.max_answer_tokens
            recipe = context.recipe.model_copy(update={"teach": teach})
            with open_writer(file, context.cores, room, teach.parallel, folder) as writer:
                write_held_out(writer, context.teacher, context.facts.name, recipe, folder, done.progress)

        return Stage(
            "held-out",
            "held-out",
            work,
            {"teach": settings_of(teach)},
            (writer_file,) if writer_file else (),
            {"teacher": context.teacher_files},
            estimate=self.estimates.held_out(),
        )

    def phases(self) -> list[Stage]:
        """The trainings in float, each from the student that the one before left; none of the teacher as it is."""
        if self.context.as_is:
            return []
        return [self._phase(index) for index in range(len(self.context.recipe.phases))]

    def _phase(self, index: int) -> Stage:
        phase, name = self.context.recipe.phases[index], stage_of(index)
        place = self.context.recipe.place_of(index)
        before = stage_of(index - 1) if index else "student"

        def work(folder: Path, done: Finished) -> None:
            from edgedistill.distill.stage import TrainingText, distill
            from edgedistill.signals.shards import load_sources, load_split

            taught = done.folder("teach")
            text = TrainingText(load_split(taught, "train"), load_sources(taught, "validation"), place)
            distill(done.folder(before), text, phase, folder, done.progress, name)

        settings: dict[str, Json] = {"phase": settings_of(phase)}
        return Stage(name, "distill", work, settings, (before, "teach"), estimate=self.estimates.distill(phase))

    def capture(self) -> Stage:
        """The float student's own distribution, and its inputs' importance."""
        context, recover = self.context, self.context.recipe.recover
        # Hidden states in full precision: against q8_0, whose KL is thousandths, rounding the teacher would show.
        compute, seq_len = "float32", recover.seq_len
        keep = ("ids", "log_probs") if recover.teacher_share else ()
        # A budget beyond the text goes over it again, and needs no other capture.
        budgets = [recover.fit_tokens, *map(recover.tokens_of, context.recipe.mixes)]
        tokens = min(self.estimates.training_text, max(budgets))
        # As many as any budget is validated on, so that another budget finds the same capture.
        validated = max([MOST_TOKENS, *(mix.tokens for mix in self.mixes if mix.unfitted)])

        def work(folder: Path, done: Finished) -> None:
            from edgedistill.data.packing import counting_sources
            from edgedistill.data.spread import spread_documents, spread_sources
            from edgedistill.signals.shards import SOURCE_NAMES, load_sources, load_split
            from edgedistill.teach.capture import capture

            taught = done.folder("teach")
            training = spread_documents(load_split(taught, "train"), tokens, seq_len)
            validation = counting_sources(load_sources(taught, "validation"), seq_len, "recover.seq_len")
            validation = spread_sources(validation, validated, seq_len)
            splits = [("train", training)]
            splits += [(f"{source}validation", validation[n]) for source, n in SOURCE_NAMES.items() if n in validation]
            capture(done.folder(self.float_student), splits, seq_len, compute, folder, done.progress, keep)

        settings: dict[str, Json] = {
            "seq_len": seq_len,
            "compute": compute,
            "tokens": tokens,
            "validation_tokens": validated,
            "keep": list(keep),
        }
        inputs = ("teach", self.float_student)
        return Stage("capture", "capture", work, settings, inputs, estimate=self.estimates.capture())

    def costs(self) -> Stage:
        """What errors of the weights cost; named as the fit that has it measured."""
        recipe = self.context.recipe
        recover = recipe.recover

        def work(folder: Path, done: Finished) -> None:
            from edgedistill.data.spread import spread_documents
            from edgedistill.recover.curvature import measure_curvature
            from edgedistill.recover.fisher import measure_fisher
            from edgedistill.signals.shards import iter_shards

            captured = list(iter_shards(done.folder("capture") / "train"))
            chosen = spread_documents(captured, recover.fit_tokens, recover.seq_len)
            student, seed = done.folder(self.float_student), recipe.teach.seed
            measure = measure_curvature if recover.fit == "curvature" else measure_fisher
            measure(student, chosen, recover.seq_len, recover.compute, seed, folder, done.progress)

        settings: dict[str, Json] = {
            "tokens": recover.fit_tokens,
            "seq_len": recover.seq_len,
            "compute": compute_of(recover.compute),
            "seed": recipe.teach.seed,
            "kept": KEPT[recover.fit],
        }
        inputs = (self.float_student, "capture")
        return Stage(recover.fit, "costs", work, settings, inputs, estimate=self.estimates.costs())

    def sensitivity(self, mixes: "Sequence[Mix]") -> Stage:
        """What each grid costs each group of tensors, for all mixes whose grids are to be chosen."""
        recipe = self.context.recipe
        once = measured_once(mixes)
        groups: tuple[Group, ...] = tuple(groups_of(self.context.shape, once))
        # Curvature foretells costs without another look at the text.
        foretold = recipe.recover.fit == "curvature"

        def work(folder: Path, done: Finished) -> None:
            from edgedistill.recover.sensitivity import measure_sensitivity

            documents = None if foretold else self._validation(done, once.tokens)
            costs = self._read_costs(done)
            student = done.folder(self.float_student)
            measure_sensitivity(student, documents, costs, groups, recipe, folder, done.progress)

        settings: dict[str, Json] = {
            "fit": recipe.recover.fit,
            "seq_len": recipe.recover.seq_len,
            "tokens": None if foretold else once.tokens,
            "choices": {group.name: [f.name for f in group.formats] for group in groups},
        }
        estimate = self.estimates.sensitivity(groups, once.tokens)
        return Stage("sensitivity", "sensitivity", work, settings, self._fit_inputs(), estimate=estimate)

    def fit(self, mix: Mix) -> Stage:
        """The grids of a mix, chosen so that they cost least in its bytes."""
        context, recipe = self.context, self.context.recipe

        def work(folder: Path, done: Finished) -> None:
            from edgedistill.recover.choose import fit_mix
            from edgedistill.recover.sensitivity import read_table

            costs, table = self._read_costs(done), read_table(done.folder("sensitivity"))
            student, validation = done.folder(self.float_student), self._validation(done, mix.tokens)
            fit_mix(student, validation, costs, table, context.shape, mix, recipe, folder, done.progress)

        settings: dict[str, Json] = {
            "fit": recipe.recover.fit,
            "seq_len": recipe.recover.seq_len,
            "tokens": mix.tokens,
            "grids": list(mix.candidates),
            "bytes": mix_bytes(context.shape, mix),
        }
        inputs = (*self._fit_inputs(), "sensitivity")
        name = fit_stage(mix)
        return Stage(name, "fit", work, settings, inputs, mix=mix.name, estimate=self.estimates.fit(mix))

    def recover(self, mix: Mix) -> Stage:
        """The student on its grid."""
        context, recipe = self.context, self.context.recipe

        def work(folder: Path, done: Finished) -> None:
            from edgedistill.recover.stage import recover
            from edgedistill.signals.shards import iter_shards, load_sources

            captured = done.folder("capture")
            training, validation = list(iter_shards(captured / "train")), load_sources(captured, "validation")
            costs, formats = self._read_costs(done), assign_formats(context.shape, chosen_mix(mix, done))
            student = done.folder(self.float_student)
            recover(student, training, validation, costs, mix.name, formats, recipe, folder, done.progress)

        settings = settings_of(recipe.recover)
        # Budgets and rates go in as this mix has them; the fit's budget is that of the stage that measures costs.
        for name in ("tokens_by_mix", "rate_by_mix", "fit_tokens"):
            del settings[name]
        settings |= {
            "tokens": recipe.recover.tokens_of(mix.name),
            "rate": recipe.recover.rate_by_mix.get(mix.name),
            **mix_settings(context, mix),
        }
        inputs = (*self._fit_inputs(), *fit_inputs(mix))
        name = f"recover-{mix.name}"
        return Stage(name, "recover", work, settings, inputs, mix=mix.name, estimate=self.estimates.recover(mix))

    def _fit_inputs(self) -> tuple[str, ...]:
        costs = (self.costs_stage,) if self.costs_stage else ()
        return (self.float_student, "capture", *costs)

    def _read_costs(self, done: Finished) -> "Mapping[str, Costs] | None":
        """What `quant.fit.fit_costs` takes, by tensor."""
        from edgedistill.recover.curvature import CurvatureFiles
        from edgedistill.recover.fisher import load_fisher
        from edgedistill.teach.capture import load_importance

        if self.costs_stage == "curvature":
            return CurvatureFiles(done.folder("curvature"))
        if self.costs_stage is not None:
            return load_fisher(done.folder(self.costs_stage))
        return load_importance(done.folder("capture")) if self.context.recipe.recover.fit == "importance" else None

    def _validation(self, done: Finished, tokens: int) -> "list[Example]":
        from edgedistill.data.spread import spread_sources
        from edgedistill.signals.shards import load_sources

        sources = load_sources(done.folder("capture"), "validation")
        sample = spread_sources(sources, tokens, self.context.recipe.recover.seq_len)
        return [example for examples in sample.values() for example in examples]


def fit_stage(mix: Mix) -> str:
    """The stage that chooses a mix's grids."""
    return f"fit-{mix.name}"


def fit_inputs(mix: Mix) -> tuple[str, ...]:
    """What a stage that works with a mix reads to know its grids."""
    return (fit_stage(mix),) if mix.unfitted else ()


def mix_settings(context: Context, mix: Mix) -> dict[str, Json]:
    """A mix in a stage's settings; the grids of one that is yet to be fitted are in the stage that chooses them."""
    formats = None if mix.unfitted else names_of(assign_formats(context.shape, mix))
    return {"mix": mix.name, "formats": formats}


def chosen_mix(mix: Mix, done: Finished) -> Mix:
    """The mix with its grids chosen."""
    if not mix.unfitted:
        return mix
    return done.once(fit_stage(mix), partial(_with_grids, mix, done.folder(fit_stage(mix))))


def _with_grids(mix: Mix, folder: Path) -> Mix:
    from edgedistill.recover.choose import read_grids

    return replace(mix, chosen=read_grids(folder))


def _held_out_text(context: Context) -> Teach:
    """The `teach` part of a recipe that writes chats to judge on and nothing else."""
    teach = context.recipe.teach
    changes = {
        "prompts": OWN_PROMPTS,
        "prompt_field": None,
        "tokens": context.recipe.measure.tokens,
        "free_tokens": 0,
        "text_tokens": 0,
        "text": None,
        "answers": "teacher",
        "seed": derived_seed(teach.seed, "chats to judge on"),
    }
    return teach.model_copy(update=changes)
