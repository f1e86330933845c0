"""Files side by side: a file has the figures that it has alone; the front and the reference are by the rule."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgedistill.cli.main import cli
from edgedistill.errors import InputError
from edgedistill.measure.bench import BenchSettings, bench
from edgedistill.measure.side_by_side import bench_files, choose_reference
from edgedistill.progress import QuietProgress
from tests.bundle.conftest import pack
from tests.runtimes.conftest import write_gguf

SETTINGS = BenchSettings(prefill=8, decode=4, repetitions=2, threads=1)
TEXT = "The old cat sees the red fox. " * 12


@pytest.fixture(scope="module")
def files(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("files")
    (folder / "text.txt").write_text(TEXT)
    found = {"text": folder / "text.txt", "f16": write_gguf(tiny_llama, folder / "f16.gguf")}
    for mix in ("q8_0", "q4_0"):
        found[mix] = pack(tiny_llama, folder, mix)[f"gguf-{mix}"]
    return found


def test_a_files_quality_is_what_it_is_alone(files: dict[str, Path], tmp_path: Path):
    both = bench_files([files["q8_0"], files["q4_0"]], files["text"], files["f16"], SETTINGS, tmp_path, QuietProgress())
    for name, result in zip(("q8_0", "q4_0"), both, strict=True):
        alone = bench(files[name], files["text"], files["f16"], SETTINGS, tmp_path, QuietProgress())
        assert result.quality == alone.quality
        assert result.sha256 == alone.sha256
        assert len(result.speed.decode.trials) == SETTINGS.repetitions
    q8, q4 = (result.kl for result in both)
    assert q8 < q4
    assert [result.front for result in both] == [True, True], "one is nearer, the other smaller"


def test_the_reference_is_the_largest_file_of_floats_else_the_largest(files: dict[str, Path]):
    assert choose_reference([files["q4_0"], files["f16"], files["q8_0"]]) == files["f16"]
    assert choose_reference([files["q4_0"], files["q8_0"]]) == files["q8_0"]


def test_one_file_twice_is_refused(files: dict[str, Path], tmp_path: Path):
    with pytest.raises(InputError, match="a file is named twice"):
        bench_files([files["q4_0"], files["q4_0"]], None, None, SETTINGS, tmp_path, QuietProgress())


def test_the_commands_take_several_files(files: dict[str, Path]):
    names = [str(files[name]) for name in ("f16", "q4_0")]
    fast = ["--prefill", "8", "--decode", "4", "--repetitions", "1", "--threads", "1"]
    done = CliRunner().invoke(cli, ["bench", *names, *fast, "--text", str(files["text"]), "--reference", names[0]])
    assert done.exit_code == 0, done.output
    head, first, second, *_ = done.stdout.splitlines()
    assert head.split()[:3] == ["file", "size", "decode"]
    assert first.startswith("q4_0.gguf ")
    assert second.startswith("f16.gguf ")
    done = CliRunner().invoke(cli, ["bench", *names, *fast, "--json"])
    assert [Path(found["file"]).name for found in json.loads(done.stdout)] == ["f16.gguf", "q4_0.gguf"]


@pytest.mark.parametrize("option", [["--mix", "q4_0"], ["--recover", "1k"], ["-o", "run"], ["-t", "phone"]])
def test_options_that_build_are_refused_for_files(option: list[str], files: dict[str, Path]):
    done = CliRunner().invoke(cli, ["compare", str(files["f16"]), str(files["q4_0"]), *option])
    assert done.exit_code == 2
    assert "is for one MODEL; several files are measured as they are, so leave it out" in done.stderr


def test_a_file_that_is_not_there_is_told_before_anything_is_measured(files: dict[str, Path]):
    done = CliRunner().invoke(cli, ["compare", str(files["f16"]), "none.gguf"])
    assert done.exit_code == 2
    assert done.stderr.startswith("Error: none.gguf: there is no such file")


@pytest.mark.parametrize(("command", "count"), [("bench", 1), ("bench", 2), ("compare", 2)])
@pytest.mark.parametrize(
    ("name", "words"),
    [("none.txt", "it can't be read (No such file or directory)"), ("latin", "it isn't text in UTF-8")],
)
def test_a_text_that_cannot_be_read_is_told_before_a_model_is_loaded(
    command: str, count: int, name: str, words: str, tmp_path: Path
):
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    # No runtime can load these: an error about them would say that one was started.
    artifacts = [tmp_path / f"{number}.gguf" for number in range(count)]
    for path in artifacts:
        path.write_bytes(b"GGUF")
    done = CliRunner().invoke(cli, [command, *map(str, artifacts), "--text", str(tmp_path / name)])
    assert done.exit_code == 2
    assert done.stderr == f"Error: --text {tmp_path / name}: {words}; name a text file\n"


def test_compare_names_the_reference_that_it_chose(files: dict[str, Path]):
    words = ["compare", str(files["q8_0"]), str(files["q4_0"]), "--text", str(files["text"])]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0, done.output
    assert f"reference {files['q8_0']}" in done.stdout
