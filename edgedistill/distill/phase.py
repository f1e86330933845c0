"""The distill stage: one phase, which trains a student in float on the teacher's signals and its text.

The loss is the sum of the phase's terms: divergences from the teacher's k likeliest tokens, cross-entropy on the text.
The embedding, which a depth-cut student inherits whole, stays frozen: it is a fifth of a small model's weights and of
its training time, and what it knows is not what the cut took away.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from edgedistill.config.phase import Phase
from edgedistill.data.example import Example
from edgedistill.data.packing import counting, counting_sources, make_batch, pack_rows, schedule_rows
from edgedistill.data.spread import spread_sources
from edgedistill.losses.objective import TEACHER, TEXT, Objective, ObjectiveTerm, of_recipe
from edgedistill.models.identity import copy_identity
from edgedistill.models.load import load_model, save_model
from edgedistill.progress import Progress
from edgedistill.signals.sources import Shared, Source, StoredTopK, Written, views
from edgedistill.train.forward import batches, compute_type, kept_hidden
from edgedistill.train.loop import TrainSettings, is_whole, remove_checkpoints, train, write_curve
from edgedistill.train.validation import ValidationLoss, validate_sources

# What a checkpoint is chosen by: the distance from the teacher, or where no term looks at it, from the text.
BY_TEACHER = Objective([ObjectiveTerm(TEACHER, "forward_kl")])
BY_TEXT = Objective([ObjectiveTerm(TEXT, "cross_entropy")])


@dataclass(frozen=True)
class TrainingText:
    """What a phase trains on.

    Attributes:
        training: examples, with the signals `ids` and `log_probs` where a term compares with the teacher.
        validation: the same, by source, never trained on.
        place: where in the recipe the phase is, for messages.
    """

    training: Sequence[Example]
    validation: Mapping[str, Sequence[Example]]
    place: str = "distill"


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
        InputError: rows are so short that no document reaches beyond what was asked.
        RunError: a loss stopped being a finite number.
    """
    if is_whole(work):
        remove_checkpoints(work)
        return
    dtype, seq_len = compute_type(phase.compute), phase.seq_len
    training = counting(text.training, seq_len, f"{text.place}.seq_len")
    checks = phase.validation_of(phase.tokens)
    validation = counting_sources(text.validation, seq_len, f"{text.place}.seq_len")
    validation = spread_sources(validation, checks.tokens, seq_len)
    model = load_model(student)
    head = model.get_output_embeddings().weight.detach().to(dtype)
    parameters = _trained(model)
    sources = sources_of(len(head))
    objective = of_recipe(phase.loss)

    rows = pack_rows([len(d.tokens) for d in training], seq_len)
    steps = phase.steps_of(phase.tokens)
    plan = schedule_rows(len(rows), phase.step_tokens // seq_len, steps, phase.seed)

    def loss_of_step(step: int) -> tuple[Tensor, int]:
        batch = make_batch([[training[i] for i in rows[row]] for row in plan[step]], seq_len)
        seen = views(sources, objective.needs, batch)
        total, counted = objective.step(kept_hidden(model, batch, dtype), head, seen, batch.weights)
        return total / counted, len(batch.kept)

    chooser = BY_TEACHER if phase.compares else BY_TEXT

    def validate() -> ValidationLoss:
        return validate_sources(validation, lambda examples: summed_loss(model, examples, chooser, seq_len))

    settings = TrainSettings(
        steps,
        stage,
        phase.warmup,
        validate_after=checks.steps(steps),
        checkpoint_seconds=phase.checkpoint_seconds,
    )
    curve = train({phase.learning_rate: parameters}, loss_of_step, validate, settings, work, progress)
    save_model(model, student, work)
    copy_identity(student, work)
    write_curve(work, curve.to_json(stage, "KL" if phase.compares else "cross-entropy"))
    remove_checkpoints(work)


def sources_of(rows: int) -> dict[str, Source]:
    """What a phase's terms compare with, for a student whose table has so many rows."""
    return {TEACHER: Shared(StoredTopK(), rows), TEXT: Written()}


def _trained(model: PreTrainedModel) -> dict[str, Tensor]:
    """The parameters that are trained, by name: all but the embedding and the output layer."""
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    for frozen in {model.get_input_embeddings().weight, model.get_output_embeddings().weight}:
        frozen.requires_grad_(False)
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
    for batch, _ in batches(examples, seq_len, rows_per_batch=2):
        seen = views(sources, objective.needs, batch)
        summed, weight = objective.step(kept_hidden(model, batch, torch.float32), head, seen, batch.weights)
        total, weights = total + summed.item(), weights + weight
    return total, weights
