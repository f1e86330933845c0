"""Our files of the comparison: the fit alone, and training with growing budgets, from one run's text, for several
mixes.

Run    edgedistill recover MODEL --mix q4_0,auto_q4_0,q4_k_m --tokens 400k -o RUN
       python bench/recover_ours.py RUN --work DIR [--mixes q4_0,auto_q4_0,q4_k_m] [--budgets 0,10k,100k,400k]
       [--name NAME] [--spread NUMBER] [--train weights,scales,norms] [--rate NUMBER] [--threads 2]
Writes DIR/ours/BUDGET/MIX.gguf and MIX.json, BUDGET being fit, 10k, 100k or 400k: what bench/recovery.py takes as ours.
A mix of chosen grids, auto_MIX, has RUN's choice and is written as DIR/ours/auto BUDGET/MIX.gguf, beside the others of
its bytes. NAME goes before the budget, for a run of other text, a fit of another SPREAD, or training that the recover
command doesn't do by default: of other parts (--train), at another rate of the weights (--rate).

RUN gives the student, the captured text, what each weight's error costs and the chosen grids, as the recover command
made them; each file goes through the same recover and export stages. Files that are there are not made again, and a
killed training goes on where it was.
"""

import argparse
import json
import resource
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

import torch

from edgedistill import __version__
from edgedistill.cli.words import words_of
from edgedistill.config import load_recipe
from edgedistill.config.overrides import Overrides
from edgedistill.config.recover import Recover
from edgedistill.config.recovery import recovery_recipe
from edgedistill.export import GGUF_NAME
from edgedistill.export.exports import export_recovered
from edgedistill.formats import FORMATS, NumberFormat
from edgedistill.machine import machine_facts
from edgedistill.mixes import Mix, assign_formats
from edgedistill.models.hf_folder import read_shape
from edgedistill.models.load import load_model
from edgedistill.progress import RichProgress
from edgedistill.quant import fit
from edgedistill.recover.choose import read_grids
from edgedistill.recover.curvature import CurvatureFiles
from edgedistill.recover.kept_fit import FIT as FIT_FOLDER
from edgedistill.recover.kept_fit import keep_fit
from edgedistill.recover.mix_training import RecoverInputs, recover
from edgedistill.signals.shards import iter_shards, load_sources
from edgedistill.store.whole import write_json
from edgedistill.units import parse_count

AUTO = "auto_"  # before the name of a mix whose bytes chosen grids may have
FIT = "0"
FIT_RECORD = "seconds.json"


def formats_of(stages: dict[str, Path], mix: str) -> dict[str, NumberFormat]:
    """Each tensor's format: of a built-in mix, or as the run chose it."""
    formats = assign_formats(read_shape(stages["student"]), Mix(mix, mix.removeprefix(AUTO)))
    if mix.startswith(AUTO):
        formats |= {name: FORMATS[grid] for name, grid in read_grids(stages[f"fit-{mix}"]).items()}
    return formats


def fit_of(stages: dict[str, Path], formats: dict[str, NumberFormat], mix: str, folder: Path) -> Path:
    """The folder of the fit that every budget of a mix begins from, made where it is missing, and what it took."""
    if not (folder / FIT_RECORD).is_file():
        shutil.rmtree(folder, ignore_errors=True)  # of a call that was killed before it had noted the time
        began = time.monotonic()
        keep_fit(
            folder,
            load_model(stages["student"]).state_dict(),
            formats,
            CurvatureFiles(stages["curvature"]),
            mix,
            RichProgress(),
        )
        measured = json.loads((stages["curvature"] / "stage.json").read_text(encoding="utf-8"))
        took = {"calibration_tokens": measured["settings"]["tokens"], "measuring_seconds": measured["seconds"]}
        write_json(folder / FIT_RECORD, {"fit_seconds": time.monotonic() - began, **took})
    return folder


