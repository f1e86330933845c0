"""Which files are worth choosing between, and which one to take: the Pareto front, and a recommendation for the
target's limits.

Pure functions of a report's rows. A figure that differs by less than measuring can tell counts as equal; otherwise
chance would put a file on the front beside one that is as good.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from edgedistill.report.rows import LEAST, SAME_KL, SAME_SIZE, SAME_SPEED, figure, float_name, timing
from edgedistill.show import show

AXES = ("file_bytes", "decode_tokens_per_s", "kl", "task")
# Steps of a logarithm: 0.5 % of a size (metadata differ between two files of the same weights), 3 % of a speed (what
# trials in turn leave of the noise), 5 % of a KL.
STEPS = {"file_bytes": SAME_SIZE, "decode_tokens_per_s": SAME_SPEED, "kl": SAME_KL}
# Mean KL(float ‖ file) is what the file's logarithm of perplexity lies above the float model's on text that the float
# model writes: 0.02 nats are 2 % of perplexity.
NEGLIGIBLE_KL = 0.02
# What may be recommended; a float file is only compared with. A file that came quantized may be the one to keep.
OFFERED = ("recovered", "rounded")
PROMPT_TOKENS = 512  # what a target's limit on the time to first token is about

GIVEN = "teacher"  # the kind of the row of the file as it was given, where the student is that model

Key = tuple[float | None, ...]


def front_of(report: Mapping[str, Any]) -> dict[str, Any]:
    """What report.json says of the front: its axes, and the labels of the rows on it."""
    kinds = ("float", *OFFERED, *((GIVEN,) if report["student"].get("as_is") else ()))
    return {
        "axes": list(AXES),
        "labels": pareto_front(report["rows"], [judge["name"] for judge in report["judges"]], kinds),
    }


def kl_of(row: Mapping[str, Any], judges: Sequence[str]) -> float | None:
    """Mean KL to the float model over the judges, in nats per token; None where one of them is missing."""
    found = [figure(row, judge, "kl_student_mean") for judge in judges]
    return sum(found) / len(found) if found and None not in found else None


def worst_kl(row: Mapping[str, Any], judges: Sequence[str]) -> float | None:
    """The highest mean KL of all judges; None where one of them is missing."""
    found = [figure(row, judge, "kl_student_mean") for judge in judges]
    return max(found) if found and None not in found else None


def task_of(row: Mapping[str, Any]) -> float | None:
    """Mean share of right answers over the tasks; None without tasks."""
    shares = [found["share"] for found in (row.get("tasks") or {}).values() if found and found.get("share") is not None]
    return sum(shares) / len(shares) if shares else None


def pareto_front(
    rows: Sequence[Mapping[str, Any]], judges: Sequence[str], kinds: Sequence[str] = ("float", *OFFERED)
) -> list[str]:
    """Labels of the rows that no other beats, in the order of the rows.

    One row beats another where it is at least as good in each of AXES and better in one. A figure that is missing beats
    nothing; a row that has it is as good as one that lacks it. Rows without a size or a KL are on no front.

    Args:
        rows: a report's.
        judges: names of the texts that KL is taken over.
        kinds: the kinds of rows that are compared.
    """
    able = [row for row in rows if row["kind"] in kinds and row.get("file_bytes") and kl_of(row, judges) is not None]
    keys = _keys(able, judges)
    return [row["label"] for row, mine in zip(able, keys, strict=True) if not any(beats(other, mine) for other in keys)]


def beats(one: Key, other: Key) -> bool:
    """Whether a row is at least as good on every axis and better on one; higher is better on each, None is missing."""
    pairs = list(zip(one, other, strict=True))
    if any(b is not None and (a is None or a < b) for a, b in pairs):
        return False
    return any(a is not None and b is not None and a > b for a, b in pairs)


def _keys(rows: Sequence[Mapping[str, Any]], judges: Sequence[str]) -> list[Key]:
    """Each row's figures in steps that a difference must reach, higher always better."""
    step = _task_step(rows)

    def steps(value: float | None, axis: str) -> float | None:
        return None if value is None or value <= 0 else float(round(math.log(value) / math.log(STEPS[axis])))

    found: list[Key] = []
    for row in rows:
        size, kl, task = steps(row["file_bytes"], "file_bytes"), kl_of(row, judges), task_of(row)
        assert size is not None
        assert kl is not None
        loss = steps(max(kl, LEAST), "kl")
        assert loss is not None
        found.append(
            (
                -size,
                steps(_speed(row, rows), "decode_tokens_per_s"),
                -loss,
                None if task is None else float(round(task / step)),
            )
        )
    return found


