"""From measured files to the table: one row for each tool, mix and judge, with the share of plain rounding's loss that
it wins back.

recovered_kl = 1 - KL / KL of llama.cpp's plain rounding of the same mix; recovered_ppl = the same of the rise of
perplexity over the float model's in llama.cpp. Both are 0 for plain rounding and 1 for the float model; below 0 is
worse than rounding.
"""

from collections.abc import Sequence
from typing import Any

from contest.layout import FLOAT
from contest.llama_rows import FILE_TYPES, PLAIN

FIGURES = ("kl", "kl_p99", "top1", "ppl")


def flat_rows(measured: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, by mix in the order of FILE_TYPES, float last; within a mix by judge and falling KL.

    Args:
        measured: objects with tool, mix, bytes, tensor_bytes, tensors, sha256, made, quality {judge: FIGURES}.
    """
    by_name = {(row["tool"], row["mix"]): row for row in measured}
    floats = next((row["quality"] for row in measured if row["tool"] == FLOAT), {})
    rows = []
    for row in measured:
        plain = by_name.get((PLAIN, row["mix"]))
        for judge, found in row["quality"].items():
            flat = {
                "tool": row["tool"],
                "mix": row["mix"],
                "judge": judge,
                "bytes": row["bytes"],
                "tensor_bytes": row["tensor_bytes"],
            }
            flat["bytes_over_plain"] = row["tensor_bytes"] - plain["tensor_bytes"] if plain else None
            flat["tokens"] = row["made"].get("tokens", 0)
            flat |= {name: found[name] for name in FIGURES}
            flat["recovered_kl"] = _share(found["kl"], plain["quality"][judge]["kl"], 0.0) if plain else None
            limit = floats[judge]["ppl"] if judge in floats else None
            flat["recovered_ppl"] = (
                _share(found["ppl"], plain["quality"][judge]["ppl"], limit) if plain and limit is not None else None
            )
            rows.append(flat)
    mixes = list(FILE_TYPES)
    place = {name: i for i, name in enumerate(mixes)}
    return sorted(rows, key=lambda row: (place.get(row["mix"], len(mixes)), row["judge"], -row["kl"]))


def to_text(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as a table for people."""
    heads = f"{'MB':>8}{'tokens':>9}{'KL':>9}{'99 %':>8}{'top1':>7}{'ppl':>8}{'rec KL':>8}{'rec ppl':>8}"
    lines = [f"{'judge':<16}{'mix':<8}{'tool':<34}{heads}"]
    for row in rows:
        over = row["bytes_over_plain"]
        mark = "" if not over else f"  {over:+d} bytes"
        shares = "".join(
            f"{'' if share is None else format(share, '.3f'):>8}"
            for share in (row["recovered_kl"], row["recovered_ppl"])
        )
        lines.append(
            f"{row['judge']:<16}{row['mix']:<8}{row['tool']:<34}{row['bytes'] / 1e6:8.2f}"
            f"{row['tokens']:9d}{row['kl']:9.4f}"
            f"{row['kl_p99']:8.3f}{row['top1']:7.3f}{row['ppl']:8.3f}{shares}{mark}"
        )
    return "\n".join(lines)


def _share(value: float, rounded: float, limit: float) -> float | None:
    """How much of the way from `rounded` to `limit` was won back; None where there is no way to go."""
    return (rounded - value) / (rounded - limit) if rounded > limit else None
