"""Measures two files of the tiny llama in a process that a test may kill: `python -m tests.measure.stage_child FOLDER WORK`."""

import sys
from pathlib import Path

import torch

from edgedistill.config.recipe import Recipe
from edgedistill.export.weights import open_weights
from edgedistill.measure.artifacts import Artifact
from edgedistill.measure.judge import Judge
from edgedistill.measure.stage import measure
from edgedistill.progress import QuietProgress
from edgedistill.signals.shards import Document


def artifacts(folder: Path) -> list[Artifact]:
    """The float model and its rounded and recovered files, as tests/measure/test_stage.py writes them."""
    files = (("float", None, "float.gguf"), ("rounded", "q4_0", "rounded.gguf"), ("recovered", "q4_0", "recovered.gguf"))
    return [Artifact.of(name, name, mix, "llama.cpp", folder / file, folder) for name, mix, file in files]


def recipe(folder: Path, **measure: object) -> Recipe:
    """A recipe with few of everything."""
    settings = {"prompts": ("The old cat",), "prefill": 32, "decode": 16, "repetitions": 2, "threads": 1, "refusal_items": 3,
                "tasks": ("openbookqa", str(folder / "own.jsonl")), "task_items": 6}  # fmt: skip
    return Recipe(schema="edgedistill.recipe/1", name="small", measure={**settings, **measure}, teach={"style": "chat"})


def run(folder: Path, work: Path, **settings: object) -> None:
    """Measure them."""
    torch.manual_seed(0)
    documents = tuple(Document(torch.randint(3, 300, (60,), dtype=torch.int32), 4, {}) for _ in range(3))
    weights = lambda path: open_weights(path).tensors  # noqa: E731
    models = {"student": folder / "model"}
    judges = [Judge("random", "made up", documents)]
    measure(artifacts(folder), judges, models, recipe(folder, **settings), "a command", False, work, QuietProgress(), weights)


if __name__ == "__main__":
    run(Path(sys.argv[1]), Path(sys.argv[2]))
