"""The rival that costs nothing: a model put on grids in so many bytes by a fit alone, without any training.

Grids are chosen as for an auto mix, by what each costs each group of tensors (sensitivity.py, choose.py), but from a
sample of each tensor's rows: with one curvature for all rows of a tensor, its cost is a sum over independent rows.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from edgedistill.facts import ModelShape
from edgedistill.formats import F32
from edgedistill.mixes import Group, Mix, assign_formats, flat_bytes, groups_of, mix_bytes
from edgedistill.models.load import save_side_files
from edgedistill.models.tensors import ModelTensors
from edgedistill.progress import Progress
from edgedistill.quant.checkpoint import GridCheckpoint, save_grid
from edgedistill.quant.fit import Curvature, expected_kl, fit_costs
from edgedistill.quant.grids import GridTensor
from edgedistill.quant.rounded import to_float_format
from edgedistill.recover.choose import CHOSEN, choose_grids
from edgedistill.recover.sensitivity import QUICK_PASSES, Table
from edgedistill.store.whole import write_json

STRIDE = 8  # of a tensor's rows one in so many is tried on each grid
LEAST_ROWS = 32  # that are tried of a tensor, as far as it has them


@dataclass(frozen=True)
class RivalInputs:
    """What the rival is made from.

    Attributes:
        model: the teacher's folder or GGUF file.
        shape: its shape.
        costs: the curvature of each weight.
        mix: the size that it is fitted to.
        device: what computes.
    """

    model: Path
    shape: ModelShape
    costs: Mapping[str, Curvature]
    mix: Mix
    device: str = "cpu"


def fit_rival(inputs: RivalInputs, work: Path, progress: Progress) -> None:
    """Write the model on its grids to `work`: config, tokenizer, `grid.safetensors` and `mix.json`.

    Args:
        inputs: see `RivalInputs`.
        work: the stage's folder.
        progress: where it is shown.
    """
    state = ModelTensors(inputs.model)
    groups = groups_of(inputs.shape, inputs.mix)
    table = sampled_table(state, groups, inputs.costs, progress, inputs.device)
    allowed = mix_bytes(inputs.shape, inputs.mix)
    grids = choose_grids(groups, table, allowed - flat_bytes(inputs.shape))
    formats = assign_formats(inputs.shape, Mix(inputs.mix.name, "", size=inputs.mix.size, chosen=grids))
    tensors: dict[str, GridTensor | Tensor] = {}
    progress.start("the teacher on smaller grids: fit", len(grids), "tensors")
    for name, number_format in formats.items():
        weight = state[name].float()
        if number_format is F32:
            tensors[name] = to_float_format(weight, number_format)
            continue
        fitted = fit_costs(weight.to(inputs.device), number_format.name, inputs.costs[name], QUICK_PASSES)
        tensors[name] = fitted.to("cpu")
        progress.advance(1)
    progress.finish()
    save_side_files(inputs.model, work)
    save_grid(work, GridCheckpoint(inputs.mix.name, tensors))
    predicted = sum(table[group.name][grids[group.tensors[0].name]] for group in groups)
    write_json(work / CHOSEN, {"grids": grids, "allowed_bytes": allowed, "predicted_kl": predicted})


def sampled_table(
    state: Mapping[str, Tensor],
    groups: Sequence[Group],
    costs: Mapping[str, Curvature],
    progress: Progress,
    device: str = "cpu",
) -> Table:
    """What each grid costs each group in nats a token, to second order, by a sample of each tensor's rows.

    Args:
        state: the weights by name.
        groups: with the formats to choose from.
        costs: the curvature of each weight.
        progress: where it is shown.
        device: what computes.
    """
    table: Table = {}
    progress.start("what each grid costs the teacher", sum(len(group.formats) for group in groups), "choices")
    for group in groups:
        # Read once for all grids: a curvature is larger than the rows that are tried.
        samples = [(rows.to(device), cost.to(device), share) for rows, cost, share in _samples(state, group, costs)]
        table[group.name] = {}
        for number_format in group.formats:
            total = 0.0
            for rows, curvature, share in samples:
                fitted = fit_costs(rows, number_format.name, curvature, QUICK_PASSES)
                total += expected_kl(rows, fitted, curvature) / share
            table[group.name][number_format.name] = total
            progress.advance(1)
    progress.finish()
    return table


def _samples(
    state: Mapping[str, Tensor], group: Group, costs: Mapping[str, Curvature]
) -> Iterator[tuple[Tensor, Curvature, float]]:
    """Of each tensor some rows [n, I], its curvature, and the share of the rows that these are."""
    for tensor in group.tensors:
        stride = max(1, min(STRIDE, tensor.rows // LEAST_ROWS))
        rows = state[tensor.name][::stride].float().contiguous()
        yield rows, costs[tensor.name], len(rows) / tensor.rows
