"""Which file to take for the target's limits, and why.

Pure functions of a report's rows; the front itself is results/front.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from edgedistill.results.front import GIVEN, LEAST_KL, OFFERED, in_steps, worst_kl
from edgedistill.results.limits import Figures, first_token_s, troubles
from edgedistill.results.planned import PlannedMix
from edgedistill.results.report import Recommendation, Report
from edgedistill.results.row import LLAMA_CPP, Row
from edgedistill.show import NATS, show, show_bytes, show_rate

# Mean KL(float ‖ file) is what the file's logarithm of perplexity lies above the float model's on text that the float
# model writes: 0.02 nats are 2 % of perplexity.
NEGLIGIBLE_KL = 0.02


@dataclass(frozen=True)
class _Candidate:
    """A row that fits, its size in bytes, and its highest mean KL of all judges in nats per token."""

    row: Row
    file_bytes: int
    kl: float

    @property
    def by_size(self) -> tuple[float, float]:
        """The smallest first; of equal ones that with the least loss."""
        return in_steps(self.file_bytes, "file_bytes"), self.kl

    @property
    def by_loss(self) -> tuple[float, float]:
        """The one that loses least first; of equal ones the smallest."""
        return in_steps(max(self.kl, LEAST_KL), "kl"), self.file_bytes


def recommend(report: Report) -> Recommendation | None:
    """The file to take for the target: the smallest whose loss is negligible, else the one that loses least; of those
    that fit. None where no file fits or none was judged.

    Negligible: on every judge a mean KL to the float model of at most NEGLIGIBLE_KL, and on no task or safety check a
    difference to it that is certainly a loss (the whole interval below 0).
    """
    able = _candidates(report)
    if not able:
        return None
    good = [each for each in able if each.kl <= NEGLIGIBLE_KL and not losses(each.row)]
    best = min(good, key=lambda each: each.by_size) if good else min(able, key=lambda each: each.by_loss)
    sentence = _sentence(best, bool(good), len(able), report)
    return Recommendation(best.row.label, best.row.mix, sentence)


def offered(report: Report) -> list[Row]:
    """The rows to choose from: of each mix the recovered file, else the rounded one; in llama.cpp where there is a
    choice.

    A file that was given in a quantized format is the last of them: it may be the one to keep.
    """
    by_mix: dict[str, Row] = {}

    def place(row: Row) -> tuple[int, bool]:
        return OFFERED.index(row.kind), row.runtime != LLAMA_CPP

    for row in report.rows:
        if row.mix is None or row.kind not in OFFERED:
            continue
        best = by_mix.get(row.mix)
        if best is None or place(row) < place(best):
            by_mix[row.mix] = row
    given = report.student.as_is and report.teacher.quantized
    return [*by_mix.values(), *(row for row in report.rows if given and row.kind == GIVEN)]


def losses(row: Row) -> list[str]:
    """Tasks and safety checks on which a file is certainly worse than the float model: the whole interval of the
    difference is below 0.

    Refusing safe requests more often is a loss too: there the interval lies above 0.
    """
    names = []
    for name, difference in row.differences.items():
        worse = difference.low > 0 if name == "refusals safe" else difference.high < 0
        if worse:
            names.append(name)
    return names


def row_troubles(row: Row, report: Report) -> list[str] | None:
    """Why a file doesn't fit the target, a clause each; none where it fits, None where the plan says nothing of its
    mix.

    Sizes are measured; memory is planned, for the target's context; speeds are measured where this machine is the
    target, and predicted elsewhere.
    """
    planned = _planned(row, report)
    if planned is None:
        return None
    if report.target.limits is None:  # of an older plan: its own verdict
        return [] if planned.fits else [planned.why or "it doesn't fit"]
    if report.on_target:
        decode = row.speed.decode.mean
        first = first_token_s(row.speed.prefill.mean, decode)
    else:
        decode, first = planned.predicted_decode_full_context_tokens_per_s, planned.predicted_ttft_s
    figures = Figures(row.file_bytes, planned.ram_bytes, decode, first, report.on_target)
    return troubles(report.target, figures)


def why_none(report: Report) -> str:
    """Why nothing is recommended, in one sentence."""
    clauses = [(row.label, row_troubles(row, report)) for row in offered(report)]
    reasons = " | ".join(f"{label}: {'; '.join(found)}" for label, found in clauses if found)
    if not reasons:
        return "Nothing was judged, so nothing is recommended."
    return f"Nothing here fits {report.target.words} ({reasons})."


def _candidates(report: Report) -> list[_Candidate]:
    candidates = []
    for row in offered(report):
        kl = worst_kl(row, report.judge_names)
        if not row_troubles(row, report) and row.file_bytes and kl is not None:
            candidates.append(_Candidate(row, row.file_bytes, kl))
    return candidates


def _planned(row: Row, report: Report) -> PlannedMix | None:
    """What the plan foretold of a row's mix; of a file that isn't in one of the mixes, what its size makes of another's
    plan.
    """
    if row.mix is not None or not report.mixes:
        return report.mixes.get(row.mix or "")
    other, size = next(iter(report.mixes.values())), row.file_bytes
    if not (other.ram_bytes and other.weight_bytes and size):
        return None
    kv, decode = other.kv_bytes or 0, other.predicted_decode_full_context_tokens_per_s
    scaled = None if decode is None else decode * (other.weight_bytes + kv) / (size + kv)
    ram = other.ram_bytes - other.weight_bytes + size
    return PlannedMix(fits=True, ram_bytes=ram, predicted_decode_full_context_tokens_per_s=scaled)


def _sentence(best: _Candidate, negligible: bool, able: int, report: Report) -> str:
    row = best.row
    name = f"{_name(row)} ({show_bytes(best.file_bytes)})"
    verb = "Keep" if row.kind == GIVEN else "Take"
    decode = row.speed.decode.mean
    speed = "" if decode is None else f"; it writes {show_rate(decode)} here"
    if able > 1:
        many = f"of {able} files that fit {report.target.words}"
    else:
        many = f"the only file to choose that fits {report.target.words}"
    criterion = _criterion(report.rows, report.float_name)
    if negligible:
        why = f"{many} the smallest whose loss is negligible" if able > 1 else f"{many}, and its loss is negligible"
        return f"{verb} {name}: {why} ({criterion}; here {show(best.kl, NATS)}){speed}."
    lost = losses(row)
    certain = f", and it is certainly worse on {', '.join(lost)}" if lost else ""
    why = f"{many} the one that loses least" if able > 1 else many
    loss = f"KL {show(best.kl, NATS)}{certain}"
    return f"{verb} {name}: {why} ({loss}), though none has a negligible loss ({criterion}){speed}."


def _criterion(rows: Sequence[Row], float_name: str) -> str:
    """What counts as a negligible loss."""
    words = f"KL to the {float_name} at most {NEGLIGIBLE_KL:g} nats a token on every held-out text"
    return f"{words}, no certain loss on a task" if any(row.differences for row in rows) else words


def _name(row: Row) -> str:
    return "the model as given" if row.kind == GIVEN else f"{row.mix} {row.kind}"
