"""What the measure stages do: one judges one packed file in its real runtime, one times all files in turn, one joins what they found.

A row is a stage of its own (stages/judging.py says what its key hashes): a file that was judged is never judged again, whatever
else the run compares it with. Speeds are another matter: see speed.py.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgedistill.config.recipe import Recipe
from edgedistill.machine import machine_facts, usable_cores
from edgedistill.measure.artifacts import Artifact
from edgedistill.measure.judge import Judge, Reference
from edgedistill.measure.quality import measure_quality
from edgedistill.measure.speed import Trial, summary, time_once
from edgedistill.progress import Progress
from edgedistill.records import Record
from edgedistill.runtimes.base import Runtime
from edgedistill.runtimes.llama import LlamaCpp
from edgedistill.runtimes.onnx import OnnxRuntime
from edgedistill.store.files import write_json

SCHEMA = "edgedistill.measure/1"
ROW, SPEEDS, MEASURE = "row.json", "speeds.json", "measure.json"
SAMPLE_TOKENS = 96
UNITS = {"ppl": "perplexity", "kl": "nats per token", "top1": "share"}


def measure_row(
    artifact: Artifact, judges: Sequence[Judge], references: Mapping[str, Reference], recipe: Recipe, work: Path, progress: Progress
) -> None:
    """Judge one packed file and write `row.json` to `work`: {"quality": by judge, "samples": answer by prompt}.

    Nothing in it depends on other files, nor on what the file is called.

    Args:
        artifact: what to measure.
        judges: held-out texts.
        references: the float models' views of them, by "student" and "teacher".
        recipe: its `measure` part, and the style of its samples.
        work: the stage's folder.
        progress: where it is shown.
    """
    settings = recipe.measure
    longest = max(len(d.tokens) for j in judges for d in j.documents)
    progress.start(f"judge {artifact.label}", sum(j.tokens for j in judges), "tokens")
    with open_runtime(artifact.runtime, artifact.path, threads_of(recipe), context_of(recipe, longest)) as model:
        quality = measure_quality(model, judges, references, progress)
        samples = {prompt: _answer(model, prompt, recipe) for prompt in settings.prompts}
    progress.finish()
    write_json(work / ROW, {"quality": quality, "samples": samples})


def time_files(artifacts: Sequence[Artifact], recipe: Recipe, work: Path, progress: Progress) -> None:
    """Time packed files in turn, `measure.repetitions` rounds of all, and write `speeds.json` ({label: speed}) to `work`.

    What a killed start has timed isn't timed again.
    """
    settings = recipe.measure
    rounds = settings.repetitions
    progress.start("time the files in turn", rounds * len(artifacts), "trials")
    found: dict[str, list[Trial]] = {artifact.label: [] for artifact in artifacts}
    for number in range(rounds):
        for artifact in artifacts:
            kept = work / f"round-{number:02d}-{artifact.sha256[:16]}.json"
            if not kept.is_file():
                with open_runtime(artifact.runtime, artifact.path, threads_of(recipe), context_of(recipe)) as model:
                    write_json(kept, time_once(model, settings.prefill, settings.decode))
            found[artifact.label].append(json.loads(kept.read_text(encoding="utf-8")))
            progress.advance(1)
    progress.finish()
    write_json(work / SPEEDS, {label: summary(trials) for label, trials in found.items()})


def join_rows(
    artifacts: Sequence[Artifact], rows: Sequence[Path], speeds: Path, judges: Sequence[Judge], recipe: Recipe, command: str,
    on_target: bool, work: Path,
) -> None:
    """Write `measure.json` (schema edgedistill.measure/1) to `work`.

    Args:
        artifacts: what was measured, in the order of the table.
        rows: the folder of each one's row.
        speeds: the folder with all speeds.
        judges: held-out texts.
        recipe: its `measure` part.
        command: the command line that repeats the numbers.
        on_target: whether this machine is the target.
        work: the stage's folder.
    """
    machine = machine_facts()
    timed = json.loads((speeds / SPEEDS).read_text(encoding="utf-8"))
    samples: dict[str, dict[str, str]] = {prompt: {} for prompt in recipe.measure.prompts}
    table, records = [], []
    for artifact, folder in zip(artifacts, rows, strict=True):
        found = json.loads((folder / ROW).read_text(encoding="utf-8"))
        row = {
            "label": artifact.label,
            "kind": artifact.kind,
            "mix": artifact.mix,
            "runtime": artifact.runtime,
            "file": artifact.file,
            "file_bytes": artifact.file_bytes,
            "sha256": artifact.sha256,
            "quality": found["quality"],
            "speed": timed[artifact.label],
        }
        table.append(row)
        for prompt, answer in found["samples"].items():
            samples[prompt][artifact.label] = answer
        records += [record.to_dict() for record in _records(artifact, row, machine, command)]
    result = {
        "schema": SCHEMA,
        "machine": machine,
        "on_target": on_target,
        "judges": [{"name": j.name, "source": j.source, "tokens": j.tokens} for j in judges],
        "rows": table,
        "recovered": recovered_shares(table, [j.name for j in judges]),
        "samples": [{"prompt": prompt, "answers": answers} for prompt, answers in samples.items()],
        "records": records,
    }
    (work / MEASURE).write_text(json.dumps(result, indent=1), encoding="utf-8")


def threads_of(recipe: Recipe) -> int:
    """Threads that files are measured with."""
    return recipe.measure.threads or usable_cores()


def context_of(recipe: Recipe, longest: int = 0) -> int:
    """Tokens of context that files are measured with, texts of `longest` tokens among what they read."""
    return max(longest, recipe.measure.prefill, recipe.measure.decode, 512) + SAMPLE_TOKENS


def open_runtime(runtime: str, path: Path, threads: int, context: int) -> Runtime:
    """Load a packed file where it belongs."""
    return LlamaCpp(path, threads=threads, context=context, parallel=1) if runtime == "llama.cpp" else OnnxRuntime(path, threads=threads)


def recovered_shares(rows: Sequence[dict[str, Any]], judges: Sequence[str]) -> dict[str, Any]:
    """By mix and judge: `kl_share` = 1 − KL(recovered)/KL(rounded), and `ppl_share`, the same of the rise over the float student.

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


