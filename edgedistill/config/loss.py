"""The loss of a phase: a list of terms, each a distance from the teacher's distribution, from its inside, or from the
text. No torch.

loss: [{kl: forward, weight: 0.9, temperature: 2.0}, {text: true, weight: 0.1}]
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from edgedistill.config.block_terms import RelationsTerm, StatesTerm
from edgedistill.config.fields import PositiveFloat, Share
from edgedistill.config.yaml_file import Model
from edgedistill.errors import did_you_mean

Kind = Literal["forward", "reverse", "jsd", "skew", "skew_reverse", "tvd"]
# A term's `kl` -> what the losses call it.
DIVERGENCE_OF: dict[str, str] = {
    "forward": "forward_kl",
    "reverse": "reverse_kl",
    "jsd": "jsd",
    "skew": "skew_kl",
    "skew_reverse": "skew_reverse_kl",
    "tvd": "tvd",
}
KIND_OF = {name: kind for kind, name in DIVERGENCE_OF.items()}
# What each divergence's share is called; see losses/choose.py.
SETTING_OF_LOSS = {"jsd": "beta", "skew_kl": "alpha", "skew_reverse_kl": "alpha"}
GROUPED, RENORMALIZED = "grouped", "renormalized"
# The older form's keys, and the weight of one that is left out.
SHORT_WEIGHTS = {"forward_kl": 0.9, "cross_entropy": 0.1}
# Losses by name. distilbert: Sanh et al. 2019 (arXiv 1910.01108), with the weights and the temperature of the released
# command and its defaults (huggingface/transformers, examples/research_projects/distillation): --alpha_ce 5.0
# --alpha_mlm 2.0 --alpha_cos 1.0, --temperature 2.0. Its masked words are the next words here.
PRESETS: dict[str, tuple[dict[str, Any], ...]] = {
    "distilbert": (
        {"kl": "forward", "weight": 5.0, "temperature": 2.0},
        {"text": True, "weight": 2.0},
        {"states": "cosine", "weight": 1.0},
    ),
}


class DivergenceTerm(Model):
    """A distance from the teacher's distribution."""

    kl: Kind = Field(description="Which divergence; forward and reverse are the two KL, skew are DistiLLM's.")
    weight: PositiveFloat = Field(default=1.0, description="What it is multiplied by, nats per token.")
    temperature: PositiveFloat = Field(
        default=1.0, description="T softens both sides, and the value is multiplied by T²."
    )
    share: Share | None = Field(default=None, description="jsd's beta, or alpha of the skew losses; null: 0.5 and 0.1.")
    outcomes: Literal["grouped", "renormalized"] | None = Field(
        default=None,
        description=(
            "What is compared of a teacher of whom only the likeliest tokens are known. grouped: these, and all others "
            "as one; renormalized: these alone, both sides made to sum up to 1. null: renormalized where the "
            "temperature isn't 1, since how it would spread the others is not known."
        ),
    )

    @model_validator(mode="after")
    def _together(self) -> "DivergenceTerm":
        if self.share is not None and self.name not in SETTING_OF_LOSS:
            shared = ", ".join(kind for kind, name in DIVERGENCE_OF.items() if name in SETTING_OF_LOSS)
            raise ValueError(f"share is for {shared}; leave it out with kl {self.kl}")
        if self.outcomes == GROUPED and self.temperature != 1.0:
            raise ValueError(
                f"temperature is {self.temperature:g} and outcomes grouped, and how a temperature would spread the "
                "tokens that are grouped is not known; set outcomes to renormalized, or the temperature to 1.0"
            )
        return self

    @property
    def name(self) -> str:
        """The loss's own name."""
        return DIVERGENCE_OF[self.kl]

    @property
    def settings(self) -> dict[str, float]:
        """Its settings, as `losses.choose.make_loss` takes them."""
        settings = {"temperature": self.temperature}
        if self.share is not None:
            settings[SETTING_OF_LOSS[self.name]] = self.share
        return settings

    @property
    def renormalized(self) -> bool:
        """Whether a teacher of whom the likeliest tokens are known is compared on these alone."""
        if self.outcomes is None:
            return self.temperature != 1.0
        return self.outcomes == RENORMALIZED


