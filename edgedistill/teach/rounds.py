"""One source of the teacher's own writing, in rounds, until enough tokens are kept.

A round asks for a fixed number of texts, filters them and writes one shard of signals and one file of text per split; a
round's seed is its number, so a killed stage goes on with the next round and ends with the same bytes. Two sources
differ in the beginning of their files' names and in what a text begins with:

- "" has chats: a question (the teacher's own, or of a file) and its answer; or plain text, if the recipe's style is
  that.
- "free-" has text that the teacher writes on from a few words: in turn words from the training part of the prose, and
  beginnings of other kinds of text (data/starters.py). Written from nothing, a chat model's text is chats again; what
  it knows beside them shows when it is made to go on with something else
"""

import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from edgedistill.config.teach import Teach
from edgedistill.data.example import Example, counted_from
from edgedistill.data.prose import bos_of
from edgedistill.errors import RunError
from edgedistill.progress import Progress
from edgedistill.signals.shards import FREE, save_shard, shard_path
from edgedistill.teach.filters import DUPLICATE, normalized, why_dropped
from edgedistill.teach.frame import ChatFrame
from edgedistill.teach.writers import Writer, Written

SPLITS = ("train", "validation", "judge")
# Rounds without a single kept text after which the teacher is taken to be unable to write any.
BARREN_ROUNDS = 3
# Prompts a round for each slot. A slot that ends early takes the next prompt; only the last wave of a round leaves
# slots idle, and a kill loses at most a round.
WAVES = 4
START_TOKENS = 8  # of prose before a free text: enough to say what it is about, too few to be continued word for word
# tokens that a prompt may have beyond teach.max_prompt_tokens: the chat template's, and longer ones of the user's
PROMPT_SPARE = 512
TOO_LONG = "prompt too long"
HALF = "\ufffd"  # what a part of a character decodes to
FREE_SEEDS = 2**30  # where the seeds of free texts begin, far from the others'


@dataclass
class Tally:
    """What became of a source's texts so far; saved with each round."""

    rounds: int = 0
    asked: int = 0
    kept: int = 0
    tokens: int = 0  # of kept texts, all splits
    split_tokens: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    dropped: Counter[str] = field(default_factory=Counter)
    barren: int = 0


@dataclass(frozen=True)
class Asked:
    """Who is asked, and for what.

    Attributes:
        writer: the teacher, ready to write.
        name: what messages call it.
        frame: of a chat; None writes plain text.
        prompts: the user's; None lets the teacher make them up, or write from nothing.
        words: of the training part of the prose, which free texts begin with.
        starters: by kind, what other free texts begin with; each kind, and the prose, has as many.
        settings: the recipe's `teach` part.
        top_k: log-probabilities to keep of each token; 0 for none.
        never: texts that must not be kept, as `texts_in` gives them.
    """

    writer: Writer
    tokenizer: PreTrainedTokenizerBase
    name: str
    frame: ChatFrame | None
    prompts: Sequence[str] | None
    words: Sequence[str]
    settings: Teach
    top_k: int
    never: frozenset[str] = frozenset()
    starters: Sequence[Sequence[str]] = ()


class NothingKeptError(RunError):
    """A teacher wrote, and what it wrote could not be kept, or too little of it."""


@dataclass(frozen=True)
class Opening:
    """What a text begins with: as text, as ids, and the first position whose next token counts."""

    text: str
    ids: list[int]
    first: int


@dataclass(frozen=True)
class Text:
    """One kept text and where it goes."""

    split: str
    prompt: str
    answer: str
    document: Example


def write_rounds(asked: Asked, source: str, goal: int, work: Path, progress: Progress, title: str = "teach") -> Tally:
    """Rounds of one source until `goal` tokens are kept; those that a killed run left in `work` count.

    Raises:
        RunError: the prompts run out before that and the recipe refuses it, or nothing that the teacher writes is kept,
            or not enough for each split.
    """
    tally, seen = _resume(work, source)
    progress.start(f"{title}: free text" if source == FREE else title, goal, "tokens")
    progress.advance(min(tally.tokens, goal), kept=tally.kept)
    while tally.tokens < goal and not _used_up(asked, source, tally):
        before = tally.tokens
        texts = _round(asked, source, tally, seen)
        _save_round(work, source, tally, texts)
        progress.advance(
            min(tally.tokens, goal) - min(before, goal), kept=tally.kept, dropped=sum(tally.dropped.values())
        )
        if tally.barren >= BARREN_ROUNDS:
            raise NothingKeptError(
                f"{asked.name}: nothing that the teacher wrote in {tally.barren} rounds could be kept "
                f"({_reasons(tally)}); "
                "it can't teach this recipe"
            )
    progress.finish()
    if tally.tokens < goal:
        count = len(asked.prompts or ())
        gave = (
            f"{asked.name}: all {count} prompts gave {tally.tokens} kept tokens of the {goal} that teach.tokens "
            "asks for"
        )
        if asked.settings.too_few_prompts == "refuse":
            raise RunError(
                f"{gave} ({_reasons(tally)}); give more prompts, lower teach.tokens in the recipe, or set "
                "teach.too_few_prompts to accept"
            )
        progress.note(f"{gave}; training goes over them more often")
    if not all(any((work / f"{source}{split}").glob("signals-*.safetensors")) for split in SPLITS):
        few = f"{asked.name}: {tally.kept} texts are too few to validate and judge on"
        raise NothingKeptError(f"{few}; raise teach.tokens or teach.holdout")
    return tally


