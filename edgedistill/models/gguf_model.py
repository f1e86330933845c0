"""A GGUF file before its weights are loaded: its model's shape, read from the header. No torch.

Every tensor must be one that the shape calls for, with that shape, so a model with experts or another addition is
refused, never run wrong. The family is that of the file's architecture: llama.cpp runs a mistral as a llama, and so it
is read back as one.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from edgedistill.errors import InputError
from edgedistill.facts import ModelShape
from edgedistill.families import FAMILIES, Family, family_of
from edgedistill.models import rope
from edgedistill.models.gguf_header import GGUFHeader, shortest_float
from edgedistill.models.gguf_names import ROPE_FREQS, ROPE_LONG, ROPE_SHORT, gguf_names
from edgedistill.models.gguf_rope import rope_scaling
from edgedistill.models.hf_folder import GEMMA_PATTERN, MAX_LAYERS, SUPPORTED, check_shape, gemma_attention_scale

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
        trouble = f"architecture is {architecture!r}"
        if not architecture:
            trouble = "no general.architecture: it isn't a language model"
        raise InputError(f"{path}: {trouble}; supported architectures are {', '.join(SUPPORTED)}")
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
        if not rope.LEAST < value < rope.MOST:
            raise InputError(
                f"{path}: {architecture}.{key} is {value!r}; it must be a number above 0. The file is damaged"
            )
        return float(value)

    if size("block_count") > MAX_LAYERS:
        raise InputError(
            f"{path}: {architecture}.block_count is {size('block_count')}; llama.cpp runs at most {MAX_LAYERS} layers. "
            "The file is damaged"
        )
    layers, width, heads = size("block_count"), size("embedding_length"), size("attention.head_count")
    head_dim = size("attention.key_length", width // heads)
    rotary_dim = size("rope.dimension_count", head_dim)
    value_dim = size("attention.value_length", head_dim)
    partly_rotated = family.fused and rotary_dim < head_dim
    for key, stated, sound in (
        ("attention.value_length", value_dim, value_dim == head_dim),
        ("rope.dimension_count", rotary_dim, rotary_dim == head_dim or partly_rotated),
    ):
        if not sound:
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
    if not (rope.LEAST < theta < rope.MOST and 0 < eps < 1):
        raise InputError(
            f"{path}: rope base {theta} and norm epsilon {eps} must be above 0, and epsilon small. The file is damaged"
        )
    scaling = rope_scaling(header, family, theta, rotary_dim)
    output_bias, mlp_bias = (
        bool(family.bias_options) and f"blk.0.{name}.bias" in header.tensors for name in ("attn_output", "ffn_down")
    )
    family_fields = _family_fields(header, family, _Sizes(layers, width, heads, head_dim), number)
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
        **family_fields,
        qkv_bias=family.qkv_bias or output_bias,
        output_bias=output_bias,
        mlp_bias=mlp_bias,
    )
    check_shape(path, shape)
    _check_tensors(header, shape)
    return shape


def stored_shape(shape: ModelShape) -> ModelShape:
    """The shape that `gguf_shape` reads from a file of this one; GGUF holds some figures in float32."""
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


def _stored_number(key: str, value: Any) -> Any:
    if isinstance(value, list):
        return [shortest_float(number) for number in value]
    if isinstance(value, float) and key != rope.ORIGINAL:
        return shortest_float(value)
    return value


def _refuse_foreign(header: GGUFHeader, family: Family) -> None:
    if header.get(f"{family.architecture}.expert_count", int, 0):
        raise InputError(
            f"{header.path}: a mixture of experts isn't supported; supported are plain {family.name} models"
        )
    foreign = list(FOREIGN)
    if not family.windows and family.name != "phi3":  # for phi3's window see _context
        foreign.append("attention.sliding_window")
    for key in foreign:
        full = f"{family.architecture}.{key}"
        if header.scalars.get(full) or full in header.arrays:
            raise InputError(
                f"{header.path}: {full} is set, which no plain {family.name} has; models with additions "
                "aren't supported"
            )


@dataclass(frozen=True)
class _Sizes:
    """A model's sizes in elements, as the keys of the file state them."""

    layers: int
    width: int
    heads: int
    head_dim: int


def _family_fields(
    header: GGUFHeader, family: Family, sizes: _Sizes, number: Callable[[str, float], float]
) -> dict[str, Any]:
    """Fields of the shape that only some families have."""
    if family.name == "granite":
        return {
            "embedding_scale": shortest_float(number("embedding_scale", 1.0)),
            "residual_scale": shortest_float(number("residual_scale", 1.0)),
            "attention_scale": shortest_float(number("attention.scale", sizes.head_dim**-0.5)),
            "logit_scale": 1 / shortest_float(number("logit_scale", 1.0)),
        }
    if family.no_rope_every is not None:
        return {"no_rope": tuple((index + 1) % family.no_rope_every == 0 for index in range(sizes.layers))}
    if not family.windows:
        return {}
    key = f"{family.architecture}.attention.sliding_window"
    window = header.get(key, int, 0)
    if not 0 <= window < 1 << 31:
        raise InputError(f"{header.path}: {key} is {window}; it must be a whole number. The file is damaged")
    fields: dict[str, Any] = {
        "window": None,
        "windowed": None,
        "local_rope_theta": shortest_float(number("rope.freq_base_swa", rope.DEFAULT_THETA)),
        "embedding_scale": sizes.width**0.5,
        "attention_scale": gemma_attention_scale(sizes.layers, sizes.width, sizes.heads, sizes.head_dim),
    }
    if window:
        windowed = _windowed(header, f"{key}_pattern", sizes.layers)
        if any(windowed):
            fields |= {"window": window, "windowed": windowed}
    return fields


def _context(header: GGUFHeader, family: Family, stated: int, scaling: rope.Scaling | None) -> int:
    """The tokens up to which llama.cpp and transformers compute the same (see `rope` for longrope)."""
    if scaling and rope.LONG in scaling:
        stated = min(stated, scaling[rope.ORIGINAL])
    # llama.cpp reads phi3's window and sees every key all the same; up to its length that makes no difference.
    if family.name == "phi3":
        window = header.get(f"{family.architecture}.attention.sliding_window", int, 0)
        return min(stated, window or stated)
    return stated


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


def _check_tensors(header: GGUFHeader, shape: ModelShape) -> None:
    left = dict(header.tensors)
    for name in (ROPE_FREQS, ROPE_LONG, ROPE_SHORT):
        left.pop(name, None)
    names = gguf_names(shape)
    for tensor in shape.tensors():
        name = names[tensor.name]
        stored = left.pop(name, None)
        if stored is None:
            raise InputError(
                f"{header.path}: tensor {name} is missing; the file is damaged or holds only part of a model"
            )
        if stored.shape != tensor.dimensions:
            expected = list(tensor.dimensions)
            raise InputError(
                f"{header.path}: tensor {name} has shape {list(stored.shape)}; by the file's figures it must be "
                f"{expected}"
            )
    if left:
        plain = f"no plain {shape.family} has; supported are {shape.family} models without additions"
        raise InputError(f"{header.path}: holds {next(iter(left))}, which {plain}")
