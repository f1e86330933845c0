"""What helps recovery, and by how much: variants of one training, each from the same text and with the same budget.

Run    edgedistill recover MODEL --recipe bench/study.yaml -o RUN     (its recipe names the texts; change them to yours)
       python bench/study.py RUN --work DIR [--tokens 8192] [--only PATTERN] [--threads 2]
Writes bench/results/study.json: for each variant the KL to the float model on held-out chats, free text and prose, in
nats a token, before
       training and after it, and what a step took.

RUN gives the float student, its captured text and what each weight's error costs. A variant is the base recipe with
some settings changed; it goes through the recover stage itself. Judged in torch in float32 on held-out text, which no
training saw, with exactly the
weights that would be packed: a study of many variants. What ships is judged in its runtime (bench/recovery.py).
Finished variants stay under DIR, are not trained again, and are in the record whatever PATTERN says.
"""

import argparse
import json
import shutil
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
from edgedistill.config.recipe import SCHEMA
from edgedistill.data.example import Example
from edgedistill.data.spread import spread_documents
from edgedistill.machine import machine_facts
from edgedistill.mixes import Mix, assign_formats
from edgedistill.models.hf_folder import read_shape
from edgedistill.models.load import load_model
from edgedistill.progress import Progress, RichProgress
from edgedistill.quant.checkpoint import load_grid
from edgedistill.quant.rounded import round_weights
from edgedistill.recover.curvature import CurvatureFiles
from edgedistill.recover.distance import exact_kl
from edgedistill.recover.fisher import load_fisher
from edgedistill.recover.kept_fit import FIT, keep_fit
from edgedistill.recover.mix_training import RecoverInputs, recover
from edgedistill.signals.shards import FREE, PROSE, WRITTEN, iter_shards, load_sources
from edgedistill.teach.capture import CaptureSettings, capture, load_importance

OUT = Path(__file__).parent / "results" / "study.json"
FOUND = "found.json"
KINDS = {"chats": WRITTEN, "free": FREE, "prose": PROSE}
BASE: dict[str, Any] = {
    "batch_tokens": 512,
    "tokens_by_mix": {},
    "rate_by_mix": {},
}
JUDGED = 4_096  # tokens of each kind that the KL is of


@dataclass(frozen=True)
class Variant:
    """One change of the base: settings of the recipe's recover part, the mix, or the kinds of text that it trains
    on.
    """

    name: str
    changes: dict[str, Any] = field(default_factory=dict)
    mix: str = "q4_0"
    kinds: tuple[str, ...] = tuple(KINDS)
    after: str | None = None  # a variant whose recovered weights it begins from
    share: float = 1.0  # of the tokens


ALL = ("weights", "scales", "norms")
VARIANTS = (
    *(
        Variant(f"{mix} fit {fit}, no training", {"fit": fit, "tokens": 0}, mix)
        for mix in ("q4_0", "q4_k_m", "q2_k")
        for fit in ("ggml", "importance", "fisher", "curvature")
    ),
    Variant("base"),
    *(
        Variant(f"start from {fit}", {"fit": fit, "train": ["scales", "norms"]})
        for fit in ("ggml", "importance", "fisher")
    ),
    *(
        Variant(f"start from {fit}, weights too", {"fit": fit, "train": [*ALL]})
        for fit in ("ggml", "fisher", "curvature")
    ),
    *(Variant(f"{part} only", {"train": [part]}) for part in ALL),
    *(Variant(f"low rank {rank}", {"low_rank": rank}) for rank in (8, 32)),
    *(Variant(f"weights at {rate:g}", {"train": [*ALL], "learning_rate": rate}) for rate in (5e-5, 5e-4)),
    *(Variant(f"scale rate {rate:g}", {"scale_learning_rate": rate}) for rate in (1e-4, 1e-3, 3e-3)),
    *(Variant(f"batch {size}", {"batch_tokens": size, "seq_len": min(size, 512)}) for size in (256, 1024, 2048)),
    *(Variant(f"loss {loss}", {"loss": loss}) for loss in ("reverse_kl", "jsd", "skew_kl", "skew_reverse_kl", "tvd")),
    Variant("activations in 8 bits", {"simulate_activations": True}),
    # Staged lowering of the bits: half of the budget on the finer grid.
    Variant("q4_0 with half the tokens", share=0.5),
    *(Variant(f"{mix} at once", {}, mix) for mix in ("q2_k", "tq2_0")),
    *(Variant(f"{mix} after q4_0", {}, mix, after="q4_0 with half the tokens", share=0.5) for mix in ("q2_k", "tq2_0")),
    *(Variant(f"{kind} alone", {}, kinds=(kind,)) for kind in KINDS),
)


