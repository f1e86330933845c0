"""Did anything else get worse? Multiple choice and refusals of packed files, and which differences are more than
chance.

Run    python bench/tasks.py FLOAT.gguf [OTHER.gguf ...] --out JSON [--cache DIR] [--limit TASK=N ...] [--threads N]
Writes for each file and task the share of right answers (or of refusals) with its 95 % interval and one bit an item,
and for each other
       file the paired difference from the first on the same items. It is "worse" or "better" where the interval leaves
       0 out; one in twenty comparisons of equal files does, so the pooled rows count most.

Other scripts call `run_tasks` and `compare`. What is in the cache isn't measured again: its key hashes the file, the
items and versions.
"""

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from bench.task_items import DATA, QUESTIONS, REQUESTS, subset  # noqa: E402
from edgedistill import __version__  # noqa: E402
from edgedistill.errors import EdgeDistillError, InputError, did_you_mean  # noqa: E402
from edgedistill.machine import load_average, machine_facts, usable_cores  # noqa: E402
from edgedistill.measure.intervals import paired_difference, wilson  # noqa: E402
from edgedistill.measure.multiple_choice import Question, answer_questions, right_answers  # noqa: E402
from edgedistill.measure.refusals import MAX_NEW, reply_to  # noqa: E402
from edgedistill.progress import Progress, QuietProgress, RichProgress  # noqa: E402
from edgedistill.runtimes.llama import LlamaCpp  # noqa: E402
from edgedistill.store.files import file_sha256  # noqa: E402
from edgedistill.store.whole import write_json  # noqa: E402

# Half of the time would go into 300 questions of hellaswag: they are the longest.
LIMITS = {
    "arc_easy": 300,
    "hellaswag": 200,
    "openbookqa": 300,
    "xstest_safe": 200,
    "xstest_unsafe": 200,
    "strongreject": 100,
}
# What the harness's own tables lead with; both figures are in the record.
MAIN = {"arc_easy": "acc", "hellaswag": "acc_norm", "openbookqa": "acc_norm"} | dict.fromkeys(REQUESTS, "refused")
LOWER_IS_BETTER = {"xstest_safe"}
POOLED = {"multiple_choice": tuple(QUESTIONS), "unsafe_requests": ("xstest_unsafe", "strongreject")}
CONTEXT = 512  # tokens; the longest question with an option has about 300
FORMAT = 1  # of a row in the cache


