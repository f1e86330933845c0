"""The report of a run (report.json, schema edgedistill.report/1): all that page, terminal and model card show."""

from dataclasses import dataclass, field
from typing import Any

from edgedistill.results.codec import JsonData, absent
from edgedistill.results.curve import Curve
from edgedistill.results.measurement import JudgedText, LayerError, Sample, TaskSet, WonBack
from edgedistill.results.planned import PlannedMix, PlannedRival, StudentFacts, TargetFacts, TeacherFacts
from edgedistill.results.record import Record
from edgedistill.results.row import Row
from edgedistill.results.task import TaskFacts
from edgedistill.show import show_machine

REPORT_SCHEMA = "edgedistill.report/1"


@dataclass(frozen=True)
class Teaching(JsonData):
    """What the teach stage counted: texts asked for, kept and dropped by reason, tokens, the share held out; and the
    system message that all chats began with, where there was one.
    """

    asked: int | None = None
    kept: int | None = None
    tokens: int | None = None
    prose_tokens: int | None = absent()
    dropped: dict[str, int] = field(default_factory=dict)
    holdout: float | None = None
    bytes_per_token: float | None = None
    system: str | None = absent()
    more: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Front(JsonData):
    """The Pareto front: what the files were compared in, and the labels of those that no other beats."""

    axes: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Recommendation(JsonData):
    """The file to take, by its row's label and mix (None for the file as it was given), why, and by which rule."""

    label: str
    mix: str | None
    sentence: str
    rule: str | None = absent()


@dataclass(frozen=True)
class Contest(JsonData):
    """The student's file against the teacher in its bytes: which of the two to ship ("student" or "teacher"), and why,
    in a sentence.
    """

    ship: str
    sentence: str

    @property
    def lost(self) -> bool:
        """Whether the student lost."""
        return self.ship != "student"


@dataclass(frozen=True)
class Verdict(JsonData):
    """What comes first: whether any mix fits the target, a headline, the sentences below it, and the mix that the key
    figures are about; from which teacher to which file (`lineage`), why that file is a poor one, where it is, and
    whether it beats the teacher in its bytes (`contest`).
    """

    fits: bool
    headline: str
    sentences: tuple[str, ...] = ()
    mix: str | None = None
    lineage: str | None = absent()
    warning: str | None = absent()
    contest: Contest | None = absent()

    @property
    def good(self) -> bool:
        """Whether a file fits, and nothing says that it is a poor one."""
        return self.fits and self.warning is None and not (self.contest and self.contest.lost)


NO_VERDICT = Verdict(False, "")


@dataclass(frozen=True)
class Prediction(JsonData):
    """What the plan foretold of a mix beside what was measured, in `unit`."""

    mix: str
    what: str
    unit: str
    predicted: float | None
    measured: float | None


@dataclass(frozen=True)
class StageCost(JsonData):
    """A stage of the run: its key, seconds, peak memory, and whether an earlier start had made it."""

    name: str
    key: str | None = absent()
    seconds: float | None = None
    peak_rss_bytes: int | None = None
    reused: bool | None = absent()


@dataclass(frozen=True)
class Proof(JsonData):
    """A shipped file compared with the trained checkpoint, block by block."""

    file: str
    tensors: int | None = None
    blocks: int | None = None
    differences: int | None = None
    sha256: str | None = None
    more: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Provenance(JsonData):
    """How the run was made. `recipe` is the recipe as JSON, `versions` by package; `license`: of the model that the
    student started from, `teacher_license`: of the teacher, where that is another; `places`: other devices than the
    processor that torch computed on, by stage.
    """

    teacher: str | None = None
    recipe: dict[str, Any] = field(default_factory=dict)
    command: str | None = None
    license: str | None = None
    teacher_license: str | None = absent()
    versions: dict[str, str] = field(default_factory=dict)
    places: dict[str, dict[str, Any]] = absent({})
    stages: tuple[StageCost, ...] = ()
    verify: tuple[Proof, ...] = ()


@dataclass(frozen=True)
class Report(JsonData):
    """All that is shown. `mixes` is by name, `recovered` by mix and judge, `layers` by mix."""

    schema: str = REPORT_SCHEMA
    teacher: TeacherFacts = field(default_factory=TeacherFacts)
    student: StudentFacts = field(default_factory=StudentFacts)
    target: TargetFacts = field(default_factory=TargetFacts)
    on_target: bool = False
    machine: dict[str, Any] = field(default_factory=dict)
    mixes: dict[str, PlannedMix] = field(default_factory=dict)
    judges: tuple[JudgedText, ...] = ()
    rows: tuple[Row, ...] = ()
    recovered: dict[str, dict[str, WonBack]] = field(default_factory=dict)
    predictions: tuple[Prediction, ...] = ()
    teach: Teaching | None = None
    curves: tuple[Curve, ...] = ()
    task: TaskFacts | None = absent()
    task_sets: tuple[TaskSet, ...] = ()
    layers: dict[str, tuple[LayerError, ...]] = field(default_factory=dict)
    layers_by: str | None = None
    samples: tuple[Sample, ...] = ()
    build: dict[str, Any] = field(default_factory=dict)
    rival: PlannedRival | None = absent()
    provenance: Provenance = field(default_factory=Provenance)
    records: tuple[Record, ...] = ()
    left_out: tuple[str, ...] = ()
    front: Front = field(default_factory=Front)
    recommendation: Recommendation | None = None
    verdict: Verdict = NO_VERDICT

    @property
    def specialised(self) -> bool:
        """Whether the teacher was trained on labelled answers before it taught: its rows are of what that left."""
        return any((curve.stage or "").startswith("specialise") for curve in self.curves)

    @property
    def float_name(self) -> str:
        """What the float model that all is compared with is called."""
        return "float model" if self.student.as_is else "float student"

    @property
    def measured_on(self) -> str:
        """The machine that all was measured on, by name: who reads the report sits at another one."""
        return show_machine(self.machine)

    @property
    def where_measured(self) -> str:
        """The same behind "measured", and whether it is the target."""
        if self.on_target:
            return f"on {self.measured_on}, which is the target"
        return f"on {self.measured_on}, which isn't the target"

    @property
    def judge_names(self) -> list[str]:
        """Names of the texts, the first of which stands for all where there is room for one."""
        return [judge.name for judge in self.judges]

    @property
    def first_judge(self) -> str | None:
        """The first text's name."""
        return self.judges[0].name if self.judges else None