class Study:
    """One run folder, read once."""

    def __init__(self, run: Path, work: Path, tokens: int) -> None:
        current = json.loads((run / "run.json").read_text(encoding="utf-8"))["current"]
        stages = {name: run / "stages" / folder for name, folder in current.items()}
        self.student, self.taught, self.captured = stages["student"], stages["teach"], stages["capture"]
        self.costs = {
            "ggml": None,
            "importance": load_importance(self.captured),
            "fisher": load_fisher(stages["fisher"]),
            "curvature": CurvatureFiles(stages["curvature"]),
        }
        self.shape, self.work, self.tokens = read_shape(self.student), work, tokens
        self.judged: dict[str, list[Example]] = {}

    def judges(self, progress: Progress) -> dict[str, list[Example]]:
        """Held-out text with the float student's hidden states, by kind."""
        for kind, folder in KINDS.items():
            # Prose has no judge split of its own. Its validation split only said whether training had improved on its
            # start.
            held_out = list(iter_shards(self.taught / f"{folder}{'validation' if folder == PROSE else 'judge'}"))
            documents = spread_documents(held_out, JUDGED, 512)
            if documents:
                (self.work / "judge" / kind).mkdir(parents=True, exist_ok=True)
                settings = CaptureSettings(512, "float32")
                capture(self.student, [(kind, documents)], settings, self.work / "judge" / kind, progress)
                self.judged[kind] = list(iter_shards(self.work / "judge" / kind / kind))
        return self.judged

    def training(self, kinds: Sequence[str]) -> list[Example]:
        """Captured training documents of these kinds: they lie in the order of the kinds."""
        captured = list(iter_shards(self.captured / "train"))
        return [d for d, kind in zip(captured, self._kinds_of(captured), strict=True) if kind in kinds]

    def _kinds_of(self, captured: Sequence[Example]) -> Iterator[str]:
        starts: dict[tuple[int, ...], str] = {}
        for kind, folder in KINDS.items():
            for document in iter_shards(self.taught / f"{folder}train"):
                starts[tuple(document.tokens[:48].tolist())] = kind
        for document in captured:
            yield starts[tuple(document.tokens[:48].tolist())]

    def run(self, variant: Variant, progress: Progress) -> dict[str, Any]:
        """Train the variant, or read what an earlier call found."""
        folder = self.folder(variant.name)
        found = folder / FOUND
        if not found.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            settings = {"tokens": round(self.tokens * variant.share), **BASE, **variant.changes}
            recipe = Recipe.model_validate(
                {"schema": SCHEMA, "name": "study", "student": {"kind": "same"}, "recover": settings}
            )
            formats = assign_formats(self.shape, Mix(variant.mix, variant.mix))
            began = time.monotonic()
            validation = load_sources(self.captured, "validation")
            training, costs = self.training(variant.kinds), self.costs[recipe.recover.fit]
            start = None
            if variant.after is not None:
                before = load_grid(self.folder(variant.after))
                start = {name: before.decode(name) for name in before.tensors}
            elif not (folder / FIT).is_dir():
                shutil.copytree(self.fit(variant.mix, recipe.recover.fit, progress), folder / FIT)
            inputs = RecoverInputs(self.student, training, validation, costs, variant.mix, formats, start)
            recover(inputs, recipe.recover, folder, progress)
            seconds = time.monotonic() - began
            record = {
                "variant": variant.name,
                "mix": variant.mix,
                "tokens": settings["tokens"],
                "changes": variant.changes,
                "kinds": list(variant.kinds),
                "seconds": seconds,
                "kl": {},
            }
            found.write_text(json.dumps(record), encoding="utf-8")
        record = json.loads(found.read_text(encoding="utf-8"))
        if set(record["kl"]) != set(self.judged):
            checkpoint = load_grid(folder)
            record["kl"] = self.judge({name: checkpoint.decode(name) for name in checkpoint.tensors})
            found.write_text(json.dumps(record), encoding="utf-8")
        return json.loads(found.read_text(encoding="utf-8"))  # type: ignore[no-any-return]

    def folder(self, variant: str) -> Path:
        """Where a variant's checkpoint lies."""
        return self.work / variant.replace(" ", "-").replace(",", "")

    def fit(self, mix: str, how: str, progress: Progress) -> Path:
        """What the variants of a mix and a fit begin from."""
        kept = self.work / "fits" / f"{mix}-{how}"
        formats = assign_formats(self.shape, Mix(mix, mix))
        keep_fit(kept, load_model(self.student).state_dict(), formats, self.costs[how], mix, progress)
        return kept

    def rounded(self, mix: str) -> dict[str, float]:
        """Plain rounding's KL by kind of text."""
        kept = self.work / f"rounded-{mix}.json"
        if not kept.is_file():
            rounded = round_weights(
                load_model(self.student).state_dict(), assign_formats(self.shape, Mix(mix, mix)), mix
            )
            kept.write_text(
                json.dumps(self.judge({name: rounded.decode(name) for name in rounded.tensors})), encoding="utf-8"
            )
        return json.loads(kept.read_text(encoding="utf-8"))  # type: ignore[no-any-return]

    def judge(self, weights: Mapping[str, Tensor]) -> dict[str, float]:
        """KL to the float student by kind of text, nats a token."""
        model = load_model(self.student)
        head = model.get_output_embeddings().weight.detach().clone()
        state = model.state_dict()
        with torch.no_grad():
            for name, weight in weights.items():
                state[name].copy_(weight)
        return {kind: exact_kl(model, documents, head, 512) for kind, documents in self.judged.items()}


def main() -> None:
    """Train what is missing and write the record."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=8_192)
    parser.add_argument("--only", default="*")
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    progress = RichProgress()
    study = Study(asked.run, asked.work, asked.tokens)
    judged = study.judges(progress)
    rows = []
    for variant in VARIANTS:
        if fnmatchcase(variant.name, asked.only) or (study.folder(variant.name) / FOUND).is_file():
            rows.append(study.run(variant, progress))
            sys.stdout.write(json.dumps(rows[-1]) + "\n")
            sys.stdout.flush()
    record = {
        "command": f"python bench/study.py RUN --work DIR --tokens {asked.tokens} --threads {asked.threads}",
        "machine": machine_facts(),
        "version": __version__,
        "torch": torch.__version__,
        "base": BASE | {"tokens": asked.tokens},
        "judged_tokens": {kind: sum(d.kept for d in documents) for kind, documents in judged.items()},
        "rounded": {mix: study.rounded(mix) for mix in sorted({row["mix"] for row in rows})},
        "rows": rows,
    }
    OUT.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
