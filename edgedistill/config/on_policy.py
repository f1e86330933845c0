"""On-policy rounds of a training: the model that is trained writes, and learns from what its teacher thinks of that.

on_policy: {every: 50, tokens: 20_000, share: 0.5, temperature: 1.0}
"""

from typing import Annotated

from pydantic import Field

from edgedistill.config.fields import PositiveInt
from edgedistill.config.yaml_file import Model


class OnPolicy(Model):
    """When the model in training writes anew, and how.

    Source: GKD (Agarwal et al. 2024, arXiv 2306.13649), whose fraction of the student's own data is `share`; no
    gradient goes through the drawing of tokens.
    """

    every: PositiveInt = Field(description="Steps of a round: so often it writes fresh text, the first time at once.")
    tokens: PositiveInt | None = Field(
        default=None,
        description="Tokens of answers that it writes a round; null: as many as the round trains on of them.",
    )
    share: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.5, description="Share of the rows that are its own text; the others are the training text."
    )
    temperature: Annotated[float, Field(ge=0)] = Field(default=1.0, description="Of its answers.")
    top_p: Annotated[float, Field(gt=0, le=1)] = Field(
        default=1.0, description="Tokens are drawn from the likeliest with this share."
    )

    def round_tokens(self, step_tokens: int) -> int:
        """Tokens that are written a round, for steps of `step_tokens`."""
        return self.tokens if self.tokens is not None else max(1, round(self.every * step_tokens * self.share))

    def rounds(self, steps: int) -> int:
        """Rounds of a training."""
        return -(-steps // self.every)
