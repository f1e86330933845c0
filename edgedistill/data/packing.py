"""Documents -> packed rows: several documents a row, none seeing another.

Whole documents are put into rows of `seq_len` tokens, longest first, each into the fullest row that still takes it
(best-fit decreasing). A document longer than a row is cut at its end. Positions restart and attention is blocked at
each document's border, so packing changes nothing that a document's tokens see.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from edgedistill.errors import InputError


@dataclass(frozen=True)
class Batch:
    """Rows ready for a forward pass, and where a loss looks.

    Attributes:
        tokens: [B, T] int64.
        positions: [B, T] int64, from 0 in each document.
        documents: lengths of the documents end to end over the B·T positions; what is padded at a row's end counts as
            one.
        real: [B, T] bool, False on padding.
        kept: [N] int64, flat indices into B·T of the positions whose next token counts.
        labels: [N] int64, those next tokens.
        signal: by name, [N, ...] rows of the teacher's signal.
    """

    tokens: Tensor
    positions: Tensor
    documents: tuple[int, ...]
    real: Tensor
    kept: Tensor
    labels: Tensor
    signal: dict[str, Tensor]


class Packable(Protocol):
    """What packing must know of a document (`signals.Document` has it)."""

    @property
    def tokens(self) -> Tensor:
        """[n] ids."""
        ...

    @property
    def first(self) -> int:
        """The first position whose next token counts."""
        ...

    @property
    def signal(self) -> dict[str, Tensor]:
        """By name, a row for each position from `first` to n − 2."""
        ...


def pack_rows(lengths: Sequence[int], seq_len: int) -> list[list[int]]:
    """Indices of the documents in each row; lengths above `seq_len` count as `seq_len`.

    Raises:
        ValueError: seq_len is below 2.
    """
    if seq_len < 2:
        raise ValueError(f"seq_len must be at least 2 tokens, got {seq_len}")
    rows: list[list[int]] = []
    free: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        length = min(lengths[index], seq_len)
        fitting = [row for row, space in enumerate(free) if space >= length]
        if fitting:
            row = min(fitting, key=lambda r: (free[r], r))
            rows[row].append(index)
            free[row] -= length
        else:
            rows.append([index])
            free.append(seq_len - length)
    return rows


def schedule_rows(rows: int, rows_per_step: int, steps: int, seed: int) -> list[list[int]]:
    """Which rows each step trains on: epochs in an order of their own, drawn from `seed` alone."""
    order: list[int] = []
    epoch = 0
    while len(order) < steps * rows_per_step:
        shuffled = list(range(rows))
        random.Random(f"{seed}/{epoch}").shuffle(shuffled)
        order.extend(shuffled)
        epoch += 1
    return [order[step * rows_per_step : (step + 1) * rows_per_step] for step in range(steps)]


Packed = TypeVar("Packed", bound=Packable)


def counting(documents: Sequence[Packed], seq_len: int, setting: str) -> list[Packed]:
    """The documents of which a token counts: a chat whose answer begins behind the end of a row has none.

    Args:
        documents: all of them.
        seq_len: tokens a packed row; longer documents are cut.
        setting: where in the recipe that is set, for the error.
    Raises:
        InputError: there are documents, and none counts.
    """
    found = [document for document in documents if min(len(document.tokens), seq_len) - 1 > document.first]
    if documents and not found:
        least = min(document.first for document in documents) + 2
        raise InputError(
            f"{setting}: rows of {seq_len} tokens end before any answer begins; it must be at least {least}, "
            "better several times that"
        )
    return found


def make_batch(rows: Sequence[Sequence[Packable]], seq_len: int) -> Batch:
    """Lay out rows of documents as one batch, padded to the longest row.

    Raises:
        ValueError: no position in the batch counts.
    """
    width = max(sum(min(len(document.tokens), seq_len) for document in row) for row in rows)
    tokens = torch.zeros(len(rows), width, dtype=torch.int64)
    positions = torch.zeros(len(rows), width, dtype=torch.int64)
    real = torch.zeros(len(rows), width, dtype=torch.bool)
    lengths: list[int] = []
    kept: list[Tensor] = []
    labels: list[Tensor] = []
    signal: dict[str, list[Tensor]] = {}
    for number, row in enumerate(rows):
        at = 0
        for document in row:
            ids = document.tokens[: min(len(document.tokens), seq_len)].long()
            end = at + len(ids)
            tokens[number, at:end] = ids
            positions[number, at:end] = torch.arange(len(ids))
            lengths.append(len(ids))
            count = len(ids) - 1 - document.first
            if count > 0:
                kept.append(number * width + at + torch.arange(document.first, len(ids) - 1))
                labels.append(ids[document.first + 1 :])
                for name, values in document.signal.items():
                    signal.setdefault(name, []).append(values[:count])
            at = end
        real[number, :at] = True
        if at < width:
            lengths.append(width - at)
    if not kept:
        raise ValueError("a batch needs at least one position whose next token counts")
    return Batch(
        tokens,
        positions,
        tuple(lengths),
        real,
        torch.cat(kept),
        torch.cat(labels),
        {name: torch.cat(values) for name, values in signal.items()},
    )
