"""The distill stage: one phase, which trains a model in float: a student on the teacher's signals and its text, or the
teacher on labelled answers.

The loss is the sum of the phase's terms: divergences from the teacher's k likeliest tokens, cross-entropy on the text,
distances from what is inside the teacher.
The embedding, which a depth-cut student inherits whole, stays frozen: it is a fifth of a small model's weights and of
its training time, and what it knows is not what the cut took away. A student whose tables are cut or projected
(`new_tables` in its student.json) trains them too.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import PreTrainedModel

from edgedistill.config.phase import EASY_FIRST, SHORT_FIRST, Phase
from edgedistill.data.example import Example
from edgedistill.data.packing import counting_sources, make_batch
from edgedistill.data.schedule import Budget, Pool, plan_rows
from edgedistill.data.spread import spread_sources
from edgedistill.distill.step import FIT_STEPS, BlockTarget, StepLoss
from edgedistill.errors import InputError
from edgedistill.losses.objective import TEACHER, TEXT, Objective, ObjectiveTerm, of_recipe
from edgedistill.models.identity import IDENTITY, copy_identity, read_identity
from edgedistill.models.load import load_model, save_model
from edgedistill.progress import Progress
from edgedistill.signals.shards import NEW, SOURCE_NAMES, WRITTEN
from edgedistill.signals.sources import Shared, Source, StoredTopK, Written, views
from edgedistill.train.checkpoints import FOLDER as CHECKPOINTS
from edgedistill.train.forward import batches, compute_type, kept_hidden
from edgedistill.train.loop import TrainSettings, is_whole, remove_checkpoints, train, write_curve
from edgedistill.train.rounds import RoundPlan, Rounds
from edgedistill.train.validation import ValidationLoss, validate_sources

if TYPE_CHECKING:
    from edgedistill.distill.adapter import Adapted

# What a checkpoint is chosen by: the distance from the teacher, or where no term looks at it, from the text.
BY_TEACHER = Objective([ObjectiveTerm(TEACHER, "forward_kl")])
BY_TEXT = Objective([ObjectiveTerm(TEXT, "cross_entropy")])


@dataclass(frozen=True)
class TrainingText:
    """What a phase trains on.

    Attributes:
        training: examples by source, with the signals `ids` and `log_probs` where a term compares with the teacher.
        validation: the same, by source, never trained on.
        place: where in the recipe the phase is, for messages.
        blocks: what of the teacher's blocks is compared; None where no term looks at them.
        author: of on-policy rounds: (the student as it is, a seed) -> text that it wrote, with the teacher's signals.
        decides: the sources of `validation` that say which weights are the best; all if empty.
        device: what computes.
    """

    training: Mapping[str, Sequence[Example]]
    validation: Mapping[str, Sequence[Example]]
    place: str = "distill"
    blocks: BlockTarget | None = None
    author: Callable[[PreTrainedModel, int], Sequence[Example]] | None = None
    decides: tuple[str, ...] = ()
    device: str = "cpu"


def distill(
    student: Path, text: TrainingText, phase: Phase, work: Path, progress: Progress, stage: str = "distill"
) -> None:
    """Write the trained student to `work`: a Hugging Face folder, what the student's says of itself, and `curve.json`.

    Args:
        student: the folder of the student to begin with; the teacher is never read.
        text: what it is trained on.
        phase: how.
        work: the stage's folder; a killed run's checkpoints in it are gone on from.
        progress: where it is shown.
        stage: the stage's name.
    Raises:
        InputError: rows are so short that no document reaches beyond what was asked; or the phase asks for a share of
            general text, and there is none, or nothing else.
        RunError: a loss stopped being a finite number.
    """
    if is_whole(work):
        remove_checkpoints(work)
        return
    dtype, seq_len = compute_type(phase.compute), phase.seq_len
    training_sources = counting_sources(text.training, seq_len, f"{text.place}.seq_len")
    training = [example for examples in training_sources.values() for example in examples]
    checks = phase.validation_of(phase.tokens)
    validation = counting_sources(text.validation, seq_len, f"{text.place}.seq_len")
    validation = spread_sources(validation, checks.tokens, seq_len)
    model = load_model(student, device=text.device)
    tables = has_new_tables(student)
    adapted = _adapted(model, phase)
    parameters = _trained(model, tables) if adapted is None else adapted.parameters
    head = model.get_output_embeddings().weight
    head = head if tables else head.detach().to(dtype)
    on_logits = len(phase.block_terms) < len(phase.loss)
    objective = of_recipe(phase.loss) if on_logits else None
    loss = StepLoss(model, dtype, head, sources_of(len(head)), objective, text.blocks)

    steps = phase.steps_of(phase.tokens)
    plan = plan_rows(
        [len(example.tokens) for example in training],
        pools_of(training_sources, phase.general, text.place),
        Budget(seq_len, phase.step_tokens // seq_len, steps, phase.seed),
        difficulties(training, phase.order),
    )

    rounds = _rounds(model, text, phase, work)
    if rounds and not phase.compares:  # rows of its own text have no signal that these could have
        training = [example.with_signal() for example in training]

    drawn = [row for rows in plan for row in rows]

    def rows_of(step: int) -> list[list[Example]]:
        rows = drawn[rounds.plan.others(step)] if rounds else plan[step]
        return [[training[i] for i in row] for row in rows]

    def loss_of_step(step: int) -> tuple[Tensor, int]:
        own = rounds.rows(step) if rounds else []
        batch = make_batch([*rows_of(step), *own], seq_len).to(model.device)
        total, counted = loss.of(batch)
        return total / counted, len(batch.kept)

    first = drawn[: FIT_STEPS * (phase.step_tokens // seq_len)]
    parameters |= loss.projections(make_batch([[training[i] for i in row]], seq_len).to(model.device) for row in first)

    chooser = BY_TEACHER if phase.compares else BY_TEXT

    def validate() -> ValidationLoss:
        return validate_sources(
            validation, lambda examples: summed_loss(model, examples, chooser, seq_len), text.decides
        )

    settings = TrainSettings(
        steps,
        stage,
        phase.warmup,
        validate_after=checks.steps(steps),
        checkpoint_seconds=phase.checkpoint_seconds,
        decides=text.decides,
    )
    curve = train({phase.learning_rate: parameters}, loss_of_step, validate, settings, work, progress)
    save_model(model if adapted is None else adapted.merged(), student, work)
    copy_identity(student, work)
    write_curve(work, curve.to_json(stage, "KL" if phase.compares else "cross-entropy"))
    remove_checkpoints(work)


def _adapted(model: PreTrainedModel, phase: Phase) -> "Adapted | None":
    """The model with the phase's adapter in it, if it has one."""
    if phase.adapter is None:
        return None
    from edgedistill.distill.adapter import Adapted  # peft takes seconds to load

    return Adapted(model, phase.adapter, phase.seed)