def _speed(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Decoding speed in tokens/s: rounded and recovered files of one mix have the same tensors, so their mean is what
    each of them has.
    """
    twins = [
        r for r in rows if row["mix"] is not None and (r["mix"], r["runtime"]) == (row["mix"], row["runtime"])
    ] or [row]
    found = [mean for twin in twins if (mean := timing(twin, "decode_tokens_per_s").get("mean")) is not None]
    return sum(found) / len(found) if found else None


def _task_step(rows: Sequence[Mapping[str, Any]]) -> float:
    """Half the widest interval of any task's share, which a difference must reach to count; at least a hundredth."""
    widths: list[float] = [
        found["high"] - found["low"]
        for row in rows
        for found in (row.get("tasks") or {}).values()
        if found and found.get("high") is not None and found.get("low") is not None
    ]
    return max([0.01, *(width / 2 for width in widths)])


def troubles(row: Mapping[str, Any], report: Mapping[str, Any]) -> list[str] | None:
    """Why a file doesn't fit the target, a clause each; none where it fits, None where the plan says nothing of its
    mix.

    Sizes are measured; memory is planned, for the target's context; speeds are measured where this machine is the
    target, and predicted elsewhere.
    """
    planned = _planned(row, report)
    if planned is None:
        return None
    target = report.get("target") or {}
    limits, usable = target.get("limits"), target.get("usable_memory_bytes")
    if limits is None:  # of an older plan: its own verdict
        return [] if planned.get("fits") else [str(planned.get("why") or "it doesn't fit")]
    found = []
    ram, size = planned.get("ram_bytes"), row.get("file_bytes")
    if ram is not None and usable is not None and ram > usable:
        found.append(f"needs {show(ram, 'bytes')} of memory, {show(usable, 'bytes')} are usable")
    if size is not None and limits.get("file") is not None and size > limits["file"]:
        found.append(f"the file has {show(size, 'bytes')}, at most {show(limits['file'], 'bytes')} are allowed")
    here = bool(report.get("on_target"))
    decode = (
        timing(row, "decode_tokens_per_s").get("mean")
        if here
        else planned.get("predicted_decode_full_context_tokens_per_s")
    )
    if decode is not None and limits.get("decode") is not None and decode < limits["decode"]:
        how = "measured" if here else "predicted"
        found.append(f"{show(decode, 'tokens/s')} {how}, {show(limits['decode'], 'tokens/s')} are wanted")
    first = _first_token_s(row) if here else planned.get("predicted_ttft_s")
    if first is not None and limits.get("ttft") is not None and first > limits["ttft"]:
        found.append(f"{show(first, 's')} to the first token, at most {show(limits['ttft'], 's')} are allowed")
    return found


def _planned(row: Mapping[str, Any], report: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What the plan foretold of a row's mix; of a file that isn't in one of the mixes, what its size makes of another's
    plan.
    """
    mixes = report.get("mixes") or {}
    if row["mix"] is not None or not mixes:
        return mixes.get(row["mix"])
    other, size = next(iter(mixes.values())), row.get("file_bytes")
    ram, weights, kv = other.get("ram_bytes"), other.get("weight_bytes"), other.get("kv_bytes") or 0
    if not (ram and weights and size):
        return None
    scaled = dict.fromkeys(("predicted_decode_full_context_tokens_per_s", "predicted_ttft_s"))
    decode = other.get("predicted_decode_full_context_tokens_per_s")
    if decode is not None:
        scaled["predicted_decode_full_context_tokens_per_s"] = decode * (weights + kv) / (size + kv)
    return {"fits": True, "why": "", **scaled, "ram_bytes": ram - weights + size}


def _first_token_s(row: Mapping[str, Any]) -> float | None:
    prefill, decode = (timing(row, name).get("mean") for name in ("prefill_tokens_per_s", "decode_tokens_per_s"))
    return PROMPT_TOKENS / prefill + 1 / decode if prefill and decode else None


def offered(report: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The rows to choose from: of each mix the recovered file, else the rounded one; in llama.cpp where there is a
    choice.

    A file that was given in a quantized format is the last of them: it may be the one to keep.
    """
    found: dict[str, Mapping[str, Any]] = {}

    def place(row: Mapping[str, Any]) -> tuple[int, bool]:
        return OFFERED.index(row["kind"]), row["runtime"] != "llama.cpp"

    for row in report["rows"]:
        if row["mix"] is None or row["kind"] not in OFFERED:
            continue
        best = found.get(row["mix"])
        if best is None or place(row) < place(best):
            found[row["mix"]] = row
    given = report["student"].get("as_is") and report["teacher"].get("quantized")
    return [*found.values(), *(row for row in report["rows"] if given and row["kind"] == GIVEN)]


def recommend(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """The file to take for the target: the smallest whose loss is negligible, else the one that loses least; of those
    that fit.

    Negligible: on every judge a mean KL to the float model of at most NEGLIGIBLE_KL, and on no task or safety check a
        difference to
    it that is certainly a loss (the whole interval below 0).

    Returns:
        label, mix (None for the file as it was given) and sentence; None where no file fits or none was judged.
    """
    judges = [judge["name"] for judge in report["judges"]]
    able = [
        (row, kl)
        for row in offered(report)
        if troubles(row, report) in ([], None) and row.get("file_bytes") and (kl := worst_kl(row, judges)) is not None
    ]
    if not able:
        return None
    good = [(row, kl) for row, kl in able if kl <= NEGLIGIBLE_KL and not losses(row)]

    def by_size(found: tuple[Mapping[str, Any], float]) -> tuple[float, float]:
        return round(math.log(found[0]["file_bytes"]) / math.log(STEPS["file_bytes"])), found[1]

    def by_loss(found: tuple[Mapping[str, Any], float]) -> tuple[float, float]:
        return round(math.log(max(found[1], LEAST)) / math.log(STEPS["kl"])), found[0]["file_bytes"]

    row, kl = min(good, key=by_size) if good else min(able, key=by_loss)
    return {"label": row["label"], "mix": row["mix"], "sentence": _sentence(row, kl, bool(good), len(able), report)}


def losses(row: Mapping[str, Any]) -> list[str]:
    """Tasks and safety checks on which a file is certainly worse than the float model: the whole interval of the
    difference is below 0.

    Refusing safe requests more often is a loss too: there the interval lies above 0.
    """
    found = []
    for name, difference in (row.get("differences") or {}).items():
        low, high = (difference or {}).get("low"), (difference or {}).get("high")
        if name == "refusals safe":
            low, high = (None if high is None else -high), (None if low is None else -low)
        if high is not None and high < 0:
            found.append(name)
    return found


def _sentence(row: Mapping[str, Any], kl: float, negligible: bool, able: int, report: Mapping[str, Any]) -> str:
    target, nats = _target(report), "nats per token"
    criterion = f"KL to the {float_name(report)} at most {NEGLIGIBLE_KL:g} nats a token on every held-out text"
    if any(r.get("differences") for r in report["rows"]):
        criterion += ", no certain loss on a task"
    name = f"{_name(row)} ({show(row['file_bytes'], 'bytes')})"
    decode = timing(row, "decode_tokens_per_s").get("mean")
    speed = "" if decode is None else f"; it writes {show(decode, 'tokens/s')} here"
    verb = "Keep" if row["kind"] == GIVEN else "Take"
    many = f"of {able} files that fit {target}" if able > 1 else f"the only file to choose that fits {target}"
    if negligible:
        why = f"{many} the smallest whose loss is negligible" if able > 1 else f"{many}, and its loss is negligible"
        return f"{verb} {name}: {why} ({criterion}; here {show(kl, nats)}){speed}."
    lost = losses(row)
    certain = f", and it is certainly worse on {', '.join(lost)}" if lost else ""
    why = f"{many} the one that loses least" if able > 1 else many
    return (
        f"{verb} {name}: {why} (KL {show(kl, nats)}{certain}), though none has a negligible loss ({criterion}){speed}."
    )


def _name(row: Mapping[str, Any]) -> str:
    return "the model as given" if row["kind"] == GIVEN else f"{row['mix']} {row['kind']}"


def why_none(report: Mapping[str, Any]) -> str:
    """Why nothing is recommended, in one sentence."""
    reasons = [f"{row['label']}: {'; '.join(found)}" for row in offered(report) if (found := troubles(row, report))]
    return (
        f"Nothing here fits {_target(report)} ({' | '.join(reasons)})."
        if reasons
        else "Nothing was judged, so nothing is recommended."
    )


def _target(report: Mapping[str, Any]) -> str:
    target = report.get("target") or {}
    return str(target.get("title") or target.get("name") or "the target")
