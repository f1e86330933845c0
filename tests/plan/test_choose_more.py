"""The planner's choice where siblings are named, and where memory is too small for the context that is wanted."""

from dataclasses import replace
from pathlib import Path

import pytest

from edgedistill.config import Recipe, Target, load_recipe
from edgedistill.config.students.sibling import SiblingStudent
from edgedistill.errors import DoesNotFitError, InputError
from edgedistill.facts import ModelFacts, Start
from edgedistill.models.facts import read_facts
from edgedistill.pipeline.prepare import Job, Prepared, prepare
from edgedistill.pipeline.start import read_siblings, read_start
from edgedistill.plan.choose import Settled, choice_lines, settle
from edgedistill.plan.device import plan_mix
from edgedistill.plan.here import here
from tests.pairs import make_sibling
from tests.plan.test_choose import LAPTOP, auto, limited
from tests.plan.test_plan import MACHINE, SMOL, facts_of
from tests.plan.test_sibling import QWEN_1_5B, QWEN_7B, config_alone
from tests.tiny import make_tiny_llama

FEW: dict[str, object] = {"kinds": ["same", "depth"], "mixes": ["q8_0", "q4_0", "q2_k"]}
HALF = replace(SMOL, layers=12, width=384, heads=6, kv_heads=2, ffn=1024)


def start_of(shape: object = HALF, **changes: object) -> Start:
    facts = replace(facts_of(shape), name="SmolLM2-half", source="org/half")  # type: ignore[arg-type]
    return Start(facts, **changes)  # type: ignore[arg-type]


def settled_with(start: Start, target: Target, recipe: Recipe | None = None) -> Settled:
    return settle(recipe or auto(siblings=["org/half"], **FEW), target, facts_of(), [start])


def lines_of(settled: Settled) -> str:
    assert settled.choice is not None
    return " ".join(" ".join(choice_lines(settled.choice, facts_of())).split())


def test_a_sibling_wins_where_the_teacher_is_too_large_and_cuts_lose_more():
    settled = settled_with(start_of(), limited(45e6))
    assert settled.recipe.student == SiblingStudent(model="org/half")
    assert settled.choice is not None
    chosen = settled.choice.chosen
    # Besiroglu et al. 2024: L = E + A / N^alpha + B / D^beta, of which only the second part differs.
    larger, smaller = (482.01 / shape.parameters**0.3478 for shape in (SMOL, HALF))
    assert chosen.size_loss == pytest.approx(smaller - larger)
    assert chosen.to_dict()["start"] == "org/half"
    text = lines_of(settled)
    assert "the sibling SmolLM2-half in" in text
    assert "a published law of loss against size" in text
    assert "not depth" in text
    assert "predicted loss" in text.split("not depth")[1]


def test_a_sibling_that_loses_is_listed_with_why():
    text = lines_of(settled_with(start_of(), LAPTOP))
    assert "SmolLM2 as it is in" in text.split(":")[0]
    assert "not the sibling SmolLM2-half in" in text
    assert "against" in text.split("not the sibling SmolLM2-half in")[1]
    # A sibling that more than six others come before is listed nevertheless: somebody named it.
    last = replace(SMOL, layers=2, width=64, heads=1, kv_heads=1, ffn=128)
    assert "not the sibling SmolLM2-half in" in lines_of(settled_with(start_of(last), LAPTOP))
    assert "not the sibling SmolLM2-half in" not in lines_of(settle(auto(**FEW), LAPTOP, facts_of()))


def test_a_sibling_that_is_not_smaller_is_refused():
    with pytest.raises(InputError, match="the sibling SmolLM2-half has 134.515.008 parameters, and the teacher"):
        settled_with(start_of(SMOL), LAPTOP)


def test_a_sibling_with_other_words_is_refused_where_a_loss_compares_tokens():
    content = auto(siblings=["org/half"], **FEW).to_dict()
    content["phases"][0]["loss"] = [{"kl": "reverse"}]
    other = start_of(other_words="id 5 is 'a' and 'b'")
    with pytest.raises(InputError, match=r"loss looks at the teacher's own values, and the student SmolLM2-half"):
        settled_with(other, LAPTOP, Recipe.model_validate(content))
    assert settled_with(other, limited(45e6)).recipe.student.kind == "sibling"  # the default loss becomes the text


def prepared_of(recipe: Recipe, target: Target, facts: ModelFacts) -> Prepared:
    """As the commands do it: the siblings read, the choice, the plan."""
    settled = settle(recipe, target, facts, read_siblings(recipe.student, facts))
    start = read_start(settled.recipe.student, facts, config_only=True)
    job = Job(settled.recipe, settled.target, Path("out"))
    return prepare(job, facts, MACHINE, None, start, settled.choice)


