"""The distill stage: cut a student out of the teacher by depth and train it on the teacher's signals.

The loss is the sum of the phase's terms: divergences from the teacher's k likeliest tokens, cross-entropy on the text.
The embedding, which a depth-cut student inherits whole, stays frozen: it is a fifth of a small model's weights and of
its training time, and what it knows is not what the cut took away.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from transformers import PreTrainedModel

from edgedistill.config.recipe import Recipe
from edgedistill.data.example import Example
from edgedistill.data.packing import counting, counting_sources, make_batch, pack_rows, schedule_rows
from edgedistill.data.spread import spread_sources
from edgedistill.losses.objective import TEACHER, TEXT, Objective, ObjectiveTerm, of_recipe
from edgedistill.models.depth import block_influence, choose_layers, cut_layers, layer_kinds
from edgedistill.models.load import load_model, save_model
from edgedistill.progress import Progress
from edgedistill.signals.sources import Source, StoredTopK, Written, views
from edgedistill.train.forward import batches, compute_in, compute_type, kept_hidden
from edgedistill.train.loop import TrainSettings, is_whole, remove_checkpoints, train, write_curve
from edgedistill.train.validation import Validation, validate_sources

SOURCES: dict[str, Source] = {TEACHER: StoredTopK(), TEXT: Written()}
# What a checkpoint is chosen by: the distance from the teacher, or where no term looks at it, from the text.
BY_TEACHER = Objective([ObjectiveTerm(TEACHER, "forward_kl")])
BY_TEXT = Objective([ObjectiveTerm(TEXT, "cross_entropy")])
INFLUENCE_TOKENS = 4096  # enough to rank layers: the ranking no longer moves past 2,000 on a 30-layer model


def distill(
    teacher: Path,
    training: Sequence[Example],
    validation: Mapping[str, Sequence[Example]],
    layers: int,
    recipe: Recipe,
    work: Path,
    progress: Progress,
) -> None:
    """Write the float student to `work`: a Hugging Face folder, `layers.json` and `curve.json`.

    Args:
        teacher: a model folder or GGUF file.
        training, validation: documents with `ids` and `log_probs`; those of validation by source.
        layers: how many of the teacher's layers the student keeps.
        recipe: its `distill` part.
        work: the stage's folder; a killed run's checkpoints in it are gone on from.
        progress: where it is shown.
    Raises:
        InputError: rows are so short that no document reaches beyond what was asked.
    """
    if is_whole(work):
        remove_checkpoints(work)
        return
    settings = recipe.distill
    dtype = compute_type(settings.compute)
    training = counting(training, settings.seq_len, "distill.seq_len")
    checks = settings.validation_of(settings.tokens)
    validation = counting_sources(validation, settings.seq_len, "distill.seq_len")
    validation = spread_sources(validation, checks.tokens, settings.seq_len)
    model = load_model(teacher)
    kept_layers, influence = _choose(model, training, layers, settings.seq_len, dtype, progress)
    student = cut_layers(model, kept_layers)
    weight = student.get_output_embeddings().weight.detach().to(dtype)
    for parameter in student.parameters():
        parameter.requires_grad_(True)
    for frozen in {student.get_input_embeddings().weight, student.get_output_embeddings().weight}:
        frozen.requires_grad_(False)

    objective = of_recipe(settings.loss)
    rows = pack_rows([len(d.tokens) for d in training], settings.seq_len)
    steps = settings.steps_of(settings.tokens)
    plan = schedule_rows(len(rows), settings.step_tokens // settings.seq_len, steps, settings.seed)

    def loss_of_step(step: int) -> tuple[torch.Tensor, int]:
        batch = make_batch([[training[i] for i in rows[row]] for row in plan[step]], settings.seq_len)
        seen = views(SOURCES, objective.needs, batch)
        total, counted = objective.step(kept_hidden(student, batch, dtype), weight, seen, batch.weights)
        return total / counted, len(batch.kept)

    chooser = BY_TEACHER if settings.compares else BY_TEXT

    def validate() -> Validation:
        return validate_sources(validation, lambda examples: summed_loss(student, examples, chooser, settings.seq_len))

    parameters = {name: p for name, p in student.named_parameters() if p.requires_grad}
    train_settings = TrainSettings(
        steps,
        settings.warmup,
        validate_after=checks.steps(steps),
        checkpoint_seconds=settings.checkpoint_seconds,
    )
    curve = train(
        {settings.learning_rate: parameters},
        loss_of_step,
        validate,
        train_settings,
        work,
        progress,
        f"distill {layers} layers",
    )
    save_model(student, teacher, work)
    report = {"kept": list(kept_layers), "influence": influence}
    (work / "layers.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    write_curve(work, curve.to_json("distill"))
    remove_checkpoints(work)


@torch.no_grad()
def summed_loss(
    model: PreTrainedModel, examples: Sequence[Example], objective: Objective, seq_len: int
) -> tuple[float, float]:
    """An objective summed over examples, weighted as they are, in nats, and the sum of the weights; in float32.

    Whatever the training computes in: it chooses between checkpoints that differ by less than bfloat16 tells apart.
    """
    total, weights = 0.0, 0.0
    head = model.get_output_embeddings().weight.detach().float()
    for batch, _ in batches(examples, seq_len, rows_per_batch=2):
        seen = views(SOURCES, objective.needs, batch)
        summed, weight = objective.step(kept_hidden(model, batch, torch.float32), head, seen, batch.weights)
        total, weights = total + summed.item(), weights + weight
    return total, weights


def _choose(
    model: PreTrainedModel,
    documents: Sequence[Example],
    layers: int,
    seq_len: int,
    dtype: torch.dtype,
    progress: Progress,
) -> tuple[list[int], list[float]]:
    """The layers to keep, and every layer's influence on a sample of the training text."""
    sample: list[torch.Tensor] = []
    seen = 0
    for document in documents:
        sample.append(document.tokens[:seq_len].long().unsqueeze(0))
        seen += sample[-1].numel()
        if seen >= INFLUENCE_TOKENS:
            break
    progress.start("block influence", seen, "tokens")
    with compute_in(dtype):
        influence = block_influence(model, sample)
    progress.advance(seen)
    progress.finish()
    return choose_layers(influence, layers, layer_kinds(model)), influence
