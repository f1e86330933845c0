"""Rotary position settings: which of them a Hugging Face config can hold, and how GGUF says the same.

A config written by transformers 5 has `rope_parameters` {rope_theta, rope_type, ...}, gemma3's one such object for each
kind of layer; an older one has `rope_theta` and `rope_scaling`. Supported, each where llama.cpp and transformers
compute the same: no scaling, "linear" (positions divided by a factor), "llama3" (low frequencies divided), "yarn" with
its usual constants, and phi3's "longrope" up to the length that the model was first trained for: beyond it transformers
changes to the long factors by the length of the text, llama.cpp by the length of the context.
llama.cpp takes llama3's and longrope's as tensors of factors, one for each rotated pair of a head.
"""

import math
from dataclasses import dataclass
from typing import Any

from edgedistill.errors import InputError
from edgedistill.facts import ModelShape
from edgedistill.families import FAMILIES, Family
from edgedistill.reading import shown

DEFAULT_THETA = 10000.0
LEAST, MOST = 1e-9, 1e15  # of any rotary setting; the largest base that is published is 1e11
FULL, SLIDING = "full_attention", "sliding_attention"
LLAMA3_KEYS = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
LONG, SHORT = "long_factor", "short_factor"
ORIGINAL = "original_max_position_embeddings"
STATED_KEY = "edgedistill.rope_scaling"  # JSON: the scaling behind a file's factors, as we export it
OLD_NAMES = {"su": "longrope"}
# What llama.cpp takes for yarn and a file can't change: transformers' defaults.
YARN_FIXED: dict[str, tuple[Any, ...]] = {
    "beta_fast": (None, 32),
    "beta_slow": (None, 1),
    "mscale": (None,),
    "mscale_all_dim": (None,),
    "truncate": (None, True),
}
# What Llama 3.1 and Llama 3.2 use: a GGUF file holds only the factors that come out.
KNOWN_LLAMA3 = tuple(
    {"rope_type": "llama3", "factor": f, "low_freq_factor": 1.0, "high_freq_factor": 4.0, ORIGINAL: 8192}
    for f in (8.0, 32.0)
)

Scaling = dict[str, Any]


@dataclass(frozen=True)
class Rotary:
    """The rotary part of a ModelShape, and the tokens up to which it holds (None: as many as the model reads)."""

    theta: float
    scaling: Scaling | None
    local_theta: float | None
    rotary_dim: int | None
    most_tokens: int | None


def from_config(where: object, config: dict[str, Any], family: Family = FAMILIES["llama"], head_dim: int = 0) -> Rotary:
    """The rotary settings of a Hugging Face config.

    Args:
        head_dim: the size of a head; phi3's part of it that is rotated, and its factors, go by it.
    Raises:
        InputError: the kind of scaling isn't supported, or its numbers are missing or wrong.
    """
    parameters, old = config.get("rope_parameters") or {}, config.get("rope_scaling") or {}
    for key, value in (("rope_parameters", parameters), ("rope_scaling", old)):
        if not isinstance(value, dict):
            raise InputError(f"{where}: {key} is {shown(value)}; it must be an object with rope_theta and rope_type")
    local = None
    if family.windows:
        parameters, local = _by_layer(where, config, family, parameters)
    scaling = {**old, **parameters}
    if FULL in scaling or SLIDING in scaling:
        raise InputError(f"{where}: rope_parameters differ by layer, which isn't supported for {family.name}")
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    kind = OLD_NAMES.get(str(kind), kind)
    if kind not in family.rope:
        raise InputError(
            f"{where}: rope scaling {shown(kind)} isn't supported for {family.name}; it must be one of "
            f"{', '.join(family.rope)}"
        )
    share = scaling.get("partial_rotary_factor", config.get("partial_rotary_factor"))
    share = 1.0 if share is None else _positive(where, "partial_rotary_factor", share)
    if share != 1 and not family.fused or share > 1:
        raise InputError(f"{where}: partial_rotary_factor is {share}; it must be 1: {family.name} rotates whole heads")
    rotary_dim = int(head_dim * share)
    theta = scaling.get("rope_theta") or config.get("rope_theta") or family.defaults.get("rope_theta", DEFAULT_THETA)
    checked, most_tokens = _scaling(where, config, family, kind, scaling, rotary_dim)
    part = rotary_dim if rotary_dim != head_dim else None
    return Rotary(_positive(where, "rope_theta", theta), checked, local, part, most_tokens)


def _by_layer(
    where: object, config: dict[str, Any], family: Family, parameters: dict[str, Any]
) -> tuple[dict[str, Any], float]:
    """(the settings of layers that see all keys, the base of windowed layers): gemma3's."""
    full, sliding = parameters.get(FULL) or {}, parameters.get(SLIDING) or {}
    if set(parameters) - {FULL, SLIDING} or not isinstance(full, dict) or not isinstance(sliding, dict):
        raise InputError(
            f"{where}: rope_parameters is {str(parameters)[:80]}; {family.name}'s must have objects {FULL} "
            f"and {SLIDING}"
        )
    if (kind := sliding.get("rope_type") or "default") != "default":
        raise InputError(
            f"{where}: rope scaling {kind!r} of windowed layers isn't supported for {family.name}; it must be 'default'"
        )
    local = sliding.get("rope_theta") or config.get("rope_local_base_freq") or family.defaults["rope_local_base_freq"]
    return full, _positive(where, "rope_local_base_freq", local)


