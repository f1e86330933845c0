"""The rotary angles of a model, as an ONNX graph stores them: cosines and sines of each position."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedistill.facts import ModelShape
from edgedistill.families import FAMILIES
from edgedistill.models import rope
from edgedistill.models.load import model_config
from edgedistill.models.vocabulary import read_vocabulary

Angles = tuple[NDArray[np.float32], NDArray[np.float32]]


@dataclass(frozen=True)
class RotaryCaches:
    """Cosines and sines [positions, rotated part of a head / 2]; `local`: windowed layers' where they differ.

    None where no layer has them: a Gemma of few layers has windowed ones alone.
    """

    full: Angles | None
    local: Angles | None = None

    def named(self) -> dict[str, NDArray[np.float32]]:
        """As the graph calls them."""
        caches: dict[str, NDArray[np.float32]] = {}
        if self.full:
            caches |= {"cos_cache": self.full[0], "sin_cache": self.full[1]}
        if self.local:
            caches |= {"local_cos_cache": self.local[0], "local_sin_cache": self.local[1]}
        return caches


def rotary_caches(folder: Path, shape: ModelShape, positions: int) -> RotaryCaches:
    """Angles as transformers computes them for the family, with rope scaling and its attention factor."""
    import transformers

    config = model_config(shape, read_vocabulary(folder))
    model_class = getattr(transformers, FAMILIES[shape.family].model_class)
    rotary_name = model_class.__name__.replace("ForCausalLM", "RotaryEmbedding")
    rotary = getattr(sys.modules[model_class.__module__], rotary_name)(config)
    if shape.local_rope_theta is None:
        return RotaryCaches(_angles(rotary, positions))
    full, local = (
        _angles(rotary, positions, kind) if kind in config.layer_types else None for kind in (rope.FULL, rope.SLIDING)
    )
    return RotaryCaches(full, local)


def _angles(rotary: Any, positions: int, *kind: str) -> Angles:
    import torch

    with torch.no_grad():
        cos, sin = rotary(torch.zeros(1), torch.arange(positions).unsqueeze(0), *kind)
    half = cos.shape[-1] // 2  # transformers repeats the angles for the second half of what is rotated
    return cos[0, :, :half].contiguous().numpy(), sin[0, :, :half].contiguous().numpy()
