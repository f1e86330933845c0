"""The recover stage: quantization-aware training against the float student, on the grid that ships (QAT-KD).

Each forward pass computes with the decoded grid weights; the loss is the KL (or another divergence) to the float
student at every token; the gradient goes straight through to latent weights and to the blocks' scales. It starts from a
fit that weighs each weight's error by what it costs, ends at the best validation, and ships plain rounding where
nothing beat that.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from edgedistill.config.recover import Recover
from edgedistill.data.example import Example
from edgedistill.data.packing import make_batch, pack_rows, schedule_rows
from edgedistill.data.spread import spread_sources
from edgedistill.formats import NumberFormat
from edgedistill.losses.objective import STUDENT, TEACHER, TEXT, of_recipe
from edgedistill.models.load import load_model, save_side_files
from edgedistill.progress import Progress
from edgedistill.quant.checkpoint import GridCheckpoint, save_grid
from edgedistill.quant.fit import Costs
from edgedistill.quant.latent import Learned
from edgedistill.quant.rounded import round_weights
from edgedistill.quant.split import beside_itself, split
from edgedistill.recover.distance import validation_kl
from edgedistill.recover.fit_only import FitOnly, fit_only
from edgedistill.recover.kept_fit import FIT, keep_fit, load_fit, remove_fit
from edgedistill.recover.place import place_on_grid, take_off_grid
from edgedistill.signals.sources import Shared, Source, StoredHidden, StoredTopK, Written, views
from edgedistill.train.checkpoints import FOLDER as CHECKPOINTS
from edgedistill.train.curve import TrainingCurve
from edgedistill.train.forward import compute_type, kept_hidden
from edgedistill.train.loop import TrainSettings, is_whole, remove_checkpoints, train, write_curve
from edgedistill.train.rounds import RoundPlan, Rounds
from edgedistill.train.validation import ValidationLoss

FLOAT32_BELOW = 0.01  # nats a token of plain rounding: activations in bfloat16 cost a tenth of that


@dataclass(frozen=True)
class RecoverInputs:
    """What is trained, on which grids, towards what.

    Attributes:
        student: the float student's folder.
        training: documents with the float student's `hidden` states; with the teacher's `ids` and `log_probs` too
            where it has a share of the loss.
        validation: by source, documents with `hidden` states.
        costs: what `fit_costs` takes, by tensor; None for ggml's own fit.
        mix: the mix's name.
        formats: its number formats by tensor.
        start: the weights that training begins from, by name, such as those recovered on a finer grid; None for the
            student's own.
        author: of on-policy rounds: (the checkpoint as it is, a seed) -> text that it wrote, with signals as
            `training` has them.
        decides: the sources of `validation` that say which weights are the best; all if empty.
        device: what computes.
    """

    student: Path
    training: Sequence[Example]
    validation: Mapping[str, Sequence[Example]]
    costs: Mapping[str, Costs] | None
    mix: str
    formats: Mapping[str, NumberFormat]
    start: Mapping[str, Tensor] | None = None
    author: Callable[[GridCheckpoint, int], Sequence[Example]] | None = None
    decides: tuple[str, ...] = ()
    device: str = "cpu"


def recover(inputs: RecoverInputs, settings: Recover, work: Path, progress: Progress) -> None:
    """Write the student on its grid to `work`: config, tokenizer, `grid.safetensors` and `curve.json`.

    Args:
        inputs: see `RecoverInputs`.
        settings: the recipe's part.
        work: the stage's folder; training goes on from a killed run's checkpoints in it.
        progress: where it is shown.
    """
    if is_whole(work):
        _clean_up(work)
        return
    student, training, mix, formats = inputs.student, inputs.training, inputs.mix, inputs.formats
    checks = settings.validation_of(settings.tokens_of(mix))
    validation = spread_sources(inputs.validation, checks.tokens, settings.seq_len)
    if not settings.tokens_of(mix) and inputs.start is None:
        _without_training(inputs, validation, settings, work, progress)
        return
    model = load_model(student, device=inputs.device)
    table = model.get_output_embeddings().weight.detach().clone()
    rounded = round_weights(model.state_dict(), formats, mix)
    progress.start(f"{mix}: validate plain rounding", 1, "model")
    _put(rounded, model)
    of_rounded = validation_kl(model, validation, table, settings.seq_len, inputs.decides)
    kl_rounded = of_rounded.loss
    progress.advance(1, kl=kl_rounded)
    # The one float32 copy is rounded and read again: two would be half of what a model takes.
    del model
    start = None if inputs.start is None else dict(inputs.start)
    model = load_model(student, weights=start, device=inputs.device)
    dtype = compute_type("float32" if kl_rounded < FLOAT32_BELOW else settings.compute)
    trained = settings.trained(mix, kl_rounded)
    learned = Learned(
        "weights" in trained, "scales" in trained, "norms" in trained, settings.low_rank, settings.simulate_activations
    )
    keep_fit(work / FIT, model.state_dict(), formats, inputs.costs, mix, progress)
    fitted = load_fit(work / FIT)
    layers = place_on_grid(model, formats, fitted, learned)
    weight = model.get_output_embeddings().weight.detach()
    if dtype == torch.bfloat16:
        weight = split(weight)

    rows = pack_rows([len(d.tokens) for d in training], settings.seq_len)
    steps = settings.steps_of(settings.tokens_of(mix))
    plan = schedule_rows(len(rows), settings.step_tokens // settings.seq_len, steps, settings.seed)

    objective = of_recipe(settings.loss)
    sources: dict[str, Source] = {
        STUDENT: StoredHidden(table.to(dtype), dtype),
        TEACHER: Shared(StoredTopK(), len(table)),
        TEXT: Written(),
    }

    def packed() -> GridCheckpoint:
        return take_off_grid(model, layers, rounded, formats, fitted)

    rounds = _rounds(inputs.author, packed, settings, work)
    drawn = [row for of_step in plan for row in of_step]

    def loss_of_step(step: int) -> tuple[Tensor, int]:
        own = rounds.rows(step) if rounds else []
        numbers = drawn[rounds.plan.others(step)] if rounds else plan[step]
        others = [[training[i] for i in rows[row]] for row in numbers]
        batch = make_batch([*others, *own], settings.seq_len).to(model.device)
        hidden = beside_itself(kept_hidden(model, batch, dtype), weight)
        seen = views(sources, objective.needs, batch)
        total, counted = objective.step(hidden, weight, seen, batch.weights)
        return total / counted, len(batch.kept)

    def validate() -> ValidationLoss:
        return validation_kl(model, validation, table, settings.seq_len, inputs.decides)

    gains = {name: p for name, p in model.named_parameters() if p.requires_grad and ".gain_" in name}
    others = {name: p for name, p in model.named_parameters() if p.requires_grad and name not in gains}
    rate = settings.rate_of(mix, kl_rounded)
    groups: dict[float, Mapping[str, Tensor]] = {}
    for peak, parameters in ((settings.scale_rate(trained), gains), (settings.learning_rate, others)):
        if parameters:
            groups[rate * peak] = {**groups.get(rate * peak, {}), **parameters}
    train_settings = TrainSettings(
        steps,
        f"recover {mix}",
        settings.warmup,
        validate_after=checks.steps(steps),
        patience=settings.patience,
        checkpoint_seconds=settings.checkpoint_seconds,
        decides=inputs.decides,
    )
    if not groups:  # such as scales alone on a grid that has none to learn
        trained, train_settings = (), replace(train_settings, steps=0)
    curve = train(groups, loss_of_step, validate, train_settings, work, progress)

    checkpoint = packed() if curve.best.loss < kl_rounded else rounded
    _write(inputs, checkpoint, _Outcome(curve, of_rounded, trained, dtype), work)


@dataclass(frozen=True)
class _Outcome:
    """How a training went: its curve, plain rounding's loss, what was trained, the type of the products."""

    curve: TrainingCurve
    of_rounded: ValidationLoss
    trained: Sequence[str]
    dtype: torch.dtype