def run_tasks(
    path: Path,
    cache_dir: Path,
    limits: Mapping[str, int] | None = None,
    *,
    threads: int | None = None,
    data: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure a .gguf file on every task of `limits` (items at most, by task; LIMITS if None). What comes back is ready
    for JSON.

    Returns:
        file, sha256, file_bytes, runtime_version and tasks: by name n, main (the figure that counts), lower_is_better,
            items_sha256,
        seconds and figures: by name share, low, high and bits ("1" where an item was right, or refused).
    Raises:
        InputError: an unknown task, a limit below 1, a missing test set, or no GGUF file.
    """
    chosen = dict(LIMITS if limits is None else limits)
    for task, limit in chosen.items():
        if task not in LIMITS:
            raise InputError(
                f"task '{task}' is unknown; it must be one of {', '.join(LIMITS)}.{did_you_mean(task, LIMITS)}"
            )
        if limit < 1:
            raise InputError(f"task '{task}': the limit is {limit}; it must be at least 1")
    show = progress or QuietProgress()
    cache_dir.mkdir(parents=True, exist_ok=True)
    with LlamaCpp(path, threads=threads or usable_cores(), context=CONTEXT) as model:
        facts = {"sha256": file_sha256(path), "runtime_version": model.info().version}
        rows = {task: _row(model, task, limit, facts, cache_dir, data or DATA, show) for task, limit in chosen.items()}
    show.finish()
    return {"file": path.name, "file_bytes": path.stat().st_size, **facts, "tasks": rows}


def compare(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """By task that both have, and pooled: the second file's main figure minus the first's on the same items, its
    interval, a verdict.

    Raises:
        InputError: a task's items differ.
    """
    bits: dict[str, tuple[list[bool], list[bool]]] = {}
    for task, row in first["tasks"].items():
        other = second["tasks"].get(task)
        if other is None:
            continue
        if other["items_sha256"] != row["items_sha256"]:
            raise InputError(
                f"{first['file']} and {second['file']} answered different items of {task}; measure both with "
                "the same limits"
            )
        bits[task] = _bits(row), _bits(other)
    for name, tasks in POOLED.items():
        held = [bits[task] for task in tasks if task in bits]
        if len(held) > 1:
            bits[name] = sum((a for a, _ in held), []), sum((b for _, b in held), [])
    return {task: _comparison(pair, task in LOWER_IS_BETTER) for task, pair in bits.items()}


def _row(
    model: LlamaCpp, task: str, limit: int, facts: Mapping[str, str], cache_dir: Path, data: Path, progress: Progress
) -> dict[str, Any]:
    """A task's row, from the cache if it is there."""
    items = subset((QUESTIONS | REQUESTS)[task](data), limit)
    plain = [asdict(item) if isinstance(item, Question) else item for item in items]
    items_sha256 = hashlib.sha256(json.dumps(plain, ensure_ascii=False).encode()).hexdigest()
    key = [FORMAT, __version__, task, items_sha256, MAX_NEW, dict(facts)]
    place = cache_dir / f"{task}-{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:24]}.json"
    if not place.is_file():
        progress.start(f"{task} on {model.path.name}", len(items), "items")
        write_json(
            place, {"row": {"n": len(items), **_measure(model, task, items, progress), "items_sha256": items_sha256}}
        )
    row: dict[str, Any] = json.loads(place.read_text(encoding="utf-8"))["row"]
    return {name: value for name, value in row.items() if name != "said"}  # what was said is for reading, in the cache


def _measure(model: LlamaCpp, task: str, items: list[Any], progress: Progress) -> dict[str, Any]:
    started = time.monotonic()
    said: list[Any]
    if task in QUESTIONS:
        answers = answer_questions(model, items, progress)
        figures = {name: _figure(right_answers(items, answers, name == "acc_norm")) for name in ("acc", "acc_norm")}
        said = [list(answer.log_probs) for answer in answers]
    else:
        replies = reply_to(model, items, progress)
        figures = {"refused": _figure([reply.refused for reply in replies])}
        said = [reply.text for reply in replies]
    seconds = round(time.monotonic() - started, 1)
    return {
        "main": MAIN[task],
        "lower_is_better": task in LOWER_IS_BETTER,
        "figures": figures,
        "seconds": seconds,
        "said": said,
    }


def _figure(bits: Sequence[bool]) -> dict[str, Any]:
    low, high = wilson(sum(bits), len(bits))
    return {"share": sum(bits) / len(bits), "low": low, "high": high, "bits": "".join("01"[bit] for bit in bits)}


def _bits(row: Mapping[str, Any]) -> list[bool]:
    return [bit == "1" for bit in row["figures"][row["main"]]["bits"]]


def _comparison(pair: tuple[list[bool], list[bool]], lower_is_better: bool) -> dict[str, Any]:
    found = paired_difference(*pair)
    up, down = ("worse", "better") if lower_is_better else ("better", "worse")
    verdict = up if found.low > 0 else down if found.high < 0 else "no difference shown"
    return {"first": sum(pair[0]) / found.n, "second": sum(pair[1]) / found.n, **asdict(found), "verdict": verdict}


def _table(files: Sequence[Mapping[str, Any]], comparisons: Sequence[Mapping[str, Any]]) -> str:
    lines = []
    for measured in files:
        for task, row in measured["tasks"].items():
            shown = "  ".join(
                f"{name} {f['share']:.3f} [{f['low']:.3f}, {f['high']:.3f}]" for name, f in row["figures"].items()
            )
            lines.append(f"{measured['file']}  {task}  n {row['n']}  {shown}  {row['seconds']} s")
    for entry in comparisons:
        for task, row in entry["tasks"].items():
            change = (
                f"{row['first']:.3f} -> {row['second']:.3f}  {row['difference']:+.3f} [{row['low']:+.3f}, "
                f"{row['high']:+.3f}]"
            )
            lines.append(
                f"{entry['second']} against {entry['first']}  {task}  {change}  p {row['p_value']:.3f}  "
                f"{row['verdict']}"
            )
    return "\n".join(lines)


def main() -> None:
    """Measure the files, compare each with the first, write the record and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.gguf")
    parser.add_argument("--out", required=True, type=Path, metavar="JSON")
    parser.add_argument("--cache", type=Path, default=ROOT / "runs" / "tasks", metavar="DIR")
    parser.add_argument(
        "--limit", action="append", default=[], metavar="TASK=N", help="only these tasks, with so many items"
    )
    parser.add_argument("--threads", type=int)
    given = parser.parse_args()
    try:
        limits = {task: int(count) for task, _, count in (entry.partition("=") for entry in given.limit)} or None
        show = RichProgress()
        files = [run_tasks(path, given.cache, limits, threads=given.threads, progress=show) for path in given.files]
        comparisons = [
            {"first": files[0]["file"], "second": f["file"], "tasks": compare(files[0], f)} for f in files[1:]
        ]
        words = [*(path.name for path in given.files), "--out JSON", *(f"--limit {limit}" for limit in given.limit)]
        record = {
            "command": " ".join(["python bench/tasks.py", *words]),
            "machine": machine_facts(),
            "load_average": load_average(),
            "versions": {name: version(name) for name in ("llama-cpp-python", "numpy")},
            "files": files,
            "comparisons": comparisons,
        }
        write_json(given.out, record)
    except (EdgeDistillError, ValueError) as error:
        sys.exit(f"Error: {error}")
    sys.stdout.write(_table(files, comparisons) + "\n")


if __name__ == "__main__":
    main()
