"""The measure stage: every packed file in its real runtime on this machine, each number with its record.

Files are measured one after the other; what is found is kept at once, and a killed stage goes on with what is missing.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from edgedistill.config.recipe import Recipe
from edgedistill.machine import machine_facts
from edgedistill.measure.answers import differences
from edgedistill.measure.artifacts import Artifact
from edgedistill.measure.items import choose_items
from edgedistill.measure.judge import Judge, make_reference
from edgedistill.measure.kept import keep, write_whole
from edgedistill.measure.layers import KINDS, Stored, layer_errors
from edgedistill.measure.row import Row, Work, artifact_record, measure_row, row_records
from edgedistill.progress import Progress
from edgedistill.records import Record

SCHEMA = "edgedistill.measure/1"
FILE = "measure.json"
DECODER = "gguf"  # what reads a file's weights for their errors


def measure(
    artifacts: Sequence[Artifact],
    judges: list[Judge],
    models: Mapping[str, Path],
    recipe: Recipe,
    command: str,
    on_target: bool,
    work: Path,
    progress: Progress,
    read_weights: Callable[[Path], Mapping[str, Stored]] | None = None,
    mean_squares: Mapping[str, Tensor] | None = None,
) -> None:
    """Write `measure.json` (schema edgedistill.measure/1) to `work`.

    Args:
        artifacts: what to measure, in the order of the table.
        judges: held-out texts.
        models: folders of the float models that the files are compared with, by "student" and "teacher".
        recipe: its `measure` part, and the style of its samples.
        command: the command line that repeats the numbers.
        on_target: whether this machine is the target.
        work: the stage's folder; what a killed run found is kept.
        progress: where it is shown.
        read_weights: reads a file's or a folder's tensors, for the errors by layer; None: these aren't wanted.
        mean_squares: of each matrix's inputs, as `layer_errors` takes them.
    """
    if (work / FILE).is_file():
        return
    machine = machine_facts()
    asked = choose_items(recipe.measure, models["student"], progress)
    references = {
        name: make_reference(model, judges, work / f"{name}.safetensors", f"float {name}", progress) for name, model in models.items()
    }
    around = Work(judges, references, asked, recipe, work, progress)
    found = [measure_row(artifact, number, around) for number, artifact in enumerate(artifacts)]
    _add_differences(found)
    rows = [one.row for one in found]
    records = [record for artifact, row in zip(artifacts, rows, strict=True) for record in row_records(artifact, row, machine, command)]
    layers = {} if read_weights is None else _layers(artifacts, models["student"], read_weights, mean_squares, work, progress)
    records += _layer_records(artifacts, layers, machine, command)
    result = {
        "schema": SCHEMA,
        "machine": machine,
        "on_target": on_target,
        "judges": [{"name": j.name, "source": j.source, "tokens": j.tokens} for j in judges],
        "task_sets": asked.to_list(),
        "rows": rows,
        "recovered": recovered_shares(rows, [j.name for j in judges]),
        "layers": layers,
        "layers_by": ("inputs" if mean_squares else "weights") if layers else None,
        "samples": [
            {"prompt": prompt, "answers": {one.row["label"]: one.samples[prompt] for one in found}} for prompt in recipe.measure.prompts
        ],
        "records": [record.to_dict() for record in records],
    }
    write_whole(work / FILE, result, indent=1)
    for name in models:
        (work / f"{name}.safetensors").unlink()  # a model's output matrix each: no reader needs them again


def recovered_shares(rows: Sequence[dict[str, Any]], judges: Sequence[str]) -> dict[str, Any]:
    """By mix and judge: `kl_share` = 1 − KL(recovered)/KL(rounded), and `ppl_share`, the same of the rise over the float student.

    Both files in llama.cpp, KL to the float student.
    """
    by_kind = {(row["kind"], row["mix"]): row["quality"] for row in rows if row["runtime"] == "llama.cpp"}
    float_quality = by_kind.get(("float", None))
    shares: dict[str, Any] = {}
    for (kind, mix), quality in by_kind.items():
        rounded = by_kind.get(("rounded", mix))
        if kind != "recovered" or rounded is None:
            continue
        for judge in judges:
            before, after = rounded[judge], quality[judge]
            share: dict[str, float | None] = {"kl_share": None, "ppl_share": None}
            if before["kl_student_mean"] > 0:
                share["kl_share"] = 1 - after["kl_student_mean"] / before["kl_student_mean"]
            if float_quality is not None and before["ppl"] > float_quality[judge]["ppl"]:
                share["ppl_share"] = (before["ppl"] - after["ppl"]) / (before["ppl"] - float_quality[judge]["ppl"])
            shares.setdefault(mix, {})[judge] = share
    return shares


def _add_differences(found: Sequence[Row]) -> None:
    """Give every row but the float one its paired differences from that."""
    base = next((one for one in found if one.row["kind"] == "float"), None)
    for one in found:
        if base is not None and one is not base and (pairs := differences(base.bits, one.bits)):
            one.row["differences"] = pairs


def _layers(
    artifacts: Sequence[Artifact],
    student: Path,
    read_weights: Callable[[Path], Mapping[str, Stored]],
    mean_squares: Mapping[str, Tensor] | None,
    work: Path,
    progress: Progress,
) -> dict[str, list[dict[str, Any]]]:
    """By mix: its matrices' errors, of the files in llama.cpp."""
    found = {}
    for mix in dict.fromkeys(a.mix for a in artifacts if a.mix is not None):
        paths = {a.kind: a.path for a in artifacts if (a.mix, a.runtime) == (mix, "llama.cpp") and a.kind in KINDS}

        def errors(mix: str = mix, paths: Mapping[str, Path] = paths) -> list[dict[str, Any]]:
            files = {kind: read_weights(path) for kind, path in paths.items()}
            progress.start(f"{mix}: errors by layer", len(next(iter(files.values()))), "tensors")
            made = layer_errors(read_weights(student), files, mean_squares, progress)
            progress.finish()
            return made

        if paths:
            found[mix] = keep(work / f"layers-{mix}.json", errors)
    return found


def _layer_records(
    artifacts: Sequence[Artifact], layers: Mapping[str, Sequence[Mapping[str, Any]]], machine: dict[str, Any], command: str
) -> list[Record]:
    """One a file, of its errors' mean: a record for each matrix would be most of the report."""
    records = []
    for artifact in artifacts:
        if artifact.runtime == "llama.cpp" and artifact.kind in KINDS and artifact.mix is not None:
            errors = [entry[artifact.kind] for entry in layers.get(artifact.mix, ()) if entry[artifact.kind] is not None]
            if errors:
                mean = math.fsum(errors) / len(errors)
                records.append(artifact_record(artifact, "layer errors, mean", mean, "share", DECODER, machine, command))
    return records
