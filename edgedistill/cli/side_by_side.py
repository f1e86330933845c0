"""The table of files that were measured side by side, for `bench` and `compare` of several files."""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from edgedistill.cli.page import page
from edgedistill.show import one_line

if TYPE_CHECKING:
    from edgedistill.measure.bench import BenchSettings
    from edgedistill.results.bench import FileFigures

HEADS = ("file", "size", "decode", "prefill", "memory", "perplexity", "KL", "KL 99 %", "same token", "front")

SCHEMA = "edgedistill.compare-files/1"
# Options of compare that say what to build, and how; of files that are there nothing is built.
BUILDING = {
    "teacher": "--teacher",
    "mixes": "--mix",
    "recover": "--recover",
    "data": "--data",
    "target": "--target",
    "out": "--out",
    "recipe": "--recipe",
    "dry_run": "--dry-run",
}


@dataclass(frozen=True)
class FilesRequest:
    """What is asked of several files.

    Attributes:
        files: .gguf files and ONNX folders.
        text: to judge on; None: speeds alone.
        reference: as `resolve` takes it; None: none.
    """

    files: Sequence[Path]
    text: Path | None
    reference: str | None


def measure(question: FilesRequest, settings: "BenchSettings") -> "list[FileFigures]":
    """Measure the files with progress on stderr."""
    from edgedistill.measure.side_by_side import bench_files
    from edgedistill.models.source import resolve
    from edgedistill.progress import RichProgress

    reference = resolve(question.reference) if question.reference else None
    progress = RichProgress()
    try:
        with tempfile.TemporaryDirectory(prefix="edgedistill-") as scratch:
            return bench_files(question.files, question.text, reference, settings, Path(scratch), progress)
    finally:
        progress.finish()


def table(results: "Sequence[FileFigures]") -> str:
    """The results, smallest file first: a line a file, then, behind a blank line, what the columns mean."""
    rows = [HEADS, *(_cells(result) for result in sorted(results, key=lambda result: result.file_bytes))]
    rows = [(one_line(row[0]), *row[1:]) for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADS))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    lines.append("")
    lines.append("decode, prefill: tokens/s, the files timed in turn. KL: to the reference, in nats per token.")
    lines.append("front *: no other file is at least as small, as fast and as near to the reference.")
    if any(result.speed is not None and result.speed.busy for result in results):
        lines.append("Another program had the cores during the trials: the speeds say little.")
    return "\n".join(lines)


def _cells(result: "FileFigures") -> tuple[str, ...]:
    from edgedistill.results.bench import to_reference
    from edgedistill.results.row import NO_QUALITY, NO_SPEED
    from edgedistill.show import DASH, show

    speed = result.speed or NO_SPEED
    quality = next(iter((result.quality or {}).values()), NO_QUALITY)
    near = to_reference(quality)
    return (
        Path(result.file).name,
        show(result.file_bytes, "bytes"),
        _figure(speed.decode.mean, ".1f"),
        _figure(speed.prefill.mean, ".1f"),
        show(speed.peak_rss_bytes, "bytes"),
        _figure(quality.ppl, ".2f"),
        _figure(near.kl_mean, ".4f"),
        _figure(near.kl_p99, ".2f"),
        DASH if near.top1 is None else f"{100 * near.top1:.1f} %",
        "*" if result.front else "",
    )


def _figure(value: float | None, form: str) -> str:
    from edgedistill.show import DASH

    return DASH if value is None else format(value, form)


def compare_files(
    ctx: click.Context, files: Sequence[Path], texts: Sequence[str], reference: str | None, as_json: bool
) -> None:
    """The `compare` command for files that are there: measure them side by side.

    Raises:
        InputError: an option is for building, or there are several texts.
    """
    from edgedistill.data.prose import passages
    from edgedistill.errors import InputError
    from edgedistill.measure.bench import BenchSettings, read_text, runtime_of
    from edgedistill.measure.side_by_side import choose_reference

    for name, option_name in BUILDING.items():
        if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise InputError(f"{option_name} is for one MODEL; several files are measured as they are, so leave it out")
    if len(texts) > 1:
        raise InputError("--text: several files are judged on one text; give one")
    for path in files:
        runtime_of(path)  # says at once what is wrong with the name
    text = Path(texts[0]) if texts else passages("judge", None)[0].path
    read_text(text)  # before a reference is fetched
    chosen = reference or str(choose_reference(files))
    results = measure(FilesRequest(files, text, chosen), BenchSettings())
    if as_json:
        measured = [result.to_json() for result in results]
        content = {"schema": SCHEMA, "reference": chosen, "text": str(text), "files": measured}
        click.echo(json.dumps(content, indent=2))
        return
    page(table(results))
    page(f"reference {one_line(chosen)}, text {one_line(text)}, {BenchSettings().tokens} tokens of it at most")
