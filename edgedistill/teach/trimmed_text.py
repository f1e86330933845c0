"""The training text in the ids of a student whose vocabulary was cut down: the same files, renumbered.

A text with a token that is gone would be spelled otherwise, where the teacher's signals say nothing; it is left out and
counted. Of the likeliest tokens of a position, one that is gone gets an id beyond the student's rows, which
`signals.sources.Shared` drops. Nearly every piece of prose has a token that is gone: it is read anew in the student's
own words, where nobody looks at the teacher's signals any more; the other texts lose theirs too, then.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from edgedistill.config.teach import Teach
from edgedistill.data.example import Example
from edgedistill.data.trace import SPLITS
from edgedistill.errors import RunError
from edgedistill.models.tokenizer import load_tokenizer
from edgedistill.progress import Progress
from edgedistill.signals.shards import PROSE, SOURCES, count_kept, count_tokens, load_shard
from edgedistill.store.whole import write_json
from edgedistill.teach.prose import read_all_prose
from edgedistill.teach.rewritten import Rewriting

TEACHING = "teach.json"


class Renumbering:
    """Old ids -> new ones."""

    def __init__(self, kept: Tensor) -> None:
        """Take the old id [V] of each new one."""
        self.rows = len(kept)
        self._kept = kept
        self._new = torch.full((int(kept.max()) + 2,), self.rows, dtype=torch.int64)
        self._new[kept] = torch.arange(self.rows)

    def new(self, ids: Tensor) -> Tensor:
        """New ids, of the same type; `rows` for what is gone."""
        return self._new[ids.long().clamp_max(len(self._new) - 1)].to(ids.dtype)

    def old(self, ids: Tensor) -> Tensor:
        """The old ids of new ones, of the same type."""
        return self._kept[ids.long()].to(ids.dtype)

    def example(self, example: Example) -> Example | None:
        """An example in new ids; None where one of its tokens is gone."""
        tokens = self.new(example.tokens)
        if bool((tokens == self.rows).any()):
            return None
        signal = {name: self.new(rows) if name == "ids" else rows for name, rows in example.signal.items()}
        return Example(tokens, example.weight, signal, example.trace_id)


@dataclass(frozen=True)
class Prose:
    """How prose is read anew.

    Attributes:
        student: the folder whose tokenizer reads it.
        settings: the recipe's `teach` part, decided.
    """

    student: Path
    settings: Teach


def write_trimmed_text(taught: Path, kept: Tensor, prose: Prose | None, work: Path, progress: Progress) -> None:
    """Write the examples of all splits and `teach.json` to `work`, as teach/training_text.py describes them.

    Args:
        taught: the text in old ids.
        kept: [V] the old id of each of the student's tokens.
        prose: how the prose is read anew, and all text without signals; None renumbers it all, and keeps them.
        work: the stage's folder; whole shards that a killed run left in it are kept.
        progress: where it is shown.
    Raises:
        RunError: no text of a split has only tokens that are left.
    """
    numbers = Renumbering(kept)
    sources = [source for source in SOURCES if prose is None or source != PROSE]
    folders = [f"{source}{split}" for source in sources for split in SPLITS]
    title = "the training text in the smaller vocabulary"
    empty = Rewriting(taught, folders, lambda shard: _renumbered(numbers, shard, prose is None), title).write(
        work, progress
    )
    if empty:
        raise RunError(
            f"none of the {empty[0]} text has only tokens of the student's vocabulary of {numbers.rows}; raise "
            "vocabulary in the recipe"
        )
    counts = _counts(taught, work, folders)
    if prose is not None:
        tokenizer = load_tokenizer(prose.student)
        counts["prose_tokens"] = read_all_prose(None, tokenizer, prose.settings, 0, work, progress)
    counts["train_tokens"] = sum(count_tokens(work / f"{source}train") for source in SOURCES)
    if lost := counts.get("lost_tokens"):
        progress.note(
            f"{lost} tokens of the training text that count are left out of recovery and judging: their texts use "
            f"tokens that aren't among the {numbers.rows} which the student keeps"
        )
    write_json(work / TEACHING, counts)


def _renumbered(numbers: Renumbering, shard: Path, with_signals: bool) -> Iterator[Example]:
    for example in load_shard(shard):
        renumbered = numbers.example(example if with_signals else example.with_signal())
        if renumbered is not None:
            yield renumbered


def _counts(taught: Path, work: Path, folders: list[str]) -> dict[str, object]:
    """What the text's own stage counted, with what is left of it."""
    counts: dict[str, object] = json.loads((taught / TEACHING).read_text(encoding="utf-8"))
    before = sum(count_kept(taught / folder) for folder in folders)
    after = sum(count_kept(work / folder) for folder in folders)
    if before > after:
        counts["lost_tokens"] = before - after
    return counts
