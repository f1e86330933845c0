"""A target with a draft model and without one (schema edgedistill.draft/1): what `bench --draft` prints."""

from dataclasses import dataclass, field
from typing import Any

from edgedistill.results.codec import JsonData

DRAFT_SCHEMA = "edgedistill.draft/1"


@dataclass(frozen=True)
class DraftFigures(JsonData):
    """What drafting is worth.

    Attributes:
        target, draft: the files; target_bytes, draft_bytes: of each.
        prompts: how many were answered, with the draft model and without it, in turn.
        most: tokens that are proposed at once; least_probability: below which the draft model stops.
        tokens: that the target wrote with the draft model.
        drafted, accepted: tokens that were proposed, and that the target kept.
        tokens_per_pass: of the target; 1 without a draft model.
        with_tokens_per_s, without_tokens_per_s: over all answers, their prompts apart.
        speedup: the quotient of the seconds that a token took; low, high: its 95 % interval over the prompts.
        same_answers: how many of the answers are the same with the draft model and without it.
    """

    schema: str
    target: str
    draft: str
    target_bytes: int
    draft_bytes: int
    runtime_version: str
    threads: int
    prompts: int
    most: int
    least_probability: float
    tokens: int
    drafted: int
    accepted: int
    tokens_per_pass: float
    with_tokens_per_s: float
    without_tokens_per_s: float
    speedup: float
    low: float
    high: float
    same_answers: int
    machine: dict[str, Any] = field(default_factory=dict)

    @property
    def acceptance(self) -> float | None:
        """The share of proposed tokens that the target kept; None where nothing was proposed."""
        return self.accepted / self.drafted if self.drafted else None
