"""The run folder: stages are built once, found again, rebuilt when damaged, and survive kills at any moment."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors import SafetensorError

from edgedistill.errors import InputError, RunError
from edgedistill.store import RunFolder, clean, file_sha256, list_runs, list_stages, tree_sha256
from edgedistill.store.marks import MARK
from tests.store import worker

ROOT = Path(__file__).parents[2]


class Counting:
    """A builder that writes one file and counts its calls."""

    def __init__(self, text: str = "text", name: str = "file.txt") -> None:
        self.text, self.name, self.calls = text, name, 0

    def __call__(self, work: Path) -> None:
        self.calls += 1
        (work / self.name).parent.mkdir(parents=True, exist_ok=True)
        (work / self.name).write_text(self.text)


@pytest.fixture
def events() -> list[str]:
    return []


@pytest.fixture
def run(tmp_path: Path, events: list[str]):
    """A locked run."""
    found = RunFolder.open(tmp_path / "run", {"teacher": "t"}, events.append)
    with found.lock():
        yield found


def test_a_stage_is_built_once_and_then_found(run: RunFolder, events: list[str]):
    build = Counting()
    first = run.stage("teach", {"a": 1}, build=build)
    again = run.stage("teach", {"a": 1}, build=build)
    assert (first.reused, again.reused, build.calls) == (False, True, 1)
    assert first.path == again.path == run.stages / f"teach-{first.key[:12]}"
    assert again.mark == first.mark
    assert not events


def test_the_mark_says_what_sha256sum_and_the_file_system_say(run: RunFolder):
    result = run.stage("teach", {"a": 1}, outside={"weights": "ab"}, build=Counting("héllo", "sub/file.txt"))
    mark = json.loads((result.path / MARK).read_text())
    said = subprocess.run(
        ["sha256sum", result.path / "sub" / "file.txt"], capture_output=True, text=True, check=True
    ).stdout.split()[0]
    assert mark["files"] == {"sub/file.txt": {"bytes": 6, "sha256": said}}
    assert mark["key"] == result.key
    assert mark["settings"] == {"a": 1}
    assert mark["outside"] == {"weights": "ab"}
    assert mark["inputs"] == {}
    assert mark["seconds"] >= 0
    assert mark["peak_rss_bytes"] > 5e6
    assert mark["versions"]["python"] == sys.version.split()[0]
    assert sorted(p.name for p in run.stages.iterdir()) == [result.path.name], "nothing is left beside the stage"


def test_the_key_depends_on_all_that_the_output_depends_on(run: RunFolder):
    other = run.stage("teach", {"a": 1}, build=Counting())
    keys = {
        run.stage(name, settings, inputs, outside, build=Counting()).key
        for name, settings, inputs, outside in (
            ("distill", {"a": 1}, [], {}),
            ("distil", {"a": 1}, [], {}),
            ("distill", {"a": 2}, [], {}),
            ("distill", {"a": 1.0}, [], {}),
            ("distill", {"a": 1}, [other], {}),
            ("distill", {"a": 1}, [], {"w": "1"}),
            ("distill", {"a": 1}, [], {"w": "2"}),
        )
    }
    assert len(keys) == 7
    assert (
        run.stage("distill", {"b": 1, "a": 1}, build=Counting()).key
        == run.stage("distill", {"a": 1, "b": 1}, build=Counting()).key
    )


def test_a_changed_setting_rebuilds_the_stage_and_what_follows_it(run: RunFolder):
    for setting, reused in ((1, (False, False, False)), (2, (True, False, False)), (1, (True, True, True))):
        teach = run.stage("teach", {}, build=Counting())
        distill = run.stage("distill", {"rate": setting}, [teach], build=Counting(str(setting)))
        export = run.stage("export", {}, [distill], build=Counting())
        assert (teach.reused, distill.reused, export.reused) == reused


def damage_a_byte(folder: Path) -> None:
    path = folder / "file.txt"
    path.write_bytes(path.read_bytes()[:-1] + b"!")


def rewrite(path: Path, **changes: object) -> None:
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (damage_a_byte, "file.txt doesn't match its mark (sha256 "),
        (
            lambda folder: (folder / "file.txt").write_text("longer than it was"),
            "file.txt has 18 bytes, its mark says 4",
        ),
        (lambda folder: (folder / "file.txt").unlink(), "file.txt is missing"),
        (lambda folder: (folder / "more.txt").write_text("x"), "more.txt is not in its mark"),
        (lambda folder: (folder / "link").symlink_to("file.txt"), "link: it is a link"),
        (lambda folder: (folder / MARK).unlink(), "stage.json is missing"),
        (lambda folder: (folder / MARK).write_text("{"), "stage.json cannot be read"),
        (lambda folder: (folder / MARK).write_text("{}"), "stage.json has no schema edgedistill.stage/1"),
        (lambda folder: (folder / MARK).write_text('{"schema": "edgedistill.stage/1"}'), "stage.json lacks a part"),
        (
            lambda folder: (folder / MARK).write_text((folder / MARK).read_text().replace('"key": "', '"key": "0')),
            "stage.json doesn't match its own hash",
        ),
        (lambda folder: rewrite(folder / MARK, seconds=9999.0), "stage.json doesn't match its own hash"),
        (lambda folder: rewrite(folder / MARK, key="0" * 64, mark_sha256=None), "it is another stage"),
    ],
)
def test_a_damaged_stage_is_named_and_rebuilt(run: RunFolder, events: list[str], damage, why: str):
    build = Counting()
    first = run.stage("teach", {}, build=build)
    damage(first.path)
    again = run.stage("teach", {}, build=build)
    assert build.calls == 2
    assert not again.reused
    (event,) = events
    assert event.startswith(f"stage {first.path.name}: ")
    assert why in event
    assert event.endswith("; rebuilding it")
    assert run.stage("teach", {}, build=build).reused


def test_a_stage_built_from_one_that_was_rebuilt_differently_is_rebuilt(run: RunFolder, events: list[str]):
    teach = run.stage("teach", {}, build=Counting("first"))
    run.stage("distill", {}, [teach], build=Counting())
    damage_a_byte(teach.path)
    same = run.stage("teach", {}, build=Counting("first"))
    assert run.stage("distill", {}, [same], build=Counting()).reused, "rebuilt to the same bytes"
    damage_a_byte(same.path)
    other = run.stage("teach", {}, build=Counting("other"))
    assert other.key == teach.key
    assert not run.stage("distill", {}, [other], build=Counting()).reused
    assert "a stage that it was built from has been rebuilt and differs; rebuilding it" in events[-1]


def test_unfinished_work_is_handed_back_but_not_if_it_was_begun_from_other_input(run: RunFolder, events: list[str]):
    seen: list[list[str]] = []

    def failing(work: Path) -> None:
        seen.append(sorted(p.name for p in work.iterdir()))
        (work / f"shard-{len(seen)}").write_text("x")
        if len(seen) != 3:
            raise RunError("killed")

    teach = run.stage("teach", {}, build=Counting("first"))
    with pytest.raises(RunError, match="killed"):
        run.stage("distill", {}, [teach], build=failing)
    with pytest.raises(RunError, match="killed"):
        run.stage("distill", {}, [teach], build=failing)
    assert seen == [[], ["shard-1"]]
    damage_a_byte(teach.path)
    teach = run.stage("teach", {}, build=Counting("other"))
    run.stage("distill", {}, [teach], build=failing)
    assert seen[-1] == []
    assert "has been rebuilt and differs; starting it anew" in events[-1]


def test_seconds_and_memory_sum_up_over_restarts(run: RunFolder):
    def sleepy(work: Path) -> None:
        time.sleep(0.15)
        (work / "x").write_text("x")
        if not (work / "second").exists():
            (work / "second").write_text("")
            raise RunError("killed")

    with pytest.raises(RunError):
        run.stage("teach", {}, build=sleepy)
    mark = run.stage("teach", {}, build=sleepy).mark
    assert 0.3 <= mark.seconds < 3


def test_memory_of_children_counts(run: RunFolder):
    def hungry(work: Path) -> None:
        code = "import time; x = bytearray(300_000_000); time.sleep(1.6)"
        subprocess.run([sys.executable, "-c", code], check=True)
        (work / "x").write_text("x")

    assert run.stage("measure", {}, build=hungry).mark.peak_rss_bytes > 300e6


@pytest.mark.parametrize("moment", ["sealed", "renamed"])
@pytest.mark.parametrize("damaged", [False, True])
def test_a_kill_between_the_last_steps_is_made_good(
    run: RunFolder, events: list[str], moment: str, damaged: bool, monkeypatch
):
    """Complete work is not done again, unless it was damaged meanwhile."""

    class Killed(BaseException):
        pass

    def kill(*args: object) -> None:
        raise Killed

    build = Counting()
    with monkeypatch.context() as patch:
        if moment == "sealed":
            patch.setattr(Path, "rename", kill)
        else:
            patch.setattr("edgedistill.store.stage_folder.sync_folder", kill)
        with pytest.raises(Killed):
            run.stage("teach", {}, build=build)
    (folder,) = (p for p in run.stages.iterdir() if p.is_dir())
    assert folder.name.startswith(".teach" if moment == "sealed" else "teach")
    assert not (folder / MARK).exists()
    if damaged:
        damage_a_byte(folder)
    result = run.stage("teach", {}, build=build)
    assert build.calls == (2 if damaged else 1)
    assert len(events) == int(damaged)
    assert (result.path / "file.txt").read_text() == "text"
    assert sorted(p.name for p in run.stages.iterdir()) == [result.path.name]


def test_what_a_killed_atomic_write_left_does_not_ship(run: RunFolder):
    def build(work: Path) -> None:
        (work / ".state.json.123.tmp").write_text("half")
        (work / "state.json").write_text("whole")

    assert list(run.stage("teach", {}, build=build).mark.files) == ["state.json"]


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda work: None, "wrote nothing"),
        (lambda work: (work / MARK).write_text("{}"), "which is the name of its mark"),
        (lambda work: (work / "x").symlink_to("/etc/hosts"), "it is a link"),
        (lambda work: os.mkfifo(work / "x"), "neither a file nor a folder"),
    ],
)
def test_what_no_stage_may_write_is_an_error(run: RunFolder, build, words: str):
    with pytest.raises(RunError, match=words):
        run.stage("teach", {}, build=build)


def test_a_full_disk_is_one_sentence(run: RunFolder):
    def build(work: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(
        RunError, match=r"stage teach-.*: the disk is full\. Free some, then run the same command to go on from here\."
    ):
        run.stage("teach", {}, build=build)


def test_a_full_disk_is_told_from_the_exception_of_a_library(run: RunFolder):
    def build(work: Path) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    with pytest.raises(RunError, match=r"the disk is full\. Free some"):
        run.stage("teach", {}, build=build)


def test_a_mark_of_an_older_version_without_a_hash_of_itself_counts(run: RunFolder):
    first = run.stage("teach", {}, build=Counting())
    rewrite(first.path / MARK, mark_sha256=None)
    assert run.stage("teach", {}, build=Counting()).reused


def test_a_stage_that_is_removed_while_another_reads_it_is_one_sentence(run: RunFolder):
    teach = run.stage("teach", {}, build=Counting())

    def build(work: Path) -> None:
        shutil.rmtree(teach.path)
        raise ZeroDivisionError("a mean of nothing")

    with pytest.raises(
        RunError, match=rf"{teach.path} was changed while it ran \(file.txt is missing\)\. Run the same"
    ):
        run.stage("distill", {}, [teach], build=build)
    run.stage("distill", {}, [run.stage("teach", {}, build=Counting())], build=Counting())


def test_a_stage_whose_own_folder_is_removed_is_one_sentence(run: RunFolder):
    def build(work: Path) -> None:
        shutil.rmtree(work)
        (work / "late").write_text("x")

    with pytest.raises(RunError, match="its folder was removed while it ran"):
        run.stage("teach", {}, build=build)


def test_an_error_of_the_work_itself_passes_through(run: RunFolder):
    teach = run.stage("teach", {}, build=Counting())
    with pytest.raises(ZeroDivisionError):
        run.stage("distill", {}, [teach], build=lambda work: 1 // 0)


def test_a_file_of_the_run_that_is_gone_is_one_sentence_and_one_elsewhere_is_not(tmp_path: Path):
    opened = RunFolder.open(tmp_path / "run", {"teacher": "t"})
    with (
        pytest.raises(RunError, match=r"report.json: it was removed while it was needed\. Run the same"),
        opened.lock(),
    ):
        (opened.path / "report.json").read_text()
    with pytest.raises(FileNotFoundError), opened.lock():
        (tmp_path / "other").read_text()


def test_settings_must_be_json_and_names_plain(run: RunFolder):
    with pytest.raises(TypeError):
        run.stage("teach", {"path": Path("x")}, build=Counting())
    with pytest.raises(ValueError, match="Out of range float values"):
        run.stage("teach", {"rate": float("nan")}, build=Counting())
    with pytest.raises(ValueError, match="stage name"):
        run.stage("../teach", {}, build=Counting())


def test_a_stage_needs_the_lock(tmp_path: Path):
    with pytest.raises(RuntimeError, match="needs the lock"):
        RunFolder.open(tmp_path, {"teacher": "t"}).stage("teach", {}, build=Counting())


def test_a_second_process_is_told_who_works_here(run: RunFolder):
    done = subprocess.run(
        [sys.executable, "-m", "tests.store.worker", run.path], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert (
        f"InputError: {run.path} is in use: process {os.getpid()} works in it. Wait until it ends, or choose"
        in done.stderr
    )


def test_a_second_lock_in_the_same_process_is_refused(run: RunFolder):
    with pytest.raises(InputError, match="is in use"), RunFolder.find(run.path).lock():
        pass


def test_a_child_that_outlives_a_killed_process_does_not_keep_the_lock(tmp_path: Path):
    code = (
        "import subprocess, sys, time; from pathlib import Path; from edgedistill.store import RunFolder\n"
        "with RunFolder.open(Path(sys.argv[1]), {'teacher': 't'}).lock():\n"
        "    child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(30)'])\n"
        "    print(child.pid, flush=True); time.sleep(30)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path / "run"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    child = int(process.stdout.readline())
    try:
        process.kill()
        process.wait()
        process.stdout.close()
        with RunFolder.open(tmp_path / "run", {"teacher": "t"}).lock():
            pass
    finally:
        os.kill(child, signal.SIGKILL)


def test_sigkill_at_random_moments_ends_with_the_same_bytes(tmp_path: Path):
    """Killed from outside again and again, over both stages, then finished: what an uninterrupted run writes."""
    worker.work(tmp_path / "whole")
    killed = tmp_path / "killed"
    moments = sorted(
        random.Random(5).sample(range(2 * worker.STEPS), 10)
    )  # files that both stages have written by then
    kills = 0
    for moment in moments:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.store.worker", killed], cwd=ROOT, stderr=subprocess.PIPE, text=True
        )
        while process.poll() is None and len(list(killed.glob("stages/*/*.txt"))) < moment:
            time.sleep(0.002)
        process.kill()
        _, err = process.communicate()
        assert process.returncode in (0, -signal.SIGKILL)
        assert not err
        kills += process.returncode != 0
    assert kills > 5
    for name in worker.work(killed):
        assert tree_of(killed / "stages" / name) == tree_of(tmp_path / "whole" / "stages" / name)
    assert json.loads((killed / "run.json").read_text()) == json.loads((tmp_path / "whole" / "run.json").read_text())


def tree_of(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != MARK}


def test_a_folder_of_something_else_is_refused_and_left_as_it_was(tmp_path: Path):
    (tmp_path / "thesis.doc").write_text("x")
    with pytest.raises(
        InputError, match=r"holds files of something else, such as 'thesis\.doc'\. Choose another folder"
    ):
        RunFolder.open(tmp_path, {"teacher": "t"})
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.doc"]
    with pytest.raises(InputError, match="is a file; the run needs a folder"):
        RunFolder.open(tmp_path / "thesis.doc", {"teacher": "t"})
    with pytest.raises(InputError, match="is a file; the run needs a folder"):
        RunFolder.open(tmp_path / "thesis.doc" / "run", {"teacher": "t"})


def test_a_run_of_another_teacher_is_refused(tmp_path: Path):
    RunFolder.open(tmp_path / "run", {"teacher": "a", "target": "x"})
    with pytest.raises(InputError, match=r"run holds a run of the model 'a', not of 'b'\. Choose another folder\."):
        RunFolder.open(tmp_path / "run", {"teacher": "b"})
    again = RunFolder.open(tmp_path / "run", {"teacher": "a", "target": "y"})
    with again.lock():
        pass
    assert RunFolder.find(tmp_path / "run").identity == {"teacher": "a", "target": "y"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "is not a run folder: it has no run.json"),
        ("{", "cannot be read as JSON"),
        ("[]", "has no schema edgedistill.run/1"),
        ('{"schema": "edgedistill.run/1"}', "lacks its identity"),
        ("[" * 100_000, "cannot be read as JSON"),
    ],
)
def test_a_folder_without_a_readable_run_is_named(tmp_path: Path, content: str | None, words: str):
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    with pytest.raises(InputError, match=words.replace(".", r"\.")):
        RunFolder.find(tmp_path)


def test_a_kill_while_a_run_is_made_leaves_a_folder_that_can_be_used(tmp_path: Path):
    (tmp_path / ".run.json.99.tmp").write_text("{")
    (tmp_path / ".lock").write_text("")
    assert RunFolder.open(tmp_path, {"teacher": "t"}).identity == {"teacher": "t"}


def test_clean_removes_what_no_result_uses(run: RunFolder):
    teach = run.stage("teach", {}, build=Counting())
    old = run.stage("distill", {"rate": 1}, [teach], build=Counting("old"))
    new = run.stage("distill", {"rate": 2}, [teach], build=Counting("new"))
    with pytest.raises(RunError):
        run.stage("recover", {}, [new], build=lambda work: (_ for _ in ()).throw(RunError("killed")))
    run.set_current([teach, new])
    states = {s.folder: (s.state, s.current) for s in list_stages(run)}
    partial = next(p.name for p in run.stages.glob(".recover-*.partial"))
    assert states == {
        teach.path.name: ("complete", True),
        new.path.name: ("complete", True),
        old.path.name: ("complete", False),
        partial: ("at work", False),
    }
    assert {s.folder for s in clean(run, dry_run=True)} == {old.path.name, partial}
    assert old.path.exists()
    assert {s.folder for s in clean(run)} == {old.path.name, partial}
    assert sorted(p.name for p in run.stages.iterdir()) == sorted([teach.path.name, new.path.name])
    assert run.stage("distill", {"rate": 2}, [teach], build=Counting("new")).reused


def test_clean_removes_nothing_that_is_not_ours(run: RunFolder):
    old = run.stage("distill", {}, build=Counting())
    run.set_current([])
    (run.stages / ".bashrc").touch()
    (run.stages / "photos-0123456789ab").mkdir()
    (run.stages / "photos-0123456789ab" / "a.jpg").touch()
    (run.stages / ".old-0123456789ab.removed").mkdir()
    (run.stages / ".old-0123456789ab.origin.json").touch()
    assert {s.folder for s in clean(run)} == {old.path.name, ".old-0123456789ab.removed"}
    assert sorted(p.name for p in run.stages.iterdir()) == [".bashrc", "photos-0123456789ab"]


def test_a_kill_while_a_stage_is_removed_leaves_nothing_that_looks_complete(run: RunFolder, monkeypatch):
    first = run.stage("teach", {}, build=Counting())
    run.set_current([])
    with monkeypatch.context() as killed:
        killed.setattr(shutil, "rmtree", lambda folder: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            clean(run)
    assert [s.state for s in list_stages(run)] == ["half removed"]
    assert run.stage("teach", {}, build=Counting()).path == first.path
    run.set_current([])
    clean(run)
    assert not list(run.stages.iterdir())


def test_no_link_in_a_run_folder_is_followed(tmp_path: Path):
    home = tmp_path / "home"
    (home / "photos-0123456789ab").mkdir(parents=True)
    file = home / "precious"
    file.write_text("my data")
    for name, place in (("stages", home), (".lock", file), ("report.json", file), ("bundle", home)):
        path = RunFolder.open(tmp_path / name, {"teacher": "t"}).path
        (path / name).symlink_to(place)
        with pytest.raises(InputError, match=rf"{name}: it is a link, and a run holds files and folders of its own"):
            RunFolder.find(path)
    opened = RunFolder.open(tmp_path / "run", {"teacher": "t"})
    opened.stages.mkdir()
    (opened.stages / "teach-0123456789ab").symlink_to(home)
    with pytest.raises(InputError, match="teach-0123456789ab: it is a link"):
        RunFolder.find(opened.path)
    assert file.read_text() == "my data"
    assert sorted(p.name for p in home.iterdir()) == ["photos-0123456789ab", "precious"]


def test_a_lock_that_became_a_link_or_a_pipe_is_not_opened(tmp_path: Path):
    opened = RunFolder.open(tmp_path / "run", {"teacher": "t"})
    file = tmp_path / "precious"
    file.write_text("my data")
    (opened.path / ".lock").symlink_to(file)
    with pytest.raises(InputError, match=r"\.lock: the run can't be locked"), opened.lock():
        pass
    assert file.read_text() == "my data"
    (opened.path / ".lock").unlink()
    os.mkfifo(opened.path / ".lock")
    with pytest.raises(InputError, match="no plain file"), opened.lock():
        pass


def test_run_json_that_is_a_pipe_is_refused_and_not_waited_for(tmp_path: Path):
    os.mkfifo(tmp_path / "run.json")
    with pytest.raises(InputError, match="neither a file nor a folder"):
        RunFolder.find(tmp_path)


def test_run_json_from_elsewhere_names_no_folder_outside(tmp_path: Path):
    run = {"schema": "edgedistill.run/1", "identity": {}, "current": {"teach": "../../etc", "x": "ok-1"}}
    (tmp_path / "run.json").write_text(json.dumps(run))
    assert RunFolder.find(tmp_path).current == {"x": "ok-1"}


def test_list_runs_finds_the_runs_in_a_folder(tmp_path: Path):
    for name in ("b", "a"):
        RunFolder.open(tmp_path / name, {"teacher": name})
    (tmp_path / "other").mkdir()
    assert [r.identity["teacher"] for r in list_runs(tmp_path)] == ["a", "b"]
    assert [r.path for r in list_runs(tmp_path / "a")] == [tmp_path / "a"]
    with pytest.raises(InputError, match="none: there is no such folder; name one that holds runs"):
        list_runs(tmp_path / "none")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file is not a folder"):
        list_runs(tmp_path / "file")


def test_hashes_are_those_of_hashlib_and_follow_the_content_only(tmp_path: Path):
    blob = os.urandom(3_000_000)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_bytes(blob)
    assert file_sha256(tmp_path / "a" / "x") == hashlib.sha256(blob).hexdigest() == tree_sha256(tmp_path / "a" / "x")
    # A hub's cache holds links to files.
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x").symlink_to(tmp_path / "a" / "x")
    assert tree_sha256(tmp_path / "b") == tree_sha256(tmp_path / "a")
    (tmp_path / "b" / "x").rename(tmp_path / "b" / "y")
    assert tree_sha256(tmp_path / "b") != tree_sha256(tmp_path / "a")
