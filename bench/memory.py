"""Memory and disk of `edgedistill recover --tokens 0` by stage, against the plan: random bf16 llamas of several sizes.

Run    python bench/memory.py [130M 500M ...] [--fit ggml] [--until STAGE] [--work FOLDER]
Writes bench/results/memory.json: by size and stage the highest resident memory of the command and its children, what
       that is a parameter, the plan's figure and their ratio; the most that the run folder held on the disk at once;
       and of every stage a line over all sizes, bytes = base + slope · parameters.

A model is made on the spot with a vocabulary of 49,152 rows; its weights are noise, since sizes are what counts. The
text is the prose that comes with edgedistill, so no model writes any. Linux.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from edgedistill.machine import machine_facts  # noqa: E402
from edgedistill.store.whole import write_json  # noqa: E402

OUT = Path(__file__).parent / "results" / "memory.json"
VOCABULARY = 49_152
SAMPLE_SECONDS = 0.1
RECIPE = """schema: edgedistill.recipe/1
name: memory
student: {kind: same}
teach: {style: text, tokens: 0, free_tokens: 0, text_tokens: 1_500, holdout: 0.2}
recover: {tokens: 0, fit_tokens: 1_024, seq_len: 256, fit: FIT}
mixes: [q4_0]
export: [gguf]
measure: {tokens: 128, prompts: ["The old cat"], prefill: 64, decode: 16, repetitions: 1, tasks: [], refusal_items: 0}
"""


@dataclass(frozen=True)
class Size:
    """A llama's sizes in elements."""

    layers: int
    width: int
    ffn: int
    heads: int
    kv_heads: int


SIZES = {
    "130M": Size(30, 576, 1536, 9, 3),  # SmolLM2-135M's
    "500M": Size(24, 1280, 3584, 20, 4),
    "1B": Size(16, 2048, 8192, 32, 8),  # Llama-3.2-1B's
    "1.5B": Size(24, 2048, 8192, 32, 8),
}


@dataclass
class StageFigures:
    """What a stage took, measured and planned, in bytes."""

    stage: str
    peak_bytes: int
    bytes_a_parameter: float
    planned_bytes: int
    planned_over_measured: float
    seconds: float


def make_model(folder: Path, size: Size) -> None:
    """A random llama in bfloat16 as a Hugging Face folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from tests.tiny import make_tokenizer

    tokenizer = make_tokenizer(chat=False)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=size.width,
        intermediate_size=size.ffn,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def tree_rss(process: psutil.Process) -> int:
    """Resident bytes of a process and its children; pages of mapped files count."""
    total = 0
    try:
        for each in (process, *process.children(recursive=True)):
            total += each.memory_info().rss
    except psutil.Error:  # one of them ended meanwhile
        pass
    return total


def folder_bytes(folder: Path) -> int:
    """What a folder takes on the disk, hard links once."""
    seen: dict[int, int] = {}
    # os.walk passes over a folder that got another name meanwhile.
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                facts = Path(place, name).stat()
                seen[facts.st_ino] = facts.st_blocks * 512
    return sum(seen.values())


@dataclass
class Watched:
    """A command's peaks by stage, in bytes, and the most that its run folder held."""

    peaks: dict[str, int]
    disk: dict[str, int]
    seconds: float
    code: int


def watch(command: list[str], run: Path, log: Path, until: str | None) -> Watched:
    """Run a command, and sample its memory and its folder until it ends, or until the stage `until` is finished."""
    peaks: dict[str, int] = {}
    disk: dict[str, int] = {}
    began = time.monotonic()
    with log.open("w", encoding="utf-8") as file:
        child = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)
        process = psutil.Process(child.pid)
        while child.poll() is None:
            partial = next(run.glob("stages/.*.partial"), None)
            stage = "between" if partial is None else partial.name[1:].rpartition("-")[0]
            peaks[stage] = max(peaks.get(stage, 0), tree_rss(process))
            disk[stage] = max(disk.get(stage, 0), folder_bytes(run))
            if until is not None and any(run.glob(f"stages/{until}-*/stage.json")):
                child.send_signal(signal.SIGINT)
                child.wait()
                return Watched(peaks, disk, time.monotonic() - began, 0)
            time.sleep(SAMPLE_SECONDS)
    return Watched(peaks, disk, time.monotonic() - began, child.returncode)


def plan_of(model: Path, recipe: Path) -> dict[str, Any]:
    """The plan's JSON for the command that is measured."""
    words = ["plan", str(model), "--recipe", str(recipe), "--target", "this-machine", "--tokens", "0", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "edgedistill", *words], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False
    )
    plan: dict[str, Any] = json.loads(done.stdout)
    return plan


