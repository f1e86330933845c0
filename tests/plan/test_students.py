"""Plans of students by kind: their sizes, names and words, and what no runtime would load."""

from dataclasses import replace

import pytest

from edgedistill.config import load_target
from edgedistill.config.overrides import Overrides, overridden
from edgedistill.config.students.sizes import non_embedding
from edgedistill.errors import InputError
from edgedistill.facts import ModelShape
from edgedistill.machine import compute_of
from edgedistill.pipeline import make_plan
from edgedistill.pipeline.estimate import TRAIN_FLOPS_PER_CORE
from edgedistill.plan import Plan
from tests.plan.test_plan import MACHINE, SMOL, facts_of, recipe_with

# Qwen2.5-0.5B, as its config.json has it: heads times their size are the width.
QWEN = replace(SMOL, family="qwen2", layers=24, width=896, heads=14, kv_heads=2, ffn=4864, vocab=151936, qkv_bias=True)


def planned(student: dict[str, object], shape: ModelShape = SMOL, mixes: tuple[str, ...] = ("q4_0",)) -> Plan:
    recipe = recipe_with()
    content = recipe.to_dict() | {"student": student, "mixes": list(mixes)}
    return make_plan(type(recipe).model_validate(content), load_target("laptop-cpu"), facts_of(shape), MACHINE)


def sizes(plan: Plan) -> tuple[int, int, int, int]:
    shape = plan.student
    return shape.ffn, shape.heads, shape.kv_heads, shape.width


@pytest.mark.parametrize(
    ("student", "expected"),
    [
        ({"ffn": 768}, (768, 9, 3, 576)),
        ({"kv_heads": 2}, (1536, 6, 2, 576)),
        ({"heads": 6}, (1536, 6, 3, 576)),
        ({"heads": 2, "kv_heads": 1}, (1536, 2, 1, 576)),
        ({"width": 384}, (1536, 9, 3, 384)),
        ({"heads": 4}, (1536, 4, 1, 576)),
    ],
)
def test_sizes_that_are_given(student, expected):
    if student == {"heads": 4}:  # 4 of 3 groups of 3: in one group there are only 3
        with pytest.raises(InputError, match="4 heads over 1 key heads; every key head must have as many, from 1 to"):
            planned({"kind": "width", **student})
        return
    plan = planned({"kind": "width", **student})
    assert sizes(plan) == expected
    assert plan.student.layers == 30


def test_where_heads_are_the_width_one_follows_from_the_other():
    assert sizes(planned({"kind": "width", "width": 448}, QWEN)) == (4864, 7, 1, 448)
    assert sizes(planned({"kind": "width", "kv_heads": 1}, QWEN)) == (4864, 7, 1, 448)
    assert sizes(planned({"kind": "width", "heads": 8}, QWEN)) == (4864, 8, 2, 512)


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
@pytest.mark.parametrize("shape", [SMOL, QWEN], ids=["llama", "qwen2"])
def test_a_share_is_used_up_and_never_passed(share, shape):
    plan = planned({"kind": "width", "share": share}, shape)
    found = non_embedding(plan.student)
    assert 0.9 * share * non_embedding(shape) < found <= share * non_embedding(shape)
    assert plan.student.ffn % 32 == plan.student.heads * plan.student.head_dim % 32 == plan.student.width % 32 == 0
    assert plan.recipe.student.sizes.of(shape) == plan.student
    assert plan.recipe.student.share is None


def test_a_share_leaves_the_sizes_that_are_given():
    assert sizes(planned({"kind": "width", "share": 0.5, "kv_heads": 3}))[1:] == (9, 3, 576)
    assert planned({"kind": "width", "share": 0.5, "ffn": 768}).student.ffn == 768


def test_where_a_mix_holds_k_quants_rows_divide_by_256_as_the_teachers_do():
    of_q4_0 = planned({"kind": "width", "share": 0.55, "kv_heads": 3}).student
    of_k = planned({"kind": "width", "share": 0.55, "kv_heads": 3}, mixes=("q4_0", "q4_k_m")).student
    assert (of_q4_0.ffn, of_k.ffn) == (608, 512)
    assert planned({"kind": "width", "share": 0.55, "kv_heads": 3}, mixes=("auto_q4_0",)).student.ffn == 512
    # A teacher whose rows of 1,504 don't divide by 256 gives students whose rows needn't.
    odd = replace(SMOL, ffn=1504)
    assert planned({"kind": "width", "share": 0.55, "kv_heads": 3}, odd, mixes=("q4_k_m",)).student.ffn == 576


