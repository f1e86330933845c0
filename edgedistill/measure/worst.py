"""The tokens at which a packed file is furthest from its float model: where in the text, what was expected, what the
file would say.

They come out of the figures that are computed anyway. Neighbouring positions share their fate, so of a stretch only the
worst is kept, and the same mistake (this token expected, that one found) counts once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from edgedistill.measure.judge import Judge, View
from edgedistill.runtimes.base import Runtime

COUNT = 5
APART = 24  # tokens between two positions of one document
BEFORE = 24  # tokens of the text that are shown before the place
CANDIDATES = 4 * COUNT  # of a piece of logits: some are neighbours, or the same mistake


@dataclass(frozen=True)
class Worst:
    """One position of a document: `position` is the last token read; `expected` and `got` are token ids."""

    kl: float
    judge: int
    document: int
    position: int
    expected: int
    got: int
    p_expected: float
    p_file: float


class WorstTokens:
    """Collects the worst positions while logits go by."""

    def __init__(self) -> None:
        self._found: list[Worst] = []

    def see(
        self, kl: Tensor, view: View, p_expected: Tensor, log_q: Tensor, judge: int, document: int, positions: Tensor
    ) -> None:
        """Look at a piece of n positions of one document.

        Args:
            kl: [n] nats.
            view: the reference at them; its `likeliest` [n] is what was expected.
            p_expected: [n] its probability by the reference.
            log_q: [n, V] log-probabilities of the file.
            judge, document: their numbers.
            positions: [n] of the rows in the document.
        """
        floor = self._found[-1].kl if len(self._found) >= COUNT else 0.0
        values, rows = kl.topk(min(CANDIDATES, len(kl)))
        for value, row in zip(values.tolist(), rows.tolist(), strict=True):
            if value > floor:
                expected, got = int(view.likeliest[row]), int(log_q[row].argmax())
                p_file = float(log_q[row, expected].exp())
                self._found.append(
                    Worst(value, judge, document, int(positions[row]), expected, got, float(p_expected[row]), p_file)
                )
        self._found = _apart(self._found)

    def describe(self, model: Runtime, judges: Sequence[Judge]) -> list[dict[str, Any]]:
        """The worst, worst first, in words: see the keys of measure.json's `worst`."""
        found = []
        for worst in self._found:
            judge = judges[worst.judge]
            tokens = judge.documents[worst.document].tokens[: worst.position + 1].tolist()
            before = model.detokenize(tokens[-BEFORE:]).lstrip("\ufffd")  # a character that the cut went through
            found.append(
                {
                    "judge": judge.name,
                    "before": ("…" if len(tokens) > BEFORE else "") + before,
                    "expected": model.detokenize([worst.expected], special=True),
                    "got": model.detokenize([worst.got], special=True),
                    "p_expected": worst.p_expected,
                    "p_file": worst.p_file,
                    "kl": worst.kl,
                }
            )
        return found


def _apart(found: list[Worst]) -> list[Worst]:
    """The worst COUNT, worst first, none near another or the same mistake again."""
    kept: list[Worst] = []
    for worst in sorted(found, key=lambda one: (-one.kl, one.judge, one.document, one.position)):
        near = any(
            (other.judge, other.document) == (worst.judge, worst.document)
            and abs(other.position - worst.position) < APART
            or (other.expected, other.got) == (worst.expected, worst.got)
            for other in kept
        )
        if not near:
            kept.append(worst)
        if len(kept) == COUNT:
            break
    return kept
