"""The teach stage: the training text. The teacher writes chats and free text, and prose is read beside them; each
source is split into training, validation and judging.

    SPLIT/signals-00000.safetensors    tokens and weights, with ids and log_probs where a student is distilled; one file
                                       a round
    free-SPLIT/, prose-SPLIT/          the same of free text, and of what was only read (train and validation)
    traces-00000.jsonl, free-traces-.. what was said, a conversation or text a line (data/trace.py)
    teach.json                         counts: asked, kept, dropped by reason, tokens, bytes a token; the system message
                                       that all chats begin with, if they do

What judges of the prose is read by the measure stage alone.
"""

import json
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from edgedistill.config.conversation import Prompt, shared_system
from edgedistill.config.prompts import PromptFile
from edgedistill.config.recipe import Recipe
from edgedistill.config.task_data import TaskData
from edgedistill.config.validation import MOST_TOKENS
from edgedistill.data.example import Example
from edgedistill.data.frame import ChatFrame, make_frame
from edgedistill.data.prose import ProseWords, passages
from edgedistill.data.starters import read_starters
from edgedistill.data.trace import JUDGE, Holdout, prompt_id_of
from edgedistill.errors import InputError
from edgedistill.models.tokenizer import load_tokenizer
from edgedistill.progress import Progress
from edgedistill.signals.shards import FREE, NEW, SOURCES, WRITTEN, count_tokens, iter_shards
from edgedistill.store.whole import write_json
from edgedistill.teach.drafts import Assignment, shows_system, task_frame, turns_of, words_of
from edgedistill.teach.prose import read_all_prose
from edgedistill.teach.rounds import NothingKeptError, Tally, write_rounds
from edgedistill.teach.writers import Writer

HELD_OUT = "held-out.json"


@dataclass(frozen=True)
class TeachInputs:
    """What a training text is made of.

    Attributes:
        writer: the teacher, ready to write; None if it writes nothing and no signals are stored.
        teacher: its folder or GGUF file, for the tokenizer and template.
        name: what messages call it.
        recipe: its `teach` part, decided (`Recipe.decided`); `measure.tokens` says how much judging reads.
        top_k: log-probabilities to keep of each token; 0 for none.
        prompts: what it is asked; None: it makes up the questions, or writes from nothing.
        never: ids of prompts that must not be kept, as `rounds.prompt_ids_in` gives them.
        system: what the teacher's own questions stand behind; None for nothing.
        task: whose questions it makes up more of, where the recipe says so.
    """

    writer: Writer | None
    teacher: Path
    name: str
    recipe: Recipe
    top_k: int
    prompts: PromptFile | None
    never: Collection[str] = ()
    system: str | None = None
    task: TaskData | None = None


def teach(inputs: TeachInputs, work: Path, progress: Progress) -> None:
    """Write text and signals to `work`; see the top of this file.

    Args:
        inputs: see `TeachInputs`.
        work: the stage's folder. Whole rounds that a killed run left in it are kept.
        progress: where it is shown.
    Raises:
        InputError: the recipe chats and the teacher has no template.
        RunError: as `write_rounds`.
    """
    settings, top_k = inputs.recipe.teach, inputs.top_k
    tokenizer = load_tokenizer(inputs.teacher)
    tallies: dict[str, Tally] = {}
    assignments = _assignments(inputs, tokenizer, progress)
    for source, (assignment, goal) in assignments.items():
        tallies[source] = write_rounds(assignment, source, goal, work, progress)
    prose = read_all_prose(inputs.writer, tokenizer, settings, top_k, work, progress)
    dropped: Counter[str] = sum((tally.dropped for tally in tallies.values()), Counter())
    counts = {
        "asked": sum(tally.asked for tally in tallies.values()),
        "kept": sum(tally.kept for tally in tallies.values()),
        "tokens": sum(tally.tokens for tally in tallies.values()),
        "split_tokens": {source or "written-": tally.split_tokens for source, tally in tallies.items()},
        "prose_tokens": prose,
        "train_tokens": sum(count_tokens(work / f"{source}train") for source in SOURCES),
        "dropped": dict(sorted(dropped.items())),
        "holdout": settings.holdout,
        "bytes_per_token": top_k * 6,  # int32 id and float16 log-probability
    }
    system = _system_of(assignment for assignment, _ in assignments.values())
    if system is not None:
        counts["system"] = system
    write_json(work / "teach.json", counts)


def _system_of(assignments: Iterable[Assignment]) -> str | None:
    """The system message that all chats of the training text begin with, if they do."""
    for assignment in assignments:
        prompts, frame = assignment.prompts, assignment.frame
        if prompts is None and frame is not None:
            return frame.system
        if prompts is not None and frame is not None and shows_system(frame, prompts):
            return shared_system(prompts)
    return None


