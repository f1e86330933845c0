"""The stages of the rival that costs nothing: the teacher on grids in the student's bytes, by a fit alone.

    teach ─► rival-curvature ─► rival-fit ─► rival-gguf ─► its row, beside all others

They read the teacher where it lies and never beside the student, so the most memory that a run takes is the larger of
the two.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from edgedistill.licences import UNKNOWN
from edgedistill.machine import compute_of
from edgedistill.mixes import groups_of
from edgedistill.pipeline.context import Context
from edgedistill.pipeline.estimate import Estimates
from edgedistill.pipeline.stage import Finished, Json, Stage
from edgedistill.pipeline.stage_memory import curvature_is_layered
from edgedistill.plan.rival import CURVATURE_STAGE, FILE_STAGE, FIT_STAGE, RivalPlan, rival_mix

# Text on which the teacher's curvature is measured: a quarter of what a fit that ships gets, for grids need less.
TOKENS = 4_096
RIVAL_FORMAT = 1  # how the rival is made: one more where that changes, so that it is made again


@dataclass(frozen=True)
class RivalStages:
    """The stages of a run's rival; `rival` is its plan."""

    context: Context
    rival: RivalPlan

    @cached_property
    def estimates(self) -> Estimates:
        """What they take: the context's estimates with the teacher in the student's place."""
        recipe = self.context.recipe
        fit = recipe.recover.model_copy(update={"fit": "curvature", "fit_tokens": self._tokens})
        changed = recipe.model_copy(update={"recover": fit})
        return Estimates(replace(self.context, recipe=changed, shape=self.context.facts.shape))

    def all(self) -> list[Stage]:
        """All of them, in order."""
        return [self._curvature(), self._fit(), self._file()]

    @property
    def _tokens(self) -> int:
        return min(TOKENS, self.context.recipe.recover.fit_tokens)

    @property
    def _bytes(self) -> int:
        return max(self.rival.allowed_bytes, self.rival.least_bytes)

    def _curvature(self) -> Stage:
        context, recover = self.context, self.context.recipe.recover
        layered = curvature_is_layered(context.facts.shape)

        def work(folder: Path, done: Finished) -> None:
            from edgedistill.data.spread import spread_documents
            from edgedistill.recover.curvature import measure_curvature
            from edgedistill.recover.layered_curvature import measure_layered_curvature
            from edgedistill.recover.scores import ScoredText
            from edgedistill.signals.shards import load_split

            taught = load_split(done.folder("teach"), "train")
            chosen = spread_documents(taught, self._tokens, recover.seq_len)
            text = ScoredText(chosen, recover.seq_len, recover.compute, recover.seed, context.device)
            measure = measure_layered_curvature if layered else measure_curvature
            measure(done.locate(context.teacher_files.place), text, folder, done.progress)

        settings: dict[str, Json] = {
            "tokens": self._tokens,
            "seq_len": recover.seq_len,
            "compute": compute_of(recover.compute),
            "seed": recover.seed,
        }
        if layered:
            settings["layered"] = True
        outside = {"teacher": context.teacher_files}
        return Stage(CURVATURE_STAGE, "costs", work, settings, ("teach",), outside, estimate=self.estimates.costs())

    def _fit(self) -> Stage:
        context, teacher = self.context, self.context.facts.shape
        mix = rival_mix(self._bytes)

        def work(folder: Path, done: Finished) -> None:
            from edgedistill.recover.curvature import CurvatureFiles
            from edgedistill.recover.rival import RivalInputs, fit_rival

            costs = CurvatureFiles(done.folder(CURVATURE_STAGE))
            model = done.locate(context.teacher_files.place)
            fit_rival(RivalInputs(model, teacher, costs, mix, context.device), folder, done.progress)

        settings: dict[str, Json] = {"format": RIVAL_FORMAT, "bytes": self._bytes, "grids": list(mix.candidates)}
        outside = {"teacher": context.teacher_files}
        estimate = self.estimates.rival(groups_of(teacher, mix), self._bytes)
        return Stage(FIT_STAGE, "rival", work, settings, (CURVATURE_STAGE,), outside, estimate=estimate)

    def _file(self) -> Stage:
        context = self.context
        fitted = "the smallest grids" if self.rival.excess_bytes else f"fitted to {self.rival.mix}'s bytes"
        metadata = context.metadata(fitted, "rival") | {"name": context.facts.name}
        if context.start is not None:
            metadata["license"] = context.facts.license or UNKNOWN

        def work(folder: Path, done: Finished) -> None:
            from edgedistill.export.exports import export_recovered

            texts = {key: str(value) for key, value in metadata.items()}
            level = context.recipe.measure.accuracy_level
            export_recovered("gguf", done.folder(FIT_STAGE), context.facts.shape, folder, texts, level)

        settings: dict[str, Json] = {"metadata": metadata}
        written = self.estimates.written()
        estimate = replace(written, disk_bytes=self.rival.planned.file_bytes)
        return Stage(FILE_STAGE, "written", work, settings, (FIT_STAGE,), estimate=estimate)
