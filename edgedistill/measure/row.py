"""What one packed file makes of texts, questions and requests. Each part is kept at once, so a kill costs the part at
hand.

Nothing in a row depends on other files, nor on what the file is called: measure/stage.py joins rows, and adds the
speeds that were taken in turn.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
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
from edgedistill.measure.kept import keep, write_whole
from edgedistill.measure.quality import measure_quality
from edgedistill.measure.worst import WorstTokens
from edgedistill.progress import Progress
from edgedistill.results.record import Record
from edgedistill.runtimes.base import Runtime
from edgedistill.runtimes.llama import LlamaCpp
from edgedistill.runtimes.onnx import OnnxRuntime
from edgedistill.runtimes.repetition import STOPPED, RepetitionGuard
from edgedistill.show import visible

ROW = "row.json"
SAMPLE_TOKENS = 96
UNITS = {"ppl": "perplexity", "kl": "nats per token", "top1": "share"}
FLOAT = "student"  # the reference whose model the files were rounded from
PARALLEL = 16  # answers to requests written at once


@dataclass(frozen=True)
class Work:
    """What a row is measured with, and the folder that it is written to."""

    judges: Sequence[Judge]
    references: Mapping[str, Reference]
    asked: Asked
    recipe: Recipe
    folder: Path
    progress: Progress


def threads_of(recipe: Recipe) -> int:
    """Of every runtime."""
    return recipe.measure.threads or usable_cores()


def context_of(recipe: Recipe, longest: int = 0) -> int:
    """Tokens of context that files are measured with, texts of `longest` tokens among what they read."""
    return max(longest, recipe.measure.prefill, recipe.measure.decode, 512) + SAMPLE_TOKENS


def open_runtime(runtime: str, path: Path, threads: int, context: int, parallel: int = 1) -> Runtime:
    """Load a packed file where it belongs; llama.cpp with room for `parallel` sequences of `context` tokens where many
    are asked for.
    """
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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._model is not None:
            self._model.close()


def measure_row(artifact: Artifact, work: Work) -> None:
    """Quality and sample answers of a file in a runtime of its own, then its questions and requests in others.

    Writes `row.json`: quality by judge; worst, tasks and refusals as measure.json has them; samples, the answer by
    prompt; bits, an answer's for each item of a set, by the names that `differences` has.
    """

    def part(name: str, make: Callable[[], Any]) -> Any:
        return keep(work.folder / f"part-{name}.json", make)

    longest = max(len(d.tokens) for j in work.judges for d in j.documents)
    context = context_of(work.recipe, longest)
    with _Lazily(lambda: open_runtime(artifact.runtime, artifact.path, threads_of(work.recipe), context)) as model:
        quality = part("quality", lambda: _quality(model(), artifact, work))
        samples = part("samples", lambda: _samples(model(), artifact, work))
    bits = _bits(artifact, work, part)
    row: dict[str, Any] = {"quality": quality["quality"], "worst": quality["worst"], "samples": samples, "bits": bits}
    for key, names, counted in (
        ("tasks", {found.name: found.name for found in work.asked.questions}, "right"),
        ("refusals", {found.name: f"refusals {found.name}" for found in work.asked.requests}, "refused"),
    ):
        row[key] = {name: share_of(bits[long], counted) for name, long in names.items() if long in bits}
    write_whole(work.folder / ROW, row)


def shows_worst(artifact: Artifact) -> bool:
    """Whether a file's worst tokens are of interest: those that were rounded, in one of the runtimes."""
    return artifact.runtime == "llama.cpp" and artifact.kind in ("rounded", "recovered")


def _quality(model: Runtime, artifact: Artifact, work: Work) -> dict[str, Any]:
    worst = WorstTokens() if shows_worst(artifact) else None
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
        return _guarded(model.chat([{"role": "user", "content": prompt}], max_tokens=SAMPLE_TOKENS))
    ids = model.tokenize(prompt, add_bos=True)
    return model.detokenize(model.generate(ids, SAMPLE_TOKENS, stop_ids=None))


def _guarded(pieces: Generator[str, None, None]) -> str:
    """An answer as `edgedistill chat` gives it: one that falls into a loop is stopped, which is said at its end."""
    guard, said = RepetitionGuard(), list[str]()
    with closing(pieces):
        for piece in pieces:
            said.append(piece)
            if guard.add(piece):
                return f"{''.join(said).rstrip()} [{STOPPED}]"
    return "".join(said)


def _bits(artifact: Artifact, work: Work, part: Callable[[str, Callable[[], Any]], Any]) -> dict[str, Bits]:
    """A bit an item of every set. Requests go to llama.cpp alone, which writes many answers at once."""
    asked, progress, found = work.asked, work.progress, {}

    def questions(model: _Lazily, choices: ItemSet[Choice]) -> Bits:
        progress.start(f"{artifact.label}: {visible(choices.name, lines=False)}", len(choices.items), "questions")
        bits = ask_questions(model(), choices.items, progress)
        progress.finish()
        return bits

    # The context bounds what may be asked; a batch of questions takes the room that it needs.
    with _Lazily(
        lambda: open_runtime(artifact.runtime, artifact.path, threads_of(work.recipe), asked.question_tokens)
    ) as model:
        for index, choices in enumerate(asked.questions):
            found[choices.name] = part(f"task-{index}", partial(questions, model, choices))
    if not asked.requests or artifact.runtime != "llama.cpp":
        return found

    def requests() -> list[Bits]:
        every = [request for requests in asked.requests for request in requests.items]
        progress.start(f"{artifact.label}: refusals", len(every), "requests")
        with closing(LlamaCpp(artifact.path, threads_of(work.recipe), asked.request_tokens, PARALLEL)) as model:
            bits = ask_requests(model, every, progress)
        progress.finish()
        ends = [
            sum(len(requests.items) for requests in asked.requests[: index + 1]) for index in range(len(asked.requests))
        ]
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
    records += [
        record(f"task {name}", found["share"], "share", text=name) for name, found in row.get("tasks", {}).items()
    ]
    records += [
        record(f"refusals {name}", found["share"], "share", text=name)
        for name, found in row.get("refusals", {}).items()
    ]
    if worst := row.get("worst"):
        records.append(
            record("worst tokens, mean kl", sum(entry["kl"] for entry in worst) / len(worst), "nats per token")
        )
    return records


def artifact_record(
    artifact: Artifact,
    what: str,
    value: float,
    unit: str,
    runtime: str,
    machine: dict[str, Any],
    command: str,
    **more: Any,
) -> Record:
    """A record of a file."""
    return Record(
        what=what,
        value=value,
        unit=unit,
        artifact=artifact.label,
        file_sha256=artifact.sha256,
        runtime=runtime,
        machine=machine,
        command=command,
        **more,
    )
