"""Speeds of packed files against the first, in llama.cpp: what a choice of number formats costs beside its bytes.

Run    python bench/speeds.py FILE.gguf [OTHER.gguf ...] [--names NAME,...] [--rounds 7] [--threads 2]
Writes bench/results/speeds.json: for each file prefill and decode in tokens/s, and the median over rounds of its ratio
to the first.

In each round every file is loaded anew and timed once, so that what disturbs one disturbs all.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from edgedistill.cli.words import words_of
from edgedistill.machine import machine_facts
from edgedistill.measure.speed import Trial, summary, time_once
from edgedistill.progress import RichProgress
from edgedistill.runtimes.llama import LlamaCpp
from edgedistill.store.files import file_sha256
from edgedistill.store.whole import write_json

OUT = Path(__file__).parent / "results" / "speeds.json"
PREFILL, DECODE, CONTEXT = 512, 128, 1024  # tokens


def ratios(trials: list[Trial], first: list[Trial]) -> dict[str, float]:
    """The median over rounds of a file's tokens/s over the first's."""
    pairs = list(zip(trials, first, strict=True))
    return {
        "prefill": statistics.median(one.prefill.tokens_per_s / other.prefill.tokens_per_s for one, other in pairs),
        "decode": statistics.median(one.decode.tokens_per_s / other.decode.tokens_per_s for one, other in pairs),
    }


def main() -> None:
    """Time the files in turn and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.gguf")
    parser.add_argument("--names", help="What the record calls the files; their names if not given.")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    names = words_of(asked.names) if asked.names else [path.name for path in asked.files]
    if len(names) != len(asked.files):
        parser.error(f"--names: {len(names)} names for {len(asked.files)} files")
    progress = RichProgress(sys.stderr)
    progress.start("time the files in turn", asked.rounds * len(names), "trials")
    trials: dict[str, list[Trial]] = {name: [] for name in names}
    runtime = ""
    for _ in range(asked.rounds):
        for name, path in zip(names, asked.files, strict=True):
            with LlamaCpp(path, threads=asked.threads, context=CONTEXT, parallel=1) as model:
                runtime = model.info().version
                trials[name].append(time_once(model, PREFILL, DECODE))
            progress.advance(1)
    progress.finish()
    rows: list[dict[str, Any]] = [
        {
            "file": name,
            "bytes": path.stat().st_size,
            "sha256": file_sha256(path),
            "over_first": ratios(trials[name], trials[names[0]]),
            **summary(trials[name]).to_json(),
        }
        for name, path in zip(names, asked.files, strict=True)
    ]
    command = (
        f"python bench/speeds.py {' '.join(f'{name}.gguf' for name in names)} --rounds {asked.rounds} --threads "
        f"{asked.threads}"
    )
    tokens = {"prefill": PREFILL, "decode": DECODE}
    write_json(
        OUT, {"command": command, "machine": machine_facts(), "runtime": runtime, "tokens": tokens, "rows": rows}
    )
    for row in rows:
        sys.stdout.write(json.dumps({"file": row["file"], **row["over_first"]}) + "\n")


if __name__ == "__main__":
    main()
