"""What a squared error of each weight costs in KL: the diagonal of the Fisher information of every linear layer.

To second order KL(model ‖ model + Δ) = ½ Δᵀ F Δ, with F the covariance of the gradient of −log q(y), y drawn from the model itself. Its
diagonal for a layer y = W x is F_oi = Σ_t (∂/∂y_o)² x_i² over tokens, taken at one token at a time (as Sung et al. 2021 and SqueezeLLM,
arXiv 2306.07629, take it by sequence): one product of squares, beside a backward pass that needs no gradient of any weight.
An importance matrix is the same with all (∂/∂y_o)² equal, which counts most the tokens whose activations are largest; here a token
counts by what it changes.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from edgedistill.losses.head import head_loss
from edgedistill.losses.own_sample import OwnSample
from edgedistill.models.load import load_model
from edgedistill.progress import Progress
from edgedistill.signals.shards import Document
from edgedistill.train.forward import COMPUTE, batches, kept_hidden

FISHER = "fisher.safetensors"
FLOOR = 1e-6  # of a tensor's mean: an input that was never seen may cost little, but not nothing


def measure_fisher(
    student: Path, documents: Sequence[Document], seq_len: int, compute: str, seed: int, work: Path, progress: Progress
) -> None:
    """Write `fisher.safetensors`: by the weight's name bfloat16 [O, I], relative to the tensor's mean.

    Args:
        student: the float student's folder.
        documents: text like that which training sees; 10,000 tokens suffice for scales of 32 weights.
        seq_len: tokens a packed row.
        compute: "float32" or "bfloat16".
        seed: of the drawn tokens.
        work: the stage's folder.
        progress: where it is shown.
    """
    model = load_model(student)
    model.requires_grad_(False)
    meters = [
        _Meter(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear) and name != "lm_head"
    ]
    # A graph needs a beginning: with all weights frozen it is the embedding's output.
    model.get_input_embeddings().register_forward_hook(lambda _module, _inputs, output: output.requires_grad_())
    dtype = COMPUTE[compute]
    weight = model.get_output_embeddings().weight.detach().to(dtype)
    drawn = OwnSample(seed)
    progress.start("what each weight's error costs", sum(min(len(d.tokens), seq_len) for d in documents), "tokens")
    for batch, order in batches([Document(d.tokens, d.first, {}) for d in documents], seq_len, rows_per_batch=2):
        for meter in meters:
            meter.real = batch.real
        # The loss is a mean; the gradients of its sum are those of single tokens.
        (head_loss(kept_hidden(model, batch, dtype), weight, drawn) * len(batch.kept)).backward()
        progress.advance(sum(min(len(documents[i].tokens), seq_len) for i in order))
    progress.finish()
    save_file({meter.name: meter.relative() for meter in meters}, work / FISHER)


def load_fisher(folder: Path) -> dict[str, Tensor]:
    """What a squared error of each weight costs, relative to the tensor's mean: bfloat16 [O, I] by name."""
    return load_file(folder / FISHER)


class _Meter:
    """Sum over tokens of (∂/∂y_o)² x_i² of a linear layer."""

    real: Tensor  # which positions of the batch at hand are text

    def __init__(self, name: str, layer: nn.Linear) -> None:
        self.name = f"{name}.weight"
        self.total = torch.zeros(layer.out_features, layer.in_features)
        layer.register_forward_hook(self._see)

    def _see(self, _layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        rows, real = inputs[0].detach()[self.real], self.real

        def add(gradient: Tensor) -> None:
            self.total.addmm_(gradient[real].float().square_().T, rows.float().square_())

        output.register_hook(add)

    def relative(self) -> Tensor:
        mean = self.total.mean().clamp_min(1e-30)
        return (self.total / mean).clamp_min_(FLOOR).to(torch.bfloat16)
