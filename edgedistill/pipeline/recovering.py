"""The stages from the float student to the student on its grid: its view of the text, what errors cost, which grids to
take, the training on them.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from edgedistill.config.recover import MEASURED
from edgedistill.config.validation import MOST_TOKENS
from edgedistill.machine import compute_of
from edgedistill.mixes import Group, Mix, assign_formats, groups_of, measured_once, mix_bytes
from edgedistill.pipeline.chosen_mix import chosen_mix, fit_inputs, fit_stage, mix_settings
from edgedistill.pipeline.context import Context, settings_of
from edgedistill.pipeline.estimate import Estimates
from edgedistill.pipeline.files import exported, rounded
from edgedistill.pipeline.on_policy import OnPolicyRounds
from edgedistill.pipeline.stage import Finished, Json, Stage
from edgedistill.pipeline.stage_memory import curvature_is_layered

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgedistill.data.example import Example
    from edgedistill.quant.fit import Costs

# What the files of a measured fit hold of a weight: part of the stage's key, so that one which lacks it isn't read.
KEPT: dict[str, list[Json]] = {
    "curvature": ["correlation", "diagonal", "scale"],
    "layered": ["triangle", "diagonal", "scale"],
    "fisher": ["weight"],
}


@dataclass(frozen=True)
class RecoveryStages:
    """The stages of one run that put its float student on grids."""

    context: Context

    @cached_property
    def estimates(self) -> Estimates:
        """What they take."""
        return Estimates(self.context)

    @property
    def costs_stage(self) -> str | None:
        """The stage that measures what errors of the weights cost, where the fit has that measured."""
        fit = self.context.recipe.recover.fit
        return fit if fit in MEASURED else None

    def all(self) -> list[Stage]:
        """From the float student to the packed files of all mixes, in order."""
        context = self.context
        stages = [self.capture()]
        if self.costs_stage:
            stages.append(self.costs())
        unfitted = [mix for mix in context.mixes if mix.unfitted]
        if unfitted:
            stages.append(self.sensitivity(unfitted))
            stages += [self.fit(mix) for mix in unfitted]
        for mix in context.mixes:
            stages += [rounded(context, mix, context.float_student), self.recover(mix)]
            stages += [exported(context, kind, mix) for kind in context.recipe.export]
        return stages

    def capture(self) -> Stage:
        """The float student's own distribution, and its inputs' importance."""
        context, recover = self.context, self.context.recipe.recover
        # Hidden states in full precision: against q8_0, whose KL is thousandths, rounding the teacher would show.
        compute, seq_len = "float32", recover.seq_len
        keep = ("ids", "log_probs") if recover.compares else ()
        # A budget beyond the text goes over it again, and needs no other capture.
        budgets = [recover.fit_tokens, *map(recover.tokens_of, context.recipe.mixes)]
        tokens = min(self.estimates.text.budget, max(budgets))
        # As many as any budget is validated on, so that another budget finds the same capture.
        validated = max([MOST_TOKENS, *(mix.tokens for mix in self.context.mixes if mix.unfitted)])

        def work(folder: Path, done: Finished) -> None:
            from edgedistill.data.packing import counting_sources
            from edgedistill.data.spread import spread_documents, spread_sources
            from edgedistill.signals.shards import SOURCE_NAMES, load_sources, load_split
            from edgedistill.teach.capture import CaptureSettings, capture

            taught = done.folder(self.context.float_text)
            training = spread_documents(load_split(taught, "train"), tokens, seq_len)
            validation = counting_sources(load_sources(taught, "validation"), seq_len, "recover.seq_len")
            validation = spread_sources(validation, validated, seq_len)
            splits = [("train", training)]
            splits += [(f"{source}validation", validation[n]) for source, n in SOURCE_NAMES.items() if n in validation]
            capture_settings = CaptureSettings(seq_len, compute, keep, context.device)
            capture(done.folder(self.context.float_student), splits, capture_settings, folder, done.progress)

        settings: dict[str, Json] = {
            "seq_len": seq_len,
            "compute": compute,
            "tokens": tokens,
            "validation_tokens": validated,
            "keep": list(keep),
        }
        inputs = (self.context.float_text, self.context.float_student)
        return Stage("capture", "capture", work, settings, inputs, estimate=self.estimates.capture())

    def costs(self) -> Stage:
        """What errors of the weights cost; named as the fit that has it measured."""
        recover = self.context.recipe.recover
        layered = recover.fit == "curvature" and curvature_is_layered(self.context.shape)

        def work(folder: Path, done: Finished) -> None:
            from edgedistill.data.spread import spread_documents
            from edgedistill.recover.curvature import measure_curvature
            from edgedistill.recover.fisher import measure_fisher
            from edgedistill.recover.layered_curvature import measure_layered_curvature
            from edgedistill.recover.scores import ScoredText
            from edgedistill.signals.shards import iter_shards

            captured = list(iter_shards(done.folder("capture") / "train"))
            chosen = spread_documents(captured, recover.fit_tokens, recover.seq_len)
            student = done.folder(self.context.float_student)
            whole = measure_curvature if recover.fit == "curvature" else measure_fisher
            measure = measure_layered_curvature if layered else whole
            text = ScoredText(chosen, recover.seq_len, recover.compute, recover.seed, self.context.device)
            measure(student, text, folder, done.progress)

        settings: dict[str, Json] = {
            "tokens": recover.fit_tokens,
            "seq_len": recover.seq_len,
            "compute": compute_of(recover.compute),
            "seed": recover.seed,
            "kept": KEPT["layered" if layered else recover.fit],
        }
        inputs = (self.context.float_student, "capture")
        return Stage(recover.fit, "costs", work, settings, inputs, estimate=self.estimates.costs())

    def sensitivity(self, mixes: "Sequence[Mix]") -> Stage:
        """What each grid costs each group of tensors, for all mixes whose grids are to be chosen."""
        recipe = self.context.recipe
        once = measured_once(mixes)
        groups: tuple[Group, ...] = tuple(groups_of(self.context.shape, once))
        # Curvature predicts costs without another look at the text.
        predicted = recipe.recover.fit == "curvature"

        def work(folder: Path, done: Finished) -> None:
            from edgedistill.recover.sensitivity import FitInputs, measure_sensitivity

            documents = None if predicted else self._validation(done, once.tokens)
            costs = self._read_costs(done)
            student = done.folder(self.context.float_student)
            inputs = FitInputs(student, documents, costs, recipe.recover.seq_len, self.context.device)
            measure_sensitivity(inputs, groups, folder, done.progress)

        settings: dict[str, Json] = {
            "fit": recipe.recover.fit,
            "seq_len": recipe.recover.seq_len,
            "tokens": None if predicted else once.tokens,
            "choices": {group.name: [f.name for f in group.formats] for group in groups},
        }
        estimate = self.estimates.sensitivity(groups, once.tokens)
        return Stage("sensitivity", "sensitivity", work, settings, self._fit_inputs(), estimate=estimate)

    def fit(self, mix: Mix) -> Stage:
        """The grids of a mix, chosen so that they cost least in its bytes."""
        context, recipe = self.context, self.context.recipe

        def work(folder: Path, done: Finished) -> None:
            from edgedistill.recover.choose import fit_mix
            from edgedistill.recover.sensitivity import FitInputs, read_table

            costs, table = self._read_costs(done), read_table(done.folder("sensitivity"))
            student, validation = done.folder(self.context.float_student), self._validation(done, mix.tokens)
            inputs = FitInputs(student, validation, costs, recipe.recover.seq_len, context.device)
            fit_mix(inputs, table, context.shape, mix, folder, done.progress)

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
        context, recipe, part = self.context, self.context.recipe, self.context.recipe.recover
        rounds = OnPolicyRounds(context, part.on_policy, part.compares, part.seq_len, part.step_tokens)

        def work(folder: Path, done: Finished) -> None:
            from edgedistill.recover.mix_training import RecoverInputs, recover
            from edgedistill.signals.shards import iter_shards, load_sources

            captured = done.folder("capture")
            training, validation = list(iter_shards(captured / "train")), load_sources(captured, "validation")
            costs, formats = self._read_costs(done), assign_formats(context.shape, chosen_mix(mix, done))
            student = done.folder(self.context.float_student)
            author = rounds.on_grid(student, training, folder, done)
            inputs = RecoverInputs(
                student,
                training,
                validation,
                costs,
                mix.name,
                formats,
                author=author,
                decides=context.deciding_text,
                device=context.device,
            )
            recover(inputs, recipe.recover, folder, done.progress)

        settings = settings_of(recipe.recover)
        # Budgets and rates go in as this mix has them; the fit's budget is that of the stage that measures costs.
        for name in ("tokens_by_mix", "rate_by_mix", "fit_tokens"):
            del settings[name]
        settings |= {
            "tokens": recipe.recover.tokens_of(mix.name),
            "rate": recipe.recover.rate_by_mix.get(mix.name),
            **mix_settings(context, mix),
        }
        if context.deciding_text:
            settings["decides"] = list(context.deciding_text)
        inputs = (*self._fit_inputs(), *fit_inputs(mix), *rounds.inputs)
        name = f"recover-{mix.name}"
        return Stage(name, "recover", work, settings, inputs, mix=mix.name, estimate=self.estimates.recover(mix))

    def _fit_inputs(self) -> tuple[str, ...]:
        costs = (self.costs_stage,) if self.costs_stage else ()
        return (self.context.float_student, "capture", *costs)

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
