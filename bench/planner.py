"""What the planner chooses for some limits against what is measured when its choices are built: order and sizes.

Run    python bench/planner.py MODEL --work DIR [--settings 150MB,95MB,90MB:450,80MB:500,70MB:600] [--target laptop-cpu]
Writes bench/results/planner.json after each setting: the limits, what was chosen and what was trained of it; predicted
       and measured file size, tokens/s and loss (mean KL to the teacher over the judged texts, of the packed file);
       then the rank correlations (Spearman) of losses and of speeds, and the largest error of a size.

A setting is --max-size, or --max-size:--min-decode. Each choice is one compile of the demo's recipe with few built-in
mixes, a very small training on prose, and plain rounding to the grid; all share one run folder, so a run that was
killed goes on. Speeds are predicted for the target and measured here, all files in turn: their order is compared, not
their values.
"""

import argparse
import json
import shutil
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from edgedistill.config import Recipe, load_recipe, load_target  # noqa: E402
from edgedistill.config.target import Target  # noqa: E402
from edgedistill.machine import machine_facts  # noqa: E402
from edgedistill.measure.speed import time_once  # noqa: E402
from edgedistill.models.facts import read_facts  # noqa: E402
from edgedistill.models.source import resolve  # noqa: E402
from edgedistill.pipeline.build import compile_model  # noqa: E402
from edgedistill.pipeline.prepare import Job, prepare  # noqa: E402
from edgedistill.plan import this_machine  # noqa: E402
from edgedistill.plan.choose import settle  # noqa: E402
from edgedistill.progress import RichProgress  # noqa: E402
from edgedistill.runtimes.llama import LlamaCpp  # noqa: E402
from edgedistill.store.files import file_sha256  # noqa: E402
from edgedistill.store.whole import write_json  # noqa: E402
from edgedistill.units import parse  # noqa: E402

OUT = Path(__file__).parent / "results" / "planner.json"
SETTINGS = "150MB,95MB,90MB:450,80MB:500,70MB:600"
MIXES = ("q8_0", "q5_0", "q4_0", "q2_k")
BUDGETS: dict[str, Any] = {
    "teach": {"style": "text", "tokens": 0, "text_tokens": 2_000, "holdout": 0.5},
    "recover": {"tokens": 0, "tokens_by_mix": {}, "fit": "ggml", "fit_tokens": 128, "seq_len": 128},
    "measure": {
        "tokens": 512,
        "prompts": ["The capital of France is"],
        "prefill": 32,
        "decode": 8,
        "repetitions": 1,
        "tasks": [],
        "refusal_items": 0,
    },
}
SEQ_LEN = 128  # tokens
PREFILL, DECODE, CONTEXT = 32, 64, 512  # tokens


@dataclass(frozen=True)
class Built:
    """What the planner chose for some limits, predicted and measured: bytes, tokens/s for the target, nats a token."""

    setting: str
    student: dict[str, Any]
    mix: str
    trained_tokens: int
    candidates: int
    predicted_bytes: int
    measured_bytes: int
    predicted_decode: float | None
    predicted_loss: float
    measured_loss: float
    loss_by_text: dict[str, float | None]
    sha256: str


def small_recipe(name: str, tokens: int) -> Recipe:
    """A recipe with the bench's budgets, whose student the planner chooses; `tokens`: of the student's training."""
    content = load_recipe(name).to_dict()
    changed = {part: content[part] | values for part, values in BUDGETS.items()}
    phases = [content["phases"][0] | {"tokens": tokens, "seq_len": SEQ_LEN, "batch_tokens": 2 * SEQ_LEN}]
    student = {"kind": "auto", "mixes": MIXES}
    return Recipe.model_validate(
        content | changed | {"phases": phases, "student": student, "export": ["gguf"], "rival": False}
    )


def narrowed(target: Target, setting: str) -> Target:
    """The target with a setting's limits."""
    size, _, decode = setting.partition(":")
    rate = parse(f"{decode} tokens/s", "rate") if decode else None
    return target.limited(int(parse(size, "size")), rate, None)


