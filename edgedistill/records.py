"""One measurement with all that makes it believable, and how its number and its words are written.

A number without a record isn't shown. Units are spelled out: bytes, s, tokens/s, nats per token, share (0 to 1),
perplexity, bits. Text that came from a model or a file is hostile until `visible` has been over it.
"""

import math
import re
import unicodedata
from dataclasses import asdict, dataclass, fields
from typing import Any

from edgedistill.errors import RunError

DASH = "–"  # a number that nobody measured
# narrow space, unbreakable, between thousands: a comma or a point means something else in half of the world
THIN = "\u202f"
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
            found = getattr(self, name)
            if not isinstance(found, str) or not found.strip():
                raise RunError(f"record of {self.what!r}: {name} is {found!r}; it must be a text that is not empty.")
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

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, found: Any) -> "Record":
        """The record that `to_dict` wrote.

        Raises:
            RunError: it is no object, a key is unknown or missing, or a value is impossible.
        """
        if not isinstance(found, dict):
            raise RunError(
                f"a record is {type(found).__name__}; it must be an object with "
                f"{', '.join(f.name for f in fields(cls))}."
            )
        known = [f.name for f in fields(cls)]
        optional = ("trials", "spread", "text")
        if unknown := [str(key) for key in found if key not in known]:
            raise RunError(f"record of {found.get('what')!r} holds '{unknown[0]}'; its keys are {', '.join(known)}.")
        if missing := [key for key in known if key not in found and key not in optional]:
            raise RunError(
                f"record of {found.get('what')!r} lacks '{missing[0]}'; only {', '.join(optional)} may be left out."
            )
        return cls(**found)


def show(value: Any, unit: str = "") -> str:
    """A number as people read it, with as many digits as it deserves and its unit; a dash for None, NaN or infinity.

    Bytes come in kB, MB and GB (powers of 1000); shares in percent; seconds from 100 up in minutes and hours.
    """
    if not _is_number(value):
        return DASH
    number = float(value)
    if unit == "bytes":
        return _show_bytes(number)
    if unit == "share":
        percent = number * 100
        return f"{_minus(f'{percent:.0f}' if abs(percent) >= 10 or percent == 0 else f'{percent:.1f}')} %"
    if unit == "s":
        return _show_seconds(number)
    if unit == "count":
        return f"{number:,.0f}".replace(",", THIN)
    if unit == "perplexity":
        return _digits(number, 4)
    if unit in ("nats per token", "bits", ""):
        return _digits(number, 3)
    return f"{_digits(number, 3)} {unit}"


def show_spread(mean: Any, spread: Any) -> str:
    """'117 ± 2': the mean as `show` writes it and the spread with the same number of decimals; no ± without a
    spread.
    """
    shown = show(mean)
    if not _is_number(mean) or not _is_number(spread) or not spread:
        return shown
    decimals = len(shown.partition(".")[2])
    return f"{shown} ± {spread:.{decimals}f}"


def visible(text: Any, lines: bool = True) -> str:
    """Hostile text with nothing left that acts: control, escape and direction characters become symbols.

    ESC turns into ␛, a right-to-left override into ⟨U+202E⟩, a lone surrogate into �. Tabs become spaces;
    newlines stay if `lines`, else they become spaces.
    """
    out = []
    for char in str(text).replace("\r\n", "\n"):
        code = ord(char)
        if char == "\n":
            out.append("\n" if lines else " ")
        elif char == "\t":
            out.append("    " if lines else " ")
        elif code < 0x20:
            out.append(chr(0x2400 + code))  # the Control Pictures block
        elif code == 0x7F:
            out.append("␡")
        elif 0xD800 <= code <= 0xDFFF:
            out.append("\ufffd")
        elif code != 0x200D and unicodedata.category(char) in (
            "Cc",
            "Cf",
            "Zl",
            "Zp",
        ):  # keep the joiner: emoji need it
            out.append(f"⟨U+{code:04X}⟩")
        else:
            out.append(char)
    return "".join(out)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _minus(text: str) -> str:
    return text.replace("-", "−")


def _digits(number: float, significant: int) -> str:
    """The number rounded to so many significant digits, never in exponents; below 0.0001 it says so."""
    if number == 0:
        return "0"
    if abs(number) < 1e-4:
        return "<0.0001" if number > 0 else "−<0.0001"
    number = float(f"{number:.{significant - 1}e}")  # round first: 99.97 has three digits before the point
    whole = math.floor(math.log10(abs(number))) + 1
    text = f"{number:.{max(0, min(4, significant - whole))}f}"
    if whole > significant:
        text = f"{number:,.0f}".replace(",", THIN)
    return _minus(text)


def _show_bytes(number: float) -> str:
    for size, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if abs(number) >= size * 0.9995:
            return f"{_digits(number / size, 3)} {name}"
    return f"{number:.0f} B"


def _show_seconds(number: float) -> str:
    if abs(number) < 100:
        return f"{_digits(number, 2 if abs(number) < 10 else 3)} s"
    minutes, seconds = divmod(round(number), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"
