"""The only loop over stages: key, reuse, work, progress, record; and the same walk without work, for `--dry-run`."""

from collections.abc import Mapping, Sequence
from typing import Any

from edgedistill.machine import release_memory
from edgedistill.pipeline.computing import COMPUTING
from edgedistill.pipeline.schedule import Schedule
from edgedistill.pipeline.stage import Finished, Hashes, InStage, Outside, Stage
from edgedistill.show import show_seconds
from edgedistill.store.marks import stage_key
from edgedistill.store.run import RunFolder


def run_stages(run: RunFolder, stages: Sequence[Stage], done: Finished, place: Mapping[str, Any] | None = None) -> None:
    """Run the stages in order; those that are complete are found again.

    Args:
        run: the run folder; its lock is held.
        stages: a whole list.
        done: takes the results.
        place: what the marks of stages that torch computes say of the device; None says nothing.
    Raises:
        RunError, InputError: a stage failed; the same command goes on from there.
    """
    schedule = Schedule(stages)
    done.progress.overall(schedule.text)
    for stage in stages:
        schedule.start(stage)
        result = run.stage(
            stage.name,
            stage.settings,
            [done.results[name] for name in stage.inputs],
            {label: done.sha256(outside) for label, outside in stage.outside.items()},
            build=lambda folder, stage=stage: stage.work(folder, done),  # type: ignore[misc]
            place=place if stage.kind in COMPUTING else None,
        )
        schedule.finish(built=not result.reused)
        if not result.reused:
            release_memory()
        done.add(result)
        took = "complete already" if result.reused else f"done in {show_seconds(result.mark.seconds)}"
        done.progress.note(f"{stage.name}: {took}")
    run.set_current(list(done.results.values()))


def complete_stages(run: RunFolder, stages: Sequence[Stage]) -> set[str]:
    """Names of the stages that a run would find complete, by their keys; their files aren't read."""
    keys: dict[str, str] = {}
    complete: set[str] = set()
    hashes = Hashes()
    for stage in stages:
        if any(name not in keys for name in stage.inputs):
            continue
        outside: dict[str, str] = {}
        for label, place in stage.outside.items():
            digest = _sha256(run, place, keys, hashes)
            if digest is not None:
                outside[label] = digest
        if len(outside) < len(stage.outside):
            continue
        key = stage_key(stage.name, stage.settings, [(name, keys[name]) for name in stage.inputs], outside)
        if run.holds(stage.name, key):
            keys[stage.name] = key
            complete.add(stage.name)
    return complete


def _sha256(run: RunFolder, outside: Outside, keys: dict[str, str], hashes: Hashes) -> str | None:
    """The hash of what a stage reads beside its inputs; None where the stage that makes it isn't complete."""
    place = outside.place
    if not isinstance(place, InStage):
        return hashes.of(place, outside.model)
    if place.stage not in keys:
        return None
    return hashes.of(run.folder_of(place.stage, keys[place.stage]) / place.name, outside.model)
