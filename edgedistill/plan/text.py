"""The plan as a page of text for a terminal: prose wrapped at 100 columns or fewer, the table as wide as it is."""

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING

from edgedistill.plan.choose import choice_lines
from edgedistill.plan.device import MixPlan
from edgedistill.plan.kept import kept_words
from edgedistill.plan.rival import STAGES
from edgedistill.show import NATS, show, show_bytes, show_count, show_rate, show_seconds, visible, wrapped

if TYPE_CHECKING:
    from edgedistill.plan.types import Plan, StageEstimate


WIDTH = 100
NAMED_SHARE = 0.04  # of the time, from which a stage is named; `--dry-run` lists all


def plan_text(plan: "Plan", width: int = WIDTH) -> str:
    """What would be built, what it weighs, how fast it could be, what building it takes, what was rejected, whether it
    fits.
    """
    teacher, student, target = plan.facts, plan.student, plan.target
    origin = teacher if plan.start is None else plan.start.facts
    head = [
        (
            f"Teacher   {teacher.name}: {show_count(teacher.shape.parameters)} parameters, "
            f"{teacher.shape.layers} layers ({teacher.source})"
        ),
        (
            f"Student   {show_count(student.parameters)} parameters, {kept_words(student, origin.shape)}, vocabulary "
            f"{show_count(student.vocab)}{_of_tokens(plan)}"
        ),
        f"Target    {target.name}: {target.title}, {show_bytes(target.memory.usable)} for the model",
        f"Recipe    {plan.recipe.name}: {_listed(plan.mixes)} as {_listed(plan.recipe.export)}",
        *_start(plan),
        *_context(plan),
        *_rival(plan),
        "",
    ]
    rest = [
        "",
        (
            f"  RAM = weights + KV cache (layers x kv heads x head dim x 2 x {plan.context} tokens x 2 bytes) + "
            "compute buffers + runtime"
        ),
        *(f"  {name}: {mix.ram_text}" for name, mix in plan.mixes.items()),
        (
            "  decode <= bandwidth x efficiency / (weight bytes read a token, each at its format's measured cost, + KV "
            "bytes), prefill <= compute x efficiency / (2 x parameters):"
        ),
        "  upper bounds; a fixed cost a token comes on top, which small models feel most.",
        f"  bandwidth {_rate(target.bandwidth.best, 'B/s')} ({target.bandwidth.source})",
        (
            f"  efficiency {_share(target.efficiency.decode)} decode, {_share(target.efficiency.prefill)} prefill "
            f"({target.efficiency.source})"
        ),
        f"  compute {_rate(target.compute.flops, 'FLOP/s')} ({target.compute.source})",
        "",
        "Grids",
        *(line for name in plan.mixes for line in _grids(plan, name)),
        "",
        "Build on this machine (estimates)",
        *_build(plan),
        "",
        *_choice(plan),
        "Rejected",
        *_rejected(plan),
        "",
        *(f"Note: {note}." for note in plan.notes),
        _verdict(plan),
    ]
    wrap = partial(_wrap, width=min(width, WIDTH))
    return visible("\n".join([*map(wrap, head), *_table(plan), *map(wrap, rest)]))


def _start(plan: "Plan") -> list[str]:
    """What the student starts from, where that isn't the teacher."""
    if plan.start is None:
        return []
    facts = plan.start.facts
    words = "the teacher's words" if plan.start.other_words is None else "words of its own"
    licence = facts.license or "licence not known"
    before = f", made from {', '.join(plan.start.lineage)}" if plan.start.lineage else ""
    return [f"Start     {facts.name}: {words}, {licence} ({facts.source}){before}"]


def _of_tokens(plan: "Plan") -> str:
    """Of how many tokens the student keeps some."""
    origin = plan.facts if plan.start is None else plan.start.facts
    return f" of {show_count(origin.shape.vocab)}" if plan.recipe.vocabulary is not None else ""


def _context(plan: "Plan") -> list[str]:
    stated = (plan.facts if plan.start is None else plan.start.facts).stated_context
    if stated is None:
        return []
    kept = f"Context   {show_count(plan.student.context)} of the model's {show_count(stated)} tokens"
    return [
        (
            f"{kept}: beyond them llama.cpp computes otherwise than the model's own code (its sliding window or "
            "its scaling of positions)"
        )
    ]


def _rival(plan: "Plan") -> list[str]:
    """The teacher in the student's bytes, and what making it takes."""
    rival = plan.rival
    if rival is None:
        return []
    seconds = sum(plan.build.stages[name].seconds for name in STAGES)
    size = f"{show_bytes(rival.planned.file_bytes)}, {show_bytes(rival.planned.ram_bytes)} of memory"
    excess = f", {show_bytes(rival.excess_bytes)} more than the student's file" if rival.excess_bytes else ""
    lines = [
        f"Rival     the {rival.label} ({size}{excess}): what the student must beat. Making it takes "
        f"{show_seconds(seconds)} of the build; rival: false in the recipe leaves it out"
    ]
    if rival.student_loss is not None:
        own, theirs = show(rival.student_loss, NATS), show(rival.loss, NATS)
        losses = f"{own} nats a token for the student, {theirs} for the rival"
        wins = "the student is predicted to lose" if rival.student_loss > rival.loss else "the student is ahead"
        lines.append(f"          predicted KL to the teacher on general text: {losses}; {wins}")
    return lines


def _wrap(line: str, width: int) -> str:
    return "\n".join(wrapped(line, width, 4))


