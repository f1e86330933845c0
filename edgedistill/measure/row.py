"""All that is measured of one packed file. Each part is kept at once, so a kill costs the part at hand."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from edgedistill.config.recipe import Recipe
from edgedistill.config.tasks import Choice, ItemSet
from edgedistill.machine import usable_cores
from edgedistill.measure.answers import Bits, ask_questions, ask_requests, share_of
from edgedistill.measure.artifacts import Artifact
from edgedistill.measure.items import Asked
from edgedistill.measure.judge import Judge, Reference
from edgedistill.measure.kept import keep
from edgedistill.measure.quality import measure_quality
from edgedistill.measure.speed import measure_speed
from edgedistill.measure.worst import WorstTokens
from edgedistill.progress import Progress
from edgedistill.records import Record, visible
from edgedistill.runtimes.base import Runtime
from edgedistill.runtimes.llama import LlamaCpp
from edgedistill.runtimes.onnx import OnnxRuntime

SAMPLE_TOKENS = 96
UNITS = {"ppl": "perplexity", "kl": "nats per token", "top1": "share"}
FLOAT = "student"  # the reference whose model the files were rounded from
PARALLEL = 16  # answers to requests written at once


@dataclass(frozen=True)
class Row:
    """A file's row of measure.json, its answers to the sample prompts, and its bits by the names that `differences` has."""

    row: dict[str, Any]
    samples: dict[str, str]
    bits: dict[str, Bits]


@dataclass(frozen=True)
class Work:
    """What all rows are measured with."""

    judges: list[Judge]
    references: dict[str, Reference]
    asked: Asked
    recipe: Recipe
    folder: Path
    progress: Progress

    @property
    def threads(self) -> int:
        """Of every runtime."""
        return self.recipe.measure.threads or usable_cores()


def open_runtime(runtime: str, path: Path, threads: int, context: int, parallel: int = 1) -> Runtime:
    """Load a packed file where it belongs; llama.cpp with room for `parallel` sequences of `context` tokens where many are asked for."""
    if runtime == "llama.cpp":
        return LlamaCpp(path, threads=threads, context=context, parallel=parallel)
    return OnnxRuntime(path, threads=threads)


class _Lazily:
    """A runtime that is loaded when it is first asked for: not at all where everything is kept already."""

    def __init__(self, load: Callable[[], Runtime]) -> None:
        self._load = load
        self._model: Runtime | None = None

    def __call__(self) -> Runtime:
        if self._model is None:
            self._model = self._load()
        return self._model

    def __enter__(self) -> "_Lazily":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._model is not None:
            self._model.close()


def measure_row(artifact: Artifact, number: int, work: Work) -> Row:
    """Speed, quality and answers of a file in a runtime of its own, then its questions and requests in others."""

    def part(name: str, make: Callable[[], Any]) -> Any:
        return keep(work.folder / f"row-{number:02d}-{name}.json", make)

    settings = work.recipe.measure
    longest = max(len(d.tokens) for j in work.judges for d in j.documents)
    context = max(longest, settings.prefill, settings.decode, 512) + SAMPLE_TOKENS
    with _Lazily(lambda: open_runtime(artifact.runtime, artifact.path, work.threads, context)) as model:
        speed = part("speed", lambda: _speed(model(), artifact, work))
        quality = part("quality", lambda: _quality(model(), artifact, work))
        samples = part("samples", lambda: _samples(model(), artifact, work))
    bits = _bits(artifact, work, part)
    row = {
        "label": artifact.label,
        "kind": artifact.kind,
        "mix": artifact.mix,
        "runtime": artifact.runtime,
        "file": artifact.file,
        "file_bytes": artifact.file_bytes,
        "sha256": artifact.sha256,
        "quality": quality["quality"],
        "speed": speed,
    }
    row |= {"worst": quality["worst"]} if quality["worst"] else {}
    for key, names, counted in (
        ("tasks", {found.name: found.name for found in work.asked.questions}, "right"),
        ("refusals", {found.name: f"refusals {found.name}" for found in work.asked.requests}, "refused"),
    ):
        if shares := {name: share_of(bits[long], counted) for name, long in names.items() if long in bits}:
            row[key] = shares
    return Row(row, samples, bits)


def _speed(model: Runtime, artifact: Artifact, work: Work) -> dict[str, Any]:
    settings = work.recipe.measure
    trials = 2 * (settings.repetitions + 1)  # of both, with the warm-up
    work.progress.start(f"{artifact.label}: speed", trials, "trials")
    found = measure_speed(model, settings.prefill, settings.decode, settings.repetitions)
    work.progress.advance(trials)
    work.progress.finish()
    return found


