"""A recipe's own mixes: rules on top of a built-in mix, or a size to fit. The room mixes says what each means."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PlainValidator, WithJsonSchema, field_validator, model_validator

from edgedistill.config.yaml_file import Model, as_tuple
from edgedistill.errors import did_you_mean
from edgedistill.formats import FORMATS
from edgedistill.mixes import CANDIDATES, QUANTIZED_MIXES, SENSITIVITY_TOKENS, Layers, Mix, Rule, Size
from edgedistill.units import parse

QUANTIZED = tuple(name for name, number_format in FORMATS.items() if number_format.quantized)
GRIDS = (*QUANTIZED, "f16", "bf16")  # what a rule may name
MOST_BITS = 16.0  # a float model's
AUTO = "auto_"  # before a built-in mix's name: a mix fitted to that one's bytes, which needs no definition
AUTO_MIXES = tuple(AUTO + name for name in QUANTIZED_MIXES)


def _one_of(name: str, allowed: tuple[str, ...]) -> str:
    if name not in allowed:
        raise ValueError(f"it must be one of {', '.join(allowed)}.{did_you_mean(name, allowed)}")
    return name


def _size(size: Any) -> Any:
    """Bits a weight, a built-in mix or a text with a unit, as it stands in the file."""
    if size is None or size in QUANTIZED_MIXES:
        return size
    if isinstance(size, (int, float)) and not isinstance(size, bool):
        if not 0 < size <= MOST_BITS:
            raise ValueError(f"it must be above 0 and at most {MOST_BITS:g} bits a weight")
        return size
    try:
        parse(size, "size")
    except ValueError:
        allowed = "bits a weight, such as 4.5, a size with its unit, such as '80 MB', or a built-in mix of that size"
        raise ValueError(f"it must be {allowed}") from None
    return size


class OwnRule(Model):
    """Tensors that get another grid than the base gives them."""

    tensors: Annotated[str, Field(min_length=1)] = Field(
        description="Pattern on Hugging Face names; * stands for anything."
    )
    grid: Annotated[str, Field(json_schema_extra={"enum": list(GRIDS)})] = Field(description="What they are stored in.")
    layers: str | None = Field(
        default=None, description="Counted from 0, such as '0-3,28-'; null for all, and for the tables."
    )

    @field_validator("grid")
    @classmethod
    def _check_grid(cls, name: str) -> str:
        return _one_of(name, GRIDS)

    @field_validator("layers")
    @classmethod
    def _check_layers(cls, text: str | None) -> str | None:
        if text is not None:
            Layers(text)
        return text


class OwnMix(Model):
    """Either `base` and `rules`, or `auto`."""

    base: Annotated[str, Field(json_schema_extra={"enum": list(QUANTIZED_MIXES)})] | None = Field(
        default=None, description="The built-in mix that decides where no rule does."
    )
    rules: Annotated[tuple[OwnRule, ...], BeforeValidator(as_tuple)] = Field(
        default=(), description="The last one that matches a tensor decides."
    )
    auto: Annotated[
        float | str | None, PlainValidator(_size), WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "string"}]})
    ] = Field(
        default=None,
        description=(
            "Bits a weight, a size, or a built-in mix for its bytes: grids are chosen by what each costs so "
            "that all weights take at most that."
        ),
    )
    grids: Annotated[tuple[str, ...] | None, BeforeValidator(as_tuple)] = Field(
        default=None, description=f"What auto chooses from; null: {', '.join(CANDIDATES)}, as far as rows divide."
    )
    tokens: Annotated[int, Field(ge=64)] | None = Field(
        default=None,
        description=(
            "Tokens that what auto chose is judged on, and each choice where fit isn't curvature; null: "
            f"{SENSITIVITY_TOKENS}."
        ),
    )

    @field_validator("base")
    @classmethod
    def _check_base(cls, name: str | None) -> str | None:
        return None if name is None else _one_of(name, QUANTIZED_MIXES)

    @field_validator("grids")
    @classmethod
    def _check_grids(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for name in names or ():
            if name not in QUANTIZED:
                raise ValueError(
                    f"'{name}' in it must be one of {', '.join(QUANTIZED)}.{did_you_mean(name, QUANTIZED)}"
                )
        if names is not None and (len(names) < 2 or len(set(names)) != len(names)):
            raise ValueError("it must have two entries or more, each only once")
        return names

    @model_validator(mode="after")
    def _one_kind(self) -> "OwnMix":
        if (self.base is None) == (self.auto is None):
            raise ValueError("it must have either base, with rules, or auto")
        if self.base is None and self.rules:
            raise ValueError("rules go with base; auto chooses every grid itself")
        if self.auto is None and (self.grids is not None or self.tokens is not None):
            raise ValueError("grids and tokens go with auto")
        return self

    def mix(self, name: str) -> Mix:
        """What mixes/ works with."""
        if self.base is not None:
            rules = tuple(Rule(r.tensors, r.grid, None if r.layers is None else Layers(r.layers)) for r in self.rules)
            return Mix(name, self.base, rules)
        if not isinstance(self.auto, str):
            size = Size(bits_per_weight=self.auto)
        elif self.auto in QUANTIZED_MIXES:
            size = Size(like=self.auto)
        else:
            size = Size(total_bytes=int(parse(self.auto, "size")))
        return Mix(name, "", size=size, candidates=self.grids or CANDIDATES, tokens=self.tokens or SENSITIVITY_TOKENS)


def known_mixes(own: Iterable[str]) -> tuple[str, ...]:
    """Every mix that a recipe with these of its own may name."""
    return (*QUANTIZED_MIXES, *own, *AUTO_MIXES)


def allowed_mixes(own: Iterable[str]) -> str:
    """The same in words: what an error says after 'it must be one of'."""
    return (
        f"{', '.join((*QUANTIZED_MIXES, *own))}, or {AUTO}{QUANTIZED_MIXES[0]} and so on for a mix fitted to that "
        "one's bytes"
    )


def mix_named(name: str, own: Mapping[str, OwnMix]) -> Mix:
    """A built-in mix, one that a recipe defines, or one fitted to a built-in mix's bytes."""
    if name in own:
        return own[name].mix(name)
    if name in AUTO_MIXES:
        return OwnMix(auto=name.removeprefix(AUTO)).mix(name)
    return Mix(name, name)
