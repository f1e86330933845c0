"""The teacher in the student's bytes, as the plan weighs it."""

from dataclasses import replace

import pytest

from edgedistill.config import Recipe, load_recipe, load_target
from edgedistill.mixes import flat_bytes, groups_of, mix_bytes
from edgedistill.pipeline.prepare import make_plan
from edgedistill.plan.rival import TEXTS_BYTES, plan_rival, rival_mix
from edgedistill.plan.types import BuildMachine
from tests.plan.test_plan import MACHINE, facts_of

TARGET = load_target("laptop-cpu")


def recipe(**changes: object) -> Recipe:
    return Recipe.model_validate(load_recipe("demo").to_dict() | changes)


def test_its_weights_may_take_what_the_students_first_fitting_mix_takes():
    facts = facts_of()
    student = facts.shape.with_layers(26)
    rival = plan_rival(recipe(), TARGET, facts, student)
    assert rival is not None
    entries = 9 * (facts.shape.layers - 26)  # tensors that the student lacks
    assert rival.allowed_bytes == mix_bytes(student, "q4_0") - 128 * entries - TEXTS_BYTES
    assert (rival.excess_bytes, rival.mix, rival.label) == (0, "q4_0", "teacher in q4_0's bytes")
    assert rival.planned.weight_bytes == rival.allowed_bytes


def test_where_the_smallest_grids_are_larger_it_says_by_how_much():
    facts = facts_of()
    student = facts.shape.with_layers(4)
    rival = plan_rival(recipe(student={"layers": 4}), TARGET, facts, student)
    assert rival is not None
    groups = groups_of(facts.shape, rival_mix(0))
    smallest = sum(min(group.bytes_in(f) for f in group.formats) for group in groups) + flat_bytes(facts.shape)
    assert rival.planned.weight_bytes == smallest
    assert rival.excess_bytes == smallest - rival.allowed_bytes > 0
    assert rival.label == "teacher in its smallest grids", "it isn't in the student's bytes"


def test_there_is_none_where_the_recipe_wants_none_or_the_student_is_the_teacher():
    facts = facts_of()
    assert plan_rival(recipe(rival=False), TARGET, facts, facts.shape.with_layers(26)) is None
    assert plan_rival(load_recipe("recover"), TARGET, facts, facts.shape) is None
    assert make_plan(recipe(rival=False), TARGET, facts, MACHINE).rival is None


def test_rows_that_no_grid_divides_are_told():
    facts = facts_of()
    odd = replace(facts, shape=replace(facts.shape, ffn=1500))
    plan = make_plan(recipe(mixes=["f16w"], define_mixes={"f16w": F16_DOWN}), TARGET, odd, MACHINE)
    assert plan.rival is None
    assert any("isn't compared with the teacher in its bytes" in note for note in plan.notes)


F16_DOWN = {"base": "q4_0", "rules": [{"tensors": "*.down_proj.weight", "grid": "f16"}]}


def test_the_plan_says_what_it_costs_and_how_to_leave_it_out():
    plan = make_plan(recipe(), TARGET, facts_of(), MACHINE)
    text = " ".join(plan.to_text().split())
    assert "Rival the teacher in q4_0's bytes (83.7 MB" in text
    assert "rival: false in the recipe leaves it out" in text
    assert plan.rival is not None
    assert plan.rival.student_loss is not None
    # The demo's own record: 0.375 for its student on prose; the teacher fitted to q4_0's bytes lost 0.021 to 0.035.
    assert plan.rival.student_loss == pytest.approx(0.375, rel=0.5)
    assert 0.02 < plan.rival.loss < plan.rival.student_loss
    assert "for the rival; the student is predicted to lose" in text
    stages = plan.build.stages
    most = max(stage.ram_bytes for name, stage in stages.items() if not name.startswith("rival"))
    rival = max(stage.ram_bytes for name, stage in stages.items() if name.startswith("rival"))
    small = BuildMachine(2, most - 1, None)
    assert "rival: false" not in " ".join(replace(plan, machine=small).machine_troubles())
    if rival > most:
        assert "rival: false" in " ".join(replace(plan, machine=BuildMachine(2, most, None)).machine_troubles())
