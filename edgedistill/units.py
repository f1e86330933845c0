"""Quantities as people write them: '8 GiB' -> bytes, '17.1 GB/s', '2048 tokens', '8 tokens/s', '2 s', '400 GFLOP/s'.

A number in a YAML file carries its unit, so that nobody mistakes GB for GiB or milliseconds for seconds; inside the
program it is a plain number in the base unit that its name tells (`memory_bytes`, `ttft_s`).
"""

import re
from decimal import Decimal

_BYTES = {
    "B": 1,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
_FLOPS = {"FLOP": 1, "MFLOP": 10**6, "GFLOP": 10**9, "TFLOP": 10**12}

# Quantity -> unit -> how many of the base unit it is. The first example is what error messages show.
QUANTITIES: dict[str, dict[str, float]] = {
    "size": {**_BYTES},
    "bandwidth": {f"{unit}/s": factor for unit, factor in _BYTES.items()},
    "compute": {f"{unit}/s": factor for unit, factor in _FLOPS.items()},
    "length": {"tokens": 1},
    "rate": {"tokens/s": 1},
    "time": {"s": 1, "ms": 1e-3, "min": 60, "h": 3600},
}
EXAMPLES = {
    "size": "8 GiB",
    "bandwidth": "17.1 GB/s",
    "compute": "400 GFLOP/s",
    "length": "2048 tokens",
    "rate": "8 tokens/s",
    "time": "2 s",
}
_COUNTS = {"": 1, "k": 10**3, "m": 10**6}
_COUNT = re.compile(r"\s*([0-9][0-9_]{0,14}(?:\.[0-9]{1,9})?)\s*([kKmM]?)\s*")
_NUMBER_AND_UNIT = re.compile(r"\s*([0-9][0-9_]*(?:\.[0-9]+)?)\s*([A-Za-z/]+)\s*")


def parse(text: object, quantity: str) -> float:
    """The number in the quantity's base unit: bytes, bytes/s, FLOP/s, tokens, tokens/s or seconds.

    Args:
        text: a number and a unit, such as '8 GiB'.
        quantity: a key of `QUANTITIES`.
    Raises:
        ValueError: no number with one of the quantity's units, or a number that isn't above 0.
    """
    units = QUANTITIES[quantity]
    match = _NUMBER_AND_UNIT.fullmatch(text[:100]) if isinstance(text, str) else None
    if match is None or match[2] not in units:
        raise ValueError(f"it must be a number with a unit ({', '.join(units)}), such as '{EXAMPLES[quantity]}'")
    value = float(match[1].replace("_", "")) * units[match[2]]
    if value <= 0:
        raise ValueError(f"it must be above 0, such as '{EXAMPLES[quantity]}'")
    return value


def parse_count(text: str, least: int = 1) -> int:
    """'400k', '1.5M', '400_000' or '400000' as a whole number: k is a thousand, M a million.

    Args:
        text: the words.
        least: the smallest number allowed, 1 or 0.
    Raises:
        ValueError: it is none of these, or not a whole number, or too small.
    """
    match = _COUNT.fullmatch(text)
    value = Decimal(match[1].replace("_", "")) * _COUNTS[match[2].lower()] if match else Decimal(-1)
    if value < least or value != int(value):
        raise ValueError(
            f"it must be a whole number {'above 0' if least else 'from 0 on'}, such as 400k, 1.5M or 20000"
        )
    return int(value)
