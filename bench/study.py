"""What helps recovery, and by how much: variants of one training, each from the same text and with the same budget.

Run    edgedistill recover MODEL --recipe bench/study.yaml -o RUN     (its recipe names the texts; change them to yours)
       python bench/study.py RUN --work DIR [--tokens 16384] [--only PATTERN] [--threads 2]
Writes bench/results/study.json: for each variant the KL to the float model on held-out chats, free text and prose, in nats a token, before
       training and after it, and what a step took.

RUN gives the float student, its captured text and what each weight's error costs. A variant is the base recipe with some settings changed;
it goes through the recover stage itself. Judged in torch in float32 on the run's judge split, which no training saw, with exactly the
weights that would be packed: a study of many variants. What ships is judged in its runtime (bench/recovery.py). Finished variants stay
under DIR and are not trained again.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgedistill import __version__
from edgedistill.config import Recipe
from edgedistill.machine import machine_facts
from edgedistill.mixes import Mix, assign_formats
from edgedistill.models.hf_folder import read_shape
from edgedistill.models.load import load_model
from edgedistill.progress import Progress, RichProgress
from edgedistill.quant.checkpoint import load_grid
from edgedistill.quant.rounded import round_weights
from edgedistill.recover.fisher import load_fisher
from edgedistill.recover.stage import exact_kl, load_rounded, recover
from edgedistill.signals.shards import FREE, PROSE, WRITTEN, Document, iter_shards
from edgedistill.teach.capture import capture, load_importance

OUT = Path(__file__).parent / "results" / "study.json"
KINDS = {"chats": WRITTEN, "free": FREE, "prose": PROSE}
BASE: dict[str, Any] = {"batch_tokens": 512, "learning_rate": 1.5e-4, "validate_every": 10_000, "patience": 100, "tokens_by_mix": {}, "rate_by_mix": {}}


@dataclass(frozen=True)
class Variant:
    """One change of the base: settings of the recipe's recover part, the mix, or the kinds of text that it trains on."""

    name: str
    changes: dict[str, Any] = field(default_factory=dict)
    mix: str = "q4_0"
    kinds: tuple[str, ...] = tuple(KINDS)


VARIANTS = (
    *(Variant(f"{mix} fit {fit}, no training", {"fit": fit, "tokens": 0}, mix) for mix in ("q4_0", "q4_k_m", "q2_k") for fit in ("ggml", "importance", "fisher")),
    Variant("base"),
    *(Variant(f"start from {fit}", {"fit": fit}) for fit in ("ggml", "importance")),
    Variant("weights only", {"train": ["weights"]}),
    Variant("scales only", {"train": ["scales"]}),
    Variant("scales and norms", {"train": ["scales", "norms"]}),
    Variant("weights and scales", {"train": ["weights", "scales"]}),
    *(Variant(f"low rank {rank}", {"low_rank": rank}) for rank in (8, 32)),
    *(Variant(f"learning rate {rate:g}", {"learning_rate": rate}) for rate in (7.5e-5, 3e-4, 6e-4)),
    *(Variant(f"scale rate {rate:g}", {"scale_learning_rate": rate}) for rate in (3e-4, 3e-3)),
    *(Variant(f"batch {size}", {"batch_tokens": size, "seq_len": min(size, 512)}) for size in (256, 1024, 2048)),
    *(Variant(f"loss {loss}", {"loss": loss}) for loss in ("reverse_kl", "jsd", "skew_kl", "skew_reverse_kl", "tvd")),
    Variant("activations in 8 bits", {"simulate_activations": True}),
    *(Variant(f"{kind} alone", {}, kinds=(kind,)) for kind in KINDS),
)


