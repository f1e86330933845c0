"""Measures one packed file on texts, questions, requests and the user's task. Each part is written at once, so that a
kill costs no more than the part that is being measured.

Nothing in a row depends on other files, nor on what the file is called: join.py joins rows, and adds the speeds that
were taken in turn.
"""

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from edgedistill.config.recipe import SAMPLE_TOKENS, Recipe
from edgedistill.config.tasks import Choice, ItemSet
from edgedistill.measure.answers import Bits, ask_questions, ask_requests, share_refused, share_right
from edgedistill.measure.items import Items
from edgedistill.measure.judge import Judge, Reference
from edgedistill.measure.kept import keep, keep_typed, read_json, write_whole
from edgedistill.measure.load import LazyRuntime, context_of, open_runtime, threads_of
from edgedistill.measure.quality import measure_quality
from edgedistill.measure.refusals import asking
from edgedistill.measure.task_answers import AllSaid, ask_rows, grade
from edgedistill.measure.task_items import TaskItems
from edgedistill.measure.worst import WorstTokens
from edgedistill.progress import Progress
from edgedistill.results.codec import JsonData
from edgedistill.results.measurement import RowFigures, TaskAnswers
from edgedistill.results.row import LLAMA_CPP, Artifact, Quality, WorstToken
from edgedistill.runtimes.base import Runtime
from edgedistill.runtimes.llama import LlamaCpp
from edgedistill.runtimes.repetition import STOPPED, RepetitionGuard
from edgedistill.show import visible

ROW = "row.json"
PARALLEL = 16  # answers written at once
TOKENS_AT_ONCE = 16_384  # of all their contexts: each takes a cache


@dataclass(frozen=True)
class RowInputs:
    """What a row is measured with, and the folder that it is written to."""

    judges: Sequence[Judge]
    references: Mapping[str, Reference]
    items: Items
    recipe: Recipe
    folder: Path
    progress: Progress

    def part(self, name: str) -> Path:
        """The file that keeps one part of the row."""
        return self.folder / f"part-{name}.json"


@dataclass(frozen=True)
class QualityPart(JsonData):
    """The part of a row that texts give: quality by judge, and the worst tokens."""

    quality: dict[str, Quality]
    worst: tuple[WorstToken, ...]


def measure_row(artifact: Artifact, inputs: RowInputs) -> None:
    """Quality and sample answers of a file in a runtime of its own, then its questions and requests in others.

    Writes `row.json`: `RowFigures` as JSON.
    """
    longest = max(len(document.tokens) for judge in inputs.judges for document in judge.documents)
    context, threads = context_of(inputs.recipe, longest), threads_of(inputs.recipe)
    with LazyRuntime(lambda: open_runtime(artifact.runtime, artifact.path, threads, context)) as model:
        judged = keep_typed(QualityPart, inputs.part("quality"), lambda: _quality(model(), artifact, inputs))
        samples = keep(inputs.part("samples"), lambda: _samples(model(), artifact, inputs))
    questions = _answers(artifact, inputs)
    requests = _refusals(artifact, inputs)
    task = None if inputs.items.task is None else _task(artifact, inputs, inputs.items.task)
    figures = RowFigures(
        quality=judged.quality,
        worst=judged.worst,
        samples=samples,
        bits=questions | {f"refusals {name}": bits for name, bits in requests.items()},
        tasks={name: share_right(bits) for name, bits in questions.items()},
        refusals={name: share_refused(bits) for name, bits in requests.items()},
        task=task,
    )
    write_whole(inputs.folder / ROW, figures.to_json())


def load_row(folder: Path) -> RowFigures:
    """What `measure_row` wrote."""
    return RowFigures.from_json(read_json(folder / ROW), str(folder / ROW))


def shows_worst(artifact: Artifact) -> bool:
    """Whether a file's worst tokens are of interest: those that were rounded, in one of the runtimes."""
    return artifact.runtime == LLAMA_CPP and artifact.kind in ("rounded", "recovered")


