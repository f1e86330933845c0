"""A float student with some weights rounded to a grid, and how far that moves its predictions.

The distance is KL(float ‖ rounded) over the whole vocabulary at every kept position, in nats per token. All layers
before the first rounded one are the float student's and run once: each layer's inputs are kept (tokens · layers · width
· 4 bytes), and so are the float logits (tokens · vocabulary · 4 bytes).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgedistill.data.example import Example
from edgedistill.data.packing import Batch
from edgedistill.facts import EMBEDDING
from edgedistill.mixes import layer_of
from edgedistill.models.load import load_model
from edgedistill.quant.descent import PASSES
from edgedistill.quant.fit import Costs, fit_costs
from edgedistill.recover.place import costs_of
from edgedistill.train.forward import batches, by_document, kept_hidden

ROWS = 64  # positions whose logits are compared at a time


class Probe:
    """The student, float32."""

    @torch.no_grad()
    def __init__(
        self,
        student: Path,
        documents: Sequence[Example],
        seq_len: int,
        costs: Mapping[str, Costs] | None,
        device: str = "cpu",
    ) -> None:
        """Run the float student over the documents.

        Args:
            student: its folder.
            documents: what it is judged on; their signals aren't used.
            seq_len: tokens a packed row.
            costs: what `fit_costs` takes, by tensor; None for ggml's own fit.
            device: what computes.
        """
        self.model = load_model(student, device=device)
        self.costs = costs
        self.parameters = dict(self.model.named_parameters())
        self.layers: list[nn.Module] = list(self.model.model.layers)
        self.scale = float(getattr(self.model.config, "logits_scaling", 1.0))
        plain = [document.with_signal() for document in documents]
        self.runs = [_Run(self, batch) for batch, _ in batches(plain, seq_len, 2, self.model.device)]
        self.tokens = sum(len(run.batch.kept) for run in self.runs)

    @torch.no_grad()
    def on_grid(self, name: str, grid: str, passes: int) -> Tensor:
        """A tensor as the grid's fit makes it, decoded: what recovery would start from."""
        return fit_costs(self.parameters[name].detach(), grid, costs_of(name, self.costs), passes).decode()

    @torch.no_grad()
    def kl(self, grids: Mapping[str, str], passes: int = PASSES) -> float:
        """The distance with these tensors on these grids and all others in float; `passes` as for `fit_costs`."""
        kept = {name: self.parameters[name].data for name in grids}
        try:
            for name, grid in grids.items():
                self.parameters[name].data = self.on_grid(name, grid, passes)
            first = min((self._first_layer(name) for name in grids), default=len(self.layers))
            return sum(run.kl(self, first) for run in self.runs) / self.tokens
        finally:
            for name, weight in kept.items():
                self.parameters[name].data = weight

    def head(self) -> Tensor:
        """The output matrix in use [V, D]."""
        return self.model.get_output_embeddings().weight  # type: ignore[no-any-return]

    def _first_layer(self, name: str) -> int:
        """The first layer whose inputs or weights a tensor changes; -1 for the embedding, their count for the output
        matrix.
        """
        layer = layer_of(name)
        if layer is not None:
            return layer
        return -1 if name == EMBEDDING else len(self.layers)


class _Run:
    """One batch: what each layer was given, and the float student's logits."""

    def __init__(self, probe: Probe, batch: Batch) -> None:
        self.batch = batch
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

        def keep(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self.calls.append((args, kwargs))

        hooks = [layer.register_forward_pre_hook(keep, with_kwargs=True) for layer in probe.layers]
        self.hidden = kept_hidden(probe.model, batch, torch.float32)
        for hook in hooks:
            hook.remove()
        self.logits = self.hidden @ probe.head().T

    def kl(self, probe: Probe, first: int) -> float:
        """Sum over kept positions, all layers from `first` on run anew."""
        if first < 0:
            hidden = kept_hidden(probe.model, self.batch, torch.float32)
        elif first == len(probe.layers):
            hidden = self.hidden
        else:
            hidden = self._resume(probe, first)
        head, total = probe.head(), 0.0
        for start in range(0, len(hidden), ROWS):
            total += kl_sum(self.logits[start : start + ROWS], hidden[start : start + ROWS] @ head.T)
        return total

    def _resume(self, probe: Probe, first: int) -> Tensor:
        states: Tensor = self.calls[first][0][0]
        with by_document(probe.model):
            for layer, (args, kwargs) in zip(probe.layers[first:], self.calls[first:], strict=True):
                output = layer(states, *args[1:], **kwargs)
                states = output[0] if isinstance(output, tuple) else output
        return probe.model.model.norm(states).flatten(0, 1)[self.batch.kept] / probe.scale  # type: ignore[no-any-return]


def kl_sum(reference: Tensor, other: Tensor) -> float:
    """Sum over rows of KL(softmax(reference) ‖ softmax(other)), both [n, V] logits, in nats.

    With d = reference − other it is log E[exp(E[d] − d)] under the reference, which loses no digits where the two are
    close.
    """
    log_p = torch.log_softmax(reference, -1)
    p = log_p.exp()
    difference = reference - other
    difference -= (p * difference).sum(-1, keepdim=True)
    # Where the other gives much to what the reference gives nearly nothing, exp would overflow before p brings it back.
    far = difference.amin(-1) < -60
    close = torch.log1p((p * torch.expm1(-difference.clamp(min=-60))).sum(-1))
    kl = torch.where(far, torch.logsumexp(log_p - difference, -1), close) if bool(far.any()) else close
    return float(kl.double().clamp_min(0).sum())
