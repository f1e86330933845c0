"""The cost in KL of a squared error of each weight: the diagonal of the Fisher information of every linear layer.

For a layer y = W x it is F_oi = Σ_t (∂/∂y_o)² x_i² over tokens, taken at one token at a time (as Sung et al. 2021 and
SqueezeLLM, arXiv 2306.07629, take it by sequence): one product of squares.
An importance matrix is the same with all (∂/∂y_o)² equal, so that tokens with the largest activations count most; here
a token counts by how much it changes the output distribution.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from edgedistill.models.load import load_model
from edgedistill.progress import Progress
from edgedistill.recover.scores import ScoredText, linear_layers, watch_scores

FISHER = "fisher.safetensors"
FLOOR = 1e-6  # of a tensor's mean: an error at an input that never occurred must still cost something


def measure_fisher(student: Path, text: ScoredText, work: Path, progress: Progress) -> None:
    """Write `fisher.safetensors`: by the weight's name bfloat16 [O, I], relative to the tensor's mean.

    Args:
        student: the float student's folder.
        text: what is read; 10,000 tokens suffice for scales of 32 weights.
        work: the stage's folder.
        progress: where it is shown.
    """
    model = load_model(student, device=text.device)
    model.requires_grad_(False)
    layers = list(linear_layers(model))
    meters = {name: _Meter(layer.out_features, layer.in_features, layer.weight.device) for name, layer in layers}
    progress.start("what each weight's error costs", text.tokens, "tokens")
    watch_scores(model, text, [(layer, meters[name].see) for name, layer in layers], progress)
    progress.finish()
    save_file({name: meter.relative().cpu() for name, meter in meters.items()}, work / FISHER)


def load_fisher(folder: Path) -> dict[str, Tensor]:
    """What a squared error of each weight costs, relative to the tensor's mean: bfloat16 [O, I] by name."""
    return load_file(folder / FISHER)


class _Meter:
    """Sum over tokens of (∂/∂y_o)² x_i² of a linear layer."""

    def __init__(self, outputs: int, inputs: int, device: torch.device) -> None:
        self.total = torch.zeros(outputs, inputs, device=device)

    def see(self, rows: Tensor, gradients: Tensor) -> None:
        self.total.addmm_(gradients.float().square_().T, rows.float().square_())

    def relative(self) -> Tensor:
        mean = self.total.mean().clamp_min(1e-30)
        return (self.total / mean).clamp_min_(FLOOR).to(torch.bfloat16)