def build(setting: str, recipe: Recipe, target: Target, work: Path) -> Built:
    """The planner's choice for a setting, compiled, measured, and its file kept as SETTING.gguf."""
    model = recipe.teacher.model
    assert model is not None
    facts = read_facts(resolve(model), model)
    settled = settle(recipe, narrowed(target, setting), facts)
    job = Job(settled.recipe, settled.target, work / "run", command="python bench/planner.py")
    prepared = prepare(job, facts, this_machine(work), choice=settled.choice)
    choice = settled.choice
    assert choice is not None, "the recipe's student is auto"
    chosen = choice.chosen
    print(f"{setting}: {json.dumps(chosen.to_dict())}", flush=True)
    outcome = compile_model(prepared, RichProgress(sys.stderr))
    row = next(row for row in outcome.report.rows if row.kind == "recovered")
    shutil.copy(outcome.files[f"gguf-{chosen.mix.name}"], file_of(setting, work))
    as_is, foretold = prepared.context.as_is, chosen.to_dict()
    losses: dict[str, float | None] = {}
    for judge in outcome.report.judge_names:  # a student that is the teacher has it as its float model
        quality = row.on(judge)
        losses[judge] = quality.student.kl_mean if as_is else quality.teacher.kl_mean
    return Built(
        setting=setting,
        student={name: foretold[name] for name in ("kind", "layers", "width", "ffn", "heads", "parameters")},
        mix=chosen.mix.name,
        trained_tokens=0 if as_is else sum(phase.tokens for phase in recipe.student_phases),
        candidates=len(choice.candidates),
        predicted_bytes=chosen.planned.file_bytes,
        measured_bytes=file_of(setting, work).stat().st_size,
        predicted_decode=chosen.planned.predicted_decode_tokens_per_s,
        predicted_loss=chosen.loss,
        measured_loss=statistics.fmean(loss for loss in losses.values() if loss is not None),
        loss_by_text=losses,
        sha256=file_sha256(file_of(setting, work)),
    )


def file_of(setting: str, work: Path) -> Path:
    """Where a setting's file is kept."""
    return work / f"{setting.replace(':', '-')}.gguf"


def over_first(files: Sequence[Path], threads: int, rounds: int) -> list[float]:
    """Of each file the median over rounds of its tokens/s over the first file's, all files in turn."""
    rates: list[list[float]] = [[] for _ in files]
    for _ in range(rounds):
        for path, rate in zip(files, rates, strict=True):
            with LlamaCpp(path, threads=threads, context=CONTEXT, parallel=1) as model:
                rate.append(time_once(model, PREFILL, DECODE).decode.tokens_per_s)
    return [statistics.median(own / first for own, first in zip(rate, rates[0], strict=True)) for rate in rates]


def spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """The correlation of two lists' ranks, no two of which are equal; None where there are fewer than three."""
    if min(len(first), len(second)) < 3:
        return None
    ranks = [np.argsort(np.argsort(values)).astype(float) for values in (first, second)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def write(rows: Sequence[Built], rates: Sequence[float], options: argparse.Namespace) -> None:
    """The record of what is built so far; `rates`: tokens/s over the first file's, none before all are timed."""
    decodes = [row.predicted_decode for row in rows if row.predicted_decode is not None]
    listed = [asdict(row) for row in rows]
    for row, rate in zip(listed, rates, strict=False):
        row["measured_decode_over_first"] = rate
    record = {
        "schema": "edgedistill.planner/1",
        "command": f"python bench/planner.py {options.model} --work DIR --settings {options.settings} "
        f"--tokens {options.tokens}",
        "machine": machine_facts(),
        "target": options.target,
        "recipe": {"name": options.recipe, **BUDGETS},
        "trained": f"cut students: {options.tokens} tokens in float; on the grid nothing, it is plainly rounded",
        "choices": listed,
        "spearman_of_loss": spearman([row.predicted_loss for row in rows], [row.measured_loss for row in rows]),
        "spearman_of_decode": spearman(decodes, rates) if rates and len(decodes) == len(rates) else None,
        "largest_size_error": max(abs(row.predicted_bytes / row.measured_bytes - 1) for row in rows),
    }
    write_json(options.out, record)


def main() -> None:
    """Build, compare, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--work", type=Path, required=True, help="the run folder lies here, and each choice's file")
    parser.add_argument("--settings", default=SETTINGS)
    parser.add_argument("--recipe", default="demo")
    parser.add_argument("--target", default="laptop-cpu")
    parser.add_argument("--tokens", type=int, default=1_024, help="of the training of students that are cut")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5, help="trials of each file")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    recipe = small_recipe(options.recipe, options.tokens).with_teacher(options.model)
    target, settings = load_target(options.target), options.settings.split(",")
    options.work.mkdir(parents=True, exist_ok=True)
    rows: list[Built] = []
    for setting in settings:
        rows.append(build(setting, recipe, target, options.work))
        write(rows, (), options)
    files = [file_of(setting, options.work) for setting in settings]
    write(rows, over_first(files, options.threads, options.rounds), options)
    print(options.out.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