def _quality(model: Runtime, artifact: Artifact, inputs: RowInputs) -> QualityPart:
    worst = WorstTokens() if shows_worst(artifact) else None
    inputs.progress.start(f"{artifact.label}: quality", sum(judge.tokens for judge in inputs.judges), "tokens")
    quality = measure_quality(model, inputs.judges, inputs.references, inputs.progress, worst)
    inputs.progress.finish()
    return QualityPart(quality, worst.describe(model, inputs.judges) if worst else ())


def _samples(model: Runtime, artifact: Artifact, inputs: RowInputs) -> dict[str, str]:
    """The answers to the recipe's sample prompts, by prompt."""
    prompts = inputs.recipe.measure.prompts
    inputs.progress.start(f"{artifact.label}: sample prompts", len(prompts), "answers")
    answers = {}
    for prompt in prompts:
        answers[prompt] = _answer(model, prompt, inputs)
        inputs.progress.advance(1)
    inputs.progress.finish()
    return answers


def _answer(model: Runtime, prompt: str, inputs: RowInputs) -> str:
    """The likeliest answer, or continuation, of a sample prompt."""
    if inputs.recipe.teach.style == "chat":
        return _guarded(model.chat(asking(prompt, inputs.items.system), max_tokens=SAMPLE_TOKENS))
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


def _answers(artifact: Artifact, inputs: RowInputs) -> dict[str, Bits]:
    """A bit a question of every set."""
    progress, threads = inputs.progress, threads_of(inputs.recipe)

    def ask(model: LazyRuntime, choices: ItemSet[Choice]) -> Bits:
        progress.start(f"{artifact.label}: {visible(choices.name, lines=False)}", len(choices.items), "questions")
        bits = ask_questions(model(), choices.items, progress)
        progress.finish()
        return bits

    answers = {}
    # The context bounds what may be asked; a batch of questions takes the room that it needs.
    context = inputs.items.question_tokens
    with LazyRuntime(lambda: open_runtime(artifact.runtime, artifact.path, threads, context)) as model:
        for index, choices in enumerate(inputs.items.questions):
            answers[choices.name] = keep(inputs.part(f"task-{index}"), partial(ask, model, choices))
    return answers


def _task(artifact: Artifact, inputs: RowInputs, items: TaskItems) -> TaskAnswers:
    """The user's task: asked, then graded."""
    progress, name, threads = inputs.progress, visible(items.facts.name, lines=False), threads_of(inputs.recipe)

    def ask() -> AllSaid:
        progress.start(f"{artifact.label}: task {name}", len(items.rows), "answers")
        parallel = max(1, min(PARALLEL, TOKENS_AT_ONCE // items.tokens))
        with closing(open_runtime(artifact.runtime, artifact.path, threads, items.tokens, parallel)) as model:
            said = ask_rows(model, items, progress)
        progress.finish()
        return said

    def check() -> TaskAnswers:
        if items.settings.verify is None:
            return grade(items, said, lambda: None)
        progress.start(f"{artifact.label}: answers of task {name} verified", len(items.rows), "answers")
        graded = grade(items, said, lambda: progress.advance(1))
        progress.finish()
        return graded

    said = keep_typed(AllSaid, inputs.part("said"), ask)
    return keep_typed(TaskAnswers, inputs.part("graded"), check)


def _refusals(artifact: Artifact, inputs: RowInputs) -> dict[str, Bits]:
    """A bit a request of every set; of llama.cpp alone, which writes many answers at once."""
    sets, progress = inputs.items.requests, inputs.progress
    if not sets or artifact.runtime != LLAMA_CPP:
        return {}

    def ask() -> list[Bits]:
        requests = [request for one in sets for request in one.items]
        progress.start(f"{artifact.label}: refusals", len(requests), "requests")
        threads, context = threads_of(inputs.recipe), inputs.items.request_tokens
        with closing(LlamaCpp(artifact.path, threads, context, PARALLEL)) as model:
            bits = ask_requests(model, requests, inputs.items.system, progress)
        progress.finish()
        by_set, start = [], 0
        for one in sets:
            by_set.append(bits[start : start + len(one.items)])
            start += len(one.items)
        return by_set

    by_set = keep(inputs.part("refusals"), ask)
    return {one.name: bits for one, bits in zip(sets, by_set, strict=True)}