def make(stages: dict[str, Path], mix: str, budget: str, out: Path, work: Path, changed: Mapping[str, object]) -> None:
    """One file, its training's curve beside it; `changed` are settings of recover that differ from the command's."""
    tokens = 0 if budget == FIT else parse_count(budget)
    recipe = recovery_recipe(load_recipe("recover"), Overrides(mixes=(mix,), tokens=str(tokens)))
    settings = Recover.model_validate({**recipe.recover.model_dump(), **changed})
    student, shape = stages["student"], read_shape(stages["student"])
    training = list(iter_shards(stages["capture"] / "train"))
    validation = load_sources(stages["capture"], "validation")
    work.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    formats = formats_of(stages, mix)
    place = work.parent.parent / "fits" / f"{stages['curvature'].name}-{mix}-{fit.SPREAD:g}"
    kept = fit_of(stages, formats, mix, place)
    if not (work / FIT_FOLDER).is_dir():
        shutil.copytree(kept, work / FIT_FOLDER, ignore=shutil.ignore_patterns(FIT_RECORD))
    recover(RecoverInputs(student, training, validation, None, mix, formats), settings, work, RichProgress())
    seconds = time.monotonic() - began
    exported = work / "gguf"
    exported.mkdir(exist_ok=True)
    export_recovered("gguf", work, shape, exported, {"name": f"{mix} {budget}", "made": "recovered"}, 4)
    out.parent.mkdir(parents=True, exist_ok=True)
    curve = json.loads((work / "curve.json").read_text(encoding="utf-8"))
    made = {
        "tokens": tokens,
        "seconds": seconds,
        "settings": settings.model_dump(mode="json"),
        "version": __version__,
        "torch": torch.__version__,
        "machine": machine_facts(),
        "spread": fit.SPREAD,
        "trained": curve["trained"],
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "command": f"python bench/recover_ours.py RUN --work DIR --mixes {mix} --budgets {budget} "
        f"--spread {fit.SPREAD:g}"
        + (f" --train {','.join(settings.train)}" if settings.train else "")
        + (f" --rate {settings.learning_rate:g}" if "learning_rate" in changed else ""),
        "validation": curve["validation"],
    }
    write_json(out.with_suffix(".json"), made | json.loads((kept / FIT_RECORD).read_text(encoding="utf-8")))
    shutil.move(exported / GGUF_NAME, out)  # last: a file that is there is whole
    shutil.rmtree(work)


def main() -> None:
    """Make what is missing."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--mixes", default="q4_0,auto_q4_0,q4_k_m")
    parser.add_argument("--budgets", default="0,10k,100k,400k")
    parser.add_argument("--name", default="", help="What stands before the budget in the rows' names.")
    parser.add_argument("--spread", type=float, help="Of the fit, in place of today's; see quant/fit.py.")
    parser.add_argument("--train", help="Parts that are trained, in place of what the budget and the mix choose.")
    parser.add_argument("--rate", type=float, help="The weights' peak rate, in place of the recipe's.")
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    if asked.spread is not None:
        fit.SPREAD = asked.spread
    changed: dict[str, object] = {}
    if asked.train:
        changed["train"] = words_of(asked.train)
    if asked.rate:
        changed["learning_rate"] = asked.rate
    current = json.loads((asked.run / "run.json").read_text(encoding="utf-8"))["current"]
    stages = {name: asked.run / "stages" / folder for name, folder in current.items()}
    for budget in words_of(asked.budgets):
        for mix in words_of(asked.mixes):
            words = (asked.name, "auto" * mix.startswith(AUTO), "fit" if budget == FIT else budget)
            name = " ".join(word for word in words if word)
            out = asked.work / "ours" / name / f"{mix.removeprefix(AUTO)}.gguf"
            if not out.is_file():
                make(stages, mix, budget, out, asked.work / "training" / f"{name}-{mix}", changed)


if __name__ == "__main__":
    main()
