"""A model's weights as a GGUF file has them: names, the order of q's and k's rows, gemma's norms. No torch.

Names are gguf-py's. llama.cpp rotates neighbouring pairs of a head where transformers rotates its two halves; for some
architectures it leaves that to the file, which then holds the rows of q_proj and k_proj interleaved. Blocks run along a
row, so whole packed rows can be moved. Where a norm multiplies by 1 + w, the file holds 1 + w.
Source: LlamaModel.permute and Gemma3Model.norm_shift in llama.cpp's converter, and its llama_model_rope_type.
"""

from typing import TYPE_CHECKING, TypeVar

from edgedistill.facts import ModelShape
from edgedistill.families import FAMILIES

if TYPE_CHECKING:  # `plan` does without numpy
    import numpy as np
    from numpy.typing import NDArray

ROPE_FREQS = "rope_freqs.weight"
ROPE_LONG, ROPE_SHORT = "rope_factors_long.weight", "rope_factors_short.weight"

Number = TypeVar("Number", bound="np.generic")


def gguf_names(shape: ModelShape) -> dict[str, str]:
    """Hugging Face name -> GGUF name of every tensor of a shape, in file order."""
    import gguf

    family_name = FAMILIES[shape.family].architecture
    architecture = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == family_name)
    name_map = gguf.get_tensor_name_map(architecture, shape.layers)
    names: dict[str, str] = {}
    for tensor in shape.tensors():
        name = name_map.get_name(tensor.name, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise ValueError(f"{tensor.name} has no name in GGUF's {family_name}")
        names[tensor.name] = name
    return names


def permuted_heads(name: str, shape: ModelShape) -> int | None:
    """Number of heads whose rows GGUF interleaves in this tensor, None where it keeps the order."""
    if not FAMILIES[shape.family].interleaved:
        return None
    if name.endswith(("self_attn.q_proj.weight", "self_attn.q_proj.bias")):
        return shape.heads
    return shape.kv_heads if name.endswith(("self_attn.k_proj.weight", "self_attn.k_proj.bias")) else None


def to_gguf_rows(rows: "NDArray[Number]", heads: int) -> "NDArray[Number]":
    """[O, ...] from transformers' order of rows to GGUF's."""
    half = rows.shape[0] // heads // 2
    return rows.reshape(heads, 2, half, -1).swapaxes(1, 2).reshape(rows.shape)


def from_gguf_rows(rows: "NDArray[Number]", heads: int) -> "NDArray[Number]":
    """Undo `to_gguf_rows`."""
    half = rows.shape[0] // heads // 2
    return rows.reshape(heads, half, 2, -1).swapaxes(1, 2).reshape(rows.shape)
