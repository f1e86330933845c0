"""One source of the training text, in rounds, until enough tokens are kept.

A round asks for a fixed number of texts, filters them and writes one shard of signals a split and one shard of traces;
what a round draws is a function of the seed and its number, so a killed stage goes on with the next round and ends with
the same bytes. Three sources differ in the beginning of their files' names and in what a text begins with:

- "" has chats: a question (the teacher's own, or of a file) and its answer; or plain text, if the recipe's style is
  that.
- "new-" has chats of questions like a task's, which the teacher makes up behind the task's system message: it learned
  the questions along with the answers. None of it is held out: the task's own rows validate and judge.
- "free-" has text that the teacher continues from a few words: in turn words from the training part of the prose, and
  beginnings of other kinds of text (data/starters.py). A chat model that starts from nothing writes chats again; its
  other knowledge shows when it must continue something else.

Only a chat's answer and the token that ends it count, towards the budget, in training and in judging.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgedistill.config.teach import PROMPT_SPARE, Teach
from edgedistill.data.example import Example
from edgedistill.data.seeds import derived_seed
from edgedistill.data.trace import SPLITS, iter_traces, normalized, save_traces
from edgedistill.errors import RunError
from edgedistill.progress import Progress
from edgedistill.signals.shards import FREE, NEW, PATTERN, save_shard, shard_path
from edgedistill.store.whole import atomic_write
from edgedistill.teach.drafts import Assignment, Draft, from_few_words, from_nothing, given_prompts, own_questions
from edgedistill.teach.kept import Selection, Text, own_texts, written_text

# Rounds without a single kept text after which the teacher is taken to be unable to write any.
BARREN_ROUNDS = 3
# Rounds beyond the budget in which a split that has no text yet may get its first.
SPARE_ROUNDS = 8
# Prompts a round for each slot. A slot that ends early takes the next prompt; only the last wave of a round leaves
# slots idle, and a kill loses at most a round.
WAVES = 4
TOO_LONG = "prompt too long"
TITLES = {FREE: ": free text", NEW: ": questions like the task's"}
TRACES = "traces-*.jsonl"


@dataclass
class Tally:
    """Counts of a source's texts so far; saved with each round."""

    rounds: int = 0
    asked: int = 0
    kept: int = 0
    tokens: int = 0  # that count, of kept texts, all splits
    split_tokens: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    dropped: Counter[str] = field(default_factory=Counter)
    barren: int = 0


class NothingKeptError(RunError):
    """Nothing that a teacher wrote could be kept, or too little."""


def write_rounds(
    assignment: Assignment, source: str, goal: int | None, work: Path, progress: Progress, title: str = "teach"
) -> Tally:
    """Rounds of one source until `goal` tokens are kept, or until all prompts were used where it is None; those that a
    killed run left in `work` count.

    Raises:
        RunError: the prompts run out before that and the recipe refuses it, or nothing that the teacher writes is kept,
            or not enough for each split.
    """
    tally, seen = _resume(work, source)
    total, unit = (len(assignment.prompts or ()), "prompts") if goal is None else (goal, "tokens")

    def reached() -> int:
        return min(total, tally.tokens if goal is not None else tally.rounds * _round_size(assignment))

    progress.start(title + TITLES.get(source, ""), total, unit)
    progress.advance(reached(), kept=tally.kept)
    spare = SPARE_ROUNDS
    while not _used_up(assignment, source, tally):
        if goal is not None and tally.tokens >= goal:
            if spare == 0 or all(tally.split_tokens[split] for split in assignment.holdout.splits):
                break
            spare -= 1
        before = reached()
        texts = _round(assignment, source, tally, seen)
        _save_round(work, source, tally, texts)
        progress.advance(reached() - before, kept=tally.kept, dropped=sum(tally.dropped.values()))
        if tally.barren >= BARREN_ROUNDS:
            raise NothingKeptError(
                f"{assignment.name}: nothing that it was to learn or wrote in {tally.barren} rounds could be kept "
                f"({_reasons(tally, assignment.settings)}); it can't teach this recipe"
            )
    progress.finish()
    if goal is not None and tally.tokens < goal:
        _too_few(assignment, tally, goal, progress)
    if not all(any((work / f"{source}{split}").glob(PATTERN)) for split in assignment.holdout.splits):
        few = f"{assignment.name}: {tally.kept} texts are too few to validate and judge on"
        reasons = _reasons(tally, assignment.settings)
        raise NothingKeptError(f"{few} ({reasons}); give more prompts, or raise teach.tokens or teach.holdout")
    return tally


def prompt_ids_in(folder: Path) -> set[str]:
    """The ids of the prompts whose texts a stage kept."""
    return {trace.prompt_id for trace in iter_traces(folder, TRACES)}


