"""store.whole and store.whole_folder: whole, or not there, whatever stops the writer."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edgedistill.errors import RunError
from edgedistill.store import settle, whole, whole_folder
from edgedistill.store.whole import looked_at


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def killed(code: str, *args: Path) -> None:
    """Run Python that kills itself with SIGKILL."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    head = "import os, signal, sys\nfrom pathlib import Path\nfrom edgedistill.store import whole, whole_folder\n"
    done = subprocess.run([sys.executable, "-c", head + code, *map(str, args)], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL


def test_a_file_has_its_name_only_when_the_block_ended_well(tmp_path: Path):
    path = tmp_path / "weights.bin"
    with whole(path) as temporary:
        temporary.write_bytes(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new"
    with pytest.raises(UnicodeEncodeError), whole(path) as temporary:
        temporary.write_text("half\ud800", encoding="utf-8")
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["weights.bin"]


def test_a_kill_leaves_the_old_file_and_the_next_writer_removes_what_it_left(tmp_path: Path):
    path = tmp_path / "state [1].json"
    path.write_text("old")
    killed(
        "with whole(Path(sys.argv[1])) as t:\n    t.write_text('half')\n    os.kill(os.getpid(), signal.SIGKILL)", path
    )
    assert path.read_text() == "old"
    assert len(names(tmp_path)) == 2
    with whole(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new"
    assert names(tmp_path) == ["state [1].json"]


def test_another_process_at_work_keeps_its_temporary(tmp_path: Path):
    other = tmp_path / f".a.json.{os.getppid()}.tmp"
    other.write_text("theirs")
    with whole(tmp_path / "a.json") as temporary:
        temporary.write_text("ours")
    assert other.read_text() == "theirs"


def test_a_folder_replaces_an_older_one_as_a_whole(tmp_path: Path):
    path = tmp_path / "deep" / "checkpoint"
    with whole_folder(path) as temporary:
        (temporary / "a").write_text("1")
        (temporary / "b").write_text("1")
    with whole_folder(path) as temporary:
        (temporary / "a").write_text("2")
        assert names(path) == ["a", "b"]
    assert names(path) == ["a"]
    assert (path / "a").read_text() == "2"
    assert names(path.parent) == ["checkpoint"]


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_after_a_kill_around_the_renames_a_folder_is_the_old_or_the_new(tmp_path: Path, renames: int):
    """The writer dies before its first rename, between the two, and behind them."""
    path = tmp_path / "checkpoint"
    with whole_folder(path) as temporary:
        (temporary / "step").write_text("old")
    code = f"""
count = 0
rename = Path.rename
def counted(self, other):
    global count
    if count == {renames}:
        os.kill(os.getpid(), signal.SIGKILL)
    count += 1
    return rename(self, other)
Path.rename = counted
import shutil
shutil.rmtree = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)
with whole_folder(Path(sys.argv[1])) as t:
    (t / "step").write_text("new")
"""
    killed(code, path)
    settle(path)
    assert (path / "step").read_text() == ("new" if renames == 2 else "old")
    with whole_folder(path) as temporary:
        (temporary / "step").write_text("newer")
    assert (path / "step").read_text() == "newer"
    assert names(tmp_path) == ["checkpoint"]


def test_what_the_disk_refuses_is_said_and_other_errors_pass_through(tmp_path: Path):
    words = r"gone/a.json: it cannot be written \(No such file or directory\). Free some disk"
    with pytest.raises(RunError, match=words), whole(tmp_path / "gone" / "a.json") as temporary:
        temporary.write_text("x")
    with pytest.raises(FileNotFoundError), whole(tmp_path / "a.json"):
        (tmp_path / "source.json").read_text()


def test_a_file_or_folder_that_is_looked_at_first_has_its_name_only_then(tmp_path: Path):
    file, folder = tmp_path / "a.txt", tmp_path / "b"
    folder.mkdir()
    (folder / "old").touch()
    for place in (file, folder):
        with contextlib.suppress(ValueError), looked_at(place) as path:
            assert path.name == place.name
            path.write_text("new")
            raise ValueError("not what it must be")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b"]
    with looked_at(file) as path:
        path.write_text("new")
    with looked_at(folder) as path:
        path.mkdir()
        (path / "new").touch()
    assert file.read_text() == "new"
    assert [path.name for path in folder.iterdir()] == ["new"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "b"]
