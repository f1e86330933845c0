"""Capture a model's own distribution on documents: its last hidden states, which with its output matrix are exact.

Recovery compares the student on its grid with the float student at every token, many times over; the float side never
changes, so it runs once. On the way it sees every linear layer's inputs, whose mean squares are what the
importance-weighted fit needs.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from edgedistill.models.load import load_model
from edgedistill.progress import Progress
from edgedistill.signals.shards import Document, save_shard, shard_path
from edgedistill.train.forward import COMPUTE, batches, kept_hidden

IMPORTANCE = "importance.safetensors"
DONE = "captured.json"


@torch.no_grad()
def capture(
    model_path: Path, splits: Sequence[tuple[str, Sequence[Document]]], seq_len: int, compute: str, work: Path, progress: Progress,
    keep: Sequence[str] = (),
) -> None:
    """Write `SPLIT/signals-*.safetensors` with `hidden` rows, and `importance.safetensors` ([I] mean squares by tensor).

    Args:
        model_path: the float student.
        splits: (name, documents); importance comes from the first.
        seq_len: tokens a packed row; longer documents are cut.
        compute: "float32" or "bfloat16".
        keep: signals that the documents have and that go with the new one.
        work: the stage's folder. A split that a killed run finished is not done again.
    """
    model = load_model(model_path)
    for position, (name, documents) in enumerate(splits):
        folder = work / name
        if (folder / DONE).is_file():
            continue
        folder.mkdir(exist_ok=True)
        real = _Mask()
        meters = _watch_inputs(model, real) if position == 0 else []
        captured: dict[int, Document] = {}
        progress.start(f"capture the float student on {name} text", sum(min(len(d.tokens), seq_len) for d in documents), "tokens")
        for batch, order in batches(documents, seq_len, rows_per_batch=2):
            real.mask = batch.real
            hidden = kept_hidden(model, batch, COMPUTE[compute]).to(torch.bfloat16)
            row = 0
            for index in order:
                tokens = documents[index].tokens[:seq_len]
                kept = max(0, len(tokens) - 1 - documents[index].first)
                if kept:
                    signal = {name: documents[index].signal[name][:kept] for name in keep}
                    signal["hidden"] = hidden[row : row + kept].clone()
                    captured[index] = Document(tokens, documents[index].first, signal)
                row += kept
            progress.advance(sum(min(len(documents[i].tokens), seq_len) for i in order))
        progress.finish()
        save_shard(shard_path(folder, 0), [captured[i] for i in sorted(captured)])
        if meters:
            save_file({meter.name: meter.mean() for meter in meters}, work / IMPORTANCE)
            for meter in meters:
                meter.remove()
        (folder / DONE).write_text(json.dumps({"documents": len(captured)}), encoding="utf-8")


def spread_documents(documents: Sequence[Document], tokens: int, seq_len: int) -> list[Document]:
    """Documents of about `tokens` tokens in all, taken evenly over the list; all of them if they have no more."""
    total = sum(min(len(d.tokens), seq_len) for d in documents)
    if total <= tokens:
        return list(documents)
    share = tokens / total
    return [d for i, d in enumerate(documents) if int((i + 1) * share) > int(i * share)]


def load_importance(folder: Path) -> dict[str, Tensor]:
    """Mean square of each linear layer's inputs, [I] float32 by the weight's name."""
    return load_file(folder / IMPORTANCE)


class _Meter:
    """Running mean square of a linear layer's inputs."""

    def __init__(self, name: str, layer: nn.Linear, real: "_Mask") -> None:
        self.name = f"{name}.weight"
        self.real = real
        self.total = torch.zeros(layer.in_features)
        self.rows = 0
        self._handle = layer.register_forward_pre_hook(self._see)

    def _see(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        rows = inputs[0].detach()[self.real.mask].float()
        self.total += rows.square().sum(0)
        self.rows += len(rows)

    def mean(self) -> Tensor:
        return self.total / max(1, self.rows)

    def remove(self) -> None:
        self._handle.remove()


class _Mask:
    """Which positions of the batch at hand are text: padding's activations are nobody's inputs."""

    mask: Tensor


def _watch_inputs(model: nn.Module, real: _Mask) -> list[_Meter]:
    layers = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Linear) and name != "lm_head"]
    return [_Meter(name, layer, real) for name, layer in layers]
