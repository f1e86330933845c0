"""Examples -> packed rows: several examples a row, none seeing another.

Whole examples are put into rows of `seq_len` tokens, longest first, each into the fullest row that still takes it
(best-fit decreasing). An example longer than a row is cut at its end. Positions restart and attention is blocked at
each example's border, so packing changes nothing that an example's tokens see.
"""

import bisect
import heapq
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from edgedistill.data.example import Example
from edgedistill.data.seeds import ROW_ORDER, derived_seed
from edgedistill.errors import InputError


@dataclass(frozen=True)
class Batch:
    """Rows ready for a forward pass, and where a loss looks.

    Attributes:
        tokens: [B, T] int64.
        positions: [B, T] int64, from 0 in each example.
        documents: lengths of the examples end to end over the B·T positions; what is padded at a row's end counts as
            one.
        real: [B, T] bool, False on padding; always on the processor, where loops read it.
        kept: [N] int64, flat indices into B·T of the positions whose next token counts.
        labels: [N] int64, those next tokens.
        weights: [N] float32, how much each of them counts, above 0.
        signal: by name, [N, ...] rows of the teacher's signal.
        every: by name, [B · T, ...] rows of all positions, 0 on padding.
    """

    tokens: Tensor
    positions: Tensor
    documents: tuple[int, ...]
    real: Tensor
    kept: Tensor
    labels: Tensor
    weights: Tensor
    signal: dict[str, Tensor]
    every: dict[str, Tensor] = field(default_factory=dict)

    @property
    def read(self) -> Tensor:
        """Flat indices into B·T of all positions that are no padding, int64, on the tokens' device."""
        return self.real.flatten().nonzero().squeeze(-1).to(self.tokens.device)

    def to(self, device: str | torch.device) -> "Batch":
        """The same on a device."""
        if torch.device(device) == self.tokens.device:
            return self
        return Batch(
            self.tokens.to(device),
            self.positions.to(device),
            self.documents,
            self.real,
            self.kept.to(device),
            self.labels.to(device),
            self.weights.to(device),
            {name: rows.to(device) for name, rows in self.signal.items()},
            {name: rows.to(device) for name, rows in self.every.items()},
        )


def pack_rows(lengths: Sequence[int], seq_len: int) -> list[list[int]]:
    """Indices of the examples in each row; lengths above `seq_len` count as `seq_len`.

    n examples take n log n comparisons: the rows that still have room stand in a list sorted by that room.

    Raises:
        ValueError: seq_len is below 2.
    """
    if seq_len < 2:
        raise ValueError(f"seq_len must be at least 2 tokens, got {seq_len}")
    rows: list[list[int]] = []
    # By free tokens, the rows that have as many, the lowest first. There are at most `seq_len` sizes.
    rows_by_room: dict[int, list[int]] = {}
    rooms: list[int] = []  # the sizes in use, ascending

    def put(row: int, room: int) -> None:
        if room not in rows_by_room:
            rows_by_room[room] = []
            bisect.insort(rooms, room)
        heapq.heappush(rows_by_room[room], row)

    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        length = min(lengths[index], seq_len)
        place = bisect.bisect_left(rooms, length)
        if place == len(rooms):
            rows.append([index])
            put(len(rows) - 1, seq_len - length)
            continue
        room = rooms[place]
        row = heapq.heappop(rows_by_room[room])
        if not rows_by_room[room]:
            del rows_by_room[room], rooms[place]
        rows[row].append(index)
        put(row, room - length)
    return rows


def schedule_rows(rows: int, rows_per_step: int, steps: int, seed: int) -> list[list[int]]:
    """Which rows each step trains on: epochs in an order of their own, drawn from a seed that `seed` gives for this
    alone.
    """
    own_seed = derived_seed(seed, ROW_ORDER)
    order: list[int] = []
    epoch = 0
    while len(order) < steps * rows_per_step:
        shuffled = list(range(rows))
        random.Random(f"{own_seed}/{epoch}").shuffle(shuffled)
        order.extend(shuffled)
        epoch += 1
    return [order[step * rows_per_step : (step + 1) * rows_per_step] for step in range(steps)]


def counting(examples: Sequence[Example], seq_len: int, setting: str) -> list[Example]:
    """The examples of which a token counts: a chat whose answer begins behind the end of a row has none.

    Args:
        examples: all of them.
        seq_len: tokens a packed row; longer examples are cut.
        setting: where in the recipe that is set, for the error.
    Raises:
        InputError: there are examples, and none counts.
    """
    counted = [example for example in examples if example.cut(seq_len).kept]
    if examples and not counted:
        least = min((int(example.positions[0]) + 2 for example in examples if example.kept), default=2)
        raise InputError(
            f"{setting}: rows of {seq_len} tokens end before any answer begins; it must be at least {least}, "
            "better several times that"
        )
    return counted


def counting_sources(sources: Mapping[str, Sequence[Example]], seq_len: int, setting: str) -> dict[str, list[Example]]:
    """The same of each source; a source of which no token counts is left out.

    Raises:
        InputError: none of all sources counts.
    """
    counting([example for examples in sources.values() for example in examples], seq_len, setting)
    counted = {
        name: [example for example in examples if example.cut(seq_len).kept] for name, examples in sources.items()
    }
    return {name: examples for name, examples in counted.items() if examples}


def make_batch(rows: Sequence[Sequence[Example]], seq_len: int) -> Batch:
    """Lay out rows of examples as one batch, padded to the longest row.

    Raises:
        ValueError: no position in the batch counts.
    """
    cut_rows = [[example.cut(seq_len) for example in row] for row in rows]
    width = max(sum(len(example.tokens) for example in row) for row in cut_rows)
    tokens = torch.zeros(len(rows), width, dtype=torch.int64)
    positions = torch.zeros(len(rows), width, dtype=torch.int64)
    real = torch.zeros(len(rows), width, dtype=torch.bool)
    lengths: list[int] = []
    kept: list[Tensor] = []
    counted: list[Example] = []
    for number, row in enumerate(cut_rows):
        at = 0
        for example in row:
            end = at + len(example.tokens)
            tokens[number, at:end] = example.tokens
            positions[number, at:end] = torch.arange(len(example.tokens))
            lengths.append(len(example.tokens))
            if example.kept:
                kept.append(number * width + at + example.positions)
                counted.append(example)
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
        torch.cat([example.labels for example in counted]),
        torch.cat([example.weights for example in counted]),
        {name: torch.cat([example.signal[name] for example in counted]) for name in counted[0].signal},
        _every(cut_rows, width),
    )


def _every(rows: Sequence[Sequence[Example]], width: int) -> dict[str, Tensor]:
    """The rows of all positions, end to end, of signals that every token has."""
    first = rows[0][0].every
    gathered = {name: each.new_zeros(len(rows) * width, *each.shape[1:]) for name, each in first.items()}
    for name, whole in gathered.items():
        for number, row in enumerate(rows):
            at = number * width
            for example in row:
                whole[at : at + len(example.tokens)] = example.every[name]
                at += len(example.tokens)
    return gathered
