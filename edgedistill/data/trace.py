"""Trace: what was said, before any tokenizer. One conversation or text, who wrote it, and what was thought of it.

A trace knows no tokenizer, so students of any family can read it. Which split it belongs to is a hash of its prompt: a
question that is asked twice never lies on both sides, and writers that work at the same time agree.

Traces lie in shards, one file each, written whole: `.jsonl` with a trace a line, or `.parquet`.
"""

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgedistill.config.prompt_id import normalized, place_of, prompt_id_of
from edgedistill.errors import RunError
from edgedistill.store.whole import atomic_write, whole

TRAIN, VALIDATION, JUDGE = SPLITS = ("train", "validation", "judge")
SYSTEM, USER, ASSISTANT, TEXT = ROLES = ("system", "user", "assistant", "text")
__all__ = ["normalized", "prompt_id_of"]  # of config/prompt_id.py, for those who make traces


@dataclass(frozen=True)
class Turn:
    """What one side said.

    Attributes:
        role: one of ROLES; "text" is a piece of plain text, which no template surrounds.
        text: its words.
        thinking: what the teacher thought before it said them; None if it didn't say.
        train: the weight of the turn's tokens in the loss; 0 for what is only read.
    """

    role: str
    text: str
    thinking: str | None = None
    train: float = 1.0


@dataclass(frozen=True)
class Verdict:
    """What a judge of texts said: who, whether the text is kept, a score if there is one, and why."""

    by: str
    accepted: bool
    score: float | None = None
    why: str = ""


@dataclass(frozen=True)
class Sampling:
    """How the last turn was drawn."""

    temperature: float
    top_p: float
    seed: int


@dataclass(frozen=True)
class Trace:
    """One conversation or text.

    Attributes:
        id: unique within a run.
        prompt_id: `prompt_id_of` what was asked.
        turns: in order.
        teacher: who wrote the last turn; "" where it was in the user's file.
        sampling: how; None where nobody drew.
        verdicts: what was thought of it.
        group: what it belongs to, such as its source.
    """

    id: str
    prompt_id: str
    turns: tuple[Turn, ...]
    teacher: str = ""
    sampling: Sampling | None = None
    verdicts: tuple[Verdict, ...] = ()
    group: str = ""

    def to_json(self) -> dict[str, Any]:
        """A JSON object with the fields' names."""
        return asdict(self)

    @staticmethod
    def from_json(entry: dict[str, Any]) -> "Trace":
        """The trace of such an object."""
        sampling = entry["sampling"]
        return Trace(
            entry["id"],
            entry["prompt_id"],
            tuple(Turn(**turn) for turn in entry["turns"]),
            entry["teacher"],
            None if sampling is None else Sampling(**sampling),
            tuple(Verdict(**verdict) for verdict in entry["verdicts"]),
            entry["group"],
        )


@dataclass(frozen=True)
class Holdout:
    """Shares of the prompts that are kept from training: those that validate it, and those that judge its result."""

    validation: float
    judge: float

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that get anything."""
        shares = {TRAIN: 1 - self.validation - self.judge, VALIDATION: self.validation, JUDGE: self.judge}
        return tuple(split for split in SPLITS if shares[split] > 1e-9)

    def covering(self, prompt_ids: Collection[str]) -> "Holdout":
        """Shares that are larger where too few of some prompts would be held out: at least two a split, or one where
        there are fewer than eight prompts.
        """
        places = sorted(place_of(prompt_id) for prompt_id in set(prompt_ids))
        least = min(2, max(1, len(places) // 4))
        if len(places) < 3:
            return self
        validation = max(self.validation, (places[least - 1] + places[least]) / 2) if self.validation else 0.0
        judge = max(self.judge, 1 - (places[-least] + places[-least - 1]) / 2) if self.judge else 0.0
        return Holdout(validation, judge)


def split_of(prompt_id: str, holdout: Holdout) -> str:
    """The split of all traces with this prompt: one of SPLITS.

    Validation takes the lowest hashes and the judges the highest, so with other shares none goes from one to the other.
    """
    place = place_of(prompt_id)
    if place < holdout.validation:
        return VALIDATION
    if place >= 1 - holdout.judge:
        return JUDGE
    return TRAIN


def save_traces(path: Path, traces: Sequence[Trace]) -> None:
    """Write a shard, `.jsonl` or `.parquet`; the name appears only when the file is whole.

    Raises:
        ValueError: the name ends otherwise.
    """
    if path.suffix == ".jsonl":
        lines = [json.dumps(trace.to_json(), ensure_ascii=False) + "\n" for trace in traces]
        atomic_write(path, "".join(lines))
    elif path.suffix == ".parquet":
        import pyarrow  # type: ignore[import-untyped]
        from pyarrow import parquet

        table = pyarrow.Table.from_pylist([trace.to_json() for trace in traces], schema=_schema())
        with whole(path) as temporary:
            parquet.write_table(table, temporary)
    else:
        raise ValueError(f"{path}: traces are written to .jsonl and .parquet files")


def load_traces(path: Path) -> Iterator[Trace]:
    """The traces of a shard, in order.

    Raises:
        RunError: the file isn't a whole shard of traces.
    """
    try:
        if path.suffix == ".parquet":
            from pyarrow import parquet

            for batch in parquet.ParquetFile(path).iter_batches():
                yield from map(Trace.from_json, batch.to_pylist())
        else:
            with path.open(encoding="utf-8") as file:
                yield from (Trace.from_json(json.loads(line)) for line in file)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path}: not a shard of traces ({error}); remove its stage folder and run again") from error


def iter_traces(folder: Path, pattern: str) -> Iterator[Trace]:
    """All traces of a folder's shards that a glob pattern names, in the order of the names."""
    for path in sorted(folder.glob(pattern)):
        yield from load_traces(path)


def _schema() -> Any:
    """Parquet's columns: those of `Trace`, whatever a shard's rows leave empty."""
    import pyarrow

    text, number = pyarrow.string(), pyarrow.float64()
    turn = pyarrow.struct([("role", text), ("text", text), ("thinking", text), ("train", number)])
    sampling = pyarrow.struct([("temperature", number), ("top_p", number), ("seed", pyarrow.int64())])
    verdict = pyarrow.struct([("by", text), ("accepted", pyarrow.bool_()), ("score", number), ("why", text)])
    return pyarrow.schema(
        [
            ("id", text),
            ("prompt_id", text),
            ("turns", pyarrow.list_(turn)),
            ("teacher", text),
            ("sampling", sampling),
            ("verdicts", pyarrow.list_(verdict)),
            ("group", text),
        ]
    )
