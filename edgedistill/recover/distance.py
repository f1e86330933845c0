"""How far a student is from the float student on held-out text: the KL over the whole vocabulary, always in float32.

The weights are the file's, exactly, and so are the products: in bfloat16 the rounding of activations alone costs about
.0009 nats a token, more than q8_0 does.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from edgedistill.data.example import Example
from edgedistill.data.packing import Batch
from edgedistill.losses.forward_kl import ForwardKL
from edgedistill.losses.head import head_loss
from edgedistill.train.forward import batches, kept_hidden
from edgedistill.train.layered import LayeredModel, layered_hidden
from edgedistill.train.validation import ValidationLoss, validate_sources


def validation_kl(
    model: PreTrainedModel,
    sources: Mapping[str, Sequence[Example]],
    teacher_weight: Tensor,
    seq_len: int,
    decides: Collection[str] = (),
) -> ValidationLoss:
    """Mean KL to the float student.

    Args:
        model: the student.
        sources: by source, examples with the float student's `hidden` states.
        teacher_weight: its output matrix, float32 [V, D].
        seq_len: tokens a packed row.
        decides: the sources that the mean is over; all if empty.
    """
    return validate_sources(sources, lambda examples: _kl_sum(model, examples, teacher_weight, seq_len), decides)


def exact_kl(model: PreTrainedModel, examples: Sequence[Example], teacher_weight: Tensor, seq_len: int) -> float:
    """The same over one list of examples, in nats per token."""
    total, weights = _kl_sum(model, examples, teacher_weight, seq_len)
    return total / weights


@torch.no_grad()
def _kl_sum(
    model: PreTrainedModel, examples: Sequence[Example], teacher_weight: Tensor, seq_len: int
) -> tuple[float, float]:
    """The KL summed over the kept tokens as they are weighted, in nats; and the sum of the weights."""
    weight = model.get_output_embeddings().weight.detach()
    packed = (batch for batch, _ in batches(examples, seq_len, 2, model.device))
    return _summed(((batch, kept_hidden(model, batch, torch.float32)) for batch in packed), weight, teacher_weight)


def layered_kl(
    model: LayeredModel,
    sources: Mapping[str, Sequence[Example]],
    teacher_weight: Tensor,
    seq_len: int,
    decides: Collection[str] = (),
) -> ValidationLoss:
    """`validation_kl` of a model with a layer in memory at a time."""

    def measure(examples: Sequence[Example]) -> tuple[float, float]:
        packed = [batch for batch, _ in batches(examples, seq_len, 2, model.device)]
        hidden = layered_hidden(model, packed, torch.float32)
        return _summed(zip(packed, hidden, strict=True), model.head(), teacher_weight)

    return validate_sources(sources, measure, decides)


@torch.no_grad()
def _summed(hidden: Iterable[tuple[Batch, Tensor]], weight: Tensor, teacher_weight: Tensor) -> tuple[float, float]:
    """The same of batches with a student's hidden states [N, D] and its output matrix."""
    total, weights = 0.0, 0.0
    for batch, rows in hidden:
        loss = ForwardKL(batch.signal["hidden"].float(), teacher_weight)
        mean = head_loss(rows, weight, loss, batch.weights)
        counted = float(batch.weights.sum())
        total, weights = total + mean.item() * counted, weights + counted
    return total, weights
