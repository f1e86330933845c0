"""What every training of a recipe has."""

from typing import Annotated

from pydantic import Field, model_validator

from edgedistill.config.fields import Compute, PositiveFloat, PositiveInt
from edgedistill.config.validation import ValidationPlan, plan_validation
from edgedistill.config.yaml_file import Model


class Training(Model):
    """What both trainings have."""

    tokens: PositiveInt = Field(description="Training tokens.")
    seq_len: Annotated[int, Field(ge=16)] = Field(default=512, description="Tokens of a packed row.")
    batch_tokens: PositiveInt = Field(description="Tokens of a step; a multiple of seq_len.")
    learning_rate: PositiveFloat = Field(description="The peak.")
    warmup: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.1, description="Share of the steps in which the rate rises."
    )
    checkpoint_seconds: PositiveFloat = Field(
        default=60.0,
        description="At least so many seconds between checkpoints, more where one takes long; changes no result.",
    )
    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(
        default=1,
        description="Of the order in which rows of text are trained on; in recover also of a fit's draws.",
    )
    compute: Compute = Field(
        default="auto",
        description=(
            "Type of the matrix products; the weights stay float32. auto: bfloat16 where the processor has "
            "instructions for it, else float32."
        ),
    )

    @property
    def step_tokens(self) -> int:
        """Tokens of a step."""
        return max(1, self.batch_tokens // self.seq_len) * self.seq_len

    def steps_of(self, tokens: int) -> int:
        """Steps of a budget; none of a budget of 0."""
        return max(1, round(tokens / self.step_tokens)) if tokens else 0

    def validation_of(self, tokens: int) -> ValidationPlan:
        """How often a training of this budget is validated, and on how much text."""
        return plan_validation(tokens, self.steps_of(tokens))

    @model_validator(mode="after")
    def _whole_rows(self) -> "Training":
        if self.batch_tokens % self.seq_len:
            raise ValueError(f"batch_tokens ({self.batch_tokens}) must be a multiple of seq_len ({self.seq_len})")
        return self