def _rounds(model: PreTrainedModel, text: TrainingText, phase: Phase, work: Path) -> Rounds | None:
    """The phase's on-policy rounds, if it has any."""
    author = text.author
    if phase.on_policy is None or author is None:
        return None
    rows_per_step = phase.step_tokens // phase.seq_len
    plan = RoundPlan(phase.on_policy, rows_per_step, phase.seq_len, phase.seed, f"{text.place}.seq_len")
    return Rounds(plan, work / CHECKPOINTS, lambda seed: author(model, seed))


def pools_of(sources: Mapping[str, Sequence[Example]], general: float | None, place: str) -> list[Pool]:
    """Which of all examples, the sources' end to end, are drawn together: all, or chats and general text apart.

    Raises:
        InputError: a share of general text is asked for, and there is none, or nothing else.
    """
    ends = list(itertools.accumulate(len(examples) for examples in sources.values()))
    if general is None:
        return [Pool(range(ends[-1]), 1.0)]
    ranges = {name: range(end - len(sources[name]), end) for name, end in zip(sources, ends, strict=True)}
    chats = [index for source in (WRITTEN, NEW) for index in ranges.pop(SOURCE_NAMES[source], ())]
    others = [index for indices in ranges.values() for index in indices]
    if not chats or not others:
        missing = "prose nor free text; raise teach.text_tokens or teach.free_tokens" if chats else "chats"
        raise InputError(f"{place}.general is {general:g}, and the training text has no {missing}")
    return [Pool(chats, 1 - general), Pool(others, general)]


def difficulties(examples: Sequence[Example], order: str) -> list[float] | None:
    """What each example counts as by the phase's order, the easy ones least; None where all are drawn alike.

    easy_first: the mean of minus the teacher's log-probability of the text's own tokens, in nats; a token that isn't
    among those stored counts as the least likely of them.
    """
    if order == SHORT_FIRST:
        return [float(len(example.tokens)) for example in examples]
    if order == EASY_FIRST:
        return [_surprise(example) for example in examples]
    return None


def _surprise(example: Example) -> float:
    ids, log_probs = example.signal["ids"], example.signal["log_probs"].float()
    own = (ids == example.labels[:, None]).to(log_probs.dtype)
    known = (own * log_probs).sum(-1)
    of_text = torch.where(own.any(-1), known, log_probs.min(-1).values)
    return float(-(of_text * example.weights).sum() / example.weights.sum())


def sources_of(rows: int) -> dict[str, Source]:
    """What a phase's terms compare with, for a student whose table has so many rows."""
    return {TEACHER: Shared(StoredTopK(), rows), TEXT: Written()}


def has_new_tables(student: Path) -> bool:
    """Whether a student's embedding and output layer aren't its teacher's, by what its folder says of it."""
    return (student / IDENTITY).is_file() and read_identity(student).new_tables


def _trained(model: PreTrainedModel, tables: bool) -> dict[str, Tensor]:
    """The parameters that are trained, by name: all, or all but the embedding and the output layer."""
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    for table in {model.get_input_embeddings().weight, model.get_output_embeddings().weight}:
        table.requires_grad_(tables)
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


@torch.no_grad()
def summed_loss(
    model: PreTrainedModel, examples: Sequence[Example], objective: Objective, seq_len: int
) -> tuple[float, float]:
    """An objective summed over examples, weighted as they are, in nats, and the sum of the weights; in float32.

    Whatever the training computes in: it chooses between checkpoints that differ by less than bfloat16 tells apart.
    """
    total, weights = 0.0, 0.0
    head = model.get_output_embeddings().weight.detach().float()
    sources = sources_of(len(head))
    for batch, _ in batches(examples, seq_len, 2, model.device):
        seen = views(sources, objective.needs, batch)
        summed, weight = objective.step(kept_hidden(model, batch, torch.float32), head, seen, batch.weights)
        total, weights = total + summed.item(), weights + weight
    return total, weights