def _assignments(
    inputs: TeachInputs, tokenizer: PreTrainedTokenizerBase, progress: Progress
) -> dict[str, tuple[Assignment, int]]:
    """By source that the teacher writes, what it is to write and how many tokens of it."""
    settings = inputs.recipe.teach
    goals = {source: goal for source, goal in ((WRITTEN, settings.tokens), (FREE, settings.free_tokens)) if goal}
    own = inputs.prompts is None
    frame = None
    if settings.style == "chat" and settings.tokens:
        frame = make_frame(tokenizer, inputs.name, inputs.system if own else None)
    prompts = None if inputs.prompts is None else given_prompts_of(inputs.prompts, inputs.recipe, frame, progress)
    words = ProseWords(passages("train", settings.text)) if settings.free_tokens else None
    common = Assignment(
        writer=inputs.writer,
        tokenizer=tokenizer,
        name=inputs.name,
        frame=frame,
        prompts=prompts,
        words=words,
        settings=settings,
        top_k=inputs.top_k,
        holdout=Holdout(0.0, 0.0),
        never=frozenset(inputs.never),
        starters=read_starters(),
    )
    assignments = {}
    for source, goal in goals.items():
        holdout = holdout_of(inputs.recipe, goal)
        if source == WRITTEN and prompts is not None:
            holdout = written_holdout(inputs.recipe, prompts, shows_system(frame, prompts))
        assignments[source] = replace(common, holdout=holdout), goal
    if settings.new_tokens:
        assignments[NEW] = _new_questions(common, inputs.task), settings.new_tokens
    return assignments


def _new_questions(common: Assignment, task: TaskData | None) -> Assignment:
    """Questions like the task's, none of which a row asks; answered with the likeliest tokens, as labels would be. None
    of it is held out.
    """
    if task is None:
        raise ValueError("questions like a task's need a task")
    changes = {"answers": "teacher", "hints": ("",), "cut_answers": "drop", "answer_temperature": 0.0}
    return replace(
        common,
        frame=task_frame(common.tokenizer, common.name, task.learning_prompts()),
        prompts=None,
        settings=common.settings.model_copy(update=changes),
        never=common.never | task.prompt_ids(),
        unfit=task.unfit,
    )


def holdout_of(recipe: Recipe, goal: int) -> Holdout:
    """Shares of a source's prompts that are held out: half of `teach.holdout` each, or less where that is more than is
    read.

    Args:
        recipe: its `measure.tokens` are what judging reads of a source.
        goal: the source's budget in tokens.
    """
    settings = recipe.teach
    half = settings.holdout / 2
    total = settings.tokens + settings.free_tokens + settings.text_tokens
    return Holdout(min(half, MOST_TOKENS / total), min(half, recipe.measure.tokens / goal))


def written_holdout(recipe: Recipe, prompts: Sequence[Prompt], with_system: bool) -> Holdout:
    """The same of a file's prompts, so large that each split has some of them."""
    questions = [words_of(turns_of(prompt, with_system)) for prompt in prompts]
    return holdout_of(recipe, recipe.teach.tokens).covering([prompt_id_of(question) for question in questions])


def write_held_out(inputs: TeachInputs, work: Path, progress: Progress) -> None:
    """Write chats to judge on, `teach.tokens` of them, to `work`: judge/ and traces-*.jsonl as `teach` does, and
    `held-out.json`.

    A model that has a template may still write nothing that can be kept. It can be judged on prose all the same, so
    that is no error: `held-out.json` then says why ("why", else null).
    """
    if inputs.writer is None:
        raise ValueError("chats to judge on need a writer")
    tokenizer, name, settings = load_tokenizer(inputs.teacher), inputs.name, inputs.recipe.teach
    why = None
    frame, holdout = make_frame(tokenizer, name, inputs.system), Holdout(0.0, 1.0)
    try:
        assignment = Assignment(inputs.writer, tokenizer, name, frame, None, None, settings, 0, holdout)
        write_rounds(assignment, WRITTEN, settings.tokens, work, progress, "write chats to judge on")
    except NothingKeptError as error:
        why = str(error)
        progress.note(f"{error}; the files are judged on prose alone")
    write_json(work / HELD_OUT, {"why": why})


def held_out_documents(folder: Path) -> list[Example]:
    """The examples that `write_held_out` kept; none where the model wrote nothing that could be kept."""
    if json.loads((folder / HELD_OUT).read_text(encoding="utf-8"))["why"] is not None:
        return []
    return list(iter_shards(folder / JUDGE))


def given_prompts_of(
    file: PromptFile, recipe: Recipe, frame: ChatFrame | None, progress: Progress
) -> tuple[Prompt, ...]:
    """The user's prompts; notes say what of their file isn't used."""
    settings = recipe.teach
    path = Path(recipe.task.file if recipe.task else settings.prompts)
    for note in file.notes(path.name, settings.answers):
        progress.note(note)
    if frame is None and settings.answers != "teacher":
        raise InputError(f"{path}: teach.answers is '{settings.answers}', and answers are trained on in chats alone")
    prompts = file.used(settings.answers)
    if not prompts:
        raise InputError(f"{path}: teach.answers is 'own', and no row brings an answer")
    system = None if frame is None else _system_note(prompts, frame)
    if system:
        progress.note(f"{path.name}: {system}")
    return prompts


def _system_note(prompts: Sequence[Prompt], frame: ChatFrame) -> str | None:
    """What of the prompts' system messages isn't used, or not kept; None where that is nothing."""
    systems = sum(prompt.system is not None for prompt in prompts)
    if not shows_system(frame, prompts):
        return f"not used: the system's message, in {systems} rows; the chat template refuses it or has no place for it"
    if systems and shared_system(prompts) is None:
        return (
            f"{systems} of {len(prompts)} prompts have a system's message, and not all the same; none goes into the "
            "bundle, so ask with the one that fits"
        )
    return None
