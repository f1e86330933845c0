"""The teach stage: the training text. The teacher writes chats and free text, prose is read beside them; each source is
split.

    SPLIT/signals-00000.safetensors   tokens, with ids and log_probs where a student is distilled; one file a round
    free-SPLIT/, prose-SPLIT/         the same of free text, and of what was only read (train and validation)
    text-00000.jsonl, free-text-...   {"split", "prompt", "answer", "tokens"} a line
    teach.json                        counts: asked, kept, dropped by reason, tokens, bytes a token

What judges of the prose is read by the measure stage alone.
"""

import json
from collections import Counter
from collections.abc import Collection
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from edgedistill.config.recipe import Recipe
from edgedistill.config.teach import OWN_PROMPTS, Teach
from edgedistill.data.example import Example, counted_from
from edgedistill.data.prompts import read_prompts
from edgedistill.data.prose import cut_text, read_prose, spread
from edgedistill.data.starters import read_starters
from edgedistill.models.tokenizer import load_tokenizer
from edgedistill.progress import Progress
from edgedistill.signals.shards import FREE, PROSE, WRITTEN, iter_shards, load_split, save_shard, shard_path
from edgedistill.store.whole import write_json
from edgedistill.teach.frame import make_frame
from edgedistill.teach.rounds import SPLITS, Asked, NothingKeptError, Tally, write_rounds, written_document
from edgedistill.teach.writers import Writer

# Of prose, at most: it is run through at every validation, and more no longer moves the choice of a checkpoint.
VALIDATION_TOKENS = 8192
HELD_OUT = "held-out.json"


def teach(
    writer: Writer | None,
    teacher: Path,
    name: str,
    recipe: Recipe,
    top_k: int,
    work: Path,
    progress: Progress,
    never: Collection[str] = (),
) -> None:
    """Write text and signals to `work`; see the top of this file.

    Args:
        writer: the teacher, ready to write; None if it writes nothing and no signals are wanted.
        teacher: its folder or GGUF file, for the tokenizer and template.
        name: what messages call it.
        recipe: its `teach` part, decided (`Recipe.decided`).
        top_k: log-probabilities to keep of each token; 0 for none.
        work: the stage's folder. Whole rounds that a killed run left in it are kept.
        progress: where it is shown.
        never: texts that must not be kept, as `rounds.texts_in` gives them.
    Raises:
        InputError: the recipe chats and the teacher has no template.
        RunError: as `write_rounds`.
    """
    settings = recipe.teach
    tokenizer = load_tokenizer(teacher)
    tallies: dict[str, Tally] = {}
    goals = {WRITTEN: settings.tokens, FREE: settings.free_tokens}
    if any(goals.values()):
        if writer is None:
            raise ValueError("a recipe whose teacher writes needs a writer")
        asked = Asked(
            writer,
            tokenizer,
            name,
            make_frame(tokenizer, name) if settings.style == "chat" and settings.tokens else None,
            None if settings.prompts == OWN_PROMPTS else read_prompts(Path(settings.prompts), settings.prompt_field),
            " ".join(read_prose("train", settings.text)).split() if settings.free_tokens else [],
            settings,
            top_k,
            frozenset(never),
            read_starters(),
        )
        tallies = {source: write_rounds(asked, source, goal, work, progress) for source, goal in goals.items() if goal}
    prose = _prose(writer, tokenizer, settings, top_k, work, progress)
    dropped: Counter[str] = sum((tally.dropped for tally in tallies.values()), Counter())
    counts = {
        "asked": sum(tally.asked for tally in tallies.values()),
        "kept": sum(tally.kept for tally in tallies.values()),
        "tokens": sum(tally.tokens for tally in tallies.values()),
        "split_tokens": {source or "written-": tally.split_tokens for source, tally in tallies.items()},
        "prose_tokens": prose,
        "train_tokens": sum(len(document.tokens) for document in load_split(work, "train")),
        "dropped": dict(sorted(dropped.items())),
        "holdout": settings.holdout,
        "bytes_per_token": top_k * 6,  # int32 id and float16 log-probability
    }
    (work / "teach.json").write_text(json.dumps(counts, indent=1), encoding="utf-8")


def write_held_out(writer: Writer, teacher: Path, name: str, recipe: Recipe, work: Path, progress: Progress) -> None:
    """Write chats to judge on, `teach.tokens` of them, to `work`: SPLIT/ and text-*.jsonl as `teach` does, and
    `held-out.json`.

    A model that has a template may still write nothing that can be kept. It can be judged on prose all the same, so
    that is no
    error: `held-out.json` then says why ("why", else null).
    """
    tokenizer = load_tokenizer(teacher)
    why = None
    try:
        asked = Asked(writer, tokenizer, name, make_frame(tokenizer, name), None, [], recipe.teach, 0)
        write_rounds(asked, WRITTEN, recipe.teach.tokens, work, progress, "write chats to judge on")
    except NothingKeptError as error:
        why = str(error)
        progress.note(f"{error}; the files are judged on prose alone")
    write_json(work / HELD_OUT, {"why": why})


def held_out_documents(folder: Path) -> list[Example]:
    """The documents that `write_held_out` kept, of all splits; none where the model wrote nothing that could be
    kept.
    """
    if json.loads((folder / HELD_OUT).read_text(encoding="utf-8"))["why"] is not None:
        return []
    return [document for split in SPLITS for document in iter_shards(folder / split)]


def _prose(
    writer: Writer | None,
    tokenizer: PreTrainedTokenizerBase,
    settings: Teach,
    top_k: int,
    work: Path,
    progress: Progress,
) -> int:
    """Prose with the teacher's signals, beside its own writing; returns the tokens of the training split."""
    if not settings.text_tokens:
        return 0
    window, total = settings.text_window, 0
    if window is None:
        raise ValueError("text_window isn't decided: see Recipe.decided")
    progress.start("teach: read prose", settings.text_tokens, "tokens")
    for split in ("train", "validation"):
        held = min(VALIDATION_TOKENS, max(window, round(settings.text_tokens * settings.holdout)))
        pieces = [piece for text in read_prose(split, settings.text) for piece in cut_text(tokenizer, text, window)]
        documents = []
        for piece in spread(
            pieces, [len(piece) for piece in pieces], settings.text_tokens if split == "train" else held
        ):
            documents.append(_read(writer, piece, top_k))
            if split == "train":
                total += documents[-1].kept
                progress.advance(len(piece))
        folder = work / f"{PROSE}{split}"
        folder.mkdir(exist_ok=True)
        save_shard(shard_path(folder, 0), documents)
    progress.finish()
    return total


def _read(writer: Writer | None, piece: list[int], top_k: int) -> Example:
    """A text with what the teacher thinks of each of its tokens, if that is wanted."""
    if not top_k or writer is None:
        return counted_from(torch.tensor(piece, dtype=torch.int32))
    # One token more than the piece is asked for and dropped: the signal of the piece's own positions is what counts.
    found = writer.write([piece], 1, temperature=0.0, top_p=1.0, seed=0, stop_ids=[], top_k=top_k)[0]
    whole = written_document(piece, found, 0)
    rows = len(piece) - 1
    return counted_from(whole.tokens[: len(piece)], 0, {name: values[:rows] for name, values in whole.signal.items()})
