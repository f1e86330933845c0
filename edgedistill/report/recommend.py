"""Which file to take for the target's limits, and why.

Pure functions of a report's rows; the front itself is results/front.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from edgedistill.results.chance import telling_rows
from edgedistill.results.front import GIVEN, LEAST_KL, OFFERED, in_steps, task_score, worst_kl
from edgedistill.results.limits import Figures, first_token_s, troubles
from edgedistill.results.planned import PlannedMix
from edgedistill.results.report import Recommendation, Report
from edgedistill.results.row import LLAMA_CPP, RIVAL, Row
from edgedistill.show import NATS, show, show_bytes, show_rate

# A difference of mean KL(float ‖ file) that is noticed, in nats a token. KL is what the file's logarithm of perplexity
# lies above the float model's on text that the float model writes, so 0.05 nats are 5 % of perplexity.
NOTICEABLE_KL = 0.05
# A difference of the share of the user's own task that a file may lose against the best of those that fit.
NOTICEABLE_TASK = 0.02
ROUNDING = 1e-9  # of differences of shares
TASK_RULE = (
    f"Of the files that fit the target and whose {{metric}} on the task is at most {NOTICEABLE_TASK * 100:g} "
    "percentage points below the best of theirs, take the smallest of those with the fewest certain losses on the "
    "task, questions and refusals."
)
RULE = (
    f"Of the files that fit the target and whose KL is at most {NOTICEABLE_KL:g} nats a token above the lowest of "
    "theirs, take the smallest of those with the fewest certain losses on tasks and refusals."
)


@dataclass(frozen=True)
class _Candidate:
    """A row that fits, its size in bytes, and its highest mean KL of all judges in nats per token."""

    row: Row
    file_bytes: int
    kl: float

    @property
    def score(self) -> float:
        """Its share of the user's own task; 0 where it wasn't asked."""
        return task_score(self.row) or 0.0

    @property
    def by_size(self) -> tuple[float, float]:
        """The smallest first; of equal ones that with the least loss."""
        return in_steps(self.file_bytes, "file_bytes"), self.kl

    @property
    def by_kl(self) -> tuple[float, int]:
        """The one with the lowest KL first; of equal ones the smallest."""
        return in_steps(max(self.kl, LEAST_KL), "kl"), self.file_bytes


def recommend(report: Report, lost: bool = False) -> Recommendation | None:
    """The file to take for the target, by RULE, or by TASK_RULE where files were asked the user's own task; None where
    no file fits or none was judged. `lost`: the teacher is to ship, so it says which of the student's to take if any.

    KL is the highest mean of all judges, to the float model. A task is a certain loss where the whole interval of the
    difference to the float model lies below 0; one at which the float model itself guesses is left out.
    """
    able = _candidates(replace(report, rows=tuple(telling_rows(report))))
    if not able:
        return None
    choice = _choice(able)
    rule = TASK_RULE.format(metric=choice.row.task.metric) if _by_task(able) and choice.row.task else RULE
    return Recommendation(
        choice.row.label, choice.row.mix, f"{_verb(choice, lost)} {_sentence(choice, able, report)}", rule
    )


def mix_to_use(report: Report) -> str | None:
    """The mix of the one file that the page's key figures, bundle.json, Modelfile, examples and `chat` are about.

    It is the recommended one. Where the model as given is recommended, which no bundle holds, it is what the rule takes
    of the others; where no file fits or none was judged, the first mix that the plan lets fit, else the first of all.
    """
    rows = tuple(row for row in telling_rows(report) if row.kind != GIVEN)
    able = _candidates(replace(report, rows=rows))
    if able:
        return _choice(able).row.mix
    planned = [mix for mix, found in report.mixes.items() if found.fits]
    return next(iter(planned or report.mixes), None)


def _choice(able: Sequence[_Candidate]) -> _Candidate:
    """The candidate that the rule names."""
    near = _near(able)
    fewest = min(len(losses(each.row)) for each in near)
    return min((each for each in near if len(losses(each.row)) == fewest), key=lambda each: each.by_size)


def _near(able: Sequence[_Candidate]) -> list[_Candidate]:
    """The candidates that aren't noticeably worse than the best: on the user's own task, else by their KL."""
    if _by_task(able):
        least = max(each.score for each in able) - NOTICEABLE_TASK - ROUNDING
        return [each for each in able if each.score >= least]
    most = min(each.kl for each in able) + NOTICEABLE_KL
    return [each for each in able if each.kl <= most]


def _by_task(able: Sequence[_Candidate]) -> bool:
    """Whether files are chosen by the user's own task: each was asked it."""
    return all(task_score(each.row) is not None for each in able)


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
    if row.task is not None and row.task.to_float is not None and row.task.to_float.high < 0:
        names.append("the task")
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
    if row.kind == RIVAL and report.rival is not None:
        return report.rival.planned
    if row.mix is not None or not report.mixes:
        return report.mixes.get(row.mix or "")
    other, size = next(iter(report.mixes.values())), row.file_bytes
    if not (other.ram_bytes and other.weight_bytes and size):
        return None
    kv, decode = other.kv_bytes or 0, other.predicted_decode_full_context_tokens_per_s
    scaled = None if decode is None else decode * (other.weight_bytes + kv) / (size + kv)
    ram = other.ram_bytes - other.weight_bytes + size
    return PlannedMix(fits=True, ram_bytes=ram, predicted_decode_full_context_tokens_per_s=scaled)


