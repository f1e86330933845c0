"""A mix whose grids are chosen by a stage: what other stages read of it, and put into their keys."""

from dataclasses import replace
from functools import partial
from pathlib import Path

from edgedistill.mixes import Mix, assign_formats
from edgedistill.pipeline.context import Context, names_of
from edgedistill.pipeline.stage import Finished, Json


def fit_stage(mix: Mix) -> str:
    """The stage that chooses a mix's grids."""
    return f"fit-{mix.name}"


def fit_inputs(mix: Mix) -> tuple[str, ...]:
    """What a stage that works with a mix reads to know its grids."""
    return (fit_stage(mix),) if mix.unfitted else ()


def mix_settings(context: Context, mix: Mix) -> dict[str, Json]:
    """A mix in a stage's settings; the grids of one that is yet to be fitted are in the stage that chooses them."""
    formats = None if mix.unfitted else names_of(assign_formats(context.shape, mix))
    return {"mix": mix.name, "formats": formats}


def chosen_mix(mix: Mix, done: Finished) -> Mix:
    """The mix with its grids chosen."""
    if not mix.unfitted:
        return mix
    return done.once(fit_stage(mix), partial(_with_grids, mix, done.folder(fit_stage(mix))))


def _with_grids(mix: Mix, folder: Path) -> Mix:
    from edgedistill.recover.choose import read_grids

    return replace(mix, chosen=read_grids(folder))
