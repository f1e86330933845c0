"""A GGUF file before its weights are loaded: its model's shape, read from the header. No torch.

Every tensor must be one that the shape calls for, with that shape: a model with experts or an addition that we don't
run is refused instead of run wrong. The family is the one of the file's architecture: a mistral comes back as the llama
that llama.cpp runs it as.
"""

import json
import math
import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from edgedistill.errors import InputError
from edgedistill.facts import ModelShape
from edgedistill.families import FAMILIES, Family, family_of
from edgedistill.models import rope
from edgedistill.models.gguf_file import GGUFHeader
from edgedistill.models.gguf_names import ROPE_FREQS, ROPE_LONG, ROPE_SHORT, gguf_names
from edgedistill.models.hf_folder import GEMMA_PATTERN, SUPPORTED, check_shape, gemma_attention_scale

# Keys, after the architecture's name, of what transformers' models of these families don't have.
FOREIGN = (
    "expert_count",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "attention.clamp_kqv",
    "deepstack_mapping",
)


def gguf_shape(header: GGUFHeader) -> ModelShape:
    """The model's shape.

    Raises:
        InputError: another architecture (named, with the supported list), a key missing, or a tensor missing, extra or
            of another shape.
    """
    path = header.path
    architecture = header.get("general.architecture", str)
    family = family_of(architecture or "")
    if family is None:
        found = (
            f"architecture is {architecture!r}"
            if architecture
            else "no general.architecture: it isn't a language model"
        )
        raise InputError(f"{path}: {found}; supported architectures are {', '.join(SUPPORTED)}")
    _refuse_foreign(header, family)

    def size(key: str, default: int | None = None) -> int:
        value = header.get(f"{architecture}.{key}", int, default)
        if value is None or not 0 < value < 1 << 31:
            raise InputError(
                f"{path}: {architecture}.{key} is {value!r}; it must be a whole number above 0. The file is damaged"
            )
        return int(value)

    def number(key: str, default: float) -> float:
        value = header.get(f"{architecture}.{key}", float, default)
        if not 0 < value < math.inf:
            raise InputError(
                f"{path}: {architecture}.{key} is {value!r}; it must be a number above 0. The file is damaged"
            )
        return float(value)

    layers, width, heads = size("block_count"), size("embedding_length"), size("attention.head_count")
    head_dim = size("attention.key_length", width // heads)
    rotary_dim = size("rope.dimension_count", head_dim)
    for key, stated in (
        ("attention.value_length", size("attention.value_length", head_dim)),
        ("rope.dimension_count", rotary_dim),
    ):
        if stated != head_dim and not (key.startswith("rope") and family.fused and stated < head_dim):
            raise InputError(
                f"{path}: {architecture}.{key} is {stated} where heads have {head_dim}; all heads must have one size"
            )
    embedding = header.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise InputError(
            f"{path}: has no token_embd.weight with rows and columns; the file isn't a whole language model"
        )
    theta = header.get(f"{architecture}.rope.freq_base", float, rope.DEFAULT_THETA)
    eps = header.get(f"{architecture}.attention.layer_norm_rms_epsilon", float, 1e-6)
    if not (0 < theta < math.inf and 0 < eps < 1):
        raise InputError(
            f"{path}: rope base {theta} and norm epsilon {eps} must be above 0, and epsilon small. The file is damaged"
        )
    scaling = _scaling(header, family, theta, rotary_dim)
    output_bias, mlp_bias = (
        bool(family.bias_options) and f"blk.0.{name}.bias" in header.tensors for name in ("attn_output", "ffn_down")
    )
    extra = _extra(header, family, number, layers, width, heads, head_dim)
    shape = ModelShape(
        family=family.name,
        layers=layers,
        width=width,
        heads=heads,
        kv_heads=size("attention.head_count_kv", heads),
        head_dim=head_dim,
        ffn=size("feed_forward_length"),
        vocab=embedding.shape[0],
        context=_context(header, family, size("context_length"), scaling),
        tied="output.weight" not in header.tensors,
        rope_theta=shortest_float(theta),
        norm_eps=shortest_float(eps),
        rope_scaling=scaling,
        rotary_dim=rotary_dim if rotary_dim != head_dim else None,
        activation=family.activation,
        **extra,
        qkv_bias=family.qkv_bias or output_bias,
        output_bias=output_bias,
        mlp_bias=mlp_bias,
    )
    check_shape(path, shape)
    _check_tensors(header, shape)
    return shape


def stored_shape(shape: ModelShape) -> ModelShape:
    """The shape that `gguf_shape` finds in a file of this one: figures that GGUF holds in float32 as their shortest
    decimals.
    """
    family = family_of(FAMILIES[shape.family].architecture) or FAMILIES[shape.family]
    changes: dict[str, Any] = {"family": family.name}
    for name in ("rope_theta", "norm_eps", "local_rope_theta", "residual_scale"):
        value = getattr(shape, name)
        changes[name] = None if value is None else shortest_float(value)
    if shape.family == "granite":
        changes["embedding_scale"] = shortest_float(shape.embedding_scale)
        changes["attention_scale"] = shortest_float(shape.attention_scale or shape.head_dim**-0.5)
        changes["logit_scale"] = 1 / shortest_float(1 / shape.logit_scale)
    scaling = shape.rope_scaling
    if scaling and scaling["rope_type"] != "llama3":
        changes["rope_scaling"] = {key: _stored_number(key, value) for key, value in scaling.items()}
    return replace(shape, **changes)


def shortest_float(value: float) -> float:
    """The shortest decimal that is the same float32: 1e-05 for the 9.999999747378752e-06 that a float32 holds."""
    packed = struct.pack("<f", value)
    return next(
        (short for digits in range(1, 9) if struct.pack("<f", short := float(f"{value:.{digits}g}")) == packed), value
    )


def _stored_number(key: str, value: Any) -> Any:
    if isinstance(value, list):
        return [shortest_float(number) for number in value]
    return shortest_float(value) if isinstance(value, float) and key != rope.ORIGINAL else value


def _refuse_foreign(header: GGUFHeader, family: Family) -> None:
    if header.get(f"{family.architecture}.expert_count", int, 0):
        raise InputError(
            f"{header.path}: a mixture of experts isn't supported; supported are plain {family.name} models"
        )
    for key in (*FOREIGN, *(() if family.windows else ("attention.sliding_window",))):
        full = f"{family.architecture}.{key}"
        if header.scalars.get(full) or full in header.arrays:
            if key == "attention.sliding_window" and family.name == "phi3":
                continue  # see _context
            raise InputError(
                f"{header.path}: {full} is set, which no plain {family.name} has; models with additions "
                "aren't supported"
            )


def _extra(
    header: GGUFHeader,
    family: Family,
    number: Callable[[str, float], float],
    layers: int,
    width: int,
    heads: int,
    head_dim: int,
) -> dict[str, Any]:
    """Fields of the shape that only some families have."""
    if family.name == "granite":
        return {
            "embedding_scale": shortest_float(number("embedding_scale", 1.0)),
            "residual_scale": shortest_float(number("residual_scale", 1.0)),
            "attention_scale": shortest_float(number("attention.scale", head_dim**-0.5)),
            "logit_scale": 1 / shortest_float(number("logit_scale", 1.0)),
        }
    if family.no_rope_every is not None:
        return {"no_rope": tuple((index + 1) % family.no_rope_every == 0 for index in range(layers))}
    if not family.windows:
        return {}
    key = f"{family.architecture}.attention.sliding_window"
    window = header.get(key, int, 0)
    if not 0 <= window < 1 << 31:
        raise InputError(f"{header.path}: {key} is {window}; it must be a whole number. The file is damaged")
    windowed = _windowed(header, f"{key}_pattern", layers) if window else (False,) * layers
    return {
        "window": window if any(windowed) else None,
        "windowed": windowed if any(windowed) else None,
        "local_rope_theta": shortest_float(number("rope.freq_base_swa", rope.DEFAULT_THETA)),
        "embedding_scale": width**0.5,
        "attention_scale": gemma_attention_scale(layers, width, heads, head_dim),
    }


def _context(header: GGUFHeader, family: Family, stated: int, scaling: rope.Scaling | None) -> int:
    """The tokens up to which llama.cpp and transformers compute the same (see `rope` for longrope)."""
    if scaling and rope.LONG in scaling:
        stated = min(stated, scaling[rope.ORIGINAL])
    # llama.cpp reads phi3's window and sees every key all the same; up to its length that makes no difference.
    return (
        min(stated, header.get(f"{family.architecture}.attention.sliding_window", int, 0) or stated)
        if family.name == "phi3"
        else stated
    )


def _windowed(header: GGUFHeader, key: str, layers: int) -> tuple[bool, ...]:
    """Which layers have a window: the file's list, its number (every so manieth has none), or gemma3's usual number."""
    if key in header.arrays:
        flags = header.flags(key)
        if len(flags) != layers:
            raise InputError(f"{header.path}: {key} has {len(flags)} elements for {layers} layers; the file is damaged")
        return tuple(flags)
    every = header.get(key, int, GEMMA_PATTERN)
    if every < 1:
        raise InputError(f"{header.path}: {key} is {every}; it must be a whole number above 0. The file is damaged")
    return tuple((index + 1) % every != 0 for index in range(layers))


def _scaling(header: GGUFHeader, family: Family, theta: float, rotary_dim: int) -> rope.Scaling | None:
    path, prefix = header.path, f"{family.architecture}.rope.scaling"
    kind = header.get(f"{prefix}.type", str, "none")
    factor = header.get(f"{prefix}.factor", float, header.get(f"{family.architecture}.rope.scale_linear", float, 1.0))
    original = header.get(
        f"{prefix}.original_context_length", int, header.get(f"{family.architecture}.context_length", int, 0)
    )
    if ROPE_LONG in header.tensors or ROPE_SHORT in header.tensors:
        kind = "longrope"  # which llama.cpp's converter leaves unsaid
    if kind not in ("none", *(k for k in family.rope if k not in ("default", "llama3"))):
        raise InputError(
            f"{path}: rope scaling {kind!r} isn't supported for {family.name}; it must be one of "
            f"{', '.join(family.rope)}"
        )
    if kind == "yarn":
        odd = [
            key
            for key in ("yarn_ext_factor", "attn_factor", "yarn_log_multiplier")
            if f"{prefix}.{key}" in header.scalars
        ]
        if odd or factor < 1 or original < 1:
            raise InputError(
                f"{path}: {prefix}.{odd[0] if odd else 'factor'} isn't yarn's usual one, which alone is supported"
            )
        return {"rope_type": "yarn", "factor": shortest_float(factor), rope.ORIGINAL: original}
    if kind == "longrope":
        factors = {
            key: _floats(header, name, rotary_dim // 2)
            for key, name in ((rope.SHORT, ROPE_SHORT), (rope.LONG, ROPE_LONG))
        }
        attention = header.get(f"{prefix}.attn_factor", float, 1.0)
        if original < 1 or not 0 < attention < math.inf:
            raise InputError(
                f"{path}: {prefix}.original_context_length is {original} and attn_factor {attention}; they "
                "must be above 0"
            )
        short = {key: [shortest_float(number) for number in numbers] for key, numbers in factors.items()}
        return {
            "rope_type": "longrope",
            **short,
            rope.ORIGINAL: original,
            "attention_factor": shortest_float(attention),
        }
    if ROPE_FREQS not in header.tensors:
        return {"rope_type": "linear", "factor": shortest_float(factor)} if factor not in (0.0, 1.0) else None
    if "llama3" not in family.rope:
        raise InputError(
            f"{path}: holds {ROPE_FREQS}, which llama.cpp doesn't apply to {family.name} models; the file "
            "isn't a plain one"
        )
    stated = header.get(rope.STATED_KEY, str)
    try:
        told = rope.from_config(path, {"rope_parameters": json.loads(stated)}).scaling if stated else None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: {rope.STATED_KEY} isn't JSON; the file is damaged") from error
    numbers = _floats(header, ROPE_FREQS, rotary_dim // 2)
    scaling = rope.scaling_of_factors(
        theta, rotary_dim, numbers, told if told and told["rope_type"] == "llama3" else None
    )
    if scaling is None:
        raise InputError(
            f"{path}: {ROPE_FREQS} is neither Llama 3.1's nor 3.2's scaling; take the model's Hugging Face folder"
        )
    return scaling


def _floats(header: GGUFHeader, name: str, count: int) -> list[float]:
    tensor = header.tensors.get(name)
    if tensor is None:
        raise InputError(f"{header.path}: tensor {name} is missing; the file is damaged or holds only part of a model")
    if tensor.type_name != "f32" or tensor.shape != (count,):
        raise InputError(f"{header.path}: {name} is {tensor.type_name} {list(tensor.shape)}; it must be f32 [{count}]")
    with header.path.open("rb") as file:
        file.seek(tensor.offset)
        return list(struct.unpack(f"<{count}f", file.read(tensor.size)))


def _check_tensors(header: GGUFHeader, shape: ModelShape) -> None:
    left = dict(header.tensors)
    for name in (ROPE_FREQS, ROPE_LONG, ROPE_SHORT):
        left.pop(name, None)
    names = gguf_names(shape)
    for tensor in shape.tensors():
        name = names[tensor.name]
        found = left.pop(name, None)
        if found is None:
            raise InputError(
                f"{header.path}: tensor {name} is missing; the file is damaged or holds only part of a model"
            )
        if found.shape != tensor.dimensions:
            wanted = list(tensor.dimensions)
            raise InputError(
                f"{header.path}: tensor {name} has shape {list(found.shape)}, by the file's figures it must be {wanted}"
            )
    if left:
        plain = f"no plain {shape.family} has; supported are {shape.family} models without additions"
        raise InputError(f"{header.path}: holds {next(iter(left))}, which {plain}")
