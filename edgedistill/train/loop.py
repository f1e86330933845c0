"""The one training loop: AdamW, warm-up and cosine, clipping, validation, checkpoints, resume.

All randomness lies in the order of the data, which is a function of the seed; so weights, moments, the step and the
curve are the whole state, and a run that was killed and went on ends with the bits of one that wasn't.
"""

import json
import math
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgedistill.errors import RunError
from edgedistill.progress import Progress
from edgedistill.store.whole import atomic_write, sync_tree
from edgedistill.train.adamw import AdamW, AdamWSettings
from edgedistill.train.checkpoints import FOLDER, Checkpoints
from edgedistill.train.curve import CURVE, Point, TrainingCurve
from edgedistill.train.validation import ValidationLoss


@dataclass(frozen=True)
class TrainSettings:
    """How to train. Rates are per step; shares are of all steps."""

    steps: int
    title: str = "train"  # what progress and errors call it
    warmup: float = 0.1  # share of the steps in which the rate rises
    final_rate: float = 0.1  # share of the peak that the cosine ends on
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.0
    clip: float = 1.0  # gradient norm over all parameters
    validate_after: Collection[int] = ()  # steps after which it is validated, beside the one before the first step
    patience: float | None = None  # share without a better validation, after the warm-up, before an early stop
    checkpoint_seconds: float = 60.0  # at least, between two checkpoints
    decides: Collection[str] = ()  # the sources whose validation says which weights are the best; all if empty

    @property
    def warmup_steps(self) -> int:
        """Steps in which the rate rises."""
        return max(1, round(self.steps * self.warmup))


def learning_rate_share(step: int, settings: TrainSettings) -> float:
    """Share of the peak rate at a step: linear warm-up, then cosine to `final_rate`."""
    warm = settings.warmup_steps
    if step < warm:
        return (step + 1) / warm
    progress = (step - warm) / max(1, settings.steps - warm)
    return settings.final_rate + (1 - settings.final_rate) * 0.5 * (1 + math.cos(math.pi * progress))


def train(
    groups: Mapping[float, Mapping[str, Tensor]],
    loss_of_step: Callable[[int], tuple[Tensor, int]],
    validate: Callable[[], ValidationLoss],
    settings: TrainSettings,
    work: Path,
    progress: Progress,
) -> TrainingCurve:
    """Train in place; the parameters end as the best validation saw them.

    Args:
        groups: peak learning rate -> parameters by name (names unique over all groups).
        loss_of_step: step number -> (mean loss in nats per token with its graph, tokens it saw).
        validate: mean losses on held-out text, for the parameters as they are.
        settings: see `TrainSettings`.
        work: a folder for checkpoints; training goes on from one that a killed run left. `remove_checkpoints` when the
            output is written.
        progress: where steps are shown.
    Returns:
        The curve. Its `best` is what the parameters now are: step 0 where training improved nothing.
    Raises:
        RunError: a loss stopped being a finite number.
    """
    parameters = {name: p for group in groups.values() for name, p in group.items()}
    peaks = {name: rate for rate, group in groups.items() for name in group}
    optimizer = AdamW(parameters, AdamWSettings(settings.betas, decay=settings.weight_decay))
    store = Checkpoints(work, parameters, optimizer, settings.checkpoint_seconds)
    step, tokens, curve = store.load()
    curve.decides = settings.decides
    progress.start(settings.title, settings.steps, "steps")
    progress.advance(step)
    if not curve.validation:
        curve.add_validation(0, 0, validate())
        store.keep_best()
    while step < settings.steps and not curve.stopped_early:
        loss, seen = loss_of_step(step)
        value = loss.item()
        if not math.isfinite(value):
            why = f"{settings.title}: the loss is {value} at step {step}"
            raise RunError(f"{why}; lower the learning rate in the recipe and run again")
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(list(parameters.values()), settings.clip)
        share = learning_rate_share(step, settings)
        optimizer.step({name: peak * share for name, peak in peaks.items()})
        step, tokens = step + 1, tokens + seen
        curve.points.append(Point(step, tokens, value, share))
        progress.advance(1, loss=value)
        if step in settings.validate_after or step == settings.steps:
            if curve.add_validation(step, tokens, validate()):
                store.keep_best()
            curve.stopped_early = step < settings.steps and _waited_enough(step, curve, settings)
        if store.due() and step < settings.steps:
            store.save(step, tokens, curve)
    store.restore_best()
    progress.finish()
    return curve


def _waited_enough(step: int, curve: TrainingCurve, settings: TrainSettings) -> bool:
    """Whether no validation was better for so long that none is expected, neither on the source that fares worst nor on
    average. The warm-up doesn't count: while the rate still rises, it is too early to tell what training can do.
    """
    if settings.patience is None:
        return False
    since = max(curve.best.step, curve.lowest.step, settings.warmup_steps)
    return step - since >= settings.patience * settings.steps


def write_curve(work: Path, report: Mapping[str, Any]) -> None:
    """Write `curve.json`, the last of a training stage's output: all before it lies on the disk by then."""
    sync_tree(work)
    atomic_write(work / CURVE, json.dumps(report, indent=1))


def is_whole(work: Path) -> bool:
    """Whether a killed run had written all output, and was killed while it cleaned up or sealed."""
    return (work / CURVE).is_file()


def remove_checkpoints(work: Path) -> None:
    """Drop what `train` left in `work`, once the stage's output is whole; what a killed removal left too."""
    if (work / FOLDER).is_dir():
        shutil.rmtree(work / FOLDER)
