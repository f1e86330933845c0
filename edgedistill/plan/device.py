"""What one mix of a student weighs on a device, and the tokens/s that the device's figures allow. Bytes, seconds,
tokens.

    RAM      = weights + KV cache (layers x kv heads x head dim x 2 x context x 2 bytes) + compute buffers + runtime
    decode  <= bandwidth x efficiency / (weight bytes read a token, each times its format's cost, + KV bytes there)
    prefill <= compute x efficiency / (2 x parameters)

Speeds are upper bounds: a fixed cost a token, which small models feel most, comes on top of the bytes. On a processor a
format's cost is a measured multiple (speed_rule.py); on a graphics card all count alike.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from edgedistill.config.target import Target
from edgedistill.facts import EMBEDDING, ModelFacts, ModelShape
from edgedistill.formats import NumberFormat
from edgedistill.mixes import Mix, assign_formats, fallbacks, fit_groups, format_bytes, mix_bytes, size_bytes
from edgedistill.plan.speed_rule import cost_of
from edgedistill.results.limits import Figures, first_token_s, troubles
from edgedistill.results.planned import Limits, TargetFacts
from edgedistill.show import show_bytes

# llama.cpp sets aside the logits of a whole micro-batch and about two activations of the model's width beside them, in
# float32: 98.2 MiB for SmolLM2-135M, where its log says 99.4.
MICRO_BATCH_TOKENS = 512
# Assumed, on the safe side: code, tokenizer with 49k tokens, the process itself.
RUNTIME_BYTES = 60 * 2**20
KV_BYTES_PER_ELEMENT = 2  # float16
# A GGUF file's vocabulary: text, type and merge of a token; 1.8 MB at 49,152 tokens.
HEADER_BYTES_PER_TOKEN = 36


@dataclass(frozen=True)
class FallbackGroup:
    """Tensors that are not stored as the mix intends: the format intended, the one that stores them, the length of
    their rows, which decided it, and their names.
    """

    wanted: str
    stored: str
    cols: int
    why: str
    tensors: list[str]


@dataclass(frozen=True)
class FittedMix:
    """A mix whose grids are chosen by measurement: bytes allowed, candidates, groups of tensors, choices to measure."""

    most_bytes: int
    grids: list[str]
    groups: int
    choices: int


@dataclass(frozen=True)
class Alternative:
    """What was not planned, its size and speed, and why not."""

    what: str
    mix: str | None
    file_bytes: int
    ram_bytes: int
    fits: bool
    predicted_decode_tokens_per_s: float | None
    why: str


@dataclass(frozen=True)
class MixPlan:
    """One mix on the device. Speeds are None where the target has no figure for them."""

    mix: str
    grids: dict[str, int]  # number format -> tensors stored in it; none where a fitted mix has yet to choose
    fallbacks: list[FallbackGroup]
    fitted: FittedMix | None
    weight_bytes: int
    file_bytes: int
    kv_bytes: int
    compute_bytes: int
    runtime_bytes: int
    ram_bytes: int
    predicted_decode_tokens_per_s: float | None  # short context, where bench measures it
    predicted_decode_full_context_tokens_per_s: float | None
    predicted_prefill_tokens_per_s: float | None
    predicted_ttft_s: float | None
    fits: bool
    why: str

    def to_dict(self) -> dict[str, Any]:
        """As JSON types, with what it comes from."""
        return {**asdict(self), "ram_formula": self.ram_text}

    @property
    def ram_text(self) -> str:
        """The sum behind `ram_bytes`."""
        return (
            f"{show_bytes(self.weight_bytes)} weights + {show_bytes(self.kv_bytes)} KV cache + "
            f"{show_bytes(self.compute_bytes)} compute buffers + {show_bytes(self.runtime_bytes)} runtime"
        )


def plan_mix(shape: ModelShape, mix: Mix, target: Target, vocabulary: int) -> MixPlan:
    """Weigh and time one mix of a student on a target.

    Args:
        shape: the student.
        mix: one that is fitted is weighed at the most that it may be.
        target: the device.
        vocabulary: tokens in the tokenizer.
    Raises:
        InputError: a row doesn't divide into the blocks of its format, or the mix can't be made from this student.
    """
    formats = {} if mix.unfitted else assign_formats(shape, mix)
    grids: dict[str, int] = {}
    for number_format in formats.values():
        grids[number_format.name] = grids.get(number_format.name, 0) + 1
    context = kv_tokens(shape, target)
    weight_bytes = format_bytes(shape, formats) if formats else mix_bytes(shape, mix)
    file_bytes = weight_bytes + vocabulary * HEADER_BYTES_PER_TOKEN
    kv_bytes = shape.kv_bytes(context, KV_BYTES_PER_ELEMENT)
    compute_bytes = min(MICRO_BATCH_TOKENS, context) * (shape.vocab + 2 * shape.width) * 4
    ram_bytes = weight_bytes + kv_bytes + compute_bytes + RUNTIME_BYTES

    table = next(t for t in shape.tensors() if t.name == EMBEDDING)
    read = _read_cost(shape, formats, weight_bytes, target)
    decode = _decode(target, read)
    decode_full = _decode(target, read + kv_bytes)
    prefill = _prefill(target, shape.parameters - (0 if shape.tied else table.size))
    ttft = first_token_s(prefill, decode)
    clauses = troubles(target_facts(target, context), Figures(file_bytes, ram_bytes, decode_full, ttft))
    why = "; ".join(clauses) or f"{show_bytes(ram_bytes)} of {show_bytes(target.memory.usable)} usable memory"
    return MixPlan(
        mix.name,
        grids,
        _fallbacks(shape, mix),
        _fitted(shape, mix),
        weight_bytes,
        file_bytes,
        kv_bytes,
        compute_bytes,
        RUNTIME_BYTES,
        ram_bytes,
        decode,
        decode_full,
        prefill,
        ttft,
        not clauses,
        why,
    )


def target_facts(target: Target, context: int) -> TargetFacts:
    """A target as reports and limits know it; `context`: tokens planned for."""
    return TargetFacts(
        name=target.name,
        title=target.title,
        connection=target.connection,
        usable_memory_bytes=target.memory.usable,
        context_tokens=context,
        limits=Limits.from_json(target.limits.model_dump(mode="json")),
    )


def kv_tokens(shape: ModelShape, target: Target) -> int:
    """The context that is planned for: the target's, or the model's where that is shorter."""
    return min(target.limits.context, shape.context)


def _fallbacks(shape: ModelShape, mix: Mix) -> list[FallbackGroup]:
    """What fell back, by the format intended, the one that stores it and the row length that decided."""
    groups: dict[tuple[str, str, int], FallbackGroup] = {}
    for fallback in () if mix.unfitted else fallbacks(shape, mix):
        intended, stored, cols = fallback.intended, fallback.stored, fallback.cols
        key = (intended.name, stored.name, cols)
        if key not in groups:
            groups[key] = FallbackGroup(*key, f"rows of {cols} don't divide by {intended.block}", [])
        groups[key].tensors.append(fallback.tensor)
    return list(groups.values())


def _fitted(shape: ModelShape, mix: Mix) -> FittedMix | None:
    if mix.size is None:
        return None
    groups = fit_groups(shape, mix)
    choices = sum(len(group.formats) for group in groups)
    return FittedMix(size_bytes(shape, mix.size), list(mix.candidates), len(groups), choices)


def rejected(
    facts: ModelFacts, shape: ModelShape, chosen: MixPlan, others: dict[str, MixPlan], whole: MixPlan | None
) -> list[Alternative]:
    """What was not planned, and why: the teacher uncut in the first of the chosen mixes, other built-in mixes of the
    student.
    """
    alternatives = []
    if whole is not None:
        times = f"{whole.file_bytes / chosen.file_bytes:.2f} times the bytes; the recipe asks for"
        if shape == facts.shape.with_layers(shape.layers):
            what, reason = f"all {facts.shape.layers} layers", f"{times} {shape.layers} layers"
        else:
            smaller = "narrower" if shape.layers == facts.shape.layers else "smaller"
            what, reason = "the teacher uncut", f"{times} a {smaller} student"
        alternatives.append(_alternative(f"{chosen.mix}, {what}", None, whole, reason))
    for name, other in sorted(others.items(), key=lambda item: item[1].file_bytes):
        reason = (
            f"{other.file_bytes / chosen.file_bytes:.2g} times the bytes of {chosen.mix}, and the recipe doesn't "
            "ask for it"
        )
        alternatives.append(_alternative(f"{name}, {shape.layers} layers", name, other, reason))
    return alternatives


def _alternative(what: str, mix: str | None, plan: MixPlan, reason: str) -> Alternative:
    return Alternative(
        what=what,
        mix=mix,
        file_bytes=plan.file_bytes,
        ram_bytes=plan.ram_bytes,
        fits=plan.fits,
        predicted_decode_tokens_per_s=plan.predicted_decode_tokens_per_s,
        why=reason if plan.fits else plan.why,
    )


def _read_cost(shape: ModelShape, formats: Mapping[str, NumberFormat], weight_bytes: int, target: Target) -> float:
    """Bytes that a token reads, each times what its format costs.

    An untied embedding gives one row a token; tied, the same table is read whole as the output layer. A mix yet to be
    fitted counts as if all its weights were stored alike.
    """
    efficiency = target.efficiency.decode or 1.0

    def cost(number_format: str | None) -> float:
        return 1.0 if target.gpu is not None else cost_of(number_format, efficiency)

    read = [tensor for tensor in shape.tensors() if shape.tied or tensor.name != EMBEDDING]
    if not formats:
        return weight_bytes * cost(None) * sum(tensor.size for tensor in read) / shape.parameters
    return sum(formats[t.name].tensor_bytes(t.rows, t.cols) * cost(formats[t.name].name) for t in read)


def _decode(target: Target, read_bytes: float) -> float | None:
    bandwidth, share = target.bandwidth.best, target.efficiency.decode
    return None if bandwidth is None or share is None else bandwidth * share / read_bytes


def _prefill(target: Target, parameters: int) -> float | None:
    flops, share = target.compute.flops, target.efficiency.prefill
    return None if flops is None or share is None else flops * share / (2 * parameters)
