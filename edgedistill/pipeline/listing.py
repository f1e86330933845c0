"""The list of stages as a table: what `--dry-run` prints."""

from edgedistill.pipeline.prepare import Prepared
from edgedistill.pipeline.runner import complete_stages
from edgedistill.show import one_line, show_bytes, show_count, show_seconds
from edgedistill.store.run import RUN, RunFolder

HEADINGS = ("", "stage", "tokens", "time", "memory", "disk", "")
WORDS = (1, 6)  # columns of words


def stage_table(prepared: Prepared) -> str:
    """The stages in order, one a line, with what each takes and whether it is complete; then the totals."""
    complete: set[str] = set()
    out = prepared.context.out
    if (out / RUN).is_file():
        complete = complete_stages(RunFolder.find(out), prepared.stages)
    rows = [HEADINGS]
    for number, stage in enumerate(prepared.stages, 1):
        estimate = stage.estimate
        rows.append(
            (
                str(number),
                stage.name,
                show_count(estimate.tokens) if estimate.tokens else "",
                show_seconds(estimate.seconds),
                show_bytes(estimate.ram_bytes),
                show_bytes(estimate.disk_bytes) if estimate.disk_bytes else "",
                "complete" if stage.name in complete else "",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    lines = [_line(row, widths) for row in rows]
    build = prepared.plan.build
    to_come = sum(stage.estimate.seconds for stage in prepared.stages if stage.name not in complete)
    lines += [
        "",
        f"{len(prepared.stages)} stages, {len(complete)} of them complete in {one_line(out)}; about "
        f"{show_seconds(to_come)} to come, at most {show_bytes(build.ram_bytes)} of memory, "
        f"{show_bytes(build.disk_bytes)} of disk in all",
        f"estimates, assuming {build.assumption}",
    ]
    return "\n".join(lines)


def _line(row: tuple[str, ...], widths: list[int]) -> str:
    """A row's cells in columns: words to the left, numbers to the right."""
    cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
    for column in WORDS:
        cells[column] = row[column].ljust(widths[column])
    return "  ".join(cells).rstrip()
