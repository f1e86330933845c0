"""What each term of a phase's loss adds: one teacher, one cut, one text, equal tokens; only the loss differs.

Run    python bench/objectives.py TEACHER --layers 20 --work DIR [--recipe FILE] [--tokens 200000] [--seeds 1,2,3]
                                  [--only PATTERN] [--target laptop-cpu] [--out JSON]
       TEACHER is whatever `compile` takes. FILE says what is taught (default: the chat recipe); its one phase is what
       varies.
Writes bench/results/objectives.json: for each variant and seed, on the text that is held out for judging: the KL to the
       teacher over the whole vocabulary and cross-entropy on the text, in nats a token, and the share of tokens whose
       likeliest next one is the teacher's; the difference in KL from the first variant with a 95 % interval (bootstrap
       over texts); seconds and peak memory of the training.

All variants lie in one run folder below DIR, so the text, the student and the teacher's stored blocks are made once,
and a variant that is finished isn't trained again. Judged in torch in float32: the losses train the float student.
On-policy rounds write text of their own: it comes in the place of the training text, not on top of it.
"""

import argparse
import json
import random
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch

from edgedistill import __version__
from edgedistill.config import Recipe, load_recipe, load_target
from edgedistill.data.example import Example
from edgedistill.data.packing import counting_sources
from edgedistill.data.spread import spread_sources
from edgedistill.machine import machine_facts, usable_cores
from edgedistill.models.facts import read_facts
from edgedistill.models.load import load_model
from edgedistill.models.source import resolve
from edgedistill.pipeline.prepare import Job, prepare
from edgedistill.pipeline.runner import run_stages
from edgedistill.pipeline.stage import Finished
from edgedistill.plan import this_machine
from edgedistill.progress import Progress, RichProgress
from edgedistill.store.run import RunFolder
from edgedistill.train.forward import batches, kept_hidden

OUT = Path(__file__).parent / "results" / "objectives.json"
KL = {"kl": "forward", "weight": 0.9}
TEXT = {"text": True, "weight": 0.1}
# Changes nothing of what is learned; with it text, student and the choice of a checkpoint are those of all variants.
SIGNALS = {"kl": "forward", "weight": 1e-9}
TRIO = [{"kl": "forward", "weight": 5.0, "temperature": 2.0}, {"text": True, "weight": 2.0}]
RELATIONS = {"relations": ["qq", "kk", "vv"]}
ROUNDS = 8  # of an on-policy variant
RESAMPLES = 2_000
JUDGED = 8_192  # tokens of each kind of text
LAST = "distill"


