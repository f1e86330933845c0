"""What joins rows: speeds, taken of all files in turn; errors by layer, of a mix's files; and measure.json, which has
it all.

A row is a stage of its own (stages/judging.py says what its key hashes): a file that was judged is never judged again,
whatever else the run compares it with. Speeds are another matter: see speed.py.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from edgedistill.config.recipe import Recipe
from edgedistill.machine import machine_facts
from edgedistill.measure.answers import differences
from edgedistill.measure.artifacts import Artifact
from edgedistill.measure.items import Asked
from edgedistill.measure.judge import Judge
from edgedistill.measure.kept import keep, write_whole
from edgedistill.measure.layers import KINDS, Stored, layer_errors
from edgedistill.measure.row import ROW, artifact_record, context_of, open_runtime, row_records, threads_of
from edgedistill.measure.speed import Trial, summary, time_once
from edgedistill.progress import Progress
from edgedistill.results.record import Record

SCHEMA = "edgedistill.measure/1"
FILE, SPEEDS, LAYERS = "measure.json", "speeds.json", "layers.json"
DECODER = "gguf"  # what reads a file's weights for their errors


def time_files(artifacts: Sequence[Artifact], recipe: Recipe, work: Path, progress: Progress) -> None:
    """Time packed files in turn, `measure.repetitions` rounds of all, and write `speeds.json` ({label: speed}) to
    `work`.

    What a killed start has timed isn't timed again.
    """
    settings = recipe.measure
    rounds = settings.repetitions

    def trial(artifact: Artifact) -> Trial:
        with open_runtime(artifact.runtime, artifact.path, threads_of(recipe), context_of(recipe)) as model:
            return time_once(model, settings.prefill, settings.decode)

    progress.start("time the files in turn", rounds * len(artifacts), "trials")
    found: dict[str, list[Trial]] = {artifact.label: [] for artifact in artifacts}
    for number in range(rounds):
        for artifact in artifacts:
            kept = work / f"round-{number:02d}-{artifact.sha256[:16]}.json"
            found[artifact.label].append(keep(kept, partial(trial, artifact)))
            progress.advance(1)
    progress.finish()
    write_whole(work / SPEEDS, {label: summary(trials) for label, trials in found.items()})


def find_layers(
    files: Mapping[str, Path],
    student: Path,
    read_weights: Callable[[Path], Mapping[str, Stored]],
    mean_squares: Mapping[str, Tensor] | None,
    mix: str,
    work: Path,
    progress: Progress,
) -> None:
    """Write a mix's errors by layer to `layers.json` in `work`: {"by": "inputs" or "weights", "tensors": as
    `layer_errors` gives them}.

    Args:
        files: the mix's GGUF files, by kind.
        student: the float student's folder.
        read_weights: reads a file's or a folder's tensors.
        mean_squares: of each matrix's inputs, as `layer_errors` takes them.
        mix: its name, for the progress.
        work: the stage's folder.
        progress: where it is shown.
    """
    read = {kind: read_weights(path) for kind, path in files.items() if kind in KINDS}
    progress.start(f"{mix}: errors by layer", len(next(iter(read.values()))), "tensors")
    made = layer_errors(read_weights(student), read, mean_squares, progress)
    progress.finish()
    write_whole(work / LAYERS, {"by": "inputs" if mean_squares else "weights", "tensors": made})


def join_rows(
    artifacts: Sequence[Artifact],
    rows: Sequence[Path],
    speeds: Path,
    layers: Mapping[str, Path],
    judges: Sequence[Judge],
    asked: Asked,
    recipe: Recipe,
    command: str,
    on_target: bool,
    work: Path,
) -> None:
    """Write `measure.json` (schema edgedistill.measure/1) to `work`.

    Args:
        artifacts: what was measured, in the order of the table.
        rows: the folder of each one's row.
        speeds: the folder with all speeds.
        layers: the folder of each mix's errors by layer; empty where nobody looked.
        judges: held-out texts.
        asked: questions and requests.
        recipe: its `measure` part.
        command: the command line that repeats the numbers.
        on_target: whether this machine is the target.
        work: the stage's folder.
    """
    machine = machine_facts()
    timed = _read(speeds / SPEEDS)
    found = [_read(folder / ROW) for folder in rows]
    errors = {mix: _read(folder / LAYERS) for mix, folder in layers.items()}
    tensors = {mix: each["tensors"] for mix, each in errors.items()}
    table = [_table_row(artifact, one, timed[artifact.label]) for artifact, one in zip(artifacts, found, strict=True)]
    base = next((one for artifact, one in zip(artifacts, found, strict=True) if artifact.kind == "float"), None)
    others = [(row, one) for row, one in zip(table, found, strict=True) if base is not None and one is not base]
    comparisons = sum(len(base["bits"].keys() & one["bits"].keys()) for _, one in others) if base is not None else 0
    for row, one in others:
        pairs = differences(base["bits"], one["bits"], comparisons) if base is not None else {}
        if pairs:
            row["differences"] = pairs
    records = [
        record
        for artifact, row in zip(artifacts, table, strict=True)
        for record in row_records(artifact, row, machine, command)
    ]
    records += _layer_records(artifacts, tensors, machine, command)
    result = {
        "schema": SCHEMA,
        "machine": machine,
        "on_target": on_target,
        "judges": [{"name": j.name, "source": j.source, "tokens": j.tokens} for j in judges],
        "task_sets": asked.to_list(),
        "rows": table,
        "recovered": recovered_shares(table, [j.name for j in judges]),
        "layers": tensors,
        "layers_by": next((each["by"] for each in errors.values()), None),
        "samples": [
            {
                "prompt": prompt,
                "answers": {a.label: one["samples"][prompt] for a, one in zip(artifacts, found, strict=True)},
            }
            for prompt in recipe.measure.prompts
        ],
        "records": [record.to_json() for record in records],
    }
    write_whole(work / FILE, result, indent=1)


def _table_row(artifact: Artifact, found: Mapping[str, Any], speed: Mapping[str, Any]) -> dict[str, Any]:
    """A row as measure.json has it: what a file is called and where it lies, and what was found of it."""
    return {
        "label": artifact.label,
        "kind": artifact.kind,
        "mix": artifact.mix,
        "runtime": artifact.runtime,
        "file": artifact.file,
        "file_bytes": artifact.file_bytes,
        "sha256": artifact.sha256,
        "quality": found["quality"],
        "speed": dict(speed),
        **{key: found[key] for key in ("worst", "tasks", "refusals") if found[key]},
    }


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def recovered_shares(rows: Sequence[dict[str, Any]], judges: Sequence[str]) -> dict[str, Any]:
    """By mix and judge: `kl_share` = 1 − KL(recovered)/KL(rounded), and `ppl_share`, the same of the rise over the
    float student.

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


def _layer_records(
    artifacts: Sequence[Artifact],
    layers: Mapping[str, Sequence[Mapping[str, Any]]],
    machine: dict[str, Any],
    command: str,
) -> list[Record]:
    """One a file, of its errors' mean: a record for each matrix would be most of the report."""
    records = []
    for artifact in artifacts:
        if artifact.runtime == "llama.cpp" and artifact.kind in KINDS and artifact.mix is not None:
            errors = [
                entry[artifact.kind] for entry in layers.get(artifact.mix, ()) if entry[artifact.kind] is not None
            ]
            if errors:
                mean = math.fsum(errors) / len(errors)
                records.append(
                    artifact_record(artifact, "layer errors, mean", mean, "share", DECODER, machine, command)
                )
    return records
