"""Types of fields that recipes and targets share."""

from typing import Annotated, Literal

from pydantic import Field

from edgedistill.mixes import NAME, QUANTIZED_MIXES

MixName = Annotated[str, Field(pattern=NAME, examples=list(QUANTIZED_MIXES))]
Compute = Literal["auto", "bfloat16", "float32"]
PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, lt=1)]
Text = Annotated[str, Field(min_length=1)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]


def no_duplicates(entries: tuple[str, ...]) -> tuple[str, ...]:
    """The same; ValueError where an entry is there twice."""
    if len(set(entries)) != len(entries):
        raise ValueError("each entry may be there only once")
    return entries