def variants(layers: int) -> dict[str, dict[str, Any]]:
    """By name, what changes in the phase. The first is what the others are compared with."""
    inner = sorted({max(1, layers // 3), max(1, 2 * layers // 3), layers})
    plain = [KL, TEXT]
    return {
        "kl and text": {"loss": plain},
        "text": {"loss": [{"text": True}, SIGNALS]},
        "kl": {"loss": [{"kl": "forward"}]},
        "reverse kl": {"loss": [{"kl": "reverse"}]},
        "distilbert": {"loss": "distilbert"},
        "distilbert without states": {"loss": TRIO},
        "cosine": {"loss": [*plain, {"states": "cosine"}]},
        "cosine inside": {"loss": [*plain, {"states": "cosine", "layers": inner}]},
        "mse inside": {"loss": [*plain, {"states": "mse", "layers": inner, "weight": 0.1}]},
        "relations": {"loss": [*plain, RELATIONS]},
        "relations alone": {"loss": [RELATIONS, SIGNALS]},
        "on-policy": {"loss": plain, "on_policy": True},
        "on-policy, reverse kl": {"loss": [{"kl": "reverse"}], "on_policy": True},
    }


@dataclass(frozen=True)
class Judged:
    """One student on held-out text: by text, sums over its tokens."""

    kl: list[float]
    cross_entropy: list[float]
    agree: list[float]
    weight: list[float]

    def mean(self, sums: Sequence[float]) -> float:
        """A token's."""
        return sum(sums) / sum(self.weight)


@torch.no_grad()
def judge(student: Path, teacher: Path, texts: Sequence[Example], seq_len: int) -> Judged:
    """KL(teacher ‖ student), cross-entropy and agreement of each text, in float64 sums."""
    models = [load_model(folder) for folder in (teacher, student)]
    found: dict[int, tuple[float, ...]] = {}
    for batch, order in batches(texts, seq_len, rows_per_batch=2):
        logits = [
            (kept_hidden(model, batch, torch.float32) @ model.get_output_embeddings().weight.T) for model in models
        ]
        rows = min(len(each[0]) for each in logits)
        log_p, log_q = (torch.log_softmax(each[:, :rows], -1) for each in logits)
        values = (
            (log_p.exp() * (log_p - log_q)).sum(-1),
            -log_q.gather(-1, batch.labels.unsqueeze(-1)).squeeze(-1),
            (log_p.argmax(-1) == log_q.argmax(-1)).float(),
            torch.ones(len(batch.kept)),
        )
        row = 0
        for index in order:
            kept = texts[index].cut(seq_len).kept
            weights = batch.weights[row : row + kept].double()
            found[index] = tuple(float((each[row : row + kept].double() * weights).sum()) for each in values)
            row += kept
    columns = [list(column) for column in zip(*(found[index] for index in sorted(found)), strict=True)]
    return Judged(*columns)


def difference(first: Judged, second: Judged) -> dict[str, float]:
    """The second's KL minus the first's, nats a token, with its interval over resampled texts."""
    rng = random.Random(0)
    pairs = list(zip(first.kl, second.kl, first.weight, strict=True))

    def mean(chosen: Sequence[tuple[float, float, float]]) -> float:
        return sum(b - a for a, b, _ in chosen) / sum(weight for _, _, weight in chosen)

    drawn = sorted(mean(rng.choices(pairs, k=len(pairs))) for _ in range(RESAMPLES))
    return {"kl": mean(pairs), "low": drawn[round(0.025 * RESAMPLES)], "high": drawn[round(0.975 * RESAMPLES) - 1]}


class Bench:
    """One teacher, one cut, one text."""

    def __init__(self, recipe: Recipe, target: str, model: str, work: Path, progress: Progress) -> None:
        self.recipe, self.work, self.progress = recipe, work, progress
        self.target = load_target(target)
        found = resolve(model, revision=recipe.teacher.revision)
        self.facts = read_facts(found, model)

    def train(self, name: str, changes: Mapping[str, Any], seed: int) -> dict[str, Any]:
        """Run the stages up to the student of a variant; what its training took, and its folder."""
        content = self.recipe.to_dict()
        phase = content["phases"][0] | dict(changes) | {"seed": seed}
        if phase.get("on_policy"):
            steps = self.recipe.distill.steps_of(self.recipe.distill.tokens)
            phase["on_policy"] = {"every": max(1, -(-steps // ROUNDS))}
        content["phases"] = [phase]
        job = Job(Recipe.model_validate(content), self.target, self.work / "run")
        prepared = prepare(job, self.facts, this_machine(self.work))
        stages = list(prepared.stages)
        stages = stages[: [stage.name for stage in stages].index(LAST) + 1]
        run = RunFolder.open(prepared.context.out, prepared.context.identity, on_event=self.progress.note)
        self.progress.note(f"{name}, seed {seed}")
        done = Finished(self.progress, prepared.plan)
        with run.lock():
            run_stages(run, stages, done)
        mark = done.results[LAST].mark
        curve = json.loads((done.folder(LAST) / "curve.json").read_text(encoding="utf-8"))
        return {
            "folder": done.folder(LAST),
            "taught": done.folder("teach"),
            "start": done.folder("student"),
            "loss": [term.model_dump(exclude_none=True) for term in prepared.context.recipe.distill.loss],
            "seconds": mark.seconds,
            "peak_rss_bytes": mark.peak_rss_bytes,
            "best_step": curve["best"]["step"],
        }


def texts_of(taught: Path, seq_len: int) -> list[Example]:
    """What is held out for judging, spread over its kinds."""
    from edgedistill.signals.shards import load_sources

    counted = counting_sources(load_sources(taught, "judge"), seq_len, "seq_len")
    return [example for examples in spread_sources(counted, JUDGED, seq_len).values() for example in examples]


def row(judged: Judged, first: Judged | None) -> dict[str, Any]:
    """What is written of a student."""
    figures: dict[str, Any] = {
        "kl": judged.mean(judged.kl),
        "cross_entropy": judged.mean(judged.cross_entropy),
        "same_top": judged.mean(judged.agree),
        "tokens": sum(judged.weight),
        "texts": len(judged.kl),
    }
    if first is not None:
        figures["against_first"] = difference(first, judged)
    return figures


def main() -> None:
    """Train, judge, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher")
    parser.add_argument("--layers", type=int, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--recipe", default="chat")
    parser.add_argument("--tokens", type=int)
    parser.add_argument("--seeds", default="1")
    parser.add_argument("--only", default="*", help="variants by name; the first is always trained")
    parser.add_argument("--target", default="laptop-cpu")
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    torch.set_num_threads(usable_cores())
    content = load_recipe(given.recipe).to_dict()
    content["student"] = {"kind": "depth", "layers": given.layers}
    content["phases"] = content["phases"][:1]
    if given.tokens is not None:
        content["phases"][0]["tokens"] = given.tokens
    recipe = Recipe.model_validate(content)
    given.work.mkdir(parents=True, exist_ok=True)
    bench = Bench(recipe, given.target, given.teacher, given.work, RichProgress())
    seq_len, teacher = recipe.distill.seq_len, Path(bench.facts.location)
    rows: list[dict[str, Any]] = []
    texts: list[Example] = []
    for seed in map(int, given.seeds.split(",")):
        first = None
        for number, (name, changes) in enumerate(variants(given.layers).items()):
            if number and not fnmatchcase(name, given.only):
                continue
            trained = bench.train(name, changes, seed)
            texts = texts or texts_of(trained.pop("taught"), seq_len)
            trained.pop("taught", None)
            start, folder = trained.pop("start"), trained.pop("folder")
            if not rows:
                rows.append({"variant": "untrained", **row(judge(start, teacher, texts, seq_len), None)})
            judged = judge(folder, teacher, texts, seq_len)
            rows.append({"variant": name, "seed": seed, **row(judged, first), **trained})
            first = first or judged
    record = {
        "schema": "edgedistill.objectives/1",
        "version": __version__,
        "command": " ".join(["python", "bench/objectives.py", *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine_facts(),
        "teacher": {"name": bench.facts.name, "source": bench.facts.source, "layers": bench.facts.shape.layers},
        "student_layers": given.layers,
        "tokens": recipe.distill.tokens,
        "unit": "nats per token",
        "rows": rows,
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(given.out)  # noqa: T201


if __name__ == "__main__":
    main()
