"""A served file, asked by others: EleutherAI's harness through its `local-completions`, and eight requests at once.

Run    python bench/serve.py FILE.gguf --lm-eval PYTHON [--tokenizer FOLDER] [--items 100] [--rounds 5] [--threads 2]
       PYTHON is an interpreter with lm-eval[api], in an environment of its own; --data is the folder of the test sets,
       see task_items.py.
Writes bench/results/serve.json:
       harness  the first items of arc_easy, asked by lm_eval through `edgedistill serve`, beside our own figure for
                the same items with its 95 % interval; whether the harness's lies within, and how many items come out
                alike
       at_once  rounds of the same requests sent at once and one after another, in turns: tokens/s of all together, and
                the ratio
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from bench.task_items import DATA, arc_easy  # noqa: E402
from edgedistill.errors import EdgeDistillError, RunError  # noqa: E402
from edgedistill.machine import load_average, machine_facts, usable_cores  # noqa: E402
from edgedistill.measure.intervals import wilson  # noqa: E402
from edgedistill.measure.multiple_choice import Question, answer_questions, right_answers  # noqa: E402
from edgedistill.progress import RichProgress  # noqa: E402
from edgedistill.runtimes.llama import LlamaCpp  # noqa: E402
from edgedistill.store.files import file_sha256  # noqa: E402
from edgedistill.store.whole import write_json  # noqa: E402

OUT = ROOT / "bench" / "results" / "serve.json"
CONTEXT = 512  # tokens; the longest question with an option has about 300
TASK = "arc_easy_local"
FIGURES = ("acc", "acc_norm")
# lm_eval/tasks/arc/arc_easy.yaml, with its items in a file.
TASK_FILE = {
    "task": TASK,
    "dataset_path": "json",
    "output_type": "multiple_choice",
    "test_split": "test",
    "doc_to_text": "{{prompt}}",
    "doc_to_target": "{{right}}",
    "doc_to_choice": "{{options}}",
    "metric_list": [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in FIGURES],
}
REQUESTS = 8
ANSWER_TOKENS = 64
PROMPTS = tuple(
    f"{begin} {subject}."
    for begin in ("Tell me in some sentences about", "List what a child should know about")
    for subject in ("the sea", "a library", "bread", "the night sky")
)


@dataclass(frozen=True)
class Served:
    """A server that runs: where, and what it calls its model."""

    url: str
    model: str
    runtime: str


@contextmanager
def served(path: Path, threads: int) -> Iterator[Served]:
    """`edgedistill serve` of a file, until the block ends.

    Raises:
        RunError: it doesn't start.
    """
    words = ["serve", path, "--port", 0, "--json", "--parallel", REQUESTS, "--threads", threads, "--context", CONTEXT]
    process = subprocess.Popen(
        [sys.executable, "-m", "edgedistill", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RunError(f"{path}: edgedistill serve ended before it was ready; run it by hand to see why")
        ready = json.loads(line)
        yield Served(ready["url"], ready["model"], ready["runtime"])
    finally:
        process.terminate()
        process.communicate()


def ours(path: Path, questions: Sequence[Question], threads: int) -> dict[str, list[bool]]:
    """By figure, whether each question is answered rightly, as edgedistill measures it."""
    show = RichProgress(sys.stderr)
    show.start("arc_easy, measured by edgedistill", len(questions), "items")
    with LlamaCpp(path, threads=threads, context=CONTEXT) as model:
        answers = answer_questions(model, questions, show)
    show.finish()
    return {name: right_answers(questions, answers, name == "acc_norm") for name in FIGURES}


def harness(server: Served, questions: Sequence[Question], python: Path, tokenizer: Path) -> dict[str, list[bool]]:
    """The same, as lm_eval measures it through the server.

    Raises:
        RunError: it fails.
    """
    with tempfile.TemporaryDirectory(prefix="edgedistill-lm-eval-") as scratch:
        place = Path(scratch)
        items = place / "items.json"
        rows = [{"prompt": each.prompt, "options": each.options, "right": each.right} for each in questions]
        items.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        task = {**TASK_FILE, "dataset_kwargs": {"data_files": {"test": str(items)}}}
        (place / f"{TASK}.yaml").write_text(json.dumps(task), encoding="utf-8")  # JSON is YAML
        model = {
            "model": server.model,
            "base_url": f"{server.url}/completions",
            "tokenizer": str(tokenizer.resolve()),
            "tokenizer_backend": "huggingface",
            "max_length": str(CONTEXT - 1),
        }
        words = ["--model", "local-completions", "--model_args", ",".join("=".join(pair) for pair in model.items())]
        words += ["--tasks", TASK, "--include_path", scratch, "--output_path", f"{scratch}/out", "--log_samples"]
        offline = {"HF_HOME": f"{scratch}/hub", "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
        done = subprocess.run(
            [str(python), "-m", "lm_eval", *words],
            env={**os.environ, **offline, "PYTHONPATH": ""},
            capture_output=True,
            text=True,
            check=False,
        )
        samples = sorted((place / "out").rglob("samples_*.jsonl"))
        if done.returncode or not samples:
            raise RunError(f"lm_eval ended with exit code {done.returncode}: {done.stderr[-500:]}")
        logged = [json.loads(line) for line in samples[0].read_text(encoding="utf-8").splitlines()]
    logged.sort(key=lambda row: row["doc_id"])
    return {name: [row[name] == 1.0 for row in logged] for name in FIGURES}


def harness_version(python: Path) -> str:
    """lm_eval's version in an environment."""
    code = "from importlib.metadata import version; print(version('lm_eval'))"
    return subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def compared(own: Sequence[bool], theirs: Sequence[bool]) -> dict[str, Any]:
    """A figure of ours with its 95 % interval, the harness's, and whether that lies in it."""
    low, high = wilson(sum(own), len(own))
    share = sum(theirs) / len(theirs)
    return {
        "ours": sum(own) / len(own),
        "low": low,
        "high": high,
        "harness": share,
        "within": low <= share <= high,
        "items_alike": sum(one == other for one, other in zip(own, theirs, strict=True)),
    }


