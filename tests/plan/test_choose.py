"""The planner's choice against a search of every student and mix, and its sizes against files that were exported."""

import json
from pathlib import Path

import pytest

from edgedistill.config import Recipe, Target, load_recipe, load_target
from edgedistill.config.students.auto import AutoStudent
from edgedistill.config.students.depth import DepthStudent
from edgedistill.errors import DoesNotFitError, InputError
from edgedistill.export.exports import export_rounded
from edgedistill.facts import ModelFacts, ModelShape
from edgedistill.mixes import Mix, assign_formats
from edgedistill.models.facts import read_facts
from edgedistill.models.load import load_model, save_model
from edgedistill.pipeline.prepare import make_plan
from edgedistill.plan.choose import Settled, choose, settle
from edgedistill.plan.enumerate import TO_LIMIT
from edgedistill.plan.loss_rule import CUTS, ROUNDING
from tests.plan.test_plan import MACHINE, facts_of
from tests.tiny import make_tiny_llama

LAPTOP = load_target("laptop-cpu")
TABLE = 49152 * 576


def auto(**settings: object) -> Recipe:
    return Recipe.model_validate(load_recipe("demo").to_dict() | {"student": {"kind": "auto", **settings}})


def limited(size: float | None = None, decode: float | None = None, memory: float | None = None) -> Target:
    return LAPTOP.limited(size and int(size), decode, memory and int(memory))


def weights_of(shape: ModelShape) -> int:
    return sum(tensor.rows * tensor.cols for tensor in shape.tensors())


