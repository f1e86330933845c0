"""What the planner foretells of some candidates against what is measured when they are built: order and sizes.

Run    python bench/planner.py MODEL [--recipe NAME|FILE] [--work FOLDER] [--candidates depth:27:q4_0,same:q4_0,...]
Writes bench/results/planner.json: by candidate the predicted and the measured file size, tokens/s and loss (mean KL to
       the teacher over the judged texts), the rank correlation (Spearman) of losses and of speeds, and the largest
       error of a size.

A candidate is KIND:MIX, or KIND:SIZE:MIX where SIZE is a number of layers (depth) or a share of the weights (width,
depth+width). Each is one compile of the recipe with its student and mix; the text is written once for all.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgedistill.config import Recipe, load_recipe
from edgedistill.facts import ModelFacts
from edgedistill.machine import machine_facts
from edgedistill.models.facts import read_facts
from edgedistill.models.source import resolve
from edgedistill.pipeline.build import compile_model
from edgedistill.pipeline.prepare import Job, prepare
from edgedistill.plan.here import here
from edgedistill.plan.predict import cut_loss, rounding_loss
from edgedistill.plan.types import this_machine
from edgedistill.progress import Progress
from edgedistill.report.rows import shipped_row
from edgedistill.results.report import Report

OUT = Path(__file__).parent / "results" / "planner.json"
COMMAND = "python bench/planner.py"
CANDIDATES = "same:q8_0,same:auto_q4_0,same:q4_0,depth:27:q4_0,depth:20:q8_0"


@dataclass(frozen=True)
class Built:
    """A candidate with what was foretold and measured of it: bytes, tokens/s (None without a bandwidth), nats."""

    candidate: str
    predicted_bytes: int
    measured_bytes: int
    predicted_decode: float | None
    measured_decode: float
    predicted_loss: float
    measured_loss: float


def student_of(words: Sequence[str]) -> dict[str, object]:
    """A recipe's student from a candidate's words without its mix."""
    if len(words) == 1:
        return {"kind": words[0]}
    kind, size = words
    return {"kind": kind, "layers": int(size)} if kind == "depth" else {"kind": kind, "share": float(size)}


def built(candidate: str, recipe: Recipe, model: str, work: Path) -> Built:
    """A candidate compiled and measured."""
    *student, mix = candidate.split(":")
    content = recipe.to_dict() | {"student": student_of(student), "mixes": [mix], "export": ["gguf"], "rival": False}
    facts = read_facts(resolve(model), model)
    job = Job(Recipe.model_validate(content).with_teacher(model), here(), work / "run", command=COMMAND)
    prepared = prepare(job, facts, this_machine(work))
    report = compile_model(prepared, Progress()).report
    planned = prepared.plan.mixes[mix]
    row = shipped_row(report.rows, mix)
    assert row is not None
    assert row.file_bytes is not None
    assert row.speed.decode.mean is not None
    tokens = sum(phase.tokens for phase in prepared.context.recipe.student_phases)
    shape = prepared.context.shape
    loss = cut_loss(facts.shape, shape, tokens) + rounding_loss(shape, recipe_mix(content, mix), planned.weight_bytes)
    return Built(
        candidate,
        planned.file_bytes,
        row.file_bytes,
        planned.predicted_decode_tokens_per_s,
        row.speed.decode.mean,
        loss,
        measured_loss(report, row.label, facts),
    )


def recipe_mix(content: dict[str, Any], mix: str) -> Any:
    """A mix by its name."""
    return Recipe.model_validate(content).mix(mix)


def measured_loss(report: Report, label: str, facts: ModelFacts) -> float:
    """The mean over the texts of the KL to the teacher, which is the float model where nothing was cut."""
    row = next(row for row in report.rows if row.label == label)
    kls = []
    for judge in report.judge_names:
        quality = row.on(judge)
        kl = quality.student.kl_mean if report.student.as_is else quality.teacher.kl_mean
        assert kl is not None, facts.name
        kls.append(kl)
    return sum(kls) / len(kls)


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """The correlation of two lists' ranks."""
    ranks = [np.argsort(np.argsort(values)).astype(float) for values in (first, second)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def main() -> None:
    """Build, compare, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--recipe", default="demo")
    parser.add_argument("--candidates", default=CANDIDATES)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    recipe = load_recipe(options.recipe)
    with tempfile.TemporaryDirectory() as folder:
        work = options.work or Path(folder)
        rows = [built(each, recipe, options.model, work) for each in options.candidates.split(",")]
    decodes = [row.predicted_decode for row in rows]
    known = [decode for decode in decodes if decode is not None]
    measured = [row.measured_decode for row in rows]
    record = {
        "schema": "edgedistill.planner/1",
        "command": f"python bench/planner.py {options.model} --recipe {options.recipe}",
        "machine": machine_facts(),
        "candidates": [asdict(row) for row in rows],
        "spearman_of_loss": spearman([row.predicted_loss for row in rows], [row.measured_loss for row in rows]),
        "spearman_of_decode": spearman(known, measured) if len(known) == len(measured) else None,
        "largest_size_error": max(abs(row.predicted_bytes / row.measured_bytes - 1) for row in rows),
    }
    options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