def _answer(model: Runtime, prompt: str, recipe: Recipe) -> str:
    """The likeliest answer, or continuation, of a sample prompt."""
    if recipe.teach.style == "chat":
        return "".join(model.chat([{"role": "user", "content": prompt}], max_tokens=SAMPLE_TOKENS))
    ids = model.tokenize(prompt, add_bos=True)
    return model.detokenize(model.generate(ids, SAMPLE_TOKENS, stop_ids=None))


def _records(artifact: Artifact, row: dict[str, Any], machine: dict[str, Any], command: str) -> list[Record]:
    def record(what: str, value: float, unit: str, **more: Any) -> Record:
        return Record(
            what=what,
            value=value,
            unit=unit,
            artifact=artifact.label,
            file_sha256=artifact.sha256,
            runtime=artifact.runtime,
            machine=machine,
            command=command,
            **more,
        )

    records = []
    for judge, found in row["quality"].items():
        records += [record(n, v, UNITS[n.split("_")[0]], text=judge) for n, v in found.items() if n != "tokens"]
    speed = row["speed"]
    for name in ("prefill_tokens_per_s", "decode_tokens_per_s"):
        timing = speed[name]
        records.append(record(name, timing["mean"], "tokens/s", trials=len(timing["trials"]), spread=timing["std"]))
    records.append(record("load_s", speed["load_s"], "s"))
    records.append(record("peak_rss_bytes", speed["peak_rss_bytes"], "bytes"))
    return records
