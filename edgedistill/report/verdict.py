"""The sentences that come first: does it fit, how fast was it measured, and was the training on the grid worth it."""

from collections.abc import Mapping, Sequence
from functools import partial

from edgedistill.report.recommend import mix_to_use, offered, row_troubles
from edgedistill.report.rows import shipped_row
from edgedistill.report.task import task_sentence
from edgedistill.results.chance import guessed_tasks
from edgedistill.results.curve import Curve
from edgedistill.results.measurement import WonBack
from edgedistill.results.report import Report, Verdict
from edgedistill.show import NATS, show, show_bytes, show_rate

MANY = 3  # more mixes than these are spoken of together, from the least to the most


def give_verdict(report: Report) -> Verdict:
    """A headline and the sentences below it. Figures that are missing are simply not spoken of."""
    mixes = list(report.mixes)
    reasons = {mix: _misfit(report, mix) for mix in mixes}
    fitting = [mix for mix, reason in reasons.items() if reason is None]
    speed = _speed_sentence(report, fitting or mixes)
    each_mix = [_recovery_sentence(report, mix) for mix in mixes]
    recovery = each_mix if len(mixes) <= MANY else _recovery_of_many(report)
    guessed = [task.sentence(report.float_name) for task in guessed_tasks(report)]
    return Verdict(
        fits=bool(fitting),
        headline=_headline(report, reasons),
        sentences=tuple(sentence for sentence in (task_sentence(report), speed, *recovery, *guessed) if sentence),
        mix=mix_to_use(report),
    )


def _misfit(report: Report, mix: str) -> str | None:
    """Why a mix doesn't fit the target, None where it does: by what was measured where that was on the target, else
    by the plan.
    """
    row = next((row for row in offered(report) if row.mix == mix), None)
    if report.on_target and row is not None:
        return "; ".join(row_troubles(row, report) or ()) or None
    planned = report.mixes[mix]
    return None if planned.fits else planned.why or "no reason given"


def _headline(report: Report, misfits: Mapping[str, str | None]) -> str:
    target = report.target.words
    fitting = [mix for mix, reason in misfits.items() if reason is None]
    others = [mix for mix in misfits if mix not in fitting]
    reasons = "; ".join(f"{mix}: {misfits[mix]}" for mix in others)
    if not report.mixes:
        return f"Nothing was planned for {target}."
    if not fitting:
        return f"It doesn't fit {target} ({reasons})."
    first = f"{_join(fitting)} {'fits' if len(fitting) == 1 else 'fit'} {target}"
    if not others:
        return f"{first}."
    return f"{first}; {_join(others)} {'does' if len(others) == 1 else 'do'} not ({reasons})."


def _speed_sentence(report: Report, mixes: list[str]) -> str | None:
    """Size and tokens/s of each mix's GGUF, and which machine measured them."""
    speeds, threads = [], None
    for mix in mixes:
        row = shipped_row(report.rows, mix)
        if row is not None and row.speed.decode.mean is not None:
            size = f" ({show_bytes(row.file_bytes)})" if row.file_bytes else ""
            decode = row.speed.decode.mean
            speeds.append((decode, f"{mix}{size} writes {show_rate(decode)}"))
            threads = row.speed.threads
    if not speeds:
        return None
    if len(speeds) > MANY:  # the slowest and the fastest tell enough; the table has the others
        (_, slowest), *_, (_, fastest) = sorted(speeds)
        words = f"{slowest}, {fastest}, and {len(speeds) - 2} others lie between"
    else:
        words = _join([clause for _, clause in speeds])
    how = f"llama.cpp, {threads} thread{'s' if threads != 1 else ''}" if threads else "llama.cpp"
    return f"Measured {report.where_measured}: {words} ({how})."


