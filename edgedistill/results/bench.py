"""One packed file measured on its own (schema edgedistill.bench/1): what `bench` prints."""

from dataclasses import dataclass, field
from typing import Any

from edgedistill.results.codec import JsonData, absent
from edgedistill.results.row import NO_DISTANCE, Distance, Quality, Speed

BENCH_SCHEMA = "edgedistill.bench/1"
REFERENCE = "reference"  # the model that the file's logits are compared with


@dataclass(frozen=True)
class FileFigures(JsonData):
    """A file in its runtime.

    Attributes:
        speed: None while it isn't timed.
        quality: by the text's name; None without a text.
        machine: machine.machine_facts().
        front: of several files, whether no other is at least as small, as fast and as near to the reference.
    """

    schema: str
    file: str
    sha256: str
    file_bytes: int
    runtime: str
    runtime_version: str
    machine: dict[str, Any] = field(default_factory=dict)
    speed: Speed | None = None
    quality: dict[str, Quality] | None = None
    front: bool | None = absent()

    @property
    def kl(self) -> float | None:
        """Mean KL to the reference over the texts, in nats per token; None without a reference."""
        kls = [to_reference(quality).kl_mean for quality in (self.quality or {}).values()]
        measured = [kl for kl in kls if kl is not None]
        return sum(measured) / len(measured) if measured else None


def to_reference(quality: Quality) -> Distance:
    """A file's distance to the reference, with nothing in it where there is none."""
    return quality.distances.get(REFERENCE, NO_DISTANCE)
