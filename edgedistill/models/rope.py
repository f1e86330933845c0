"""Rotary position settings: which of them a Hugging Face config can hold, and how GGUF says the same.

A config written by transformers 5 has `rope_parameters` {rope_theta, rope_type, ...}; an older one has `rope_theta` and
`rope_scaling`. Supported are no scaling, "linear" (positions divided by a factor) and "llama3" (low frequencies divided).
llama.cpp takes llama3's as a tensor of factors, one for each pair of a head.
"""

import math
from typing import Any

from edgedistill.errors import InputError

DEFAULT_THETA = 10000.0
LLAMA3_KEYS = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
STATED_KEY = "edgedistill.rope_scaling"  # JSON: the scaling behind a file's factors, as we export it
SUPPORTED = ("default", "linear", "llama3")
# What Llama 3.1 and Llama 3.2 use: a GGUF file holds only the factors that come out.
KNOWN_LLAMA3 = tuple(
    {"rope_type": "llama3", "factor": f, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    for f in (8.0, 32.0)
)

Scaling = dict[str, Any]


def from_config(where: object, config: dict[str, Any]) -> tuple[float, Scaling | None]:
    """(theta, scaling or None) of a Hugging Face config.

    Raises:
        InputError: the kind of scaling isn't supported, or its numbers are missing or wrong.
    """
    parameters = config.get("rope_parameters") or {}
    scaling = {**(config.get("rope_scaling") or {}), **parameters} if isinstance(parameters, dict) else None
    if not isinstance(scaling, dict):
        raise InputError(f"{where}: rope_parameters is {parameters!r}; it must be an object with rope_theta and rope_type")
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    if kind not in SUPPORTED:
        raise InputError(f"{where}: rope scaling {kind!r} isn't supported; it must be one of {', '.join(SUPPORTED)}")
    if config.get("partial_rotary_factor", scaling.get("partial_rotary_factor", 1.0)) not in (None, 1, 1.0):
        raise InputError(f"{where}: partial_rotary_factor must be 1: llama rotates whole heads")
    theta = _positive(where, "rope_theta", scaling.get("rope_theta") or config.get("rope_theta") or DEFAULT_THETA)
    if kind == "default":
        return theta, None
    keys = LLAMA3_KEYS if kind == "llama3" else ("factor",)
    return theta, {"rope_type": kind, **{key: _positive(where, key, scaling.get(key)) for key in keys}}


def to_config(theta: float, scaling: Scaling | None) -> dict[str, Any]:
    """transformers 5's `rope_parameters`."""
    return {"rope_theta": theta, **(scaling or {"rope_type": "default"})}


def llama3_factors(theta: float, head_dim: int, scaling: Scaling) -> list[float]:
    """What each of the head_dim / 2 frequencies is divided by (llama.cpp's rope_freqs tensor).

    Source: Llama 3.1's apply_scaling; transformers' _compute_llama3_parameters; LlamaModel in llama.cpp's converter.
    """
    factor, low, high, context = (float(scaling[key]) for key in LLAMA3_KEYS)
    factors = []
    for index in range(0, head_dim, 2):
        wavelength = 2 * math.pi * theta ** (index / head_dim)
        if wavelength < context / high:
            factors.append(1.0)
        elif wavelength > context / low:
            factors.append(factor)
        else:
            smooth = (context / wavelength - low) / (high - low)
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return factors


def scaling_of_factors(theta: float, head_dim: int, factors: list[float], stated: Scaling | None = None) -> Scaling | None:
    """The llama3 scaling that gives these factors, of the one that the file states and the known ones; None where none does."""
    for scaling in (stated, *KNOWN_LLAMA3) if stated else KNOWN_LLAMA3:
        expected = llama3_factors(theta, head_dim, scaling)
        if len(expected) == len(factors) and all(math.isclose(a, b, rel_tol=1e-4) for a, b in zip(expected, factors, strict=True)):
            return scaling
    return None


def _positive(where: object, key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        raise InputError(f"{where}: {key} is {value!r}; it must be a number above 0")
    return int(value) if key == "original_max_position_embeddings" else float(value)