def texts_in(folder: Path) -> set[str]:
    """What a stage kept of the teacher's own writing, each text as duplicates are told by."""
    files = sorted(folder.glob("text-*.jsonl"))
    lines = [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    return {normalized(line["prompt"] + " " + line["answer"]) for line in lines}


def longest_prompt(settings: Teach) -> int:
    """Tokens of a prompt at most, with its template. One that is longer isn't asked."""
    return settings.max_prompt_tokens + PROMPT_SPARE


def _used_up(asked: Asked, source: str, tally: Tally) -> bool:
    return (
        source != FREE
        and asked.prompts is not None
        and tally.rounds * WAVES * asked.settings.parallel >= len(asked.prompts)
    )


def _reasons(tally: Tally) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in tally.dropped.most_common()) or "nothing dropped"


def _round(asked: Asked, source: str, tally: Tally, seen: set[str]) -> list[Text]:
    """Ask for one round of texts, and keep the good ones."""
    settings = asked.settings
    frame = None if source == FREE else asked.frame
    count = WAVES * settings.parallel
    seed = (settings.seed * 1_000_003 + (FREE_SEEDS if source == FREE else 0) + tally.rounds * 2 * count) % 2**31
    openings = _free_starts(asked, count, seed) if source == FREE else _openings(asked, count, seed, tally)
    tally.asked += len(openings)
    tally.rounds += 1
    fitting = [opening for opening in openings if len(opening.ids) <= longest_prompt(settings)]
    if len(fitting) < len(openings):
        tally.dropped[TOO_LONG] += len(openings) - len(fitting)
        openings = fitting
    if not openings:
        tally.barren += 1
        return []
    eos = asked.tokenizer.eos_token_id
    stops: Sequence[int] = frame.stop_ids if frame else [] if eos is None else [eos]
    written = asked.writer.write(
        [opening.ids for opening in openings],
        settings.max_answer_tokens,
        temperature=settings.answer_temperature if frame else settings.temperature,
        top_p=settings.top_p,
        seed=seed + count,
        stop_ids=stops,
        top_k=asked.top_k,
    )
    texts: list[Text] = []
    for opening, found in zip(openings, written, strict=True):
        answer = str(asked.tokenizer.decode([t for t in found.tokens if t not in stops]))
        if found.finish == "length":
            answer = answer.rstrip(HALF)  # the limit may fall within a character of several tokens
        # A plain text has no end of its own: the limit only says where we stopped reading.
        why = why_dropped(
            answer, found.tokens, "stop" if frame is None or settings.cut_answers == "keep" else found.finish
        )
        same = normalized(opening.text + " " + answer)
        if why is None and (same in seen or same in asked.never):
            why = DUPLICATE
        if why is not None:
            tally.dropped[why] += 1
            continue
        seen.add(same)
        document = written_document(opening.ids, found, opening.first)
        split = split_of(tally.kept, settings.holdout)
        tally.kept += 1
        tally.tokens += document.kept
        tally.split_tokens[split] += document.kept
        texts.append(Text(split, opening.text, answer, document))
    tally.barren = 0 if texts else tally.barren + 1
    return texts


def _openings(asked: Asked, count: int, seed: int, tally: Tally) -> list[Opening]:
    """A round's prompts as the model reads them."""
    frame, tokenizer = asked.frame, asked.tokenizer
    if asked.prompts is None:
        questions = _questions(asked, frame, count, seed, tally) if frame else [""] * count
    else:
        questions = list(asked.prompts[tally.rounds * count : (tally.rounds + 1) * count])
    if frame:
        return [Opening(question, frame.prompt(question), len(frame.opening) - 1) for question in questions]
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    return [
        Opening(question, [start, *tokenizer(question, add_special_tokens=False)["input_ids"]], 0)
        for question in questions
    ]