def _write(inputs: RecoverInputs, checkpoint: GridCheckpoint, outcome: _Outcome, work: Path) -> None:
    """Write the stage's output, and drop what led to it."""
    curve, rounded = outcome.curve, outcome.of_rounded
    save_grid(work, checkpoint)
    save_side_files(inputs.student, work)
    report = curve.to_json(f"recover {inputs.mix}")
    report["rounded"] = {"kl": rounded.loss, "by_source": rounded.by_source}
    report["trained"] = list(outcome.trained)
    report["compute"] = str(outcome.dtype).removeprefix("torch.")
    report["verdict"] = _verdict(rounded.loss, curve.best.loss, curve.best.loss < rounded.loss, inputs.decides)
    write_curve(work, report)
    _clean_up(work)


def _without_training(
    inputs: RecoverInputs,
    validation: Mapping[str, list[Example]],
    settings: Recover,
    work: Path,
    progress: Progress,
) -> None:
    """The stage for a budget of 0 tokens."""
    costs, decides = inputs.costs, inputs.decides
    model = FitOnly(inputs.student, validation, costs, inputs.mix, inputs.formats, decides, inputs.device)
    fit = fit_only(model, settings, work, progress)
    curve = TrainingCurve(decides=inputs.decides)
    curve.add_validation(0, 0, fit.of_fitted)
    kl = fit.of_rounded.loss
    dtype = compute_type("float32" if kl < FLOAT32_BELOW else settings.compute)
    checkpoint = fit.fitted if fit.of_fitted.loss < kl else fit.rounded
    _write(inputs, checkpoint, _Outcome(curve, fit.of_rounded, settings.trained(inputs.mix, kl), dtype), work)


def _rounds(
    author: Callable[[GridCheckpoint, int], Sequence[Example]] | None,
    packed: Callable[[], GridCheckpoint],
    settings: Recover,
    work: Path,
) -> Rounds | None:
    """The training's on-policy rounds, if it has any; `packed`: the checkpoint as it is by then."""
    if settings.on_policy is None or author is None:
        return None
    rows_per_step = settings.step_tokens // settings.seq_len
    plan = RoundPlan(settings.on_policy, rows_per_step, settings.seq_len, settings.seed, "recover.seq_len")
    return Rounds(plan, work / CHECKPOINTS, lambda seed: author(packed(), seed))


def _verdict(kl_rounded: float, kl_best: float, beaten: bool, decides: Collection[str]) -> str:
    """How a training went, for the report."""
    text = "the task's validation text" if decides else "validation text"
    if beaten:
        return f"KL to the float model on {text} {kl_rounded:.4f} rounded, {kl_best:.4f} recovered"
    return f"nothing beat plain rounding (KL {kl_rounded:.4f} on {text}, best {kl_best:.4f}): plain rounding ships"


def _clean_up(work: Path) -> None:
    remove_checkpoints(work)
    remove_fit(work / FIT)


@torch.no_grad()
def _put(checkpoint: GridCheckpoint, model: PreTrainedModel) -> None:
    """Write a checkpoint's decoded weights over the model's, a tensor at a time."""
    state = model.state_dict()
    for name in checkpoint.tensors:
        state[name].copy_(checkpoint.decode(name))
