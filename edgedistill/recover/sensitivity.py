"""Sensitivity: what each grid costs in each group of tensors, as the KL of the student with that group alone on that
grid.

Where the curvature was measured, it predicts that KL from the weights alone (`expected_kl`), with one fit a choice.
Otherwise the KL is measured on validation text against the float student, which takes several times as long and chose
no better (bench/auto_mix.py). Each result is a line on the disk before the next is begun, so that a killed run loses
one at most.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgedistill.data.example import Example
from edgedistill.mixes import Group
from edgedistill.models.tensors import ModelTensors
from edgedistill.progress import Progress
from edgedistill.quant.fit import Costs, Curvature, expected_kl, fit_costs
from edgedistill.recover.place import costs_of
from edgedistill.recover.probe import Probe
from edgedistill.store.whole import write_json

QUICK_PASSES = 2  # of the fit; more of them improve all grids alike
LINES = "measured.jsonl"
TABLE = "sensitivity.json"

Table = dict[str, dict[str, float]]  # group -> grid -> KL, nats per token
KLOf = Callable[[Sequence[str], str], float]  # of tensors' names and a grid


@dataclass(frozen=True)
class FitInputs:
    """What the choice of grids is made from.

    Attributes:
        student: the float student's folder.
        documents: validation text, as long as each choice is to be judged on; None where the costs are curvature, from
            which the table follows without text.
        costs: what `fit_costs` takes, by tensor; None for ggml's own fit.
        seq_len: tokens a packed row of the text.
        device: what computes.
    """

    student: Path
    documents: Sequence[Example] | None
    costs: Mapping[str, Costs] | None
    seq_len: int
    device: str = "cpu"

    def probe(self) -> Probe:
        """What measures a choice on the documents."""
        if self.documents is None:
            raise ValueError("a choice is measured on documents, and there are none")
        return Probe(self.student, self.documents, self.seq_len, self.costs, self.device)


def measure_sensitivity(inputs: FitInputs, groups: Sequence[Group], work: Path, progress: Progress) -> None:
    """Write `sensitivity.json`: the KL of every group in every format that it may be stored in.

    Args:
        inputs: see `FitInputs`.
        groups: `mixes.groups_of`.
        work: the stage's folder; what a killed run measured in it is not measured again.
        progress: where it is shown.
    """
    table = _read_lines(work / LINES)
    choices = [(group, number_format.name) for group in groups for number_format in group.formats]
    missing = [(group, grid) for group, grid in choices if grid not in table.get(group.name, {})]
    progress.start("what each grid costs", len(choices), "choices")
    progress.advance(len(choices) - len(missing))
    if missing:
        kl_of = _predicted(inputs) if inputs.documents is None else _measured(inputs)
        with (work / LINES).open("a", encoding="utf-8") as file:
            for group, grid in missing:
                kl = kl_of([tensor.name for tensor in group.tensors], grid)
                table.setdefault(group.name, {})[grid] = kl
                file.write(json.dumps({"group": group.name, "grid": grid, "kl": kl}) + "\n")
                file.flush()
                os.fsync(file.fileno())
                progress.advance(1)
    progress.finish()
    # In the order of the groups, whatever order two runs measured them in.
    ordered = {group.name: {f.name: table[group.name][f.name] for f in group.formats} for group in groups}
    tokens = None if inputs.documents is None else sum(document.kept for document in inputs.documents)
    write_json(work / TABLE, {"tokens": tokens, "kl": ordered})
    (work / LINES).unlink(missing_ok=True)


def _measured(inputs: FitInputs) -> KLOf:
    """Measures the KL on the documents."""
    probe = inputs.probe()
    return lambda names, grid: probe.kl(dict.fromkeys(names, grid), QUICK_PASSES)


def _predicted(inputs: FitInputs) -> KLOf:
    """Predicts the KL by the curvature, to second order."""
    state = ModelTensors(inputs.student)

    def kl_of(names: Sequence[str], grid: str) -> float:
        total = 0.0
        for name in names:
            weight, costs = state[name].to(inputs.device).float(), costs_of(name, inputs.costs)
            assert isinstance(costs, Curvature)
            curvature = costs.to(inputs.device)
            total += expected_kl(weight, fit_costs(weight, grid, curvature, QUICK_PASSES), curvature)
        return total

    return kl_of


def read_table(folder: Path) -> Table:
    """What `measure_sensitivity` wrote."""
    table: Table = json.loads((folder / TABLE).read_text(encoding="utf-8"))["kl"]
    return table


def _read_lines(path: Path) -> Table:
    """The whole lines of a run that was killed; half a line at the end is cut off."""
    table: Table = {}
    if not path.is_file():
        return table
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        path.write_bytes(whole)
    for line in whole.decode("utf-8").splitlines():
        entry = json.loads(line)
        table.setdefault(entry["group"], {})[entry["grid"]] = entry["kl"]
    return table
