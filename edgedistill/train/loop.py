"""The one training loop: AdamW, warm-up and cosine, clipping, validation, checkpoints, resume.

All randomness lies in the order of the data, which is a function of the seed; so weights, moments, the step and the
curve are the whole state, and a run that was killed and went on ends with the bits of one that wasn't.
"""

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from edgedistill.errors import RunError
from edgedistill.progress import Progress
from edgedistill.store.whole import atomic_write, sync_tree
from edgedistill.train.adamw import AdamW, AdamWSettings

FOLDER = "training"
CURVE = "curve.json"
STATE = "state.json"
WEIGHTS = "weights.safetensors"
MOMENTS = "adamw.safetensors"


@dataclass(frozen=True)
class TrainSettings:
    """How to train. Rates are per step; shares are of all steps."""

    steps: int
    warmup: float = 0.1
    final_rate: float = 0.1  # share of the peak that the cosine ends on
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.0
    clip: float = 1.0  # gradient norm over all parameters
    validate_every: int = 16
    patience: int | None = None  # validations without a better one before an early stop
    checkpoint_seconds: float = 60.0


@dataclass
class Curve:
    """What was seen on the way: losses in nats per token."""

    points: list[dict[str, float]] = field(default_factory=list)
    validation: list[dict[str, float]] = field(default_factory=list)
    stopped_early: bool = False

    @property
    def best(self) -> dict[str, float]:
        """The validation with the lowest loss; the first of equals."""
        return min(self.validation, key=lambda v: v["loss"])

    def to_dict(self, stage: str) -> dict[str, Any]:
        """For `curve.json`: what the report draws."""
        validation = [{"step": v["step"], "tokens": v["tokens"], "kl": v["loss"]} for v in self.validation]
        best = min(validation, key=lambda v: v["kl"])
        return {
            "schema": "edgedistill.curve/1",
            "stage": stage,
            "unit": "nats per token",
            "points": self.points,
            "validation": validation,
            "start": {"kl": validation[0]["kl"]},
            "best": best,
            "stopped_early": self.stopped_early,
            "verdict": (
                f"KL on validation text {validation[0]['kl']:.4f} at the start, {best['kl']:.4f} at step "
                f"{best['step']:.0f}"
            ),
        }


def learning_rate_share(step: int, settings: TrainSettings) -> float:
    """Share of the peak rate at a step: linear warm-up, then cosine to `final_rate`."""
    warm = max(1, round(settings.steps * settings.warmup))
    if step < warm:
        return (step + 1) / warm
    progress = (step - warm) / max(1, settings.steps - warm)
    return settings.final_rate + (1 - settings.final_rate) * 0.5 * (1 + math.cos(math.pi * progress))


def train(
    groups: Mapping[float, Mapping[str, Tensor]],
    loss_of_step: Callable[[int], tuple[Tensor, int]],
    validate: Callable[[], float],
    settings: TrainSettings,
    work: Path,
    progress: Progress,
    title: str,
) -> Curve:
    """Train in place; the parameters end as the best validation saw them.

    Args:
        groups: peak learning rate -> parameters by name (names unique over all groups).
        loss_of_step: step number -> (mean loss in nats per token with its graph, tokens it saw).
        validate: mean loss on held-out text in nats per token, for the parameters as they are.
        settings: see `TrainSettings`.
        work: a folder for checkpoints; one left by a killed run is gone on from. `remove_checkpoints` when the output
            is written.
        progress: where steps are shown.
        title: what the bar says.
    Returns:
        The curve. Its `best` is what the parameters now are: step 0 where training improved nothing.
    Raises:
        RunError: a loss stopped being a finite number.
    """
    parameters = {name: p for group in groups.values() for name, p in group.items()}
    peaks = {name: rate for rate, group in groups.items() for name in group}
    optimizer = AdamW(parameters, AdamWSettings(settings.betas, decay=settings.weight_decay))
    store = _Checkpoints(work, parameters, optimizer)
    step, tokens, curve = store.load()
    progress.start(title, settings.steps, "steps")
    progress.advance(step)
    if not curve.validation:
        curve.validation.append({"step": 0, "tokens": 0, "loss": validate()})
        store.save_best(0)
    saved_at = time.monotonic()
    while step < settings.steps and not curve.stopped_early:
        loss, seen = loss_of_step(step)
        value = loss.item()
        if not math.isfinite(value):
            raise RunError(
                f"{title}: the loss is {value} at step {step}; lower the learning rate in the recipe and run again"
            )
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(list(parameters.values()), settings.clip)
        share = learning_rate_share(step, settings)
        optimizer.step({name: peak * share for name, peak in peaks.items()})
        step, tokens = step + 1, tokens + seen
        curve.points.append({"step": step, "tokens": tokens, "loss": value, "learning_rate_share": share})
        progress.advance(1, loss=value)
        if step % settings.validate_every == 0 or step == settings.steps:
            best = curve.best["loss"]
            curve.validation.append({"step": step, "tokens": tokens, "loss": validate()})
            if curve.validation[-1]["loss"] < best:
                store.save_best(step)
            since_best = sum(1 for v in curve.validation if v["step"] > curve.best["step"])
            curve.stopped_early = settings.patience is not None and since_best >= settings.patience
        if time.monotonic() - saved_at >= settings.checkpoint_seconds and step < settings.steps:
            store.save(step, tokens, curve)
            saved_at = time.monotonic()
    store.restore_best(int(curve.best["step"]))
    progress.finish()
    return curve


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


