"""What the folder of a LoRA adapter holds, once it is checked. No torch."""

from dataclasses import dataclass
from pathlib import Path

WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True)
class LoraFolder:
    """An adapter and its base.

    Attributes:
        path: the adapter's folder.
        base: the base's.
        rank, alpha: what its config says; `ranks`, `alphas` of single matrices, by peft's patterns.
        rslora: whether alpha is divided by the root of the rank.
        targets: the modules that it stands beside, by their full names.
    """

    path: Path
    base: Path
    rank: int
    alpha: float
    ranks: dict[str, int]
    alphas: dict[str, float]
    rslora: bool
    targets: tuple[str, ...]
