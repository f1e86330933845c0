"""Measures two files of the tiny llama in a process that a test may kill: `python -m tests.measure.stage_child FOLDER
WORK`.
"""

import sys
from pathlib import Path

import torch

from edgedistill.config.recipe import Recipe
from edgedistill.data.example import counted_from
from edgedistill.export.weights import open_weights
from edgedistill.measure.artifacts import read_artifact
from edgedistill.measure.items import choose_items
from edgedistill.measure.join import Setting, join_rows, load_files, save_measurement
from edgedistill.measure.judge import Judge, make_reference
from edgedistill.measure.layers import load_layers, measure_layers, save_layers
from edgedistill.measure.row import RowInputs, measure_row
from edgedistill.measure.speed import time_files
from edgedistill.progress import QuietProgress
from edgedistill.results.row import Artifact


def artifacts(folder: Path) -> list[Artifact]:
    """The float model and its rounded and recovered files, as tests/measure/test_measurement.py writes them."""
    files = (
        ("float", None, "float.gguf"),
        ("rounded", "q4_0", "rounded.gguf"),
        ("recovered", "q4_0", "recovered.gguf"),
    )
    return [read_artifact(name, name, mix, "llama.cpp", folder / file, folder) for name, mix, file in files]


def recipe(folder: Path, **measure: object) -> Recipe:
    """A recipe with few of everything."""
    settings = {
        "prompts": ("The old cat",),
        "prefill": 32,
        "decode": 16,
        "repetitions": 2,
        "threads": 1,
        "refusal_items": 3,
        "tasks": ("openbookqa", str(folder / "own.jsonl")),
        "task_items": 6,
    }
    return Recipe(schema="edgedistill.recipe/1", name="small", measure={**settings, **measure}, teach={"style": "chat"})


def run(folder: Path, work: Path, **settings: object) -> None:
    """Measure them, each stage in a folder of its own below `work`, as pipeline/judging.py does."""
    torch.manual_seed(0)
    documents = tuple(counted_from(torch.randint(3, 300, (60,), dtype=torch.int32), 4) for _ in range(3))
    small, judges, quiet = recipe(folder, **settings), [Judge("random", "made up", documents)], QuietProgress()
    items = choose_items(small.measure, folder / "model", quiet)
    files = artifacts(folder)
    places = {name: work / name for name in ("reference", "speeds", "layers", *(f"row-{file.label}" for file in files))}
    for place in places.values():
        place.mkdir(exist_ok=True)
    reference = make_reference(folder / "model", judges, places["reference"] / "student.safetensors", "student", quiet)
    rows = [places[f"row-{file.label}"] for file in files]
    for file, place in zip(files, rows, strict=True):
        measure_row(file, RowInputs(judges, {"student": reference}, items, small, place, quiet))
    time_files(files, small, places["speeds"], quiet)
    tensors = {file.kind: open_weights(file.path).tensors for file in files if file.mix}
    floats = open_weights(folder / "model").tensors
    save_layers(measure_layers(floats, tensors, None, "q4_0", quiet), places["layers"])
    setting = Setting(judges, items, small.measure.prompts, "a command", on_target=False)
    layers = {"q4_0": load_layers(places["layers"])}
    save_measurement(join_rows(load_files(files, rows, places["speeds"]), layers, setting), work)


if __name__ == "__main__":
    run(Path(sys.argv[1]), Path(sys.argv[2]))
