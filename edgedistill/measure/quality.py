"""Quality of a packed file: perplexity, KL to the teacher and to the float student, agreement on the likeliest token.

All logits come from the file in its runtime; the references are float32. Perplexity is exp(mean −log q(next token))
over the judged positions; KL is as in positions.py. Means and shares are weighted by the examples' weights; the 99th
percentile is over kept positions, whatever they weigh. A reference and a file whose tables have other padding rows
behind the same words are compared on the rows that both have, each side made to sum up to 1 over these.

A teacher with other words than the student reads the same text in its own tokens. Its perplexity is
exp(sum of −log q / the student's tokens), so that both are of one text and can be compared.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from edgedistill.data.example import Example
from edgedistill.measure.judge import Judge, Reference
from edgedistill.measure.positions import FilePrediction, PositionComparison, at, compare
from edgedistill.measure.worst import DocumentPiece, WorstTokens
from edgedistill.progress import Progress
from edgedistill.results.row import FLOAT, Distance, Quality
from edgedistill.runtimes.base import Runtime

ROWS = 128  # positions at a time: few enough for memory to be used again, enough for a fast matrix product


@dataclass
class _Distances:
    """KL and agreement with one reference, a tensor for each piece of positions."""

    kl: list[Tensor] = field(default_factory=list)
    same: list[Tensor] = field(default_factory=list)

    def add(self, comparison: PositionComparison) -> None:
        self.kl.append(comparison.kl)
        self.same.append(comparison.same)

    def summary(self, shares: Tensor) -> Distance:
        """Over all positions, which weigh `shares` [N] float64 of the whole."""
        # A KL is never negative; float32 sums of equal distributions come out within rounding of 0.
        kl = torch.cat(self.kl).double().clamp_min(0)
        same = float((torch.cat(self.same) * shares).sum())
        return Distance(float((kl * shares).sum()), float(kl.quantile(0.99)), same)


@dataclass
class _Tally:
    """What was measured on one judge: weights and −log q of each position, and the distance to each reference."""

    weights: list[Tensor] = field(default_factory=list)
    nll: list[Tensor] = field(default_factory=list)
    distances: dict[str, _Distances] = field(default_factory=dict)

    def summary(self, per: float | None) -> Quality:
        nll = torch.cat(self.nll).double()
        weights = torch.cat(self.weights).double()
        shares = weights / weights.sum()
        distances = {name: one.summary(shares) for name, one in self.distances.items()}
        if per is not None:  # the same text has as many tokens elsewhere
            return Quality(len(nll), float(((nll * weights).sum() / per).exp()), distances)
        return Quality(len(nll), float((nll * shares).sum().exp()), distances)


@torch.no_grad()
def measure_quality(
    model: Runtime,
    judges: Sequence[Judge],
    references: Mapping[str, Reference],
    progress: Progress,
    worst: WorstTokens | None = None,
) -> dict[str, Quality]:
    """A file's quality by judge, with its distance to each reference by name.

    Args:
        model: the file in its runtime.
        judges: the texts.
        references: float models' views of all judged positions.
        progress: advances by positions.
        worst: sees every position's KL to the reference FLOAT.
    """
    quality: dict[str, Quality] = {}
    position = 0  # of all judges' positions, as references count them
    for number, judge in enumerate(judges):
        tally = _Tally()
        for place, document in enumerate(judge.documents):
            labels, positions = document.labels, document.positions
            tally.weights.append(document.weights)
            row = 0
            for logits in _kept_logits(model, document):
                stop = row + len(logits)
                prediction = FilePrediction.of(logits)
                tally.nll.append(-at(prediction.log_q, labels[row:stop]))
                for name, reference in references.items():
                    view = reference.view(position + row, position + stop, logits.shape[-1])
                    comparison = compare(view, logits, prediction)
                    tally.distances.setdefault(name, _Distances()).add(comparison)
                    if worst is not None and name == FLOAT:
                        worst.see(comparison, DocumentPiece(number, place, positions[row:stop]))
                row = stop
            position += row
            progress.advance(row)
        quality[judge.name] = tally.summary(judge.per)
    return quality


def _kept_logits(model: Runtime, document: Example) -> Iterator[Tensor]:
    """Logits [n, V] float32 of the kept positions in order, at most ROWS at a time."""
    if not document.kept:
        return
    for start, rows in model.logit_chunks(document.tokens.tolist(), int(document.positions[0])):
        for offset in range(0, len(rows), ROWS):
            piece = rows[offset : offset + ROWS]
            first = start + offset
            kept = document.weight[first : first + len(piece)] > 0
            if kept.all() and len(kept) == len(piece):
                yield torch.from_numpy(piece).float()
            elif kept.any():
                yield torch.from_numpy(piece[: len(kept)]).float()[kept]
