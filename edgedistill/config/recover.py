"""The recover part of a recipe: how the student is fitted to the grid that ships, and trained on it."""

import math
from collections.abc import Collection
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from edgedistill.config.fields import MixName, PositiveFloat, PositiveInt, Share
from edgedistill.config.loss import GridLoss, GridTerm
from edgedistill.config.on_policy import OnPolicy
from edgedistill.config.training import Training
from edgedistill.config.yaml_file import as_tuple

Budget = Annotated[int, Field(ge=0)]
Trained = Literal["weights", "scales", "norms"]
CURVATURE_BYTES = 2 << 30  # of the matrices that are measured in one pass over the text
MEASURED = ("curvature", "fisher")  # fits that have a stage of their own, of their name
# Nats a token: what plain rounding must cost, before training the weights themselves pays. Codes that make up for each
# other's errors are worth more than a short training of the weights that would give them up.
WEIGHTS_FROM, WEIGHTS_FROM_CURVATURE = 0.1, 1.0
# A long training pays from less on: where rounding costs .38 nats, 60,000 tokens with the weights win up to 1.7 % more
# than with scales alone (bench/results/recovery-off-grid.json); where it costs .3, 8,000 win nothing (study.json).
WEIGHTS_FROM_LONG, LONG_TOKENS = 0.33, 60_000
SCALE_RATE = 1e-3
ALONE_RATE = 3e-4
# Nats a token that plain rounding must cost for the full rates. Where less is lost, gradients are smaller by the root
# of it, and so must be the steps, or their noise disturbs as much as they win.
FULL_RATE_FROM = 0.3


class Recover(Training):
    """How the student is trained on the grid that ships. Rates are peaks."""

    tokens: Budget = Field(
        default=24_000, description="Training tokens of each mix; 0 trains nothing and ships the fit."
    )
    batch_tokens: PositiveInt = Field(default=512, description="Tokens of a step; a multiple of seq_len.")
    learning_rate: PositiveFloat = Field(default=1.5e-4, description="Of the weights.")
    scale_learning_rate: PositiveFloat | None = Field(
        default=None,
        description=(
            f"Of the factors on the blocks' scales; null: {SCALE_RATE:g} beside weights, {ALONE_RATE:g} without them."
        ),
    )
    fit: Literal["curvature", "fisher", "importance", "ggml"] = Field(
        default="curvature", description="How the first scales and codes are found."
    )
    fit_tokens: PositiveInt = Field(
        default=32_768, description="Text on which curvature and fisher measure what errors cost."
    )
    train: Annotated[tuple[Trained, ...] | None, BeforeValidator(as_tuple)] = Field(
        default=None,
        description="weights, scales, norms; null: scales and norms, and the weights too where rounding loses much.",
    )
    low_rank: PositiveInt | None = Field(
        default=None, description="Train W + BA with BA of this rank instead of W: less memory."
    )
    simulate_activations: bool = Field(
        default=False, description="Round each layer's inputs to 8 bits, as the runtimes do."
    )
    loss: GridLoss = Field(
        default=(GridTerm(kl="forward"),),
        description="Terms that are added up, or the name of one divergence from the float student.",
    )
    on_policy: OnPolicy | None = Field(
        default=None,
        description=(
            "Rounds in which the packed file, as it is by then, writes answers to the training prompts in llama.cpp, "
            "and the float student says what it thinks of them; null: the training text is all there is."
        ),
    )
    patience: Share = Field(
        default=0.35,
        description="Share of the steps, after the warm-up, without a better validation before it stops.",
    )
    tokens_by_mix: dict[MixName, Budget] = Field(
        default={"q8_0": 4_000}, description="Budgets of single mixes instead of `tokens`."
    )

    rate_by_mix: dict[MixName, PositiveFloat] = Field(
        default={},
        description=(
            "Factors on both rates for single mixes; without one: the root of what rounding loses, in "
            f"{FULL_RATE_FROM} nats."
        ),
    )

    @field_validator("train")
    @classmethod
    def _some_each_once(cls, trained: tuple[Trained, ...] | None) -> tuple[Trained, ...] | None:
        if trained is not None and not 0 < len(trained) == len(set(trained)):
            raise ValueError("it must have an entry or more, each only once")
        return trained

    @model_validator(mode="after")
    def _together(self) -> "Recover":
        if self.low_rank is not None and self.train is not None and "weights" not in self.train:
            raise ValueError("low_rank trains the weights; add weights to train, or leave low_rank out")
        if self.on_policy is not None and not any(isinstance(term, GridTerm) for term in self.loss):
            raise ValueError(
                "on_policy has the packed file write, and no term of loss compares that with a model; add a kl term, "
                "or leave on_policy out"
            )
        return self

    @property
    def compares(self) -> bool:
        """Whether a term goes towards the teacher's own distribution."""
        return any(isinstance(term, GridTerm) and term.towards == "teacher" for term in self.loss)

    def trained(self, mix: str, rounded_kl: float) -> tuple[Trained, ...]:
        """What is trained of a mix that plain rounding to costs this KL, in nats a token.

        A step of a size moves the weights of every grid as far. On a coarse grid that wins more than it disturbs; where
        there is little to win, or little time, it disturbs more, and the scales alone win.
        """
        if self.train is not None:
            return self.train
        least = WEIGHTS_FROM
        if self.fit == "curvature":
            least = WEIGHTS_FROM_LONG if self.tokens_of(mix) >= LONG_TOKENS else WEIGHTS_FROM_CURVATURE
        if rounded_kl > least or self.low_rank is not None:
            return ("weights", "scales", "norms")
        return ("scales", "norms")

    def scale_rate(self, trained: Collection[Trained]) -> float:
        """The peak rate of the factors on scales."""
        if self.scale_learning_rate is not None:
            return self.scale_learning_rate
        return SCALE_RATE if "weights" in trained else ALONE_RATE

    def rate_of(self, mix: str, rounded_kl: float) -> float:
        """The factor on the learning rates of a mix that plain rounding to costs this KL, in nats a token."""
        return self.rate_by_mix.get(mix, min(1.0, math.sqrt(rounded_kl / FULL_RATE_FROM)))

    def tokens_of(self, mix: str) -> int:
        """The training budget of a mix."""
        return self.tokens_by_mix.get(mix, self.tokens)
