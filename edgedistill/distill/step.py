"""One step's loss of a phase: the student's forward pass, what is known of its teacher, and the objective."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from edgedistill.data.packing import Batch
from edgedistill.losses.block_objective import BlockObjective
from edgedistill.losses.blocks import BlockOutputs, Places
from edgedistill.losses.objective import Objective
from edgedistill.signals.sources import BlockSource, Source, views
from edgedistill.train.forward import kept_blocks, kept_hidden

FIT_STEPS = 8  # whose text projections are fitted to before the first


@dataclass(frozen=True)
class BlockTarget:
    """What is compared inside the models, and where the teacher's side comes from."""

    objective: BlockObjective
    source: BlockSource


@dataclass(frozen=True)
class StepLoss:
    """The loss of a batch.

    Attributes:
        model: the student.
        dtype: of its matrix products.
        head: [V, D] its output matrix: in that type, or where it is trained too, the float32 parameter itself.
        sources: of what is known of its teacher's distribution and of its text.
        objective: on its logits; None where nothing is.
        blocks: None where nothing inside is compared.
    """

    model: PreTrainedModel
    dtype: torch.dtype
    head: Tensor
    sources: Mapping[str, Source]
    objective: Objective | None
    blocks: BlockTarget | None = None

    def of(self, batch: Batch) -> tuple[Tensor, float]:
        """The weighted sum of the loss over a batch with its graph, and the sum of the weights."""
        if self.blocks is None:
            return self._of_logits(kept_hidden(self.model, batch, self.dtype), batch)
        hidden, ours = kept_blocks(self.model, batch, self.dtype, self.blocks.objective.student)
        theirs, places = self.blocks.source.blocks(batch), Places(batch.documents, batch.kept, batch.weights)
        inside = self.blocks.objective.summed(ours, theirs, places)
        total, weight = self._of_logits(hidden, batch)
        return total + inside, weight

    def _of_logits(self, hidden: Tensor, batch: Batch) -> tuple[Tensor, float]:
        if self.objective is None:
            return hidden.new_zeros((), dtype=torch.float32), float(batch.weights.sum())
        seen = views(self.sources, self.objective.needs, batch)
        return self.objective.step(hidden, self.head.to(self.dtype), seen, batch.weights)

    def projections(self, batches: Iterable[Batch]) -> dict[str, Tensor]:
        """Parameters that are trained beside the student's, by name; fitted to some batches."""
        if self.blocks is None:
            return {}
        self.blocks.objective.fit_projections(self._pairs(self.blocks, batches))
        return self.blocks.objective.projections

    @torch.no_grad()
    def _pairs(self, blocks: BlockTarget, batches: Iterable[Batch]) -> Iterator[tuple[BlockOutputs, BlockOutputs]]:
        for batch in batches:
            _, ours = kept_blocks(self.model, batch, self.dtype, blocks.objective.student)
            yield ours, blocks.source.blocks(batch)
