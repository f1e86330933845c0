"""The plan as a page of text for a terminal: prose wrapped at 100 columns, the table as wide as it is."""

import textwrap
from typing import TYPE_CHECKING

from edgedistill.plan.device import MixPlan
from edgedistill.units import show_bytes, show_number, show_seconds

if TYPE_CHECKING:
    from edgedistill.plan.types import Plan


WIDTH = 100


def plan_text(plan: "Plan") -> str:
    """What would be built, what it weighs, how fast it could be, what building it takes, what was rejected, whether it fits."""
    teacher, student, target = plan.facts, plan.student, plan.target
    kept = f"{student.layers} of {teacher.shape.layers} layers"
    head = [
        f"Teacher   {teacher.name}: {show_number(teacher.shape.parameters)} parameters, {teacher.shape.layers} layers ({teacher.source})",
        f"Student   {show_number(student.parameters)} parameters, {kept}, width {student.width}, vocabulary {show_number(student.vocab)}",
        f"Target    {target.name}: {target.title}, {show_bytes(target.memory.usable)} for the model",
        f"Recipe    {plan.recipe.name}: {' and '.join(plan.mixes)} as {' and '.join(plan.recipe.export)}",
        "",
    ]
    rest = [
        "",
        f"  RAM = weights + KV cache (layers x kv heads x head dim x 2 x {plan.context} tokens x 2 bytes) + compute buffers + runtime",
        *(f"  {name}: {mix.ram_text}" for name, mix in plan.mixes.items()),
        "  decode <= bandwidth x efficiency / (weight bytes read a token + KV bytes), prefill <= compute x efficiency / (2 x parameters):",
        "  upper bounds; a fixed cost a token comes on top, which small models feel most.",
        f"  bandwidth {_rate(target.bandwidth.best, 'B/s')} ({target.bandwidth.source})",
        f"  efficiency {_share(target.efficiency.decode)} decode, {_share(target.efficiency.prefill)} prefill ({target.efficiency.source})",
        f"  compute {_rate(target.compute.flops, 'FLOP/s')} ({target.compute.source})",
        "",
        "Grids",
        *(f"  {name}: {_grids(plan, name)}" for name in plan.mixes),
        "",
        "Build on this machine (estimates)",
        *_build(plan),
        "",
        "Rejected",
        *(f"  {other['what']} ({show_bytes(other['file_bytes'])}): {other['why']}" for other in plan.alternatives),
        "",
        _verdict(plan),
    ]
    return "\n".join([*map(_wrap, head), *_table(plan), *map(_wrap, rest)])


def _wrap(line: str) -> str:
    indent = " " * (len(line) - len(line.lstrip()) + 4)
    return textwrap.fill(line, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _table(plan: "Plan") -> list[str]:
    rows: list[tuple[str, ...]] = [("", "file", "RAM", "decode", "decode, full context", "prefill", "fits")]
    rows += [_row(name, mix) for name, mix in plan.mixes.items()]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _row(name: str, mix: MixPlan) -> tuple[str, ...]:
    return (
        name, show_bytes(mix.file_bytes), show_bytes(mix.ram_bytes), _speed(mix.predicted_decode_tokens_per_s),
        _speed(mix.predicted_decode_full_context_tokens_per_s), _speed(mix.predicted_prefill_tokens_per_s),
        "yes" if mix.fits else f"no: {mix.why}",
    )  # fmt: skip


def _grids(plan: "Plan", mix: str) -> str:
    """'linear layers 182 x q4_0; embedding q8_0; norms 53 x f32' from the formats of the tensors."""
    kinds: dict[tuple[str, str], int] = {}
    for tensor in plan.student.tensors():
        key = (tensor.kind, plan.formats[mix][tensor.name])
        kinds[key] = kinds.get(key, 0) + 1
    tied = " (also the output layer)" if plan.student.tied else ""
    return "; ".join(f"{count} {kind}{tied if kind == 'embedding' else ''} in {name}" for (kind, name), count in kinds.items())


def _build(plan: "Plan") -> list[str]:
    build, machine = plan.build, plan.machine
    stages = ", ".join(
        f"{stage} {show_seconds(build.seconds_by_stage[stage])} ({show_number(tokens)} tokens)" for stage, tokens in build.tokens.items()
    )
    return [
        f"  time    {show_seconds(build.seconds)}: {stages}",
        f"          assuming {build.assumption}",
        f"  memory  {show_bytes(build.ram_bytes)}{_of(machine.get('free_memory_bytes'))}",
        f"  disk    {show_bytes(build.disk_bytes)}{_of(machine.get('free_disk_bytes'))}",
    ]


def _verdict(plan: "Plan") -> str:
    fitting = [name for name, mix in plan.mixes.items() if mix.fits]
    if plan.troubles():
        return f"It does not fit {plan.target.name if not fitting else 'this machine'}."
    others = [name for name in plan.mixes if name not in fitting]
    return f"{' and '.join(fitting)} fit{'s' if len(fitting) == 1 else ''} {plan.target.name}" + (
        f"; {' and '.join(others)} would be built too, but {'does' if len(others) == 1 else 'do'} not." if others else "."
    )


def _of(free: int | None) -> str:
    return f" of {show_bytes(free)} free" if free is not None else ""


def _speed(rate: float | None) -> str:
    return "no figure" if rate is None else f"<= {show_number(rate)} tokens/s"


def _rate(value: float | None, unit: str) -> str:
    if value is None:
        return "unknown"
    factor, prefix = (1e12, "T") if value >= 1e12 else (1e9, "G")
    return f"{value / factor:.1f} {prefix}{unit}"


def _share(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2f}"
