"""What a file answers to the user's own task: its metric first, what else its kind has, and some wrong answers."""

from dataclasses import dataclass, field

from edgedistill.results.codec import JsonData, absent
from edgedistill.results.share import Difference

# What the leading share of each kind is called; a verifier's is its own.
METRICS = {"classify": "accuracy", "extract": "exact match", "text": "exact match"}
VERIFIED = "right by the verifier"
# Other figures of a task by their names in JSON, all of them shares, with the words for a person.
FIGURES = {
    "macro_f1": "macro F1",
    "no_label_share": "no label at all",
    "field_share": "fields right",
    "field_f1": "F1 of fields",
    "valid_json_share": "valid JSON",
    "cut_off_share": "cut off",
}


@dataclass(frozen=True)
class WrongAnswer(JsonData):
    """A prompt that a file answered wrongly, its right answer, and what the file said; all shortened."""

    prompt: str
    expected: str
    got: str


@dataclass(frozen=True)
class FieldScore(JsonData):
    """A file's F1 over the fields of all rows, its 95 % interval, and paired differences as of `TaskScore`."""

    f1: float
    low: float
    high: float
    to_float: Difference | None = absent()
    to_teacher: Difference | None = absent()


@dataclass(frozen=True)
class TaskScore(JsonData):
    """One file's answers to the task's test rows.

    Attributes:
        metric: what `share` is called.
        items: rows asked.
        right: how many were answered rightly.
        share: right / items, in [0, 1]; low, high: its 95 % interval.
        figures: by the names of FIGURES.
        wrong: a few answers that weren't right.
        f1: of objects, the F1 of fields with what the share has beside it.
        to_float, to_teacher, to_rival: the share minus that file's on the same rows, paired; None of the file itself,
            and where there is none or it wasn't asked.
    """

    metric: str
    items: int
    right: int
    share: float
    low: float
    high: float
    figures: dict[str, float] = field(default_factory=dict)
    wrong: tuple[WrongAnswer, ...] = ()
    to_float: Difference | None = absent()
    to_teacher: Difference | None = absent()
    to_rival: Difference | None = absent()
    f1: FieldScore | None = absent()


@dataclass(frozen=True)
class TaskFacts(JsonData):
    """The task that all files are asked.

    Attributes:
        name: its file's, without the suffix.
        kind: "classify", "extract" or "text".
        metric: what is judged by.
        items: test rows that every file is asked.
        left_out: test rows that would have been asked, and don't fit the model's context or template.
        test_rows, learn_rows: how many there are.
        labels: how many labels there are; None of other kinds.
        fields: names of the objects' fields; empty of other kinds.
    """

    name: str
    kind: str
    metric: str
    items: int
    left_out: int = 0
    test_rows: int | None = None
    learn_rows: int | None = None
    labels: int | None = absent()
    fields: tuple[str, ...] = absent(())
