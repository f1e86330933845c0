"""What of a row's tasks, refusals, worst tokens and of a mix's layer errors has a record behind it; the rest is left
out and named.

A share stands on a record of the same value. A list stands on one of its mean, since a record an entry would be
thousands. A difference from the float row stands on both rows' shares, whose difference it must be.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from edgedistill.results.record import Record

Sourced = Callable[[Any, str, str | None], Any]  # (value, name, text) -> the value, or None where no record has it


def same(first: float, second: float) -> bool:
    """Whether two numbers are the same but for the last digits that text and sums lose."""
    return math.isclose(first, second, rel_tol=1e-6, abs_tol=1e-12)


def sourced_extras(row: Mapping[str, Any], sourced: Sourced) -> dict[str, Any]:
    """A row's `tasks`, `refusals` and `worst`, as far as records vouch for them; a key that the row lacks stays
    away.
    """
    found: dict[str, Any] = {}
    for key in ("tasks", "refusals"):
        if row.get(key):
            shares = row[key].items()
            found[key] = {
                name: dict(share)
                for name, share in shares
                if sourced(share.get("share"), f"{key} share", name) is not None
            }
    worst = row.get("worst") or []
    if worst and sourced(_mean(worst, "kl"), "worst tokens", None) is not None:
        found["worst"] = [dict(entry) for entry in worst]
    return found


def add_differences(rows: Sequence[dict[str, Any]], measured: Sequence[Mapping[str, Any]], left_out: list[str]) -> None:
    """Give the rows their paired `differences` from the float row, in llama.cpp, where both shares are there and differ
    by so much.
    """
    base = next((shares_of(row) for row in rows if row["kind"] == "float"), {})
    for row, given in zip(rows, measured, strict=True):
        shares, kept = shares_of(row), {}
        for name, found in (given.get("differences") or {}).items():
            if name in shares and name in base and same(shares[name] - base[name], found.get("difference", math.nan)):
                kept[name] = dict(found)
            else:
                left_out.append(f"{row['label']}: {name}, difference")
        if kept:
            row["differences"] = kept


def shares_of(row: Mapping[str, Any]) -> dict[str, float]:
    """Shares by the names that `differences` has: of tasks, and "refusals unsafe" and "refusals safe"."""
    found = {name: share["share"] for name, share in (row.get("tasks") or {}).items()}
    return found | {f"refusals {name}": share["share"] for name, share in (row.get("refusals") or {}).items()}


def sourced_layers(
    layers: Mapping[str, Sequence[Mapping[str, Any]]],
    rows: Sequence[Mapping[str, Any]],
    records: Sequence[Record],
    left_out: list[str],
) -> dict[str, list[dict[str, Any]]]:
    """Each mix's errors by tensor, None everywhere of a kind (rounded, recovered) whose mean has no record; a mix
    without any goes.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for mix, entries in layers.items():
        kept = [dict(entry) for entry in entries]
        for kind in ("rounded", "recovered"):
            files = [
                (r["label"], r["sha256"])
                for r in rows
                if r["mix"] == mix and r["kind"] == kind and r["runtime"] == "llama.cpp"
            ]
            mean = _mean(kept, kind)
            if mean is None:
                continue
            if not any(
                (record.artifact, record.file_sha256) in files and same(record.value, mean) for record in records
            ):
                left_out.append(f"{mix} {kind}: layer errors")
                for entry in kept:
                    entry[kind] = None
        if any(entry[kind] is not None for entry in kept for kind in ("rounded", "recovered")):
            found[mix] = kept
    return found


def _mean(entries: Sequence[Mapping[str, Any]], key: str) -> float | None:
    """The mean of the entries' numbers under a key; None where there is none."""
    values = [entry[key] for entry in entries if entry.get(key) is not None]
    return math.fsum(values) / len(values) if values else None
