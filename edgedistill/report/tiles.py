"""The few figures that one looks for first, of the row that the verdict is about; only those that were measured."""

from dataclasses import dataclass

from edgedistill.results.front import LEAST_KL
from edgedistill.results.report import Report
from edgedistill.results.row import Row
from edgedistill.show import NATS, show, show_bytes


@dataclass(frozen=True)
class Tile:
    """One figure with its name, its unit and where it is from."""

    name: str
    value: str
    unit: str
    note: str


def tiles_of(report: Report, row: Row | None) -> list[Tile]:
    """The figures of a row; none without one."""
    if row is None:
        return []
    task = _task(report, row)
    likeness = _same_word(report, row) if task is None else None  # the task says more
    tiles = [task, _size(row), _speed(report, row), likeness, _loss(report, row), _memory(row)]
    return [tile for tile in tiles if tile]


def _task(report: Report, row: Row) -> Tile | None:
    """What the file gets right of the user's own task."""
    if row.task is None or report.task is None:
        return None
    note = f"{row.task.right} of {row.task.items} rows of {report.task.name} that no training saw"
    return _tile(row.task.metric, show(row.task.share, "share"), note)


def _size(row: Row) -> Tile | None:
    if not row.file_bytes:
        return None
    note = f"{show(row.bits_per_weight, 'bits')} bits a weight" if row.bits_per_weight else row.file or ""
    return _tile(f"{row.mix or row.label} file", show_bytes(row.file_bytes), note)


def _speed(report: Report, row: Row) -> Tile | None:
    mean, threads = row.speed.decode.mean, row.speed.threads
    if mean is None:
        return None
    how = f"{row.runtime}, {threads} thread{'s' if threads != 1 else ''}" if threads else row.runtime
    return Tile("writes", show(mean), "tokens/s", f"{how}, {'on the target' if report.on_target else 'not the target'}")


def _same_word(report: Report, row: Row) -> Tile | None:
    """How often the file holds the same word likeliest as the float model."""
    judge = report.first_judge
    top = row.on(judge).student.top1
    if top is None:
        return None
    rounded = next((twin for twin in report.rows if twin.kind == "rounded" and twin.is_twin(row)), None)
    before = rounded.on(judge).student.top1 if rounded is not None and rounded is not row else None
    note = f"as the {report.float_name}, on {judge}"
    if before is not None:
        note += f"; rounded {show(before, 'share')}"
    return _tile("same likeliest word", show(top, "share"), note)


def _loss(report: Report, row: Row) -> Tile | None:
    """How much of rounding's loss training won back; else how far the file is from the float model."""
    judge = report.first_judge
    share = report.recovered.get(row.mix or "", {}).get(judge or "") if row.kind == "recovered" else None
    if share and share.kl_share is not None and share.kl_rounded is not None and share.kl_rounded > LEAST_KL:
        kls = f"KL {show(share.kl_rounded, NATS)} → {show(share.kl_recovered, NATS)} on {judge}"
        return _tile("rounding loss won back", show(share.kl_share, "share"), kls)
    kl = row.on(judge).student.kl_mean
    if kl is None:
        return None
    return Tile(f"KL to the {report.float_name}", show(kl, NATS), "", f"nats per token, on {judge}")


def _memory(row: Row) -> Tile | None:
    rss = row.speed.peak_rss_bytes
    return None if rss is None else _tile("peak memory", show_bytes(rss), f"whole process, {row.runtime}")


def _tile(name: str, shown: str, note: str) -> Tile:
    """A tile of a figure that `show` wrote with its unit."""
    value, _, unit = shown.partition(" ")
    return Tile(name, value, unit, note)
