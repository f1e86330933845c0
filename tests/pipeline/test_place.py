"""The device in a run: in no stage's key, in the marks, in the plan; and what happens where a GPU is too small."""

import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgedistill.cli.main import cli
from edgedistill.config import Recipe, load_recipe, load_target
from edgedistill.errors import DoesNotFitError
from edgedistill.pipeline.computing import COMPUTING
from edgedistill.pipeline.prepare import Job, Prepared, prepare
from edgedistill.pipeline.runner import complete_stages, run_stages
from edgedistill.pipeline.stage import Finished, Stage
from edgedistill.place import CPU, Place
from edgedistill.place.hardware import Gpu
from edgedistill.plan import BuildMachine
from edgedistill.progress import QuietProgress
from edgedistill.store import RunFolder
from tests.plan.test_plan import MACHINE, facts_of

LARGE = Place("cuda:0", Gpu("NVIDIA H200", 140 * 10**9, 139 * 10**9, "570.86.15", bfloat16=True), llama=0)
SMALL = Place("cuda:0", Gpu("GeForce MX110", 2 * 10**9, 10**9, "535.1"))


def prepared(recipe: Recipe, place: Place, machine: BuildMachine = MACHINE) -> Prepared:
    return prepare(Job(recipe, load_target("laptop-cpu"), Path("out")), facts_of(), replace(machine, place=place))


def in_float32(name: str) -> Recipe:
    content = load_recipe(name).to_dict()
    content["phases"] = [phase | {"compute": "float32"} for phase in content["phases"]]
    return Recipe.model_validate(content | {"recover": content["recover"] | {"compute": "float32"}})


def test_the_device_is_in_no_stages_key():
    recipe = in_float32("demo")
    here, there = prepared(recipe, CPU), prepared(recipe, LARGE)
    assert [stage.name for stage in here.stages] == [stage.name for stage in there.stages]
    for mine, other in zip(here.stages, there.stages, strict=True):
        assert (mine.settings, mine.inputs, mine.outside) == (other.settings, other.inputs, other.outside)


def test_the_number_type_is_the_gpus_own_and_in_the_key():
    of_type = {place: prepared(load_recipe("demo"), place).context.recipe for place in (LARGE, SMALL)}
    assert of_type[LARGE].recover.compute == "bfloat16"
    chosen = replace(SMALL, gpu=replace(SMALL.gpu or Gpu(""), free_bytes=None))
    assert prepared(load_recipe("demo"), chosen).context.recipe.distill.compute == "float32"


def test_a_named_gpu_with_too_little_memory_is_refused_with_what_would_fit():
    plan = prepared(load_recipe("demo"), replace(SMALL, chosen=True)).plan
    with pytest.raises(DoesNotFitError) as refusal:
        plan.require_fit()
    words = str(refusal.value)
    assert "of GPU memory; cuda:0 (GeForce MX110) has 1.00 GB free. --device cpu fits." in words
    assert "\n  device  cuda:0: GeForce MX110, 1.00 GB of 2.00 GB free, driver 535.1\n" in plan.to_text()
    tight = prepared(load_recipe("demo"), replace(SMALL, chosen=True), BuildMachine(2, 10**9)).plan
    assert "cpu fits" not in " ".join(tight.machine_troubles())


def test_auto_leaves_a_gpu_with_too_little_memory_alone_and_says_so():
    made = prepared(load_recipe("demo"), SMALL)
    assert made.context.device == "cpu"
    assert "cpu: " in made.plan.to_text()
    assert "GeForce MX110 has 1.00 GB free" in made.plan.to_text()
    assert made.plan.to_dict()["machine"]["place"] == {"device": "cpu"}


def test_the_plan_shows_the_gpu_with_memory_and_driver():
    plan = prepared(load_recipe("demo"), LARGE).plan
    plan.require_fit()
    assert "  device  cuda:0: NVIDIA H200, 139 GB of 140 GB free, driver 570.86.15\n" in plan.to_text()
    assert plan.to_dict()["machine"]["place"]["driver"] == "570.86.15"
    assert "device  " not in prepared(load_recipe("demo"), CPU).plan.to_text()


def test_marks_of_stages_that_torch_computes_say_where(tmp_path: Path):
    def work(folder: Path, done: Finished) -> None:
        (folder / "out").write_text("1")

    stages = [Stage("capture", "capture", work), Stage("gguf-q4_0", "gguf", work)]
    run = RunFolder.open(tmp_path / "run", {"teacher": "t"})
    done = Finished(QuietProgress(), prepared(load_recipe("demo"), LARGE).plan)
    with run.lock():
        run_stages(run, stages, done, LARGE.facts())
    marks = {name: json.loads((result.path / "stage.json").read_text()) for name, result in done.results.items()}
    facts = {"device": "cuda:0", "name": "NVIDIA H200", "memory_bytes": 140 * 10**9, "driver": "570.86.15"}
    assert marks["capture"]["place"] == facts
    assert "place" not in marks["gguf-q4_0"]
    assert complete_stages(run, stages) == {"capture", "gguf-q4_0"}


def test_every_kind_that_computes_is_a_stage_of_some_list():
    recipes = [load_recipe(name) for name in ("demo", "recover")]
    fitted = Recipe.model_validate(load_recipe("demo").to_dict() | {"mixes": ["auto_q4_0"]})
    kinds = {stage.kind for recipe in (*recipes, fitted) for stage in prepared(recipe, CPU).stages}
    assert kinds >= COMPUTING - {"blocks"}


@pytest.mark.parametrize(
    ("options", "environment", "words"),
    [
        ("--device cuda:7", {}, "device is 'cuda:7', and "),
        ("--device tpu", {}, "--device or EDGEDISTILL_DEVICE is 'tpu'; it must be auto, cpu, cuda, cuda:N "),
        ("", {"EDGEDISTILL_DEVICE": "tpu"}, "--device or EDGEDISTILL_DEVICE is 'tpu'; it must be"),
    ],
)
def test_a_device_that_isnt_there_is_bad_input(tiny_llama: Path, options: str, environment: dict[str, str], words: str):
    words_of = ["plan", str(tiny_llama), "--target", "phone", *shlex.split(options)]
    result = CliRunner().invoke(cli, words_of, env=environment)
    assert (result.exit_code, result.stdout) == (2, "")
    assert words in result.stderr


def test_the_option_comes_before_the_environment_and_that_before_the_recipe(tiny_llama: Path, tmp_path: Path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("schema: edgedistill.recipe/1\nname: mine\ndevice: mps\n")
    command = ["plan", str(tiny_llama), "--target", "laptop-cpu", "--recipe", str(recipe)]
    refused = CliRunner().invoke(cli, command)
    assert "device is 'mps'" in refused.stderr
    by_environment = CliRunner().invoke(cli, command, env={"EDGEDISTILL_DEVICE": "cpu"})
    assert "seq_len" in by_environment.stderr  # the next thing that is checked
    by_option = CliRunner().invoke(cli, [*command, "--device", "cuda:99"], env={"EDGEDISTILL_DEVICE": "cpu"})
    assert "device is 'cuda:99'" in by_option.stderr


def test_a_recipes_device_is_one_of_the_known_words(tiny_llama: Path, tmp_path: Path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("schema: edgedistill.recipe/1\nname: mine\ndevice: gpu\n")
    result = CliRunner().invoke(cli, ["plan", str(tiny_llama), "--target", "phone", "--recipe", str(recipe)])
    assert result.exit_code == 2
    assert "device is 'gpu'; it must be auto, cpu, cuda" in result.stderr
