"""Which rows of a report belong together: the file that ships, and rounded beside recovered. Rows are build.py's."""

from collections.abc import Mapping, Sequence
from typing import Any


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
