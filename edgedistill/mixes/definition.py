"""A mix: a built-in one, one of a recipe's with rules on top of a built-in one, or a size to be fitted.

Names of mixes become parts of file names and stage names, so they are short words.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

NAME = r"^[a-z0-9][a-z0-9_]{0,31}$"
_RANGE = re.compile(r"(\d{1,4})(?:(-)(\d{1,4})?)?")
_LAYER = re.compile(r"model\.layers\.(\d+)\.")

# What a fitted mix chooses from, unless it says otherwise: the best of each size, which every llama.cpp backend
# computes with. Those of 256-blocks are left out where rows don't divide.
CANDIDATES = ("q2_k", "q3_k", "q4_0", "q4_k", "iq4_nl", "q5_0", "q5_k", "q6_k", "q8_0")
SENSITIVITY_TOKENS = 512


@dataclass(frozen=True)
class Layers:
    """Some layers by index from 0, as a recipe writes them: '5', '0-3,28-'."""

    text: str

    def __post_init__(self) -> None:
        """Raises ValueError with what is wrong with the text."""
        self.ranges()

    def ranges(self) -> tuple[tuple[int, int | None], ...]:
        """(first, last) of each range, None for an open end.

        Raises:
            ValueError: it isn't a list of ranges, or one of them ends before it begins.
        """
        ranges = []
        for part in self.text.replace(" ", "").split(","):
            match = _RANGE.fullmatch(part)
            if match is None:
                raise ValueError("it must be layers counted from 0, such as '5', '0-3' or '0-3,28-'")
            first, last = int(match[1]), int(match[3]) if match[3] else None
            if not match[2]:
                last = first
            if last is not None and last < first:
                raise ValueError(f"the range {part} ends before it begins; write {last}-{first}")
            ranges.append((first, last))
        return tuple(ranges)

    def __contains__(self, layer: object) -> bool:
        if not isinstance(layer, int):
            return False
        return any(first <= layer and (last is None or layer <= last) for first, last in self.ranges())


@dataclass(frozen=True)
class Rule:
    """Tensors that get another grid: those whose name matches a pattern (fnmatch), in some layers or all."""

    tensors: str
    grid: str
    layers: Layers | None = None


@dataclass(frozen=True)
class Size:
    """What all weights of a model may take without the file's header: bits a weight, bytes, or a built-in mix's bytes.

    One of the three is given; `mix_bytes` says what it comes to for a model.
    """

    bits_per_weight: float | None = None
    total_bytes: int | None = None
    like: str | None = None


@dataclass(frozen=True)
class Mix:
    """Which tensor gets which number format.

    Attributes:
        name: what files and stages are called by.
        base: the built-in mix that decides where no rule does.
        rules: of the recipe; the last one that matches a tensor decides.
        size: for a mix whose grids are chosen by what each costs (`base` and `rules` aren't used then).
        candidates: the grids that such a choice is made from.
        tokens: what each candidate is judged on.
        chosen: what was chosen, by tensor; None until it was.
    """

    name: str
    base: str
    rules: tuple[Rule, ...] = ()
    size: Size | None = None
    candidates: tuple[str, ...] = CANDIDATES
    tokens: int = SENSITIVITY_TOKENS
    chosen: Mapping[str, str] | None = None

    @property
    def unfitted(self) -> bool:
        """Whether its grids are still to be chosen."""
        return self.size is not None and self.chosen is None


@lru_cache(65_536)  # the planner asks for the same names of hundreds of candidates
def layer_of(name: str) -> int | None:
    """The layer that a tensor belongs to by its Hugging Face name; None for the tables and the last norm."""
    match = _LAYER.match(name)
    return int(match[1]) if match else None