def _too_few(assignment: Assignment, tally: Tally, goal: int, progress: Progress) -> None:
    """Note that the prompts ran out before the goal, or raise RunError where the recipe says so."""
    gave = (
        f"{assignment.name}: all {len(assignment.prompts or ())} prompts gave {tally.tokens} kept tokens of the "
        f"{goal} that teach.tokens asks for"
    )
    if assignment.settings.too_few_prompts == "refuse":
        raise RunError(
            f"{gave} ({_reasons(tally, assignment.settings)}); give more prompts, lower teach.tokens in the recipe, or "
            "set teach.too_few_prompts to accept"
        )
    progress.note(f"{gave}; training goes over them more often")


def _used_up(assignment: Assignment, source: str, tally: Tally) -> bool:
    if source == FREE or assignment.prompts is None:
        return False
    return tally.rounds * _round_size(assignment) >= len(assignment.prompts)


def _round_size(assignment: Assignment) -> int:
    return WAVES * assignment.settings.parallel


def _reasons(tally: Tally, settings: Teach) -> str:
    """Why texts were dropped, and how often."""
    limit = (
        f", where {settings.longest_prompt} tokens are the most with its system message and the chat template: "
        f"teach.max_prompt_tokens and {PROMPT_SPARE} more"
    )
    reasons = [
        f"{count} {reason}{limit if reason == TOO_LONG else ''}" for reason, count in tally.dropped.most_common()
    ]
    return ", ".join(reasons) or "nothing dropped"


def _round(assignment: Assignment, source: str, tally: Tally, seen: set[str]) -> list[Text]:
    """Ask for one round of texts, and keep the good ones."""
    settings = assignment.settings
    seed = derived_seed(settings.seed, f"teach {source}round {tally.rounds}")
    selection = Selection(assignment, source, tally.rounds, seed, seen, tally.dropped)
    drafts = _drafts(assignment, source, seed, tally)
    tally.rounds += 1
    fitting = [draft for draft in drafts if len(draft.ids) <= settings.longest_prompt]
    if len(fitting) < len(drafts):
        tally.dropped[TOO_LONG] += len(drafts) - len(fitting)
    texts: list[Text] = []
    if settings.answers != "teacher" and assignment.frame is not None and source != FREE:
        texts += own_texts(selection, fitting)
        fitting = [] if settings.answers == "own" else fitting
    if fitting:
        texts += written_text(selection, fitting)
    for text in texts:
        tally.kept += 1
        tally.tokens += text.example.kept
        tally.split_tokens[text.split] += text.example.kept
    tally.barren = 0 if texts else tally.barren + 1
    return texts


def _drafts(assignment: Assignment, source: str, seed: int, tally: Tally) -> list[Draft]:
    """What a round's texts begin with; all that were begun are counted."""
    count = _round_size(assignment)
    dropped = sum(tally.dropped.values())
    if source == FREE:
        drafts = from_few_words(assignment, count, seed)
    elif assignment.prompts is not None:
        some = assignment.prompts[tally.rounds * count : (tally.rounds + 1) * count]
        drafts = given_prompts(assignment, some, tally.dropped)
    elif assignment.frame is not None:
        drafts = own_questions(assignment, count, derived_seed(seed, "questions"), tally.dropped)
    else:
        drafts = from_nothing(assignment, count)
    tally.asked += len(drafts) + sum(tally.dropped.values()) - dropped
    return drafts


def _save_round(work: Path, source: str, tally: Tally, texts: Sequence[Text]) -> None:
    """One shard a split, the traces, and last of all the tally that makes the round count."""
    number = tally.rounds - 1
    for split in SPLITS:
        folder = work / f"{source}{split}"
        folder.mkdir(exist_ok=True)
        examples: list[Example] = [text.example for text in texts if text.split == split]
        if examples:
            save_shard(shard_path(folder, number), examples)
    save_traces(work / f"{source}traces-{number:05d}.jsonl", [text.trace for text in texts])
    state = {**vars(tally), "dropped": dict(tally.dropped)}
    atomic_write(work / f"{source}tally-{number:05d}.json", json.dumps(state))


def _resume(work: Path, source: str) -> tuple[Tally, set[str]]:
    """The tally of the whole rounds in `work`, and what their texts were."""
    tallies = sorted(work.glob(f"{source}tally-*.json"))
    if not tallies:
        return Tally(), set()
    state = json.loads(tallies[-1].read_text(encoding="utf-8"))
    tally = Tally(**{**state, "dropped": Counter(state["dropped"])})
    seen = set()
    for number in range(tally.rounds):
        for trace in iter_traces(work, f"{source}traces-{number:05d}.jsonl"):
            seen.add(normalized(" ".join(turn.text for turn in trace.turns)))
    return tally, seen
