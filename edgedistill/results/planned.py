"""What a plan says that a report repeats: teacher, student, target, and what each mix would be on the device."""

from dataclasses import dataclass, field
from typing import Any

from edgedistill.results.codec import JsonData, absent


@dataclass(frozen=True)
class TeacherFacts(JsonData):
    """The model that all began with."""

    name: str | None = None
    source: str | None = None
    license: str | None = absent()
    parameters: int | None = None
    layers: int | None = None
    quantized: str | None = None  # the format that most of its weights came in, None for a float model
    more: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StartFacts(JsonData):
    """The model that a student started from, where that isn't the teacher; `same_words`: its ids mean what the
    teacher's mean.
    """

    kind: str
    name: str
    source: str
    license: str | None = None
    same_words: bool = True


@dataclass(frozen=True)
class StudentFacts(JsonData):
    """The model that is packed; `as_is`: it is the teacher itself; `cut`: what it has less of than the teacher, in
    words.
    """

    parameters: int | None = None
    layers: int | None = None
    as_is: bool = False
    start: StartFacts | None = absent()
    cut: str | None = absent()
    more: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Limits(JsonData):
    """What a target allows: tokens of context, bytes of a file, seconds to the first token, tokens/s at least."""

    context: int | None = None
    file: int | None = None
    ttft: float | None = None
    decode: float | None = None


@dataclass(frozen=True)
class TargetFacts(JsonData):
    """The device."""

    name: str | None = None
    title: str | None = None
    connection: str | None = absent()
    usable_memory_bytes: int | None = None
    context_tokens: int | None = None
    limits: Limits | None = None
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def words(self) -> str:
        """What it is called in a sentence."""
        return self.title or self.name or "the target"


@dataclass(frozen=True)
class PlannedMix(JsonData):
    """What one mix would be on the device; None where the plan has no figure."""

    fits: bool | None = None
    why: str | None = None
    file_bytes: int | None = None
    weight_bytes: int | None = None
    kv_bytes: int | None = None
    ram_bytes: int | None = None
    predicted_decode_tokens_per_s: float | None = None
    predicted_decode_full_context_tokens_per_s: float | None = None
    predicted_prefill_tokens_per_s: float | None = None
    predicted_ttft_s: float | None = None
    more: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PlannedRival(JsonData):
    """The teacher in the bytes of the student's file: the mix whose file it is compared with, the name of its row, by
    how many bytes it had to be larger, and what it would be on the device.
    """

    mix: str
    label: str
    excess_bytes: int = 0
    planned: PlannedMix = field(default_factory=PlannedMix)
    more: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PlanFacts(JsonData):
    """What a report takes of a plan's JSON (schema edgedistill.plan/1)."""

    teacher: TeacherFacts = field(default_factory=TeacherFacts)
    student: StudentFacts = field(default_factory=StudentFacts)
    target: TargetFacts = field(default_factory=TargetFacts)
    mixes: dict[str, PlannedMix] = field(default_factory=dict)
    build: dict[str, Any] = field(default_factory=dict)
    rival: PlannedRival | None = None
    more: dict[str, Any] = field(default_factory=dict)
