"""The llama family in GGUF: tensor names, and the order of q's and k's rows. No torch.

llama.cpp rotates neighbouring pairs of a head where transformers rotates its two halves, so a GGUF file holds the
rows of q_proj and k_proj interleaved. Blocks run along a row, so whole packed rows can be moved.
Source: LlamaModel.permute and the tensor map in llama.cpp's converter.
"""

import re
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from edgedistill.facts import EMBEDDING, FINAL_NORM, HEAD, ModelShape

ARCHITECTURE = "llama"
ROPE_FREQS = "rope_freqs.weight"
_ENDS = {EMBEDDING: "token_embd.weight", FINAL_NORM: "output_norm.weight", HEAD: "output.weight"}
_IN_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)\.weight")

Number = TypeVar("Number", bound=np.generic)


def gguf_name(name: str) -> str:
    """The GGUF name of a Hugging Face llama tensor. Raises KeyError for any other."""
    if match := _LAYER.fullmatch(name):
        return f"blk.{match[1]}.{_IN_LAYER[match[2]]}.weight"
    return _ENDS[name]


def permuted_heads(name: str, shape: ModelShape) -> int | None:
    """Number of heads whose rows GGUF interleaves in this tensor, None where it keeps the order."""
    if name.endswith("self_attn.q_proj.weight"):
        return shape.heads
    return shape.kv_heads if name.endswith("self_attn.k_proj.weight") else None


def to_gguf_rows(rows: NDArray[Number], heads: int) -> NDArray[Number]:
    """[O, ...] from transformers' order of rows to GGUF's."""
    half = rows.shape[0] // heads // 2
    return rows.reshape(heads, 2, half, -1).swapaxes(1, 2).reshape(rows.shape)


def from_gguf_rows(rows: NDArray[Number], heads: int) -> NDArray[Number]:
    """Undo `to_gguf_rows`."""
    half = rows.shape[0] // heads // 2
    return rows.reshape(heads, half, 2, -1).swapaxes(1, 2).reshape(rows.shape)
