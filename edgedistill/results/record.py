"""One measurement with all that makes it believable. A number without a record isn't shown.

Units are spelled out: bytes, s, tokens/s, nats per token, share (0 to 1), perplexity, bits.
"""

import math
import re
from dataclasses import asdict, dataclass, fields
from typing import Any

from edgedistill.errors import RunError

SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Record:
    """One measured value, of one file, in one runtime, on one machine.

    Args:
        what: the quantity, such as "decode" or "kl_student_mean".
        value: its mean over the trials, in `unit`.
        trials: how often it was measured, or 1 for a mean over one text.
        spread: standard deviation over the trials, in `unit`; None for a single trial.
        artifact: label of the measured file's row, such as "q4_0 recovered, llama.cpp".
        file_sha256: SHA-256 of that file, in small hex letters.
        machine: what it ran on, as edgedistill.machine describes it.
        command: the command line that repeats it.
        text: name of the text it was judged on, None for speed and memory.
    Raises:
        RunError: a field is missing its value or holds an impossible one.
    """

    what: str
    value: float
    unit: str
    artifact: str
    file_sha256: str
    runtime: str
    machine: dict[str, Any]
    command: str
    trials: int = 1
    spread: float | None = None
    text: str | None = None

    def __post_init__(self) -> None:
        for name in ("what", "unit", "artifact", "runtime", "command"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value.strip():
                raise RunError(f"record of {self.what!r}: {name} is {value!r}; it must be a text that is not empty.")
        if not _is_number(self.value):
            raise RunError(
                f"record of {self.what!r} for {self.artifact!r}: value is {self.value!r}; it must be a finite number."
            )
        if not isinstance(self.file_sha256, str) or not SHA256.fullmatch(self.file_sha256):
            raise RunError(
                f"record of {self.what!r} for {self.artifact!r}: file_sha256 is {self.file_sha256!r}; it must "
                "be 64 hex digits."
            )
        if not isinstance(self.trials, int) or isinstance(self.trials, bool) or self.trials < 1:
            raise RunError(
                f"record of {self.what!r} for {self.artifact!r}: trials is {self.trials!r}; it must be 1 or more."
            )
        if self.spread is not None and (not _is_number(self.spread) or self.spread < 0):
            raise RunError(
                f"record of {self.what!r} for {self.artifact!r}: spread is {self.spread!r}; it must be null "
                "or 0 or more."
            )
        if not isinstance(self.machine, dict):
            raise RunError(
                f"record of {self.what!r} for {self.artifact!r}: machine is {self.machine!r}; it must be an object."
            )
        if self.text is not None and not isinstance(self.text, str):
            raise RunError(
                f"record of {self.what!r} for {self.artifact!r}: text is {self.text!r}; it must be null or a name."
            )

    def to_json(self) -> dict[str, Any]:
        """The record as JSON types."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Any, where: str = "") -> "Record":
        """The record that `to_json` wrote.

        Raises:
            RunError: it is no object, a key is unknown or missing, or a value is impossible.
        """
        if not isinstance(data, dict):
            raise RunError(
                f"a record is {type(data).__name__}; it must be an object with "
                f"{', '.join(f.name for f in fields(cls))}."
            )
        names = [f.name for f in fields(cls)]
        optional = ("trials", "spread", "text")
        if others := [str(key) for key in data if key not in names]:
            raise RunError(f"record of {data.get('what')!r} holds '{others[0]}'; its keys are {', '.join(names)}.")
        if missing := [key for key in names if key not in data and key not in optional]:
            raise RunError(
                f"record of {data.get('what')!r} lacks '{missing[0]}'; only {', '.join(optional)} may be left out."
            )
        return cls(**data)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