def by_hand(facts: ModelFacts, mix: str, layers: int, tokens: int) -> tuple[float, float, int]:
    """(loss, tokens/s with a full context, file bytes) of a depth cut in a built-in mix, written out anew."""
    shape = facts.shape.with_layers(layers)
    formats = assign_formats(shape, mix)
    costs = {"f32": 0.53, "q8_0": 0.73, "q5_0": 1.16, "q5_1": 1.16}
    size, read, error = 0, 0.0, 0.0
    for tensor in shape.tensors():
        number_format = formats[tensor.name]
        stored = tensor.rows * (tensor.cols // number_format.block) * number_format.block_bytes
        size += stored
        read += stored * costs.get(number_format.name, 1.0)
        if tensor.kind not in ("norm", "bias"):
            error += tensor.rows * tensor.cols * 0.25 ** (8 * number_format.block_bytes / number_format.block)
    loss = ROUNDING.floor + ROUNDING.scale * error / weights_of(shape)
    if layers < facts.shape.layers:
        cut = 1 - (weights_of(shape) - TABLE) / (weights_of(facts.shape) - TABLE)
        loss += CUTS.depth_scale * cut**CUTS.power / (1 + tokens / CUTS.half_tokens) ** CUTS.learned
    kv = layers * 3 * 64 * 2 * 2048 * 2
    return loss, 89.6e9 * 0.53 / (read + kv), size + 49152 * 36


@pytest.mark.parametrize(
    ("size", "decode"), [(None, None), (110e6, None), (90e6, None), (70e6, None), (None, 420.0), (85e6, 380.0)]
)
def test_it_takes_what_a_search_of_every_candidate_takes(size: float | None, decode: float | None):
    mixes = ("q4_0", "q5_0", "q8_0", "q2_k")
    facts, recipe = facts_of(), auto(kinds=["same", "depth"], mixes=mixes)
    found = choose(recipe, limited(size, decode), facts)
    tokens = recipe.phases[0].tokens
    best = None
    for layers in (30, 27, 24, 21, 18, 15, 12, 9, 8):
        for mix in mixes:
            loss, speed, bytes_ = by_hand(facts, mix, layers, tokens)
            if bytes_ <= (size or 4 * 2**30) and speed >= (decode or 8) and (best is None or loss < best[0]):
                best = loss, layers, mix, bytes_
    assert best is not None
    chosen = found.chosen
    assert (chosen.student.shape.layers, chosen.mix.name) == best[1:3]
    assert chosen.loss == pytest.approx(best[0], rel=1e-3)
    assert chosen.planned.file_bytes == best[3]
    assert len(found.candidates) == 9 * len(mixes)


def test_a_mix_is_fitted_to_the_limit_and_the_plan_takes_it():
    settled = settle(auto(), limited(80e6), facts_of())
    choice = settled.choice
    assert choice is not None
    assert settled.recipe.mixes == (TO_LIMIT,)
    plan = make_plan(auto(), limited(80e6), facts_of(), MACHINE)
    assert plan.mixes[TO_LIMIT].fits
    assert 0.99 * 80e6 < plan.mixes[TO_LIMIT].file_bytes <= 80e6
    assert plan.student.layers == 30
    text = " ".join(plan.to_text().split())
    assert "nothing to distil" in text
    assert "not depth (27 of 30 layers, width 576) in auto_limit" in text
    assert "predicted loss" in text.split("not depth (27")[1]
    found = json.loads(json.dumps(plan.to_dict()))["choice"]
    assert found["chosen"]["mix"] == TO_LIMIT
    assert len(found["candidates"]) == len(choice.candidates) > 100
    least = min((c for c in found["candidates"] if c["meets"]), key=lambda c: c["predicted_loss"])
    assert least == found["chosen"]


def test_a_teacher_that_no_grid_makes_small_enough_is_cut():
    plan = make_plan(auto(), limited(55e6), facts_of(), MACHINE)
    assert plan.student.parameters < facts_of().shape.parameters
    assert not plan.recipe.student.as_is
    assert plan.rival is not None
    assert plan.rival.excess_bytes > 0


def test_the_recipe_that_was_settled_builds_what_was_chosen():
    recipe = settle(auto(kinds=["depth"]), limited(80e6), facts_of()).recipe
    assert isinstance(recipe.student, DepthStudent)
    assert recipe.student.layers == 27
    assert settle(load_recipe("demo"), LAPTOP, facts_of()) == Settled(load_recipe("demo"), LAPTOP)


def test_where_nothing_meets_the_limits_the_nearest_miss_is_named():
    with pytest.raises(DoesNotFitError) as caught:
        choose(auto(), limited(20e6), facts_of())
    words = str(caught.value)
    assert words.startswith(f"nothing that can be made of {facts_of().name} meets the limits of laptop-cpu. ")
    assert "at most 20.0 MB are allowed (off by" in words
    assert caught.value.exit_code == 3
    with pytest.raises(DoesNotFitError, match=r"5.000 tokens/s are wanted"):
        choose(auto(), limited(None, 5000.0), facts_of())


def test_a_speed_that_nobody_can_foretell_is_refused():
    blind = LAPTOP.model_copy(update={"bandwidth": LAPTOP.bandwidth.model_copy(update={"peak": None})})
    with pytest.raises(InputError, match=r"wants at least 8.0* tokens/s and has no bandwidth"):
        choose(auto(), blind, facts_of())


def test_recovery_towards_the_teacher_leaves_the_teacher_out():
    content = auto().to_dict()
    content["recover"] |= {"loss": [{"kl": "forward", "towards": "teacher"}]}
    found = choose(Recipe.model_validate(content), LAPTOP, facts_of())
    assert "same" not in {candidate.student.student.kind for candidate in found.candidates}


@pytest.mark.parametrize("mix", ["q4_0", "q8_0"])
@pytest.mark.parametrize("layers", [4, 3])
def test_sizes_are_those_of_exported_files(tmp_path: Path, layers: int, mix: str):
    teacher = make_tiny_llama(tmp_path / "teacher", layers=4, width=256, ffn=512)
    facts = read_facts(teacher, "tiny")
    settings = {"kinds": ["same"] if layers == 4 else ["depth"], "mixes": [mix]}
    recipe = Recipe.model_validate(load_recipe("tiny").to_dict() | {"student": {"kind": "auto", **settings}})
    found = choose(recipe, LAPTOP, facts)
    (candidate,) = [c for c in found.candidates if c.student.shape.layers == layers]
    model = load_model(teacher)
    model.model.layers = model.model.layers[:layers]
    model.config.num_hidden_layers = layers
    save_model(model, teacher, tmp_path / "student")
    shape = candidate.student.shape
    out = tmp_path / "model.gguf"
    export_rounded(tmp_path / "student", shape, mix, assign_formats(shape, Mix(mix, mix)), out, {})
    assert candidate.planned.file_bytes == pytest.approx(out.stat().st_size, rel=0.01)


def test_it_is_a_kind_of_the_recipe_and_says_what_it_is_asked_too_early():
    recipe = auto()
    assert isinstance(recipe.student, AutoStudent)
    assert recipe.student == Recipe.model_validate(load_recipe("demo").to_dict() | {"student": "auto"}).student
    with pytest.raises(ValueError, match="hasn't chosen"):
        recipe.student.shape(facts_of().shape)


def test_limits_only_narrow():
    wider = limited(9e12, 1.0, 9e12)
    assert wider.limits == LAPTOP.limits
    assert wider.memory.usable == LAPTOP.memory.usable
    assert limited(memory=1e8).memory.usable == 10**8
