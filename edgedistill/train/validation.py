"""One validation: the mean loss on held-out text, over all of it and by source; and which checkpoint is the best.

Training can win on one kind of text what it loses on another, and a mean over all hides that. So a checkpoint is as
good as its worst source: the largest of the losses' ratios to those before the first step.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

SMALLEST = 1e-9  # nats a token; a source that begins at 0 is compared with this instead

Document = TypeVar("Document")


@dataclass(frozen=True)
class ValidationLoss:
    """Mean losses in nats a token.

    Attributes:
        loss: over all tokens of the sources that decide which weights are the best.
        by_source: over the tokens of each source.
    """

    loss: float
    by_source: dict[str, float]


def validate_sources(
    sources: Mapping[str, Sequence[Document]],
    measure: Callable[[Sequence[Document]], tuple[float, float]],
    decides: Collection[str] = (),
) -> ValidationLoss:
    """Validate on each source.

    Args:
        sources: documents by source.
        measure: documents -> (sum of the losses in nats, weighted; sum of the weights).
        decides: the sources that decide which weights are the best; all if empty, or if none of them is there.
    """
    sums = {name: measure(documents) for name, documents in sources.items()}
    deciding = [sums[name] for name in decides if name in sums] or list(sums.values())
    loss = sum(total for total, _ in deciding) / sum(count for _, count in deciding)
    return ValidationLoss(loss, {name: total / count for name, (total, count) in sums.items()})


def worst_ratio(by_source: Mapping[str, float], start: Mapping[str, float]) -> float:
    """The largest ratio of a source's loss to its loss at the start: below 1 where every source has won."""
    return max(loss / max(start[source], SMALLEST) for source, loss in by_source.items())
