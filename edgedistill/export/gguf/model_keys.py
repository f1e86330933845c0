"""What a GGUF file says of its model beside the weights: the keys, and the tensors of rotary factors.

Keys: docs/gguf.md of ggml, and what llama.cpp's converter writes for each architecture; where the converter leaves a
key out because llama.cpp has the same default (yarn's constants, gemma3's every sixth layer), so do we.
"""

import json
from collections import Counter
from collections.abc import Mapping

import gguf
import numpy as np
from numpy.typing import NDArray

from edgedistill.facts import ModelShape
from edgedistill.families import FAMILIES
from edgedistill.formats import NumberFormat
from edgedistill.models import rope
from edgedistill.models.gguf_names import ROPE_FREQS, ROPE_LONG, ROPE_SHORT
from edgedistill.models.hf_folder import GEMMA_PATTERN

_FILE = gguf.LlamaFileType
FILE_TYPES = {
    "f32": _FILE.ALL_F32,
    "f16": _FILE.MOSTLY_F16,
    "bf16": _FILE.MOSTLY_BF16,
    "q4_0": _FILE.MOSTLY_Q4_0,
    "q4_1": _FILE.MOSTLY_Q4_1,
    "q5_0": _FILE.MOSTLY_Q5_0,
    "q5_1": _FILE.MOSTLY_Q5_1,
    "q8_0": _FILE.MOSTLY_Q8_0,
    "q2_k": _FILE.MOSTLY_Q2_K,
    "q3_k": _FILE.MOSTLY_Q3_K_M,
    "q4_k": _FILE.MOSTLY_Q4_K_M,
    "q5_k": _FILE.MOSTLY_Q5_K_M,
    "q6_k": _FILE.MOSTLY_Q6_K,
    "iq4_nl": _FILE.MOSTLY_IQ4_NL,
    "tq2_0": _FILE.MOSTLY_TQ2_0,
    "mxfp4": _FILE.MOSTLY_MXFP4_MOE,
}


def add_model(writer: gguf.GGUFWriter, shape: ModelShape, formats: Mapping[str, NumberFormat]) -> None:
    """Add the keys that tell llama.cpp the model's shape. `formats`: Hugging Face name -> number format."""
    family = FAMILIES[shape.family]
    writer.add_type("model")
    writer.add_size_label(gguf.size_label(shape.parameters, 0, 0, 0))
    writer.add_block_count(shape.layers)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_dimension_count(shape.rotary_dim or shape.head_dim)
    writer.add_rope_freq_base(shape.rope_theta)
    _add_scaling(writer, shape)
    writer.add_layer_norm_rms_eps(shape.norm_eps)
    if family.windows:
        _add_windows(writer, shape)
    elif shape.family == "phi3":
        writer.add_sliding_window(0)  # where there is no such key, older builds of llama.cpp take one of their own
    if shape.family == "granite":
        writer.add_embedding_scale(shape.embedding_scale)
        writer.add_residual_scale(shape.residual_scale)
        writer.add_attention_scale(shape.attention_scale or shape.head_dim**-0.5)
        writer.add_logit_scale(1 / shape.logit_scale)
    writer.add_vocab_size(shape.vocab)
    writer.add_file_type(FILE_TYPES[_commonest(shape, formats)])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def rope_factors(shape: ModelShape) -> dict[str, NDArray[np.float32]]:
    """GGUF name -> float32 [rotated pairs] of the tensors by which llama.cpp divides a head's frequencies."""
    scaling = shape.rope_scaling
    if scaling and scaling["rope_type"] == "llama3":
        return {ROPE_FREQS: np.array(rope.llama3_factors(shape.rope_theta, shape.head_dim, scaling), dtype=np.float32)}
    if scaling and scaling["rope_type"] == "longrope":
        return {
            name: np.array(scaling[key], dtype=np.float32)
            for name, key in ((ROPE_LONG, rope.LONG), (ROPE_SHORT, rope.SHORT))
        }
    return {}


def _add_scaling(writer: gguf.GGUFWriter, shape: ModelShape) -> None:
    if not (scaling := shape.rope_scaling):
        return
    kind = scaling["rope_type"]
    if kind == "llama3":
        writer.add_string(rope.STATED_KEY, json.dumps(scaling, sort_keys=True))
        return
    writer.add_rope_scaling_type(gguf.RopeScalingType(kind))
    if kind == "longrope":
        writer.add_rope_scaling_attn_factors(scaling["attention_factor"])
    else:
        writer.add_rope_scaling_factor(scaling["factor"])
    if kind != "linear":
        writer.add_rope_scaling_orig_ctx_len(scaling[rope.ORIGINAL])


def _add_windows(writer: gguf.GGUFWriter, shape: ModelShape) -> None:
    if shape.local_rope_theta is not None:
        writer.add_rope_freq_base_swa(shape.local_rope_theta)
    if shape.window is None:
        return
    writer.add_sliding_window(shape.window)
    windowed = [shape.layer_kind(index)[0] for index in range(shape.layers)]
    # Older builds of llama.cpp know the usual pattern alone: say it only where it is another.
    if windowed != [(index + 1) % GEMMA_PATTERN != 0 for index in range(shape.layers)]:
        writer.add_sliding_window_pattern(windowed)


def _commonest(shape: ModelShape, formats: Mapping[str, NumberFormat]) -> str:
    """The format that holds most weights of the layers' matrices."""
    weights: Counter[str] = Counter()
    for tensor in shape.tensors():
        if tensor.kind == "linear":
            weights[formats[tensor.name].name] += tensor.size
    return weights.most_common(1)[0][0]
