"""A narrower model cut out of a wider one: which channels and heads stay, and the tensors that are left.

What is left out of FFN channels and heads leaves the rest as it was: the narrower model computes what the wider one
does with these channels set to 0. A norm whose input loses channels would divide by another mean square, so its weights
take the root of the ratio that was measured on text. A gemma multiplies its embedding by the root of its width in every
runtime: the table takes the ratio of the two roots, and a last norm before a tied table gives it back.
"""

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from edgedistill.facts import EMBEDDING, FINAL_NORM, HEAD, ModelShape
from edgedistill.families import FAMILIES, Family
from edgedistill.models.load import assemble
from edgedistill.models.students.importance import Importance

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)\.(weight|bias)")


@dataclass(frozen=True)
class Kept:
    """What stays, as rising indices: by layer the FFN channels, query heads and key heads; the hidden channels."""

    ffn: Sequence[Sequence[int]]
    heads: Sequence[Sequence[int]]
    kv_heads: Sequence[Sequence[int]]
    width: Sequence[int]


def choose_kept(importance: Importance, teacher: ModelShape, student: ModelShape) -> Kept:
    """The channels and heads of most importance; of heads whole groups first, then as many queries of each.

    Raises:
        ValueError: the student is the larger one, or its heads can't be taken from the teacher's.
    """
    queries, group = student.heads // student.kv_heads, teacher.heads // teacher.kv_heads
    if queries > group or student.kv_heads > teacher.kv_heads:
        raise ValueError(
            f"{student.kv_heads} groups of {queries} heads can't be taken from {teacher.kv_heads} groups of {group}"
        )
    heads, kv_heads = [], []
    for scores in importance.heads:
        best = scores.view(teacher.kv_heads, group).topk(queries, dim=1)
        groups = _top(best.values.sum(1), student.kv_heads)
        kv_heads.append(groups)
        heads.append([number * group + head for number in groups for head in sorted(best.indices[number].tolist())])
    ffn = [_top(scores, student.ffn) for scores in importance.ffn]
    return Kept(ffn, heads, kv_heads, _top(importance.width, student.width))


def _top(scores: Tensor, count: int) -> list[int]:
    """The indices of the largest, rising; of equals the first."""
    order = torch.sort(scores, descending=True, stable=True).indices[:count]
    return sorted(order.tolist())


def narrowed(model: "PreTrainedModel", kept: Kept, squares: Mapping[str, Tensor]) -> "PreTrainedModel":
    """The narrower model. The wider one gives its weights up as they are cut and can't be used afterwards.

    Args:
        squares: by the name of a norm, the mean square of its input channels, as `Importance` has them.
    Raises:
        ValueError: an index is there twice, or isn't there at all.
    """
    family = FAMILIES[model.config.model_type]
    config = model.config
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    cut = _Cut(family, kept, head_dim, config.intermediate_size, config.num_attention_heads, config.num_key_value_heads)
    cut.check(config.hidden_size)
    tied = config.tie_word_embeddings
    state: dict[str, Tensor] = {}
    for name, parameter in list(model.named_parameters()):
        state[name] = cut.tensor(name, parameter.detach())
        parameter.data = parameter.data.new_empty(0)
    _rescale_norms(state, squares, cut, config.hidden_size)
    if "gemma" in family.name:
        _rescale_table(state, (config.hidden_size / len(kept.width)) ** 0.5, tied)
    smaller = copy.deepcopy(config)
    smaller.hidden_size, smaller.intermediate_size = len(kept.width), len(kept.ffn[0])
    smaller.num_attention_heads, smaller.num_key_value_heads = len(kept.heads[0]), len(kept.kv_heads[0])
    narrow = assemble(smaller, state)
    narrow.generation_config = copy.deepcopy(model.generation_config)
    return narrow


@dataclass(frozen=True)
class _Cut:
    """The slices of each tensor; `ffn`, `heads` and `kv_heads` are the wider model's sizes."""

    family: Family
    kept: Kept
    head_dim: int
    ffn: int
    heads: int
    kv_heads: int

    def check(self, width: int) -> None:
        """Raise ValueError where an index isn't one of the model's, or there twice."""
        for what, lists, most in (
            ("FFN channels", self.kept.ffn, self.ffn),
            ("heads", self.kept.heads, self.heads),
            ("key heads", self.kept.kv_heads, self.kv_heads),
            ("hidden channels", [self.kept.width], width),
        ):
            for indices in lists:
                if not indices or list(indices) != sorted(set(indices)) or indices[0] < 0 or indices[-1] >= most:
                    raise ValueError(f"{what} to keep must be rising indices from 0 to {most - 1}")

    def tensor(self, name: str, value: Tensor) -> Tensor:
        """What is left of a tensor, a copy of its own."""
        rows, columns = self.slices(name)
        if rows is not None:
            value = value[rows]
        if columns is not None:
            value = value[:, columns]
        return value.clone()

    def slices(self, name: str) -> tuple[Tensor | None, Tensor | None]:
        """(rows, columns) that stay of a tensor, None for all; of a norm or a bias its elements as rows."""
        width = torch.tensor(self.kept.width)
        if name in (EMBEDDING, HEAD):
            return None, width
        if (match := _LAYER.fullmatch(name)) is None:  # the last norm
            return width, None
        layer, part, kind = int(match[1]), match[2].split(".")[-1], match[3]
        ffn = torch.tensor(self.kept.ffn[layer])
        queries, keys = self._channels(self.kept.heads[layer]), self._channels(self.kept.kv_heads[layer])
        outputs = {
            "q_proj": queries,
            "k_proj": keys,
            "v_proj": keys,
            "qkv_proj": self._fused(queries, keys),
            "gate_proj": ffn,
            "up_proj": ffn,
            "gate_up_proj": torch.cat([ffn, self.ffn + ffn]),
            "o_proj": width,
            "down_proj": width,
            "q_norm": queries,
            "k_norm": keys,
        }
        if part in ("q_norm", "k_norm") and self.family.head_norms == "each":
            return None, None
        if part.endswith("norm"):
            return outputs.get(part, width), None
        if kind == "bias":
            return outputs[part], None
        return outputs[part], {"o_proj": queries, "down_proj": ffn}.get(part, width)

    def _channels(self, heads: Sequence[int]) -> Tensor:
        """The channels of some heads."""
        return (torch.tensor(heads)[:, None] * self.head_dim + torch.arange(self.head_dim)).flatten()

    def _fused(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Rows of a tensor that has queries, keys and values one below the other."""
        values_from = (self.heads + self.kv_heads) * self.head_dim
        return torch.cat([queries, self.heads * self.head_dim + keys, values_from + keys])


def _rescale_norms(state: dict[str, Tensor], squares: Mapping[str, Tensor], cut: _Cut, width: int) -> None:
    """Multiply each norm's weights by the root of its mean square now over that before."""
    for name, before in squares.items():
        elements, _ = cut.slices(f"{name}.weight")
        if elements is None or len(elements) == len(before):
            continue
        # `before` is relative to the mean over all channels, which is 1.
        factor = before[elements].mean().sqrt().item()
        weight = state[f"{name}.weight"]
        offset = 1.0 if cut.family.norm_offset else 0.0
        state[f"{name}.weight"] = (weight + offset) * factor - offset


def _rescale_table(state: dict[str, Tensor], ratio: float, tied: bool) -> None:
    """Put into a gemma's embedding what its own scale loses, and take it out again before a tied output layer."""
    if ratio == 1.0:
        return
    state[EMBEDDING] *= ratio
    if tied:
        state[FINAL_NORM] = (state[FINAL_NORM] + 1.0) / ratio - 1.0
