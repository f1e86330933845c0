"""The fit that training starts from, on the disk while the stage lasts, so that a killed run goes on after the last
tensors that it fitted.

A tensor of a large model takes minutes, and all of them hours. Tensors that were fitted within some seconds are written
together as a grid checkpoint; when all tensors are fitted, one checkpoint replaces these parts.
"""

import shutil
import time
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from edgedistill.formats import NumberFormat
from edgedistill.progress import Progress
from edgedistill.quant.checkpoint import GridCheckpoint, load_grid, save_grid
from edgedistill.quant.fit import Costs, fit_costs
from edgedistill.quant.grids import GridTensor
from edgedistill.recover.place import costs_of
from edgedistill.store.whole import whole_folder

FIT = "fit"  # the folder's name in a stage's own
PART, PARTS = "part-{:05d}", "part-*"
PART_SECONDS = 5.0  # of fitting, that a kill loses at most beside the tensor at work


def keep_fit(
    folder: Path,
    state: Mapping[str, Tensor],
    formats: Mapping[str, NumberFormat],
    costs: Mapping[str, Costs] | None,
    mix: str,
    progress: Progress,
) -> None:
    """Write the quantized tensors' fit as a grid checkpoint, unless it is there.

    Args:
        folder: where it goes; its parts lie beside it until then.
        state: the model's weights.
        formats: each tensor's number format.
        costs: what `fit_costs` takes, by tensor; None for ggml's own fit.
        mix: the mix's name.
        progress: moved on by a tensor at a time.
    """
    parts = _parts_of(folder)
    if folder.is_dir():
        remove_fit_parts(folder)
        return
    parts.mkdir(parents=True, exist_ok=True)
    fitted = {name: tensor for part in sorted(parts.glob(PARTS)) for name, tensor in _read(part)}
    quantized = {name: stored for name, stored in formats.items() if stored.quantized}
    progress.start(f"{mix}: fit", len(quantized), "tensors")
    progress.advance(len(fitted))
    waiting: dict[str, GridTensor] = {}
    began = time.monotonic()
    for name, stored in quantized.items():
        if name in fitted:
            continue
        waiting[name] = fit_costs(state[name].float(), stored.name, costs_of(name, costs)).to("cpu")
        progress.advance(1)
        if time.monotonic() - began >= PART_SECONDS:
            with whole_folder(parts / PART.format(len(fitted))) as part:
                save_grid(part, GridCheckpoint(mix, waiting))
            fitted |= waiting
            waiting, began = {}, time.monotonic()
    fitted |= waiting
    with whole_folder(folder) as partial:
        save_grid(partial, GridCheckpoint(mix, {name: fitted[name] for name in quantized}))
    progress.finish()
    remove_fit_parts(folder)


def load_fit(folder: Path) -> dict[str, GridTensor]:
    """What `keep_fit` wrote."""
    return dict(_read(folder))


def remove_fit(folder: Path) -> None:
    """Drop the fit and its parts, or what a killed removal left of them."""
    if folder.is_dir():
        shutil.rmtree(folder)
    remove_fit_parts(folder)


def remove_fit_parts(folder: Path) -> None:
    """Drop the parts of a fit that is whole."""
    if _parts_of(folder).is_dir():
        shutil.rmtree(_parts_of(folder))


def _parts_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.parts")


def _read(folder: Path) -> list[tuple[str, GridTensor]]:
    tensors = load_grid(folder).tensors.items()
    return [(name, tensor) for name, tensor in tensors if isinstance(tensor, GridTensor)]
