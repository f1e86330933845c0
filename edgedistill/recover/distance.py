"""How far a student is from the float student on held-out text: the KL over the whole vocabulary, always in float32.

The weights are the file's, exactly, and so are the products: in bfloat16 the rounding of activations alone costs about
.0009 nats a token, more than q8_0 does.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from edgedistill.data.example import Example
from edgedistill.losses.forward_kl import ForwardKL
from edgedistill.losses.head import head_loss
from edgedistill.train.forward import batches, kept_hidden
from edgedistill.train.validation import Validation, validate_sources


def validation_kl(
    model: PreTrainedModel, sources: Mapping[str, Sequence[Example]], teacher_weight: Tensor, seq_len: int
) -> Validation:
    """Mean KL to the float student.

    Args:
        model: the student.
        sources: by source, examples with the float student's `hidden` states.
        teacher_weight: its output matrix, float32 [V, D].
        seq_len: tokens a packed row.
    """
    return validate_sources(sources, lambda examples: _kl_sum(model, examples, teacher_weight, seq_len))


def exact_kl(model: PreTrainedModel, examples: Sequence[Example], teacher_weight: Tensor, seq_len: int) -> float:
    """The same over one list of examples, in nats per token."""
    total, tokens = _kl_sum(model, examples, teacher_weight, seq_len)
    return total / tokens


@torch.no_grad()
def _kl_sum(
    model: PreTrainedModel, examples: Sequence[Example], teacher_weight: Tensor, seq_len: int
) -> tuple[float, int]:
    """The KL summed over the kept tokens, in nats; and how many these are."""
    total, tokens = 0.0, 0
    weight = model.get_output_embeddings().weight.detach()
    for batch, _ in batches(examples, seq_len, rows_per_batch=2):
        loss = ForwardKL(batch.signal["hidden"].float(), teacher_weight)
        total += head_loss(kept_hidden(model, batch, torch.float32), weight, loss).item() * len(batch.kept)
        tokens += len(batch.kept)
    return total, tokens