class Study:
    """One run folder, read once."""

    def __init__(self, run: Path, work: Path, tokens: int) -> None:
        stages = {path.name.rpartition("-")[0]: path for path in (run / "stages").iterdir() if (path / "stage.json").is_file()}
        self.student, self.taught, self.captured = stages["student"], stages["teach"], stages["capture"]
        self.costs = {"ggml": None, "importance": load_importance(self.captured), "fisher": load_fisher(stages["fisher"])}
        self.shape, self.work, self.tokens = read_shape(self.student), work, tokens
        self.recipe = Recipe.model_validate(json.loads((run / "run.json").read_text(encoding="utf-8")).get("recipe") or {
            "schema": "edgedistill.recipe/1", "name": "study", "student": {"as_is": True}, "mixes": ["q4_0"]})  # fmt: skip
        self.judged: dict[str, list[Document]] = {}

    def judges(self, progress: Progress) -> dict[str, list[Document]]:
        """The run's judge split with the float student's hidden states, by kind of text."""
        for kind, folder in KINDS.items():
            documents = list(iter_shards(self.taught / f"{folder}judge"))
            if documents:
                capture(self.student, [(kind, documents)], 512, "float32", self.work / "judge" / kind, progress)
                self.judged[kind] = list(iter_shards(self.work / "judge" / kind / kind))
        return self.judged

    def training(self, kinds: Sequence[str]) -> list[Document]:
        """Captured training documents of these kinds: they lie in the order of the kinds."""
        captured = list(iter_shards(self.captured / "train"))
        return [d for d, kind in zip(captured, self._kinds_of(captured), strict=True) if kind in kinds]

    def _kinds_of(self, captured: Sequence[Document]) -> Iterator[str]:
        starts: dict[tuple[int, ...], str] = {}
        for kind, folder in KINDS.items():
            for document in iter_shards(self.taught / f"{folder}train"):
                starts[tuple(document.tokens[:48].tolist())] = kind
        for document in captured:
            yield starts[tuple(document.tokens[:48].tolist())]

    def run(self, variant: Variant, progress: Progress) -> dict[str, Any]:
        """Train the variant, or read what an earlier call found."""
        folder = self.work / variant.name.replace(" ", "-").replace(",", "")
        found = folder / "found.json"
        if not found.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            settings = {"tokens": self.tokens, **BASE, **variant.changes}
            recipe = self.recipe.model_copy(update={"recover": type(self.recipe.recover).model_validate(settings)})
            formats = assign_formats(self.shape, Mix(variant.mix, variant.mix))
            began = time.monotonic()
            validation = list(iter_shards(self.captured / "validation"))[:2]  # the judge split tells; a stage wants one
            recover(self.student, self.training(variant.kinds), validation, self.costs[recipe.recover.fit], variant.mix, formats, recipe, folder, progress)
            seconds = time.monotonic() - began
            checkpoint = load_grid(folder)
            record = {"variant": variant.name, "mix": variant.mix, "tokens": settings["tokens"], "changes": variant.changes, "kinds": list(variant.kinds),
                      "seconds": seconds, "kl": self.judge({name: checkpoint.decode(name) for name in checkpoint.tensors})}  # fmt: skip
            found.write_text(json.dumps(record), encoding="utf-8")
        record = json.loads(found.read_text(encoding="utf-8"))
        return record

    def rounded(self, mix: str) -> dict[str, float]:
        """Plain rounding's KL by kind of text."""
        model = load_model(self.student)
        rounded = round_weights(model.state_dict(), assign_formats(self.shape, Mix(mix, mix)), mix)
        return self.judge({name: rounded.decode(name) for name in rounded.tensors})

    def judge(self, weights: Mapping[str, Tensor]) -> dict[str, float]:
        """KL to the float student by kind of text, nats a token."""
        model = load_model(self.student)
        head = model.get_output_embeddings().weight.detach().clone()
        state = model.state_dict()
        with torch.no_grad():
            for name, weight in weights.items():
                state[name].copy_(weight)
        return {kind: exact_kl(model, documents, head, 512, torch.float32) for kind, documents in self.judged.items()}


def main() -> None:
    """Train what is missing and write the record."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=16_384)
    parser.add_argument("--only", default="*")
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    progress = RichProgress()
    study = Study(asked.run, asked.work, asked.tokens)
    judged = study.judges(progress)
    rows = []
    for variant in VARIANTS:
        if fnmatchcase(variant.name, asked.only):
            rows.append(study.run(variant, progress))
            sys.stdout.write(json.dumps(rows[-1]) + "\n")
            sys.stdout.flush()
    record = {
        "command": f"python bench/study.py {asked.run} --work {asked.work} --tokens {asked.tokens} --threads {asked.threads}",
        "machine": machine_facts(), "version": __version__, "torch": torch.__version__, "base": BASE | {"tokens": asked.tokens},
        "judged_tokens": {kind: sum(d.kept for d in documents) for kind, documents in judged.items()},
        "rounded": {mix: study.rounded(mix) for mix in sorted({row["mix"] for row in rows})}, "rows": rows,
    }  # fmt: skip
    OUT.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
