"""The rope scaling that a GGUF file states, in its keys or as a tensor of factors. No torch."""

import json
import math
import struct

from edgedistill.errors import InputError
from edgedistill.families import Family
from edgedistill.models import rope
from edgedistill.models.gguf_header import GGUFHeader, shortest_float
from edgedistill.models.gguf_names import ROPE_FREQS, ROPE_LONG, ROPE_SHORT

YARN_EXTRAS = ("yarn_ext_factor", "attn_factor", "yarn_log_multiplier")


def rope_scaling(header: GGUFHeader, family: Family, theta: float, rotary_dim: int) -> rope.Scaling | None:
    path, prefix = header.path, f"{family.architecture}.rope.scaling"
    kind = header.get(f"{prefix}.type", str, "none")
    factor = header.get(f"{prefix}.factor", float, header.get(f"{family.architecture}.rope.scale_linear", float, 1.0))
    original = header.get(
        f"{prefix}.original_context_length", int, header.get(f"{family.architecture}.context_length", int, 0)
    )
    if ROPE_LONG in header.tensors or ROPE_SHORT in header.tensors:
        kind = "longrope"  # llama.cpp's converter doesn't write the type
    if kind != "none" and (kind not in family.rope or kind in ("default", "llama3")):
        raise InputError(
            f"{path}: rope scaling {kind!r} isn't supported for {family.name}; it must be one of "
            f"{', '.join(family.rope)}"
        )
    if kind == "yarn":
        unusual = [key for key in YARN_EXTRAS if f"{prefix}.{key}" in header.scalars]
        if factor < 1 or original < 1:
            unusual.append("factor")
        if unusual:
            raise InputError(f"{path}: {prefix}.{unusual[0]} isn't yarn's usual one, which alone is supported")
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
        if factor in (0.0, 1.0):
            return None
        return {"rope_type": "linear", "factor": shortest_float(factor)}
    if "llama3" not in family.rope:
        raise InputError(
            f"{path}: holds {ROPE_FREQS}, which llama.cpp doesn't apply to {family.name} models; the file "
            "isn't a plain one"
        )
    stated = header.get(rope.STATED_KEY, str)
    expected: rope.Scaling | None = None
    try:
        if stated:
            expected = rope.from_config(path, {"rope_parameters": json.loads(stated)}).scaling
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: {rope.STATED_KEY} isn't JSON; the file is damaged") from error
    numbers = _floats(header, ROPE_FREQS, rotary_dim // 2)
    if expected and expected["rope_type"] != "llama3":
        expected = None
    scaling = rope.scaling_of_factors(theta, rotary_dim, numbers, expected)
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
