"""The measure stage: every packed file in its real runtime on this machine, each number with its record.

Files are measured one after the other, each finished row is kept at once, and a killed stage goes on with the next.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgedistill.config.recipe import Recipe
from edgedistill.machine import machine_facts, usable_cores
from edgedistill.measure.artifacts import Artifact
from edgedistill.measure.judge import Judge, Reference, make_reference
from edgedistill.measure.quality import measure_quality
from edgedistill.measure.speed import measure_speed
from edgedistill.progress import Progress
from edgedistill.records import Record
from edgedistill.runtimes.base import Runtime
from edgedistill.runtimes.llama import LlamaCpp
from edgedistill.runtimes.onnx import OnnxRuntime

SCHEMA = "edgedistill.measure/1"
SAMPLE_TOKENS = 96
UNITS = {"ppl": "perplexity", "kl": "nats per token", "top1": "share"}


def measure(
    artifacts: Sequence[Artifact],
    judges: list[Judge],
    models: Mapping[str, Path],
    recipe: Recipe,
    command: str,
    on_target: bool,
    work: Path,
    progress: Progress,
) -> None:
    """Write `measure.json` (schema edgedistill.measure/1) to `work`.

    Args:
        artifacts: what to measure, in the order of the table.
        judges: held-out texts.
        models: the float models that the files are compared with, by "student" and "teacher".
        recipe: its `measure` part, and the style of its samples.
        command: the command line that repeats the numbers.
        on_target: whether this machine is the target.
        work: the stage's folder; rows that a killed run finished are kept.
        progress: where it is shown.
    """
    machine = machine_facts()
    references = {
        name: make_reference(model, judges, work / f"{name}.safetensors", f"float {name}", progress) for name, model in models.items()
    }
    samples: dict[str, dict[str, str]] = {prompt: {} for prompt in recipe.measure.prompts}
    rows, records = [], []
    for number, artifact in enumerate(artifacts):
        kept = work / f"row-{number:02d}.json"
        if not kept.is_file():
            found = _measure_one(artifact, judges, references, recipe, progress)
            partial = kept.with_suffix(".partial")
            partial.write_text(json.dumps(found), encoding="utf-8")
            partial.replace(kept)
        found = json.loads(kept.read_text(encoding="utf-8"))
        rows.append(found["row"])
        for prompt, answer in found["samples"].items():
            samples[prompt][artifact.label] = answer
        records += [record.to_dict() for record in _records(artifact, found["row"], machine, command)]
    result = {
        "schema": SCHEMA,
        "machine": machine,
        "on_target": on_target,
        "judges": [{"name": j.name, "source": j.source, "tokens": j.tokens} for j in judges],
        "rows": rows,
        "recovered": recovered_shares(rows, [j.name for j in judges]),
        "samples": [{"prompt": prompt, "answers": answers} for prompt, answers in samples.items()],
        "records": records,
    }
    (work / "measure.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    for name in models:
        (work / f"{name}.safetensors").unlink()  # a model's output matrix each: no reader needs them again


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


def _measure_one(
    artifact: Artifact, judges: list[Judge], references: dict[str, Reference], recipe: Recipe, progress: Progress
) -> dict[str, Any]:
    settings = recipe.measure
    longest = max(len(d.tokens) for j in judges for d in j.documents)
    context = max(longest, settings.prefill, settings.decode, 512) + SAMPLE_TOKENS
    threads = settings.threads or usable_cores()
    progress.start(f"measure {artifact.label}", sum(j.tokens for j in judges), "tokens")
    with open_runtime(artifact.runtime, artifact.path, threads, context) as model:
        speed = measure_speed(model, settings.prefill, settings.decode, settings.repetitions)
        quality = measure_quality(model, judges, references, progress)
        samples = {prompt: _answer(model, prompt, recipe) for prompt in settings.prompts}
    progress.finish()
    row = {
        "label": artifact.label,
        "kind": artifact.kind,
        "mix": artifact.mix,
        "runtime": artifact.runtime,
        "file": artifact.file,
        "file_bytes": artifact.file_bytes,
        "sha256": artifact.sha256,
        "quality": quality,
        "speed": speed,
    }
    return {"row": row, "samples": samples}


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
