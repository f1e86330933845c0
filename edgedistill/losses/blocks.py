"""What is compared inside a model: its hidden states after some blocks, and what attends in some blocks.

Layers are counted as transformers counts `hidden_states`: after 1 block, after 2, .. after all L of them, where the
last is taken behind the final norm. Blocks are counted from 1 too.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class BlockNeeds:
    """What a forward pass has to leave.

    Attributes:
        states: layers whose hidden states are compared.
        attention: blocks whose queries, keys and values are compared.
    """

    states: frozenset[int] = frozenset()
    attention: frozenset[int] = frozenset()

    @property
    def none(self) -> bool:
        """Whether nothing inside the model is compared."""
        return not self.states and not self.attention

    def __or__(self, other: "BlockNeeds") -> "BlockNeeds":
        return BlockNeeds(self.states | other.states, self.attention | other.attention)


@dataclass(frozen=True)
class Attending:
    """What attends in a block, heads end to end: as attention multiplies them, so behind head norms and the rotary
    embedding, and keys and values before they are repeated for the queries that share them.

    Attributes:
        queries: [S, heads · head size] of all S = B · T positions of a batch.
        keys, values: [S, key and value heads · head size].
    """

    queries: Tensor
    keys: Tensor
    values: Tensor

    def vectors(self, relation: str) -> Tensor:
        """Those of a relation among themselves: "qq", "kk" or "vv"."""
        return {"qq": self.queries, "kk": self.keys, "vv": self.values}[relation]


@dataclass(frozen=True)
class BlockOutputs:
    """What a forward pass left of a model's blocks.

    Attributes:
        states: by layer, [N, D] at the kept positions.
        attention: by block.
    """

    states: Mapping[int, Tensor] = field(default_factory=dict)
    attention: Mapping[int, Attending] = field(default_factory=dict)


@dataclass(frozen=True)
class Places:
    """Where in a batch a loss looks; see `data.packing.Batch`.

    Attributes:
        documents: lengths of the examples end to end over the S positions.
        kept: [N] indices into the S positions.
        weights: [N] float32, how much each of them counts.
    """

    documents: tuple[int, ...]
    kept: Tensor
    weights: Tensor


def needs_of(states: Iterable[int], attention: Iterable[int]) -> BlockNeeds:
    """`BlockNeeds` of any collections."""
    return BlockNeeds(frozenset(states), frozenset(attention))


def weighted_sum(values: Tensor, weights: Tensor) -> Tensor:
    """Σ weight · value over [N], in the values' type."""
    return torch.dot(values, weights.to(values.dtype))
