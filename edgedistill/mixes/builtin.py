"""The built-in mixes: the number format that llama.cpp's quantizer gives to each tensor of a dense model.

A mix has a default, and exceptions for the tensors that rounding hurts most: the values' projection, the MLP's down
projection, attention's output, the tables. `intended_format` is that choice whatever the length of rows, and
`fallback_of` replaces a format whose blocks don't divide a row. The choices are those without an importance matrix,
which would move two of them.

`mxfp4` is ours: llama.cpp has it for experts only (MXFP4_MOE) and keeps all else in q8_0; here a dense model's linear
layers are mxfp4 and its tables q8_0.

Source: llama.cpp, llama_tensor_get_type, tensor_type_fallback and llama_ftype_get_default_type (src/llama-quant.cpp).
"""

from edgedistill.facts import EMBEDDING, HEAD, ModelShape, TensorShape
from edgedistill.formats import (
    BF16,
    F16,
    F32,
    IQ4_NL,
    MXFP4,
    Q2_K,
    Q3_K,
    Q4_0,
    Q4_1,
    Q4_K,
    Q5_0,
    Q5_1,
    Q5_K,
    Q6_K,
    Q8_0,
    TQ2_0,
    NumberFormat,
)

# Mix -> what a tensor is stored as unless it is an exception; roughly from the one that most people want.
DEFAULTS: dict[str, NumberFormat] = {
    "q4_0": Q4_0,
    "q8_0": Q8_0,
    "q4_k_m": Q4_K,
    "q4_k_s": Q4_K,
    "q5_k_m": Q5_K,
    "q5_k_s": Q5_K,
    "q6_k": Q6_K,
    "q3_k_l": Q3_K,
    "q3_k_m": Q3_K,
    "q3_k_s": Q3_K,
    "q2_k": Q2_K,
    "iq4_nl": IQ4_NL,
    "mxfp4": MXFP4,
    "tq2_0": TQ2_0,
    "q4_1": Q4_1,
    "q5_0": Q5_0,
    "q5_1": Q5_1,
    "f16": F16,
    "bf16": BF16,
}
# A format of 256-blocks -> the one of 32-blocks that stores a row which they don't divide.
FALLBACKS: dict[str, NumberFormat] = {
    "q2_k": Q4_0,
    "q3_k": Q4_0,
    "tq2_0": Q4_0,
    "q4_k": Q5_0,
    "q5_k": Q5_1,
    "q6_k": Q8_0,
}

MANY_QUERIES = 4  # queries a key: with so many the values' projection is small, and finer numbers for it cost little
# 80-layer models of these families with grouped queries are llama.cpp's "70B", whose values' projection is an eighth of
# the queries'.
LARGE_LAYERS = 80


def intended_format(shape: ModelShape, tensor: TensorShape, layer: int | None, mix: str) -> NumberFormat:
    """A built-in mix's format for a tensor, whatever the length of its rows.

    Args:
        shape: the model that it belongs to.
        tensor: one of `shape.tensors()`.
        layer: the index of its layer, None for the tables and the last norm.
        mix: a key of DEFAULTS.
    """
    default = DEFAULTS[mix]
    if tensor.flat:
        return F32
    if not default.quantized:
        return default
    # A tied table is the output layer too, and is treated as that.
    if tensor.name == HEAD or (tensor.name == EMBEDDING and shape.tied):
        return Q8_0 if mix in ("q8_0", "mxfp4") else Q6_K
    if tensor.name == EMBEDDING:
        return {"tq2_0": Q4_K, "mxfp4": Q8_0}.get(mix, default)
    assert layer is not None
    part = tensor.name.split(".")[-2]
    if part in ("v_proj", "qkv_proj"):  # a fused tensor holds the values' rows
        return _values(shape, layer, mix)
    if part == "down_proj":
        return _down(shape, layer, mix)
    if part == "o_proj":
        return {"q2_k": Q3_K, "q3_k_m": Q4_K, "q3_k_l": Q5_K}.get(mix, default)
    return default


def fallback_of(intended: NumberFormat, cols: int) -> NumberFormat | None:
    """What stores rows of `cols` weights in place of a format that can't; None where llama.cpp keeps them in f16."""
    if intended.fits(cols):
        return intended
    other = FALLBACKS.get(intended.name)
    return other if other is not None and other.fits(cols) else None


def _values(shape: ModelShape, layer: int, mix: str) -> NumberFormat:
    many = shape.heads // shape.kv_heads >= MANY_QUERIES
    chosen = DEFAULTS[mix]
    if mix == "q2_k":
        chosen = Q4_K if many else Q3_K
    elif mix == "q3_k_m":
        chosen = Q5_K if layer < 2 else Q4_K
    elif mix == "q3_k_l" or (mix == "iq4_nl" and many) or (mix == "q4_k_s" and layer < 4):
        chosen = Q5_K
    elif mix in ("q4_k_m", "q5_k_m") and _more_bits(layer, shape.layers):
        chosen = Q6_K
    if _is_70b(shape) and chosen in (Q3_K, Q4_K):
        return Q5_K
    return chosen


def _down(shape: ModelShape, layer: int, mix: str) -> NumberFormat:
    layers = shape.layers
    if mix == "q2_k":
        return Q3_K
    if mix == "q3_k_m":
        return Q5_K if layer < layers // 16 else Q4_K
    if mix == "q3_k_l" or (mix in ("q4_k_s", "iq4_nl") and layer < layers // 8):
        return Q5_K
    if mix in ("q4_k_m", "q5_k_m") and _more_bits(layer, layers):
        return Q6_K
    return DEFAULTS[mix]


def _more_bits(layer: int, layers: int) -> bool:
    """The first and the last eighth of the layers, and every third between them."""
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2


def _is_70b(shape: ModelShape) -> bool:
    if shape.layers != LARGE_LAYERS:
        return False
    return shape.family == "qwen2" or (shape.family in ("llama", "mistral") and shape.heads != shape.kv_heads)
