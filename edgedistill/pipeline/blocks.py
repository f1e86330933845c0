"""What the student's phases look at inside the teacher: stored by a stage before they run, or asked of a teacher that
stays beside the student.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from edgedistill.config.block_terms import BlockTerm, StatesTerm
from edgedistill.config.phase import Phase
from edgedistill.machine import compute_of
from edgedistill.pipeline.block_bytes import block_bytes
from edgedistill.pipeline.context import Context
from edgedistill.pipeline.estimate import Estimates
from edgedistill.pipeline.stage import Finished, Json, Stage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgedistill.data.example import Example
    from edgedistill.distill.step import BlockTarget
    from edgedistill.losses.block_objective import BlockObjective

BLOCKS = "blocks"


@dataclass(frozen=True)
class BlockStages:
    """The stage, and what a phase takes from it."""

    context: Context

    @cached_property
    def phases(self) -> list[Phase]:
        """The phases that find stored what they look at inside the teacher."""
        if self.context.as_is or not block_bytes(self.context).stored:
            return []
        return [phase for phase in self.context.recipe.student_phases if phase.stored_blocks]

    @cached_property
    def terms(self) -> tuple[BlockTerm, ...]:
        """Their terms."""
        return tuple(term for phase in self.phases for term in phase.block_terms)

    def all(self) -> list[Stage]:
        """The stage; none where nothing is stored."""
        return [self._stage()] if self.phases else []

    def inputs(self, phase: Phase) -> tuple[str, ...]:
        """Stages that a phase reads for it."""
        return (BLOCKS,) if phase in self.phases else ()

    def target(self, phase: Phase, done: Finished) -> "BlockTarget | None":
        """What a phase compares inside the models; None where it compares nothing there."""
        if not phase.block_terms:
            return None
        from edgedistill.distill.step import BlockTarget
        from edgedistill.signals.sources import StoredBlocks
        from edgedistill.train.forward import compute_type
        from edgedistill.train.live import live_blocks

        objective = self._objective(phase.block_terms, done)
        if self.inputs(phase):
            return BlockTarget(objective, StoredBlocks(objective.teacher))
        teacher = done.locate(self.context.teacher_files.place)
        dtype = compute_type(phase.compute)
        return BlockTarget(objective, live_blocks(teacher, objective.teacher, dtype, self.context.device))

    def joined(
        self, phase: Phase, sources: "Mapping[str, Sequence[Example]]", done: Finished
    ) -> "Mapping[str, Sequence[Example]]":
        """A phase's training text by source, with what is stored of the teacher's blocks."""
        if not self.inputs(phase):
            return sources
        from edgedistill.data.packing import counting_sources
        from edgedistill.signals.blocks import join_blocks
        from edgedistill.signals.shards import SOURCE_NAMES

        needs = self._objective(phase.block_terms, done).teacher
        counted = counting_sources(sources, self._seq_len, self._place)
        folder, prefixes = done.folder(BLOCKS), {name: prefix for prefix, name in SOURCE_NAMES.items()}
        return {
            name: join_blocks(examples, folder / f"{prefixes[name]}train", needs) for name, examples in counted.items()
        }

    @property
    def _seq_len(self) -> int:
        return max(phase.seq_len for phase in self.phases)

    @property
    def _place(self) -> str:
        longest = next(phase for phase in self.phases if phase.seq_len == self._seq_len)
        return f"{self.context.recipe.place_of(self.context.recipe.phases.index(longest))}.seq_len"

    def _objective(self, terms: "Sequence[BlockTerm]", done: Finished) -> "BlockObjective":
        from edgedistill.losses.of_terms import Pairing, block_objective
        from edgedistill.models.layer_map import LayerMap, read_layer_map

        student, teacher = self.context.shape, self.context.facts.shape
        layers = LayerMap(student.layers, teacher.layers)
        if self.context.start is None:  # a cut of another model kept none of the teacher's blocks
            layers = read_layer_map(done.folder("student"), student.layers, teacher.layers)
        return block_objective(terms, Pairing(student, teacher, layers.state, layers.block))

    def _stage(self) -> Stage:
        context = self.context
        compute = compute_of(self.phases[0].compute)

        def work(folder: Path, done: Finished) -> None:
            from edgedistill.signals.shards import load_sources
            from edgedistill.teach.blocks import BlockSettings, store_blocks

            needs = self._objective(self.terms, done).teacher
            settings = BlockSettings(needs, self._seq_len, compute, self._place, context.device)
            teacher = done.locate(context.teacher_files.place)
            text = load_sources(done.folder(context.text), "train")
            store_blocks(teacher, text, settings, folder, done.progress)

        # Weights and distances change nothing of what is stored.
        looked_at: list[Json] = []
        for term in self.terms:
            entry: dict[str, Json] = term.model_dump(mode="json", exclude={"weight", "heads", "states", "relations"})
            looked_at.append(entry | {"kind": "states" if isinstance(term, StatesTerm) else "relations"})
        settings: dict[str, Json] = {"looked_at": looked_at, "seq_len": self._seq_len, "compute": compute}
        return Stage(
            BLOCKS,
            BLOCKS,
            work,
            settings,
            (context.text, "student"),
            {"teacher": context.teacher_files},
            estimate=Estimates(context).blocks(),
        )
