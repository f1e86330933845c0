"""Losses by the names that recipes give them, for whatever is known of the teacher."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from edgedistill.errors import InputError, did_you_mean
from edgedistill.losses.cross_entropy import CrossEntropy
from edgedistill.losses.exact import ExactLoss
from edgedistill.losses.forward_kl import forward_kl
from edgedistill.losses.grouped import GroupedLoss
from edgedistill.losses.head import HeadLoss
from edgedistill.losses.jsd import jsd
from edgedistill.losses.renormalized import RenormalizedLoss
from edgedistill.losses.reverse_kl import reverse_kl
from edgedistill.losses.skew_kl import skew_kl
from edgedistill.losses.skew_reverse_kl import skew_reverse_kl
from edgedistill.losses.teachers import Teacher, TopKTeacher, WrittenText
from edgedistill.losses.tvd import tvd

CROSS_ENTROPY = "cross_entropy"
# Each with the defaults of its own settings, all of which lie between 0 and 1.
DIVERGENCES: dict[str, tuple[Callable[..., tuple[Tensor, Tensor]], dict[str, float]]] = {
    "forward_kl": (forward_kl, {}),
    "reverse_kl": (reverse_kl, {}),
    "jsd": (jsd, {"beta": 0.5}),
    "skew_kl": (skew_kl, {"alpha": 0.1}),
    "skew_reverse_kl": (skew_reverse_kl, {"alpha": 0.1}),
    "tvd": (tvd, {}),
}
LOSSES = (*DIVERGENCES, CROSS_ENTROPY)
# What a setting of exactly 0 or 1 would be.
AT_THE_END: dict[tuple[str, float], str] = {
    ("jsd", 0): "forward_kl",
    ("jsd", 1): "reverse_kl",
    ("skew_kl", 0): "forward_kl",
    ("skew_reverse_kl", 0): "reverse_kl",
}


def make_loss(name: str, teacher: Teacher, renormalized: bool = False, **settings: float) -> HeadLoss:
    """The loss of that name against a teacher of N tokens.

    Args:
        name: one of `LOSSES`.
        teacher: `WrittenText` for cross_entropy, any other for the divergences.
        renormalized: of a teacher of whom only the likeliest words are known, compare these alone, both sides made to
            sum up to 1; else all others count as one outcome. Changes nothing for other teachers.
        settings: `beta` of jsd (0.5), `alpha` of the skew losses (0.1), and of every divergence `temperature` (1.0).
    Raises:
        InputError: no such loss, a setting that the loss doesn't have or of a value that it can't take, or a teacher
            that can't be compared in this way.
    """
    if name not in LOSSES:
        raise InputError(f"the loss is '{name}'; it must be one of {', '.join(LOSSES)}.{did_you_mean(name, LOSSES)}")
    divergence, defaults = DIVERGENCES.get(name, (None, {}))
    allowed = [] if divergence is None else [*defaults, "temperature"]
    for setting, value in settings.items():
        if setting not in allowed:
            raise InputError(f"loss {name} has no setting '{setting}'; it has {' and '.join(allowed) or 'none'}.")
        if setting == "temperature" and not 0 < value < float("inf"):
            raise InputError(f"loss {name}: temperature is {value}; it must be above 0.")
        if setting != "temperature" and not 0 < value < 1:
            instead = f" Use {AT_THE_END[name, value]} instead." if (name, value) in AT_THE_END else ""
            raise InputError(f"loss {name}: {setting} is {value}; it must be above 0 and below 1.{instead}")
    if isinstance(teacher, WrittenText) != (divergence is None):
        needs = "the written text" if divergence is None else "a teacher's probabilities"
        raise InputError(f"loss {name} compares with {needs}, and was given a {type(teacher).__name__}.")
    if isinstance(teacher, WrittenText):
        return CrossEntropy(teacher.labels)
    assert divergence is not None
    temperature = settings.pop("temperature", 1.0)
    chosen: Any = partial(divergence, **{**defaults, **settings}) if defaults else divergence
    if not isinstance(teacher, TopKTeacher):
        return ExactLoss(chosen, teacher, temperature)
    if renormalized:
        return RenormalizedLoss(chosen, teacher, temperature)
    if temperature != 1.0:
        raise InputError(
            f"loss {name}: temperature is {temperature}; it must be 1.0 for a teacher of whom only the "
            "likeliest words are known, since how a temperature would spread the others is not. "
            "Compare these words alone instead: outcomes: renormalized."
        )
    return GroupedLoss(chosen, teacher)
