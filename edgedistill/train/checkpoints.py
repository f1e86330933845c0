"""A training's state on the disk: weights, AdamW's moments, the curve, and the best weights so far.

The best weights live in memory while training goes on, and go to the disk with the next checkpoint: 4 bytes a weight
for each better validation would be more than all else that is written. A killed run goes on from its last checkpoint
and comes by the same validations again, so the same weights are best in the end.
"""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from edgedistill.store.whole import settle, whole, whole_folder
from edgedistill.train.adamw import AdamW
from edgedistill.train.curve import TrainingCurve

FOLDER = "training"
CHECKPOINT = "checkpoint"
STATE = "state.json"
WEIGHTS = "weights.safetensors"
MOMENTS = "adamw.safetensors"
SHARE = 0.05  # of the time, that writing checkpoints may take


class Checkpoints:
    """`checkpoint/`, the newest one, and `best-STEP.safetensors`, each whole or not there."""

    def __init__(self, work: Path, parameters: Mapping[str, Tensor], optimizer: AdamW, least_seconds: float) -> None:
        """Keep the state of these parameters below `work`.

        Args:
            least_seconds: between two checkpoints; more where a checkpoint takes so long that it would cost more than
                SHARE of the time.
        """
        self.folder = work / FOLDER
        self.checkpoint = self.folder / CHECKPOINT
        self.parameters, self.optimizer = parameters, optimizer
        self.folder.mkdir(parents=True, exist_ok=True)
        self.least_seconds, self.save_seconds = least_seconds, 0.0
        self.saved_at = time.monotonic()
        self.best: dict[str, Tensor] = {}

    def load(self) -> tuple[int, int, TrainingCurve]:
        """(step, tokens, curve) to go on from; zeros where there is no whole checkpoint."""
        settle(self.checkpoint)
        if not self.checkpoint.is_dir():
            return 0, 0, TrainingCurve()
        state: dict[str, Any] = json.loads((self.checkpoint / STATE).read_text(encoding="utf-8"))
        curve = TrainingCurve.of_state(state["curve"])
        self._copy_in(load_file(self.checkpoint / WEIGHTS))
        self.optimizer.restore(load_file(self.checkpoint / MOMENTS))
        self.best = {name: weight.clone() for name, weight in load_file(self._best_file(curve.best.step)).items()}
        return int(state["step"]), int(state["tokens"]), curve

    def keep_best(self) -> None:
        """Keep the parameters as they are, in the processor's memory."""
        for name, parameter in self.parameters.items():
            if name in self.best:
                self.best[name].copy_(parameter.detach())
            else:
                self.best[name] = parameter.detach().to("cpu", copy=True)

    def restore_best(self) -> None:
        """Put the best parameters back."""
        self._copy_in(self.best)

    def due(self) -> bool:
        """Whether it is time for a checkpoint."""
        return time.monotonic() - self.saved_at >= max(self.least_seconds, self.save_seconds / SHARE)

    def save(self, step: int, tokens: int, curve: TrainingCurve) -> None:
        """Write a checkpoint; a kill at any point leaves the one before."""
        began = time.monotonic()
        best = self._best_file(curve.best.step)
        if not best.is_file():
            with whole(best) as file:
                save_file(self.best, file)
        with whole_folder(self.checkpoint) as folder:
            weights = {name: parameter.detach().cpu() for name, parameter in self.parameters.items()}
            save_file(weights, folder / WEIGHTS)
            moments = {name: moment.cpu() for name, moment in self.optimizer.state().items()}
            save_file(moments, folder / MOMENTS)
            state = {"step": step, "tokens": tokens, "curve": curve.state()}
            (folder / STATE).write_text(json.dumps(state), encoding="utf-8")
        for old in self.folder.glob("best-*.safetensors"):
            if old != best:
                old.unlink()
        self.saved_at = time.monotonic()
        self.save_seconds = self.saved_at - began

    def _best_file(self, step: int) -> Path:
        return self.folder / f"best-{step}.safetensors"

    def _copy_in(self, weights: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(weights[name])
