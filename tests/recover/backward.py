"""One backward pass of the score that the measured costs are made of, in float64 by transformers and torch alone."""

from pathlib import Path

import torch

from edgedistill.data.example import Example
from edgedistill.losses.own_sample import OwnSample
from edgedistill.models.load import load_model


def inputs_and_gradients(folder: Path, document: Example, layer: str, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A linear layer's inputs [n, I] and the gradients at its outputs [n, O], with the tokens that `OwnSample(seed)`
    draws.
    """
    model = load_model(folder).double()
    seen = {}

    def keep(_module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        output.retain_grad()
        seen.update(x=inputs[0], y=output)

    model.get_submodule(layer).register_forward_hook(keep)
    logits = model(document.tokens.long().unsqueeze(0)).logits[0, :-1]
    _, grad = OwnSample(seed).loss_and_grad(logits.detach().float(), 0)
    labels = (torch.softmax(logits, -1) - grad).argmax(-1)
    torch.nn.functional.cross_entropy(logits, labels, reduction="sum").backward()
    return seen["x"][0].detach(), seen["y"].grad[0]