class GridTerm(DivergenceTerm):
    """A distance of training on the grid, from one of two models' distributions."""

    towards: Literal["student", "teacher"] = Field(
        default="student",
        description="Whose distribution: the float student's, all of it, or the teacher's likeliest tokens.",
    )


class TextTerm(Model):
    """Cross-entropy on the text that was written."""

    text: Literal[True] = Field(description="true: minus the log-probability of the text's own tokens.")
    weight: PositiveFloat = Field(default=1.0, description="What it is multiplied by, nats per token.")


def _spelled_out(given: Any) -> Any:
    """A list of terms as the tuple that a frozen model holds; a name or the older mapping of weights as terms."""
    if isinstance(given, list):
        return tuple(given)
    if isinstance(given, str):
        if given not in PRESETS:
            names = ", ".join(PRESETS)
            raise ValueError(f"a loss by name is {names}; or write a list of terms.{did_you_mean(given, PRESETS)}")
        return PRESETS[given]
    if not isinstance(given, dict):
        return given
    if unknown := sorted(set(given) - set(SHORT_WEIGHTS)):
        raise ValueError(
            f"'{unknown[0]}' is not a key of its short form, which has forward_kl and cross_entropy; or write a list "
            "of terms, such as [{kl: forward, weight: 0.9}, {text: true, weight: 0.1}]"
        )
    weights = {**SHORT_WEIGHTS, **given}
    for name, weight in weights.items():
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not weight >= 0:
            raise ValueError(f"{name} is {weight!r}; it must be a number of at least 0")
    if not any(weights.values()):
        raise ValueError("one of forward_kl and cross_entropy must be above 0")
    terms: list[dict[str, Any]] = []
    if weights["forward_kl"]:
        terms.append({"kl": "forward", "weight": float(weights["forward_kl"])})
    if weights["cross_entropy"]:
        terms.append({"text": True, "weight": float(weights["cross_entropy"])})
    return tuple(terms)


def _tag(term: Any) -> str:
    """Which of the kinds validates; in brackets, so that messages leave it out."""
    kinds = {"text": TextTerm, "states": StatesTerm, "relations": RelationsTerm}
    for key, kind in kinds.items():
        if key in term if isinstance(term, dict) else isinstance(term, kind):
            return f"[{key}]"
    return "[kl]"


def _grid_terms(given: Any) -> Any:
    """A list of terms as a tuple; one divergence's name as the only term."""
    if isinstance(given, str):
        return ({"kl": KIND_OF.get(given, given)},)
    if not isinstance(given, list):
        return given
    for term in given:
        for key in ("states", "relations"):
            if isinstance(term, dict) and key in term:
                raise ValueError(f"a term of {key} is for phases; on the grid there are kl and text")
    return tuple(given)


Term = Annotated[
    Annotated[DivergenceTerm, Tag("[kl]")]
    | Annotated[TextTerm, Tag("[text]")]
    | Annotated[StatesTerm, Tag("[states]")]
    | Annotated[RelationsTerm, Tag("[relations]")],
    Discriminator(_tag),
]
Loss = Annotated[tuple[Term, ...], Field(min_length=1), BeforeValidator(_spelled_out)]
OnGrid = Annotated[
    Annotated[GridTerm, Tag("[kl]")] | Annotated[TextTerm, Tag("[text]")],
    Discriminator(_tag),
]
GridLoss = Annotated[tuple[OnGrid, ...], Field(min_length=1), BeforeValidator(_grid_terms)]
DEFAULT_LOSS = (DivergenceTerm(kl="forward", weight=0.9), TextTerm(text=True, weight=0.1))
