"""A packed file to measure, and what was measured of it: quality by text, speed, tasks, refusals, worst tokens."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgedistill.errors import RunError
from edgedistill.results.codec import JsonData, absent
from edgedistill.results.share import Difference, TaskShare
from edgedistill.results.task import TaskScore

KINDS = ("teacher", "rival", "float", "rounded", "recovered")
RIVAL = "rival"  # the teacher on grids in the bytes of a student's file: what distilling must beat
FLOAT = "student"  # the reference whose model the files were rounded from
LLAMA_CPP, ONNXRUNTIME = "llama.cpp", "onnxruntime"


@dataclass(frozen=True)
class Artifact:
    """A packed file to measure.

    Attributes:
        label: its row's name, unique.
        kind: one of KINDS.
        mix: the mix's name, None for a float model.
        runtime: "llama.cpp" or "onnxruntime".
        path: the .gguf file, or the ONNX folder.
        file: how the report calls it.
        file_bytes: its size: of the .gguf, or of the model file(s) in the folder.
        sha256: of its bytes.
    """

    label: str
    kind: str
    mix: str | None
    runtime: str
    path: Path
    file: str
    file_bytes: int
    sha256: str


@dataclass(frozen=True)
class Distance(JsonData):
    """How far a file is from a float model on a text: KL(model ‖ file) in nats per token, and the share of tokens at
    which both hold the same word likeliest.
    """

    kl_mean: float | None = None
    kl_p99: float | None = None
    top1: float | None = None


NO_DISTANCE = Distance()


@dataclass(frozen=True)
class Quality(JsonData):
    """A judge's figures of one file: tokens judged, perplexity, and the distance to each float model by its name.

    In JSON it is flat: tokens, ppl, and for each model NAME kl_NAME_mean, kl_NAME_p99 and top1_NAME.
    """

    tokens: int | None = None
    ppl: float | None = None
    distances: dict[str, Distance] = field(default_factory=dict)

    @property
    def student(self) -> Distance:
        """To the float model that the file was rounded from."""
        return self.distances.get(FLOAT, NO_DISTANCE)

    @property
    def teacher(self) -> Distance:
        """To the teacher."""
        return self.distances.get("teacher", NO_DISTANCE)

    def to_json(self) -> dict[str, Any]:
        """Itself as JSON types."""
        out: dict[str, Any] = {"tokens": self.tokens, "ppl": self.ppl}
        for name, distance in self.distances.items():
            out[f"kl_{name}_mean"] = distance.kl_mean
            out[f"kl_{name}_p99"] = distance.kl_p99
            out[f"top1_{name}"] = distance.top1
        return out

    @classmethod
    def from_json(cls, data: Any, where: str = "") -> "Quality":
        """What `to_json` gave; as `JsonData.from_json`."""
        if not isinstance(data, Mapping):
            raise RunError(f"{where or 'quality'} is {type(data).__name__}; it must be an object.")
        figures: dict[str, dict[str, Any]] = {}
        flat: dict[str, Any] = {}
        for key, value in data.items():
            if key.startswith("kl_") and key.endswith(("_mean", "_p99")):
                name, _, figure = key.removeprefix("kl_").rpartition("_")
                figures.setdefault(name, {})[f"kl_{figure}"] = value
            elif key.startswith("top1_"):
                figures.setdefault(key.removeprefix("top1_"), {})["top1"] = value
            else:
                flat[key] = value
        quality: Quality = super().from_json(flat | {"distances": figures}, where)
        return quality


NO_QUALITY = Quality()


@dataclass(frozen=True)
class Timing(JsonData):
    """A speed over some trials, in tokens/s; `std` is their standard deviation, None for a single trial."""

    mean: float | None = None
    median: float | None = absent()
    std: float | None = None
    trials: tuple[float, ...] = ()


NO_TIMING = Timing()


@dataclass(frozen=True)
class Speed(JsonData):
    """A file in its runtime: speeds, seconds to load, peak memory of the process, and under which conditions."""

    prefill_tokens_per_s: Timing | None = None
    decode_tokens_per_s: Timing | None = None
    load_s: float | None = None
    peak_rss_bytes: int | None = None
    threads: int | None = None
    load_average: float | None = None
    busy: bool | None = None  # whether another program had the cores

    @property
    def decode(self) -> Timing:
        """Of writing, with nothing in it where nobody measured it."""
        return self.decode_tokens_per_s or NO_TIMING

    @property
    def prefill(self) -> Timing:
        """Of reading, likewise."""
        return self.prefill_tokens_per_s or NO_TIMING


NO_SPEED = Speed()


@dataclass(frozen=True)
class WorstToken(JsonData):
    """A place at which a file is far from its float model.

    Attributes:
        judge: the text's name.
        before: the text that leads to the place.
        expected, got: what the float model and the file hold likeliest there.
        p_expected, p_file: the probability of `expected` by the float model and by the file.
        kl: nats.
    """

    judge: str
    before: str
    expected: str
    got: str
    p_expected: float
    p_file: float
    kl: float


@dataclass(frozen=True)
class Row(JsonData):
    """One file with all that was measured of it: quality by judge; the user's task; questions, refusals and differences
    by name.

    `differences` are from the float model, `over_rival` from the rival's file.
    """

    label: str
    kind: str
    mix: str | None
    runtime: str | None
    file: str | None = None
    sha256: str | None = None
    file_bytes: int | None = None
    bits_per_weight: float | None = absent()
    quality: dict[str, Quality | None] = field(default_factory=dict)
    speed: Speed = field(default_factory=Speed)
    task: TaskScore | None = absent()
    tasks: dict[str, TaskShare] = absent({})
    refusals: dict[str, TaskShare] = absent({})
    worst: tuple[WorstToken, ...] = absent(())
    differences: dict[str, Difference] = absent({})
    over_rival: dict[str, Difference] = absent({})

    def __post_init__(self) -> None:
        if not self.label:
            raise RunError("a row has no label; each must name its artifact.")
        if self.kind not in KINDS:
            raise RunError(f"row '{self.label}' is of kind {self.kind!r}; it must be one of {', '.join(KINDS)}.")

    def on(self, judge: str | None) -> Quality:
        """Its quality on a judge, with nothing in it where nobody measured it."""
        return self.quality.get(judge or "") or NO_QUALITY

    @property
    def packed(self) -> bool:
        """Whether it is a file on a mix's grid, not one that these are compared with."""
        return bool(self.mix) and self.kind in ("rounded", "recovered")

    def is_twin(self, other: "Row") -> bool:
        """Whether both have the same tensors on the same grids, in the same runtime."""
        if self.mix is None:
            return self is other
        return (self.mix, self.runtime) == (other.mix, other.runtime)