def ask(server: Served, prompt: str) -> int:
    """Tokens of the answer to one prompt, which is read from its beginning."""
    body = {"messages": [{"role": "user", "content": prompt}], "max_tokens": ANSWER_TOKENS, "temperature": 0, "seed": 1}
    request = urllib.request.Request(
        f"{server.url}/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as answer:
        return int(json.load(answer)["usage"]["completion_tokens"])


def tokens_per_s(server: Served, at_once: bool) -> float:
    """New tokens a second over all requests together, sent at once or each after the one before."""
    tokens: list[int] = []
    started = time.perf_counter()
    if at_once:
        threads = [threading.Thread(target=lambda p=prompt: tokens.append(ask(server, p))) for prompt in PROMPTS]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    else:
        tokens += [ask(server, prompt) for prompt in PROMPTS]
    if len(tokens) < len(PROMPTS):
        raise RunError("a request wasn't answered")
    return sum(tokens) / (time.perf_counter() - started)


def rounds(server: Served, count: int) -> dict[str, Any]:
    """Rounds of both, and the ratio of each with its median."""
    tokens_per_s(server, at_once=True)  # a first one warms up
    trials: list[dict[str, float]] = []
    for number in range(count):
        order = (True, False) if number % 2 else (False, True)
        speeds = {at_once: tokens_per_s(server, at_once) for at_once in order}
        trials.append({"at_once": speeds[True], "one_by_one": speeds[False], "ratio": speeds[True] / speeds[False]})
        sys.stdout.write(json.dumps(trials[-1]) + "\n")
    ratios = [trial["ratio"] for trial in trials]
    return {
        "requests": len(PROMPTS),
        "answer_tokens": ANSWER_TOKENS,
        "unit": "tokens/s",
        "rounds": trials,
        "ratio": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
    }


def main() -> None:
    """Measure both and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, metavar="FILE.gguf")
    parser.add_argument("--lm-eval", required=True, type=Path, metavar="PYTHON")
    parser.add_argument("--tokenizer", type=Path, metavar="FOLDER", help="its Hugging Face files; the file's folder")
    parser.add_argument("--data", type=Path, default=DATA, metavar="DIR")
    parser.add_argument("--items", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=usable_cores())
    given = parser.parse_args()
    try:
        before = load_average()
        questions = arc_easy(given.data)[: given.items]
        own = ours(given.file, questions, given.threads)
        with served(given.file, given.threads) as server:
            theirs = harness(server, questions, given.lm_eval, given.tokenizer or given.file.parent)
            at_once = rounds(server, given.rounds)
    except EdgeDistillError as error:
        sys.exit(f"Error: {error}")
    words = f"{given.file.name} --lm-eval PYTHON --items {given.items} --rounds {given.rounds}"
    record = {
        "command": f"python bench/serve.py {words} --threads {given.threads}",
        "machine": machine_facts(),
        "load_average": {"before": before, "after": load_average()},  # the server's own load is in the second
        "file": given.file.name,
        "sha256": file_sha256(given.file),
        "runtime": server.runtime,
        "versions": {"lm_eval": harness_version(given.lm_eval), "numpy": version("numpy")},
        "harness": {
            "task": "arc_easy",
            "items": len(questions),
            **{name: compared(own[name], theirs[name]) for name in FIGURES},
        },
        "at_once": at_once,
    }
    write_json(OUT, record)
    sys.stdout.write(json.dumps({"harness": record["harness"], "ratio": at_once["ratio"]}, indent=2) + "\n")


if __name__ == "__main__":
    main()