def _free_starts(asked: Asked, count: int, seed: int) -> list[Opening]:
    """A few words each, drawn by the seed, behind what the tokenizer puts before a text: in turn of the prose and of
    each kind of starter.
    """
    rng, before = random.Random(seed), bos_of(asked.tokenizer)
    openings = []
    for number in range(count):
        kind = number % (1 + len(asked.starters))
        if kind:
            ids = asked.tokenizer(rng.choice(asked.starters[kind - 1]), add_special_tokens=False)["input_ids"]
        else:
            ids = _prose_start(asked, rng)
        openings.append(Opening(str(asked.tokenizer.decode(ids)), [*before, *ids], len(before) + len(ids) - 1))
    return openings


def _prose_start(asked: Asked, rng: random.Random) -> list[int]:
    """START_TOKENS ids of the prose from a place that is drawn, fewer where they would end within a character."""
    at = rng.randrange(max(1, len(asked.words) - START_TOKENS))
    words = " ".join(asked.words[at : at + START_TOKENS])
    ids = list(asked.tokenizer(words, add_special_tokens=False)["input_ids"][:START_TOKENS])
    while len(ids) > 1 and str(asked.tokenizer.decode(ids)).endswith(HALF):
        ids.pop()
    return ids


def _questions(asked: Asked, frame: ChatFrame, count: int, seed: int, tally: Tally) -> list[str]:
    """Questions that the teacher makes up: given the opening of a user's turn, it writes the turn."""
    settings = asked.settings
    written = asked.writer.write(
        [frame.opening] * count,
        settings.max_prompt_tokens,
        temperature=settings.temperature,
        top_p=settings.top_p,
        seed=seed,
        stop_ids=frame.stop_ids,
        top_k=0,
    )
    questions: dict[str, str] = {}
    for found in written:
        question = str(asked.tokenizer.decode([t for t in found.tokens if t not in frame.stop_ids])).strip()
        why = why_dropped(question, found.tokens, found.finish)
        if why is None and normalized(question) in questions:
            why = DUPLICATE
        if why is None:
            questions[normalized(question)] = question
        else:
            tally.asked += 1
            tally.dropped[why] += 1
    return [
        f"{question} {settings.hints[i % len(settings.hints)]}".strip() for i, question in enumerate(questions.values())
    ]


def written_document(opening: Sequence[int], found: Written, first: int) -> Example:
    """The ids of a text and its continuation, with the writer's signals from position `first` on, where it gave any."""
    tokens = torch.tensor([*opening, *found.tokens], dtype=torch.int32)
    rows = slice(first, len(tokens) - 1)
    if found.ids is None or found.log_probs is None:
        return counted_from(tokens, first)
    return counted_from(tokens, first, {"ids": found.ids[rows].clone(), "log_probs": found.log_probs[rows].clone()})


def split_of(number: int, holdout: float) -> str:
    """Where kept text `number` goes: spread evenly, so that any budget has all three splits."""
    half = holdout / 2
    if int((number + 1) * half) > int(number * half):
        return "judge"
    if int((number + 1) * half + 0.5) > int(number * half + 0.5):
        return "validation"
    return "train"


def _save_round(work: Path, source: str, tally: Tally, texts: Sequence[Text]) -> None:
    """One shard a split, the text, and last of all the tally that makes the round count."""
    number = tally.rounds - 1
    for split in SPLITS:
        folder = work / f"{source}{split}"
        folder.mkdir(exist_ok=True)
        documents = [text.document for text in texts if text.split == split]
        if documents:
            save_shard(shard_path(folder, number), documents)
    lines = [
        json.dumps({"split": t.split, "prompt": t.prompt, "answer": t.answer, "tokens": t.document.tokens.tolist()})
        for t in texts
    ]
    _write(_text_file(work, source, number), "".join(line + "\n" for line in lines))
    state = {**vars(tally), "dropped": dict(tally.dropped)}
    _write(work / f"{source}tally-{number:05d}.json", json.dumps(state))


def _resume(work: Path, source: str) -> tuple[Tally, set[str]]:
    """The tally of the whole rounds in `work`, and what their texts were."""
    tallies = sorted(work.glob(f"{source}tally-*.json"))
    if not tallies:
        return Tally(), set()
    state = json.loads(tallies[-1].read_text(encoding="utf-8"))
    tally = Tally(**{**state, "dropped": Counter(state["dropped"])})
    seen = {normalized(line["prompt"] + " " + line["answer"]) for line in _lines(work, source, tally.rounds)}
    return tally, seen


def _lines(work: Path, source: str, rounds: int) -> Iterator[dict[str, str]]:
    for number in range(rounds):
        with _text_file(work, source, number).open(encoding="utf-8") as file:
            yield from (json.loads(line) for line in file)


def _text_file(work: Path, source: str, number: int) -> Path:
    return work / f"{source}text-{number:05d}.jsonl"


def _write(path: Path, text: str) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
