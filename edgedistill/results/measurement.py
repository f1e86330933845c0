"""What the measure stage leaves (measure.json, schema edgedistill.measure/1): rows, and what joins them."""

from dataclasses import dataclass, field
from typing import Any

from edgedistill.results.codec import JsonData, absent
from edgedistill.results.record import Record
from edgedistill.results.row import Quality, Row, WorstToken
from edgedistill.results.share import TaskShare
from edgedistill.results.task import TaskFacts, TaskScore

MEASURE_SCHEMA = "edgedistill.measure/1"


@dataclass(frozen=True)
class JudgedText(JsonData):
    """A text that all files are judged on: its name, where it comes from, and how many of its tokens are judged."""

    name: str
    source: str | None = None
    tokens: int | None = None


@dataclass(frozen=True)
class TaskSet(JsonData):
    """Questions or requests that all files are asked, and whose they are; `chance`: the share of questions that
    guessing answers right, None where nobody counted.
    """

    name: str
    kind: str | None = None
    items: int | None = None
    source: str | None = None
    license: str | None = None
    chance: float | None = absent()


@dataclass(frozen=True)
class LayerError(JsonData):
    """The relative error of one matrix, rounded and recovered; None where there is no such file.

    Attributes:
        tensor: its name.
        layer: its layer's number, None outside of layers.
        grid: the format that stores it.
        weights: their number.
    """

    tensor: str
    layer: int | None
    grid: str | None = None
    weights: int | None = None
    rounded: float | None = None
    recovered: float | None = None

    def error(self, kind: str) -> float | None:
        """That of a kind of file, "rounded" or "recovered"."""
        return self.rounded if kind == "rounded" else self.recovered


@dataclass(frozen=True)
class Layers(JsonData):
    """A mix's errors by matrix; `by`: whether they are weighted by the matrices' "inputs", or are of the "weights"."""

    by: str
    tensors: tuple[LayerError, ...]


@dataclass(frozen=True)
class Sample(JsonData):
    """A prompt and its likeliest answers, by the rows' labels."""

    prompt: str | None
    answers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TaskAnswers(JsonData):
    """One file's answers to the user's task, without differences.

    Attributes:
        bits: a digit a row, "1" where it was right.
        fields: of objects, of each row how many (field, value) pairs are right, too many, and missing.
    """

    score: TaskScore
    bits: str
    fields: tuple[tuple[int, ...], ...] = absent(())


@dataclass(frozen=True)
class RowFigures(JsonData):
    """What was measured of one file on texts, questions and requests (row.json).

    Attributes:
        quality: by judge.
        worst: the tokens at which it is furthest from its float model; empty where nobody looked.
        samples: its answer to each sample prompt.
        bits: a digit an item of each set, "1" where it was right or refused, by the names that `differences` has.
        tasks, refusals: shares by set.
        task: of the user's own task, if there is one.
    """

    quality: dict[str, Quality]
    worst: tuple[WorstToken, ...]
    samples: dict[str, str]
    bits: dict[str, str]
    tasks: dict[str, TaskShare]
    refusals: dict[str, TaskShare]
    task: TaskAnswers | None = absent()


@dataclass(frozen=True)
class WonBack(JsonData):
    """What recovery took away of rounding's loss on a judge, at the same bytes: 1 − KL(recovered)/KL(rounded), and the
    same of the rise in perplexity; None where rounding lost nothing. The KLs, nats per token, are those of the files.
    """

    kl_share: float | None = None
    ppl_share: float | None = None
    kl_rounded: float | None = absent()
    kl_recovered: float | None = absent()


@dataclass(frozen=True)
class Measurement(JsonData):
    """All rows of a run. `recovered` is by mix and judge, `layers` by mix; `machine` is machine.machine_facts()."""

    schema: str = MEASURE_SCHEMA
    machine: dict[str, Any] = field(default_factory=dict)
    on_target: bool = False
    judges: tuple[JudgedText, ...] = ()
    task: TaskFacts | None = absent()
    task_sets: tuple[TaskSet, ...] = ()
    rows: tuple[Row, ...] = ()
    recovered: dict[str, dict[str, WonBack]] = field(default_factory=dict)
    layers: dict[str, tuple[LayerError, ...]] = field(default_factory=dict)
    layers_by: str | None = None
    samples: tuple[Sample, ...] = ()
    records: tuple[Record, ...] = ()
