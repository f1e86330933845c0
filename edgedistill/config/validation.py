"""How often a training is validated, and on how much text: a share of the training itself, whatever its budget.

Reading a token for validation costs a third of training on one, or two thirds where training multiplies in bfloat16,
since validation always runs in float32: half is assumed. So that all validations together take about a tenth of the
training's time, they may read a fifth as many tokens as it trains on.
"""

from dataclasses import dataclass

SHARE = 0.2  # tokens read for validation, as a share of the training's tokens
# The fewest are enough to see where training stops helping; more than the most tell nothing new.
FEWEST, MOST = 4, 40
# Mean KLs on fewer tokens are noise, and more than the most move the mean by less than two checkpoints differ.
LEAST_TOKENS, TYPICAL_TOKENS, MOST_TOKENS = 1_024, 2_048, 32_768


@dataclass(frozen=True)
class ValidationPlan:
    """The validations of one training.

    Attributes:
        times: validations after the first step, evenly over the steps, the last one at the end. One before the first
            step comes on top.
        tokens: what each reads, over all sources of the text.
    """

    times: int
    tokens: int

    @property
    def all_tokens(self) -> int:
        """Tokens read by all validations, the one before the first step included."""
        return (self.times + 1) * self.tokens

    def steps(self, steps: int) -> tuple[int, ...]:
        """After which of so many steps the model is validated, in rising order; the last step is among them."""
        return tuple(sorted({round(steps * number / self.times) for number in range(1, self.times + 1)} - {0}))


def plan_validation(training_tokens: int, steps: int) -> ValidationPlan:
    """The validations of a training of so many tokens and steps; none after step 0 where it trains nothing."""
    budget = SHARE * training_tokens
    times = min(steps, max(FEWEST, min(MOST, round(budget / TYPICAL_TOKENS))))
    if not times:
        return ValidationPlan(0, TYPICAL_TOKENS)
    return ValidationPlan(times, max(LEAST_TOKENS, min(MOST_TOKENS, round(budget / times))))