def _verb(choice: _Candidate, lost: bool) -> str:
    if choice.row.kind == GIVEN:
        return "Keep"
    return "Of the student's files take" if lost else "Take"


def _sentence(choice: _Candidate, able: Sequence[_Candidate], report: Report) -> str:
    """Which file and why, what it loses, and where its speed was measured; to follow the verb."""
    if _by_task(able) and choice.row.task is not None:
        return _task_sentence(choice, able, report)
    least = min(able, key=lambda each: each.by_kl)
    against = "" if choice is least else f" against {show(least.kl, NATS)}"
    loss = f"Its KL to the {report.float_name} is {show(choice.kl, NATS)} nats a token{against}"
    if choice.kl > NOTICEABLE_KL:
        loss += ", a loss that is noticed"
    if certain := losses(choice.row):
        loss += f"; it is certainly worse on {', '.join(certain)}"
    decode = choice.row.speed.decode.mean
    where = "" if decode is None else f" Speed as measured on {report.measured_on}."
    return f"{_figures(choice)}: {_why(choice, least, able, report.target.words)}. {loss}.{where}"


def _task_sentence(choice: _Candidate, able: Sequence[_Candidate], report: Report) -> str:
    """Which file, and what it gets right of the user's own task beside the best that fits; to follow the verb."""
    best = max(able, key=lambda each: each.score)
    target, share = report.target.words, show(choice.score, "share")
    metric = choice.row.task.metric if choice.row.task else ""
    against = f" against {show(best.score, 'share')} of {_figures(best)}" if best.score > choice.score else ""
    why = f"the only file to choose that fits {target}"
    if len(able) > 1:
        smallest = "the best on the task, and none that is as good is smaller"
        if best.score > choice.score:
            smallest = "the smallest that isn't noticeably worse on the task than the best"
        why = f"of {len(able)} files that fit {target} {smallest}"
    certain = [name for name in losses(choice.row) if name != "the task"]
    loss = f"Its {metric} is {share}{against}"
    if choice.row.task is not None and choice.row.task.to_float is not None and choice.row.task.to_float.high < 0:
        loss += f", certainly below the {report.float_name}'s"
    if certain:
        loss += f"; it is certainly worse on {', '.join(certain)}"
    where = "" if choice.row.speed.decode.mean is None else f" Speed as measured on {report.measured_on}."
    return f"{_figures(choice)}: {why}. {loss}.{where}"


def _why(choice: _Candidate, least: _Candidate, able: Sequence[_Candidate], target: str) -> str:
    """What sets the choice apart from the others that fit; `least` has the lowest KL of them."""
    if len(able) == 1:
        return f"the only file to choose that fits {target}"
    many = f"of {len(able)} files that fit {target}"
    worse = " or ".join(_worse_on(choice, able))
    if choice is not least:
        also = f" and that isn't certainly worse on {worse}" if worse else ""
        return f"{many} the smallest whose loss isn't noticeably above that of {_figures(least)}{also}"
    if any(each.by_size[0] < choice.by_size[0] for each in able):
        also = f" or is certainly worse on {worse}" if worse else ""
        return f"{many} the one that loses least, and every smaller one loses noticeably more{also}"
    return f"{many} the one that loses least, and none is smaller"


def _worse_on(choice: _Candidate, able: Sequence[_Candidate]) -> list[str]:
    """The certain losses, which the choice doesn't have, of smaller files whose KL alone would let them be taken."""
    smaller = [each for each in _near(able) if each.by_size[0] < choice.by_size[0]]
    names = [name for each in smaller for name in losses(each.row) if name not in losses(choice.row)]
    return list(dict.fromkeys(names))


def _figures(candidate: _Candidate) -> str:
    """'q4_0 recovered (81.6 MB, 117 tokens/s)'."""
    decode = candidate.row.speed.decode.mean
    speed = "" if decode is None else f", {show_rate(decode)}"
    return f"{_name(candidate.row)} ({show_bytes(candidate.file_bytes)}{speed})"


def _name(row: Row) -> str:
    return "the model as given" if row.kind == GIVEN else f"{row.mix} {row.kind}"
