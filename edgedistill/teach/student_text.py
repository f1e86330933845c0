"""The training text in the ids of a student whose words or chats aren't its teacher's: the same files as the teach
stage writes, made of its traces.

- With other words, everything is tokenized anew, in the student's chat template. Nothing the teacher thinks of a token
  can be carried over.
- With the same words in another template, a prompt is rendered by the student's, and behind it stand the teacher's own
  ids of the answer with its signals. The token that ends an answer becomes the student's.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from edgedistill.config.teach import Teach
from edgedistill.data.example import Example
from edgedistill.data.frame import ChatFrame, RefusedError, make_frame
from edgedistill.data.prose import bos_of
from edgedistill.data.tokenize import tokenize
from edgedistill.data.trace import ASSISTANT, SPLITS, SYSTEM, Trace, Turn, load_traces
from edgedistill.errors import RunError
from edgedistill.models.tokenizer import load_tokenizer
from edgedistill.progress import Progress
from edgedistill.signals.shards import (
    FREE,
    NEW,
    PATTERN,
    PROSE,
    SOURCES,
    WRITTEN,
    count_kept,
    count_tokens,
    iter_shards,
    load_shard,
    save_shard,
)
from edgedistill.store.whole import write_json
from edgedistill.teach.prose import read_all_prose
from edgedistill.teach.rewritten import Rewriting

TEACHING = "teach.json"
TRACED = (WRITTEN, NEW, FREE)  # sources whose texts are traces
UNREADABLE = "not for the student's chat template or context"


@dataclass(frozen=True)
class Reader:
    """How a student reads what its teacher wrote.

    Attributes:
        teacher, student: a folder or .gguf file each.
        name: the student's, for messages.
        settings: the recipe's `teach` part, decided.
        same_words: whether ids mean the same to both.
        context: tokens that the student reads at most; longer examples are cut.
    """

    teacher: Path
    student: Path
    name: str
    settings: Teach
    same_words: bool
    context: int

    @cached_property
    def tokenizers(self) -> tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase]:
        """The teacher's and the student's."""
        return load_tokenizer(self.teacher), load_tokenizer(self.student)

    @cached_property
    def frames(self) -> tuple[ChatFrame, ChatFrame] | None:
        """The chats of both; None where the teacher writes none."""
        if self.settings.style != "chat":
            return None
        theirs, own = self.tokenizers
        return make_frame(theirs, "the teacher"), make_frame(own, self.name)

    @cached_property
    def shows_system(self) -> bool:
        """Whether the student's chats have a place for a system message."""
        return self.frames is None or self.frames[1].shows_system()

    def chat(self, trace: Trace, example: Example) -> Example | None:
        """A conversation; None where the student's template refuses it, or its answers would have other ids."""
        if self.frames is None:
            raise ValueError("there are no chats to read")
        theirs, own = self.frames
        turns = tuple(turn for turn in trace.turns if self.shows_system or turn.role != SYSTEM)
        trace = Trace(trace.id, trace.prompt_id, turns)
        try:
            if not self.same_words:
                return _tokenized(trace, own, ended=int(example.tokens[-1]) in theirs.stop_ids)
            return _carried(trace, example, theirs, own)
        except RefusedError:
            return None

    def plain(self, trace: Trace, example: Example) -> Example:
        """A text that no template surrounds."""
        theirs, own = self.tokenizers
        if not self.same_words:
            return tokenize(trace, own, None)
        return restarted(example, bos_of(theirs), bos_of(own))


def write_student_text(reader: Reader, taught: Path, work: Path, progress: Progress) -> None:
    """Write the examples of all splits and `teach.json` to `work`, as teach/training_text.py describes them.

    Args:
        reader: the student.
        taught: what the teach stage wrote.
        work: the stage's folder; whole shards that a killed run left in it are kept.
        progress: where it is shown.
    Raises:
        RunError: the student can read none of a split.
    """
    folders = [f"{source}{split}" for source in TRACED for split in SPLITS]
    title = "the training text in the student's tokens"
    empty = Rewriting(taught, folders, lambda shard: _examples(reader, shard), title).write(work, progress)
    if empty:
        raise RunError(
            f"{reader.name}: none of the teacher's {empty[0]} text can be read in its chat template and "
            f"{reader.context} tokens of context; take another student, or let the teacher write shorter texts"
        )
    _write_prose(reader, taught, work, progress)
    write_json(work / TEACHING, _counts(reader, taught, work))


def restarted(example: Example, old: Sequence[int], new: Sequence[int]) -> Example:
    """A text that begins with the ids `new` instead of `old`, if it began with these.

    Where there is no longer a token before the first word, that word is predicted by nothing and doesn't count.
    """
    begun = list(old) if example.tokens[: len(old)].tolist() == list(old) else []
    if begun == list(new):
        return example
    tokens = torch.cat([torch.tensor(list(new), dtype=torch.int32), example.tokens[len(begun) :]])
    weight = torch.zeros(len(tokens) - 1, dtype=torch.float16)
    # Predictions from the last token of the beginning on, as far as there is one on both sides.
    lost = max(0, len(begun) - len(new))
    same = example.weight[lost:] if len(begun) >= len(new) else example.weight
    weight[len(weight) - len(same) :] = same
    kept = int((example.weight[:lost] > 0).sum())
    return Example(tokens, weight, {name: rows[kept:] for name, rows in example.signal.items()}, example.trace_id)