def _scaling(
    where: object, config: dict[str, Any], family: Family, kind: str, scaling: dict[str, Any], rotary_dim: int
) -> tuple[Scaling | None, int | None]:
    """(scaling as a ModelShape holds it, the tokens up to which it holds)."""
    if kind == "default":
        return None, None
    if kind == "llama3":
        return {"rope_type": kind, **{key: _positive(where, key, scaling.get(key)) for key in LLAMA3_KEYS}}, None
    if kind == "linear":
        return {"rope_type": kind, "factor": _positive(where, "factor", scaling.get("factor"))}, None
    context = config.get("max_position_embeddings", family.defaults["max_position_embeddings"])
    # transformers' order: the config's own figure first.
    original = config.get(ORIGINAL, family.defaults.get(ORIGINAL)) or scaling.get(ORIGINAL) or context
    original = int(_positive(where, ORIGINAL, original))
    if kind == "yarn":
        factor = _positive(where, "factor", scaling.get("factor"))
        usual = 0.1 * math.log(factor) + 1 if factor > 1 else 1.0
        odd = [key for key, allowed in YARN_FIXED.items() if scaling.get(key) not in allowed]
        stated = _positive(where, "attention_factor", scaling.get("attention_factor") or usual)
        if factor < 1:
            odd.append("factor")
        if not math.isclose(stated, usual, rel_tol=1e-5):
            odd.append("attention_factor")
        if odd:
            raise InputError(
                f"{where}: yarn's {odd[0]} is {scaling[odd[0]]!r}; llama.cpp has only yarn's usual constants and "
                "factors above 1"
            )
        return {"rope_type": kind, "factor": factor, ORIGINAL: original}, None
    factors = {key: _factors(where, key, scaling.get(key), rotary_dim // 2) for key in (SHORT, LONG)}
    attention = scaling.get("attention_factor")
    if attention is None:
        stretch = scaling.get("factor") or _positive(where, "max_position_embeddings", context) / original
        attention = math.sqrt(1 + math.log(stretch) / math.log(original)) if stretch > 1 < original else 1.0
    attention = _positive(where, "attention_factor", attention)
    return {"rope_type": kind, **factors, ORIGINAL: original, "attention_factor": attention}, original


def _factors(where: object, key: str, values: Any, count: int) -> list[float]:
    if not isinstance(values, list) or len(values) != count:
        trouble = f"has {len(values)} numbers" if isinstance(values, list) else f"is {shown(values)}"
        raise InputError(
            f"{where}: {key} {trouble}; longrope must have one for each of the {count} rotated pairs of a head"
        )
    return [_positive(where, key, value) for value in values]


def to_config(theta: float, scaling: Scaling | None) -> dict[str, Any]:
    """transformers 5's `rope_parameters` of layers that are all alike."""
    return {"rope_theta": theta, **(scaling or {"rope_type": "default"})}


def rope_parameters(shape: ModelShape) -> dict[str, Any]:
    """transformers 5's `rope_parameters` of a shape."""
    plain = to_config(shape.rope_theta, shape.rope_scaling)
    if FAMILIES[shape.family].windows:
        return {FULL: plain, SLIDING: {"rope_theta": shape.local_rope_theta, "rope_type": "default"}}
    if FAMILIES[shape.family].fused:
        plain["partial_rotary_factor"] = (shape.rotary_dim or shape.head_dim) / shape.head_dim
    return plain


def old_config(shape: ModelShape) -> dict[str, Any]:
    """The keys by which transformers 4 and most other readers know the rotary settings of a shape."""
    old: dict[str, Any] = {"rope_theta": shape.rope_theta, "rope_scaling": shape.rope_scaling}
    if shape.local_rope_theta is not None:
        old["rope_local_base_freq"] = shape.local_rope_theta
    if FAMILIES[shape.family].fused:
        old["partial_rotary_factor"] = (shape.rotary_dim or shape.head_dim) / shape.head_dim
    return old


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


def scaling_of_factors(
    theta: float, head_dim: int, factors: list[float], stated: Scaling | None = None
) -> Scaling | None:
    """The llama3 scaling with these factors, of the stated one and the published ones; None where none has them."""
    for scaling in (stated, *KNOWN_LLAMA3) if stated else KNOWN_LLAMA3:
        expected = llama3_factors(theta, head_dim, scaling)
        if len(expected) == len(factors) and all(
            math.isclose(a, b, rel_tol=1e-4) for a, b in zip(expected, factors, strict=True)
        ):
            return scaling
    return None


def _positive(where: object, key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not LEAST < value < MOST:
        raise InputError(f"{where}: {key} is {shown(value)}; it must be a number above 0 and below {MOST:g}")
    return int(value) if key == ORIGINAL else float(value)
