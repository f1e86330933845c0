"""A backward pass of −log q(y), with y drawn from the model itself, that shows each layer's inputs and gradients.

To second order KL(model ‖ model + Δ) = ½ Δᵀ F Δ, with F the covariance of that score's gradient (Martens 2020, arXiv
1412.1193). No gradient of any weight is needed: F is made of a layer's inputs and of the gradients at its outputs.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from edgedistill.data.example import Example
from edgedistill.losses.head import head_loss
from edgedistill.losses.own_sample import OwnSample
from edgedistill.progress import Progress
from edgedistill.train.forward import batches, compute_type, kept_hidden

# Takes rows of inputs [n, I] and of gradients at the outputs [n, O], one for each token.
See = Callable[[Tensor, Tensor], None]
# Takes what the output matrix multiplies [n, D], and its logits' squared score summed up [n].
SeeHead = Callable[[Tensor, Tensor], None]


@dataclass(frozen=True)
class ScoredText:
    """Text that a model reads once, and how.

    Attributes:
        documents: text like that which training sees.
        seq_len: tokens a packed row; longer documents are cut.
        compute: "float32" or "bfloat16".
        seed: of the tokens that are drawn from the model.
        device: what computes.
    """

    documents: Sequence[Example]
    seq_len: int
    compute: str
    seed: int
    device: str = "cpu"

    @property
    def tokens(self) -> int:
        """All tokens that are read."""
        return sum(min(len(document.tokens), self.seq_len) for document in self.documents)


def linear_layers(model: PreTrainedModel) -> Iterator[tuple[str, nn.Linear]]:
    """The linear layers by the names of their weights, from the first to the last; without the output matrix."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name != "lm_head":
            yield f"{name}.weight", module


def watch_scores(
    model: PreTrainedModel,
    text: ScoredText,
    watched: Sequence[tuple[nn.Module, See]],
    progress: Progress,
    see_head: SeeHead | None = None,
) -> int:
    """Show each watched layer its inputs and gradients, batch by batch.

    Args:
        model: with all weights frozen; backward goes down to the first watched layer.
        text: what is read.
        watched: layers, or the embedding, and what sees them.
        progress: advances by tokens.
        see_head: what sees the output matrix.
    Returns:
        How many tokens were drawn: what sums are to be divided by for a mean.
    """
    scored = 0
    real = torch.empty(0, dtype=torch.int64)

    def watch(layer: nn.Module, see: See) -> torch.utils.hooks.RemovableHandle:
        def forward(_layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            here, rows = real, inputs[0].detach().flatten(0, 1)[real]
            # A graph needs a beginning: with all weights frozen it is the first watched layer's output.
            start = output if output.requires_grad else output.requires_grad_()
            start.register_hook(lambda gradient: see(rows, gradient.flatten(0, 1)[here]))

        return layer.register_forward_hook(forward)

    handles = [watch(layer, see) for layer, see in watched]
    dtype = compute_type(text.compute)
    weight = model.get_output_embeddings().weight.detach().to(dtype)
    drawn = OwnSample(text.seed)
    plain = [document.with_signal() for document in text.documents]
    for batch, order in batches(plain, text.seq_len, 2, model.device):
        real = batch.read
        # The loss is a mean; the gradients of its sum are those of single tokens.
        hidden = kept_hidden(model, batch, dtype)
        (head_loss(hidden, weight, drawn) * len(batch.kept)).backward()  # type: ignore[no-untyped-call]
        if see_head is not None:
            see_head(hidden.detach(), torch.cat(drawn.spread))
        drawn.spread.clear()
        scored += len(batch.kept)
        progress.advance(sum(min(len(plain[index].tokens), text.seq_len) for index in order))
    for handle in handles:
        handle.remove()
    return scored
