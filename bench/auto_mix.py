"""Mixes fitted to a size against the built-in mix of that size: both packed, both judged in llama.cpp.

Run    python bench/auto_mix.py MODEL --judge TEXT [--about WORDS] [--work FOLDER] [--threads 2]
       MODEL is a Hugging Face folder, TEXT a text file that nothing here calibrates on (WikiText-2's test split).
Writes bench/results/auto_mix.json: for each size the built-in mix, what was chosen in at most its bytes, bytes of the
files, their
       perplexity, KL to the float model and agreement on the likeliest token, in llama.cpp, on TEXT and on prose that
       comes along.

What each grid costs is foretold by the curvature of the prose that comes along for training, and what was chosen is
judged on its validation split before it is taken; no training. With --measure each grid of each group is measured there
too, as without curvature, and what is chosen by that is packed and judged beside.
All mixes are stored at the same fit, so that only the choice of grids differs. The work folder keeps what is done, in
the midst of the measurements too.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from edgedistill.config import Recipe
from edgedistill.config.recipe import SCHEMA
from edgedistill.data.prose import Passage, passages
from edgedistill.export.gguf.write import write_gguf
from edgedistill.facts import ModelShape
from edgedistill.machine import machine_facts
from edgedistill.measure.judge import Judge, Reference, make_reference, prose_documents
from edgedistill.measure.quality import measure_quality
from edgedistill.mixes import SENSITIVITY_TOKENS, Mix, Size, assign_formats, groups_of, measured_once, mix_bytes
from edgedistill.models.facts import read_facts
from edgedistill.models.load import load_model
from edgedistill.progress import Progress, RichProgress
from edgedistill.quant.checkpoint import GridCheckpoint
from edgedistill.quant.grids import GridTensor
from edgedistill.recover.choose import CHOSEN, fit_mix
from edgedistill.recover.curvature import CurvatureFiles, measure_curvature
from edgedistill.recover.kept_fit import keep_fit, load_fit
from edgedistill.recover.scores import ScoredText
from edgedistill.recover.sensitivity import LINES, TABLE, FitInputs, measure_sensitivity, read_table
from edgedistill.results.codec import to_plain
from edgedistill.runtimes.llama import LlamaCpp
from edgedistill.store.files import file_sha256

OUT = Path(__file__).parent / "results" / "auto_mix.json"
RIVALS = ("q2_k", "q4_0", "q5_0", "q4_k_m")
JUDGED_TOKENS = 4096
MEASURED = "measured"
RECIPE = Recipe.model_validate({"schema": SCHEMA, "name": "auto-mix"})
RECOVER = RECIPE.recover


def pack(model: Path, shape: ModelShape, mix: Mix, costs: CurvatureFiles, out: Path, progress: Progress) -> Path:
    """The model in a mix, each tensor at the fit that recovery would start from."""
    state, formats = load_model(model).state_dict(), assign_formats(shape, mix)
    fit = out.with_name(f"{out.stem}.fit")
    keep_fit(fit, state, formats, costs, mix.name, progress)
    tensors: dict[str, GridTensor | torch.Tensor] = {**load_fit(fit)}
    tensors |= {name: state[name].float() for name in formats if name not in tensors}
    return write_gguf(GridCheckpoint(mix.name, tensors), model, shape, out, {"name": mix.name})


def judged(path: Path, judges: list[Judge], reference: Reference, threads: int, progress: Progress) -> dict[str, Any]:
    """Size, hash and quality of a packed file in llama.cpp."""
    progress.start(f"judge {path.stem}", sum(judge.tokens for judge in judges), "tokens")
    with LlamaCpp(path, threads=threads, context=512, parallel=1) as model:
        quality = measure_quality(model, judges, {"float": reference}, progress)
    progress.finish()
    return {"file_bytes": path.stat().st_size, "sha256": file_sha256(path), "quality": to_plain(quality)}


def main() -> None:
    """Measure, fit, pack, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--judge", type=Path, required=True)
    parser.add_argument("--about", default="", help="What the model is, for the record.")
    parser.add_argument("--work", type=Path)
    parser.add_argument(
        "--measure", action="store_true", help="Measure what each grid costs too; it takes half an hour."
    )
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    work = asked.work or Path(tempfile.mkdtemp(prefix="auto-mix-"))
    work.mkdir(parents=True, exist_ok=True)
    progress = RichProgress(sys.stderr)

    shape = read_facts(asked.model, str(asked.model)).shape
    sizes = {rival: Size(total_bytes=mix_bytes(shape, rival)) for rival in RIVALS}
    mixes = {rival: Mix(f"fitted_{rival}", "", size=size) for rival, size in sizes.items()}
    groups = groups_of(shape, measured_once(list(mixes.values())))

    text = prose_documents(asked.model, passages("train", None), RECOVER.fit_tokens)
    scored = ScoredText(text, RECOVER.seq_len, RECOVER.compute, RECIPE.teach.seed)
    measure_curvature(asked.model, scored, work, progress)
    costs = CurvatureFiles(work)
    documents = prose_documents(asked.model, passages("validation", None), SENSITIVITY_TOKENS)
    inputs = FitInputs(asked.model, documents, costs, RECOVER.seq_len)
    # Told only where all of it was found in one go.
    fresh, seconds = not ((work / TABLE).is_file() or (work / LINES).is_file()), time.monotonic()
    if not (work / TABLE).is_file():
        measure_sensitivity(FitInputs(asked.model, None, costs, RECOVER.seq_len), groups, work, progress)
    seconds = time.monotonic() - seconds
    tables = {"fitted": read_table(work)}
    if asked.measure:
        (work / MEASURED).mkdir(exist_ok=True)
        if not (work / MEASURED / TABLE).is_file():
            measure_sensitivity(inputs, groups, work / MEASURED, progress)
        tables["by_measuring"] = read_table(work / MEASURED)

    whole = Passage(asked.judge, 0, asked.judge.stat().st_size)
    judges = [
        Judge(asked.judge.name, "not calibrated on", prose_documents(asked.model, [whole], JUDGED_TOKENS)),
        Judge(
            "prose",
            "comes along, its judging split",
            prose_documents(asked.model, passages("judge", None), JUDGED_TOKENS),
        ),
    ]
    reference = make_reference(asked.model, judges, work / "reference.safetensors", "float model", progress)
    rows = []
    for rival, mix in mixes.items():
        packed, chosen = {"built_in": Mix(rival, rival)}, {}
        for label, table in tables.items():
            folder = work / label / mix.name
            folder.mkdir(parents=True, exist_ok=True)
            if not (folder / CHOSEN).is_file():
                fit_mix(inputs, table, shape, mix, folder, progress)
            chosen[label] = json.loads((folder / CHOSEN).read_text(encoding="utf-8"))
            packed[label] = Mix(f"{label}_{rival}", "", size=mix.size, chosen=chosen[label]["grids"])
        pair: dict[str, dict[str, Any]] = {}
        for label, kind in packed.items():
            path = pack(asked.model, shape, kind, costs, work / f"{kind.name}.gguf", progress)
            counts: dict[str, int] = {}
            for stored in assign_formats(shape, kind).values():
                counts[stored.name] = counts.get(stored.name, 0) + 1
            pair[label] = {**judged(path, judges, reference, asked.threads, progress), "tensors": counts}
        fit = {key: found for key, found in chosen["fitted"].items() if key != "table"}
        rows.append({"mix": rival, "weight_bytes": mix_bytes(shape, rival), **pair, "fit": fit})
        for judge in judges:
            for label, packed_row in pair.items():
                quality = packed_row["quality"][judge.name]
                figures = (
                    f"KL {quality['kl_float_mean']:.4f}, perplexity {quality['ppl']:.2f}, "
                    f"{packed_row['file_bytes']} bytes"
                )
                print(f"{rival}, {judge.name}, {label}: {figures}")
    weights = file_sha256(next(asked.model.glob("*.safetensors")))
    calibration = sum(len(document.tokens) for document in text)
    found = {
        "command": f"python bench/auto_mix.py MODEL --judge {asked.judge.name}{' --measure' * asked.measure}",
        "machine": machine_facts(),
        "model": {"about": asked.about, "parameters": shape.parameters, "weights_sha256": weights},
        "tokens": {"calibration": calibration, "chosen_judged": SENSITIVITY_TOKENS, "judged": JUDGED_TOKENS},
        "sensitivity_seconds": round(seconds, 1) if fresh else None,
        "choices_weighed": sum(len(group.formats) for group in groups),
        "sizes": rows,
        "sensitivity": tables,
    }
    OUT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
