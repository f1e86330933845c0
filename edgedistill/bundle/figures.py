"""The measured figures of a model card, as Markdown tables; nothing where nothing was measured."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from edgedistill.bundle.harmless import text
from edgedistill.show import DASH, show

KINDS = {"teacher": 0, "float": 1, "rounded": 2, "recovered": 3}


def figure_table(report: Mapping[str, Any]) -> list[str]:
    """The measured table, on the first judge; nothing where nothing was measured."""
    if not report["rows"]:
        return []
    judge = next((judge["name"] for judge in report["judges"]), None)
    where = "on the target" if report["on_target"] else "on another machine than the target"
    machine = report["machine"]
    lines = [
        "## Measured",
        "",
        f"{where.capitalize()}: {text(machine.get('cpu'))}, {text(machine.get('cores'))} cores, "
        f"{text(machine.get('os'))}. "
        "Every figure is of the packed file in the runtime that is named; report.json of the run holds each "
        "with the file's hash. "
        f"Quality on {_judges(report)}. KL is the divergence from the {float_name(report)}'s next-token "
        "distribution, in nats per token "
        "(0: the same; 99 %: what 99 of 100 tokens stay below); same top: the share of tokens at which both "
        "hold the same word likeliest; "
        "decode and prefill in tokens/s.",
        "",
        "| artifact | runtime | size | perplexity | KL | KL 99 % | same top | decode | prefill | peak RSS |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in _ordered(report["rows"]):
        quality, speed = (row["quality"] or {}).get(judge) or {}, row["speed"]
        cells = [
            text(row["label"]),
            text(row["runtime"]),
            show(row["file_bytes"], "bytes"),
            show(quality.get("ppl"), "perplexity"),
            show(quality.get("kl_student_mean"), "nats per token"),
            show(quality.get("kl_student_p99"), "nats per token"),
            show(quality.get("top1_student"), "share"),
            show((speed.get("decode_tokens_per_s") or {}).get("mean")),
            show((speed.get("prefill_tokens_per_s") or {}).get("mean")),
            show(speed.get("peak_rss_bytes"), "bytes"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def _ordered(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """As the page has them: what the files are compared with, then the mixes from small to large, rounded before
    recovered.
    """
    packed = [row for row in rows if row["kind"] in ("rounded", "recovered")]
    sizes: dict[Any, float] = {}
    for row in packed:
        sizes[row["mix"]] = min(sizes.get(row["mix"], math.inf), row["file_bytes"] or math.inf)
    mixes = sorted(sizes, key=lambda mix: sizes[mix])

    def place(row: Mapping[str, Any]) -> tuple[int, int, bool]:
        mix = mixes.index(row["mix"]) if row["kind"] in ("rounded", "recovered") else -1
        return mix, KINDS.get(row["kind"], len(KINDS)), row["runtime"] != "llama.cpp"

    return sorted(rows, key=place)


def _judges(report: Mapping[str, Any]) -> str:
    """The first judge, whose figures the table has: name, size, source."""
    judge = next(iter(report["judges"]), None)
    if judge is None:
        return DASH
    size = f"{show(judge.get('tokens'), 'count')} tokens" if judge.get("tokens") else ""
    about = ", ".join(part for part in (size, text(judge["source"]) if judge.get("source") else "") if part)
    return f"{text(judge['name'])}{f' ({about})' if about else ''}"


def float_name(report: Mapping[str, Any]) -> str:
    return "float model" if report["student"].get("as_is") else "float student"


def task_table(report: Mapping[str, Any]) -> list[str]:
    """Tasks and refusals with their 95 % intervals; nothing where none was measured."""
    rows = [row for row in _ordered(report["rows"]) if row.get("tasks") or row.get("refusals")]
    if not rows:
        return []
    tasks = list(dict.fromkeys(name for row in rows for name in row.get("tasks") or {}))
    refusals = [name for name in ("unsafe", "safe") if any(name in (row.get("refusals") or {}) for row in rows)]
    heads = [*(text(name) for name in tasks), *(f"refusals, {name} prompts" for name in refusals)]
    lines = [
        "Multiple choice: share answered right; refusals: share of the prompts refused. 95 % intervals in brackets.",
        "",
        f"| artifact | {' | '.join(heads)} |",
        f"|---|{'---:|' * len(heads)}",
    ]
    for row in rows:
        found = [(row.get("tasks") or {}).get(name) for name in tasks] + [
            (row.get("refusals") or {}).get(name) for name in refusals
        ]
        lines.append(f"| {text(row['label'])} | {' | '.join(_interval(share) for share in found)} |")
    return [*lines, ""]


def _interval(found: Mapping[str, Any] | None) -> str:
    if not found or found.get("share") is None:
        return DASH
    return f"{show(found['share'], 'share')} ({show(found.get('low'), 'share')} to {show(found.get('high'), 'share')})"
