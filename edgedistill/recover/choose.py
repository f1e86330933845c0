"""A fitted mix: the grid of each group of tensors, chosen so that their KLs add up to least under a size.

Each group's KL is that of the group alone. They add up well where they are small: their errors are nearly independent,
and KL is quadratic in them. So the choice is a knapsack, and exact for those sums. What counts is the KL of all
together: it is measured for the choice and for each built-in mix that is no larger, nor much smaller, and the best of
them is taken.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgedistill.facts import ModelShape
from edgedistill.formats import F32
from edgedistill.mixes import QUANTIZED_MIXES, Group, Mix, assign_formats, fit_groups, flat_bytes, mix_bytes
from edgedistill.progress import Progress
from edgedistill.recover.knapsack import choose
from edgedistill.recover.sensitivity import QUICK_PASSES, FitInputs, Table
from edgedistill.store.whole import write_json

CHOSEN = "mix.json"
RIVALS_FROM = 0.9  # share of the size from which a built-in mix is worth measuring


def fit_mix(inputs: FitInputs, table: Table, shape: ModelShape, mix: Mix, work: Path, progress: Progress) -> None:
    """Write `mix.json`: `grids` by tensor, their size, the KL of all together, that of the mixes it was compared with,
    the table.

    Args:
        inputs: as for the table, with documents.
        table: what `measure_sensitivity` wrote, for all of the mix's candidates or more.
        shape: the student's.
        mix: one that is to be fitted.
        work: the stage's folder.
        progress: where it is shown.
    """
    groups = fit_groups(shape, mix)
    allowed = mix_bytes(shape, mix)
    ways = {"chosen": choose_grids(groups, table, allowed - flat_bytes(shape)), **_rivals(shape, mix, allowed)}
    probe = inputs.probe()
    progress.start(f"fit {mix.name}: measure the choice and its rivals", len(ways), "mixes")
    compared = {}
    for name, grids in ways.items():
        kl = probe.kl(grids, QUICK_PASSES)
        compared[name] = {"bytes": grids_bytes(shape, mix, grids), "kl": kl}
        progress.advance(1, kl=kl)
    progress.finish()
    best = min(compared, key=lambda name: compared[name]["kl"])
    write_json(
        work / CHOSEN,
        {
            "grids": ways[best],
            "taken": best,
            **compared[best],
            "allowed_bytes": allowed,
            "tokens": probe.tokens,
            "compared": compared,
            "table": {group.name: {f.name: table[group.name][f.name] for f in group.formats} for group in groups},
        },
    )


def read_grids(folder: Path) -> dict[str, str]:
    """Tensor -> grid, as `fit_mix` chose them."""
    grids: dict[str, str] = json.loads((folder / CHOSEN).read_text(encoding="utf-8"))["grids"]
    return grids


def choose_grids(groups: Sequence[Group], table: Table, allowed: int) -> dict[str, str]:
    """Tensor -> grid, of least sum of the groups' KLs in at most `allowed` bytes."""
    options = [[(group.bytes_in(f), table[group.name][f.name]) for f in group.formats] for group in groups]
    chosen = choose(options, allowed)
    return {
        t.name: group.formats[index].name for group, index in zip(groups, chosen, strict=True) for t in group.tensors
    }


def grids_bytes(shape: ModelShape, mix: Mix, grids: Mapping[str, str]) -> int:
    """Bytes of all weights with these grids."""
    return mix_bytes(shape, Mix(mix.name, "", size=mix.size, chosen=grids))


def _rivals(shape: ModelShape, mix: Mix, allowed: int) -> dict[str, dict[str, str]]:
    """The built-in mixes of about the size whose grids are all among the candidates."""
    rivals = {}
    for name in QUANTIZED_MIXES:
        grids = {tensor: f.name for tensor, f in assign_formats(shape, name).items() if f is not F32}
        if set(grids.values()) <= set(mix.candidates) and RIVALS_FROM * allowed <= mix_bytes(shape, name) <= allowed:
            rivals[name] = grids
    return rivals
