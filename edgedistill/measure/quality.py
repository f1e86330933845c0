"""Quality of a packed file: perplexity, KL to the teacher and to the float student, agreement on the likeliest token.

All logits come from the file in its runtime; the references are float32. For each judged position, in nats:
KL(reference ‖ file) = Σ_v p_v log p_v − Σ_v p_v log q_v; perplexity = exp(mean −log q(next token)). The first sum is
the reference's own and is taken once for all files. Means and shares are weighted by the examples' weights; the 99th
percentile is over kept positions, whatever they weigh. A reference and a file whose tables have other padding rows
behind the same words are compared on the rows that both have, each side made to sum up to 1 over these.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from edgedistill.data.example import Example
from edgedistill.measure.judge import Judge, Reference
from edgedistill.measure.worst import WorstTokens
from edgedistill.progress import Progress
from edgedistill.runtimes.base import Runtime

ROWS = 128  # positions at a time: few enough for memory to be used again, enough for a fast matrix product


@dataclass
class _Tally:
    weights: list[Tensor] = field(default_factory=list)
    nll: list[Tensor] = field(default_factory=list)
    kl: dict[str, list[Tensor]] = field(default_factory=dict)
    same: dict[str, list[Tensor]] = field(default_factory=dict)


@torch.no_grad()
def measure_quality(
    model: Runtime,
    judges: Sequence[Judge],
    references: Mapping[str, Reference],
    progress: Progress,
    worst: WorstTokens | None = None,
    worst_by: str = "student",
) -> dict[str, dict[str, float]]:
    """By judge: tokens, ppl, and for each reference NAME: kl_NAME_mean, kl_NAME_p99, top1_NAME (a share).

    `worst` sees every position's KL to the reference `worst_by`.
    """
    found: dict[str, dict[str, float]] = {}
    position = 0
    for number, judge in enumerate(judges):
        tally = _Tally()
        for place, document in enumerate(judge.documents):
            labels, positions = document.labels, document.positions
            tally.weights.append(document.weights)
            row = 0
            for logits in _kept_logits(model, document):
                stop = row + len(logits)
                log_q = torch.log_softmax(logits, -1)
                best_of_all = log_q.amax(-1)
                tally.nll.append(-log_q.gather(-1, labels[row:stop].unsqueeze(-1)).squeeze(-1))
                for name, reference in references.items():
                    view = reference.view(position + row, position + stop, logits.shape[-1])
                    shared, best = log_q, best_of_all
                    if view.p.shape[-1] < logits.shape[-1]:  # the file has padding rows that the reference lacks
                        shared = torch.log_softmax(logits[:, : view.p.shape[-1]], -1)
                        best = shared.amax(-1)
                    expected = view.p.gather(-1, view.likeliest.unsqueeze(-1)).squeeze(-1)
                    # In place: hundreds of MB a second of fresh memory cost as much as the sums.
                    kl = view.negative_entropy - view.p.mul_(shared).sum(-1)
                    if worst is not None and name == worst_by:
                        worst.see(kl, view, expected, shared, number, place, positions[row:stop])
                    tally.kl.setdefault(name, []).append(kl)
                    tally.same.setdefault(name, []).append(
                        shared.gather(-1, view.likeliest.unsqueeze(-1)).squeeze(-1) == best
                    )
                row = stop
            position += row
            progress.advance(row)
        found[judge.name] = _summary(tally)
    return found


def _kept_logits(model: Runtime, document: Example) -> Iterator[Tensor]:
    """Logits [n, V] float32 of the kept positions in order, at most ROWS at a time."""
    if not document.kept:
        return
    for start, rows in model.logit_chunks(document.tokens.tolist(), int(document.positions[0])):
        for at in range(0, len(rows), ROWS):
            piece = rows[at : at + ROWS]
            first = start + at
            kept = document.weight[first : first + len(piece)] > 0
            if kept.all() and len(kept) == len(piece):
                yield torch.from_numpy(piece).float()
            elif kept.any():
                yield torch.from_numpy(piece[: len(kept)]).float()[kept]


def _summary(tally: _Tally) -> dict[str, float]:
    nll = torch.cat(tally.nll).double()
    weights = torch.cat(tally.weights).double()
    shares = weights / weights.sum()
    summary = {"tokens": len(nll), "ppl": float((nll * shares).sum().exp())}
    for name, parts in tally.kl.items():
        # A KL is never negative; float32 sums of equal distributions come out within rounding of 0.
        kl = torch.cat(parts).double().clamp_min(0)
        summary[f"kl_{name}_mean"] = float((kl * shares).sum())
        summary[f"kl_{name}_p99"] = float(kl.quantile(0.99))
        summary[f"top1_{name}"] = float((torch.cat(tally.same[name]) * shares).sum())
    return summary
