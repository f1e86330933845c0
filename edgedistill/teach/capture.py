"""Capture a model's own distribution on documents: its last hidden states, which with its output matrix are exact.

Recovery compares the student on its grid with the float student at every token, many times over. The float side never
changes, so it runs once. The same pass sums up the squares of every linear layer's inputs, for the importance-weighted
fit.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from edgedistill.data.example import Example
from edgedistill.data.packing import counting
from edgedistill.progress import Progress, QuietProgress
from edgedistill.signals.shards import save_shard, shard_path
from edgedistill.train.forward import batches, compute_type
from edgedistill.train.layered import LayeredModel, layered_hidden

IMPORTANCE = "importance.safetensors"
METERS = "meters-{}.safetensors"  # the inputs' sums of squares up to a part
PART_TOKENS = 32_768  # a kill loses less than a minute or two


@dataclass(frozen=True)
class CaptureSettings:
    """How documents are read, and what of them is stored.

    Attributes:
        seq_len: tokens a packed row; longer documents are cut.
        compute: "float32" or "bfloat16".
        keep: signals that the documents have and that go with the new one.
        device: what computes.
    """

    seq_len: int
    compute: str
    keep: Sequence[str] = ()
    device: str = "cpu"


@torch.no_grad()
def capture(
    model_path: Path,
    splits: Sequence[tuple[str, Sequence[Example]]],
    settings: CaptureSettings,
    work: Path,
    progress: Progress,
) -> None:
    """Write `SPLIT/signals-*.safetensors` with `hidden` rows, and `importance.safetensors` ([I] mean squares by
    tensor).

    Args:
        model_path: the float student.
        splits: (name, documents); importance comes from the first.
        settings: see `CaptureSettings`.
        work: the stage's folder. What a killed run wrote there, a shard for each PART_TOKENS of a split, is not done
            again.
    Raises:
        InputError: rows are so short that no document of a split reaches beyond what it was asked.
    """
    seq_len = settings.seq_len
    splits = [(name, counting(documents, seq_len, "recover.seq_len")) for name, documents in splits]
    model = LayeredModel(model_path, device=settings.device)
    real = _Mask()
    for position, (name, documents) in enumerate(splits):
        folder = work / name
        folder.mkdir(exist_ok=True)
        measured = position == 0 and not (work / IMPORTANCE).is_file()
        meters = _watch_inputs(model, real) if measured else []
        # Validation text is kept in full: rounding it would be part of every KL that a checkpoint is chosen by.
        stored = torch.bfloat16 if position == 0 else torch.float32
        parts = parts_of(documents, seq_len)
        progress.start(
            f"capture the float student on {name} text", sum(read_length(d, seq_len) for d in documents), "tokens"
        )
        for number, part in enumerate(parts):
            if not shard_path(folder, number).is_file():
                if meters and number:
                    _load_meters(meters, folder / METERS.format(number - 1))
                captured = _capture_part(model, part, settings, stored, real, progress)
                if meters:  # before the shard, whose name says that the part is done
                    _save_meters(meters, folder / METERS.format(number))
                save_shard(shard_path(folder, number), captured)
            else:
                progress.advance(sum(read_length(d, seq_len) for d in part))
        progress.finish()
        if meters:
            _load_meters(meters, folder / METERS.format(len(parts) - 1))
            _save_whole({meter.name: meter.mean().cpu() for meter in meters}, work / IMPORTANCE)
            for meter in meters:
                meter.remove()
        for left in folder.glob(METERS.format("*")):
            left.unlink()


def parts_of(documents: Sequence[Example], seq_len: int) -> list[list[Example]]:
    """The documents in order, in parts of about PART_TOKENS tokens."""
    parts: list[list[Example]] = []
    tokens = PART_TOKENS
    for document in documents:
        if tokens >= PART_TOKENS:
            parts.append([])
            tokens = 0
        parts[-1].append(document)
        tokens += read_length(document, seq_len)
    return parts


def read_length(document: Example, seq_len: int) -> int:
    """Tokens of a document that a row holds."""
    return min(len(document.tokens), seq_len)


def _capture_part(
    model: LayeredModel,
    documents: Sequence[Example],
    settings: CaptureSettings,
    stored: torch.dtype,
    real: "_Mask",
    progress: Progress,
) -> list[Example]:
    """The documents that have kept positions, in order, with the model's hidden states, stored as `stored`."""
    seq_len = settings.seq_len
    packed = list(batches(documents, seq_len, 2, model.device))
    tokens, layers = sum(read_length(document, seq_len) for document in documents), len(model.layers)

    def see(number: int) -> None:
        real.at = packed[number][0].read

    def advance(layer: int) -> None:
        progress.advance(tokens * (layer + 1) // layers - tokens * layer // layers)

    hidden = layered_hidden(model, [batch for batch, _ in packed], compute_type(settings.compute), see, advance, stored)
    captured: dict[int, Example] = {}
    for there, (_, order) in zip(hidden, packed, strict=True):
        rows, row = there.cpu(), 0
        for index in order:
            document = documents[index].cut(seq_len)
            kept = document.kept
            if kept:
                signal = {name: document.signal[name] for name in settings.keep}
                captured[index] = document.with_signal(**signal, hidden=rows[row : row + kept].clone())
            row += kept
    return [captured[i] for i in sorted(captured)]


@torch.no_grad()
def captured(model_path: Path, documents: Sequence[Example], settings: CaptureSettings) -> list[Example]:
    """Documents with a model's `hidden` states in bfloat16, as `capture` stores those of training text."""
    model = LayeredModel(model_path, device=settings.device)
    return _capture_part(model, documents, settings, torch.bfloat16, _Mask(), QuietProgress())


def load_importance(folder: Path) -> dict[str, Tensor]:
    """Mean square of each linear layer's inputs, [I] float32 by the weight's name."""
    return load_file(folder / IMPORTANCE)


class _Meter:
    """Running mean square of a linear layer's inputs."""

    def __init__(self, name: str, layer: nn.Linear, real: "_Mask", device: torch.device) -> None:
        self.name = f"{name}.weight"
        self.real = real
        self.total = torch.zeros(layer.in_features, device=device)
        self.rows = 0
        self._handle = layer.register_forward_pre_hook(self._see)

    def _see(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        rows = inputs[0].detach().flatten(0, 1)[self.real.at].float()
        self.total += rows.square().sum(0)
        self.rows += len(rows)

    def mean(self) -> Tensor:
        return self.total / max(1, self.rows)

    def remove(self) -> None:
        self._handle.remove()


def _save_meters(meters: Sequence[_Meter], path: Path) -> None:
    sums = {f"{meter.name}/total": meter.total.cpu() for meter in meters}
    _save_whole(sums | {f"{meter.name}/rows": torch.tensor(meter.rows) for meter in meters}, path)


def _load_meters(meters: Sequence[_Meter], path: Path) -> None:
    sums = load_file(path)
    for meter in meters:
        meter.total, meter.rows = sums[f"{meter.name}/total"].to(meter.total.device), int(sums[f"{meter.name}/rows"])


def _save_whole(tensors: dict[str, Tensor], path: Path) -> None:
    """Write a file whose name appears only when it is whole."""
    partial = path.with_suffix(".partial")
    save_file(tensors, partial)
    partial.replace(path)


class _Mask:
    """Which positions of the current batch are text, as `Batch.read`: padding must not count among the inputs."""

    at: Tensor


def _watch_inputs(model: LayeredModel, real: _Mask) -> list[_Meter]:
    modules = model.model.named_modules()
    layers = [(name, layer) for name, layer in modules if isinstance(layer, nn.Linear) and name != "lm_head"]
    return [_Meter(name, layer, real, model.device) for name, layer in layers]
