"""The teach stage: the teacher writes the training text, and what it thought of each token is kept beside it.

It works in rounds. A round asks for a fixed number of questions and answers, filters them and writes one shard of
signals and one file of text per split; a round's seed is its number, so a killed stage goes on with the next round and
ends with the same bytes. It stops when enough tokens are kept.

    SPLIT/signals-00000.safetensors   tokens with ids and log_probs (signals/shards.py), one file a round
    prose-SPLIT/signals-00000.safetensors   the same of plain prose that the teacher only read (train and validation)
    text-00000.jsonl                  {"split", "prompt", "answer", "tokens"} a line
    teach.json                        counts: asked, kept, dropped by reason, tokens, bytes a token
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from edgedistill.config.recipe import OWN_PROMPTS, Recipe
from edgedistill.data.prompts import read_prompts
from edgedistill.data.prose import read_prose
from edgedistill.errors import RunError
from edgedistill.models.tokenizer import load_tokenizer
from edgedistill.progress import Progress
from edgedistill.signals.shards import Document, save_shard, shard_path
from edgedistill.teach.filters import DUPLICATE, normalized, why_dropped
from edgedistill.teach.frame import ChatFrame, make_frame
from edgedistill.teach.writers import Writer, Written

SPLITS = ("train", "validation", "judge")
TEXT = "text-{:05d}.jsonl"
# Rounds without a single kept text after which the teacher is taken to be unable to write any.
BARREN_ROUNDS = 3
PROSE_TOKENS = 256  # of one document of prose
# Prompts a round for each slot. A slot that ends early takes the next prompt; only the last wave of a round leaves slots
# idle, and a kill loses at most a round.
WAVES = 4


@dataclass
class Tally:
    """What became of the texts so far; saved with each round."""

    rounds: int = 0
    asked: int = 0
    kept: int = 0
    tokens: int = 0  # of kept texts, all splits
    split_tokens: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    dropped: Counter[str] = field(default_factory=Counter)
    barren: int = 0


@dataclass(frozen=True)
class Text:
    """One kept text and where it goes."""

    split: str
    prompt: str
    answer: str
    document: Document


def teach(writer: Writer, teacher: Path, name: str, recipe: Recipe, work: Path, progress: Progress) -> None:
    """Write text and signals to `work`; see the top of this file.

    Args:
        writer: the teacher, ready to write.
        teacher: its folder or GGUF file, for the tokenizer and template.
        name: what messages call it.
        recipe: its `teach` part, and `teacher.top_k`.
        work: the stage's folder. Whole rounds that a killed run left in it are kept.
        progress: where it is shown.
    Raises:
        InputError: the recipe chats and the teacher has no template.
        RunError: the prompts run out before enough text is kept, or nothing that the teacher writes is kept.
    """
    settings = recipe.teach
    tokenizer = load_tokenizer(teacher)
    frame = make_frame(tokenizer, name) if settings.style == "chat" else None
    prompts = None if settings.prompts == OWN_PROMPTS else read_prompts(Path(settings.prompts), settings.prompt_field)
    tally, seen = _resume(work)
    progress.start("teach", settings.tokens, "tokens")
    progress.advance(min(tally.tokens, settings.tokens), kept=tally.kept)
    while tally.tokens < settings.tokens:
        before = tally.tokens
        texts = _round(writer, tokenizer, frame, prompts, recipe, tally, seen)
        _save_round(work, tally, texts)
        progress.advance(
            min(tally.tokens, settings.tokens) - min(before, settings.tokens), kept=tally.kept, dropped=sum(tally.dropped.values())
        )
        _check_going(name, prompts, settings.parallel, tally, settings.tokens)
    progress.finish()
    prose = _prose(writer, tokenizer, recipe, work, progress)
    if not all(any((work / split).glob("signals-*.safetensors")) for split in SPLITS):
        raise RunError(
            f"{name}: {tally.kept} texts are too few to validate and judge on; raise teach.tokens or teach.holdout"
        )
    bytes_per_token = recipe.teacher.top_k * 6  # int32 id and float16 log-probability
    counts = {
        "asked": tally.asked,
        "kept": tally.kept,
        "tokens": tally.tokens,
        "split_tokens": tally.split_tokens,
        "prose_tokens": prose,
        "dropped": dict(sorted(tally.dropped.items())),
        "holdout": settings.holdout,
        "bytes_per_token": bytes_per_token,
    }
    (work / "teach.json").write_text(json.dumps(counts, indent=1), encoding="utf-8")


def _round(
    writer: Writer,
    tokenizer: PreTrainedTokenizerBase,
    frame: ChatFrame | None,
    prompts: Sequence[str] | None,
    recipe: Recipe,
    tally: Tally,
    seen: set[str],
) -> list[Text]:
    """Ask for one round of texts, and keep the good ones."""
    settings = recipe.teach
    count = WAVES * settings.parallel
    seed = (settings.seed * 1_000_003 + tally.rounds * 2 * count) % 2**31
    if prompts is None:
        questions = _questions(writer, tokenizer, frame, recipe, count, seed, tally) if frame else [""] * count
    else:
        start = tally.rounds * count
        questions = list(prompts[start : start + count])
    tally.asked += len(questions)
    tally.rounds += 1
    if frame:
        openings, first = [frame.prompt(q) for q in questions], len(frame.opening) - 1
        stops: Sequence[int] = frame.stop_ids
    else:
        start_id = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        openings, first = [[start_id, *tokenizer(q, add_special_tokens=False)["input_ids"]] for q in questions], 0
        stops = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
    if not openings:
        return []
    temperature = settings.answer_temperature if frame else settings.temperature
    written = writer.write(
        openings,
        settings.max_answer_tokens,
        temperature=temperature,
        top_p=settings.top_p,
        seed=seed + count,
        stop_ids=stops,
        top_k=recipe.teacher.top_k,
    )
    texts: list[Text] = []
    for question, opening, found in zip(questions, openings, written, strict=True):
        answer = str(tokenizer.decode([t for t in found.tokens if t not in stops]))
        # A plain text has no end of its own: the limit only says where we stopped reading.
        why = why_dropped(answer, found.tokens, found.finish if frame else "stop")
        same = normalized(question + " " + answer)
        if why is None and same in seen:
            why = DUPLICATE
        if why is not None:
            tally.dropped[why] += 1
            continue
        seen.add(same)
        document = _document(opening, found, first)
        split = _split_of(tally.kept, settings.holdout)
        tally.kept += 1
        tally.tokens += document.kept
        tally.split_tokens[split] += document.kept
        texts.append(Text(split, question, answer, document))
    tally.barren = 0 if texts else tally.barren + 1
    return texts


def _questions(
    writer: Writer, tokenizer: PreTrainedTokenizerBase, frame: ChatFrame, recipe: Recipe, count: int, seed: int, tally: Tally
) -> list[str]:
    """Questions that the teacher makes up: given the opening of a user's turn, it writes the turn."""
    settings = recipe.teach
    written = writer.write(
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
        question = str(tokenizer.decode([t for t in found.tokens if t not in frame.stop_ids])).strip()
        why = why_dropped(question, found.tokens, found.finish)
        if why is None and normalized(question) in questions:
            why = DUPLICATE
        if why is None:
            questions[normalized(question)] = question
        else:
            tally.asked += 1
            tally.dropped[why] += 1
    return [f"{question} {settings.hints[i % len(settings.hints)]}".strip() for i, question in enumerate(questions.values())]


def _document(opening: Sequence[int], found: Written, first: int) -> Document:
    assert found.ids is not None
    assert found.log_probs is not None
    tokens = torch.tensor([*opening, *found.tokens], dtype=torch.int32)
    return Document(tokens, first, {"ids": found.ids[first:].clone(), "log_probs": found.log_probs[first:].clone()})


def _split_of(number: int, holdout: float) -> str:
    """Where kept text `number` goes: spread evenly, so that any budget has all three splits."""
    half = holdout / 2
    if int((number + 1) * half) > int(number * half):
        return "judge"
    if int((number + 1) * half + 0.5) > int(number * half + 0.5):
        return "validation"
    return "train"


def _prose(writer: Writer, tokenizer: PreTrainedTokenizerBase, recipe: Recipe, work: Path, progress: Progress) -> int:
    """Plain prose with the teacher's signals, beside its own writing; returns the tokens of the training split."""
    settings = recipe.teach
    if not settings.text_tokens:
        return 0
    total = 0
    progress.start("teach: read prose", settings.text_tokens, "tokens")
    for split in ("train", "validation"):  # what judges is read by the measure stage alone
        budget = settings.text_tokens if split == "train" else max(PROSE_TOKENS, round(settings.text_tokens * settings.holdout))
        ids = list(tokenizer(read_prose(split, settings.text), add_special_tokens=False)["input_ids"])
        documents = []
        for start in range(0, min(budget, len(ids) - 1), PROSE_TOKENS):
            piece = ids[start : start + PROSE_TOKENS]
            if len(piece) < 2:
                break
            # One token more than the piece is asked for and dropped: the signal of the piece's own positions is what counts.
            found = writer.write([piece], 1, temperature=0.0, top_p=1.0, seed=0, stop_ids=[], top_k=recipe.teacher.top_k)[0]
            assert found.ids is not None
            assert found.log_probs is not None
            rows = len(piece) - 1
            signal = {"ids": found.ids[:rows].clone(), "log_probs": found.log_probs[:rows].clone()}
            documents.append(Document(torch.tensor(piece, dtype=torch.int32), 0, signal))
            if split == "train":
                total += rows
                progress.advance(len(piece))
        (work / f"prose-{split}").mkdir(exist_ok=True)
        save_shard(shard_path(work / f"prose-{split}", 0), documents)
    progress.finish()
    return total


def _save_round(work: Path, tally: Tally, texts: Sequence[Text]) -> None:
    """One shard a split, the text, and last of all the tally that makes the round count."""
    number = tally.rounds - 1
    for split in SPLITS:
        (work / split).mkdir(exist_ok=True)
        documents = [text.document for text in texts if text.split == split]
        if documents:
            save_shard(shard_path(work / split, number), documents)
    lines = [json.dumps({"split": t.split, "prompt": t.prompt, "answer": t.answer, "tokens": t.document.tokens.tolist()}) for t in texts]
    _write(work / TEXT.format(number), "".join(line + "\n" for line in lines))
    state = {**vars(tally), "dropped": dict(tally.dropped)}
    _write(work / f"tally-{number:05d}.json", json.dumps(state))


def _resume(work: Path) -> tuple[Tally, set[str]]:
    """The tally of the whole rounds in `work`, and what their texts were."""
    tallies = sorted(work.glob("tally-*.json"))
    if not tallies:
        return Tally(), set()
    state = json.loads(tallies[-1].read_text(encoding="utf-8"))
    tally = Tally(**{**state, "dropped": Counter(state["dropped"])})
    seen = {normalized(line["prompt"] + " " + line["answer"]) for line in _lines(work, tally.rounds)}
    return tally, seen


def _lines(work: Path, rounds: int) -> Iterator[dict[str, str]]:
    for number in range(rounds):
        with (work / TEXT.format(number)).open(encoding="utf-8") as file:
            yield from (json.loads(line) for line in file)


def _write(path: Path, text: str) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def _check_going(name: str, prompts: Sequence[str] | None, parallel: int, tally: Tally, goal: int) -> None:
    reasons = ", ".join(f"{count} {reason}" for reason, count in tally.dropped.most_common())
    if tally.barren >= BARREN_ROUNDS:
        raise RunError(
            f"{name}: nothing that the teacher wrote in {tally.barren} rounds could be kept ({reasons}); it can't teach this recipe"
        )
    if prompts is not None and tally.rounds * WAVES * parallel >= len(prompts) and tally.tokens < goal:
        raise RunError(
            f"{name}: all {len(prompts)} prompts gave {tally.tokens} kept tokens of the {goal} that teach.tokens asks for "
            f"({reasons or 'nothing dropped'}); give more prompts or lower teach.tokens in the recipe"
        )
