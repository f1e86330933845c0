"""What a student is made from."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from edgedistill.facts import ModelShape
from edgedistill.models.gguf_file import read_header
from edgedistill.models.gguf_model import gguf_shape
from edgedistill.models.hf_folder import read_shape


@dataclass(frozen=True)
class Origin:
    """What a student is made from.

    Attributes:
        teacher: a model folder or GGUF file: the teacher's, or that of the model that the student starts from.
        name: what the student is called.
        license: of that model, and so of the student, by its SPDX name; None if unknown.
        license_text: in full; None if unknown.
        texts: token ids of training text, each [n], for kinds that measure the teacher on it.
        compute: the type of the matrix products where they do.
        system: the message that all chats began with which the teacher was trained on; None where there was none.
        lineage: what that model was made from, the oldest first, where it is a run's.
        device: what computes where they measure.
    """

    teacher: Path
    name: str
    license: str | None = None
    license_text: str | None = None
    texts: Iterable[Tensor] = ()
    compute: torch.dtype = torch.float32
    system: str | None = None
    lineage: tuple[str, ...] = ()
    device: str = "cpu"

    def shape(self) -> ModelShape:
        """The teacher's shape."""
        return read_shape(self.teacher) if self.teacher.is_dir() else gguf_shape(read_header(self.teacher))


def first_tokens(texts: Iterable[Tensor], most: int) -> list[Tensor]:
    """The first texts that have so many tokens together, each [1, n]."""
    sample: list[Tensor] = []
    tokens = 0
    for text in texts:
        sample.append(text.long().unsqueeze(0))
        tokens += len(text)
        if tokens >= most:
            break
    return sample