class _Checkpoints:
    """State on disk: `checkpoint/` (the newest whole one) and `best-STEP/`. Folders are renamed into place."""

    def __init__(self, work: Path, parameters: Mapping[str, Tensor], optimizer: AdamW) -> None:
        self.folder = work / FOLDER
        self.parameters, self.optimizer = parameters, optimizer
        self.folder.mkdir(parents=True, exist_ok=True)

    def load(self) -> tuple[int, int, Curve]:
        """(step, tokens, curve) to go on from; zeros where there is no whole checkpoint."""
        whole = self.folder / "checkpoint"
        replaced = self.folder / "checkpoint.old"
        if not (whole / STATE).is_file():
            if not (replaced / STATE).is_file():
                return 0, 0, Curve()
            whole = replaced  # killed between the two renames of `save`
        state: dict[str, Any] = json.loads((whole / STATE).read_text(encoding="utf-8"))
        self._copy_in(load_file(whole / WEIGHTS))
        self.optimizer.restore(load_file(whole / MOMENTS))
        return (
            int(state["step"]),
            int(state["tokens"]),
            Curve(state["points"], state["validation"], state["stopped_early"]),
        )

    def save(self, step: int, tokens: int, curve: Curve) -> None:
        """Write a checkpoint; a kill at any point leaves the one before."""
        partial = self.folder / "checkpoint.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        save_file({n: p.detach() for n, p in self.parameters.items()}, partial / WEIGHTS)
        save_file(self.optimizer.state(), partial / MOMENTS)
        state = {
            "step": step,
            "tokens": tokens,
            "points": curve.points,
            "validation": curve.validation,
            "stopped_early": curve.stopped_early,
        }
        (partial / STATE).write_text(json.dumps(state), encoding="utf-8")
        for file in partial.iterdir():
            _sync(file)
        whole, replaced = self.folder / "checkpoint", self.folder / "checkpoint.old"
        if whole.exists():
            shutil.rmtree(replaced, ignore_errors=True)
            whole.rename(replaced)
        partial.rename(whole)
        _sync(self.folder)
        shutil.rmtree(replaced, ignore_errors=True)
        keep = int(curve.best["step"])
        for old in self.folder.glob("best-*.safetensors"):
            if old != self._best(keep):
                old.unlink()

    def save_best(self, step: int) -> None:
        """Keep the parameters as they are. Older bests stay until a checkpoint no longer needs them."""
        partial = self._best(step).with_suffix(".partial")
        save_file({n: p.detach() for n, p in self.parameters.items()}, partial)
        _sync(partial)
        partial.replace(self._best(step))

    def restore_best(self, step: int) -> None:
        """Put the best parameters back."""
        self._copy_in(load_file(self._best(step)))

    def _best(self, step: int) -> Path:
        return self.folder / f"best-{step}.safetensors"

    def _copy_in(self, weights: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(weights[name])


def _sync(path: Path) -> None:
    """Force a file or folder to the disk, so that a rename never publishes unwritten bytes."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