def _table(plan: "Plan") -> list[str]:
    rows: list[tuple[str, ...]] = [("", "file", "RAM", "decode", "decode, full context", "prefill", "fits")]
    rows += [_row(name, mix) for name, mix in plan.mixes.items()]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def _row(name: str, mix: MixPlan) -> tuple[str, ...]:
    return (
        name,
        show_bytes(mix.file_bytes),
        show_bytes(mix.ram_bytes),
        _speed(mix.predicted_decode_tokens_per_s),
        _speed(mix.predicted_decode_full_context_tokens_per_s),
        _speed(mix.predicted_prefill_tokens_per_s),
        "yes" if mix.fits else f"no: {mix.why}",
    )


def _grids(plan: "Plan", mix: str) -> list[str]:
    """'q4_0: 182 linear in q4_0; 1 embedding in q8_0; 53 norm in f32' from the formats of the tensors, and what fell
    back.
    """
    planned = plan.mixes[mix]
    if planned.fitted is not None:
        allowed, choices = show_bytes(planned.fitted.most_bytes), ", ".join(planned.fitted.grids)
        return [
            f"  {mix}: chosen by cost from {choices}, as far as rows divide, so that all weights take at most "
            f"{allowed}; "
            f"{planned.fitted.choices} choices for {planned.fitted.groups} groups of tensors"
        ]
    kinds: dict[tuple[str, str], int] = {}
    for tensor in plan.student.tensors():
        key = (tensor.kind, plan.formats[mix][tensor.name])
        kinds[key] = kinds.get(key, 0) + 1
    tied = " (also the output layer)" if plan.student.tied else ""
    counts = "; ".join(
        f"{count} {kind}{tied if kind == 'embedding' else ''} in {name}" for (kind, name), count in kinds.items()
    )
    lines = [f"  {mix}: {counts}"]
    total = sum(len(group.tensors) for group in planned.fallbacks)
    fell = "; ".join(f"{len(g.tensors)} from {g.wanted} to {g.stored}, {g.why}" for g in planned.fallbacks)
    if total:
        lines.append(f"    {total} tensor{'s' if total > 1 else ''} fell back: {fell}")
    return lines


def _choice(plan: "Plan") -> list[str]:
    """What the planner chose, and what it chose it from."""
    if plan.choice is None:
        return []
    return ["Chosen", *choice_lines(plan.choice, plan.facts), ""]


def _rejected(plan: "Plan") -> list[str]:
    """A line each for what has a reason of its own; one for all mixes that nobody asked for."""
    unasked = [other for other in plan.alternatives if other.mix and other.fits]
    lines = [f"  {o.what} ({show_bytes(o.file_bytes)}): {o.why}" for o in plan.alternatives if o not in unasked]
    if unasked:
        sizes = ", ".join(f"{other.mix} {show_bytes(other.file_bytes)}" for other in unasked)
        lines.append(f"  {plan.student.layers} layers in mixes that the recipe doesn't ask for: {sizes}")
    return lines


def _build(plan: "Plan") -> list[str]:
    build, machine = plan.build, plan.machine
    long = {name: stage for name, stage in build.stages.items() if stage.seconds >= NAMED_SHARE * build.seconds}
    stages = [f"{name} {show_seconds(stage.seconds)}{_tokens(stage)}" for name, stage in long.items()]
    rest = build.seconds - sum(stage.seconds for stage in long.values())
    stages.append(f"{len(build.stages) - len(long)} others {show_seconds(rest)}")
    return [
        f"  time    {show_seconds(build.seconds)} in {len(build.stages)} stages: {', '.join(stages)}",
        f"          assuming {build.assumption}",
        f"  memory  {show_bytes(build.ram_bytes)}{_of(machine.free_memory_bytes)}",
        *_gpu(plan),
        f"  disk    {show_bytes(build.disk_bytes)}{_of(machine.free_disk_bytes)}",
    ]


def _gpu(plan: "Plan") -> list[str]:
    """The GPU that torch computes on; or why it is left alone."""
    place = plan.machine.place
    if place.gpu is None:
        return [] if place.why is None else [f"  device  {place.words()}"]
    lines = [f"  device  {place.words()}"]
    if plan.gpu is not None:
        lines.append(f"          {plan.gpu.stage} needs about {show_bytes(plan.gpu.bytes)} of its memory")
    return [*lines, "          llama.cpp runs on the processor, and hours are the processor's"]


def _tokens(stage: "StageEstimate") -> str:
    return f" ({show_count(stage.tokens)} tokens)" if stage.tokens else ""


def _verdict(plan: "Plan") -> str:
    fitting = [name for name, mix in plan.mixes.items() if mix.fits]
    if plan.troubles():
        return f"It does not fit {plan.target.name if not fitting else 'this machine'}."
    others = [name for name in plan.mixes if name not in fitting]
    fit = f"{_listed(fitting)} fit{'s' if len(fitting) == 1 else ''} {plan.target.name}"
    if not others:
        return f"{fit}."
    return f"{fit}; {_listed(others)} would be built too, but {'does' if len(others) == 1 else 'do'} not."


def _listed(names: Iterable[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def _of(free: int | None) -> str:
    return f" of {show_bytes(free)} free" if free is not None else ""


def _speed(rate: float | None) -> str:
    return "no figure" if rate is None else f"<= {show_rate(rate)}"


def _rate(value: float | None, unit: str) -> str:
    if value is None:
        return "unknown"
    factor, prefix = (1e12, "T") if value >= 1e12 else (1e9, "G")
    return f"{value / factor:.1f} {prefix}{unit}"


def _share(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2f}"
