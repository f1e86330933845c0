"""The recover stage of a budget of 0 tokens: the fit ships as it is, and no more than a layer of the model is in memory
beside the packed weights.

Its files are those of a training without steps, to the byte.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from operator import methodcaller
from pathlib import Path
from typing import Generic, TypeVar

from torch import Tensor

from edgedistill.config.recover import Recover
from edgedistill.data.example import Example
from edgedistill.facts import EMBEDDING, HEAD
from edgedistill.formats import F32, NumberFormat
from edgedistill.models.tensors import ModelTensors
from edgedistill.progress import Progress
from edgedistill.quant.checkpoint import GridCheckpoint
from edgedistill.quant.fit import Costs
from edgedistill.quant.grids import GridTensor
from edgedistill.quant.latent import GridLinear, Learned
from edgedistill.quant.rounded import RoundedTensors
from edgedistill.recover.distance import layered_kl
from edgedistill.recover.kept_fit import FIT, keep_fit, load_fit
from edgedistill.train.layered import LayeredModel
from edgedistill.train.validation import ValidationLoss

Stored = TypeVar("Stored")


class WhenRead(Mapping[str, Tensor], Generic[Stored]):
    """Tensors of which each is made of what is stored when it is read, so that no two need be in memory."""

    def __init__(self, stored: Mapping[str, Stored], make: Callable[[Stored], Tensor]) -> None:
        """Take what is stored, and what makes a tensor of it."""
        self.stored, self.make = stored, make

    def __getitem__(self, name: str) -> Tensor:
        return self.make(self.stored[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.stored)

    def __len__(self) -> int:
        return len(self.stored)


@dataclass(frozen=True)
class FitOnly:
    """What is fitted, for one mix.

    Attributes:
        student: the float student's folder.
        validation: by source, documents with the float student's `hidden` states.
        costs: what `fit_costs` takes, by tensor; None for ggml's own fit.
        mix: the mix's name.
        formats: its number formats by tensor.
        decides: the sources of `validation` that the losses are means over; all if empty.
        device: what computes.
    """

    student: Path
    validation: Mapping[str, list[Example]]
    costs: Mapping[str, Costs] | None
    mix: str
    formats: Mapping[str, NumberFormat]
    decides: tuple[str, ...] = ()
    device: str = "cpu"


@dataclass(frozen=True)
class Fitted:
    """Both checkpoints, and how far each is from the float student on the validation text."""

    fitted: GridCheckpoint
    of_fitted: ValidationLoss
    rounded: GridCheckpoint
    of_rounded: ValidationLoss


def fit_only(inputs: FitOnly, settings: Recover, work: Path, progress: Progress) -> Fitted:
    """Fit a mix and measure it beside plain rounding.

    Args:
        inputs: see `FitOnly`.
        settings: the recipe's part.
        work: the stage's folder; a fit that a killed run left in it is gone on with.
        progress: where it is shown.
    """
    weights, mix, seq_len = ModelTensors(inputs.student), inputs.mix, settings.seq_len
    rounded = RoundedTensors(weights, inputs.formats)
    table = LayeredModel(inputs.student, device=inputs.device).head()
    progress.start(f"{mix}: validate plain rounding", 1, "model")
    of_rounded = _distance(rounded, inputs, table, seq_len)
    progress.advance(1, kl=of_rounded.loss)
    on_device = WhenRead(weights, methodcaller("to", inputs.device))
    keep_fit(work / FIT, on_device, inputs.formats, inputs.costs, mix, progress)
    trained = settings.trained(mix, of_rounded.loss)
    learned = Learned("weights" in trained, low_rank=settings.low_rank)
    tensors: dict[str, GridTensor | Tensor] = dict(load_fit(work / FIT))
    for name, number_format in inputs.formats.items():
        start = tensors.get(name)
        if number_format is F32 or start is None:
            tensors[name] = rounded[name]
        elif learned.weights and name not in (EMBEDDING, HEAD) and isinstance(start, GridTensor):
            # A latent weight between two codes chooses for itself.
            tensors[name] = GridLinear(weights[name].float(), start, learned).encode()
    progress.start(f"{mix}: validate the fit", 1, "model")
    of_fitted = _distance(tensors, inputs, table, seq_len)
    progress.advance(1, kl=of_fitted.loss)
    progress.finish()
    ordered = {name: tensors[name] for name in inputs.formats}
    return Fitted(GridCheckpoint(mix, ordered), of_fitted, GridCheckpoint(mix, rounded), of_rounded)


def _decoded(tensor: GridTensor | Tensor) -> Tensor:
    """A weight as the runtimes see it, float32."""
    return tensor.decode() if isinstance(tensor, GridTensor) else tensor.float()


def _distance(
    tensors: Mapping[str, GridTensor | Tensor], inputs: FitOnly, table: Tensor, seq_len: int
) -> ValidationLoss:
    """The KL of the model with these weights to the float student, whose output matrix is `table`."""
    model = LayeredModel(inputs.student, WhenRead(tensors, _decoded), inputs.device)
    return layered_kl(model, inputs.validation, table, seq_len, inputs.decides)
