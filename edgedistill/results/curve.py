"""A training's curve (curve.json, schema edgedistill.curve/1). KLs and losses are nats per token."""

from dataclasses import dataclass, field
from typing import Any

from edgedistill.results.codec import JsonData, absent


@dataclass(frozen=True)
class CurvePoint(JsonData):
    """The loss of one step."""

    step: int | None = None
    tokens: int | None = None
    loss: float | None = None
    more: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Validation(JsonData):
    """The KL on validation text after a step; `step` is missing for a level that no step of the training had."""

    step: int | None = absent()
    tokens: int | None = absent()
    kl: float | None = None
    more: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Curve(JsonData):
    """One training.

    Attributes:
        stage: what was trained, such as "recover q4_0".
        points: the training loss.
        validation: the KL on validation text.
        start: where validation began.
        rounded: plain rounding's KL, where that is the level to beat.
        best: the checkpoint that was kept.
        verdict: how it went, in words.
        measure: what was validated, where that isn't KL.
    """

    stage: str | None = None
    points: tuple[CurvePoint, ...] = ()
    validation: tuple[Validation, ...] = ()
    start: Validation | None = None
    rounded: Validation | None = absent()
    best: Validation | None = None
    verdict: str | None = None
    measure: str | None = absent()
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def level(self) -> float | None:
        """The KL to beat: plain rounding's, else where the training began."""
        return (self.rounded or self.start or Validation()).kl