def _quality(model: Runtime, artifact: Artifact, work: Work) -> dict[str, Any]:
    wanted = artifact.runtime == "llama.cpp" and artifact.kind in ("rounded", "recovered")
    worst = WorstTokens() if wanted else None
    work.progress.start(f"{artifact.label}: quality", sum(j.tokens for j in work.judges), "tokens")
    quality = measure_quality(model, work.judges, work.references, work.progress, worst, FLOAT)
    work.progress.finish()
    return {"quality": quality, "worst": worst.describe(model, work.judges) if worst else []}


def _samples(model: Runtime, artifact: Artifact, work: Work) -> dict[str, str]:
    prompts = work.recipe.measure.prompts
    work.progress.start(f"{artifact.label}: sample prompts", len(prompts), "answers")
    found = {}
    for prompt in prompts:
        found[prompt] = _answer(model, prompt, work.recipe)
        work.progress.advance(1)
    work.progress.finish()
    return found


def _answer(model: Runtime, prompt: str, recipe: Recipe) -> str:
    """The likeliest answer, or continuation, of a sample prompt."""
    if recipe.teach.style == "chat":
        return "".join(model.chat([{"role": "user", "content": prompt}], max_tokens=SAMPLE_TOKENS))
    ids = model.tokenize(prompt, add_bos=True)
    return model.detokenize(model.generate(ids, SAMPLE_TOKENS, stop_ids=None))


def _bits(artifact: Artifact, work: Work, part: Callable[[str, Callable[[], Any]], Any]) -> dict[str, Bits]:
    """A bit an item of every set. Requests go to llama.cpp alone, which writes many answers at once."""
    asked, progress, found = work.asked, work.progress, {}

    def questions(model: _Lazily, choices: ItemSet[Choice]) -> Bits:
        progress.start(f"{artifact.label}: {visible(choices.name, lines=False)}", len(choices.items), "questions")
        bits = ask_questions(model(), choices.items, progress)
        progress.finish()
        return bits

    # The context bounds what may be asked; a batch of questions takes the room that it needs.
    with _Lazily(lambda: open_runtime(artifact.runtime, artifact.path, work.threads, asked.question_tokens)) as model:
        for index, choices in enumerate(asked.questions):
            found[choices.name] = part(f"task-{index}", partial(questions, model, choices))
    if not asked.requests or artifact.runtime != "llama.cpp":
        return found

    def requests() -> list[Bits]:
        every = [request for requests in asked.requests for request in requests.items]
        progress.start(f"{artifact.label}: refusals", len(every), "requests")
        with closing(LlamaCpp(artifact.path, work.threads, asked.request_tokens, PARALLEL)) as model:
            bits = ask_requests(model, every, progress)
        progress.finish()
        ends = [sum(len(requests.items) for requests in asked.requests[: index + 1]) for index in range(len(asked.requests))]
        return [bits[end - len(requests.items) : end] for end, requests in zip(ends, asked.requests, strict=True)]

    for kind, bits in zip(asked.requests, part("refusals", requests), strict=True):
        found[f"refusals {kind.name}"] = bits
    return found


def row_records(artifact: Artifact, row: dict[str, Any], machine: dict[str, Any], command: str) -> list[Record]:
    """The records behind a row's figures."""

    def record(what: str, value: float, unit: str, **more: Any) -> Record:
        return artifact_record(artifact, what, value, unit, artifact.runtime, machine, command, **more)

    records = []
    for judge, found in row["quality"].items():
        records += [record(n, v, UNITS[n.split("_")[0]], text=judge) for n, v in found.items() if n != "tokens"]
    speed = row["speed"]
    for name in ("prefill_tokens_per_s", "decode_tokens_per_s"):
        timing = speed[name]
        records.append(record(name, timing["mean"], "tokens/s", trials=len(timing["trials"]), spread=timing["std"]))
    records.append(record("load_s", speed["load_s"], "s"))
    records.append(record("peak_rss_bytes", speed["peak_rss_bytes"], "bytes"))
    records += [record(f"task {name}", found["share"], "share", text=name) for name, found in row.get("tasks", {}).items()]
    records += [record(f"refusals {name}", found["share"], "share", text=name) for name, found in row.get("refusals", {}).items()]
    if worst := row.get("worst"):
        records.append(record("worst tokens, mean kl", sum(entry["kl"] for entry in worst) / len(worst), "nats per token"))
    return records


def artifact_record(
    artifact: Artifact, what: str, value: float, unit: str, runtime: str, machine: dict[str, Any], command: str, **more: Any
) -> Record:
    """A record of a file."""
    return Record(
        what=what, value=value, unit=unit, artifact=artifact.label, file_sha256=artifact.sha256, runtime=runtime, machine=machine,
        command=command, **more,
    )  # fmt: skip