REFUSED = [
    ({"ffn": 2048}, SMOL, "the student's ffn would be 2048; the teacher SmolLM2 has 1536, so student.ffn must be from"),
    ({"ffn": 700}, SMOL, "ffn would be 700, and rows of 700 weights don't divide into blocks of 32; take 672 or 704."),
    ({"ffn": 20}, SMOL, "rows of 20 weights don't divide into blocks of 32; take 32."),
    ({"width": 400}, SMOL, "the student's width would be 400, and rows of 400 .* take 384 or 416."),
    ({"kv_heads": 4}, SMOL, "the student's heads would be 12; the teacher SmolLM2 has 9, so student.heads must be"),
    ({"heads": 5, "kv_heads": 2}, SMOL, "5 heads over 2 key heads; every key head must have as many, from 1 to the t"),
    ({"heads": 8, "kv_heads": 2}, SMOL, "8 heads over 2 key heads; every key head must have as many, .* teacher's 3."),
    ({"heads": 8, "width": 448}, QWEN, "8 heads of 64 at a width of 448; llama.cpp runs qwen2 models only where"),
    ({"share": 0.01}, SMOL, "no student has at most 0.01 of the teacher SmolLM2's weights outside of the tables"),
    ({"ffn": 1536}, SMOL, "the student would have all of the teacher SmolLM2's sizes; cut one, or take kind: same."),
    (
        {"heads": 3},
        replace(SMOL, head_dim=48),
        "3 heads of 48 make rows of 144 weights, .* student.heads must be one of 2, 4, 6, 8.",
    ),
    (
        {"width": 512},
        replace(SMOL, family="gemma3_text", attention_scale=168**-0.5),
        "scales this gemma3's attention by its width over its heads",
    ),
]


@pytest.mark.parametrize(("student", "shape", "said"), REFUSED, ids=[str(student) for student, _, _ in REFUSED])
def test_what_no_runtime_loads_is_refused_in_a_sentence(student, shape, said):
    with pytest.raises(InputError, match=said) as caught:
        planned({"kind": "width", **student}, shape)
    assert str(caught.value).startswith("recipe chat: ")


def test_a_gemmas_embedding_scale_goes_with_its_width():
    gemma = replace(SMOL, family="gemma3_text", heads=4, kv_heads=1, embedding_scale=576**0.5)
    assert planned({"kind": "width", "width": 384}, gemma).student.embedding_scale == 384**0.5


def test_the_plan_says_what_is_cut():
    plan = planned({"kind": "width", "ffn": 768, "kv_heads": 2, "width": 384})
    text = " ".join(plan.to_text().split())
    assert "30 of 30 layers, ffn 768 of 1536, 6 of 9 heads, 2 of 3 key heads, width 384 of 576, vocabulary" in text
    assert "q4_0, the teacher uncut" in text
    assert "times the bytes; the recipe asks for a narrower student" in text
    cut = "ffn 768 of 1536, 6 of 9 heads, 2 of 3 key heads, width 384 of 576"
    assert plan.to_dict()["student"]["cut"] == cut
    student = plan.recipe.student
    assert student.name("SmolLM2", SMOL) == "SmolLM2 ffn 768, 6 heads over 2, width 384"
    assert (student.as_is, student.needs_text, student.shape(SMOL).layers) == (False, True, 30)


def test_layers_and_sizes_in_one_block():
    plan = planned({"kind": "depth+width", "layers": 15, "ffn": 768})
    assert (plan.student.layers, *sizes(plan)) == (15, 768, 9, 3, 576)
    assert plan.recipe.student.name("SmolLM2", SMOL) == "SmolLM2 15 layers, ffn 768"
    text = " ".join(plan.to_text().split())
    assert "15 of 30 layers, ffn 768 of 1536, width 576, vocabulary" in text
    assert "q4_0, the teacher uncut" in text


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_a_share_of_both_cuts_layers_by_its_root(share):
    plan = planned({"kind": "depth+width", "share": share})
    assert plan.student.layers == round(30 * share**0.5)
    assert 0.9 * share * non_embedding(SMOL) < non_embedding(plan.student) <= share * non_embedding(SMOL)
    assert plan.recipe.student.layers == plan.student.layers


