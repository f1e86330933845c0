"""Questions and requests put to one packed file: a bit an item, and the shares, intervals and paired differences made
of the bits.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from edgedistill.config.tasks import Choice
from edgedistill.measure.intervals import CONFIDENCE, paired_difference, wilson
from edgedistill.measure.multiple_choice import Question, answer_questions, right_answers
from edgedistill.measure.refusals import reply_to
from edgedistill.progress import Progress
from edgedistill.runtimes.base import Runtime
from edgedistill.runtimes.llama import LlamaCpp

Bits = str  # "1" where an item was right, or a request refused


def ask_questions(model: Runtime, choices: Sequence[Choice], progress: Progress) -> Bits:
    """Which questions the file answers rightly, by log-likelihood per character (`acc_norm` of EleutherAI's
    harness).
    """
    questions = [Question(choice.question, choice.options, choice.right) for choice in choices]
    return _bits(right_answers(questions, answer_questions(model, questions, progress), normalized=True))


def ask_requests(model: LlamaCpp, requests: Sequence[str], progress: Progress) -> Bits:
    """Which requests the file declines."""
    return _bits([reply.refused for reply in reply_to(model, requests, progress)])


def share_of(bits: Bits, counted: str) -> dict[str, Any]:
    """Items, how many of them are 1 under the name `counted`, their share and its 95 % interval."""
    hits = bits.count("1")
    low, high = wilson(hits, len(bits))
    return {"items": len(bits), counted: hits, "share": hits / len(bits), "low": low, "high": high}


def differences(base: Mapping[str, Bits], own: Mapping[str, Bits], comparisons: int) -> dict[str, dict[str, Any]]:
    """By name that both have: a file's share minus the base's on the same items, with its paired interval.

    Args:
        base, own: a bit an item, by the name of the set.
        comparisons: differences that are shown together. Each interval leaves out 5 % divided by their number, so that
            all of them hold at once in 95 of 100 cases (Bonferroni).
    """
    confidence = 1 - (1 - CONFIDENCE) / max(1, comparisons)
    compared = {}
    for name in own.keys() & base.keys():
        theirs, ours = [bit == "1" for bit in base[name]], [bit == "1" for bit in own[name]]
        pair = paired_difference(theirs, ours, confidence)
        compared[name] = {"items": pair.n, "difference": pair.difference, "low": pair.low, "high": pair.high}
    return {name: compared[name] for name in own if name in compared}


def _bits(found: Sequence[bool]) -> Bits:
    return "".join("01"[bit] for bit in found)
