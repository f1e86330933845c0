"""The curve of a training: what was seen at each step and at each validation. `curve.json` is what the report draws."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from edgedistill.train.validation import ValidationLoss, worst_ratio

CURVE = "curve.json"


@dataclass(frozen=True)
class Point:
    """One step: the mean loss of its tokens, in nats a token."""

    step: int
    tokens: int  # seen up to here
    loss: float
    learning_rate_share: float  # of the peak


@dataclass(frozen=True)
class Checked:
    """One validation, after a step."""

    step: int
    tokens: int
    loss: float
    by_source: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """As an entry of `validation` in curve.json."""
        return {"step": self.step, "tokens": self.tokens, "kl": self.loss, "by_source": self.by_source}


@dataclass
class TrainingCurve:
    """What was seen on the way; `decides`: the sources whose losses say which validation is the best, all if empty."""

    points: list[Point] = field(default_factory=list)
    validation: list[Checked] = field(default_factory=list)
    stopped_early: bool = False
    decides: Collection[str] = ()

    @property
    def start(self) -> Checked:
        """The validation before the first step."""
        return self.validation[0]

    @property
    def best(self) -> Checked:
        """The validation whose worst source has the lowest loss, relative to its start; the first of equals."""
        return min(self.validation, key=self._worst_ratio)

    def _worst_ratio(self, checked: Checked) -> float:
        deciding = {name: loss for name, loss in checked.by_source.items() if name in self.decides}
        return worst_ratio(deciding or checked.by_source, self.start.by_source)

    @property
    def lowest(self) -> Checked:
        """The validation of the lowest mean loss; the first of equals."""
        return min(self.validation, key=lambda checked: checked.loss)

    def add_validation(self, step: int, tokens: int, validation: ValidationLoss) -> bool:
        """Note a validation, and tell whether it is the best so far."""
        self.validation.append(Checked(step, tokens, validation.loss, validation.by_source))
        return self.best is self.validation[-1]

    def state(self) -> dict[str, Any]:
        """All of it, for a checkpoint."""
        return {
            "points": [vars(point) for point in self.points],
            "validation": [vars(checked) for checked in self.validation],
            "stopped_early": self.stopped_early,
        }

    @classmethod
    def of_state(cls, state: Mapping[str, Any]) -> "TrainingCurve":
        """Undo `state`."""
        points = [Point(**point) for point in state["points"]]
        return cls(points, [Checked(**checked) for checked in state["validation"]], state["stopped_early"])

    def to_json(self, stage: str, measure: str = "KL") -> dict[str, Any]:
        """For `curve.json`. `measure`: what validation took the mean of, in words."""
        best = self.best
        return {
            "schema": "edgedistill.curve/1",
            "stage": stage,
            "measure": measure,
            "unit": "nats per token",
            "points": [vars(point) for point in self.points],
            "validation": [checked.to_json() for checked in self.validation],
            "start": {"kl": self.start.loss, "by_source": self.start.by_source},
            "best": best.to_json(),
            "stopped_early": self.stopped_early,
            "verdict": (
                f"{measure} on validation text {self.start.loss:.4f} at the start, {best.loss:.4f} at step {best.step}"
            ),
        }