def _examples(reader: Reader, shard: Path) -> Iterator[Example]:
    """A shard's examples as the student reads them, without those that it can't."""
    source = next((source for source in (NEW, FREE) if shard.parent.name.startswith(source)), WRITTEN)
    number = shard.name.removeprefix(PATTERN.partition("*")[0]).partition(".")[0]
    folder = shard.parent.parent
    traces = {trace.id: trace for trace in load_traces(folder / f"{source}traces-{number}.jsonl")}
    chats = source != FREE and reader.frames is not None
    for example in load_shard(shard):
        trace = traces[example.trace_id]
        read = reader.chat(trace, example) if chats else reader.plain(trace, example)
        if read is not None and read.cut(reader.context).kept:
            yield read.cut(reader.context)


def _tokenized(trace: Trace, frame: ChatFrame, ended: bool) -> Example:
    """A conversation in ids of its own; without the token that ends it where the answer was cut off."""
    example = tokenize(trace, frame.tokenizer, frame)
    return example if ended else example.cut(len(example.tokens) - len(frame.end_ids))


def _carried(trace: Trace, example: Example, theirs: ChatFrame, own: ChatFrame) -> Example | None:
    """The student's prompt and the teacher's answer with its signals; None where there are several answers and not all
    have the same ids in both templates.
    """
    first = int(example.positions[0])
    labels = _own_ends(example.labels, theirs, own)
    signal = dict(example.signal)
    if "ids" in signal:
        signal["ids"] = _own_ends(signal["ids"], theirs, own)
    if bool((example.weight[first:] > 0).all()) and _one_answer(trace.turns):
        prompt = frame_prompt(own, trace.turns)
        tokens = torch.cat([torch.tensor(prompt, dtype=torch.int32), labels.to(torch.int32)])
        weight = torch.cat([torch.zeros(len(prompt) - 1, dtype=torch.float16), example.weight[first:]])
        return Example(tokens, weight, signal, example.trace_id)
    anew = _tokenized(trace, own, ended=int(example.tokens[-1]) in theirs.stop_ids)
    if not torch.equal(anew.labels, labels):
        return None
    return anew.with_signal(**signal)


def frame_prompt(frame: ChatFrame, turns: Sequence[Turn]) -> list[int]:
    """The ids before the last turn, which is an answer."""
    return frame.prompt(turns[:-1])


def _one_answer(turns: Sequence[Turn]) -> bool:
    return sum(turn.role == ASSISTANT and turn.train > 0 for turn in turns) == 1


def _own_ends(ids: Tensor, theirs: ChatFrame, own: ChatFrame) -> Tensor:
    """Ids in which the tokens that end an answer of teacher and student have changed places."""
    if theirs.end_ids == own.end_ids or not (len(theirs.end_ids) == len(own.end_ids) == 1):
        return ids
    (old,), (new,) = theirs.end_ids, own.end_ids
    return torch.where(ids == old, new, torch.where(ids == new, old, ids)).to(ids.dtype)


def _write_prose(reader: Reader, taught: Path, work: Path, progress: Progress) -> None:
    """The prose that is read beside the teacher's writing: cut anew; where the words are the same, the same pieces."""
    theirs, own = reader.tokenizers
    if not reader.same_words:
        read_all_prose(None, own, reader.settings, 0, work, progress)
        return
    for shard in sorted(taught.glob(f"{PROSE}*/{PATTERN}")):
        place = work / shard.relative_to(taught)
        place.parent.mkdir(exist_ok=True)
        if not place.is_file():
            save_shard(place, [restarted(example, bos_of(theirs), bos_of(own)) for example in load_shard(shard)])


def _counts(reader: Reader, taught: Path, work: Path) -> dict[str, object]:
    """What the teach stage counted, with what the student reads of it."""
    counts = json.loads((taught / TEACHING).read_text(encoding="utf-8"))
    before, after = (_texts(folder) for folder in (taught, work))
    split_tokens = {
        source or "written-": {split: count_kept(work / f"{source}{split}") for split in SPLITS}
        for source in TRACED
        if (source or "written-") in counts["split_tokens"]
    }
    counts |= {
        "kept": after,
        "tokens": sum(sum(tokens.values()) for tokens in split_tokens.values()),
        "split_tokens": split_tokens,
        "prose_tokens": count_kept(work / f"{PROSE}train"),
        "train_tokens": sum(count_tokens(work / f"{source}train") for source in SOURCES),
        "bytes_per_token": counts["bytes_per_token"] if reader.same_words else 0,
    }
    if before > after:
        counts["dropped"] = dict(sorted((counts["dropped"] | {UNREADABLE: before - after}).items()))
    if not reader.shows_system:
        counts.pop("system", None)
    return dict(counts)


def _texts(folder: Path) -> int:
    """How many texts the teacher wrote, as far as they lie in a folder."""
    folders = [folder / f"{source}{split}" for source in TRACED for split in SPLITS]
    return sum(1 for each in folders for _ in iter_shards(each))
