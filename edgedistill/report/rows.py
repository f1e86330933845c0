"""Which rows of a report belong together: the file that ships, and rounded beside recovered. Rows are build.py's."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

SAME_SIZE, SAME_SPEED, SAME_KL = (
    1.005,
    1.03,
    1.05,
)  # factors: metadata, what trials in turn leave of noise, a few thousand tokens
LEAST = 1e-4  # a smaller KL is the runtime's own rounding


def float_name(report: Mapping[str, Any]) -> str:
    """What the float model that all is compared with is called."""
    return "float model" if report["student"].get("as_is") else "float student"


def shipped_row(rows: Sequence[Mapping[str, Any]], mix: str) -> Mapping[str, Any] | None:
    """The row of the mix's GGUF in llama.cpp, as it ships: recovered, else rounded, else None."""
    for kind in ("recovered", "rounded"):
        for row in rows:
            if row["mix"] == mix and row["kind"] == kind and row["runtime"] == "llama.cpp":
                return row
    return None


def rounding_pair(rows: Sequence[Mapping[str, Any]], mix: str, judge: str) -> tuple[float, float] | None:
    """Mean KL to the float student of the rounded and of the recovered file, in one and the same runtime."""
    found: dict[Any, dict[str, float]] = {}
    for row in rows:
        value = figure(row, judge, "kl_student_mean")
        if row["mix"] == mix and row["kind"] in ("rounded", "recovered") and value is not None:
            found.setdefault(row["runtime"], {})[row["kind"]] = value
    whole = [kinds for kinds in found.values() if len(kinds) == 2]
    return (whole[0]["rounded"], whole[0]["recovered"]) if whole else None


def figure(row: Mapping[str, Any], judge: str | None, name: str) -> Any:
    """One figure of a row's quality on a judge; None where it is missing."""
    return ((row.get("quality") or {}).get(judge) or {}).get(name)


def timing(row: Mapping[str, Any] | None, name: str) -> Mapping[str, Any]:
    """A speed {mean, std, trials} of a row; an empty mapping where it is missing."""
    return ((row or {}).get("speed") or {}).get(name) or {}


def chosen_row(report: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The row that the key figures are about: the recommended one, else what ships of the mix that the verdict is
    about.
    """
    label = (report.get("recommendation") or {}).get("label")
    named = next((row for row in report["rows"] if row["label"] == label), None) if label else None
    mix = report["verdict"]["mix"]
    return named or (shipped_row(report["rows"], mix) if mix else None)


def packed(row: Mapping[str, Any]) -> bool:
    """Whether the row is a file on a mix' grid, not one that these are compared with."""
    return bool(row["mix"]) and row["kind"] in ("rounded", "recovered")


def short_name(row: Mapping[str, Any]) -> str:
    """A row's label without its runtime where that is llama.cpp, and with few letters where it is onnxruntime."""
    label = str(row["label"])
    return label.removesuffix(", llama.cpp").replace(", onnxruntime", ", ONNX") if row.get("mix") else label


def in_order(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """What the files are compared with first, then the mixes from the smallest to the largest, each rounded before
    recovered.
    """
    mixes: dict[Any, float] = {}
    for row in rows:
        if packed(row):
            mixes[row["mix"]] = min(mixes.get(row["mix"], math.inf), row["file_bytes"] or math.inf)
    places = {mix: place for place, mix in enumerate(sorted(mixes, key=lambda mix: mixes[mix]))}
    kinds = {"teacher": 0, "float": 1, "rounded": 2, "recovered": 3}
    return sorted(
        rows,
        key=lambda row: (
            places[row["mix"]] if packed(row) else -1,
            kinds.get(row["kind"], 4),
            row["runtime"] != "llama.cpp",
        ),
    )


def front_labels(report: Mapping[str, Any]) -> set[str]:
    """Labels of the rows that no other row beats: the report's own, else those by bytes, decode tokens/s and KL on the
    first judge.
    """
    found = report.get("front")
    if found and found.get("labels") is not None:
        return {str(label) for label in found["labels"]}
    judge = next((judge["name"] for judge in report["judges"]), None)
    figures: dict[str, tuple[float, ...]] = {}
    for row in report["rows"]:
        size, kl, rate = row["file_bytes"], figure(row, judge, "kl_student_mean"), twin_rate(row, report["rows"])
        given = row["kind"] == "teacher" and report["student"].get(
            "as_is"
        )  # a file that came as it is may be the one to keep
        if (packed(row) or given) and row["runtime"] == "llama.cpp" and size and kl is not None and rate:
            figures[row["label"]] = (coarse(size, SAME_SIZE), coarse(kl, SAME_KL), -coarse(rate, SAME_SPEED))
    return set(undominated(figures))


def twin_rate(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Decode tokens/s; of a rounded and a recovered file of one mix, whose tensors are alike, the mean of both."""
    twins = (
        [r for r in rows if packed(r) and (r["mix"], r["runtime"]) == (row["mix"], row["runtime"])]
        if packed(row)
        else [row]
    )
    rates = [mean for twin in twins if (mean := timing(twin, "decode_tokens_per_s").get("mean")) is not None]
    return sum(rates) / len(rates) if rates else None


def coarse(value: float, step: float) -> int:
    """The figure in steps of so large a factor: what differs by less than measuring can tell is the same."""
    return round(math.log(max(value, LEAST)) / math.log(step))


def undominated(figures: Mapping[str, Sequence[float]]) -> list[str]:
    """The names that no other is as good as in every figure and better in one; smaller is better."""

    def beats(one: Sequence[float], other: Sequence[float]) -> bool:
        return all(a <= b for a, b in zip(one, other, strict=True)) and any(
            a < b for a, b in zip(one, other, strict=True)
        )

    return [name for name, mine in figures.items() if not any(beats(other, mine) for other in figures.values())]
