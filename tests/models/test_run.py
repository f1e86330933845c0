"""A run folder as a model: its float student, and the system message that it was trained behind."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from edgedistill.errors import InputError
from edgedistill.models.identity import Identity, write_identity
from edgedistill.models.run import student_of
from edgedistill.store.run import RunFolder
from edgedistill.store.slim import slim


def taught(system: str | None) -> Callable[[Path], None]:
    entries = {"asked": 1} if system is None else {"asked": 1, "system": system}
    return lambda work: (work / "teach.json").write_text(json.dumps(entries)) and None


def student(system: str | None = None, name: str = "tiny") -> Callable[[Path], None]:
    return lambda work: write_identity(Identity(name, "mit", "depth", system), None, work)


def file(work: Path) -> None:
    (work / "model.gguf").write_bytes(b"GGUF")


@pytest.fixture
def run(tmp_path: Path):
    """A locked run."""
    opened = RunFolder.open(tmp_path / "run", {"teacher": "t"}, lambda _: None)
    with opened.lock():
        yield opened


@pytest.mark.parametrize("system", [None, "Be brief."])
def test_a_distilled_student_brings_the_system_message_of_its_training_text(run: RunFolder, system: str | None):
    text = run.stage("teach", {}, build=taught(system))
    cut = run.stage("student", {}, [text], build=student())
    run.stage("float-gguf", {}, [run.stage("distill", {}, [cut, text], build=student())], build=file)
    found = student_of(run.path)
    assert found is not None
    assert (found.name, found.system) == ("tiny", system)
    run.stage("report", {}, build=file)
    (run.path / "bundle").mkdir()
    slim(run)
    with pytest.raises(InputError, match=r"neither stages/teach-.*/teach.json nor report.json says what"):
        student_of(run.path)
    (run.path / "report.json").write_text(json.dumps({"teach": {"asked": 1, "system": system}}))
    assert student_of(run.path) == found


def test_a_student_that_lost_tokens_ships_without_them_and_is_trained_further_with_them(run: RunFolder):
    text = run.stage("teach", {}, build=taught(None))
    named = student(name="tiny 3 layers, 416 tokens")
    distilled = run.stage("distill-2", {}, [run.stage("student", {}, build=named), text], build=named)
    fewer = run.stage("vocabulary", {}, [distilled, text], build=named)
    run.stage("float-gguf", {}, [fewer], build=file)
    for all_tokens, stage, name in ((False, fewer, "tiny 3 layers, 416 tokens"), (True, distilled, "tiny 3 layers")):
        found = student_of(run.path, all_tokens)
        assert found is not None
        assert (found.folder, found.name) == (stage.path, name)
    run.stage("vocabulary-text", {}, [fewer, text], build=taught(None))
    run.stage("report", {}, build=file)
    (run.path / "bundle").mkdir()
    (run.path / "report.json").write_text(json.dumps({"teach": {"asked": 1}}))
    slim(run)
    assert student_of(run.path) is not None
    assert not (run.stages / run.current["vocabulary-text"] / "teach.json").exists()


def test_a_model_as_it_was_given_brings_the_message_of_the_run_that_trained_it(run: RunFolder):
    """What another run of ours trained with it, for recovery, never reached the float student."""
    given = run.stage("student", {}, build=student("Be brief."))
    run.stage("float-gguf", {}, [given], build=file)
    run.stage("teach", {}, [given], build=taught("Be long."))
    found = student_of(run.path)
    assert found is not None
    assert found.system == "Be brief."
