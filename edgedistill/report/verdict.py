"""The sentences that come first: does it fit, how fast is it here, and was the training on the grid worth it."""

from collections.abc import Mapping
from typing import Any

from edgedistill.config.target import HERE
from edgedistill.report.rows import float_name, shipped_row, timing
from edgedistill.show import show

MANY = 3  # more mixes than these are spoken of together, from the least to the most


def give_verdict(report: Mapping[str, Any]) -> dict[str, Any]:
    """A headline and the sentences below it. Figures that are missing are simply not spoken of.

    Returns:
        fits: whether any mix fits the target; headline; sentences; mix: the one that the key figures are about.
    """
    mixes = report["mixes"]
    fitting = [mix for mix, foretold in mixes.items() if foretold.get("fits")]
    speed = _speed_sentence(report, fitting or list(mixes))
    recovery = [_recovery_sentence(report, mix) for mix in mixes] if len(mixes) <= MANY else _recovery_of_many(report)
    recommended = (report.get("recommendation") or {}).get("mix")
    return {
        "fits": bool(fitting),
        "headline": _headline(report, fitting),
        "sentences": [sentence for sentence in (speed, *recovery) if sentence],
        "mix": recommended if recommended in mixes else next(iter(fitting or mixes), None),
    }


def _headline(report: Mapping[str, Any], fitting: list[str]) -> str:
    target = report["target"].get("title") or report["target"].get("name") or "the target"
    others = {mix: foretold for mix, foretold in report["mixes"].items() if mix not in fitting}
    reasons = "; ".join(f"{mix}: {foretold.get('why') or 'no reason given'}" for mix, foretold in others.items())
    if not report["mixes"]:
        return f"Nothing was planned for {target}."
    if not fitting:
        return f"It doesn't fit {target} ({reasons})."
    first = f"{_join(fitting)} {'fits' if len(fitting) == 1 else 'fit'} {target}"
    return (
        f"{first}; {_join(list(others))} {'does' if len(others) == 1 else 'do'} not ({reasons})."
        if others
        else f"{first}."
    )


def _speed_sentence(report: Mapping[str, Any], mixes: list[str]) -> str | None:
    """Size and tokens/s of each mix's GGUF, and whether this machine is the target."""
    found, threads = [], None
    for mix in mixes:
        row = shipped_row(report["rows"], mix)
        decode = timing(row, "decode_tokens_per_s").get("mean")
        if row is not None and decode is not None:
            size = f" ({show(row['file_bytes'], 'bytes')})" if row["file_bytes"] else ""
            found.append((decode, f"{mix}{size} writes {show(decode, 'tokens/s')}"))
            threads = row["speed"].get("threads")
    if not found:
        return None
    if len(found) > MANY:  # the slowest and the fastest tell enough; the table has the others
        (_, slowest), *_, (_, fastest) = sorted(found)
        told = f"{slowest}, {fastest}, and {len(found) - 2} others lie between"
    else:
        told = _join([words for _, words in found])
    if report["target"].get("name") == HERE:
        where = "on this machine"
    else:
        where = "on the target" if report["on_target"] else "on this machine, which isn't the target"
    how = f"llama.cpp, {threads} thread{'s' if threads != 1 else ''}" if threads else "llama.cpp"
    return f"Measured {where}: {told} ({how})."


def _recovery_sentence(report: Mapping[str, Any], mix: str) -> str | None:
    """The share of the rounding loss that training won back, on each judge; or plainly that it won nothing."""
    if stayed(report, mix):
        return (
            f"Nothing beat plain rounding for {mix}: no checkpoint of the training had a lower KL on validation text."
        )
    shares = {
        judge: found for judge, found in report["recovered"].get(mix, {}).items() if found.get("kl_share") is not None
    }
    if not shares:
        return None
    won = {judge: found for judge, found in shares.items() if found["kl_share"] > 0}
    if not won:
        moved = _join([f"{_kls(found)} on {judge}" for judge, found in shares.items()])
        return (
            f"Nothing beat plain rounding for {mix}: KL to the {float_name(report)}, in nats per token, went {moved}."
        )
    parts = [f"{show(found['kl_share'], 'share')} of it on {judge} ({_kls(found)})" for judge, found in won.items()]
    costs = f"Rounding to {mix} costs KL to the {float_name(report)}, in nats per token"
    text = f"{costs}; training on its grid won back {_join(parts)}"
    lost = [f"{judge} ({_kls(found)})" for judge, found in shares.items() if judge not in won]
    return f"{text}, but did not beat plain rounding on {_join(lost)}." if lost else f"{text}."


def _recovery_of_many(report: Mapping[str, Any]) -> list[str]:
    """The least and the largest share that training won back on the first judge, and the mixes for which nothing beat
    rounding.
    """
    judge = next((judge["name"] for judge in report["judges"]), None)
    mixes = [mix for mix in report["mixes"] if mix in report["recovered"]]
    lost = [mix for mix in mixes if stayed(report, mix)]
    shares = {mix: (report["recovered"][mix].get(judge) or {}).get("kl_share") for mix in mixes if mix not in lost}
    won = sorted((share, mix) for mix, share in shares.items() if share is not None and share > 0)
    lost += [mix for mix, share in shares.items() if share is not None and share <= 0]
    sentences = []
    if won:
        (least, least_mix), (most, most_mix) = won[0], won[-1]
        told = f"{show(most, 'share')} ({most_mix})"
        if len(won) > 1:
            told = f"from {show(least, 'share')} ({least_mix}) to {told}"
        sentences.append(
            f"Training on the grid won back {told} of what rounding costs in KL to the {float_name(report)} on {judge}."
        )
    if lost:
        sentences.append(f"Nothing beat plain rounding for {_join(lost)}.")
    return sentences


def stayed(report: Mapping[str, Any], mix: str) -> bool:
    """Whether the mix's own training never got below plain rounding (or, where that isn't told, below where it
    began).
    """
    for curve in report["curves"]:
        level, best = (
            ((curve.get("rounded") or curve.get("start")) or {}).get("kl"),
            (curve.get("best") or {}).get("kl"),
        )
        if curve.get("stage") == f"recover {mix}" and level is not None and best is not None:
            return bool(best >= level)
    return False


def _kls(found: Mapping[str, Any]) -> str:
    unit = "nats per token"
    return f"{show(found['kl_rounded'], unit)} → {show(found['kl_recovered'], unit)}"


def _join(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