@pytest.mark.parametrize(("size", "kind"), [(9e9, "same"), (1.2e9, "sibling")])
def test_of_a_pair_of_qwens_shapes_the_planner_takes_what_fits_best(tmp_path: Path, size: float, kind: str):
    big = config_alone(tmp_path / "Qwen2.5-7B-Instruct", QWEN_7B, "apache-2.0")
    little = config_alone(tmp_path / "Qwen2.5-1.5B-Instruct", QWEN_1_5B, "apache-2.0")
    facts = read_facts(big, str(big), config_only=True)
    content = load_recipe("chat").to_dict() | {"student": {"kind": "auto", "siblings": [str(little)], **FEW}}
    roomy = here().model_copy(update={"memory": LAPTOP.memory.model_copy(update={"usable": 64 * 2**30})})
    prepared = prepared_of(Recipe.model_validate(content), roomy.limited(int(size), None, None), facts)
    plan = prepared.plan
    assert plan.recipe.student.kind == kind
    (mix,) = plan.mixes.values()
    assert 0.5 * size < mix.file_bytes <= size
    assert (plan.start is not None) == (kind == "sibling")
    text = " ".join(plan.to_text().split())
    if kind == "same":
        assert "nothing to distil" in text
        assert "not the sibling Qwen2.5-1.5B-Instruct in" in text
    else:
        assert plan.student.parameters == 1_543_714_304
        assert "not Qwen2.5-7B-Instruct as it is in" in text
        assert {"student", "distill", "rival-fit"} <= {stage.name for stage in prepared.stages}


def test_less_context_is_planned_for_where_memory_has_no_room_for_more():
    recipe = auto(kinds=["same"], mixes=["q4_0"])
    whole = plan_mix(SMOL, recipe.mix("q4_0"), LAPTOP, 49152)
    # By hand: layers x key heads x head dim x 2 x 2 bytes a token; half the tokens take half.
    a_token = 30 * 3 * 64 * 2 * 2
    assert whole.kv_bytes == 2048 * a_token
    room = whole.ram_bytes - 1024 * a_token
    settled = settle(recipe, limited(memory=room), facts_of())
    assert settled.target.limits.context == 1024
    assert settled.choice is not None
    assert settled.choice.chosen.planned.ram_bytes == room
    assert "nothing meets the limits with 2 048 tokens of context" in lines_of(settled)
    smaller = settle(recipe, limited(memory=room - 1), facts_of())
    assert smaller.target.limits.context == 512
    with pytest.raises(DoesNotFitError):
        settle(recipe, limited(memory=whole.ram_bytes - 1536 * a_token - 1), facts_of())


def test_a_student_with_the_whole_context_comes_before_a_better_one_with_less():
    recipe = auto(kinds=["same", "depth"], mixes=["q4_0"])
    whole = plan_mix(SMOL, recipe.mix("q4_0"), LAPTOP, 49152)
    settled = settle(recipe, limited(memory=whole.ram_bytes - 1), facts_of())
    assert settled.recipe.student.kind == "depth"
    assert settled.target.limits.context == 2048
    words = lines_of(settled).split("not SmolLM2 as it is in q4_0 (")[1].split("not ")[0]
    assert "1 024 tokens of context" in words
    assert "it has room for 1 024 tokens of context" in words


def test_the_commands_read_the_siblings_that_are_named(tmp_path: Path):
    teacher = make_tiny_llama(tmp_path / "teacher", layers=4, width=256, ffn=512, heads=4, kv_heads=2)
    sibling = make_sibling(tmp_path / "sibling")
    facts = read_facts(teacher, str(teacher))
    content = load_recipe("tiny").to_dict() | {"student": {"kind": "auto", "siblings": [str(sibling)]}}
    (start,) = read_siblings(Recipe.model_validate(content).student, facts)
    assert start.facts.shape.width == 64
    assert start.other_words is None


def test_no_candidate_is_larger_than_the_file_that_the_teacher_is():
    """A packed teacher in 8 bits would be larger than it is, and no better."""
    facts = replace(facts_of(), weight_bytes=90_000_000)
    choice = settle(load_recipe("chat"), LAPTOP, facts).choice
    assert choice is not None
    assert max(candidate.planned.weight_bytes for candidate in choice.candidates) <= 90_000_000
    assert choice.chosen.student.student.as_is
    assert choice.chosen.planned.weight_bytes > 80_000_000
