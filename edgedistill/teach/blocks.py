"""Store what a loss looks at inside the teacher: hidden states after some blocks, and what attends in some.

The teacher reads the training text once and is out of memory while the student is trained. Kept in bfloat16: float16
ends at 65,504.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from edgedistill.data.example import Example
from edgedistill.data.packing import Batch, counting_sources
from edgedistill.losses.blocks import BlockNeeds, BlockOutputs
from edgedistill.models.load import load_model
from edgedistill.progress import Progress
from edgedistill.signals.shards import SOURCE_NAMES, save_shard, shard_path
from edgedistill.signals.sources import SIDES, side_name, state_name
from edgedistill.teach.capture import parts_of, read_length
from edgedistill.train.forward import batches, compute_type, kept_blocks

STORED = torch.bfloat16


@dataclass(frozen=True)
class BlockSettings:
    """What is stored.

    Attributes:
        needs: of the teacher's layers and blocks.
        seq_len: tokens of a text that are read; longer ones are cut.
        compute: "float32" or "bfloat16".
        place: where in the recipe `seq_len` is set, for messages.
        device: what computes.
    """

    needs: BlockNeeds
    seq_len: int
    compute: str
    place: str
    device: str = "cpu"


@torch.no_grad()
def store_blocks(
    teacher: Path,
    sources: Mapping[str, Sequence[Example]],
    settings: BlockSettings,
    work: Path,
    progress: Progress,
) -> None:
    """Write `{source}train/signals-*.safetensors` for each source of the training text that has any that counts.

    Args:
        teacher: its folder or file.
        sources: the training text by source.
        settings: see `BlockSettings`.
        work: the stage's folder. Whole shards that a killed run left in it are kept.
        progress: where it is shown.
    Raises:
        InputError: rows are so short that no text reaches beyond what was asked.
    """
    counted = counting_sources(sources, settings.seq_len, settings.place)
    model = load_model(teacher, device=settings.device)
    tokens = sum(read_length(example, settings.seq_len) for examples in counted.values() for example in examples)
    progress.start("read the text for the teacher's blocks", tokens, "tokens")
    for prefix, name in SOURCE_NAMES.items():
        if name not in counted:
            continue
        folder = work / f"{prefix}train"
        folder.mkdir(exist_ok=True)
        for number, part in enumerate(parts_of(counted[name], settings.seq_len)):
            path = shard_path(folder, number)
            if not path.is_file():
                save_shard(path, _read(model, part, settings))
            progress.advance(sum(read_length(example, settings.seq_len) for example in part))
    progress.finish()


def _read(model: PreTrainedModel, examples: Sequence[Example], settings: BlockSettings) -> list[Example]:
    """The examples, in their order, with what is stored of the model's blocks and nothing else."""
    compute = compute_type(settings.compute)
    read: dict[int, Example] = {}
    for batch, order in batches(examples, settings.seq_len, 2, model.device):
        _, outputs = kept_blocks(model, batch, compute, settings.needs)
        row = 0
        for index, at in zip(order, _starts(batch), strict=True):
            example = examples[index].cut(settings.seq_len)
            rows = slice(row, row + example.kept)
            read[index] = _with_blocks(example, outputs, rows, slice(at, at + len(example.tokens)))
            row += example.kept
    return [read[index] for index in sorted(read)]


def _starts(batch: Batch) -> list[int]:
    """Where each example begins in the flattened rows; padding begins none."""
    real, at, starts = batch.real.flatten(), 0, []
    for length in batch.documents:
        if real[at]:
            starts.append(at)
        at += length
    return starts


def _with_blocks(example: Example, outputs: BlockOutputs, kept: slice, tokens: slice) -> Example:
    signal = {state_name(layer): _stored(states[kept]) for layer, states in outputs.states.items()}
    every = {
        side_name(side, block): _stored(getattr(attending, side)[tokens])
        for block, attending in outputs.attention.items()
        for side in SIDES
    }
    return Example(example.tokens, example.weight, signal, example.trace_id, every)


def _stored(rows: Tensor) -> Tensor:
    return rows.to(device="cpu", dtype=STORED, copy=True)
