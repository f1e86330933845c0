"""How numbers and foreign text are written for people: one form for one quantity, on the page, in a terminal and in a
model card.

Bytes come in kB, MB and GB (powers of 1000, as file managers show them), durations as "0.21 s", "45 s", "12 min" and
"1 h 20 min", thousands with a narrow space, shares in percent. A number that nobody measured is a dash. Text that came
from a model or a file is hostile until `visible` has been over it.
"""

import math
import re
import textwrap
import unicodedata
from collections.abc import Mapping
from typing import Any

DASH = "–"  # a number that nobody measured
# narrow space, unbreakable, between thousands: a comma or a point means something else in half of the world
THIN = "\u202f"
NATS = "nats per token"
AFTER_NUMBER = re.compile(r"(?<=\d) (?=\S{1,12}(?:\s|$))")  # a space before a unit, or another short word
GLUE = "\u00a0"


def show(value: Any, unit: str = "") -> str:
    """A number as people read it, with as many digits as it deserves and its unit; a dash for None, NaN or infinity.

    Args:
        value: in the unit.
        unit: "bytes", "s", "share" (0 to 1), "count", "perplexity", "nats per token", "bits", "tokens/s" or none.
    """
    if not _is_number(value):
        return DASH
    number = float(value)
    if unit == "bytes":
        return _bytes(number)
    if unit == "share":
        return _share(number)
    if unit == "s":
        return _duration(number)
    if unit == "count":
        return f"{number:,.0f}".replace(",", THIN)
    if unit == "perplexity":
        return _digits(number, 4)
    if unit in (NATS, "bits", ""):
        return _digits(number, 3)
    return f"{_digits(number, 3)} {unit}"


def show_bytes(size: float | None) -> str:
    """'1.50 GB', '380 MB', '12 B'."""
    return show(size, "bytes")


def show_seconds(seconds: float | None) -> str:
    """'0.21 s', '45 s', '12 min', '1 h 20 min', '29 h'."""
    return show(seconds, "s")


def show_count(number: float | None) -> str:
    """'134 515 008', with narrow spaces."""
    return show(number, "count")


def show_machine(facts: Mapping[str, Any]) -> str:
    """'AMD EPYC with 2 cores', of `machine_facts()`: for papers that are read at another machine."""
    cpu, cores = facts.get("cpu"), facts.get("cores")
    if not cpu:
        return "the machine that made the report"
    if not cores:
        return str(cpu)
    return f"{cpu} with {cores} core{'s' if cores != 1 else ''}"


def show_rate(rate: float | None) -> str:
    """'117 tokens/s'."""
    return show(rate, "tokens/s")


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


def one_line(text: Any) -> str:
    """`visible` in one line: a name or a path, which may hold newlines as well."""
    return visible(text, lines=False)


def wrapped(line: str, width: int, hanging: int) -> list[str]:
    """A line as several of at most `width` characters, cut between words, but not between a number and its unit.

    Args:
        hanging: spaces before what goes on, beside those that the line begins with.
    """
    indent = " " * (len(line) - len(line.lstrip()) + hanging)
    together = AFTER_NUMBER.sub(GLUE, line)
    parts = textwrap.wrap(together, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return [part.replace(GLUE, " ") for part in parts] or [""]


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


def _share(number: float) -> str:
    percent = number * 100
    digits = 0 if abs(percent) >= 10 or percent == 0 else 1
    return f"{_minus(f'{percent:.{digits}f}')} %"


def _bytes(number: float) -> str:
    for size, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if abs(number) >= size * 0.9995:
            return f"{_digits(number / size, 3)} {name}"
    return f"{number:.0f} B"


def _duration(seconds: float) -> str:
    """Seconds below 100, whole minutes below an hour, hours and minutes below ten hours, whole hours from there on."""
    if abs(seconds) < 9.95:
        return f"{_digits(seconds, 2)} s"
    if abs(seconds) < 99.5:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    if hours >= 10:
        return f"{seconds / 3600:.0f} h"
    if hours and minutes:
        return f"{hours} h {minutes} min"
    return f"{hours} h" if hours else f"{minutes} min"
