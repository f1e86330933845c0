"""Mixes: which tensor gets which number format. Decided in the plan, before training, and trained on.

It stands outside quant/ because the planner, which must not load torch, decides by it too.
"""

from edgedistill.mixes.assign import (
    MIXES,
    QUANTIZED_MIXES,
    Fallback,
    assign_formats,
    fallbacks,
    format_bytes,
    mix_bytes,
    size_bytes,
    storable,
)
from edgedistill.mixes.choices import Group, fit_groups, flat_bytes, groups_of, least_bytes, measured_once
from edgedistill.mixes.definition import CANDIDATES, NAME, SENSITIVITY_TOKENS, Layers, Mix, Rule, Size, layer_of

__all__ = [
    "CANDIDATES",
    "MIXES",
    "NAME",
    "QUANTIZED_MIXES",
    "SENSITIVITY_TOKENS",
    "Fallback",
    "Group",
    "Layers",
    "Mix",
    "Rule",
    "Size",
    "assign_formats",
    "fallbacks",
    "fit_groups",
    "flat_bytes",
    "format_bytes",
    "groups_of",
    "layer_of",
    "least_bytes",
    "measured_once",
    "mix_bytes",
    "size_bytes",
    "storable",
]
