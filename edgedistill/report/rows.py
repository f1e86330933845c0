"""Which rows of a report belong together, and in which order they stand."""

from collections.abc import Sequence

from edgedistill.results.order import in_order
from edgedistill.results.report import Report
from edgedistill.results.row import LLAMA_CPP, Row


def shipped_row(rows: Sequence[Row], mix: str) -> Row | None:
    """The row of the mix's GGUF in llama.cpp, as it ships: recovered, else rounded, else None."""
    for kind in ("recovered", "rounded"):
        for row in rows:
            if (row.mix, row.kind, row.runtime) == (mix, kind, LLAMA_CPP):
                return row
    return None


def rounding_pair(rows: Sequence[Row], mix: str, judge: str) -> tuple[float, float] | None:
    """Mean KL to the float student of the rounded and of the recovered file, in one and the same runtime."""
    kls: dict[tuple[str | None, str], float] = {}
    for row in rows:
        kl = row.on(judge).student.kl_mean
        if row.mix == mix and row.packed and kl is not None:
            kls[row.runtime, row.kind] = kl
    for runtime, kind in kls:
        if kind == "rounded" and (runtime, "recovered") in kls:
            return kls[runtime, "rounded"], kls[runtime, "recovered"]
    return None


def chosen_row(report: Report) -> Row | None:
    """The row that the key figures are about: the recommended one, else what ships of the mix that the verdict is
    about.
    """
    label = report.recommendation.label if report.recommendation else None
    for row in report.rows:
        if row.label == label:
            return row
    mix = report.verdict.mix
    return shipped_row(report.rows, mix) if mix else None


def short_name(row: Row) -> str:
    """A row's label without its runtime where that is llama.cpp, and with few letters where it is onnxruntime."""
    if not row.mix:
        return row.label
    return row.label.removesuffix(", llama.cpp").replace(", onnxruntime", ", ONNX")


def mixes_in_order(rows: Sequence[Row], mixes: Sequence[str]) -> list[str]:
    """The mixes as `in_order` has their rows, those without a row last."""
    placed = [row.mix for row in in_order(rows) if row.mix in mixes]
    return list(dict.fromkeys([mix for mix in placed if mix is not None] + list(mixes)))
