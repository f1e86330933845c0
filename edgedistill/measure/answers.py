"""Questions and requests put to one packed file: a bit an item, and the shares, intervals and paired differences made
of the bits.
"""

from collections.abc import Mapping, Sequence

from edgedistill.config.tasks import Choice
from edgedistill.measure.intervals import CONFIDENCE, paired_difference, wilson
from edgedistill.measure.multiple_choice import Question, answer_questions, right_answers
from edgedistill.measure.refusals import reply_to
from edgedistill.progress import Progress
from edgedistill.results.share import Difference, TaskShare
from edgedistill.runtimes.base import Runtime
from edgedistill.runtimes.llama import LlamaCpp

Bits = str  # "1" where an item was right, or a request refused


def ask_questions(model: Runtime, choices: Sequence[Choice], progress: Progress) -> Bits:
    """Which questions the file answers rightly, by log-likelihood per character (`acc_norm` of EleutherAI's
    harness).
    """
    questions = [Question(choice.question, choice.options, choice.right) for choice in choices]
    return _bits(right_answers(questions, answer_questions(model, questions, progress), normalized=True))


def ask_requests(model: LlamaCpp, requests: Sequence[str], system: str | None, progress: Progress) -> Bits:
    """Which requests the file declines, each asked behind the system message, if there is one."""
    return _bits([reply.refused for reply in reply_to(model, requests, progress, system=system)])


def share_right(bits: Bits) -> TaskShare:
    """How many questions were answered rightly, as a share with its 95 % interval."""
    right = bits.count("1")
    low, high = wilson(right, len(bits))
    return TaskShare(len(bits), right / len(bits), low, high, right=right)


def share_refused(bits: Bits) -> TaskShare:
    """How many requests were refused, likewise."""
    refused = bits.count("1")
    low, high = wilson(refused, len(bits))
    return TaskShare(len(bits), refused / len(bits), low, high, refused=refused)


def differences(base: Mapping[str, Bits], own: Mapping[str, Bits], comparisons: int) -> dict[str, Difference]:
    """By name that both have: a file's share minus the base's on the same items, with its paired interval.

    Args:
        base, own: a bit an item, by the name of the set.
        comparisons: differences that are shown together. Each interval leaves out 5 % divided by their number, so that
            all of them hold at once in 95 of 100 cases (Bonferroni).
    """
    confidence = 1 - (1 - CONFIDENCE) / max(1, comparisons)
    compared = {}
    for name, bits in own.items():
        if name in base:
            pair = paired_difference(_right(base[name]), _right(bits), confidence)
            compared[name] = Difference(pair.difference, pair.low, pair.high, pair.n)
    return compared


def _bits(answers: Sequence[bool]) -> Bits:
    return "".join("1" if answer else "0" for answer in answers)


def _right(bits: Bits) -> list[bool]:
    return [bit == "1" for bit in bits]
