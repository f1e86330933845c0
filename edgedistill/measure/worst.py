"""The tokens at which a packed file is furthest from its float model: where in the text, what the float model expects,
what the file would say.

They come out of the figures that are computed anyway. Neighbouring positions tend to be bad together, so only the worst
of a stretch is kept, and the same mistake (one token expected, one other said) counts once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from edgedistill.measure.judge import Judge
from edgedistill.measure.positions import PositionComparison
from edgedistill.results.row import WorstToken
from edgedistill.runtimes.base import Runtime

COUNT = 5
APART = 24  # tokens between two positions of one document
BEFORE = 24  # tokens of the text that are shown before the place
CANDIDATES = 4 * COUNT  # of a piece of logits: some are neighbours, or the same mistake


@dataclass(frozen=True)
class DocumentPiece:
    """Which positions [n] of which judge's which document a comparison is of."""

    judge: int
    document: int
    positions: Tensor


@dataclass(frozen=True)
class BadPosition:
    """One position of a document: `position` is the last token read; `expected` and `got` are token ids."""

    kl: float
    judge: int
    document: int
    position: int
    expected: int
    got: int
    p_expected: float
    p_file: float

    def is_near(self, other: "BadPosition") -> bool:
        """Whether both lie in one stretch of one document."""
        same_document = (self.judge, self.document) == (other.judge, other.document)
        return same_document and abs(self.position - other.position) < APART

    def is_same_mistake(self, other: "BadPosition") -> bool:
        """Whether the same token was expected and the same other one said."""
        return (self.expected, self.got) == (other.expected, other.got)


class WorstTokens:
    """Collects the worst positions from comparisons, of which it is shown all."""

    def __init__(self) -> None:
        self._worst: list[BadPosition] = []

    def see(self, comparison: PositionComparison, piece: DocumentPiece) -> None:
        """Look at a piece of n positions of one document."""
        floor = self._worst[-1].kl if len(self._worst) >= COUNT else 0.0
        values, rows = comparison.kl.topk(min(CANDIDATES, len(comparison.kl)))
        for value, row in zip(values.tolist(), rows.tolist(), strict=True):
            if value > floor:
                self._worst.append(_bad_position(value, row, comparison, piece))
        self._worst = _apart(self._worst)

    def describe(self, model: Runtime, judges: Sequence[Judge]) -> tuple[WorstToken, ...]:
        """The worst, worst first, with their tokens as text."""
        return tuple(_describe(position, model, judges[position.judge]) for position in self._worst)


def _bad_position(kl: float, row: int, comparison: PositionComparison, piece: DocumentPiece) -> BadPosition:
    """Row `row` of a comparison."""
    expected, got = int(comparison.likeliest[row]), int(comparison.log_q[row].argmax())
    return BadPosition(
        kl=kl,
        judge=piece.judge,
        document=piece.document,
        position=int(piece.positions[row]),
        expected=expected,
        got=got,
        p_expected=float(comparison.p_likeliest[row]),
        p_file=float(comparison.log_q[row, expected].exp()),
    )


def _describe(worst: BadPosition, model: Runtime, judge: Judge) -> WorstToken:
    tokens = judge.documents[worst.document].tokens[: worst.position + 1].tolist()
    before = model.detokenize(tokens[-BEFORE:]).lstrip("\ufffd")  # a character that the cut went through
    return WorstToken(
        judge=judge.name,
        before=("…" if len(tokens) > BEFORE else "") + before,
        expected=model.detokenize([worst.expected], special=True),
        got=model.detokenize([worst.got], special=True),
        p_expected=worst.p_expected,
        p_file=worst.p_file,
        kl=worst.kl,
    )


def _apart(positions: list[BadPosition]) -> list[BadPosition]:
    """The worst COUNT, worst first, none near another or the same mistake again."""
    kept: list[BadPosition] = []
    for worst in sorted(positions, key=lambda one: (-one.kl, one.judge, one.document, one.position)):
        if not any(other.is_near(worst) or other.is_same_mistake(worst) for other in kept):
            kept.append(worst)
        if len(kept) == COUNT:
            break
    return kept
