"""A GGUF file of the llama family before its weights are loaded: its shape, read from the header. No torch.

Every tensor must be one that the shape calls for, with that shape: a model with biases, experts or an addition that
we don't run is refused instead of run wrong.
"""

import json
import math
import struct

from edgedistill.errors import InputError
from edgedistill.facts import HEAD, ModelShape
from edgedistill.models import rope
from edgedistill.models.gguf_file import GGUFHeader
from edgedistill.models.hf_folder import SUPPORTED, check_heads
from edgedistill.models.llama_names import ARCHITECTURE, ROPE_FREQS, gguf_name


def gguf_shape(header: GGUFHeader) -> ModelShape:
    """The model's shape.

    Raises:
        InputError: another architecture (named, with the supported list), a key missing, or a tensor missing, extra or of another shape.
    """
    path = header.path
    architecture = header.get("general.architecture", str)
    if architecture != ARCHITECTURE:
        found = f"architecture is {architecture!r}" if architecture else "no general.architecture: it isn't a language model"
        raise InputError(f"{path}: {found}; supported architectures are {', '.join(SUPPORTED)}")
    if header.get("llama.expert_count", int, 0):
        raise InputError(f"{path}: a mixture of experts isn't supported; supported are plain llama models")

    def size(key: str, default: int | None = None) -> int:
        value = header.get(f"llama.{key}", int, default)
        if value is None or not 0 < value < 1 << 31:
            raise InputError(f"{path}: llama.{key} is {value!r}; it must be a whole number above 0. The file is damaged")
        return int(value)

    width, heads = size("embedding_length"), size("attention.head_count")
    head_dim = size("attention.key_length", width // heads)
    for key in ("attention.value_length", "rope.dimension_count"):
        if (stated := size(key, head_dim)) != head_dim:
            raise InputError(f"{path}: llama.{key} is {stated} where heads have {head_dim}; all heads must have one size")
    embedding = header.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise InputError(f"{path}: has no token_embd.weight with rows and columns; the file isn't a whole language model")
    theta = header.get("llama.rope.freq_base", float, rope.DEFAULT_THETA)
    eps = header.get("llama.attention.layer_norm_rms_epsilon", float, 1e-6)
    if not (0 < theta < math.inf and 0 < eps < 1):
        raise InputError(f"{path}: rope base {theta} and norm epsilon {eps} must be above 0, and epsilon small. The file is damaged")
    shape = ModelShape(
        family="llama", layers=size("block_count"), width=width, heads=heads, kv_heads=size("attention.head_count_kv", heads),
        head_dim=head_dim, ffn=size("feed_forward_length"), vocab=embedding.shape[0], context=size("context_length"),
        tied=gguf_name(HEAD) not in header.tensors, rope_theta=shortest_float(theta),
        norm_eps=shortest_float(eps),
        rope_scaling=_scaling(header, theta, head_dim),
    )  # fmt: skip
    check_heads(path, shape)
    _check_tensors(header, shape)
    return shape


def shortest_float(value: float) -> float:
    """The shortest decimal that is the same float32: 1e-05 for the 9.999999747378752e-06 that a float32 holds."""
    packed = struct.pack("<f", value)
    return next((short for digits in range(1, 9) if struct.pack("<f", short := float(f"{value:.{digits}g}")) == packed), value)


def _scaling(header: GGUFHeader, theta: float, head_dim: int) -> rope.Scaling | None:
    path = header.path
    kind = header.get("llama.rope.scaling.type", str, "none")
    factor = header.get("llama.rope.scaling.factor", float, header.get("llama.rope.scale_linear", float, 1.0))
    if kind not in ("none", "linear"):
        raise InputError(f"{path}: rope scaling {kind!r} isn't supported; it must be one of {', '.join(rope.SUPPORTED)}")
    tensor = header.tensors.get(ROPE_FREQS)
    if tensor is None:
        return {"rope_type": "linear", "factor": shortest_float(factor)} if factor not in (0.0, 1.0) else None
    if tensor.type_name != "f32" or tensor.shape != (head_dim // 2,):
        raise InputError(f"{path}: {ROPE_FREQS} is {tensor.type_name} {list(tensor.shape)}; it must be f32 [{head_dim // 2}]")
    with path.open("rb") as file:
        file.seek(tensor.offset)
        factors = list(struct.unpack(f"<{head_dim // 2}f", file.read(tensor.size)))
    stated = header.get(rope.STATED_KEY, str)
    try:
        told = rope.from_config(path, {"rope_parameters": json.loads(stated)})[1] if stated else None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: {rope.STATED_KEY} isn't JSON; the file is damaged") from error
    scaling = rope.scaling_of_factors(theta, head_dim, factors, told if told and told["rope_type"] == "llama3" else None)
    if scaling is None:
        raise InputError(f"{path}: {ROPE_FREQS} is neither Llama 3.1's nor 3.2's scaling; take the model's Hugging Face folder")
    return scaling


def _check_tensors(header: GGUFHeader, shape: ModelShape) -> None:
    left = dict(header.tensors)
    left.pop(ROPE_FREQS, None)
    for tensor in shape.tensors():
        name = gguf_name(tensor.name)
        found = left.pop(name, None)
        wanted = (tensor.cols,) if tensor.kind == "norm" else (tensor.rows, tensor.cols)
        if found is None:
            raise InputError(f"{header.path}: tensor {name} is missing; the file is damaged or holds only part of a model")
        if found.shape != wanted:
            raise InputError(f"{header.path}: tensor {name} has shape {list(found.shape)}, by the file's figures it must be {list(wanted)}")
    if left:
        raise InputError(f"{header.path}: holds {next(iter(left))}, which no plain llama has; supported are llama models without additions")
