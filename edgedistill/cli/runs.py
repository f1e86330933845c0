"""`edgedistill runs`: what lies in run folders, and cleaning away what no result uses."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from edgedistill.cli.options import NonEmptyPath
from edgedistill.cli.page import page
from edgedistill.show import one_line, show_bytes, show_seconds

RUNS = Path("runs")  # where they are looked for unless told otherwise


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def runs() -> None:
    """List, show and clean runs.

    \b
    Example: edgedistill runs list runs
             edgedistill runs clean runs/mine
    """


@runs.command("list")
@click.argument("folder", required=False, type=NonEmptyPath())
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list.")
def list_command(folder: Path | None, as_json: bool) -> None:
    """List the runs in FOLDER (default: runs).

    \b
    Example: edgedistill runs list runs --json
    """
    from edgedistill.store import list_runs, list_stages, run_bytes

    rows: list[dict[str, Any]] = []
    place = folder or RUNS
    # The folder that nobody named comes with the first run.
    for run in list_runs(place) if folder is not None or place.exists() else []:
        stages = list_stages(run)
        rows.append(
            {
                "path": str(run.path),
                "identity": run.identity,
                "size_bytes": run_bytes(run),
                "stages": len(stages),
                "complete": sum(stage.state in ("complete", "slimmed") for stage in stages),
            }
        )
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    if not rows:
        page(f"No runs in {one_line(place)}.")
    for row in rows:
        teacher = one_line(row["identity"].get("teacher", "unknown"))
        stages_text = f"{row['complete']} of {row['stages']} stages complete"
        page(f"{one_line(row['path'])}  {show_bytes(row['size_bytes'])}  {stages_text}  {teacher}")


@runs.command()
@click.argument("run", type=NonEmptyPath())
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def show(run: Path, as_json: bool) -> None:
    """Show the stages of a run: state, size, seconds, peak memory.

    \b
    Example: edgedistill runs show runs/mine
    """
    from edgedistill.store import RunFolder, list_stages

    folder = RunFolder.find(run)
    stages = list_stages(folder)
    if as_json:
        click.echo(
            json.dumps(
                {"path": str(run), "identity": folder.identity, "stages": [stage.to_dict() for stage in stages]},
                indent=2,
            )
        )
        return
    for key, value in folder.identity.items():
        page(f"{one_line(key)}: {one_line(value)}")
    width = max((len(stage.folder) for stage in stages), default=0)
    lines = []
    for stage in stages:
        use = "current" if stage.current else "unused"
        state = use if stage.state == "complete" else stage.state
        spent = "" if stage.seconds is None else f"  {show_seconds(stage.seconds):>8}"
        peak = "" if stage.peak_rss_bytes is None else f"  {show_bytes(stage.peak_rss_bytes):>9} peak"
        lines.append(f"{one_line(stage.folder):{width}}  {state:8}  {show_bytes(stage.size_bytes):>9}{spent}{peak}")
    page("\n".join(lines))


@runs.command()
@click.argument("run", type=NonEmptyPath())
@click.option(
    "--slim", is_flag=True, help="Of a finished run also what only building it needed: training text, states, floats."
)
@click.option("--student", is_flag=True, help="With --slim, the float student too.")
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@click.option("--json", "as_json", is_flag=True, help="Print what was removed as one JSON list.")
def clean(run: Path, slim: bool, student: bool, dry_run: bool, as_json: bool) -> None:
    """Remove the stages that the run's results don't come from, and unfinished work, which would then start anew.

    The report and the bundle stay. With --slim, so do the checkpoints, and with them chat, serve, verify and export;
    the command that made the run, run again, would make the rest anew, and names it.

    \b
    Example: edgedistill runs clean runs/mine --dry-run
    """
    from edgedistill.errors import InputError
    from edgedistill.store import RunFolder
    from edgedistill.store import clean as clean_stages
    from edgedistill.store.slim import slim as slim_run

    if student and not slim:
        raise InputError("--student is for --slim; give both")
    folder = RunFolder.find(run)
    with folder.lock():
        # An unfinished run is refused before anything is removed.
        emptied = slim_run(folder, student, dry_run=True) if slim else []
        removed = clean_stages(folder, dry_run=dry_run)
        if slim and not dry_run:
            emptied = slim_run(folder, student)
    if as_json:
        rows = [stage.to_dict() for stage in removed]
        click.echo(json.dumps(rows + [asdict(stage) for stage in emptied], indent=2))
        return
    for stage in removed:
        held = f"{show_bytes(stage.size_bytes)}, {stage.state}"
        page(f"{'would remove' if dry_run else 'removed'} {one_line(stage.folder)} ({held})")
    for emptied_stage in emptied:
        freed = show_bytes(emptied_stage.freed_bytes)
        page(f"{'would empty' if dry_run else 'emptied'} {one_line(emptied_stage.folder)} ({freed})")
    freed_bytes = sum(stage.size_bytes for stage in removed) + sum(stage.freed_bytes for stage in emptied)
    total = show_bytes(freed_bytes)
    page(f"{total} {'would be freed' if dry_run else 'freed'} in {one_line(run)}")
