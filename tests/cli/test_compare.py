"""`edgedistill compare` refuses wrong input in one sentence, with exit code 2, before anything is written."""

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgedistill.cli.build import teacher_facts
from edgedistill.cli.main import cli
from edgedistill.config import load_recipe, load_target
from edgedistill.config.comparison import APART, apart
from edgedistill.mixes import mix_bytes
from edgedistill.models.facts import read_facts
from edgedistill.pipeline.prepare import Job
from edgedistill.store import RunFolder
from tests.tiny import make_tiny_llama

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "tests" / "e2e" / "compare.yaml"


def run(*arguments: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(cli, ["compare", *map(str, arguments)])
    return done.exit_code, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--mix", "q8_0,q4_km"], r"--mix names 'q4_km'; it must be one of q4_0, .* Did you mean 'q4_k_m'\?"),
        (
            ["--mix", "q8_0,auto_q4_0"],
            r"--mix names 'auto_q4_0', whose grids are chosen .*; give --recover too \(--recover 0",
        ),
        (["--recover", "lots"], "--recover is 'lots'; it must be a whole number from 0 on, such as 400k"),
        (["--recover", "-5"], "--recover is '-5'"),
        (["--recover", ""], "--recover is empty; give the training tokens of each mix, such as 20k"),
        (["--text", "/none/t.txt"], r"/none/t\.txt: teach\.text cannot be read \(No such file"),
        (["--target", "toaster"], "target 'toaster' is unknown"),
        (["--target", "laptop"], "target 'laptop' is unknown.* Did you mean 'laptop-cpu'"),
        (["--recipe", "compar"], "recipe 'compar' is unknown; .* Did you mean 'compare'"),
    ],
)
def test_a_wrong_option_ends_before_anything_runs(options: list[str], words: str, tiny_llama: Path, tmp_path: Path):
    code, out, error = run(tiny_llama, "-o", tmp_path / "run", "-r", RECIPE, *options)
    assert code == 2
    assert out == ""
    assert error.startswith("Error: ")
    assert error.count("\n") == 1
    assert re.search(words, error)
    assert not (tmp_path / "run").exists()


def test_a_mix_that_this_shape_cannot_have_is_named(tmp_path: Path):
    odd = make_tiny_llama(tmp_path / "odd", width=48, ffn=96)  # 48 divides by no block
    code, _, error = run(odd, "-o", tmp_path / "run", "-r", RECIPE, "--mix", "q4_0")
    assert code == 2
    assert re.search(r"rows of 48 weights, which no grid of mix 'q4_0' divides", error)
    assert not (tmp_path / "run").exists()


def test_folders_of_something_else_of_another_run_and_of_a_run_that_isnt_far_enough(tiny_llama: Path, tmp_path: Path):
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("mine")
    code, _, error = run(tiny_llama, "-o", full, "-r", RECIPE)
    assert code == 2
    assert "holds files of something else, such as 'mine.txt'. Choose another folder" in error
    RunFolder.open(tmp_path / "other", {"teacher": "org/other"})
    code, _, error = run(tiny_llama, "-o", tmp_path / "other", "-r", RECIPE)
    assert code == 2
    assert "holds a run of the model 'org/other'" in error
    code, _, error = run(tmp_path / "other", "-o", tmp_path / "run", "-r", RECIPE)
    assert code == 2
    assert "the run isn't that far: it has no float student yet (stage float-gguf). Run its command again" in error
    assert not (tmp_path / "run").exists()


def test_a_missing_model(tmp_path: Path):
    code, _, error = run(tmp_path / "none", "-o", tmp_path / "run")
    assert code == 2
    assert "no such file or folder" in error


def test_without_disk_nothing_begins(tiny_llama: Path, tmp_path: Path, monkeypatch):
    import shutil

    real = shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda path: real(path)._replace(free=1000))
    code, _, error = run(tiny_llama, "-o", tmp_path / "run", "-r", RECIPE)
    assert code == 3
    assert re.search(
        r"building it needs about .* of disk; 1.00 kB are free there\. Free some, or choose an output folder", error
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("width", "ffn"), [(256, 512), (192, 512), (64, 128)])
def test_the_ladder_has_no_two_files_of_one_size(width: int, ffn: int, tmp_path: Path):
    shape = read_facts(make_tiny_llama(tmp_path / "model", width=width, ffn=ffn, layers=2), "model").shape
    recipe = load_recipe("compare")
    chosen, left_out = apart(recipe, shape)
    sizes = sorted(mix_bytes(shape, mix) for mix in chosen.mixes)
    assert all(large >= small * (1 + APART / 2) for small, large in zip(sizes, sizes[1:], strict=False))
    assert len(chosen.mixes) + len(left_out) == len(recipe.mixes)
    assert {"q8_0", "q4_0"} <= set(chosen.mixes) or width == 256
    if width == 64:
        assert "q2_k" not in chosen.mixes
        assert any("fall back to other grids" in sentence for sentence in left_out)


def test_a_bundles_file_is_to_be_asked_as_its_bundle_json_says(tiny_llama: Path, tmp_path: Path):
    held = {"schema": "edgedistill.bundle/1", "system": "Be brief."}
    exported = CliRunner().invoke(cli, ["export", str(tiny_llama), "-m", "f16", "-o", str(tmp_path), "--name", "tiny"])
    assert exported.exit_code == 0
    recipe = load_recipe("compare").with_teacher(str(tmp_path / "tiny-f16.gguf"))
    job = Job(recipe, load_target("laptop-cpu"), tmp_path / "run", comparing=True)
    assert teacher_facts(job, config_only=True)[0].system is None
    (tmp_path / "bundle.json").write_text(json.dumps(held))
    assert teacher_facts(job, config_only=True)[0].system == "Be brief."
