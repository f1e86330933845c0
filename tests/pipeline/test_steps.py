"""The two lists: what is in them for which recipe, that each stage reads earlier ones, and what a setting reaches."""

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from edgedistill.config import Recipe, load_recipe, load_target
from edgedistill.errors import RunError
from edgedistill.models.facts import read_facts
from edgedistill.pipeline import judging, papers, training
from edgedistill.pipeline.prepare import Job, Prepared, prepare
from edgedistill.pipeline.stage import InStage, Outside, Stage, check_order
from tests.plan.test_plan import MACHINE, facts_of

TARGET = load_target("laptop-cpu")


def prepared(recipe: Recipe, comparing: bool = False, recovering: bool = True) -> Prepared:
    return prepare(Job(recipe, TARGET, Path("out"), comparing, recovering), facts_of(), MACHINE)


def names(recipe: Recipe, **how: bool) -> list[str]:
    return [stage.name for stage in prepared(recipe, **how).stages]


def with_parts(name: str, **parts: dict[str, object] | list[dict[str, object]]) -> Recipe:
    recipe = load_recipe(name).to_dict()
    for part, values in parts.items():
        if isinstance(values, list):
            recipe[part] = values
    parts = {part: values for part, values in parts.items() if isinstance(values, dict)}
    return Recipe.model_validate(recipe | {part: recipe[part] | values for part, values in parts.items()})


def test_a_compile_teaches_cuts_distils_recovers_packs_and_measures():
    listed = names(load_recipe("demo"))
    once = ["teacher-gguf", "teach", "student", "distill", "float-gguf", "capture", "curvature", "judges"]
    of_mixes = [f"{kind}-{mix}" for mix in ("q4_0", "q8_0") for kind in ("rounded", "recover", "gguf", "onnx")]
    assert [name for name in listed if name in once] == once
    assert [name for name in listed if name in of_mixes] == of_mixes
    assert listed[-3:] == ["speeds", "measure", "report"]
    rows = [name for name in listed if name.startswith("measure-")]
    assert len(rows) == 3 + 2 * 3  # teacher, rival and float student; of each mix one rounded and two recovered


def test_a_loss_that_looks_inside_the_teacher_has_it_stored_or_beside_the_student():
    """Stored: a stage reads the teacher once, and no phase does. Live: the phase reads the teacher itself."""
    stored = with_parts("demo", phases=[{"loss": "distilbert"}, {}])
    stages = {stage.name: stage for stage in prepared(stored).stages}
    assert [name for name in stages if name in ("student", "blocks", "distill", "distill-2")] == [
        "student",
        "blocks",
        "distill",
        "distill-2",
    ]
    assert "blocks" in stages["distill"].inputs
    assert not stages["distill"].outside
    assert "blocks" not in stages["distill-2"].inputs
    live = with_parts("demo", phases=[{"loss": "distilbert"}, {}], teachers={"teacher": {"blocks": "live"}})
    stages = {stage.name: stage for stage in prepared(live).stages}
    assert "blocks" not in stages
    assert set(stages["distill"].outside) == {"teacher"}
    assert not stages["distill-2"].outside


def test_a_model_as_it_is_isnt_distilled():
    listed = names(load_recipe("recover"))
    assert listed.index("student") < listed.index("teach")
    assert not {"distill", "teacher-gguf", "reference-teacher"} & set(listed)


def test_a_comparison_without_recovery_trains_nothing():
    plain = names(load_recipe("compare"), comparing=True, recovering=False)
    assert not [name for name in plain if name.startswith(("recover", "gguf", "teach", "capture"))]
    more = names(load_recipe("compare"), comparing=True)
    assert set(plain) < set(more)
    assert {"teach", "capture", "curvature", "recover-q4_0", "gguf-q4_0"} <= set(more)


@pytest.mark.parametrize("recovering", [False, True])
def test_a_model_that_was_trained_behind_a_system_message_is_asked_and_trained_behind_it(recovering: bool):
    def stages(system: str | None) -> dict[str, Stage]:
        job = Job(load_recipe("compare"), TARGET, Path("out"), comparing=True, recovering=recovering)
        result = prepare(job, replace(facts_of(), system=system), MACHINE)
        assert result.context.system == system
        assert any("began with a system message" in note for note in result.plan.notes) is (system is not None)
        return {stage.name: stage for stage in result.stages}

    plain, led = stages(None), stages("Be brief.")
    told = {name for name in plain if plain[name].settings != led[name].settings}
    assert told == {"student", "held-out", "judges"} | ({"teach"} if recovering else set())