def _recovery_sentence(report: Report, mix: str) -> str | None:
    """The share of the rounding loss that training won back, on each judge; or plainly that it won nothing."""
    if stayed(report, mix):
        return (
            f"Nothing beat plain rounding for {mix}: no checkpoint of the training had a lower KL on validation text."
        )
    shares = {judge: share for judge, share in report.recovered.get(mix, {}).items() if share.kl_share is not None}
    if not shares:
        return None
    curve = _curve(report, mix)
    won = {judge: share for judge, share in shares.items() if (share.kl_share or 0) > 0}
    if not won:
        moved = _join([f"{_kls(share)} on {judge}" for judge, share in shares.items()])
        return f"Nothing beat plain rounding for {mix}: KL to the {report.float_name}, in nats per token, went {moved}."
    text = f"Rounding to {mix} costs KL to the {report.float_name}, in nats per token; {_won(won, curve)}"
    lost = [f"{judge} ({_kls(share)})" for judge, share in shares.items() if judge not in won]
    return f"{text}, but did not beat plain rounding on {_join(lost)}." if lost else f"{text}."


def _won(shares: Mapping[str, WonBack], curve: Curve | None) -> str:
    """What was won back on each judge, and on validation text how much of that is the fit's and how much training's."""
    parts = [f"{show(share.kl_share, 'share')} of it on {judge} ({_kls(share)})" for judge, share in shares.items()]
    if curve is None or not curve.points:
        who = "the fit to its grid, without training," if curve else "recovery"
        return f"{who} won back {_join(parts)}"
    return f"the fit to its grid and the training on it won back {_join(parts)}{_apart(curve)}"


def _apart(curve: Curve) -> str:
    """The fit's share of what plain rounding costs on validation text, and training's; nothing where none is told."""
    rounded = curve.rounded.kl if curve.rounded else None
    start, best = (point.kl if point else None for point in (curve.start, curve.best))
    if not rounded or start is None or best is None:
        return ""
    fit, training = show(1 - start / rounded, "share"), show((start - best) / rounded, "share")
    return f"; on validation text the fit won back {fit}, the training {training}"


def _curve(report: Report, mix: str) -> Curve | None:
    """The curve of a mix's training."""
    return next((curve for curve in report.curves if curve.stage == f"recover {mix}"), None)


def _recovery_of_many(report: Report) -> list[str]:
    """The least and the largest share that training won back on the first judge, and the mixes for which nothing beat
    rounding.
    """
    judge = report.first_judge or ""
    mixes = [mix for mix in report.mixes if mix in report.recovered]
    lost = [mix for mix in mixes if stayed(report, mix)]
    shares = {mix: report.recovered[mix].get(judge, WonBack()).kl_share for mix in mixes if mix not in lost}
    won = sorted((share, mix) for mix, share in shares.items() if share is not None and share > 0)
    lost += [mix for mix, share in shares.items() if share is not None and share <= 0]
    sentences = []
    if won:
        costs = f"of what rounding costs in KL to the {report.float_name} on {judge}"
        trained = any(curve.points for curve in map(partial(_curve, report), mixes) if curve)
        who = "The fit to the grid and the training on it" if trained else "The fit to the grid, without training,"
        sentences.append(f"{who} won back {_range(won)} {costs}.")
    if lost:
        sentences.append(f"Nothing beat plain rounding for {_join(lost)}.")
    return sentences


def _range(won: Sequence[tuple[float, str]]) -> str:
    """The least and the largest of sorted shares, with their mixes."""
    (least, least_mix), (most, most_mix) = won[0], won[-1]
    words = f"{show(most, 'share')} ({most_mix})"
    return f"from {show(least, 'share')} ({least_mix}) to {words}" if len(won) > 1 else words


def stayed(report: Report, mix: str) -> bool:
    """Whether the mix's own training never got below plain rounding (or, where that isn't told, below where it
    began).
    """
    for curve in report.curves:
        best = curve.best.kl if curve.best else None
        if curve.stage == f"recover {mix}" and curve.level is not None and best is not None:
            return best >= curve.level
    return False


def _kls(share: WonBack) -> str:
    return f"{show(share.kl_rounded, NATS)} → {show(share.kl_recovered, NATS)}"


def _join(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
