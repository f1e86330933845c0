"""Whether a file fits a target: figures, predicted or measured, against its limits. Plan and report both ask here."""

from dataclasses import dataclass

from edgedistill.results.planned import Limits, TargetFacts
from edgedistill.show import show_bytes, show_rate, show_seconds

PROMPT_TOKENS = 512  # what a target's limit on the time to first token is about


@dataclass(frozen=True)
class Figures:
    """A file on a device; None where nobody knows. `measured`: whether the speeds are, or are predicted bounds."""

    file_bytes: int | None
    ram_bytes: int | None
    decode_tokens_per_s: float | None
    ttft_s: float | None
    measured: bool = False


def troubles(target: TargetFacts, figures: Figures) -> list[str]:
    """The target's limits that a file doesn't meet, a clause each; none where it fits."""
    limits = target.limits or Limits()
    clauses = []
    usable = target.usable_memory_bytes
    if figures.ram_bytes is not None and usable is not None and figures.ram_bytes > usable:
        clauses.append(f"needs {show_bytes(figures.ram_bytes)} of memory, {show_bytes(usable)} are usable")
    if figures.file_bytes is not None and limits.file is not None and figures.file_bytes > limits.file:
        clauses.append(f"the file has {show_bytes(figures.file_bytes)}, at most {show_bytes(limits.file)} are allowed")
    decode, first = figures.decode_tokens_per_s, figures.ttft_s
    if decode is not None and limits.decode is not None and decode < limits.decode:
        clauses.append(f"{_decode_words(decode, target, figures)}, {show_rate(limits.decode)} are wanted")
    if first is not None and limits.ttft is not None and first > limits.ttft:
        least = "" if figures.measured else "at least "
        clauses.append(
            f"{least}{show_seconds(first)} to the first token, at most {show_seconds(limits.ttft)} are allowed"
        )
    return clauses


def first_token_s(prefill_tokens_per_s: float | None, decode_tokens_per_s: float | None) -> float | None:
    """Seconds from a prompt of PROMPT_TOKENS to the first token of the answer."""
    if not prefill_tokens_per_s or not decode_tokens_per_s:
        return None
    return PROMPT_TOKENS / prefill_tokens_per_s + 1 / decode_tokens_per_s


def _decode_words(decode: float, target: TargetFacts, figures: Figures) -> str:
    if figures.measured:
        return f"{show_rate(decode)} measured"
    context = f" with {target.context_tokens} tokens of context" if target.context_tokens else ""
    return f"at most {show_rate(decode)}{context}"