def measure(name: str, work: Path, fit: str, until: str | None) -> dict[str, Any]:
    """One size: the model made, recovered and watched."""
    model, run, recipe = work / f"model-{name}", work / f"run-{name}-{fit}", work / f"memory-{fit}.yaml"
    recipe.write_text(RECIPE.replace("FIT", fit), encoding="utf-8")
    if not (model / "tokenizer.json").is_file():
        maker = [sys.executable, __file__, "--make", name, str(model)]
        subprocess.run(maker, check=True)
    plan = plan_of(model, recipe)
    parameters = int(plan["student"]["parameters"])
    words = ["recover", str(model), "--recipe", str(recipe), "--tokens", "0", "-o", str(run)]
    seen = watch([sys.executable, "-m", "edgedistill", *words], run, work / f"{name}.log", until)
    if seen.code:
        sys.exit(f"{name}: the command failed; see {work / f'{name}.log'}")
    seconds = {m["name"]: m["seconds"] for m in map(_read, run.glob("stages/*/stage.json"))}
    planned = plan["build"]["ram_bytes_by_stage"]
    stages = [
        StageFigures(
            stage,
            peak,
            round(peak / parameters, 2),
            int(planned.get(stage, 0)),
            round(planned.get(stage, 0) / peak, 3),
            round(float(seconds.get(stage, 0.0)), 1),
        )
        for stage, peak in seen.peaks.items()
        if stage in planned
    ]
    peak, disk = max(seen.peaks.values()), max(seen.disk.values())
    return {
        "size": name,
        "fit": fit,
        "until": until,
        "parameters": parameters,
        "peak_bytes": peak,
        "bytes_a_parameter": round(peak / parameters, 2),
        "planned_bytes": plan["build"]["ram_bytes"],
        "planned_over_measured": round(plan["build"]["ram_bytes"] / peak, 3),
        "disk_bytes": disk,
        "planned_disk_bytes": plan["build"]["disk_bytes"],
        "planned_over_measured_disk": round(plan["build"]["disk_bytes"] / disk, 3),
        "seconds": round(seen.seconds, 1),
        "stages": [asdict(stage) for stage in stages],
    }


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def fitted(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """By stage, base and slope of the line through all sizes; {} for a single size."""
    if len({row["parameters"] for row in rows}) < 2:
        return {}
    by_stage: dict[str, list[tuple[int, int]]] = {}
    for row in rows:
        for stage in row["stages"]:
            by_stage.setdefault(stage["stage"], []).append((row["parameters"], stage["peak_bytes"]))
    lines = {}
    for stage, points in by_stage.items():
        if len({size for size, _ in points}) < 2:
            continue
        slope, base = np.polyfit(*zip(*points, strict=True), 1)
        lines[stage] = {
            "base_bytes": round(float(base)),
            "bytes_a_parameter": round(float(slope), 2),
            "at_8b_bytes": round(float(base + slope * 8.03e9)),
        }
    return lines


def main() -> None:
    """Measure every size that is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", nargs="*", metavar="SIZE", help=f"Of {', '.join(SIZES)}; 130M and 500M if not given.")
    parser.add_argument("--fit", choices=("curvature", "ggml"), default="curvature")
    parser.add_argument("--until", metavar="STAGE", help="Stop when this stage is finished, such as curvature.")
    parser.add_argument("--work", type=Path, help="Where models and runs stay; a temporary folder if not given.")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--make", nargs=2, metavar=("SIZE", "FOLDER"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.make:
        make_model(Path(asked.make[1]), SIZES[asked.make[0]])
        return
    with tempfile.TemporaryDirectory() as scratch:
        work = asked.work or Path(scratch)
        work.mkdir(parents=True, exist_ok=True)
        # Sizes that were measured before stay, so that large ones can be measured one at a time.
        rows = _read(asked.out)["rows"] if asked.out.is_file() else []
        before = {_key(row): row for row in rows}
        for name in asked.sizes or ["130M", "500M"]:
            row = measure(name, work, asked.fit, asked.until)
            before[_key(row)] = row
            rows = sorted(before.values(), key=lambda each: int(each["parameters"]))
            record = {"command": "python bench/memory.py", "machine": machine_facts(), "rows": rows}
            write_json(asked.out, record | {"lines": fitted(rows)})
            _show(row)


def _key(row: dict[str, Any]) -> tuple[str, ...]:
    return tuple(str(row[name]) for name in ("size", "fit", "until"))


def _show(row: dict[str, Any]) -> None:
    sys.stdout.write(
        f"{row['size']}: {row['peak_bytes'] / 2**30:.2f} GiB ({row['bytes_a_parameter']} bytes a parameter, planned "
        f"{row['planned_over_measured']} of it), disk {row['disk_bytes'] / 2**30:.2f} GiB (planned "
        f"{row['planned_over_measured_disk']} of it), {row['seconds']:.0f} s\n"
    )
    for stage in row["stages"]:
        sys.stdout.write(
            f"  {stage['stage']:24} {stage['peak_bytes'] / 2**20:8.0f} MiB {stage['bytes_a_parameter']:7.2f} B a "
            f"parameter, planned {stage['planned_over_measured']}, {stage['seconds']} s\n"
        )
    sys.stdout.flush()


if __name__ == "__main__":
    main()
