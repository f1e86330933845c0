"""Sources: a teacher's view of a batch (its logits, log-probabilities or hidden states), wherever that comes from.
Trainings take any of them.

A source whose teacher has other padding rows in its table than the student has (Qwen2.5: 152,064 and 151,936 rows, the
same words) goes through `Shared`, which leaves the rows that both have.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from edgedistill.data.packing import Batch
from edgedistill.errors import RunError
from edgedistill.losses.blocks import Attending, BlockNeeds, BlockOutputs
from edgedistill.losses.teachers import ExactTeacher, LiveLogits, Teacher, TopKTeacher, WrittenText


class Source(Protocol):
    """What is known of a teacher at a batch's kept positions."""

    def view(self, batch: Batch) -> Teacher:
        """What it says of the batch's N kept positions, in their order."""
        ...


@dataclass(frozen=True)
class StoredTopK:
    """The teacher's likeliest tokens, as the batch's signals `ids` and `log_probs` hold them."""

    def view(self, batch: Batch) -> TopKTeacher:
        """See `Source`."""
        return TopKTeacher(batch.signal["ids"], batch.signal["log_probs"])


@dataclass(frozen=True)
class StoredHidden:
    """The teacher's whole distribution, by the batch's signal `hidden` and the teacher's output matrix.

    Attributes:
        weight: [V, D].
        dtype: of the products; `weight` has it.
    """

    weight: Tensor
    dtype: torch.dtype

    def view(self, batch: Batch) -> ExactTeacher:
        """See `Source`."""
        return ExactTeacher(batch.signal["hidden"].to(self.dtype), self.weight)


@dataclass(frozen=True)
class Written:
    """The text's own next tokens."""

    def view(self, batch: Batch) -> WrittenText:
        """See `Source`."""
        return WrittenText(batch.labels)


@dataclass(frozen=True)
class Shared:
    """Another source, on the first `rows` rows of its teacher's table; its probabilities sum up to 1 over these.

    Of the likeliest tokens, those beyond `rows` are dropped and their mass is shared out; then every position keeps as
    many as the one with the fewest, so that the others lose their least likely ones to the rest.
    """

    source: Source
    rows: int

    def view(self, batch: Batch) -> Teacher:
        """See `Source`.

        Raises:
            RunError: at some position all of the likeliest tokens lie beyond `rows`.
        """
        teacher = self.source.view(batch)
        if isinstance(teacher, ExactTeacher):
            return ExactTeacher(teacher.hidden, teacher.weight[: self.rows])
        if isinstance(teacher, LiveLogits):
            return LiveLogits(teacher.all_logits[:, : self.rows])
        if isinstance(teacher, TopKTeacher):
            return self._top_k(teacher)
        return teacher

    def _top_k(self, teacher: TopKTeacher) -> TopKTeacher:
        beyond = teacher.ids >= self.rows
        if not bool(beyond.any()):
            return teacher
        fewest = teacher.ids.shape[1] - int(beyond.sum(-1).max())
        if not fewest:
            raise RunError(
                f"a teacher's {teacher.ids.shape[1]} likeliest tokens at some position all lie beyond the {self.rows} "
                "rows that the student has too; raise top_k, or take a student with the teacher's tokenizer"
            )
        log_probs = teacher.log_probs.float()
        dropped = log_probs.exp().masked_fill(~beyond, 0.0).sum(-1, keepdim=True)
        # The kept ones first, in their order, which is that of their probabilities.
        order = beyond.to(torch.int8).argsort(dim=-1, stable=True)[:, :fewest]
        kept = log_probs.gather(-1, order) - torch.log1p(-dropped.clamp_max(1 - 1e-6))
        return TopKTeacher(teacher.ids.gather(-1, order), kept)


class BlockSource(Protocol):
    """What is known of a teacher's blocks."""

    def blocks(self, batch: Batch) -> BlockOutputs:
        """Their hidden states at the batch's kept positions, and what attends at all of its positions."""
        ...


SIDES = ("queries", "keys", "values")


def state_name(layer: int) -> str:
    """What the stored hidden states of a layer are called."""
    return f"state-{layer}"


def side_name(side: str, block: int) -> str:
    """What a block's stored queries, keys or values are called."""
    return f"{side}-{block}"


@dataclass(frozen=True)
class StoredBlocks:
    """A teacher's blocks, as the batch's signals hold them."""

    needs: BlockNeeds

    def blocks(self, batch: Batch) -> BlockOutputs:
        """See `BlockSource`."""
        states = {layer: batch.signal[state_name(layer)] for layer in self.needs.states}
        attention = {
            block: Attending(*(batch.every[side_name(side, block)] for side in SIDES)) for block in self.needs.attention
        }
        return BlockOutputs(states, attention)


@dataclass(frozen=True)
class LiveBlocks:
    """A teacher beside the student, whose forward pass is run for each batch.

    Attributes:
        forward: a batch's forward pass of the frozen teacher.
    """

    forward: Callable[[Batch], BlockOutputs]

    def blocks(self, batch: Batch) -> BlockOutputs:
        """See `BlockSource`."""
        with torch.no_grad():
            return self.forward(batch)


def views(sources: Mapping[str, Source], needs: frozenset[str], batch: Batch) -> dict[str, Teacher]:
    """What each of the sources that are needed says of a batch."""
    return {name: sources[name].view(batch) for name in sorted(needs)}