def test_a_model_whose_template_no_longer_shows_its_system_message_is_asked_without(tiny_llama: Path, tmp_path: Path):
    folder = Path(shutil.copytree(tiny_llama, tmp_path / "model"))
    template = folder / "chat_template.jinja"
    facts = replace(read_facts(folder, "model"), system="Be brief.")
    recipe = with_parts("compare", teach={"max_answer_tokens": 64}, measure={"prefill": 64, "decode": 64})
    job = Job(recipe, TARGET, Path("out"), comparing=True, recovering=False)
    assert prepare(job, facts, MACHINE).context.system == "Be brief."
    template.write_text("{{ raise_exception('no') if messages[0].role == 'system' }}" + template.read_text())
    result = prepare(job, facts, MACHINE)
    assert (result.context.system, result.context.facts.system) == (None, None)
    (note,) = result.plan.notes
    assert "not used: the system's message" in note


def test_what_a_comparison_judges_on_doesnt_depend_on_its_training():
    """A budget of training changes how much text is written and held out, and no row that was measured."""
    plain, trained = load_recipe("compare"), with_parts("compare", teach={"holdout": 0.3, "tokens": 4_000})
    for name in ("held-out", "judges", "measure-float-model"):
        settings = [
            next(stage.settings for stage in prepared(recipe, comparing=True).stages if stage.name == name)
            for recipe in (plain, trained)
        ]
        assert settings[0] == settings[1]


def test_a_fitted_mix_has_its_grids_chosen_before_it_is_rounded():
    recipe = Recipe.model_validate(load_recipe("recover").to_dict() | {"mixes": ["auto_q4_0"]})
    listed = names(recipe)
    assert [listed.index(name) for name in ("sensitivity", "fit-auto_q4_0", "rounded-auto_q4_0")] == sorted(
        listed.index(name) for name in ("sensitivity", "fit-auto_q4_0", "rounded-auto_q4_0")
    )
    (rounded,) = (stage for stage in prepared(recipe).stages if stage.name == "rounded-auto_q4_0")
    assert "fit-auto_q4_0" in rounded.inputs


def test_the_plan_is_the_sum_of_the_list():
    run = prepared(load_recipe("demo"))
    assert list(run.plan.build.stages) == [stage.name for stage in run.stages]
    assert run.plan.build.seconds == pytest.approx(sum(stage.estimate.seconds for stage in run.stages))


@pytest.mark.parametrize(
    ("part", "change", "changed"),
    [
        ("teach", {"temperature": 0.5}, {"teach"}),
        ("recover", {"patience": 0.61}, {"recover-q4_0", "recover-q8_0"}),
        ("recover", {"fit_tokens": 9_999}, {"curvature"}),
        ("measure", {"repetitions": 9}, {"speeds"}),
        ("recover", {"checkpoint_seconds": 7}, set()),
    ],
)
def test_a_setting_changes_the_settings_of_its_stage_and_of_no_other(
    part: str, change: dict[str, object], changed: set[str]
):
    """What follows is reached through the keys of its inputs."""
    before, after = (
        {stage.name: stage.settings for stage in prepared(recipe).stages}
        for recipe in (load_recipe("demo"), with_parts("demo", **{part: change}))
    )
    assert {name for name in before if before[name] != after[name]} == changed


@pytest.mark.parametrize(
    ("module", "constant", "stage"),
    [(training, "TEACH_FORMAT", "teach"), (judging, "MEASURE_FORMAT", "measure"), (papers, "REPORT_FORMAT", "report")],
)
def test_a_stage_that_holds_something_else_is_made_again(
    module: ModuleType, constant: str, stage: str, monkeypatch: pytest.MonkeyPatch
):
    before = {each.name: each.settings for each in prepared(load_recipe("demo")).stages}
    monkeypatch.setattr(module, constant, 99)
    after = {each.name: each.settings for each in prepared(load_recipe("demo")).stages}
    assert {name for name in before if before[name] != after[name]} == {stage}


def test_a_list_out_of_order_is_refused():
    def nothing(*_: object) -> None:
        pass

    first = Stage("first", "one", nothing)
    second = Stage("second", "two", nothing, inputs=("first",))
    check_order([first, second])
    with pytest.raises(RunError, match="stage second reads first, which doesn't come before it"):
        check_order([second, first])
    within = replace(second, inputs=(), outside={"file": Outside(InStage("first", "model.gguf"))})
    with pytest.raises(RunError, match="stage second reads first"):
        check_order([within])
    with pytest.raises(RunError, match="two stages of the name first"):
        check_order([first, first])


def test_listing_loads_no_torch():
    import subprocess

    code = (
        "import sys; from tests.pipeline.test_steps import names; from edgedistill.config import load_recipe; "
        "names(load_recipe('demo')); assert 'torch' not in sys.modules"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