def test_a_share_takes_a_depth_that_the_family_can_have():
    smollm3 = replace(SMOL, family="smollm3", no_rope=tuple(index % 4 == 3 for index in range(32)), layers=32)
    plan = planned({"kind": "depth+width", "share": 0.5}, smollm3)
    assert (
        plan.student.layers == 24
    )  # the root of 0.5 would be 23, and the last layer of the 32 has no rotary embedding


@pytest.mark.parametrize(
    ("student", "said"),
    [
        ({"layers": 31, "ffn": 768}, "the student would have 31 layers; SmolLM2, which is cut, has 30"),
        ({"layers": 15, "ffn": 768, "heads": 4}, "4 heads over 1 key heads"),
        ({"layers": 30, "share": 0.01}, "no student has at most 0.01"),
        ({"layers": 30, "ffn": 1536}, "would have all of the teacher SmolLM2's sizes"),
    ],
)
def test_what_cannot_be_cut_both_ways_is_refused(student, said):
    with pytest.raises(InputError, match=said):
        planned({"kind": "depth+width", **student})


NEW = {"kind": "config", "layers": 8, "width": 256, "heads": 4, "ffn": 640}


def test_a_new_model_has_its_sizes_and_all_else_of_the_teachers():
    plan = planned({**NEW, "kv_heads": 2})
    assert plan.student == replace(SMOL, layers=8, width=256, heads=4, kv_heads=2, ffn=640)
    assert plan.recipe.student.name("SmolLM2", SMOL) == "new from SmolLM2, 8 layers, ffn 640, 4 heads, width 256"
    assert (plan.recipe.student.as_is, plan.recipe.student.needs_text) == (False, False)
    # The teacher has 3 queries a key.
    assert [planned({**NEW, "heads": heads}).student.kv_heads for heads in (2, 4, 6, 8, 9)] == [1, 1, 2, 2, 3]


@pytest.mark.parametrize(
    ("changes", "shape", "said"),
    [
        ({"layers": 31}, SMOL, "the student would have 31 layers; the teacher SmolLM2 has 30, so student.layers must"),
        ({"width": 640}, SMOL, "the student's width would be 640; the teacher SmolLM2 has 576"),
        ({"width": 250}, SMOL, "rows of 250 weights don't divide into blocks of 32; take 224 or 256."),
        ({"heads": 4, "kv_heads": 3}, SMOL, "4 heads over 3 key heads; .* student.kv_heads must be one of 1, 2, 4."),
        ({"heads": 3, "width": 256}, QWEN, "3 heads of 64 at a width of 256; llama.cpp runs qwen2 .* so take heads 4"),
        ({}, replace(SMOL, family="gemma3_text", attention_scale=0.1), "knows this gemma3's attention scale by its 30"),
    ],
)
def test_a_new_model_that_cannot_run_is_refused(changes, shape, said):
    with pytest.raises(InputError, match=said):
        planned({**NEW, **changes}, shape)


def test_ranking_by_gradient_takes_three_times_as_long():
    def seconds(**settings: object) -> float:
        return planned({"kind": "width", "ffn": 768, **settings}).build.stages["student"].seconds

    assert seconds(importance="gradient") > seconds() > 0
    rate = 2 * SMOL.parameters * 8192 / (MACHINE.cores * TRAIN_FLOPS_PER_CORE[compute_of("auto")])
    assert seconds(importance="gradient") - seconds() == pytest.approx(2 * rate)


def test_layers_on_the_command_line_are_for_a_student_that_has_some():
    recipe = planned({"kind": "width", "ffn": 768}).recipe
    with pytest.raises(InputError, match="recipe chat's is of the kind width, which keeps them all; leave --"):
        overridden(recipe, Overrides(layers=3))
    both = planned({"kind": "depth+width", "layers": 15, "ffn": 768}).recipe
    assert overridden(both, Overrides(layers=3)).student.layers == 3
