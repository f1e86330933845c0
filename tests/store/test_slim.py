"""A finished run made small: what people use stays, what is gone is told by the stage that would be made anew."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from edgedistill.cli.main import cli
from edgedistill.errors import InputError
from edgedistill.store import RunFolder, list_stages
from edgedistill.store.slim import slim

NAMES = ("teach", "distill", "capture", "rounded-q4_0", "recover-q4_0", "gguf-q4_0", "measure", "report")


def build(run: RunFolder) -> list[str]:
    """Every stage, made or found; the names of those that were made."""
    made = []
    results = []
    for name in NAMES:
        results.append(run.stage(name, {}, results[-1:], build=lambda work: (work / "x").write_text("x" * 1000)))
        made += [name] * (not results[-1].reused)
    run.set_current(results)
    return made


@pytest.fixture
def events() -> list[str]:
    return []


@pytest.fixture
def finished(tmp_path: Path, events: list[str]) -> RunFolder:
    run = RunFolder.open(tmp_path / "mine", {"teacher": "t"}, on_event=events.append)
    with run.lock():
        assert build(run) == list(NAMES)
    (run.path / "bundle").mkdir()
    (run.path / "bundle" / "m.gguf").hardlink_to(run.stages / run.current["gguf-q4_0"] / "x")
    (run.path / "bundle" / "r.gguf").hardlink_to(run.stages / run.current["rounded-q4_0"] / "x")
    return run


def test_what_building_needed_goes_and_what_people_use_stays(finished: RunFolder):
    with finished.lock():
        foretold = slim(finished, dry_run=True)
        assert {listing.state for listing in list_stages(finished)} == {"complete"}
        gone = slim(finished)
        assert gone == foretold
        assert slim(finished) == []
    # The bundle has the rounded file too: its bytes stay on the disk, so they don't count as freed.
    assert {stage.name: stage.freed_bytes for stage in gone} == {"teach": 1000, "capture": 1000, "rounded-q4_0": 0}
    states = {listing.name: listing.state for listing in list_stages(finished)}
    assert {name for name, state in states.items() if state == "slimmed"} == {"teach", "capture", "rounded-q4_0"}
    assert (finished.path / "bundle" / "r.gguf").read_text() == "x" * 1000


def test_run_again_it_names_what_it_makes_anew_and_makes_no_more(finished: RunFolder, events: list[str]):
    with finished.lock():
        slim(finished, student=True)
        assert build(finished) == ["teach", "distill", "capture", "rounded-q4_0"]
    assert len(events) == 4
    assert all("`runs clean --slim` removed its files; rebuilding it" in event for event in events)


def test_a_run_that_is_not_finished_is_left_alone(tmp_path: Path):
    run = RunFolder.open(tmp_path / "mine", {"teacher": "t"})
    with run.lock(), pytest.raises(InputError, match="the run isn't finished, so all of it may be needed"):
        slim(run)


def test_the_command_says_what_it_freed(finished: RunFolder):
    done = CliRunner().invoke(cli, ["runs", "clean", str(finished.path), "--slim", "--dry-run"])
    assert "would empty teach-" in done.stdout
    done = CliRunner().invoke(cli, ["runs", "clean", str(finished.path), "--slim"])
    assert done.exit_code == 0, done.output
    assert "emptied teach-" in done.stdout
    assert "2.00 kB freed in" in done.stdout
    done = CliRunner().invoke(cli, ["runs", "show", str(finished.path)])
    assert done.stdout.count("slimmed") == 3
    done = CliRunner().invoke(cli, ["runs", "clean", str(finished.path), "--student"])
    assert done.exit_code == 2
    assert "--student is for --slim" in done.stderr
