"""The curvature of all layers in one pass over the text, with one layer's weights and matrices in memory at a time.

`curvature.measure_curvature` keeps the whole model in memory and goes over the text once for as many layers as it has
memory for. This goes forward through the model a layer at a time and writes what each layer reads to the disk; then
back from the last layer to the first: a layer runs again with its graph, shows its inputs and gradients, and hands the
gradients at its inputs on. So it costs a second forward pass and no others, and it is what models take whose matrices
don't fit in one pass. The matrices of layers are those of the other way, to float32's rounding of their sums; of each
the lower triangle is kept.

What it leaves on the disk while it works is a state of the text for each layer that is still to come:
4 · tokens · width bytes each.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from edgedistill.data.packing import Batch
from edgedistill.losses.head import head_loss
from edgedistill.losses.own_sample import OwnSample
from edgedistill.progress import Progress
from edgedistill.recover.curvature import PARTS, Meter, Tables
from edgedistill.recover.scores import ScoredText
from edgedistill.store.whole import whole
from edgedistill.train.forward import batches, by_document, compute_in, compute_type
from edgedistill.train.layered import LayeredModel, Started, arguments_of, called, kept_of
from edgedistill.train.lean import lean

STATES = "states"
STATE, GRADIENT = "state-{:05d}.safetensors", "gradient-{:05d}.safetensors"
HEAD_SUM = "head"
Call = tuple[tuple[Any, ...], dict[str, Any]]  # a layer's arguments beside the state


def measure_layered_curvature(student: Path, text: ScoredText, work: Path, progress: Progress) -> None:
    """Write `curvature-*.safetensors`, a file for each layer and one for the tables, as `measure_curvature` does.

    Args:
        student: the float student's folder.
        text: what is read.
        work: the stage's folder; a killed run's states and matrices in it are gone on with.
        progress: where it is shown.
    """
    _Measurement(student, text, work, progress).run()


@dataclass(frozen=True)
class _Disk:
    """What lies in the stage's folder while it works: a file for the text's states before each layer, and one for the
    gradients at the newest layer's inputs.
    """

    folder: Path

    def save(self, name: str, number: int, tensors: dict[str, Tensor]) -> None:
        self.folder.mkdir(exist_ok=True)
        with whole(self.folder / name.format(number)) as file:
            save_file(tensors, file)

    def numbers(self, name: str) -> list[int]:
        """Of the files of a name, in order."""
        pattern = name.replace("{:05d}", "*")
        return sorted(int(path.stem.rpartition("-")[2]) for path in self.folder.glob(pattern))

    def load(self, name: str, number: int) -> dict[str, Tensor]:
        return load_file(self.folder / name.format(number))

    def states(self, number: int) -> Iterator[Tensor]:
        """What a layer reads of each batch, one in memory at a time."""
        with safe_open(self.folder / STATE.format(number), "pt") as file:
            for index in range(len(file.keys())):
                yield file.get_tensor(str(index)).clone()

    def remove(self, name: str, number: int) -> None:
        (self.folder / name.format(number)).unlink(missing_ok=True)

    def remove_all(self) -> None:
        for path in self.folder.glob("*"):
            path.unlink()
        if self.folder.is_dir():
            self.folder.rmdir()


class _Measurement:
    """One measurement."""

    def __init__(self, student: Path, text: ScoredText, work: Path, progress: Progress) -> None:
        self.model = LayeredModel(student, device=text.device)
        self.text, self.work, self.progress = text, work, progress
        self.dtype = compute_type(text.compute)
        plain = [document.with_signal() for document in text.documents]
        self.batches: list[Batch] = [batch for batch, _ in batches(plain, text.seq_len, 2, text.device)]
        self.layers = len(self.model.layers)
        self.disk = _Disk(work / STATES)
        self.tables = Tables(self.model.model, self.model.device)
        self.scored = sum(len(batch.kept) for batch in self.batches)

    def run(self) -> None:
        self.progress.start("how errors add up in each layer", 2 * self.layers, "layers")
        with by_document(self.model.model), lean(self.model.model):
            if not (self.work / PARTS.format(0)).is_file():
                self._measure()
        self.disk.remove_all()
        self.progress.finish()

    def _measure(self) -> None:
        with torch.no_grad():
            started = self._started(self._embedded())
        calls = [each.calls for each in started]
        states = [each.state for each in started]
        del started
        if self.disk.numbers(GRADIENT):  # a killed run's
            self.progress.advance(2 * self.layers - self.disk.numbers(GRADIENT)[0])
        else:
            self._head(self._forward(states, calls))
        del states
        at = self.disk.numbers(GRADIENT)[0]
        newest = self.disk.load(GRADIENT, at)
        self.tables.head.total += newest.pop(HEAD_SUM).to(self.model.device)
        gradients = [newest.pop(str(index)).to(self.model.device) for index in range(len(self.batches))]
        for number in reversed(range(at)):
            self._backward(number, gradients, calls)
            self.progress.advance(1)
        self._embedding(gradients)

    def _embedded(self) -> list[Tensor]:
        return self.model.embedded([batch.tokens for batch in self.batches])

    def _started(self, embedded: Sequence[Tensor]) -> list[Started]:
        with compute_in(self.dtype, self.model.device):
            return [
                self.model.start(state, arguments_of(batch))
                for state, batch in zip(embedded, self.batches, strict=True)
            ]

    @torch.no_grad()
    def _forward(self, states: list[Tensor], calls: Sequence[Sequence[Call]]) -> list[Tensor]:
        """What the last layer makes of the text; each layer's input goes to the disk."""
        there = self.disk.numbers(STATE)
        first = len(there) - 1 if there == list(range(len(there))) and there else 0
        if first:  # a killed run's
            states = [state.to(self.model.device) for state in self.disk.states(first)]
        self.progress.advance(first)
        for number in range(first, self.layers):
            self.disk.save(STATE, number, _by_index(states))
            with self.model.layer(number) as layer, compute_in(self.dtype, self.model.device):
                for index, call in enumerate(calls):
                    states[index] = called(layer, states[index], call[number])
            self.progress.advance(1)
        return states

    def _head(self, states: list[Tensor]) -> None:
        """The gradients at the last layer's outputs, of a token drawn for each position."""
        drawn, weight = OwnSample(self.text.seed), self.model.head().to(self.dtype)
        for index, batch in enumerate(self.batches):
            state = states[index].requires_grad_()
            with compute_in(self.dtype, self.model.device):
                hidden = kept_of(self.model, self.model.model.model.norm(state), batch, self.dtype)
            # The loss is a mean; the gradients of its sum are those of single tokens.
            (head_loss(hidden, weight, drawn) * len(batch.kept)).backward()  # type: ignore[no-untyped-call]
            self.tables.see_head(hidden.detach(), torch.cat(drawn.spread))
            drawn.spread.clear()
            states[index] = _gradient(state)
        self.disk.save(GRADIENT, self.layers, {**_by_index(states), HEAD_SUM: self.tables.head.total.cpu()})
        self.tables.head.total.zero_()  # it is read again with the gradients

    def _backward(self, number: int, gradients: list[Tensor], calls: Sequence[Sequence[Call]]) -> None:
        """A layer's matrices, and the gradients at its inputs in the place of those at its outputs."""
        at = f"model.layers.{number}"
        linear = {
            f"{at}.{n}.weight": m for n, m in self.model.layers[number].named_modules() if isinstance(m, nn.Linear)
        }
        meters = {name: Meter(module.in_features, self.model.device) for name, module in linear.items()}
        real = torch.empty(0, dtype=torch.int64)

        def watch(meter: Meter) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
            def forward(_layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
                here, rows = real, inputs[0].detach().flatten(0, 1)[real]
                output.register_hook(lambda gradient: meter.see(rows, gradient.flatten(0, 1)[here]))

            return forward

        handles = [module.register_forward_hook(watch(meters[name])) for name, module in linear.items()]
        with self.model.layer(number) as layer:
            for index, stored in enumerate(self.disk.states(number)):
                state, real = stored.to(self.model.device), self.batches[index].read
                with compute_in(self.dtype, self.model.device):
                    output = called(layer, state.requires_grad_(), calls[index][number])
                output.backward(gradients[index])  # type: ignore[no-untyped-call]
                del output
                gradients[index] = _gradient(state)
        for handle in handles:
            handle.remove()
        self._save(number + 1, {name: (meter, self.scored) for name, meter in meters.items()})
        newest = {**_by_index(gradients), HEAD_SUM: self.tables.head.total.cpu()}
        self.disk.save(GRADIENT, number, newest)
        self.disk.remove(GRADIENT, number + 1)
        self.disk.remove(STATE, number)

    def _embedding(self, gradients: Sequence[Tensor]) -> None:
        """The tables' matrices, of the gradients at the first layer's inputs."""
        for state, batch, gradient in zip(self._embedded(), self.batches, gradients, strict=True):
            with compute_in(self.dtype, self.model.device):
                first = self.model.start(state.requires_grad_(), arguments_of(batch)).state
            # A family may scale what its first layer reads.
            own = torch.autograd.grad(first, state, gradient)[0] if first is not state else gradient
            self.tables.see_embedding(batch.tokens, own.flatten(0, 1)[batch.read])
        rows = self.model.model.config.vocab_size
        self._save(0, {name: (meter, self.scored * rows) for name, meter in self.tables.meters.items()})

    def _save(self, number: int, meters: dict[str, tuple[Meter, int]]) -> None:
        """Write matrices, each beside the count that its sum is divided by; sums are dropped one by one."""
        tensors: dict[str, Tensor] = {}
        for name in list(meters):
            meter, count = meters.pop(name)
            tensors |= {f"{name}.{key}": tensor.cpu() for key, tensor in meter.triangle(count).items()}
            meter.total = torch.empty(0)
        with whole(self.work / PARTS.format(number)) as file:
            save_file(tensors, file)


def _by_index(states: Sequence[Tensor]) -> dict[str, Tensor]:
    return {str(index): state.detach().cpu().contiguous() for index, state in enumerate(states)}


def _gradient(state: Tensor) -> Tensor:
    """A leaf's gradient, which it loses."""
    gradient, state.grad = state.grad, None
    assert gradient is not None
    return gradient
