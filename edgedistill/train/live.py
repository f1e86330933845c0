"""A frozen teacher beside the student: its forward pass is run for each batch of a training."""

from pathlib import Path

import torch

from edgedistill.data.packing import Batch
from edgedistill.losses.blocks import BlockNeeds, BlockOutputs
from edgedistill.models.load import load_model
from edgedistill.signals.sources import LiveBlocks
from edgedistill.train.forward import kept_blocks


def live_blocks(teacher: Path, needs: BlockNeeds, dtype: torch.dtype, device: str = "cpu") -> LiveBlocks:
    """The source of a teacher's blocks that keeps the teacher in memory, its weights in float32.

    Args:
        teacher: its folder or file.
        needs: what is asked of it.
        dtype: of its matrix products.
        device: where it lies.
    """
    model = load_model(teacher, device=device)
    model.requires_grad_(False)

    def forward(batch: Batch) -> BlockOutputs:
        return kept_blocks(model, batch, dtype, needs)[1]

    return LiveBlocks(forward)
